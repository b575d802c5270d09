"""Every row of the list of attacks has a test that bears its id, and the rows that had none until somebody counted."""

import asyncio
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.routes import all_routes
from tests.adversarial.test_challenge import prove
from tests.support import corpus
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.pace import at_most
from ztrooted import names
from ztrooted.channel_messages import RefusedMessage
from ztrooted.client import Refused

ROOT = Path(__file__).parents[2]
LIST = corpus.ROOT.parent / "attacks.md"
# Rows that no code of ours can pass or fail, and those that we do not promise: where a page says so.
SAID = {
    "B16": ("docs/threat-model.md", "Enrollment needs no approval"),
    "I21": ("docs/threat-model.md", "What is never measured is never seen"),
    "Q1": ("docs/threat-model.md", "A probe on the TPM's bus"),
    "Q2": ("docs/threat-model.md", "Keys extracted from a TPM"),
    "Q3": ("docs/threat-model.md", "Known weak TPM firmware"),
    "Q4": ("docs/threat-model.md", "A relay to a healthy TPM elsewhere"),
    "Q5": ("docs/threat-model.md", "Kernel exploits and DMA after the measurement"),
    "Q6": ("docs/threat-model.md", "Virtual TPMs"),
}


def borne() -> set[str]:
    """The ids in the names of tests."""
    files = (ROOT / "tests").rglob("test_*.py")
    found = [name for file in files for name in re.findall(r"def test_(\w+)", file.read_text())]
    return {part for name in found for part in name.split("_") if re.fullmatch(r"[A-Q][0-9]{1,2}", part)}


def test_every_attack_on_the_list_has_a_test_that_bears_its_id() -> None:
    if not LIST.is_file():
        pytest.skip(f"the list of attacks is not at {LIST}")
    listed = set(re.findall(r"^\| ([A-Q][0-9]{1,2}) \|", LIST.read_text(), re.MULTILINE))
    assert len(listed) > 200
    assert sorted(listed - borne() - SAID.keys()) == []
    assert sorted(borne() - listed) == [], "ids that are on no list"
    assert sorted(SAID.keys() & borne()) == []
    for page, words in SAID.values():
        assert words in (ROOT / page).read_text(), (page, words)


# --- K: silence, restarts, leaks -----------------------------------------------------------------------------------
async def test_K3_a_deadline_from_before_a_restart_is_kept_after_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    await gate.restart()  # and the executor never comes back
    assert executor.state(grant.authorization) == "running"
    await gate.pass_time(91)
    assert (await executor.wait_for("authorization.revoked", grant.authorization))["reason"] == "lease.expired"


async def test_K4_who_stops_answering_is_revoked_and_told(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    channel.answer = lambda _challenge, _collect: None
    await gate.pass_time(61)
    assert (await executor.wait_for("authorization.revoked", grant.authorization))["reason"] == "attestation.overdue"
    assert (await channel.next(RefusedMessage)).authorization == grant.authorization


def files_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_K14_what_comes_and_goes_leaves_nothing_behind(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    token = await gate.token("operator")

    async def round_trip() -> None:
        await executor.enroll()
        async with executor.connect():
            pass
        await gate.call("GET", "/v1/executors", token=token)
        await gate.call("GET", "/v1/executors")

    async def left() -> tuple[int, ...]:
        inner = gate.gateway
        while gate.connections() or inner.channels.executors():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        lasting = len(inner.streams._open), len(inner.enrollments._pending), len(inner.enrollments._examining)
        return files_open(), *lasting

    await round_trip()
    before = await left()
    for _ in range(5):
        await round_trip()
    assert await left() == before
    assert before[1:] == (0, 0, 0)


# --- N: what a request may cost ------------------------------------------------------------------------------------
async def test_N11_near_misses_of_every_pattern_are_refused_soon(gate: GatewayInProcess) -> None:
    routes = all_routes(gate.gateway)
    asked = [one for route in routes for one in (*route.query, *route.headers)]
    patterns = {one.schema["pattern"] for one in asked if "pattern" in one.schema}
    patterns |= {names.NAME.pattern, names.EXECUTOR_ID.pattern}
    assert len(patterns) > 4
    near = [
        head * 4000 + tail
        for head in ("a", "0", "ab", "a.", "-", "ex-0", "\u0130", " ")
        for tail in ("", "\n", "!", "\0")
    ]
    with at_most(0.5):
        for pattern in patterns:
            for text in near:
                re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text)


async def test_N12_one_request_asks_for_one_proof(gate: GatewayInProcess) -> None:
    token = await gate.token("auditor")
    for query in ("from=1&from=2", "from=1,2", "from=1&to=2&to=3", "from[]=1", "from=" + "1," * 3000):
        answer = await gate.call("GET", f"/v1/log/consistency?{query}", token=token)
        assert (answer.status, answer.code) == (400, "request.malformed"), query
    assert (await gate.call("GET", "/v1/log/consistency?from=1", token=token)).status == 200


# --- P: one machine's story is not another's -----------------------------------------------------------------------
async def test_P7_each_machine_fails_for_its_own_reason(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, executors: Callable[[], ScriptedExecutor]
) -> None:
    other = executors()
    await other.enroll()
    async with other.connect():
        assert (await prove(gate, other)).trusted
        executor.drift()
        other.reboot()
        for _ in range(3):
            found = await asyncio.gather(prove(gate, executor), prove(gate, other))
            assert [one.appraisal.verdict.reason for one in found] == ["ima.not_allowed", "quote.reset_detected"]


async def test_P6_any_order_of_enrolling_and_orders_ends_where_a_simple_model_does(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    chance = random.Random(7)  # noqa: S311 -- a test's
    challenge = await executor.begin()
    name, known, quarantined = challenge.executor, False, False

    async def outcome(work: Any) -> str:
        try:
            await work
        except Refused as refused:
            return str(refused.reason)
        return "done"

    async with await gate.client("operator", "olivia") as operator:
        for _ in range(40):
            step = chance.choice(("enroll", "quarantine", "release", "revoke", "authorize"))
            if step == "enroll":
                assert await outcome(executor.enroll()) == ("operator.quarantined" if quarantined else "done")
                known = known or not quarantined
            elif step == "authorize":
                if not known:
                    continue
                assert await outcome(executor.authorize()) == "dispatch.executor_unreachable"
            else:
                what: Any = step + "s" if step != "revoke" else "revocations"
                expected = "operator.not_quarantined" if step == "release" and not quarantined else "done"
                expected = "dispatch.executor_unknown" if step == "revoke" and not known else expected
                assert await outcome(operator.order(what, "executor", name, "a drill")) == expected, step
                quarantined = step == "quarantine" or (quarantined and step != "release")
        assert known
        if quarantined:
            await operator.order("releases", "executor", name, "the end of the drill")
        await executor.enroll()
        async with executor.connect():
            await executor.approve()
            assert await outcome(executor.authorize()) == "done"
            await operator.order("quarantines", "executor", name, "a drill")
            assert await outcome(executor.authorize()) == "operator.quarantined"
