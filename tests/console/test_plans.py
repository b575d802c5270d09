"""No page looks at everything: how SQLite would find what each page asks for, whatever there is of it."""

import re
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from gateway.storage import searching
from tests.console.test_sessions import Browser
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess

# Of these there is no end. Executors, baselines and quarantines are as many as there are machines and orders.
ENDLESS = ("authorizations", "records", "blobs", "artifacts", "tiles")
# An index of what is live alone: as many as there are jobs at a moment.
OF_WHAT_IS_LIVE = "authorizations_live"
PAGES = (
    "",
    "executors",
    "executors/{executor}",
    "authorizations",
    "authorizations?show=live",
    "authorizations?show=refused",
    "authorizations?cursor={cursor}",
    "authorizations?show=refused&cursor={cursor}",
    "authorizations?show=live&cursor={cursor}",
    "authorizations/{authorization}",
    "policies",
    "policies/{policy}",
    "baselines",
    "baselines/{baseline}",
    "orders",
    "orders/revoke?kind=executor&id={executor}",
    "orders/revoke?kind=authorization&id={authorization}",
    "orders/revoke?kind=orchestrator&id=flows",
    "health",
    "lineage",
    "lineage?cursor={cursor}",
    "lineage?to=2020-01-01T00:00&cursor={cursor}",
    "lineage?job=w",
    "lineage?job=w&orchestrator=flows&reason=ima.not_allowed&executor={executor}",
    "lineage/{authorization}",
    "lineage/{authorization}?behind=3",
    "lineage/records/1",
    "lineage/records/1/proof",
    "viewer/bundle/{authorization}",
)


@pytest.mark.parametrize("few", [0, searching.FEW])
async def test_no_page_looks_at_everything(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """For the operator, and for an orchestrator, who is shown less of it."""
    monkeypatch.setattr(searching, "FEW", few)
    grants = [await executor.authorize(job(f"step-{number}")) for number in range(2)]
    asked: list[str] = []
    gate.gateway.database.reading.set_trace_callback(asked.append)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def traced(*given: Any, **more: Any) -> sqlite3.Connection:
        opened = connect(*given, **more)
        opened.set_trace_callback(asked.append)
        return opened

    monkeypatch.setattr(sqlite3, "connect", traced)
    await gate.gateway.checkpointer.publish()
    (baseline,) = [one["body"]["baseline"] for one in gate.records("baseline.approved")]
    reading = gate.gateway.database.reading
    ((policy,), *_) = reading.execute("SELECT seq FROM records WHERE type = 'policy.activated'").fetchall()
    named = {"executor": executor.id, "authorization": grants[0].authorization, "policy": policy, "baseline": baseline}
    operator, orchestrator = Browser(gate), Browser(gate)
    await operator.sign_in(await gate.token("operator"))
    await orchestrator.sign_in(await gate.token("orchestrator", "flows"))
    cursor = "WzEwMDAsIjAiXQ"  # [1000,"0"]
    for path in PAGES:
        for browser in (operator, orchestrator):
            asked.clear()
            answer = await browser.get("/console/" + path.format(**named, cursor=cursor))
            assert answer.status in ({200} if browser is operator else {200, 403}), path
            statements = set(asked)
            for statement in statements:
                if statement.lstrip().upper().startswith(("SELECT", "WITH")):
                    _require_search(gate, path, statement)


def _require_search(gate: GatewayInProcess, path: str, statement: str) -> None:
    plan = gate.gateway.database.reading.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    for *_, step in plan:
        scanned = re.match(r"SCAN (\w+)", step)
        if scanned is not None and OF_WHAT_IS_LIVE not in step:
            assert scanned[1] not in ENDLESS, (path, step, statement)
