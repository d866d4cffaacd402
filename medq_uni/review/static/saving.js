// Saving without losing anything: one request at a time, each based on the revision before it; what the server
// has not confirmed stays in this browser until it has.

const PAUSE_MS = 400;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const csrf = () => document.querySelector('meta[name="csrf"]').content;

/** Talk to the server. Rejects with an Error that has `status` (0: not reached) and `body`. */
export async function call(method, url, body, options = {}) {
  let response;
  try {
    response = await fetch(url, {
      method,
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
      body: body === undefined ? undefined : JSON.stringify(body),
      ...options,
    });
  } catch {
    throw Object.assign(new Error("The server cannot be reached."), { status: 0, body: {} });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const said = answer.message ?? `The server answered ${response.status}.`;
  throw Object.assign(new Error(said), { status: response.status, body: answer });
}

/** Unconfirmed edits of one account, kept in this browser. */
export class Shelf {
  constructor(account) {
    this.prefix = `medq-unsaved-${account}-`;
  }

  put(id, kept) {
    try {
      localStorage.setItem(this.prefix + id, JSON.stringify(kept));
    } catch {
      // Storage is full or switched off: the server's copy is then the only one.
    }
  }

  take(id) {
    try {
      return JSON.parse(localStorage.getItem(this.prefix + id));
    } catch {
      return null;
    }
  }

  drop(id) {
    localStorage.removeItem(this.prefix + id);
  }
}

/** Saves the edits of one review. */
export class Saver {
  /** `told` gets (state, error): saved, editing, saving, retrying, stale, signed-out, older or refused. */
  constructor(url, id, revision, shelf, told) {
    Object.assign(this, { url, id, revision, shelf, told });
    this.waiting = null;
    this.running = null;
    this.sending = null;
    this.failures = 0;
  }

  get isClean() {
    return this.waiting === null && this.running === null;
  }

  /** Keep an entry; it is sent after a short pause in typing. */
  edit(entry) {
    this.waiting = { entry, done: false };
    this.keep();
    if (this.halted) return;
    this.told("editing");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush().catch(() => {}), PAUSE_MS);
  }

  keep() {
    this.shelf.put(this.id, { basedOn: this.revision, entry: this.waiting?.entry ?? this.sending, sent: this.sending });
  }

  /** Send what waits; resolves when the server has all of it. */
  async flush() {
    clearTimeout(this.timer);
    while (this.running) await this.running.catch(() => {});
    if (!this.waiting) return;
    this.running = this.send(this.waiting).finally(() => {
      this.running = null;
    });
    await this.running;
    if (this.waiting && !this.halted) await this.flush();
  }

  /** Save an entry as finished; resolves with the server's answer. */
  async finish(entry) {
    clearTimeout(this.timer);
    while (this.running) await this.running.catch(() => {});
    this.waiting = { entry, done: true };
    this.keep();
    await this.flush();
  }

  async send(sent) {
    this.sending = sent.entry;
    this.keep();
    this.told("saving");
    try {
      const answer = await call("PUT", this.url, { based_on: this.revision, done: sent.done, entry: sent.entry });
      this.revision = answer.revision;
      this.failures = 0;
      this.halted = false;
      if (this.waiting === sent) this.waiting = null;
      this.sending = null;
      if (this.waiting) this.keep();
      else this.shelf.drop(this.id);
      this.told(this.waiting ? "editing" : "saved", null, answer);
    } catch (error) {
      this.sending = null;
      this.failed(error);
      throw error;
    }
  }

  failed(error) {
    const known = { 409: "stale", 401: "signed-out", 403: "older" }[error.status];
    const final = known ?? (error.status >= 400 && error.status < 500 ? "refused" : null);
    if (final) {
      this.halted = final !== "refused";
      if (final === "refused") this.waiting.done = false;
      this.told(final, error);
      return;
    }
    const pause = RETRY_MS[Math.min(this.failures++, RETRY_MS.length - 1)];
    if (this.waiting) this.waiting.done = false;
    this.told("retrying", error);
    this.timer = setTimeout(() => this.flush().catch(() => {}), pause);
  }

  /** Go on from another revision, after a stale save was looked at. */
  rebase(revision, keepsMine) {
    this.revision = revision;
    this.halted = false;
    if (keepsMine) return this.flush();
    this.waiting = null;
    this.shelf.drop(this.id);
    return Promise.resolve();
  }

  /** Send what waits although the page is closing; the shelf keeps it where that fails. */
  leave() {
    if (!this.waiting || this.halted || this.running) return;
    clearTimeout(this.timer);
    const body = { based_on: this.revision, done: false, entry: this.waiting.entry };
    this.sending = this.waiting.entry;
    this.keep();
    call("PUT", this.url, body, { keepalive: true }).then(
      () => this.shelf.drop(this.id),
      () => {},
    );
  }
}
