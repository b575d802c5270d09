"""Other people's libraries read what we write, and refuse what was changed in it; see tests/support/opinions.py."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.adversarial.test_bundle import export, run_job
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import jose
from ztrooted.audit_statement import attest
from ztrooted.bundle import Bundle, parse_bundle
from ztrooted.checkpoint import verify_checkpoint
from ztrooted.dsse import SigningKey
from ztrooted.jose import jwk
from ztrooted.verify import verify_bundle

ROOT = Path(__file__).resolve().parents[2]
Arguments = dict[str, Any]


@pytest.fixture(scope="module")
def peers() -> Path:
    """The interpreter of .peers."""
    made = subprocess.run([ROOT / "scripts" / "peers"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"scripts/peers could not install the other libraries: {made.stderr.strip()[-200:]}")
    return ROOT / ".peers" / "bin" / "python"


def questions(data: bytes, gate: GatewayInProcess) -> Iterator[tuple[str, Arguments, Arguments]]:
    """Name, what is genuine, and the same with one thing changed."""
    bundle, anchors = parse_bundle(data), gate.anchors()
    head = verify_checkpoint(bundle.checkpoint, origin=anchors.origin, log_key=anchors.log_key).checkpoint
    note, root = bundle.checkpoint.decode(), head.root.hex()
    key = base64.b64encode(anchors.log_key.material).decode()
    genuine: Arguments = {"note": note, "key": key, "origin": head.origin, "size": head.size, "root": root}
    yield "checkpoint", genuine, genuine | {"note": note.replace(f"\n{head.size}\n", f"\n{head.size + 1}\n")}
    for number, one in enumerate(bundle.records):
        path = [part.hex() for part in one.proof]
        genuine = {"record": one.data.decode(), "index": one.index, "size": head.size, "proof": path, "root": root}
        yield f"inclusion {number}", genuine, genuine | {"record": one.data.decode() + " "}
    yield from _artifacts(bundle, gate)
    for name, signer in (("ed25519", ed25519.Ed25519PrivateKey.generate()), ("p256", _p256())):
        yield f"dsse {name}", *_statement(data, gate, signer)


def _p256() -> SigningKey:
    return ec.generate_private_key(ec.SECP256R1())


def _artifacts(bundle: Bundle, gate: GatewayInProcess) -> Iterator[tuple[str, Arguments, Arguments]]:
    public, config = gate.gateway.signer.epoch.private.public_key(), gate.gateway.config
    for number, digest in enumerate(bundle.artifacts):
        token = bundle.blob(digest).decode()
        claims = json.loads(jose.parse(token, typ="ztrooted-authz+jwt").payload)
        genuine: Arguments = {
            "token": token,
            "jwk": jwk(public),
            "audience": config.audience,
            "issuer": config.issuer,
            "claims": claims,
        }
        head, payload, signature = token.split(".")
        later = base64.urlsafe_b64encode(json.dumps(claims | {"exp": claims["exp"] + 1}).encode()).rstrip(b"=").decode()
        assert later != payload
        for library in ("pyjwt", "joserfc"):
            yield f"artifact_{library} {number}", genuine, genuine | {"token": f"{head}.{later}.{signature}"}


def _statement(data: bytes, gate: GatewayInProcess, key: SigningKey) -> tuple[Arguments, Arguments]:
    report = verify_bundle(data, gate.anchors())
    envelope = attest(report, key, bundle=data, anchors=b"anchors", verifier="ztrooted 0", now_ms=1)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    genuine: Arguments = {"envelope": envelope, "pem": pem.decode()}
    other = base64.b64decode(envelope["payload"]).replace(b'"verified_at":1', b'"verified_at":2')
    return genuine, genuine | {"envelope": envelope | {"payload": base64.b64encode(other).decode()}}


async def test_they_read_what_is_genuine_and_refuse_what_was_changed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, peers: Path
) -> None:
    """sigstore-python the checkpoint and proofs, PyJWT and joserfc artifacts, securesystemslib the signed statement."""
    data = await export(gate, await run_job(executor, channel))
    asked: dict[str, Arguments] = {}
    for name, genuine, changed in questions(data, gate):
        asked |= {f"{name} genuine": genuine, f"{name} changed": changed}
    program = ROOT / "tests" / "support" / "opinions.py"
    done = await asyncio.to_thread(
        subprocess.run, [peers, "-I", program], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    assert found.keys() == asked.keys()
    assert len(found) > 40
    for name, why_not in found.items():
        assert (why_not is None) is name.endswith("genuine"), (name, why_not)


async def test_another_reader_of_OpenAPI_finds_no_fault(gate: GatewayInProcess, peers: Path, tmp_path: Path) -> None:
    file = tmp_path / "openapi.json"
    described = (await gate.call("GET", "/v1/openapi.json")).json
    command = [peers, "-m", "openapi_spec_validator", "--schema", "3.1", file]
    for fits in (True, False):  # and without a title it does
        file.write_text(json.dumps(described))
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is fits, done.stdout + done.stderr
        described["info"].pop("title", None)
