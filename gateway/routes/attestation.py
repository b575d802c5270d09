"""The gateway's own attestation, for executors and auditors who demand it before they trust it."""

import asyncio
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.addresses import source_of
from gateway.auth import Caller, Role
from gateway.declaration import Parameter, Route, json_of
from gateway.routes.route import PEER, json_answer
from ztrooted import limits
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.gateway_attestation import MAX_NONCE, MIN_NONCE, GatewayAttestation, Identity, attestation_qualifying_data
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
MAX_WAITING = 16  # a chip makes five quotes a second, and nobody waits longer than a few seconds for one
MAX_OF_ADDRESS = 4  # of them, of strangers; one address may ask more often than a chip can answer
NONCE = Parameter(
    "nonce",
    f"{MIN_NONCE} to {MAX_NONCE} random bytes in lower-case hexadecimal",
    {"type": "string", "pattern": rf"^([0-9a-f]{{2}}){{{MIN_NONCE},{MAX_NONCE}}}$"},
    required=True,
)


class AttestationRoutes:
    """Anybody may ask: executors have to before they are known. The TPM gives it half of its time at most.

    Strangers wait for each other first, so that an executor with a session has one of them before it at most; and no address
    of theirs takes every place.
    """

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._turn, self._strangers = asyncio.Lock(), asyncio.Lock()
        self._waiting = {True: 0, False: 0}  # executors with a session, and strangers
        self._strangers_of: Counter[str] = Counter()  # by address
        self._log = _read_event_log(gateway)
        identity = gateway.signer.identity.encode()
        self._identity = Identity.model_validate({name: identity[name] for name in Identity.model_fields})
        self.routes = (
            Route(
                "GET",
                "/v1/gateway/attestation",
                frozenset({Role.ANYONE}),
                self.attestation,
                json_of(GatewayAttestation),
                frozenset({503}),
                query=(NONCE,),
            ),
        )

    async def attestation(self, request: web.Request, _caller: Caller) -> web.Response:
        """A quote by the gateway's attestation key over its PCRs, for the nonce that was asked with."""
        nonce = request.query["nonce"]
        known, source = PEER in request, source_of(request)
        if self._waiting[known] >= MAX_WAITING:
            raise GateError(GateReason.SERVICE_BUSY, f"{MAX_WAITING} others wait for the gateway's attestation")
        if not known and self._strangers_of[source] >= MAX_OF_ADDRESS:
            raise GateError(GateReason.SERVICE_BUSY, f"{MAX_OF_ADDRESS} of your address wait for it already")
        one = Counter() if known else Counter({source: 1})
        self._strangers_of += one
        self._waiting[known] += 1
        try:
            async with nullcontext() if known else self._strangers, self._turn:
                began = time.monotonic()
                wanted = attestation_qualifying_data(self._gateway.config.origin, bytes.fromhex(nonce))
                quoted = await self._gateway.signer.quote(wanted)
                await asyncio.sleep(time.monotonic() - began)  # as long again belongs to the seals
        finally:
            self._waiting[known] -= 1
            self._strangers_of -= one
        answer = GatewayAttestation(
            attest=quoted.attest,
            signature=quoted.signature,
            pcrs={
                bank: {str(index): value.hex() for index, value in values.items()}
                for bank, values in quoted.pcrs.items()
            },
            event_log=self._log,
            identity=self._identity,
        )
        return json_answer(answer.model_dump())


def _read_event_log(gateway: "Gateway") -> bytes | None:
    """The machine's log: the one that is configured, or else the kernel's where the TPM is the machine's own."""
    config = gateway.config
    if config.event_log is None and not config.tpm.startswith("device:"):
        return None
    path = EVENT_LOG if config.event_log is None else config.path(config.event_log)
    try:
        with path.open("rb") as file:
            data = file.read(limits.EVENT_LOG + 1)
    except OSError as error:
        if config.event_log is None:
            return None  # a kernel without securityfs; the PCRs speak for themselves
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"event_log: {path} can't be read: {error.strerror}", "correct gateway.toml"
        ) from error
    if len(data) > limits.EVENT_LOG:
        raise EnvironmentProblem(GateReason.CONFIG_INVALID, f"event_log: {path} is too large", "correct gateway.toml")
    return data
