// The page: looks at the server once a second while it is seen, and shows what it says.

import { byId, say } from "/console/elements.js";
import { clock, now } from "/console/format.js";
import { listenToKeys } from "/console/keys.js";
import { Lists } from "/console/lists.js";
import { Refused, act, keepToken, read, takeToken } from "/console/server.js";
import { SessionPanel } from "/console/session.js";
import { showTiles } from "/console/tiles.js";

const EVERY = 1000; // milliseconds between two looks
const SLOWEST = 8000; // the same, while the server cannot be reached
const THEMES = ["system", "light", "dark"];

let paused = false;
let failures = 0;
let timer = 0;
let looking = false;
let lost = 0; // since when (seconds since 1970) the server cannot be reached

const lists = new Lists({ open: openSession, cancel: cancelCall, close: closeSession, changed: lookNow });
const panel = new SessionPanel({ leave: leaveSession, cancel: cancelCall, close: closeSession });

// --- looking ---------------------------------------------------------------------------------------

async function look() {
  clearTimeout(timer);
  if (looking || paused || document.hidden) return;
  looking = true;
  try {
    const [state, session] = await Promise.all([read(lists.query()), readSession()]);
    showState(state);
    if (session !== undefined) panel.show(session);
    failures = 0;
    setTrouble(troubleOf(state));
    setStatus("live", "Live");
  } catch (error) {
    failed(error);
  } finally {
    looking = false;
  }
  if (byId("gate").hidden) timer = setTimeout(look, Math.min(SLOWEST, EVERY * 2 ** Math.min(failures, 4)));
}

function lookNow() {
  clearTimeout(timer);
  timer = setTimeout(look, 0);
}

async function readSession() {
  const id = panel.id;
  if (id === null) return undefined;
  try {
    const found = await read(`sessions/${encodeURIComponent(id)}`);
    return panel.id === id ? found : undefined;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return panel.id === id ? null : undefined;
    throw error;
  }
}

function showState(state) {
  const { name, version, began } = state.service;
  say(byId("service"), name);
  say(byId("about"), version);
  byId("about").title = `recording since ${clock(began)}`;
  document.title = `${name} · Tailrace console`;
  byId("room").hidden = false;
  byId("room").classList.remove("stale");
  document.body.classList.toggle("crowd", state.workers !== undefined);
  showTiles(state);
  lists.show(state);
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) return showGate();
  failures += 1;
  if (failures === 1) lost = now();
  byId("room").classList.add("stale");
  setStatus("lost", "Not connected");
  const why = error instanceof Refused ? `The server refuses: ${error.message}` : "The server cannot be reached";
  setTrouble(`${why} (since ${clock(lost).slice(0, 8)}). What is shown may be old; trying again.`);
}

/** Of several workers, those that do not answer: what they have is not shown. */
function troubleOf({ workers = [] }) {
  const silent = workers.filter((worker) => worker.state === "silent").map((worker) => worker.worker);
  if (!silent.length) return "";
  const who = silent.length === 1 ? `Worker ${silent[0]} does` : `Workers ${silent.join(", ")} do`;
  return `${who} not answer: what happens there is not shown.`;
}

function setTrouble(text) {
  say(byId("trouble"), text);
  byId("trouble").hidden = !text;
}

function setStatus(state, text) {
  byId("status").dataset.state = state;
  say(byId("status"), text);
}

// --- the token -------------------------------------------------------------------------------------

function showGate() {
  const again = !byId("gate").hidden;
  byId("room").hidden = true;
  byId("gate").hidden = false;
  setTrouble("");
  setStatus("locked", "Locked");
  say(byId("gate-error"), again ? "That is not the token of this server." : "");
  byId("token").focus();
}

byId("gate-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  try {
    await read(lists.query());
    byId("gate").hidden = true;
    byId("room").hidden = false;
    lookNow();
  } catch (error) {
    failed(error);
  }
});

// --- what can be done ------------------------------------------------------------------------------

function openSession(id) {
  history.replaceState(null, "", id === "-" ? "#alone" : `#${id}`); // to be there again after a reload
  panel.open(id);
  lists.select(id);
  lookNow();
}

function leaveSession() {
  const id = panel.id;
  history.replaceState(null, "", location.pathname);
  panel.leave();
  lists.select(null);
  lists.focusRow(id);
}

async function cancelCall(call) {
  const name = `${call.label} (#${call.number})`;
  const text = `${name} is cancelled, and its client is told so. What it has done already stays done.`;
  if (await sure("Cancel this call?", text, "Cancel the call")) await attempt(`calls/${call.number}/cancel`);
}

async function closeSession(session) {
  const who = session.client || "its client";
  const calls = session.calls === 1 ? "its running call is" : `its ${session.calls} running calls are`;
  const said = session.calls ? `${calls} cancelled and answered, ` : "";
  const text = `Session ${session.id} of ${who} ends: ${said}its streams end, its hooks run. It cannot be resumed.`;
  if (await sure("Close this session?", text, "Close the session")) await attempt(`sessions/${session.id}/close`);
}

async function attempt(path) {
  try {
    await act(path);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return showGate();
    setTrouble(error instanceof Refused ? `That did not work: ${error.message}` : "The server cannot be reached.");
    return;
  }
  lookNow();
}

function sure(title, text, yes) {
  const dialog = byId("ask");
  say(byId("ask-title"), title);
  say(byId("ask-text"), text);
  say(byId("ask-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// --- pause, theme, keys ----------------------------------------------------------------------------

function togglePause() {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  say(byId("pause"), paused ? "Go on" : "Pause");
  setStatus(paused ? "paused" : "live", paused ? "Paused" : "Live");
  if (!paused) lookNow();
}

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(byId("theme"), `Theme: ${theme}`);
  localStorage.setItem("tailrace-console-theme", theme);
}

function nextTheme() {
  const theme = document.documentElement.dataset.theme ?? "system";
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
}

byId("pause").addEventListener("click", togglePause);
byId("theme").addEventListener("click", nextTheme);
byId("help").addEventListener("click", () => byId("keys").showModal());
document.addEventListener("visibilitychange", lookNow);
listenToKeys({ pause: togglePause, theme: nextTheme, lists, panel, leave: leaveSession });

const stored = localStorage.getItem("tailrace-console-theme");
setTheme(THEMES.includes(stored) ? stored : "system");
takeToken();
window.addEventListener("hashchange", () => {
  takeToken();
  byId("gate").hidden = true;
  openNamed();
  lookNow();
});
panel.show(undefined);
openNamed();
look();

/** The session that stands in the page's address. */
function openNamed() {
  const name = location.hash.slice(1);
  if (name === "alone" || /^[0-9a-f]{12}$/.test(name)) openSession(name === "alone" ? "-" : name);
}
