"""Parsing of Linux IMA measurement lists, ``ascii_runtime_measurements`` and ``binary_runtime_measurements``.

Parsing believes nothing. Which of the entries really happened is for ``tpm.ima_replay`` to find out against a quoted
PCR 10, and whether they may have happened is for ``tpm.ima_rules``. The formats are those of
``security/integrity/ima/ima_fs.c`` and ``ima_template_lib.c``.
"""

import re
from io import BytesIO
from struct import Struct
from struct import error as StructError  # noqa: N812 -- it is a class
from typing import NoReturn

from tpm.errors import EvidenceError, MalformedError, RejectedError
from tpm.ima_entry import HASH_BY_SIZE, HASHERS, IMA_PCR, ImaEntries, ImaEntry, ImaList, Row
from tpm.ima_template import (
    FROM_TEXT,
    MAX_LEGACY_NAME,
    Parts,
    from_binary,
    from_binary_legacy,
    from_hex,
    template_unknown,
)
from tpm.reasons import EvidenceReason

__all__ = ["HASHERS", "IMA_PCR", "ImaEntries", "ImaEntry", "ImaList", "parse_ima_line", "parse_ima_list"]

# About half a million entries, months of a busy machine; a first round needs the whole list.
MAX_LIST_BYTES = 64 * 1024 * 1024
# Three fields of the largest size, the digest and the name.
MAX_TEMPLATE_DATA = 256 * 1024
# MAX_TEMPLATE_NAME_LEN of the kernel.
MAX_TEMPLATE_NAME = 255
LAST_PCR = 23

# What a text list may hold: printable ASCII, line ends, the bytes of UTF-8. A name with a control character cannot be
# told from the list's own structure, and such a list must come in its binary form.
_TEXT = bytes([0x0A, *range(0x20, 0x7F), *range(0x80, 0x100)])
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]")
_u32 = Struct("<I").unpack_from
_PCR_TEXT = re.compile(rb"[0-9]|[1-9][0-9]")


def parse_ima_list(data: bytes, *, format: str | None = None) -> ImaList:  # noqa: A002 -- the word users know
    """Parse a whole list, or the part of it from some entry on; an empty one is a list without entries.

    ``format`` is "ascii", "binary", or None to tell by the first bytes.

    Raises MalformedError ``ima.malformed`` or ``ima.too_large``; RejectedError ``ima.template_unknown``,
    ``ima.digest_alg`` or ``ima.wrong_pcr``. The detail names the line or entry, counted from 1.
    """
    if len(data) > MAX_LIST_BYTES:
        raise MalformedError(EvidenceReason.IMA_TOO_LARGE, f"over {MAX_LIST_BYTES} bytes")
    # A binary list starts with the PCR as a UINT32.
    found = format or ("binary" if data[1:4] == b"\0\0\0" else "ascii")
    if found == "ascii":
        rows = _parse_ascii(data)
    elif found == "binary":
        rows = _parse_binary(data)
    else:
        raise ValueError(f"a measurement list is 'ascii' or 'binary', not '{found}'")
    hash_alg = HASH_BY_SIZE[len(rows[0][0])] if rows else "sha1"
    return ImaList(found, hash_alg, ImaEntries(rows, hash_alg))


def parse_ima_line(line: bytes) -> ImaEntry:
    """Parse one line of a text list, without its line end. Raises what ``parse_ima_list`` does."""
    entries = parse_ima_list(line + b"\n", format="ascii").entries
    if len(entries) != 1:
        _malformed("one line is an entry, several are a list")
    return entries[0]


def _malformed(detail: str) -> NoReturn:
    raise MalformedError(EvidenceReason.IMA_MALFORMED, detail)


def _refuse_pcr(pcr: int) -> NoReturn:
    if pcr > LAST_PCR:
        _malformed(f"there is no PCR {pcr}")
    raise RejectedError(EvidenceReason.IMA_WRONG_PCR, f"PCR {pcr}, where measurements are expected in {IMA_PCR}")


def _located(error: EvidenceError, place: str) -> EvidenceError:
    return type(error)(error.reason, f"{place}: {error.detail}")


def _parse_ascii(data: bytes) -> list[Row]:
    if data and not data.endswith(b"\n"):
        _malformed("the last line is not ended; the list was cut")
    control = _CONTROL.search(data) if data.translate(None, _TEXT) else None
    if control:
        place = data.count(b"\n", 0, control.start()) + 1
        _malformed(f"line {place}: control character 0x{control.group()[0]:02x}")
    rows: list[Row] = []
    hash_size: int | None = None
    try:
        # Line by line: splitting at once costs many times the input where lines are short.
        for line in BytesIO(data):
            row = _ascii_row(line[:-1])
            if len(row[0]) != hash_size:
                hash_size = _same_size(hash_size, len(row[0]))
            rows.append(row)
    except EvidenceError as error:
        raise _located(error, f"line {len(rows) + 1}") from None
    return rows


def _ascii_row(line: bytes) -> Row:
    """``PCR hash template fields``, separated by single spaces."""
    try:
        pcr, digits, template, rest = line.split(b" ", 3)
    except ValueError:
        _malformed("not 'PCR hash template fields'")
    if pcr != b"10":
        if not _PCR_TEXT.fullmatch(pcr):
            _malformed("the PCR is not a plain decimal number")
        _refuse_pcr(int(pcr))
    shown = from_hex(digits, "template hash")
    parse = FROM_TEXT.get(template)
    if parse is None:
        _same_size(None, len(shown))
        raise template_unknown(template)
    data, text, path = parse(rest, shown)
    return shown, template, text, path, data


def _same_size(before: int | None, size: int) -> int:
    """The size of the template hash: one of four, the same in the whole list."""
    if size not in HASH_BY_SIZE or before not in (None, size):
        _malformed(f"a template hash of {size} bytes" + (f" in a list of {before}" if before else ""))
    return size


def _parse_binary(data: bytes) -> list[Row]:
    """UINT32 PCR, template hash, template name and template data with their UINT32 lengths; little-endian."""
    hash_size = _binary_hash_size(data)
    rows: list[Row] = []
    offset = 0
    try:
        while offset < len(data):
            row, offset = _binary_row(data, offset, hash_size)
            rows.append(row)
    except EvidenceError as error:
        raise _located(error, f"entry {len(rows) + 1}") from None
    return rows


def _binary_hash_size(data: bytes) -> int:
    """The list does not say how long its hashes are: the one size after which a known template's name stands."""
    for size in HASH_BY_SIZE:
        length = int.from_bytes(data[4 + size : 8 + size], "little")
        if length <= MAX_TEMPLATE_NAME and data[8 + size : 8 + size + length] in FROM_TEXT:
            return size
    return 20


def _binary_row(data: bytes, offset: int, hash_size: int) -> tuple[Row, int]:
    """The entry at ``offset``, and where the next one starts."""
    pcr, offset = _number(data, offset, "PCR")
    if pcr != IMA_PCR:
        _refuse_pcr(pcr)
    shown, offset = data[offset : offset + hash_size], offset + hash_size
    template, offset = _sized(data, offset, MAX_TEMPLATE_NAME, "template name")
    parts: Parts
    if template == b"ima":
        digest, offset = data[offset : offset + 20], offset + 20
        name, offset = _sized(data, offset, MAX_LEGACY_NAME, "name")
        parts = from_binary_legacy(digest, name)
    elif template in FROM_TEXT:
        fields, offset = _sized(data, offset, MAX_TEMPLATE_DATA, "template data")
        parts = from_binary(template, fields, shown)
    else:
        raise template_unknown(template)
    return (shown, template, parts[1], parts[2], parts[0]), offset


def _number(data: bytes, offset: int, what: str) -> tuple[int, int]:
    try:
        return _u32(data, offset)[0], offset + 4
    except StructError:
        _malformed(f"{what} is cut off at offset {offset}")


def _sized(data: bytes, offset: int, maximum: int, what: str) -> tuple[bytes, int]:
    """A UINT32 length and that many bytes. Whatever stands before it is complete when this is."""
    size, offset = _number(data, offset, f"the length of the {what}")
    end = offset + size
    if size > maximum or end > len(data):
        left = len(data) - offset
        _malformed(f"a {what} of {size} bytes at offset {offset}; {left} are left, {maximum} are possible")
    return data[offset:end], end
