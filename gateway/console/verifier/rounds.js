// Rounds of proof: checks 9 and 10. What each quote was made for is computed here, and each is verified from its bytes.
import { breathe } from "./breath.js";
import { Refusal, concat, demand, fromHex, hex, lengthPrefixed, refuse, utf8 } from "./bytes.js";
import { verifyLogBytes } from "./eventlog.js";
import { extendPcr10, parseImaList, readImaState, replayListBytes } from "./ima.js";
import { canonicalBytes, hasExactly, isObject, listOf, objectOf, textOf } from "./json.js";
import { sha256, sha256Hex } from "./signatures.js";
import { REFUSALS } from "./story.js";
import { checkClock, verifyQuote } from "./tpm_attest.js";
import { DIGEST_SIZES, acceptAttestationKey, parsePublic } from "./tpm_public.js";

const MISMATCH = "bundle.mismatch", MALFORMED = "lineage.record_malformed";
const PURPOSES = ["enroll", "dispatch", "start", "runtime"];
const IMA_PCR = "10", NONCE = 32;

function hexList(value, what) {
  return listOf(value, what).map((item) => fromHex(item, MALFORMED));
}

/** What the quote of a round had to be bound to, by what it led to; null where its purpose is another. */
async function bindingsOf(proof, round, follows) {
  const { authorization } = proof.bundle, { purpose } = round.body;
  const job = fromHex(proof.story[0].body.job_digest, MALFORMED, 32);
  if (round.type === "policy.evaluated") return purpose === "dispatch" ? [job] : null;
  const begun = proof.story.some((one) => one.type === "authorization.activated" && one.index < round.index);
  if (follows === "authorization.activated" || (purpose === "start" && !begun)) {
    return purpose === "start" && !begun ? [utf8(authorization), job] : null;
  }
  const live = [...new Set(listOf(round.body.live, "live").map((name) => textOf(name, "live")))].sort();
  return purpose === "runtime" && live.includes(authorization) ? [await sha256(canonicalBytes(live))] : null;
}

/** The evidence is the one that its manifest names; its parts, or null where none came. */
export async function readEvidence(proof, round) {
  const { manifest, evidence } = round.body, { index } = round;
  if (manifest === null) {
    demand(evidence === null, MISMATCH, `record ${index} names evidence, and has no manifest`);
    return null;
  }
  const names = ["attest", "event_log", "ima", "pcrs", "signature"], holds = (value, name) => Object.hasOwn(value, name);
  const fits = isObject(manifest) && names.every((name) => holds(manifest, name)) && isObject(manifest.pcrs) && isObject(manifest.ima) &&
    ["entries", "offset"].every((name) => holds(manifest.ima, name)) && Number.isSafeInteger(manifest.ima.offset) && manifest.ima.offset >= 0;
  demand(fits, MALFORMED, `the manifest of record ${index} is none`);
  const more = !hasExactly(manifest, names) || !hasExactly(manifest.ima, ["entries", "offset"]);
  demand(!more, MISMATCH, `the manifest of record ${index} names more than evidence has`);
  const pcrs = {};
  for (const [bank, values] of Object.entries(manifest.pcrs)) {
    pcrs[bank] = {};
    for (const [pcr, digits] of Object.entries(objectOf(values, "PCR values"))) {
      demand(/^(0|[1-9][0-9]?)$/.test(pcr), MALFORMED, `there is no PCR ${pcr}`);
      pcrs[bank][pcr] = fromHex(digits, MALFORMED);
    }
  }
  const parts = { pcrs, offset: manifest.ima.offset };
  for (const [name, digest] of [["attest", manifest.attest], ["signature", manifest.signature], ["eventLog", manifest.event_log], ["ima", manifest.ima.entries]]) {
    parts[name] = proof.blob(digest);
  }
  demand((await sha256Hex(canonicalBytes(manifest))) === evidence, MISMATCH, `record ${index} names other evidence than its manifest`);
  return parts;
}

// 9. Each piece of evidence was made for this purpose, this job and this authorization.
export async function checkQuotes(proof) {
  const seen = new Set(), { story } = proof;
  for (const round of proof.rounds) {
    const { body, index } = round;
    const bindings = hexList(body.bindings, "bindings"), nonce = fromHex(body.nonce, MALFORMED);
    demand(nonce.length === NONCE && !seen.has(hex(nonce)), "challenge.used", `the nonce of record ${index} is not fresh`);
    seen.add(hex(nonce));
    if (!REFUSALS.has(round.type)) {
      demand(PURPOSES.includes(body.purpose), MALFORMED, `there is no purpose ${body.purpose}`);
      const at = story.findIndex((one) => one.index === index);
      const wanted = await bindingsOf(proof, round, story[at + 1]?.type ?? "");
      const bound = wanted !== null && wanted.map(hex).join() === bindings.map(hex).join();
      demand(bound, MISMATCH, `the quote of record ${index} was not made for this authorization`);
    }
    await readEvidence(proof, round);
    await breathe();
  }
}

/** The clock of a round's record: decimal text for numbers of 64 bits; null where there is none. */
function readClock(value) {
  if (value === null) return null;
  const names = ["clock", "firmware_version", "reset_count", "restart_count", "safe"];
  const fits = hasExactly(value, names) && names.every((name) => /^(0|[1-9][0-9]{0,19})$/.test(value[name]));
  demand(fits, MALFORMED, "this is no clock of a TPM");
  return Object.fromEntries(names.map((name) => [name, BigInt(value[name])]));
}

function sameClock(a, b) {
  return Object.keys(a).every((name) => a[name] === b[name]);
}

/** The recorded verdict is what its own checks say: {name: {status, reason, detail}}. */
function readVerdict(round) {
  const { verdict } = round.body, checks = new Map();
  for (const check of listOf(verdict.checks, "the checks of the verdict")) {
    const fits = hasExactly(check, ["detail", "name", "reason", "status"]) && ["pass", "fail", "not_checked"].includes(check.status) && !checks.has(check.name);
    demand(fits, MISMATCH, `the verdict of record ${round.index} is none`);
    checks.set(check.name, check);
  }
  const all = [...checks.values()], passed = all.length > 0 && all.every((check) => check.status === "pass");
  demand(passed === (verdict.trusted === true), MISMATCH, `the verdict of record ${round.index} is not that of its checks`);
  return checks;
}

/** The rounds of one executor, followed from its enrollment on. */
class History {
  constructor(proof, entries) {
    this.proof = proof;
    this.entries = entries;
    this.needed = 0;
    this.clocks = new Map();
    this.replayed = new Map();
  }

  /** Run one step again: it must pass or be refused as recorded. Whether it passed; null where that was not recorded. */
  async again(round, checks, name, step) {
    const recorded = checks.get(name);
    if (recorded === undefined) return null;
    if (recorded.status === "not_checked") return false;
    let refusal = null;
    try {
      await step();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refusal = error;
    }
    const agrees = recorded.status === "pass" ? refusal === null : refusal?.reason === recorded.reason;
    if (!agrees && recorded.status === "fail" && refusal === null && name === "event_log") {
      // What its events mean is not judged here.
      this.proof.leave(`why the event log of record ${round.index} was refused`);
      return false;
    }
    const detail = refusal === null ? "it passes now" : refusal.message;
    demand(agrees, MISMATCH, `record ${round.index}: ${name} was recorded as ${recorded.reason ?? "pass"}; ${detail}`);
    return refusal === null;
  }

  /** Verify the evidence of a round again. Its clock where it explained itself, else null. */
  async judge(round, previous) {
    const evidence = await readEvidence(this.proof, round), checks = readVerdict(round), { body, index } = round;
    demand(evidence !== null, MISMATCH, `record ${index} has no evidence`);
    if (checks.has("class")) return null; // no class of the policy was for this executor, so nothing was asked of it
    demand(checks.has("quote") && checks.has("clock"), MISMATCH, `record ${index} was judged without a quote`);
    const ak = await this.proof.attestationKey(round.enrollment);
    const nonce = await sha256(lengthPrefixed(utf8("ztrooted/quote/v1"), utf8(textOf(body.purpose, "purpose")), fromHex(body.nonce, MALFORMED), ...hexList(body.bindings, "bindings")));
    const wanted = Object.fromEntries(Object.entries(evidence.pcrs).map(([bank, values]) => [bank, Object.keys(values).map(Number)]));
    let clock = null;
    const genuine = [await this.again(round, checks, "quote", async () => {
      clock = await verifyQuote(evidence.attest, evidence.signature, ak, nonce, evidence.pcrs, wanted);
    })];
    if (genuine[0] !== true) return null;
    genuine.push(await this.again(round, checks, "clock", async () => previous.clock === null || checkClock(previous.clock, clock)));
    const banks = Object.keys(evidence.pcrs);
    demand(banks.length === 1, MISMATCH, `record ${index} quotes more than one bank`);
    const [bank] = banks, values = evidence.pcrs[bank];
    if (checks.get("event_log")?.detail.startsWith("tolerated: ")) {
      this.proof.leave(`the event log of record ${index}, in whose form something was tolerated`);
    } else {
      genuine.push(await this.again(round, checks, "event_log", () => this.bootLog(evidence.eventLog, bank, values)));
    }
    genuine.push(await this.again(round, checks, "ima", async () => {
      const pcr10 = values[IMA_PCR] ?? refuse(MISMATCH, `record ${index} judges a measurement list without PCR 10`);
      await replayListBytes(evidence.ima, bank, pcr10, previous.told, evidence.offset);
    }));
    return genuine.every((passed) => passed !== false) ? clock : null;
  }

  /** Between two boots log and values never change, so each pair is replayed once. */
  async bootLog(bytes, bank, values) {
    const boot = Object.fromEntries(Object.entries(values).filter(([pcr]) => pcr !== IMA_PCR));
    const key = [await sha256Hex(bytes), bank, ...Object.entries(boot).map(([pcr, value]) => `${pcr}=${hex(value)}`)].join();
    if (this.lastLog === key) return;
    await verifyLogBytes(bytes, bank, boot);
    this.lastLog = key;
  }

  /** The first round of all: nothing came before it, and its evidence was genuine, whatever it showed. */
  async enrollment(index) {
    const body = objectOf(this.proof.at(index).body.round, "the round of the enrollment");
    const round = { index, type: "executor.enrolled", enrollment: index, body, trusted: body.verdict?.trusted === true };
    const previous = objectOf(body.previous, "previous"), ima = readImaState(previous.ima);
    const first = previous.clock === null && ima.entries === 0 && ima.pending === 0;
    demand(first, MISMATCH, `the enrollment in record ${index} continues something`);
    const clock = await this.judge(round, { clock: null, ima, told: previous.ima });
    demand(clock !== null, MISMATCH, `the evidence of the enrollment in record ${index} is not genuine`);
    this.clocks.set(index, clock);
  }

  async follow(round) {
    if (!this.clocks.has(round.enrollment)) await this.enrollment(round.enrollment);
    if (round.body.manifest === null) {
      demand(!round.trusted, MISMATCH, `record ${round.index} trusts an executor that gave no evidence`);
      return;
    }
    const told = objectOf(round.body.previous, "previous"), previous = { clock: readClock(told.clock), ima: readImaState(told.ima), told: told.ima };
    await this.plausible(round, previous);
    const clock = await this.judge(round, previous);
    if (clock !== null) this.clocks.set(round.enrollment, clock);
  }

  /** What a round took over must follow from what is here: counters go on, and the list is the list. */
  async plausible(round, previous) {
    const last = this.clocks.get(round.enrollment), count = previous.ima.entries;
    demand(previous.clock !== null, MISMATCH, `record ${round.index} does not continue the rounds before it`);
    if (!sameClock(previous.clock, last)) checkClock(last, previous.clock);
    this.needed = Math.max(this.needed, count);
    for (const [bank, value] of Object.entries(previous.ima.pcrs)) {
      const known = count <= this.entries.length && hex(await this.replay(bank, count)) === hex(value);
      demand(known, MISMATCH, `the measurement list in the bundle is not the one that record ${round.index} went on from`);
    }
  }

  /** PCR 10 after the first `count` entries, going on from what was replayed before. */
  async replay(bank, count) {
    const zero = new Uint8Array(DIGEST_SIZES[bank]);
    let { done, value } = this.replayed.get(bank) ?? { done: 0, value: zero };
    if (done > count) [done, value] = [0, zero];
    ({ value } = await extendPcr10(value, this.entries, bank, { from: done, to: count }));
    this.replayed.set(bank, { done: count, value });
    return value;
  }
}

// 10. Each quote verifies again, the logs explain it, the counters only went on, and the measurement list is one list.
export async function checkAppraisals(proof) {
  const list = concat(...proof.bundle.ima.map((digest) => proof.blob(digest)));
  const history = new History(proof, await parseImaList(list));
  for (const round of proof.rounds) {
    await history.follow(round);
    await breathe();
  }
  const { length } = history.entries;
  demand(length === history.needed, MISMATCH, `the measurement list has ${length} entries, and the rounds rest on ${history.needed}`);
  if (proof.rounds.length > 0) proof.leave("the appraisal policy: which checks it asks for, event rules, pinned PCRs, files, tier");
}

/** The attestation key of an enrollment, accepted once. */
export async function enrolledKey(proof, enrollment) {
  const area = parsePublic(proof.blob(textOf(proof.at(enrollment).body.ak_public, "ak_public")), "ak");
  if (area.modulus !== undefined) proof.leave("whether the executor's RSA key is a weak one");
  return acceptAttestationKey(area);
}
