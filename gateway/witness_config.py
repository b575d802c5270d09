"""What the configuration says of a witness."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from ztrooted.checkpoint import accept_witnesses
from ztrooted.errors import ProofError
from ztrooted.note_keys import MAX_VKEY, NoteKey, parse_vkey


class WitnessConfig(BaseModel):
    """One ``[[witnesses]]`` of the gateway's configuration. Plain http will do: what goes both ways is signed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url: Annotated[str, StringConstraints(max_length=2048)] = Field(description="Prefix of its addresses.")
    vkey: Annotated[str, StringConstraints(max_length=MAX_VKEY)] = Field(description="Its verifier key.")

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("a witness's url begins with https:// or http://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("a witness's url is a prefix: it holds neither a password nor a query")
        return value.rstrip("/")

    @field_validator("vkey")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            parse_vkey(value)
        except ProofError as error:
            raise ValueError(error.detail) from error
        return value

    @property
    def key(self) -> NoteKey:
        """Whose cosignature counts."""
        return parse_vkey(self.vkey)


def distinct(witnesses: list[WitnessConfig]) -> list[WitnessConfig]:
    """ValueError where one would count twice, or its key makes no cosignatures."""
    try:
        accept_witnesses([one.key for one in witnesses])
    except ProofError as error:
        raise ValueError(error.detail) from error
    return witnesses
