// The file: from bytes to records, artifacts and blobs, of which nothing is believed but that each blob has its digest.
import { breathe } from "./breath.js";
import { demand, fromBase64, fromHex, utf8 } from "./bytes.js";
import { crc32, inflate } from "./inflate.js";
import { hasExactly, isObject, parseCanonical, parseLarge } from "./json.js";
import { sha256Hex } from "./signatures.js";

const MALFORMED = "bundle.malformed";
const MAX_BUNDLE = 64 << 20, MAX_RECORDS = 100_000;
const MAX_RECORD = 0xffff; // bytes; an entry of C2SP tlog-tiles can say no more
const GZIP = new Uint8Array([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff]); // RFC 1952; the one header that a packed bundle has
const MEMBERS = ["artifacts", "authorization", "blobs", "checkpoint", "format", "ima", "origin", "records"];
const RECORD_TYPES = new Set(`attestation.failed attestation.overdue attestation.passed
  authorization.activated authorization.delegated authorization.denied authorization.issued
  authorization.renewed authorization.revoked baseline.approved dispatch.requested execution.closed
  execution.interrupted execution.started executor.enrolled executor.labelled executor.refused
  executor.retired executor.superseded executor.trust_changed gateway.keys_exported gateway.keys_restored gateway.keys_sealed gateway.recovered gateway.resealed gateway.started gateway.stopped
  key.introduced operator.local_access operator.quarantined operator.released operator.revoked
  operator.token_created operator.token_revoked policy.activated policy.evaluated webhook.failing
  webhook.recovered`.split(/\s+/));

/** The JSON of a bundle, packed or not; never more than the maximum is made of it. */
export function unpack(bytes) {
  demand(bytes.length <= MAX_BUNDLE, "bundle.too_large", `a bundle of over ${MAX_BUNDLE} bytes`);
  if (bytes[0] !== GZIP[0] || bytes[1] !== GZIP[1]) return bytes;
  demand(GZIP.every((byte, at) => bytes[at] === byte), MALFORMED, "it is compressed, and not as a bundle is");
  const found = inflate(bytes.subarray(GZIP.length, -8), MAX_BUNDLE, MALFORMED), trailer = new DataView(bytes.slice(-8).buffer);
  const sums = trailer.getUint32(0, true) === crc32(found) && trailer.getUint32(4, true) === found.length;
  demand(sums, MALFORMED, "its compression is damaged: its checksum or length is another");
  return found;
}

/** {authorization, origin, checkpoint, entries: [{index, text, proof}], artifacts, ima, blobs: Map}. */
export async function parseBundle(file) {
  const value = await parseLarge(unpack(file), MALFORMED, MAX_BUNDLE);
  const fits = hasExactly(value, MEMBERS) && value.format === "ztrooted-bundle/1";
  demand(fits, MALFORMED, "this is not a bundle of format ztrooted-bundle/1");
  const texts = [value.authorization, value.origin, value.checkpoint];
  const lists = [value.records, value.artifacts, value.ima];
  const typed = texts.every((text) => typeof text === "string") && lists.every(Array.isArray) && isObject(value.blobs);
  demand(typed, MALFORMED, "a member is not of its type");
  demand([...value.artifacts, ...value.ima].every((text) => typeof text === "string"), MALFORMED, "a digest is no text");
  demand(value.records.length <= MAX_RECORDS, "bundle.too_large", `${value.records.length} records`);
  const entries = [];
  for (const entry of value.records) {
    entries.push(readEntry(entry));
    await breathe();
  }
  demand(entries.every(({ index }, at) => at === 0 || index > entries[at - 1].index), MALFORMED, "'records' do not ascend");
  const blobs = new Map();
  for (const [digest, text] of Object.entries(value.blobs)) {
    const blob = fromBase64(text, MALFORMED);
    demand((await sha256Hex(blob)) === digest, "bundle.mismatch", `the bytes filed under ${digest} have another digest`);
    blobs.set(digest, blob);
    await breathe();
  }
  const { authorization, origin, checkpoint, artifacts, ima } = value;
  const named = new Set([...artifacts, ...ima]);
  for (const { text } of entries) {
    for (const part of text.split('"')) named.add(part);
    await breathe();
  }
  const unnamed = [...blobs.keys()].find((digest) => !named.has(digest));
  demand(unnamed === undefined, "bundle.mismatch", `nothing in the bundle names the bytes ${unnamed}`);
  return { authorization, origin, checkpoint, entries, artifacts, ima, blobs };
}

function readEntry(entry) {
  const fits = hasExactly(entry, ["index", "proof", "record"]) && Number.isSafeInteger(entry.index) && entry.index >= 0 &&
    typeof entry.record === "string" && Array.isArray(entry.proof);
  demand(fits, MALFORMED, "an entry of 'records' has exactly index, record and proof");
  return { index: entry.index, text: entry.record, proof: entry.proof.map((item) => fromHex(item, MALFORMED)) };
}

/** A record as its text says: {type, at, authorization, prev, body}. Refusal `lineage.record_malformed`. */
export function parseRecord(text) {
  const malformed = "lineage.record_malformed", bytes = utf8(text);
  demand(bytes.length <= MAX_RECORD, malformed, `a record of over ${MAX_RECORD} bytes`);
  const value = parseCanonical(bytes, "canonical.malformed", MAX_RECORD);
  const fits = hasExactly(value, ["at", "authorization", "body", "prev", "type", "v"]) && value.v === 1 &&
    RECORD_TYPES.has(value.type) && Number.isSafeInteger(value.at) && value.at >= 0 && isObject(value.body) &&
    (value.authorization === null || typeof value.authorization === "string");
  demand(fits, malformed, "a record has exactly v, type, at, authorization, prev and body");
  if (value.prev !== null) {
    const { prev } = value;
    demand(hasExactly(prev, ["index", "leaf"]) && Number.isSafeInteger(prev.index) && prev.index >= 0, malformed, "'prev' does not name an index and a leaf");
    fromHex(prev.leaf, malformed, 32);
  }
  return value;
}
