"""Where makers of firmware TPMs publish the certificate of an EK: an address for a person, computed from the key.

These TPMs leave the factory without a certificate. Nothing here, or anywhere in this room, opens the address.
Sources: Intel's and AMD's EK certificate services, as their firmware guides and tpm2_getekcertificate describe them.
"""

import base64
import hashlib
from collections.abc import Callable
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import rsa

_EXPONENT = 65537


def _intel_address(modulus: bytes) -> str:
    """URL-safe base64 of SHA-256 over modulus and exponent."""
    digest = hashlib.sha256(modulus + _EXPONENT.to_bytes(3, "big")).digest()
    return "https://ekop.intel.com/ekcertservice/" + quote(base64.urlsafe_b64encode(digest).decode())


def _amd_address(modulus: bytes) -> str:
    """The first half of SHA-256 over the tag of an RSA-2048 EK, the exponent and the modulus, in capitals."""
    tag = bytes.fromhex("00002222")
    digest = hashlib.sha256(tag + _EXPONENT.to_bytes(4, "big") + modulus).digest()
    return "https://ftpm.amd.com/pki/aia/" + digest[:16].hex().upper()


_ADDRESSES: dict[str, Callable[[bytes], str]] = {"id:494E5443": _intel_address, "id:414D4400": _amd_address}


def locate_certificate(key: rsa.RSAPublicKey, manufacturer: str) -> str | None:
    """The address of the certificate of an RSA-2048 EK, or None where ``manufacturer`` has no such service.

    ``manufacturer`` is ``id:`` and eight capital hexadecimal digits.
    """
    numbers = key.public_numbers()
    if key.key_size != 2048 or numbers.e != _EXPONENT or manufacturer not in _ADDRESSES:
        return None
    return _ADDRESSES[manufacturer](numbers.n.to_bytes(256, "big"))
