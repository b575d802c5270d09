// Authorization artifacts: JWS in its compact form (RFC 7515) with ES256 (RFC 7518 §3.4), and the keys that sign them.
import { demand, fromBase64Url, fromUtf8, isDigest, lengthPrefixed, refuse, toBase64Url, utf8, concat } from "./bytes.js";
import { canonicalBytes, hasExactly, isObject, parseCanonical, parseJson, same } from "./json.js";
import { importPoint, sha256, sha256Hex, verifyDer, verifyEcdsa } from "./signatures.js";

const TYP = "ztrooted-authz+jwt";
const MAX_TOKEN = 16 << 10, MAX_STATEMENT = 1 << 20, MAX_LIFETIME_S = 600, MAX_RUNTIME_S = 604800, LEEWAY_S = 5;

/** RFC 7638 thumbprint of a P-256 key. */
export async function thumbprint(key) {
  return toBase64Url(await sha256(canonicalBytes(jwkOf(key))));
}

function jwkOf(key) {
  return { crv: "P-256", kty: "EC", x: toBase64Url(key.point.subarray(1, 33)), y: toBase64Url(key.point.subarray(33)) };
}

/** An issuing key that the log key introduced for the log `origin`: {kid, key, notBefore, expires}. Refusal `lineage.key`. */
export async function verifyIntroduction(statement, signature, logKey, origin) {
  const wrong = "lineage.key", bytes = utf8(statement);
  const good = await verifyDer(logKey, signature, lengthPrefixed(utf8("ztrooted/issuer/v1"), bytes));
  demand(good, wrong, "the issuing key was not introduced by the log key");
  const value = parseCanonical(bytes, "canonical.malformed", MAX_STATEMENT);
  const fits = hasExactly(value, ["expires", "format", "jwk", "kid", "not_before", "origin"]) && value.format === "ztrooted-issuer/1" &&
    hasExactly(value.jwk, ["crv", "kty", "x", "y"]) && value.jwk.crv === "P-256" && value.jwk.kty === "EC";
  demand(fits && value.origin === origin, wrong, "the introduction is not of its format, or for another log");
  const [x, y] = [value.jwk.x, value.jwk.y].map((part) => fromBase64Url(part, wrong));
  demand(x.length === 32 && y.length === 32, wrong, "a coordinate has not 32 bytes");
  const key = (await importPoint("P-256", concat(new Uint8Array([4]), x, y))) ?? refuse(wrong, "the key is not on P-256");
  demand((await thumbprint(key)) === value.kid, wrong, "kid is not the key's thumbprint");
  const span = [value.not_before, value.expires].every(Number.isSafeInteger) && value.not_before >= 0 && value.not_before < value.expires;
  demand(span, wrong, "its times are not a span");
  return { kid: value.kid, key, notBefore: value.not_before, expires: value.expires };
}

/** The three segments of a token: {kid, payload, signed, signature}. Refusal `jws.*`. */
function parseToken(token) {
  demand(token.length <= MAX_TOKEN, "jws.too_large", `a token of over ${MAX_TOKEN} characters`);
  const segments = token.split(".");
  demand(segments.length === 3 && segments[0] !== "" && segments[1] !== "", "jws.malformed", "a token is three segments divided by dots");
  const [rawHeader, payload, signature] = segments.map((segment) => fromBase64Url(segment, "jws.malformed"));
  const header = parseJson(rawHeader, "jws.json", MAX_TOKEN);
  demand(isObject(header), "jws.json", "the header is no object");
  demand(header.alg === "ES256", "jws.alg_not_allowed", "the algorithm is not ES256");
  demand(Object.keys(header).every((name) => ["alg", "kid", "typ"].includes(name)), "jws.header", "the header has members we don't take");
  demand(header.typ === TYP, "jws.typ", `the type is not ${TYP}`);
  return { kid: header.kid, payload, signed: utf8(`${segments[0]}.${segments[1]}`), signature };
}

/** Verify a token at the instant `now` (seconds): {token, digest, kid, claims}. `issuers` is a Map of introduced keys. */
export async function verifyArtifact(bytes, issuers, anchors, now) {
  const token = fromUtf8(bytes, "jws.malformed"), jws = parseToken(token);
  const issuer = issuers.get(jws.kid);
  demand(issuer !== undefined, "jws.kid", "no issuer key is called so");
  const { signature } = jws;
  const good = signature.length === 64 && (await verifyEcdsa(issuer.key, "sha256", signature.subarray(0, 32), signature.subarray(32), jws.signed));
  demand(good, "jws.signature", "the signature does not verify");
  const claims = parseJson(jws.payload, "jws.json", MAX_TOKEN);
  demand(isObject(claims), "jws.json", "the claims are no object");
  demand(claims.iss === anchors.issuer, "jws.issuer", `iss is not ${anchors.issuer}`);
  demand(claims.aud === anchors.audience, "jws.audience", `aud is not ${anchors.audience}`);
  checkTimes(claims, now);
  const inUse = claims.iat >= issuer.notBefore && claims.iat <= issuer.expires;
  demand(inUse, "jws.key_expired", "issued when its key was not in use");
  checkForm(claims);
  return { token, digest: await sha256Hex(bytes), kid: jws.kid, claims };
}

function checkTimes({ iat, nbf, exp }, now) {
  const numbers = [iat, nbf, exp].every((value) => Number.isSafeInteger(value) && value >= 0);
  demand(numbers, "jws.claims", "iat, nbf and exp are not whole seconds");
  demand(Math.max(iat, nbf) <= now + LEEWAY_S, "jws.not_yet_valid", "it is valid later than its record");
  demand(exp - Math.min(iat, nbf) <= MAX_LIFETIME_S, "jws.lifetime", `a life of over ${MAX_LIFETIME_S} s`);
  demand(now < exp + LEEWAY_S, "jws.expired", "it had expired when it was recorded");
  demand(exp > nbf && exp > iat, "jws.claims", "it expires before it begins");
}

const identifier = (value) => typeof value === "string" && /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/.test(value);
const label = (value) => typeof value === "string" && [...value].length >= 1 && [...value].length <= 256 && !/[\u0000-\u001f\u007f]/.test(value);
const NAMES = ["act", "ak", "aud", "cnf", "ev", "exp", "iat", "iss", "job", "jti", "lim", "lin", "nbf", "pol", "ren", "sub", "tier"];

/** Every claim has its form, and there are no others. */
function checkForm(claims) {
  const { act, ak, cnf, lim, lin, pol, ren } = claims;
  demand(identifier(claims.sub), "jws.executor", "sub has another form");
  demand(hasExactly(cnf, ["jkt"]) && typeof cnf.jkt === "string" && /^[A-Za-z0-9_-]{43}$/.test(cnf.jkt), "jws.binding", "cnf has another form");
  demand(isDigest(claims.job), "jws.job", "job has another form");
  demand(hasExactly(act, ["run", "step", "workflow"]) && Object.values(act).every(label), "jws.scope", "act has another form");
  const runtime = hasExactly(lim, ["max_runtime_s"]) && Number.isSafeInteger(lim.max_runtime_s) && lim.max_runtime_s >= 1 && lim.max_runtime_s <= MAX_RUNTIME_S;
  demand(runtime, "jws.scope", "lim has another form");
  const first = hasExactly(ren, ["n"]) && ren.n === 0;
  const later = hasExactly(ren, ["n", "prev"]) && Number.isSafeInteger(ren.n) && ren.n > 0 && ren.n <= 1 << 20 && isDigest(ren.prev);
  demand(first || later, "jws.renewal", "ren has another form");
  const digests = hasExactly(pol, ["appraisal", "dispatch", "entities"]) && [...Object.values(pol), claims.ev].every(isDigest);
  const place = hasExactly(lin, ["index", "origin", "root", "size"]) && isDigest(lin.root) && typeof lin.origin === "string" && /^[!-~]{1,256}$/.test(lin.origin) &&
    [lin.index, lin.size].every(Number.isSafeInteger) && lin.index >= 0 && lin.index < lin.size;
  const named = identifier(claims.jti) && (!Object.hasOwn(claims, "par") || identifier(claims.par)) && typeof claims.tier === "string" && /^A[0-4]$/.test(claims.tier) &&
    typeof ak === "string" && /^(000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})$/.test(ak);
  demand(digests && place && named, "jws.claims", "a claim has another form");
  const names = Object.hasOwn(claims, "par") ? [...NAMES, "par"] : NAMES;
  demand(hasExactly(claims, names), "jws.claims", "there is a claim that we don't know");
}

const KEPT = ["iss", "aud", "sub", "jti", "cnf", "ak", "job", "act", "lim", "par"];

/** `next` follows `previous` in one chain of renewals, and widens nothing. Both were verified. */
export function verifyRenewal(previous, next) {
  const before = previous.claims, after = next.claims, wrong = "jws.renewal";
  demand(after.ren.n === before.ren.n + 1, wrong, `renewal ${after.ren.n} does not follow ${before.ren.n}`);
  demand(after.ren.prev === previous.digest, wrong, "the renewal names another predecessor");
  for (const name of KEPT) {
    const kept = Object.hasOwn(before, name) ? same(before[name], after[name]) : !Object.hasOwn(after, name);
    demand(kept, "jws.scope", `the renewal changes ${name}`);
  }
  demand(after.iat >= before.iat && after.exp >= before.exp, wrong, "the renewal goes back in time");
  demand(after.nbf <= before.exp + LEEWAY_S, wrong, "the lease had ended when it was renewed");
  demand(after.lin.origin === before.lin.origin && after.lin.size >= before.lin.size, wrong, "the renewal stands on another or an older lineage");
  demand(after.lin.size > before.lin.size || after.lin.root === before.lin.root, wrong, "two roots are stated for one size");
}
