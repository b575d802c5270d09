"""Cases for the parts that judge what a TPM says with a key; see ``tests.vectors.parts``."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.support.attestation import (
    NONCE,
    SELECTION,
    VALUES,
    SoftwareAk,
)
from tests.vectors.parts_keys import AK, OTHER
from tpm.algorithms import Alg
from tpm.attest import Attest, AttestType, CertifyInfo, NvCertifyInfo, QuoteInfo
from tpm.counter import counter_public
from tpm.pcr import PcrSelection, pcr_digest
from tpm.public import Curve

Made = Iterator[tuple[str, str, dict[str, Any]]]


def _hexed(values: Any) -> dict[str, dict[str, str]]:
    return {bank: {str(at): value.hex() for at, value in listed.items()} for bank, listed in values.items()}


def quotes() -> Made:
    """Quotes, and clocks of two of them."""
    honest = QuoteInfo(SELECTION, pcr_digest(SELECTION, VALUES, Alg.SHA256))
    asked = SELECTION.as_dict()

    def given(made: tuple[bytes, bytes], ak: SoftwareAk = AK, **changes: Any) -> dict[str, Any]:
        found = {
            "attest": made[0].hex(),
            "signature": made[1].hex(),
            "ak": ak.public.marshal().hex(),
            "nonce": NONCE.hex(),
        }
        return {**found, "pcrs": _hexed(VALUES), "selection": asked, **changes}

    def selected(banks: Any, values: Any = VALUES) -> QuoteInfo:
        return QuoteInfo(banks, pcr_digest(banks, values, Alg.SHA256))

    attest, signature = AK.quote()
    more = {"sha256": VALUES["sha256"] | {2: bytes(32)}}
    both = {**VALUES, "sha1": {0: bytes(20)}}
    two = PcrSelection.of({"sha1": [0], "sha256": [0, 1, 10]})
    yield "quote", "as it is", given((attest, signature))
    yield "quote", "for no nonce", given(AK.quote(extra_data=b""), nonce="")
    yield "quote", "for another nonce", given(AK.quote(extra_data=bytes(32)))
    yield "quote", "of no PCR", given(AK.quote(attested=selected(PcrSelection(()))), selection={}, pcrs={})
    yield (
        "quote",
        "of more PCRs than asked for",
        given(AK.quote(attested=selected(PcrSelection.of({"sha256": [0, 1, 2, 10]}), more)), pcrs=_hexed(more)),
    )
    yield "quote", "of a bank that was not asked for", given(AK.quote(attested=selected(two, both)), pcrs=_hexed(both))
    yield (
        "quote",
        "of SHA-1, as asked for",
        given(AK.quote(attested=selected(two, both)), pcrs=_hexed(both), selection=two.as_dict()),
    )
    yield "quote", "with a value more", given((attest, signature), pcrs=_hexed(more))
    yield "quote", "with a bank more", given((attest, signature), pcrs=_hexed(both))
    yield (
        "quote",
        "with a value less",
        given((attest, signature), pcrs={"sha256": {"0": _hexed(VALUES)["sha256"]["0"]}}),
    )
    yield (
        "quote",
        "with a value too short",
        given((attest, signature), pcrs={"sha256": {**_hexed(VALUES)["sha256"], "1": "ab" * 31}}),
    )
    yield (
        "quote",
        "with another value",
        given((attest, signature), pcrs={"sha256": {**_hexed(VALUES)["sha256"], "1": "ab" * 32}}),
    )
    yield "quote", "with another digest", given(AK.quote(attested=replace(honest, pcr_digest=bytes(32))))
    yield "quote", "of a signer of another nameAlg", given(AK.quote(qualified_signer=b"\0\x0c" + bytes(48)))
    yield "quote", "of a signer too short", given(AK.quote(qualified_signer=b"\0\x0b" + bytes(31)))
    yield "quote", "by another key", given((attest, OTHER.sign(attest)))
    for title, data in _attests(AK.attest(honest), honest).items():
        yield "quote", title, given((data, AK.sign(data)))
    for title, value in _signatures(signature).items():
        yield "quote", title, given((attest, value))
    for ak in (SoftwareAk.rsa(), SoftwareAk.rsa(alg=Alg.RSAPSS), SoftwareAk.ecc(Curve.P384, Alg.SHA384)):
        scheme = ak.public.scheme
        assert scheme is not None
        made = ak.quote()
        named = f"by {scheme.alg.name} over {scheme.hash_alg.name if scheme.hash_alg else ''}"
        yield "quote", named, given(made, ak)
        yield "quote", f"{named}, changed", given((made[0], made[1][:-1] + bytes([made[1][-1] ^ 1])), ak)
    large = SoftwareAk.rsa()
    made = large.quote()
    short = made[1][:4] + b"\0\xff" + made[1][7:]
    yield "quote", "by RSA, a byte too short", given((made[0], short), large)
    yield from _clocks()


def _attests(whole: Attest, info: QuoteInfo) -> dict[str, bytes]:
    data = whole.marshal()
    tail = info.marshal()
    head = data[: -len(tail)]
    end = tail[-34:]
    return {
        "of no TPM": b"\0" + data[1:],
        "of another type": data[:5] + b"\x17" + data[6:],
        "with a byte more": data + b"\0",
        "cut short": data[:-1],
        "nothing": b"",
        "over its maximum": data + bytes(1024),
        "with safe that is 2": head[:-9] + b"\2" + head[-8:] + tail,
        "of a signer too long": data[:6] + b"\0\x43" + data[8:],
        "of 17 banks": head + b"\0\0\0\x11" + tail[4:],
        "of 17 banks that are there": head + b"\0\0\0\x11" + tail[4:10] * 17 + end,
        "of a bitmap of two bytes": head + tail[:6] + b"\2" + tail[7:],
        "of a bitmap of two bytes, cut short": head + tail[:6] + b"\2" + tail[7:9],
        "of two banks, the first of two bytes, cut short": head + b"\0\0\0\2" + tail[4:6] + b"\2" + tail[7:12],
        "of a bank that is none": head + tail[:4] + b"\0\x12" + tail[6:],
        "of a bank twice": head + b"\0\0\0\2" + tail[4:10] * 2 + end,
        "of a digest too long": head + tail[:-34] + b"\0\x41" + bytes(65),
    }


def _signatures(good: bytes) -> dict[str, bytes]:
    r, s = good[6:38], good[40:]
    return {
        "by no scheme": b"\0\x10" + good[2:],
        "by RSASSA": b"\0\x14\0\x0b\1\0" + bytes(256),
        "over SHA-1": good[:2] + b"\0\4" + good[4:],
        "over SHA-1 and cut short": good[:2] + b"\0\4",
        "over SHA-384": good[:2] + b"\0\x0c" + good[4:],
        "with a byte behind the signature": good + b"\0",
        "with no r": good[:4] + b"\0\0" + good[38:],
        "with r of 33 bytes": good[:4] + b"\0\x21\0" + r + good[38:],
        "with r too long to be one": good[:4] + b"\0\x43" + bytes(67) + good[38:],
        "with s changed": good[:-1] + bytes([good[-1] ^ 1]),
        "with r and s exchanged": good[:4] + b"\0\x20" + s + b"\0\x20" + r,
        "signature cut short": good[:-1],
    }


def _clocks() -> Made:
    before = {"clock": 5000, "reset_count": 7, "restart_count": 2, "safe": 1, "firmware_version": 1 << 63}
    top = (1 << 32) - 1
    for title, changes, earlier in (
        ("later", {"clock": 5001}, {}),
        ("at once", {}, {}),
        ("earlier", {"clock": 4999}, {}),
        ("of other firmware", {"clock": 5001, "firmware_version": 1}, {}),
        ("of firmware one more", {"clock": 5001, "firmware_version": (1 << 63) + 1}, {}),
        ("after a reset", {"reset_count": 8, "clock": 1}, {}),
        ("before a reset", {"reset_count": 6, "clock": 5001}, {}),
        ("after a restart", {"restart_count": 3, "clock": 5001}, {}),
        ("before a restart", {"restart_count": 1, "clock": 5001}, {}),
        ("not safe", {"safe": 0, "clock": 5001}, {}),
        ("after the last reset that can be counted", {"reset_count": 0, "clock": 1}, {"reset_count": top}),
        ("before the first reset", {"reset_count": top, "clock": 5001}, {"reset_count": 0}),
        ("later by one beyond 53 bits", {"clock": (1 << 60) + 1}, {"clock": 1 << 60}),
    ):
        was = before | earlier
        texts = [{name: str(value) for name, value in one.items()} for one in (was, was | changes)]
        yield "clock", title, {"previous": texts[0], "current": texts[1]}


def certificates() -> Made:
    """Keys that a key certified, and counters."""
    certified = OTHER.public
    info = CertifyInfo(certified.name, b"\0\x0b" + bytes(32))
    counter = counter_public(0x01800001, bytes(range(32)), written=True)
    counted = NvCertifyInfo(counter.name, 0, (7).to_bytes(8, "big"))
    for part, kind, attested, member, value in (
        ("certify", AttestType.CERTIFY, info, "certified", certified.marshal()),
        ("counter", AttestType.NV, counted, "counter", counter.marshal()),
    ):
        yield from _certificates(part, AK.attest(attested, kind), {member: value.hex()})
    wrong = AK.attest(replace(info, name=AK.public.name), AttestType.CERTIFY).marshal()
    yield "certify", "of another key", {**_certified(wrong), "certified": certified.marshal().hex()}
    for title, contents in {
        "of four bytes": replace(counted, contents=bytes(4)),
        "from the fourth byte on": replace(counted, offset=4),
        "of another index": replace(counted, index_name=AK.public.name),
    }.items():
        yield (
            "counter",
            title,
            {**_certified(AK.attest(contents, AttestType.NV).marshal()), "counter": counter.marshal().hex()},
        )
    good = counter.marshal()
    change: Callable[..., bytes] = lambda **fields: replace(counter, **fields).marshal()  # noqa: E731
    for title, area in {
        "of no area": b"",
        "of an area with a byte more": good + b"\0",
        "of an area over 128 bytes": good + bytes(100),
        "of SHA-384": good[:4] + b"\0\x0c" + good[6:],
        "that was never incremented": counter_public(0x01800001, bytes(range(32)), written=False).marshal(),
        "that a password increments": change(attributes=counter.attributes | 4),
        "of no policy": change(policy=b""),
        "of four bytes in its area": change(data_size=4),
        "of a policy of 65 bytes": change(policy=bytes(65)),
    }.items():
        name = area[4:6] + hashlib.sha256(area).digest()
        yield (
            "counter",
            title,
            {
                **_certified(AK.attest(replace(counted, index_name=name), AttestType.NV).marshal()),
                "counter": area.hex(),
            },
        )


def _certified(attest: bytes, signature: bytes | None = None, nonce: bytes = NONCE) -> dict[str, Any]:
    signed = AK.sign(attest) if signature is None else signature
    return {
        "attest": attest.hex(),
        "signature": signed.hex(),
        "ak": AK.public.marshal().hex(),
        "qualifying_data": nonce.hex(),
    }


def _certificates(part: str, whole: Attest, about: dict[str, str]) -> Made:
    data = whole.marshal()
    sha384 = SoftwareAk.ecc(hash_alg=Alg.SHA384)
    for title, given in {
        "as it is": _certified(data),
        "of no TPM": _certified(b"\0" + data[1:]),
        "of another type": _certified(data[:5] + b"\x18" + data[6:]),
        "with a byte more": _certified(data + b"\0"),
        "cut short": _certified(data[:-1]),
        "over its maximum": _certified(data + bytes(512)),
        "by another key": _certified(data, OTHER.sign(data)),
        "by another hash": _certified(data, sha384.sign(data)),
        "by RSA": _certified(data, b"\0\x14\0\x0b\1\0" + bytes(256)),
        "by no scheme": _certified(data, b"\0\x10"),
        "with a byte behind the signature": _certified(data, AK.sign(data) + b"\0"),
        "for something else": _certified(data, nonce=bytes(32)),
        "for nothing": _certified(replace(whole, extra_data=b"").marshal(), nonce=b""),
        "with safe that is 2": _certified(
            data.replace(
                (7).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"\1",
                (7).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"\2",
            )
        ),
    }.items():
        yield part, title, {**given, **about}
