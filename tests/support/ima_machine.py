"""A machine's IMA list as the kernel would have written it, with the PCR 10 that goes with it."""

import hashlib
from dataclasses import dataclass, field

from tpm.ima import ImaEntries, parse_ima_list
from tpm.ima_replay import ImaReplayResult, ImaState, VerifiedImaEntries, replay
from tpm.ima_writer import ImaWritten, ima_entry

BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


def file_digest(path: str, alg: str = "sha256") -> bytes:
    """The digest of a file whose content is its path."""
    return hashlib.new(alg, path.encode("utf-8", "surrogateescape")).digest()


@dataclass
class Machine:
    """Starts with a boot aggregate; ``measure`` appends an entry and extends PCR 10 of every bank."""

    template: str = "ima-ng"
    boot_digest: bytes = field(default_factory=lambda: bytes(range(32)))
    entries: list[ImaWritten] = field(default_factory=list)
    pcr10: dict[str, bytes] = field(default_factory=lambda: {bank: bytes(size) for bank, size in BANKS.items()})
    allow: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.append(ima_entry("boot_aggregate", self.boot_digest, template=self.template))
        self.allow["boot_aggregate"] = [f"sha256:{self.boot_digest.hex()}"]

    def append(self, written: ImaWritten) -> None:
        self.entries.append(written)
        for bank, digest in written.extends.items():
            self.pcr10[bank] = hashlib.new(bank, self.pcr10[bank] + digest).digest()

    def measure(self, *paths: str, alg: str = "sha256", allow: bool = True, violation: bool = False) -> "Machine":
        for path in paths:
            digest = file_digest(path, alg)
            self.append(ima_entry(path, digest, alg, self.template, violation=violation))
            if allow:
                self.allow.setdefault(path, []).append(f"{alg}:{digest.hex()}")
        return self

    def ascii(self, start: int = 0) -> bytes:
        return b"".join(entry.ascii for entry in self.entries[start:])

    def binary(self, start: int = 0) -> bytes:
        return b"".join(entry.binary for entry in self.entries[start:])

    def parsed(self, start: int = 0) -> ImaEntries:
        return parse_ima_list(self.ascii(start)).entries

    def replayed(self, state: ImaState | None = None, bank: str = "sha256") -> ImaReplayResult:
        """Replay of what is new since ``state`` against the PCR as it is now."""
        state = state or ImaState.initial()
        return replay(state, self.parsed(state.entries), bank=bank, pcr10=self.pcr10[bank], offset=state.entries)

    def verified(self) -> VerifiedImaEntries:
        return self.replayed().verified
