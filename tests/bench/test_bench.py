"""The shape of what ``scripts/bench`` prints. No absolute time is asserted: whose machine would that be?"""

import json
import math

import pytest

from tests.bench import abuse, bundle, command, explorer, policy, tracing, verify
from tests.bench.measure import Row, compare, machine
from tpm.eventlog import parse_event_log

COLUMNS = {"name", "value", "unit", "reference", "reference_value", "ratio", "target", "met", "best"}
NAMES = [
    "quote_p256",
    "quote_rsa2048",
    "event_log_34k_ms",
    "ima_replay_100k",
    "ima_incremental_ms",
    "ek_chain",
    "import_tpm_quote_ms",
    "runtime_round",
    "cedar_200_1000",
    "baseline_load_100k",
    "bundle_360",
    "observed_off",
    "observed_on",
]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    few = bundle.rows(quotes=2, files=20, rounds=2)
    return [*verify.rows(entries=300, rounds=3), *policy.rows(entries=300, rounds=3), *few, *tracing.rows(rounds=3)]


def test_every_row_has_every_column_with_a_finite_number(rows: list[Row]) -> None:
    assert [row.name for row in rows] == NAMES
    for row in rows:
        encoded = json.loads(json.dumps(row.encode(), allow_nan=False))
        assert set(encoded) == COLUMNS
        assert all(
            math.isfinite(encoded[name]) and encoded[name] > 0 for name in ("value", "reference_value", "ratio", "best")
        )
        assert isinstance(encoded["met"], bool)
        assert encoded["unit"]
        assert encoded["target"]
        assert encoded["reference"]


def test_every_page_of_the_console_is_measured() -> None:
    """Of a gateway that is not large; and no page is, whatever its size is compared with."""
    rows = list(explorer.rows(records=2000, executors=30, asked=1))
    assert {"page_overview", "page_executor_busy", "page_health", "page_execution_long", "page_mb"} < {
        row.name for row in rows
    }
    assert rows[-1].met
    for row in rows:
        assert json.loads(json.dumps(row.encode(), allow_nan=False)).keys() == COLUMNS
        assert row.ratio == pytest.approx(row.reference_value / row.value)


def test_json_is_one_document_with_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("made_up", 1.5, "ms", "nothing", 2.0, 0.75, "<= 2 ms", met=True, best=1.25)
    monkeypatch.setattr(verify, "rows", lambda: [row])
    assert command.main(["verify", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == [row.encode()]
    assert printed["machine"].keys() == machine().keys()
    assert command.main(["verify"]) == 0
    table = capsys.readouterr().out
    assert "made_up" in table
    assert "<= 2 ms: met" in table


def test_another_name_is_wrong_usage() -> None:
    assert "verify" in command.names()
    with pytest.raises(SystemExit) as ended:
        command.main(["nothing_of_ours"])
    assert ended.value.code == 2


def test_a_comparison_tells_slow_from_fast() -> None:
    found = compare(lambda: sum(range(20_000)), lambda: sum(range(200)), rounds=5)
    assert found.value > found.reference
    assert 0 < found.speed < 1


def test_the_log_made_here_has_the_size() -> None:
    data = verify.made_log()
    assert abs(len(data) - verify.LOG_BYTES) < 1000
    assert "sha256" in parse_event_log(data).banks


def test_abuse_is_compared_with_the_quiet_before_it() -> None:
    """A machine that is slower for a while slows both, and their ratio stays."""
    quiet, abused = [(1.0, 4.0), (10.0, 40.0), (2.0, 8.0)], [(1.5, 12.0), (15.0, 120.0), (3.0, 24.0)]
    middle, slowest = abuse.compared("flood", quiet, abused)
    assert (middle.name, middle.met, round(middle.ratio, 3)) == ("flood_p50", True, 0.667)
    assert (slowest.name, slowest.met, round(slowest.ratio, 3)) == ("flood_p99", False, 0.333)
    assert (slowest.value, slowest.reference_value, slowest.best) == (24.0, 8.0, 12.0)
