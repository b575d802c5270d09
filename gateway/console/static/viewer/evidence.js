// What the bundle holds, decoded: quotes with their PCRs, event logs, measurement lists, policies, records.
import { hex, utf8 } from "../verifier/bytes.js";
import { leafHash } from "../verifier/merkle.js";
import { eventRows, quoteFields, signatureFields, textOf } from "./decode.js";
import { namedTexts } from "./course.js";
import { code, folded, listed, longList, longTable, make, table } from "./dom.js";
import { RECORDS, STATUS, instant, size } from "./words.js";

/** What `build` makes; where the file is not as it should be, a sentence instead. */
function shown(build) {
  try {
    return build();
  } catch (error) {
    return [make("p", { class: "odd" }, `This can't be shown: ${error.message}`)];
  }
}

const fields = (found) => (found.problem === undefined ? listed(found.map(([name, value]) => [name, code(value)])) : make("p", { class: "odd" }, found.problem));

/** Bytes as they are, in lines of 32. */
export function raw(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, 1 << 16); at += 32) lines.push(`${at.toString(16).padStart(5, "0")}  ${hex(bytes.subarray(at, at + 32)).replace(/../g, "$& ").trimEnd()}`);
  if (bytes.length > 1 << 16) lines.push(`… ${bytes.length} bytes in all`);
  return make("pre", { tabindex: "0", "aria-label": "bytes, hexadecimal" }, lines.join("\n"));
}

function rawFold(what, bytes) {
  return folded(`${what}: ${size(bytes.length)}`, () => raw(bytes), { class: "raw" });
}

function pcrTable(pcrs) {
  const rows = Object.entries(pcrs).flatMap(([bank, values]) => Object.entries(values).map(([index, value]) => [`${bank}:${index}`, code(value)]));
  return table("Quoted PCRs", ["PCR", "Value"], rows);
}

function verdictTable(verdict) {
  const rows = (verdict.checks ?? []).map(({ name, status, reason, detail }) => {
    const word = STATUS[status] ?? STATUS.not_checked;
    return [name, `${word.shape} ${word.text}`, [reason, detail].filter(Boolean).join(": ")];
  });
  return table("What the gateway found then", ["Check", "Status", "Detail"], rows);
}

function eventLog(bytes, bank) {
  const found = eventRows(bytes, bank);
  if (found.problem !== undefined) return [make("p", { class: "odd" }, found.problem)];
  const rows = found.rows.map(([number, pcr, type, digest, data]) => [String(number), String(pcr), type, code(digest), code(data)]);
  return longTable(`Event log, ${rows.length} events, bank ${bank}`, ["No.", "PCR", "Type", "Digest", "Data"], rows);
}

function measurements(bytes) {
  const lines = textOf(bytes).split("\n").slice(0, -1).map((line, at) => {
    const [, , template, ...rest] = line.split(" ");
    return [String(at + 1), template ?? "", code(rest[0] ?? ""), code(rest.slice(1).join(" "))];
  });
  return longTable(`Measurement list, ${lines.length} entries`, ["No.", "Template", "Digest", "File and more"], lines);
}

function roundBody(course, round) {
  const { body } = round, { manifest } = body;
  const parts = [listed([
    ["Purpose", body.purpose ?? "none"], ["Executor", code(body.executor ?? "")], ["Nonce", code(body.nonce ?? "none")],
    ["Bound to", (body.bindings ?? []).length ? code(body.bindings.join(" ")) : "nothing"], ["Reason", body.verdict.reason],
  ])];
  if (manifest === null || manifest === undefined) return [...parts, make("p", {}, "No evidence came."), verdictTable(body.verdict)];
  const blob = (digest) => course.blobs.get(digest), [bank] = Object.keys(manifest.pcrs);
  const part = (title, digest, build) => {
    const bytes = blob(digest);
    return bytes === undefined ? make("p", { class: "odd" }, `${title}: its bytes are not in the file`) : folded(`${title}: ${size(bytes.length)}`, () => shown(() => build(bytes)));
  };
  return [
    ...parts, verdictTable(body.verdict),
    part("Quote (TPMS_ATTEST)", manifest.attest, (bytes) => [fields(quoteFields(bytes)), rawFold("Its bytes", bytes)]),
    part("Signature (TPMT_SIGNATURE)", manifest.signature, (bytes) => [fields(signatureFields(bytes)), rawFold("Its bytes", bytes)]),
    folded(`PCR values: ${Object.values(manifest.pcrs).reduce((sum, values) => sum + Object.keys(values).length, 0)}`, () => shown(() => pcrTable(manifest.pcrs))),
    part("Event log", manifest.event_log, (bytes) => [...(bytes.length ? eventLog(bytes, bank) : [make("p", {}, "It is empty.")]), rawFold("Its bytes", bytes)]),
    part(`Measurement list from entry ${manifest.ima.offset + 1} on`, manifest.ima.entries, (bytes) => (bytes.length ? measurements(bytes) : [make("p", {}, "Nothing new was measured.")])),
  ];
}

/** One fold for each round of proof. */
export function rounds(course) {
  return longList(course.rounds, (round) => {
    const word = round.trusted ? STATUS.pass : STATUS.fail, purpose = round.type === "executor.enrolled" ? "enrollment" : round.body.purpose ?? "nothing came";
    const title = [make("span", { class: `state ${round.trusted ? "pass" : "fail"}` }, `${word.shape} ${round.trusted ? "trusted" : "not trusted"}`), ` ${purpose}, record ${round.index}, ${instant(round.at)}`];
    return folded(title, () => shown(() => roundBody(course, round)), { class: "round" });
  });
}

/** The texts that decided: policies, entities, baselines. */
export function policies(course) {
  return namedTexts(course).map(({ what, digest, bytes }) =>
    folded([`${what}, ${size(bytes.length)} `, code(digest.slice(0, 16))], () => [listed([["SHA-256", code(digest)]]), make("pre", { tabindex: "0", "aria-label": what }, pretty(textOf(bytes)))]));
}

/** JSON with line ends; any other text as it is. */
function pretty(text) {
  if (!/^[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function recordBody(record) {
  const bytes = utf8(record.text), leaf = hex(await leafHash(bytes));
  return [
    listed([
      ["Leaf hash", code(leaf)], ["Hashed bytes", size(bytes.length)],
      ["Names before it", record.prev === null ? "none" : [`record ${record.prev.index} `, code(record.prev.leaf)]],
      ["Inclusion proof", record.proof.length ? make("ol", { class: "hashes" }, record.proof.map((item) => make("li", {}, code(hex(item))))) : "none is needed"],
    ]),
    make("pre", { tabindex: "0", "aria-label": `record ${record.index}` }, pretty(record.text)),
    rawFold("Its bytes", bytes),
  ];
}

/** Every record, with the bytes that were hashed. */
export function records(course) {
  return longList(course.records, (record) => {
    const about = record.authorization === null ? "" : record.authorization === course.authorization ? "" : `, of ${record.authorization}`;
    return folded(`${record.index}: ${RECORDS[record.type] ?? record.type}${about}, ${instant(record.at)}`, () => {
      const body = make("div", {});
      recordBody(record).then((parts) => body.replaceChildren(...parts), (error) => body.replaceChildren(make("p", { class: "odd" }, error.message)));
      return body;
    });
  });
}

