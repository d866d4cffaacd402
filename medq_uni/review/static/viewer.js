// Slices at full depth: the browser holds float32 values; window, level, zoom and pan happen here.

const PRESETS = {
  ct: [
    { name: "Soft tissue", width: 400, level: 40 },
    { name: "Lung", width: 1500, level: -600 },
    { name: "Bone", width: 1800, level: 400 },
    { name: "Brain", width: 80, level: 40 },
    { name: "Full range", share: [0, 1] },
  ],
  other: [
    { name: "Automatic", share: [0.005, 0.995] },
    { name: "Lower half", share: [0.005, 0.995], part: 0.5 },
    { name: "Background", share: [0.005, 0.995], part: 0.15 },
    { name: "Full range", share: [0, 1] },
  ],
};
const NO_VIEW = { scale: 1, x: 0, y: 0 };
const MOST_ZOOM = 40;

/** Fetch one slice. Rejects with an Error whose message can be shown. */
export async function fetchSlice(url) {
  const response = await fetch(url, { credentials: "same-origin" });
  if (!response.ok) {
    const failed = new Error(response.status === 401 ? "signed out" : `The image did not load (${response.status}).`);
    failed.status = response.status;
    throw failed;
  }
  const header = (name) => response.headers.get(name);
  const [width, height] = [Number(header("X-Width")), Number(header("X-Height"))];
  const values = new Float32Array(await response.arrayBuffer());
  if (values.length !== width * height) throw new Error("The image did not arrive whole.");
  const [row, column] = header("X-Spacing-Mm").split(",").map(Number);
  return { width, height, values, units: header("X-Units"), modality: header("X-Modality"), aspect: row / column };
}

/** Draws one image, its reference, or both; they share window, zoom and pan. */
export class Viewer {
  constructor(stage, changed) {
    this.stage = stage;
    this.changed = changed;
    this.panes = [...stage.querySelectorAll("figure")].map((figure) => ({
      figure,
      canvas: figure.querySelector("canvas"),
      slice: null,
      picture: document.createElement("canvas"),
      stale: true,
    }));
    this.mode = "image"; // image, reference or both
    this.view = { ...NO_VIEW };
    this.window = { width: 1, level: 0 };
    this.inverted = false;
    this.preset = 0;
    this.presets = PRESETS.other;
    this.pointer = null;
    this.listen();
  }

  /** Show a pair; the reference may be null. Window and view start anew. */
  show(slice, reference, anatomy) {
    const modality = slice.modality;
    this.panes[0].slice = slice;
    this.panes[1].slice = reference;
    this.presets = modality === "ct" ? PRESETS.ct : PRESETS.other;
    this.sorted = sample(slice.values);
    const brain = this.presets.findIndex((preset) => preset.name === "Brain");
    if (!reference || this.mode === "reference") this.mode = this.mode === "both" && reference ? "both" : "image";
    this.view = { ...NO_VIEW };
    this.inverted = modality === "pet";
    this.usePreset(modality === "ct" && anatomy === "brain" ? brain : 0);
  }

  clear() {
    for (const pane of this.panes) pane.slice = null;
    this.draw();
  }

  get hasReference() {
    return this.panes[1].slice !== null;
  }

  usePreset(number) {
    this.preset = number % this.presets.length;
    const preset = this.presets[this.preset];
    let { width, level } = preset;
    if (preset.share) {
      const [low, high] = preset.share.map((share) => this.sorted[Math.round(share * (this.sorted.length - 1))]);
      width = (high - low) * (preset.part ?? 1);
      level = low + width / 2;
    }
    this.setWindow(width, level, preset.name);
  }

  nextPreset() {
    this.usePreset(this.preset + 1);
  }

  setWindow(width, level, name = "") {
    const range = this.sorted ? this.sorted.at(-1) - this.sorted[0] : 1;
    this.window = { width: Math.max(width, range * 1e-4, 1e-12), level, name };
    this.repaint();
  }

  /** Change width and level by shares of the present width. */
  nudgeWindow(wider, higher) {
    const { width, level } = this.window;
    this.setWindow(width * (1 + wider), level + higher * width);
  }

  invert() {
    this.inverted = !this.inverted;
    this.repaint();
  }

  setMode(mode) {
    this.mode = this.hasReference ? mode : "image";
    this.draw();
  }

  toggleReference() {
    this.setMode(this.mode === "reference" ? "image" : "reference");
  }

  toggleBoth() {
    this.setMode(this.mode === "both" ? "image" : "both");
  }

  reset() {
    this.view = { ...NO_VIEW };
    this.usePreset(this.preset);
  }

  fit() {
    this.view = { ...NO_VIEW };
    this.draw();
  }

  /** Zoom by a factor and keep the point (x, y), in pixels from the middle of the pane, where it is. */
  zoom(factor, x = 0, y = 0) {
    const scale = Math.min(Math.max(this.view.scale * factor, 0.5), MOST_ZOOM);
    const used = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * used, y: y - (y - this.view.y) * used };
    this.draw();
  }

  pan(x, y) {
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.draw();
  }

  repaint() {
    for (const pane of this.panes) pane.stale = true;
    this.draw();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.drawNow();
    });
  }

  drawNow() {
    this.stage.dataset.mode = this.mode;
    const shown = { image: [true, false], reference: [false, true], both: [true, true] }[this.mode];
    this.panes.forEach((pane, number) => {
      pane.figure.hidden = !shown[number];
    });
    this.panes.forEach((pane, number) => shown[number] && this.drawPane(pane));
    this.changed(this);
  }

  drawPane(pane) {
    const { canvas, slice } = pane;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    if (!slice || !width || !height) return;
    if (pane.stale) paint(pane.picture, slice, this.window, this.inverted);
    pane.stale = false;
    const { x, y, across, down } = this.place(slice, width, height);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = across / slice.width < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(pane.picture, x, y, across, down);
  }

  /** Where a slice lies in a pane of this size, in CSS pixels. */
  place(slice, width, height) {
    const fit = Math.min(width / slice.width, height / (slice.height * slice.aspect));
    const across = slice.width * fit * this.view.scale;
    const down = slice.height * slice.aspect * fit * this.view.scale;
    return { x: (width - across) / 2 + this.view.x, y: (height - down) / 2 + this.view.y, across, down };
  }

  /** Zoom in screen pixels per image pixel. */
  get magnification() {
    const pane = this.mode === "reference" ? this.panes[1] : this.panes[0];
    if (!pane.slice || !pane.canvas.clientWidth) return 1;
    return this.place(pane.slice, pane.canvas.clientWidth, pane.canvas.clientHeight).across / pane.slice.width;
  }

  /** Column, row and value below the pointer, or null. */
  probe() {
    if (!this.pointer) return null;
    const { pane, x, y } = this.pointer;
    if (!pane.slice) return null;
    const at = this.place(pane.slice, pane.canvas.clientWidth, pane.canvas.clientHeight);
    const column = Math.floor(((x - at.x) / at.across) * pane.slice.width);
    const row = Math.floor(((y - at.y) / at.down) * pane.slice.height);
    if (column < 0 || row < 0 || column >= pane.slice.width || row >= pane.slice.height) return null;
    return { column, row, value: pane.slice.values[row * pane.slice.width + column] };
  }

  listen() {
    for (const pane of this.panes) {
      const canvas = pane.canvas;
      let held = null;
      canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        const moves = event.button !== 0 || event.shiftKey;
        held = { x: event.clientX, y: event.clientY, moves };
        canvas.classList.add(moves ? "panning" : "windowing");
        this.stage.focus({ preventScroll: true });
        event.preventDefault();
      });
      canvas.addEventListener("pointermove", (event) => {
        this.pointer = { pane, x: event.offsetX, y: event.offsetY };
        if (held) {
          const [x, y] = [event.clientX - held.x, event.clientY - held.y];
          Object.assign(held, { x: event.clientX, y: event.clientY });
          if (held.moves) this.pan(x, y);
          else this.nudgeWindow(x / 200, y / 400);
        } else this.changed(this);
      });
      const release = () => {
        held = null;
        canvas.classList.remove("panning", "windowing");
      };
      canvas.addEventListener("pointerup", release);
      canvas.addEventListener("pointercancel", release);
      canvas.addEventListener("pointerleave", () => {
        this.pointer = null;
        this.changed(this);
      });
      canvas.addEventListener("dblclick", () => this.fit());
      canvas.addEventListener(
        "wheel",
        (event) => {
          event.preventDefault();
          const [x, y] = [event.offsetX - canvas.clientWidth / 2, event.offsetY - canvas.clientHeight / 2];
          this.zoom(Math.exp(-event.deltaY * 0.0015), x, y);
        },
        { passive: false },
      );
    }
    new ResizeObserver(() => this.draw()).observe(this.stage);
  }
}

function paint(picture, slice, { width, level }, inverted) {
  if (picture.width !== slice.width) picture.width = slice.width;
  if (picture.height !== slice.height) picture.height = slice.height;
  const context = picture.getContext("2d");
  const pixels = context.createImageData(slice.width, slice.height);
  const words = new Uint32Array(pixels.data.buffer);
  const [gain, low] = [256 / width, level - width / 2];
  for (let i = 0; i < words.length; i++) {
    let gray = (slice.values[i] - low) * gain;
    gray = gray < 0 ? 0 : gray > 255 ? 255 : gray | 0;
    if (inverted) gray = 255 - gray;
    words[i] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
  }
  context.putImageData(pixels, 0, 0);
}

function sample(values) {
  const step = Math.max(1, Math.floor(values.length / 65536));
  const picked = new Float32Array(Math.ceil(values.length / step));
  for (let i = 0; i < picked.length; i++) picked[i] = values[i * step];
  return picked.filter(Number.isFinite).sort();
}
