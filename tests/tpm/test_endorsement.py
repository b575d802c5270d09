import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import corpus
from tests.support.corpus import Entry
from tests.support.endorsement import (
    INTEL,
    NOW,
    authority,
    crl,
    ec_key,
    ek_certificate,
    ek_public,
    resign,
    rsa_key,
    san,
    swap,
    tpm_name,
    vendor,
)
from tests.support.judged import check_attack, check_evidence
from tpm.ek_template import parse_ek_public
from tpm.endorsement import (
    EkMechanism,
    EkPolicy,
    EkRoots,
    ek_digest,
    parse_ek_certificate,
    split_pem,
    verify_ek_certificate,
    verify_ek_listed,
)
from tpm.endorsement_certificate import parse_certificate
from tpm.endorsement_crl import parse_crl
from tpm.endorsement_der import BIT_STRING, SEQUENCE, encode, read_signed_object
from tpm.endorsement_quirks import EkQuirk
from tpm.errors import EvidenceError

if TYPE_CHECKING:
    from tpm.device import Device


@pytest.mark.parametrize("entry", corpus.entries("attacks", "ek_cert"))
def test_corpus_verdict_and_reason(entry: Entry) -> None:
    check_attack(entry)


@pytest.mark.parametrize("entry", corpus.entries("evidence", "certificate"))
def test_corpus_certificates_are_read_and_chains_that_hold_are_verified(entry: Entry) -> None:
    check_evidence(entry)


def verify(leaf: bytes, *intermediates: bytes, **context: object) -> object:
    given = {"at": NOW, "ek_public": None, **context}
    chain = intermediates or (vendor().issuer.der,)
    return verify_ek_certificate(leaf, chain, EkRoots.from_pem(vendor().root.pem), **given)  # type: ignore[arg-type]


def test_a_good_ek_says_what_it_is_and_what_was_not_checked() -> None:
    key = rsa_key().public_key()
    leaf = ek_certificate(vendor().issuer, key)
    verified = verify_ek_certificate(
        leaf,
        [vendor().issuer.der],
        EkRoots.from_pem(vendor().root.pem),
        at=NOW,
        ek_public=parse_ek_public(ek_public(key)),
        policy=EkPolicy(require_crl=True, crls=(parse_crl(crl(vendor().issuer)), parse_crl(crl(vendor().root)))),
    )
    assert verified.mechanism is EkMechanism.CERTIFICATE
    assert verified.public_key.public_numbers() == key.public_numbers()
    assert (verified.vendor, verified.virtual) == ("Intel", False)
    assert verified.template is not None
    assert verified.template.name == "L-1"
    assert [entry.der for entry in verified.chain] == [leaf, vendor().issuer.der, vendor().root.der]
    assert verified.notes == ()
    assert verified.quirks_used == frozenset()


def test_what_was_not_given_is_noted() -> None:
    notes = verify(ek_certificate(vendor().issuer)).notes  # type: ignore[attr-defined]
    assert len(notes) == 2
    assert "revocation was not checked" in notes[0]
    assert "no public area was given" in notes[1]


def test_a_certificate_is_judged_at_an_aware_time_only() -> None:
    with pytest.raises(ValueError, match="aware"):
        verify(ek_certificate(vendor().issuer), at=NOW.replace(tzinfo=None))


def test_vendor_ids_of_a_policy_are_checked_when_it_is_made() -> None:
    assert EkPolicy(vendors=frozenset({"ID:494e5443"})).vendors == frozenset({INTEL})
    with pytest.raises(ValueError, match="not a TPM vendor id"):
        EkPolicy(vendors=frozenset({"Intel"}))


def test_unregistered_vendor_that_is_listed_is_not_called_hardware() -> None:
    leaf = ek_certificate(vendor().issuer, faults=[(san("id:4F505053"), True)])
    assert verify(leaf, policy=EkPolicy(vendors=frozenset({"id:4F505053"}))).virtual  # type: ignore[attr-defined]


def test_sha1_signature_is_refused_anywhere_in_the_path() -> None:
    def with_sha1(der: bytes) -> bytes:
        old, new = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d0401")
        parts = read_signed_object(der, "certificate")
        signer = vendor().issuer if der == leaf else vendor().root
        body = der[parts.tbs.content : parts.tbs.end].replace(b"\x30\x0a\x06\x08" + old, b"\x30\x09\x06\x07" + new)
        signed = encode(SEQUENCE, body)
        signature = signer.key.sign(signed, ec.ECDSA(hashes.SHA1()))  # noqa: S303 — what is to be refused
        return encode(SEQUENCE, signed + encode(SEQUENCE, encode(6, new)) + encode(BIT_STRING, b"\0" + signature))

    leaf = ek_certificate(vendor().issuer)
    for chain in ([with_sha1(leaf), vendor().issuer.der], [leaf, with_sha1(vendor().issuer.der)]):
        with pytest.raises(EvidenceError, match=r"ek\.chain.*algorithm"):
            verify(*chain)


def test_a_changed_bit_of_the_signed_bytes_is_refused() -> None:
    leaf = ek_certificate(vendor().issuer)
    with pytest.raises(EvidenceError, match=r"ek\.chain"):
        verify(leaf.replace(b"MODEL-1", b"MODEL-2"))


def test_names_match_whatever_their_string_type_and_case() -> None:
    spelled = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "VENDOR  a", x509.name._ASN1Type.PrintableString),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "root", x509.name._ASN1Type.PrintableString),
        ]
    )
    issuer = authority("Issuer", vendor().root, number=2, issuer_name=spelled)
    assert verify(ek_certificate(issuer), issuer.der)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("301f0603551d23041830168014", "301f0603551d23041830168114", "ek.profile"),
        ("0603551d250409", "0603551d250101ff0409", "ek.malformed"),
    ],
)
def test_profile_rules_no_builder_can_break(old: str, new: str, reason: str) -> None:
    """An authority key identifier without the key's identifier; an extension longer than its wrapper."""
    leaf = resign(ek_certificate(vendor().issuer), vendor().issuer, swap(bytes.fromhex(old), bytes.fromhex(new)))
    with pytest.raises(EvidenceError) as refused:
        parse_ek_certificate(leaf)
    assert str(refused.value.reason) == reason


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")]), "ek.profile"),
        (vendor().issuer.identifier(), "ek.profile"),
        (x509.SubjectKeyIdentifier(b"key"), "ek.profile"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.32"), b"\x30\x00"), "ek.malformed"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.9"), b"\x30\x00"), "ek.unhandled_critical"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.31"), b"\x30\x00"), "ek.unhandled_critical"),
    ],
    ids=str,
)
def test_extensions_that_must_not_be_critical_or_empty(extension: x509.ExtensionType, reason: str) -> None:
    with pytest.raises(EvidenceError) as refused:
        parse_ek_certificate(ek_certificate(vendor().issuer, faults=[(extension, True)]))
    assert str(refused.value.reason) == reason


def test_absent_authority_key_identifier_is_refused() -> None:
    with pytest.raises(EvidenceError, match=r"ek\.profile"):
        parse_ek_certificate(ek_certificate(vendor().issuer, without=[x509.AuthorityKeyIdentifier]))


def test_attributes_in_one_relative_name_are_the_same_attributes() -> None:
    rdn = x509.RelativeDistinguishedName(tpm_name((1, INTEL), (2, "MODEL-1"), (3, "id:00010002")).value)
    names = x509.SubjectAlternativeName([x509.DirectoryName(x509.Name([rdn]))])
    ek = parse_ek_certificate(ek_certificate(vendor().issuer, faults=[(names, True)]))
    assert ek.attributes.model == "MODEL-1"


def test_listed_ek_needs_neither_certificate_nor_vendor_and_is_not_called_hardware() -> None:
    public = parse_ek_public(ek_public(rsa_key().public_key()))
    verified = verify_ek_listed(public, frozenset({ek_digest(public)}))
    assert verified.mechanism is EkMechanism.LISTED
    assert verified.virtual
    assert verified.chain == ()


def test_listed_ek_is_refused_when_it_is_not_listed_or_no_ek() -> None:
    public = parse_ek_public(ek_public())
    for allowed in (frozenset[bytes](), frozenset({bytes(32)}), frozenset({public.raw})):
        with pytest.raises(EvidenceError, match=r"ek\.not_listed"):
            verify_ek_listed(public, allowed)
    other = parse_ek_public(ek_public(attributes=0x500B2))
    with pytest.raises(EvidenceError, match=r"ek\.template"):
        verify_ek_listed(other, frozenset({ek_digest(other)}))


def test_two_keys_of_one_name_are_told_apart() -> None:
    """A vendor renewed its authority under the same name: both generations work, whichever is offered first."""
    renewed = authority("Issuer", vendor().root, number=70)
    for leaf in (ek_certificate(vendor().issuer), ek_certificate(renewed, ec_key(100).public_key())):
        for chain in ((renewed.der, vendor().issuer.der), (vendor().issuer.der, renewed.der)):
            assert verify(leaf, *chain)


def test_the_room_opens_nothing_by_itself() -> None:
    """Verifying loads no HTTP client, no TLS, and no TSS."""
    code = "import sys, tpm.endorsement; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    loaded = ("http", "ssl", "tpm2_pytss", "asyncio", "requests", "aiohttp")
    done = subprocess.run([sys.executable, "-c", code, *loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mutated_input_raises_nothing_but_evidence_errors() -> None:
    rng = random.Random(11)  # noqa: S311 -- reproducible
    leaf, issuer, roots = ek_certificate(vendor().issuer), vendor().issuer.der, EkRoots.from_pem(vendor().root.pem)
    lists, public = crl(vendor().issuer, [5, 6]), ek_public()
    quirks = EkPolicy(quirks=frozenset(EkQuirk))

    def mutate(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(changed))
            kind = rng.randrange(4)
            if kind == 0:
                changed[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                changed[at : at + 1] = rng.randbytes(rng.randrange(3))
            elif kind == 2:
                changed[at] = rng.choice((0x00, 0x02, 0x03, 0x30, 0x31, 0x80, 0x81, 0xA0, 0xFF))
            else:
                source = rng.randrange(len(changed))
                changed[at : at + 9] = changed[source : source + 9]
        return bytes(changed)

    for turn in range(3000):
        try:
            if turn % 3 == 0:
                verify_ek_certificate(mutate(leaf), [issuer], roots, at=NOW, ek_public=None, policy=quirks)
            elif turn % 3 == 1:
                verify_ek_certificate(leaf, [mutate(issuer)], roots, at=NOW, ek_public=None, crls=[mutate(lists)])
            else:
                verify_ek_listed(parse_ek_public(mutate(public)), frozenset())
        except EvidenceError as error:
            assert str(error.reason).startswith("ek.")  # noqa: PT017 — which of many it is does not matter


def test_software_tpm_with_its_own_authority_is_verified_and_virtual(certified_device: "Device", ek_ca: bytes) -> None:
    key = certified_device.endorsement_key()
    assert key.certificate is not None
    roots, public = EkRoots.from_pem(ek_ca), parse_ek_public(key.public)
    at = max(parse_certificate(der).not_before for der in (key.certificate, *split_pem(ek_ca)))
    policy = EkPolicy(vendors=frozenset({"id:00001014"}))
    verified = verify_ek_certificate(key.certificate, key.chain, roots, at=at, ek_public=public, policy=policy)
    assert verified.virtual
    assert verified.vendor == "swtpm"
    assert verified.template is not None
    with pytest.raises(EvidenceError, match=r"ek\.vendor"):
        verify_ek_certificate(key.certificate, key.chain, roots, at=at, ek_public=public)
    foreign = EkRoots.from_pem(vendor().root.pem)
    with pytest.raises(EvidenceError, match=r"ek\.chain"):
        verify_ek_certificate(key.certificate, key.chain, foreign, at=at, ek_public=public, policy=policy)
