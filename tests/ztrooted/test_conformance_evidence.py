"""Evidence of others as ``scripts/conformance`` judges it: what is outside this product is said, the rest compared."""

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.attestation import SELECTION, VALUES, SoftwareAk
from tests.support.endorsement import ek_certificate, ek_public, key_usage, vendor
from tests.support.eventlog_builder import Log
from ztrooted.conformance import Result, Status, run_index

Write = Callable[..., Path]


@pytest.fixture
def index(tmp_path: Path) -> Write:
    """Write an index of one entry, and files beside it."""

    def put(entry: dict[str, Any], **files: bytes) -> Path:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "INDEX.json"
        path.write_text(json.dumps([{"id": "x", **entry}]))
        return path

    return put


def only(path: Path) -> Result:
    (result,) = run_index(path)
    return result


# Recorded attestations: a quote, a boot log and PCR values in one file


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def recording(*, version: int = 2, sha1: bool = False, pcrs: dict[int, bytes] | None = None) -> bytes:
    ak, log = SoftwareAk.ecc(), Log()
    attest, signature = ak.quote()
    if sha1:
        signature = signature[:2] + b"\x00\x04" + signature[4:]
    # Go numbers hash algorithms by itself: 3 is SHA-1, 5 SHA-256.
    listed = [(3, pcr, value) for pcr, value in (pcrs or log.pcrs("sha1")).items()]
    listed += [(5, pcr, VALUES["sha256"][pcr]) for pcr in dict(SELECTION.banks)["sha256"]]
    values = [{"DigestAlg": alg, "Index": pcr, "Digest": encoded(value)} for alg, pcr, value in listed]
    return json.dumps(
        {
            "Static": {"TPMVersion": version},
            "AK": {"Public": encoded(ak.public.marshal_tpmt())},
            "Quote": {"Quote": encoded(attest), "Signature": encoded(signature)},
            "Log": {"PCRs": values, "Raw": encoded(log.data(legacy=True))},
        }
    ).encode()


RECORDED = {"kind": "quote_bundle", "file": "bundle", "expected": {"parse": "ok"}}


@pytest.mark.parametrize("unlike", [{"version": 1}, {"sha1": True}, {}])
def test_the_log_of_a_recording_is_judged_whatever_its_quote_is(index: Write, unlike: dict[str, Any]) -> None:
    result = only(index(RECORDED, bundle=recording(**unlike)))
    assert result.status is Status.PASS
    assert ("not compared: quote" in result.detail) is bool(unlike)
    wrong = {**Log().pcrs("sha1"), 4: bytes(20)}
    result = only(index(RECORDED, bundle=recording(**unlike, pcrs=wrong)))
    assert (result.status, result.reason) == (Status.FAIL, "log.replay_mismatch")


# Certificates


def chain_entry(**expected: Any) -> dict[str, Any]:
    told = {"chain_ok": True, "root": "root", "intermediate": "issuer", **expected}
    return {"kind": "certificate", "file": "leaf", "expected": told}


def chain_files(leaf: bytes) -> dict[str, bytes]:
    return {"leaf": leaf, "issuer": vendor().issuer.der, "root": vendor().root.pem}


SIGNING: list[tuple[x509.ExtensionType, bool]] = [(key_usage("digital_signature"), True)]
WITHOUT = [x509.ExtendedKeyUsage, x509.SubjectAlternativeName]


def test_the_certificate_of_a_signing_key_is_judged_as_far_as_its_path(index: Write) -> None:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    leaf = ek_certificate(vendor().issuer, subject=subject, faults=SIGNING, without=WITHOUT)
    assert only(index(chain_entry(), **chain_files(leaf))).status is Status.PASS
    assert only(index(chain_entry(chain_ok=False), **chain_files(leaf))).status is Status.FAIL
    assert only(index(chain_entry(intermediate=None), **chain_files(leaf))).status is Status.FAIL
    authority = [*SIGNING, (x509.BasicConstraints(ca=True, path_length=None), True)]
    leaf = ek_certificate(vendor().issuer, subject=subject, faults=authority, without=WITHOUT)
    assert only(index(chain_entry(), **chain_files(leaf))).status is Status.FAIL
    begin = vendor().issuer.certificate.not_valid_before_utc
    for ends, status in ((begin, Status.PASS), (begin - timedelta(seconds=1), Status.FAIL)):
        period = (begin - timedelta(days=1), ends)
        leaf = ek_certificate(vendor().issuer, subject=subject, faults=SIGNING, without=WITHOUT, period=period)
        assert only(index(chain_entry(), **chain_files(leaf))).status is status


def test_an_ek_certificate_keeps_its_own_rules(index: Write) -> None:
    assert only(index(chain_entry(), **chain_files(ek_certificate(vendor().issuer)))).status is Status.PASS
    both: list[tuple[x509.ExtensionType, bool]] = [(key_usage("digital_signature", "key_agreement"), True)]
    for without, status in (([], Status.PASS), ([x509.ExtendedKeyUsage], Status.FAIL)):
        leaf = ek_certificate(vendor().issuer, faults=both, without=without)
        assert only(index(chain_entry(), **chain_files(leaf))).status is status


def test_a_chain_is_judged_when_all_of_it_is_valid(index: Write) -> None:
    """An authority that was renewed is younger than what it signed before."""
    begin: datetime = vendor().issuer.certificate.not_valid_before_utc - timedelta(days=1)
    leaf = ek_certificate(vendor().issuer, period=(begin, begin + timedelta(days=9000)))
    assert only(index(chain_entry(), **chain_files(leaf))).status is Status.PASS
    leaf = ek_certificate(vendor().issuer, period=(begin, begin + timedelta(hours=1)))
    assert only(index(chain_entry(), **chain_files(leaf))).status is Status.FAIL


def test_reading_a_certificate_allows_what_real_ones_have(index: Write) -> None:
    """Padded to the size of its NV index, as some chips keep it."""
    padded = ek_certificate(vendor().issuer) + b"\xff" * 100
    entry = {"kind": "certificate", "file": "leaf", "expected": {"role": "EK"}}
    assert only(index(entry, leaf=padded)).status is Status.PASS
    assert only(index(entry, leaf=padded + b"\x01")).status is Status.FAIL


# Selections, policies, keys


def test_a_selection_that_no_tpm_has_is_not_judged(index: Write) -> None:
    entry = {"kind": "pcr_selection_case", "file": "cases", "pointer": "one", "expected": {"same": False}}
    same = {"hash": "sha256", "pcrs": [1]}
    for quoted in ({"hash": "sm3_256", "pcrs": [1]}, {"hash": "sha256", "pcrs": [24]}):
        cases = json.dumps({"one": {"provided": same, "quoted": quoted}}).encode()
        assert only(index(entry, cases=cases)).status is Status.NOT_APPLICABLE


def test_a_policy_for_a_machine_without_secure_boot_is_the_origins_to_allow(index: Write) -> None:
    log = Log()
    at = log.find(7, 0x80000001)
    off = log.records[at].data[:-1] + b"\x00"
    data = log.change(at, data=off, measured=off).data()
    for wanted, status in (("valid", Status.NOT_APPLICABLE), ("invalid", Status.PASS)):
        entry = {"kind": "tpm_event_log", "format": "binary", "file": "log", "expected": {"mb_policy": wanted}}
        assert only(index(entry, log=data)).status is status


def test_a_public_key_may_be_der(index: Write) -> None:
    certificate = x509.load_der_x509_certificate(ek_certificate(vendor().issuer)).public_bytes(Encoding.DER)
    entry = {"kind": "public_key", "file": "key", "expected": None}
    assert only(index(entry, key=certificate)).actual == "accept"
    assert only(index(entry, key=ek_public())).status is Status.NOT_APPLICABLE
