"""The parsers of the ``tpm`` room that read single structures and quotes."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from random import Random

from tests.fuzz.corpus_seeds import files, structures
from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.attestation import NONCE, SELECTION, VALUES, SoftwareAk
from tests.support.endorsement import ec_key, ek_public, rsa_key
from tpm.algorithms import BANKS, Alg
from tpm.attest import (
    Attested,
    AttestType,
    CertifyInfo,
    CommandAuditInfo,
    CreationInfo,
    NvCertifyInfo,
    NvDigestInfo,
    SessionAuditInfo,
    TimeInfo,
    parse_attest,
)
from tpm.attestation_key import AttestationKey, accept_attestation_key, accept_signing_key, accept_vouched_key
from tpm.codec import Reader
from tpm.credential import IdObject, make_credential, parse_id_object
from tpm.ek_template import check_ek_template, parse_ek_public
from tpm.errors import EvidenceError
from tpm.pcr import PcrSelection, parse_pcr_selection
from tpm.public import Curve, parse_public, parse_tpmt_public
from tpm.quote import Clock, check_clock, parse_quote, verify_quote
from tpm.reasons import EvidenceReason
from tpm.signature import parse_signature

# Words of the structures: magic, types, algorithms, curves, special sizes and handles.
TOKENS = (
    *(struct.pack(">H", alg) for alg in Alg),
    *(struct.pack(">H", kind) for kind in AttestType),
    *(struct.pack(">H", curve) for curve in Curve),
    *(
        b"\xffTCG",
        b"\x40\0\0\x0b",
        b"\0\x0b\x03\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x01",
        b"\x08\0",
        b"\x10\0",
        b"\0\x03",
    ),
)
_mutate = mutate_bytes(TOKENS)
STRUCTURES = (_mutate,)


@cache
def keys() -> tuple[SoftwareAk, ...]:
    """Keys of each kind that may sign quotes."""
    return (
        SoftwareAk.ecc(),
        SoftwareAk.ecc(Curve.P384, Alg.SHA384),
        SoftwareAk.rsa(),
        SoftwareAk.rsa(alg=Alg.RSAPSS),
    )


@cache
def attests() -> tuple[bytes, ...]:
    """One attestation of each type, and all that the corpus has."""
    ak = keys()[0]
    clock = ak.attest(CertifyInfo(b"", b"")).clock
    name = ak.public.name
    bodies: dict[AttestType, Attested] = {
        AttestType.CERTIFY: CertifyInfo(name, ak.qualified_name),
        AttestType.CREATION: CreationInfo(name, bytes(32)),
        AttestType.NV: NvCertifyInfo(name, 0, bytes(8)),
        AttestType.NV_DIGEST: NvDigestInfo(name, bytes(32)),
        AttestType.TIME: TimeInfo(1, clock, 1 << 60),
        AttestType.SESSION_AUDIT: SessionAuditInfo(exclusive=True, session_digest=bytes(32)),
        AttestType.COMMAND_AUDIT: CommandAuditInfo(3, Alg.SHA256, bytes(32), bytes(32)),
    }
    made = [ak.attest(body, kind).marshal() for kind, body in bodies.items()]
    return (*made, *(one.quote()[0] for one in keys()), *structures("quote", "attest"))


def run_attest(data: bytes) -> None:
    """What is accepted is written back byte by byte."""
    assert replace(parse_attest(data), raw=b"").marshal() == data


@cache
def publics() -> tuple[bytes, ...]:
    made = [ak.public.marshal() for ak in keys()]
    made += [ek_public(ec_key(100).public_key()), ek_public(rsa_key().public_key())]
    return (*made, *files("attacks/akpub", ".tpm2b_public"), *structures("ek_cert", "ek_public"))


def run_public(data: bytes) -> None:
    """A TPM2B_PUBLIC, the TPMT in it, and everything that may be done with the key."""
    public = parse_public(data)
    assert public.marshal() == data
    assert parse_tpmt_public(data[2:]) == public
    for accept in (
        lambda: accept_attestation_key(public),
        lambda: accept_signing_key(public, public.auth_policy),
        lambda: check_ek_template(public),
        lambda: parse_ek_public(data),
        lambda: make_credential(public, b"\0\x0b" + bytes(32), bytes(16)),
    ):
        try:
            accept()
        except EvidenceError:
            continue


def run_vouched(data: bytes) -> None:
    """A public key without a public area: PEM or DER."""
    accept_vouched_key(data)


@cache
def vouched() -> tuple[bytes, ...]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    made = [
        ak.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        for ak in keys()
        for encoding in (Encoding.PEM, Encoding.DER)
    ]
    return (*made, *publics()[:2])


def run_signature(data: bytes) -> None:
    """What is accepted is written back byte by byte."""
    assert parse_signature(data).marshal() == data


@cache
def signatures() -> Sequence[bytes]:
    return [*(ak.sign(b"message") for ak in keys()), *structures("quote", "sig")]


def run_selection(data: bytes) -> None:
    """What is accepted is written back byte by byte, and nothing is left over."""
    reader = Reader(data, EvidenceReason.PCR_MALFORMED)
    selection = parse_pcr_selection(reader)
    reader.done("the selection")
    assert selection.marshal() == data


@cache
def selections() -> Sequence[bytes]:
    none: dict[str, Iterable[int]] = {bank: [] for bank in BANKS.values()}
    some: list[dict[str, Iterable[int]]] = [{"sha256": [0]}, {"sha1": range(24), "sha256": [0, 10, 23]}, none, {}]
    return [PcrSelection.of(banks).marshal() for banks in some]


def run_id_object(data: bytes) -> None:
    """What is accepted is written back byte by byte."""
    assert parse_id_object(data).marshal() == data


@cache
def id_objects() -> Sequence[bytes]:
    return [IdObject(bytes(size), bytes(length)).marshal() for size in (20, 32, 64) for length in (18, 34, 66)]


def join_quote(number: int, attest: bytes, signature: bytes) -> bytes:
    """Key, attestation and signature in one input."""
    return bytes((number,)) + len(attest).to_bytes(2, "big") + attest + signature


def run_quote(data: bytes) -> None:
    """Parse, verify and compare the clock; an accepted quote says what was asked, whatever its bytes."""
    number, size = data[0] if data else 0, int.from_bytes(data[1:3], "big")
    attest, signature = data[3 : 3 + size], data[3 + size :]
    quote = parse_quote(attest, signature)
    verified = verify_quote(
        quote, _accepted()[number % len(keys())], nonce=NONCE, selection=SELECTION, pcr_values=VALUES
    )
    assert verified.quote.attest.extra_data == NONCE
    assert verified.pcr_values == VALUES
    check_clock(Clock(4_000, 7, 2, safe=True, firmware_version=verified.firmware_version), verified.clock)


@cache
def _accepted() -> tuple[AttestationKey, ...]:
    return tuple(ak.key for ak in keys())


@cache
def quotes() -> Sequence[bytes]:
    made = [join_quote(number, *ak.quote()) for number, ak in enumerate(keys())]
    return [*made, *(join_quote(0, attest, signatures()[0]) for attest in structures("quote", "attest"))]


def mutate_signed_attest(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Change the attestation and sign it again: what a TPM that lies could send, or one with another firmware."""
    size = int.from_bytes(data[1:3], "big")
    attest = _mutate(random, data[3 : 3 + size], [item[3:] for item in pool[:8]])
    number = random.choice((0, 0, 0, 1))
    return join_quote(number, attest[:65535], keys()[number].sign(attest))


def selection_bombs() -> Mapping[str, bytes]:
    """Counts that lie, and as many entries as fit."""
    entry = b"\0\x0b\x03\xff\xff\xff"
    return {
        "count": b"\xff\xff\xff\xff",
        "entries": struct.pack(">I", 170_000) + entry * 170_000,
        "sixteen_alike": struct.pack(">I", 16) + entry * 16,
    }


def large(*heads: bytes) -> Mapping[str, bytes]:
    """A mebibyte behind something that begins well."""
    made = {"zeros": bytes(1 << 20), "ones": b"\xff" * (1 << 20)}
    return made | {f"long_{number}": head + bytes((1 << 20) - len(head)) for number, head in enumerate(heads)}


TARGETS = (
    Target("attest", run_attest, attests, STRUCTURES, lambda: large(attests()[0])),
    Target("public", run_public, publics, STRUCTURES, lambda: large(publics()[0], b"\xff\xff" + publics()[0][2:])),
    Target(
        "vouched_key",
        run_vouched,
        vouched,
        STRUCTURES,
        lambda: large(vouched()[0], b"-----BEGIN PUBLIC KEY-----\n" * 9),
    ),
    Target("signature", run_signature, signatures, STRUCTURES, lambda: large(signatures()[0])),
    Target("pcr_selection", run_selection, selections, STRUCTURES, selection_bombs),
    Target("id_object", run_id_object, id_objects, STRUCTURES, lambda: large(id_objects()[0])),
    Target("quote", run_quote, quotes, (_mutate, mutate_signed_attest), lambda: large(quotes()[0])),
)
