"""Our own TPM, against a software one: everything it hands out is checked with our own verifiers."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests.support.tpm import SoftwareTpms
from tpm.algorithms import Alg
from tpm.attest import QuoteInfo, parse_attest
from tpm.attestation_key import accept_attestation_key, accept_signing_key
from tpm.certify import verify_certify
from tpm.credential import make_credential
from tpm.device import MAX_LOADED, Device, _checked_der, _is_of_template, _StaleKeyError
from tpm.device_connection import tss
from tpm.errors import DeviceError
from tpm.pcr import PcrSelection, extend
from tpm.public import EK, ObjectAttributes, parse_public
from tpm.quote import parse_quote, verify_quote
from tpm.sealing import Sealing
from tpm.signature import Signature
from tpm.software import SoftwareTpm, flush_all
from tpm.templates import ENDORSEMENT_TEMPLATES

BOOT_PCRS = {"sha256": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]}
EXTENDED = {"sha256": b"\x01" * 32}


def sealed(pcrs: dict[str, list[int]]) -> Sealing:
    """To these PCRs, for ever."""
    return Sealing(PcrSelection.of(pcrs))


def check_quote(device: Device, nonce: bytes, selection: PcrSelection) -> None:
    key = accept_attestation_key(parse_public(device.attestation_key()))
    quoted = device.quote(nonce, selection)
    verify_quote(
        parse_quote(quoted.attest, quoted.signature), key, nonce=nonce, selection=selection, pcr_values=quoted.pcrs
    )


def log_key_verifies(public: bytes, signature: bytes, digest: bytes) -> bool:
    key = parse_public(public).key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature:
        return False
    return True


# Addresses and failures to open


def test_a_device_knows_what_it_is(device: Device) -> None:
    assert device.properties()["manufacturer"] == "IBM"
    assert device.properties()["specification"].startswith("2.0 rev 1.")
    assert device.banks() == ("sha1", "sha256", "sha384")
    assert (device.kind, device.virtual) == ("socket", True)


@pytest.mark.swtpm
@pytest.mark.parametrize("manufacturer", ["IBM", "MSFT", "GOOG", "AMZN"])
def test_a_virtual_tpm_behind_a_kernel_device_is_not_hardware(
    software_tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch, manufacturer: str
) -> None:
    """A virtual machine's /dev/tpmrm0 looks like any other; its manufacturer gives it away."""
    monkeypatch.setattr(Device, "_read_properties", lambda self: {"manufacturer": manufacturer})
    with Device(f"swtpm:path={software_tpm.path}", "device:/dev/tpmrm0") as opened:
        assert opened.virtual


@pytest.mark.swtpm
@pytest.mark.parametrize(("kind", "virtual"), [("device", False), ("socket", True), ("swtpm", True)])
def test_only_a_device_of_a_chip_maker_is_hardware(
    software_tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch, kind: str, virtual: bool
) -> None:
    monkeypatch.setattr(Device, "_read_properties", lambda self: {"manufacturer": "IFX"})
    with Device(f"swtpm:path={software_tpm.path}", f"{kind}:/somewhere") as opened:
        assert opened.virtual is virtual


@pytest.mark.parametrize("address", ["", "/dev/tpm0", "device:tpm0", "tcp:localhost:2321", "swtpm:relative"])
def test_an_address_of_no_known_form_is_refused(address: str) -> None:
    with pytest.raises(DeviceError, match="not the address of a TPM") as refused:
        Device.open(address)
    assert "device:/dev/tpmrm0" in refused.value.remedy


@pytest.mark.parametrize("kind", ["device", "socket"])
def test_nothing_there_is_said_plainly(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DeviceError, match=f"at {tmp_path}/none"):
        Device.open(f"{kind}:{tmp_path}/none")


def test_a_denied_permission_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tpmrm0").touch(0o000)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DeviceError, match="permission denied") as refused:
        Device.open(f"device:{tmp_path}/tpmrm0")
    assert "tss" in refused.value.remedy


def test_a_file_that_is_no_tpm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for kind in ("device", "socket"):
        with pytest.raises(DeviceError, match="cannot"):
            Device.open(f"{kind}:{tmp_path}/file")


def test_a_managed_tpm_ends_with_its_device(software_tpm: SoftwareTpm) -> None:
    software_tpm.close()
    with Device.open(f"swtpm:{software_tpm.state}") as device:
        assert device.virtual
        with pytest.raises(DeviceError, match="in use by another process"):
            Device.open(f"swtpm:{software_tpm.state}")
    device.close()
    with pytest.raises(DeviceError, match="was closed"):
        device.banks()
    software_tpm.start()


def test_a_tpm_that_goes_away_is_a_device_error(device: Device, software_tpm: SoftwareTpm) -> None:
    device.attestation_key()
    software_tpm.kill()
    for use in (
        lambda: device.quote(b"nonce", BOOT_PCRS),
        lambda: device.read_pcrs(BOOT_PCRS),
        lambda: device.extend(0, EXTENDED),
        lambda: device.get_random(8),
        device.banks,
        device.endorsement_key,
    ):
        with pytest.raises(DeviceError) as failed:
            use()
        assert "still there" in failed.value.remedy
    software_tpm.start()
    check_quote(device, b"nonce", PcrSelection.of(BOOT_PCRS))


def test_closing_a_device_whose_tpm_is_gone_is_fine(software_tpm: SoftwareTpm) -> None:
    """Found gone at once, after one failed use, and after a failed attempt to connect again."""
    for failures in range(4):
        software_tpm.start()
        with Device.open(software_tpm.address) as device:
            device.attestation_key()
            software_tpm.kill()
            for _ in range(failures):
                with pytest.raises(DeviceError):
                    device.quote(b"nonce", BOOT_PCRS)


def test_without_the_binding_the_import_names_the_extra() -> None:
    program = "import sys; sys.modules['tpm2_pytss'] = None\nfrom tpm.errors import DeviceError\n"
    program += "try:\n import tpm.device\nexcept DeviceError as refused:\n print(refused.remedy)"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "ztrooted[executor]" in said.stdout


# PCRs


def test_extending_follows_the_specification_in_each_bank(device: Device) -> None:
    digests = {"sha1": b"\x01" * 20, "sha256": b"\x02" * 32, "sha384": b"\x03" * 48}
    device.extend(10, digests)
    read = device.read_pcrs({bank: [10] for bank in digests})
    for alg, bank in ((Alg.SHA1, "sha1"), (Alg.SHA256, "sha256"), (Alg.SHA384, "sha384")):
        assert read[bank][10] == extend(alg, bytes(len(digests[bank])), digests[bank])


def test_all_pcrs_of_all_banks_can_be_read_at_once(device: Device) -> None:
    """More than fit into one response."""
    read = device.read_pcrs({bank: range(24) for bank in device.banks()})
    assert {bank: sorted(values) for bank, values in read.items()} == {bank: list(range(24)) for bank in device.banks()}
    assert read["sha256"][17] == b"\xff" * 32
    assert read["sha256"][23] == bytes(32)


def test_a_bank_that_is_not_active_cannot_be_read_or_quoted(device: Device) -> None:
    with pytest.raises(DeviceError, match="has no PCRs") as refused:
        device.read_pcrs({"sha512": [0]})
    assert "sha256" in refused.value.remedy
    with pytest.raises(DeviceError, match="has no PCRs"):
        device.quote(b"nonce", {"sha256": [0], "sha512": [0]})


def test_random_bytes_are_as_many_as_asked_for(device: Device) -> None:
    assert [len(device.get_random(count)) for count in (0, 1, 32, 33, 100)] == [0, 1, 32, 33, 100]
    assert device.get_random(32) != device.get_random(32)


# Attestation key and quotes


def test_the_attestation_key_is_acceptable_and_the_same_again(device: Device, software_tpm: SoftwareTpm) -> None:
    first = device.attestation_key()
    accept_attestation_key(parse_public(first))
    assert device.attestation_key() == first
    assert device.attestation_key("another") != first
    software_tpm.power_cycle()
    with Device.open(software_tpm.address) as reopened:
        assert reopened.attestation_key() == first


@pytest.mark.parametrize("selection", [BOOT_PCRS, {"sha256": [0, 10], "sha384": [23]}, {"sha384": range(24)}])
def test_a_quote_verifies(device: Device, selection: dict[str, list[int]]) -> None:
    device.extend(10, EXTENDED)
    check_quote(device, os.urandom(32), PcrSelection.of(selection))


def test_counters_in_quotes_are_the_true_ones(device: Device) -> None:
    """Keys of the owner hierarchy show them obfuscated; ours is in the endorsement hierarchy."""
    clock = parse_attest(device.quote(b"", BOOT_PCRS).attest).clock
    assert 0 < clock.reset_count < 1000
    assert clock.restart_count < 1000


def test_E19_quotes_race_with_extends_and_stay_consistent(device: Device, software_tpm: SoftwareTpm) -> None:
    """IMA extends PCR 10 whenever it likes: the values handed out are those of the quote, or there is no quote."""
    stop = threading.Event()
    selection = PcrSelection.of({"sha256": [0, 10]})

    def extend_without_pause() -> None:
        with Device.open(software_tpm.address) as other:
            while not stop.wait(0.002):
                other.extend(10, EXTENDED)

    thread = threading.Thread(target=extend_without_pause)
    thread.start()
    try:
        for _ in range(50):
            check_quote(device, os.urandom(32), selection)
            device.read_pcrs({"sha256": range(24)})
    finally:
        stop.set()
        thread.join()


def test_values_that_never_match_the_quote_end_in_an_error(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "_read_once", lambda self, wanted: ({1}, {"sha256": {0: b"\x01" * 32}}))
    with pytest.raises(DeviceError, match="changed at each attempt"):
        device.quote(b"nonce", {"sha256": [0]})


def test_a_read_torn_by_an_extend_is_read_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = iter([({1, 2}, {"sha256": {0: b"torn"}}), ({3}, {"sha256": {0: b"whole"}})])
    monkeypatch.setattr(Device, "_read_once", lambda self, wanted: next(reads))
    assert device.read_pcrs({"sha256": [0]}) == {"sha256": {0: b"whole"}}


def test_threads_share_one_device(device: Device) -> None:
    selection, failures = PcrSelection.of(BOOT_PCRS), []

    def quote_often() -> None:
        try:
            for _ in range(20):
                check_quote(device, os.urandom(32), selection)
        except Exception as failed:  # noqa: BLE001 — whatever it is, the main thread reports it
            failures.append(failed)

    threads = [threading.Thread(target=quote_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Slots, stale handles, several programs


def test_many_labels_fit_into_three_slots(device: Device) -> None:
    keys = {}
    for label in "abcdefgh":
        keys[label] = device.attestation_key(label)
        assert len(device._loaded) <= MAX_LOADED
    assert len(set(keys.values())) == len(keys)
    assert {label: device.attestation_key(label) for label in keys} == keys
    device.activate_credential(*credential(device, label="h"), label="h")


def test_a_closed_device_leaves_nothing_loaded(software_tpm: SoftwareTpm) -> None:
    with Device.open(software_tpm.address) as device:
        device.attestation_key()
        device.sign_with_log_key(device.log_key(sealed(BOOT_PCRS)), b"d" * 32)
        device.activate_credential(*credential(device))
    assert flush_all(software_tpm.path) == 0


def test_a_reset_while_open_costs_nothing_but_time(device: Device, software_tpm: SoftwareTpm) -> None:
    before = device.attestation_key()
    key = device.log_key(sealed({"sha256": [0]}))
    software_tpm.power_cycle()
    check_quote(device, b"nonce", PcrSelection.of(BOOT_PCRS))
    software_tpm.power_cycle()
    assert log_key_verifies(key.public, device.sign_with_log_key(key, b"d" * 32), b"d" * 32)
    assert device.attestation_key() == before


def test_what_killed_programs_left_is_cleared_away(software_tpm: SoftwareTpm) -> None:
    """Three leftover keys fill a TPM without resource manager."""
    left = [Device.open(software_tpm.address) for _ in range(3)]
    for number, device in enumerate(left):
        device.attestation_key(f"left {number}")
    with Device.open(software_tpm.address) as device:
        check_quote(device, b"nonce", PcrSelection.of(BOOT_PCRS))
        # One of the leftover programs was alive after all: its handle is gone or another's, and it recovers.
        for number, other in enumerate(left):
            other.quote(b"nonce", BOOT_PCRS, label=f"left {number}")
            check_quote(device, b"nonce", PcrSelection.of(BOOT_PCRS))


def test_a_handle_that_became_anothers_never_signs_for_us(software_tpm: SoftwareTpm) -> None:
    """After a reset another program's key may sit at our handle. The answer must still be from our key."""
    with Device.open(software_tpm.address) as ours, Device.open(software_tpm.address) as theirs:
        key = accept_attestation_key(parse_public(ours.attestation_key()))
        software_tpm.power_cycle()
        theirs.attestation_key("theirs")
        quoted = ours.quote(b"nonce", BOOT_PCRS)
        selection = PcrSelection.of(BOOT_PCRS)
        verify_quote(
            parse_quote(quoted.attest, quoted.signature),
            key,
            nonce=b"nonce",
            selection=selection,
            pcr_values=quoted.pcrs,
        )


def test_a_log_key_handle_that_became_anothers_never_signs_for_us(software_tpm: SoftwareTpm) -> None:
    with Device.open(software_tpm.address) as ours, Device.open(software_tpm.address) as theirs:
        key = ours.log_key(sealed({"sha256": [0]}))
        software_tpm.power_cycle()
        # Same template but another selection order of values: another key, which signs in the same state.
        other = theirs.log_key(sealed({"sha256": [0, 1]}))
        assert other.public != key.public
        assert log_key_verifies(key.public, ours.sign_with_log_key(key, b"d" * 32), b"d" * 32)
        software_tpm.power_cycle()
        theirs.log_key(sealed({"sha256": [0, 1]}))
        certified = ours.certify(key, b"data")
        ak = accept_attestation_key(parse_public(ours.attestation_key()))
        verify_certify(
            certified.attest, certified.signature, ak, qualifying_data=b"data", certified=parse_public(key.public)
        )


def test_a_certifying_handle_that_became_anothers_is_noticed(software_tpm: SoftwareTpm) -> None:
    """Their AK at our AK's handle, our log key at its own: only the signer differs."""
    with Device.open(software_tpm.address) as ours, Device.open(software_tpm.address) as theirs:
        key = ours.log_key(sealed(BOOT_PCRS))
        ak = accept_attestation_key(parse_public(ours.attestation_key()))
        software_tpm.power_cycle()
        theirs.log_key(sealed(BOOT_PCRS))
        theirs.attestation_key("theirs")
        certified = ours.certify(key, b"data")
        verify_certify(
            certified.attest, certified.signature, ak, qualifying_data=b"data", certified=parse_public(key.public)
        )


def test_a_signature_of_another_key_is_noticed(device: Device) -> None:
    """Another log key of the same policy could sign at our handle: only the signature tells."""
    digest = b"d" * 32
    key, other = device.log_key(sealed({"sha256": [0]})), device.log_key(sealed({"sha256": [1]}))
    r, s = utils.decode_dss_signature(device.sign_with_log_key(key, digest))
    tpmt = Signature(Alg.ECDSA, Alg.SHA256, (r.to_bytes(32, "big"), s.to_bytes(32, "big"))).marshal()
    assert _checked_der(tpmt, device._log_key(key.policy), digest)
    with pytest.raises(_StaleKeyError):
        _checked_der(tpmt, device._log_key(other.policy), digest)
    with pytest.raises(_StaleKeyError):
        _checked_der(tpmt, device._log_key(key.policy), b"e" * 32)


# The log key


def test_the_log_key_signs_in_its_state_and_is_the_same_again(device: Device, software_tpm: SoftwareTpm) -> None:
    device.extend(4, EXTENDED)
    key = device.log_key(sealed(BOOT_PCRS))
    accept_signing_key(parse_public(key.public), key.policy)
    assert log_key_verifies(key.public, device.sign_with_log_key(key, b"d" * 32), b"d" * 32)
    assert device.log_key(sealed(BOOT_PCRS)) == key
    software_tpm.power_cycle()
    with Device.open(software_tpm.address) as reopened:
        reopened.extend(4, EXTENDED)
        assert reopened.log_key(sealed(BOOT_PCRS)) == key
        assert log_key_verifies(key.public, reopened.sign_with_log_key(key, b"e" * 32), b"e" * 32)


def test_after_drift_the_log_key_refuses(device: Device) -> None:
    key = device.log_key(sealed(BOOT_PCRS))
    device.sign_with_log_key(key, b"d" * 32)
    device.extend(4, EXTENDED)
    with pytest.raises(DeviceError, match="refuses to sign") as refused:
        device.sign_with_log_key(key, b"d" * 32)
    assert "approve" in refused.value.remedy


def test_the_log_key_has_no_other_way_in(device: Device) -> None:
    """With USERWITHAUTH an empty password would sign after drift."""
    key = device.log_key(sealed(BOOT_PCRS))
    attributes = parse_public(key.public).attributes
    assert not attributes & (ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT)
    loaded = device._log_key(key.policy)
    with pytest.raises(tss.TSS2_Exception):
        device._esapi.sign(loaded.handle, b"d" * 32, tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL))


def test_a_log_key_for_a_state_to_come_signs_only_there(device: Device) -> None:
    values = {"sha256": {4: extend(Alg.SHA256, bytes(32), EXTENDED["sha256"])}}
    key = device.log_key(sealed({"sha256": [4]}), values)
    with pytest.raises(DeviceError, match="refuses to sign"):
        device.sign_with_log_key(key, b"d" * 32)
    device.extend(4, EXTENDED)
    assert log_key_verifies(key.public, device.sign_with_log_key(key, b"d" * 32), b"d" * 32)


def test_extends_of_other_pcrs_do_not_stop_the_log_key(device: Device, software_tpm: SoftwareTpm) -> None:
    """Each extend, of whatever PCR, invalidates a live policy session; the next attempt succeeds."""
    key, stop = device.log_key(sealed(BOOT_PCRS)), threading.Event()
    began = time.monotonic()
    for _ in range(4):
        device.sign_with_log_key(key, bytes(32))
    pause = (time.monotonic() - began) / 2  # twice as long as a signature takes on this machine

    def extend_all_the_time() -> None:
        with Device.open(software_tpm.address) as other:
            while not stop.wait(pause):
                other.extend(10, EXTENDED)

    thread = threading.Thread(target=extend_all_the_time)
    thread.start()
    try:
        for _ in range(30):
            digest = os.urandom(32)
            assert log_key_verifies(key.public, device.sign_with_log_key(key, digest), digest)
    finally:
        stop.set()
        thread.join()


def test_a_session_overtaken_by_an_extend_is_replaced(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the extend exactly between PolicyPCR and Sign."""
    key, real, extends = device.log_key(sealed(BOOT_PCRS)), device._esapi.policy_pcr, iter([True, True, False])

    def overtaken(*arguments: object) -> None:
        real(*arguments)
        if next(extends):
            device.extend(10, EXTENDED)

    monkeypatch.setattr(device._esapi, "policy_pcr", overtaken)
    assert log_key_verifies(key.public, device.sign_with_log_key(key, b"d" * 32), b"d" * 32)


def test_a_tpm_that_goes_away_in_mid_signature_is_a_device_error(
    device: Device, software_tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaning up the session fails too, and must not hide why."""
    key, real = device.log_key(sealed(BOOT_PCRS)), device._esapi.policy_pcr

    def gone(*arguments: object) -> None:
        software_tpm.kill()
        real(*arguments)

    monkeypatch.setattr(device._esapi, "policy_pcr", gone)
    with pytest.raises(DeviceError) as failed:
        device.sign_with_log_key(key, b"d" * 32)
    assert "still there" in failed.value.remedy
    software_tpm.start()
    assert log_key_verifies(key.public, device.sign_with_log_key(key, b"d" * 32), b"d" * 32)


def test_a_log_key_without_pcrs_is_refused(device: Device) -> None:
    for selection in ({}, {"sha256": []}):
        with pytest.raises(DeviceError, match="without PCRs"):
            device.log_key(sealed(selection))


def test_a_log_key_of_another_tpm_is_refused(software_tpms: SoftwareTpms) -> None:
    with Device.open(software_tpms().address) as one, Device.open(software_tpms(fresh=True).address) as other:
        key = one.log_key(sealed(BOOT_PCRS))
        with pytest.raises(DeviceError, match="does not hold that log key"):
            other.sign_with_log_key(key, b"d" * 32)
        with pytest.raises(DeviceError, match="does not hold that log key"):
            other.certify(key, b"data")


def test_the_log_key_is_certified_by_the_attestation_key(device: Device) -> None:
    key = device.log_key(sealed(BOOT_PCRS))
    ak = accept_attestation_key(parse_public(device.attestation_key()))
    certified = device.certify(key, b"qualifying")
    verify_certify(
        certified.attest, certified.signature, ak, qualifying_data=b"qualifying", certified=parse_public(key.public)
    )


# The endorsement key


def credential(device: Device, *, label: str = "ak", name: bytes | None = None) -> tuple[bytes, bytes]:
    made = make_credential(
        parse_public(device.endorsement_key().public, reasons=EK),
        name or parse_public(device.attestation_key(label)).name,
        b"a secret of thirty-two bytes ...",
    )
    return made.id_object, made.encrypted_secret


def test_a_credential_is_activated(device: Device, certified_device: Device) -> None:
    for opened, template in ((device, "L-2"), (certified_device, "H-3")):
        assert opened.endorsement_key().template == template
        assert opened.activate_credential(*credential(opened)) == b"a secret of thirty-two bytes ..."


def test_a_credential_for_another_key_is_not_activated(device: Device) -> None:
    for_another = credential(device, label="another")
    with pytest.raises(DeviceError, match="cannot activate"):
        device.activate_credential(*for_another)
    assert device.activate_credential(*for_another, label="another")


def test_a_credential_for_another_tpm_is_not_activated(software_tpms: SoftwareTpms) -> None:
    with Device.open(software_tpms().address) as one, Device.open(software_tpms(fresh=True).address) as other:
        for_one = credential(one, name=parse_public(other.attestation_key()).name)
        with pytest.raises(DeviceError, match="cannot activate"):
            other.activate_credential(*for_one)


@pytest.mark.parametrize("fault", [b"", b"\x00", b"\x00\x05abc"])
def test_malformed_credentials_are_refused(device: Device, fault: bytes) -> None:
    id_object, secret = credential(device)
    for bad in ((fault, secret), (id_object, fault), (id_object + b"\x00", secret), (id_object, secret + b"\x00")):
        with pytest.raises(DeviceError):
            device.activate_credential(*bad)


@pytest.mark.parametrize("template", ENDORSEMENT_TEMPLATES, ids=lambda template: template.name)
def test_each_template_makes_a_key_that_activates(
    device: Device, monkeypatch: pytest.MonkeyPatch, template: object
) -> None:
    monkeypatch.setattr("tpm.device.choose_template", lambda indices, read: template)
    assert device.activate_credential(*credential(device)) == b"a secret of thirty-two bytes ..."


def test_a_persistent_key_of_another_template_is_not_taken_for_the_ek(certified_device: Device) -> None:
    """Handle 0x81010001 holds an RSA EK; somebody could have put anything there."""
    rsa = next(template for template in ENDORSEMENT_TEMPLATES if template.name == "L-1")
    ecc = next(template for template in ENDORSEMENT_TEMPLATES if template.name == "L-2")
    with certified_device._lock:
        handle, public = certified_device._persistent(rsa)
        assert handle is not None
        assert parse_public(public, reasons=EK).type is Alg.RSA
        posing = type(ecc)(ecc.name, ecc.certificate_index, rsa.persistent_handle, ecc.template, needs_policy=True)
        assert certified_device._persistent(posing) == (None, b"")


def test_what_is_no_endorsement_key_at_all_is_of_no_template() -> None:
    """A persistent handle may hold a symmetric key, or something nobody can parse."""
    for stranger in (b"", b"\x00\x04\x00\x25\x00\x0b", bytes(64)):
        assert not _is_of_template(stranger, ENDORSEMENT_TEMPLATES[0].template)


def test_a_quote_carries_nonce_and_selection(device: Device) -> None:
    attest = parse_attest(device.quote(b"nonce", BOOT_PCRS).attest)
    assert isinstance(attest.attested, QuoteInfo)
    assert attest.extra_data == b"nonce"
    assert attest.attested.selection.as_dict() == BOOT_PCRS
