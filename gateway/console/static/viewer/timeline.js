// The course of events as a picture: what happened, each proof, each lease, the longest gap, the exposure. The table below it says
// the same in words.
import { draw, longTable, make } from "./dom.js";
import { RECORDS, duration, instant } from "./words.js";

const LEFT = 88, RIGHT = 14, LANES = { event: 34, proof: 84, lease: 122, gap: 162 }, HEIGHT = 214, NEAR = 15, SAME = 2;
const MANY = 200, ROUTINE = new Set(["attestation.passed", "authorization.renewed"]);

/** Those that are to be seen: what is routine is left out where it would lie on what was drawn before. */
function apart(items, place, isRoutine) {
  let last = -Infinity;
  return items.filter((one, at) => {
    const here = place(one);
    if (isRoutine(one) && here - last < SAME && at < items.length - 1) return false;
    last = here;
    return true;
  });
}

function marks(story, x) {
  let last = -NEAR, row = 0;
  const many = story.length > MANY; // then what the lanes below show, too, has no mark of its own
  return story.flatMap((one, at) => {
    if (many && ROUTINE.has(one.type)) return [];
    const place = x(one.at);
    row = place - last < NEAR ? (row + 1) % 3 : 0;
    last = place;
    const y = LANES.event - 14 + 14 * row, ended = /denied|revoked|interrupted|failed|overdue/.test(one.type);
    return draw("g", { class: ended ? "event bad" : "event" },
      draw("title", {}, `${at + 1}. ${RECORDS[one.type] ?? one.type}, ${instant(one.at)}`),
      draw("line", { x1: place, y1: y, x2: place, y2: LANES.event + 24 }),
      draw("circle", { cx: place, cy: y, r: 8 }),
      draw("text", { x: place, y: y + 3.5, "text-anchor": "middle" }, at + 1));
  });
}

/** A round: a disc where proof was good, a cross where it was not, a ring where none came. */
function proofs(rounds, x) {
  return apart(rounds, (one) => x(one.at), (one) => one.trusted).map((one) => {
    const cx = x(one.at), cy = LANES.proof, title = draw("title", {}, `record ${one.index}: ${RECORDS[one.type] ?? one.type}, ${instant(one.at)}`);
    if (one.trusted) return draw("circle", { class: "good", cx, cy, r: 5 }, title);
    if (one.body.manifest === null || one.body.manifest === undefined) return draw("circle", { class: "absent", cx, cy, r: 5 }, title);
    return draw("path", { class: "failed", d: `M${cx - 5} ${cy - 5}l10 10m0-10l-10 10` }, title);
  });
}

function leases(course, x, end) {
  const shown = apart(course.leases, (one) => x(one.from), () => true);
  return shown.map((one, at) => {
    const next = shown[at + 1]?.from ?? one.until, from = x(one.from), cut = one.until > end;
    const until = x(Math.min(one.until, end)), held = x(Math.min(next, end));
    return draw("g", {},
      draw("title", {}, `record ${one.index}: a lease from ${instant(one.from)} to ${instant(one.until)}`),
      draw("rect", { class: "promised", x: from, y: LANES.lease - 6, width: Math.max(1, until - from), height: 12 }),
      draw("rect", { class: "lease", x: from, y: LANES.lease - 6, width: Math.max(2, held - from - 1), height: 12 }),
      cut && at === shown.length - 1 ? draw("path", { class: "on", d: `M${until - 1} ${LANES.lease - 6}l6 6l-6 6` }) : null);
  });
}

function span(kind, label, { from, until }, x, y, width) {
  const a = x(from), b = Math.max(x(until), a + 2), text = `${label} ${duration(until - from)}`;
  const anchor = a > width / 2 ? { x: b, "text-anchor": "end" } : { x: a, "text-anchor": "start" };
  return draw("g", { class: kind },
    draw("title", {}, `${text}: from ${instant(from)} to ${instant(until)}`),
    draw("rect", { x: a, y: y - 5, width: b - a, height: 10 }),
    draw("path", { d: `M${a} ${y - 9}v18M${b} ${y - 9}v18` }),
    draw("text", { ...anchor, y: y + 22 }, text));
}

/** Round steps of time, five to eight of them over the span. */
function steps(total) {
  const nice = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 43_200_000, 86_400_000];
  return nice.find((step) => total / step <= 7) ?? Math.ceil(total / 7);
}

function axis(start, end, x, width) {
  const step = steps(Math.max(1, end - start) * Math.max(1, 560 / width)), lines = [];
  for (let at = 0; at <= end - start; at += step) {
    const place = x(start + at);
    lines.push(draw("line", { x1: place, y1: 44, x2: place, y2: HEIGHT - 20 }));
    if (place < width - 24) lines.push(draw("text", { x: place, y: HEIGHT - 4, "text-anchor": "middle" }, at === 0 ? "0" : `+${duration(at)}`));
  }
  return draw("g", { class: "axis" }, lines);
}

function picture(course, width) {
  const { story, rounds, gap, exposure } = course, start = story[0].at, last = story.reduce((latest, { at }) => Math.max(latest, at), start);
  const end = last + Math.max(1, last - start) * 0.06, own = rounds.filter((one) => one.type !== "executor.enrolled");
  const x = (at) => LEFT + ((Math.min(at, end) - start) / (end - start)) * (width - LEFT - RIGHT);
  const lane = (name, text) => draw("text", { class: "lane", x: 0, y: LANES[name] + 4 }, text);
  const name = `From ${instant(start)}: ${story.length} records, ${own.length} rounds of proof, ${course.leases.length} leases`;
  return draw("svg", { class: "timeline", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": name },
    axis(start, end, x, width),
    lane("event", "Records"), lane("proof", "Proof"), lane("lease", "Leases"), lane("gap", exposure === null ? "Gap" : "Gap, exposure"),
    leases(course, x, end), marks(story, x), proofs(own, x),
    gap === null ? null : span("gap", "longest gap", gap, x, LANES.gap, width),
    exposure === null ? null : span("exposure", "exposure", exposure, x, gap !== null && x(gap.until) > x(exposure.from) - 120 ? LANES.gap - 14 : LANES.gap, width));
}

/** The picture, as wide as its place is, and the table of the same. */
export function timeline(course) {
  if (course.story.length === 0) return [make("p", {}, "The file holds no record of its authorization.")];
  const place = make("div", { class: "picture" }), start = course.story[0].at;
  let drawn = 0;
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.max(300, Math.floor(contentRect.width));
    if (width === drawn) return;
    drawn = width;
    place.replaceChildren(picture(course, width));
  }).observe(place);
  const rows = course.story.map((one, at) => [at, one]);
  const rowOf = ([at, one]) => [String(at + 1), `+${duration(one.at - start)}`, RECORDS[one.type] ?? one.type, said(one), String(one.index)];
  return [place, ...longTable("What happened, in order", ["No.", "After", "What", "It says", "Record"], rows, rowOf)];
}

/** The words of a record that matter where people read. */
function said({ type, body }) {
  const parts = [];
  if (type === "dispatch.requested") parts.push(`by ${body.orchestrator} for ${body.executor}`);
  const verdict = body.verdict ?? body.round?.verdict;
  const reason = body.reason ?? verdict?.reason ?? body.decision?.reason;
  if (typeof body.purpose === "string") parts.push(`purpose ${body.purpose}`);
  if (typeof body.claims?.exp === "number") parts.push(`lease until ${instant(body.claims.exp * 1000)}`);
  if (typeof body.outcome === "string") parts.push(body.outcome);
  if (typeof body.enforcement === "string") parts.push(body.enforcement);
  if (typeof body.kill_ms === "number") parts.push(`dead within ${duration(body.kill_ms)}`);
  if (typeof reason === "string") parts.push(reason);
  return parts.join(", ");
}
