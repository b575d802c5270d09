"""``ztrooted doctor`` on an executor's machine: each thing broken alone is found alone, and looking changes nothing."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.eventlog_builder import Log, honest_boot
from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.support.tpm import SoftwareTpms
from tpm.attest import parse_attest
from tpm.device import Device
from tpm.device_checkup import CheckedDevice
from tpm.device_connection import tss
from tpm.ima_writer import ima_entry
from tpm.software import SoftwareTpm
from tpm.templates import attestation_key_template
from ztrooted.doctor import chip, machine, network
from ztrooted.doctor.finding import Finding
from ztrooted.executor import cgroups, kernel

__all__ = ["gate"]  # a fixture


def problems(found: Iterable[Finding]) -> dict[str, str]:
    """What did not pass: reason -> level."""
    return {str(one.reason): str(one.level) for one in found if one.reason is not None}


def tool(software: SoftwareTpm, *command: str) -> int:
    """A program of tpm2-tools, on a running TPM."""
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={software.path}", "TSS2_LOG": "all+none"}
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=30).returncode


VIRTUAL = {"machine.tpm_virtual": "warning"}  # of each TPM in here


@pytest.fixture
def event_log(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    path.write_bytes(Log(honest_boot()).data())
    return path


@pytest.fixture
def ima(tmp_path: Path) -> Path:
    path = tmp_path / "ima"
    path.write_bytes(ima_entry("boot_aggregate", bytes(32)).ascii)
    return path


def test_a_sound_machine_passes(software_tpms: SoftwareTpms, event_log: Path, ima: Path, tmp_path: Path) -> None:
    software = software_tpms(certificates=True)
    done = run("doctor", "--tpm", software.address, "--event-log", str(event_log), "--ima", str(ima), "--json",
               "--socket", str(tmp_path / "agent.sock"))  # fmt: skip
    said = json.loads(done.stdout)
    by_check = {one["check"]: one for one in said["findings"]}
    for check in ("tpm permissions", "tpm", "pcr banks", "tpm lockout", "tpm hierarchies", "tpm key", "ek certificate",
                  "event log", "ima list", "socket"):  # fmt: skip
        assert by_check[check]["level"] == "pass", by_check[check]
        assert by_check[check]["reason"] is None
    assert by_check["tpm kind"]["reason"] == "machine.tpm_virtual"
    assert by_check["tpm kind"]["meaning"]
    assert by_check["tpm kind"]["remedy"]
    assert done.returncode == (0 if said["sound"] else 1)


def test_people_read_what_it_means_and_what_to_do(tmp_path: Path, event_log: Path, ima: Path) -> None:
    done = run("doctor", "--tpm", f"device:{tmp_path}/tpmrm9", "--event-log", str(event_log), "--ima", str(ima))
    assert done.returncode == 1
    assert "machine.tpm_absent" in done.stdout
    assert "What to do:" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("warnings.") or "warning." in done.stdout.splitlines()[-1]


def test_looking_changes_nothing(software_tpms: SoftwareTpms, event_log: Path, ima: Path, tmp_path: Path) -> None:
    software = software_tpms(certificates=True)

    def state() -> tuple[object, ...]:
        with Device.open(software.address) as device:
            quoted = device.quote(b"x", {"sha256": range(24)})
            clock = parse_attest(quoted.attest).clock
        kept = sorted(path for path in software.state.iterdir() if path.is_file())
        return (
            clock.reset_count,
            clock.restart_count,
            quoted.pcrs,
            {path.name: hashlib.sha256(path.read_bytes()).digest() for path in kept},
        )

    def files() -> dict[Path, float]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    state()
    before, here = state(), files()
    run("doctor", "--tpm", software.address, "--event-log", str(event_log), "--ima", str(ima),
        "--socket", str(tmp_path / "new" / "agent.sock"))  # fmt: skip
    assert files() == here
    with CheckedDevice.open(software.address) as device:
        assert not device._handles(range(0x80000000, 0x80000010))  # no key is left in it
    assert state() == before


def test_a_software_tpm_that_does_not_run_is_not_started(software_tpms: SoftwareTpms, tmp_path: Path) -> None:
    software = software_tpms(fresh=True)
    software.close()
    before = sorted(software.state.rglob("*"))
    assert problems(chip.look_at_tpm(f"swtpm:{software.state}")) == {"machine.tpm_not_running": "warning"}
    assert sorted(software.state.rglob("*")) == before
    assert problems(chip.look_at_tpm(f"swtpm:{tmp_path}/none")) == {"machine.tpm_absent": "fail"}


def test_no_tpm(tmp_path: Path) -> None:
    assert problems(chip.look_at_tpm(f"device:{tmp_path}/tpmrm0")) == {"machine.tpm_absent": "fail"}


def test_a_tpm_that_this_user_may_not_use(software_tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may use anything
    found = list(chip.look_at_tpm(software_tpm.address))
    assert problems(found) == {"machine.tpm_permission": "fail"}
    assert str(software_tpm.path) in found[0].detail


def test_a_tpm_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "tpm0"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))  # nobody listens
        assert problems(chip.look_at_tpm(f"socket:{path}")) == {"machine.tpm_failing": "fail"}


def test_no_sha256_bank(software_tpms: SoftwareTpms) -> None:
    software = software_tpms(fresh=True, certificates=True, banks=("sha1", "sha384"))
    assert problems(chip.look_at_tpm(software.address)) == {**VIRTUAL, "machine.tpm_bank": "fail"}


def test_no_ek_certificate(software_tpm: SoftwareTpm) -> None:
    assert problems(chip.look_at_tpm(software_tpm.address)) == {**VIRTUAL, "machine.ek_certificate": "warning"}
    assert problems(chip.look_at_tpm(software_tpm.address, certificates=False)) == VIRTUAL


def test_a_hierarchy_with_a_password(software_tpms: SoftwareTpms) -> None:
    software = software_tpms(certificates=True)
    assert tool(software, "tpm2_changeauth", "-c", "endorsement", "secret") == 0
    assert problems(chip.look_at_tpm(software.address)) == {**VIRTUAL, "machine.tpm_hierarchy": "fail"}


def test_wrong_passwords_and_then_lockout(software_tpms: SoftwareTpms) -> None:
    software = software_tpms(certificates=True)
    index = "0x01500020"
    parameters = ("--max-tries=2", "--recovery-time=1000", "--lockout-recovery-time=1000")
    assert tool(software, "tpm2_dictionarylockout", "--setup-parameters", *parameters) == 0
    assert tool(software, "tpm2_nvdefine", index, "-C", "o", "-s", "8", "-p", "right", "-a", "authread|authwrite") == 0
    assert problems(chip.look_at_tpm(software.address)) == VIRTUAL
    assert tool(software, "tpm2_nvread", index, "-C", index, "-P", "wrong") != 0
    assert problems(chip.look_at_tpm(software.address)) == {**VIRTUAL, "machine.tpm_lockout": "warning"}
    assert tool(software, "tpm2_nvread", index, "-C", index, "-P", "wrong") != 0
    assert problems(chip.look_at_tpm(software.address)) == {**VIRTUAL, "machine.tpm_lockout": "fail"}


def test_another_tpm_than_the_known_one(software_tpms: SoftwareTpms) -> None:
    one, other = software_tpms(certificates=True), software_tpms(fresh=True, certificates=True)
    with Device.open(one.address) as device:
        known = device.attestation_key()
    assert problems(chip.look_at_tpm(one.address, known=known)) == VIRTUAL
    assert problems(chip.look_at_tpm(other.address, known=known)) == {**VIRTUAL, "machine.tpm_other": "fail"}


def test_where_others_hold_every_slot_none_of_theirs_is_flushed(software_tpms: SoftwareTpms) -> None:
    software = software_tpms(certificates=True)
    with CheckedDevice.open(software.address) as other:
        for label in ("a", "b", "c"):
            other._create(attestation_key_template(label), tss.ESYS_TR.ENDORSEMENT)
        held = other._handles(range(0x80000000, 0x80000010))
        assert len(held) == 3
        assert problems(chip.look_at_tpm(software.address)) == {**VIRTUAL, "machine.tpm_failing": "fail"}
        assert other._handles(range(0x80000000, 0x80000010)) == held


def test_a_device_without_the_resource_manager(software_tpms: SoftwareTpms, tmp_path: Path) -> None:
    raw = tmp_path / "tpm0"
    raw.touch()
    found = problems(chip.look_at_tpm(f"device:{raw}"))  # a file is no TPM either
    assert found["machine.tpm_raw"] == "warning"


def test_event_logs_that_are_none(tmp_path: Path, event_log: Path) -> None:
    assert machine.look_at_event_log(event_log).reason is None
    whole = event_log.read_bytes()
    for broken in (b"", whole[:-1], b"\0" * 100, b"\0" * ((1 << 20) + 1), Log([]).data()):
        event_log.write_bytes(broken)
        assert machine.look_at_event_log(event_log).reason == "machine.event_log"
    assert machine.look_at_event_log(tmp_path / "none").reason == "machine.event_log"
    assert machine.look_at_event_log(tmp_path).reason == "machine.event_log"


def test_measurement_lists_that_are_none_and_kernels_that_do_not_measure(tmp_path: Path, ima: Path) -> None:
    told, silent = tmp_path / "told", tmp_path / "silent"
    told.write_text("root=/dev/vda1 ima_policy=tcb ima_hash=sha256\n")
    silent.write_text("root=/dev/vda1 ima_hash=sha256\n")
    assert problems(machine.look_at_ima(ima, told)) == {}
    assert problems(machine.look_at_ima(ima, silent)) == {"machine.ima_policy": "warning"}
    assert problems(machine.look_at_ima(ima, tmp_path / "none")) == {"machine.ima_policy": "warning"}
    assert problems(machine.look_at_ima(tmp_path / "none", told)) == {"machine.ima_list": "fail"}
    for broken in (b"", b"10 not a list\n"):
        ima.write_bytes(broken)
        assert problems(machine.look_at_ima(ima, told)) == {"machine.ima_list": "fail"}


def test_a_clock_behind_the_program_and_one_that_nothing_keeps() -> None:
    now = time.time()
    assert machine.look_at_clock(now, kept=True).reason is None
    assert problems([machine.look_at_clock(now, kept=False)]) == {"machine.clock": "warning"}
    assert problems([machine.look_at_clock(1_000_000_000, kept=True)]) == {"machine.clock": "fail"}
    assert machine.look_at_clock(now).reason in {None, "machine.clock"}  # the kernel was asked


def test_no_pid_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.look_at_namespaces().detail  # whatever this machine allows, it is told and nothing is left behind

    def refuse(flags: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "_unshare", refuse)
    assert problems([machine.look_at_namespaces()]) == {"machine.pid_namespace": "fail"}


def test_no_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "cgroup.controllers").write_text("cpu memory pids\n")
    (whole / "cgroup.subtree_control").touch()
    monkeypatch.setattr(cgroups, "_own_groups", lambda: {"": whole})
    assert machine.look_at_cgroups().detail == "memory: v2, pids: v2, cpu: v2"
    (whole / "cgroup.controllers").write_text("cpu pids\n")
    assert problems([machine.look_at_cgroups()]) == {"machine.cgroups": "warning"}
    monkeypatch.setattr(cgroups, "_own_groups", lambda: {"memory": tmp_path, "pids": tmp_path, "cpu": tmp_path})
    assert machine.look_at_cgroups().detail == "memory: v1, pids: v1, cpu: v1"
    monkeypatch.setattr(cgroups, "_own_groups", dict)
    assert problems([machine.look_at_cgroups()]) == {"machine.cgroups": "warning"}


def test_a_folder_for_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.look_at_socket(tmp_path / "x.sock").reason is None
    assert machine.look_at_socket(tmp_path / "a" / "b" / "x.sock").reason is None
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert machine.look_at_socket(tmp_path / "x.sock").reason == "machine.socket"
    assert machine.look_at_socket(tmp_path / "a" / "x.sock").reason == "machine.socket"


def test_options_that_need_each_other() -> None:
    assert run("doctor", "--gateway", "https://gate.example:8443").returncode == 2


async def test_a_gateway_that_is_reached(
    gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(url: str, ca: Path) -> dict[str, str]:
        return problems(await asyncio.to_thread(lambda: list(network.look_at_gateway(url, ca))))

    assert await look(gate.url, gate.ca) == {}
    assert await look("http://127.0.0.1:1", gate.ca) == {"config.invalid": "fail"}
    assert await look(f"https://127.0.0.1:{_free_port()}", gate.ca) == {"environment.gateway_unreachable": "fail"}
    other = tmp_path / "other.pem"
    other.write_bytes((gate.data / "executor-ca" / "cert.pem").read_bytes())
    assert await look(gate.url, other) == {"environment.tls": "fail"}
    assert await look(gate.url, tmp_path / "none.pem") == {"environment.tls": "fail"}
    gate.clock.set_s += 3600
    assert await look(gate.url, gate.ca) == {"service.not_ready": "warning"}
    gate.clock.set_s = 0
    monkeypatch.setattr(network, "parsedate_to_datetime", lambda _: datetime.now(UTC) + timedelta(seconds=60))
    assert await look(gate.url, gate.ca) == {"machine.clock": "fail"}


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])
