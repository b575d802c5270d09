// Hashes and signatures by WebCrypto, from the forms in which keys and signatures stand in what is verified.
import { NotChecked, concat, fromHex, hex, refuse, startsWith, toBase64Url } from "./bytes.js";

const HASHES = { sha1: "SHA-1", sha256: "SHA-256", sha384: "SHA-384", sha512: "SHA-512" };
export const CURVE_SIZES = { "P-256": 32, "P-384": 48, "P-521": 66 };
const P256_SPKI = fromHex("3059301306072a8648ce3d020106082a8648ce3d030107034200", "note.key");

export async function hash(name, bytes) {
  return new Uint8Array(await crypto.subtle.digest(HASHES[name], bytes));
}

export async function sha256(bytes) {
  return hash("sha256", bytes);
}

/** The name of a blob. */
export async function sha256Hex(bytes) {
  return hex(await sha256(bytes));
}

async function importKey(format, data, algorithm) {
  try {
    return await crypto.subtle.importKey(format, data, algorithm, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") throw new NotChecked(`this machine's WebCrypto has no ${algorithm.name}`);
    return null; // a point off its curve, for instance
  }
}

/** An uncompressed point (0x04 ‖ x ‖ y) that is on its curve, as a key; null where it is not. */
export async function importPoint(curve, point) {
  const key = await importKey("raw", point, { name: "ECDSA", namedCurve: curve });
  return key === null ? null : { kind: "ecc", curve, point, key };
}

export async function importRsa(modulus, scheme, hashName) {
  const jwk = { kty: "RSA", n: toBase64Url(modulus), e: "AQAB" };
  const name = scheme === "rsapss" ? "RSA-PSS" : "RSASSA-PKCS1-v1_5";
  return importKey("jwk", jwk, { name, hash: HASHES[hashName] });
}

/** ECDSA over `message`; r and s as big-endian numbers, each no longer than the curve's order. */
export async function verifyEcdsa(key, hashName, r, s, message) {
  const size = CURVE_SIZES[key.curve];
  if (!r.length || !s.length || r.length > size || s.length > size) return false;
  const raw = concat(new Uint8Array(size - r.length), r, new Uint8Array(size - s.length), s);
  return crypto.subtle.verify({ name: "ECDSA", hash: HASHES[hashName] }, key.key, raw, message);
}

/** RSASSA, or RSAPSS with a salt as long as the digest or as fits the key (TPM 2.0 Part 1 annex B.7). */
export async function verifyRsa(modulus, scheme, hashName, signature, message) {
  if (signature.length !== modulus.length) return false;
  const key = await importRsa(modulus, scheme, hashName);
  if (scheme === "rsassa") return crypto.subtle.verify({ name: "RSASSA-PKCS1-v1_5" }, key, signature, message);
  const digest = { sha256: 32, sha384: 48, sha512: 64 }[hashName];
  for (const saltLength of [digest, modulus.length - digest - 2]) {
    if (await crypto.subtle.verify({ name: "RSA-PSS", saltLength }, key, signature, message)) return true;
  }
  return false;
}

/** Ed25519; NotChecked where this machine's WebCrypto doesn't have it. */
export async function verifyEd25519(publicKey, signature, message) {
  const key = await importKey("raw", publicKey, { name: "Ed25519" });
  return key !== null && signature.length === 64 && crypto.subtle.verify({ name: "Ed25519" }, key, signature, message);
}

/** A P-256 key from its SubjectPublicKeyInfo in the one DER form with an uncompressed point. */
export async function importP256Spki(der, reason) {
  if (der.length !== 91 || !startsWith(der, P256_SPKI) || der[26] !== 4) refuse(reason, "this is no P-256 key in its one DER form");
  return (await importPoint("P-256", der.subarray(26))) ?? refuse(reason, "the point is not on P-256");
}

/** The SubjectPublicKeyInfo of a P-256 key. */
export function p256Spki(key) {
  return concat(P256_SPKI, key.point);
}

/** r and s of an ECDSA-Sig-Value (RFC 3279 §2.2.3) in DER, and in nothing laxer; null for anything else. */
export function fromDer(der, size) {
  if (der.length < 8 || der.length > 127 + 2 || der[0] !== 0x30 || der[1] !== der.length - 2 || der[1] > 127) return null;
  const numbers = [];
  let at = 2;
  for (let number = 0; number < 2; number++) {
    const length = der[at + 1];
    if (der[at] !== 0x02 || !(length > 0) || at + 2 + length > der.length) return null;
    let value = der.subarray(at + 2, at + 2 + length);
    if (value[0] & 0x80) return null; // negative
    if (value[0] === 0 && value.length > 1) {
      if (!(value[1] & 0x80)) return null; // longer than it has to be
      value = value.subarray(1);
    }
    if (value.length > size) return null;
    numbers.push(value);
    at += 2 + length;
  }
  return at === der.length ? numbers : null;
}

/** An ECDSA signature with SHA-256 in DER, by a P-256 key. */
export async function verifyDer(key, signature, message) {
  const numbers = fromDer(signature, 32);
  return numbers !== null && verifyEcdsa(key, "sha256", numbers[0], numbers[1], message);
}

