"""Who vouches for people in tests: identity providers, with their keys and their pages over real TLS, and a CA of people."""

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.certificates import Authority
from tests.support.gateway_in_process import HOST, TRUST_DOMAIN, GatewayInProcess

ISSUER, AUDIENCE = "https://login.test/", "ztrooted"
ROBOT = "system:serviceaccount:prod:argo"


class Provider:
    """An identity provider: keys, and tokens of any kind by them."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "jwks.json"
        self.keys: dict[str, Any] = {
            "rsa": rsa.generate_private_key(65537, 2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
        }
        self.publish()

    def jwks(self) -> dict[str, Any]:
        found = []
        for kid, key in self.keys.items():
            kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
            jwk = kind.to_jwk(key.public_key(), as_dict=True)
            found.append({**jwk, "kid": kid, "use": "sig", "alg": _algorithm(key)})
        return {"keys": found}

    def publish(self, value: object = None) -> None:
        self.file.write_text(json.dumps(self.jwks() if value is None else value))

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = now_s()
        made = {"iss": ISSUER, "aud": [AUDIENCE], "sub": ROBOT, "iat": now, "exp": now + 600, **changed}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, kid: str = "rsa", *, key: Any = None, algorithm: str | None = None, **changed: Any) -> str:
        signer = key or self.keys[kid]
        return jwt.encode(
            self.claims(**changed), signer, algorithm=algorithm or _algorithm(signer), headers={"kid": kid}
        )


def now_s() -> int:
    return int(datetime.now(UTC).timestamp())


def _algorithm(key: Any) -> str:
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"


def settings(source: str) -> str:
    return f"""
[[identity_providers]]
name = "login"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
{source}
[[identity_providers.grants]]
role = "orchestrator"
claims = {{sub = "{ROBOT}"}}
[[identity_providers.grants]]
role = "operator"
claims = {{groups = "ztrooted-operators", hd = "login.test"}}
"""


async def restart_with(gate: GatewayInProcess, text: str) -> None:
    await gate.stop()
    file = gate.data / "gateway.toml"
    file.write_text(file.read_text().partition("[[")[0] + text)
    await gate.start()


class KeyServer:
    """Serves the keys over real TLS, by a CA of its own; ``broken`` makes it answer with nothing of use."""

    def __init__(self, provider: Provider, folder: Path) -> None:
        self.provider, self.asked, self.broken = provider, 0, False
        authority = Authority.create("keys", datetime.now(UTC))
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.issue_server(key.public_key(), [HOST, "localhost"], datetime.now(UTC))
        self.ca = folder / "keys-ca.pem"
        self.ca.write_bytes(authority.pem())
        self._pair = folder / "keys.pem"
        self._pair.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        self.url = ""

    def add_pages(self, app: web.Application) -> None:
        """It has none but the keys."""

    async def start(self) -> web.AppRunner:
        async def keys(_request: web.Request) -> web.Response:
            self.asked += 1
            if self.broken:
                raise web.HTTPFound("https://127.0.0.1:1/elsewhere")
            return web.json_response(self.provider.jwks())

        app = web.Application()
        app.router.add_get("/keys", keys)
        self.add_pages(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._pair)
        await web.TCPSite(runner, HOST, 0, ssl_context=tls).start()
        self.url = f"https://{HOST}:{runner.addresses[0][1]}/keys"
        return runner


class LoginServer(KeyServer):
    """A provider at which people sign in: discovery, a page with a button, codes that are good once, ID tokens.

    By another name than the gateway's address, so a browser takes it for another site. ``metadata``, ``answer`` and
    ``token`` change what it says of itself, in its answer by the browser, and in the ID token; None leaves it out.
    """

    client, secret = "console", "a secret: of+the client"

    def __init__(self, folder: Path) -> None:
        super().__init__(Provider(folder), folder)
        self.folder = folder
        self.metadata: dict[str, Any] = {}
        self.answer: dict[str, str | None] = {}
        self.token: dict[str, Any] = {}
        self.audience_key: Any = None
        self.other_key = ec.generate_private_key(ec.SECP256R1())
        self.codes: dict[str, dict[str, str]] = {}
        self.status = 200
        self.hangs: str | None = None  # at which of its addresses
        self.requests: list[str] = []
        self.issued: list[str] = []

    @property
    def issuer(self) -> str:
        return self.url.replace(HOST, "localhost").removesuffix("/keys")

    def settings(self, redirect_uri: str) -> str:
        (self.folder / "client.secret").write_text(self.secret + "\n")
        (self.folder / "client.secret").chmod(0o600)
        return f"""
[[identity_providers]]
name = "login"
issuer = "{self.issuer}"
audience = "{AUDIENCE}"
jwks_url = "{self.url}"
jwks_ca = "{self.ca}"
client_id = "{self.client}"
client_secret_file = "{self.folder / "client.secret"}"
redirect_uri = "{redirect_uri}"
[[identity_providers.grants]]
role = "operator"
claims = {{groups = "operators"}}
"""

    def add_pages(self, app: web.Application) -> None:
        app.router.add_get("/.well-known/openid-configuration", self._said)
        app.router.add_get("/authorize", self._page)
        app.router.add_post("/authorize", self._agreed)
        app.router.add_post("/token", self._exchanged)

    async def _began(self, request: web.Request) -> None:
        self.requests.append(request.path)
        if self.hangs == request.path:
            await asyncio.Event().wait()

    async def _said(self, request: web.Request) -> web.Response:
        await self._began(request)
        said = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/others",
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return web.json_response(said)

    async def _page(self, request: web.Request) -> web.Response:
        await self._began(request)
        text = (
            "<!doctype html><html lang=en><title>Provider</title><link rel=icon href='data:,'>"
            "<form method=post><button>Sign in as Olivia</button></form>"
        )
        return web.Response(text=text, content_type="text/html")

    async def _agreed(self, request: web.Request) -> web.Response:
        return web.Response(status=303, headers={"Location": self.agree(dict(request.query))})

    def agree(self, asked: dict[str, str]) -> str:
        """Somebody signed in: where their browser is sent (RFC 6749 §4.1.2)."""
        assert (asked["response_type"], asked["client_id"]) == ("code", self.client)
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        said = {"code": code, "state": asked["state"], "iss": self.issuer, **self.answer}
        query = urlencode({name: value for name, value in said.items() if value is not None})
        return f"{asked['redirect_uri']}?{query}"

    async def _exchanged(self, request: web.Request) -> web.Response:
        await self._began(request)
        form = {name: value[0] for name, value in parse_qs(await request.text(), strict_parsing=True).items()}
        basic = base64.b64encode(f"{self.client}:a+secret%3A+of%2Bthe+client".encode()).decode()
        asked = self.codes.pop(form["code"], None)
        if self.status != 200 or asked is None or request.headers.get("Authorization") != f"Basic {basic}":
            return web.json_response({"error": "invalid_grant"}, status=400 if self.status == 200 else self.status)
        challenge = hashlib.sha256(form["code_verifier"].encode()).digest()
        assert asked["code_challenge_method"] == "S256"
        if (form["redirect_uri"], form["grant_type"]) != (asked["redirect_uri"], "authorization_code") or (
            base64.urlsafe_b64encode(challenge).rstrip(b"=").decode() != asked["code_challenge"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        claims = {
            "iss": self.issuer,
            "aud": self.client,
            "sub": "olivia",
            "groups": ["operators"],
            "nonce": asked["nonce"],
            **self.token,
        }
        token = self.provider.token(key=self.audience_key, **claims)
        self.issued.append(token)
        return web.json_response({"id_token": token, "access_token": "-", "token_type": "Bearer"})


class People:
    """A CA of the operator's own, and certificates by it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.authority = Authority.create("people", datetime.now(UTC))
        self.file = folder / "people.pem"
        self.file.write_bytes(self.authority.pem())

    def certificate(
        self,
        uris: list[str],
        *,
        issuer: Authority | None = None,
        days: tuple[int, int] = (-1, 1),
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> tuple[str, str]:
        key = key or ec.generate_private_key(ec.SECP256R1())
        authority, now = issuer or self.authority, datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone")]))
            .issuer_name(authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.count += 1
        certificate, private = (self.folder / f"{self.count}.{end}" for end in ("pem", "key"))
        certificate.write_bytes(builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(certificate), str(private)

    def below(self, uri: str) -> tuple[str, str]:
        """A certificate that a CA below another one of ours issued, with that one's; the upper one is what is configured."""
        upper, lower = (_authority(name, depth) for name, depth in (("upper", 1), ("lower", 0)))
        between = _ca_certificate("lower", lower.key.public_key(), upper, 0)
        self.file.write_bytes(upper.pem())
        certificate, private = self.certificate([uri], issuer=Authority(between, lower.key))
        with Path(certificate).open("ab") as file:
            file.write(between.public_bytes(Encoding.PEM))
        return certificate, private


def _authority(name: str, depth: int) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(_ca_certificate(name, key.public_key(), None, depth, key), key)


def _ca_certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: Authority | None,
    depth: int,
    own: ec.EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    signer = issuer.key if issuer else own
    assert signer is not None
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
        .sign(signer, hashes.SHA256())
    )


def spiffe(path: str, domain: str = TRUST_DOMAIN) -> str:
    return f"spiffe://{domain}/{path}"
