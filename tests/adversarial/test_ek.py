"""Attacks on endorsement keys and their certificates: rows A1 to A18."""

import itertools
import socket
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tests.support.endorsement import (
    EK_USAGE,
    END,
    INTEL,
    NOW,
    START,
    UNKNOWN,
    Authority,
    authority,
    crl,
    ec_key,
    ek_certificate,
    ek_public,
    key_usage,
    name,
    resign,
    rsa_key,
    san,
    spki,
    swap,
    tpm_name,
    vendor,
    with_rsa_numbers,
)
from tests.support.pace import at_most
from tests.tpm.test_weak_keys import close_modulus, roca_modulus, rough_number, small_factor_modulus
from tpm.ek_template import parse_ek_public
from tpm.endorsement import EkPolicy, EkRoots, VerifiedEk, verify_ek_certificate
from tpm.endorsement_certificate import parse_certificate
from tpm.endorsement_der import Element, encode, read_children
from tpm.endorsement_path import build_path
from tpm.errors import EvidenceError

Refused = Callable[..., str]


def verify(
    leaf: bytes,
    intermediates: Sequence[bytes] | None = None,
    *,
    roots: bytes | None = None,
    at: datetime = NOW,
    public: bytes | None = None,
    policy: EkPolicy | None = None,
    crls: Sequence[bytes] = (),
) -> VerifiedEk:
    return verify_ek_certificate(
        leaf,
        [vendor().issuer.der] if intermediates is None else intermediates,
        EkRoots.from_pem(roots or vendor().root.pem),
        at=at,
        ek_public=None if public is None else parse_ek_public(public),
        policy=policy or EkPolicy(),
        crls=crls,
    )


def refusal(leaf: bytes, intermediates: Sequence[bytes] | None = None, **context: object) -> str:
    """The reason with which ``verify`` refuses."""
    with pytest.raises(EvidenceError) as refused:
        verify(leaf, intermediates, **context)  # type: ignore[arg-type]
    return str(refused.value.reason)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may reach the network from any test of this file (A7)."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_A1_critical_san_with_empty_subject_is_understood() -> None:
    verified = verify(ek_certificate(vendor().issuer), public=ek_public())
    assert (verified.manufacturer, verified.model, verified.version) == (INTEL, "MODEL-1", "id:00010002")
    assert not verified.virtual


def test_A1_unknown_critical_extension_is_refused_on_leaf_intermediate_and_root() -> None:
    root, issuer = vendor().root, vendor().issuer
    assert refusal(ek_certificate(issuer, faults=[(UNKNOWN, True)])) == "ek.unhandled_critical"
    assert verify(ek_certificate(issuer, faults=[(UNKNOWN, False)]))
    strange = authority("Issuer", root, number=2, faults=[(UNKNOWN, True)])
    assert refusal(ek_certificate(strange), [strange.der]) == "ek.unhandled_critical"
    strange_root = authority("Root", number=1, faults=[(UNKNOWN, True)])
    assert refusal(ek_certificate(issuer), roots=strange_root.pem) == "ek.unhandled_critical"


@pytest.mark.parametrize("at", [datetime(2034, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)])
def test_A2_expired_leaf_is_refused_unless_allowed_and_then_it_shows(at: datetime) -> None:
    leaf = ek_certificate(vendor().issuer)
    assert refusal(leaf, at=at) == "ek.expired"
    assert any("expired" in note for note in verify(leaf, at=at, policy=EkPolicy(allow_expired_leaf=True)).notes)


def test_A2_a_period_includes_both_of_its_ends() -> None:
    leaf = ek_certificate(vendor().issuer)
    assert verify(leaf, at=START)
    assert verify(leaf, at=END)


def test_A2_not_yet_valid_is_refused_even_where_expired_ones_are_allowed() -> None:
    leaf = ek_certificate(vendor().issuer, period=(datetime(2027, 1, 1, tzinfo=UTC), END))
    assert refusal(leaf, policy=EkPolicy(allow_expired_leaf=True)) == "ek.not_yet_valid"


@pytest.mark.parametrize("where", ["intermediate", "root"])
def test_A2_expired_authority_is_refused_even_where_expired_leaves_are_allowed(where: str) -> None:
    past = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    if where == "root":
        root = authority("Root", number=1, period=past)
        issuer = authority("Issuer", root, number=2)
    else:
        root = vendor().root
        issuer = authority("Issuer", root, number=2, period=past)
    reason = refusal(ek_certificate(issuer), [issuer.der], roots=root.pem, policy=EkPolicy(allow_expired_leaf=True))
    assert reason == "ek.expired"


def test_A2_no_expiry_is_accepted() -> None:
    forever = (START, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    root = authority("Root", number=1, period=forever)
    assert verify(ek_certificate(root, period=forever), [], roots=root.pem, at=datetime(2500, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "usages",
    [
        None,
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [x509.ObjectIdentifier("2.23.133.8.3")],
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_A3_certificates_for_another_use_are_refused(
    usages: list[x509.ObjectIdentifier] | None, required: bool
) -> None:
    faults = [] if usages is None else [(x509.ExtendedKeyUsage(usages), False)]
    leaf = ek_certificate(vendor().issuer, faults=faults, without=[x509.ExtendedKeyUsage])
    if usages is None and not required:
        assert verify(leaf, policy=EkPolicy(require_eku=False))
    else:
        assert refusal(leaf, policy=EkPolicy(require_eku=required)) == "ek.eku"


def test_A3_an_authority_for_other_uses_cannot_issue_ek_certificates() -> None:
    other = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]
    issuer = authority("Issuer", vendor().root, number=2, faults=other)
    assert refusal(ek_certificate(issuer), [issuer.der]) == "ek.chain"
    issuer = authority("Issuer", vendor().root, number=2, faults=[(x509.ExtendedKeyUsage([EK_USAGE]), False)])
    assert verify(ek_certificate(issuer), [issuer.der])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((key_usage("digital_signature"), True), "ek.key_usage"),
        ((key_usage("key_agreement", "key_cert_sign"), True), "ek.key_usage"),
        ((key_usage("key_agreement", "crl_sign"), True), "ek.key_usage"),
        ((key_usage("key_encipherment"), True), "ek.key_usage"),
        ((key_usage("key_agreement"), False), "ek.key_usage"),
        ((x509.BasicConstraints(ca=True, path_length=None), True), "ek.is_ca"),
        ((x509.BasicConstraints(ca=False, path_length=None), False), "ek.profile"),
    ],
)
def test_A4_leaf_with_the_rights_of_something_else_is_refused(
    fault: tuple[x509.ExtensionType, bool], reason: str
) -> None:
    assert refusal(ek_certificate(vendor().issuer, faults=[fault])) == reason


def test_A4_leaf_without_key_usage_or_constraints_is_refused() -> None:
    issuer = vendor().issuer
    assert refusal(ek_certificate(issuer, without=[x509.KeyUsage])) == "ek.key_usage"
    assert refusal(ek_certificate(issuer, without=[x509.BasicConstraints])) == "ek.profile"


def test_A4_rsa_keys_encipher_and_do_not_agree() -> None:
    key = rsa_key().public_key()
    assert verify(ek_certificate(vendor().issuer, key), public=ek_public(key))
    fault = [(key_usage("key_agreement"), True)]
    assert refusal(ek_certificate(vendor().issuer, key, faults=fault)) == "ek.key_usage"


@pytest.mark.parametrize("fault", ["not a CA", "no constraints", "no keyCertSign", "no key usage", "path length"])
def test_A5_intermediate_without_the_right_to_issue_is_refused(fault: str) -> None:
    root = vendor().root
    if fault == "path length":
        upper = authority("Upper", root, number=3, path_length=0)
        issuer = authority("Issuer", upper, number=2)
        chain = [upper.der, issuer.der]
    else:
        faults = {
            "not a CA": [(x509.BasicConstraints(ca=False, path_length=None), True)],
            "no keyCertSign": [(key_usage("crl_sign"), True)],
        }.get(fault)
        without = {"no constraints": [x509.BasicConstraints], "no key usage": [x509.KeyUsage]}.get(fault, [])
        issuer = authority("Issuer", root, number=2, faults=faults, without=without)  # type: ignore[arg-type]
        chain = [issuer.der]
    assert refusal(ek_certificate(issuer), chain) == "ek.chain"


def test_A5_an_ek_certificate_cannot_issue_another() -> None:
    key = ec_key(50)
    certificate = x509.load_der_x509_certificate(
        ek_certificate(vendor().issuer, key.public_key(), subject=name("EK 50"))
    )
    middle = Authority(certificate, key)
    assert refusal(ek_certificate(middle), [vendor().issuer.der, middle.der]) == "ek.chain"


def test_A5_root_with_too_short_a_path_length_is_obeyed() -> None:
    root = authority("Root", number=1, path_length=0)
    issuer = authority("Issuer", root, number=2)
    assert refusal(ek_certificate(issuer), [issuer.der], roots=root.pem) == "ek.chain"
    assert verify(ek_certificate(root), [], roots=root.pem)


def test_A6_a_root_in_the_chain_is_not_trusted() -> None:
    own = authority("Own", number=60)
    issuer = authority("Issuer", own, number=61)
    assert refusal(ek_certificate(issuer), [issuer.der, own.der]) == "ek.chain"


def test_A6_copied_names_and_key_identifiers_do_not_help() -> None:
    """The clone bears the names of the real authorities and, as its key identifier, that of the real root."""
    identifiers = [
        (vendor().root.identifier(), False),
        (x509.SubjectKeyIdentifier.from_public_key(vendor().issuer.key.public_key()), False),
    ]
    clone = authority("Root", number=62)
    issuer = authority("Issuer", clone, number=63, faults=identifiers)
    leaf = ek_certificate(issuer, faults=[(vendor().issuer.identifier(), False)])
    assert refusal(leaf, [issuer.der, clone.der]) == "ek.chain"
    assert refusal(leaf, [issuer.der, clone.der, vendor().issuer.der]) == "ek.chain"


def test_A6_self_signed_ek_is_refused() -> None:
    key = ec_key(64)
    own = Authority(authority("EK", number=64).certificate, key)
    assert refusal(ek_certificate(own, key.public_key(), subject=name("EK")), [own.der]) == "ek.chain"


def test_A7_nothing_is_fetched_from_an_address_in_the_certificate() -> None:
    """``socket`` raises in this file; an address in evidence is therefore never followed, and the issuer stays missing."""
    address = x509.UniformResourceIdentifier("http://169.254.169.254/latest")
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, address),
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, address),
        ]
    )
    points = x509.CRLDistributionPoints([x509.DistributionPoint([address], None, None, None)])
    leaf = ek_certificate(vendor().issuer, faults=[(access, False), (points, False)])
    assert refusal(leaf, []) == "ek.chain"
    assert refusal(leaf, policy=EkPolicy(require_crl=True)) == "ek.crl_missing"
    assert verify(leaf)
    assert refusal(ek_certificate(vendor().issuer, faults=[(access, True)])) == "ek.unhandled_critical"


def test_A8_public_area_of_another_key_is_refused() -> None:
    leaf = ek_certificate(vendor().issuer)
    assert refusal(leaf, public=ek_public(ec_key(101).public_key())) == "ek.pub_mismatch"
    assert refusal(leaf, public=ek_public(rsa_key().public_key())) == "ek.pub_mismatch"


_ATTRIBUTE_BITS = {"fixedTPM": 1, "fixedParent": 4, "sensitiveDataOrigin": 5, "restricted": 16, "decrypt": 17}


@pytest.mark.parametrize(
    "changes",
    [
        *({"attributes": 0x300B2 ^ 1 << bit} for bit in _ATTRIBUTE_BITS.values()),
        {"attributes": 0x300B2 ^ 1 << 7},
        {"attributes": 0x300F2},
        {"attributes": 0x300B2 | 1 << 18},
        {"attributes": 0x500B2},
        {"attributes": 0x300B2 | 1 << 11},
        {"policy": b""},
        {"policy": bytes(32)},
        {"name_alg": 0x0004},
        {"name_alg": 0x0010},
        {"symmetric": bytes.fromhex("0010")},
        {"symmetric": bytes.fromhex("000600800042")},
        {"symmetric": bytes.fromhex("000601000043")},
        {"symmetric": bytes.fromhex("000300380043")},
        {"scheme": bytes.fromhex("0019000b")},
    ],
    ids=str,
)
def test_A9_public_area_that_follows_no_template_is_refused(changes: dict[str, Any]) -> None:
    assert refusal(ek_certificate(vendor().issuer), public=ek_public(**changes)) == "ek.template"


@pytest.mark.parametrize(
    ("modulus", "reason"),
    [
        (roca_modulus, "ek.roca"),
        (close_modulus, "ek.modulus"),
        (small_factor_modulus, "ek.modulus"),
        (lambda: rough_number(2048) - 1, "ek.modulus"),
        (lambda: -rough_number(2048), "ek.malformed"),
    ],
)
def test_A10_factorable_modulus_is_refused(modulus: Callable[[], int], reason: str) -> None:
    assert refusal(with_rsa_numbers(vendor().issuer, modulus())) == reason


@pytest.mark.parametrize(
    ("bits", "exponent", "reason"),
    [
        (1024, 65537, "ek.key_too_small"),
        (16384, 65537, "ek.too_large"),
        (2048, 1, "ek.exponent"),
        (2048, 3, "ek.exponent"),
        (2048, 65538, "ek.exponent"),
    ],
)
def test_A11_N6_small_huge_and_forgeable_keys_are_refused(bits: int, exponent: int, reason: str) -> None:
    assert refusal(with_rsa_numbers(vendor().issuer, rough_number(bits), exponent)) == reason


def test_A11_curves_outside_the_profile_are_refused() -> None:
    brainpool = ec.generate_private_key(ec.BrainpoolP256R1()).public_key()
    assert refusal(ek_certificate(vendor().issuer, brainpool)) == "ek.template"
    small = ec.generate_private_key(ec.SECP224R1()).public_key()
    assert refusal(ek_certificate(vendor().issuer, small)) == "ek.key_too_small"


_THREE = ((1, INTEL), (2, "MODEL-1"), (3, "id:00010002"))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([tpm_name(*_THREE[1:])], "ek.san"),
        ([tpm_name(*_THREE, (1, "id:414D4400"))], "ek.san"),
        ([tpm_name(*_THREE), tpm_name((1, INTEL))], "ek.san"),
        ([tpm_name((1, "Intel"), *_THREE[1:])], "ek.san"),
        ([tpm_name((1, "id:494E544"), *_THREE[1:])], "ek.san"),
        ([tpm_name((1, "id:4f505053"), *_THREE[1:])], "ek.vendor"),
        ([tpm_name((1, "id:00001014"), *_THREE[1:])], "ek.vendor"),
        ([tpm_name((1, "id:4D534654"), *_THREE[1:])], "ek.vendor"),
        ([tpm_name(_THREE[0])], "ek.san"),
        ([x509.DNSName("tpm.example")], "ek.san"),
    ],
)
def test_A12_tpm_without_an_acceptable_maker_is_refused(names: list[x509.GeneralName], reason: str) -> None:
    assert refusal(ek_certificate(vendor().issuer, faults=[(x509.SubjectAlternativeName(names), True)])) == reason


def test_A12_absent_san_is_refused_with_and_without_subject() -> None:
    bare = [x509.SubjectAlternativeName]
    assert refusal(ek_certificate(vendor().issuer, without=bare)) == "ek.san"
    assert refusal(ek_certificate(vendor().issuer, subject=name("EK"), without=bare)) == "ek.san"
    assert refusal(ek_certificate(vendor().issuer, faults=[(san(), False)])) == "ek.san"
    assert verify(ek_certificate(vendor().issuer, subject=name("EK"), faults=[(san(), False)]))


def test_A12_software_tpm_is_accepted_only_when_listed_and_never_as_hardware() -> None:
    leaf = ek_certificate(vendor().issuer, faults=[(san("id:00001014"), True)])
    assert refusal(leaf, policy=EkPolicy(vendors=frozenset({INTEL}))) == "ek.vendor"
    assert verify(leaf, policy=EkPolicy(vendors=frozenset({"id:00001014"}))).virtual
    assert refusal(leaf, policy=EkPolicy(vendors=frozenset())) == "ek.vendor"


def test_A13_revoked_leaf_and_intermediate_are_refused_even_by_an_old_list() -> None:
    leaf, issuer, root = ek_certificate(vendor().issuer), vendor().issuer, vendor().root
    serial = x509.load_der_x509_certificate(leaf).serial_number
    old = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC))
    clean = crl(root)
    assert verify(leaf, crls=[crl(issuer), clean], policy=EkPolicy(require_crl=True))
    assert refusal(leaf, crls=[crl(issuer, [serial]), clean]) == "ek.revoked"
    assert refusal(leaf, crls=[crl(issuer), crl(root, [issuer.certificate.serial_number])]) == "ek.revoked"
    assert refusal(leaf, crls=[crl(issuer, [serial], period=old)]) == "ek.revoked"


def test_A13_stale_absent_and_forged_lists_do_not_count() -> None:
    leaf, issuer, root = ek_certificate(vendor().issuer), vendor().issuer, vendor().root
    required, clean = EkPolicy(require_crl=True), crl(root)
    old = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC))
    future = (datetime(2026, 6, 2, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
    forged = crl(issuer, signer=authority("Issuer", number=63))
    assert refusal(leaf, crls=[crl(issuer, period=old), clean], policy=required) == "ek.crl_stale"
    assert refusal(leaf, crls=[crl(issuer, period=future), clean], policy=required) == "ek.crl_stale"
    assert refusal(leaf, crls=[clean], policy=required) == "ek.crl_missing"
    assert refusal(leaf, crls=[crl(issuer)], policy=required) == "ek.crl_missing"
    assert refusal(leaf, policy=required) == "ek.crl_missing"
    assert refusal(leaf, crls=[forged, clean], policy=required) == "ek.crl_invalid"
    assert refusal(leaf, crls=[forged]) == "ek.crl_invalid"
    assert any("no list in force" in note for note in verify(leaf, crls=[crl(issuer, period=old), clean]).notes)


def _indefinite(der: bytes) -> bytes:
    return b"\x30\x80" + der[4:] + b"\0\0"


def _long_length(der: bytes) -> bytes:
    return b"\x30\x83\x00" + der[2:]


def _repeat(identifier: bytes) -> Callable[[bytes], bytes]:
    """Put the extension of ``identifier`` in twice, with the lengths around it corrected."""

    def edit(body: bytes) -> bytes:
        fields = read_children(body, Element(0x30, 0, 0, len(body)))
        listed = read_children(body, read_children(body, fields[-1])[0])
        parts = [body[member.start : member.end] for member in listed]
        twice = parts + [part for part in parts if identifier in part]
        assert len(twice) == len(parts) + 1
        return body[: fields[-1].start] + encode(0xA3, encode(0x30, b"".join(twice)))

    return edit


_LENIENT: dict[str, Callable[[bytes, Authority], bytes]] = {
    "indefinite length": lambda der, _: _indefinite(der),
    "length with a leading zero": lambda der, _: _long_length(der),
    "trailing byte": lambda der, _: der + b"\0",
    "trailing certificate": lambda der, _: der + der,
    "second SAN": lambda der, issuer: resign(der, issuer, _repeat(bytes.fromhex("0603551d11"))),
    "second EKU": lambda der, issuer: resign(der, issuer, _repeat(bytes.fromhex("0603551d25"))),
    "other algorithm inside": lambda der, issuer: resign(
        der, issuer, swap(bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303"))
    ),
    "BOOLEAN of 1": lambda der, issuer: resign(
        der, issuer, swap(bytes.fromhex("0603551d130101ff"), bytes.fromhex("0603551d13010101"))
    ),
    "version 1": lambda der, issuer: resign(der, issuer, swap(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x00")),
    "no version": lambda der, issuer: resign(der, issuer, swap(b"\xa0\x03\x02\x01\x02", b"")),
    "unused bits in the key usage": lambda der, issuer: resign(
        der, issuer, swap(bytes.fromhex("0403020308"), bytes.fromhex("0403020508"))
    ),
    "31 February": lambda der, issuer: resign(der, issuer, swap(b"340101000000Z", b"340231000000Z")),
}


@pytest.mark.parametrize("fault", _LENIENT)
def test_A14_lenient_encodings_are_refused(fault: str) -> None:
    leaf = ek_certificate(vendor().issuer)
    assert refusal(_LENIENT[fault](leaf, vendor().issuer)) == "ek.malformed"


@pytest.mark.parametrize("serial", [b"\xff", b"\x00", b"\x00\x01", b"\x01" * 21, b"", b"\x00\x00\x81"])
def test_A14_serial_numbers_that_are_none_are_refused(serial: bytes) -> None:
    leaf = ek_certificate(vendor().issuer)
    number = x509.load_der_x509_certificate(leaf).serial_number
    old = encode(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
    assert refusal(resign(leaf, vendor().issuer, swap(old, encode(0x02, serial)))) == "ek.malformed"


@pytest.mark.parametrize(
    ("permitted", "excluded", "accepted"),
    [
        (["Vendor A"], None, True),
        (["Vendor B"], None, False),
        (["Vendor B", "Vendor A"], None, True),
        (None, ["Vendor B"], True),
        (None, ["Vendor A"], False),
        (None, ["vendor  a"], False),
        (["Vendor A"], ["Vendor A"], False),
    ],
)
def test_A15_name_constraints_of_an_authority_are_obeyed(
    permitted: list[str] | None, excluded: list[str] | None, accepted: bool
) -> None:
    def subtrees(organizations: list[str] | None) -> list[x509.GeneralName] | None:
        if organizations is None:
            return None
        return [x509.DirectoryName(x509.Name([name("any", each).rdns[0]])) for each in organizations]

    limits = x509.NameConstraints(subtrees(permitted), subtrees(excluded))
    issuer = authority("Issuer", vendor().root, number=2, faults=[(limits, True)])
    # The TPM's attributes are in a directory name of their own, which a permitted subtree must also contain.
    inside = x509.DirectoryName(x509.Name([*name("EK").rdns, *tpm_name(*_THREE).value.rdns]))
    leaf = ek_certificate(issuer, subject=name("EK"), faults=[(x509.SubjectAlternativeName([inside]), True)])
    if accepted:
        assert verify(leaf, [issuer.der])
    else:
        assert refusal(leaf, [issuer.der]) == "ek.chain"


def test_A15_constraints_reach_past_a_second_intermediate() -> None:
    limits = x509.NameConstraints([x509.DirectoryName(x509.Name([name("any", "Vendor B").rdns[0]]))], None)
    upper = authority("Upper", vendor().root, number=3, faults=[(limits, True)], organization="Vendor B")
    issuer = authority("Issuer", upper, number=2, organization="Vendor B")
    assert refusal(ek_certificate(issuer), [issuer.der, upper.der]) == "ek.chain"


def _bounded(work: Callable[[], str]) -> str:
    """The reason ``work`` gives, within the budget of a second and 50 MB."""
    tracemalloc.start()
    with at_most(1):
        reason = work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000
    return reason


def _cross_signed(count: int, *, one_name: bool) -> list[Authority]:
    """Authorities each of which certified each of the others."""
    own = [authority("X" if one_name else f"X{n}", number=200 + n) for n in range(count)]
    pairs = itertools.permutations(range(count), 2)
    return [authority("X" if one_name else f"X{n}", own[m], number=200 + n) for n, m in pairs]


def test_A16_36_cross_signed_authorities_are_too_many() -> None:
    crossed = [entry.der for entry in _cross_signed(7, one_name=False)[:36]]
    leaf = ek_certificate(authority("X0", number=200))
    assert _bounded(lambda: refusal(leaf, crossed)) == "ek.too_large"


@pytest.mark.parametrize("one_name", [True, False])
def test_A16_N9_a_search_among_the_allowed_number_ends_soon(one_name: bool) -> None:
    crossed = [entry.der for entry in _cross_signed(4, one_name=one_name)]
    leaf = ek_certificate(authority("X" if one_name else "X0", number=200))
    assert _bounded(lambda: refusal(leaf, crossed)) in {"ek.too_large", "ek.chain"}


def test_A16_the_search_gives_up_on_signatures() -> None:
    """Sixteen keys of one name, each signed by the next: sixteen candidates for each step."""
    ring = [authority("X", authority("X", number=200 + (n + 1) % 16), number=200 + n).der for n in range(16)]
    leaf = ek_certificate(authority("X", number=200))
    assert _bounded(lambda: refusal(leaf, ring)) == "ek.too_large"


def test_A16_long_chain_and_large_certificate_are_refused() -> None:
    chain: list[Authority] = [vendor().root]
    for number in range(12):
        chain.append(authority(f"Link {number}", chain[-1], number=300 + number))
    ders = [entry.der for entry in chain[1:]]
    assert _bounded(lambda: refusal(ek_certificate(chain[-1]), ders)) == "ek.chain"
    assert verify(ek_certificate(chain[6]), ders)
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(900_000))
    huge = ek_certificate(vendor().issuer, faults=[(padding, False)])
    assert _bounded(lambda: refusal(huge)) == "ek.too_large"
    assert _bounded(lambda: refusal(ek_certificate(vendor().issuer), [huge])) == "ek.too_large"
    assert _bounded(lambda: refusal(ek_certificate(vendor().issuer), [vendor().issuer.der] * 100)) == "ek.too_large"


def test_A16_a_good_path_is_found_among_bad_ones() -> None:
    """An expired certificate of the same authority comes first; the search goes on to the good one."""
    past = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    expired = authority("Issuer", vendor().root, number=2, period=past)
    leaf = parse_certificate(ek_certificate(vendor().issuer))
    known = [parse_certificate(expired.der), parse_certificate(vendor().issuer.der)]
    path = build_path(leaf, known, EkRoots.from_pem(vendor().root.pem), at=NOW)
    assert path[1] is known[1]


def _load(*paths: Path) -> str:
    with pytest.raises(EvidenceError) as refused:
        EkRoots.load(paths)
    return f"{refused.value.reason}: {refused.value.detail}"


def test_A17_no_roots_is_an_error_and_never_means_any(tmp_path: Path) -> None:
    assert _load(tmp_path).startswith("ek.no_roots")
    assert _load().startswith("ek.no_roots")
    assert _load(tmp_path / "absent").startswith("ek.roots_unreadable")
    (tmp_path / "empty.pem").write_bytes(b"")
    assert _load(tmp_path).startswith("ek.roots_unreadable")
    with pytest.raises(EvidenceError, match=r"ek\.no_roots"):
        EkRoots.from_pem(b"")


@pytest.mark.parametrize("bad", ["text", "cut", "leaf", "key", "directory", "weak"])
def test_A18_one_bad_file_refuses_the_whole_set_by_its_name(tmp_path: Path, bad: str) -> None:
    (tmp_path / "a-good.pem").write_bytes(vendor().root.pem)
    assert len(EkRoots.load([tmp_path]).certificates) == 1
    spoiled = tmp_path / "b-bad.pem"
    leaf = x509.load_der_x509_certificate(ek_certificate(vendor().issuer))
    if bad == "directory":
        spoiled.mkdir()
    else:
        contents = {
            "text": b"no certificate",
            "cut": vendor().root.pem[:-40],
            "leaf": leaf.public_bytes(Encoding.PEM),
            "key": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "weak": _weak_root(),
        }
        spoiled.write_bytes(contents[bad])
    answer = _load(tmp_path)
    assert answer.startswith("ek.roots_unreadable")
    assert "b-bad.pem" in answer


def _weak_root() -> bytes:
    good = authority("Root", number=1)
    weak = rsa.RSAPublicNumbers(65537, rough_number(1024)).public_key()
    der = resign(good.der, good, swap(spki(good.key.public_key()), spki(weak)))
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
