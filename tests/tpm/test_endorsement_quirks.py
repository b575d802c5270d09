"""Each quirk on a certificate that is good but for it: refused by default, accepted and reported where it is allowed."""

from collections.abc import Callable

import pytest
from cryptography import x509

from tests.support.endorsement import (
    NOW,
    Authority,
    authority,
    ek_certificate,
    key_usage,
    resign,
    swap,
    tpm_name,
    vendor,
)
from tpm.endorsement import EkPolicy, EkRoots, verify_ek_certificate
from tpm.endorsement_certificate import parse_certificate
from tpm.endorsement_der import Element, encode, read_children
from tpm.endorsement_google import parse_instance_identity
from tpm.endorsement_quirks import ENCODING_QUIRKS, EkQuirk
from tpm.errors import EvidenceError

INSTANCE = encode(
    0x30,
    encode(0x0C, b"zone-1")
    + encode(0x02, b"\x12\x34")
    + encode(0x0C, b"project")
    + encode(0x02, b"\x56")
    + encode(0x0C, b"machine")
    + encode(0xA0, encode(0x30, b"")),
)


def _with_header(der: bytes) -> bytes:
    return b"\x10\x01\x00" + len(der).to_bytes(2, "big") + der


def _padded_serial(der: bytes, issuer: Authority) -> bytes:
    number = x509.load_der_x509_certificate(der).serial_number
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return resign(der, issuer, swap(encode(2, content), encode(2, b"\0\0" + content)))


def _explicit_default(der: bytes, issuer: Authority) -> bytes:
    """extKeyUsage with critical FALSE: everything around it grows by three bytes."""
    wanted = bytes.fromhex("30100603551d250409300706056781050801")
    longer = bytes.fromhex("30130603551d25010100" + wanted.hex()[14:])

    def edit(body: bytes) -> bytes:
        field = read_children(body, Element(0x30, 0, 0, len(body)))[-1]
        listed = read_children(body, field)[0]
        content = body[listed.content : listed.end]
        assert content.count(wanted) == 1
        return body[: field.start] + encode(0xA3, encode(0x30, content.replace(wanted, longer)))

    return resign(der, issuer, edit)


def _unsorted_name(der: bytes, issuer: Authority) -> bytes:
    """Two attributes of one RDN of the SAN change places."""
    parts = [
        encode(0x30, encode(6, bytes.fromhex(f"67810502{n:02x}")) + encode(0x0C, t)) for n, t in ((2, b"M"), (3, b"VV"))
    ]
    return resign(der, issuer, swap(parts[0] + parts[1], parts[1] + parts[0]))


def _in_one_rdn(issuer: Authority) -> bytes:
    first, second, third = tpm_name((1, "id:494E5443"), (2, "M"), (3, "VV")).value
    rdns = [x509.RelativeDistinguishedName([first]), x509.RelativeDistinguishedName([second, third])]
    names = x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(rdns))])
    return ek_certificate(issuer, faults=[(names, True)])


def _google(issuer: Authority) -> bytes:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21"), INSTANCE)
    without = [x509.ExtendedKeyUsage, x509.SubjectAlternativeName]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "machine")])
    return ek_certificate(issuer, subject=subject, faults=[(extension, False)], without=without)


CASES: dict[str, tuple[EkQuirk, str, Callable[[Authority], bytes]]] = {
    "zeros after": (EkQuirk.NV_PADDING, "ek.malformed", lambda ca: ek_certificate(ca) + bytes(400)),
    "ones after": (EkQuirk.NV_PADDING, "ek.malformed", lambda ca: ek_certificate(ca) + b"\xff" * 400),
    "header": (
        EkQuirk.NV_HEADER,
        "ek.malformed",
        lambda ca: _with_header(ek_certificate(ca)),
    ),
    "explicit default": (
        EkQuirk.EXPLICIT_DEFAULT,
        "ek.malformed",
        lambda ca: _explicit_default(ek_certificate(ca), ca),
    ),
    "unsorted name": (EkQuirk.UNSORTED_NAME, "ek.malformed", lambda ca: _unsorted_name(_in_one_rdn(ca), ca)),
    "padded serial": (EkQuirk.PADDED_SERIAL, "ek.malformed", lambda ca: _padded_serial(ek_certificate(ca), ca)),
    "constraints not critical": (
        EkQuirk.NONCRITICAL_EXTENSION,
        "ek.profile",
        lambda ca: ek_certificate(ca, faults=[(x509.BasicConstraints(ca=False, path_length=None), False)]),
    ),
    "usage not critical": (
        EkQuirk.NONCRITICAL_EXTENSION,
        "ek.key_usage",
        lambda ca: ek_certificate(ca, faults=[(key_usage("key_agreement"), False)]),
    ),
    "compute engine": (EkQuirk.GOOGLE_VTPM, "ek.eku", _google),
}


def _verify(leaf: bytes, quirks: frozenset[EkQuirk]) -> frozenset[EkQuirk]:
    policy = EkPolicy(quirks=quirks, vendors=frozenset({"id:494E5443", "id:474F4F47"}))
    roots = EkRoots.from_pem(vendor().root.pem)
    verified = verify_ek_certificate(leaf, [vendor().issuer.der], roots, at=NOW, ek_public=None, policy=policy)
    return verified.quirks_used


@pytest.mark.parametrize("case", CASES)
def test_a_quirk_must_be_allowed_and_then_shows_in_the_result(case: str) -> None:
    quirk, reason, make = CASES[case]
    leaf = make(vendor().issuer)
    for quirks in (frozenset[EkQuirk](), frozenset(EkQuirk) - {quirk}):
        with pytest.raises(EvidenceError) as refused:
            _verify(leaf, quirks)
        assert str(refused.value.reason) == reason
    assert _verify(leaf, frozenset({quirk})) == {quirk}


def test_every_quirk_has_a_case() -> None:
    assert {quirk for quirk, _, _ in CASES.values()} == set(EkQuirk)


def test_a_good_certificate_uses_no_quirk() -> None:
    assert _verify(ek_certificate(vendor().issuer), frozenset(EkQuirk)) == frozenset()


@pytest.mark.parametrize("tail", [b"\x00\xff", b"\xff\x00", b"\x01", b"\x00" * 9 + b"\x30"])
def test_only_fill_bytes_of_one_kind_are_padding(tail: bytes) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_certificate(ek_certificate(vendor().issuer) + tail, quirks=frozenset(EkQuirk))


def test_header_with_too_long_a_promise_is_refused() -> None:
    with pytest.raises(EvidenceError, match="promises"):
        parse_certificate(b"\x10\x01\x00\xff\xff" + ek_certificate(vendor().issuer), quirks=frozenset(EkQuirk))


def test_quirk_of_an_authority_shows_in_the_result() -> None:
    """A quirk in the root's encoding is allowed where roots are loaded, and reported with what it vouched for."""
    root = authority("Root", number=1)
    odd = _padded_serial(root.der, root)
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        EkRoots((parse_certificate(odd),))
    roots = EkRoots((parse_certificate(odd, quirks=ENCODING_QUIRKS),))
    leaf = ek_certificate(vendor().issuer)
    verified = verify_ek_certificate(leaf, [vendor().issuer.der], roots, at=NOW, ek_public=None)
    assert verified.quirks_used == {EkQuirk.PADDED_SERIAL}


@pytest.mark.parametrize(
    "value", [b"", b"\x30\x00", INSTANCE[:-1], INSTANCE + b"\0", INSTANCE.replace(b"\x0c\x06", b"\x04\x06")]
)
def test_instance_identity_of_another_shape_is_malformed(value: bytes) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_instance_identity(value)
