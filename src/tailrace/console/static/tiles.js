// The numbers at the top. Each has its limit beside it, where there is one, and says in words when it is near.

import { byId, el, reconcile, say } from "/console/elements.js";
import { bytes, milliseconds, number } from "/console/format.js";

const NEAR = 0.8; // of a limit

export function showTiles(state) {
  reconcile(byId("tiles"), tilesOf(state), (tile) => tile.name, makeTile, updateTile);
}

function tilesOf({ totals, limits, lag, detached, workers }) {
  const limited = (...given) => near(workers, tileWithLimit(...given));
  const { sessions, calls, streams, log_bytes: log, store, outbox } = totals;
  return [
    limited("Sessions", sessions.open, limits.sessions, `${number(sessions.opened ?? 0)} opened in all`),
    limited("Calls running", calls.running, limits.calls, `${number(calls.ended ?? 0)} ended`),
    { name: "Streams read", value: number(streams.open), note: "by a connection now" },
    limited("Detached work", detached.count, limits.detached, "spawned, not ended"),
    limited("Held in logs", log.held, limits.log_bytes, "kept for resumes", bytes),
    storeTile(lag, store),
    outboxTile(outbox, limits, limited),
  ];
}

function tileWithLimit(name, value, limit, note, format = number) {
  const share = limit ? value / limit : 0;
  const near = share >= NEAR;
  return { name, value: format(value), share, state: stateOf(share), note: near ? `${format(limit)} is the limit` : note };
}

const stateOf = (share) => (share >= 1 ? "bad" : share >= NEAR ? "warn" : "");

/** With several workers each has limits of its own: one that is near them is not hidden behind the others. */
function near(workers, tile) {
  if (!workers) return tile;
  const shares = workers.map((worker) => [worker.shares?.[NUMBERS[tile.name]] ?? 0, worker.worker]);
  const [share, worker] = shares.reduce((most, one) => (one[0] > most[0] ? one : most), [0, 0]);
  const note = share >= NEAR ? `worker ${worker} is at ${Math.floor(share * 100)} % of its limit` : tile.note;
  return { ...tile, share: Math.max(tile.share, share), state: stateOf(Math.max(tile.share, share)), note };
}

const NUMBERS = {
  Sessions: "sessions",
  "Calls running": "calls",
  "Detached work": "detached",
  "Held in logs": "log_bytes",
  Outbox: "outbox",
};

function storeTile(lag, store) {
  const trouble = lag.failure || lag.error;
  if (trouble) return { name: "Store lag", value: "fails", state: "bad", note: trouble };
  const state = lag.ms !== null && lag.ms >= 1000 ? "warn" : "";
  const waiting = store.queued_bytes ? `${bytes(store.queued_bytes)} not committed` : "nothing waits";
  const failed = store.failed ? `, ${number(store.failed)} failed` : "";
  const kind = String(store.name).split(":")[0];
  return { name: "Store lag", value: milliseconds(lag.ms), state, note: `${kind}: ${waiting}${failed}` };
}

function outboxTile(outbox, limits, limited) {
  if (outbox.publisher === undefined) return { name: "Outbox", value: "off", note: "nothing is published" };
  const tile = limited("Outbox", outbox.waiting, limits.outbox, `${number(outbox.published)} published`);
  if (outbox.dead) Object.assign(tile, { state: "bad", note: `${number(outbox.dead)} given up` });
  else if (outbox.trouble) Object.assign(tile, { state: "warn", note: String(outbox.trouble) });
  return tile;
}

function makeTile(tile) {
  return el("div", { class: "tile" }, el("dt", {}, tile.name), el("dd", { class: "value" }), el("dd", { class: "note" }),
    el("div", { class: "meter", "aria-hidden": "true" }, el("i")));
}

function updateTile(element, tile) {
  const [, value, note, meter] = element.children;
  element.dataset.state = tile.state ?? "";
  say(value, tile.value);
  say(note, tile.note);
  note.title = tile.note;
  meter.firstElementChild.style.width = `${Math.min(100, (tile.share ?? 0) * 100)}%`;
}
