"""Distinguished names, general names and name constraints (RFC 5280 §4.1.2.4, §4.2.1.6, §4.2.1.10, §7.1).

Names are compared as §7.1 says: the same attributes in the same RDNs, strings without regard to case, to their ASN.1
string type, or to runs of spaces. A name is only how an issuer is *found*; what makes it the issuer is its signature.
"""

from dataclasses import dataclass

from tpm.endorsement_der import OID, SEQUENCE, SET, Element, expect_element, malformed, read_children, read_only_element
from tpm.endorsement_quirks import EkQuirk, QuirkLedger
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason

DIRECTORY_NAME = 4  # GeneralName's choice; the others are opaque here
_CONSTRUCTED_DIRECTORY_NAME = 0xA4

# An attribute: its OID's bytes and its value, text where the type is a string.
Attribute = tuple[bytes, str | bytes]
# A name: one sorted tuple of attributes per RDN.
Name = tuple[tuple[Attribute, ...], ...]

# UTF8String, PrintableString, TeletexString (read as Latin-1, which is what issuers meant), IA5String, BMPString
_STRING_CODECS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}

# 2.23.133.2: what a TPM is, not what somebody is called, and therefore not folded.
_TCG_ATTRIBUTES = bytes.fromhex("67810502")

# A TPM's SAN has one to three RDNs of one to six attributes; a subject has no more than a dozen.
MAX_RDNS = 32
MAX_ATTRIBUTES_PER_RDN = 16
MAX_GENERAL_NAMES = 32
MAX_LABEL = 64  # ub-common-name (RFC 5280 §A.1)
MAX_SUBTREES = 64


@dataclass(frozen=True, slots=True)
class GeneralName:
    """One GeneralName: its choice number, the name if it is a directory name, and its bytes if it is not."""

    kind: int
    directory: Name
    raw: bytes


@dataclass(frozen=True, slots=True)
class NameConstraints:
    """Subtrees into which an authority's certificates must, and must not, fall."""

    permitted: tuple[GeneralName, ...]
    excluded: tuple[GeneralName, ...]


def read_string(data: bytes, value: Element) -> str | None:
    """The text of a string element as it was written, or None where it is of no string type."""
    codec = _STRING_CODECS.get(value.tag)
    if codec is None:
        return None
    try:
        return data[value.content : value.end].decode(codec)
    except UnicodeDecodeError as error:
        raise malformed(f"a string at offset {value.start} is not {codec}") from error


def _read_attribute(data: bytes, element: Element) -> Attribute:
    parts = read_children(data, element)
    if element.tag != SEQUENCE or len(parts) != 2 or parts[0].tag != OID:
        raise malformed(f"the attribute at offset {element.start} is not a type and a value")
    identifier, value = parts
    oid, text = data[identifier.content : identifier.end], read_string(data, value)
    if text is None or oid.startswith(_TCG_ATTRIBUTES):
        return oid, data[value.start : value.end] if text is None else text
    return oid, " ".join(text.split()).casefold()


def _read_rdn(data: bytes, element: Element, ledger: QuirkLedger) -> tuple[Attribute, ...]:
    members = read_children(data, element)
    if element.tag != SET or not 1 <= len(members) <= MAX_ATTRIBUTES_PER_RDN:
        raise malformed(f"the RDN at offset {element.start} is not a SET of 1 to {MAX_ATTRIBUTES_PER_RDN} attributes")
    if len(members) > 1:
        encodings = [data[member.start : member.end] for member in members]
        if encodings != sorted(encodings):
            ledger.need(EkQuirk.UNSORTED_NAME, f"the attributes of the RDN at offset {element.start} are not in order")
        return tuple(sorted((_read_attribute(data, member) for member in members), key=repr))
    return (_read_attribute(data, members[0]),)


def read_name(data: bytes, element: Element, ledger: QuirkLedger) -> Name:
    """A Name, in the form in which names are compared."""
    rdns = read_children(data, element)
    if element.tag != SEQUENCE or len(rdns) > MAX_RDNS:
        raise malformed(f"the name at offset {element.start} is not a SEQUENCE of at most {MAX_RDNS} RDNs")
    return tuple(_read_rdn(data, rdn, ledger) for rdn in rdns)


def read_label(data: bytes, name: Element) -> str:
    """The last string of a name that ``read_name`` accepted, cut short, without what a terminal would act on."""
    rdns = read_children(data, name)
    if not rdns:
        return ""
    text = read_string(data, read_children(data, read_children(data, rdns[-1])[-1])[1]) or ""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_LABEL])


def read_general_name(data: bytes, element: Element, ledger: QuirkLedger) -> GeneralName:
    """One GeneralName; only a directory name is read further."""
    kind = element.tag & 0x1F
    if element.tag & 0xC0 != 0x80 or kind > 8:
        raise malformed(f"the general name at offset {element.start} has tag 0x{element.tag:02x}")
    if kind != DIRECTORY_NAME:
        return GeneralName(kind, (), data[element.start : element.end])
    if element.tag != _CONSTRUCTED_DIRECTORY_NAME:
        raise malformed(f"the directory name at offset {element.start} is not constructed")
    inner = expect_element(data, element.content, element.end, SEQUENCE, "a directory name")
    if inner.end != element.end:
        raise malformed(f"bytes follow the directory name at offset {element.start}")
    return GeneralName(kind, read_name(data, inner, ledger), b"")


def read_general_names(value: bytes, ledger: QuirkLedger) -> tuple[GeneralName, ...]:
    """GeneralNames, the value of a subjectAltName extension."""
    members = read_children(value, read_only_element(value, SEQUENCE, "subjectAltName"))
    if not 1 <= len(members) <= MAX_GENERAL_NAMES:
        raise malformed(f"subjectAltName has {len(members)} names, not 1 to {MAX_GENERAL_NAMES}")
    return tuple(read_general_name(value, member, ledger) for member in members)


def read_name_constraints(value: bytes, ledger: QuirkLedger) -> NameConstraints:
    """The value of a nameConstraints extension, without the minimum and maximum that RFC 5280 forbids."""
    subtrees: dict[int, tuple[GeneralName, ...]] = {0xA0: (), 0xA1: ()}
    lists = read_children(value, read_only_element(value, SEQUENCE, "nameConstraints"))
    tags = [element.tag for element in lists]
    if tags not in ([0xA0], [0xA1], [0xA0, 0xA1]):
        raise malformed("nameConstraints is neither a permitted nor an excluded list")
    for element in lists:
        members = read_children(value, element)
        if not 1 <= len(members) <= MAX_SUBTREES:
            raise malformed(f"nameConstraints has {len(members)} subtrees, not 1 to {MAX_SUBTREES}")
        names = []
        for member in members:
            parts = read_children(value, member)
            if member.tag != SEQUENCE or len(parts) != 1:
                raise malformed(f"the subtree at offset {member.start} is not one name")
            names.append(read_general_name(value, parts[0], ledger))
        subtrees[element.tag] = tuple(names)
    return NameConstraints(subtrees[0xA0], subtrees[0xA1])


def _within(name: GeneralName, subtree: GeneralName, holder: str) -> bool:
    if name.kind != DIRECTORY_NAME:
        # No EK certificate needs a constrained host name or address, so such a pair is refused rather than half
        # understood.
        raise RejectedError(EvidenceReason.EK_CHAIN, f"{holder} has a name of kind {name.kind} under a name constraint")
    return name.directory[: len(subtree.directory)] == subtree.directory


def check_name_constraints(constraints: NameConstraints, names: list[GeneralName], holder: str) -> None:
    """Refuse (``ek.chain``) a certificate one of whose names breaks the constraints of an authority above it."""
    for name in names:
        if any(_within(name, tree, holder) for tree in constraints.excluded if tree.kind == name.kind):
            raise RejectedError(EvidenceReason.EK_CHAIN, f"{holder} has a name that its issuer may not certify")
        permitted = [tree for tree in constraints.permitted if tree.kind == name.kind]
        if permitted and not any(_within(name, tree, holder) for tree in permitted):
            raise RejectedError(EvidenceReason.EK_CHAIN, f"{holder} has a name outside what its issuer may certify")
