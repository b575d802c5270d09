"""A gateway with a great many records: executions that ended, told by the records of a real one, on many executors.

Besides those there is one execution with very many renewals, one with as many children as may be, and one executor that
ran half of everything.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gateway.app import Gateway
from gateway.config import load_config
from gateway.storage.database import Transaction
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess
from ztrooted import canonical, limits
from ztrooted.records import Link, Record

STORY = Path(__file__).parents[1] / "vectors" / "data" / "drift.json"
PROGRAMS = {"/usr/bin/dash": b"a shell"}
ORCHESTRATORS, WORKFLOWS = 20, 100
BEGAN_MS, APART_MS = 1_700_000_000_000, 250
REASONS = (*["ima.not_allowed"] * 6, *["lease.expired"] * 3, *[None] * 90, "ek.chain")
AT_ONCE = 500  # executions in one transaction
LONG = "f" * 32  # the execution with a tenth of all records, and with as many children as may be
_WHOLE = frozenset(
    {"policy.evaluated", "attestation.failed"}
)  # whose rounds are kept; those of the others would be the same
_RENEWAL = ("attestation.passed", "authorization.renewed")
_NO_DELEGATION = '{"depth":0,"children":0,"steps":null,"executors":null}'


@dataclass(frozen=True, slots=True)
class Filled:
    """What there is: how many executions, and the names of what is looked at."""

    executions: int
    executor: str
    baseline: str
    policy: int


async def fill(process: GatewayProcess, folder: Path, *, records: int, executors: int) -> Filled:
    """So many records and executors. The gateway is left stopped."""
    executor = await _one_executor(process, folder)
    gateway = Gateway(load_config(process.data))
    await gateway.start()
    story = [(one["type"], one["body"]) for one in map(json.loads, _texts())]
    count = max(1, (records - records // 10) // len(story))
    await gateway.database.write(partial(_executors, count=executors))
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        some = partial(_executions, numbers=numbers, story=story, executors=executors, busy=executor)
        await gateway.database.write(some)
    await gateway.database.write(partial(_long, story=story, records=records // 10, number=count, executor=executor))
    reading = gateway.database.reading
    (baseline,) = reading.execute("SELECT digest FROM baselines").fetchone()
    (policy,) = reading.execute(
        "SELECT seq FROM records WHERE authorization IS NULL AND type = 'policy.activated' ORDER BY seq"
    ).fetchone()
    await gateway.close()
    return Filled(count, executor, baseline, policy)


async def _one_executor(process: GatewayProcess, folder: Path) -> str:
    """A real one, of which the others are copies; its baseline is approved."""
    process.start()
    machine = SimulatedMachine(folder / "machine", PROGRAMS)
    executor = SimulatedExecutor(process.url, process.ca, machine)
    await enroll_all([executor])
    async with connect_all([executor]), process.client("operator") as operator:
        captured = await operator.capture_baseline(executor.id)
        await operator.approve_baseline(captured.baseline)
    process.stop()
    return executor.id


def _executors(tx: Transaction, count: int) -> None:
    tx.execute(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) INSERT INTO executors"
        " SELECT printf('ex-%032x', i), class, virtual, manufacturer, ak_public, session_key, enrollment, event_log,"
        " progress, pcrs, i % 50 <> 0, verdict, proved_at, proof_due + i % 30 * 1000 FROM executors, n",
        (count,),
    )


def _texts() -> Iterator[str]:
    bundle = json.loads(STORY.read_text())
    return (
        one["record"] for one in bundle["records"] if f'"authorization":"{bundle["authorization"]}"' in one["record"]
    )


def name_of(number: int) -> str:
    """The id of an execution."""
    return f"{number:032x}"


Story = list[tuple[str, dict[str, Any]]]


def _executions(tx: Transaction, numbers: range, story: Story, executors: int, busy: str) -> None:
    for number in numbers:
        executor = busy if number % 2 else f"ex-{number % executors:032x}"
        _execution(tx, name_of(number), number, story, executor)


def _long(tx: Transaction, story: Story, records: int, number: int, executor: str) -> None:
    """A day of renewals, or as many as ``records`` hold, and the children that it was granted."""
    renewals = [(kind, _short(kind, body)) for kind, body in story if kind in _RENEWAL][:2]
    longer = [*story[:7], *renewals * (records // 2), *story[9:]]
    _execution(tx, LONG, number, longer, executor, renewals=records // 2)
    for place in range(limits.DELEGATION_CHILDREN):
        _execution(tx, f"c{place:031x}", number + place, story, executor, parent=LONG, place=place)


def _short(kind: str, told: dict[str, Any]) -> dict[str, Any]:
    return told if kind in _WHOLE else {key: told[key] for key in told.keys() - {"manifest", "request"}}


def _execution(
    tx: Transaction,
    name: str,
    number: int,
    story: Story,
    executor: str,
    *,
    renewals: int = 2,
    parent: str | None = None,
    place: int | None = None,
) -> None:
    at, reason = BEGAN_MS + number * APART_MS, REASONS[number % len(REASONS)]
    orchestrator = f"flows-{number % ORCHESTRATORS}"
    job = story[0][1]["job"] | {
        "workflow": f"w-{number % WORKFLOWS}",
        "run": f"r-{number // 10}",
        "step": f"s-{number % 10}",
    }
    digest, prev = canonical.digest(job), None
    for kind, told in story:
        body = _short(kind, told)
        if kind == "dispatch.requested":
            body = body | {"executor": executor, "orchestrator": orchestrator, "job": job, "job_digest": digest}
        appended = tx.append(Record(kind, at, body, name, prev))
        prev = Link(appended.index, appended.leaf)
    assert prev is not None
    tx.execute(
        "INSERT INTO authorizations(id, executor, orchestrator, state, job, job_digest, max_runtime_s, requested_at,"
        " renewals, reason, last_seq, last_leaf, parent, place, depth, delegation)"
        " VALUES (?, ?, ?, 'closed', ?, ?, 600, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(name, executor, orchestrator, json.dumps(job), digest, at, renewals, reason, prev.index, prev.leaf),
            *(parent, place, int(parent is not None), _NO_DELEGATION),
        ),
    )
