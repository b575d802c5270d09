// From bytes to what people can read: quotes, event logs, measurement lists. Whatever can't be read is shown as bytes.
import { Refusal, hex } from "../verifier/bytes.js";
import { parseEventLog } from "../verifier/eventlog.js";
import { parseAttest, parseSignature } from "../verifier/tpm_attest.js";
import { EVENT_TYPES } from "./words.js";

const ATTEST_QUOTE = 0x8018;
const SHOWN = 96; // bytes of an event's data

/** What `read` gives, or {problem} where the bytes are not of that form. */
function tried(read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof Refusal) return { problem: error.message };
    throw error;
  }
}

const plain = new Proxy({}, { get: (_, name) => `quote.${String(name)}` });

/** The fields of a quote's TPMS_ATTEST (TPM 2.0 Part 2 §10.12) as [name, text], or {problem}. */
export function quoteFields(bytes) {
  return tried(() => {
    const attest = parseAttest(bytes, ATTEST_QUOTE, plain, 1024), { clock } = attest;
    return [
      ["magic", "ff544347 (TPM_GENERATED)"], ["type", "8018 (TPM_ST_ATTEST_QUOTE)"],
      ["qualifiedSigner", hex(attest.signer)], ["extraData", hex(attest.extraData)],
      ["clock", `${clock.clock} ms`], ["resetCount", String(clock.reset_count)], ["restartCount", String(clock.restart_count)],
      ["safe", clock.safe === 1n ? "yes" : "no"], ["firmwareVersion", clock.firmware_version.toString(16).padStart(16, "0")],
      ["pcrSelect", attest.selection.map(([bank, indices]) => `${bank}:${indices.join(",")}`).join(" ")],
      ["pcrDigest", hex(attest.digest)],
    ];
  });
}

/** The parts of a TPMT_SIGNATURE (§11.3) as [name, text], or {problem}. */
export function signatureFields(bytes) {
  return tried(() => {
    const { scheme, hash, values } = parseSignature(bytes, plain), names = values.length === 2 ? ["r", "s"] : ["sig"];
    return [["scheme", scheme], ["hash", hash], ...values.map((value, at) => [names[at], hex(value)])];
  });
}

/** An event's data: as text where it is one, else the first bytes of it. */
export function dataText(bytes) {
  const wide = bytes.length >= 4 && bytes.length % 2 === 0 && bytes.every((byte, at) => (at % 2 === 1 ? byte === 0 : byte >= 0x20 && byte < 0x7f));
  if (wide) return new TextDecoder("utf-16le").decode(bytes);
  const end = bytes.length > 1 && bytes[bytes.length - 1] === 0 ? bytes.length - 1 : bytes.length, text = bytes.subarray(0, end);
  if (text.length > 0 && text.every((byte) => byte >= 0x20 && byte < 0x7f)) return new TextDecoder().decode(text.subarray(0, 512));
  return bytes.length > SHOWN ? `${hex(bytes.subarray(0, SHOWN))}… (${bytes.length} bytes)` : hex(bytes);
}

/** The events of a log: {banks, rows: [[number, PCR, type, digest, data]]} with the digests of `bank`, or {problem}. */
export function eventRows(bytes, bank) {
  return tried(() => {
    const { banks, events } = parseEventLog(bytes), algorithm = banks.find(([, , name]) => name === bank)?.[0];
    const rows = events.map(({ number, pcr, type, digests, data }) => {
      const digest = digests.get(algorithm);
      return [number, pcr, EVENT_TYPES[type] ?? `0x${type.toString(16).padStart(8, "0")}`, digest === undefined ? "" : hex(digest), dataText(data)];
    });
    return { banks: banks.map(([, , name]) => name ?? "other"), rows };
  });
}

/** Bytes as text, those that are no UTF-8 as replacement characters. */
export function textOf(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
