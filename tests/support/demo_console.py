"""A demo that waits for its buttons, as ``ztrooted demo --console`` starts it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ztrooted.demo.stage import CLI


@contextmanager
def demo(folder: Path) -> Iterator[str]:
    """The link that the command line prints; the demo ends with the block."""
    command = [*CLI, "demo", "--console", "--json", "--data", str(folder / "d")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("}"):
                    break
            yield str(json.loads(said)["url"])
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
