// Talks to the server: with the token, which stands behind the # of the page's address and goes nowhere else.

import { setServerTime } from "/console/format.js";

const API = "/console/api/";
const PATIENCE = 10_000; // milliseconds for a reply
const KEY = "tailrace-console-token";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Take the token out of the address, where it could be seen or sent on, and keep it for this tab alone. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    keepToken(given);
    history.replaceState(null, "", location.pathname);
  }
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

const seen = new Map(); // the newest reply of each view: path -> {tag, value}; as many as `keep` says
const KEPT = 4;

/** A view. The server answers 304 where nothing has changed: then it is the very same value as before. */
export async function read(path) {
  const known = seen.get(path);
  const response = await ask(path, "GET", known ? { "If-None-Match": known.tag } : {});
  if (response.status === 304 && known) return known.value;
  const value = await response.json();
  seen.delete(path);
  seen.set(path, { tag: response.headers.get("etag"), value });
  if (seen.size > KEPT) seen.delete(seen.keys().next().value);
  return value;
}

/** Do something, once: `calls/7/cancel`, `sessions/ID/close`. */
export async function act(path) {
  await ask(path, "POST", { "Content-Type": "application/json" }, "{}");
}

async function ask(path, method, headers, body) {
  const token = sessionStorage.getItem(KEY);
  const response = await fetch(API + path, {
    method,
    body,
    headers: { ...headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) },
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
    signal: AbortSignal.timeout(PATIENCE),
  });
  const time = response.headers.get("tailrace-time");
  if (time !== null) setServerTime(Number(time));
  if (response.ok || response.status === 304) return response;
  const text = await response.text();
  let said = text.trim();
  try {
    said = JSON.parse(text).error ?? said;
  } catch {
    // plain text: from the door, not from the console
  }
  throw new Refused(response.status, said.slice(0, 300) || `status ${response.status}`);
}
