"""``ztrooted exec`` feels like running the command: streams, signals, stops, exit status, terminal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ztrooted.executor.calls import Calls, Screen, calls
from tests.ztrooted.executor.processes import PATIENCE_S, until

__all__ = ["calls"]

UP = "echo up; "
FOREVER = "while :; do sleep 0.02; done"


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def read_line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


class TestPipes:
    def test_streams_and_status_pass_through(self, calls: Calls) -> None:
        process = calls.on_pipes("sh", "-c", "cat; echo wrong >&2; exit 7")
        out, err = process.communicate(b"line\n", timeout=PATIENCE_S)
        assert (out, err, process.returncode) == (b"line\n", b"wrong\n", 7)

    def test_much_passes_through_unchanged(self, calls: Calls) -> None:
        data = os.urandom(3 << 20)
        assert calls.on_pipes("cat").communicate(data, timeout=PATIENCE_S) == (data, b"")

    def test_a_reader_that_goes_away_is_the_jobs_matter(self, calls: Calls) -> None:
        """``ztrooted exec -- yes | head -1``: the job dies of SIGPIPE, as without us."""
        process = calls.on_pipes("yes")
        read_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGPIPE
        process.communicate()

    @pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "ALRM", "WINCH"])
    def test_a_signal_reaches_the_job(self, calls: Calls, name: str) -> None:
        process = calls.on_pipes("sh", "-c", f"trap 'echo heard; exit 5' {name}; {UP}{FOREVER}")
        assert read_line(process) == b"up\n"
        process.send_signal(signal.Signals[f"SIG{name}"])
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert (out, process.returncode) == (b"heard\n", 5)

    @pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1"])
    def test_a_job_that_does_not_handle_it_dies_of_it(self, calls: Calls, name: str) -> None:
        number = signal.Signals[f"SIG{name}"]
        process = calls.on_pipes("sh", "-c", f"{UP}exec sleep 600")
        assert read_line(process) == b"up\n"
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + number

    @pytest.mark.parametrize(("name", "heard"), [("INT", ["child", "first"]), ("TERM", ["first"])])
    def test_what_a_terminal_sends_goes_to_all_and_the_rest_to_the_first(
        self, calls: Calls, name: str, heard: list[str]
    ) -> None:
        """As a shell's foreground job gets Ctrl-C, and the process of a ``kill`` alone what is sent to it."""
        source = f"""
import os, signal, sys, time
who = "first" if os.fork() else "child"
def hear(*_):
    os.write(1, who.encode() + b"\\n")
    time.sleep(0.5 if who == "first" else 0)
    os._exit(0)
signal.signal(signal.SIG{name}, hear)
if who == "child":
    os.write(1, b"up\\n")
time.sleep(600)
"""
        process = calls.on_pipes(sys.executable, "-c", source)
        assert read_line(process) == b"up\n"
        time.sleep(0.2)  # until the first has its handler too
        process.send_signal(signal.Signals[f"SIG{name}"])
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert sorted(out.decode().split()) == heard

    def test_it_stops_and_continues_with_its_caller(self, calls: Calls, tmp_path: Path) -> None:
        beat = tmp_path / "beat"
        source = f"""
import os, time
os.write(1, b"up\\n")
while True:
    with open({str(beat)!r}, "w") as file: file.write(str(time.monotonic_ns()))
    time.sleep(0.02)
"""
        process = calls.on_pipes(sys.executable, "-c", source)
        assert read_line(process) == b"up\n"
        until(beat.exists, "its heart beats")
        process.send_signal(signal.SIGTSTP)
        until(lambda: state(process.pid) == "T", "the caller is stopped")
        before = beat.read_text()
        time.sleep(0.2)
        assert beat.read_text() == before
        process.send_signal(signal.SIGCONT)
        until(lambda: beat.read_text() not in {before, ""}, "the job goes on")
        assert state(process.pid) != "T"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + signal.SIGTERM

    def test_a_job_that_is_stopped_is_killed_with_its_caller(self, calls: Calls, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        process = calls.on_pipes("sh", "-c", f"{UP}read line; : {mark}")
        assert read_line(process) == b"up\n"
        process.send_signal(signal.SIGTSTP)
        until(lambda: state(process.pid) == "T", "the caller is stopped")
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        until(lambda: not list(naming(str(mark))), "the job is dead")

    def test_hangups_that_its_caller_was_to_ignore_are_ignored(self, calls: Calls) -> None:
        """Under nohup."""
        command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *calls.line("sh", "-c", f"{UP}read line; echo $line")]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[3])
        assert read_line(process) == b"up\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(b"on\n", timeout=PATIENCE_S)[0] == b"on\n"

    def test_the_jobs_own_137_says_nothing_and_the_gates_says_why(self, calls: Calls, tmp_path: Path) -> None:
        own = calls.on_pipes("sh", "-c", "kill -9 $$")
        assert (own.communicate(timeout=PATIENCE_S), own.returncode) == ((b"", b""), 137)
        gone = calls.on_pipes("sh", "-c", f"{UP}read line")
        read_line(gone)
        time.sleep(0.5)  # until the agent has heard that it runs
        (init,) = [pid for pid in naming_comm("ztrooted-init") if parent_chain_has(pid, calls.agent.pid)]
        os.kill(init, signal.SIGKILL)
        _, err = gone.communicate(timeout=PATIENCE_S)
        assert (gone.returncode, b"init.killed" in err) == (137, True)

    def test_without_an_agent_it_says_so(self, calls: Calls) -> None:
        options = ("--socket", "/nonexistent/agent.sock")
        process = calls.on_pipes("true", options=options)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, b"no executor agent answers" in err) == (3, True)


def naming(text: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line:
                yield int(entry.name)


def naming_comm(name: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == name:
                    yield int(entry.name)
            except OSError:
                continue


def parent_chain_has(pid: int, wanted: int) -> bool:
    while pid > 1:
        if pid == wanted:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.fixture
def screen(calls: Calls) -> Iterator[Callable[..., Screen]]:
    made: list[Screen] = []

    def show(*job: str) -> Screen:
        environment = ("--env", "TERM=xterm", "--env", "PS1=prompt: ", "--env", "PATH=/usr/local/bin:/usr/bin:/bin")
        made.append(Screen(calls.line(*job, options=environment)))
        return made[-1]

    yield show
    for each in made:
        each.close()


class TestTerminal:
    def test_it_has_one_of_its_own_as_large_as_ours(self, screen: Callable[..., Screen]) -> None:
        shown = screen("sh", "-c", "stty size; tty; echo here > /dev/tty; ps -o stat= -p $$; exit 4")
        text = shown.wait_for(b"here")
        assert b"33 101" in text
        assert b"/dev/pts/" in text
        assert shown.status() == 4
        assert b"Ss" not in shown.seen  # it leads no session, as a shell's job does not

    def test_keys_are_echoed_once_and_reach_it(self, screen: Callable[..., Screen]) -> None:
        shown = screen("sh", "-c", "echo up; exec cat")
        shown.wait_for(b"up\r\n")
        shown.type(b"typed\r")
        assert shown.wait_for(b"typed\r\ntyped\r\n")
        shown.type(b"\x04")
        assert shown.status() == 0
        assert b"typed" not in shown.seen

    @pytest.mark.parametrize(("key", "number"), [(b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT)])
    def test_keys_that_are_signals(self, screen: Callable[..., Screen], key: bytes, number: int) -> None:
        shown = screen("sh", "-c", "echo up; exec sleep 600")
        shown.wait_for(b"up\r\n")
        shown.type(key)
        assert shown.status() == 128 + number

    def test_an_interactive_shell_has_job_control(self, screen: Callable[..., Screen]) -> None:
        shown = screen("bash", "--norc", "-i")
        before = shown.wait_for(b"prompt: ")
        assert b"job control" not in before
        shown.type(b"sleep 600\r")
        shown.wait_for(b"sleep 600\r\n")
        time.sleep(0.2)
        shown.type(b"\x1a")
        shown.wait_for(b"Stopped")
        shown.type(b"kill -9 %1; echo $((6 * 7))\r")
        shown.wait_for(b"42")
        shown.type(b"exit 9\rexit 9\r")  # the first only warns of the stopped job
        assert shown.status() == 9

    def test_a_program_that_reads_single_keys(self, screen: Callable[..., Screen]) -> None:
        source = "import os, tty; tty.setraw(0); print('up', flush=True); print(os.read(0, 1), flush=True)"
        shown = screen(sys.executable, "-c", source)
        shown.wait_for(b"up")
        shown.type(b"\x03")
        shown.wait_for(b"b'\\x03'")
        assert shown.status() == 0

    def test_it_is_stopped_and_brought_back(self, screen: Callable[..., Screen]) -> None:
        shown = screen("sh", "-c", "echo up; exec cat")
        cooked = shown.modes()
        shown.wait_for(b"up\r\n")
        until(lambda: shown.modes() != cooked, "every key is the job's")
        shown.type(b"\x1a")
        assert shown.stopped()
        assert shown.modes() == cooked
        os.kill(shown.pid, signal.SIGCONT)
        until(lambda: shown.modes() != cooked, "every key is the job's again")
        shown.type(b"back\r")
        shown.wait_for(b"back\r\nback\r\n")
        shown.type(b"\x04")
        assert shown.status() == 0
        assert shown.modes() == cooked

    def test_it_hears_of_a_new_size(self, screen: Callable[..., Screen]) -> None:
        shown = screen("bash", "-c", "trap 'stty size; exit 6' WINCH; echo up; while :; do sleep 0.05; done")
        shown.wait_for(b"up\r\n")
        shown.resize((12, 34))
        shown.wait_for(b"12 34")
        assert shown.status() == 6

    def test_what_is_no_terminal_is_passed_on_as_it_is(self, calls: Calls, tmp_path: Path) -> None:
        """``ztrooted exec -- … > file``: no carriage returns in it, and keys work all the same."""
        kept = tmp_path / "kept"
        command = ["/bin/sh", "-c", 'exec "$@" > ' + str(kept), "sh", *calls.line("sh", "-c", "echo up >&2; exec cat")]
        shown = Screen(command)
        shown.wait_for(b"up")
        shown.type(b"typed\r\x04")
        assert shown.status() == 0
        assert kept.read_bytes() == b"typed\n"
        shown.close()

    def test_the_last_words_are_shown(self, screen: Callable[..., Screen]) -> None:
        shown = screen("sh", "-c", "seq 5000; printf end; kill -9 $$")
        shown.wait_for(b"5000\r\nend")
        assert shown.status() == 137

    def test_a_terminal_that_hangs_up_ends_it(self, screen: Callable[..., Screen]) -> None:
        mark = f"sleep 600.{os.getpid()}"
        shown = screen("sh", "-c", f"echo up; exec {mark}")
        shown.wait_for(b"up\r\n")
        os.close(shown.fd)
        until(lambda: not list(naming(mark.replace(" ", "\0"))), "the job is dead")
