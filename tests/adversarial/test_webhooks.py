"""Webhooks: signed, in order, again until they are taken, and never anybody else's."""

import asyncio
import base64
import hashlib
import hmac
import json
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway import webhooks
from gateway.config import load_config
from gateway.webhooks import create_secret
from tests.adversarial.test_feed import ask, stored
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason
from ztrooted.webhook import new_secret, parse_secret, sign, verify


@dataclass
class Receiver:
    """A receiver on this machine that answers as it is told: statuses, one by one, then 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hangs: bool = False

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        if self.hangs:
            await asyncio.sleep(60)
        status = self.statuses.pop(0) if self.statuses else 204
        if status < 300:
            self.taken.append(json.loads(body))
        return web.Response(status=status, headers={"Location": "/elsewhere"} if 300 <= status < 400 else {})

    @property
    def numbers(self) -> list[int]:
        return [message["seq"] for message in self.taken]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PAUSE_S", (0.02, 0.1))
    monkeypatch.setattr(webhooks, "TAKE_S", 1.0)


def configure(gate: GatewayInProcess, name: str, url: str, more: str = "") -> bytes:
    """Add a webhook to the configuration; the bytes of its secret."""
    settings = gate.data / "gateway.toml"
    settings.write_text(settings.read_text() + f'[[webhooks]]\nname = "{name}"\nurl = "{url}"\n{more}')
    return parse_secret(create_secret(gate.data, name).read_text())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 -- what happens is on the other side
            await asyncio.sleep(0.01)


def denials(gate: GatewayInProcess, orchestrator: str | None = None) -> list[int]:
    kinds = dict(gate.gateway.database.reading.execute("SELECT seq, type FROM records").fetchall())
    return [seq for seq in stored(gate, orchestrator) if kinds[seq] == "authorization.denied"]


async def test_every_event_arrives_signed_and_in_order(gate: GatewayInProcess, receiver: Receiver) -> None:
    key = configure(gate, "ci", receiver.url, 'orchestrator = "ci"\n')
    await gate.restart()
    ci, other = await gate.token("orchestrator", "ci"), await gate.token("orchestrator", "other")
    await asyncio.gather(ask(gate, ci, "a", 5), ask(gate, other, "b", 5))
    await until(lambda: len(receiver.taken) == 5)
    assert receiver.numbers == denials(gate, "ci")
    for headers, body in receiver.requests:
        seq = json.loads(body)["seq"]
        assert verify(key, headers, body, now_s=gate.clock.now_ms() // 1000) == f"ci-{seq}"
        # As any other receiver computes it.
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        (record,) = gate.gateway.database.reading.execute("SELECT bytes FROM records WHERE seq = ?", (seq,)).fetchone()
        assert body.endswith(b'"record":' + bytes(record) + b"}")


@pytest.mark.parametrize("status", [500, 404, 302, 410])
async def test_what_is_not_taken_comes_again_and_nothing_overtakes_it(
    gate: GatewayInProcess, receiver: Receiver, status: int
) -> None:
    configure(gate, "ci", receiver.url)
    await gate.restart()
    receiver.statuses = [204, status, status, status, 204]
    await ask(gate, await gate.token("orchestrator", "ci"), "a", 4)
    await until(lambda: len(receiver.taken) == 4)
    assert receiver.numbers == denials(gate)
    assert len(receiver.requests) == 7
    sent = [json.loads(body)["seq"] for _, body in receiver.requests]
    assert sent == sorted(sent)
    failing, recovered = gate.records("webhook.failing"), gate.records("webhook.recovered")
    assert [record["body"]["detail"] for record in failing] == [f"it answered {status}"]  # once, not at each attempt
    assert len(recovered) == 1
    async with await gate.client("operator", "olivia") as operator:
        (view,) = await operator.webhooks()
    assert (view.name, view.failing_since, view.detail) == ("ci", None, "")


async def test_a_receiver_that_is_gone_misses_nothing_over_a_restart(
    gate: GatewayInProcess, receiver: Receiver
) -> None:
    configure(gate, "ci", "http://127.0.0.1:9/hook")
    await gate.restart()
    token = await gate.token("orchestrator", "ci")
    await ask(gate, token, "a", 3)
    await until(lambda: bool(gate.records("webhook.failing")))
    async with await gate.client("operator", "olivia") as operator:
        (view,) = await operator.webhooks()
        assert view.next == denials(gate)[0]
        assert view.failing_since is not None
        assert view.behind > 0
    settings = gate.data / "gateway.toml"
    settings.write_text(settings.read_text().replace("http://127.0.0.1:9/hook", receiver.url))
    await gate.restart()
    await ask(gate, token, "b", 2)
    await until(lambda: len(receiver.taken) >= 5)
    assert receiver.numbers == denials(gate)
    await gate.restart()  # what was taken does not come again
    await ask(gate, token, "c", 1)
    await until(lambda: len(receiver.taken) >= 6)
    assert receiver.numbers == denials(gate)


async def test_a_receiver_that_hangs_delays_nobody(gate: GatewayInProcess, receiver: Receiver) -> None:
    configure(gate, "slow", receiver.url + "/slow")
    configure(gate, "ci", receiver.url)
    await gate.restart()
    receiver.hangs = True
    token = await gate.token("orchestrator", "ci")
    await ask(gate, token, "a", 1)
    await until(lambda: len(receiver.requests) == 2)  # both have it, neither answers
    await ask(gate, token, "b", 1)  # and dispatches go on
    receiver.hangs = False
    await until(lambda: len(receiver.taken) >= 4)
    assert sorted(receiver.numbers) == sorted(denials(gate) * 2)


async def test_a_webhook_that_can_not_be_recorded_ends_nothing(
    gate: GatewayInProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(gate, "ci", receiver.url)
    await gate.restart()
    token = await gate.token("orchestrator", "ci")
    hooks = gate.gateway.webhooks
    real, failures = hooks._note, []

    async def full(*arguments: Any) -> None:
        if len(failures) < 2:
            failures.append(arguments)
            raise GateError(GateReason.DATABASE_UNAVAILABLE, "the disk is full")
        await real(*arguments)

    monkeypatch.setattr(hooks, "_note", full)
    await ask(gate, token, "a", 2)
    await until(lambda: len(receiver.taken) == 4)
    first, second = denials(gate)
    assert receiver.numbers == [first, first, first, second]  # what is not noted is sent again
    assert not gate.gateway.tasks.failed


# --- messages ----------------------------------------------------------------------------------------------------
KEY = parse_secret(new_secret())
BODY = b'{"seq":1}'
NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("change", "body", "now_s"),
    [
        ({}, b'{"seq":2}', NOW),
        ({"webhook-id": "ci-2"}, BODY, NOW),
        ({"webhook-timestamp": str(NOW + 1)}, BODY, NOW),
        ({"webhook-timestamp": "now"}, BODY, NOW),
        ({"webhook-timestamp": "\u0661"}, BODY, NOW),
        ({"webhook-timestamp": ""}, BODY, NOW),
        ({"webhook-signature": ""}, BODY, NOW),
        ({"webhook-signature": "v1,"}, BODY, NOW),
        ({"webhook-signature": "v2," + "A" * 43 + "="}, BODY, NOW),
        ({"webhook-signature": sign(parse_secret(new_secret()), "ci-1", NOW, BODY)["webhook-signature"]}, BODY, NOW),
        ({"webhook-signature": None}, BODY, NOW),
        ({"webhook-id": None}, BODY, NOW),
        ({"webhook-timestamp": None}, BODY, NOW),
        ({}, BODY, NOW + 301),
        ({}, BODY, NOW - 301),
    ],
)
def test_what_was_not_sent_is_not_believed(change: dict[str, str | None], body: bytes, now_s: int) -> None:
    headers = {name: value for name, value in (sign(KEY, "ci-1", NOW, BODY) | change).items() if value is not None}
    with pytest.raises(GateError) as refused:
        verify(KEY, headers, body, now_s=now_s)
    assert refused.value.reason is GateReason.WEBHOOK_SIGNATURE


def test_a_genuine_message_among_several_signatures_is_believed() -> None:
    """A sender that changes its secret signs with both for a while."""
    headers = sign(KEY, "ci-1", NOW, BODY)
    headers["webhook-signature"] = "v1a,xyz v1,AAAA " + headers["webhook-signature"]
    assert verify(KEY, headers, BODY, now_s=NOW + 300) == "ci-1"


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_AAAA", "abc", "whsec_" + "A" * 100, "A" * 44, "whsec_\u00e9"])
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(GateError) as refused:
        parse_secret(text)
    assert refused.value.reason is GateReason.WEBHOOK_SECRET


# --- configuration -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "table",
    [
        'name = "ci"\nurl = "http://example.org/hook"',
        'name = "ci"\nurl = "ftp://127.0.0.1/hook"',
        'name = "ci"\nurl = "https://user:word@example.org/hook"',
        'name = "ci"\nurl = "https://example.org/hook#x"',
        'name = "ci"\nurl = "https://"',
        'name = "ci"\nurl = "file:///etc/passwd"',
        'name = "ci"\nurl = "http://169.254.169.254/latest/meta-data"',
        'name = "../ci"\nurl = "https://example.org/hook"',
        'name = "ci"\nurl = "https://example.org/hook"\nevents = []',
        'name = "ci"\nurl = "https://example.org/hook"\nevents = ["executor.enrolled"]',
        'name = "ci"\nurl = "https://example.org/hook"\ntimeout = 1',
        'name = "ci"\nurl = "https://a.example/"\n[[webhooks]]\nname = "ci"\nurl = "https://b.example/"',
    ],
)
async def test_M13_a_wrong_configuration_is_refused(gate: GatewayInProcess, table: str) -> None:
    settings = gate.data / "gateway.toml"
    settings.write_text(settings.read_text() + "[[webhooks]]\n" + table + "\n")
    with pytest.raises(EnvironmentProblem) as refused:
        load_config(gate.data)
    assert refused.value.reason in {GateReason.CONFIG_INVALID, GateReason.CONFIG_UNKNOWN_KEY}
    assert "webhooks" in refused.value.detail


def spoil(path: Path, state: str) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if state == "absent":
        path.unlink()
    elif state == "open":
        path.chmod(0o644)
    else:
        path.write_text("whsec_\n")


@pytest.mark.parametrize("state", ["absent", "open", "garbage"])
async def test_a_secret_that_can_not_be_used_refuses_the_start(gate: GatewayInProcess, state: str) -> None:
    configure(gate, "ci", "https://example.org/hook")
    spoil(gate.data / "webhooks" / "ci.secret", state)
    await gate.stop()
    with pytest.raises(EnvironmentProblem) as refused:
        await gate.start()
    assert refused.value.reason is GateReason.ENVIRONMENT_KEY_FILE


def test_a_secret_is_never_overwritten(tmp_path: Path) -> None:
    path = create_secret(tmp_path, "ci")
    before = path.read_text()
    with pytest.raises(GateError) as refused:
        create_secret(tmp_path, "ci")
    assert refused.value.reason is GateReason.WEBHOOK_SECRET
    assert path.read_text() == before
    assert not (tmp_path / "webhooks").stat().st_mode & 0o077


@pytest.mark.parametrize("name", ["../ci", "", "a/b", "CI", "\u00e9", "a" * 64, "ci\n"])
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(GateError) as refused:
        create_secret(tmp_path, name)
    assert refused.value.reason is GateReason.ID_INVALID
    assert list(tmp_path.rglob("*")) == []
