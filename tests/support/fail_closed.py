"""The matrix of failures: tests that are marked ``fail_closed`` tell what they caused and how it ended.

``pytest --fail-closed FILE`` writes their results as a page. A row is there because its test ran and passed just now.
"""

from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# How long jobs of the running test lived beyond what should have ended them, and how long they might have, in seconds.
LIVED: list[tuple[float, float]] = []
PROPERTY = "fail_closed"
INTRODUCTION = """\
# What fails, and what happens then

Each row is an end-to-end test: real processes, a software TPM, real signals, a job of three processes of which two try
to escape. The test causes exactly this failure and sees the denial. *Lived* is how long any process of the job was alive
after the failure, the worst of the runs that made this page, and *promised* what the test allows it: a lease is 3.5 s
there, a proof is due each 0.5 s and an answer after 1 s, and 0.75 s are for a loaded machine.

This page is written by `scripts/fail-closed` from the results of those tests; a test keeps the list complete.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-closed", metavar="FILE", help="Write what the tests marked fail_closed showed.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    marker = item.get_closest_marker(PROPERTY)
    LIVED.clear()
    result = yield
    if marker is not None:
        what, then = marker.args
        lived_s, promised_s = max(LIVED, default=(None, None))
        function = item.nodeid.partition("[")[0]
        item.user_properties.append((PROPERTY, [what, then, function, lived_s, promised_s]))
    return result


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    wanted = config.getoption("--fail-closed")
    if not wanted:
        return
    passed = terminalreporter.stats.get("passed", [])
    if any(terminalreporter.stats.get(outcome) for outcome in ("failed", "error", "skipped")) or not passed:
        terminalreporter.write_line(f"{wanted} is not written: not every test passed")
        return
    rows = [value for report in passed for name, value in report.user_properties if name == PROPERTY]
    Path(wanted).write_text(page(rows))


def page(rows: list[list[Any]]) -> str:
    """The page: a section per failure, a row per test with the worst of its variants."""
    sections: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for what, then, function, lived_s, promised_s in rows:
        found = sections[what, then][function]
        if lived_s is not None:
            found.append((lived_s, promised_s))
    parts = [INTRODUCTION, "\n| what fails | what happens | shown by | lived | promised |\n|---|---|---|---|---|\n"]
    for (what, then), functions in sorted(sections.items()):
        for function, lived in sorted(functions.items()):
            file, _, name = function.partition("::")
            worst_s, promised_s = max(lived, default=(None, None))
            measured = "–" if worst_s is None else f"{max(worst_s, 0.0):.2f} s"
            promised = "–" if promised_s is None else f"{promised_s:.2f} s"
            parts.append(f"| {what} | {then} | [`{name}`](../{file}) | {measured} | {promised} |\n")
    return "".join(parts)
