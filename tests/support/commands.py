"""Runs many ``ztrooted`` commands quickly: a server that has imported everything forks a process for each.

What a command does is real, only the half second of imports before it is saved. Tests about starting up start programs.
"""

import json
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

_SERVER = """
import json, os, signal, sys, traceback
from ztrooted.cli.main import main
import gateway.app, gateway.setup, gateway.tokens, gateway.anchors, tpm.device, ztrooted.client, ztrooted.demo.story
import ztrooted.executor.agent, ztrooted.executor.control, ztrooted.logs, ztrooted.explanations

def run(arguments, output, errors):
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.alarm(30)
    os.environ["ZTROOTED_STATE"] = os.path.dirname(output)  # environments are copies of each other, and no one log
    sys.argv[:] = ["ztrooted", *arguments]
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

for line in sys.stdin:
    arguments, output, errors = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        run(arguments, output, errors)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@lru_cache(maxsize=1)
def _server() -> "subprocess.Popen[str]":
    """One for all tests of this process; it ends when this process does, as its input does then."""
    return subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``ztrooted`` with these arguments to its end, half a minute at most."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        server.stdin.write(json.dumps([arguments, str(output), str(errors)]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["ztrooted", *arguments], code, output.read_text(), errors.read_text())
