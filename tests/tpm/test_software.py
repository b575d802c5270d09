"""Software TPMs: provisioning, resets, locks, and that they never outlive who started them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.tpm import Foundry, SoftwareTpms
from tpm import software
from tpm.attest import ClockInfo, parse_attest
from tpm.device import Device
from tpm.errors import DeviceError
from tpm.public import EK, parse_public
from tpm.software import SoftwareTpm, ca_certificates, clone, flush_all, provision, transact

GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0008")


def clock(address: str) -> ClockInfo:
    with Device.open(address) as device:
        return parse_attest(device.quote(b"", {"sha256": [0]}).attest).clock


def is_dead(pid: int) -> bool:
    """Gone, or a zombie that its new parent has not collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_dead(pid: int) -> bool:
    pause = threading.Event()
    for _ in range(500):
        if is_dead(pid):
            return True
        pause.wait(0.01)
    return False


def test_certificates_are_those_of_the_local_ca(certified_device: Device, ek_ca: bytes) -> None:
    """The EK certificate is for the EK, signed by the issuing CA, whose certificate the root signed."""
    endorsement = certified_device.endorsement_key()
    assert endorsement.certificate is not None
    leaf = x509.load_der_x509_certificate(endorsement.certificate)
    root, issuer = x509.load_pem_x509_certificates(ek_ca)
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    key = leaf.public_key()
    ours = parse_public(endorsement.public, reasons=EK).key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key == ours


def test_provisioning_asks_nobody_elses_configuration(
    tpm_foundry: Foundry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    provision(tmp_path / "state", ca=tmp_path / "ca")
    assert {path.name for path in tmp_path.iterdir()} == {"state", "ca"}
    assert ca_certificates(tmp_path / "ca").count(b"BEGIN CERTIFICATE") == 2


def test_existing_state_is_never_overwritten(tpm_foundry: Foundry, tmp_path: Path) -> None:
    provision(tmp_path / "state", ca=tmp_path / "ca", certificates=False)
    before = (tmp_path / "state" / "tpm2-00.permall").read_bytes()
    with pytest.raises(DeviceError, match="already holds a TPM"):
        provision(tmp_path / "state", ca=tmp_path / "ca", certificates=False)
    assert (tmp_path / "state" / "tpm2-00.permall").read_bytes() == before


def test_clones_are_one_machine_and_fresh_ones_are_not(software_tpms: SoftwareTpms) -> None:
    def endorsement(tpm: SoftwareTpm) -> bytes:
        with Device.open(tpm.address) as device:
            return device.endorsement_key().public

    original, twin, other, third = (software_tpms(fresh=fresh) for fresh in (False, False, True, True))
    assert endorsement(original) == endorsement(twin)
    assert len({endorsement(tpm) for tpm in (original, other, third)}) == 3


def test_the_banks_are_those_asked_for(software_tpms: SoftwareTpms) -> None:
    for banks in (("sha256",), ("sha1", "sha256", "sha384", "sha512")):
        with Device.open(software_tpms(banks=banks).address) as device:
            assert device.banks() == banks


def test_an_orderly_power_cycle_counts_one_reset_and_clears_the_pcrs(software_tpm: SoftwareTpm) -> None:
    before = clock(software_tpm.address)
    with Device.open(software_tpm.address) as device:
        device.extend(4, {"sha256": b"\x01" * 32})
        assert device.read_pcrs({"sha256": [4]})["sha256"][4] != bytes(32)
    software_tpm.power_cycle()
    after = clock(software_tpm.address)
    assert after.reset_count == before.reset_count + 1
    assert after.restart_count == 0
    assert after.safe
    with Device.open(software_tpm.address) as device:
        assert device.read_pcrs({"sha256": [4]})["sha256"][4] == bytes(32)


def test_after_a_power_loss_the_clock_is_not_safe(software_tpm: SoftwareTpm) -> None:
    before = clock(software_tpm.address)
    software_tpm.power_cycle(orderly=False)
    after = clock(software_tpm.address)
    assert after.reset_count == before.reset_count + 1
    assert not after.safe


def test_resuming_counts_a_restart_and_keeps_the_pcrs(software_tpm: SoftwareTpm) -> None:
    before = clock(software_tpm.address)
    with Device.open(software_tpm.address) as device:
        device.extend(4, {"sha256": b"\x01" * 32})
        kept = device.read_pcrs({"sha256": [4]})
    software_tpm.suspend_resume()
    after = clock(software_tpm.address)
    assert (after.reset_count, after.restart_count) == (before.reset_count, before.restart_count + 1)
    with Device.open(software_tpm.address) as device:
        assert device.read_pcrs({"sha256": [4]}) == kept


def test_one_state_is_served_once(software_tpm: SoftwareTpm) -> None:
    with pytest.raises(DeviceError, match="in use by another process"):
        SoftwareTpm(software_tpm.state)
    assert transact(software_tpm.path, GET_RANDOM)[:2] == b"\x80\x01"


def test_a_state_held_by_a_foreign_swtpm_is_refused(software_tpm: SoftwareTpm) -> None:
    """Somebody's own swtpm takes no lock of ours, but swtpm's own."""
    (software_tpm.state / "run" / "lock").unlink()
    with pytest.raises(DeviceError, match="in use by another swtpm"):
        SoftwareTpm(software_tpm.state)


def test_closing_twice_and_starting_again_are_fine(software_tpm: SoftwareTpm) -> None:
    software_tpm.close()
    software_tpm.close()
    assert not software_tpm.running
    software_tpm.start()
    software_tpm.start()
    assert transact(software_tpm.path, GET_RANDOM)[:2] == b"\x80\x01"


def test_a_killed_tpm_does_not_answer(software_tpm: SoftwareTpm) -> None:
    software_tpm.kill()
    with pytest.raises(DeviceError, match="does not answer"):
        transact(software_tpm.path, GET_RANDOM)
    with pytest.raises(DeviceError):
        software_tpm.power_cycle()
    software_tpm.start()
    assert software_tpm.running


def test_it_dies_when_its_process_is_killed(software_tpm: SoftwareTpm, tmp_path: Path) -> None:
    """SIGKILL leaves no chance to clean up; the kernel does it."""
    software_tpm.close()
    program = (
        "import sys, time, pathlib; from tpm.software import SoftwareTpm\n"
        "tpm = SoftwareTpm(pathlib.Path(sys.argv[1])); print(tpm._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(software_tpm.state)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as owner:
        assert owner.stdout is not None
        served_by = int(owner.stdout.readline())
        assert not is_dead(served_by)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert wait_until_dead(served_by)
    software_tpm.start()


def test_it_survives_the_thread_that_started_it(software_tpms: SoftwareTpms) -> None:
    """PR_SET_PDEATHSIG follows threads: a TPM opened from a pool's thread must not die with it."""
    started: list[SoftwareTpm] = []
    thread = threading.Thread(target=lambda: started.append(software_tpms()))
    thread.start()
    thread.join()
    threading.Event().wait(0.05)
    assert started[0].running


def test_flushing_frees_what_killed_programs_left(software_tpm: SoftwareTpm) -> None:
    devices = [Device.open(software_tpm.address) for _ in range(3)]
    for number, device in enumerate(devices):
        device.attestation_key(f"left {number}")
    assert flush_all(software_tpm.path) == 3
    assert flush_all(software_tpm.path) == 0
    for device in devices:
        device.close()


@pytest.mark.parametrize("program", ["swtpm", "swtpm_setup", "swtpm_localca"])
def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(software.shutil, "which", lambda name: None if name == program else f"/bin/{name}")
    with pytest.raises(DeviceError, match=f"{program} is not installed") as refused:
        provision(tmp_path / "state", ca=tmp_path / "ca")
    assert "install" in refused.value.remedy


def test_an_unusable_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceError, match="cannot be made"):
        SoftwareTpm(tmp_path / "file" / "state")
    with pytest.raises(DeviceError, match="holds no CA"):
        ca_certificates(tmp_path)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="too long"):
        SoftwareTpm(tmp_path / ("x" * 100))


def test_broken_state_says_so(software_tpm: SoftwareTpm, tpm_foundry: Foundry) -> None:
    software_tpm.close()
    broken = tpm_foundry.directory / "broken"
    clone(software_tpm.state, broken)
    (broken / "tpm2-00.permall").write_bytes(os.urandom(400))
    with pytest.raises(DeviceError, match="did not start"):
        SoftwareTpm(broken)


def test_the_command_line_makes_runs_and_ends_a_tpm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, ca = tmp_path / "chip", tmp_path / "ca"
    assert software.main(["make", str(state), "--ca", str(ca)]) == 0
    assert software.main(["roots", str(ca)]) == 0
    assert capsys.readouterr().out.encode().endswith(ca_certificates(ca))
    command = [sys.executable, "-m", "tpm.software", "run", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        assert transact(Path(address.removeprefix("socket:")), GET_RANDOM)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    with SoftwareTpm(state):
        pass  # nobody else serves it any more


def test_the_command_line_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert software.main(["roots", str(tmp_path)]) == 3
    assert "holds no CA" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        software.main([])
