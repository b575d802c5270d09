"""What an executor's agent asks: its enrollment, the gateway's attestation, its channel."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from ztrooted import limits
from ztrooted.channel_messages import UNDERSTANDS, UNDERSTANDS_HEADER
from ztrooted.client.connection import Connection
from ztrooted.gateway_attestation import GatewayAttestation
from ztrooted.models import ActivationRequest, Enrolled, EnrollmentChallenge, EnrollmentRequest

CHANNEL = "/v1/executor/channel"


class ExecutorCalls(Connection):
    """From a TPM and nothing else to a channel."""

    async def enroll(self, request: EnrollmentRequest) -> EnrollmentChallenge:
        """First half of an enrollment."""
        return await self._call("POST", "/v1/enrollments", EnrollmentChallenge, request)

    async def attestation(self, nonce: bytes) -> GatewayAttestation:
        """What the gateway says of its own machine, for a nonce of 16 to 64 random bytes. It is not verified here."""
        path = f"/v1/gateway/attestation?nonce={nonce.hex()}"
        return await self._call("GET", path, GatewayAttestation, maximum=2 * limits.EVENT_LOG)

    async def activate(self, enrollment: str, request: ActivationRequest) -> Enrolled:
        """Second half."""
        return await self._call("POST", f"/v1/enrollments/{enrollment}/activation", Enrolled, request)

    @asynccontextmanager
    async def channel(self, *, heartbeat_s: float) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The executor's WebSocket, with its session certificate.

        What aiohttp raises where it can't be opened is the caller's to judge: 401 and 403 end a session.
        """
        url = self.url + CHANNEL
        async with self.http.ws_connect(
            url,
            heartbeat=heartbeat_s,
            max_msg_size=limits.BODY,
            compress=0,
            headers={UNDERSTANDS_HEADER: UNDERSTANDS},
        ) as opened:
            yield opened
