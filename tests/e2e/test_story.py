"""What happened can be proved: each kind of ending is exported and verified offline, and the event feed misses nothing."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.gate import Gate, Gates
from tpm.software import provision
from ztrooted.anchors import parse_anchors
from ztrooted.client import FeedEvent, GatewayClient, Refused
from ztrooted.demo.stage import CLI, isolated, wait_until
from ztrooted.verdict import Status
from ztrooted.verify import Report, verify_bundle

# An auditor's machine has none of these.
BLOCKED = ("tpm2_pytss", "aiohttp", "sqlite_utils", "structlog", "pydantic_settings")
CHECKS = 15

pytestmark = pytest.mark.timeout(90)


@dataclass(frozen=True, slots=True)
class Told:
    """One environment in which everything happened once, and the bundles of it."""

    gate: Gate
    authorizations: dict[str, str]

    def bundle(self, name: str) -> Path:
        """Where a bundle is."""
        return self.gate.data / f"bundle-{name}.json"

    def verify(self, name: str, anchors: str) -> Report:
        """Verify one with the anchors given as text."""
        return verify_bundle(self.bundle(name).read_bytes(), parse_anchors(anchors.encode(), "anchors"))


@pytest.fixture(scope="module")
def told(shared_gates: Gates) -> Told:
    """A normal run, one that lost its agent, one that drifted, and a denial."""
    gate = shared_gates()
    job = gate.job("normal", "/bin/sh", "-c", "exit 3")
    grant = gate.authorize(job)
    assert gate.execute(job, grant.artifact).returncode == 3
    expired = gate.run("expired")
    assert gate.executor.agent is not None
    gate.executor.agent.kill()
    gate.wait_for("execution.closed", expired.authorization)
    gate.start_agent(gate.executor)
    wait_until("trust", lambda: gate.view().trusted, 10)
    drift = gate.run("drift")
    gate.wait_for("authorization.renewed", drift.authorization, count=3)
    intruder = gate.data / "intruder"
    intruder.write_bytes(b"not what was approved")
    gate.executor.measure(intruder)
    gate.wait_for("execution.closed", drift.authorization)
    with pytest.raises(Refused) as refused:
        gate.authorize(gate.job("denied", "/bin/true"))
    assert refused.value.authorization is not None
    names = {
        "normal": grant.authorization,
        "expired": expired.authorization,
        "drift": drift.authorization,
        "denied": refused.value.authorization,
    }
    story = Told(gate, names)
    for name, authorization in names.items():
        done = run(
            "audit", "export", authorization, *gate.connection("auditor"), "-o", str(story.bundle(name)), "--json"
        )
        assert done.returncode == 0, done.stderr
    return story


EXPECTED = {
    "normal": {"final_state": "closed", "outcome": "exited", "exit_status": 3},
    "expired": {"final_state": "closed", "outcome": "unreported", "reason": "lease.expired"},
    "drift": {"final_state": "closed", "outcome": "killed", "reason": "ima.not_allowed"},
    "denied": {"final_state": "denied", "outcome": "denied", "reason": "ima.not_allowed"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_ending_is_proved(told: Told, name: str) -> None:
    """Where there is no network, no TPM library, no HTTP library and no database."""
    anchors = told.gate.data / "anchors.toml"
    command = ["audit", "verify", str(told.bundle(name)), "--anchors", str(anchors), "--json"]
    done = subprocess.run([*isolated(BLOCKED), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert [check["status"] for check in report["checks"]] == ["pass"] * CHECKS
    facts = report["facts"]
    assert facts | EXPECTED[name] == facts
    assert facts["authorization"] == told.authorizations[name]
    assert facts["executor"] == told.gate.executor.id
    assert facts["virtual"] is True


def test_a_verified_bundle_reads_well(told: Told) -> None:
    anchors = told.gate.data / "anchors.toml"
    done = run("audit", "verify", str(told.bundle("drift")), "--anchors", str(anchors))
    assert done.returncode == 0
    assert "Verified." in done.stdout
    assert "ima.not_allowed" in done.stdout


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The anchors of another gateway of the same name, with another TPM and another maker's roots."""
    folder = tmp_path_factory.mktemp("strange")
    provision(folder / "tpm", ca=folder / "ca")
    roots = folder / "roots.pem"
    names = ("swtpm-localca-rootca-cert.pem", "issuercert.pem")
    roots.write_bytes(b"".join((folder / "ca" / name).read_bytes() for name in names))
    init = ["gateway", "init", str(folder / "g"), "--tpm", f"swtpm:{folder / 'tpm'}", "--ek-roots", str(roots)]
    made = run(*init, "--trust-domain", "demo.ztrooted", "--ek-vendor", "id:00001014", "--json")
    assert made.returncode == 0, made.stderr
    return run("gateway", "anchors", str(folder / "g")).stdout


def _replaced(own: str, strange: str, pattern: str) -> str:
    """``own`` with what ``pattern`` matches taken from ``strange``."""
    theirs = re.search(pattern, strange, re.DOTALL)
    assert theirs is not None
    changed, count = re.subn(pattern, lambda _: theirs[0], own, flags=re.DOTALL)
    assert count == 1
    assert changed != own
    return changed


@pytest.mark.parametrize(
    ("pattern", "check"),
    [
        (r'log_key = "[^"]*"', "checkpoint"),
        (r'gateway_ak = "[^"]*"', "seal"),
        (r"ek_roots = '''.*?'''", "executor"),
    ],
    ids=["log-key", "ak", "roots"],
)
def test_anchors_of_another_gateway(told: Told, strange: str, pattern: str, check: str) -> None:
    """One wrong anchor fails in the check that rests on it, and nothing behind it is called checked."""
    own = (told.gate.data / "anchors.toml").read_text()
    _fails_in(told.verify("drift", _replaced(own, strange, pattern)), check)


@pytest.mark.parametrize(
    ("pattern", "instead", "check"),
    [
        (r'(?m)^0 = "[0-9a-f]{64}"', '0 = "' + "5a" * 32 + '"', "seal"),
        (r'(?m)^7 = "[0-9a-f]{64}"\n', "", "seal"),
        (r"ek_vendors = .*", 'ek_vendors = ["id:494E5443"]', "executor"),
    ],
    ids=["pcr-value", "pcr-missing", "vendor"],
)
def test_anchors_of_another_state_or_maker(told: Told, pattern: str, instead: str, check: str) -> None:
    own = (told.gate.data / "anchors.toml").read_text()
    changed, count = re.subn(pattern, instead, own)
    assert count == 1
    _fails_in(told.verify("normal", changed), check)


def _fails_in(report: Report, check: str) -> None:
    assert not report.verified
    statuses = [one.status for one in report.checks]
    failed = statuses.index(Status.FAIL)
    assert report.checks[failed].name == check, report.failed
    assert report.checks[failed].reason
    assert statuses == [Status.PASS] * failed + [Status.FAIL] + [Status.NOT_CHECKED] * (CHECKS - failed - 1)


def test_a_bundle_of_another_authorization_proves_nothing_else(told: Told) -> None:
    """Renamed: the records are not of the authorization that the bundle claims to be about."""
    value = json.loads(told.bundle("normal").read_bytes())
    value["authorization"] = told.authorizations["drift"]
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    report = verify_bundle(data, told.gate.anchors())
    assert not report.verified
    assert report.failed is not None
    assert report.failed.name in {"bundle", "story"}


# --- the event feed ----------------------------------------------------------------------------------------------
async def _events(client: GatewayClient, start: int, last: int) -> list[FeedEvent]:
    """The feed from ``start`` up to record ``last``."""
    found = []
    async with asyncio.timeout(20):
        async for event in client.events(start):
            found.append(event)
            if event.seq >= last:
                break
    return found


def test_the_feed_resumes_from_anywhere(told: Told) -> None:
    """From each number on, everything from there, once, in order, byte for byte what is stored."""
    rows = told.gate.rows("SELECT seq, bytes FROM records WHERE authorization IS NOT NULL ORDER BY seq")
    stored = [(int(seq), bytes(data)) for seq, data in rows]
    last = stored[-1][0]

    async def follow(client: GatewayClient) -> None:
        for start in range(0, last + 1, 7):
            events = await _events(client, start, last)
            heard = [(event.seq, event.record.encode()) for event in events]
            assert heard == [one for one in stored if one[0] >= start]

    told.gate.ask("auditor", follow)


def test_the_feed_goes_on_over_lost_connections_and_restarts(gates: Gates) -> None:
    """A follower that resumes behind the last record it heard has neither gap nor duplicate."""
    gate = gates()
    life = gate.run()
    heard: list[int] = []

    def listen(count: int) -> None:
        async def some(client: GatewayClient) -> None:
            async with asyncio.timeout(20):
                start, wanted = (heard[-1] + 1 if heard else 0), len(heard) + count
                async for event in client.events(start):
                    heard.append(event.seq)
                    if len(heard) == wanted:
                        break

        gate.ask("orchestrator", some)

    for count in (1, 5, 4, 3):
        listen(count)
    gate.stage.stop("gateway0")
    gate.start_gateway()
    gate.ask("operator", lambda client: client.revoke(life.authorization))
    gate.wait_for("execution.closed", life.authorization)
    rows = gate.rows("SELECT seq FROM records WHERE authorization IS NOT NULL ORDER BY seq")
    stored = [int(row[0]) for row in rows]
    listen(len(stored) - len(heard))
    assert heard == stored


def test_an_orchestrator_hears_of_its_own_only(gates: Gates) -> None:
    gate = gates(serve=False, agent=False)
    made = run("gateway", "token", str(gate.gateway), "--role", "orchestrator", "--name", "rival", "--json")
    token = gate.data / "rival.token"
    token.touch(mode=0o600)
    token.write_text(json.loads(made.stdout)["token"])
    gate.start_gateway()
    gate.add_executor()
    wait_until("trust", lambda: gate.view().trusted, 10)
    names = []
    for role in ("orchestrator", "rival"):
        job = gate.job(role, "/bin/true")
        grant = gate.ask(role, lambda client, job=job: client.authorize(_request(gate, job)))
        assert gate.execute(job, grant.artifact).returncode == 0
        gate.wait_for("execution.closed", grant.authorization)
        names.append(grant.authorization)
    for role, own in zip(("orchestrator", "rival"), names, strict=True):
        last = int(gate.rows("SELECT MAX(seq) FROM records WHERE authorization = ?", own)[0][0])
        events = gate.ask(role, lambda client, last=last: _events(client, 0, last))
        assert {event.record.authorization for event in events} == {own}
        other = next(name for name in names if name != own)
        with pytest.raises(Refused) as refused:
            gate.ask(role, lambda client, other=other: client.bundle(other))
        assert refused.value.reason == "artifact.unknown"


def _request(gate: Gate, job: object) -> object:
    from ztrooted.models import DispatchRequest  # noqa: PLC0415

    return DispatchRequest(executor=gate.executor.id, job=job)  # type: ignore[arg-type]


@pytest.fixture
def watched(told: Told) -> Iterator["subprocess.Popen[str]"]:
    """``ztrooted watch`` from the fifth event on."""
    rows = told.gate.rows("SELECT seq FROM records WHERE authorization IS NOT NULL ORDER BY seq LIMIT 1 OFFSET 4")
    command = [*told.gate.connection("orchestrator"), "--from", str(rows[0][0]), "--json"]
    process = subprocess.Popen([*CLI, "watch", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield process
    process.kill()
    process.communicate()


def test_watch_resumes(told: Told, watched: "subprocess.Popen[str]") -> None:
    rows = told.gate.rows("SELECT seq, bytes FROM records WHERE authorization IS NOT NULL ORDER BY seq")
    assert watched.stdout is not None
    for seq, data in rows[4:]:
        event = json.loads(watched.stdout.readline())
        assert event == {"seq": seq, "record": json.loads(bytes(data))}
