"""Software TPMs for tests: provisioned once per session, copied per test, gone whatever happens.

    def test_something(device): ...                      # a Device without EK certificate; a few milliseconds
    def test_something(certified_device, ek_ca): ...     # with EK certificates, and the CA (PEM) that signed them
    def test_two(software_tpms):
        one, other = software_tpms(), software_tpms(fresh=True)   # SoftwareTpm; open with Device.open(one.address)
        clone = software_tpms()                                   # same seeds as ``one``: the same machine twice

Tests that ask for one of these are marked ``swtpm`` and skipped with the reason where there is no swtpm.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tpm.software import DEFAULT_BANKS, SoftwareTpm, ca_certificates, clone, provision

if TYPE_CHECKING:
    from tpm.device import Device

_PREFIX = "ztrooted-tpm-"
# Memory where there is some: each state is a few kilobytes, and swtpm flushes it to disk at each change.
_BASE = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())

SoftwareTpms = Callable[..., SoftwareTpm]


def missing() -> str | None:
    """Why there can be no software TPM here, or None."""
    for program in ("swtpm", "swtpm_setup"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None if importlib.util.find_spec("tpm2_pytss") else "tpm2_pytss is not installed"


def _remove_leftovers() -> None:
    """Remove the directories of sessions that were killed."""
    for left in _BASE.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


class Foundry:
    """Makes TPMs on demand and keeps their initial states, so that each identity is provisioned once per session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = directory / "ca"

    def identity(self, number: int, *, certificates: bool, banks: Sequence[str]) -> Path:
        """The state directory of identity ``number``, not to be run but cloned."""
        state = self.directory / f"{number}-{certificates}-{'-'.join(banks)}"
        if not state.exists():
            unfinished = state.with_suffix(".new")
            provision(unfinished, ca=self.ca, certificates=certificates, banks=banks)
            unfinished.rename(state)
        return state


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever uses a TPM."""
    for item in items:
        if "tpm_foundry" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.swtpm)


@pytest.fixture(scope="session")
def tpm_foundry() -> Iterator[Foundry]:
    if reason := missing():
        pytest.skip(reason)
    _remove_leftovers()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_BASE))
    try:
        yield Foundry(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def software_tpms(tpm_foundry: Foundry) -> Iterator[SoftwareTpms]:
    """Make running TPMs: clones of one machine, or with ``fresh`` a machine not seen before in this test."""
    yield from _machines(tpm_foundry)


@pytest.fixture(scope="module")
def shared_software_tpms(tpm_foundry: Foundry) -> Iterator[SoftwareTpms]:
    """The same for a module whose tests share machines."""
    yield from _machines(tpm_foundry)


def _machines(tpm_foundry: Foundry) -> Iterator[SoftwareTpms]:
    with ExitStack() as running:
        count = 0

        def make(
            *, fresh: bool = False, certificates: bool = False, banks: Sequence[str] = DEFAULT_BANKS
        ) -> SoftwareTpm:
            nonlocal count
            count += fresh
            source = tpm_foundry.identity(count if fresh else 0, certificates=certificates, banks=banks)
            state = Path(tempfile.mkdtemp(prefix="s", dir=tpm_foundry.directory))
            clone(source, state)
            software = running.enter_context(SoftwareTpm(state))
            running.callback(shutil.rmtree, state, ignore_errors=True)
            # The process ends before its directory goes: callbacks run last in, first out.
            running.callback(software.close)
            return software

        yield make


@pytest.fixture
def software_tpm(software_tpms: SoftwareTpms) -> SoftwareTpm:
    """One running TPM without certificates."""
    return software_tpms()


@pytest.fixture
def device(software_tpm: SoftwareTpm) -> Iterator["Device"]:
    """An open TPM without EK certificate."""
    from tpm.device import Device  # noqa: PLC0415 — importing it loads the TSS, which many tests do without

    with Device.open(software_tpm.address) as opened:
        yield opened


@pytest.fixture
def certified_device(software_tpms: SoftwareTpms) -> Iterator["Device"]:
    """An open TPM with EK certificates of the CA in ``ek_ca``."""
    from tpm.device import Device  # noqa: PLC0415 — see above

    with Device.open(software_tpms(certificates=True).address) as opened:
        yield opened


@pytest.fixture
def ek_ca(tpm_foundry: Foundry) -> bytes:
    """Root and issuing certificate (PEM) of the CA that signs EK certificates in this session."""
    tpm_foundry.identity(0, certificates=True, banks=DEFAULT_BANKS)
    return ca_certificates(tpm_foundry.ca)
