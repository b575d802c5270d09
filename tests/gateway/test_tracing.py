"""Traces: what is observed and how it hangs together; that nothing is there without them, and nothing secret with them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.anchors import anchors_file
from gateway.config import load_config
from gateway.fsck import fsck
from tests.support.executor import Channel, ScriptedExecutor, channel, executor, executors, job
from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.vectors.node import judged
from tpm.observation import observed
from ztrooted.channel_messages import ActivateMessage, ChallengeMessage, LeaseMessage
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.tracing import Tracing, continued, trace_id, traceparent, tracing_to
from ztrooted.verify import verify_bundle

__all__ = ["channel", "executor", "executors", "gate"]  # fixtures

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDS = "SELECT bytes FROM records"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Spans:
    """What was observed."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of(self, trace: str) -> dict[str, ReadableSpan]:
        """Those of one trace by name, the last of each."""
        return {one.name: one for one in self.all if f"{one.context.trace_id:032x}" == trace}


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    tracing = Tracing("test", exporter).start()
    yield Spans(exporter)
    tracing.close()


async def dispatch(gate: GatewayInProcess, executor: ScriptedExecutor, token: str, **headers: str) -> Any:
    asked = {"executor": executor.id, "job": job().model_dump(), "max_runtime_s": 60}
    return await gate.call("POST", "/v1/dispatches", token=token, body=json.dumps(asked).encode(), headers=headers)


async def test_a_dispatch_is_part_of_the_trace_that_it_was_asked_in(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, spans: Spans
) -> None:
    """From the request over challenge, quote and decision to the commit, the executor, the lineage and the bundle."""
    token = await gate.token("orchestrator", "flows")
    granted = await dispatch(gate, executor, token, traceparent=PARENT)
    assert granted.status == 201
    found = spans.of(TRACE)
    above = {
        "POST /v1/dispatches": None,
        "dispatch": "POST /v1/dispatches",
        "challenge": "dispatch",
        "appraisal": "dispatch",
        "quote verification": "appraisal",
        "decision": "dispatch",
        "commit": "decision",
    }
    assert set(found) == set(above)
    for name, parent in above.items():
        wanted = int(SPAN, 16) if parent is None else found[parent].context.span_id
        assert found[name].parent is not None
        assert found[name].parent.span_id == wanted, name
    asked = [one for one in channel.challenges if one.traceparent is not None]
    assert asked[-1].traceparent == f"00-{TRACE}-{found['challenge'].context.span_id:016x}-01"
    name = granted.json["authorization"]
    kinds = ("dispatch.requested", "policy.evaluated")
    assert [one["body"]["trace"] for one in gate.records(*kinds)] == [TRACE, TRACE]
    # What an executor says of the trace counts as well; here it begins another one.
    other = f"00-{'ab' * 16}-{SPAN}-01"
    await channel.send(ActivateMessage(artifact=granted.json["artifact"], traceparent=other))
    while (await channel.next(LeaseMessage)).authorization != name:
        continue
    assert {"activation", "challenge", "appraisal", "commit"} <= set(spans.of("ab" * 16))
    grant = await executor.authorize()  # another, of another trace
    assert gate.records("dispatch.requested")[-1]["body"]["trace"] not in {TRACE, "ab" * 16}
    assert grant.authorization != name
    # Both verifiers take such a bundle, and say which trace it was.
    denied = await dispatch(gate, executor, token, traceparent=PARENT, **{"Idempotency-Key": "k" * 22})
    assert denied.status == 201
    async with await gate.client("operator") as operator:
        await operator.revoke(name)
    await gate.gateway.endings.fenced(name)
    await gate.gateway.checkpointer.publish()
    async with await gate.client("auditor") as auditor:
        bundle = await auditor.bundle(name)
    report = verify_bundle(bundle, gate.anchors())
    assert report.verified, report.failed
    assert report.facts["trace"] == TRACE
    (second,) = judged([(bundle, anchors_file(gate.gateway.config).encode())])
    assert second["facts"]["trace"] == TRACE
    assert list(fsck(gate.gateway.config)[1]) == []


async def test_who_may_ask_for_nothing_chooses_no_trace_and_leaves_none_of_what_was_sent(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, spans: Spans
) -> None:
    token = await gate.token("operator", "olivia")
    sent = {"traceparent": PARENT}
    await gate.call("POST", "/v1/enrollments", body=b"{}", headers=sent)
    await gate.call("POST", "/v1/dispatches", token="zt-" + "x" * 43, body=b"{}", headers=sent)
    await gate.call("GET", "/v1/openapi.json", headers=sent)
    assert spans.of(TRACE) == {}
    orchestrator = await gate.token("orchestrator")
    for odd in (
        "",
        "00",
        PARENT.upper(),
        PARENT + "-1",
        f"00-{'0' * 32}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        "x" * 5000,
    ):
        answer = await gate.call("POST", "/v1/dispatches", token=orchestrator, body=b"{}", headers={"traceparent": odd})
        assert answer.code == "request.malformed"
    assert spans.of(TRACE) == {}
    answer = await gate.call("DELETE", f"/v1/tokens/{orchestrator}", token=token, headers=sent)
    assert answer.status >= 400
    refused = spans.of(TRACE)["DELETE /v1/tokens/{token}"]
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == answer.code
    assert not refused.events
    told = "".join(one.to_json() for one in spans.all)
    assert all(secret not in told for secret in (token, orchestrator, "x" * 43))
    assert "/v1/executor/channel" not in told


async def test_what_the_gateway_does_by_itself_is_observed_down_to_its_tpm(
    gate: GatewayInProcess, channel: Channel, spans: Spans
) -> None:
    await channel.renew()
    await gate.gateway.checkpointer.publish(anchor=True)
    (checkpoint,) = [one for one in spans.all if one.name == "checkpoint"]
    within = [one for one in spans.all if one.context.trace_id == checkpoint.context.trace_id and one.name == "TPM"]
    assert {str((one.attributes or {})["what"]) for one in within} >= {"sign with the log key", "increment the counter"}
    assert any(one.name == "round" for one in spans.all)


async def test_without_tracing_nothing_says_anything_of_a_trace(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Neither records nor messages: their bytes are those of before."""
    granted = await dispatch(gate, executor, await gate.token("orchestrator"), traceparent=PARENT)
    assert granted.status == 201
    assert b"trace" not in b"".join(
        bytes(row[0]) for row in gate.gateway.database.reading.execute("SELECT bytes FROM records")
    )
    assert [one.traceparent for one in channel.challenges] == [None] * len(channel.challenges)
    assert "traceparent" not in ChallengeMessage.model_dump_json(channel.challenges[0])
    assert "traceparent" not in ActivateMessage(artifact="x").model_dump_json()
    with continued(PARENT), observed("nothing"):
        assert trace_id() is None
        assert traceparent() is None


def test_nothing_of_opentelemetry_is_imported_unless_asked_for() -> None:
    program = (
        "import sys, gateway.app, gateway.cli, ztrooted.client, ztrooted.executor.agent, ztrooted.verify;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_without_the_extra_who_asks_for_traces_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(EnvironmentProblem, match="not installed") as refused:
        tracing_to("http://127.0.0.1:4318", "test")
    assert "ztrooted[otel]" in refused.value.remedy
    with pytest.raises(UsageProblem):
        tracing_to("http://user:word@host", "test")
    assert tracing_to(None, "test") is None


async def test_the_setting_is_an_address_without_secrets(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for odd in ("127.0.0.1:4318", "http://user:word@host:4318", "http://host:4318/?key=word", "ftp://host"):
        monkeypatch.setenv("ZTROOTED_OTLP_ENDPOINT", odd)
        with pytest.raises(EnvironmentProblem, match="OTLP_ENDPOINT"):
            load_config(gate.data)
    monkeypatch.setenv("ZTROOTED_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert load_config(gate.data).otlp_endpoint == "http://127.0.0.1:4318"


def test_a_program_of_others_hands_its_trace_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that uses OpenTelemetry by itself, or was started with TRACEPARENT."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    monkeypatch.setenv("TRACEPARENT", PARENT)
    assert traceparent() == PARENT
    with TracerProvider().get_tracer("theirs").start_as_current_span("job") as span:
        assert f"{span.get_span_context().trace_id:032x}" in (traceparent() or "")
    for more in ("\nx", "\n"):  # no header may have either
        monkeypatch.setenv("TRACEPARENT", PARENT + more)
        assert traceparent() is None
