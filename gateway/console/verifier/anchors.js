// Trust anchors: what a verifier is told to believe. Always a separate file; nothing of what is verified gets in here.
//
// The file is TOML. What is read is the part of it that `ztrooted gateway anchors` writes, and every other document is
// refused: `name = "text"`, `name = '''text of several lines'''`, `name = ["text", …]`, `name = 12`, `[table.table]`, and
// comments.
import { Refusal, demand, fromHex, fromUtf8, refuse, utf8 } from "./bytes.js";
import { ECDSA, ED25519, parseVerifierKey, parseWitnesses } from "./note.js";
import { importP256Spki } from "./signatures.js";
import { policyAuthorize, policyPcr } from "./tpm_policy.js";
import { DIGEST_SIZES, acceptAttestationKey, parsePublic } from "./tpm_public.js";

const INVALID = "config.invalid";
const MAX_ANCHORS = 1 << 20; // bytes; the root certificates of all TPM makers have a few hundred thousand
const NAME = "[A-Za-z0-9_-]+", TEXT = '"([^"\\\\\\u0000-\\u001f]*)"';
const TABLE = new RegExp(`^\\[(${NAME}(?:\\.${NAME})*)\\]$`), MEMBER = new RegExp(`^(${NAME})[ \\t]*=[ \\t]*(.+)$`);
const ITEM = `[ \\t]*${TEXT.replace("(", "(?:")}[ \\t]*`;
const NUMBER = /^(?:0|[1-9][0-9]{0,8})$/;
const LIST = new RegExp(`^\\[(?:${ITEM}(?:,${ITEM})*,?)?[ \\t]*\\]$`), ONE_TEXT = new RegExp(`^${TEXT}$`);

function withoutComment(line) {
  const found = /^(?:[^"'#]|"[^"]*"|'[^']*')*/.exec(line)[0];
  return (line[found.length] === "#" ? found : line).trim();
}

/** The tables of the document as objects without prototype. */
export function parseAnchorsToml(text) {
  const lines = text.split(/\r?\n/), root = Object.create(null), tables = new Set();
  let table = root;
  const put = (name, value) => {
    demand(!Object.hasOwn(table, name), INVALID, `${name} stands there twice`);
    table[name] = value;
  };
  for (let at = 0; at < lines.length; at++) {
    const raw = lines[at];
    const opened = /^([A-Za-z0-9_-]+)[ \t]*=[ \t]*'''(.*)$/.exec(raw);
    if (opened !== null) {
      // Text of several lines: a line end right behind the opening does not belong to it.
      let rest = opened[2], body = rest === "" ? "" : rest + "\n";
      while (!rest.includes("'''")) {
        at++;
        demand(at < lines.length, INVALID, "a text of several lines is not ended");
        rest = lines[at];
        body += rest + "\n";
      }
      const end = body.indexOf("'''");
      demand(withoutComment(body.slice(end + 3)) === "", INVALID, "something follows a text of several lines");
      put(opened[1], body.slice(0, end));
      continue;
    }
    const line = withoutComment(raw);
    if (line === "") continue;
    const header = TABLE.exec(line), member = MEMBER.exec(line);
    if (header !== null) {
      demand(!tables.has(header[1]), INVALID, `[${header[1]}] stands there twice`);
      tables.add(header[1]);
      table = root;
      for (const part of header[1].split(".")) {
        if (!Object.hasOwn(table, part)) table[part] = Object.create(null);
        table = table[part];
        demand(typeof table === "object" && !Array.isArray(table), INVALID, `${part} is no table`);
      }
    } else if (member !== null && ONE_TEXT.test(member[2])) {
      put(member[1], ONE_TEXT.exec(member[2])[1]);
    } else if (member !== null && NUMBER.test(member[2])) {
      put(member[1], Number(member[2]));
    } else if (member !== null && LIST.test(member[2])) {
      put(member[1], [...member[2].matchAll(new RegExp(TEXT, "g"))].map((found) => found[1]));
    } else {
      refuse(INVALID, `line ${at + 1} is not as anchors are written`);
    }
  }
  return root;
}

const REQUIRED = ["format", "trust_domain", "log_key", "gateway_ak", "gateway_pcrs", "ek_vendors", "ek_roots"];
const OPTIONAL = { additional_log_key: null, approver: null, former_gateway_pcrs: {}, witnesses: [], witness_quorum: 0 };
const MAX_FORMER = 256; // states

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The values of a state: {bank: {index: bytes}}, of at least one PCR. */
function pcrsOf(value) {
  demand(isTable(value), INVALID, "the PCRs of a state are no table");
  const banks = {};
  for (const [bank, values] of Object.entries(value)) {
    demand(Object.hasOwn(DIGEST_SIZES, bank) && isTable(values), INVALID, `${bank} is no bank`);
    banks[bank] = {};
    for (const [index, digits] of Object.entries(values)) {
      demand(/^(?:[0-9]|1[0-9]|2[0-3])$/.test(index), INVALID, `there is no PCR ${index}`);
      banks[bank][index] = fromHex(digits, INVALID, DIGEST_SIZES[bank]);
    }
  }
  demand(Object.values(banks).some((values) => Object.keys(values).length > 0), INVALID, "a state names no PCR");
  return banks;
}

const selectionOf = (pcrs) => Object.entries(pcrs).map(([bank, values]) => `${bank}:${Object.keys(values).join()}`).sort().join(";");

/** States that were replaced, each good for checkpoints of up to `until` records: [{until, pcrs}]. They have the PCRs of `now`. */
function formerOf(value, now) {
  demand(isTable(value) && Object.keys(value).length <= MAX_FORMER, INVALID, "former_gateway_pcrs is no table, or has too many states");
  return Object.entries(value).map(([until, state]) => {
    demand(/^[1-9][0-9]{0,15}$/.test(until), INVALID, `${until} is no number of records`);
    const pcrs = pcrsOf(state);
    demand(selectionOf(pcrs) === selectionOf(now), INVALID, "former_gateway_pcrs are not the PCRs of gateway_pcrs");
    return { until: Number(until), pcrs };
  });
}

/** What opens the gateway's keys: its approver's word for this lineage or, where it has none, the anchored state for ever. */
async function sealingPolicyOf(approver, origin, pcrs) {
  if (approver === null) return policyPcr(pcrs);
  return policyAuthorize(await importP256Spki(fromHex(approver, INVALID), INVALID), utf8(origin));
}

/** A key of the log beside the TPM's, which is never enough, or null. */
async function additionalKeyOf(text, origin) {
  if (text === null) return null;
  demand(typeof text === "string", INVALID, "additional_log_key is no text");
  const key = await parseVerifierKey(text);
  demand(key.name === origin && key.type === ED25519, INVALID, `additional_log_key is no key of type 0x01 named ${origin}`);
  return key;
}

/** Read an anchors file. Refusal `config.invalid` where it can't be used; nothing is verified then. */
export async function parseAnchors(bytes) {
  demand(bytes.length <= MAX_ANCHORS, INVALID, `over ${MAX_ANCHORS} bytes`);
  const written = parseAnchorsToml(fromUtf8(bytes, INVALID)), value = { ...OPTIONAL, ...written };
  const unknown = Object.keys(written).find((name) => !REQUIRED.includes(name) && !Object.hasOwn(OPTIONAL, name));
  demand(unknown === undefined, INVALID, `'${unknown}' is not known`);
  demand(value.format === "ztrooted-anchors/1", INVALID, "this is not of format ztrooted-anchors/1");
  const texts = ["trust_domain", "log_key", "gateway_ak", "ek_roots"].every((name) => typeof value[name] === "string");
  const lists = Array.isArray(value.ek_vendors) && Array.isArray(value.witnesses);
  demand(texts && lists && Number.isInteger(value.witness_quorum), INVALID, "a member is not of its type");
  try {
    const origin = `${value.trust_domain}/lineage`, logKey = await parseVerifierKey(value.log_key);
    demand(logKey.name === origin && logKey.type === ECDSA, INVALID, `log_key is no key of type 0x02 named ${origin}`);
    const gatewayAk = await acceptAttestationKey(parsePublic(fromHex(value.gateway_ak, INVALID), "ak"));
    const gatewayPcrs = pcrsOf(value.gateway_pcrs), formerPcrs = formerOf(value.former_gateway_pcrs, gatewayPcrs);
    demand(formerPcrs.length === 0 || value.approver !== null, INVALID, "there are former_gateway_pcrs, and no approver who could have replaced them");
    return {
      origin, logKey, additionalKey: await additionalKeyOf(value.additional_log_key, origin), gatewayAk, gatewayPcrs, formerPcrs,
      sealingPolicy: await sealingPolicyOf(value.approver, origin, gatewayPcrs),
      witnesses: await parseWitnesses(value.witnesses, value.witness_quorum),
      quorum: value.witness_quorum,
      issuer: `spiffe://${value.trust_domain}/gateway`,
      audience: `spiffe://${value.trust_domain}/executors`,
    };
  } catch (error) {
    if (error instanceof Refusal) refuse(INVALID, error.message);
    throw error;
  }
}
