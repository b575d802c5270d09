// Runs parts of the second verifier: node parts.mjs VERIFIER, a case as a JSON text a line in, {"reason"} a line out, null
// where nothing is refused. Bytes come as hexadecimal digits. docs/bundle-format.md says what each part is.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

globalThis.crypto ??= webcrypto; // Node.js 18 has it here only

const bytes = (digits) => new Uint8Array(Buffer.from(digits, "hex"));
const loaded = new Map();

/** All that the modules export. */
async function library(modules) {
  if (!loaded.has(modules.href)) {
    const names = ["anchors", "artifact", "bundle", "bytes", "eventlog", "ima", "inflate", "json", "merkle", "note", "signatures", "tpm_attest", "tpm_policy", "tpm_public", "verify"];
    const all = await Promise.all(names.map((name) => import(new URL(`${name}.js`, modules))));
    loaded.set(modules.href, Object.assign({}, ...all));
  }
  return loaded.get(modules.href);
}

function pcrValues(pcrs) {
  return Object.fromEntries(Object.entries(pcrs).map(([bank, values]) =>
    [bank, Object.fromEntries(Object.entries(values).map(([index, value]) => [index, bytes(value)]))]));
}

const ak = (lib, digits) => lib.acceptAttestationKey(lib.parsePublic(bytes(digits), "ak"));
const bigs = (clock) => Object.fromEntries(Object.entries(clock).map(([name, value]) => [name, BigInt(value)]));

async function checkpoint(lib, { note, origin, log_key: logKey, witnesses = [], quorum = 0, additional = null }) {
  const keys = await lib.parseWitnesses(witnesses, quorum);
  const beside = additional === null ? null : await lib.parseVerifierKey(additional);
  return lib.verifyCheckpoint(note, origin, await lib.parseVerifierKey(logKey), keys, quorum, beside);
}

/** Some checks of the plan, in its order, over a bundle of which nothing was verified before. */
async function checks(lib, proof, names) {
  for (const [, check] of lib.PLAN.filter(([name]) => names.includes(name))) {
    try {
      await check(proof);
    } catch (error) {
      throw error instanceof lib.Refusal ? error : new lib.Refusal("lineage.record_malformed", String(error));
    }
  }
}

const PARTS = {
  strict_json: (lib, { data }) => lib.parseJson(bytes(data), "canonical.malformed", 1 << 20),
  deflate: (lib, { data, maximum }) => lib.inflate(bytes(data), maximum, "bundle.malformed"),
  json: (lib, { data }) => lib.parseCanonical(bytes(data), "canonical.malformed", 1 << 20),
  record: (lib, { text }) => lib.parseRecord(text),
  bundle: (lib, { data }) => lib.parseBundle(bytes(data)),
  anchors: (lib, { text }) => lib.parseAnchors(lib.utf8(text)),
  verifier_key: (lib, { text }) => lib.parseVerifierKey(text),
  note: async (lib, { text, keys }) => lib.verifyNote(lib.parseNote(text), await Promise.all(keys.map(lib.parseVerifierKey))),
  checkpoint,
  async seal(lib, input) {
    const found = await checkpoint(lib, input), facts = {};
    const formerPcrs = Object.entries(input.former ?? {}).map(([until, pcrs]) => ({ until: Number(until), pcrs: pcrValues(pcrs) }));
    const anchors = { gatewayAk: await ak(lib, input.ak), gatewayPcrs: pcrValues(input.pcrs), formerPcrs };
    await checks(lib, { ...found, anchors, facts, leave() {} }, ["seal"]);
  },
  inclusion: (lib, { leaf, index, size, proof, root }) => lib.verifyInclusion(bytes(leaf), index, size, proof.map(bytes), bytes(root)),
  consistency: (lib, { old_size: from, new_size: to, old_root: before, new_root: after, proof }) =>
    lib.verifyConsistency(from, to, bytes(before), bytes(after), proof.map(bytes)),
  attestation_key: (lib, { public: area }) => ak(lib, area),
  log_key: (lib, { public: area, policy }) => lib.acceptLogKey(lib.parsePublic(bytes(area), "ak"), bytes(policy)),
  endorsement_key: (lib, { public: area }) => lib.acceptEndorsementKey(lib.parsePublic(bytes(area), "ek")),
  async sealing_policy(lib, { approver, origin, policy }) {
    const found = await lib.policyAuthorize(await lib.importP256Spki(bytes(approver), "enroll.session_key"), lib.utf8(origin));
    lib.demand(lib.hex(found) === policy, "ak.attributes", "authPolicy is not the expected one");
  },
  quote: async (lib, { attest, signature, ak: area, nonce, pcrs, selection }) =>
    lib.verifyQuote(bytes(attest), bytes(signature), await ak(lib, area), bytes(nonce), pcrValues(pcrs), selection),
  clock: (lib, { previous, current }) => lib.checkClock(bigs(previous), bigs(current)),
  async certify(lib, { attest, signature, ak: area, qualifying_data: data, certified }) {
    const name = await lib.nameOf(lib.parsePublic(bytes(certified), "ak"));
    await lib.verifyCertify(bytes(attest), bytes(signature), await ak(lib, area), bytes(data), name);
  },
  counter: async (lib, { attest, signature, ak: area, qualifying_data: data, counter }) =>
    lib.verifyCounter(bytes(attest), bytes(signature), await ak(lib, area), bytes(data), await lib.parseCounter(bytes(counter))),
  introduction: async (lib, { statement, signature, log_key: key, origin }) =>
    lib.verifyIntroduction(statement, bytes(signature), await lib.importP256Spki(bytes(key), "note.key"), origin),
  async artifact(lib, { token, issuers, issuer, audience, now }) {
    const keys = new Map();
    for (const { key: spki, not_before: notBefore, expires } of issuers) {
      const key = await lib.importP256Spki(bytes(spki), "note.key"), kid = await lib.thumbprint(key);
      keys.set(kid, { kid, key, notBefore, expires });
    }
    await lib.verifyArtifact(lib.utf8(token), keys, { issuer, audience }, now);
  },
  async renewal(lib, { previous, next }) {
    const read = async (token) => ({
      claims: lib.parseJson(lib.fromBase64Url(token.split(".")[1], "jws.malformed"), "jws.json", 1 << 14),
      digest: await lib.sha256Hex(lib.utf8(token)),
    });
    lib.verifyRenewal(await read(previous), await read(next));
  },
  event_log: (lib, { log, bank, pcrs }) => lib.verifyLogBytes(bytes(log), bank, pcrValues({ [bank]: pcrs })[bank]),
  measurements: (lib, { list, bank, pcr10, state, offset }) => lib.replayListBytes(bytes(list), bank, bytes(pcr10), state, offset),
  async story(lib, { bundle, anchors, checks: names }) {
    const proof = new lib.Proof(bytes(bundle), await lib.parseAnchors(lib.utf8(anchors)));
    proof.bundle = await lib.parseBundle(proof.file);
    proof.note = lib.parseNote(proof.bundle.checkpoint);
    proof.checkpoint = await lib.parseCheckpoint(proof.note.text);
    await checks(lib, proof, names);
  },
};

/** The verdict on a case: a whole bundle's report, or the reason of a part. */
export async function judge(modules, one) {
  const lib = await library(modules);
  try {
    if (one.part === undefined) {
      const { word, checks: found } = await lib.verifyBundle(bytes(one.bundle), bytes(one.anchors));
      return { word, checks: found.map(({ status, reason }) => [status, reason]) };
    }
    await PARTS[one.part](lib, one.input);
    return { reason: null };
  } catch (error) {
    return { reason: error.reason ?? String(error) };
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const modules = pathToFileURL(`${process.argv[2]}/`);
  for await (const line of createInterface({ input: process.stdin })) process.stdout.write(`${JSON.stringify(await judge(modules, JSON.parse(line)))}\n`);
}
