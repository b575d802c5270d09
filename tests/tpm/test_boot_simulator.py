"""The simulated machine: our own strict verifiers, and a foreign one, accept what it writes; each drift is seen."""

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tpm.attestation_key import accept_attestation_key
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII, IMA_BINARY, BootSimulator, Machine, main
from tpm.device import Device
from tpm.errors import RejectedError
from tpm.eventlog import VerifiedEventLog, parse_event_log, verify_event_log
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_replay import ImaReplayResult, ImaState, replay
from tpm.ima_rules import BootAggregate, ImaRules
from tpm.pcr import PcrSelection
from tpm.public import parse_public
from tpm.quote import parse_quote, verify_quote
from tpm.software import SoftwareTpm

BOOT_PCRS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]


@pytest.fixture
def simulator(device: Device, tmp_path: Path) -> BootSimulator:
    return BootSimulator(device.extend, device.banks(), tmp_path)


def verified_pcrs(device: Device, bank: str = "sha256") -> Mapping[int, bytes]:
    """PCR values that a verified quote proved."""
    selection = PcrSelection.of({bank: [*BOOT_PCRS, 10]})
    quoted = device.quote(b"nonce", selection)
    key = accept_attestation_key(parse_public(device.attestation_key()))
    quote = parse_quote(quoted.attest, quoted.signature)
    verify_quote(
        quote,
        key,
        nonce=b"nonce",
        selection=selection,
        pcr_values=quoted.pcrs,
        allowed_banks=frozenset({"sha1", "sha256", "sha384"}),
    )
    return quoted.pcrs[bank]


def verify_boot(device: Device, directory: Path, bank: str = "sha256") -> VerifiedEventLog:
    pcrs = verified_pcrs(device, bank)
    log = parse_event_log((directory / EVENT_LOG).read_bytes())
    return verify_event_log(log, bank=bank, pcrs={index: pcrs[index] for index in BOOT_PCRS})


def replay_ima(device: Device, directory: Path, name: str = IMA_ASCII, bank: str = "sha256") -> ImaReplayResult:
    entries = parse_ima_list((directory / name).read_bytes()).entries
    return replay(ImaState.initial(), entries, bank=bank, pcr10=verified_pcrs(device, bank)[10], offset=0)


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_a_boot_passes_the_strict_verifier_in_each_bank(device: Device, simulator: BootSimulator, bank: str) -> None:
    simulator.boot()
    verified = verify_boot(device, simulator.directory, bank)
    assert verified.secure_boot is True
    assert verified.exit_boot_services
    assert verified.quirks_used == frozenset()
    assert verified.claims.crtm_version == "1.0 simulated"
    assert verified.claims.kernel_command_lines == ("/vmlinuz root=/dev/nvme0n1p2 ro ima_policy=tcb",)
    images = [b"simulated shim", b"simulated grub", b"simulated kernel"]
    assert verified.claims.applications == tuple(hashlib.new(bank, image).digest() for image in images)
    assert verified.secure_boot_state.databases["db"].subjects == ("UEFI CA", "Vendor CA")
    assert verified.secure_boot_state.unlisted() == ()
    assert len(verified.secure_boot_state.databases["dbx"].hashes) == 2


def test_the_same_machine_boots_to_the_same_pcrs(
    device: Device, simulator: BootSimulator, software_tpm: SoftwareTpm
) -> None:
    """Otherwise there could be no baseline."""
    simulator.boot()
    before, log = verified_pcrs(device), (simulator.directory / EVENT_LOG).read_bytes()
    software_tpm.power_cycle()
    simulator.boot(Machine())
    assert verified_pcrs(device) == before
    assert (simulator.directory / EVENT_LOG).read_bytes() == log


@pytest.mark.parametrize(
    ("field", "value", "pcrs"),
    [
        ("firmware", b"implant", {0}),
        ("firmware_version", "2.0", {0}),
        ("shim", b"other", {4}),
        ("loader", b"other", {4}),
        ("kernel", b"other", {4, 9}),
        ("initrd", b"other", {9}),
        ("command_line", "root=/dev/sda1 ima=off", {8, 9}),
        ("secure_boot", False, {7}),
        ("forbidden", (bytes(32),), {7}),
    ],
)
def test_each_change_shows_where_it_belongs(tmp_path: Path, field: str, value: object, pcrs: set[int]) -> None:
    def boot(machine: Machine) -> dict[int, bytes]:
        BootSimulator(lambda index, digests: None, ["sha256"], tmp_path).boot(machine)
        return parse_event_log((tmp_path / EVENT_LOG).read_bytes()).replay("sha256")

    before, after = boot(Machine()), boot(replace(Machine(), **{field: value}))
    assert {index for index in before if before[index] != after[index]} == pcrs


def test_secure_boot_off_is_refused_by_the_default_rules(device: Device, simulator: BootSimulator) -> None:
    simulator.boot(Machine(secure_boot=False))
    with pytest.raises(RejectedError) as refused:
        verify_boot(device, simulator.directory)
    assert refused.value.reason == "log.secure_boot_off"


def test_a_boot_without_a_reset_does_not_verify(device: Device, simulator: BootSimulator) -> None:
    simulator.boot()
    simulator.boot()
    with pytest.raises(RejectedError) as refused:
        verify_boot(device, simulator.directory)
    assert refused.value.reason == "log.replay_mismatch"


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
@pytest.mark.parametrize("name", [IMA_ASCII, IMA_BINARY])
def test_both_ima_lists_replay_in_each_bank(device: Device, simulator: BootSimulator, name: str, bank: str) -> None:
    simulator.boot()
    simulator.start_ima()
    simulator.measure("/usr/bin/agent", b"agent")
    simulator.measure("/usr/bin/a name with spaces", b"spaces")
    simulator.measure("/usr/bin/signed", b"signed", signature=b"\x03\x02" + bytes(20))
    simulator.measure("/var/log/open", b"", violation=True)
    result = replay_ima(device, simulator.directory, name, bank)
    assert (result.matched, result.pending) == (5, 0)


def test_the_boot_aggregate_is_that_of_the_quoted_pcrs(device: Device, simulator: BootSimulator) -> None:
    simulator.boot()
    simulator.start_ima()
    simulator.measure("/usr/bin/agent", b"agent")
    rules = ImaRules.of({"/usr/bin/agent": [hashlib.sha256(b"agent").hexdigest()]})
    result = replay_ima(device, simulator.directory)
    appraisal = appraise_ima(result.verified, rules, pcrs={"sha256": verified_pcrs(device)})
    assert (appraisal.entries, appraisal.findings) == (2, ())
    simulator.measure("/usr/bin/stranger", b"stranger")
    with pytest.raises(RejectedError) as refused:
        appraise_ima(replay_ima(device, simulator.directory).verified, rules, pcrs={"sha256": verified_pcrs(device)})
    assert refused.value.reason == "ima.not_allowed"


def test_with_sha1_alone_the_aggregate_is_the_old_one(tmp_path: Path) -> None:
    simulator = BootSimulator(lambda index, digests: None, ["sha1"], tmp_path)
    simulator.boot()
    simulator.start_ima()
    values = parse_event_log((tmp_path / EVENT_LOG).read_bytes()).replay("sha1")
    entries = parse_ima_list((tmp_path / IMA_ASCII).read_bytes()).entries
    value = hashlib.sha1(bytes(20) + bytes.fromhex(_template_hash(tmp_path)), usedforsecurity=False).digest()
    result = replay(ImaState.initial(), entries, bank="sha1", pcr10=value, offset=0)
    rules = ImaRules.of({}, boot_aggregate=frozenset({BootAggregate.SHA1}))
    assert appraise_ima(result.verified, rules, pcrs={"sha1": values}).findings == ()


def _template_hash(directory: Path) -> str:
    return (directory / IMA_ASCII).read_text().split()[1]


def test_a_file_is_measured_once_until_it_changes(device: Device, simulator: BootSimulator) -> None:
    simulator.boot()
    simulator.start_ima()
    assert simulator.measure("/usr/bin/agent", b"agent")
    assert not simulator.measure("/usr/bin/agent", b"agent")
    # Another process on the same machine knows it too.
    other = BootSimulator(device.extend, device.banks(), simulator.directory)
    assert not other.measure("/usr/bin/agent", b"agent")
    assert other.measure("/usr/bin/agent", b"changed")
    assert not simulator.measure("/usr/bin/agent", b"changed")
    assert replay_ima(device, simulator.directory).matched == 3


def test_a_new_boot_begins_new_lists(device: Device, simulator: BootSimulator, software_tpm: SoftwareTpm) -> None:
    simulator.boot()
    simulator.start_ima()
    simulator.measure("/usr/bin/agent", b"agent")
    software_tpm.power_cycle()
    simulator.boot()
    simulator.start_ima()
    assert replay_ima(device, simulator.directory).matched == 1
    assert simulator.measure("/usr/bin/agent", b"agent")


def test_the_list_is_never_behind_the_pcr(tmp_path: Path) -> None:
    """The kernel lists first: at each extend the list already holds what is extended."""
    lengths: list[int] = []

    def extend(index: int, digests: Mapping[str, bytes]) -> None:
        if index == 10:
            lengths.append((tmp_path / IMA_ASCII).read_bytes().count(b"\n"))
            assert len(parse_ima_list((tmp_path / IMA_BINARY).read_bytes()).entries) == lengths[-1]

    simulator = BootSimulator(extend, ["sha256"], tmp_path)
    simulator.boot()
    simulator.start_ima()
    for number in range(5):
        simulator.measure(f"/usr/bin/{number}", b"")
    assert lengths == [1, 2, 3, 4, 5, 6]


def test_measuring_while_others_measure_and_quote_stays_in_order(
    device: Device, simulator: BootSimulator, software_tpm: SoftwareTpm
) -> None:
    """Two measuring programs and a quoting one: each list read after a quote replays, with a pending rest at most."""
    simulator.boot()
    simulator.start_ima()

    def measure(name: str) -> None:
        with Device.open(software_tpm.address) as other:
            own = BootSimulator(other.extend, other.banks(), simulator.directory)
            for number in range(30):
                own.measure(f"/usr/bin/{name}{number}", name.encode())

    threads = [threading.Thread(target=measure, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        pcr10 = verified_pcrs(device)[10]
        entries = parse_ima_list((simulator.directory / IMA_ASCII).read_bytes()).entries
        replay(ImaState.initial(), entries, bank="sha256", pcr10=pcr10, offset=0)
    assert replay_ima(device, simulator.directory).matched == 61
    assert replay_ima(device, simulator.directory).pending == 0


@pytest.fixture
def foreign_replay(tmp_path: Path) -> Iterator[str]:
    """What tpm2_eventlog makes of a simulated boot."""
    if shutil.which("tpm2_eventlog") is None:
        pytest.skip("tpm2_eventlog is not installed")
    BootSimulator(lambda index, digests: None, ["sha1", "sha256"], tmp_path).boot()
    return subprocess.run(
        ["tpm2_eventlog", str(tmp_path / EVENT_LOG)], capture_output=True, text=True, check=True
    ).stdout


def test_a_foreign_reader_replays_the_same_values(foreign_replay: str, tmp_path: Path) -> None:
    """All but PCR 0: tpm2_eventlog 5.4 extends the zeros of the StartupLocality event, which is EV_NO_ACTION, too."""
    log = parse_event_log((tmp_path / EVENT_LOG).read_bytes())
    for bank in ("sha1", "sha256"):
        for index, value in log.replay(bank).items():
            assert index == 0 or f"0x{value.hex()}" in foreign_replay
        wrong = bytes(len(log.replay(bank)[0]))
        for event in log.events[1:]:
            if event.pcr == 0:
                wrong = hashlib.new(bank, wrong + event.digests[bank], usedforsecurity=False).digest()
        assert any(f"0x{value.hex()}" in foreign_replay for value in (wrong, log.replay(bank)[0]))


def test_the_command_line_boots_and_measures(
    device: Device, software_tpm: SoftwareTpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--tpm", software_tpm.address, "--dir", str(tmp_path / "logs")]
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/sh\n")
    assert main([*common, "boot", "--command-line", "quiet"]) == 0
    assert main([*common, "measure", str(program), str(program)]) == 0
    assert capsys.readouterr().out.count("measured") == 2
    assert verify_boot(device, tmp_path / "logs").claims.kernel_command_lines == ("/vmlinuz quiet",)
    assert replay_ima(device, tmp_path / "logs").matched == 2
    assert hashlib.sha256(b"#!/bin/sh\n").hexdigest() in (tmp_path / "logs" / IMA_ASCII).read_text()
    # Rebooting needs the power cycle, and takes it.
    assert main([*common, "boot", "--power-cycle", "--kernel", str(program), "--no-secure-boot"]) == 0
    with pytest.raises(RejectedError) as refused:
        verify_boot(device, tmp_path / "logs")
    assert refused.value.reason == "log.secure_boot_off"
    assert replay_ima(device, tmp_path / "logs").matched == 1


def test_the_command_line_says_what_is_missing(
    software_tpm: SoftwareTpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--tpm", f"socket:{tmp_path}/none", "--dir", str(tmp_path), "boot"]) == 3
    assert main(["--tpm", software_tpm.address, "--dir", str(tmp_path), "measure", str(tmp_path / "none")]) == 3
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["--dir", str(tmp_path), "boot"])
    assert usage.value.code == 2


def test_it_runs_as_a_program(software_tpm: SoftwareTpm, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tpm.boot_simulator",
        "--tpm",
        software_tpm.address,
        "--dir",
        str(tmp_path),
        "boot",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / EVENT_LOG).exists()


def test_it_never_writes_to_a_real_tpm(
    software_tpm: SoftwareTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "open", classmethod(lambda cls, address: _Hardware()))
    assert main(["--tpm", software_tpm.address, "--dir", str(tmp_path), "boot"]) == 3
    assert not (tmp_path / EVENT_LOG).exists()


class _Hardware:
    virtual = False

    def __enter__(self) -> "_Hardware":
        return self

    def __exit__(self, *_: object) -> None:
        pass
