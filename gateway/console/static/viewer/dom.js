// Building a page from values. Every text becomes a text node, never markup: what is shown here was written by strangers.

const ROWS = 200; // at a time
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(visible(String(child))));
  }
  return element;
}

/** An element: attributes by name, listeners where a value is a function, then nodes and texts. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A text in which nothing is hidden: control characters and those that turn or hide others are spelled out. */
export function visible(text) {
  return text.replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
    (found) => `\\u{${found.codePointAt(0).toString(16)}}`,
  );
}

/** A table with a caption, column heads, and rows of texts or nodes. The first cell of a row is its head. */
export function table(caption, heads, rows, attributes = {}) {
  const cells = (row) => row.map((cell, at) => make(at === 0 ? "th" : "td", at === 0 ? { scope: "row" } : { "data-head": heads[at] }, cell));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", attributes,
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, cells(row))))));
}

/** What shows the first `ROWS` of `count` by calling `add(from, to)`, and a button for as many more where there are. */
function inParts(count, add) {
  let done = Math.min(count, ROWS);
  add(0, done);
  if (done === count) return [];
  const text = () => `Show more: ${done} of ${count} are shown`;
  const more = make("button", { type: "button", click: () => {
    const from = done;
    done = Math.min(count, done + ROWS);
    add(from, done);
    more.textContent = text();
    more.hidden = done === count;
  } }, text());
  return [more];
}

/** A table whose rows come some hundred at a time; `rowOf` makes the cells of one. */
export function longTable(caption, heads, rows, rowOf = (row) => row) {
  const built = table(caption, heads, []), body = built.querySelector("tbody");
  const add = (from, to) => body.append(...table(caption, heads, rows.slice(from, to).map(rowOf)).querySelectorAll("tbody > tr"));
  return [built, ...inParts(rows.length, add)];
}

/** What `build` makes of each item, some hundred at a time. */
export function longList(items, build) {
  const place = make("div", {});
  return [place, ...inParts(items.length, (from, to) => place.append(...items.slice(from, to).map(build)))];
}

/** Something that is built when it is first opened. */
export function folded(summary, build, attributes = {}) {
  const body = make("div", { class: "folded" });
  const toggle = (event) => {
    if (event.target.open && body.childNodes.length === 0) body.append(...[build()].flat());
  };
  return make("details", { ...attributes, toggle }, make("summary", {}, summary), body);
}

/** Names and values, one below the other. */
export function listed(pairs) {
  return make("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** Bytes or digests, in the type for them. */
export function code(text) {
  return make("code", {}, text);
}
