// Keeps a page of the console up to date: the event stream, the parts that changed, and the clocks.
//
// A page works without it. What is shown comes from the gateway, escaped there; here nothing is made of text but text.
// Others listen with `onRecord`. The document has an event "ztrooted:parts" once parts were renewed.

const body = document.body;
const offset = Number(body.dataset.now || Date.now()) - Date.now(); // the gateway's clock is the one that counts
const AFTER_MS = 120; // an event is seldom alone
const BETWEEN_MS = 1000; // parts are asked for this often at most ...
const IDLE_MS = 10000; // ... and this often at least: a round of an idle executor is no record
const STALE_MS = 35000; // without a word for so long nobody knows what is behind

/** The gateway's time, in milliseconds since the epoch. */
export const now = () => Date.now() + offset;

const listeners = new Set();
/** Call `listener({seq, type, at, authorization, executor})` for each record that this viewer is told of. */
export function onRecord(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// --- clocks ---------------------------------------------------------------------------------------------------------
/** A length of time (ms) for people. */
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 100) return `${minutes} min ${s % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tick() {
  const at = now();
  for (const element of document.querySelectorAll("time[data-at]")) {
    const left = Number(element.dataset.at) - at;
    if (element.dataset.kind === "ago") say(element, `${span(-left)} ago`);
    if (element.dataset.kind === "until") say(element, left > 0 ? `in ${span(left)}` : `${span(-left)} overdue`);
    if (element.dataset.kind === "left") say(element, left > 0 ? `${span(left)} left` : "over");
  }
  for (const element of document.querySelectorAll("progress[data-until]")) {
    const left = Math.max(0, Number(element.dataset.until) - at);
    element.value = Math.min(left, element.max);
    element.classList.toggle("low", left < element.max / 4);
  }
}

// --- parts ----------------------------------------------------------------------------------------------------------
/** What an element says apart from its clocks, which move by themselves. */
function content(element) {
  const copy = element.cloneNode(true);
  for (const one of [copy, ...copy.querySelectorAll("*")]) {
    if (one.matches("time[data-at]")) one.textContent = "";
    if (one.matches("progress[data-until]")) {
      one.removeAttribute("value");
      one.removeAttribute("class");
    }
    one.classList.remove("changed");
    if (!one.getAttribute("class")) one.removeAttribute("class");
    if (one.matches("details")) one.removeAttribute("open");
  }
  return copy.outerHTML;
}

const isKeyed = (element) => [...element.children].some((child) => child.dataset.key !== undefined);

/** Have `present` say what `wanted` says, with as few new elements as can be: focus and selection stay. */
function renew(present, wanted, shown) {
  if (content(present) === content(wanted)) return;
  if (isKeyed(wanted) || isKeyed(present)) return renewKeyed(present, wanted);
  const alike =
    present.tagName === wanted.tagName &&
    present.children.length === wanted.children.length &&
    wanted.children.length > 0 &&
    present.dataset.key === undefined &&
    [...present.children].every((child, n) => child.tagName === wanted.children[n].tagName);
  if (alike) {
    for (const { name, value } of wanted.attributes) if (name !== "open") present.setAttribute(name, value);
    [...present.children].forEach((child, n) => renew(child, wanted.children[n], true));
    if (content(present) === content(wanted)) return;
  }
  replace(present, wanted, shown);
}

function renewKeyed(present, wanted) {
  const have = new Map([...present.children].map((child) => [child.dataset.key, child]));
  let before = present.firstElementChild;
  for (const fresh of [...wanted.children]) {
    let row = have.get(fresh.dataset.key);
    have.delete(fresh.dataset.key);
    if (row === undefined) {
      row = document.importNode(fresh, true);
      row.classList.add("changed");
      present.insertBefore(row, before);
      continue;
    }
    if (row === before) before = before.nextElementSibling;
    else present.insertBefore(row, before);
    if (content(row) !== content(fresh)) replace(row, fresh, true);
  }
  for (const gone of have.values()) gone.remove();
}

function replace(present, wanted, shown) {
  const fresh = document.importNode(wanted, true);
  if (shown) fresh.classList.add("changed");
  const focused = present.contains(document.activeElement) ? document.activeElement : null;
  const all = focused === null ? [] : [...present.querySelectorAll("a, button, input, select, summary")];
  present.replaceWith(fresh);
  if (focused !== null) [...fresh.querySelectorAll("a, button, input, select, summary")][all.indexOf(focused)]?.focus();
}

function getParts() {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // it parses a page without running anything of it
    request.open("GET", location.href);
    request.setRequestHeader("X-Ztrooted-Part", "live");
    request.responseType = "document";
    request.timeout = 10000;
    request.onload = () => (request.status === 200 ? resolve(request.responseXML) : reject(new Error("refused")));
    request.onerror = request.ontimeout = () => reject(new Error("not reached"));
    request.send();
  });
}

let last = performance.now();
let waiting = null;
/** Ask for the live parts of this page again, soon. */
export function refresh() {
  const present = document.getElementById("live");
  if (waiting !== null || present === null || present.childElementCount === 0 || document.hidden) return;
  const wait = Math.max(AFTER_MS, last + BETWEEN_MS - performance.now());
  waiting = setTimeout(async () => {
    last = performance.now();
    waiting = null;
    try {
      const found = (await getParts()).getElementById("live");
      renew(document.getElementById("live"), found, false);
      tick();
      document.dispatchEvent(new Event("ztrooted:parts"));
    } catch {
      // The stream says whether the gateway is there; what is shown stays, and is as old as it says.
    }
  }, Math.min(wait, BETWEEN_MS));
}

// --- the stream -----------------------------------------------------------------------------------------------------
const state = document.getElementById("live-state");
let heard = performance.now();

function tell(kind, text) {
  if (state === null) return;
  state.hidden = false;
  state.classList.toggle("on", kind === "on");
  state.classList.toggle("off", kind !== "on");
  say(state, text);
}

function follow(url) {
  const source = new EventSource(url);
  let over = false;
  const here = () => {
    heard = performance.now();
    tell("on", "live");
  };
  source.addEventListener("beat", here);
  source.addEventListener("record", (event) => {
    here();
    const record = JSON.parse(event.data);
    for (const listener of listeners) listener(record);
    refresh();
  });
  source.addEventListener("anew", () => {
    here();
    refresh();
  });
  source.addEventListener("end", () => {
    over = true;
    source.close();
    tell("off", "not live: the session has ended");
  });
  source.addEventListener("error", () => {
    if (over) return;
    const closed = source.readyState === EventSource.CLOSED;
    tell("off", closed ? "not live: reload the page" : "not live: connecting again");
  });
  addEventListener("pagehide", () => source.close());
  setInterval(() => {
    if (!over && performance.now() - heard > STALE_MS) tell("off", "not live: nothing heard for a while");
  }, 5000);
  setInterval(() => !over && refresh(), IDLE_MS);
  document.addEventListener("visibilitychange", () => !document.hidden && !over && refresh());
}

tick();
setInterval(tick, 250);
if (body.dataset.events) follow(body.dataset.events);
