"""The gateway's keys: the TPM's attestation key and log key, and the issuing key of the current epoch.

The identity of a gateway is fixed when its data folder is created: the Names of both TPM keys and the PCR state the log key
is bound to. A gateway that finds another TPM, or itself in another state, does not serve.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config import GatewayConfig, read_file
from gateway.metrics import Metrics
from gateway.plain_key import plain_key
from gateway.storage.lineage import Trusted
from tpm.attestation_key import accept_attestation_key
from tpm.counter import NvPublic, counter_public, floor_public, parse_nv_public
from tpm.device import Certified, LogKey, Quoted
from tpm.device_counter import COUNT, FIRST, CountingDevice
from tpm.errors import DeviceError, EvidenceError
from tpm.pcr import PcrSelection, PcrValues
from tpm.public import parse_public
from tpm.sealing import Approval, Approver, Sealing, decode_pcrs, encode_pcrs
from ztrooted import jose
from ztrooted.checkpoint import SealPolicy, verify_checkpoint
from ztrooted.clock import Clock, SystemClock
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.issuer import certify_qualifying_data, signed_digest, statement
from ztrooted.jose import IssuerKey, jwk
from ztrooted.keys import load_p256, spki
from ztrooted.models import Issuer
from ztrooted.note_keys import ecdsa_key
from ztrooted.reasons import GateReason

T = TypeVar("T")

IDENTITY_FILE = "identity.json"
IDENTITY_FORMAT = "ztrooted-gateway-identity/1"
# The state the log key is bound to: firmware, boot loader and Secure Boot. Not 10 (changes with each file IMA measures),
# not 16 and 21 to 23 (anybody can reset or extend them without the policy noticing).
SEALED_PCRS = {"sha256": [0, 1, 2, 3, 4, 5, 6, 7]}
SELECTION = PcrSelection.of(SEALED_PCRS)
FAILING_S = 10.0  # of a TPM that refuses or is silent; the slowest command of a chip takes a few


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


@dataclass(frozen=True, slots=True)
class Epoch:
    """The issuing key in use. Times in seconds since the epoch."""

    private: ec.EllipticCurvePrivateKey
    kid: str
    not_before: int
    expires: int
    introduction: Issuer


class Signer:
    """Signs artifacts in memory, and checkpoints and introductions in the TPM (on its own thread: a chip is slow)."""

    def __init__(self, config: GatewayConfig, clock: Clock | None = None, metrics: Metrics | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._failing_since: float | None = None
        self._asked_at: float | None = None
        self.identity = Identity.load(config.data)
        self.plain = plain_key(config)  # beside the TPM, where that is asked for
        self._device = open_device(config.tpm)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tpm")
        self._sealing = self.identity.sealing(config.origin)
        self._log_key = self._recognise()
        self._counter = self.identity.counter()
        self._epochs: list[Epoch] = []

    def _recognise(self) -> LogKey:
        """The log key, if this is still the TPM the gateway was initialised with."""
        try:
            known = self._device.attestation_key() == self.identity.ak_public
            if self._sealing.approver is not None and self._sealing.approval is not None:
                self._device.raise_floor(self._sealing.approver.floor, self._sealing.approval.version)
            log_key = self._device.log_key(self._sealing, self.identity.pcrs)
        except DeviceError as error:
            self._device.close()
            raise environment_problem(error) from error
        if not known or log_key.public != self.identity.log_key_public:
            self._device.close()
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_TPM,
                f"the TPM at {self._config.tpm} is not the one this gateway was initialised with, or it was cleared",
                "connect the right TPM, or initialise a new gateway; its lineage will have another key",
            )
        return log_key

    @property
    def epoch(self) -> Epoch:
        """The issuing key in use. GateError ``service.not_ready`` before the first was introduced."""
        if not self._epochs:
            raise GateError(GateReason.SERVICE_NOT_READY, "no issuing key has been introduced yet")
        return self._epochs[-1]

    def worn_out(self, now_s: int) -> bool:
        """Whether the issuing key's time is over, or there is none: nothing it signed now would be accepted."""
        return not self._epochs or now_s >= self._epochs[-1].expires

    def keys(self) -> dict[str, IssuerKey]:
        """The public keys whose artifacts may still be alive, by ``kid``."""
        return {
            epoch.kid: IssuerKey(epoch.private.public_key(), epoch.not_before, epoch.expires)
            for epoch in self._epochs[-2:]
        }

    def jwks(self) -> dict[str, object]:
        """The same keys as a JSON Web Key Set (RFC 7517), for other tools."""
        keys = [
            {**jwk(epoch.private.public_key()), "kid": epoch.kid, "alg": "ES256", "use": "sig"}
            for epoch in self._epochs[-2:]
        ]
        return {"keys": keys}

    def introductions(self) -> list[Issuer]:
        """Of the keys whose artifacts may still be alive: the last two epochs."""
        return [epoch.introduction for epoch in self._epochs[-2:]]

    async def new_epoch(self, now_s: int) -> Epoch:
        """Make a new issuing key and have the TPM introduce it. It is used once ``adopt`` was called."""
        private = ec.generate_private_key(ec.SECP256R1())
        expires = now_s + 2 * self._config.issuing_key_life_s
        data = statement(self._config.origin, private.public_key(), not_before=now_s - 60, expires=expires)
        signature = await self._in_tpm(lambda: self._device.sign_with_log_key(self._log_key, signed_digest(data)))
        introduction = Issuer(statement=data, signature=signature)
        return Epoch(private, jose.thumbprint(private.public_key()), now_s - 60, expires, introduction)

    def adopt(self, epoch: Epoch) -> None:
        """Use an epoch whose introduction is in the lineage."""
        self._epochs.append(epoch)

    async def seal(self, text: bytes) -> tuple[bytes, Quoted]:
        """Sign a checkpoint's text with the log key (DER), and quote our own PCRs over it. GateError if the TPM refuses."""
        digest = hashlib.sha256(text).digest()

        def sealed() -> tuple[bytes, Quoted]:
            return self._device.sign_with_log_key(self._log_key, digest), self._device.quote(digest, SEALED_PCRS)

        return await self._in_tpm(sealed)

    def counter(self) -> int:
        """The value of the lineage's counter. EnvironmentProblem where it is gone. Before anything else uses the TPM."""
        try:
            return self._device.counter(self._counter)
        except DeviceError as error:
            raise environment_problem(error) from error

    def restore_counter(self) -> None:
        """Define the counter again where it was deleted; it starts above every value it had. Before anything else."""
        try:
            self._device.define_counter(self._counter)
            self._device.increment_counter(self._counter, self._sealing)
        except DeviceError as error:
            raise environment_problem(error) from error

    async def sign(self, data: bytes) -> bytes:
        """The log key's signature (DER) over SHA-256 of ``data``. GateError if the TPM refuses."""
        digest = hashlib.sha256(data).digest()
        return await self._in_tpm(lambda: self._device.sign_with_log_key(self._log_key, digest))

    async def count(self) -> int:
        """Increment the counter; what it is then. GateError if the TPM refuses."""

        def counted() -> int:
            self._device.increment_counter(self._counter, self._sealing)
            return self._device.counter(self._counter)

        return await self._in_tpm(counted)

    async def counted(self) -> int:
        """The counter's value. GateError if the TPM refuses."""
        return await self._in_tpm(lambda: self._device.counter(self._counter))

    async def certify_counter(self, text: bytes) -> Certified:
        """Have the AK certify the counter's value for a checkpoint's text. GateError if the TPM refuses."""
        digest = hashlib.sha256(text).digest()
        return await self._in_tpm(lambda: self._device.certify_counter(self._counter, digest))

    async def quote(self, qualifying_data: bytes) -> Quoted:
        """Quote our own PCRs, those that the identity names, for whoever asked. GateError if the TPM refuses."""
        selection = {bank: sorted(values) for bank, values in self.identity.pcrs.items()}
        return await self._in_tpm(lambda: self._device.quote(qualifying_data, selection))

    @property
    def failing(self) -> bool:
        """Whether the TPM has refused for a while, or keeps us waiting. One refusal alone is no outage of ours."""
        now = self._clock.monotonic()
        return any(since is not None and now - since > FAILING_S for since in (self._failing_since, self._asked_at))

    async def _in_tpm(self, work: Callable[[], T]) -> T:
        def timed() -> T:
            self._asked_at = began = self._clock.monotonic()
            try:
                done = work()
            except DeviceError:
                self._metrics.tpm_failures.inc()
                if self._failing_since is None:
                    self._failing_since = began
                raise
            else:
                self._failing_since = None
                return done
            finally:
                self._asked_at = None
                self._metrics.tpm_command.observe(self._clock.monotonic() - began)

        try:
            of_this_trace = copy_context()
            return await asyncio.get_running_loop().run_in_executor(self._thread, of_this_trace.run, timed)
        except DeviceError as error:
            raise environment_problem(error) from error

    def close(self) -> None:
        """Let go of the TPM."""
        self._thread.shutdown(wait=True)
        self._device.close()


def open_device(address: str) -> CountingDevice:
    """The TPM at ``address``; EnvironmentProblem with what to do when it can't be used."""
    try:
        return CountingDevice.open(address)
    except DeviceError as error:
        raise environment_problem(error) from error


def environment_problem(error: DeviceError) -> EnvironmentProblem:
    """A TPM's refusal, in the gate's own words."""
    return EnvironmentProblem(GateReason.ENVIRONMENT_TPM, str(error), error.remedy)
