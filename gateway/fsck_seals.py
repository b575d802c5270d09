"""What stands for the lineage: checkpoints, the TPM's counter, and what it was intended to stand for.

Without a TPM: what the counter is now, a start compares. Everything else follows from what is stored.
"""

import sqlite3
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.findings import Finding
from gateway.identity import Identity
from gateway.rollback import intent
from tpm.attestation_key import accept_attestation_key
from tpm.counter import verify_counter
from tpm.errors import EvidenceError
from tpm.public import parse_public
from ztrooted.checkpoint import Checkpoint, counter_line, seal_nonce, verify_checkpoint
from ztrooted.errors import ProofError
from ztrooted.note import Signature, parse_note
from ztrooted.note_keys import NoteKey, ecdsa_key
from ztrooted.reasons import GateReason
from ztrooted.records import Record


class Seals:
    """Looks at all of it, record by record where it is about records."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        identity: Identity,
        origin: str,
        witnesses: Sequence[NoteKey],
        additional: NoteKey | None,
    ) -> None:
        self._connection = connection
        self._identity = identity
        self._origin = origin
        self._witnesses = witnesses
        self._additional = additional
        self._ak = accept_attestation_key(parse_public(identity.ak_public))
        self._log_key = ecdsa_key(origin, identity.log_key())
        # size -> (what it is, root): compared when the tree has that size.
        self._roots: dict[int, list[tuple[str, bytes]]] = {}
        # What a checkpoint's note says of the counter -> (counter, size) of the anchor that says the same.
        self._said: dict[Signature, tuple[int, int]] = {}
        self._anchored: dict[int, tuple[int, bytes]] = {}
        self._intended: dict[int, tuple[int, bytes]] = {}
        # From ``gateway.recovered``: (what the database knew, what the counter was).
        self._recovered: list[tuple[int, int]] = []

    def findings(self) -> Iterator[Finding]:
        """Everything that needs no record."""
        yield from self._anchors()
        yield from self._intents()
        yield from self._checkpoints()
        yield from self._cosigned()

    def compare(self, size: int, root: bytes) -> Iterator[Finding]:
        """The first ``size`` records have the root ``root``; call it for each size."""
        for what, claimed in self._roots.pop(size, ()):
            if claimed != root:
                detail = f"the first {size} records are not the ones it covers"
                yield Finding(what, GateReason.LINEAGE_CHAIN_BROKEN, detail)

    @property
    def awaited(self) -> frozenset[int]:
        """The sizes that are left to be compared."""
        return frozenset(self._roots)

    def recovered(self, record: Record) -> None:
        """Take a record ``gateway.recovered``."""
        self._recovered.append((int(record.body["anchored"]), int(record.body["counter"])))

    def end(self, size: int) -> Iterator[Finding]:
        """There are ``size`` records, and no more."""
        for covered, expected in self._roots.items():
            for what, _ in expected:
                yield Finding(what, GateReason.LINEAGE_TRUNCATED, f"it covers {covered} records, and there are {size}")
        yield from self._counted()
        yield from self._kept()

    # --- checkpoints -------------------------------------------------------------------------------------------------
    def _checkpoints(self) -> Iterator[Finding]:
        trusted = self._identity.trusts(self._origin)
        for size, root, note in self._connection.execute("SELECT size, root, note FROM checkpoints ORDER BY size"):
            where = f"checkpoint {size}"
            self._expect(int(size), where, bytes(root))
            if not trusted(bytes(note), int(size), bytes(root)):
                yield Finding(where, GateReason.NOTE_SIGNATURE, "it is not one that our TPM signed and sealed")
                continue
            yield from self._counter_of(where, int(size), bytes(note))
            yield from self._signed(where, bytes(note), ())

    def _counter_of(self, where: str, size: int, note: bytes) -> Iterator[Finding]:
        """What a checkpoint says of the counter is an anchor's: both were stored in one transaction."""
        kind = counter_line(self._origin, self._ak.name, b"", b"").key_id
        for line in parse_note(note).signatures:
            if (line.name, line.key_id) == (self._origin, kind) and self._said.get(line, (0, None))[1] != size:
                detail = "it says what the TPM's counter was, and the anchor that it was stored with is missing"
                yield Finding(where, GateReason.LINEAGE_ROLLED_BACK, detail)

    def _cosigned(self) -> Iterator[Finding]:
        trusted = self._identity.trusts(self._origin)
        query = "SELECT n, size, root, cosigned.note FROM cosigned LEFT JOIN checkpoints USING (size) ORDER BY n"
        for number, size, root, note in self._connection.execute(query):
            where = f"cosigned checkpoint {number}"
            if root is None or not trusted(bytes(note), int(size), bytes(root)):
                yield Finding(where, GateReason.NOTE_SIGNATURE, "it is not a checkpoint that our TPM signed and sealed")
                continue
            # Witnesses change: who is not in the configuration any more is not looked at.
            yield from self._signed(where, bytes(note), self._witnesses)

    def _signed(self, where: str, note: bytes, witnesses: Sequence[NoteKey]) -> Iterator[Finding]:
        """Each line by a key that is known, beside the log key's and the seal."""
        try:
            verify_checkpoint(
                note, origin=self._origin, log_key=self._log_key, additional=self._additional, witnesses=witnesses
            )
        except ProofError as error:
            yield Finding(where, error.reason, error.detail)

    # --- the counter -------------------------------------------------------------------------------------------------
    def _anchors(self) -> Iterator[Finding]:
        counter, before = self._identity.counter(), 0
        query = "SELECT counter, size, root, attest, signature FROM anchors ORDER BY counter"
        for value, size, root, attest, signature in self._connection.execute(query):
            where = f"anchor {value}"
            self._anchored[int(value)] = int(size), bytes(root)
            self._said[counter_line(self._origin, self._ak.name, bytes(attest), bytes(signature))] = value, int(size)
            self._expect(int(size), where, bytes(root))
            nonce = seal_nonce(Checkpoint(self._origin, int(size), bytes(root)))
            try:
                said = verify_counter(bytes(attest), bytes(signature), self._ak, qualifying_data=nonce, counter=counter)
            except EvidenceError as error:
                yield Finding(where, error.reason, error.detail)
                continue
            if said != value:
                yield Finding(where, GateReason.LINEAGE_ROLLED_BACK, f"the TPM says that the counter was {said}")
            if size <= before:
                yield Finding(where, GateReason.LINEAGE_ROLLED_BACK, "it covers no more than the one before it")
            before = int(size)

    def _intents(self) -> Iterator[Finding]:
        key = self._identity.log_key()
        query = "SELECT n, counter, size, root, signature FROM intents ORDER BY n"
        for number, counter, size, root, signature in self._connection.execute(query):
            where = f"intent {number}"
            self._expect(int(size), where, bytes(root))
            first = self._intended.setdefault(int(counter), (int(size), bytes(root)))
            if first != (size, bytes(root)):
                detail = f"the counter's value {counter} was intended for {first[0]} records before"
                yield Finding(where, GateReason.LINEAGE_ROLLED_BACK, detail)
            said = intent(Checkpoint(self._origin, int(size), bytes(root)), int(counter))
            try:
                key.verify(bytes(signature), said, ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                yield Finding(where, GateReason.NOTE_SIGNATURE, "the log key did not sign it")

    def _counted(self) -> Iterator[Finding]:
        """Values follow each other, except where the lineage says that it was recovered."""
        before = self._identity.counter_start
        for value in sorted(self._anchored):
            if value != before + 1 and (before, value - 1) not in self._recovered:
                detail = f"the anchor before it is {before}, and no recovery is recorded between them"
                yield Finding(f"anchor {value}", GateReason.LINEAGE_ROLLED_BACK, detail)
            before = value

    def _kept(self) -> Iterator[Finding]:
        """Each anchor was intended, and each intent became its anchor: at once, at the next start, or never where the
        lineage was recovered behind it. The newest one may be under way."""
        newest = max(self._anchored, default=self._identity.counter_start)
        for value, anchored in self._anchored.items():
            if self._intended.get(value) != anchored:
                detail = "no intent of this value for these records came before it"
                yield Finding(f"anchor {value}", GateReason.LINEAGE_ROLLED_BACK, detail)
        for value in self._intended.keys() - self._anchored.keys() - {newest + 1}:
            if not any(known < value <= counter for known, counter in self._recovered):
                detail = f"its value is {value}, the newest anchor is {newest}, and there is no anchor of that value"
                yield Finding("intents", GateReason.LINEAGE_ROLLED_BACK, detail)

    def _expect(self, size: int, what: str, root: bytes) -> None:
        self._roots.setdefault(size, []).append((what, root))
