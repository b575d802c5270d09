"""The gateway proves itself: its attestation key quotes the gateway's own PCRs for whoever asks with a nonce.

Executors and auditors who demand it compare the state with the one in their anchors, and have nothing to do with a
gateway in any other. extraData is SHA-256 over ``ztrooted/gateway-attestation/v1``, the lineage's origin and the nonce,
each behind its length as a 32-bit big-endian integer. It says that the machine with that TPM is in that state now; that
it is this machine at the other end of the connection rests on its TLS key.
"""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tpm.errors import EvidenceError
from tpm.eventlog import parse_event_log, verify_event_log
from tpm.quote import parse_quote, verify_quote
from ztrooted import limits
from ztrooted.anchors import Anchors
from ztrooted.errors import GateError, ProofError
from ztrooted.evidence import length_prefixed
from ztrooted.models import Base64, Hex, Hex32, Model
from ztrooted.reasons import GateReason

DOMAIN = b"ztrooted/gateway-attestation/v1"
MIN_NONCE, MAX_NONCE = 16, 64  # bytes; one that is guessed gets an old quote, and a longer one says no more
Hex4096 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})+$", max_length=2 * limits.PUBLIC_AREA)]


class Identity(Model):
    """The gateway's keys, and the certification of the log key by the attestation key, as in ``gateway.started``."""

    ak_public: Hex4096
    log_key_public: Hex4096
    log_key_policy: Hex32
    pcrs: dict[str, dict[str, Hex]]
    counter_public: Hex4096
    counter_attest: Hex4096
    counter_signature: Hex4096
    counter_start: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
    certify_attest: Hex4096
    certify_signature: Hex4096
    virtual: bool


class GatewayAttestation(Model):
    """A quote over the gateway's PCRs, its firmware's event log where it has one, and its identity."""

    format: Literal["ztrooted-gateway-attestation/1"] = "ztrooted-gateway-attestation/1"
    attest: Annotated[Base64, Field(max_length=limits.ATTEST)]
    signature: Annotated[Base64, Field(max_length=limits.SIGNATURE)]
    pcrs: dict[str, dict[str, Hex]]
    event_log: Annotated[Base64, Field(max_length=limits.EVENT_LOG)] | None
    identity: Identity


def attestation_qualifying_data(origin: str, nonce: bytes) -> bytes:
    """What the quote carries as extraData."""
    return hashlib.sha256(length_prefixed(DOMAIN, origin.encode(), nonce)).digest()


def verify_gateway(answer: GatewayAttestation, anchors: Anchors, nonce: bytes) -> dict[str, Any]:
    """Verify what a gateway answered to ``nonce``. Facts for people; ProofError with the first check that fails.

    1. Its attestation key is the anchored one, and certified the anchored log key, which signs in the anchored state
       only: ``attestation.gateway_key``.
    2. That key quoted exactly the anchored PCRs for this nonce: ``attestation.gateway_quote``.
    3. They have the anchored values: ``attestation.gateway_state``.
    4. Its event log, where it has one, adds up to them: ``attestation.gateway_quote``.
    """
    from ztrooted.audit import check_identity  # noqa: PLC0415 -- loads all of the audit, which no client has use for

    # 1.
    try:
        check_identity(answer.identity.model_dump(), anchors)
    except (GateError, EvidenceError, ValueError) as error:
        raise ProofError(GateReason.ATTESTATION_GATEWAY_KEY, f"its keys are not the anchored ones: {error}") from error
    try:
        # 2.
        values = {
            bank: {int(at): bytes.fromhex(text) for at, text in some.items()} for bank, some in answer.pcrs.items()
        }
        quote = verify_quote(
            parse_quote(answer.attest, answer.signature),
            anchors.gateway_ak,
            nonce=attestation_qualifying_data(anchors.origin, nonce),
            selection=anchors.gateway_selection,
            pcr_values=values,
        )
        # 3.
        for bank, expected in anchors.gateway_pcrs.items():
            for index, value in expected.items():
                if quote.pcr_values[bank][index] != value:
                    found = quote.pcr_values[bank][index].hex()
                    raise ProofError(
                        GateReason.ATTESTATION_GATEWAY_STATE,
                        f"its {bank}:{index} is {found}, anchored is {value.hex()}",
                    )
        # 4.
        if answer.event_log is not None:
            for bank, some in quote.pcr_values.items():
                verify_event_log(parse_event_log(answer.event_log), bank=bank, pcrs=some)
    except (EvidenceError, ValueError) as error:
        raise ProofError(GateReason.ATTESTATION_GATEWAY_QUOTE, f"its quote proves nothing: {error}") from error
    return {
        "origin": anchors.origin,
        "virtual": answer.identity.virtual,
        "event_log": answer.event_log is not None,
        "pcrs": answer.pcrs,
    }
