"""``ztrooted gateway reseal`` and ``approve``: what their users type, and what they get wrong."""

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.app import DATABASE
from gateway.identity import IDENTITY_FILE
from tests.e2e.test_bad_input import ENVIRONMENT, NO, USAGE, refuse
from tests.support.commands import run
from tests.support.tpm import SoftwareTpms
from tpm.device import Device
from tpm.software import SoftwareTpm

pytestmark = pytest.mark.timeout(90)
WHO = ("--operator", "olivia", "--reason", "firmware 2.1")


@dataclass(frozen=True, slots=True)
class Lab:
    """A stopped gateway and its approver's key, in one folder."""

    folder: Path
    tpm: SoftwareTpm

    @property
    def data(self) -> str:
        return str(self.folder / "gateway")

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def drift(self) -> None:
        with Device.open(self.tpm.address) as device:
            device.extend(4, {"sha256": b"\7" * 32})

    def approval(self, name: str, key: str = "approver.pem") -> str:
        """A new approval of the state that the machine is in now."""
        succeed("gateway", "reseal", self.data, "--request", self.file(f"{name}.request"))
        request, approval = self.file(f"{name}.request"), self.file(name)
        succeed("gateway", "approve", request, "--approver", self.file(key), "--output", approval)
        return approval

    def state(self) -> tuple[bytes, int]:
        """What a refusal leaves as it was."""
        with closing(sqlite3.connect(self.folder / "gateway" / DATABASE)) as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
        return (self.folder / "gateway" / IDENTITY_FILE).read_bytes(), count


def succeed(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*pem))
    path.chmod(0o600)


def make(folder: Path, tpm: SoftwareTpm, ek_ca: bytes, domain: str, *options: str) -> Lab:
    lab = Lab(folder, tpm)
    (folder / "roots.pem").write_bytes(ek_ca)
    roots = ("--ek-roots", lab.file("roots.pem"), "--ek-vendor", "id:00001014", "--port", "0")
    succeed("gateway", "init", lab.data, "--tpm", tpm.address, "--trust-domain", domain, *roots, *options)
    # Its first command makes the database; a gateway that never served has a token in it.
    succeed("gateway", "token", lab.data, "--role", "auditor", "--name", "anna", "--output", lab.file("token"))
    return lab


@pytest.fixture
def lab(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> Iterator[Lab]:
    for name, key in (
        ("approver.pem", ec.generate_private_key(ec.SECP256R1())),
        ("other.pem", ec.generate_private_key(ec.SECP256R1())),
        ("ed25519.pem", ed25519.Ed25519PrivateKey.generate()),
    ):
        write_key(tmp_path / name, key)
    return make(tmp_path, software_tpms(fresh=True), ek_ca, "gate.test", "--approver", str(tmp_path / "approver.pem"))


def test_three_commands_after_an_update(lab: Lab) -> None:
    lab.drift()
    refused = run("gateway", "serve", lab.data)
    assert refused.returncode == ENVIRONMENT
    assert "ztrooted gateway reseal" in refused.stderr
    said = succeed("gateway", "reseal", lab.data, "--request", lab.file("request"))
    assert "sha256:4 was 0000" in said
    assert "sha256:3 was" not in said
    request = json.loads(Path(lab.file("request")).read_bytes())
    assert request["pcrs"]["sha256"]["4"] != request["approved"]["sha256"]["4"]
    assert stat.S_IMODE(Path(lab.file("request")).stat().st_mode) == 0o600
    made = succeed(
        "gateway",
        "approve",
        lab.file("request"),
        "--approver",
        lab.file("approver.pem"),
        "-o",
        lab.file("ok"),
        "--json",
    )
    assert json.loads(made) == json.loads(Path(lab.file("ok")).read_bytes())
    done = json.loads(succeed("gateway", "reseal", lab.data, "--approval", lab.file("ok"), *WHO, "--json"))
    assert (done["version"], done["operator"], done["reason"]) == (request["version"], "olivia", "firmware 2.1")
    again = json.loads(succeed("gateway", "reseal", lab.data, "--approval", lab.file("ok"), *WHO, "--json"))
    assert again["size"] == done["size"]  # who is not sure types it once more
    assert "sound" in succeed("gateway", "fsck", lab.data)
    assert "former_gateway_pcrs" in succeed("gateway", "anchors", lab.data)


def test_one_command_where_the_key_is_at_hand(lab: Lab) -> None:
    lab.drift()
    said = succeed("gateway", "reseal", lab.data, "--approver", lab.file("approver.pem"), *WHO)
    assert said.startswith("Resealed as version 2; record ")
    assert "sound" in succeed("gateway", "fsck", lab.data)


def test_what_is_typed_wrong_changes_nothing(lab: Lab) -> None:
    lab.drift()
    approval, before = lab.approval("approval"), lab.state()
    reseal = ("gateway", "reseal", lab.data)
    Path(lab.file("text")).write_text("yes\n")
    Path(lab.file("large")).write_bytes(b" " * 70_000)
    Path(lab.file("open.pem")).write_bytes(Path(lab.file("approver.pem")).read_bytes())
    Path(lab.file("open.pem")).chmod(0o644)
    here, nowhere = lab.file("text"), lab.file("no/where")
    for options, code, reason in (
        ((), USAGE, "reseal.document"),
        (("--request", lab.file("r"), "--approval", approval), USAGE, "reseal.document"),
        (("--request", nowhere), ENVIRONMENT, "environment.output"),
        (("--request", here), ENVIRONMENT, "environment.output"),
        (("--approval", nowhere, *WHO), ENVIRONMENT, "config.missing"),
        (("--approval", here, *WHO), USAGE, "reseal.document"),
        (("--approval", lab.file("large"), *WHO), USAGE, "reseal.document"),
        (("--approval", lab.file("approval.request"), *WHO), USAGE, "reseal.document"),
        (("--approval", approval), USAGE, "request.malformed"),
        (("--approval", approval, "--operator", "olivia"), USAGE, "request.malformed"),
        (("--approver", nowhere, *WHO), ENVIRONMENT, "environment.key_file"),
        (("--approver", here, *WHO), ENVIRONMENT, "environment.key_file"),
        (("--approver", lab.file("open.pem"), *WHO), ENVIRONMENT, "environment.key_file"),
        (("--approver", lab.file("ed25519.pem"), *WHO), ENVIRONMENT, "environment.key_file"),
        (("--approver", lab.file("other.pem"), *WHO), USAGE, "reseal.document"),
    ):
        refuse(*reseal, *options, code=code, reason=reason)
        assert lab.state() == before, options
    assert not Path(lab.file("r")).exists()
    assert Path(here).read_text() == "yes\n"
    refuse("gateway", "reseal", nowhere, "--request", lab.file("r"), code=ENVIRONMENT, reason="config.missing")


def test_what_is_not_to_be_approved_is_not(lab: Lab) -> None:
    lab.approval("approval")
    request, key = lab.file("approval.request"), lab.file("approver.pem")
    approve = ("gateway", "approve")
    for arguments, code, reason in (
        ((lab.file("no"), "--approver", key, "-o", lab.file("x")), ENVIRONMENT, "config.missing"),
        ((lab.file("approval"), "--approver", key, "-o", lab.file("x")), USAGE, "reseal.document"),
        ((key, "--approver", key, "-o", lab.file("x")), USAGE, "reseal.document"),
        ((request, "--approver", lab.file("no"), "-o", lab.file("x")), ENVIRONMENT, "environment.key_file"),
        ((request, "--approver", lab.file("other.pem"), "-o", lab.file("x")), USAGE, "reseal.document"),
        ((request, "--approver", key, "-o", lab.file("no/where")), ENVIRONMENT, "environment.output"),
        ((request, "--approver", key, "-o", request), ENVIRONMENT, "environment.output"),
    ):
        refuse(*approve, *arguments, code=code, reason=reason)
    assert not Path(lab.file("x")).exists()


def test_an_approval_for_another_time_state_gateway_or_by_another_is_refused(
    lab: Lab, software_tpms: SoftwareTpms, ek_ca: bytes
) -> None:
    first, used = lab.approval("first"), lab.approval("used")
    forged = json.loads(Path(first).read_bytes())
    Path(lab.file("forged")).write_text(json.dumps(forged | {"version": "9"}))
    (lab.folder / "b").mkdir()
    other = make(
        lab.folder / "b", software_tpms(fresh=True), ek_ca, "other.test", "--approver", lab.file("approver.pem")
    )
    foreign = other.folder / "foreign"
    succeed("gateway", "reseal", other.data, "--request", other.file("request"))
    key = ("--approver", lab.file("approver.pem"))
    succeed("gateway", "approve", other.file("request"), *key, "--output", str(foreign))
    succeed("gateway", "reseal", lab.data, "--approval", used, *WHO)
    before = lab.state()
    reseal = ("gateway", "reseal", lab.data, *WHO, "--approval")
    refuse(*reseal, lab.file("forged"), code=NO, reason="reseal.refused")
    assert "gate.test/lineage" in refuse(*reseal, str(foreign), code=USAGE, reason="reseal.document").detail
    late = lab.approval("late")
    lab.drift()
    assert "reseal --request" in refuse(*reseal, late, code=ENVIRONMENT, reason="reseal.refused").remedy
    assert lab.state() == before


def test_an_approval_counts_once(lab: Lab) -> None:
    kept = lab.approval("kept")
    succeed("gateway", "reseal", lab.data, "--approval", kept, *WHO)
    succeed("gateway", "reseal", lab.data, "--approver", lab.file("approver.pem"), *WHO)
    said = refuse("gateway", "reseal", lab.data, "--approval", kept, *WHO, code=NO, reason="reseal.refused")
    assert "so the next one is" in said.detail


def test_a_gateway_without_an_approver_says_so(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> None:
    plain = make(tmp_path, software_tpms(fresh=True), ek_ca, "gate.test")
    said = refuse("gateway", "reseal", plain.data, "--request", plain.file("r"), code=3, reason="reseal.no_approver")
    assert "--approver" in said.remedy
    assert not Path(plain.file("r")).exists()
