"""Who somebody is: tokens of identity providers, client certificates of another CA, the local socket, tokens of ours."""

import asyncio
import hmac
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs

from gateway import local
from gateway.auth import TOKEN_ROLES, Role
from gateway.certificates import Authority
from gateway.config import load_config
from gateway.providers import AGAIN_S, REFRESH_S
from tests.adversarial.test_service import paths, watched
from tests.support.executor import ScriptedExecutor
from tests.support.gateway_in_process import HOST, Answer, GatewayInProcess
from tests.support.identities import (
    AUDIENCE,
    ISSUER,
    KeyServer,
    People,
    Provider,
    now_s,
    restart_with,
    settings,
    spiffe,
)
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason


@pytest.fixture
async def provider(gate: GatewayInProcess, tmp_path: Path) -> Provider:
    made = Provider(tmp_path)
    await restart_with(gate, settings(f'jwks_file = "{made.file}"'))
    return made


async def dispatches(gate: GatewayInProcess, token: str) -> Answer:
    """A route of orchestrators; 400 says that one got as far as its body."""
    return await gate.call("POST", "/v1/dispatches", token=token, body=b"{}")


# --- tokens of identity providers --------------------------------------------------------------------------------
@pytest.mark.parametrize("kid", ["rsa", "ec"])
async def test_a_token_of_a_provider_is_its_subject_with_the_role_that_was_granted(
    gate: GatewayInProcess, provider: Provider, kid: str
) -> None:
    assert (await dispatches(gate, provider.token(kid))).code == "request.malformed"
    assert (await dispatches(gate, provider.token(kid, aud=AUDIENCE))).status == 400
    for path in ("/v1/quarantines", "/v1/tokens"):
        assert (await gate.call("GET", path, token=provider.token(kid))).code == "auth.role"
    other = await dispatches(gate, provider.token(kid, sub="somebody"))
    assert (other.status, other.code) == (403, "auth.role")
    both: dict[str, Any] = {"groups": ["x", "ztrooted-operators"], "hd": "login.test"}
    assert (await gate.call("GET", "/v1/tokens", token=provider.token(kid, **both))).status == 200
    for less in ({"groups": ["x"]}, {"hd": None}, {"groups": "ztrooted-operators-2"}, {"hd": ["login.test.evil"]}):
        assert (await gate.call("GET", "/v1/tokens", token=provider.token(kid, **{**both, **less}))).code == "auth.role"


async def test_what_they_do_is_recorded_under_their_name(gate: GatewayInProcess, provider: Provider) -> None:
    token = provider.token(groups=["ztrooted-operators"], hd="login.test", sub="olivia@login.test")
    body = b'{"subject":{"kind":"class","id":"default"},"reason":"drill"}'
    assert (await gate.call("POST", "/v1/quarantines", token=token, body=body)).status == 200
    (order,) = gate.records("operator.quarantined")
    assert order["body"]["operator"] == "login:olivia@login.test"


# What is wrong, given the time of the test itself: a run takes longer than these tokens live.
WRONG: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "expired": lambda now: {"exp": now - 60, "iat": now - 600},
    "not yet": lambda now: {"nbf": now + 600},
    "of the future": lambda now: {"iat": now + 600, "exp": now + 900},
    "for ever": lambda now: {"exp": now + 8 * 86400},
    "no end": lambda _: {"exp": None},
    "no beginning": lambda _: {"iat": None},
    "no subject": lambda _: {"sub": None},
    "no audience": lambda _: {"aud": None},
    "another audience": lambda _: {"aud": "kubernetes"},
    "an audience like ours": lambda _: {"aud": AUDIENCE + "x"},
    "another issuer": lambda _: {"iss": "https://evil.test/"},
    "issuer with more": lambda _: {"iss": ISSUER + "x"},
    "no issuer": lambda _: {"iss": None},
    "a subject that breaks lines": lambda _: {"sub": "x\ny"},
    "a subject with spaces": lambda _: {"sub": "x y"},
    "an endless subject": lambda _: {"sub": "x" * 200},
    "times as texts": lambda now: {"exp": str(now + 600)},
    "times that are no numbers": lambda _: {"exp": True},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_token_that_is_not_for_us_now_is_refused(
    gate: GatewayInProcess, provider: Provider, wrong: Callable[[int], dict[str, Any]]
) -> None:
    changed = wrong(now_s())
    try:
        token = provider.token(**changed)
    except TypeError:  # the library refuses to write it
        token = _raw(provider, changed)
    answer = await dispatches(gate, token)
    assert (answer.status, answer.code) == (401, "auth.credential_invalid")


def _raw(provider: Provider, changed: dict[str, Any]) -> str:
    payload = json.dumps(provider.claims(**changed)).encode()
    return jwt.api_jws.encode(payload, provider.keys["rsa"], algorithm="RS256", headers={"kid": "rsa"})


async def test_a_token_by_another_key_or_algorithm_is_refused(gate: GatewayInProcess, provider: Provider) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    public = provider.keys["rsa"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    good = provider.token()
    head, body, signature = good.split(".")
    wrong = {
        "another key": provider.token(key=stranger),
        "another of its keys": provider.token("ec", key=provider.keys["rsa"]),
        "none": jwt.encode(provider.claims(), "", algorithm="none", headers={"kid": "rsa"}),
        "shared secret": _by_secret(provider, public),
        "not pinned": provider.token(algorithm="RS512"),
        "unknown key": _named(stranger, provider),
        "no key named": jwt.encode(provider.claims(), provider.keys["rsa"], algorithm="RS256"),
        "no signature": f"{head}.{body}.",
        "cut": good[:-4],
        "of another body": f"{head}.{provider.token(sub='x').split('.')[1]}.{signature}",
        "long": good + "A" * 4000,
        "deep": f"{head}.{jwt.utils.base64url_encode(b'[' * 5000).decode()}.{signature}",
        "nothing": "x.y.z",
    }
    for name, token in wrong.items():
        answer = await dispatches(gate, token)
        assert (answer.status, answer.code) == (401, "auth.credential_invalid"), name


def _by_secret(provider: Provider, secret: bytes) -> str:
    """The classic: a public key taken for a shared secret."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, provider.claims())]
    signed = b".".join(jwt.utils.base64url_encode(part) for part in parts)
    return b".".join([signed, jwt.utils.base64url_encode(hmac.digest(secret, signed, "sha256"))]).decode()


def _named(key: Any, provider: Provider) -> str:
    return jwt.encode(provider.claims(), key, algorithm="RS256", headers={"kid": "other"})


async def test_a_provider_changes_its_keys(gate: GatewayInProcess, provider: Provider) -> None:
    old, gone = provider.token(exp=now_s() + 7200), provider.keys.pop("rsa")
    provider.keys["next"] = rsa.generate_private_key(65537, 2048)
    provider.publish()
    await gate.pass_time(AGAIN_S + 1)
    assert (await dispatches(gate, provider.token("next"))).status == 400, "an unknown key is looked for"
    assert (await dispatches(gate, old)).code == "auth.credential_invalid", "and the old one is gone"
    provider.keys["rsa"] = gone
    provider.publish()
    await gate.pass_time(REFRESH_S + 1)
    async with asyncio.timeout(20):
        while (await dispatches(gate, old)).status != 400:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    # What can't be read changes nothing.
    provider.file.write_text("{}")
    await gate.gateway.providers.refresh()
    assert (await dispatches(gate, old)).status == 400


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "AAAA", "kid": "x", "alg": "HS256"}]},
        {"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB", "kid": "x", "alg": "RS256"}]},
        "private",
        "twice",
        "huge",
    ],
)
async def test_keys_that_are_none_are_refused_at_the_start(
    gate: GatewayInProcess, provider: Provider, value: object
) -> None:
    await gate.stop()
    (first, *_) = provider.jwks()["keys"]
    if value == "private":
        value = {"keys": [jwt.algorithms.RSAAlgorithm.to_jwk(provider.keys["rsa"], as_dict=True) | {"kid": "x"}]}
    elif value == "twice":
        value = {"keys": [first, first]}
    elif value == "huge":
        value = {"keys": [{**first, "n": first["n"] * 9}]}
    provider.publish(value)
    with pytest.raises(EnvironmentProblem, match="identity provider login"):
        await gate.start()
    provider.publish()


@pytest.mark.parametrize(
    "source",
    [
        "",
        'jwks_file = "a"\njwks_url = "https://login.test/keys"',
        'jwks_url = "http://login.test/keys"',
        'jwks_url = "https://me:secret@login.test/keys"',
        'jwks_file = "a"\njwks_ca = "b"',
        'jwks_file = "a"\nalgorithms = ["HS256"]',
        'jwks_file = "a"\nalgorithms = []',
        'jwks_file = "a"\nmax_life_s = 0',
        'jwks_file = "a"\nanything = 1',
    ],
)
async def test_a_provider_that_is_not_pinned_is_refused_in_the_configuration(
    gate: GatewayInProcess, source: str
) -> None:
    file = gate.data / "gateway.toml"
    file.write_text(file.read_text() + settings(source))
    with pytest.raises(EnvironmentProblem) as refused:
        load_config(gate.data)
    assert str(refused.value.reason).startswith("config.")


@pytest.fixture
async def key_server(tmp_path: Path) -> AsyncIterator[KeyServer]:
    server = KeyServer(Provider(tmp_path), tmp_path)
    runner = await server.start()
    yield server
    await runner.cleanup()


async def test_keys_come_from_the_pinned_address_alone(gate: GatewayInProcess, key_server: KeyServer) -> None:
    await restart_with(gate, settings(f'jwks_url = "{key_server.url}"\njwks_ca = "{key_server.ca}"'))
    assert (await dispatches(gate, key_server.provider.token())).status == 400
    asked = key_server.asked
    for _ in range(5):  # strangers name keys that there are none of
        assert (await dispatches(gate, _named(key_server.provider.keys["rsa"], key_server.provider))).status == 401
    assert key_server.asked == asked, "and that costs the provider nothing"
    await gate.pass_time(AGAIN_S + 1)
    for _ in range(5):
        assert (await dispatches(gate, _named(key_server.provider.keys["rsa"], key_server.provider))).status == 401
    assert key_server.asked == asked + 1


@pytest.mark.parametrize("fault", ["redirected", "another CA", "gone"])
async def test_without_the_keys_nobody_is_known_by_them_and_others_are(
    gate: GatewayInProcess, key_server: KeyServer, fault: str
) -> None:
    key_server.broken = fault == "redirected"
    url = "https://127.0.0.1:1/keys" if fault == "gone" else key_server.url
    trusted = gate.ca if fault == "another CA" else key_server.ca
    await restart_with(gate, settings(f'jwks_url = "{url}"\njwks_ca = "{trusted}"'))
    answer = await dispatches(gate, key_server.provider.token())
    assert (answer.status, answer.code) == (503, "auth.provider_unavailable")
    assert (await dispatches(gate, await gate.token("orchestrator"))).status == 400


async def test_a_start_waits_for_no_provider(gate: GatewayInProcess, key_server: KeyServer) -> None:
    """Here is one that takes the connection and never says a word."""
    with socket.create_server((HOST, 0)) as silent:
        url = f"https://{HOST}:{silent.getsockname()[1]}/keys"
        with capture_logs() as logged:
            await restart_with(gate, settings(f'jwks_url = "{url}"\njwks_ca = "{key_server.ca}"'))
            assert (await dispatches(gate, await gate.token("orchestrator"))).status == 400
        assert not [one for one in logged if one.get("provider")], "nobody has given up yet"
        assert gate.gateway.providers._providers[ISSUER]._asking.locked(), "it is still being asked"


# --- client certificates -----------------------------------------------------------------------------------------
@pytest.fixture
async def people(gate: GatewayInProcess, tmp_path: Path) -> People:
    made = People(tmp_path)
    await gate.stop()
    file = gate.data / "gateway.toml"
    file.write_text(f'client_ca = "{made.file}"\n' + file.read_text())
    await gate.start()
    return made


async def test_a_certificate_of_the_configured_ca_is_its_name_with_its_role(
    gate: GatewayInProcess, people: People
) -> None:
    olivia = people.certificate([spiffe("operator/olivia")])
    argo = people.certificate([spiffe("orchestrator/argo/prod")])
    assert (await gate.call("GET", "/v1/tokens", certificate=olivia)).status == 200
    assert (await gate.call("GET", "/v1/tokens", certificate=argo)).code == "auth.role"
    assert (await gate.call("POST", "/v1/dispatches", certificate=argo, body=b"{}")).code == "request.malformed"
    assert (await gate.call("POST", "/v1/dispatches", certificate=olivia, body=b"{}")).code == "auth.role"
    body = b'{"subject":{"kind":"class","id":"default"},"reason":"drill"}'
    assert (await gate.call("POST", "/v1/quarantines", certificate=olivia, body=body)).status == 200
    assert gate.records("operator.quarantined")[0]["body"]["operator"] == "olivia"


async def test_a_certificate_of_any_other_kind_is_nobodys(gate: GatewayInProcess, people: People) -> None:
    operator = spiffe("operator/olivia")
    wrong = {
        "another domain": people.certificate([spiffe("operator/olivia", "other.test")]),
        "no role": people.certificate([spiffe("king/olivia")]),
        "anyone": people.certificate([spiffe("anyone/olivia")]),
        "no name": people.certificate([spiffe("operator/")]),
        "a name of spaces": people.certificate([spiffe("operator/a b")]),
        "two names": people.certificate([operator, spiffe("auditor/olivia")]),
        "none": people.certificate([]),
        "executor": people.certificate([spiffe("executor/ex-" + "0" * 32)]),
    }
    for name, certificate in wrong.items():
        for method, path in (("GET", "/v1/tokens"), ("GET", "/v1/executor/channel")):
            answer = await gate.call(method, path, certificate=certificate)
            assert (answer.status, answer.code) == (401, "auth.credential_invalid"), (name, path)
    # These do not get as far as being asked who they are.
    for certificate in (
        people.certificate([operator], days=(-2, -1)),
        people.certificate([operator], days=(1, 2)),
        people.certificate([operator], usage=ExtendedKeyUsageOID.SERVER_AUTH),
        people.certificate([operator], issuer=Authority.create("people", datetime.now(UTC))),
    ):
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, OSError)):
            await gate.call("GET", "/v1/tokens", certificate=certificate)


async def test_each_ca_vouches_for_its_own_kind_alone(
    gate: GatewayInProcess, people: People, executor: ScriptedExecutor
) -> None:
    """An executor is not what another CA calls one, and our CA for executors makes nobody an operator."""
    await executor.enroll()
    ours = gate.gateway.authority
    as_executor = people.certificate([spiffe(f"executor/{executor.id}")], key=executor.key)
    answer = await gate.call("GET", "/v1/executor/channel", certificate=as_executor)
    assert (answer.status, answer.code) == (401, "auth.credential_invalid")
    as_operator = people.certificate([spiffe("operator/olivia")], issuer=ours)
    answer = await gate.call("GET", "/v1/tokens", certificate=as_operator)
    assert answer.status == 401


async def test_only_a_ca_that_is_named_makes_anybody_somebody(gate: GatewayInProcess, people: People) -> None:
    """TLS believes what a CA below it issued; here it has to be the configured one itself."""
    await gate.stop()
    certificate = people.below(spiffe("operator/olivia"))
    await gate.start()
    answer = await gate.call("GET", "/v1/tokens", certificate=certificate)
    assert (answer.status, answer.code) == (401, "auth.credential_invalid")


async def test_M1_every_route_refuses_every_wrong_certificate_before_its_handler(
    gate: GatewayInProcess, people: People, executor: ScriptedExecutor
) -> None:
    """Of another role, nobody's, forged for another's name, replaced, expired: each on each route that asks who one is."""
    await executor.enroll()
    with executor.enrolled.client_certificate() as before:
        replaced = tuple(str(shutil.copy(one, people.folder / f"replaced.{n}")) for n, one in enumerate(before))
    await executor.enroll()
    of_role = {role: people.certificate([spiffe(f"{role}/someone")]) for role in sorted(TOKEN_ROLES)}
    wrong = {
        "replaced": replaced,
        "another's session": people.certificate([spiffe(f"executor/{executor.id}")]),
        "another's session, with its key": people.certificate([spiffe(f"executor/{executor.id}")], key=executor.key),
        "an operator by the wrong CA": people.certificate([spiffe("operator/o")], issuer=gate.gateway.authority),
        "no role": people.certificate([spiffe("king/o")]),
        "another domain": people.certificate([spiffe("operator/o", "other.test")]),
    }
    entered: list[str] = []
    async with watched(gate, entered):
        for route, path in paths(gate.gateway):
            if Role.ANYONE in route.roles:
                continue
            others = {str(role): one for role, one in of_role.items() if role not in route.roles}
            with executor.enrolled.client_certificate() as session:
                if Role.EXECUTOR not in route.roles:
                    others["executor"] = (str(session[0]), str(session[1]))
                for name, certificate in {**wrong, **others}.items():
                    answer = await gate.call(route.method, path, certificate=certificate)
                    assert answer.status in {401, 403}, (route, name, answer)
                    assert answer.code.startswith("auth."), (route, name, answer)
        assert entered == []
        for route, path in paths(gate.gateway):  # and of its own role it is let in
            for role in route.roles & TOKEN_ROLES:
                assert (await gate.call(route.method, path, certificate=of_role[role])).status == 204
        await gate.pass_time(2 * 86400)
        entered.clear()
        for route, path in paths(gate.gateway):
            for role in route.roles & TOKEN_ROLES:
                answer = await gate.call(route.method, path, certificate=of_role[role])
                assert (answer.status, answer.code) == (401, "auth.credential_invalid")
        assert entered == []


async def test_a_certificate_ends_while_its_connection_lasts(gate: GatewayInProcess, people: People) -> None:
    olivia = people.certificate([spiffe("operator/olivia")])
    assert (await gate.call("GET", "/v1/tokens", certificate=olivia)).status == 200
    await gate.pass_time(2 * 86400)
    assert (await gate.call("GET", "/v1/tokens", certificate=olivia)).code == "auth.credential_invalid"


# --- tokens of ours ----------------------------------------------------------------------------------------------
async def test_P2_tokens_are_made_listed_rotated_and_revoked(gate: GatewayInProcess) -> None:
    operator = await gate.token("operator", "olivia")
    asked = b'{"role":"orchestrator","name":"argo","life_s":3600}'
    made = [(await gate.call("POST", "/v1/tokens", token=operator, body=asked)) for _ in range(2)]
    assert [one.status for one in made] == [201, 201]
    first, second = (one.json for one in made)
    assert made[0].headers["Cache-Control"] == "no-store"
    for one in (first, second):
        assert (await dispatches(gate, one["token"])).status == 400, "both are valid while the next is handed out"
    listed = await gate.call("GET", "/v1/tokens", token=operator)
    assert {first["id"], second["id"]} < {one["id"] for one in listed.json["tokens"]}
    assert b"zt-" not in listed.data
    ended = await gate.call("DELETE", f"/v1/tokens/{first['id']}", token=operator)
    assert (ended.status, ended.json["name"]) == (200, "argo")
    assert (await dispatches(gate, first["token"])).code == "auth.credential_invalid"
    assert (await dispatches(gate, second["token"])).status == 400
    assert (await gate.call("DELETE", f"/v1/tokens/{first['id']}", token=operator)).status == 404
    (record,) = gate.records("operator.token_revoked")
    assert (record["body"]["hash"][:16], record["body"]["operator"]) == (first["id"], "olivia")
    created = [one["body"] for one in gate.records("operator.token_created") if one["body"]["name"] == "argo"]
    assert [one["operator"] for one in created] == ["olivia", "olivia"]
    assert first["token"] not in json.dumps(gate.records()), "M11"


# --- the local socket --------------------------------------------------------------------------------------------
def ztrooted(*arguments: str, user: int | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ztrooted", "gateway", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, user=user)


async def test_the_gateways_own_user_needs_no_credential_and_each_use_is_recorded(gate: GatewayInProcess) -> None:
    assert (gate.data / local.FILE).stat().st_mode & 0o777 == 0o600
    made = await asyncio.to_thread(
        ztrooted, "token", str(gate.data), "--role", "orchestrator", "--name", "argo", "--json"
    )
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)
    assert (await dispatches(gate, token["token"])).status == 400, "the gateway that serves knows it at once"
    listed = await asyncio.to_thread(ztrooted, "tokens", str(gate.data), "--json")
    assert token["id"] in [one["id"] for one in json.loads(listed.stdout)["tokens"]]
    ended = await asyncio.to_thread(ztrooted, "revoke-token", str(gate.data), token["id"])
    assert ended.returncode == 0
    assert (await dispatches(gate, token["token"])).status == 401
    used = [one["body"] for one in gate.records("operator.local_access")]
    assert [one["method"] for one in used] == ["POST", "GET", "DELETE"]
    assert {one["user"] for one in used} == {os.geteuid()}
    assert gate.records("operator.token_revoked")[0]["body"]["operator"] == f"local:{os.geteuid()}"
    again = await asyncio.to_thread(ztrooted, "revoke-token", str(gate.data), token["id"])
    assert (again.returncode, "request.not_found" in again.stderr) == (1, True)
    odd = await asyncio.to_thread(ztrooted, "revoke-token", str(gate.data), "../x")
    assert (odd.returncode, "id.invalid" in odd.stderr) == (2, True)


async def test_a_local_use_that_can_not_be_recorded_does_not_happen(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_arguments: object, **_options: object) -> None:
        raise GateError(GateReason.DATABASE_UNAVAILABLE, "the disk is full")

    monkeypatch.setattr(gate.gateway.database, "write", full)
    with pytest.raises(GateError) as refused:
        await local.call(gate.data, "GET", "/v1/tokens")
    assert refused.value.reason is GateReason.DATABASE_UNAVAILABLE
    monkeypatch.undo()


async def test_a_local_operator_is_no_executor_and_no_orchestrator(gate: GatewayInProcess) -> None:
    for method, path in (("POST", "/v1/dispatches"), ("GET", "/v1/executor/channel")):
        with pytest.raises(GateError) as refused:
            await local.call(gate.data, method, path, b"{}" if method == "POST" else None)
        assert str(refused.value.reason) == "auth.role"
    assert not gate.records("operator.local_access")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
async def test_nobody_else_may_use_the_local_socket(gate: GatewayInProcess, tmp_path: Path) -> None:
    """Neither by the file's permissions nor, where those were opened, by who they are."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'GET /v1/tokens HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n"
        "data = b''\n"
        "while more := s.recv(65536): data += more\n"
        "print(data.decode())"
    )

    def ask() -> "subprocess.CompletedProcess[str]":
        command = ["/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-c", program]
        return subprocess.run(
            [*command, str(link / local.FILE)], check=False, capture_output=True, text=True, user=54321, cwd="/"
        )

    open_to_all = next(
        folder for folder in gate.data.parents if folder.stat().st_mode & 0o001
    )  # on the same file system
    link = open_to_all / f"zt-local-{os.getpid()}"
    link.mkdir(mode=0o755)
    try:
        os.link(gate.data / local.FILE, link / local.FILE)
    except OSError:
        link.rmdir()
        pytest.skip("sockets can't be linked here")
    try:
        closed = await asyncio.to_thread(ask)
        assert "PermissionError" in closed.stderr
        (link / local.FILE).chmod(0o666)
        opened = await asyncio.to_thread(ask)
        assert "401 Unauthorized" in opened.stdout
        assert "auth.credential_invalid" in opened.stdout
    finally:
        (link / local.FILE).unlink()
        link.rmdir()
    assert not gate.records("operator.local_access")
