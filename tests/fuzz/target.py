"""What is fuzzed: a function of bytes, where its inputs come from, and how they are changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.fuzz.mutation import Mutator, mutate_bytes
from tpm.errors import EvidenceError
from ztrooted.errors import GateError

# What a parser may raise for bytes that somebody sent. Everything else is a defect of ours.
DECLARED = (EvidenceError, GateError)


def no_bombs() -> Mapping[str, bytes]:
    """For targets whose inputs are small by a limit checked first."""
    return {}


@dataclass(frozen=True)
class Target:
    """One parser, with everything that is done to what it accepts.

    ``run`` returns for an accepted input, raises what is declared for a refused one, and asserts whatever must be true
    of accepted ones (that they are written back byte by byte, that a peer reads them alike). ``bombs`` are inputs of at
    most a mebibyte, made to be as expensive as possible.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    mutators: tuple[Mutator, ...] = field(default=(mutate_bytes(),))
    bombs: Callable[[], Mapping[str, bytes]] = no_bombs
