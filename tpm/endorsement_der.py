"""Strict DER, and the seams of an X.509 certificate, read from the bytes that were signed.

``cryptography`` reads the content of a certificate. What is read here is what a verifier must not take on trust from a
parsed object: where the signed bytes begin and end, whether the two signature algorithms agree, what the key's numbers
are before anything builds a key from them. Only definite, minimal lengths and one-byte tags exist in DER (X.690 §10.1)
and in certificates (RFC 5280 §4.1); everything else is ``ek.malformed``.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from tpm.errors import MalformedError, RejectedError
from tpm.reasons import EvidenceReason

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
SEQUENCE, SET = 0x30, 0x31
VERSION, EXTENSIONS = 0xA0, 0xA3  # explicit tags of TBSCertificate

RSA_ENCRYPTION = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1

# EK certificates of real chips are 0.7 to 1.8 kB; NV indices end at 2 kB on most. 16 KiB leaves room for RSA-4096 CAs.
MAX_CERTIFICATE_BYTES = 16 * 1024
# Nothing we take apart holds more: 64 name constraints, 32 extensions. Entries of revocation lists are not taken apart.
MAX_CHILDREN = 256
# As many certificates as one PEM file of anchors may hold: all TPM vendors together publish a few hundred.
MAX_PEM_BLOCKS = 1024
MAX_PEM_BYTES = 8 * 1024 * 1024

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n([A-Za-z0-9+/=\r\n]+?)-----END \1-----")


@dataclass(frozen=True, slots=True)
class Element:
    """One TLV of ``data``: its tag and the offsets of its first byte, its content and its end."""

    tag: int
    start: int
    content: int
    end: int


def malformed(detail: str) -> MalformedError:
    """The error for bytes that are not the DER they should be."""
    return MalformedError(EvidenceReason.EK_MALFORMED, detail)


def read_element(data: bytes, offset: int, end: int) -> Element:
    """Read the TLV at ``offset``, which must lie before ``end``."""
    if offset + 2 > end:
        raise malformed(f"an element at offset {offset} is cut off")
    tag, length, content = data[offset], data[offset + 1], offset + 2
    if tag & 0x1F == 0x1F:
        raise malformed(f"the tag at offset {offset} has a multi-byte form, which no certificate uses")
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or content + size > end:
            raise malformed(f"the length at offset {offset + 1} is indefinite, too long or cut off")
        length = int.from_bytes(data[content : content + size], "big")
        if length < 0x80 or length >> 8 * (size - 1) == 0:
            raise malformed(f"the length at offset {offset + 1} is not minimal")
        content += size
    if content + length > end:
        raise malformed(f"the element at offset {offset} runs {content + length - end} bytes past its container")
    return Element(tag, offset, content, content + length)


def expect_element(data: bytes, offset: int, end: int, tag: int, what: str) -> Element:
    """Read the TLV at ``offset`` and require its tag."""
    element = read_element(data, offset, end)
    if element.tag != tag:
        raise malformed(f"{what} at offset {offset} has tag 0x{element.tag:02x}, not 0x{tag:02x}")
    return element


def read_children(data: bytes, parent: Element) -> list[Element]:
    """Every TLV inside a constructed one, to its last byte; at most ``MAX_CHILDREN``."""
    children: list[Element] = []
    offset = parent.content
    while offset < parent.end:
        if len(children) == MAX_CHILDREN:
            raise malformed(f"more than {MAX_CHILDREN} elements stand in one")
        child = read_element(data, offset, parent.end)
        children.append(child)
        offset = child.end
    return children


def read_only_element(data: bytes, tag: int, what: str) -> Element:
    """Read the one TLV that is all of ``data``."""
    element = expect_element(data, 0, len(data), tag, what)
    if element.end != len(data):
        raise malformed(f"{len(data) - element.end} bytes follow the end of {what}")
    return element


def read_integer(data: bytes, element: Element, what: str) -> int:
    """The value of an INTEGER in its shortest form (X.690 §8.3.2)."""
    content = data[element.content : element.end]
    if element.tag != INTEGER or not content:
        raise malformed(f"{what} is not an INTEGER")
    if len(content) > 1 and ((content[0] == 0 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)):
        raise malformed(f"{what} is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


def encode(tag: int, content: bytes) -> bytes:
    """A TLV in DER."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


@dataclass(frozen=True, slots=True)
class SignedObject:
    """The three parts of ``SIGNED{…}`` (RFC 5280 §4.1 and §5.1): a certificate or a revocation list."""

    der: bytes
    tbs: Element
    algorithm: bytes
    """AlgorithmIdentifier with its header."""
    signature: bytes
    """The bits of the BIT STRING, of which none is unused."""

    @property
    def signed(self) -> bytes:
        """The bytes under the signature."""
        return self.der[self.tbs.start : self.tbs.end]


def read_signed_object(der: bytes, what: str) -> SignedObject:
    """Split a certificate or revocation list at its outer seams, to the last byte."""
    parts = read_children(der, read_only_element(der, SEQUENCE, what))
    if [part.tag for part in parts] != [SEQUENCE, SEQUENCE, BIT_STRING]:
        raise malformed(f"{what} is not made of a body, an algorithm and a signature")
    body, algorithm, bits = parts
    if bits.end - bits.content < 2 or der[bits.content] != 0:
        raise malformed(f"the signature of {what} is empty or not whole bytes")
    return SignedObject(der, body, der[algorithm.start : algorithm.end], der[bits.content + 1 : bits.end])


def read_rsa_numbers(spki: bytes) -> tuple[int, int] | None:
    """Modulus and exponent of a SubjectPublicKeyInfo, or None where it holds no RSA key (RFC 3279 §2.3.1)."""
    algorithm, bits = _two(spki, read_only_element(spki, SEQUENCE, "subjectPublicKeyInfo"), "subjectPublicKeyInfo")
    identifier = expect_element(spki, algorithm.content, algorithm.end, OID, "the key's algorithm")
    if spki[identifier.content : identifier.end] != RSA_ENCRYPTION:
        return None
    if bits.tag != BIT_STRING or bits.end == bits.content or spki[bits.content] != 0:
        raise malformed("the public key is not a BIT STRING of whole bytes")
    key = expect_element(spki, bits.content + 1, bits.end, SEQUENCE, "RSAPublicKey")
    if key.end != bits.end:
        raise malformed("bytes follow the end of RSAPublicKey")
    modulus, exponent = _two(spki, key, "RSAPublicKey")
    numbers = read_integer(spki, modulus, "the modulus"), read_integer(spki, exponent, "the exponent")
    if min(numbers) <= 0:
        raise malformed("the modulus or exponent is not positive")
    return numbers


def _two(data: bytes, parent: Element, what: str) -> tuple[Element, Element]:
    children = read_children(data, parent)
    if len(children) != 2:
        raise malformed(f"{what} has {len(children)} parts, not 2")
    return children[0], children[1]


def split_pem(text: bytes, label: str = "CERTIFICATE") -> list[bytes]:
    """The DER of every PEM block of ``text`` (RFC 7468), each of which must bear ``label``.

    Text between blocks is explanatory and ignored, as RFC 7468 §2 allows; a block that is cut off, or not base64,
    refuses the whole text with ``ek.malformed``. No block at all gives an empty list.
    """
    if len(text) > MAX_PEM_BYTES:
        raise RejectedError(EvidenceReason.EK_TOO_LARGE, f"over {MAX_PEM_BYTES} bytes of PEM")
    blocks = _PEM.findall(text)
    if len(blocks) != text.count(b"-----BEGIN ") or len(blocks) != text.count(b"-----END "):
        raise malformed("a PEM block is cut off, or holds something other than base64")
    if len(blocks) > MAX_PEM_BLOCKS:
        raise RejectedError(EvidenceReason.EK_TOO_LARGE, f"{len(blocks)} PEM blocks are over {MAX_PEM_BLOCKS}")
    ders = []
    for found, body in blocks:
        if found != label.encode():
            raise malformed(f"a PEM block is a {found.decode()}, not a {label}")
        try:
            ders.append(base64.b64decode(re.sub(rb"[\r\n]", b"", body), validate=True))
        except binascii.Error as error:
            raise malformed(f"a PEM block is not base64: {error}") from error
    return ders
