"""Signed webhooks, as the Standard Webhooks specification 1.0 has them: what a gateway sends and a receiver checks.

A message has three headers: ``webhook-id``, ``webhook-timestamp`` (seconds since the epoch) and ``webhook-signature``,
which is ``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``. A secret is ``whsec_`` and the base64 of 24 to 64
random bytes. Any library for that specification reads these messages; ``verify`` is ours.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

PREFIX = "whsec_"
MIN_SECRET, MAX_SECRET = 24, 64  # bytes
TOLERANCE_S = 300  # a message older or newer than that was held back, or is from a wrong clock


def new_secret() -> str:
    """A fresh secret, as text."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def parse_secret(text: str) -> bytes:
    """The bytes of a secret. GateError ``webhook.secret``."""
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except ValueError as error:
        raise GateError(GateReason.WEBHOOK_SECRET, f"the secret is not base64: {error}") from error
    if not text.strip().startswith(PREFIX) or not MIN_SECRET <= len(key) <= MAX_SECRET:
        detail = f"a secret is '{PREFIX}' and the base64 of {MIN_SECRET} to {MAX_SECRET} bytes"
        raise GateError(GateReason.WEBHOOK_SECRET, detail)
    return key


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a message."""
    signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{signature}",
    }


def verify(key: bytes, headers: Mapping[str, str], body: bytes, *, now_s: int) -> str:
    """The id of a genuine message; a receiver drops one whose id it has had before.

    ``headers`` are looked up in lower case. GateError ``webhook.signature`` for anything else than a message signed with
    ``key`` at about ``now_s``.
    """
    try:
        message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        offered = headers["webhook-signature"].split(" ")
    except KeyError as error:
        raise GateError(GateReason.WEBHOOK_SIGNATURE, f"the message has no header {error}") from error
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        raise GateError(GateReason.WEBHOOK_SIGNATURE, "the message's timestamp is not a number of seconds")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise GateError(
            GateReason.WEBHOOK_SIGNATURE, "the message is not of now: it was held back, or a clock is wrong"
        )
    expected = sign(key, message_id, int(timestamp), body)["webhook-signature"]
    if not any(hmac.compare_digest(expected.encode(), one.encode()) for one in offered):
        raise GateError(GateReason.WEBHOOK_SIGNATURE, "no signature of the message is by this secret")
    return message_id
