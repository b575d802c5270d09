"""``ztrooted`` for shells of tests: a server that has imported everything forks a process for each command.

    with commands(folder) as path:      # a folder with the program ``ztrooted``, for the front of PATH
        subprocess.run(["bash", "-c", "ztrooted executors | grep -c ex-"], env={"PATH": f"{path}:…"})

The command is real and is the shell's: its arguments, environment, folder, streams, signals and exit status. Only the second
of imports before it is saved. Tests about starting up start programs.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVER = """
import json, os, signal, socket, sys, traceback
from ztrooted.cli.main import main
import gateway.app, gateway.backup, gateway.cli, gateway.config_cli, gateway.doctor, gateway.fsck, gateway.recover
import gateway.setup, tpm.device, ztrooted.cli.audit, ztrooted.cli.baseline, ztrooted.cli.doctor, ztrooted.cli.explain
import ztrooted.cli.monitor, ztrooted.cli.orchestrate, ztrooted.cli.orders, ztrooted.cli.policy, ztrooted.cli.proof
import ztrooted.cli.webhooks, ztrooted.cli.witness, ztrooted.client, ztrooted.executor.control, ztrooted.explanations

def run(asked, streams):
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv[:] = ["ztrooted", *asked["arguments"]]
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def answer(caller):
    data, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
    child = os.fork()
    if child == 0:
        caller.close()
        run(json.loads(data), streams)
    caller.sendall(b"%d\\n" % child)
    for stream in streams:
        os.close(stream)
    caller.sendall(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
    listening.bind(sys.argv[1])
    listening.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        caller, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            answer(caller)
            os._exit(0)
        caller.close()
        while True:  # those that have answered
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
"""
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
    server.connect({address!r})
    asked = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "cwd": os.getcwd()}}
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    told = server.makefile()
    child = int(told.readline())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = int(told.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


@contextmanager
def commands(folder: Path) -> Iterator[Path]:
    """The server, as long as the context; where the program ``ztrooted`` is."""
    address = folder / "s"
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, address],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        (folder / "bin").mkdir()
        program = folder / "bin" / "ztrooted"
        program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(0o700)
        yield folder / "bin"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
