"""Who made a TPM: the attributes in an EK certificate's subjectAltName, and the registry of vendors.

Clauses are of the TCG EK Credential Profile 2.5 (§3.1.2: three attributes in a directory name) and of the TCG TPM
Vendor ID Registry 1.07. An attribute that occurs twice is refused: two readers could pick different ones.
"""

from dataclasses import dataclass
from enum import StrEnum

from tpm.endorsement_der import SEQUENCE, malformed, read_children, read_only_element
from tpm.endorsement_names import DIRECTORY_NAME, GeneralName
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason

# tcg-at-tpmManufacturer, -tpmModel, -tpmVersion: 2.23.133.2.1 to .3
_MANUFACTURER, _MODEL, _VERSION = (bytes.fromhex(f"67810502{n:02x}") for n in (1, 2, 3))
_NAMES = {_MANUFACTURER: "tpmManufacturer", _MODEL: "tpmModel", _VERSION: "tpmVersion"}
_TPM_SPECIFICATION = bytes.fromhex("6781050210")  # 2.23.133.2.16
MAX_SPECIFICATION_BYTES = 8  # of level and revision, which count editions
MAX_ATTRIBUTE_CHARACTERS = 64  # models are a few characters, e.g. "ST33HTPHAHD4"


class VendorKind(StrEnum):
    """What a vendor's id says about a TPM: a chip or firmware of the machine, or software that a host runs."""

    HARDWARE = "hardware"
    VIRTUAL = "virtual"


@dataclass(frozen=True, slots=True)
class Vendor:
    """An entry of the registry."""

    id: str
    name: str
    kind: VendorKind = VendorKind.HARDWARE


@dataclass(frozen=True, slots=True)
class TpmAttributes:
    """The three attributes of a TPM as its vendor certified them; ``manufacturer`` is ``id:`` and eight capitals."""

    manufacturer: str
    model: str
    version: str


def _vendor(word: str, name: str, kind: VendorKind = VendorKind.HARDWARE) -> Vendor:
    """A vendor by its four characters, padded with NUL as the registry pads them."""
    return Vendor("id:" + word.encode().ljust(4, b"\0").hex().upper(), name, kind)


_VENDORS = (
    _vendor("AMD", "AMD"),
    _vendor("ANT", "Ant Group"),
    _vendor("ATML", "Atmel"),
    _vendor("BRCM", "Broadcom"),
    _vendor("CSCO", "Cisco"),
    _vendor("FLYS", "Flyslice Technologies"),
    _vendor("ROCC", "Fuzhou Rockchip"),
    _vendor("HPI", "HP Inc."),
    _vendor("HPE", "Hewlett Packard Enterprise"),
    _vendor("HISI", "Huawei"),
    _vendor("IFX", "Infineon"),
    _vendor("INTC", "Intel"),
    _vendor("LEN", "Lenovo"),
    _vendor("NSM ", "National Semiconductor"),
    _vendor("NTZ", "Nationz"),
    _vendor("NSG", "NSING"),
    _vendor("NTC", "Nuvoton"),
    _vendor("QCOM", "Qualcomm"),
    _vendor("SMSN", "Samsung"),
    _vendor("SECE", "SecEdge"),
    _vendor("SNS", "Sinosun"),
    _vendor("SMSC", "SMSC"),
    _vendor("STM ", "STMicroelectronics"),
    _vendor("TXN", "Texas Instruments"),
    _vendor("WEC", "Winbond"),
    _vendor("SEAL", "Wisekey"),
    # Registered to companies whose TPMs of that id are, as far as certificates tell, also software on their hosts:
    # Compute Engine, Hyper-V and Azure, IBM's simulator. Calling a chip virtual is an inconvenience, the reverse is a
    # false promise.
    _vendor("GOOG", "Google", VendorKind.VIRTUAL),
    _vendor("MSFT", "Microsoft", VendorKind.VIRTUAL),
    _vendor("IBM", "IBM", VendorKind.VIRTUAL),
    # Not in the registry: what software TPMs put there.
    _vendor("VMW", "VMware", VendorKind.VIRTUAL),
    Vendor("id:00001014", "swtpm", VendorKind.VIRTUAL),
)
VENDORS = {vendor.id: vendor for vendor in _VENDORS}


def normalise_vendor_id(text: str) -> str:
    """``id:`` and eight capital hexadecimal digits from ``text``; ValueError for anything else (§3.1.2)."""
    prefix, _, digits = text.partition(":")
    if prefix.casefold() != "id" or len(digits) != 8 or not all(c in "0123456789abcdefABCDEF" for c in digits):
        raise ValueError(f"{text!r} is not a TPM vendor id, which is id: and eight hexadecimal digits")
    return "id:" + digits.upper()


def read_tpm_attributes(names: tuple[GeneralName, ...]) -> TpmAttributes:
    """Manufacturer, model and version, each exactly once over all directory names; ``ek.san`` otherwise."""
    found: dict[bytes, str] = {}
    for name in names:
        for rdn in name.directory if name.kind == DIRECTORY_NAME else ():
            for identifier, value in rdn:
                if identifier not in _NAMES:
                    continue
                what = _NAMES[identifier]
                if identifier in found:
                    raise RejectedError(EvidenceReason.EK_SAN, f"{what} occurs twice")
                if not isinstance(value, str) or not 0 < len(value) <= MAX_ATTRIBUTE_CHARACTERS:
                    raise RejectedError(EvidenceReason.EK_SAN, f"{what} is not a short text")
                if not value.isprintable():
                    raise RejectedError(EvidenceReason.EK_SAN, f"{what} has characters that cannot be printed")
                found[identifier] = value
    missing = [what for identifier, what in _NAMES.items() if identifier not in found]
    if missing:
        raise RejectedError(EvidenceReason.EK_SAN, f"{' and '.join(missing)} missing from subjectAltName")
    try:
        manufacturer = normalise_vendor_id(found[_MANUFACTURER])
    except ValueError as error:
        raise RejectedError(EvidenceReason.EK_SAN, f"tpmManufacturer {error}") from error
    return TpmAttributes(manufacturer, found[_MODEL], found[_VERSION])


def check_vendor(manufacturer: str, allowed: frozenset[str] | None) -> Vendor:
    """The vendor of ``manufacturer``; ``ek.vendor`` where ``allowed`` does not list it.

    Without a list any registered maker of hardware is allowed, and no software TPM.
    """
    vendor = VENDORS.get(manufacturer)
    if allowed is not None:
        if manufacturer not in allowed:
            raise RejectedError(EvidenceReason.EK_VENDOR, f"vendor {manufacturer} is not among those allowed")
        # A vendor that only the operator knows is listed by them, yet nobody has said that it makes hardware.
        return vendor or Vendor(manufacturer, manufacturer, VendorKind.VIRTUAL)
    if vendor is None:
        raise RejectedError(EvidenceReason.EK_VENDOR, f"{manufacturer} is in no registry of TPM vendors")
    if vendor.kind is VendorKind.VIRTUAL:
        detail = f"{manufacturer} ({vendor.name}) is a software TPM, which must be listed to be allowed"
        raise RejectedError(EvidenceReason.EK_VENDOR, detail)
    return vendor


def check_tpm_specification(value: bytes) -> str | None:
    """``family level revision`` from SubjectDirectoryAttributes, None where tpmSpecification is not in it (§3.1.3)."""
    for attribute in read_children(value, read_only_element(value, SEQUENCE, "subjectDirectoryAttributes")):
        parts = read_children(value, attribute)
        if len(parts) != 2:
            raise malformed("a subject directory attribute is not a type and its values")
        if value[parts[0].content : parts[0].end] == _TPM_SPECIFICATION:
            return _read_specification(value[parts[1].content : parts[1].end])
    return None


def _read_specification(value: bytes) -> str:
    fields = read_children(value, read_only_element(value, SEQUENCE, "tpmSpecification"))
    if len(fields) != 3:
        raise malformed(f"tpmSpecification has {len(fields)} fields, not 3")
    family, level, revision = (value[field.content : field.end] for field in fields)
    # Of INTEGERs without bound: 0 and some hundreds in real certificates. Python refuses to print very long ones.
    if max(len(level), len(revision)) > MAX_SPECIFICATION_BYTES:
        raise malformed("level or revision of tpmSpecification is no number that a specification has")
    return f"{family.decode('latin-1')} {int.from_bytes(level, 'big')} {int.from_bytes(revision, 'big')}"
