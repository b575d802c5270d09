"""Asks the configured witnesses for their cosignatures of a checkpoint (C2SP tlog-witness).

A witness remembers the newest checkpoint that it cosigned, and cosigns only what that one grew into. So a database that
is not the one it was, and a second gateway on a copy of it, find no witness any more: ``checkpoint.split_view``.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import structlog

from gateway.metrics import Metrics
from gateway.storage import lineage
from gateway.storage.database import Database
from gateway.witness_config import WitnessConfig
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint
from ztrooted.clock import Clock
from ztrooted.errors import GateError, ProofError
from ztrooted.note import MAX_SIZE_DIGITS, Signature, format_note, parse_note, tree_head
from ztrooted.note_keys import NoteKey, check_signature
from ztrooted.reasons import GateReason
from ztrooted.witness import SIZE_TYPE, format_request

log = structlog.get_logger()

ASK_S = 5.0  # for one witness, with what it remembers asked for and told
MAX_ASKED = (
    3  # times in a row: once to hear what it remembers, once for real, once more where another answer was under way
)
MAX_ANSWER = 64 << 10  # bytes; a witness has a handful of keys, and a post-quantum line has 3 KiB
SKEW_S = 300  # between the witness's clock and ours: an answer from long ago says nothing about now


@dataclass(slots=True)
class _Witness:
    """One witness. ``size`` is what it remembers, as far as it told us."""

    url: str
    key: NoteKey
    size: int = 0


class Witnesses:
    """Everybody who may cosign."""

    def __init__(self, configured: Sequence[WitnessConfig], database: Database, clock: Clock, metrics: Metrics) -> None:
        self._witnesses = [_Witness(one.url, one.key) for one in configured]
        self._database = database
        self._clock = clock
        self._metrics = metrics

    @property
    def keys(self) -> list[NoteKey]:
        """Whose cosignatures are known."""
        return [one.key for one in self._witnesses]

    async def cosign(self, checkpoint: Checkpoint, signed: Signature) -> list[Signature]:
        """The verified cosignature of each witness that gave one, of a checkpoint whose records are on disk.

        ``signed`` is the log key's signature; more than it needs to know is not told to a witness. Who fails is logged
        and counted, and does not hold up the others.
        """
        if not self._witnesses:
            return []
        note = format_note(checkpoint.text, [signed])
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S), auto_decompress=False) as http:
            found = await asyncio.gather(*(self._ask(http, one, checkpoint, note) for one in self._witnesses))
        lines = [line for line in found if line is not None]
        self._metrics.cosigners.set(len(lines))
        return lines

    async def _ask(
        self, http: aiohttp.ClientSession, witness: _Witness, checkpoint: Checkpoint, note: bytes
    ) -> Signature | None:
        try:
            async with asyncio.timeout(ASK_S):
                return await self._request(http, witness, checkpoint, note)
        except GateError as error:
            reason, detail = error.reason, error.detail
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason, detail = GateReason.WITNESS_UNREACHABLE, (str(error) or type(error).__name__)[:200]
        self._metrics.witness_failures.labels(witness.key.name).inc()
        log.error("not cosigned", witness=witness.key.name, size=checkpoint.size, code=str(reason), detail=detail)
        return None

    async def _request(
        self, http: aiohttp.ClientSession, witness: _Witness, checkpoint: Checkpoint, note: bytes
    ) -> Signature:
        for _ in range(MAX_ASKED):
            old = witness.size
            if old > checkpoint.size:
                witness.size = 0  # it is asked anew the next time: it may have erred
                raise _split(f"it cosigned {old} records, and this database has {checkpoint.size}")
            body = format_request(old, self._proof(old, checkpoint.size), note)
            async with http.post(f"{witness.url}/add-checkpoint", data=body, allow_redirects=False) as answer:
                data = await _read(answer)
                if answer.status == 409:
                    witness.size = _remembered(answer, data)
                    if witness.size == old == checkpoint.size:
                        raise _split(f"it cosigned other records than this database's {old}")
                    continue
                if answer.status == 422 and old:
                    raise _split(f"the {old} records that it cosigned are not the first ones of this database")
                if answer.status != 200:
                    raise _answer(f"it answered {answer.status}: {data[:200].decode('ascii', 'replace')!r}")
            line = self._verified(witness, checkpoint, data)
            witness.size = checkpoint.size
            return line
        raise _answer("it remembers another size each time")

    def _proof(self, old: int, new: int) -> list[bytes]:
        if old in {0, new}:
            return []
        return merkle.consistency_proof(old, new, lineage.Reader(self._database.reading).read)

    def _verified(self, witness: _Witness, checkpoint: Checkpoint, data: bytes) -> Signature:
        """The line of the key that we know; lines of others are none of our business."""
        key = witness.key
        try:
            lines = parse_note(checkpoint.text + b"\n" + data).signatures
            line = next((one for one in lines if (one.name, one.key_id) == (key.name, key.key_id)), None)
            if line is None:
                raise _answer(f"there is no cosignature by {key.name} ({key.key_id:08x}) in its answer")
            time_s = check_signature(key, checkpoint.text, tree_head(checkpoint.text), line.value)
        except ProofError as error:
            raise _answer(error.detail) from error
        if time_s is None or abs(time_s - self._clock.now_ms() // 1000) > SKEW_S:
            raise _answer(f"its cosignature is of another time than now: {time_s}")
        return line


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    data = b""
    async for chunk in answer.content.iter_any():
        data += chunk
        if len(data) > MAX_ANSWER:
            raise _answer(f"its answer is over {MAX_ANSWER} bytes")
    return data


def _remembered(answer: aiohttp.ClientResponse, data: bytes) -> int:
    digits = data.removesuffix(b"\n")
    canonical = digits.isdigit() and len(digits) <= MAX_SIZE_DIGITS and digits == b"%d" % int(digits)
    if answer.content_type != SIZE_TYPE or not canonical:
        raise _answer("it answered 409 without the size that it remembers")
    return int(digits)


def _answer(detail: str) -> GateError:
    return GateError(GateReason.WITNESS_ANSWER, detail)


def _split(detail: str) -> GateError:
    return GateError(GateReason.CHECKPOINT_SPLIT_VIEW, detail)
