"""Traces of real processes, sent to a collector over HTTP: an orchestrator's trace goes on to the executor's TPM."""

import pytest

from tests.support.collector import Collector, Span, collecting
from tests.support.gate import SLOW, Gates
from ztrooted.demo.stage import wait_until

pytestmark = pytest.mark.timeout(240)

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_trace_goes_from_the_orchestrator_over_the_gateway_to_the_executor(
    gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("ZTROOTED_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        gate = gates(pace=SLOW)
        job = gate.job("once", "/bin/sh", "-c", "exit 0")
        with monkeypatch.context() as asked:
            asked.setenv("TRACEPARENT", f"00-{TRACE}-b7ad6b7169203331-01")
            grant = gate.authorize(job)
        assert gate.execute(job, grant.artifact).returncode == 0
        wait_until("the executor's part", lambda: collector.named("answer", TRACE), 20)
        wait_until("the gateway's part", lambda: collector.named("POST /v1/dispatches", TRACE), 20)
        (answer,) = collector.named("answer", TRACE)
        (challenge,) = collector.named("challenge", TRACE)
        assert (answer.service, challenge.service) == ("ztrooted-executor", "ztrooted-gateway")
        assert answer.parent == challenge.id
        quote = next(one for one in collector.named("TPM", TRACE) if one.attributes["what"] == "quote")
        assert (quote.service, quote.parent) == (answer.service, answer.id)
        # The executor's own trace of the activation goes on in the gateway.
        wait_until("both parts of the activation", lambda: len(_of(collector, "activation")) == 2, 20)
        first, second = sorted(_of(collector, "activation"), key=lambda one: one.service)
        assert (first.service, second.trace, second.parent) == ("ztrooted-executor", first.trace, first.id)
        (recorded,) = {record.body["trace"] for record in gate.story(grant.authorization) if "trace" in record.body}
        assert recorded == TRACE
        gate.close()  # what is left is sent
        assert {one.service for one in collector.spans} == {"ztrooted-executor", "ztrooted-gateway"}
        secrets = [(gate.data / f"{role}.token").read_text().strip() for role in ("operator", "orchestrator")]
        assert not any(secret.encode() in body for body in collector.bodies for secret in (*secrets, grant.artifact))


def _of(collector: Collector, name: str) -> list[Span]:
    return [one for one in collector.spans if one.name == name]
