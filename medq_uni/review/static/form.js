// The five aspects as a form that the keyboard alone can fill: one key for each choice.

const GRADE_KEYS = ["qwer", "asdf", "zxcv"];
const MODALITY_KEYS = "jkl";
const VERDICT_KEYS = "bnm";
export const TEXT_KEYS = { cause: "t", impact: "y", comment: "i" };
const SHAPES = { good: "●", usable: "▲", reject: "■" };
export const ASPECTS = ["image", "degradation", "cause", "impact", "verdict"];
/** Names of the parts of an entry that each aspect holds. */
export const SLOTS = {
  image: ["modality", "anatomy"],
  degradation: ["degradations"],
  cause: ["cause"],
  impact: ["impact"],
  verdict: ["verdict"],
};
const TITLES = {
  image: "Image",
  degradation: "Degradation",
  cause: "Technical cause",
  impact: "Impact on reading",
  verdict: "Verdict",
};

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value === "boolean") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The panel on the right. `edited` is called after every change by the user. */
export class Form {
  constructor(root, vocabulary, edited) {
    this.root = root;
    this.vocabulary = vocabulary;
    this.edited = edited;
    this.keys = new Map();
    this.current = "image";
    this.votes = [];
    this.open = [];
    this.build();
  }

  build() {
    const words = this.vocabulary;
    this.sections = {};
    ASPECTS.forEach((name, number) => {
      const doubt = element("button", { type: "button", class: "doubt", title: "In doubt (U)", "aria-pressed": "false" });
      doubt.append("in doubt");
      doubt.addEventListener("click", () => this.toggleDoubt(name));
      const id = `aspect-${name}`;
      const title = element("h2", { id }, element("i", {}, String(number + 1)), TITLES[name]);
      const doubters = element("span", { class: "doubters" });
      const head = element("header", {}, title, element("span", { class: "edited" }), doubters, doubt);
      const body = element("div", { class: "body" });
      const note = element("p", { class: "note", role: "status" });
      const section = element("section", { "data-aspect": name, "aria-labelledby": id }, head, body, note);
      section.addEventListener("focusin", () => this.setCurrent(name));
      section.addEventListener("pointerdown", () => this.setCurrent(name));
      this.root.append(section);
      this.sections[name] = { section, body, note, doubt, doubters, mark: head.querySelector(".edited") };
    });
    this.addChoices("image", "modality", words.modalities, MODALITY_KEYS, "row");
    this.addChoices("image", "anatomy", words.anatomies, "12345678", "grid");
    this.grades = element("div", { class: "grades" });
    this.sections.degradation.body.append(this.grades);
    this.addText("cause");
    this.addText("impact");
    this.addChoices("verdict", "verdict", words.verdicts, VERDICT_KEYS, "row verdicts");
    this.comment = element("input", { type: "text", maxlength: String(words.comment_chars), id: "comment" });
    this.comment.addEventListener("input", () => this.edited());
    const label = element("label", { for: "comment" }, "Comment ", element("kbd", {}, "I"));
    this.remarks = element("div", { class: "remarks" });
    this.root.append(element("section", { class: "comment" }, label, this.comment), this.remarks);
  }

  addChoices(aspect, name, choices, keys, layout) {
    const group = element("div", { class: `choices ${layout}`, role: "radiogroup", "aria-label": name });
    choices.forEach((choice, number) => {
      const act = () => this.choose(aspect, name, choice);
      group.append(this.choice(aspect, name, choice, keys[number], act));
    });
    this.sections[aspect].body.append(group);
  }

  choice(aspect, name, value, key, act) {
    const input = element("input", { type: "radio", name, value });
    input.addEventListener("change", () => {
      this.setCurrent(aspect);
      this.refresh();
      this.edited();
    });
    const text = element("span", { class: "word" }, value.length <= 3 ? value.toUpperCase() : value);
    const label = element("label", { "data-value": value }, input);
    if (SHAPES[value]) label.append(element("span", { class: "shape", "aria-hidden": "true" }, SHAPES[value]));
    label.append(text, element("span", { class: "votes" }));
    if (key) {
      label.append(element("kbd", {}, key.toUpperCase()));
      this.keys.set(key, act);
    }
    return label;
  }

  addText(name) {
    const limit = String(this.vocabulary.text_chars);
    const area = element("textarea", { rows: "2", spellcheck: "true", maxlength: limit, "aria-label": TITLES[name] });
    area.addEventListener("input", () => {
      this.refresh();
      this.edited();
    });
    area.addEventListener("blur", () => {
      const tidy = area.value.replace(/\s+/g, " ").trim().replace(/\.+$/, "");
      if (tidy === area.value) return;
      area.value = tidy;
      this.refresh();
      this.edited();
    });
    this[name] = area;
    const hint = element("kbd", { class: "at-corner" }, TEXT_KEYS[name].toUpperCase());
    const said = element("div", { class: "said" });
    this.sections[name].body.append(area, hint, said);
  }

  /** Show rows of grades for the tasks of a modality, and for others that a value names. */
  buildGrades(modality, grades) {
    const tasks = this.vocabulary.tasks.filter((task) => task.modality === modality || grades[task.value]);
    tasks.sort((one, other) => (other.modality === modality) - (one.modality === modality));
    for (const keys of GRADE_KEYS) for (const key of keys) this.keys.delete(key);
    this.grades.replaceChildren();
    tasks.forEach((task, row) => {
      const foreign = task.modality !== modality;
      const group = element("div", { class: "choices row", role: "radiogroup", "aria-label": task.words });
      this.vocabulary.severities.forEach((severity, column) => {
        const key = foreign ? "" : (GRADE_KEYS[row]?.[column] ?? "");
        const act = () => this.choose("degradation", task.value, severity);
        group.append(this.choice("degradation", task.value, severity, key, act));
      });
      const name = element("span", { class: "task" }, task.words);
      if (foreign) name.append(element("small", {}, ` not in ${(modality || "this modality").toUpperCase()}`));
      this.grades.append(name, group);
      this.check(task.value, grades[task.value] ?? (this.open.includes(task.value) ? null : "none"));
    });
  }

  /** Another modality has other degradations; what was graded comes back with the modality. */
  changeModality(modality, grades) {
    this.graded[this.shownModality] = grades;
    this.shownModality = modality;
    this.buildGrades(modality, this.graded[modality] ?? {});
  }

  check(name, value) {
    for (const input of this.root.querySelectorAll(`input[name="${name}"]`)) input.checked = input.value === value;
  }

  checked(name) {
    return this.root.querySelector(`input[name="${name}"]:checked`)?.value ?? null;
  }

  choose(aspect, name, value) {
    this.check(name, value);
    this.setCurrent(aspect);
    this.refresh();
    this.edited();
  }

  /** Show what a review says; `draft` is what it is compared with, null where there is none. `open` names kinds of
   * degradation whose grade somebody must still choose: without a grade they are not taken for none. */
  load(values, draft, votes = [], open = []) {
    this.draft = draft;
    this.votes = votes;
    this.open = open;
    this.doubts = new Set(ASPECTS.filter((name) => SLOTS[name].some((slot) => values.doubts?.includes(slot))));
    this.comment.value = values.comment ?? "";
    this.check("modality", values.modality);
    this.check("anatomy", values.anatomy);
    this.check("verdict", values.verdict);
    this.cause.value = values.cause ?? "";
    this.impact.value = values.impact ?? "";
    this.shownModality = values.modality;
    this.graded = {};
    this.buildGrades(values.modality, gradesOf(values));
    this.setCurrent("image");
    this.refresh();
  }

  values() {
    const degradations = this.vocabulary.tasks
      .map(({ value }) => ({ task: value, severity: this.checked(value) ?? "none" }))
      .filter(({ severity }) => severity !== "none");
    return {
      modality: this.checked("modality"),
      anatomy: this.checked("anatomy"),
      degradations,
      cause: this.cause.value,
      impact: this.impact.value,
      verdict: this.checked("verdict"),
    };
  }

  /** Words of the first kind of degradation without a chosen grade, undefined where all have one. */
  ungraded() {
    const groups = [...this.grades.querySelectorAll(".choices")];
    return groups.find((group) => !group.querySelector(":checked"))?.getAttribute("aria-label");
  }

  /** The description with doubts and comment, as the server keeps it. */
  entry() {
    const doubts = ASPECTS.filter((name) => this.doubts.has(name)).flatMap((name) => SLOTS[name]);
    return { ...this.values(), doubts, comment: this.comment.value };
  }

  /** Leave a text field as the user would, so that its text is tidied. */
  settle() {
    if (this.root.contains(document.activeElement) && document.activeElement.matches("textarea, input[type=text]"))
      document.activeElement.blur();
  }

  /** What keeps a description from being accepted: pairs of aspect and sentence. */
  problems() {
    const now = this.values();
    const found = [];
    if (!now.modality || !now.anatomy) found.push(["image", "Choose a modality and a region."]);
    const ungraded = this.ungraded();
    if (ungraded) found.push(["degradation", `Choose a grade: ${ungraded}.`]);
    for (const name of ["cause", "impact"]) {
      const text = now[name].trim().replace(/\.+$/, "");
      const foreign = [...text].find((letter) => letter < " " || letter > "~");
      if (!text) found.push([name, "Say it in a few words."]);
      else if (text.includes(":")) found.push([name, "Leave out the colon."]);
      else if (text.includes(". ")) found.push([name, "One sentence only."]);
      else if (foreign) found.push([name, `Plain ASCII letters only; found ${JSON.stringify(foreign)}.`]);
    }
    if (!now.verdict) found.push(["verdict", "Choose a verdict."]);
    return found;
  }

  refresh() {
    let now = this.values();
    if (now.modality !== this.shownModality) {
      this.changeModality(now.modality, gradesOf(now));
      now = this.values();
    }
    const notes = Object.fromEntries(this.problems());
    const implied = impliedVerdict(now);
    if (now.verdict && implied !== now.verdict && !notes.degradation)
      notes.verdict = `The grades above imply ${implied}; that is a hint, not a rule.`;
    for (const name of ASPECTS) {
      const { section, note, doubt, mark } = this.sections[name];
      const was = this.draft ? aspectText(name, this.draft, this.vocabulary) : null;
      const isOpen = name === "degradation" && name in notes;
      const changed = was !== null && !isOpen && was !== aspectText(name, now, this.vocabulary);
      mark.textContent = changed ? "edited" : "";
      mark.title = changed ? `Draft: ${was}` : "";
      note.textContent = notes[name] ?? (changed ? `Draft: ${was}` : "");
      note.classList.toggle("problem", name in notes);
      doubt.setAttribute("aria-pressed", String(this.doubts.has(name)));
      section.classList.toggle("doubted", this.doubts.has(name));
    }
    this.showVotes();
    this.showRemarks();
  }

  showVotes() {
    for (const label of this.root.querySelectorAll(".choices label")) {
      const { name, value } = label.querySelector("input");
      const voters = this.votes.filter(({ entry }) => valueOf(entry, name) === value).map((vote) => vote.label);
      label.querySelector(".votes").textContent = voters.join("");
    }
    for (const name of ["cause", "impact"]) {
      const said = this.sections[name].body.querySelector(".said");
      said.replaceChildren();
      for (const text of new Set(this.votes.map(({ entry }) => entry[name]))) {
        const labels = this.votes.filter(({ entry }) => entry[name] === text).map(({ label }) => label);
        const use = element("button", { type: "button" }, element("b", {}, labels.join("")), ` ${text}`);
        use.addEventListener("click", () => {
          this[name].value = text;
          this.refresh();
          this.edited();
        });
        said.append(use);
      }
    }
  }

  /** What only somebody who decides sees: who was in doubt where, and what they wrote beside. */
  showRemarks() {
    for (const name of ASPECTS) {
      const doubters = this.votes.filter(({ entry }) => SLOTS[name].some((slot) => entry.doubts.includes(slot)));
      const letters = doubters.map(({ label }) => label).join("");
      this.sections[name].doubters.textContent = letters ? `in doubt: ${letters}` : "";
    }
    const said = this.votes.filter(({ entry }) => entry.comment);
    this.remarks.replaceChildren(
      ...said.map(({ label, entry }) => element("p", {}, element("b", {}, label), ` ${entry.comment}`)),
    );
  }

  markContested(aspects) {
    for (const name of ASPECTS) this.sections[name].section.classList.toggle("contested", aspects.includes(name));
  }

  setCurrent(name) {
    this.current = name;
    for (const other of ASPECTS) this.sections[other].section.classList.toggle("current", other === name);
  }

  toggleDoubt(name = this.current) {
    if (!this.doubts.delete(name)) this.doubts.add(name);
    this.setCurrent(name);
    this.refresh();
    this.edited();
  }

  focusText(name) {
    const field = this[name];
    field.focus();
    field.setSelectionRange?.(field.value.length, field.value.length);
  }
}

const gradesOf = (values) => Object.fromEntries(values.degradations.map(({ task, severity }) => [task, severity]));

function valueOf(values, name) {
  if (name in values) return values[name];
  return gradesOf(values)[name] ?? "none";
}

function impliedVerdict(values) {
  const grades = values.degradations.map(({ severity }) => severity);
  if (grades.includes("severe")) return "reject";
  return grades.length ? "usable" : "good";
}

function aspectText(name, values, { tasks }) {
  if (name === "image") return `${(values.modality ?? "?").toUpperCase()} of the ${values.anatomy ?? "?"}`;
  if (name !== "degradation") return values[name] ?? "";
  const grades = gradesOf(values);
  const said = tasks.filter(({ value }) => grades[value]).map(({ value, words }) => `${grades[value]} ${words}`);
  return said.join(" and ") || "none";
}
