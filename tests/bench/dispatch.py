"""What governing a dispatch costs, per adapter, and how long work goes on after a revocation. Everything is real processes.

The reference of each adapter is the same work without the gate, in the same rounds: a command, a function in a new
interpreter, a task of an app that is not governed.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.bench.interrupt import _environment
from tests.bench.measure import Row
from tests.orchestrators import tools
from tests.orchestrators.adapter import Adapter, Apart
from tests.orchestrators.adapters import ADAPTERS
from tests.support.agent_in_process import Beats
from tests.support.machine_apart import MachineApart
from ztrooted.client import GatewayClient
from ztrooted.guard.call import LENGTH
from ztrooted.guard.function import describe_call

PAGE = Path(__file__).parents[2] / "docs" / "orchestrators.md"
BEGIN, END = "<!-- written by scripts/bench dispatch --write: begin -->\n", "<!-- written by scripts/bench: end -->\n"
ROUNDS = 9
SHARE_MS = 10.0
LAST_WRITE_MS = 100.0


def rows(*, rounds: int = ROUNDS) -> Iterator[Row]:
    """The gateway's share, then for each adapter its overhead and the time from a revocation to the last write."""
    os.environ.setdefault("ZTROOTED_ORCHESTRATORS", "all")
    with _environment() as gate:
        machine: Any = MachineApart(gate)
        found = asyncio.run(_measure(machine, rounds))
    for name, values, references, reference, target in found:
        value, known = statistics.median(values), statistics.median(references)
        limit = float(target.rpartition(" ")[2]) if target else float("inf")
        yield Row(name, value, "ms", reference, known, known / max(value, 1e-3), target, value <= limit, min(values))


Found = tuple[str, list[float], list[float], str, str]


async def _measure(machine: Any, rounds: int) -> list[Found]:
    found = [await _share(machine, rounds)]
    for name, kind in ADAPTERS.items():
        if kind.absent():
            continue
        async with AsyncExitStack() as stack:
            adapter = kind(machine)
            stack.push_async_callback(adapter.close)
            await adapter.open()
            if isinstance(adapter, Apart):
                await adapter.start_bare()
            found.append(await _overhead(name, adapter, machine, rounds))
            found.append(await _last_write(name, adapter, machine, rounds))
    return found


async def _share(machine: Any, rounds: int) -> Found:
    """Of the time that an answer takes, what is not the executor's: its quote and the way there."""
    spent, answers = [], []
    async with await machine.orchestrator() as orchestrator:
        work = describe_call(_nothing, workflow="bench", run="1", step="share").work
        await orchestrator.authorize(work, machine.id)
        for _ in range(4 * rounds):
            before = await _challenges(machine)
            began = time.perf_counter()
            await orchestrator.authorize(work, machine.id)
            took = 1000 * (time.perf_counter() - began)
            after = await _challenges(machine)
            answers.append(took)
            spent.append(took - 1000 * (after - before))
    return "gateway_share_ms", spent, answers, "the whole answer, with the executor's quote", f"<= {SHARE_MS:g}"


async def _challenges(machine: Any) -> float:
    """Seconds that challenges for dispatches have taken so far, as the gateway's metrics say."""
    token = (machine.folder / "operator.token").read_text().strip()
    url = machine.gate.url
    async with (
        GatewayClient(url, ca=machine.gate.ca, token=token) as client,
        client.http.get(url + "/metrics") as answer,
    ):
        text = await answer.text()
    name = 'ztrooted_challenge_seconds_sum{purpose="dispatch"}'
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)), 0.0)


async def _overhead(name: str, adapter: Adapter, machine: Any, rounds: int) -> Found:
    """Milliseconds that a governed dispatch takes more than a bare one, round by round."""
    bare = BARE[name]
    more, references = [], []
    for number in range(rounds + 1):
        base = machine.folder / f"{name}-{number}"
        references.append(await _ms(lambda base=base: bare(adapter, base)))  # type: ignore[misc]
        governed = await _ms(lambda base=base: adapter.whole("write", base))  # type: ignore[misc]
        more.append(governed - references[-1])
    return f"{name}_overhead_ms", more[1:], references[1:], "the same without the gate", ""


async def _ms(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    return 1000 * (time.perf_counter() - began)


async def _last_write(name: str, adapter: Adapter, machine: Any, rounds: int) -> Found:
    """Milliseconds from the record of a revocation to the last that was written, by a grandchild too."""
    lived = []
    for number in range(max(3, rounds // 3)):
        beats = Beats(machine.folder / f"{name}-beats-{number}")
        message = await adapter.hand_out("beats", beats.base)
        work = asyncio.create_task(adapter.run(message))
        await beats.beating()
        authorization = await asyncio.to_thread(_newest, machine.gate)
        await asyncio.to_thread(machine.gate.ask, "operator", lambda client, one=authorization: client.revoke(one))
        await asyncio.gather(work, return_exceptions=True)
        at = await asyncio.to_thread(machine.gate.revoked_at, authorization)
        lived.append(max(0.0, (beats.last_ns() - at) / 1e6))
    return f"{name}_last_write_ms", lived, [LAST_WRITE_MS] * len(lived), "its limit", f"<= {LAST_WRITE_MS:g}"


def _newest(gate: Any) -> str:
    return str(gate.rows("SELECT id FROM authorizations ORDER BY requested_at DESC LIMIT 1")[0][0])


def _nothing() -> None:
    """Is called by nobody."""


async def _bare_command(_adapter: Adapter, base: Path) -> None:
    await asyncio.to_thread(subprocess.run, ["/bin/sh", "-c", 'printf done > "$0"', str(base)], check=True)


async def _bare_function(_adapter: Adapter, base: Path) -> None:
    """The same process as a governed call's, started from here."""
    call = describe_call(tools.write, [str(base)], workflow="bench", run="1")
    near, far = socket.socketpair()
    with near, far:
        process = await asyncio.create_subprocess_exec(*call.work.job.argv, env=call.work.env, stdin=far)
        near.sendall(call.payload)
        near.shutdown(socket.SHUT_WR)
        await process.wait()
        near.recv(LENGTH.size + 64)


async def _bare_task(adapter: Adapter, base: Path) -> None:
    await adapter.ask(do="bare", base=str(base))  # type: ignore[attr-defined]


async def _bare_script(adapter: Adapter, base: Path) -> None:
    await adapter.bare(base)  # type: ignore[attr-defined]


BARE: dict[str, Callable[[Adapter, Path], Awaitable[None]]] = {
    "subprocess": _bare_command,
    "governed": _bare_function,
    "celery": _bare_task,
    "dask": _bare_task,
    "ray": _bare_task,
    "temporal": _bare_task,
    "slurm": _bare_script,
    "github": _bare_script,
    "htcondor": _bare_script,
    "airflow": _bare_task,
    "prefect": _bare_task,
}


def write_page(found: list[Row], machine: dict[str, Any]) -> None:
    """Put the table between its markers."""
    lines = ["| | ms | best | compared with | ms |\n|---|---|---|---|---|\n"]
    for row in found:
        said = row.name.removesuffix("_ms").replace("_", " ")
        target = f" ({row.target} wanted{'' if row.met else ', missed'})" if row.target else ""
        numbers = (f"{row.value:.1f}", f"{row.best:.1f}", row.reference, f"{row.reference_value:.1f}")
        lines.append(f"| {said}{target} | {' | '.join(numbers)} |\n")
    about = (
        f"\nMedians of {ROUNDS} rounds on {machine['cores']} cores ({machine['cpu']}), load {machine['load']:.1f}.\n"
    )
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    PAGE.write_text(head + BEGIN + "".join(lines) + about + END + rest.split(END)[1])
