"""The gateway proves its own state, and who demands that has nothing to do with a gateway in any other."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.anchors import anchors_file
from gateway.routes import attestation
from gateway.routes.attestation import MAX_WAITING
from tests.support.executor import ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import SoftwareTpms
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII, BootSimulator
from tpm.device import Device
from ztrooted.cli.main import main
from ztrooted.errors import GateError, ProofError
from ztrooted.executor.agent import Agent, AgentConfig
from ztrooted.gateway_attestation import GatewayAttestation, verify_gateway

NONCE = bytes(range(32))


async def answer_of(gate: GatewayInProcess, nonce: bytes = NONCE) -> GatewayAttestation:
    async with gate.client_with("") as client:
        return await client.attestation(nonce)


def refused(answer: GatewayAttestation, gate: GatewayInProcess, nonce: bytes = NONCE) -> str:
    """The reason code."""
    with pytest.raises(ProofError) as error:
        verify_gateway(answer, gate.anchors(), nonce)
    return str(error.value.reason)


def drift(gate: GatewayInProcess) -> None:
    """Something else is measured into one of the gateway's PCRs."""
    with Device.open(gate.tpm.address) as device:
        device.extend(4, {"sha256": bytes(32)})


async def test_anybody_gets_a_quote_for_their_nonce(gate: GatewayInProcess) -> None:
    answer = await answer_of(gate)
    facts = verify_gateway(answer, gate.anchors(), NONCE)
    assert facts["origin"] == gate.gateway.config.origin
    assert (facts["virtual"], facts["event_log"]) == (True, False)
    assert refused(answer, gate, bytes(32)) == "attestation.gateway_quote", (
        "a quote for another nonce is no proof of now"
    )


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=ab", "?nonce=" + "A" * 32, "?nonce=" + "0" * 130])
async def test_a_nonce_is_of_bounded_size(gate: GatewayInProcess, query: str) -> None:
    assert (await gate.call("GET", f"/v1/gateway/attestation{query}")).code == "request.malformed"


async def test_a_drifted_gateway_shows_it(gate: GatewayInProcess) -> None:
    """It can't sign checkpoints any more, and it can still say in which state it is."""
    await answer_of(gate)
    drift(gate)
    assert refused(await answer_of(gate), gate) == "attestation.gateway_state"


async def test_what_does_not_belong_together_is_refused(gate: GatewayInProcess) -> None:
    answer = await answer_of(gate)
    values = {
        "sha256": answer.pcrs["sha256"] | {"4": "00" * 32 if answer.pcrs["sha256"]["4"] != "00" * 32 else "11" * 32}
    }
    assert refused(answer.model_copy(update={"pcrs": values}), gate) == "attestation.gateway_quote"
    assert (
        refused(answer.model_copy(update={"signature": answer.signature[:-1] + b"\0"}), gate)
        == "attestation.gateway_quote"
    )
    assert refused(answer.model_copy(update={"event_log": b"nothing"}), gate) == "attestation.gateway_quote"
    other = answer.identity.model_copy(update={"certify_signature": answer.signature.hex()})
    assert refused(answer.model_copy(update={"identity": other}), gate) == "attestation.gateway_key"


async def test_another_gateway_is_another_key(
    gate: GatewayInProcess, software_tpms: SoftwareTpms, ek_ca: bytes, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = GatewayInProcess(tmp_path / "other", software_tpms(fresh=True), ek_ca, {})
    await other.start()
    try:
        assert refused(await answer_of(other), gate) == "attestation.gateway_key"
        answer = await answer_of(other)
        ours = await answer_of(gate)
        assert refused(answer.model_copy(update={"identity": ours.identity}), gate) == "attestation.gateway_quote"
    finally:
        await other.stop()


@pytest.fixture
async def booted(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> AsyncIterator[GatewayInProcess]:
    """A gateway whose machine has booted, with an event log."""
    tpm = software_tpms(fresh=True)
    with Device.open(tpm.address) as device:
        simulator = BootSimulator(device.extend, device.banks(), tmp_path / "boot")
        simulator.boot()
    made = GatewayInProcess(tmp_path, tpm, ek_ca, {})
    settings = made.data / "gateway.toml"
    settings.write_text(settings.read_text() + f"event_log = {json.dumps(str(tmp_path / 'boot' / EVENT_LOG))}\n")
    await made.start()
    yield made
    await made.stop()


async def test_its_event_log_adds_up_to_its_state(booted: GatewayInProcess) -> None:
    answer = await answer_of(booted)
    assert verify_gateway(answer, booted.anchors(), NONCE)["event_log"] is True
    assert answer.event_log is not None
    for other in (answer.event_log[:-60], b""):
        assert refused(answer.model_copy(update={"event_log": other}), booted) == "attestation.gateway_quote"


async def test_the_tpm_is_not_asked_by_more_than_can_wait(gate: GatewayInProcess, monkeypatch: Any) -> None:
    """One quote at a time, a bounded queue, and whoever does not fit in is told to come back."""
    monkeypatch.setattr(attestation, "MAX_OF_ADDRESS", MAX_WAITING)
    running, most, quote = 0, 0, gate.gateway.signer.quote

    async def slow(wanted: bytes) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return await quote(wanted)

    monkeypatch.setattr(gate.gateway.signer, "quote", slow)
    path = f"/v1/gateway/attestation?nonce={NONCE.hex()}"
    answers = await asyncio.gather(*(gate.call("GET", path) for _ in range(MAX_WAITING + 8)))
    busy = [answer for answer in answers if answer.status == 503]
    assert most == 1
    assert len(busy) >= 1
    assert {answer.code for answer in busy} == {"service.busy"}
    assert len(answers) - len(busy) >= MAX_WAITING


def agent(gate: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path) -> Agent:
    """An agent that demands the anchored state."""
    machine = (executor.folder / EVENT_LOG, executor.folder / IMA_ASCII)
    config = AgentConfig(gate.url, gate.ca, executor.tpm.address, tmp_path / "socket", *machine, anchors=gate.anchors())
    return Agent(config, executor.device)


async def test_an_executor_that_demands_it_enrolls_with_the_anchored_state_only(
    gate: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path
) -> None:
    demanding = agent(gate, executor, tmp_path)
    session = await demanding.enroll()
    assert session.enrolled.executor.startswith("ex-")
    enrolled = len(gate.records("executor.enrolled"))
    drift(gate)
    with pytest.raises(GateError, match=r"attestation\.gateway_state"):
        await demanding.enroll()
    assert len(gate.records("executor.enrolled")) == enrolled, "nothing was said to it"
    with pytest.raises(GateError, match=r"attestation\.gateway_state"):
        await demanding._hold_channel(session)  # whoever enrolled before asks again at each connection
    with pytest.raises(GateError, match=r"attestation\.gateway_state"):
        async with asyncio.timeout(20):
            await demanding.run(asyncio.Event())


async def test_O11_a_log_key_that_is_not_the_anchored_one_is_refused(
    gate: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway proves one key and hands out another."""
    demanding = agent(gate, executor, tmp_path)
    key = gate.anchors().log_key
    other = replace(key, material=key.material[:-1] + bytes((key.material[-1] ^ 1,)))
    await demanding.enroll()
    monkeypatch.setattr("ztrooted.executor.agent.verify_gateway", lambda *_: {})
    monkeypatch.setattr(
        demanding, "_config", replace(demanding._config, anchors=replace(gate.anchors(), log_key=other))
    )
    with pytest.raises(GateError, match=r"attestation\.gateway_key"):
        await demanding.enroll()


async def test_an_auditor_asks_for_it(
    gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = tmp_path / "anchors.toml"
    anchors.write_text(anchors_file(gate.gateway.config))
    monkeypatch.setattr("ztrooted.cli.main.entry_points", lambda **_: ())
    arguments = ["audit", "gateway", "--gateway", gate.url, "--ca", str(gate.ca), "--anchors", str(anchors), "--json"]
    monkeypatch.setattr(sys, "argv", ["ztrooted", *arguments])

    def run() -> tuple[int, Any]:
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), json.loads(capsys.readouterr().out)
        return 0, json.loads(capsys.readouterr().out)

    capsys.readouterr()
    with structlog.testing.capture_logs():  # of the gateway, which is in this process
        code, said = await asyncio.to_thread(run)
        assert (code, said["attested"]) == (0, True)
        drift(gate)
        code, said = await asyncio.to_thread(run)
    assert (code, said["error"]["reason"]) == (1, "attestation.gateway_state")
