"""Webhooks: the event feed pushed to those who can't hold a stream.

Each webhook is a subscriber of its own with a cursor in the database. An event that is not taken is sent again until it is,
and the next one waits: nothing is skipped, and nothing comes out of order; after a crash the last one may come twice. That
a receiver fails, and that it has recovered, is in the lineage.
"""

import asyncio
import os
import random
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import structlog

from gateway.config import GatewayConfig, read_file
from gateway.feed import Event, Feed
from gateway.storage.database import Database, Transaction
from gateway.webhook_config import NAME, WebhookConfig, secret_path
from ztrooted.client import tls_context
from ztrooted.clock import Clock
from ztrooted.errors import EnvironmentProblem, GateError, UsageProblem
from ztrooted.operator_models import WebhookView
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.redaction import redact_text
from ztrooted.webhook import new_secret, parse_secret, sign

log = structlog.get_logger()

PAUSE_S = (1.0, 300.0)  # before an event is sent again: at first, and at most; each is drawn at random below its bound
TAKE_S = 10.0  # a receiver answers within this time, or has not taken the event
MAX_DETAIL = 200  # characters of why a receiver failed, for the lineage and operators


@dataclass(frozen=True, slots=True)
class Receiver:
    """A webhook's configuration with what its files hold."""

    config: WebhookConfig
    key: bytes
    tls: ssl.SSLContext | bool


def load_receivers(config: GatewayConfig) -> list[Receiver]:
    """Every configured receiver. EnvironmentProblem for a secret or CA that can't be used."""
    receivers = []
    for one in config.webhooks:
        path = config.path(one.secret_file)
        secret = read_file(path, f"secret of webhook {one.name}", secret=True)
        try:
            key = parse_secret(secret.decode("ascii", "replace"))
        except GateError as error:
            remedy = f"create one with 'ztrooted gateway webhook {config.data} {one.name}'"
            raise EnvironmentProblem(GateReason.ENVIRONMENT_KEY_FILE, f"{path}: {error.detail}", remedy) from error
        receivers.append(Receiver(one, key, True if one.ca is None else tls_context(config.path(one.ca))))
    return receivers


def create_secret(data: Path, name: str) -> Path:
    """Write a fresh secret for a webhook where the configuration looks for it. GateError where there is one."""
    if not NAME.fullmatch(name):
        remedy = "a webhook's name is of up to 63 lower case letters, digits, '-' and '_'"
        raise UsageProblem(GateReason.ID_INVALID, f"{name!r} can't be the name of a webhook", remedy)
    path = data / secret_path(name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        detail = f"{path} exists already"
        raise GateError(GateReason.WEBHOOK_SECRET, detail, "to replace it, remove the file first") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(new_secret() + "\n")
    return path


@dataclass(slots=True)
class _Webhook:
    receiver: Receiver
    cursor: int
    failing_since: int | None
    detail: str

    @property
    def config(self) -> WebhookConfig:
        return self.receiver.config


class Webhooks:
    """Sends events to every receiver. ``run`` each of ``names`` in a task of its own."""

    def __init__(self, receivers: list[Receiver], database: Database, feed: Feed, clock: Clock) -> None:
        self._database = database
        self._feed = feed
        self._clock = clock
        self._hooks = {one.config.name: self._take_up(one) for one in receivers}

    def _take_up(self, receiver: Receiver) -> _Webhook:
        """Where an earlier run left off; a new one begins with what comes next."""
        row = self._database.reading.execute(
            "SELECT cursor, failing_since, detail FROM webhooks WHERE name = ?", (receiver.config.name,)
        ).fetchone()
        cursor, failing_since, detail = row or (self._feed.end, None, "")
        return _Webhook(receiver, cursor, failing_since, detail)

    def replace(self, receivers: list[Receiver]) -> None:
        """These and no others, while no ``run`` is under way."""
        self._hooks = {one.config.name: self._take_up(one) for one in receivers}

    @property
    def names(self) -> list[str]:
        """The webhooks there are."""
        return list(self._hooks)

    def views(self) -> list[WebhookView]:
        """How each stands, for operators."""
        end = self._feed.end
        return [
            WebhookView(
                name=name,
                url=redact_text(hook.config.url),
                orchestrator=hook.config.orchestrator,
                events=list(hook.config.events),
                next=hook.cursor,
                behind=max(end - hook.cursor, 0),
                failing_since=hook.failing_since,
                detail=hook.detail,
            )
            for name, hook in self._hooks.items()
        ]

    async def run(self, name: str) -> None:
        """Send to one receiver, for ever."""
        hook = self._hooks[name]
        cursor = hook.cursor  # kept before anything is sent: a receiver that was never reached misses nothing either
        await self._database.write(
            lambda tx: tx.execute("INSERT OR IGNORE INTO webhooks VALUES (?, ?, NULL, '')", (name, cursor)) and None
        )
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TAKE_S)) as http:
            async for event in self._feed.events(hook.cursor, hook.config.orchestrator):
                if event.kind in hook.config.events:
                    await self._send(http, hook, event)
                hook.cursor = event.seq + 1

    async def _send(self, http: aiohttp.ClientSession, hook: _Webhook, event: Event) -> None:
        """Send one event until it is taken and that is stored."""
        pause = PAUSE_S[0]
        while True:
            refusal = await self._post(http, hook, event)
            try:
                await self._note(hook, event, refusal)
                if refusal is None:
                    return
            except GateError as error:  # what is not stored counts as not sent, and is sent again
                log.error("webhook not recorded", name=hook.config.name, code=error.reason, detail=error.detail)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 -- jitter
            pause = min(pause * 2, PAUSE_S[1])

    async def _post(self, http: aiohttp.ClientSession, hook: _Webhook, event: Event) -> str | None:
        """Send it once; what went wrong, or None. A redirection is no success: where to send is for operators to say."""
        body = b'{"type":"%s","seq":%d,"record":%s}' % (event.kind.encode(), event.seq, event.record)
        message_id = f"{hook.config.name}-{event.seq}"
        headers = sign(hook.receiver.key, message_id, self._clock.now_ms() // 1000, body) | {
            "Content-Type": "application/json"
        }
        try:
            async with http.post(
                hook.config.url, data=body, headers=headers, ssl=hook.receiver.tls, allow_redirects=False
            ) as answer:
                return None if answer.ok and answer.status < 300 else f"it answered {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return redact_text(str(error) or type(error).__name__)[:MAX_DETAIL]

    async def _note(self, hook: _Webhook, event: Event, refusal: str | None) -> None:
        """Store how far it is; a change between failing and not goes into the lineage."""
        now_ms = self._clock.now_ms()
        failing_since = None if refusal is None else hook.failing_since or now_ms
        changed = (failing_since is None) is not (hook.failing_since is None)
        cursor = event.seq + 1 if refusal is None else event.seq
        kind = "webhook.recovered" if refusal is None else "webhook.failing"
        body = {"name": hook.config.name, "url": _host(hook.config.url), "next": cursor, "detail": refusal}

        def store(tx: Transaction) -> None:
            tx.execute(
                "INSERT OR REPLACE INTO webhooks(name, cursor, failing_since, detail) VALUES (?, ?, ?, ?)",
                (hook.config.name, cursor, failing_since, refusal or ""),
            )
            if changed:
                tx.append(Record(kind, now_ms, body))

        if refusal is not None and not changed:
            hook.detail = refusal
            return
        await self._database.write(store)
        hook.failing_since, hook.detail = failing_since, refusal or ""
        if changed:
            log.warning(kind, **body)


def _host(url: str) -> str:
    """What may be told of a webhook's address: receivers of many kinds have a secret in its path or its query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
