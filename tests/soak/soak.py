"""A day of the schedule in minutes: a real gateway whose clock is moved, simulated executors over real TLS, random faults.

Each fault has one right outcome, known beforehand. A revocation that no fault asked for is false; one that did not come by
its deadline is missed. Time moves in steps, and only when nothing is under way, so that what happens between two steps
happens at one instant of the schedule.
"""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.endorsement import INTEL, vendor
from tests.support.executor import job
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_in_process import GatewayInProcess
from tpm.software import SoftwareTpm
from ztrooted.channel_messages import EndedMessage
from ztrooted.client import Refused
from ztrooted.models import DispatchRequest

STEP_S = 2.0
PACE = {"interval_s": 10.0, "idle_interval_s": 60.0, "response_deadline_s": 0.5, "lease_s": 30.0}
PROGRAMS = {"/usr/bin/dash": b"a shell"}
LIVE = {"authorized", "activated", "running"}
# By when a fault must have ended the job, in seconds of the schedule.
DRIFT_S = PACE["interval_s"] + PACE["response_deadline_s"] + 2 * STEP_S
SILENT_S = PACE["lease_s"] + 2 * STEP_S


@dataclass
class Work:
    """One live authorization, and what must become of it."""

    authorization: str
    executor: SimulatedExecutor
    ends: float
    fault: str | None = None
    reasons: frozenset[str] = frozenset()
    due: float = 0.0


@dataclass
class Outcome:
    """What was found."""

    steps: int = 0
    jobs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    false: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


class Soak:
    """One run; ``seed`` decides what goes wrong and when."""

    def __init__(self, folder: Path, seed: int, executors: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 -- dice
        self.tpm = SoftwareTpm(folder / "tpm")
        self.gate = GatewayInProcess(folder, self.tpm, vendor().root.pem, PACE, vendors=[INTEL])
        self.good = SimulatedMachine(folder / "good", PROGRAMS)
        self.drifted = SimulatedMachine(folder / "drifted", {**PROGRAMS, "/tmp/intruder": b"not approved"})
        self.count = executors
        self.now = 0.0
        self.work: dict[str, Work] = {}
        self.outcome = Outcome()

    async def run(self, seconds: float) -> Outcome:
        """Let ``seconds`` of the schedule pass."""
        await self.gate.start()
        try:
            self.executors = [SimulatedExecutor(self.gate.url, self.gate.ca, self.good) for _ in range(self.count)]
            for executor in self.executors:
                executor.backoff_s = (0.02, 0.05)
            await enroll_all(self.executors, at_once=2)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(connect_all(self.executors))
                self.token = await self.gate.token("orchestrator", "soak")
                async with await self.gate.client("operator") as operator:
                    captured = await operator.capture_baseline(self.executors[0].id)
                    await operator.approve_baseline(captured.baseline)
                while self.now < seconds:
                    await self.step()
        finally:
            await self.gate.stop()
            self.tpm.close()
        return self.outcome

    async def step(self) -> None:
        await self.quiet()
        await self.compare()
        await self.act()
        await self.quiet()
        await self.gate.pass_time(STEP_S)
        self.now += STEP_S
        self.outcome.steps += 1

    async def quiet(self) -> None:
        """Wait until everybody who should be is connected, and no round is due or under way."""
        gateway = self.gate.gateway
        async with asyncio.timeout(60):
            while True:
                connected = all(one.socket is not None and gateway.channels.get(one.id) for one in self.executors)
                busy = any(gateway.channels.busy(one.id) for one in self.executors)
                if connected and not busy and not gateway.deadlines.due:
                    return
                await asyncio.sleep(0.001)

    async def compare(self) -> None:
        """Every job's state against what must have become of it."""
        for work in list(self.work.values()):
            row = self.gate.gateway.database.reading.execute(
                "SELECT state, reason FROM authorizations WHERE id = ?", (work.authorization,)
            ).fetchone()
            state, reason = str(row[0]), str(row[1])
            if state in LIVE:
                if work.fault is not None and self.now > work.due:
                    self.outcome.missed.append(f"{work.fault} at {self.now:.0f} s: still {state}")
                    del self.work[work.authorization]
                continue
            if work.fault is None or reason not in work.reasons:
                failed = [
                    check
                    for one in self.gate.records("attestation.failed", "attestation.overdue")
                    if one["authorization"] == work.authorization and one["body"]["verdict"]
                    for check in one["body"]["verdict"]["checks"]
                ]
                detail = failed[0]["detail"] if failed else ""
                self.outcome.false.append(
                    f"{work.fault or 'no fault'} at {self.now:.0f} s: {state} for {reason} ({detail})"
                )
            await self.recover(work)

    async def recover(self, work: Work) -> None:
        work.executor.tpm.machine = self.good
        work.executor.mute = False
        del self.work[work.authorization]
        await self.ended(work, "killed")

    async def ended(self, work: Work, outcome: str) -> None:
        message = EndedMessage(
            authorization=work.authorization,
            outcome=outcome,  # type: ignore[arg-type]
            exit_status=0 if outcome == "exited" else None,
            signal=None if outcome == "exited" else 9,
            reason=outcome,
        )
        while (socket := work.executor.socket) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await socket.send_str(message.model_dump_json())

    async def act(self) -> None:
        """Start work, end work, and let things go wrong."""
        busy = {work.executor.id: work for work in self.work.values()}
        for executor in self.executors:
            work = busy.get(executor.id)
            if work is None:
                if self.random.random() < 0.05:
                    await self.begin(executor)
            elif work.fault is None:
                await self.maybe(work)
        if self.random.random() < 0.0005:
            self.outcome.faults["restart"] += 1
            await self.gate.restart()
            for executor in self.executors:
                executor.url = self.gate.url

    async def begin(self, executor: SimulatedExecutor) -> None:
        asked = DispatchRequest(executor=executor.id, job=job(), max_runtime_s=86400)
        async with self.gate.client_with(self.token) as orchestrator:
            try:
                grant = await orchestrator.authorize(asked)
            except Refused as refused:
                self.outcome.false.append(f"refused at {self.now:.0f} s: {refused.reason} {refused.detail}")
                return
        await executor.run_job(grant.authorization, grant.artifact)
        self.outcome.jobs += 1
        ends = self.now + self.random.uniform(60, 3600)
        self.work[grant.authorization] = Work(grant.authorization, executor, ends)

    async def maybe(self, work: Work) -> None:
        dice = self.random.random()
        if self.now > work.ends:
            del self.work[work.authorization]
            await self.ended(work, "exited")
        elif dice < 0.002:
            self.expect(work, "drift", DRIFT_S, "ima.not_allowed")
            work.executor.tpm.machine = self.drifted
        elif dice < 0.004:
            self.expect(work, "silence", SILENT_S, "attestation.overdue", "lease.expired")
            work.executor.mute = True
        elif dice < 0.006:
            self.expect(work, "operator", STEP_S, "operator.revoked")
            async with await self.gate.client("operator") as operator:
                await operator.revoke(work.authorization, "soak")
        elif dice < 0.01:
            self.outcome.faults["cut"] += 1  # a connection that is lost and made again harms nobody
            assert work.executor.socket is not None
            await work.executor.socket.close()

    def expect(self, work: Work, fault: str, within_s: float, *reasons: str) -> None:
        self.outcome.faults[fault] += 1
        work.fault, work.due, work.reasons = fault, self.now + within_s, frozenset(reasons)
