"""Bundles as files: the same bytes each time, packed or not, verified where nothing but the core is installed, attested."""

import asyncio
import base64
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.anchors import anchors_file
from tests.adversarial.test_bundle import drift_away, export, run_job
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.ztrooted.test_rooms import BLOCKER
from ztrooted import canonical, limits
from ztrooted.audit_plan import PLAN
from ztrooted.audit_statement import attest, statement
from ztrooted.bundle import pack, parse_bundle, unpack
from ztrooted.checkpoint import verify_checkpoint
from ztrooted.cli.main import main
from ztrooted.dsse import load_signing_key, pre_authentication_encoding
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.evidence import sha256
from ztrooted.tlog_proof import TlogProof, format_tlog_proof, parse_tlog_proof, verify_tlog_proof
from ztrooted.verify import verify_bundle

CLI = f"""{BLOCKER}
import importlib.metadata
importlib.metadata.entry_points = lambda **_: ()
from ztrooted.cli.main import main
main()
"""


def ztrooted(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command line in a process that can import neither TPM library nor HTTP, database or gateway."""
    words = map(str, arguments)
    return subprocess.run([sys.executable, "-c", CLI, *words], capture_output=True, text=True, check=False)


Here = Callable[..., tuple[int, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process, which is quick to start: exit code and output."""
    monkeypatch.setattr("ztrooted.cli.main.entry_points", lambda **_: ())

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ztrooted", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


def key_file(path: Path, key: Any, mode: int = 0o600) -> Path:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    path.chmod(mode)
    return path


# --- bytes -------------------------------------------------------------------------------------------------------
async def test_two_exports_at_the_same_checkpoint_are_the_same_bytes(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await run_job(executor, channel)
    async with await gate.client("auditor") as auditor:
        one, two = await auditor.bundle(grant.authorization), await auditor.bundle(grant.authorization)
    assert one == two
    assert pack(one) == pack(two)
    assert canonical.encode(json.loads(one)) == one, "it is canonical JSON by the slow way, too"


async def test_each_record_with_its_hashes_and_the_checkpoint_is_a_tlog_proof(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    bundle, anchors = parse_bundle(await export(gate, await run_job(executor, channel))), gate.anchors()
    for one in bundle.records:
        text = format_tlog_proof(TlogProof(one.index, one.proof, bundle.checkpoint))
        proof = parse_tlog_proof(text)
        verified = verify_checkpoint(proof.checkpoint, origin=anchors.origin, log_key=anchors.log_key)
        verify_tlog_proof(proof, one.data, verified)


# --- packed ------------------------------------------------------------------------------------------------------
async def test_a_packed_bundle_is_the_same_bundle_and_has_one_form(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    data = await export(gate, await run_job(executor, channel))
    packed = pack(data)
    assert len(packed) < len(data) / 2
    assert gzip.decompress(packed) == unpack(packed) == unpack(data) == data
    assert verify_bundle(packed, gate.anchors()).facts == verify_bundle(data, gate.anchors()).facts
    others = {
        "another header": gzip.compress(data, 9, mtime=1),
        "bytes behind it": packed + b"\0",
        "a second member": packed + pack(b""),
        "cut off": packed[:-9],
        "without sums": packed[:-8],
        "only a header": packed[:10],
        "another sum": packed[:-8] + bytes(8),
        "packed twice": pack(packed),
        "packed text": pack(b"{}"),
    }
    for name, other in others.items():
        report = verify_bundle(other, gate.anchors())
        assert report.failed is not None, name
        assert (report.failed.name, report.failed.reason) == ("bundle", "bundle.malformed"), name
    chosen, accepted = random.Random(7), 0  # noqa: S311
    for _ in range(3000):
        flipped = bytearray(packed)
        flipped[chosen.randrange(len(flipped))] ^= 1 << chosen.randrange(8)
        try:
            accepted += unpack(bytes(flipped)) != data and bytes(flipped[:2]) == packed[:2]
        except GateError:
            continue
    assert accepted == 0, "no flip gives another text"


async def test_a_file_that_ends_in_gz_is_packed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path, here: Here
) -> None:
    grant = await run_job(executor, channel, renewals=0)
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(await gate.token("auditor"))
    files = tmp_path / "bundle.json", tmp_path / "bundle.json.gz"
    for file in files:
        options = ("--gateway", gate.url, "--ca", gate.ca, "--token-file", token, "-o", file)
        code, _ = await asyncio.to_thread(here, "audit", "export", grant.authorization, *options)
        assert code == 0
    plain, packed = (file.read_bytes() for file in files)
    assert pack(plain) == packed


def test_N2_what_a_packed_bundle_becomes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb: a thousand times its size, refused before more than the maximum was made of it."""
    monkeypatch.setattr(limits, "BUNDLE", 1 << 20)
    bomb = pack(bytes((1 << 20) + 1))
    assert len(bomb) < 2000
    with pytest.raises(ProofError, match=r"bundle\.too_large"):
        unpack(bomb)
    assert len(unpack(pack(bytes(1 << 20)))) == 1 << 20


# --- where nothing is installed, and signed ----------------------------------------------------------------------
async def test_drift_and_denial_are_proved_where_nothing_else_is_installed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path
) -> None:
    """A drift run's bundle proves the interruption, a denial's the denial; one of them is packed."""
    (tmp_path / "anchors.toml").write_text(anchors_file(gate.gateway.config))
    drifted = await drift_away(executor, channel)
    (tmp_path / "drift.json.gz").write_bytes(pack(await export(gate, drifted)))
    with pytest.raises(GateError) as denied:
        await executor.authorize(job("denied"))
    async with await gate.client("auditor") as auditor:
        data = await auditor.bundle(denied.value.authorization)  # type: ignore[attr-defined]
    (tmp_path / "denial.json").write_bytes(data)
    key = key_file(tmp_path / "key.pem", ed25519.Ed25519PrivateKey.generate())
    attested = ("--attest", key, "-o", tmp_path / "statement.json")
    facts: dict[str, Any] = {}
    for name, more in (("drift.json.gz", attested), ("denial.json", ())):
        done = ztrooted("audit", "verify", tmp_path / name, "--anchors", tmp_path / "anchors.toml", "--json", *more)
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert report["verified"] is True
        assert {check["status"] for check in report["checks"]} == {"pass"}
        facts[name] = report["facts"]
    drift, denial = facts["drift.json.gz"], facts["denial.json"]
    assert (drift["outcome"], drift["reason"]) == ("killed", "ima.not_allowed")
    assert drift["rounds"] > drift["good_quotes"] > 0
    assert 0 <= drift["largest_gap_ms"] <= drift["allowed_gap_ms"]
    assert drift["exposure_at_most_ms"] >= drift["revoked_to_interrupted_ms"] >= 0
    assert drift["intent_to_authorization_ms"] >= 0
    assert (denial["outcome"], denial["reason"], denial["good_quotes"]) == ("denied", "ima.not_allowed", 0)
    envelope = json.loads((tmp_path / "statement.json").read_text())
    said = json.loads(base64.b64decode(envelope["payload"]))
    assert said["subject"][0]["digest"]["sha256"] == sha256(unpack((tmp_path / "drift.json.gz").read_bytes()))
    assert said["predicate"]["facts"] == drift
    assert said["predicate"]["anchors"]["sha256"] == sha256((tmp_path / "anchors.toml").read_bytes())


async def test_nothing_is_attested_of_what_did_not_verify(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path, here: "Here"
) -> None:
    data = await export(gate, await run_job(executor, channel, renewals=1))
    (tmp_path / "anchors.toml").write_text(anchors_file(gate.gateway.config))
    (tmp_path / "bundle.json").write_bytes(data.replace(b"exited", b"killed"))
    key = key_file(tmp_path / "key.pem", ed25519.Ed25519PrivateKey.generate())
    arguments = (tmp_path / "bundle.json", "--anchors", tmp_path / "anchors.toml", "-o", tmp_path / "out.json")
    assert here("audit", "verify", *arguments, "--attest", key)[0] == 1
    assert not (tmp_path / "out.json").exists()
    failed = verify_bundle((tmp_path / "bundle.json").read_bytes(), gate.anchors())
    with pytest.raises(ProofError, match="nothing is attested"):
        statement(failed, bundle=data, anchors=b"", verifier="v", now_ms=0)
    for wrong in (
        key_file(tmp_path / "open.pem", ed25519.Ed25519PrivateKey.generate(), 0o644),
        tmp_path / "bundle.json",
    ):
        code, output = here("audit", "verify", *arguments, "--attest", wrong, "--json")
        assert (code, json.loads(output)["error"]["reason"]) == (3, "environment.key_file")
    assert here("audit", "verify", *arguments)[0] == 2, "--output without --attest"
    assert here("audit", "verify", tmp_path / "bundle.json")[0] == 2, "no anchors"


def test_the_plan_is_printed_without_a_bundle(here: Here) -> None:
    assert [line.split(":")[0].strip() for line in here("audit", "verify", "--plan")[1].splitlines()] == [
        f"{number}. {name}" for number, (name, _) in enumerate(PLAN, 1)
    ]
    assert [one["name"] for one in json.loads(here("audit", "verify", "--plan", "--json")[1])["plan"]] == [
        name for name, _ in PLAN
    ]


async def test_the_envelope_is_signed_over_type_and_payload(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    data = await export(gate, await run_job(executor, channel, renewals=0))
    report = verify_bundle(data, gate.anchors())
    key = ec.generate_private_key(ec.SECP256R1())
    envelope = attest(report, key, bundle=data, anchors=b"a", verifier="v", now_ms=0)
    payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])
    signed = pre_authentication_encoding(envelope["payloadType"], payload)
    assert signed == b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    key.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, payload, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), b"nothing"], ids=["P-384", "no key"])
def test_other_keys_sign_nothing(key: Any, tmp_path: Path) -> None:
    pem = key if isinstance(key, bytes) else key_file(tmp_path / "key", key).read_bytes()
    with pytest.raises(EnvironmentProblem, match=r"environment\.key_file"):
        load_signing_key(pem, "key")
