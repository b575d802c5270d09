"""When each connected executor is asked next, and whose turn it is: live jobs first, idle machines within bounds.

Nothing here may stretch an interval. Jitter only shortens one; a challenge that leaves after its time is late, shows so in
``ztrooted_challenge_lateness_seconds``, and whatever it should have renewed ends at its stored deadline all the same.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from gateway.deadlines import Deadlines
from gateway.metrics import Metrics
from gateway.rounds import Rounds
from gateway.storage import authorizations
from gateway.storage.database import Database
from ztrooted.appraisal_policy import NO_RULES, AppraisalClass
from ztrooted.clock import Clock
from ztrooted.errors import PolicyError

# Challenges to idle executors that wait for an answer at once, so that a burst of them is worked off in order instead of
# all being late together. An executor with a live job waits for none of them; one that is silent gives up its place.
IDLE_AT_ONCE = 32
ANSWERS_IN_S = 0.05
# Between two early rounds of one executor lies at least this share of its interval, however often it asks for one.
EARLY_SHARE = 0.1

Action = Callable[[], Awaitable[None]]


class Schedule:
    """The time of the next challenge of each executor."""

    def __init__(self, deadlines: Deadlines, clock: Clock, metrics: Metrics) -> None:
        self._deadlines = deadlines
        self._clock = clock
        self._metrics = metrics
        self._due: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._live: set[str] = set()
        self._unplanned: set[str] = set()
        self._places = IDLE_AT_ONCE
        self._asking: dict[str, asyncio.TimerHandle] = {}  # who holds a place, and what takes it back
        self._waiting: OrderedDict[str, Action] = OrderedDict()  # for a place
        metrics.waiting.set_function(lambda: len(self._waiting))

    def within(self, executor: str, interval_s: float, jitter: float, action: Action, *, live: bool) -> None:
        """Ask after ``interval_s`` less a random share of up to ``jitter``, so that executors don't fall into step.

        After a round out of turn, which many executors may have had together, the next comes anywhere within the interval.
        ``live`` says whether a job runs there, which puts its turn before that of idle ones.
        """
        (self._live.add if live else self._live.discard)(executor)
        if executor in self._unplanned and not live:
            jitter = 1 - EARLY_SHARE
        (self._unplanned.discard if interval_s else self._unplanned.add)(executor)
        in_s = interval_s * (1 - random.uniform(0, jitter))  # noqa: S311 -- jitter
        self._set(executor, in_s, action)

    def at(self, executor: str, in_s: float, action: Action) -> None:
        """Ask in ``in_s`` seconds, out of turn; replaces what was set before."""
        self._unplanned.add(executor)
        self._set(executor, in_s, action)

    def _set(self, executor: str, in_s: float, action: Action) -> None:
        self._due[executor] = self._clock.monotonic() + in_s
        self._waiting.pop(executor, None)
        self._deadlines.set(("prove", executor), in_s, partial(self._arrived, executor, action))

    def early(self, executor: str, interval_s: float, action: Action) -> None:
        """Ask before the time, since the executor says that there is something to see; never later than was set."""
        now = self._clock.monotonic()
        due = max(now, self._asked.get(executor, 0.0) + interval_s * EARLY_SHARE)
        if due < self._due.get(executor, 0.0):
            self._set(executor, due - now, action)

    def forget(self, executor: str) -> None:
        """Nobody is there to be asked."""
        self._due.pop(executor, None)
        self._asked.pop(executor, None)
        self._live.discard(executor)
        self._unplanned.discard(executor)
        self._waiting.pop(executor, None)
        self._deadlines.clear(("prove", executor))

    async def _arrived(self, executor: str, action: Action) -> None:
        """Its time has come: ask, or have it wait until others have answered. A live one's turn is at once."""
        if executor not in self._live and executor not in self._asking:
            if not self._places:
                self._waiting[executor] = action
                return
            self._take_place(executor)
        try:
            await action()
        finally:
            self.answered(executor)

    def _take_place(self, executor: str) -> None:
        self._places -= 1
        over = asyncio.get_running_loop().call_later(ANSWERS_IN_S, self.answered, executor)
        self._asking[executor] = over

    def answered(self, executor: str) -> None:
        """The answer is here, or late: whoever waits longest is asked."""
        over = self._asking.pop(executor, None)
        if over is None:
            return
        over.cancel()
        self._places += 1
        if self._waiting:
            following, action = self._waiting.popitem(last=False)
            self._take_place(following)
            self._deadlines.start(("prove", following), partial(self._arrived, following, action))

    def asking(self, executor: str, *, live: bool) -> None:
        """The challenge leaves now: note how late it is."""
        now = self._clock.monotonic()
        self._asked[executor] = now
        due = self._due.pop(executor, now)
        self._metrics.late(max(0.0, now - due), live=live)


class Pace:
    """How often each connected executor is asked: as the rules of its class say, and otherwise with a live job than idle."""

    def __init__(
        self,
        schedule: Schedule,
        database: Database,
        clock: Clock,
        rounds: Rounds,
        ask: Callable[[str], Awaitable[None]],
    ) -> None:
        """``ask`` has the next round with an executor."""
        self._schedule = schedule
        self._database = database
        self._clock = clock
        self._rounds = rounds
        self._ask = ask

    def follow(self, executor: str) -> None:
        """Set the time of the next round with a connected executor."""
        self.next(executor, self._rules(executor), live=self._live(executor))

    def next(self, executor: str, policy: AppraisalClass, *, live: bool) -> None:
        """The same, by what a round has just found."""
        interval_s = policy.interval_s if live else policy.idle_interval_s
        self._schedule.within(executor, interval_s, policy.jitter, partial(self._ask, executor), live=live)

    def connected(self, executor: str) -> None:
        """The first round after a connection: at once with a live job, and otherwise when it would have been anyway.

        So a connection that is lost and made again neither delays a proof nor adds one, and ten thousand that come at
        once are asked as spread as before.
        """
        idle_s = self._rules(executor).idle_interval_s
        since_s = (self._clock.now_ms() - self._rounds.executor(executor).proved_at) / 1000
        live = self._live(executor)
        in_s = 0.0 if live else min(max(idle_s - since_s, 0.0), idle_s)
        self._schedule.within(executor, in_s, 0.0, partial(self._ask, executor), live=live)

    def hurry(self, executor: str) -> None:
        """An executor says that it has measured something. With a live job it is asked early."""
        if self._live(executor):
            self._schedule.early(executor, self._rules(executor).interval_s, partial(self._ask, executor))

    def now(self, executor: str) -> None:
        """Ask at once, out of turn."""
        self._schedule.at(executor, 0.0, partial(self._ask, executor))

    def _live(self, executor: str) -> bool:
        return bool(authorizations.activated(self._database.reading, executor))

    def _rules(self, executor: str) -> AppraisalClass:
        try:
            return self._rounds.policy_of(self._rounds.executor(executor))
        except PolicyError:  # no class is for it; it is asked again, since labels and policies change
            return NO_RULES
