// The verdict and its numbered checks. The best word stands there only where every check passed.
import { code, listed, make } from "./dom.js";
import { MEANINGS, STATUS, duration, instant } from "./words.js";

const TIMES = new Set(["requested_at", "ended_at"]);
const NAMES = {
  authorization: "Authorization", orchestrator: "Orchestrator", executor: "Executor", requested_at: "Asked for", ended_at: "Ended",
  workflow: "Workflow", run: "Run", step: "Step", attempt: "Attempt", argv: "Command", job: "Job digest", final_state: "Final state",
  outcome: "Outcome", reason: "Reason", exit_status: "Exit status", rounds: "Rounds of proof", good_quotes: "Good quotes",
  largest_gap_ms: "Longest gap between good quotes", allowed_gap_ms: "Gap that was allowed", intent_to_authorization_ms: "From intent to authorization",
  revoked_to_interrupted_ms: "From revocation to the job's end", exposure_at_most_ms: "Exposure at most", lineage_size: "Records in the lineage",
  records: "Records checked", trace: "Trace", baseline_approved_by: "Baseline approved by", artifacts: "Artifacts", counter: "The TPM's counter",
  parent: "Parent", depth: "Levels above it",
};

/** {kind, word, sentence} of a report: never more than its checks say. */
export function verdictOf({ word, checks }, origin) {
  const failed = checks.find(({ status }) => status === "fail"), passed = checks.filter(({ status }) => status === "pass").length;
  const open = checks.filter(({ status }) => status === "not_checked");
  if (failed !== undefined) {
    return { kind: "fail", word: "Refused", sentence: `Check ${failed.number} of ${checks.length}, ${failed.name}, failed. What stands behind it was not checked, because it would rest on it.` };
  }
  if (word === "verified" && open.length === 0 && passed === checks.length && passed > 0) {
    return { kind: "pass", word: "Verified", sentence: `All ${passed} checks passed against the anchors of ${origin}.` };
  }
  return { kind: "part", word: "Partly checked", sentence: `Nothing failed. ${passed} of ${checks.length} checks passed; of ${open.map(({ number, name }) => `${number} ${name}`).join(", ")} a part can't be done in a browser. The command 'ztrooted audit verify' does all of them.` };
}

const SHAPES = { pass: "✓", fail: "✕", part: "◐", wait: "○" };

/** The banner. */
export function banner(kind, word, sentence) {
  return make("div", { class: `verdict ${kind}` },
    make("span", { class: "shape", "aria-hidden": "true" }, SHAPES[kind]),
    make("div", {}, make("strong", {}, word), make("p", {}, sentence)));
}

function item({ number, name, status, reason, detail }) {
  const { shape, text } = STATUS[status], [holds, otherwise] = MEANINGS[name];
  return make("li", { class: status, "data-check": name, "data-status": status },
    make("span", { class: `state ${status}` }, make("span", { "aria-hidden": "true" }, shape), ` ${text}`),
    make("span", { class: "name" }, `${number} ${name}`),
    make("span", { class: "holds" }, holds),
    reason === null ? null : make("span", { class: "why" }, code(reason), ` ${detail}`),
    reason === null && detail !== "" ? make("span", { class: "left" }, detail) : null,
    status === "fail" ? make("span", { class: "means" }, `What that means: ${otherwise}`) : null);
}

/** The checks as a numbered list. */
export function checkList({ checks }) {
  return make("ol", { class: "checks" }, checks.map(item));
}

function factText(name, value) {
  if (value === null) return null;
  if (TIMES.has(name)) return instant(value);
  if (name.endsWith("_ms")) return duration(value);
  if (Array.isArray(value)) return code(value.map((part) => JSON.stringify(part)).join(" "));
  return typeof value === "object" ? code(JSON.stringify(value)) : String(value);
}

/** What the passed checks found out. Nothing where one failed. */
export function factList({ checks, facts }) {
  if (checks.some(({ status }) => status === "fail")) return null;
  return listed(Object.entries(facts).map(([name, value]) => [NAMES[name] ?? name, factText(name, value)]));
}
