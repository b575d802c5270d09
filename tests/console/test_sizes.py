"""Ten thousand executors and two hundred thousand authorizations: every page stays quick and small."""

import pytest

from gateway.storage.database import Transaction
from tests.console.test_sessions import Browser
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.pace import at_most

EXECUTORS, AUTHORIZATIONS = 10_000, 200_000
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
SERVER_S = 0.3
BYTES = 1_000_000
PAGES = (
    "",
    "executors",
    "executors?standing=untrusted",
    "executors?standing=retired",
    "executors?id=ex-0000000",
    "authorizations",
    "authorizations?show=live",
    "authorizations?show=refused",
    "executors/{executor}",
)


@pytest.mark.timeout(300)
async def test_pages_of_a_large_gateway(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    grant = await executor.authorize()

    def fill(tx: Transaction) -> None:
        """The one executor and the one authorization that there are, again and again."""
        tx.execute(  # constants
            f"{NUMBERS} INSERT INTO executors SELECT printf('ex-%032x', i * 7919), class, virtual, manufacturer, ak_public,"  # noqa: S608
            " session_key, enrollment, event_log, progress, pcrs, i % 50 <> 0, verdict, proved_at, proof_due + i % 30 * 1000"
            " FROM executors, n",
            (EXECUTORS,),
        )
        names = [row[1] for row in tx.execute("PRAGMA table_info(authorizations)").fetchall()]
        changed = {
            "id": "printf('%032x', i * 104729)",
            "requested_at": "requested_at - i",
            "state": "CASE WHEN i % 9 = 0 THEN 'denied' ELSE 'closed' END",
            "reason": "CASE WHEN i % 9 = 0 THEN 'policy.denied' END",
        }
        columns = ", ".join(changed.get(name, name) for name in names)
        tx.execute(
            f"{NUMBERS} INSERT INTO authorizations SELECT {columns} FROM authorizations, n WHERE id = ?",  # noqa: S608
            (AUTHORIZATIONS, grant.authorization),
        )

    await gate.gateway.database.write(fill)
    visitor = Browser(gate)
    await visitor.sign_in(await gate.token("operator"))
    for path in PAGES:
        for _ in range(2):
            with at_most(SERVER_S):  # with what this test itself does to ask
                answer = await visitor.get("/console/" + path.format(executor=executor.id))
            assert (answer.status, len(answer.data) < BYTES) == (200, True), path
    page = await visitor.get("/console/executors?standing=untrusted")
    assert page.data.count(b"<tr data-key") == 100
    assert b'rel="next"' in page.data
