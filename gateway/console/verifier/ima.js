// IMA measurement lists (security/integrity/ima of Linux), the text form, replayed to PCR 10.
// The kernel extends PCR 10, in each bank with that bank's hash of the entry's template data; a violation extends ones.
import { breathe } from "./breath.js";
import { concat, demand, equal, fromHex, hex, refuse, utf8 } from "./bytes.js";
import { hash } from "./signatures.js";
import { DIGEST_SIZES } from "./tpm_public.js";

const MAX_LIST = 64 << 20, MAX_PATH = 4096, MAX_FIELD = 65536, MAX_LEGACY_NAME = 255;
const HASH_BY_SIZE = { 20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512" };
const FILE_DIGESTS = {
  md5: 16, sha1: 20, rmd160: 20, sha224: 28, sha256: 32, sm3: 32, "sm3-256": 32, sm3_256: 32, streebog256: 32, streebog512: 64,
  wp256: 32, wp384: 48, wp512: 64, "sha3-256": 32, sha384: 48, "sha3-384": 48, sha512: 64, "sha3-512": 64,
};
const MALFORMED = "ima.malformed";

/** Text of one byte a character, so that paths that are no UTF-8 stay what they are. */
function latin1(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return text;
}

function bytesOf(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** A field of template data: its length, 32 bits little-endian, and its bytes. */
function field(bytes) {
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, bytes.length, true);
  return concat(size, bytes);
}

/** A d-ng or d-ngv2 field from `sha256:<hex>` or `ima:sha256:<hex>`. */
function digestField(text, typed, violation) {
  const found = /^(ima:|verity:)?([a-z0-9_-]+):([0-9a-f]*)$/.exec(text);
  const known = found !== null && (found[1] !== undefined) === typed && Object.hasOwn(FILE_DIGESTS, found[2]);
  demand(known, "ima.digest_alg", "this is not a digest of this template");
  const value = fromHex(found[3], MALFORMED);
  const empty = violation && value.length === 20 && value.every((byte) => byte === 0);
  demand(value.length === FILE_DIGESTS[found[2]] || empty, "ima.digest_alg", `a ${found[2]} digest of ${value.length} bytes`);
  return field(concat(utf8(`${found[1] ?? ""}${found[2]}:\0`), value));
}

function nameField(path) {
  demand(path.length > 0 && path.length < MAX_PATH, MALFORMED, `a path of ${path.length} bytes`);
  return field(bytesOf(`${path}\0`));
}

function blobField(digits) {
  demand(digits.length <= 2 * MAX_FIELD, MALFORMED, "a field is too long");
  return field(fromHex(digits, MALFORMED));
}

/** `d|n` and the last `blobs` fields of hexadecimal digits, divided by single spaces. */
function split(rest, blobs) {
  const space = rest.indexOf(" ");
  let tail = space < 0 ? "" : rest.slice(space + 1);
  const fields = [];
  for (let number = 0; number < blobs; number++) {
    const last = tail.lastIndexOf(" ");
    demand(last >= 0, MALFORMED, "a field of the template is missing");
    fields.unshift(tail.slice(last + 1));
    tail = tail.slice(0, last);
  }
  return [space < 0 ? rest : rest.slice(0, space), tail, ...fields];
}

function withBlob(typed) {
  return (rest, violation) => {
    const [digest, path, blob] = split(rest, 1);
    return concat(digestField(digest, typed, violation), nameField(path), blobField(blob));
  };
}

function plain(typed) {
  return (rest, violation) => {
    const [digest, path] = split(rest, 0);
    return concat(digestField(digest, typed, violation), nameField(path));
  };
}

const TEMPLATE_DATA = {
  ima(rest) {
    const [digest, path] = split(rest, 0);
    demand(path.length > 0 && path.length <= MAX_LEGACY_NAME, MALFORMED, "template ima holds names of 1 to 255 bytes");
    return concat(fromHex(digest, MALFORMED, 20), bytesOf(path), new Uint8Array(MAX_LEGACY_NAME + 1 - path.length));
  },
  "ima-ng": plain(false),
  "ima-ngv2": plain(true),
  "ima-sig": withBlob(false),
  "ima-sigv2": withBlob(true),
  "ima-buf": withBlob(false),
  "ima-modsig"(rest, violation) {
    const [digest, path, signature, inner, appended] = split(rest, 3);
    const innerField = inner === "" ? field(new Uint8Array()) : digestField(inner, false, violation);
    return concat(digestField(digest, false, violation), nameField(path), blobField(signature), innerField, blobField(appended));
  },
};

function parseLine(line) {
  const found = /^([0-9]+) ([0-9a-f]+) ([!-~]+) ([^]*)$/.exec(line);
  demand(found !== null, MALFORMED, "a line is not 'PCR hash template fields'");
  const [, pcr, digits, template, rest] = found;
  demand(pcr === "10", "ima.wrong_pcr", `PCR ${pcr}, where measurements are expected in 10`);
  const shown = fromHex(digits, MALFORMED);
  demand(Object.hasOwn(HASH_BY_SIZE, shown.length), MALFORMED, `a template hash of ${shown.length} bytes`);
  demand(Object.hasOwn(TEMPLATE_DATA, template), "ima.template_unknown", `template ${template} is not one of those we read`);
  const violation = shown.every((byte) => byte === 0);
  return { shown, violation, data: TEMPLATE_DATA[template](rest, violation) };
}

/** The entries of a text list, or of the part of it from some entry on. Refusal `ima.*`. */
export async function parseImaList(bytes) {
  demand(bytes.length <= MAX_LIST, "ima.too_large", `over ${MAX_LIST} bytes`);
  if (bytes.length === 0) return [];
  const text = latin1(bytes);
  demand(text.endsWith("\n"), MALFORMED, "the last line is not ended; the list was cut");
  demand(!/[\u0000-\u0009\u000b-\u001f\u007f]/.test(text), MALFORMED, "the list holds a control character");
  const entries = [];
  for (const line of text.slice(0, -1).split("\n")) {
    entries.push(parseLine(line));
    if (entries.length % 64 === 0) await breathe();
  }
  demand(entries.every(({ shown }) => shown.length === entries[0].shown.length), MALFORMED, "template hashes of different lengths");
  return entries;
}

/** Extend `value` with entries[from…to) until it is `target`: {count, value}. Refusal `ima.template_hash_mismatch`. */
export async function extendPcr10(value, entries, bank, { from = 0, to = entries.length, target = null } = {}) {
  let current = value, count = from;
  const reached = () => target !== null && equal(current, target);
  while (count < to && !reached()) {
    const { shown, violation, data } = entries[count];
    const shownBank = HASH_BY_SIZE[shown.length];
    if (!violation) {
      demand(equal(await hash(shownBank, data), shown), "ima.template_hash_mismatch", `entry ${count + 1}: its fields do not hash to ${hex(shown)}`);
    }
    const measured = violation ? new Uint8Array(DIGEST_SIZES[bank]).fill(0xff) : await hash(bank, data);
    current = await hash(bank, concat(current, measured));
    await breathe();
    count++;
  }
  return { count, value: current };
}

/** Where a list's replay stands: {entries, pcrs: {bank: bytes}, pending}; from a round's record. Refusal `lineage.record_malformed`. */
export function readImaState(value) {
  const wrong = "lineage.record_malformed";
  const counts = [value?.entries, value?.pending].every((count) => Number.isSafeInteger(count) && count >= 0);
  demand(counts && value.pcrs !== null && typeof value.pcrs === "object", wrong, "this is no state of a measurement list");
  const pcrs = Object.fromEntries(Object.entries(value.pcrs).map(([bank, digits]) => {
    demand(Object.hasOwn(DIGEST_SIZES, bank), wrong, `there is no bank ${bank}`);
    return [bank, fromHex(digits, wrong, DIGEST_SIZES[bank])];
  }));
  demand(Object.keys(pcrs).length > 0 === value.entries > 0, wrong, "a state has values exactly where it has entries");
  return { entries: value.entries, pcrs, pending: value.pending };
}

/** The part of a list from entry `offset` on continues `state` and explains the quoted PCR 10. Refusal `ima.*`. */
async function replayIma(state, entries, bank, pcr10, offset) {
  const zero = (name) => new Uint8Array(DIGEST_SIZES[name]);
  demand(offset === 0 || offset === state.entries, "ima.offset", `the list starts at entry ${offset}, not at 0 or ${state.entries}`);
  demand(offset === 0 || Object.hasOwn(state.pcrs, bank), "ima.offset", `nothing is known of bank ${bank} yet`);
  demand(offset + entries.length > 0, "ima.empty", "no entry was measured: IMA is not active");
  demand(pcr10.some((byte) => byte !== 0), "ima.empty", "PCR 10 still has its reset value");
  if (offset === 0 && state.entries > 0) {
    if (entries.length < state.entries) {
      const { value } = await extendPcr10(zero(bank), entries, bank, { target: pcr10 });
      refuse(equal(value, pcr10) ? "ima.fork" : "ima.shrunk", `${entries.length} entries, where ${state.entries} were verified before`);
    }
    for (const [name, known] of Object.entries(state.pcrs)) {
      const { value } = await extendPcr10(zero(name), entries, name, { to: state.entries });
      demand(equal(value, known), "ima.fork", `the first ${state.entries} entries are another history`);
    }
  }
  const from = Object.hasOwn(state.pcrs, bank) ? state.entries - offset : 0;
  const { count, value } = await extendPcr10(state.pcrs[bank] ?? zero(bank), entries, bank, { from, target: pcr10 });
  demand(equal(value, pcr10), "ima.replay_mismatch", `the entries from ${offset} on give ${hex(value)}, PCR 10 is ${hex(pcr10)}`);
  const total = offset + count;
  demand(total >= state.entries, "ima.shrunk", `PCR 10 covers ${total} entries, it covered ${state.entries} before`);
  demand(total >= state.entries + state.pending, "ima.no_progress", "entries that were pending are not covered yet");
  return { entries: total, pcrs: { [bank]: pcr10 }, pending: entries.length - count };
}

const NOTHING_KNOWN = { entries: 0, pcrs: {}, pending: 0 };

/** A list as bytes, from entry `offset` on, which must explain PCR 10 after `state` (as a round's record has it). */
export async function replayListBytes(bytes, bank, pcr10, state = NOTHING_KNOWN, offset = 0) {
  const known = readImaState(state);
  return replayIma(known, await parseImaList(bytes), bank, pcr10, offset);
}
