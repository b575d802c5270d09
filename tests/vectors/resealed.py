"""A gateway whose state its approver replaced: what it sealed before and after, and anchors that say it rightly or not."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import reseal as resealing
from gateway.anchors import anchors_file
from gateway.config import load_config
from tests.adversarial.test_bundle import Lie, export
from tests.support.executor import ScriptedExecutor, job
from tests.support.forger import Forger
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import SoftwareTpms
from tests.vectors.lies import flip, identity
from tests.vectors.operations import Operation
from tpm.device import Device
from ztrooted import canonical
from ztrooted.errors import GateError
from ztrooted.keys import spki
from ztrooted.models import Grant

# Title, bundle, and which anchors it is judged by.
CASES = (
    ("resealed, in the state before", "before-reseal", "resealed"),
    ("resealed, in the state after", "resealed", "resealed"),
    ("resealed, up to the last checkpoint of the state before", "before-reseal", "resealed-then"),
    ("resealed, a checkpoint later than its state", "before-reseal", "resealed-earlier"),
    ("resealed, without the state before", "before-reseal", "resealed-without-former"),
    ("resealed, after its time in the state before", "resealed", "resealed-not-told"),
    ("resealed, in the state before of those who were not told", "before-reseal", "resealed-not-told"),
    ("resealed, at an anchor", "resealed-anchor", "resealed"),
    ("resealed, by another approver", "resealed", "resealed-other-approver"),
    ("resealed, by no approver", "resealed", "resealed-no-approver"),
)


@dataclass(frozen=True)
class Resealed:
    """The gateway, running in its second state; bundles by name; anchors of before and after as text."""

    gate: GatewayInProcess
    bundles: dict[str, bytes]
    first: str
    second: str
    size: int


def _gateway(
    folder: Path, software_tpms: SoftwareTpms, ek_ca: bytes
) -> tuple[GatewayInProcess, ec.EllipticCurvePrivateKey]:
    """It, and its approver."""
    folder.mkdir()
    private = ec.generate_private_key(ec.SECP256R1())
    key = folder / "approver.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(private.private_bytes(*form))
    key.chmod(0o600)
    return GatewayInProcess(folder, software_tpms(fresh=True), ek_ca, {}, approver=key), private


@asynccontextmanager
async def run(folder: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> AsyncIterator[Resealed]:
    """One denial in each state. A denial before anybody was asked is the smallest story that there is."""
    gate, private = _gateway(folder, software_tpms, ek_ca)
    executor = ScriptedExecutor(gate, software_tpms(certificates=True, fresh=True), folder / "machine")
    try:
        await gate.start()
        await executor.enroll()
        before = await _denied(executor)
        first, size = anchors_file(gate.gateway.config), int(json.loads(before)["checkpoint"].split("\n")[1])
        await gate.stop()
        with Device.open(gate.tpm.address) as device:
            device.extend(4, {"sha256": b"\7" * 32})
        config = load_config(gate.data)
        approval = resealing.approve(canonical.encode(resealing.request(config)), private)
        await resealing.reseal(config, canonical.encode(approval), operator="olivia", reason="firmware 2.1")
        await gate.start()
        after = await _denied(executor)
        async with await gate.client("auditor") as auditor:
            await gate.gateway.checkpointer.seal(anchor=True)
            anchored = await auditor.bundle(_grant(before).authorization)
        bundles = {"before-reseal": before, "resealed": after, "resealed-anchor": anchored}
        yield Resealed(gate, bundles, first, anchors_file(gate.gateway.config), size)
    finally:
        executor.device.close()
        await gate.stop()


async def _denied(executor: ScriptedExecutor) -> bytes:
    with pytest.raises(GateError) as refused:
        await executor.authorize(job("child"), parent="0" * 32)
    denied = Grant.model_construct(authorization=refused.value.authorization)  # type: ignore[attr-defined]
    return await export(executor.gate, denied)


def _grant(bundle: bytes) -> Grant:
    return Grant.model_construct(authorization=json.loads(bundle)["authorization"])


def anchor_tears(bundle: bytes) -> Iterator[tuple[str, list[Operation]]]:
    """What anybody can do to the line that says what the counter was."""
    note = json.loads(bundle)["checkpoint"]
    head, _, block = note.partition("\n\n")
    log_key, seal, line = block.split("\n")[:-1]
    others = [log_key, seal]
    start, encoded = line.rsplit(" ", 1)
    value = base64.b64decode(encoded)
    for title, wrong in {
        "changed": value[:-1] + bytes([value[-1] ^ 1]),
        "with a byte more": value + b"\0",
        "cut short": value[:-1],
        "without its type": value[:4] + b"x" + value[5:],
    }.items():
        lines = [*others, f"{start} {base64.b64encode(wrong).decode()}"]
        yield title, _noted(head, lines)
    yield "twice", _noted(head, [*others, line, line])
    yield "missing", _noted(head, others)


def _noted(head: str, lines: list[str]) -> list[Operation]:
    made = head + "\n\n" + "".join(line + "\n" for line in lines)
    return [{"op": "replace", "path": ["checkpoint"], "value": made}]


def anchors(done: Resealed) -> dict[str, str]:
    """By name: the right ones, and some that each differ in one thing."""
    text = done.second
    until = text.split("[former_gateway_pcrs.")[1].split(".")[0]
    approver = next(line for line in text.splitlines() if line.startswith("approver = "))
    other = spki(ec.generate_private_key(ec.SECP256R1()).public_key()).hex()
    alone = text.split("\n# The state before")[0]

    def up_to(size: int) -> str:
        return text.replace(f"former_gateway_pcrs.{until}.", f"former_gateway_pcrs.{size}.")

    return {
        "resealed": text,
        "resealed-then": up_to(done.size),
        "resealed-earlier": up_to(done.size - 1),
        "resealed-without-former": alone,
        "resealed-not-told": done.first,
        "resealed-other-approver": text.replace(approver, f'approver = "{other}"'),
        "resealed-no-approver": alone.replace(approver + "\n", ""),
    }


def _told(forger: Forger, *, authorization: str | None = None) -> None:
    body = {"version": "2", "pcrs": {}, "operator": "olivia", "reason": "firmware 2.1"}
    record = forger.records[-1]
    forger.insert_after(record, forger.record("gateway.resealed", record["at"], body, authorization=authorization))


LIES: dict[str, Lie] = {
    "told of besides the story": _told,
    "told of in the story": lambda forger: _told(forger, authorization=forger.authorization),
    "log key of another policy": identity(log_key_public=flip(14)),
    "counter of another policy": identity(counter_public=flip(12)),
}
