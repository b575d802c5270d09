"""What /metrics says, and that dashboard and alert rules ask for nothing else."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.support.gateway_process import GatewayProcess, running

__all__ = ["gate", "running"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "ztrooted.json"
RULES = ROOT / "deploy" / "prometheus" / "ztrooted.rules.yml"
PAGE = ROOT / "docs" / "operations.md"
MAX_SAMPLES = 2000  # of a gateway with any number of executors

TYPES = {
    "ztrooted_challenge_lateness_seconds": "histogram",
    "ztrooted_challenge_seconds": "histogram",
    "ztrooted_checkpoint_age_seconds": "gauge",
    "ztrooted_checkpoint_cosigners": "gauge",
    "ztrooted_connections": "gauge",
    "ztrooted_connections_refused": "gauge",
    "ztrooted_data_free_bytes": "gauge",
    "ztrooted_decisions": "counter",
    "ztrooted_evidence_age_max_seconds": "gauge",
    "ztrooted_evidence_age_seconds": "histogram",
    "ztrooted_executors_connected": "gauge",
    "ztrooted_feed_lag_records": "gauge",
    "ztrooted_log_records": "gauge",
    "ztrooted_not_ready": "gauge",
    "ztrooted_ready": "gauge",
    "ztrooted_requests_limited": "counter",
    "ztrooted_round_seconds": "histogram",
    "ztrooted_rounds": "counter",
    "ztrooted_rounds_waiting": "gauge",
    "ztrooted_session_conflicts": "counter",
    "ztrooted_sweeper_beat_age_seconds": "gauge",
    "ztrooted_sweeper_lateness_seconds": "gauge",
    "ztrooted_tpm_command_seconds": "histogram",
    "ztrooted_tpm_counter_budget": "gauge",
    "ztrooted_tpm_counter_increments": "gauge",
    "ztrooted_tpm_failures": "counter",
    "ztrooted_webhook_lag_records": "gauge",
    "ztrooted_witness_failures": "counter",
}
LABELS = {"decision", "kind", "le", "purpose", "reason", "verdict", "witness"}  # each with few values, all of them ours


def test_a_scrape_has_these_names_and_types(running: GatewayProcess) -> None:
    async def scrape() -> str:
        async with running.client("operator") as client, client.http.get(client.url + "/metrics") as answer:
            assert answer.status == 200
            return await answer.text()

    families = {one.name: one for one in text_string_to_metric_families(asyncio.run(scrape()))}
    assert {name: one.type for name, one in families.items() if not name.endswith("_created")} == TYPES
    assert all(one.documentation for one in families.values())
    samples = [sample for one in families.values() for sample in one.samples]
    assert {label for sample in samples for label in sample.labels} <= LABELS
    assert len(samples) < MAX_SAMPLES
    value = {sample.name: sample.value for sample in samples if not sample.labels}
    assert value["ztrooted_ready"] == 1
    assert value["ztrooted_connections"] >= 1
    assert value["ztrooted_log_records"] > 2
    assert value["ztrooted_tpm_command_seconds_count"] > 0
    assert 0 <= value["ztrooted_checkpoint_age_seconds"] < 600
    assert value["ztrooted_tpm_counter_budget"] + value["ztrooted_tpm_counter_increments"] == 500_000
    assert value["ztrooted_data_free_bytes"] > 0


async def test_decisions_are_counted_by_reason_and_no_caller_makes_a_new_one(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator")
    for number in range(3):
        body = {
            "executor": f"ex-{number:032x}",
            "job": {"workflow": f"w{number}", "run": "1", "step": "s", "argv": ["/bin/true"], "env": "0" * 64},
        }
        answer = await gate.call("POST", "/v1/dispatches", token=token, body=json.dumps(body).encode())
        assert answer.code == "dispatch.executor_unknown", answer
    found = [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(gate.gateway.metrics.text().decode())
        if family.name == "ztrooted_decisions"
        for sample in family.samples
        if sample.name.endswith("_total")
    ]
    assert found == [({"decision": "denied", "reason": "dispatch.executor_unknown"}, 3)]


def asked_for(text: str) -> set[str]:
    """The families that a text names."""
    names = set(re.findall(r"\bztrooted_[a-z_]+", text))
    return {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names}


@pytest.mark.parametrize("file", [DASHBOARD, RULES, PAGE], ids=lambda file: str(file.name))
def test_whoever_asks_asks_for_what_there_is(file: Path) -> None:
    assert asked_for(file.read_text())
    assert asked_for(file.read_text()) <= set(TYPES)


def test_the_page_tells_of_every_one() -> None:
    assert asked_for(PAGE.read_text()) == set(TYPES)


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["title"] == "ztrooted gateway"
    assert [panel["id"] for panel in dashboard["panels"]] == list(range(1, len(dashboard["panels"]) + 1))
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["targets"]
        assert all(target["expr"] for target in panel["targets"])


def test_each_rule_says_what_it_means_and_where_to_read_on() -> None:
    text = RULES.read_text()
    alerts = re.findall(r"^ +- alert: (\w+)$", text, re.MULTILINE)
    assert len(alerts) == len(set(alerts)) > 8
    for word in ("expr:", "severity:", "summary:", "runbook:"):
        assert text.count(word) == len(alerts), word
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE)}
    assert {alert.lower() for alert in alerts} <= headings
    if (promtool := shutil.which("promtool")) is not None:
        subprocess.run([promtool, "check", "rules", str(RULES)], check=True, timeout=30)
