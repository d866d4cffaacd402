// The annotation screen and the adjudication screen: image on the left, five aspects on the right, keyboard first.

import { Form, SLOTS, ASPECTS, TEXT_KEYS, element } from "./form.js";
import { Saver, Shelf, call } from "./saving.js";
import { Viewer, fetchSlice } from "./viewer.js";

const page = document.body.dataset;
const by = (id) => document.getElementById(id);
const shelf = new Shelf(page.account);
const viewer = new Viewer(by("stage"), showReadout);
const form = new Form(by("aspects"), JSON.parse(page.vocabulary), edited);
const prepared = new Map(); // id -> promise of an item with its slices
let item = null;
let saver = null;
let latest = null; // progress after the last save
let busy = false;
let shownAt = 0;

/** An image that is shown for less than this cannot be accepted: a key that is pressed twice is no second look. */
const LEAST_LOOK_MS = 250;
const itemUrl = (id) => `${page.api}/${id}`;

/** An item and its slices, fetched once. */
function prepare(id) {
  if (!prepared.has(id)) {
    const at = performance.now();
    const loading = call("GET", itemUrl(id)).then(async (found) => {
      const slices = [fetchSlice(`${itemUrl(id)}/image`)];
      if (found.has_reference) slices.push(fetchSlice(`${itemUrl(id)}/reference`));
      const [image, reference] = await Promise.all(slices);
      return { found, image, reference: reference ?? null, at };
    });
    loading.catch(() => prepared.delete(id));
    prepared.set(id, loading);
    for (const old of [...prepared.keys()].slice(0, -4)) prepared.delete(old);
  }
  return prepared.get(id);
}

async function open(id, { remember = true } = {}) {
  busy = true;
  hideBanner();
  if (page.autosave === "yes") saver?.flush().catch(() => {}); // the shelf keeps what does not arrive
  try {
    const { found, image, reference, at } = await prepare(id);
    prepared.delete(id); // what the server says now is used once; coming back asks again
    item = found;
    if (latest && latest.at > at) item.progress = latest.progress; // it was fetched before the last save
    const own = new Saver(itemUrl(id), id, found.revision, shelf, (...news) => own === saver && told(...news));
    saver = own;
    viewer.show(image, reference, found.entry.anatomy);
    form.load(found.entry, found.draft, found.votes, found.undecided);
    form.markContested(ASPECTS.filter((name) => SLOTS[name].some((slot) => found.contested?.includes(slot))));
    if (remember) history.pushState({ id }, "", `${page.path}/${id}`);
    showItem();
    told("saved");
    recover();
    by("stage").focus({ preventScroll: true });
    document.body.dataset.shown = id;
    shownAt = performance.now();
    if (found.next) prepare(found.next).catch(() => {});
  } catch (error) {
    fail(error, () => open(id, { remember }));
  } finally {
    busy = false;
  }
}

function showItem() {
  const { progress } = item;
  by("bar").max = progress.total || 1;
  by("bar").value = progress.done;
  const doubted = progress.doubted ? `, ${progress.doubted} in doubt` : "";
  by("count").textContent = `${progress.done} of ${progress.total} done${doubted}`;
  by("place").textContent = item.title;
  by("state").textContent = item.is_done ? "finished" : item.revision ? "begun" : "new";
  by("reference").disabled = by("both").disabled = !viewer.hasReference;
  by("undo").disabled = !item.can_undo;
  by("previous").disabled = !item.previous;
  by("following").disabled = !item.following;
}

/** Edits that an earlier page did not get to the server. */
function recover() {
  const kept = shelf.take(item.id);
  if (!kept) return;
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const now = form.entry();
  if (same(kept.entry, now)) {
    shelf.drop(item.id);
    return;
  }
  const use = () => {
    form.load({ ...kept.entry }, item.draft, item.votes, item.undecided);
    edited();
    note("An edit that had not reached the server was restored.");
  };
  if (kept.basedOn === item.revision || same(kept.sent, now)) return use();
  banner("This browser holds an edit that is older than the newest saved state.", [
    ["Use the edit", use],
    ["Keep what is saved", () => shelf.drop(item.id)],
  ]);
}

function edited() {
  item.can_undo = true;
  by("undo").disabled = false;
  if (page.autosave === "yes") saver.edit(form.entry());
  else {
    saver.waiting = { entry: form.entry(), done: false };
    saver.keep();
    told("editing");
  }
}

const STATES = {
  saved: "All changes saved",
  editing: "Editing",
  saving: "Saving",
  retrying: "Not saved yet; trying again",
  stale: "Not saved: changed elsewhere",
  "signed-out": "Not saved: signed out",
  older: "Not saved: another session",
  refused: "Not accepted",
};

function told(state, error, answer) {
  const light = by("saving");
  light.dataset.state = state;
  light.textContent = STATES[state];
  light.title = error?.message ?? "";
  if (answer) {
    item.revision = answer.revision;
    item.can_undo = answer.can_undo;
    item.is_done = answer.is_done;
    item.progress = answer.progress;
    item.next = answer.next;
    latest = { progress: answer.progress, at: performance.now() };
    showItem();
  }
  if (state === "saved" && answer && by("banner").dataset.kind === "retrying") hideBanner();
  if (state === "retrying") banner(`${error.message} Your edit is kept in this browser and sent again.`, [], "retrying");
  if (state === "signed-out") {
    const again = () => location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    banner("You are signed out. Your edit is kept in this browser; sign in to save it.", [["Sign in", again]]);
  }
  if (state === "older") {
    const again = () => location.reload();
    banner("Somebody signed in anew in this browser. Your edit is kept; load the page again.", [["Load again", again]]);
  }
  if (state === "stale") showStale(error.body.newest);
  if (state === "refused") banner(error.message, []);
}

function showStale(newest) {
  const theirs = () => {
    Object.assign(item, { entry: newest.entry, revision: newest.revision });
    saver.rebase(newest.revision, false);
    form.load(newest.entry, item.draft, item.votes);
    hideBanner();
    told("saved");
  };
  const mine = () => {
    hideBanner();
    saver.rebase(newest.revision, true).catch(() => {});
  };
  const when = newest.at ? ` at ${new Date(newest.at).toLocaleTimeString()}` : "";
  banner(`This image was changed in another tab${when}. Nothing is lost: both versions stay in the history.`, [
    ["Keep mine", mine],
    ["Take the other", theirs],
  ], "stale");
}

async function accept() {
  if (busy || !item || performance.now() - shownAt < LEAST_LOOK_MS) return;
  form.settle();
  const problems = form.problems();
  if (problems.length) {
    const [name, sentence] = problems[0];
    form.setCurrent(name);
    if (form[name]?.focus) form.focusText(name);
    note(sentence);
    return;
  }
  if (saver.halted) return;
  busy = true;
  try {
    await saver.finish(form.entry());
    busy = false;
    await goOn();
  } catch {
    // The saver has said what is wrong; the image stays.
  } finally {
    busy = false;
  }
}

async function goOn() {
  if (item.next) await open(item.next);
  else location.assign(`${page.path}?finished=${item.id}`);
}

async function move(id) {
  if (busy || !id) return;
  form.settle();
  try {
    if (page.autosave === "yes") await saver.flush();
    if (saver.halted) return;
    await open(id);
  } catch {
    // The saver has said what is wrong; the image stays.
  }
}

async function undo() {
  if (busy || !item?.can_undo || saver.halted) return;
  busy = true;
  try {
    if (page.autosave === "yes") {
      await saver.flush();
      const answer = await call("POST", `${itemUrl(item.id)}/undo`, { based_on: saver.revision });
      saver.revision = answer.revision;
      form.load(answer.entry, item.draft, item.votes);
      told("saved", null, answer);
    } else {
      saver.waiting = null;
      shelf.drop(item.id);
      form.load(item.entry, item.draft, item.votes, item.undecided);
      item.can_undo = false;
      showItem();
      told("saved");
    }
    note("Undone.");
  } catch (error) {
    if (error.status === 409) told("stale", error);
    else if (error.status === 401) told("signed-out", error);
    else if (error.status === 403) told("older", error);
    else note(error.message);
  } finally {
    busy = false;
  }
}

function showReadout() {
  if (!item) return;
  const { width, level, name } = viewer.window;
  const slice = viewer.panes[0].slice;
  if (!slice) return;
  const digits = Math.max(0, 3 - Math.ceil(Math.log10(Math.max(Math.abs(width), 1e-9))));
  const say = (value) => value.toFixed(Math.min(digits, 6));
  by("window").textContent = `W ${say(width)}  L ${say(level)} ${slice.units}${name ? `  ${name}` : ""}`;
  by("zoom").textContent = `${viewer.magnification.toFixed(2)}x  ${slice.width} x ${slice.height}${viewer.inverted ? "  inverted" : ""}`;
  const probe = viewer.probe();
  by("probe").textContent = probe ? `${probe.column}, ${probe.row}   ${say(probe.value)} ${slice.units}` : "";
  by("reference").setAttribute("aria-pressed", String(viewer.mode === "reference"));
  by("both").setAttribute("aria-pressed", String(viewer.mode === "both"));
}

function banner(message, actions, kind = "") {
  const buttons = actions.map(([words, act]) => {
    const button = element("button", { type: "button" }, words);
    button.addEventListener("click", () => {
      hideBanner();
      act();
    });
    return button;
  });
  by("banner").dataset.kind = kind;
  by("banner").replaceChildren(element("p", {}, message), ...buttons);
  by("banner").hidden = false;
  buttons[0]?.focus();
}

function hideBanner() {
  by("banner").hidden = true;
  by("banner").dataset.kind = "";
}

let fading = null;
function note(message) {
  by("toast").textContent = message;
  by("toast").classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => by("toast").classList.remove("shown"), 2600);
}

function fail(error, again) {
  if (error.status === 401) return location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  banner(error.message, [["Try again", again]]);
}

const ON_STAGE = {
  ArrowUp: (event) => (event.shiftKey ? viewer.pan(0, 40) : viewer.nudgeWindow(0, -0.05)),
  ArrowDown: (event) => (event.shiftKey ? viewer.pan(0, -40) : viewer.nudgeWindow(0, 0.05)),
  ArrowLeft: (event) => (event.shiftKey ? viewer.pan(40, 0) : viewer.nudgeWindow(-0.08, 0)),
  ArrowRight: (event) => (event.shiftKey ? viewer.pan(-40, 0) : viewer.nudgeWindow(0.08, 0)),
};
const ANYWHERE = {
  " ": () => viewer.toggleReference(),
  g: () => viewer.toggleBoth(),
  "+": () => viewer.zoom(1.25),
  "=": () => viewer.zoom(1.25),
  "-": () => viewer.zoom(0.8),
  0: () => viewer.reset(),
  9: () => viewer.nextPreset(),
  o: () => viewer.invert(),
  u: () => page.autosave === "yes" && form.toggleDoubt(),
  h: () => toggleHelp(),
  "?": () => toggleHelp(),
  PageUp: () => move(item?.previous),
  PageDown: () => move(item?.following),
  Backspace: () => undo(),
};
for (const [name, key] of Object.entries(TEXT_KEYS)) ANYWHERE[key] = () => form.focusText(name);

function toggleHelp() {
  const help = by("help");
  if (help.open) help.close();
  else help.showModal();
}

function pressed(event) {
  if (event.defaultPrevented || event.isComposing || by("help").open) {
    if (by("help").open && "h?".includes(event.key)) toggleHelp();
    return;
  }
  const target = event.target;
  const inText = target.matches("textarea, input[type=text]");
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !inText) {
    event.preventDefault();
    undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    form.settle();
    by("stage").focus({ preventScroll: true });
    return;
  }
  if (event.key === "Enter" && !target.closest("button, a")) {
    event.preventDefault();
    if (!event.repeat) accept();
    return;
  }
  if (inText || !item) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (target.closest("button, a, summary") && (key === " " || key === "Enter")) return;
  const inChoices = target.matches("input[type=radio]");
  const act = form.keys.get(key) ?? ANYWHERE[key] ?? (inChoices ? null : ON_STAGE[key]);
  if (!act) return;
  event.preventDefault();
  act(event);
}

document.addEventListener("keydown", pressed);
window.addEventListener("popstate", (event) => event.state?.id && open(event.state.id, { remember: false }));
window.addEventListener("pagehide", () => page.autosave === "yes" && saver?.leave());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && page.autosave === "yes") saver?.flush().catch(() => {});
});
const clicks = {
  accept,
  undo,
  reference: () => viewer.toggleReference(),
  both: () => viewer.toggleBoth(),
  preset: () => viewer.nextPreset(),
  invert: () => viewer.invert(),
  fit: () => viewer.reset(),
  help_button: toggleHelp,
  help_close: toggleHelp,
  previous: () => move(item?.previous),
  following: () => move(item?.following),
};
for (const [id, act] of Object.entries(clicks)) {
  by(id).addEventListener("click", () => {
    act();
    if (by("banner").hidden && !by("help").open) by("stage").focus({ preventScroll: true });
  });
}
by("leave").addEventListener("submit", async (event) => {
  if (!saver || page.autosave !== "yes" || saver.isClean || saver.halted) return;
  event.preventDefault();
  await saver.flush().catch(() => {});
  by("leave").submit();
});
history.replaceState({ id: page.first }, "");
open(page.first, { remember: false });
