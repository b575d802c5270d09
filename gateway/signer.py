"""The gateway's keys: the TPM's attestation key and log key, and the issuing key of the current epoch.

A gateway that finds another TPM than its identity names, or itself in another state, does not serve.
"""

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from gateway import vault
from gateway.config import GatewayConfig
from gateway.identity import SEALED_PCRS, Identity
from gateway.metrics import Metrics
from gateway.own_tpm import environment_problem, open_device, require_same_tpm
from gateway.plain_key import plain_key
from gateway.vault import Vault
from tpm.device import Certified, LogKey, Quoted
from tpm.errors import DeviceError
from ztrooted import jose
from ztrooted.clock import Clock, SystemClock
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.issuer import signed_digest, statement
from ztrooted.jose import IssuerKey, jwk
from ztrooted.models import Issuer
from ztrooted.reasons import GateReason

T = TypeVar("T")

FAILING_S = 10.0  # of a TPM that refuses or is silent; the slowest command of a chip takes a few


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
        self._device = open_device(config.tpm)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tpm")
        self._sealing = self.identity.sealing(config.origin)
        try:
            self._log_key = self._recognise()
            # Opened once, here: a data folder of before there were vaults has none, and a gateway does not serve it.
            sealed = vault.exists(config.data)
            self.vault = Vault.open(config.data, config.origin, self._device, self.identity) if sealed else None
            self.plain = plain_key(config, self.vault)  # beside the TPM, where that is asked for
        except EnvironmentProblem:
            self._device.close()
            raise
        self._counter = self.identity.counter()
        self._epochs: list[Epoch] = []

    def _recognise(self) -> LogKey:
        """The log key, if this is still the TPM the gateway was initialised with."""
        require_same_tpm(self._device, self.identity.ak_public)
        try:
            if self._sealing.approver is not None and self._sealing.approval is not None:
                self._device.raise_floor(self._sealing.approver.floor, self._sealing.approval.version)
            log_key = self._device.log_key(self._sealing, self.identity.pcrs)
        except DeviceError as error:
            raise environment_problem(error) from error
        if log_key.public != self.identity.log_key_public:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_TPM,
                f"the TPM at {self._config.tpm} has another log key: its owner hierarchy was cleared",
                "initialise a new gateway, whose lineage will have another key; see 'ztrooted gateway init --recovery'",
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
