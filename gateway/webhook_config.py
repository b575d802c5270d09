"""What the configuration says of a webhook."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # it names a file
Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
Kind = Literal[
    "authorization.issued",
    "authorization.denied",
    "authorization.activated",
    "authorization.renewed",
    "authorization.revoked",
    "execution.started",
    "execution.interrupted",
    "execution.closed",
]


class WebhookConfig(BaseModel):
    """One ``[[webhooks]]`` of the gateway's configuration."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Name = Field(description="What it is called in commands and records.")
    url: Annotated[str, StringConstraints(max_length=2048)] = Field(description="Where events are posted to.")
    orchestrator: str | None = Field(None, description="Whose events it gets; left out, everybody's.")
    events: list[Kind] = Field(
        ["authorization.denied", "authorization.revoked", "execution.interrupted", "execution.closed"],
        min_length=1,
        description="Which records are events for it.",
    )
    secret: str | None = Field(None, description="File of its secret; left out, webhooks/NAME.secret.")
    ca: str | None = Field(None, description="PEM file of the CA of its certificate; left out, the system's.")

    @field_validator("url")
    @classmethod
    def _safe(cls, value: str) -> str:
        parts = urlsplit(value)
        local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        if not parts.hostname or parts.scheme not in ({"http", "https"} if local else {"https"}):
            raise ValueError("a webhook's url begins with https://, or with http:// on this machine itself")
        if parts.username or parts.password or parts.fragment:
            raise ValueError("a webhook's url holds neither a password nor a fragment: messages are signed")
        return value

    @property
    def secret_file(self) -> str:
        """Where its secret lies, relative to the data folder."""
        return self.secret or secret_path(self.name)


def secret_path(name: str) -> str:
    """Where a webhook's secret lies unless the configuration says otherwise."""
    return f"webhooks/{name}.secret"


def unique_names(webhooks: list[WebhookConfig]) -> list[WebhookConfig]:
    """ValueError where two have one name: they would share a cursor."""
    if len({one.name for one in webhooks}) < len(webhooks):
        raise ValueError("two webhooks have the same name")
    return webhooks
