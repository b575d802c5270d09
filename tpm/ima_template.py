"""IMA templates: what the kernel hashes for each entry, from the fields it shows (``security/integrity/ima``).

Template data is every field as a little-endian UINT32 length and its bytes, in the order of the template; its hash,
per bank, is what PCR 10 is extended with. The old ``ima`` template has no lengths: 20 digest bytes and the name, padded
with zeros to 256 bytes. Kernels of big-endian machines write native lengths unless told otherwise
(``ima_canonical_fmt``); only the canonical form is read.

Both list formats end up as the same parts: template data, the digest as text, and the path. The text is
``sha256:<hex>`` for the digest of a file and ``verity:sha256:<hex>`` for that of its fs-verity tree, whatever the
template, because that is what an allow-list compares.
"""

from binascii import Error as HexError
from binascii import hexlify, unhexlify
from collections.abc import Callable
from struct import Struct

from tpm.errors import MalformedError, RejectedError
from tpm.reasons import EvidenceReason

# PATH_MAX of Linux, which bounds d_path() and with it every name the kernel can record.
MAX_PATH = 4096
# IMA_EVENT_NAME_LEN_MAX: the old template keeps no longer name.
MAX_LEGACY_NAME = 255
# A signature is an extended attribute and a buffer a kernel object of some kilobytes; XATTR_SIZE_MAX bounds the first.
MAX_FIELD = 65536

# Digest sizes by the kernel's names (crypto/hash_info.c), those of older kernels included, and SM3 as TPM software
# spells it. A name that is not here is refused.
DIGEST_SIZES: dict[bytes, int] = {
    b"md5": 16,
    b"sha1": 20,
    b"rmd160": 20,
    b"sha224": 28,
    b"sha256": 32,
    b"sm3": 32,
    b"sm3-256": 32,
    b"sm3_256": 32,
    b"streebog256": 32,
    b"streebog512": 64,
    b"wp256": 32,
    b"wp384": 48,
    b"wp512": 64,
    b"sha3-256": 32,
    b"sha384": 48,
    b"sha3-384": 48,
    b"sha512": 64,
    b"sha3-512": 64,
}
# What a digest in an ``ngv2`` template was made of: the file's bytes, or its fs-verity Merkle tree.
DIGEST_TYPES = (b"ima:", b"verity:")
# The kernel leaves room for a SHA-1 digest in a violation, whatever the algorithm's name says (until 6.4).
VIOLATION_DIGEST_SIZE = 20

Parts = tuple[bytes, bytes, bytes]  # template data, digest as text, path

_u32 = Struct("<I").pack
_read_u32 = Struct("<I").unpack_from


def _malformed(detail: str) -> MalformedError:
    return MalformedError(EvidenceReason.IMA_MALFORMED, detail)


def _digest_heads() -> dict[bytes, tuple[bytes, int, int]]:
    """Each digest label as text to (label as the kernel hashes it, digest size, size of the whole field)."""
    labels = {kind + name: size for kind in (b"", *DIGEST_TYPES) for name, size in DIGEST_SIZES.items()}
    return {label: (label + b":\0", size, len(label) + 2 + size) for label, size in labels.items()}


_HEADS = _digest_heads()
_PLAIN = frozenset(DIGEST_SIZES)
# The usual field of a digest in full: length and label, ready to be followed by the digest.
_PREFIXES = {label: (_u32(total) + head, size) for label, (head, size, total) in _HEADS.items()}
# The same for labels without a type, with the number of hexadecimal digits to expect.
_USUAL = {label: (_PREFIXES[label][0], 2 * size) for label, size in DIGEST_SIZES.items()}
_NO_USUAL = (b"", -1)


def from_hex(text: bytes, what: str) -> bytes:
    """Decode lower-case hexadecimal digits; nothing else is what the kernel prints."""
    try:
        value = unhexlify(text)
    except HexError as error:
        raise _malformed(f"{what} is not hexadecimal: {error}") from None
    if text != text.lower():
        raise _malformed(f"{what} has upper-case digits, which the kernel never prints")
    return value


def check_label(label: bytes, *, typed: bool) -> None:
    """Refuse an unknown digest label, and one whose form belongs to the other generation of templates."""
    if label not in _HEADS or (label in _PLAIN) is typed:
        shown = label[:40].decode("ascii", "backslashreplace")
        raise RejectedError(EvidenceReason.IMA_DIGEST_ALG, f"{shown!r} is not a digest algorithm of this template")


def digest_size_error(label: bytes, size: int) -> RejectedError:
    """A digest whose length is not its algorithm's."""
    return RejectedError(
        EvidenceReason.IMA_DIGEST_ALG,
        f"a {label.decode()} digest has {_HEADS[label][1]} bytes, the list shows {size}",
    )


def _untyped(text: bytes) -> bytes:
    return text.removeprefix(b"ima:")


def _digest_field(text: bytes, *, typed: bool, shown: bytes) -> bytes:
    """A d-ng or d-ngv2 field, length included, from ``sha256:<hex>`` or ``ima:sha256:<hex>``."""
    label, _, digits = text.rpartition(b":")
    check_label(label, typed=typed)
    value = from_hex(digits, "file digest")
    prefix, size = _PREFIXES[label]
    if len(value) == size:
        return prefix + value
    if not any(shown) and value == bytes(VIOLATION_DIGEST_SIZE):
        return _u32(len(label) + 2 + len(value)) + prefix[4:] + value
    raise digest_size_error(label, len(value))


def _name_field(path: bytes) -> bytes:
    """An n-ng field: the name with its terminating zero, length included."""
    if not 0 < len(path) < MAX_PATH:
        raise _malformed(f"a path has {len(path)} bytes; 1 to {MAX_PATH - 1} are possible")
    return _u32(len(path) + 1) + path + b"\0"


def _hex_field(text: bytes, what: str) -> bytes:
    if len(text) > 2 * MAX_FIELD:
        raise _malformed(f"{what} is longer than {MAX_FIELD} bytes")
    return _u32(len(text) // 2) + from_hex(text, what)


def _text_legacy(rest: bytes, shown: bytes) -> Parts:  # noqa: ARG001 -- one signature for all templates
    """``ima``: d|n, hashed without lengths."""
    digits, _, path = rest.partition(b" ")
    value = from_hex(digits, "file digest")
    if len(value) != 20:
        raise _malformed(f"template ima holds 20 digest bytes, not {len(value)}")
    if not 0 < len(path) <= MAX_LEGACY_NAME:
        raise _malformed(f"template ima holds names of 1 to {MAX_LEGACY_NAME} bytes, not {len(path)}")
    return value + path.ljust(MAX_LEGACY_NAME + 1, b"\0"), b"sha1:" + digits, path


def _text_ng(rest: bytes, shown: bytes) -> Parts:
    """``ima-ng``: d-ng|n-ng. The template of nearly every real list, so the common case is written out."""
    text, _, path = rest.partition(b" ")
    label, _, digits = text.partition(b":")
    prefix, size = _USUAL.get(label, _NO_USUAL)
    if len(digits) == size and 0 < len(path) < MAX_PATH and text.islower():
        try:
            return b"".join((prefix, unhexlify(digits), _u32(len(path) + 1), path, b"\0")), text, path
        except HexError as error:
            raise _malformed(f"file digest is not hexadecimal: {error}") from None
    return _digest_field(text, typed=False, shown=shown) + _name_field(path), text, path


def _text_ngv2(rest: bytes, shown: bytes) -> Parts:
    """``ima-ngv2``: d-ngv2|n-ng."""
    text, _, path = rest.partition(b" ")
    return _digest_field(text, typed=True, shown=shown) + _name_field(path), _untyped(text), path


def _with_blob(rest: bytes, *, typed: bool, shown: bytes, what: str) -> Parts:
    text, _, tail = rest.partition(b" ")
    path, space, digits = tail.rpartition(b" ")
    if not space:
        raise _malformed(f"the field for {what} is missing")
    data = _digest_field(text, typed=typed, shown=shown) + _name_field(path) + _hex_field(digits, what)
    return data, _untyped(text), path


def _text_sig(rest: bytes, shown: bytes) -> Parts:
    """``ima-sig``: d-ng|n-ng|sig, the signature possibly empty."""
    return _with_blob(rest, typed=False, shown=shown, what="signature")


def _text_sigv2(rest: bytes, shown: bytes) -> Parts:
    """``ima-sigv2``: d-ngv2|n-ng|sig."""
    return _with_blob(rest, typed=True, shown=shown, what="signature")


def _text_buf(rest: bytes, shown: bytes) -> Parts:
    """``ima-buf``: d-ng|n-ng|buf; the name is what was measured, not a path."""
    return _with_blob(rest, typed=False, shown=shown, what="buffer")


def _text_modsig(rest: bytes, shown: bytes) -> Parts:
    """``ima-modsig``: d-ng|n-ng|sig|d-modsig|modsig, the last three possibly empty."""
    tail, *fields = rest.rsplit(b" ", 3)
    if len(fields) != 3:
        raise _malformed("ima-modsig has five fields")
    text, _, path = tail.partition(b" ")
    signature, inner, appended = fields
    inner_field = _digest_field(inner, typed=False, shown=shown) if inner else _u32(0)
    head = _digest_field(text, typed=False, shown=shown) + _name_field(path)
    return head + _hex_field(signature, "signature") + inner_field + _hex_field(appended, "modsig"), text, path


# What each template's ASCII fields become. The names the kernel knows; an ad-hoc format string is not a name.
FROM_TEXT: dict[bytes, Callable[[bytes, bytes], Parts]] = {
    b"ima": _text_legacy,
    b"ima-ng": _text_ng,
    b"ima-ngv2": _text_ngv2,
    b"ima-sig": _text_sig,
    b"ima-sigv2": _text_sigv2,
    b"ima-buf": _text_buf,
    b"ima-modsig": _text_modsig,
}
TYPED_DIGEST = frozenset({b"ima-ngv2", b"ima-sigv2"})
_BLOBS = {b"ima-sig": 1, b"ima-sigv2": 1, b"ima-buf": 1, b"ima-modsig": 3}


def template_unknown(name: bytes) -> RejectedError:
    """A template this project cannot recompute the hash of."""
    shown = name[:64].decode("ascii", "backslashreplace")
    return RejectedError(EvidenceReason.IMA_TEMPLATE_UNKNOWN, f"template {shown!r} is not one of those we read")


def _digest_text(field: bytes, *, typed: bool, shown: bytes) -> bytes:
    label, separator, value = field.partition(b":\0")
    if not separator:
        raise _malformed("a digest field has no algorithm")
    check_label(label, typed=typed)
    if len(value) != _HEADS[label][1] and (any(shown) or value != bytes(VIOLATION_DIGEST_SIZE)):
        raise digest_size_error(label, len(value))
    return _untyped(label) + b":" + hexlify(value)


def split_fields(template: bytes, data: bytes) -> list[bytes]:
    """The fields of template data, each of a known maximum length, with nothing left over."""
    fields = []
    offset = 0
    for _ in range(2 + _BLOBS.get(template, 0)):
        start = offset + 4
        if start > len(data):
            raise _malformed(f"template data of {len(data)} bytes ends before its fields do")
        offset = start + _read_u32(data, start - 4)[0]
        if offset > len(data) or offset - start > MAX_FIELD:
            raise _malformed(f"a field of {offset - start} bytes in template data of {len(data)}")
        fields.append(data[start:offset])
    if offset != len(data):
        raise _malformed(f"{len(data) - offset} bytes follow the template's fields")
    return fields


def from_binary(template: bytes, data: bytes, shown: bytes) -> Parts:
    """Parts of a binary entry of any template but ``ima``, which has no lengths."""
    digest, name, *_ = fields = split_fields(template, data)
    text = _digest_text(digest, typed=template in TYPED_DIGEST, shown=shown)
    if not 1 < len(name) <= MAX_PATH or name.find(b"\0") != len(name) - 1:
        raise _malformed("a name is empty, too long, or not a string with its zero at the end")
    if template == b"ima-modsig" and fields[3]:
        _digest_text(fields[3], typed=False, shown=shown)
    return data, text, name[:-1]


def from_binary_legacy(digest: bytes, path: bytes) -> Parts:
    """Parts of a binary entry of template ``ima``."""
    if not 0 < len(path) <= MAX_LEGACY_NAME or b"\0" in path:
        raise _malformed(f"template ima holds names of 1 to {MAX_LEGACY_NAME} bytes without zeros")
    return digest + path.ljust(MAX_LEGACY_NAME + 1, b"\0"), b"sha1:" + hexlify(digest), path
