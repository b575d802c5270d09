"""How commands show what they found: whole ids in any width, a sentence where there is nothing, plain English counts."""

import pytest
from rich.console import Console

from ztrooted.cli import output
from ztrooted.cli.output import counted, show_table
from ztrooted.clock import instant

IDS = [f"ex-{number:032x}" for number in range(3)]
COLUMNS = ("executor", "class", "labels", "reason")
ROWS = [(one, "default", "pool=gold site=north rack=17", "attestation.overdue") for one in IDS]
DIGEST = "ab" * 32


@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_ids_are_shown_whole_in_a_pipe(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row is one line there, to be searched."""
    monkeypatch.setenv("COLUMNS", columns)
    show_table(COLUMNS, [*ROWS, (IDS[0], DIGEST, "x" * 300, "")], empty="")
    printed = capsys.readouterr().out.splitlines()
    for row in [*ROWS, (DIGEST, "x" * 300)]:
        assert any(all(cell in line for cell in row) for line in printed), row


@pytest.mark.parametrize("width", [20, 80, 200])
def test_ids_are_shown_whole_on_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        output,
        "Console",
        lambda **options: Console(**{"width": width, "force_terminal": True, "no_color": True, **options}),
    )
    show_table(COLUMNS, ROWS, empty="")
    printed = capsys.readouterr().out
    for one in IDS:
        assert printed.count(one) == 1
    assert printed.count("attestation.overdue") == len(IDS)
    assert "…" not in printed


def test_a_table_without_rows_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(COLUMNS, [], empty="No executor has enrolled yet.")
    assert capsys.readouterr().out == "No executor has enrolled yet.\n"


def test_cells_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("why",), [("[bold]because[/bold] \x1b[31mred [/]",)], empty="")
    printed = capsys.readouterr().out
    assert "[bold]because[/bold]" in printed
    assert "\x1b" not in printed


def test_counts_and_instants_are_for_people() -> None:
    assert [counted(number, "event") for number in (0, 1, 2)] == ["0 events", "1 event", "2 events"]
    assert instant(1_700_000_000_999) == "2023-11-14T22:13:20+00:00"
    assert instant(10**30) == f"{10**30} ms after 1970"  # whoever writes a token may write any number
