// Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature).
import {
  NotChecked, concat, demand, equal, fromBase64, hex, refuse, startsWith, utf8,
} from "./bytes.js";
import { importP256Spki, sha256, verifyDer, verifyEd25519 } from "./signatures.js";

const MAX_NOTE = 512 * 1024; // bytes
const MAX_WITNESSES = 64;
const MAX_SIGNATURES = 100; // as in Go's sumdb/note
export const ECDSA = 0x02; // signature types
export const ED25519 = 0x01;
const COSIGNATURE = 0x04, RFC6962 = 0x05, ML_DSA_44 = 0x06;
const LF = utf8("\n");

/** What a key may be called: no white space, no control character, no plus, at most 255 bytes. */
export function isKeyName(name) {
  return name !== "" && !/[\s\u0000-\u0020\u0085\u001c-\u001f+]/u.test(name) && utf8(name).length <= 255;
}

/** SHA-256(name ‖ LF ‖ type ‖ material)[:4], hexadecimal. */
export async function keyId(name, type, material) {
  return hex((await sha256(concat(utf8(name), LF, type, material))).subarray(0, 4));
}

/** A verifier key, name+id+base64(type ‖ key): {name, id, type, material, key}. Refusal `note.key`. */
export async function parseVerifierKey(text) {
  const found = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]{4,4096})$/.exec(text);
  if (found === null || !isKeyName(found[1])) refuse("note.key", "a verifier key is name+hexadecimal key id+base64");
  const [, name, id, encoded] = found;
  const raw = fromBase64(encoded, "note.key"), type = raw[0], material = raw.subarray(1);
  let key = null;
  if (type === ECDSA) key = await importP256Spki(material, "note.key");
  else if (type === ED25519 || type === COSIGNATURE) demand(material.length === 32, "note.key", "an Ed25519 key has 32 bytes");
  else demand(type === RFC6962 || type === ML_DSA_44, "note.key", `signature type ${type} is not supported`);
  // A key of type 0x02 is named by its SubjectPublicKeyInfo alone; the log id stands for one of RFC 6962.
  let own;
  if (type === ECDSA) own = hex((await sha256(material)).subarray(0, 4));
  else own = await keyId(name, raw.subarray(0, 1), type === RFC6962 ? await sha256(material) : material);
  demand(own === id, "note.key", `the key id ${id} is not ${own}, the one of this key`);
  return { name, id, type, material, key };
}

/** The parts of a note, believed by nobody yet: {text, lines: [{name, id, value}]}. Refusal `note.malformed`. */
export function parseNote(text) {
  const malformed = (detail) => refuse("note.malformed", detail);
  if (utf8(text).length > MAX_NOTE) malformed(`a note is over ${MAX_NOTE} bytes`);
  if (/[\u0000-\u0009\u000b-\u001f]/.test(text)) malformed("a note holds a control character");
  const split = text.lastIndexOf("\n\n");
  if (split < 0 || !text.endsWith("\n") || split + 2 === text.length) malformed("a note is a text, an empty line and lines of signatures");
  const block = text.slice(split + 2, -1).split("\n");
  if (block.length > MAX_SIGNATURES) malformed(`${block.length} signatures are over ${MAX_SIGNATURES}`);
  const lines = block.map((line) => {
    const found = /^— ([^ ]+) ([A-Za-z0-9+/=]+)$/u.exec(line);
    if (found === null || !isKeyName(found[1])) malformed("a signature line is a dash, a key name and base64");
    const raw = fromBase64(found[2], "note.malformed");
    if (raw.length < 5) malformed("a signature line holds no signature");
    return { name: found[1], id: hex(raw.subarray(0, 4)), value: raw.subarray(4) };
  });
  return { text: text.slice(0, split + 1), lines };
}

/** Three lines, origin, size, root, and never more: {origin, size, root, text}. Refusal `checkpoint.malformed`. */
export async function parseCheckpoint(text) {
  const malformed = () => refuse("checkpoint.malformed", "a checkpoint is three lines: origin, size and root");
  const found = /^([^\n]+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n$/.exec(text);
  if (found === null || !isKeyName(found[1])) malformed();
  const size = Number(found[2]), root = fromBase64(found[3], "checkpoint.malformed");
  demand(Number.isSafeInteger(size), "checkpoint.malformed", "a log of more than 2^53 records");
  if (size === 0 && !equal(root, await sha256(new Uint8Array()))) refuse("checkpoint.malformed", "the root of an empty log is not the empty root");
  return { origin: found[1], size, root, text };
}

/** Check one signature by a known key over a note's text. The time of a cosignature, in seconds (BigInt), or null. */
export async function checkSignature(key, text, signature) {
  let good = false, time = null, message = utf8(text);
  if (key.type === ECDSA) {
    good = await verifyDer(key.key, signature, message);
  } else if (key.type === ED25519) {
    good = await verifyEd25519(key.material, signature, message);
  } else if (key.type === COSIGNATURE) {
    demand(signature.length === 72, "note.signature", "a cosignature has a time and 64 bytes");
    time = new DataView(signature.buffer, signature.byteOffset).getBigUint64(0);
    demand(time < 1n << 63n, "note.signature", "the time of a cosignature is over 63 bits");
    message = utf8(`cosignature/v1\ntime ${time}\n${text}`);
    good = await verifyEd25519(key.material, signature.subarray(8), message);
  } else {
    throw new NotChecked(`signatures of type 0x0${key.type} are not checked here`);
  }
  demand(good, "note.signature", `the signature by ${key.name} (${key.id}) does not verify`);
  return time;
}

/** The same by a verifier key in its written form, for a witness's cosignature for instance. */
export async function checkVerifierKeySignature(verifierKey, text, signature) {
  return checkSignature(await parseVerifierKey(verifierKey), text, signature);
}

/** Which of the keys signed: each of their lines verifies, or the note is refused. [{key, time}], at least one. */
export async function verifyNote(note, keys) {
  const names = keys.map((key) => `${key.name}+${key.id}`);
  demand(new Set(names).size === names.length, "note.key", "two verifier keys share their name and key id");
  const signed = new Map();
  for (const line of note.lines) {
    const at = names.indexOf(`${line.name}+${line.id}`);
    if (at < 0) continue;
    const time = await checkSignature(keys[at], note.text, line.value);
    const identity = hex(keys[at].material);
    if (!signed.has(identity)) signed.set(identity, { key: keys[at], time });
  }
  demand(signed.size > 0, "note.signature", "no known key signed this note");
  return [...signed.values()];
}

/** Witnesses of whom `quorum` can be had, none of them twice: their keys. Refusal `note.key`. */
export async function parseWitnesses(texts, quorum) {
  const keys = await Promise.all(texts.map(parseVerifierKey));
  demand(keys.length <= MAX_WITNESSES && quorum <= keys.length, "note.key", `a quorum of ${quorum} of ${keys.length} witnesses`);
  demand(keys.every((key) => key.type === COSIGNATURE || key.type === ML_DSA_44), "note.key", "the key of a witness makes no cosignatures");
  for (const values of [keys.map((key) => key.name), keys.map((key) => hex(key.material))]) {
    demand(new Set(values).size === keys.length, "note.key", "two witnesses have the same name or the same key");
  }
  return keys;
}

/**
 * A checkpoint of the log `origin`, signed by its key and by as many witnesses as `quorum` says: {note, checkpoint}.
 * What `additional`, another key of the log, signed must verify, and it stands neither for the log's key nor for a witness.
 */
export async function verifyCheckpoint(text, origin, logKey, witnesses = [], quorum = 0, additional = null) {
  const note = parseNote(text), checkpoint = await parseCheckpoint(note.text);
  demand(checkpoint.origin === origin, "checkpoint.origin", `a checkpoint of ${checkpoint.origin}, not of ${origin}`);
  const signed = note.lines.some((line) => line.name === logKey.name && line.id === logKey.id);
  demand(signed, "checkpoint.key", `no signature by ${logKey.name} (${logKey.id})`);
  const own = additional === null ? [logKey] : [logKey, additional];
  const signers = await verifyNote(note, [...own, ...witnesses]);
  const cosigners = signers.filter(({ key }) => !own.some(({ material }) => equal(material, key.material))).length;
  demand(cosigners >= quorum, "checkpoint.quorum", `${cosigners} known witnesses cosigned, ${quorum} are needed`);
  return { note, checkpoint };
}

/** The payloads of 0xff lines of one type by one attestation key. */
export async function linesOfType(note, origin, type, akName) {
  const id = await keyId(origin, concat(new Uint8Array([0xff]), utf8(type)), akName);
  return note.lines.filter((line) => line.name === origin && line.id === id).map((line) => {
    const label = utf8(`${type}\n`);
    demand(startsWith(line.value, label), "checkpoint.seal", "the line does not begin with its type");
    return line.value.subarray(label.length);
  });
}
