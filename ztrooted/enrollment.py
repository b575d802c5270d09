"""What both sides of an enrollment have to compute alike."""

import hashlib
import hmac

from ztrooted.evidence import length_prefixed
from ztrooted.models import EnrollmentRequest

DOMAIN = b"ztrooted/enroll/v1"


def transcript(enrollment: str, nonce: bytes, request: EnrollmentRequest) -> bytes:
    """SHA-256 over the enrollment's id, its nonce and the three public keys, each length-prefixed."""
    parts = (enrollment.encode(), nonce, request.ek_public, request.ak_public, request.session_key)
    return hashlib.sha256(length_prefixed(DOMAIN, *parts)).digest()


def activation_mac(secret: bytes, transcribed: bytes) -> bytes:
    """Proof that the credential was opened: HMAC-SHA-256 of the transcript, keyed by the opened secret."""
    return hmac.digest(secret, transcribed, "sha256")
