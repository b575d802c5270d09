"""The container file, as far as can be said without an engine: who it runs as, what it copies, and that all is pinned."""

import fnmatch
import re
import subprocess

import pytest

from tests.support.snippets import ROOT

FOLDER = ROOT / "deploy" / "container"
TEXT = (FOLDER / "Containerfile").read_text().replace("\\\n", " ")
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]
VERSION = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def last_stage() -> list[list[str]]:
    """The steps that make the image itself."""
    begins = max(at for at, (word, _) in enumerate(STEPS) if word == "FROM")
    return STEPS[begins:]


def test_it_runs_as_nobody_of_the_machine() -> None:
    users = [what for word, what in last_stage() if word == "USER"]
    assert users == ["10001:10001"], "a number, so that an engine can see that it is not root"
    words = [word for word, _ in last_stage()]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word in {"RUN", "COPY"})


def test_the_program_and_what_it_does_are_commands() -> None:
    entry, command = (next(what for word, what in last_stage() if word == wanted) for wanted in ("ENTRYPOINT", "CMD"))
    assert entry == '["/opt/ztrooted/bin/ztrooted"]'
    assert command.startswith('["gateway", "serve", ')


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[0] == "*"
    for word, what in STEPS:
        if word == "COPY" and not what.startswith("--from"):
            for source in what.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == one or fnmatch.fnmatch(source, f"{one}/*") for one in kept), source


@pytest.mark.parametrize("name", ["install", "packages"])
def test_its_scripts_are_scripts(name: str) -> None:
    script = FOLDER / name
    assert script.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", script], check=True)


def test_nothing_is_installed_without_a_hash() -> None:
    """Packages come from locks with hashes, and the project itself without any."""
    lines = [line for line in (FOLDER / "install").read_text().splitlines() if line.startswith("install ")]
    assert len(lines) == 3
    assert all("--require-hashes" in line or "--no-deps" in line for line in lines)
    assert not re.search(r"\bpip\b|curl|wget", TEXT)


def test_what_runs_there_is_what_was_tested() -> None:
    """scripts/run.lock is a part of scripts/all.lock, and has nothing that only tests need. scripts/lock writes both."""
    running, every = (dict(VERSION.findall((ROOT / "scripts" / f"{name}.lock").read_text())) for name in ("run", "all"))
    assert running.items() <= every.items()
    assert not {"pytest", "hypothesis", "mypy", "ruff"} & running.keys()
    assert {"aiohttp", "cryptography", "tpm2-pytss", "sqlite-utils", "pyjwt", "structlog", "cedarpy"} <= running.keys()
