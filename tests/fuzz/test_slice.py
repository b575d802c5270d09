"""A short, repeatable slice of the campaign that ``scripts/fuzz`` runs: every target, and every bomb."""

import time
import zlib
from functools import cache
from hashlib import sha256

import pytest

from tests.fuzz.campaign import MAX_BYTES, MAX_INPUT, Campaign, cpu_seconds, max_seconds, peak_memory
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

# Enough for every mutator to have its turn, and for all targets together a few seconds.
SECONDS = 0.12
EXECUTIONS = 1500


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_changed_inputs_break_no_promise(target: Target) -> None:
    """No undeclared exception, no input that takes long, none that takes much memory."""
    result = Campaign(target, zlib.crc32(target.name.encode())).run(EXECUTIONS, time.monotonic() + SECONDS)
    assert not result.findings, result.findings[0]
    # A target that refuses everything in one way never got behind its first check.
    assert result.outcomes >= 3
    assert result.executions > len(target.seeds())


@cache
def bearers() -> dict[bytes, str]:
    """Bombs are shared by the readers of one format; here each is set off under the last target that has it."""
    return {sha256(data).digest(): target.name for target in TARGETS.values() for data in target.bombs().values()}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_below_a_mebibyte_takes_long(target: Target) -> None:
    """Inputs made to be as expensive as possible. ``scripts/fuzz`` gives all of them to all targets, and weighs them."""
    for name, data in target.bombs().items():
        if len(data) > MAX_INPUT or bearers().get(sha256(data).digest()) != target.name:
            continue
        took = cpu_seconds(target, data, 1)
        # On a machine that is busy the first try may be unlucky.
        took = took if took < max_seconds() else cpu_seconds(target, data, 5)
        assert took < max_seconds(), f"{name}: {took:.2f} s"


# What was once too heavy.
HEAVY = {
    "crl": ("many_fields", "empty_elements"),
    "appraisal_policy": ("digits", "many_tables", "dotted"),
    "anchors": ("underscores",),
    "message": ("3_members",),
}


@pytest.mark.parametrize(("name", "bomb"), [(name, bomb) for name, bombs in HEAVY.items() for bomb in bombs])
def test_what_once_took_too_much_memory_does_not(name: str, bomb: str) -> None:
    assert peak_memory(TARGETS[name], TARGETS[name].bombs()[bomb]) < MAX_BYTES
