// One session at the right: what it is, what runs in it, its streams, and its timeline from accept to close.

import { byId, el, mark, reconcile, say } from "/console/elements.js";
import { age, bytes, clock, moment, number, span } from "/console/format.js";
import { sessionState, transport } from "/console/lists.js";

const ALONE = "-";
const STAGES = [
  ["accept", "Accept", ["accept", "open"]],
  ["run", "Run", ["run", "end", "detach", "done"]],
  ["log", "Log", ["log"]],
  ["write", "Write", ["write", "attach", "leave"]],
  ["resume", "Resume", ["resume", "restore"]],
  ["close", "Close", ["close"]],
];
const STAGE_OF = Object.fromEntries(STAGES.flatMap(([stage, , kinds]) => kinds.map((kind) => [kind, stage])));
const WORDS = {
  open: "opened",
  restore: "restored",
  accept: "accepted",
  run: "runs",
  log: "logged",
  write: "written",
  attach: "connected",
  resume: "resumed",
  leave: "disconnected",
  end: "ended",
  detach: "detached",
  done: "work ended",
  close: "closed",
};

export class SessionPanel {
  constructor(actions) {
    this.actions = actions;
    this.id = null;
    this.session = undefined; // not here yet; null: nothing is kept of it
    this.stages = new Set(); // that are shown alone; none: all are
    this.call = null; // whose lines are shown alone
    this.element = byId("detail");
    this.parts = this.make();
  }

  open(id) {
    if (this.id !== id) {
      this.id = id;
      this.session = undefined;
      this.stages.clear();
      this.call = null;
      this.element.scrollTop = 0;
      this.render();
    }
    this.element.focus();
  }

  leave() {
    this.id = null;
    this.session = undefined;
    this.render();
  }

  show(session) {
    this.session = session;
    this.render();
  }

  // --- its elements ---

  make() {
    const title = el("h2", { tabindex: "-1" });
    const badge = el("span", { class: "badge" });
    const close = el("button", { type: "button", class: "danger small", onclick: () => this.actions.close(this.session) }, "Close session");
    const leave = el("button", { type: "button", class: "quiet small", "aria-label": "Hide this session", onclick: () => this.actions.leave() }, "Hide");
    const head = el("header", {}, title, badge, el("span", { class: "grow" }), close, leave);
    const facts = el("dl", { class: "facts" });
    const running = el("ul", { class: "running", "aria-label": "Running in it" });
    const streams = el("tbody");
    const streamBox = el("details", { class: "streams" }, el("summary", {}, "Streams"), el("div", { class: "table" },
      el("table", {}, el("thead", {}, el("tr", {}, ...["Stream", "Events", "Held", "Newest", "Delivered", "Reader"]
        .map((name, place) => el("th", { scope: "col", class: place && place < 5 ? "number" : "" }, name)))), streams)));
    const stages = el("div", { class: "stages", role: "group", "aria-label": "Show only these stages" });
    for (const [name, label] of STAGES) {
      const count = el("span", { class: "count" }, "0");
      stages.append(el("button", { type: "button", "aria-pressed": "false", "data-stage": name, onclick: () => this.toggle(name) }, label, " ", count));
    }
    const only = el("button", { type: "button", class: "quiet small only", onclick: () => this.choose(null) });
    const lines = el("ol", { class: "timeline", "aria-label": "Timeline, oldest first" });
    const gone = el("p", { class: "more" });
    const nothing = el("p", { class: "empty" });
    const body = el("div", { class: "body" }, facts, running, streamBox, el("h3", {}, "Timeline"), stages, only, gone, lines, nothing);
    return { title, badge, close, head, facts, running, streams, streamBox, stages, only, lines, gone, nothing, body };
  }

  toggle(stage) {
    if (!this.stages.delete(stage)) this.stages.add(stage);
    this.render();
  }

  choose(call) {
    this.call = this.call === call ? null : call;
    this.render();
  }

  // --- showing ---

  render() {
    const { session, parts } = this;
    document.body.classList.toggle("has-detail", this.id !== null);
    if (!session) {
      const unknown = session === null ? "Nothing is kept of this session: it has ended, or was never here." : "Looking…";
      const text = this.id === null ? "Choose a session, a call or detached work to see its timeline here." : unknown;
      if (this.element.firstElementChild?.className !== "hint") this.element.replaceChildren(el("p", { class: "hint" }));
      return say(this.element.firstElementChild, text);
    }
    if (parts.head.parentElement !== this.element) this.element.replaceChildren(parts.head, parts.body);
    const alone = session.id === ALONE;
    say(parts.title, alone ? "Without a session" : session.id);
    const [state, tone] = alone ? ["always open", "off"] : sessionState({ readers: 0, calls: 0, unread: 0, ...session });
    say(parts.badge, state);
    parts.badge.dataset.tone = tone;
    parts.close.hidden = alone || session.state === "closed";
    parts.close.disabled = session.state !== "open";
    parts.close.setAttribute("aria-label", `Close session ${session.id}`);
    reconcile(parts.facts, factsOf(session, alone), ([name]) => name, makeFact, updateFact);
    this.renderRunning(session);
    parts.streamBox.hidden = !session.streams.length;
    say(parts.streamBox.firstElementChild, `Streams (${number(session.streams.length)})`);
    reconcile(parts.streams, session.streams, (stream) => stream.number, makeStream, updateStream);
    this.renderTimeline(session, alone);
  }

  renderRunning(session) {
    const { running } = this.parts;
    const rows = [
      ...session.running.rows.map((row) => ({ ...row, kind: "call" })),
      ...session.detached.rows.map((row) => ({ ...row, kind: "detached" })),
    ];
    running.hidden = !rows.length;
    reconcile(running, rows, (row) => row.number, (row) => this.makeRunning(row), updateRunning);
  }

  makeRunning(row) {
    const cancel = el("button", { type: "button", class: "quiet small", onclick: () => this.actions.cancel(row) }, "Cancel");
    cancel.setAttribute("aria-label", `Cancel call #${row.number}, ${row.label}`);
    cancel.hidden = row.kind !== "call";
    return el("li", {}, el("span", { class: "badge" }), el("span", { class: "name" }), el("span", { class: "faint" }), cancel);
  }

  renderTimeline(session, alone) {
    const { stages, lines, gone, nothing, only } = this.parts;
    const counts = {};
    for (const line of session.timeline) {
      const stage = STAGE_OF[line.what];
      if (line.what === stage) counts[stage] = (counts[stage] ?? 0) + line.count;
    }
    for (const button of stages.children) {
      const stage = button.dataset.stage;
      button.setAttribute("aria-pressed", String(this.stages.has(stage)));
      say(button.lastElementChild, number(counts[stage] ?? 0));
      mark(button, "data-none", !counts[stage]);
    }
    only.hidden = this.call === null;
    say(only, `Only #${this.call}: show all`);
    say(gone, session.dropped ? `${number(session.dropped)} older lines are gone: the newest ${session.kept} are kept.` : "");
    const shown = session.timeline.map((line, place) => ({ place: session.dropped + place, ...line, alone })).filter(
      (line) => (!this.stages.size || this.stages.has(STAGE_OF[line.what])) && (this.call === null || line.call === this.call),
    );
    shown.forEach((line, place) => { line.before = place ? shown[place - 1].at : null; });
    const scroller = this.element; // it follows the newest line only where somebody has gone to the end
    const atEnd = scroller.scrollTop > 0 && scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 8;
    reconcile(lines, shown, (line) => `${line.worker}.${line.place}.${line.at}`, (line) => this.makeLine(line), updateLine);
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
    nothing.hidden = Boolean(shown.length);
    say(nothing, session.timeline.length ? "No line is of the chosen stages." : "Nothing has happened yet.");
  }

  makeLine(line) {
    const call = line.call === null ? null : el("button", { type: "button", class: "call", onclick: () => this.choose(line.call), "aria-label": `Only lines of #${line.call}` }, `#${line.call}`);
    const time = el("time", { datetime: moment(line.at), title: new Date(line.at * 1000).toLocaleString() }, clock(line.at));
    return el("li", { "data-stage": STAGE_OF[line.what] }, time, el("span", { class: "since" }), el("b", {}, WORDS[line.what] ?? line.what),
      el("span", { class: "what" }, call, call && " ", el("span"), " ", el("span", { class: "faint" })));
  }
}

function makeFact([name]) {
  return el("div", {}, el("dt", {}, name), el("dd"));
}

function updateFact(element, [, value]) {
  say(element.lastElementChild, value);
}

function factsOf(session, alone) {
  if (alone) return [["What", "Calls over RPC and of MCP 2026-07-28, which know no sessions, and what they detach"]];
  const closed = session.state === "closed";
  const facts = [
    ...(session.worker === undefined ? [] : [["Worker", String(session.worker)]]),
    ["Client", session.client || "not introduced"],
    ["Transport", `${transport(session.transport)}${session.version ? `, ${session.version}` : ""}`],
  ];
  if (session.principal) facts.push(["Principal", session.principal]);
  if (closed) {
    facts.push(["Ended", `${age(session.closed)} ago: ${session.reason || "no reason given"}`]);
    return facts;
  }
  facts.push(["Open for", `${age(session.created)}${session.restored ? ", after a restart" : ""}`]);
  facts.push(["Used", `${age(session.touched)} ago`]);
  const reading = session.readers === 1 ? "1 connection" : `${number(session.readers)} connections`;
  facts.push(["Read by", session.unread ? `${reading}, ${bytes(session.unread)} behind` : reading]);
  facts.push(["Held", bytes(session.held)]);
  return facts;
}

function updateRunning(element, row) {
  const [badge, name, time] = element.children;
  badge.dataset.tone = row.kind === "call" && row.started === null ? "warn" : "run";
  say(badge, row.kind === "detached" ? "detached" : row.started === null ? "accepted" : "running");
  say(name, `#${row.number} ${row.label}`);
  say(time, age(row.accepted));
}

function makeStream() {
  return el("tr", {}, el("td"), ...Array.from({ length: 4 }, () => el("td", { class: "number" })), el("td"));
}

function updateStream(element, stream) {
  const reader = stream.read ? (stream.unread ? `${bytes(stream.unread)} behind` : "connected") : stream.ended ? "ended" : "nobody";
  const values = [stream.number ? String(stream.number % 2 ** 32) : "session's", number(stream.events), bytes(stream.bytes),
    number(stream.last), number(stream.delivered), reader];
  values.forEach((value, place) => say(element.children[place], value));
}

function updateLine(element, line) {
  const [, since, , what] = element.children;
  const passed = line.before === null ? 0 : line.at - line.before;
  say(since, passed < 0.00005 ? "" : `+${span(passed)}`);
  const [said, more] = [what.children[what.children.length - 2], what.lastElementChild];
  say(said, saying(line));
  say(more, moreOf(line));
  element.dataset.tone = toneOf(line);
}

const many = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** Streams are numbered anew in each life of the server; which life it was stands above the lower 32 bits. */
const streamName = (stream) => (stream ? `stream ${stream % 2 ** 32}` : "the session's stream");

function saying(line) {
  const stream = line.stream === null ? "" : `on ${streamName(line.stream)}`;
  if (line.what === "log") return `${many(line.count, line.text)} ${stream}`;
  if (line.what === "write") return `${many(line.count, "event")} ${stream}`;
  return [line.text, stream].filter(Boolean).join(", ");
}

function moreOf(line) {
  const parts = [];
  if (line.alone && line.worker !== undefined) parts.push(`worker ${line.worker}`);
  if (line.bytes) parts.push(bytes(line.bytes));
  if (line.until > line.at) parts.push(`over ${span(line.until - line.at)}`);
  return parts.join(", ");
}

function toneOf(line) {
  if (line.what === "end" || line.what === "done") {
    if (/: failed: /.test(line.text)) return "bad";
    if (/: cancelled: /.test(line.text)) return "warn";
    return "good";
  }
  return { resume: "warn", restore: "warn", leave: "off", close: "off" }[line.what] ?? "";
}
