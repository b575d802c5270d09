"""docs/by-hand.md is run as it stands: every command of it, in one shell, in an empty folder."""

import os
import re
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.gate import processes_naming
from tests.support.snippets import BY_HAND, ROOT, runnable
from tests.support.tpm import missing

SETUP = "scripts/setup"


def commands() -> list[str]:
    """The lines of the page's blocks, in order."""
    return [line for block in runnable(BY_HAND) for line in block.text.splitlines()]


@pytest.mark.timeout(280)
@pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}")
def test_the_page_is_what_happens() -> None:
    first, *lines = commands()
    assert first == SETUP  # it was run, or this test would not
    script = "\n".join(["set -euo pipefail", *lines])
    with tempfile.TemporaryDirectory(prefix="ztg-") as folder:  # short: it gets sockets
        (Path(folder) / ".venv").symlink_to(ROOT / ".venv")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ZTROOTED_")}
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = shell.communicate(timeout=250)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        assert shell.returncode == 0, said
        assert not processes_naming(folder)
        assert [path.name for path in Path(folder).iterdir()] == [".venv"]
    for sight in ("attestation.no_baseline", "is in force", "\nbuilt\n", "\nVerified.\n", "ima.not_allowed"):
        assert sight in said, said
    assert said.index("It is not trusted.\n") < said.index("Its keys refuse.\n") < said.index("Resealed as version 2")
    assert said.count("\nVerified.\n") == 2
    assert re.fullmatch(r"\d+ records: sound", said.strip().splitlines()[-1])
