// Policies that keys and counters are bound to (TPM 2.0 Part 3 §23): one state of the machine, or an approver's word for states.
import { bigEndian, concat, tpm2b } from "./bytes.js";
import { sha256 } from "./signatures.js";
import { joinedValues } from "./tpm_attest.js";

const POLICY_PCR = 0x0000017f, POLICY_AUTHORIZE = 0x0000016a; // TPM_CC (Part 2 §6.5)
const BANK_ALGS = { sha1: 0x0004, sha256: 0x000b, sha384: 0x000c, sha512: 0x000d };
const ECC = 0x0023, SHA256 = 0x000b, NULL = 0x0010, P256 = 0x0003, SIGN = 1 << 18;

/** authPolicy of one PolicyPCR over these values: SHA-256(0…0 ‖ TPM_CC_PolicyPCR ‖ selection ‖ digest) (§23.7). */
export async function policyPcr(values) {
  const banks = Object.keys(values).sort((a, b) => BANK_ALGS[a] - BANK_ALGS[b]);
  const selection = banks.map((bank) => [bank, Object.keys(values[bank]).map(Number).sort((a, b) => a - b)]);
  const entries = selection.map(([bank, indices]) => {
    const bitmap = new Uint8Array(3);
    for (const index of indices) bitmap[index >> 3] |= 1 << (index & 7);
    return concat(bigEndian(BANK_ALGS[bank], 2), new Uint8Array([3]), bitmap);
  });
  const marshalled = concat(bigEndian(entries.length, 4), ...entries);
  const digest = await sha256(joinedValues(selection, values));
  return sha256(concat(new Uint8Array(32), bigEndian(POLICY_PCR, 4), marshalled, digest));
}

/** The Name of a P-256 key as a TPM loads it to check an approval: a key that signs, and has nothing else (Part 1 §16). */
async function approverName(key) {
  const head = concat(bigEndian(ECC, 2), bigEndian(SHA256, 2), bigEndian(SIGN, 4), tpm2b(new Uint8Array()));
  const parameters = concat(...[NULL, NULL, P256, NULL].map((value) => bigEndian(value, 2)));
  const unique = concat(tpm2b(key.point.subarray(1, 33)), tpm2b(key.point.subarray(33)));
  return concat(bigEndian(SHA256, 2), await sha256(concat(head, parameters, unique)));
}

/** authPolicy of one PolicyAuthorize: SHA-256(SHA-256(0…0 ‖ TPM_CC_PolicyAuthorize ‖ Name of `key`) ‖ policyRef) (§23.16). */
export async function policyAuthorize(key, reference) {
  const named = await sha256(concat(new Uint8Array(32), bigEndian(POLICY_AUTHORIZE, 4), await approverName(key)));
  return sha256(concat(named, reference));
}
