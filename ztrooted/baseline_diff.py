"""What differs between two baselines: PCRs, events, Secure Boot keys, what was booted, files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ztrooted.boot_reference import BootReference
from ztrooted.event_rules import first_difference
from ztrooted.reference import Baseline

Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference, from the first baseline to the second. ``part`` is pcr, event, secure_boot, a key, … or file."""

    part: str
    kind: Kind
    name: str
    before: str = ""
    after: str = ""

    def encode(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "part": self.part,
            "kind": self.kind,
            "name": self.name,
            "before": self.before,
            "after": self.after,
        }


def diff(first: Baseline, second: Baseline) -> list[Difference]:
    """Everything that differs, PCRs first, files last."""
    return list(_differences(first, second))


def _differences(first: Baseline, second: Baseline) -> Iterator[Difference]:
    if first.bank != second.bank:
        yield Difference("bank", "changed", "bank", first.bank, second.bank)
    yield from _maps(
        "pcr",
        {str(index): value.hex() for index, value in sorted(first.pcrs.items())},
        {str(index): value.hex() for index, value in sorted(second.pcrs.items())},
    )
    if (first.boot is None) is not (second.boot is None):
        yield Difference("boot", "added" if first.boot is None else "removed", "facts of a boot")
    if first.boot is not None and second.boot is not None:
        yield from _boots(first.boot, second.boot)
    yield from _maps(
        "file",
        {path: " ".join(sorted(digests)) for path, digests in first.ima.items()},
        {path: " ".join(sorted(digests)) for path, digests in second.ima.items()},
    )


def _maps(part: str, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(first.keys() | second.keys(), key=_in_order):
        before, after = first.get(name), second.get(name)
        if before is None:
            yield Difference(part, "added", name, "", after or "")
        elif after is None:
            yield Difference(part, "removed", name, before)
        elif before != after:
            yield Difference(part, "changed", name, before, after)


def _in_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (-1, name)


def _boots(first: BootReference, second: BootReference) -> Iterator[Difference]:
    if first.secure_boot != second.secure_boot:
        yield Difference("secure_boot", "changed", "Secure Boot", str(first.secure_boot), str(second.secure_boot))
    for name in sorted(first.keys.keys() | second.keys.keys()):
        yield from _sets(name, first.keys.get(name, frozenset()), second.keys.get(name, frozenset()))
    for part in ("authorities", "images", "files", "texts"):
        yield from _sets(part, getattr(first, part), getattr(second, part))
    for pcr in sorted({event.pcr for event in (*first.events, *second.events)}):
        if told := first_difference(second.events, first.events, pcr):
            yield Difference("event", "changed", f"PCR {pcr}", "", told)


def _sets(part: str, first: frozenset[str], second: frozenset[str]) -> Iterator[Difference]:
    for name in sorted(first - second):
        yield Difference(part, "removed", name)
    for name in sorted(second - first):
        yield Difference(part, "added", name)
