// Offline verification of a bundle, a second time and independently: the same numbered plan as ztrooted/verify.py and
// docs/bundle-format.md, on WebCrypto alone.
//
//     const report = await verifyBundle(bundleBytes, anchorsBytes);
//     report.word  // "verified", "partial" or "not verified"
//
//  1. bundle       5. inclusion    9. quotes       13. artifacts
//  2. checkpoint   6. story       10. appraisals   14. continuity
//  3. seal         7. executor    11. parents      15. outcome
//  4. log_key      8. policies    12. decisions
//
// Each check ends as pass, fail or not_checked. Behind a failure nothing is checked, because it would rest on it. A check of
// which this verifier can do a part only is not_checked where that part passed, and says what it left. Hence the word
// "partial": nothing failed, and not everything was checked.
import { breathe } from "./breath.js";
import { NotChecked, Reader, Refusal, demand, equal, refuse, utf8 } from "./bytes.js";
import { parseAnchors } from "./anchors.js";
import { parseBundle, parseRecord } from "./bundle.js";
import { checkArtifacts, checkDecisions, checkExecutor, checkLogKey, checkPolicies } from "./keys.js";
import { leafHash, verifyInclusion } from "./merkle.js";
import { linesOfType, verifyCheckpoint } from "./note.js";
import { checkParents } from "./parents.js";
import { checkAppraisals, checkQuotes, enrolledKey } from "./rounds.js";
import { sha256 } from "./signatures.js";
import { checkContinuity, checkOutcome, checkStory } from "./story.js";
import { readQuotedValues, verifyQuote } from "./tpm_attest.js";

const SEAL = "ztrooted.tpm-quote/v1";

const readRecord = (entry) => ({ ...entry, bytes: utf8(entry.text), ...parseRecord(entry.text) });

/** What the checks hand to each other. */
export class Proof {
  constructor(file, anchors) {
    Object.assign(this, { file, anchors, facts: {}, rounds: [], chain: null, bundle: null, checkpoint: null, left: [], keys: new Map() });
  }

  /** Say that the current check left something unchecked. */
  leave(what) {
    if (!this.left.includes(what)) this.left.push(what);
  }

  blob(digest) {
    return this.bundle.blobs.get(digest) ?? refuse("bundle.incomplete", `the bytes of ${digest} are not in the bundle`);
  }

  at(index) {
    this.byIndex ??= new Map(this.records.map((one) => [one.index, one]));
    return this.byIndex.get(index) ?? refuse("bundle.incomplete", `record ${index} is not in the bundle`);
  }

  ofType(type) {
    this.byType ??= new Map();
    if (!this.byType.has(type)) this.byType.set(type, this.records.filter((one) => one.type === type));
    return this.byType.get(type);
  }

  async attestationKey(enrollment) {
    if (!this.keys.has(enrollment)) this.keys.set(enrollment, await enrolledKey(this, enrollment));
    return this.keys.get(enrollment);
  }

  /** Parsed once they are known to be in the tree. */
  get records() {
    this.parsed ??= this.bundle.entries.map(readRecord);
    return this.parsed;
  }

  /** The same, with pauses; the first check that looks at records does so before. */
  async parse() {
    const parsed = [];
    for (const entry of this.bundle.entries) {
      parsed.push(readRecord(entry));
      await breathe();
    }
    this.parsed = parsed;
  }

  get story() {
    this.own ??= this.records.filter((one) => one.authorization === this.bundle.authorization);
    return this.own;
  }
}

// 1. The file is a bundle, and every blob has the digest it is filed under.
async function checkBundle(proof) {
  proof.bundle = await parseBundle(proof.file);
}

// 2. Its checkpoint is of the anchored lineage, signed by the anchored log key.
async function checkCheckpoint(proof) {
  const { bundle, anchors } = proof;
  demand(bundle.origin === anchors.origin, "checkpoint.origin", `the bundle is of ${bundle.origin}, not of ${anchors.origin}`);
  const { note, checkpoint } = await verifyCheckpoint(
    bundle.checkpoint, anchors.origin, anchors.logKey, anchors.witnesses, anchors.quorum, anchors.additionalKey,
  );
  Object.assign(proof, { note, checkpoint });
}

const sameValues = (quoted, state) => Object.entries(quoted).every(([bank, values]) =>
  Object.entries(values).every(([index, value]) => equal(value, state[bank][index])));

/** The anchored key quoted the anchored state over a checkpoint, or one that it replaced, whose time was not over yet. */
export async function verifySeal({ note, checkpoint }, anchors) {
  const { gatewayAk: ak } = anchors, bad = "checkpoint.seal";
  const nonce = await sha256(utf8(checkpoint.text)), wanted = {};
  for (const [bank, values] of Object.entries(anchors.gatewayPcrs)) wanted[bank] = Object.keys(values).map(Number);
  const seals = await linesOfType(note, checkpoint.origin, SEAL, ak.name);
  demand(seals.length === 1, bad, `there are ${seals.length} seals by the anchored key, not one`);
  try {
    const reader = new Reader(seals[0], bad), attest = reader.sized(1024, "attestation"), signature = reader.sized(1024, "signature");
    const values = readQuotedValues(attest, reader.take(reader.left, "values"));
    await verifyQuote(attest, signature, ak, nonce, values, wanted);
    const states = [anchors.gatewayPcrs, ...anchors.formerPcrs.filter(({ until }) => checkpoint.size <= until).map(({ pcrs }) => pcrs)];
    demand(states.some((state) => sameValues(values, state)), bad, "the quoted values are those of no anchored state");
  } catch (error) {
    if (error instanceof Refusal) refuse(bad, error.message);
    throw error;
  }
}

// 3. The gateway's TPM quoted the anchored state over that checkpoint.
async function checkSeal(proof) {
  await verifySeal(proof, proof.anchors);
  if (proof.anchors.gatewayAk.key.kind === "rsa") proof.leave("whether the gateway's RSA key is a weak one");
  proof.facts.lineage_size = proof.checkpoint.size;
}

// 5. Every record is in the tree that the checkpoint is about. There is one at least: check 4 read it.
async function checkInclusion(proof) {
  const { entries } = proof.bundle, { size, root } = proof.checkpoint;
  for (const entry of entries) {
    await verifyInclusion(await leafHash(utf8(entry.text)), entry.index, size, entry.proof, root);
    await breathe();
  }
  proof.facts.records = entries.length;
}

export const PLAN = [
  ["bundle", checkBundle], ["checkpoint", checkCheckpoint], ["seal", checkSeal], ["log_key", checkLogKey],
  ["inclusion", checkInclusion], ["story", checkStory], ["executor", checkExecutor], ["policies", checkPolicies],
  ["quotes", checkQuotes], ["appraisals", checkAppraisals], ["parents", checkParents], ["decisions", checkDecisions],
  ["artifacts", checkArtifacts], ["continuity", checkContinuity], ["outcome", checkOutcome],
];

async function runCheck(number, name, check, proof) {
  const result = { number, name, status: "fail", reason: null, detail: "" };
  proof.left = [];
  try {
    await check(proof);
  } catch (error) {
    if (error instanceof NotChecked) return { ...result, status: "not_checked", detail: error.message };
    // Anything unforeseen is a failure: a record whose body is not what its type promises, for instance.
    const known = error instanceof Refusal;
    return { ...result, reason: known ? error.reason : "lineage.record_malformed", detail: known ? error.detail : String(error) };
  }
  if (proof.left.length > 0) return { ...result, status: "not_checked", detail: `not checked here: ${proof.left.join("; ")}` };
  return { ...result, status: "pass" };
}

/** Run the plan over a bundle's bytes, with the bytes of an anchors file. Refusal `config.invalid` for unusable anchors. */
export async function verifyBundle(file, anchorsFile) {
  return (await verifyAndRead(file, anchorsFile)).report;
}

/** {report, bundle, records}: the same, with what was read for it; null for what was not. */
export async function verifyAndRead(file, anchorsFile) {
  const proof = new Proof(file, await parseAnchors(anchorsFile)), checks = [];
  let stopped = false;
  for (const [at, [name, check]] of PLAN.entries()) {
    const nothing = { number: at + 1, name, status: "not_checked", reason: null, detail: "" };
    checks.push(stopped ? nothing : await runCheck(at + 1, name, check, proof));
    const { status } = checks[at];
    // What the other checks rest on has to have passed, not merely not have failed.
    stopped ||= status === "fail" || (at < 6 && status !== "pass" && name !== "seal");
  }
  const failed = checks.some((check) => check.status === "fail"), passed = checks.every((check) => check.status === "pass");
  const report = { word: failed ? "not verified" : passed ? "verified" : "partial", checks, facts: proof.facts };
  return { report, bundle: proof.bundle, records: proof.parsed ?? null };
}
