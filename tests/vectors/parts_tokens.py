"""Cases for the parts that judge issuing keys and artifacts; see ``tests.vectors.parts``."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import seals
from ztrooted import artifact, canonical, jose
from ztrooted.evidence import length_prefixed
from ztrooted.issuer import DOMAIN, statement
from ztrooted.keys import spki

Made = Iterator[tuple[str, str, dict[str, Any]]]

ISSUING = ec.generate_private_key(ec.SECP256R1())


NOW = 1_700_000_000


def tokens() -> Made:
    """Introductions of issuing keys, artifacts, and renewals."""
    log, origin = seals.LOG.private, seals.ORIGIN
    assert isinstance(log, ec.EllipticCurvePrivateKey)
    good = json.loads(statement(origin, ISSUING.public_key(), not_before=NOW, expires=NOW + 3600))
    jwk = good["jwk"]
    both = b"".join(base64.urlsafe_b64decode(jwk[name] + "=") for name in ("x", "y"))
    for title, changes in {
        "as it is": {},
        "of another log": {"origin": "other.test/lineage"},
        "of another format": {"format": "ztrooted-issuer/2"},
        "with a member more": {"extra": 1},
        "with a jwk that has a member more": {"jwk": {**jwk, "use": "sig"}},
        "of another curve": {"jwk": {**jwk, "crv": "P-384"}},
        "of a short coordinate": {"jwk": {**jwk, "x": jwk["x"][:-4]}},
        "of a coordinate of loose base64url": {"jwk": {**jwk, "x": jwk["x"][:-1] + chr(ord(jwk["x"][-1]) + 1)}},
        "of a coordinate with padding": {"jwk": {**jwk, "y": jwk["y"] + "="}},
        "of a coordinate of one letter more": {"jwk": {**jwk, "y": jwk["y"] + "AA"}},
        "of 31 and 33 bytes": {"jwk": {**jwk, "x": _url(both[:31]), "y": _url(both[31:])}},
        "of a coordinate that is a number": {"jwk": {**jwk, "x": 1}},
        "off its curve": {"jwk": {**jwk, "x": jwk["y"]}},
        "of another kid": {"kid": "A" * 43},
        "that ends before it begins": {"expires": NOW},
        "before time": {"not_before": -1},
        "of times that are text": {"expires": "never"},
        "of a jwk that is a list": {"jwk": []},
    }.items():
        yield "introduction", title, _introduced(canonical.encode({**good, **changes}), log, origin)
    given = _introduced(canonical.encode({**good, "kid": "A" * 20_000}), log, origin)
    start, end = given["statement"].split("A" * 20_000)
    yield "introduction", "of over 16 KiB", {**given, "statement": {"pieces": [[start, 1], ["A", 20_000], [end, 1]]}}
    yield "introduction", "a list", _introduced(b"[]", log, origin)
    yield "introduction", "with a space", _introduced(json.dumps(good).encode(), log, origin)
    yield (
        "introduction",
        "signed for something else",
        {**_introduced(canonical.encode(good), log, origin), "signature": "3006020101020101"},
    )
    yield "introduction", "by another log", _introduced(canonical.encode(good), ISSUING, origin)
    yield from _artifacts()
    yield from _renewals()


def _introduced(data: bytes, log: ec.EllipticCurvePrivateKey, origin: str) -> dict[str, Any]:
    signature = log.sign(length_prefixed(DOMAIN, data), ec.ECDSA(hashes.SHA256()))
    key = spki(seals.LOG.private.public_key())  # type: ignore[arg-type]
    return {"statement": data.decode(), "signature": signature.hex(), "log_key": key.hex(), "origin": origin}


def _claims() -> dict[str, Any]:
    digest = "ab" * 32
    return {
        "iss": "spiffe://log.test/gateway",
        "aud": "spiffe://log.test/executors",
        "sub": "ex-1",
        "jti": "authorization",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
        "cnf": {"jkt": "A" * 43},
        "ak": "000b" + digest,
        "job": digest,
        "act": {"workflow": "w", "run": "r", "step": "s"},
        "lim": {"max_runtime_s": 60},
        "pol": {"appraisal": digest, "dispatch": digest, "entities": digest},
        "ev": digest,
        "tier": "A2",
        "ren": {"n": 0},
        "lin": {"origin": seals.ORIGIN, "index": 3, "size": 4, "root": digest},
    }


def _token(claims: Any, **header: Any) -> str:
    """Signed whatever it says."""
    head = {"alg": "ES256", "kid": jose.thumbprint(ISSUING.public_key()), "typ": artifact.TYP} | header
    data = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{_url(json.dumps(head).encode())}.{_url(data)}"
    return f"{signed}.{_url(jose._software_signer(ISSUING)(signed.encode()))}"


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _without(claims: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in claims.items() if other != name}


def _artifacts() -> Made:
    good = _claims()
    changed: dict[str, Any] = {
        "as it is": good,
        "of a child": good | {"par": "parent"},
        "a list": [],
        "a number twice": b'{"iat":1,"iat":1}',
        "by another issuer": good | {"iss": "spiffe://other.test/gateway"},
        "for another audience": good | {"aud": ["spiffe://log.test/executors"]},
        "of a time that is text": good | {"iat": "now"},
        "of a time below nought": good | {"nbf": -1},
        "of no time": _without(good, "exp"),
        "from later": good | {"iat": NOW + 60},
        "that lives too long": good | {"exp": NOW + 601},
        "that ended": good | {"iat": NOW - 60, "nbf": NOW - 60, "exp": NOW - 5},
        "that ends as it begins": good | {"exp": NOW},
        "from before its key": good | {"iat": NOW - 11},
        "from after its key": good | {"iat": NOW + 5},
        "of no executor": good | {"sub": "ex 1"},
        "of a thumbprint too short": good | {"cnf": {"jkt": "A" * 42}},
        "of two thumbprints": good | {"cnf": {"jkt": "A" * 43, "jwk": {}}},
        "of a job that is no digest": good | {"job": "AB" * 32},
        "of an act without a step": good | {"act": {"workflow": "w", "run": "r"}},
        "of an act of no text": good | {"act": {"workflow": "", "run": "r", "step": "s"}},
        "of an act with a line": good | {"act": {"workflow": "a\nb", "run": "r", "step": "s"}},
        "of no runtime": good | {"lim": {"max_runtime_s": 0}},
        "of a runtime of over a week": good | {"lim": {"max_runtime_s": 604801}},
        "of a first that has one before": good | {"ren": {"n": 0, "prev": "ab" * 32}},
        "of a later that has none": good | {"ren": {"n": 1}},
        "of a parent that is nothing": good | {"par": None},
        "of a predecessor that is nothing": good | {"ren": {"n": 0, "prev": None}},
        "of no place in its chain": _without(good, "ren"),
        "of a place in its chain without a number": good | {"ren": {}},
        "of a policy that is no digest": good | {"pol": good["pol"] | {"entities": "ab"}},
        "of evidence that is no digest": good | {"ev": None},
        "of a place outside": good | {"lin": good["lin"] | {"index": 4}},
        "of a lineage with a space": good | {"lin": good["lin"] | {"origin": "a b"}},
        "of a root that is none": good | {"lin": good["lin"] | {"root": "ab"}},
        "of tier 5": good | {"tier": "A5"},
        "of a tier in a list": good | {"tier": ["A2"]},
        "of a key that is no Name": good | {"ak": "000b" + "ab" * 31},
        "of an id with a space": good | {"jti": "a b"},
        "of a parent with a space": good | {"par": "a b"},
        "with a claim more": good | {"extra": 1},
        **{
            f"without {name}": _without(good, name)
            for name in ("sub", "cnf", "job", "act", "lim", "pol", "lin", "ak", "jti")
        },
    }
    key = spki(ISSUING.public_key()).hex()
    given = {
        "issuer": good["iss"],
        "audience": good["aud"],
        "now": NOW,
        "issuers": [{"key": key, "not_before": NOW - 10, "expires": NOW + 4}],
    }
    for title, claims in changed.items():
        yield "artifact", title, {"token": _token(claims), **given}
    token = _token(good)
    head, payload, signature = token.split(".")
    for title, text in {
        "of no algorithm": _token(good, alg="none"),
        "of another type": _token(good, typ="JWT"),
        "with another member": _token(good, jku="x"),
        "of an unknown key": _token(good, kid="x"),
        "of no key": _token(good, kid=""),
        "of a key with a long name": _token(good, kid="k" * 129),
        "of a key that is a number": _token(good, kid=1),
        "with a header that is a list": f"{_url(b'[]')}.{payload}.{signature}",
        "with a header that is no JSON": f"{_url(b'{')}.{payload}.{signature}",
        "of two parts": f"{head}.{payload}",
        "without a header": f".{payload}.{signature}",
        "with another signature": f"{head}.{payload}.{_url(bytes(64))}",
        "with a signature of 63 bytes": f"{head}.{payload}.{_url(bytes(63))}",
        "with a letter that is none": f"{head}.{payload}.{signature[:-1]}!",
        "with a letter more": f"{head}.{payload}.{signature}AAA",
        "of 16 KiB and more": {"pieces": [[f"{head}.", 1], ["A", 16384], [f".{signature}", 1]]},
    }.items():
        yield "artifact", title, {"token": text, **given}


def _renewals() -> Made:
    first = _claims() | {"par": "parent"}
    token = _token(first)
    lin = first["lin"] | {"size": 9, "index": 8, "root": "cd" * 32}
    good = first | {
        "ren": {"n": 1, "prev": artifact.token_digest(token)},
        "iat": NOW + 30,
        "nbf": NOW + 30,
        "exp": NOW + 90,
        "lin": lin,
    }
    for title, claims in {
        "as it is": good,
        "of another tier": good | {"tier": "A1"},
        "of a later one": good | {"ren": good["ren"] | {"n": 2}},
        "of another predecessor": good | {"ren": {"n": 1, "prev": "ab" * 32}},
        "for another executor": good | {"sub": "ex-2"},
        "of more time": good | {"lim": {"max_runtime_s": 61}},
        "without its parent": _without(good, "par"),
        "from before": good | {"iat": NOW - 1},
        "that ends before": good | {"exp": NOW + 59, "iat": NOW, "nbf": NOW},
        "after a gap": good | {"nbf": NOW + 66, "exp": NOW + 90},
        "on an older lineage": good | {"lin": lin | {"size": 3, "index": 2}},
        "on another lineage": good | {"lin": lin | {"origin": "other.test"}},
        "of another root of one size": good | {"lin": first["lin"] | {"root": "cd" * 32}},
        "of the same root": good | {"lin": first["lin"]},
    }.items():
        yield "renewal", title, {"previous": token, "next": _token(claims)}
    alone = _token(_without(first, "par"))
    yield (
        "renewal",
        "with a parent",
        {"previous": alone, "next": _token(good | {"ren": {"n": 1, "prev": artifact.token_digest(alone)}})},
    )
