// The lists at the left: sessions a page at a time, running calls, detached work, sessions that have ended.

import { byId, el, mark, reconcile, say } from "/console/elements.js";
import { age, bytes, clock, milliseconds, number } from "/console/format.js";

const PAGE = 50; // sessions; the server gives 100 at most
const SOON = 150; // milliseconds from the last key in the filter to the question
const TABS = [
  ["sessions", "Sessions"],
  ["calls", "Calls"],
  ["detached", "Detached"],
  ["ended", "Ended"],
  ["workers", "Workers"],
];
const TRANSPORTS = { streamable: "Streamable HTTP", sse: "HTTP+SSE", stdio: "stdio" };

export const transport = (name) => TRANSPORTS[name] ?? name;

export class Lists {
  constructor(actions) {
    this.actions = actions;
    this.tab = "sessions";
    this.offset = 0;
    this.search = "";
    this.selected = null;
    this.state = null;
    this.tables = Object.fromEntries(TABS.map(([name]) => [name, new Table(COLUMNS[name](this), EMPTY[name])]));
    this.pager = makePager((step) => this.turn(step));
    this.note = el("p", { class: "more" });
    this.makeTabs();
    this.choose("sessions", { focus: false });
    this.listenToFilter();
  }

  /** What to ask the server for. */
  query() {
    const given = new URLSearchParams({ limit: PAGE, offset: this.offset });
    if (this.search && this.tab === "sessions") given.set("q", this.search);
    return `state?${given}`;
  }

  show(state) {
    this.state = state;
    const { open, found, rows } = state.sessions;
    if (!rows.length && this.offset && found) {
      this.offset = Math.floor((found - 1) / PAGE) * PAGE; // the page is gone: there are fewer now
      this.actions.changed();
    }
    const workers = state.workers?.length ?? 0;
    const counts = { sessions: open, calls: state.calls.count, detached: state.detached.count, ended: state.ended.length, workers };
    for (const [name] of TABS) say(byId(`tab-${name}`).lastElementChild, number(counts[name]));
    byId("tab-workers").hidden = !workers;
    if (!workers && this.tab === "workers") this.choose("sessions", { focus: false });
    this.render();
  }

  render() {
    if (this.state === null) return;
    const rows = this.rows();
    this.tables[this.tab].show(rows, this.search);
    for (const row of this.tables[this.tab].body.children) {
      mark(row, "data-selected", (row.row.id ?? row.row.session) === this.selected);
    }
    const { found } = this.state.sessions;
    this.pager.show(this.tab === "sessions" && found > PAGE ? { offset: this.offset, found } : null);
    const list = this.state[this.tab];
    const more = this.tab === "calls" || this.tab === "detached" ? list.count - list.rows.length : 0;
    say(this.note, more > 0 ? `${number(more)} more are running; the oldest ${number(list.rows.length)} are listed.` : "");
  }

  rows() {
    if (this.tab === "sessions") return this.state.sessions.rows;
    if (this.tab === "workers") return this.state.workers ?? [];
    const rows = this.tab === "ended" ? this.state.ended : this.state[this.tab].rows;
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const said = (row) => `${row.label ?? ""} ${row.session ?? ""} ${row.id ?? ""} ${row.client ?? ""} ${row.reason ?? ""}`;
    return words.length ? rows.filter((row) => words.every((word) => said(row).toLowerCase().includes(word))) : rows;
  }

  turn(step) {
    this.offset = Math.max(0, this.offset + step * PAGE);
    this.actions.changed();
  }

  select(id) {
    this.selected = id;
    this.render();
  }

  // --- tabs ---

  makeTabs() {
    const tabs = byId("tabs");
    for (const [name, label] of TABS) {
      const attributes = { role: "tab", id: `tab-${name}`, type: "button", "aria-controls": "panel" };
      const count = el("span", { class: "count" }, "0");
      tabs.append(el("button", { ...attributes, onclick: () => this.choose(name, { focus: true }) }, label, " ", count));
    }
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const shown = TABS.filter(([name]) => !byId(`tab-${name}`).hidden);
      const place = shown.findIndex(([name]) => name === this.tab);
      this.choose(shown[(place + step + shown.length) % shown.length][0], { focus: true });
    });
  }

  choose(name, { focus }) {
    this.tab = name;
    for (const [other] of TABS) {
      const tab = byId(`tab-${other}`);
      tab.setAttribute("aria-selected", String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
      if (other === name && focus) tab.focus();
    }
    byId("panel").setAttribute("aria-labelledby", `tab-${name}`);
    byId("panel").replaceChildren(this.tables[name].element, this.pager.element, this.note);
    this.render();
  }

  chooseNumber(number) {
    if (TABS[number - 1] && !byId(`tab-${TABS[number - 1][0]}`).hidden) this.choose(TABS[number - 1][0], { focus: true });
  }

  // --- filter ---

  listenToFilter() {
    let timer = 0;
    byId("filter").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.setSearch(byId("filter").value.trim()), SOON);
    });
  }

  setSearch(search) {
    this.search = search;
    this.offset = 0;
    this.render();
    if (this.tab === "sessions") this.actions.changed();
  }

  clearFilter() {
    byId("filter").value = "";
    this.setSearch("");
  }

  // --- rows by keyboard ---

  step(by) {
    const links = [...this.tables[this.tab].body.querySelectorAll(".open")];
    const place = links.indexOf(document.activeElement);
    const next = place < 0 ? (by > 0 ? 0 : links.length - 1) : Math.max(0, Math.min(links.length - 1, place + by));
    links[next]?.focus();
  }

  focusRow(id) {
    const row = [...this.tables[this.tab].body.children].find((child) => child.dataset.key === id);
    (row?.querySelector(".open") ?? byId("panel")).focus();
  }
}

// --- tables ----------------------------------------------------------------------------------------

/** Columns are [title, class, make, update]: `make(row)` gives what is in a cell, `update(cell, row)` keeps it true. */
class Table {
  constructor({ caption, key, columns, pick }, empty) {
    this.key = key;
    this.columns = columns;
    this.pick = pick;
    this.emptyText = empty;
    this.body = el("tbody");
    const heads = columns.map(([title, kind]) => el("th", { scope: "col", class: kind }, title));
    const head = el("thead", {}, el("tr", {}, ...heads));
    this.table = el("table", {}, el("caption", { class: "hidden" }, caption), head, this.body);
    this.empty = el("p", { class: "empty" });
    this.element = el("div", { class: "table" }, this.table, this.empty);
  }

  show(rows, search) {
    reconcile(this.body, rows, this.key, (row) => this.make(row), (element, row) => this.update(element, row));
    this.table.hidden = !rows.length;
    this.empty.hidden = Boolean(rows.length);
    say(this.empty, search && !rows.length ? `Nothing here matches “${search}”.` : this.emptyText);
  }

  make(row) {
    const cells = this.columns.map(([, kind, make]) => el("td", { class: kind }, make?.(row)));
    const element = el("tr", {}, ...cells);
    element.addEventListener("click", (event) => {
      if (event.target.closest("button") === null && !getSelection().toString()) this.pick?.(element.row);
    });
    return element;
  }

  update(element, row) {
    element.row = row;
    this.columns.forEach(([, , , update], place) => update(element.children[place], row));
  }
}

const text = (of) => (cell, row) => say(cell, of(row));

/** Where a row comes from; seen where there are several workers. */
const WORKER = ["Worker", "number worker", null, text((row) => String(row.worker ?? ""))];

/** Its own element: it takes several lines where the column is narrow. */
const clientName = () => el("span", { class: "name" });

function opener(pick) {
  return () => {
    const button = el("button", { type: "button", class: "open" });
    button.addEventListener("click", () => pick(button.closest("tr").row));
    return button;
  };
}

function doer(label, name, act) {
  return () => {
    const button = el("button", { type: "button", class: "quiet small" }, label);
    button.addEventListener("click", () => act(button.closest("tr").row));
    button.name = name;
    return button;
  };
}

const COLUMNS = {
  sessions: ({ actions }) => {
    const pick = (row) => actions.open(row.id);
    return {
      caption: "Living sessions, those used last first",
      key: (row) => row.id,
      pick,
      columns: [
        ["Session", "id", opener(pick), (cell, row) => {
          say(cell.firstElementChild, row.id);
          cell.firstElementChild.setAttribute("aria-label", `Session ${row.id}: open its timeline`);
        }],
        ["Client", "wide client", clientName, (cell, row) => {
          say(cell.firstElementChild, row.client || "not introduced yet");
          mark(cell, "data-faint", !row.client);
          cell.title = [row.client, row.principal && `principal ${row.principal}`].filter(Boolean).join(", ");
        }],
        ["Transport", "medium", null, (cell, row) => {
          say(cell, transport(row.transport));
          cell.title = row.version ? `protocol version ${row.version}` : "not initialized";
        }],
        ["State", "", () => el("span", { class: "badge" }), (cell, row) => {
          const [state, tone] = sessionState(row);
          say(cell.firstElementChild, state);
          cell.firstElementChild.dataset.tone = tone;
        }],
        WORKER,
        ["Calls", "number", null, text((row) => number(row.calls))],
        ["Held", "number spare", null, text((row) => bytes(row.held))],
        ["Used", "number", null, text((row) => age(row.touched))],
        ["", "act", doer("Close", "close", actions.close), (cell, row) => {
          cell.firstElementChild.setAttribute("aria-label", `Close session ${row.id}`);
          cell.firstElementChild.disabled = row.state !== "open";
        }],
      ],
    };
  },
  calls: ({ actions }) => ({ ...work("Running calls, oldest first", actions, "call"), pick: (row) => actions.open(row.session) }),
  detached: ({ actions }) => ({
    ...work("Detached work, oldest first", actions, ""),
    pick: (row) => actions.open(row.session),
  }),
  ended: ({ actions }) => {
    const pick = (row) => actions.open(row.id);
    return {
      caption: "Sessions that have ended, the newest first",
      key: (row) => row.id,
      pick,
      columns: [
        ["Session", "id", opener(pick), (cell, row) => say(cell.firstElementChild, row.id)],
        ["Client", "wide client", clientName, (cell, row) => {
          say(cell.firstElementChild, row.client || "never introduced");
          cell.title = row.client;
        }],
        ["Transport", "medium", null, text((row) => transport(row.transport))],
        WORKER,
        ["Why", "wide", null, (cell, row) => { say(cell, row.reason); cell.title = row.reason; }],
        ["Ended", "number", null, (cell, row) => { say(cell, `${age(row.closed)} ago`); cell.title = clock(row.closed); }],
      ],
    };
  },
  workers: () => {
    const numbered = (title, of, kind = "number") => [title, kind, null, text((row) => (row.numbers ? of(row) : ""))];
    return {
      caption: "The processes that serve on this port",
      key: (row) => row.pid,
      columns: [
        ["Worker", "number", null, text((row) => String(row.worker))],
        ["Process", "number", null, text((row) => String(row.pid))],
        ["State", "", () => el("span", { class: "badge" }), (cell, row) => {
          say(cell.firstElementChild, row.state === "leaving" ? "is told to end" : row.state === "silent" ? "does not answer" : row.state);
          cell.firstElementChild.dataset.tone = WORKER_TONES[row.state] ?? "";
        }],
        numbered("Sessions", (row) => number(row.numbers.sessions)),
        numbered("Calls", (row) => number(row.numbers.calls)),
        numbered("Ended", (row) => number(row.numbers.ended), "number spare"),
        numbered("Streams", (row) => number(row.numbers.streams), "number spare"),
        numbered("Held", (row) => bytes(row.numbers.log_bytes)),
        numbered("Partitions", (row) => (row.partitions === null ? "none" : number(row.partitions))),
        numbered("Lag", (row) => (row.lag.failure || row.lag.error ? "fails" : milliseconds(row.lag.ms))),
        ["Up", "number", null, (cell, row) => {
          say(cell, row.began === undefined ? "" : age(row.began));
          cell.title = row.began === undefined ? "" : `since ${clock(row.began)}`;
        }],
      ],
    };
  },
};

const WORKER_TONES = { ready: "good", leaving: "warn", starting: "run", silent: "bad" };

/** A session in one word, and how it is coloured. */
export function sessionState(row) {
  if (row.state !== "open") return [row.state, row.state === "closing" ? "warn" : "off"];
  if (row.readers && row.unread > 64 * 1024) return ["slow reader", "warn"];
  if (row.calls) return ["busy", "run"];
  if (row.readers) return ["connected", "good"];
  return ["idle", "off"];
}

function work(caption, actions, what) {
  const pick = (row) => actions.open(row.session);
  const columns = [
    ["#", "number", null, text((row) => String(row.number))],
    ["Name", "wide", opener(pick), (cell, row) => {
      say(cell.firstElementChild, row.label);
      cell.firstElementChild.title = row.label;
    }],
    WORKER,
    ["Session", "id", null, text((row) => (row.session === "-" ? "none" : row.session))],
    ["State", "", () => el("span", { class: "badge" }), (cell, row) => {
      say(cell.firstElementChild, row.started === null ? "accepted" : "running");
      cell.firstElementChild.dataset.tone = row.started === null ? "warn" : "run";
    }],
    ["For", "number", null, text((row) => age(row.accepted))],
  ];
  if (what) {
    columns.push(["", "act", doer("Cancel", "cancel", actions.cancel), (cell, row) => {
      cell.firstElementChild.setAttribute("aria-label", `Cancel call #${row.number}, ${row.label}`);
    }]);
  }
  return { caption, key: (row) => row.number, columns };
}

const EMPTY = {
  sessions: "No session is open. One appears here as soon as a client initializes.",
  calls: "No call is running.",
  detached: "No detached work is running. It is what handlers start with ctx.spawn().",
  ended: "No session has ended since the recording began.",
  workers: "There is one process.",
};

// --- pages -----------------------------------------------------------------------------------------

function makePager(turn) {
  const before = el("button", { type: "button", class: "quiet small", onclick: () => turn(-1) }, "Previous");
  const behind = el("button", { type: "button", class: "quiet small", onclick: () => turn(1) }, "Next");
  const where = el("span", { role: "status" });
  const element = el("nav", { class: "pager", "aria-label": "Pages of sessions" }, before, where, behind);
  return {
    element,
    show(page) {
      element.hidden = page === null;
      if (page === null) return;
      const last = Math.min(page.found, page.offset + PAGE);
      say(where, `${number(page.offset + 1)} to ${number(last)} of ${number(page.found)}`);
      before.disabled = page.offset === 0;
      behind.disabled = last >= page.found;
    },
  };
}
