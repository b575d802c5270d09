"""Replay of an IMA list against a quoted PCR 10, whole or from where the last round ended.

The kernel writes an entry to its list and then extends PCR 10, in every active bank with that bank's hash of the
template data (kernels from 5.8; before, with the SHA-1 padded with zeros). A list read beside a quote therefore holds
everything the quote covers and perhaps a little more. The entries up to the quoted value are *verified*; those after it
are *pending*: nothing is known about them, and nobody judges them.

The PCR is also the running hash of the list. A state is the value after its last verified entry, so a list sent again
from the beginning must pass through that value or it has another history.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from tpm.errors import RejectedError
from tpm.ima_entry import HASHERS, ImaEntries, shown_path
from tpm.reasons import EvidenceReason


@dataclass(frozen=True, slots=True)
class ImaState:
    """How far a machine's list is verified: number of entries, PCR 10 per bank replayed, entries pending last time."""

    entries: int
    pcrs: Mapping[str, bytes]
    pending: int = 0

    @classmethod
    def initial(cls) -> "ImaState":
        """The state of a machine that was just reset."""
        return cls(0, {})

    def to_dict(self) -> dict[str, Any]:
        """JSON form; digests in hexadecimal."""
        pcrs = {bank: value.hex() for bank, value in sorted(self.pcrs.items())}
        return {"entries": self.entries, "pcrs": pcrs, "pending": self.pending}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ImaState":
        """Read what ``to_dict`` wrote. ValueError where it is not that: a state is ours, never evidence."""
        if set(value) != {"entries", "pcrs", "pending"} or not isinstance(value["pcrs"], Mapping):
            raise ValueError("an IMA state has the fields entries, pcrs and pending")
        entries, pending = value["entries"], value["pending"]
        if any(type(count) is not int or count < 0 for count in (entries, pending)):
            raise ValueError("the counts of an IMA state are whole numbers")
        if not all(isinstance(digits, str) for digits in value["pcrs"].values()):
            raise ValueError("the PCR values of an IMA state are hexadecimal")
        pcrs = {bank: bytes.fromhex(digits) for bank, digits in value["pcrs"].items()}
        fitting = all(bank in HASHERS and len(pcr) == _size(bank) for bank, pcr in pcrs.items())
        if not fitting or bool(pcrs) is not (entries > 0):
            raise ValueError("the PCR values of an IMA state do not belong to their banks, or to its entries")
        return cls(entries, pcrs, pending)


@dataclass(frozen=True, slots=True)
class VerifiedImaEntries:
    """Entries that a quote covers. ``first`` is the place of the first one in the machine's whole list, from 0."""

    first: int
    entries: ImaEntries


@dataclass(frozen=True, slots=True)
class ImaReplayResult:
    """``matched`` of the given entries are covered by the quote and are ``verified``; the last ``pending`` are not."""

    state: ImaState
    matched: int
    pending: int
    verified: VerifiedImaEntries


def _size(bank: str) -> int:
    return DIGEST_SIZE[BANK_BY_NAME[bank]]


def _reject(reason: EvidenceReason, detail: str) -> RejectedError:
    return RejectedError(reason, detail)


def replay(
    state: ImaState,
    entries: ImaEntries,
    *,
    bank: str,
    pcr10: bytes,
    offset: int,
    padded_sha1: bool = False,
    allow_pending: bool = True,
) -> ImaReplayResult:
    """Verify ``entries``, the machine's list from entry ``offset`` on, against the quoted value of PCR 10 in ``bank``.

    ``offset`` is either the number of entries of ``state`` (only what is new) or 0 (the whole list, which must then
    continue ``state``). ``padded_sha1`` is for kernels before 5.8 and is never tried unasked. Without ``allow_pending``
    the list must end where the quote does.

    1. The list starts where it may: at 0 or at the state's end.
    2. There are entries, and PCR 10 is not still at its reset value: IMA is active.
    3. Sent whole, the list passes through every value of the state: it continues the same history.
    4. Each entry's template hash is that of its fields.
    5. The entries reach the quoted value.
    6. What was pending last time is covered by now.

    Raises RejectedError ``ima.offset`` (1), ``ima.empty`` (2), ``ima.shrunk`` and ``ima.fork`` (3),
    ``ima.template_hash_mismatch`` (4), ``ima.replay_mismatch`` and ``ima.unverified_tail`` (5), ``ima.shrunk`` and
    ``ima.no_progress`` (6).
    """
    # 1, 2. Start, and active
    _check_start(state, len(entries), bank, pcr10, offset)
    # 3. History
    if offset == 0 and state.entries:
        _check_history(state, entries, bank=bank, pcr10=pcr10, padded_sha1=padded_sha1)
    # 4, 5. Fields and quoted value, going on from what step 3 has replayed
    known = state.entries - offset if bank in state.pcrs else 0
    start = state.pcrs.get(bank, bytes(_size(bank)))
    matched, value = extend(start, entries, bank, skip=known, target=pcr10, padded_sha1=padded_sha1)
    if value != pcr10:
        raise _reject(
            EvidenceReason.IMA_REPLAY_MISMATCH,
            f"{len(entries)} entries from entry {offset} on give {bank}:{value.hex()}, PCR 10 is {pcr10.hex()}",
        )
    pending = len(entries) - matched
    if pending and not allow_pending:
        raise _reject(EvidenceReason.IMA_UNVERIFIED_TAIL, f"{pending} entries at the end are not covered by the quote")
    # 6. Progress
    total = offset + matched
    _check_progress(state, total)
    verified = VerifiedImaEntries(offset, entries if not pending else entries[:matched])
    return ImaReplayResult(ImaState(total, {bank: pcr10}, pending), matched, pending, verified)


def _check_start(state: ImaState, count: int, bank: str, pcr10: bytes, offset: int) -> None:
    if bank not in HASHERS or len(pcr10) != _size(bank):
        raise ValueError(f"{len(pcr10)} bytes are no value of a PCR in bank {bank}")
    # 1. Start
    if offset not in {0, state.entries}:
        raise _reject(EvidenceReason.IMA_OFFSET, f"the list starts at entry {offset}, not at 0 or {state.entries}")
    if offset and bank not in state.pcrs:
        raise _reject(EvidenceReason.IMA_OFFSET, f"nothing is known of bank {bank} yet; send the list from entry 0")
    # 2. Active
    if not offset + count:
        raise _reject(EvidenceReason.IMA_EMPTY, "no entry was measured: IMA is not active")
    if not any(pcr10):
        raise _reject(EvidenceReason.IMA_EMPTY, "PCR 10 still has its reset value: IMA does not extend this TPM")


def _check_progress(state: ImaState, total: int) -> None:
    if total < state.entries:
        raise _reject(EvidenceReason.IMA_SHRUNK, f"PCR 10 covers {total} entries, it covered {state.entries} before")
    if total < state.entries + state.pending:
        raise _reject(
            EvidenceReason.IMA_NO_PROGRESS,
            f"{state.pending} entries were pending after entry {state.entries}, and PCR 10 still covers only {total}",
        )


def _check_history(state: ImaState, entries: ImaEntries, *, bank: str, pcr10: bytes, padded_sha1: bool) -> None:
    """Refuse a whole list that does not continue ``state``, in every bank the state knows."""
    if len(entries) < state.entries:
        _, value = extend(bytes(_size(bank)), entries, bank, target=pcr10, padded_sha1=padded_sha1)
        # One that explains the quote all the same is the list of another boot, or of another machine.
        reason = EvidenceReason.IMA_FORK if value == pcr10 else EvidenceReason.IMA_SHRUNK
        raise _reject(reason, f"{len(entries)} entries, where {state.entries} were verified before")
    for name, known in state.pcrs.items():
        _, value = extend(bytes(_size(name)), entries[: state.entries], name, padded_sha1=padded_sha1)
        if value != known:
            detail = f"the first {state.entries} entries give {name}:{value.hex()}, they gave {known.hex()} before"
            raise _reject(EvidenceReason.IMA_FORK, detail)


def extend(
    value: bytes,
    entries: ImaEntries,
    bank: str,
    *,
    skip: int = 0,
    target: bytes | None = None,
    padded_sha1: bool = False,
) -> tuple[int, bytes]:
    """Extend ``value``, which holds after the first ``skip`` of ``entries``, with the others until it is ``target``.

    Returns how many entries the value reached stands for, the skipped ones included, and the value.

    Raises RejectedError ``ima.template_hash_mismatch`` for an entry whose fields are not those that were hashed.
    """
    shown_hash, bank_hash = HASHERS[entries.hash_alg], HASHERS[bank]
    shown_violation, violation = bytes(_size(entries.hash_alg)), b"\xff" * _size(bank)
    if padded_sha1:
        violation = (b"\xff" * 20).ljust(_size(bank), b"\0")
    reuse = bank == entries.hash_alg
    used = skip
    if value == target:
        return used, value
    for used, (shown, _, _, path, data) in enumerate(entries.rows[skip:] if skip else entries.rows, skip + 1):
        if shown == shown_violation:
            measured = violation
        else:
            own = shown_hash(data).digest()
            if own != shown:
                raise _reject(
                    EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH,
                    f"entry {used} of this part, {shown_path(path)!r}: the fields shown hash to {own.hex()}, "
                    f"the list says {shown.hex()}",
                )
            if padded_sha1:
                measured = HASHERS["sha1"](data).digest().ljust(len(violation), b"\0")
            else:
                measured = own if reuse else bank_hash(data).digest()
        value = bank_hash(value + measured).digest()
        if value == target:
            break
    return used, value


def replayed_pcr10(entries: ImaEntries, bank: str, *, padded_sha1: bool = False) -> bytes:
    """The value PCR 10 has in ``bank`` after a whole list, for display. It proves nothing without a quote."""
    return extend(bytes(_size(bank)), entries, bank, padded_sha1=padded_sha1)[1]
