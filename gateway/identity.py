"""Who a gateway is, fixed when its data folder is created: its TPM's keys and counter, and the state they work in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config import read_file
from gateway.storage.lineage import Trusted
from tpm.attestation_key import accept_attestation_key
from tpm.counter import NvPublic, counter_public, floor_public, parse_nv_public
from tpm.device_counter import COUNT, FIRST, CountingDevice
from tpm.errors import EvidenceError
from tpm.pcr import PcrSelection, PcrValues
from tpm.public import parse_public
from tpm.sealing import Approval, Approver, Sealing, decode_pcrs, encode_pcrs
from ztrooted.checkpoint import SealPolicy, verify_checkpoint
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.issuer import certify_qualifying_data
from ztrooted.keys import load_p256, spki
from ztrooted.note_keys import ecdsa_key
from ztrooted.reasons import GateReason

IDENTITY_FILE = "identity.json"
IDENTITY_FORMAT = "ztrooted-gateway-identity/1"
# The state the log key is bound to: firmware, boot loader and Secure Boot. Not 10 (changes with each file IMA measures),
# not 16 and 21 to 23 (anybody can reset or extend them without the policy noticing).
SEALED_PCRS = {"sha256": [0, 1, 2, 3, 4, 5, 6, 7]}
SELECTION = PcrSelection.of(SEALED_PCRS)


@dataclass(frozen=True, slots=True)
class Identity:
    """What was fixed when the gateway was initialised. Public areas are TPM2B_PUBLIC.

    ``counter_public`` is the TPMS_NV_PUBLIC of the lineage's counter, ``counter_start`` its value at that time. ``pcrs`` is
    the state to work in: for ever or, where there is an approver (SubjectPublicKeyInfo), as ``approval`` says, and
    ``former`` are the states before, by the lineage's size when they were replaced.
    """

    ak_public: bytes
    log_key_public: bytes
    log_key_policy: bytes
    pcrs: PcrValues
    certify_attest: bytes
    certify_signature: bytes
    counter_public: bytes
    counter_attest: bytes
    counter_signature: bytes
    counter_start: int
    virtual: bool
    approver_key: bytes | None = None
    floor_public: bytes = b""
    approval: Approval | None = None
    former: Mapping[int, PcrValues] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        """As JSON values: for the identity file, and for the record a gateway starts with."""
        fixed = {
            "format": IDENTITY_FORMAT,
            "ak_public": self.ak_public.hex(),
            "log_key_public": self.log_key_public.hex(),
            "log_key_policy": self.log_key_policy.hex(),
            "pcrs": encode_pcrs(self.pcrs),
            "certify_attest": self.certify_attest.hex(),
            "certify_signature": self.certify_signature.hex(),
            "counter_public": self.counter_public.hex(),
            "counter_attest": self.counter_attest.hex(),
            "counter_signature": self.counter_signature.hex(),
            "counter_start": str(self.counter_start),  # 64 bits, more than JSON's numbers
            "virtual": self.virtual,
        }
        if self.approver_key is None or self.approval is None:
            return fixed
        return fixed | {
            "approver": self.approver_key.hex(),
            "floor_public": self.floor_public.hex(),
            "approval": self.approval.encode(),
            "former": {str(until): encode_pcrs(values) for until, values in self.former.items()},
        }

    @classmethod
    def load(cls, folder: Path) -> "Identity":
        """From the data folder. EnvironmentProblem when it is missing or damaged."""
        path = folder / IDENTITY_FILE
        data = read_file(path, "gateway's identity")
        try:
            value = json.loads(data)
            if value["format"] != IDENTITY_FORMAT:
                raise ValueError(f"it is not of format {IDENTITY_FORMAT}")
            return cls(
                ak_public=bytes.fromhex(value["ak_public"]),
                log_key_public=bytes.fromhex(value["log_key_public"]),
                log_key_policy=bytes.fromhex(value["log_key_policy"]),
                pcrs=decode_pcrs(value["pcrs"]),
                certify_attest=bytes.fromhex(value["certify_attest"]),
                certify_signature=bytes.fromhex(value["certify_signature"]),
                counter_public=bytes.fromhex(value["counter_public"]),
                counter_attest=bytes.fromhex(value["counter_attest"]),
                counter_signature=bytes.fromhex(value["counter_signature"]),
                counter_start=int(value["counter_start"]),
                virtual=value["virtual"],
                **(_decode_approval(value) if "approver" in value else {}),
            )
        except (KeyError, TypeError, ValueError, AttributeError, GateError, EvidenceError) as error:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_DATA_FOLDER,
                f"{path} is damaged: {error}",
                "restore the data folder from a backup",
            ) from error

    def log_key(self) -> ec.EllipticCurvePublicKey:
        """The log key as a public key."""
        key = parse_public(self.log_key_public).key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_DATA_FOLDER, "the log key is not on P-256", "restore the data folder"
            )
        return key

    def counter(self) -> NvPublic:
        """The lineage's counter."""
        try:
            return parse_nv_public(self.counter_public)
        except EvidenceError as error:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_DATA_FOLDER, f"the counter is damaged: {error}", "restore the data folder"
            ) from error

    def approver(self, origin: str) -> Approver | None:
        """Who may approve another state for this lineage; None where nobody may."""
        if self.approver_key is None:
            return None
        return Approver(load_p256(self.approver_key), origin.encode(), parse_nv_public(self.floor_public))

    def sealing(self, origin: str) -> Sealing:
        """What opens the log key and the counter."""
        return Sealing(SELECTION, self.approver(origin), self.approval)

    def resealed(self, approval: Approval, size: int) -> "Identity":
        """The same gateway in the state of ``approval``, where the lineage has ``size`` records now."""
        return replace(self, pcrs=approval.pcrs, approval=approval, former={**self.former, size: self.pcrs})

    def trusts(self, origin: str) -> Trusted:
        """Verifies checkpoints of a lineage: signed by the log key, sealed by the AK over the PCRs it is bound to."""
        log_key = ecdsa_key(origin, self.log_key())
        ak = accept_attestation_key(parse_public(self.ak_public))
        seal = SealPolicy(ak, SELECTION, self.pcrs, self.former)

        def trusted(note: bytes, size: int, root: bytes) -> bool:
            try:
                found = verify_checkpoint(note, origin=origin, log_key=log_key, seal=seal)
            except ProofError:
                return False
            return found.sealed and (found.checkpoint.size, found.checkpoint.root) == (size, root)

        return trusted

    def log_key_spki(self) -> bytes:
        """The log key as SubjectPublicKeyInfo."""
        return spki(self.log_key())


def create_identity(device: CountingDevice, origin: str, private: ec.EllipticCurvePrivateKey | None = None) -> Identity:
    """Make both keys and the counter in the TPM, and have the AK certify the other two. DeviceError when the TPM refuses.

    They work in the state the machine is in, for ever; or in the one that ``private`` approved last, which is that one.
    """
    pcrs = device.read_pcrs(SELECTION)
    sealing = Sealing(SELECTION) if private is None else _first_approval(device, origin, private, pcrs)
    log_key = device.log_key(sealing, pcrs)
    qualifying = certify_qualifying_data(origin)
    certified = device.certify(log_key, qualifying)
    counter = counter_public(counter_index(origin), log_key.policy, written=True)
    device.define_counter(counter)
    device.increment_counter(counter, sealing)  # before its first increment it has no value
    counted = device.certify_counter(counter, qualifying)
    return Identity(
        ak_public=device.attestation_key(),
        log_key_public=log_key.public,
        log_key_policy=log_key.policy,
        pcrs=pcrs,
        certify_attest=certified.attest,
        certify_signature=certified.signature,
        counter_public=counter.marshal(),
        counter_attest=counted.attest,
        counter_signature=counted.signature,
        counter_start=device.counter(counter),
        virtual=device.virtual,
        approver_key=None if sealing.approver is None else spki(sealing.approver.key),
        floor_public=b"" if sealing.approver is None else sealing.approver.floor.marshal(),
        approval=sealing.approval,
    )


def _first_approval(
    device: CountingDevice, origin: str, private: ec.EllipticCurvePrivateKey, pcrs: PcrValues
) -> Sealing:
    floor = floor_public(counter_index(f"{origin}/floor"))
    version = device.make_floor(floor)
    approver = Approver(private.public_key(), origin.encode(), floor)
    return Sealing(SELECTION, approver, approver.approve(private, pcrs, version))


def _decode_approval(value: Mapping[str, Any]) -> dict[str, Any]:
    """What an identity that may be resealed has besides."""
    approver, floor = bytes.fromhex(value["approver"]), bytes.fromhex(value["floor_public"])
    load_p256(approver)
    parse_nv_public(floor)
    return {
        "approver_key": approver,
        "floor_public": floor,
        "approval": Approval.decode(value["approval"]),
        "former": {int(until): decode_pcrs(pcrs) for until, pcrs in value["former"].items()},
    }


def counter_index(origin: str) -> int:
    """The NV index of a lineage's counter: its own among those of the owner, so that one TPM may serve several."""
    return FIRST + int.from_bytes(hashlib.sha256(origin.encode()).digest()[:4], "big") % COUNT
