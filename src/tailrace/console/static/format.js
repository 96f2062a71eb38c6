// Numbers and times as people read them. Times are seconds since 1970, by the server's clock.

let ahead = 0; // seconds that the server's clock is before ours

export function setServerTime(seconds) {
  if (Number.isFinite(seconds)) ahead = seconds - Date.now() / 1000;
}

export const now = () => Date.now() / 1000 + ahead;

const whole = new Intl.NumberFormat("en");

export const number = (value) => whole.format(value);

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let unit = -1;
  do {
    value /= 1024;
    unit += 1;
  } while (value >= 1023.5 && unit < units.length - 1);
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function milliseconds(value) {
  if (value === null) return "…";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${value} ms`;
}

/** How long: `3.2 s`, `14 s`, `5 min 10 s`, `3 h 12 min`, `2 d 4 h`. */
export function span(seconds) {
  seconds = Math.max(0, seconds);
  if (seconds < 0.0095) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(Number.isInteger(seconds) ? 0 : 1)} s`;
  seconds = Math.round(seconds);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min${seconds % 60 ? ` ${seconds % 60} s` : ""}`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}

/** How long it has been, in whole seconds: it is shown again each second. */
export const age = (at) => span(Math.max(1, Math.round(now() - at)));

const two = (value) => String(value).padStart(2, "0");

export function clock(at) {
  const date = new Date(at * 1000);
  const thousandths = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${thousandths}`;
}

export const moment = (at) => new Date(at * 1000).toISOString();
