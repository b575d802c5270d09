"""Writes IMA entries the way the kernel does, for simulated machines. Nothing that verifies imports this module."""

import hashlib
from dataclasses import dataclass
from struct import pack

from tpm.algorithms import BANK_BY_NAME

IMA_PCR = 10


@dataclass(frozen=True, slots=True)
class ImaWritten:
    """One entry in both list formats, and what PCR 10 is extended with in each bank."""

    ascii: bytes
    binary: bytes
    extends: dict[str, bytes]


def _field(data: bytes) -> bytes:
    return pack("<I", len(data)) + data


def ima_entry(
    path: str,
    file_digest: bytes,
    alg: str = "sha256",
    template: str = "ima-ng",
    *,
    blob: bytes = b"",
    violation: bool = False,
) -> ImaWritten:
    """An entry of ``ima-ng``, ``ima-ngv2``, ``ima-sig``, ``ima-sigv2`` or ``ima-buf``.

    ``blob`` is the signature or buffer of the templates that have one. Spaces of ``path`` become underscores and a
    violation's hash is all zeros in the list and all ones in the PCRs, as in the kernel.
    """
    if template not in {"ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf"}:
        raise ValueError(f"no writer for template {template}")
    name = path.replace(" ", "_").encode("utf-8", "surrogateescape")
    label = (f"ima:{alg}:" if template.endswith("v2") else f"{alg}:").encode()
    has_blob = template not in {"ima-ng", "ima-ngv2"}
    data = _field(label + b"\0" + file_digest) + _field(name + b"\0") + (_field(blob) if has_blob else b"")
    hashes = {bank: hashlib.new(bank, data, usedforsecurity=False).digest() for bank in BANK_BY_NAME}
    shown = bytes(20) if violation else hashes["sha1"]
    line = b"%d %s %s %s%s %s" % (
        IMA_PCR,
        shown.hex().encode(),
        template.encode(),
        label,
        file_digest.hex().encode(),
        name,
    )
    header = pack("<I", IMA_PCR) + shown + _field(template.encode())
    return ImaWritten(
        ascii=line + (b" " + blob.hex().encode() if has_blob else b"") + b"\n",
        binary=header + _field(data),
        extends={bank: b"\xff" * len(value) if violation else value for bank, value in hashes.items()},
    )
