"""What must not be written down, wherever it turns up: secrets, known by their form or by the name they stand under.

The first defence is that nobody logs one. This is the second, for what comes by ways that nobody thought of: a token that
somebody typed where an id belongs, an address with a password in it, a library's message that repeats its input.
"""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

# Form by form; what is kept of each is its first group. Strangers choose what is looked through, on the event loop: no form
# may begin at one place and be given up only at the end of the text, or many beginnings take the square of its length.
_FORMS = (
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?:-----END [A-Z ]*-----|\Z)"),  # RFC 7468
    re.compile(r"\b((?i:bearer|basic) +)[A-Za-z0-9._~+/=-]{8,}"),  # RFC 9110 §11.4
    re.compile(r"(zt-)[A-Za-z0-9_-]{16,}"),  # our bearer tokens
    re.compile(r"(whsec_)[A-Za-z0-9+/]{16,}={0,2}"),  # secrets of webhooks
    re.compile(r"(eyJ)[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"),  # artifacts, and tokens of providers: RFC 7515 §3.1
    re.compile(r"(://)[^/\s@?#]++(?=@)"),  # who asks, in an address: RFC 3986 §3.2.1
)
_ADDRESS = re.compile(r"https?://[^\s\"'<>]++")
# Names of header fields and members, in lower case with hyphens.
_NAMES = frozenset(
    {
        "artifact",
        "cookie",
        "idempotency-key",
        "mac",
        "passphrase",
        "password",
        "private-key",
        "proxy-authorization",
        "secret",
        "set-cookie",
        "token",
        "webhook-signature",
    }
)
_AUTHORIZATION_ID = re.compile(r"[0-9a-f]{32}")


def redact(value: Any) -> Any:
    """``value`` as JSON has it, without secrets. What JSON has no form for becomes text, so that it is looked at too."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {redact_text(str(name)): _member(str(name), one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(one) for one in value]
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """``text`` with each secret replaced; how it began stays, so that a reader knows what stood there."""
    for form in _FORMS:
        text = form.sub(rf"\g<1>{REDACTED}", text)
    return _ADDRESS.sub(_without_query, text)


def _without_query(address: re.Match[str]) -> str:
    """Webhooks of chats have their secret in the query."""
    before, _, query = address.group().partition("?")
    return f"{before}?{REDACTED}" if query else address.group()


def _member(name: str, value: Any) -> Any:
    wanted = name.lower().replace("_", "-")
    if wanted == "authorization":  # a header field in HTTP, and with us the id of one
        return value if value is None or _AUTHORIZATION_ID.fullmatch(str(value)) else REDACTED
    return REDACTED if wanted in _NAMES and value is not None else redact(value)
