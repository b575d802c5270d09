"""EK certificates, the authorities above them, and revocation lists."""

import base64
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fuzz.corpus_seeds import files, structures
from tests.fuzz.der import mutate_der
from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.endorsement import NOW, crl, ec_key, ek_certificate, ek_public, rsa_key, vendor
from tpm.ek_template import parse_ek_public
from tpm.endorsement import EkPolicy, EkRoots, parse_ek_certificate, verify_ek_certificate
from tpm.endorsement_certificate import parse_certificate
from tpm.endorsement_crl import check_revocation, parse_crl
from tpm.endorsement_der import BIT_STRING, SEQUENCE, encode, read_signed_object, split_pem
from tpm.endorsement_quirks import EkQuirk, QuirkLedger, unwrap_nv
from tpm.errors import EvidenceError

ALL = frozenset(EkQuirk)
_mutate = mutate_bytes(
    (b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x06\x03\x55\x1d", b"\x01\x01\xff", b"\x10\x01\x00")
)
PEM_TOKENS = (
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"-----BEGIN X509 CRL-----",
    b"=",
    b"\r\n",
)


@cache
def roots() -> EkRoots:
    return EkRoots.from_pem(vendor().root.pem)


@cache
def leaves() -> tuple[bytes, ...]:
    made = [ek_certificate(vendor().issuer), ek_certificate(vendor().issuer, rsa_key().public_key())]
    return (*made, *structures("ek_cert", "leaf"), *files("evidence", ".cer", ".crt"))


def _agrees_with_peer(der: bytes) -> None:
    """What we read of an accepted certificate is what the X.509 library reads, where it reads it at all."""
    ours = parse_certificate(der, quirks=frozenset())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = x509.load_der_x509_certificate(der)
            times = theirs.not_valid_before_utc, theirs.not_valid_after_utc
            serial, signed = theirs.serial_number, theirs.tbs_certificate_bytes
    except ValueError:
        return
    assert (ours.not_before, ours.not_after) == times
    assert ours.serial == serial
    assert ours.signed == signed


def run_certificate(data: bytes) -> None:
    """Strictly and with every quirk; what is accepted is read alike by a peer, and written back."""
    strict: EvidenceError | None = None
    try:
        parse_certificate(data, quirks=frozenset())
        _agrees_with_peer(data)
        parse_ek_certificate(data)
    except EvidenceError as error:
        strict = error
    try:
        unwrap_nv(data, QuirkLedger(ALL))
        parse_ek_certificate(data, quirks=ALL, require_eku=False)
    except EvidenceError as error:
        if strict is None:
            raise AssertionError(f"quirks refuse what is accepted without: {error}") from error
    if strict is not None:
        raise strict


def _signed_again(der: bytes) -> bytes:
    """``der`` signed by the issuer that is believed here, whatever its body says now."""
    parts = read_signed_object(der, "certificate")
    body = der[parts.tbs.start : parts.tbs.end]
    signature = vendor().issuer.key.sign(body, ec.ECDSA(hashes.SHA256()))
    return encode(SEQUENCE, body + parts.algorithm + encode(BIT_STRING, b"\0" + signature))


def mutate_signed(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Change elements, then sign: what an issuer that is trusted could write."""
    changed = mutate_der(random, data, pool)
    try:
        return _signed_again(changed)
    except EvidenceError:
        return changed


def run_chain(data: bytes) -> None:
    """The certificate under its root, with its public area where the key is the known one."""
    issuer = vendor().issuer
    public = parse_ek_public(ek_public(ec_key(100).public_key()))
    lists = (crl(issuer),) if not len(data) % 64 else ()
    policy = EkPolicy(quirks=ALL, allow_expired_leaf=True, require_eku=False)
    verified = verify_ek_certificate(data, [issuer.der], roots(), at=NOW, ek_public=public, policy=policy, crls=lists)
    assert [one.der for one in verified.chain[1:]] == [issuer.der, vendor().root.der]


def run_authority(data: bytes) -> None:
    """Sent as an intermediate, and as what an operator would configure."""
    leaf = leaves()[0]
    refused: EvidenceError | None = None
    for attempt in (
        lambda: verify_ek_certificate(leaf, [data, data[::-1][:999]], roots(), at=NOW, ek_public=None),
        lambda: verify_ek_certificate(leaf, [data, vendor().issuer.der], roots(), at=NOW, ek_public=None),
        lambda: EkRoots((parse_certificate(data),)),
    ):
        try:
            attempt()
        except EvidenceError as error:
            refused = error
    if refused is not None:
        raise refused


@cache
def authorities() -> tuple[bytes, ...]:
    chains = [der for text in structures("ek_cert", "chain") for der in _split(text)]
    return (vendor().issuer.der, vendor().root.der, *dict.fromkeys(chains))


def _split(text: bytes) -> list[bytes]:
    try:
        return split_pem(text)
    except EvidenceError:
        return []


def run_pem(data: bytes) -> None:
    """Roots as a file holds them."""
    EkRoots.from_pem(data)


def run_crl(data: bytes) -> None:
    """Parse, and look certificates up in it."""
    found = parse_crl(data, quirks=ALL)
    chain = tuple(parse_certificate(der) for der in (leaves()[0], vendor().issuer.der, vendor().root.der))
    check_revocation(chain, [found], at=NOW, required=False)


@cache
def crls() -> tuple[bytes, ...]:
    issuer = vendor().issuer
    serial = parse_certificate(leaves()[0]).serial
    point = x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://crl.example/1")],
        relative_name=None,
        only_contains_user_certs=True,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    made = [crl(issuer), crl(issuer, [serial, 5]), crl(issuer, [1], extensions=[(point, True)])]
    return (*made, *(der for text in structures("ek_cert", "crls") for der in _blocks(text)))


def _blocks(text: bytes) -> list[bytes]:
    try:
        return split_pem(text, "X509 CRL")
    except EvidenceError:
        return []


def mutate_signed_crl(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """The same for revocation lists, which the same issuer signs."""
    return mutate_signed(random, data, pool)


def _nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = encode(SEQUENCE, data)
    return data


@cache
def certificate_bombs() -> Mapping[str, bytes]:
    """What fills the maximum of a certificate with as many elements as fit, and what is beyond it."""
    leaf = leaves()[0]
    parts = read_signed_object(leaf, "certificate")
    body = leaf[parts.tbs.content : parts.tbs.end]

    def with_body(tail: bytes) -> bytes:
        return _signed_again(encode(SEQUENCE, encode(SEQUENCE, body + tail) + parts.algorithm + b"\x03\x02\0\0"))

    attribute = encode(0x31, encode(SEQUENCE, b"\x06\x03\x55\x04\x03" + b"\x0c\x01a"))
    return {
        "nested": _nested(4000)[: 1 << 20],
        "many_fields": with_body(b"\x05\x00" * 7000),
        "many_extensions": with_body(encode(0xA3, encode(SEQUENCE, encode(SEQUENCE, b"\x06\x01\x01\x04\x00") * 2000))),
        "many_names": with_body(encode(SEQUENCE, attribute * 1000)),
        "large": encode(SEQUENCE, bytes((1 << 20) - 10)),
        "empty_elements": encode(SEQUENCE, b"\x30\x00" * ((1 << 19) - 10)),
        "padding": leaf + bytes((1 << 20) - len(leaf)),
    }


@cache
def crl_bombs() -> Mapping[str, bytes]:
    """Lists of a mebibyte: many entries, many empty fields, deep ones."""
    issuer = vendor().issuer
    good = crls()[0]
    parts = read_signed_object(good, "list")
    body = good[parts.tbs.content : parts.tbs.end]

    def with_body(tail: bytes) -> bytes:
        return _signed_again(encode(SEQUENCE, encode(SEQUENCE, body + tail) + parts.algorithm + b"\x03\x02\0\0"))

    return {
        "many_entries": crl(issuer, range(1, 25_000)),
        "many_fields": with_body(b"\x05\x00" * 500_000),
        "empty_elements": encode(SEQUENCE, b"\x30\x00" * ((1 << 19) - 10)),
        "nested": _nested(30_000)[: 1 << 20],
    }


@cache
def pem_bombs() -> Mapping[str, bytes]:
    """PEM that never ends, ends without beginning, or holds many small blocks."""
    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
    leaf = base64.encodebytes(leaves()[0])
    whole = begin + leaf + end
    return {
        "begins": begin * ((1 << 20) // len(begin)),
        "ends": end * ((1 << 20) // len(end)),
        "open": begin + b"A" * ((1 << 20) - 100),
        "many": whole * ((1 << 20) // len(whole)),
        "roots": vendor().root.pem * ((1 << 20) // len(vendor().root.pem)),
        "labels": b"-----BEGIN " + b"A " * (1 << 19),
        "dashes": b"-" * (1 << 20),
        "tiny": (begin + b"AA==\n" + end) * 15_000,
    }


TARGETS = (
    Target("ek_certificate", run_certificate, leaves, (mutate_der, _mutate), certificate_bombs),
    Target(
        "ek_chain",
        run_chain,
        lambda: [ek_certificate(vendor().issuer), *leaves()[:2]],
        (mutate_signed,),
        certificate_bombs,
    ),
    Target("ek_authority", run_authority, authorities, (mutate_der, mutate_signed, _mutate), certificate_bombs),
    Target(
        "ek_roots_pem",
        run_pem,
        lambda: [vendor().root.pem, vendor().root.pem * 2],
        (mutate_bytes(PEM_TOKENS),),
        pem_bombs,
    ),
    Target("crl", run_crl, crls, (mutate_signed_crl, mutate_der, _mutate), crl_bombs),
)
