"""The executor's side of an enrollment: from a TPM and nothing else to a session.

The session key is made here, in memory, at each start, and never written anywhere.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tpm.errors import DeviceError
from ztrooted import artifact, issuer, jose, names
from ztrooted.client import GatewayClient
from ztrooted.enrollment import activation_mac, transcript
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.evidence import Purpose, qualifying_data
from ztrooted.executor.collect import Collector
from ztrooted.issuer import IssuingKey
from ztrooted.jose import IssuerKey, thumbprint
from ztrooted.keys import load_p256, spki
from ztrooted.models import ActivationRequest, Enrolled, EnrollmentRequest, Issuer, Quote
from ztrooted.reasons import GateReason


@dataclass
class ExecutorSession:
    """What an executor holds between two enrollments."""

    key: ec.EllipticCurvePrivateKey
    enrolled: Enrolled
    certificate: str
    log_key: ec.EllipticCurvePublicKey
    issuers: dict[str, IssuerKey]
    introductions: dict[str, Issuer] = field(default_factory=dict)

    @property
    def jkt(self) -> str:
        """The thumbprint that artifacts for this session carry."""
        return thumbprint(self.key.public_key())

    def learn_issuer(self, introduction: Issuer) -> IssuingKey:
        """Trust an issuing key if the log key, pinned at enrollment, introduced it. ProofError otherwise."""
        origin = names.lineage(names.trust_domain_of(self.enrolled.issuer))
        known = issuer.verify_introduction(introduction.statement, introduction.signature, self.log_key, origin)
        self.issuers[known.kid] = IssuerKey(known.key, known.not_before, known.expires)
        self.introductions[known.kid] = introduction
        return known

    def introduction_of(self, token: str) -> Issuer:
        """How the key of an artifact was introduced; the artifact must have been verified with ``issuers``."""
        return self.introductions[jose.parse(token, typ=artifact.TYP).kid]

    @property
    def expired(self) -> bool:
        """Whether the certificate is over: TLS would refuse it without a word, and only a new enrollment helps."""
        ends = x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc
        return ends <= datetime.now(UTC)

    @contextmanager
    def client_certificate(self) -> Iterator[tuple[str, str]]:
        """Paths to certificate and key for TLS, in anonymous memory: neither ever touches a disk."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with _in_memory("certificate", self.certificate.encode()) as certificate, _in_memory("key", key) as private:
            yield certificate, private


async def enroll(client: GatewayClient, collector: Collector) -> ExecutorSession:
    """Prove this machine to the gateway. GateError or EnvironmentProblem with the reason when it is refused."""
    device = collector.device
    try:
        endorsement = await asyncio.to_thread(device.endorsement_key)
        ak_public = await asyncio.to_thread(device.attestation_key)
        key = ec.generate_private_key(ec.SECP256R1())
        request = EnrollmentRequest(
            ek_public=endorsement.public,
            ek_certificate=endorsement.certificate,
            ek_chain=list(endorsement.chain),
            ak_public=ak_public,
            session_key=spki(key.public_key()),
        )
        challenge = await client.enroll(request)
        secret = await asyncio.to_thread(device.activate_credential, challenge.credential, challenge.encrypted_secret)
        nonce = bytes.fromhex(challenge.nonce)
        evidence = await asyncio.to_thread(
            collector.collect, qualifying_data(Purpose.ENROLL, nonce, request.session_key), challenge.selection, 0
        )
    except DeviceError as error:
        raise EnvironmentProblem(GateReason.ENVIRONMENT_TPM, str(error), error.remedy) from error
    mac = activation_mac(secret, transcript(challenge.enrollment, nonce, request))
    digest = hashlib.sha256(evidence.event_log).hexdigest()
    quote = Quote.of(evidence, event_log_digest=digest, whole_log=True)
    enrolled = await client.activate(challenge.enrollment, ActivationRequest(mac=mac.hex(), quote=quote))
    session = ExecutorSession(key, enrolled, enrolled.certificate, load_p256(enrolled.log_key), {})
    for introduction in enrolled.issuers:
        session.learn_issuer(introduction)
    if not session.issuers:
        raise GateError(
            GateReason.LINEAGE_KEY, "the gateway introduced no issuing key, so no artifact could be checked"
        )
    return session


@contextmanager
def _in_memory(name: str, data: bytes) -> Iterator[str]:
    descriptor = os.memfd_create(name)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
