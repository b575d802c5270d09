"""The templates of endorsement keys: which public areas can be an EK at all (TCG EK Credential Profile 2.5, Annex B).

An EK certificate speaks of a key, not of the attributes it was made with. A key with the right numbers and other
attributes would open credential blobs outside TPM2_ActivateCredential, so the public area must be one of the
profile's, field by field.
"""

from dataclasses import dataclass

from tpm.algorithms import Alg
from tpm.codec import Reader
from tpm.errors import MalformedError, RejectedError
from tpm.public import EK, MAX_DIGEST, MAX_PUBLIC, Curve, ObjectAttributes, Public, parse_public
from tpm.reasons import EvidenceReason

_LOW = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.ADMIN_WITH_POLICY
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
_HIGH = _LOW | ObjectAttributes.USER_WITH_AUTH

# PolicySecret(TPM_RH_ENDORSEMENT) (§B.6.2).
POLICY_A_SHA256 = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
# PolicyOR of PolicyA and PolicyAuthorizeNV over index 0x01c07f01, 02 or 03 (§B.6.5).
POLICY_B_SHA256 = bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
POLICY_B_SHA384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
POLICY_B_SHA512 = bytes.fromhex(
    "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4"
    "29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
)


@dataclass(frozen=True, slots=True)
class EkTemplate:
    """One template: its name in the profile and every field but the key itself. ``size`` is bits or curve."""

    name: str
    type: Alg
    size: int
    name_alg: Alg
    attributes: ObjectAttributes
    auth_policy: bytes
    symmetric_bits: int


# H-5 (SM2) is left out: nothing here computes with SM2 keys.
TEMPLATES = (
    EkTemplate("L-1", Alg.RSA, 2048, Alg.SHA256, _LOW, POLICY_A_SHA256, 128),
    EkTemplate("L-2", Alg.ECC, Curve.P256, Alg.SHA256, _LOW, POLICY_A_SHA256, 128),
    EkTemplate("H-1", Alg.RSA, 2048, Alg.SHA256, _HIGH, POLICY_B_SHA256, 128),
    EkTemplate("H-2", Alg.ECC, Curve.P256, Alg.SHA256, _HIGH, POLICY_B_SHA256, 128),
    EkTemplate("H-3", Alg.ECC, Curve.P384, Alg.SHA384, _HIGH, POLICY_B_SHA384, 256),
    EkTemplate("H-4", Alg.ECC, Curve.P521, Alg.SHA512, _HIGH, POLICY_B_SHA512, 256),
    EkTemplate("H-6", Alg.RSA, 3072, Alg.SHA384, _HIGH, POLICY_B_SHA384, 256),
    EkTemplate("H-7", Alg.RSA, 4096, Alg.SHA384, _HIGH, POLICY_B_SHA384, 256),
)


def _differences(public: Public, template: EkTemplate) -> list[str]:
    symmetric = public.symmetric
    found = []
    if public.name_alg is not template.name_alg:
        found.append(f"nameAlg {public.name_alg.name}")
    if public.attributes != template.attributes:
        changed = public.attributes ^ template.attributes
        found.append(f"attributes 0x{public.attributes:08x}, which differ in 0x{changed:08x}")
    if public.auth_policy != template.auth_policy:
        found.append("another authPolicy")
    if symmetric is None or (symmetric.alg, symmetric.bits, symmetric.mode) != (
        Alg.AES,
        template.symmetric_bits,
        Alg.CFB,
    ):
        found.append(f"symmetric parameters other than AES-{template.symmetric_bits}-CFB")
    if public.scheme is not None or public.kdf is not None:
        found.append("a scheme where the template has none")
    if template.type is Alg.RSA and public.exponent != 0:
        found.append(f"exponent field {public.exponent}")
    return found


def check_ek_template(public: Public) -> EkTemplate:
    """The template of the profile that ``public`` follows; ``ek.template`` where it follows none.

    The detail names the nearest template and every field that differs from it.
    """
    size = public.bits if public.type is Alg.RSA else public.curve
    nearest: tuple[EkTemplate, list[str]] | None = None
    for template in TEMPLATES:
        if (template.type, template.size) != (public.type, size):
            continue
        differences = _differences(public, template)
        if not differences:
            return template
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = template, differences
    if nearest is None:
        raise RejectedError(EvidenceReason.EK_TEMPLATE, f"no EK template has a {public.type.name} key of size {size}")
    raise RejectedError(EvidenceReason.EK_TEMPLATE, f"{nearest[0].name} does not have {', '.join(nearest[1])}")


def parse_ek_public(tpm2b: bytes) -> Public:
    """Parse the ``TPM2B_PUBLIC`` of a would-be EK, with reasons of the ``ek`` family.

    A public area that is framed as one but has parameters no parser of ours knows, such as Triple DES, is not
    malformed: it is ``ek.template``, for no template has them.
    """
    try:
        return parse_public(tpm2b, reasons=EK)
    except MalformedError as error:
        if _is_framed_unlike_any_template(tpm2b):
            raise RejectedError(EvidenceReason.EK_TEMPLATE, error.detail) from error
        raise


def _is_framed_unlike_any_template(tpm2b: bytes) -> bool:
    reader = Reader(tpm2b[: MAX_PUBLIC + 2], EvidenceReason.EK_MALFORMED)
    try:
        framed = reader.sized(MAX_PUBLIC, "public area")
        reader.done("TPM2B_PUBLIC")
        inner = Reader(framed, EvidenceReason.EK_MALFORMED)
        kind = inner.u16("type")
        inner.take(6, "nameAlg and attributes")
        inner.sized(MAX_DIGEST, "authPolicy")
        algorithm = inner.u16("symmetric algorithm"), inner.u16("key bits"), inner.u16("mode")
    except MalformedError:
        return False
    known = {(Alg.AES, 128, Alg.CFB), (Alg.AES, 256, Alg.CFB)}
    return kind in (Alg.RSA, Alg.ECC) and algorithm not in known
