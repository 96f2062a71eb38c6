// What keys do. Nothing while somebody writes, answers a question, or holds a modifier.

import { byId } from "/console/elements.js";

export function listenToKeys({ pause, theme, lists, panel, leave }) {
  const does = {
    "/": () => byId("filter").select(),
    "?": () => byId("keys").showModal(),
    p: pause,
    t: theme,
    j: () => lists.step(1),
    k: () => lists.step(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (byId("room").hidden && !"?pt".includes(event.key)) return;
    const writes = event.target.closest?.("input, textarea, select") !== null;
    if (event.key === "Escape") return escape(event, writes, { lists, panel, leave });
    if (writes) return;
    if (/^[1-5]$/.test(event.key)) lists.chooseNumber(Number(event.key));
    else if (does[event.key]) does[event.key]();
    else return;
    event.preventDefault();
  });
}

function escape(event, writes, { lists, panel, leave }) {
  if (writes && event.target.id === "filter") {
    if (event.target.value) lists.clearFilter();
    else event.target.blur();
  } else if (!writes && panel.id !== null) {
    leave();
  } else return;
  event.preventDefault();
}
