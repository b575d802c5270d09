"""Replay of IMA lists against PCR 10."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.ima_machine import BANKS, Machine
from tpm.errors import EvidenceError
from tpm.ima import ImaEntries, parse_ima_list
from tpm.ima_replay import ImaReplayResult, ImaState, replay, replayed_pcr10
from tpm.reasons import EvidenceReason

INITIAL = ImaState.initial()


def run(
    machine: Machine, state: ImaState = INITIAL, entries: ImaEntries | None = None, **options: Any
) -> ImaReplayResult:
    given: dict[str, Any] = {"bank": "sha256", "pcr10": machine.pcr10["sha256"], "offset": 0, **options}
    return replay(state, machine.parsed() if entries is None else entries, **given)


def refused(reason: EvidenceReason, *args: Any, **options: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        run(*args, **options)
    assert caught.value.reason is reason
    return caught.value.detail


@pytest.fixture
def machine() -> Machine:
    return Machine().measure("/bin/a", "/bin/b", "/bin/c")


@pytest.mark.parametrize("bank", sorted(BANKS))
def test_every_bank_is_extended_with_its_own_hash(machine: Machine, bank: str) -> None:
    machine.measure("/var/log/x", violation=True).measure("/bin/d")
    result = machine.replayed(bank=bank)
    assert (result.matched, result.pending) == (6, 0)
    assert result.state == ImaState(6, {bank: machine.pcr10[bank]})
    assert replayed_pcr10(machine.parsed(), bank) == machine.pcr10[bank]
    assert result.verified.first == 0
    assert len(result.verified.entries) == 6


@pytest.mark.parametrize("bank", sorted(BANKS))
def test_lists_per_bank_replay_like_the_common_one(machine: Machine, bank: str) -> None:
    """The hash column of such a list is the bank's own."""
    lines = [b"10 " + written.extends["sha256"].hex().encode() + written.ascii[43:] for written in machine.entries]
    result = run(machine, entries=parse_ima_list(b"".join(lines)).entries, bank=bank, pcr10=machine.pcr10[bank])
    assert result.matched == 4


def test_entries_after_the_quote_are_pending(machine: Machine) -> None:
    quoted = dict(machine.pcr10)
    machine.measure("/bin/late", "/bin/later")
    result = run(machine, pcr10=quoted["sha256"])
    assert (result.matched, result.pending) == (4, 2)
    assert result.state == ImaState(4, {"sha256": quoted["sha256"]}, pending=2)
    assert [entry.path for entry in result.verified.entries][-1] == "/bin/c"
    refused(EvidenceReason.IMA_UNVERIFIED_TAIL, machine, pcr10=quoted["sha256"], allow_pending=False)


def test_a_round_continues_the_one_before(machine: Machine) -> None:
    first = machine.replayed()
    machine.measure("/bin/d", "/bin/e")
    second = machine.replayed(first.state)
    assert (second.matched, second.pending, second.verified.first) == (2, 0, 4)
    assert second.state.entries == 6
    third = machine.replayed(second.state)
    assert (third.matched, third.state) == (0, second.state)


def test_the_whole_list_continues_the_round_before(machine: Machine) -> None:
    state = machine.replayed().state
    machine.measure("/bin/d")
    result = run(machine, state)
    assert (result.matched, result.verified.first, result.state.entries) == (5, 0, 5)


def test_the_whole_list_may_be_replayed_in_another_bank(machine: Machine) -> None:
    """The value kept for the old bank still proves that the history is the same."""
    state = machine.replayed().state
    machine.measure("/bin/d")
    result = run(machine, state, bank="sha384", pcr10=machine.pcr10["sha384"])
    assert result.state.pcrs == {"sha384": machine.pcr10["sha384"]}
    other = Machine().measure("/bin/z", "/bin/b", "/bin/c", "/bin/d")
    refused(EvidenceReason.IMA_FORK, other, state, bank="sha384", pcr10=other.pcr10["sha384"])
    detail = refused(
        EvidenceReason.IMA_OFFSET,
        machine,
        state,
        machine.parsed(4),
        bank="sha384",
        pcr10=machine.pcr10["sha384"],
        offset=4,
    )
    assert "from entry 0" in detail


@pytest.mark.parametrize("offset", [1, 3, 5, 400])
def test_a_part_starts_where_the_state_ends(machine: Machine, offset: int) -> None:
    state = machine.replayed().state
    refused(EvidenceReason.IMA_OFFSET, machine, state, machine.parsed(offset), offset=offset)


def test_a_gap_at_the_start_is_refused(machine: Machine) -> None:
    refused(EvidenceReason.IMA_OFFSET, machine, entries=machine.parsed(1), offset=1)


def test_inactive_ima_is_refused(machine: Machine) -> None:
    refused(EvidenceReason.IMA_EMPTY, machine, entries=machine.parsed()[:0])
    detail = refused(EvidenceReason.IMA_EMPTY, machine, pcr10=bytes(32))
    assert "does not extend" in detail


def test_a_shorter_list_is_refused(machine: Machine) -> None:
    state = machine.replayed().state
    machine.measure("/bin/d")
    refused(EvidenceReason.IMA_SHRUNK, machine, state, machine.parsed()[:3])


def test_an_older_quote_does_not_shrink_the_list(machine: Machine) -> None:
    """The list is long enough, but PCR 10 stands where it stood before the last round."""
    before = machine.pcr10["sha256"]
    machine.measure("/bin/d")
    state = machine.replayed().state
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, machine, state, pcr10=before)
    # In a bank the state does not know, the replay itself finds it.
    older = Machine().measure("/bin/a", "/bin/b", "/bin/c").pcr10["sha384"]
    refused(EvidenceReason.IMA_SHRUNK, machine, state, bank="sha384", pcr10=older)


@pytest.mark.parametrize("length", [2, 5])
def test_O5_another_history_is_a_fork(machine: Machine, length: int) -> None:
    state = machine.replayed().state
    other = Machine().measure(*[f"/bin/other{index}" for index in range(length - 1)])
    refused(EvidenceReason.IMA_FORK, other, state)


def test_a_changed_entry_is_named(machine: Machine) -> None:
    data = machine.ascii().replace(b"/bin/b", b"/bin/z")
    detail = refused(EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH, machine, entries=parse_ima_list(data).entries)
    assert "entry 3" in detail
    assert "'/bin/z'" in detail


def test_pending_entries_are_not_judged(machine: Machine) -> None:
    """Not even for their hash: nothing is known about them until a quote covers them."""
    quoted = machine.pcr10["sha256"]
    machine.measure("/bin/d")
    data = machine.ascii().replace(b"/bin/d", b"/bin/z")
    assert run(machine, entries=parse_ima_list(data).entries, pcr10=quoted).pending == 1


@pytest.mark.parametrize("damage", ["removed", "withheld", "swapped", "doubled"])
def test_a_list_that_does_not_explain_the_quote_is_refused(machine: Machine, damage: str) -> None:
    lines = machine.ascii().splitlines(keepends=True)
    if damage == "removed":
        del lines[1]
    elif damage == "withheld":
        del lines[-1]
    elif damage == "swapped":
        lines[1:3] = lines[2:0:-1]
    else:
        lines.insert(1, lines[1])
    detail = refused(EvidenceReason.IMA_REPLAY_MISMATCH, machine, entries=parse_ima_list(b"".join(lines)).entries)
    assert machine.pcr10["sha256"].hex() in detail


def test_what_was_pending_must_be_covered_next_time(machine: Machine) -> None:
    state = ImaState(4, {"sha256": machine.pcr10["sha256"]}, pending=2)
    quoted = machine.pcr10["sha256"]
    machine.measure("/bin/d", "/bin/e")
    refused(EvidenceReason.IMA_NO_PROGRESS, machine, state, machine.parsed(4), offset=4, pcr10=quoted)
    refused(EvidenceReason.IMA_NO_PROGRESS, machine, state, machine.parsed(6), offset=4, pcr10=quoted)
    result = machine.replayed(state)
    assert (result.matched, result.state.pending) == (2, 0)


def padded(machine: Machine) -> bytes:
    value = bytes(32)
    for written in machine.entries:
        value = hashlib.sha256(value + written.extends["sha1"].ljust(32, b"\0")).digest()
    return value


def test_padded_sha1_is_used_only_when_the_rules_say_so(machine: Machine) -> None:
    machine.measure("/var/log/x", violation=True)
    old_kernel = padded(machine)
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, machine, pcr10=old_kernel)
    assert run(machine, pcr10=old_kernel, padded_sha1=True).matched == 5
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, machine, padded_sha1=True)
    assert run(machine, pcr10=machine.pcr10["sha1"], bank="sha1", padded_sha1=True).matched == 5


@pytest.mark.parametrize(("bank", "size"), [("sha256", 31), ("sha256", 20), ("sha384", 32), ("sm3_256", 32)])
def test_a_pcr_value_belongs_to_its_bank(machine: Machine, bank: str, size: int) -> None:
    with pytest.raises(ValueError, match="bank"):
        run(machine, bank=bank, pcr10=bytes(size))


def test_a_state_survives_json(machine: Machine) -> None:
    for state in (INITIAL, replace(machine.replayed().state, pending=3)):
        assert ImaState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize(
    "change",
    [
        {"entries": -1},
        {"entries": 1.0},
        {"entries": True},
        {"entries": 0},
        {"pending": -1},
        {"pending": None},
        {"pcrs": {}},
        {"pcrs": []},
        {"pcrs": {"sha256": "00"}},
        {"pcrs": {"sha256": "zz" * 32}},
        {"pcrs": {"sha256": 5}},
        {"pcrs": {"md5": "00" * 16}},
        {"extra": 1},
    ],
)
def test_a_damaged_state_is_refused(machine: Machine, change: dict[str, Any]) -> None:
    good = machine.replayed().state.to_dict()
    with pytest.raises(ValueError):  # noqa: PT011 -- which of the sentences is of no matter
        ImaState.from_dict({**good, **change})
    with pytest.raises(ValueError, match="fields"):
        ImaState.from_dict({"entries": 1})
