"""A gateway's operator who lies: changes the records of a genuine bundle and signs everything anew, with the genuine keys.

    forger = Forger(bundle, gate)
    forger.first("authorization.renewed")["body"]["claims"]["tier"] = "A4"
    report = await forger.verify()

Records are plain values in ``records``, in their order; links, artifacts, tree, checkpoint and seal are made again from
them, so that what a verifier then finds can only be the lie itself.
"""

import json
from collections.abc import Callable
from typing import Any

from gateway.rounds import Round
from tests.support.gateway_in_process import GatewayInProcess
from tpm.attestation_key import accept_attestation_key
from tpm.public import parse_public
from ztrooted import artifact, canonical, merkle
from ztrooted.artifact import ArtifactClaims
from ztrooted.bundle import Bundle, ProvenRecord, parse_bundle
from ztrooted.checkpoint import Checkpoint, seal_line
from ztrooted.evidence import sha256
from ztrooted.note import format_note, signature_of
from ztrooted.note_keys import ecdsa_key
from ztrooted.verify import Report, verify_bundle

Value = dict[str, Any]
GRANTS = ("authorization.issued", "authorization.renewed")


class Forger:
    """One bundle on the bench."""

    def __init__(self, bundle: bytes, gate: GatewayInProcess) -> None:
        self.gate = gate
        self.bundle = parse_bundle(bundle)
        self.authorization = self.bundle.authorization
        self.blobs = dict(self.bundle.blobs)
        self.ima = list(self.bundle.ima)
        self._old = [one.index for one in self.bundle.records]
        self.records: list[Value] = [json.loads(one.data) for one in self.bundle.records]
        for index, record in zip(self._old, self.records, strict=True):
            record["was"] = index
        # May change what a token says after its record was written.
        self.claims: Callable[[int, Value], Value] = lambda _number, claims: claims

    # --- finding and changing ------------------------------------------------------------------------------------
    def all(self, *types: str) -> list[Value]:
        """The records of authorizations, of some types."""
        return [one for one in self.records if one["authorization"] and (not types or one["type"] in types)]

    def story(self, authorization: str, *types: str) -> list[Value]:
        """The records of one authorization, its own or one above it, of some types."""
        return [one for one in self.all(*types) if one["authorization"] == authorization]

    def first(self, kind: str) -> Value:
        return next(one for one in self.records if one["type"] == kind)

    def remove(self, *records: Value) -> None:
        self.records = [one for one in self.records if not any(one is other for other in records)]

    def insert_before(self, record: Value, *others: Value) -> None:
        at = next(number for number, one in enumerate(self.records) if one is record)
        self.records[at:at] = others

    def insert_after(self, record: Value, *others: Value) -> None:
        at = next(number for number, one in enumerate(self.records) if one is record) + 1
        self.records[at:at] = others

    def insert_first(self, *others: Value) -> None:
        self.records[0:0] = others

    def blob(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def keep(self, done: Round) -> Value:
        """Take a round that really happened; its body."""
        assert done.evidence is not None
        for data in done.evidence.blobs():
            self.blob(data)
        return done.body()

    def record(self, kind: str, at: int, body: Value, *, authorization: str | None = None, was: int = -1) -> Value:
        return {"v": 1, "type": kind, "at": at, "authorization": authorization, "prev": None, "body": body, "was": was}

    # --- signing -------------------------------------------------------------------------------------------------
    async def forge(self) -> bytes:
        """The forged bundle, signed and sealed."""
        signer, origin = self.gate.gateway.signer, self.gate.gateway.config.origin
        moved = {one["was"]: number for number, one in enumerate(self.records)}
        tree = merkle.Tree()
        nodes: dict[tuple[int, int], bytes] = {}
        stored: list[bytes] = []
        tokens: list[str] = []
        last: dict[str, Value] = {}
        for number, value in enumerate(self.records):
            record = _moved({name: item for name, item in value.items() if name != "was"}, moved)
            story = record["authorization"]
            record["prev"] = last.get(story) if story else None
            grant = story == self.authorization and record["type"] in GRANTS
            if grant and tokens:
                record["body"]["claims"]["ren"]["prev"] = artifact.token_digest(tokens[-1])
            data = canonical.encode(record)
            leaf = merkle.leaf_hash(data)
            nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}
            stored.append(data)
            if story:
                last[story] = {"index": number, "leaf": leaf.hex()}
            if grant:
                place = {"origin": origin, "index": number, "size": tree.size, "root": tree.root().hex()}
                claims = self.claims(len(tokens), {**record["body"]["claims"], "lin": place})
                tokens.append(
                    artifact.issue(ArtifactClaims.model_validate(claims), signer.epoch.private, signer.epoch.kid)
                )
        checkpoint = Checkpoint(origin, tree.size, tree.root())
        proven = tuple(
            ProvenRecord(
                number, data, tuple(merkle.inclusion_proof(tree.size, number, lambda level, at: nodes[level, at]))
            )
            for number, data in enumerate(stored)
        )
        artifacts = tuple(self.blob(token.encode()) for token in tokens)
        named = {text for data in stored for text in _digests(json.loads(data))} | {*artifacts, *self.ima}
        blobs = {digest: data for digest, data in self.blobs.items() if digest in named}
        note = await self._seal(checkpoint)
        return Bundle(self.authorization, origin, note, proven, artifacts, tuple(self.ima), blobs).encode()

    async def _seal(self, checkpoint: Checkpoint) -> bytes:
        signer = self.gate.gateway.signer
        signature, quoted = await signer.seal(checkpoint.text)
        log_key = ecdsa_key(checkpoint.origin, signer.identity.log_key())
        ak = accept_attestation_key(parse_public(signer.identity.ak_public))
        seal = seal_line(checkpoint.origin, ak.name, quoted.attest, quoted.signature, quoted.pcrs)
        return format_note(checkpoint.text, [signature_of(log_key, signature), seal])

    async def verify(self) -> Report:
        """What an auditor finds."""
        return verify_bundle(await self.forge(), self.gate.anchors())


def _moved(value: Any, moved: dict[int, int]) -> Any:
    """``value`` with the numbers of enrollment records as they are now."""
    if isinstance(value, dict):
        return {
            name: moved.get(item, item) if name == "enrollment" and type(item) is int else _moved(item, moved)
            for name, item in value.items()
        }
    return [_moved(item, moved) for item in value] if isinstance(value, list) else value


def _digests(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for item in items for text in _digests(item)}
