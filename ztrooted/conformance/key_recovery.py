"""P-256 keys recovered from signatures they made (SEC 1 §4.1.6): for samples of a corpus that lack their key set.

Each signature has two keys that could have made it; two signatures of one key have only that one in common. What is
verified with such a key proves nothing but that all tokens of a kid were signed alike.
"""

import hashlib
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.asymmetric import ec

from ztrooted import jose

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int] | None


def recover_keys(tokens: Iterable[str], typ: str) -> dict[str, ec.EllipticCurvePublicKey]:
    """For each kid the one key that can have made the signatures of all its tokens; none where two could."""
    candidates: dict[str, set[tuple[int, int]]] = {}
    for token in set(tokens):
        parsed = jose.parse(token, typ=typ)
        found = set(_candidates(parsed.signed, parsed.signature))
        candidates[parsed.kid] = candidates.get(parsed.kid, found) & found
    return {
        kid: ec.EllipticCurvePublicNumbers(*next(iter(points)), ec.SECP256R1()).public_key()
        for kid, points in candidates.items()
        if len(points) == 1
    }


def _candidates(signed: bytes, signature: bytes) -> Iterator[tuple[int, int]]:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    e = int.from_bytes(hashlib.sha256(signed).digest(), "big")
    inverse = pow(r, -1, jose.ORDER)
    y = pow(r**3 - 3 * r + _B, (_P + 1) // 4, _P)
    for candidate in (y, _P - y):
        point = _add(_times(s * inverse % jose.ORDER, (r, candidate)), _times(-e * inverse % jose.ORDER, _G))
        if point is not None:
            yield point


def _add(a: _Point, b: _Point) -> _Point:
    if a is None or b is None:
        return b if a is None else a
    if a[0] == b[0]:
        if (a[1] + b[1]) % _P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, _P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P)
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _times(factor: int, point: _Point) -> _Point:
    total: _Point = None
    while factor:
        if factor & 1:
            total = _add(total, point)
        point, factor = _add(point, point), factor >> 1
    return total
