// TPMT_PUBLIC (TPM 2.0 Part 2 §12.2): public areas, their Names, and which of them are keys for what.
import { Reader, concat, demand, equal, bigEndian, fromHex, refuse } from "./bytes.js";
import { CURVE_SIZES, hash, importPoint } from "./signatures.js";

export const ALG_HASHES = { 0x0004: "sha1", 0x000b: "sha256", 0x000c: "sha384", 0x000d: "sha512" };
export const ALG_SCHEMES = { 0x0014: "rsassa", 0x0016: "rsapss", 0x0018: "ecdsa" };
export const DIGEST_SIZES = { sha1: 20, sha256: 32, sha384: 48, sha512: 64 };
const CURVES = { 0x0003: "P-256", 0x0004: "P-384", 0x0005: "P-521" };
const RSA = 0x0001, ECC = 0x0023, KEYEDHASH = 0x0008, SYMCIPHER = 0x0025, NULL = 0x0010, AES = 0x0006, CFB = 0x0043;
// What may stand in a public area, from the algorithm registry: hashes, block ciphers, anything at all, curves.
const HASH_ALGS = new Set([0x0004, 0x000b, 0x000c, 0x000d, 0x0012, 0x0027, 0x0028, 0x0029]);
const CIPHERS = new Set([AES, 0x0013, 0x0026]), ALGS = new Set([
  1, 4, 5, 6, 7, 8, 0x0a, 0x0b, 0x0c, 0x0d, 0x10, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x20, 0x22, 0x23, 0x25,
  0x26, 0x27, 0x28, 0x29, 0x40, 0x41, 0x42, 0x43, 0x44,
]);
const KNOWN_CURVES = new Set([1, 2, 3, 4, 5, 0x10, 0x11, 0x20, 0x30, 0x31, 0x32, 0x40, 0x41]), SMALL_CURVES = [1, 2];
const MAX_PUBLIC = 4096; // bytes; RSA-4096 with a SHA-512 policy has 602

// TPMA_OBJECT (Part 2 §8.3)
const FIXED_TPM = 1 << 1, ST_CLEAR = 1 << 2, FIXED_PARENT = 1 << 4, DATA_ORIGIN = 1 << 5, USER_WITH_AUTH = 1 << 6;
const ADMIN_WITH_POLICY = 1 << 7, ENCRYPTED_DUPLICATION = 1 << 11, RESTRICTED = 1 << 16, DECRYPT = 1 << 17, SIGN = 1 << 18;
const X509_SIGN = 1 << 19;
const DEFINED = 0x000f0ff6;

// What follows each scheme's identifier: nothing, a hash, or a hash and a UINT16.
const RSA_DETAILS = { 0x0014: 1, 0x0016: 1, 0x0017: 1, 0x0015: 0 };
const ECC_DETAILS = { 0x0018: 1, 0x0019: 1, 0x001b: 1, 0x001c: 1, 0x001a: 2 };
const KDF_DETAILS = { 0x0007: 1, 0x0020: 1, 0x0022: 1 }, KEYEDHASH_DETAILS = { 0x0005: 1, 0x000a: 2 };

/** A UINT16 that is one of `known`. */
function oneOf(reader, known, what) {
  const value = reader.u16(what);
  return known.has(value) ? value : refuse(reader.reason, `0x${value.toString(16)} is no ${what}`);
}

function readScheme(reader, details) {
  const alg = reader.u16("scheme");
  if (alg === NULL) return null;
  if (!Object.hasOwn(details, alg)) refuse(reader.reason, `0x${alg.toString(16)} is no scheme of this type`);
  const hashAlg = details[alg] ? oneOf(reader, HASH_ALGS, "hash of the scheme") : null;
  if (details[alg] === 2) reader.u16("detail of the scheme");
  return { alg, hash: hashAlg };
}

function readSymmetric(reader) {
  const alg = oneOf(reader, new Set([NULL, ...CIPHERS]), "symmetric algorithm");
  return alg === NULL ? null : { alg, bits: reader.u16("key bits"), mode: oneOf(reader, ALGS, "mode") };
}

/** What comes behind the authPolicy, by the type of the object. */
function readParameters(reader, type) {
  if (type === KEYEDHASH) return { scheme: readScheme(reader, KEYEDHASH_DETAILS), unique: reader.sized(64, "unique") };
  const symmetric = readSymmetric(reader);
  if (type === SYMCIPHER) return { symmetric, unique: reader.sized(64, "unique") };
  if (type === RSA) {
    const scheme = readScheme(reader, RSA_DETAILS), bits = reader.u16("keyBits"), exponent = reader.u32("exponent");
    return { symmetric, scheme, bits, exponent, modulus: reader.sized(512, "modulus") };
  }
  const scheme = readScheme(reader, ECC_DETAILS), curve = oneOf(reader, KNOWN_CURVES, "curve"), kdf = readScheme(reader, KDF_DETAILS);
  return { symmetric, scheme, curve, kdf, x: reader.sized(66, "x"), y: reader.sized(66, "y") };
}

/** Read a TPM2B_PUBLIC of an RSA or ECC key with nothing left over. `family` is `ak` or `ek`, whose reasons are used. */
export function parsePublic(bytes, family) {
  const malformed = `${family}.malformed`;
  const outer = new Reader(bytes, malformed);
  const raw = outer.sized(MAX_PUBLIC, "public area");
  outer.done("TPM2B_PUBLIC");
  const reader = new Reader(raw, malformed);
  const type = oneOf(reader, new Set([RSA, ECC, KEYEDHASH, SYMCIPHER]), "object type");
  const nameAlg = oneOf(reader, new Set([NULL, ...HASH_ALGS]), "nameAlg"), attributes = reader.u32("attributes");
  demand((attributes & ~DEFINED) === 0, malformed, "reserved attributes are set");
  const policy = reader.sized(64, "authPolicy"), parameters = readParameters(reader, type);
  reader.done("TPMT_PUBLIC");
  demand(type === RSA || type === ECC, family === "ak" ? "ak.type_not_allowed" : "ek.template", "this is neither an RSA nor an ECC key");
  return { raw, type, nameAlg, attributes, policy, family, hash: ALG_HASHES[nameAlg], ...parameters };
}

/** nameAlg ‖ H(TPMT_PUBLIC) (Part 1 §16). */
export async function nameOf(area) {
  return concat(bigEndian(area.nameAlg, 2), await hash(area.hash, area.raw));
}

/** The public key itself, its numbers checked as far as WebCrypto does: {kind, …} for verifySignature. */
async function keyOf(area) {
  const { family } = area;
  if (area.type === ECC) {
    const curve = CURVES[area.curve], size = CURVE_SIZES[curve];
    demand(!SMALL_CURVES.includes(area.curve), `${family}.key_too_small`, "the curve is too small");
    demand(curve !== undefined, family === "ak" ? "ak.type_not_allowed" : "ek.template", "this curve is not allowed");
    const point = family === "ak" ? "ak.point_invalid" : "ek.malformed";
    demand(area.x.length > 0 && area.y.length > 0 && area.x.length <= size && area.y.length <= size, point, "a coordinate has a wrong length");
    const padded = [area.x, area.y].flatMap((part) => [new Uint8Array(size - part.length), part]);
    return (await importPoint(curve, concat(new Uint8Array([4]), ...padded))) ?? refuse(point, `the point is not on ${curve}`);
  }
  const { modulus, bits } = area;
  const sound = modulus.length * 8 === bits && modulus[0] >= 128 && modulus[modulus.length - 1] % 2 === 1;
  demand(sound, `${family}.modulus`, `the modulus is not an odd number of ${bits} bits`);
  demand([0, 65537].includes(area.exponent), family === "ak" ? "ak.exponent" : "ek.modulus", "the exponent is not 65537");
  demand([2048, 3072, 4096].includes(bits), `${family}.key_too_small`, `RSA keys have 2048, 3072 or 4096 bits, not ${bits}`);
  return { kind: "rsa", modulus };
}

const has = (area, attribute) => (area.attributes & attribute) !== 0;

function checkPlace(area) {
  demand(has(area, FIXED_TPM), "ak.not_fixed_tpm", "the key can leave its TPM");
  demand(has(area, FIXED_PARENT), "ak.not_fixed_parent", "the key can move to another parent");
  demand(has(area, DATA_ORIGIN), "ak.not_tpm_generated", "the key was made elsewhere");
  const odd = ST_CLEAR | ENCRYPTED_DUPLICATION | X509_SIGN;
  demand(!has(area, odd), "ak.attributes", "stClear, encryptedDuplication or x509sign is set");
}

function checkSigning(area) {
  demand(area.hash !== undefined && area.hash !== "sha1", "ak.name_alg_not_allowed", "nameAlg is none of SHA-256, SHA-384, SHA-512");
  demand(has(area, SIGN), "ak.not_signing", "sign is not set");
  demand(!has(area, DECRYPT), "ak.decrypt_set", "decrypt is set besides sign");
}

/** A key that signs what its TPM made, and nothing else: {area, key, name, scheme, hash}. Refusal `ak.*`. */
export async function acceptAttestationKey(area) {
  checkSigning(area);
  demand(has(area, RESTRICTED), "ak.not_restricted", "the key signs whatever it is given");
  checkPlace(area);
  const scheme = area.scheme === null ? undefined : ALG_SCHEMES[area.scheme.alg];
  demand(scheme !== undefined, "ak.scheme_not_allowed", "the scheme is none of RSASSA, RSAPSS, ECDSA");
  const hashName = ALG_HASHES[area.scheme.hash];
  demand(hashName !== undefined && hashName !== "sha1", "ak.hash_not_allowed", "the scheme's hash is not of the SHA-2 family");
  demand(area.symmetric === null, "ak.attributes", "a signing key has no symmetric algorithm");
  demand(area.type === RSA || area.curve !== 5, "ak.type_not_allowed", "an attestation key is on P-256 or P-384, or RSA");
  return { area, key: await keyOf(area), name: await nameOf(area), scheme, hash: hashName };
}

/** A gateway's log key: an unrestricted P-256 key that signs under exactly this policy: {area, key, name}. */
export async function acceptLogKey(area, policy) {
  demand(area.type === ECC && CURVES[area.curve] === "P-256", "ak.type_not_allowed", "a log key is a P-256 key");
  checkSigning(area);
  demand(!has(area, RESTRICTED), "ak.attributes", "a restricted key cannot sign checkpoints");
  checkPlace(area);
  demand(!has(area, USER_WITH_AUTH), "ak.attributes", "userWithAuth is set: a password signs after drift");
  demand(policy.length > 0 && equal(area.policy, policy), "ak.attributes", "authPolicy is not the expected one");
  demand(area.symmetric === null, "ak.attributes", "a signing key has no symmetric algorithm");
  const scheme = area.scheme === null || (area.scheme.alg === 0x0018 && area.scheme.hash === 0x000b);
  demand(scheme, "ak.scheme_not_allowed", "the scheme of a log key is ECDSA with SHA-256, or none");
  return { area, key: await keyOf(area), name: await nameOf(area) };
}

// The EK templates of the TCG EK Credential Profile 2.5 Annex B: [type, bits or curve, nameAlg, high range, policy, AES bits].
const POLICY_A = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
const POLICY_B = {
  sha256: "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0",
  sha384: "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
  sha512: "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a429c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
};
const LOW = FIXED_TPM | FIXED_PARENT | DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT;
const TEMPLATES = [
  [RSA, 2048, "sha256", LOW, POLICY_A, 128],
  [ECC, 3, "sha256", LOW, POLICY_A, 128],
  [RSA, 2048, "sha256", LOW | USER_WITH_AUTH, POLICY_B.sha256, 128],
  [ECC, 3, "sha256", LOW | USER_WITH_AUTH, POLICY_B.sha256, 128],
  [ECC, 4, "sha384", LOW | USER_WITH_AUTH, POLICY_B.sha384, 256],
  [ECC, 5, "sha512", LOW | USER_WITH_AUTH, POLICY_B.sha512, 256],
  [RSA, 3072, "sha384", LOW | USER_WITH_AUTH, POLICY_B.sha384, 256],
  [RSA, 4096, "sha384", LOW | USER_WITH_AUTH, POLICY_B.sha384, 256],
];

/** An endorsement key by one of the profile's templates, field by field. Refusal `ek.*`. */
export async function acceptEndorsementKey(area) {
  const follows = TEMPLATES.some(([type, size, name, attributes, policy, bits]) =>
    area.type === type && (type === RSA ? area.bits : area.curve) === size && area.hash === name &&
    area.attributes === attributes && equal(area.policy, fromHex(policy, "ek.template")) && area.symmetric !== null &&
    area.symmetric.alg === AES && area.symmetric.bits === bits && area.symmetric.mode === CFB && area.scheme === null &&
    (type === RSA ? area.exponent === 0 : area.kdf === null));
  demand(follows, "ek.template", "the public area follows no template of the EK profile");
  return keyOf(area);
}
