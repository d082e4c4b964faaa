// Refreshes the parts with data-live from the same page, so that they stay what the server has rendered.
// Elements that have not changed stay in place, with the focus of the keyboard and of a screen reader.
"use strict";

const INTERVAL_MS = 5000;
const news = document.getElementById("news");
let timer = 0;

function live(root) {
  return new Map(Array.from(root.querySelectorAll("[data-live]"), (each) => [each.dataset.live, each]));
}

function isSame(old, next) {
  return old.nodeName === next.nodeName && old.dataset?.key === next.dataset?.key;
}

function sync(old, next) {
  if (old.isEqualNode(next)) return;
  if (!isSame(old, next)) {
    old.replaceWith(document.importNode(next, true));
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = next.data;
    return;
  }
  for (const { name } of Array.from(old.attributes ?? [])) {
    if (!next.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of Array.from(next.attributes ?? [])) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  syncChildren(old, Array.from(next.childNodes));
}

function syncChildren(old, wanted) {
  const present = Array.from(old.childNodes);
  wanted.forEach((next, i) => {
    if (i < present.length) sync(present[i], next);
    else old.append(document.importNode(next, true));
  });
  present.slice(wanted.length).forEach((each) => each.remove());
}

function update(fresh) {
  const now = live(fresh);
  for (const [name, old] of live(document)) {
    const next = now.get(name);
    if (next === undefined || old.isEqualNode(next)) continue;
    sync(old, next);
    if (name === "status") news.textContent = `Status: ${next.textContent.trim()}`;
    if (name.startsWith("count-")) news.textContent = next.closest("li").textContent.trim();
  }
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (answer.ok) update(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch (error) {
    news.textContent = "The service does not answer; trying again.";
  }
}

function setRunning(button, isRunning) {
  clearInterval(timer);
  timer = isRunning ? setInterval(refresh, INTERVAL_MS) : 0;
  button.textContent = isRunning ? "Pause refreshing" : "Refresh every 5 s";
}

if (document.querySelector("[data-live='status'], [data-live^='group-']")) {
  const link = document.getElementById("refresh");
  const button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", () => setRunning(button, timer === 0));
  setRunning(button, true);
  link.after(" ", button);
  link.addEventListener("click", (event) => {
    event.preventDefault();
    refresh();
  });
}
