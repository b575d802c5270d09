"""Strict, bounded reading of big-endian TPM structures and little-endian firmware and kernel structures.

A reader never returns fewer bytes than asked for, never reads past its end, and is only finished when ``done`` was
called with nothing left over. What it raises is chosen by its owner, so that a short quote is ``quote.malformed`` and a
short event log ``log.malformed``.
"""

from collections.abc import Callable
from typing import Literal, NoReturn, TypeVar

from tpm.errors import MalformedError
from tpm.reasons import EvidenceReason

T = TypeVar("T")


class Reader:
    """A cursor over ``data``. ``reason`` is the code for every malformation, ``trailing`` the one for bytes left over."""

    __slots__ = ("_order", "_reason", "_trailing", "data", "offset")

    def __init__(
        self,
        data: bytes,
        reason: EvidenceReason,
        *,
        trailing: EvidenceReason | None = None,
        little_endian: bool = False,
    ) -> None:
        self.data = data
        self.offset = 0
        self._reason = reason
        self._trailing = trailing or reason
        self._order: Literal["little", "big"] = "little" if little_endian else "big"

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.offset

    def fail(self, detail: str) -> NoReturn:
        """Refuse the data at the current offset."""
        raise MalformedError(self._reason, f"{detail} at offset {self.offset}")

    def take(self, size: int, what: str) -> bytes:
        """Return exactly ``size`` bytes."""
        end = self.offset + size
        if size < 0 or end > len(self.data):
            self.fail(f"{what} needs {size} bytes, {self.remaining} are left")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def _integer(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), self._order)

    def u8(self, what: str) -> int:
        """One byte."""
        return self._integer(1, what)

    def u16(self, what: str) -> int:
        """A UINT16."""
        return self._integer(2, what)

    def u32(self, what: str) -> int:
        """A UINT32."""
        return self._integer(4, what)

    def u64(self, what: str) -> int:
        """A UINT64."""
        return self._integer(8, what)

    def sized(self, maximum: int, what: str) -> bytes:
        """A TPM2B: a UINT16 size, at most ``maximum``, and that many bytes (Part 2 §10.4)."""
        data = self.data
        start = self.offset + 2
        if start > len(data):
            self.fail(f"size of {what} needs 2 bytes, {self.remaining} are left")
        size = int.from_bytes(data[start - 2 : start], self._order)
        self.offset = start
        if size > maximum:
            self.fail(f"{what} of {size} bytes is over its maximum of {maximum}")
        # As ``take`` does it, without the call: each quote has five of these.
        end = start + size
        if end > len(data):
            self.fail(f"{what} needs {size} bytes, {self.remaining} are left")
        self.offset = end
        return data[start:end]

    def many(self, count: int, maximum: int, read: Callable[[], T], what: str) -> tuple[T, ...]:
        """``count`` items, at most ``maximum``, each read by ``read``."""
        if count > maximum:
            self.fail(f"{count} {what} are over the maximum of {maximum}")
        return tuple(read() for _ in range(count))

    def done(self, what: str) -> None:
        """Refuse anything left over."""
        if self.remaining:
            raise MalformedError(self._trailing, f"{self.remaining} bytes follow the end of {what}")
