"""Templates of the keys we make in our own TPM, and the policy that guards one of them, as bytes.

A primary key is a function of the hierarchy's seed and its template: the same template gives the same key again, so no
key of ours is ever stored. Clauses are of TPM 2.0 Part 2 (structures) and of the TCG EK Credential Profile v2.5 (EK).
"""

import hashlib
import struct
from dataclasses import dataclass

from tpm.algorithms import Alg
from tpm.attest import sized
from tpm.pcr import PcrSelection, PcrValues, pcr_digest
from tpm.public import Curve, ObjectAttributes

_OURS = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.NO_DA
)
_CC_POLICY_PCR = 0x0000017F
# PolicyA of the EK Credential Profile, §B.6.2: PolicySecret(TPM_RH_ENDORSEMENT), SHA-256.
_POLICY_A = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
# PolicyB, §B.6.5: PolicyA or the policy in the NV index for it; SHA-256 and SHA-384.
_POLICY_B_256 = bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
_POLICY_B_384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)


def _aes(bits: int) -> bytes:
    return struct.pack(">HHH", Alg.AES, bits, Alg.CFB)


_NO_SCHEME = struct.pack(">H", Alg.NULL)
_NO_SYMMETRIC = struct.pack(">H", Alg.NULL)
_ECDSA_SHA256 = struct.pack(">HH", Alg.ECDSA, Alg.SHA256)


def ecc_template(
    attributes: ObjectAttributes,
    *,
    x: bytes,
    y: bytes,
    policy: bytes = b"",
    name_alg: Alg = Alg.SHA256,
    symmetric: bytes = _NO_SYMMETRIC,
    scheme: bytes = _ECDSA_SHA256,
    curve: Curve = Curve.P256,
) -> bytes:
    """A TPMT_PUBLIC of type TPM_ALG_ECC without KDF (Part 2 §12.2.4)."""
    head = struct.pack(">HHI", Alg.ECC, name_alg, attributes) + sized(policy)
    return head + symmetric + scheme + struct.pack(">HH", curve, Alg.NULL) + sized(x) + sized(y)


def rsa_template(attributes: ObjectAttributes, *, unique: bytes, policy: bytes, symmetric: bytes, bits: int) -> bytes:
    """A TPMT_PUBLIC of type TPM_ALG_RSA without scheme, with the default exponent (Part 2 §12.2.4)."""
    head = struct.pack(">HHI", Alg.RSA, Alg.SHA256, attributes) + sized(policy)
    return head + symmetric + struct.pack(">HHI", Alg.NULL, bits, 0) + sized(unique)


def attestation_key_template(label: str) -> bytes:
    """Template of an AK: restricted P-256 signing key. Another ``label`` gives another key."""
    unique = hashlib.sha256(b"ztrooted attestation key\0" + label.encode()).digest()
    attributes = _OURS | ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.RESTRICTED | ObjectAttributes.SIGN
    return ecc_template(attributes, x=unique, y=bytes(32))


def log_key_template(policy: bytes) -> bytes:
    """Template of the log key: unrestricted P-256 signing key that only ``policy`` opens.

    USERWITHAUTH is clear: with it the key would sign with its empty password after the PCRs had drifted.
    """
    unique = hashlib.sha256(b"ztrooted log key").digest()
    return ecc_template(_OURS | ObjectAttributes.SIGN, x=unique, y=bytes(32), policy=policy)


def storage_key_template() -> bytes:
    """Template of the key that our sealed data lies under: restricted P-256 decryption key in the owner hierarchy."""
    unique = hashlib.sha256(b"ztrooted storage key").digest()
    attributes = _OURS | ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT
    return ecc_template(attributes, x=unique, y=bytes(32), symmetric=_aes(128), scheme=_NO_SCHEME)


def sealed_data_template(policy: bytes) -> bytes:
    """Template of a sealed data object (TPM_ALG_KEYEDHASH without scheme, Part 1 §27.2) that only ``policy`` opens.

    SENSITIVEDATAORIGIN is clear, since the data is ours; so is USERWITHAUTH, as for the log key.
    """
    attributes = ObjectAttributes.FIXED_TPM | ObjectAttributes.FIXED_PARENT | ObjectAttributes.NO_DA
    head = struct.pack(">HHI", Alg.KEYEDHASH, Alg.SHA256, attributes) + sized(policy)
    return head + _NO_SCHEME + sized(b"")


def policy_pcr(selection: PcrSelection, pcrs: PcrValues) -> bytes:
    """The SHA-256 authPolicy of one PolicyPCR over these values (Part 3 §23.7)."""
    command = struct.pack(">I", _CC_POLICY_PCR) + selection.marshal()
    return hashlib.sha256(bytes(32) + command + pcr_digest(selection, pcrs, Alg.SHA256)).digest()


@dataclass(frozen=True, slots=True)
class EndorsementTemplate:
    """One EK template of the profile, §B.3 and §B.4: where its certificate lies, where vendors persist the key."""

    name: str
    certificate_index: int
    persistent_handle: int
    template: bytes
    # The low range opens with PolicySecret(endorsement), the high range with the key's own empty password.
    needs_policy: bool

    @property
    def nonce_index(self) -> int:
        """Where a vendor leaves the nonce its low-range EK was made with."""
        return self.certificate_index + 1 if self.needs_policy else 0

    @property
    def template_index(self) -> int:
        """Where a vendor leaves the whole template its low-range EK was made with."""
        return self.certificate_index + 2 if self.needs_policy else 0


def with_nonce(template: bytes, nonce: bytes) -> bytes:
    """A low-range template with ``nonce`` in the front of its unique field (§B.3): the modulus, or the x coordinate.

    Low-range templates end in that field, filled with zeros: 256 bytes, or twice 32 with their sizes between.
    """
    if template[:2] == struct.pack(">H", Alg.RSA):
        return template[:-256] + nonce[:256].ljust(256, b"\0")
    return template[:-66] + nonce[:32].ljust(32, b"\0") + template[-34:]


_LOW = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.ADMIN_WITH_POLICY
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
_HIGH = _LOW | ObjectAttributes.USER_WITH_AUTH

# ECC first: a P-256 key is made in a fraction of the time of an RSA key, on chips seconds against minutes.
ENDORSEMENT_TEMPLATES = (
    EndorsementTemplate(
        "L-2",
        0x01C0000A,
        0x81010002,
        ecc_template(_LOW, x=bytes(32), y=bytes(32), policy=_POLICY_A, symmetric=_aes(128), scheme=_NO_SCHEME),
        needs_policy=True,
    ),
    EndorsementTemplate(
        "H-2",
        0x01C00014,
        0x81010014,
        ecc_template(_HIGH, x=b"", y=b"", policy=_POLICY_B_256, symmetric=_aes(128), scheme=_NO_SCHEME),
        needs_policy=False,
    ),
    EndorsementTemplate(
        "H-3",
        0x01C00016,
        0x81010016,
        ecc_template(
            _HIGH,
            x=b"",
            y=b"",
            policy=_POLICY_B_384,
            name_alg=Alg.SHA384,
            symmetric=_aes(256),
            scheme=_NO_SCHEME,
            curve=Curve.P384,
        ),
        needs_policy=False,
    ),
    EndorsementTemplate(
        "L-1",
        0x01C00002,
        0x81010001,
        rsa_template(_LOW, unique=bytes(256), policy=_POLICY_A, symmetric=_aes(128), bits=2048),
        needs_policy=True,
    ),
    EndorsementTemplate(
        "H-1",
        0x01C00012,
        0x81010012,
        rsa_template(_HIGH, unique=b"", policy=_POLICY_B_256, symmetric=_aes(128), bits=2048),
        needs_policy=False,
    ),
)
