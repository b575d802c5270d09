"""The demo's story played act by act, by whoever presses the buttons of the console's demo page.

The gateway that serves that page is the story's gateway. Everything else is started from here: the executor's software TPM,
its agent, the commands of each role, the jobs. One thread does all of it and lives as long as the process, since what it
starts is to die with it.
"""

import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tpm.errors import DeviceError
from ztrooted.demo.stage import Stage, UnexpectedError, wait_until
from ztrooted.demo.story import PACE, Observed, Story
from ztrooted.errors import EnvironmentProblem, GateError

# A visitor reads between two presses of a button, so an artifact waits longer for its start than in the quick demo.
VISITORS_PACE = {**PACE, "lease_s": 60.0}
MARGIN_S = 5.0  # an artifact that ends sooner than this is asked for anew
TRUSTED_S = 20.0
KEPT_STEPS = 64  # of what was played before


class NotNowError(Exception):
    """That act has its time, and this is not it; the text says what is."""


class Act(StrEnum):
    """What a visitor may press."""

    BOOT = "boot"
    AUTHORIZE = "authorize"
    RUN = "run"
    TAMPER = "tamper"


class Scene(StrEnum):
    """Where the story stands between two acts."""

    OFF = "off"
    READY = "ready"
    AUTHORIZED = "authorized"
    RUNNING = "running"
    STOPPED = "stopped"


NEXT = {
    Scene.OFF: Act.BOOT,
    Scene.READY: Act.AUTHORIZE,
    Scene.AUTHORIZED: Act.RUN,
    Scene.RUNNING: Act.TAMPER,
    Scene.STOPPED: Act.BOOT,
}
LEADS_TO = {
    Act.BOOT: Scene.READY,
    Act.AUTHORIZE: Scene.AUTHORIZED,
    Act.RUN: Scene.RUNNING,
    Act.TAMPER: Scene.STOPPED,
}


class Status(StrEnum):
    """How far a step is."""

    WAITING = "waiting"
    NOW = "now"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an act: what it is, and what was observed, or what went wrong and what to do."""

    act: Act
    sentence: str
    status: Status = Status.WAITING
    seconds: float = 0.0
    observed: tuple[tuple[str, str], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What can be seen from outside, at one moment. ``act`` is what is being played, None between two acts."""

    version: int
    scene: Scene
    act: Act | None
    steps: tuple[Step, ...]
    executor: str = ""
    authorization: str = ""
    until_s: float = 0.0  # on the monotonic clock, when an artifact that nobody started ends

    @property
    def allowed(self) -> Act | None:
        """What may be pressed now: one act, or none while another is being played."""
        return None if self.act is not None else NEXT[self.scene]


class Player:
    """Plays acts, one at a time. ``seen`` may be read from any thread."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._story = Story(Stage(data), VISITORS_PACE)
        self._on_change: Callable[[], None] = lambda: None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="demo")
        self._lock = threading.Lock()
        self._played = Played(0, Scene.OFF, None, ())
        self._closing = False

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change``, on the player's own thread, whenever there is something new to be seen."""
        self._on_change = on_change

    @property
    def seen(self) -> Played:
        """What there is to be seen now. An artifact that nobody started in time is nothing to run any more."""
        played = self._played
        if played.scene is Scene.AUTHORIZED and played.act is None and time.monotonic() > played.until_s:
            return replace(played, scene=Scene.READY)
        return played

    @property
    def heartbeat(self) -> Path:
        """Where the job writes that it lives."""
        return self._story.heartbeat()

    def bundle(self) -> bytes | None:
        """The proof of the last job, once it is there."""
        with suppress(FileNotFoundError):
            return self._story.bundle("train").read_bytes()
        return None

    def anchors(self) -> bytes:
        """What an auditor of this gateway is told to trust."""
        return (self._story.data / "anchors.toml").read_bytes()

    def play(self, act: Act) -> None:
        """Begin an act. NotNowError where it is not its turn, or while another is being played."""
        with self._lock:
            seen = self.seen
            if seen.allowed is not act:
                turn = f"{seen.act} is still being played" if seen.act else f"next is {NEXT[seen.scene]}"
                raise NotNowError(f"{act} can't be played now: {turn}")
            steps = [(Step(act, sentence), do) for sentence, do in self._steps_of(act)]
            before = () if act is Act.BOOT else seen.steps[-KEPT_STEPS:]
            self._show(act=act, scene=seen.scene, steps=(*before, *(step for step, _ in steps)))
            self._thread.submit(self._play, act, len(before), [do for _, do in steps])

    def _show(self, **changes: object) -> None:
        self._played = replace(self._played, version=self._played.version + 1, **changes)  # type: ignore[arg-type]
        self._on_change()

    def _play(self, act: Act, first: int, actions: list[Callable[[], Observed]]) -> None:
        for number, do in enumerate(actions, first):
            self._step(number, status=Status.NOW)
            began = time.monotonic()
            try:
                observed = do()
            except (UnexpectedError, DeviceError, GateError, OSError, ValueError, subprocess.SubprocessError) as error:
                if not self._closing:
                    self._step(number, status=Status.FAILED, problem=_told(error))
                    self._show(act=None, scene=Scene.STOPPED)
                return
            told = tuple((name.replace("_", " "), _worded(value)) for name, value in observed.items())
            self._step(number, status=Status.DONE, seconds=time.monotonic() - began, observed=told)
        self._show(act=None, scene=LEADS_TO[act])

    def _step(self, number: int, **changes: object) -> None:
        steps = list(self._played.steps)
        steps[number] = replace(steps[number], **changes)  # type: ignore[arg-type]
        self._show(steps=tuple(steps))

    def _steps_of(self, act: Act) -> list[tuple[str, Callable[[], Observed]]]:
        story = self._story
        if act is Act.BOOT and self._played.executor:
            return [
                ("The machine is switched off and boots into its good state again", self._reboot),
                ("It enrolls anew; the baseline holds, so its quote is trusted", story.recover),
            ]
        return {
            Act.BOOT: [
                ("The machine boots; its firmware and kernel measure what they load", self._boot),
                ("It enrolls: a credential that only its TPM can open, and a quote of its boot", self._enroll),
                ("Nobody has approved that state yet, so a dispatch is denied", story.denied),
                ("The operator captures the state and approves it as the baseline", self._approve),
            ],
            Act.AUTHORIZE: [("A job is authorized, on a quote made for exactly this job", self._authorize)],
            Act.RUN: [
                ("The machine proves itself once more for this start, and the job runs", story.start_job),
                ("The lease is renewed, each time on a new quote", story.renewals),
            ],
            Act.TAMPER: [
                ("A program that nobody approved is measured while the job runs", story.intrude),
                ("The next quote shows it: the authorization is revoked", story.revoked),
                ("The kernel kills the whole process tree", self._killed),
                ("The proof is exported and verified, without network and without this gateway", self._prove),
                ("One flipped bit, and the proof is refused", story.tamper),
            ],
        }[act]

    def _boot(self) -> Observed:
        self._story.find_gateway()
        self._story.switch_on()
        return self._story.boot()

    def _reboot(self) -> Observed:
        self._story.again()
        self._story.stage.stop("agent")
        return {"the job's artifact and proof": "put away"}

    def _enroll(self) -> Observed:
        done = self._story.enroll()
        self._show(executor=self._story.executor)
        return done

    def _approve(self) -> Observed:
        done = self._story.approve()
        wait_until("the first trusted round", self._story.trusted, TRUSTED_S)
        return done

    def _authorize(self) -> Observed:
        self._story.again()
        done = self._story.authorize()
        until_s = time.monotonic() + VISITORS_PACE["lease_s"] - MARGIN_S
        self._show(authorization=self._story.authorizations["train"], until_s=until_s)
        return {**done, "lease": f"{VISITORS_PACE['lease_s']:g} s"}

    def _killed(self) -> Observed:
        done = self._story.killed()
        return {
            "from the measurement to the last sign of life": f"{done['exposure_with_measuring_ms']} ms",
            "from the revocation to the death": f"{done['revoked_to_dead_ms']} ms",
        }

    def _prove(self) -> Observed:
        proved = self._story.prove_job("train")
        wanted = (
            "checks",
            "outcome",
            "good_quotes",
            "largest_gap_ms",
            "allowed_gap_ms",
            "exposure_at_most_ms",
            "bytes",
        )
        return {name: proved[name] for name in wanted if name in proved}

    def close(self) -> None:
        """End everything that was started. Blocks until it is over."""
        self._closing = True
        self._story.stage.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._story.stage.close()  # what the last step still started
        self._story.close()


def _worded(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _told(error: Exception) -> str:
    if isinstance(error, (EnvironmentProblem, DeviceError)):
        return f"{getattr(error, 'detail', error)}; {error.remedy}"
    return str(error)
