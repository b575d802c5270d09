"""What a gateway logs: no secret, at whatever level, by whatever way it came; and no line that somebody else wrote."""

import io
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from gateway import local, webhooks
from gateway.certificates import private_pem
from tests.adversarial.test_identities import Provider, restart_with, settings
from tests.adversarial.test_service import Raw
from tests.adversarial.test_webhooks import Receiver, configure, receiver, until
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.ztrooted.test_client import serve
from tests.ztrooted.test_logs import HOSTILE
from ztrooted import logs
from ztrooted.channel_messages import ActivateMessage, EndedMessage
from ztrooted.client import Refused
from ztrooted.errors import GateError
from ztrooted.executor.agent import Agent, AgentConfig

__all__ = ["receiver", "serve"]  # fixtures


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, in the form that programs read."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(verbose=True)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
async def provider(gate: GatewayInProcess, tmp_path: Path) -> Provider:
    made = Provider(tmp_path)
    await restart_with(gate, settings(f'jwks_file = "{made.file}"'))
    return made


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line, each of which has to be an object in printable ASCII."""
    text = stream.getvalue()
    assert not text or text.endswith("\n")
    lines = text.split("\n")[:-1]
    assert all(line.isascii() and line.isprintable() for line in lines)
    return [json.loads(line) for line in lines]


def written(gate: GatewayInProcess) -> bytes:
    """All that the database is made of, as it lies on the disk."""
    return b"".join(path.read_bytes() for path in sorted(gate.data.glob("gateway.db*")))


# --- no secret -------------------------------------------------------------------------------------------------------
async def test_no_secret_is_in_the_log_nor_in_the_lineage(
    gate: GatewayInProcess,
    provider: Provider,
    executor: ScriptedExecutor,
    receiver: Receiver,
    said: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One story in which each kind of secret is used, and used wrongly, at the most verbose level."""
    monkeypatch.setattr(webhooks, "PAUSE_S", (0.02, 0.1))
    hidden: dict[str, str] = {}
    hidden |= {"webhook's path": secrets.token_hex(16), "webhook's query": secrets.token_hex(16)}
    configure(gate, "ci", "{}/{}?key={}".format(receiver.url, *hidden.values()))
    hidden["webhook's secret"] = (gate.data / "webhooks" / "ci.secret").read_text().strip().removeprefix("whsec_")
    receiver.statuses = [500]
    await gate.restart()
    for role in ("operator", "orchestrator", "auditor"):
        hidden[role] = await gate.token(role)
    # An executor: enrollment with a wrong and a right answer, a dispatch under a key, a job.
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    hidden["credential"], hidden["mac"] = challenge.credential.hex(), proof.mac
    with pytest.raises(Refused):
        await executor.finish(challenge, type(proof)("0" * 64, proof.quote))
    await executor.enroll()
    hidden["idempotency key"] = secrets.token_urlsafe(24)
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        asked = {"executor": executor.id, "job": job().model_dump(), "max_runtime_s": 60}
        for _ in range(2):
            granted = await gate.call(
                "POST",
                "/v1/dispatches",
                token=hidden["orchestrator"],
                body=json.dumps(asked).encode(),
                headers={"Idempotency-Key": hidden["idempotency key"]},
            )
            assert granted.status == 201
        hidden["artifact"] = granted.json["artifact"]
        await channel.send(ActivateMessage(artifact=hidden["artifact"]))
        await executor.wait_for("authorization.renewed", granted.json["authorization"])
        await channel.send(ActivateMessage(artifact=hidden["artifact"]))  # a second time
        await channel.send(ActivateMessage(artifact=hidden["artifact"][:-4]))
        await until(lambda: said.getvalue().count("activation refused") == 2)
        await channel.send(hidden["artifact"])  # nothing that a channel takes
        await channel.closed()
    await _ask_wrongly(gate, provider, hidden)
    async with await gate.client("operator") as operator:
        await operator.revoke(granted.json["authorization"], "over")
    await gate.recorded("webhook.recovered")
    hidden["key of the executor CA"] = private_pem(gate.gateway.authority.key).decode().splitlines()[1]
    assert {"answered", "refused", "activation refused", "webhook.failing", "revoked"} <= {
        one["event"] for one in events(said)
    }
    output, database = said.getvalue(), written(gate)
    for what, secret in hidden.items():
        if what != "artifact":  # what was granted is part of the proof; it is of use to one session key, once
            assert secret.encode() not in database, what
        for part in (secret, secret[8:40], secret[-24:]):
            assert part not in output, what


async def _ask_wrongly(gate: GatewayInProcess, provider: Provider, hidden: dict[str, str]) -> None:
    """Every credential in every place in which somebody may put it, right or wrong."""
    hidden["provider's"] = provider.token()
    hidden["provider's, of another audience"] = provider.token(aud="other")
    hidden["provider's, without subject"] = provider.token(sub="x\ny")
    hidden["unknown"] = "zt-" + secrets.token_urlsafe(32)
    hidden["basic"] = "dXNlcjp" + secrets.token_hex(20)
    hidden["cookie"] = secrets.token_hex(20)
    tokens = [value for what, value in hidden.items() if value.startswith(("zt-", "eyJ"))]
    for token in tokens:
        await gate.call("GET", "/v1/executors", token=token)
        await gate.call("DELETE", f"/v1/tokens/{token}", token=hidden["operator"])
        await gate.call("GET", f"/v1/nothing/{token}?token={token}", token=token)
        await gate.call("GET", f"/v1/executors?{token}={token}", token=hidden["operator"])
        body = json.dumps({token: token, "executor": token, "job": {token: 1}}).encode()
        await gate.call("POST", "/v1/dispatches", token=hidden["orchestrator"], body=body)
    for headers in (
        {"Authorization": f"Basic {hidden['basic']}"},
        {"Authorization": hidden["unknown"]},
        {"Cookie": f"session={hidden['cookie']}", "X-Api-Key": hidden["unknown"]},
        {"Authorization": f"Bearer {hidden['operator']}", "Idempotency-Key": hidden["cookie"] + "\u00e9"},
    ):
        await gate.call("GET", "/v1/executors", headers=headers)
    hidden["made by the local socket"] = await _by_the_local_socket(gate, hidden["auditor"])


async def _by_the_local_socket(gate: GatewayInProcess, misplaced: str) -> str:
    """A new token; and one where the id of a token belongs."""
    with local._address(gate.data) as address:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(address)) as http:
            await http.delete(f"http://local/v1/tokens/{misplaced}")
            asked = {"role": "auditor", "name": "new", "life_s": 600}
            made = await http.post("http://local/v1/tokens", json=asked)
            return str((await made.json())["token"])


# --- one line each, by whoever writes it -----------------------------------------------------------------------------
def quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))


async def test_nobody_writes_a_line_of_the_log(
    gate: GatewayInProcess, provider: Provider, executor: ScriptedExecutor, said: io.StringIO
) -> None:
    """Hostile text wherever a stranger, an orchestrator, an operator or an executor may put some."""
    await executor.enroll()
    for hostile in HOSTILE:
        await _say_everywhere(gate, provider, executor, said, hostile)
    found = events(said)
    assert {"refused", "malformed channel message"} <= {one["event"] for one in found}
    assert "forged" not in {str(one["event"]) for one in found}


async def _say_everywhere(
    gate: GatewayInProcess, provider: Provider, executor: ScriptedExecutor, said: io.StringIO, hostile: str
) -> None:
    token, orchestrator = await gate.token("operator"), await gate.token("orchestrator")
    raw, text = Raw(gate), hostile.encode("utf-8", "surrogatepass")
    encodable = hostile.encode("utf-8", "replace").decode()
    asked: list[tuple[str, Callable[[], Any]]] = [
        ("path", lambda: raw.get(b"/v1/" + quoted(hostile).encode(), token)),
        ("path, as it is", lambda: raw.send(b"GET /v1/" + text + b" HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("query", lambda: raw.get(b"/v1/executors?" + quoted(hostile).encode() + b"=1", token)),
        ("method", lambda: raw.send(text + b" / HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("header", lambda: raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + text + b": 1\r\n\r\n")),
        ("value", lambda: raw.send(b"GET / HTTP/1.1\r\nHost: " + text + b"\r\n\r\n")),
        ("member", lambda: gate.call("POST", "/v1/dispatches", token=orchestrator, body=_json({hostile: 1}))),
        ("JSON", lambda: gate.call("POST", "/v1/dispatches", token=orchestrator, body=text)),
        ("token", lambda: gate.call("GET", "/v1/executors", token=provider.token(sub=encodable))),
        ("kid", lambda: gate.call("GET", "/v1/executors", token=provider.token(kid="rsa", groups=[encodable]))),
        ("policy", lambda: gate.call("POST", "/v1/policies", token=token, body=_json({"dispatch": encodable}))),
        ("order", lambda: gate.call("POST", "/v1/quarantines", token=token, body=_order(encodable))),
    ]
    for what, ask in asked:
        before = len(events(said))
        with suppress(aiohttp.ClientError, ConnectionError, ValueError):
            await ask()
        fresh = [one for one in events(said)[before:] if one["event"] in {"refused", "internal error"}]
        assert len(fresh) <= 1, (what, fresh)
        assert all(one["event"] == "refused" for one in fresh), (what, fresh)
    ended = EndedMessage(
        authorization="0" * 32, outcome="killed", exit_status=None, signal=9, reason=encodable, kill_ms=None
    )
    async with executor.connect() as channel:
        await channel.send(ended)
        await channel.send(_json({"type": encodable, encodable: 1}).decode())
        await channel.closed()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _order(text: str) -> bytes:
    return _json({"subject": {"kind": "orchestrator", "id": text}, "reason": text})


async def test_every_line_of_a_request_bears_its_instance(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, said: io.StringIO
) -> None:
    """Its answer's too, and those of what it set off: the same that its problem document names."""
    grant = await executor.authorize()
    await channel.activate(grant)
    token, before = await gate.token("operator"), len(events(said))
    body = _json({"subject": {"kind": "executor", "id": executor.id}, "reason": "odd"})
    assert (await gate.call("POST", "/v1/quarantines", token=token, body=body)).status == 200
    of_order = [one for one in events(said)[before:] if one.get("path") == "/v1/quarantines"]
    revoked = [one for one in events(said)[before:] if one["event"] == "revoked"]
    assert len(of_order) == len(revoked) == 1
    assert of_order[0]["instance"] == revoked[0]["instance"]
    refused = await gate.call("POST", "/v1/dispatches", token=token, body=b"{}")
    instance = refused.json["instance"].removeprefix("urn:ztrooted:log:")
    assert [one["event"] for one in events(said) if one.get("instance") == instance] == ["refused", "answered"]


async def test_nor_does_a_gateway_write_one_of_an_executors_log(
    executor: ScriptedExecutor,
    serve: Callable[..., Any],
    said: io.StringIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What answers the agent is not a gateway yet, and says what it likes."""
    sayings = [hostile for hostile in HOSTILE if "\ud800" not in hostile]  # JSON's reader refuses that one
    told: list[str] = []

    async def answer(_request: web.Request) -> web.Response:
        text = told[-1]
        problem = {"type": "urn:x", "title": text, "status": 503, "detail": text, "code": "service.not_ready"}
        body = json.dumps({**problem, "instance": text, "remedy": text})
        return web.Response(text=body, status=503, content_type="application/problem+json")

    client = await serve(answer)
    config = AgentConfig(
        client.url,
        tmp_path / "ca.pem",
        "",
        tmp_path / "s",
        executor.collector._event_log_path,
        executor.collector._ima_path,
    )

    class Enough(Exception):  # noqa: N818
        pass

    async def enough(_seconds: float) -> None:
        raise Enough

    agent = Agent(config, executor.device)
    with monkeypatch.context() as patched:
        patched.setattr("ztrooted.executor.agent.asyncio.sleep", enough)
        for hostile in sayings:
            told.append(hostile)
            with pytest.raises(Enough):
                await agent._stay_connected()
    found = events(said)
    assert [line["event"] for line in found] == ["not connected"] * len(sayings)
    assert [line["detail"] for line in found] == sayings


def test_errors_on_a_terminal_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    from ztrooted.cli.output import fail  # noqa: PLC0415
    from ztrooted.reasons import GateReason  # noqa: PLC0415

    for hostile in HOSTILE:
        with pytest.raises(SystemExit):
            fail(GateError(GateReason.INTERNAL_ERROR, hostile, hostile), json=False)
    shown = capsys.readouterr()
    assert all(line.isprintable() for line in (shown.out + shown.err).split("\n"))
