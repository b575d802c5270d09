"""Trust anchors: what a verifier was told to believe. Always a separate file, never part of what is verified.

TOML, strict::

    format = "ztrooted-anchors/1"
    trust_domain = "example.org"
    log_key = "example.org/lineage+1a2b3c4d+Aj…"     # the TPM-backed log key, as a verifier key
    gateway_ak = "0056…"                             # TPM2B_PUBLIC of the gateway's attestation key
    ek_vendors = ["id:00001014"]                     # as in the gateway's configuration; empty: any hardware maker
    ek_roots = '''-----BEGIN CERTIFICATE-----…'''
    witnesses = ["witness.example.net/w1+…"]         # whose cosignatures count, one key of each; may be left out
    witness_quorum = 1                               # how many of them must have cosigned; left out, none

    [gateway_pcrs.sha256]                            # the state in which the gateway may sign
    0 = "…"

Of a gateway that signs its checkpoints by a key outside of its TPM, too, for other tools::

    additional_log_key = "example.org/lineage+5e6f…" # Ed25519; one that is known, and never enough

Of a gateway whose state may be replaced by another one that its approver signs for, also::

    approver = "3059…"                               # the approver's public key (SubjectPublicKeyInfo)

    [former_gateway_pcrs.1234.sha256]                # the state before, good for checkpoints of up to 1,234 records
    0 = "…"
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tpm.attestation_key import AttestationKey, accept_attestation_key
from tpm.endorsement import EkPolicy, EkRoots
from tpm.errors import TpmError
from tpm.pcr import PcrSelection
from tpm.public import parse_public
from tpm.sealing import decode_pcrs, policy_authorize
from tpm.templates import policy_pcr
from ztrooted import names, strict_toml
from ztrooted.checkpoint import SealPolicy, VerifiedCheckpoint, accept_witnesses, verify_checkpoint
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.keys import load_p256
from ztrooted.note_keys import NoteKey, SignatureType, parse_vkey
from ztrooted.reasons import GateReason
from ztrooted.validation import explain_validation

FORMAT = "ztrooted-anchors/1"

Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})+$")]
Pcrs = dict[Literal["sha1", "sha256", "sha384", "sha512"], dict[str, Hex]]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,15}$")]
MAX_FORMER = 256  # states


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal["ztrooted-anchors/1"]
    trust_domain: str
    log_key: str
    additional_log_key: str | None = None
    gateway_ak: Hex
    gateway_pcrs: Pcrs
    approver: Hex | None = None
    former_gateway_pcrs: Annotated[dict[Size, Pcrs], Field(max_length=MAX_FORMER)] = {}
    ek_vendors: list[str]
    ek_roots: str
    witnesses: list[str] = []
    witness_quorum: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Anchors:
    """Everything a verifier believes."""

    trust_domain: str
    log_key: NoteKey
    gateway_ak: AttestationKey
    gateway_pcrs: dict[str, dict[int, bytes]]
    ek_roots: EkRoots
    ek_vendors: frozenset[str]
    approver: ec.EllipticCurvePublicKey | None = None
    former_gateway_pcrs: Mapping[int, dict[str, dict[int, bytes]]] = field(default_factory=dict)
    witnesses: tuple[NoteKey, ...] = ()
    witness_quorum: int = 0
    additional_log_key: NoteKey | None = None

    @property
    def origin(self) -> str:
        """The lineage's name."""
        return names.lineage(self.trust_domain)

    @property
    def issuer(self) -> str:
        """``iss`` of artifacts."""
        return names.gateway(self.trust_domain)

    @property
    def audience(self) -> str:
        """``aud`` of artifacts."""
        return names.executors(self.trust_domain)

    @cached_property
    def gateway_selection(self) -> PcrSelection:
        """The PCRs of the gateway that a seal must cover."""
        return PcrSelection.of(self.gateway_pcrs)

    @cached_property
    def seal_policy(self) -> SealPolicy:
        """What a seal of the gateway must be."""
        return SealPolicy(self.gateway_ak, self.gateway_selection, self.gateway_pcrs, self.former_gateway_pcrs)

    @cached_property
    def sealing_policy(self) -> bytes:
        """The authPolicy of the gateway's keys: the anchored state's or, where it may change, the approver's."""
        if self.approver is not None:
            return policy_authorize(self.approver, self.origin.encode())
        return policy_pcr(self.gateway_selection, self.gateway_pcrs)

    @property
    def ek_policy(self) -> EkPolicy:
        """Whose TPMs are believed."""
        return EkPolicy(vendors=self.ek_vendors or None)

    def verify_checkpoint(self, note: bytes, *, sealed: bool = True, witnessed: bool = True) -> VerifiedCheckpoint:
        """A checkpoint of this lineage, by its log key, ``witnessed`` as is demanded and ``sealed`` by the gateway's TPM.

        Raises ProofError.
        """
        seal = self.seal_policy if sealed else None
        return verify_checkpoint(
            note,
            origin=self.origin,
            log_key=self.log_key,
            additional=self.additional_log_key,
            witnesses=self.witnesses,
            quorum=self.witness_quorum if witnessed else 0,
            seal=seal,
        )


def parse_anchors(data: bytes, name: str) -> Anchors:
    """Read an anchors file. EnvironmentProblem ``config.*`` naming file and key when it can't be used."""
    try:
        document = _Document.model_validate(
            strict_toml.parse(data, lambda detail: _unusable(name, f"this is {detail}"))
        )
        log_key = parse_vkey(document.log_key)
        anchors = Anchors(
            trust_domain=document.trust_domain,
            log_key=log_key,
            gateway_ak=accept_attestation_key(parse_public(bytes.fromhex(document.gateway_ak))),
            gateway_pcrs=decode_pcrs(document.gateway_pcrs),
            ek_roots=EkRoots.from_pem(document.ek_roots.encode()),
            ek_vendors=frozenset(document.ek_vendors),
            approver=None if document.approver is None else load_p256(bytes.fromhex(document.approver)),
            former_gateway_pcrs={
                int(until): decode_pcrs(values) for until, values in document.former_gateway_pcrs.items()
            },
            witnesses=accept_witnesses([parse_vkey(one) for one in document.witnesses], quorum=document.witness_quorum),
            witness_quorum=document.witness_quorum,
            additional_log_key=None if document.additional_log_key is None else parse_vkey(document.additional_log_key),
        )
        # What is derived from them later has to be possible.
        if any(PcrSelection.of(values) != anchors.gateway_selection for values in anchors.former_gateway_pcrs.values()):
            raise ValueError("former_gateway_pcrs are not the PCRs of gateway_pcrs")
        EkPolicy(vendors=anchors.ek_vendors)
    except ValidationError as error:
        raise _unusable(name, explain_validation(error)) from error
    except (ValueError, TpmError, ProofError, GateError) as error:
        raise _unusable(name, str(error)) from error
    if log_key.type is not SignatureType.ECDSA:
        raise _unusable(
            name, f"log_key is of signature type {log_key.type:#04x}, and a TPM-backed log key is of type 0x02"
        )
    additional = anchors.additional_log_key
    if additional is not None and (additional.name, additional.type) != (anchors.origin, SignatureType.ED25519):
        raise _unusable(name, f"additional_log_key is no Ed25519 key (type 0x01) named {anchors.origin!r}")
    if log_key.name != anchors.origin:
        raise _unusable(
            name, f"log_key is named {log_key.name!r}, and the trust domain's lineage is {anchors.origin!r}"
        )
    if not any(anchors.gateway_pcrs.values()):
        raise _unusable(name, "gateway_pcrs names no PCR, so a seal would bind nothing")
    if anchors.former_gateway_pcrs and anchors.approver is None:
        raise _unusable(name, "there are former_gateway_pcrs, and no approver who could have replaced them")
    return anchors


def _unusable(name: str, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.CONFIG_INVALID, f"{name}: {detail}", "get the anchors again from the gateway's operator"
    )
