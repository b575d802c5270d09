"""PCR values and selections as people and scripts write them: JSON, ``sha256:0,1,7``, hexadecimal.

These are a caller's words and not evidence, so what is wrong with them is a ValueError that says it to a person.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tpm.algorithms import BANK_BY_NAME
from tpm.pcr import PCR_COUNT, PcrSelection

PcrTable = dict[str, dict[int, bytes]]

_SELECTION = re.compile(r"[a-z0-9]+:\d+(-\d+)?(,\d+(-\d+)?)*(\+[a-z0-9]+:\d+(-\d+)?(,\d+(-\d+)?)*)*")


def parse_pcr_values(text: str, bank: str | None = None) -> PcrTable:
    """Read ``{"sha256": {"0": "<hex>", …}}``, the same inside ``{"pcrs": …}``, or one bank's ``{"0": "<hex>", …}``.

    Values that name no bank are of ``bank``, or of SHA-256. ValueError for anything else. The length of values is not
    looked at: that is the verifier's.
    """
    table = _object(text)
    if "pcrs" in table:
        table = table["pcrs"]
    if not isinstance(table, dict) or not table:
        raise ValueError("there are no PCR values in it")
    if not any(isinstance(value, dict) for value in table.values()):
        table = {bank or "sha256": table}
    for name, values in table.items():
        if name not in BANK_BY_NAME or not isinstance(values, dict):
            raise ValueError(f"{name!r} is not a bank; the banks are {', '.join(BANK_BY_NAME)}")
    return {name: _values(values) for name, values in table.items()}


def _values(values: Mapping[str, Any]) -> dict[int, bytes]:
    parsed = {_index(index): parse_hex(value, f"PCR {index}") for index, value in values.items()}
    if len(parsed) != len(values):
        raise ValueError("a PCR is listed twice")
    return parsed


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= PCR_COUNT:
        raise ValueError(f"{text!r} is not the number of a PCR")
    return int(text)


def parse_pcr10(text: str, bank: str | None = None) -> dict[str, bytes]:
    """Read PCR 10 alone: ``<hex>``, ``{"sha256": "<hex>"}``, or PCR values of which it is one. ValueError otherwise.

    The bank of a bare value is told by its length.
    """
    if not text.lstrip().startswith("{"):
        value = parse_hex(text.strip(), "PCR 10")
        return {bank or bank_of_size(len(value)): value}
    table = _object(text)
    if table and all(name in BANK_BY_NAME and isinstance(value, str) for name, value in table.items()):
        return {name: parse_hex(value, f"PCR 10 of {name}") for name, value in table.items()}
    found = {name: values[10] for name, values in parse_pcr_values(text, bank).items() if 10 in values}
    if not found:
        raise ValueError("PCR 10 is not among the values")
    return found


def bank_of_size(size: int) -> str:
    """The bank whose values have ``size`` bytes; ValueError where there is none."""
    for name, length in (("sha1", 20), ("sha256", 32), ("sha384", 48), ("sha512", 64)):
        if size == length:
            return name
    raise ValueError(f"no PCR bank has values of {size} bytes")


def parse_selection(text: str) -> PcrSelection:
    """Read ``sha256:0,1,7-9`` (several banks joined by ``+``) or ``{"sha256": [0, 1]}``. ValueError otherwise."""
    if text.lstrip().startswith("{"):
        table = _object(text)
        if not all(isinstance(listed, list) and all(type(i) is int for i in listed) for listed in table.values()):
            raise ValueError("a selection is an object of lists of PCR numbers")
        return PcrSelection.of(table)
    if not _SELECTION.fullmatch(text.strip()):
        raise ValueError("a selection is written like sha256:0,1,7-9, banks joined by +")
    banks: dict[str, list[int]] = {}
    for part in text.strip().split("+"):
        name, _, listed = part.partition(":")
        if name in banks:
            raise ValueError(f"bank {name} is selected twice")
        banks[name] = [index for item in listed.split(",") for index in _range(item)]
    return PcrSelection.of(banks)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(_index(first), _index(last or first) + 1)


def parse_hex(text: Any, what: str) -> bytes:
    """Hexadecimal, with or without ``0x``, as bytes. ValueError naming ``what``."""
    if isinstance(text, str) and re.fullmatch(r"(0[xX])?([0-9a-fA-F]{2})*", text):
        return bytes.fromhex(text[2:] if text[:2] in ("0x", "0X") else text)
    raise ValueError(f"{what} is not hexadecimal")


def _object(text: str) -> dict[str, Any]:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a member is there twice")
        return made

    try:
        value = json.loads(text, object_pairs_hook=members)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("a JSON object was expected")
    return value
