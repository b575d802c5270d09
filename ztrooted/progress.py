"""What one round of proof hands to the next, and how that is written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tpm.ima_replay import ImaState
from tpm.quote import Clock


@dataclass(frozen=True, slots=True)
class Progress:
    """What one round hands to the next: the TPM's counters, and how far the measurement list was replayed."""

    clock: Clock | None = None
    ima: ImaState = field(default_factory=ImaState.initial)

    def encode(self) -> dict[str, Any]:
        """As canonical JSON values. The TPM's numbers have 64 bits, more than JSON's, so they are decimal text."""
        clock = None
        if self.clock is not None:
            clock = {name: str(number) for name, number in self.clock.to_dict().items()}
        return {"clock": clock, "ima": self.ima.to_dict()}

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> "Progress":
        """The inverse of ``encode``."""
        return cls(cls.decode_clock(value["clock"]), ImaState.from_dict(value["ima"]))

    @staticmethod
    def decode_clock(value: Mapping[str, str] | None) -> Clock | None:
        """The TPM's counters from their decimal texts."""
        return None if value is None else Clock.from_dict({name: int(number) for name, number in value.items()})
