"""What the demo's story is played on: a folder, real processes, and nothing that survives them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from ztrooted.errors import EnvironmentProblem
from ztrooted.log_memory import STATE
from ztrooted.reasons import GateReason

# Every process dies with the one that started it, however that ends.
BOUND = ("setpriv", "--pdeathsig", "KILL", "--")
CLI = (sys.executable, "-m", "ztrooted")
STOP_S = 10.0


class UnexpectedError(Exception):
    """The story did not go as it must; the demo fails."""


class Stage:
    """The demo's folder and processes."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        # What its clients remember of the demo's log ends with the demo.
        self._environment = {**os.environ, STATE: str(data / "state")}

    def folder(self, name: str) -> Path:
        """A folder below the demo's."""
        path = self.data / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, *arguments: str, expect: int = 0, prefix: tuple[str, ...] = CLI) -> str:
        """Run one command to its end; its standard output. UnexpectedError for any other exit code than ``expect``."""
        done = subprocess.run(  # noqa: S603 -- our own commands
            [*prefix, *arguments], capture_output=True, text=True, timeout=60, check=False, env=self._environment
        )
        if done.returncode != expect:
            said = (done.stdout + done.stderr).strip()[-2000:]
            raise UnexpectedError(f"'{' '.join(arguments)}' ended with {done.returncode}, not {expect}: {said}")
        return done.stdout

    def json(self, *arguments: str, expect: int = 0) -> Any:
        """Run one ``ztrooted`` command with ``--json``."""
        # What stands behind "--" is the job's.
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return json.loads(self.run(*arguments[:end], "--json", *arguments[end:], expect=expect))

    def start(
        self, name: str, *arguments: str, output: int | None = None, prefix: tuple[str, ...] = CLI
    ) -> "subprocess.Popen[bytes]":
        """Start a ``ztrooted`` process that runs until ``stop``; what it logs goes to ``NAME.log``."""
        with (self.data / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 -- our own commands
                [*BOUND, *prefix, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log,
                start_new_session=True,
                env=self._environment,
            )
        self._processes.append((name, process))
        return process

    def stop(self, name: str) -> None:
        """Ask the processes of this name to end, wait for them, and forget them."""
        for known, process in [one for one in self._processes if one[0] == name]:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
            self._processes.remove((known, process))

    def close(self) -> None:
        """End everything, the last started first."""
        for name, _ in list(reversed(self._processes)):
            self.stop(name)

    def alive(self, name: str) -> None:
        """UnexpectedError if a process has ended that should run; its log says why."""
        for known, process in self._processes:
            if known == name and process.poll() is not None:
                log = (self.data / f"{name}.log").read_text(errors="replace").strip()[-1500:]
                raise UnexpectedError(f"the {name} ended with {process.returncode}: {log}")


class Feed:
    """The orchestrator's event feed: ``ztrooted watch --json``, read as it comes."""

    def __init__(self, stage: Stage, *options: str) -> None:
        process = stage.start("watch", "watch", *options, "--json", output=subprocess.PIPE)
        self._events: Queue[tuple[float, dict[str, Any]]] = Queue()
        self._stream = process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(ValueError):  # closed while we read: the demo is over
            for line in self._stream or ():
                self._events.put((time.monotonic(), json.loads(line)))

    def wait(self, kind: str, authorization: str, within_s: float) -> tuple[float, dict[str, Any]]:
        """The next event of this kind for this authorization: when we heard of it, and the record."""
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            with suppress(Empty):
                heard, event = self._events.get(timeout=left)
                record: dict[str, Any] = event["record"]
                if record["type"] == kind and record["authorization"] == authorization:
                    return heard, record
        raise UnexpectedError(f"no {kind} of {authorization} on the event feed within {within_s:g} s")


def wait_until(what: str, true: Callable[[], Any], within_s: float) -> Any:
    """Wait for something; its first true value."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if value := true():
            return value
        time.sleep(0.02)
    raise UnexpectedError(f"{what} did not happen within {within_s:g} s")


def processes_running(command: str) -> list[int]:
    """Process ids with exactly this command line."""
    return [pid for pid, line in _command_lines() if line.strip() == command]


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def isolated(modules: tuple[str, ...]) -> tuple[str, ...]:
    """A command prefix: ``ztrooted`` without network, and with ``modules`` impossible to import.

    EnvironmentProblem where a network namespace can't be made.
    """
    for unshare in (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net")):
        probe = subprocess.run([*unshare, "true"], capture_output=True, check=False)  # noqa: S603
        if probe.returncode == 0:
            blocked = ", ".join(f"{name!r}: None" for name in modules)
            program = f"import sys; sys.modules.update({{{blocked}}}); from ztrooted.cli.main import main; main()"
            return (*unshare, sys.executable, "-c", program)
    raise EnvironmentProblem(
        GateReason.SUPERVISION_UNAVAILABLE,
        "no network namespace can be made here, so verifying offline can't be shown",
        "run as root, or allow user namespaces",
    )
