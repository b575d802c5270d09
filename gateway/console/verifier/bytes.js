// Bytes and how they are written as text, each in one way only; and the refusal that every check speaks with.

/** What was found to be wrong: a stable reason code and a sentence. */
export class Refusal extends Error {
  constructor(reason, detail) {
    super(`${reason}: ${detail}`);
    this.reason = reason;
    this.detail = detail;
  }
}

/** What this verifier can't judge. It is no failure, and never a pass. */
export class NotChecked extends Error {}

export function refuse(reason, detail) {
  throw new Refusal(reason, detail);
}

/** Throw unless `condition` is true: not truthy, true. */
export function demand(condition, reason, detail) {
  if (condition !== true) refuse(reason, detail);
}

const encoder = new TextEncoder(), decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function utf8(text) {
  return encoder.encode(text);
}

/** Text of UTF-8 bytes; a byte order mark stays in it. Refuses anything else. */
export function fromUtf8(bytes, reason) {
  try {
    return decoder.decode(bytes);
  } catch {
    return refuse(reason, "this is not UTF-8");
  }
}

export function concat(...parts) {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export function equal(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

export function startsWith(bytes, start) {
  return bytes.length >= start.length && start.every((byte, at) => byte === bytes[at]);
}

export function hex(bytes) {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** The bytes of lower-case hexadecimal digits, `size` of them where that is told. */
export function fromHex(text, reason, size = null) {
  if (typeof text !== "string" || text.length % 2 || !/^[0-9a-f]*$/.test(text)) refuse(reason, "this is not lower-case hexadecimal");
  if (size !== null && text.length !== 2 * size) refuse(reason, `this has ${text.length / 2} bytes, not ${size}`);
  const bytes = new Uint8Array(text.length / 2);
  for (let at = 0; at < bytes.length; at++) bytes[at] = parseInt(text.slice(2 * at, 2 * at + 2), 16);
  return bytes;
}

export function isDigest(text) {
  return typeof text === "string" && /^[0-9a-f]{64}$/.test(text);
}

const STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE = STANDARD.slice(0, 62) + "-_";

function tableOf(alphabet) {
  const table = new Int16Array(128).fill(-1);
  for (let value = 0; value < 64; value++) table[alphabet.charCodeAt(value)] = value;
  return table;
}

const tables = { standard: tableOf(STANDARD), url: tableOf(URL_SAFE) };

/** RFC 4648 without its freedoms: no white space, no missing or extra padding, no bits behind the last byte (§3.5). */
function decodeBase64(text, table, reason) {
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let bits = 0, held = 0, at = 0;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    const value = code < 128 ? table[code] : -1;
    if (value < 0) refuse(reason, "this is not base64");
    held = ((held << 6) | value) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[at++] = (held >> bits) & 0xff;
    }
  }
  if (bits === 6 || (held & ((1 << bits) - 1)) !== 0) refuse(reason, "this is not the one base64 form of its bytes");
  return bytes.subarray(0, at);
}

export function fromBase64(text, reason) {
  if (typeof text !== "string" || text.length % 4) refuse(reason, "this is not base64");
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  return decodeBase64(text.slice(0, text.length - padding), tables.standard, reason);
}

/** Base64url without padding (RFC 7515 §2). */
export function fromBase64Url(text, reason) {
  if (typeof text !== "string" || text.length % 4 === 1) refuse(reason, "this is not base64url");
  return decodeBase64(text, tables.url, reason);
}

function encodeBase64(bytes, alphabet) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const group = (bytes[at] << 16) | ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
    const digits = [18, 12, 6, 0].map((shift) => alphabet[(group >> shift) & 63]);
    text += digits.slice(0, Math.min(4, bytes.length - at + 1)).join("");
  }
  return text;
}

export function toBase64(bytes) {
  const text = encodeBase64(bytes, STANDARD);
  return text + "=".repeat((4 - (text.length % 4)) % 4);
}

export function toBase64Url(bytes) {
  return encodeBase64(bytes, URL_SAFE);
}

/** `value` as `size` bytes, big-endian; a number or a BigInt. */
export function bigEndian(value, size) {
  const bytes = new Uint8Array(size);
  let rest = BigInt(value);
  for (let at = size - 1; at >= 0; at--) {
    bytes[at] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return bytes;
}

/** Each part behind its length as a 32-bit big-endian integer. */
export function lengthPrefixed(...parts) {
  return concat(...parts.flatMap((part) => [bigEndian(part.length, 4), part]));
}

/** A TPM2B (TPM 2.0 Part 2 §10.4). */
export function tpm2b(bytes) {
  return concat(bigEndian(bytes.length, 2), bytes);
}

/** A cursor that never gives less than it was asked for; what it refuses has its owner's reason. */
export class Reader {
  constructor(bytes, reason, { littleEndian = false, trailing = reason } = {}) {
    this.bytes = bytes;
    this.reason = reason;
    this.trailing = trailing;
    this.little = littleEndian;
    this.at = 0;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left() {
    return this.bytes.length - this.at;
  }

  take(size, what) {
    if (size > this.left) refuse(this.reason, `${what} needs ${size} bytes, ${this.left} are left at offset ${this.at}`);
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  u8(what) {
    return this.take(1, what)[0];
  }

  u16(what) {
    this.take(2, what);
    return this.view.getUint16(this.at - 2, this.little);
  }

  u32(what) {
    this.take(4, what);
    return this.view.getUint32(this.at - 4, this.little);
  }

  /** A BigInt. */
  u64(what) {
    this.take(8, what);
    return this.view.getBigUint64(this.at - 8, this.little);
  }

  sized(maximum, what) {
    const size = this.u16(`size of ${what}`);
    if (size > maximum) refuse(this.reason, `${what} of ${size} bytes is over its maximum of ${maximum}`);
    return this.take(size, what);
  }

  done(what) {
    if (this.left) refuse(this.trailing, `${this.left} bytes follow the end of ${what}`);
  }
}
