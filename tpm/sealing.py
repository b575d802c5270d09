"""Who may say in which state of the machine our keys and counters work, and how that is said.

A key is bound to one state by PolicyPCR, for ever. Where the state may change one day, the key is bound to an approver
instead, PolicyAuthorize, who signs for one state after another. What was signed for stays signed for; so each approval
holds for a version too, PolicyNV, and the TPM has a counter that is the lowest version it takes: the floor. Anybody may
raise the floor, since that only ever takes something away. Clauses are of TPM 2.0 Part 3.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE, Alg
from tpm.counter import NvPublic
from tpm.pcr import PcrSelection, PcrValues
from tpm.public import ObjectAttributes
from tpm.templates import ecc_template, policy_pcr

UNSIGNED_LE = 0x0009  # TPM_EO_UNSIGNED_LE (Part 2 §6.8)
_CC_POLICY_NV = 0x00000149
_CC_POLICY_AUTHORIZE = 0x0000016A
_NO_SCHEME = struct.pack(">H", Alg.NULL)


@dataclass(frozen=True, slots=True)
class Approval:
    """That ``pcrs`` are a state to work in while the floor is at most ``version``; ``signature`` is the approver's (DER)."""

    version: int
    pcrs: PcrValues
    signature: bytes

    def encode(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "version": str(self.version),  # 64 bits, more than JSON's numbers
            "pcrs": encode_pcrs(self.pcrs),
            "signature": self.signature.hex(),
        }

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> "Approval":
        """From JSON values. KeyError, TypeError, ValueError or AttributeError where it is none."""
        return cls(int(value["version"]), decode_pcrs(value["pcrs"]), bytes.fromhex(value["signature"]))


@dataclass(frozen=True, slots=True)
class Approver:
    """Who approves, for the lineage of ``reference`` (policyRef), and which counter is the floor."""

    key: ec.EllipticCurvePublicKey
    reference: bytes
    floor: NvPublic

    @property
    def policy(self) -> bytes:
        """The SHA-256 authPolicy of what works in every state that was approved."""
        return policy_authorize(self.key, self.reference)

    def approved_policy(self, pcrs: PcrValues, version: int) -> bytes:
        """The policyDigest that is signed for: these PCRs, and the floor at most ``version`` (§23.9)."""
        operand = hashlib.sha256(version.to_bytes(8, "big") + struct.pack(">HH", 0, UNSIGNED_LE)).digest()
        command = struct.pack(">I", _CC_POLICY_NV) + operand + self.floor.name
        return hashlib.sha256(policy_pcr(PcrSelection.of(pcrs), pcrs) + command).digest()

    def message(self, pcrs: PcrValues, version: int) -> bytes:
        """What is signed: the approved policy and the reference (§23.16, aHash)."""
        return self.approved_policy(pcrs, version) + self.reference

    def approve(self, private: ec.EllipticCurvePrivateKey, pcrs: PcrValues, version: int) -> Approval:
        """Sign for a state."""
        return Approval(version, pcrs, private.sign(self.message(pcrs, version), ec.ECDSA(hashes.SHA256())))

    def approved(self, approval: Approval) -> bool:
        """Whether the approver signed it."""
        try:
            self.key.verify(
                approval.signature, self.message(approval.pcrs, approval.version), ec.ECDSA(hashes.SHA256())
            )
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Sealing:
    """What opens a key or counter of ours: the PCRs of ``selection``, and their approval where one is needed."""

    selection: PcrSelection
    approver: Approver | None = None
    approval: Approval | None = None

    def policy(self, pcrs: PcrValues) -> bytes:
        """The SHA-256 authPolicy: the approver's, or that of the state ``pcrs``."""
        return policy_pcr(self.selection, pcrs) if self.approver is None else self.approver.policy


def approver_template(key: ec.EllipticCurvePublicKey) -> bytes:
    """The approver's key as the TPM takes it for TPM2_LoadExternal: a TPMT_PUBLIC that only signs."""
    numbers = key.public_numbers()
    x, y = (value.to_bytes(32, "big") for value in (numbers.x, numbers.y))
    return ecc_template(ObjectAttributes.SIGN, x=x, y=y, scheme=_NO_SCHEME)


def approver_name(key: ec.EllipticCurvePublicKey) -> bytes:
    """Its Name: nameAlg ‖ H(TPMT_PUBLIC) (Part 1 §16)."""
    return int(Alg.SHA256).to_bytes(2, "big") + hashlib.sha256(approver_template(key)).digest()


def policy_authorize(key: ec.EllipticCurvePublicKey, reference: bytes) -> bytes:
    """The SHA-256 authPolicy of one PolicyAuthorize by ``key`` with this policyRef (§23.16)."""
    command = struct.pack(">I", _CC_POLICY_AUTHORIZE) + approver_name(key)
    return hashlib.sha256(hashlib.sha256(bytes(32) + command).digest() + reference).digest()


def encode_pcrs(pcrs: PcrValues) -> dict[str, dict[str, str]]:
    """PCR values as JSON: bank name -> index -> hexadecimal digits."""
    return {bank: {str(index): value.hex() for index, value in values.items()} for bank, values in pcrs.items()}


def decode_pcrs(value: Mapping[Any, Mapping[str, str]]) -> dict[str, dict[int, bytes]]:
    """PCR values from JSON: bank name -> index -> hexadecimal digits. ValueError or AttributeError where they are none."""
    for at in (at for values in value.values() for at in values):
        if str(int(at)) != str(at):  # two ways to write one number would be two ways to write one state
            raise ValueError(f"{at!r} is no number of a PCR")
    pcrs = {bank: {int(at): bytes.fromhex(one) for at, one in values.items()} for bank, values in value.items()}
    PcrSelection.of(pcrs)  # they are PCRs, of banks that there are
    for bank, values in pcrs.items():
        if any(len(one) != DIGEST_SIZE[BANK_BY_NAME[bank]] for one in values.values()):
            raise ValueError(f"a value of a PCR of {bank} has {DIGEST_SIZE[BANK_BY_NAME[bank]]} bytes")
    return pcrs
