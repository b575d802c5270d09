"""A call of a governed function is a dispatch: authorized by name and arguments, and ended with its lease."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.orchestrators import tools
from tests.support.agent_in_process import Beats, MachineInProcess
from ztrooted.errors import EnvironmentProblem, GateError, UsageProblem
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.guard.function import FunctionFailed, describe_call, perform, require_call
from ztrooted.guard.governed import Gate
from ztrooted.guard.settings import OrchestratorSettings, agent_from_environment
from ztrooted.outcome import JobFailed, Killed

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(shared_machine: MachineInProcess) -> MachineInProcess:
    """One for all: each test leaves it trusted, and counts from where it began."""
    return shared_machine


async def gate_of(machine: MachineInProcess) -> Gate:
    token = await machine.gate.token("orchestrator", "flows")
    return Gate(OrchestratorSettings(machine.gate.url, machine.gate.ca, token, machine.anchors), machine.agent)


async def example(machine: MachineInProcess, name: str, *arguments: str, typed: str = "") -> Any:
    """Run an example as its reader would."""
    variables = await machine.environment()

    def run() -> Any:
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        return subprocess.run(
            command, env=variables, input=typed, capture_output=True, text=True, timeout=60, check=False
        )

    return await asyncio.to_thread(run)


async def test_calls_return_what_the_functions_do(machine: MachineInProcess) -> None:
    gate = await gate_of(machine)
    before = len(machine.gate.records("dispatch.requested"))
    governed = gate.governed(workflow="tools", run="1")
    try:
        assert await asyncio.to_thread(governed(tools.add), 2, b=3) == 5
        assert await governed(tools.later)("loud") == "LOUD"
        with pytest.raises(FunctionFailed) as failed:
            await asyncio.to_thread(governed(tools.fails), "no reason")
        assert "ValueError: no reason" in str(failed.value)
        assert "in fails" in failed.value.trace
        with pytest.raises(FunctionFailed, match="TypeError"):
            await asyncio.to_thread(governed(tools.silent))
        with pytest.raises(JobFailed, match=r"without a result .* Have it return"):
            await asyncio.to_thread(governed(tools.leaves))
    finally:
        await asyncio.to_thread(gate.close)
    jobs = [one["body"]["job"] for one in machine.gate.records("dispatch.requested")[before:]]
    assert [job["step"] for job in jobs] == ["add", "later", "fails", "silent", "leaves"]
    assert jobs[0]["argv"][-2] == "tests.orchestrators.tools:add"
    assert len({job["argv"][-1] for job in jobs}) == 4, "each names its arguments"
    assert tools.__file__ in jobs[0]["files"]


async def test_what_is_no_name_or_no_json_is_refused_before_anybody_is_asked(machine: MachineInProcess) -> None:
    gate = await gate_of(machine)
    before = len(machine.gate.records("dispatch.requested"))
    governed = gate.governed(workflow="tools")
    for unusable in (lambda: 1, [].append):
        with pytest.raises(UsageProblem, match="by its name"):
            governed(unusable)
    with pytest.raises(UsageProblem, match="no JSON"):
        governed(tools.add)(object(), 1)  # type: ignore[arg-type]
    with pytest.raises(UsageProblem, match="no JSON"):
        governed(tools.add)(float("nan"), 1)  # type: ignore[arg-type]
    assert len(machine.gate.records("dispatch.requested")) == before


async def test_a_call_that_is_revoked_dies_with_all_it_started(machine: MachineInProcess) -> None:
    gate, beats = await gate_of(machine), Beats(machine.folder / "call")
    call = asyncio.create_task(asyncio.to_thread(gate.governed(workflow="tools")(tools.beats), str(beats.base)))
    try:
        await beats.beating()
        await machine.revoke(machine.gate.records("authorization.issued")[-1]["authorization"])
        with pytest.raises(Killed) as killed:
            await call
        assert killed.value.reason == "operator.revoked"
        assert await beats.still()
    finally:
        await asyncio.to_thread(gate.close)


async def test_a_ticket_for_other_arguments_calls_nothing(machine: MachineInProcess) -> None:
    """By the worker, which compares; and by the process, where the worker did not."""
    left = machine.folder / "left"
    wanted = describe_call(tools.write, [str(left)], workflow="w", run="1")
    other = describe_call(tools.write, [str(left), "other"], workflow="w", run="1")
    async with await machine.orchestrator() as orchestrator:
        ticket = (await orchestrator.authorize(wanted.work, machine.id)).ticket
    with pytest.raises(GateError, match=r"job\.mismatch"):
        require_call(ticket, other.payload)
    with pytest.raises(GateError, match=r"job\.mismatch"):
        require_call(ticket, wanted.payload, "tests.orchestrators.tools:add")
    with pytest.raises(GateError, match=r"job\.mismatch"):
        require_call(ticket.model_copy(update={"job": machine.work("x", "/bin/sh", "-c", "true", "x").job}), b"")
    assert require_call(ticket, wanted.payload).work.job == wanted.work.job
    _, result = await perform(machine.agent, ticket, other)
    with pytest.raises(GateError):
        await result
    assert not left.exists()


async def test_a_set_in_which_nobody_is_denies() -> None:
    for nobody in ({}, {"": "ex-1"}, {"queue": ""}):
        with pytest.raises(EnvironmentProblem, match="empty"):
            ExecutorSet(nobody)
    with pytest.raises(GateError, match=r"dispatch\.executor_unknown"):
        ExecutorSet({"queue": "ex-1"})["other"]


@pytest.mark.parametrize("name", ["GATEWAY", "CA", "TOKEN_FILE", "ANCHORS", "EXECUTOR"])
async def test_a_variable_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("zt-x")
    (tmp_path / "token").chmod(0o600)
    variables = {
        "GATEWAY": "https://a",
        "CA": "ca",
        "TOKEN_FILE": str(tmp_path / "token"),
        "ANCHORS": "",
        "EXECUTOR": "ex",
    }
    variables.pop(name, None)
    told = {f"ZTROOTED_{key}": value for key, value in variables.items()}
    with pytest.raises(EnvironmentProblem, match=f"ZTROOTED_{name}|ZTROOTED_ANCHORS"):
        agent_from_environment(told) if name == "EXECUTOR" else OrchestratorSettings.from_environment(told)


async def test_the_page_shows_the_examples_as_they_are() -> None:
    """What is executed below is what is printed there."""
    page = (EXAMPLES.parent / "orchestrators.md").read_text()
    for name in ("governed_function.py", "governed_subprocess.py"):
        assert f"```python\n{(EXAMPLES / name).read_text().strip()}\n```" in page


async def test_the_examples_do_what_they_say(machine: MachineInProcess) -> None:
    """Ten lines, twenty lines, an agent's loop, a tool server; each again where nothing may run."""
    lines = {
        name: len((EXAMPLES / name).read_text().strip().splitlines())
        for name in ("governed_function.py", "governed_subprocess.py")
    }
    assert lines["governed_function.py"] <= 15
    assert lines["governed_subprocess.py"] <= 20
    counted = await example(machine, "governed_function.py")
    assert counted.stdout.strip().isdigit(), counted.stderr
    ran = await example(machine, "governed_subprocess.py", "/bin/sh", "-c", "echo ran")
    assert (ran.stdout, ran.stderr.splitlines()[-1]) == ("ran\n", "exited exited proved"), ran.stderr
    note = machine.folder / "note"
    asked = [
        {"tool": "write_note", "arguments": {"path": str(note), "text": "hi"}},
        {"tool": "list_files", "arguments": {"folder": str(EXAMPLES)}},
        {"tool": "format_disk", "arguments": {}},
    ]
    looped = await example(machine, "agent_loop.py", typed="".join(f"{json.dumps(one)}\n" for one in asked))
    answers = [json.loads(line) for line in looped.stdout.splitlines()]
    assert answers[0] == {"result": 2}, looped.stderr
    assert "agent_loop.py" in answers[1]["result"]
    assert answers[2] == {"error": "there is no such tool"}
    assert note.read_text() == "hi"
    called = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "read_text", "arguments": {"path": str(note)}},
    }
    listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    served = await example(machine, "mcp_server.py", typed="".join(f"{json.dumps(one)}\n" for one in (listed, called)))
    listing, answer = (json.loads(line)["result"] for line in served.stdout.splitlines())
    assert listing["tools"][0]["inputSchema"]["required"] == ["path"]
    assert answer == {"content": [{"type": "text", "text": "hi"}], "isError": False}
    note.unlink()
    await machine.drift()
    try:
        denied = await example(machine, "agent_loop.py", typed=f"{json.dumps(asked[0])}\n")
        assert json.loads(denied.stdout)["error"] == "ima.not_allowed"
        assert not note.exists()
    finally:
        await machine.trust()
