// TPMS_ATTEST and TPMT_SIGNATURE (TPM 2.0 Part 2 §10.12, §11.3): what a TPM says, and that a key of it said so.
import { Reader, bigEndian, concat, demand, equal, refuse } from "./bytes.js";
import { hash, verifyEcdsa, verifyRsa } from "./signatures.js";
import { ALG_HASHES, ALG_SCHEMES, DIGEST_SIZES } from "./tpm_public.js";

const TPM_GENERATED = 0xff544347;
const ATTEST_NV = 0x8014, ATTEST_CERTIFY = 0x8017, ATTEST_QUOTE = 0x8018;
const MAX_ATTEST = 1024; // bytes; a quote over 16 banks has 367
const ALL_REASONS = ["malformed", "magic", "type", "trailing", "too_large", "selection"];
const QUOTE_REASONS = {
  malformed: "quote.malformed", magic: "quote.magic", type: "quote.type", trailing: "quote.trailing_bytes",
  too_large: "quote.too_large", selection: "quote.selection_mismatch", sigMalformed: "quote.sig_malformed",
  scheme: "quote.sig_alg_not_allowed", hash: "quote.hash_alg_not_allowed", invalid: "quote.sig_invalid",
};

/** The same code for everything that can be wrong. */
function only(reason) {
  return Object.fromEntries([...ALL_REASONS, "sigMalformed", "scheme", "hash", "invalid"].map((name) => [name, reason]));
}

/** TPML_PCR_SELECTION in the one form we ask for: [[bank, [index, …]], …] in the order listed. */
function readSelection(reader, reason) {
  const count = reader.u32("count of PCR banks"), banks = [];
  if (count > 16) refuse(reader.reason, `${count} PCR banks`);
  const entries = new Reader(reader.take(6 * count, "PCR selection"), reader.reason);
  for (let number = 0; number < count; number++) {
    const bank = ALG_HASHES[entries.u16("bank")], size = entries.u8("size of the bitmap"), bitmap = entries.take(3, "PCR bitmap");
    demand(size === 3, reason, "a PCR bitmap has not three bytes");
    demand(bank !== undefined && banks.every(([other]) => other !== bank), reason, "a bank is unknown or selected twice");
    const indices = [];
    for (let index = 0; index < 24; index++) if ((bitmap[index >> 3] >> (index & 7)) & 1) indices.push(index);
    banks.push([bank, indices]);
  }
  return banks;
}

/** Read a TPMS_ATTEST of one type, with nothing left over. */
export function parseAttest(bytes, type, reasons, maximum) {
  demand(bytes.length <= maximum, reasons.too_large, `an attestation of over ${maximum} bytes`);
  const reader = new Reader(bytes, reasons.malformed, { trailing: reasons.trailing });
  demand(reader.u32("magic") === TPM_GENERATED, reasons.magic, "no TPM generated this");
  demand(reader.u16("type") === type, reasons.type, `this is not an attestation of type 0x${type.toString(16)}`);
  const signer = reader.sized(66, "qualified signer"), extraData = reader.sized(66, "extra data");
  const clock = { clock: reader.u64("clock"), reset_count: BigInt(reader.u32("resetCount")), restart_count: BigInt(reader.u32("restartCount")) };
  const safe = reader.u8("safe");
  demand(safe <= 1, reasons.malformed, "safe is neither 0 nor 1");
  Object.assign(clock, { safe: BigInt(safe), firmware_version: reader.u64("firmware version") });
  const attest = { raw: bytes, signer, extraData, clock };
  if (type === ATTEST_QUOTE) {
    attest.selection = readSelection(reader, reasons.selection);
    attest.digest = reader.sized(64, "PCR digest");
  } else if (type === ATTEST_CERTIFY) {
    attest.name = reader.sized(66, "name");
    reader.sized(66, "qualified name");
  } else {
    attest.name = reader.sized(66, "index name");
    attest.offset = reader.u16("offset");
    attest.contents = reader.sized(2048, "NV contents");
  }
  reader.done("the attestation");
  return attest;
}

export function parseSignature(bytes, reasons) {
  const reader = new Reader(bytes, reasons.sigMalformed);
  const scheme = ALG_SCHEMES[reader.u16("signature scheme")];
  demand(scheme !== undefined, reasons.scheme, "this signature scheme is not one we verify");
  const hashName = ALG_HASHES[reader.u16("hash algorithm")];
  demand(hashName !== undefined && hashName !== "sha1", reasons.hash, "this hash is not one we accept in signatures");
  const values = scheme === "ecdsa" ? [reader.sized(66, "r"), reader.sized(66, "s")] : [reader.sized(512, "signature")];
  reader.done("the signature");
  return { scheme, hash: hashName, values };
}

/** The signature has the key's own scheme and hash and is the key's, over exactly the bytes that were parsed. */
async function checkSigned(attest, signature, ak, reasons) {
  demand(signature.scheme === ak.scheme, reasons.scheme, `the signature is ${signature.scheme}, the key's scheme is ${ak.scheme}`);
  demand(signature.hash === ak.hash, reasons.hash, `the signature is by ${signature.hash}, the key's scheme by ${ak.hash}`);
  const good = ak.key.kind === "ecc" && signature.scheme === "ecdsa"
    ? await verifyEcdsa(ak.key, signature.hash, ...signature.values, attest.raw)
    : ak.key.kind === "rsa" && signature.scheme !== "ecdsa" &&
      (await verifyRsa(ak.key.modulus, signature.scheme, signature.hash, signature.values[0], attest.raw));
  demand(good, reasons.invalid, "the signature is not by this key over these bytes");
}

/** The same PCRs of the same banks; {bank: [index, …]} is what was asked for. */
function samePcrs(quoted, wanted) {
  const banks = Object.keys(wanted).sort();
  const found = [...quoted].sort(([a], [b]) => (a < b ? -1 : 1));
  return banks.length === found.length && banks.every((bank, at) =>
    found[at][0] === bank && found[at][1].join() === [...wanted[bank]].sort((a, b) => a - b).join());
}

/** The values of a selection [[bank, [index, …]], …], one behind the other. */
export function joinedValues(selection, values) {
  return concat(...selection.flatMap(([bank, indices]) => indices.map((index) => {
    const value = values[bank]?.[index];
    demand(value !== undefined, "quote.pcr_values_missing", `no value for ${bank}:${index}`);
    demand(value.length === DIGEST_SIZES[bank], "quote.pcr_value_length", `${bank}:${index} has ${value.length} bytes`);
    return value;
  })));
}

/** The TPM that holds `ak` quoted `values` ({bank: {index: bytes}}), all of them and no other, for `nonce`. The clock. */
export async function verifyQuote(attestBytes, signatureBytes, ak, nonce, values, wanted) {
  const reasons = QUOTE_REASONS;
  const attest = parseAttest(attestBytes, ATTEST_QUOTE, reasons, MAX_ATTEST);
  const signature = parseSignature(signatureBytes, reasons);
  demand(nonce.length > 0, "quote.nonce_mismatch", "a quote for no nonce is not fresh");
  demand(Object.values(wanted).some((indices) => indices.length > 0), reasons.selection, "a quote of no PCR proves nothing");
  await checkSigned(attest, signature, ak, reasons);
  // A qualified Name is nameAlg ‖ H(parent's ‖ Name), by the key's own nameAlg (Part 1, Names).
  const named = attest.signer.length === 2 + DIGEST_SIZES[ak.area.hash] && equal(attest.signer.subarray(0, 2), bigEndian(ak.area.nameAlg, 2));
  demand(named, "quote.qualified_signer", "the qualified signer is not a Name by the key's nameAlg");
  demand(equal(attest.extraData, nonce), "quote.nonce_mismatch", "extraData is not the challenge's nonce");
  for (const [bank] of attest.selection) {
    demand(Object.hasOwn(wanted, bank) && bank !== "sha1", "quote.bank_not_allowed", `bank ${bank} was not asked for or is not allowed`);
  }
  demand(samePcrs(attest.selection, wanted), reasons.selection, "other PCRs are quoted than were asked for");
  const joined = joinedValues(attest.selection, values);
  for (const bank of Object.keys(values)) {
    const listed = attest.selection.find(([name]) => name === bank)?.[1] ?? [];
    demand(Object.keys(values[bank]).length === listed.length, "quote.pcr_values_extra", `a value of ${bank} is not in the quote`);
  }
  demand(equal(await hash(signature.hash, joined), attest.digest), "quote.pcr_digest_mismatch", "the PCR values do not hash to the quoted digest");
  return attest.clock;
}

/** The selection of a quote, as {bank: [index, …]}, and the values that follow it in a seal. Nothing is verified. */
export function readQuotedValues(attestBytes, rest) {
  const attest = parseAttest(attestBytes, ATTEST_QUOTE, QUOTE_REASONS, MAX_ATTEST), values = {};
  const reader = new Reader(rest, "checkpoint.seal");
  for (const [bank, indices] of attest.selection) {
    values[bank] = {};
    for (const index of indices) values[bank][index] = reader.take(DIGEST_SIZES[bank], "PCR value");
  }
  reader.done("the PCR values");
  return values;
}

/** `ak` certified the object with this Name for `qualifyingData` (Part 3 §18.2). Refusal `ak.certify_invalid`. */
export async function verifyCertify(attestBytes, signatureBytes, ak, qualifyingData, name) {
  const reasons = only("ak.certify_invalid");
  const attest = parseAttest(attestBytes, ATTEST_CERTIFY, reasons, 512);
  await checkSigned(attest, parseSignature(signatureBytes, reasons), ak, reasons);
  demand(qualifyingData.length > 0 && equal(attest.extraData, qualifyingData), reasons.invalid, "extraData is not the qualifying data");
  demand(equal(attest.name, name), reasons.invalid, "the certified Name is not that of the key presented");
}

// TPMA_NV of our counter (Part 2 §13.4): read by anybody, incremented by whoever satisfies the policy alone, and written once.
const COUNTER_ATTRIBUTES = (1 << 3) | (1 << 4) | (1 << 17) | (1 << 18) | (1 << 25) | (1 << 29);

/** An NV counter from its TPMS_NV_PUBLIC (Part 2 §13.5): {name, policy}. Refusal `counter.invalid`. */
export async function parseCounter(bytes) {
  const reason = "counter.invalid";
  const reader = new Reader(bytes, reason);
  reader.u32("index");
  const nameAlg = reader.u16("nameAlg"), attributes = reader.u32("attributes"), policy = reader.sized(64, "policy"), size = reader.u16("data size");
  reader.done("the NV public area");
  demand(nameAlg === 0x000b, reason, "the Name of the index is not by SHA-256");
  const ours = attributes === COUNTER_ATTRIBUTES && size === 8 && policy.length > 0;
  demand(ours, reason, "the NV index is no counter that was incremented, by policy alone");
  return { name: concat(bigEndian(nameAlg, 2), await hash("sha256", bytes)), policy };
}

/** What `ak` certified the counter to be (Part 3 §31.16) for `qualifyingData`: a BigInt. Refusal `counter.invalid`. */
export async function verifyCounter(attestBytes, signatureBytes, ak, qualifyingData, counter) {
  const reasons = only("counter.invalid");
  const attest = parseAttest(attestBytes, ATTEST_NV, reasons, 512);
  await checkSigned(attest, parseSignature(signatureBytes, reasons), ak, reasons);
  demand(qualifyingData.length > 0 && equal(attest.extraData, qualifyingData), reasons.invalid, "extraData is not the qualifying data");
  demand(equal(attest.name, counter.name), reasons.invalid, "another NV index was certified, or one with other attributes");
  demand(attest.offset === 0 && attest.contents.length === 8, reasons.invalid, "this is not a counter's whole value");
  return new Reader(attest.contents, reasons.invalid).u64("value");
}

/** Compare a quote's clock with that of the round before, as in {clock, reset_count, …}: same firmware, no reset, safe, later. */
export function checkClock(previous, current) {
  demand(previous.firmware_version === current.firmware_version, "quote.firmware_changed", "the firmware version is another one");
  for (const [name, reason] of [["reset_count", "quote.reset_detected"], ["restart_count", "quote.restart_detected"]]) {
    const step = (current[name] - previous[name]) & 0xffffffffn;
    if (step !== 0n) refuse(step < 1n << 31n ? reason : "quote.clock_rollback", `${name} is ${current[name]}, was ${previous[name]}`);
  }
  demand(current.safe === 1n, "quote.clock_unsafe", "the clock may have been set back by a power loss");
  demand(current.clock > previous.clock, "quote.clock_rollback", `clock is ${current.clock} ms, was ${previous.clock} ms`);
}
