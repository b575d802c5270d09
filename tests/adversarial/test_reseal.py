"""Another state of the gateway's machine: taken where its approver signed for it, once, and the state before is over."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import reseal as resealing
from gateway.anchors import anchors_file
from gateway.app import DATABASE
from gateway.config import load_config
from gateway.fsck import fsck
from gateway.identity import IDENTITY_FILE
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import SoftwareTpms
from tpm.device import Device
from tpm.errors import RejectedError
from ztrooted import canonical
from ztrooted.anchors import parse_anchors
from ztrooted.audit import check_identity
from ztrooted.checkpoint import verify_checkpoint
from ztrooted.errors import EnvironmentProblem, GateError, ProofError, UsageProblem
from ztrooted.keys import spki
from ztrooted.reasons import GateReason

pytestmark = pytest.mark.asyncio
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
async def gate(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> AsyncIterator[GatewayInProcess]:
    """A gateway with an approver, which sealed something in its first state and was stopped."""
    key = tmp_path / "approver.pem"
    key.write_bytes(
        KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key.chmod(0o600)
    made = GatewayInProcess(tmp_path, software_tpms(fresh=True), ek_ca, {}, approver=key)
    await made.start()
    await made.stop()
    yield made
    await made.stop()


def resealed(gate: GatewayInProcess) -> list[dict[str, object]]:
    """What its lineage says of that, while it is stopped."""
    with closing(sqlite3.connect(gate.data / DATABASE)) as connection:
        rows = connection.execute("SELECT bytes FROM records WHERE type = 'gateway.resealed' ORDER BY seq").fetchall()
    return [json.loads(bytes(data))["body"] for (data,) in rows]


def drift(gate: GatewayInProcess) -> None:
    with Device.open(gate.tpm.address) as device:
        device.extend(4, {"sha256": b"\7" * 32})


def asked(gate: GatewayInProcess) -> dict[str, object]:
    return resealing.request(load_config(gate.data))


async def reseal(gate: GatewayInProcess, document: dict[str, object]) -> dict[str, object]:
    return await resealing.reseal(
        load_config(gate.data), canonical.encode(document), operator="olivia", reason="firmware 2.1"
    )


def approved(gate: GatewayInProcess, key: ec.EllipticCurvePrivateKey = KEY) -> dict[str, object]:
    return resealing.approve(canonical.encode(asked(gate)), key)


async def sealed(gate: GatewayInProcess) -> tuple[int, bytes]:
    await gate.start()
    size, note = await gate.gateway.checkpointer.seal()
    await gate.stop()
    return size, note


def anchored(gate: GatewayInProcess, note: bytes) -> None:
    anchors = parse_anchors(anchors_file(load_config(gate.data)).encode(), "anchors.toml")
    found = verify_checkpoint(note, origin=anchors.origin, log_key=anchors.log_key, seal=anchors.seal_policy)
    assert found.sealed


async def test_a_changed_machine_goes_on_with_its_keys_once_it_is_approved(gate: GatewayInProcess) -> None:
    _, before = await sealed(gate)
    old = parse_anchors(anchors_file(load_config(gate.data)).encode(), "anchors.toml")
    drift(gate)
    with pytest.raises((EnvironmentProblem, GateError), match="not those that were approved"):
        await gate.start()
    await gate.stop()
    done = await reseal(gate, approved(gate))
    _, after = await sealed(gate)
    (said,) = resealed(gate)
    assert (said["operator"], said["reason"], said["version"]) == ("olivia", "firmware 2.1", done["version"])
    anchored(gate, before)
    anchored(gate, after)
    assert list(fsck(load_config(gate.data), lambda *_: None)[1]) == []
    with pytest.raises(ProofError) as refused:  # who was not told of the new state does not believe it
        verify_checkpoint(after, origin=old.origin, log_key=old.log_key, seal=old.seal_policy)
    assert refused.value.reason is GateReason.CHECKPOINT_SEAL


async def test_the_state_before_is_over(gate: GatewayInProcess) -> None:
    """An old identity file, with its approval, opens nothing on a machine that is back in its old state."""
    kept = (gate.data / IDENTITY_FILE).read_bytes()
    await reseal(gate, approved(gate))  # the same PCRs, approved anew: only the version is another one
    (gate.data / IDENTITY_FILE).write_bytes(kept)
    with pytest.raises(EnvironmentProblem, match="another was approved since"):
        await gate.start()


async def test_a_seal_of_the_old_state_after_it_was_replaced_is_not_believed(gate: GatewayInProcess) -> None:
    _, before = await sealed(gate)
    drift(gate)
    await reseal(gate, approved(gate))
    anchors = parse_anchors(anchors_file(load_config(gate.data)).encode(), "anchors.toml")
    (until,) = anchors.former_gateway_pcrs
    text = anchors_file(load_config(gate.data)).replace(f"former_gateway_pcrs.{until}.", "former_gateway_pcrs.1.")
    stricter = parse_anchors(text.encode(), "anchors.toml")
    with pytest.raises(ProofError) as refused:
        verify_checkpoint(before, origin=stricter.origin, log_key=stricter.log_key, seal=stricter.seal_policy)
    assert refused.value.reason is GateReason.CHECKPOINT_SEAL


async def test_only_the_approver_approves(gate: GatewayInProcess) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(UsageProblem, match="another approver"):
        approved(gate, other)
    forged = approved(gate) | {"signature": approved(gate)["signature"]}
    forged["version"] = str(int(str(forged["version"])) + 1)
    before = (gate.data / IDENTITY_FILE).read_bytes()
    with pytest.raises(GateError, match="did not sign"):
        await reseal(gate, forged)
    assert (gate.data / IDENTITY_FILE).read_bytes() == before


async def test_what_was_approved_must_be_the_state_of_this_machine(gate: GatewayInProcess) -> None:
    document = approved(gate)
    drift(gate)
    before = (gate.data / IDENTITY_FILE).read_bytes()
    with pytest.raises(EnvironmentProblem, match="another state than was approved"):
        await reseal(gate, document)
    assert (gate.data / IDENTITY_FILE).read_bytes() == before


async def test_an_approval_counts_once(gate: GatewayInProcess) -> None:
    first = approved(gate)
    await reseal(gate, first)
    again = approved(gate)
    await reseal(gate, again)
    with pytest.raises(GateError, match="the next one is"):
        await reseal(gate, first)


async def test_killed_after_the_identity_was_replaced_it_is_done_again(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift(gate)
    document = approved(gate)

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(resealing, "_record", killed)
        with pytest.raises(asyncio.CancelledError):
            await reseal(gate, document)
    await reseal(gate, document)
    assert len(resealed(gate)) == 1
    identity = json.loads((gate.data / IDENTITY_FILE).read_bytes())
    assert len(identity["former"]) == 1
    await reseal(gate, document)  # and once more changes nothing
    assert len(resealed(gate)) == 1


async def test_a_gateway_without_an_approver_has_one_state(
    tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes
) -> None:
    (tmp_path / "plain").mkdir()
    plain = GatewayInProcess(tmp_path / "plain", software_tpms(fresh=True), ek_ca, {})
    with pytest.raises(EnvironmentProblem) as refused:
        asked(plain)
    assert refused.value.reason is GateReason.RESEAL_NO_APPROVER
    assert not (plain.data / DATABASE).exists()


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"format":"ztrooted-reseal-approval/1","origin":"x"}', b"x" * 70000]
)
async def test_a_damaged_approval_is_refused_whole(gate: GatewayInProcess, document: bytes) -> None:
    with pytest.raises(UsageProblem):
        await resealing.reseal(load_config(gate.data), document, operator="olivia", reason="firmware")


async def test_an_approval_for_another_lineage_is_refused(gate: GatewayInProcess) -> None:
    with pytest.raises(UsageProblem, match="example"):
        await reseal(gate, approved(gate) | {"origin": "other.example/lineage"})


async def test_anchors_with_a_former_state_and_no_approver_are_refused(gate: GatewayInProcess) -> None:
    """Nobody could have replaced it."""
    drift(gate)
    await reseal(gate, approved(gate))
    lines = [line for line in anchors_file(load_config(gate.data)).splitlines() if not line.startswith("approver")]
    with pytest.raises(EnvironmentProblem, match="no approver"):
        parse_anchors("\n".join(lines).encode(), "anchors.toml")


async def test_the_log_key_must_be_the_approvers(gate: GatewayInProcess) -> None:
    """Anchors that name another approver, or none, do not accept its certification."""
    identity = json.loads((gate.data / IDENTITY_FILE).read_bytes())
    text = anchors_file(load_config(gate.data))
    assert check_identity(identity, parse_anchors(text.encode(), "anchors.toml"))
    other = spki(ec.generate_private_key(ec.SECP256R1()).public_key()).hex()
    for changed in (
        text.replace(identity["approver"], other),
        text.replace(f'approver = "{identity["approver"]}"', ""),
    ):
        with pytest.raises(RejectedError):
            check_identity(identity, parse_anchors(changed.encode(), "anchors.toml"))
