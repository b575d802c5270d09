// TCG event logs (PC Client Platform Firmware Profile 1.06 §10), crypto-agile, replayed to PCR values.
// What the events mean, and whether their data is what was measured, is not judged here.
import { Reader, concat, demand, equal, hex, refuse, startsWith, utf8 } from "./bytes.js";
import { hash } from "./signatures.js";
import { ALG_HASHES, DIGEST_SIZES } from "./tpm_public.js";

const MAX_LOG = 1 << 20; // bytes; the largest logs seen have 75 KB
const MAX_EVENTS = 8192;
const NO_ACTION = 3, HCRTM = 0x80000010;
const REGISTRY = { 0x0012: 32, 0x0027: 32, 0x0028: 48, 0x0029: 64 }; // SM3 and SHA-3, which are only skipped
const LOCALITY = utf8("StartupLocality\0"), SPEC_ID = utf8("Spec ID Event03\0"), SPEC_ID_BEGIN = utf8("Spec ID Event");

const allZero = (bytes) => bytes.every((byte) => byte === 0);

/** The banks that the Spec ID event declares: [[algorithm, digest size, bank or null], …] (§10.4.5.1). */
function readSpecId(data) {
  const malformed = "log.malformed";
  const reader = new Reader(data, malformed, { littleEndian: true });
  demand(equal(reader.take(16, "signature"), SPEC_ID), malformed, "the log does not begin with a Spec ID event of version 2.0");
  reader.u32("platform class");
  const minor = reader.u8("minor version"), major = reader.u8("major version");
  demand(major === 2 && minor === 0, malformed, `Spec ID version ${major}.${minor}`);
  reader.take(2, "errata and size of UINTN");
  const count = reader.u32("number of algorithms"), banks = [];
  demand(count > 0 && count <= 8, malformed, `${count} algorithms in the Spec ID event`);
  for (let number = 0; number < count; number++) {
    const algorithm = reader.u16("algorithm"), size = reader.u16("digest size"), bank = ALG_HASHES[algorithm] ?? null;
    const known = bank === null ? REGISTRY[algorithm] : DIGEST_SIZES[bank];
    demand(known === undefined ? size > 0 && size <= 64 : size === known, malformed, `digest size ${size} for algorithm ${algorithm}`);
    demand(banks.every(([other]) => other !== algorithm), malformed, "an algorithm is declared twice");
    banks.push([algorithm, size, bank]);
  }
  reader.take(reader.u8("size of vendor bytes"), "vendor bytes");
  reader.done("the Spec ID event");
  return banks;
}

function readEvent(reader, number, banks) {
  const pcr = reader.u32("PCR"), type = reader.u32("event type"), count = reader.u32("number of digests");
  demand(pcr < 24, "log.pcr_index", `event ${number} is of PCR ${pcr}`);
  demand(count > 0 && count <= banks.length, "log.malformed", `event ${number} has ${count} digests`);
  const digests = new Map();
  for (let one = 0; one < count; one++) {
    const algorithm = reader.u16("algorithm"), declared = banks.find(([other]) => other === algorithm);
    demand(declared !== undefined && !digests.has(algorithm), "log.malformed", `event ${number} has a digest of no declared algorithm, or two of one`);
    digests.set(algorithm, reader.take(declared[1], "digest"));
  }
  return { number, pcr, type, digests, data: reader.take(reader.u32("event size"), "event data") };
}

/** Read a crypto-agile log: {banks, events}. Refusal `log.*`. */
export function parseEventLog(bytes) {
  demand(bytes.length > 0, "log.empty", "no bytes");
  demand(bytes.length <= MAX_LOG, "log.too_large", `over ${MAX_LOG} bytes`);
  const reader = new Reader(bytes, "log.malformed", { littleEndian: true });
  const pcr = reader.u32("PCR"), type = reader.u32("event type"), digest = reader.take(20, "digest");
  const data = reader.take(reader.u32("event size"), "event data");
  demand(pcr === 0 && type === NO_ACTION && allZero(digest), "log.malformed", "the first event is no Spec ID event in PCR 0");
  const banks = readSpecId(data), events = [];
  while (reader.left > 0) {
    demand(events.length < MAX_EVENTS - 1, "log.too_large", `more than ${MAX_EVENTS} events`);
    events.push(readEvent(reader, events.length + 1, banks));
  }
  return { banks, events };
}

/** What PCR 0 began with: 0, 3 or 4, told once and before anything was extended there (§10.4.5.3). */
function startupLocality(events) {
  let told = null, extended = false;
  const wrong = (event) => refuse("log.startup_locality", `event ${event.number} does not tell the start of PCR 0 unambiguously`);
  for (const event of events) {
    if (event.type === NO_ACTION && startsWith(event.data, LOCALITY)) {
      const sound = event.pcr === 0 && told === null && !extended && event.data.length === 17 && [0, 3, 4].includes(event.data[16]);
      if (!sound) wrong(event);
      told = event.data[16];
    } else if (event.type === HCRTM) {
      if (event.pcr !== 0 || extended || told === 0 || told === 3) wrong(event);
      [told, extended] = [4, true];
    } else if (event.pcr === 0 && event.type !== NO_ACTION) {
      extended = true;
    }
  }
  return told ?? 0;
}

function checkNoAction(events) {
  for (const event of events) {
    if (event.type !== NO_ACTION) continue;
    demand([...event.digests.values()].every(allZero), "log.no_action_abuse", `event ${event.number} is EV_NO_ACTION and has a digest`);
    demand(!startsWith(event.data, SPEC_ID_BEGIN), "log.no_action_abuse", `event ${event.number} begins a second log`);
  }
}

/** The log adds up to each of the quoted `values` ({index: bytes}) of `bank`; a PCR without events holds its reset value. */
async function replayEventLog(log, bank, values) {
  demand(log.events.some((event) => event.type !== NO_ACTION), "log.empty", "no event of the log measures anything");
  checkNoAction(log.events);
  const locality = startupLocality(log.events), declared = log.banks.find(([, , name]) => name === bank);
  demand(declared !== undefined, "log.bank_missing", `the log has no bank ${bank}`);
  const size = DIGEST_SIZES[bank], replayed = new Map();
  const start = (pcr) => {
    const value = new Uint8Array(size).fill(pcr >= 17 && pcr <= 22 ? 0xff : 0);
    if (pcr === 0) value[size - 1] = locality;
    return value;
  };
  for (const event of log.events) {
    if (event.type === NO_ACTION) continue;
    const measured = event.digests.get(declared[0]);
    demand(measured !== undefined, "log.bank_missing", `event ${event.number} has no ${bank} digest`);
    const before = replayed.get(event.pcr) ?? (event.pcr === 0 ? start(0) : new Uint8Array(size));
    replayed.set(event.pcr, await hash(bank, concat(before, measured)));
  }
  demand(Object.keys(values).length > 0, "evidence.missing", "no PCR values to replay the log to");
  for (const [index, value] of Object.entries(values)) {
    const pcr = Number(index);
    if (!replayed.has(pcr)) {
      demand(equal(value, start(pcr)), "log.pcr_without_events", `PCR ${pcr} is not at its reset value and has no events`);
    }
  }
  for (const [index, value] of Object.entries(values)) {
    const found = replayed.get(Number(index));
    demand(found === undefined || equal(found, value), "log.replay_mismatch", `the events of PCR ${index} do not add up to ${hex(value)}`);
  }
}

/** A log as bytes, which must add up to `values`. */
export async function verifyLogBytes(bytes, bank, values) {
  return replayEventLog(parseEventLog(bytes), bank, values);
}
