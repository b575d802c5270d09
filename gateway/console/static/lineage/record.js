// One record's proof, computed again from what stands on the page: the second verifier's own functions, no request.
import { Refusal, equal, fromHex, hex, utf8 } from "../verifier/bytes.js";
import { parseAnchors } from "../verifier/anchors.js";
import { parseRecord } from "../verifier/bundle.js";
import { leafHash, nodeHash, verifyInclusion } from "../verifier/merkle.js";
import { parseCheckpoint, parseNote, verifyCheckpoint } from "../verifier/note.js";
import { verifySeal } from "../verifier/verify.js";
import { make } from "../viewer/dom.js";
import { pinned } from "../viewer/pins.js";

const MARKS = { pass: ["good", "✓", "pass"], fail: ["bad", "✕", "fail"], open: ["warn", "?", "not checked"] };
const place = document.getElementById("proof"), steps = document.getElementById("steps");
const text = document.getElementById("bytes").textContent, note = document.getElementById("note")?.textContent;

function step(status, ...said) {
  const [colour, shape, word] = MARKS[status];
  return make("li", { "data-status": status },
    make("span", { class: `mark ${colour}` }, make("span", { class: "shape", "aria-hidden": "true" }, shape), word), make("div", {}, ...said));
}

/** The hashes on the way from a leaf to the root: [hash, which side its neighbour is on]. RFC 9162 §2.1.3.2. */
async function wayUp(leaf, index, size, path) {
  const found = [];
  let number = index, last = size - 1, current = leaf;
  for (const sibling of path) {
    const right = number % 2 === 1 || number === last;
    current = right ? await nodeHash(sibling, current) : await nodeHash(current, sibling);
    while (right && number !== 0 && number % 2 === 0) [number, last] = [Math.floor(number / 2), Math.floor(last / 2)];
    [number, last] = [Math.floor(number / 2), Math.floor(last / 2)];
    found.push([hex(current), right ? "left" : "right"]);
  }
  return found;
}

async function recordStep() {
  const { type } = parseRecord(text), leaf = await leafHash(utf8(text));
  if (hex(leaf) !== place.dataset.leaf) throw new Refusal("lineage.proof_invalid", `the bytes below have the leaf hash ${hex(leaf)}`);
  return step("pass", `The bytes below are a canonical record of type ${type}, and hash to the leaf.`);
}

async function wayStep() {
  const { index, size, root } = place.dataset, leaf = await leafHash(utf8(text));
  const path = [...document.querySelectorAll("#path code")].map((one) => fromHex(one.textContent, "lineage.proof_invalid", 32));
  const way = await wayUp(leaf, Number(index), Number(size), path);
  await verifyInclusion(leaf, Number(index), Number(size), path, fromHex(root, "lineage.proof_invalid", 32));
  return step("pass", `${path.length} hashes lead from the leaf to the root.`,
    make("details", {}, make("summary", {}, "Each of them"),
      make("ol", { class: "hashes" }, way.map(([hash, side]) => make("li", {}, make("code", {}, hash), ` with its neighbour on the ${side}`)))));
}

async function rootStep() {
  const { size, root, origin } = place.dataset, checkpoint = await parseCheckpoint(parseNote(note).text);
  const same = checkpoint.origin === origin && String(checkpoint.size) === size && equal(checkpoint.root, fromHex(root, "checkpoint.malformed", 32));
  if (!same) throw new Refusal("checkpoint.malformed", "the checkpoint is about another tree");
  return step("pass", `The checkpoint states that root for ${size} records.`);
}

/** By anchors that were pinned in this browser; the gateway's own word for its keys would prove nothing. */
async function signatureStep() {
  const pin = pinned().find((one) => one.origin === place.dataset.origin);
  if (pin === undefined) {
    return step("open", "Who signed the checkpoint, and in which state. No anchors of this lineage are pinned in this browser: ",
      make("a", { href: "/console/viewer" }, "pin them in the proof viewer"), ".");
  }
  const anchors = await parseAnchors(utf8(pin.text));
  const signed = await verifyCheckpoint(note, anchors.origin, anchors.logKey, anchors.witnesses, anchors.quorum, anchors.additionalKey);
  await verifySeal(signed, anchors);
  return step("pass", "The pinned log key signed the checkpoint, and the pinned TPM quoted the pinned state over it.");
}

async function run() {
  const plan = note === undefined ? [recordStep] : [recordStep, wayStep, rootStep, signatureStep], done = [];
  for (const one of plan) {
    try {
      done.push(await one());
    } catch (error) {
      const said = error instanceof Refusal ? [make("code", {}, error.reason), ` ${error.detail}`] : [String(error)];
      done.push(step("fail", ...said));
      break;
    }
  }
  if (note === undefined) done.push(step("open", "No checkpoint covers it yet."));
  steps.replaceChildren(...done);
  place.dataset.done = done.some(({ dataset }) => dataset.status === "fail") ? "fail" : done.every(({ dataset }) => dataset.status === "pass") ? "pass" : "part";
}

run();
