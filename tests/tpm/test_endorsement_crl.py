from datetime import UTC, datetime

import pytest
from cryptography import x509

from tests.support.endorsement import (
    NOW,
    UNKNOWN,
    Extensions,
    authority,
    crl,
    ek_certificate,
    key_usage,
    resign,
    swap,
    vendor,
)
from tpm.endorsement_certificate import parse_certificate
from tpm.endorsement_crl import MAX_CRL_BYTES, check_revocation, parse_crl
from tpm.errors import EvidenceError

LEAF = ek_certificate(vendor().issuer)
PATH = tuple(parse_certificate(der) for der in (LEAF, vendor().issuer.der, vendor().root.der))
POINT = x509.UniformResourceIdentifier("http://crl.example/1")


def _scope(**fields: object) -> Extensions:
    every = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return [(x509.IssuingDistributionPoint(**{**every, **fields}), True)]  # type: ignore[arg-type]


def _check(*lists: bytes, path: tuple[object, ...] = PATH) -> list[str]:
    parsed = [parse_crl(der) for der in lists]
    return check_revocation(path, parsed, at=NOW, required=True)  # type: ignore[arg-type]


def _refusal(*lists: bytes) -> str:
    with pytest.raises(EvidenceError) as refused:
        _check(*lists)
    return str(refused.value.reason)


def test_lists_for_users_and_for_authorities_each_cover_their_own() -> None:
    root = crl(vendor().root)
    assert _check(crl(vendor().issuer, extensions=_scope(only_contains_user_certs=True)), root) == []
    assert _refusal(crl(vendor().issuer, extensions=_scope(only_contains_ca_certs=True)), root) == "ek.crl_missing"
    issuer = crl(vendor().issuer)
    assert _check(issuer, crl(vendor().root, extensions=_scope(only_contains_ca_certs=True))) == []
    assert _refusal(issuer, crl(vendor().root, extensions=_scope(only_contains_user_certs=True))) == "ek.crl_missing"


def test_list_of_another_distribution_point_does_not_cover_a_certificate() -> None:
    named = x509.CRLDistributionPoints([x509.DistributionPoint([POINT], None, None, None)])
    leaf = parse_certificate(ek_certificate(vendor().issuer, faults=[(named, False)]))
    mine = crl(vendor().issuer, extensions=_scope(full_name=[POINT]))
    other = crl(vendor().issuer, extensions=_scope(full_name=[x509.UniformResourceIdentifier("http://crl.example/2")]))
    assert _check(mine, crl(vendor().root), path=(leaf, *PATH[1:])) == []
    with pytest.raises(EvidenceError, match=r"ek\.crl_missing"):
        _check(other, crl(vendor().root), path=(leaf, *PATH[1:]))


@pytest.mark.parametrize(
    "extensions",
    [
        _scope(indirect_crl=True),
        _scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
        _scope(only_contains_attribute_certs=True),
        [(x509.DeltaCRLIndicator(1), True)],
        [(UNKNOWN, True)],
    ],
    ids=["indirect", "some reasons", "attribute certificates", "delta", "unknown"],
)
def test_lists_that_would_be_half_understood_are_refused(extensions: Extensions) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.crl_invalid"):
        parse_crl(crl(vendor().issuer, extensions=extensions))


def test_issuer_that_may_not_sign_lists_is_not_believed() -> None:
    root = authority("Root", number=1, faults=[(key_usage("key_cert_sign"), True)])
    path = (*PATH[:2], parse_certificate(root.der))
    with pytest.raises(EvidenceError, match=r"ek\.crl_invalid"):
        _check(crl(vendor().issuer), crl(root), path=path)


def test_forged_list_does_not_hide_a_sound_one() -> None:
    forged = crl(vendor().issuer, signer=authority("Issuer", number=63))
    serial = x509.load_der_x509_certificate(LEAF).serial_number
    assert _check(forged, crl(vendor().issuer), crl(vendor().root)) == []
    assert _refusal(forged, crl(vendor().issuer, [serial]), crl(vendor().root)) == "ek.revoked"


def test_serial_of_another_issuer_is_not_revoked() -> None:
    serial = x509.load_der_x509_certificate(LEAF).serial_number
    assert _check(crl(vendor().issuer, [serial + 1]), crl(vendor().root, [serial])) == []


def test_a_list_among_thousands_of_entries_is_found() -> None:
    serial = x509.load_der_x509_certificate(LEAF).serial_number
    assert _refusal(crl(vendor().issuer, [*range(1, 3000), serial]), crl(vendor().root)) == "ek.revoked"


@pytest.mark.parametrize("spoil", [lambda der: der[:-1], lambda der: der + b"\0", lambda der: b"", lambda der: LEAF])
def test_bytes_that_are_no_list_are_refused(spoil: object) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.crl_invalid"):
        parse_crl(spoil(crl(vendor().issuer)))  # type: ignore[operator]


def test_huge_list_is_refused_unread() -> None:
    with pytest.raises(EvidenceError, match=r"ek\.too_large"):
        parse_crl(bytes(MAX_CRL_BYTES + 1))


def test_freshness_includes_both_ends() -> None:
    period = (datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 6, 20, tzinfo=UTC))
    parsed = parse_crl(crl(vendor().issuer, period=period))
    assert parsed.is_fresh(period[0])
    assert parsed.is_fresh(period[1])
    assert not parsed.is_fresh(datetime(2026, 6, 20, 0, 0, 1, tzinfo=UTC))


def test_list_of_version_1_or_with_two_algorithms_or_an_unknown_field_is_refused() -> None:
    good = crl(vendor().issuer)
    inner, other = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303")
    for edit in (lambda body: body[3:], swap(inner, other), lambda body: body + b"\x05\x00"):
        with pytest.raises(EvidenceError, match=r"ek\.crl_invalid"):
            parse_crl(resign(good, vendor().issuer, edit))
