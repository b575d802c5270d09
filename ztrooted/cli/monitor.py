"""``ztrooted audit monitor``: watch a log from outside, and raise the alarm."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ztrooted import limits
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.bundle import parse_bundle
from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.files import about, read
from ztrooted.cli.output import JsonFlag, errors, show
from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

STALE_S = 7200.0


def monitor(
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where every checkpoint seen is kept.")],
    anchors: Annotated[
        Path, typer.Option(help="Trust anchors, from the gateway's operator: ztrooted gateway anchors.", metavar="FILE")
    ],
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    stale_after: Annotated[
        float, typer.Option(min=1, help="Seconds without a new checkpoint that are an alarm.")
    ] = STALE_S,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare a checkpoint, or a bundle's, that came another way; and end."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Watch a log: each checkpoint must be signed, sealed, and go on from the one before. Exit code 1 is the alarm, with
    both checkpoints kept as evidence."""
    trusted = parse_anchors(read(anchors, limits.BODY, GateReason.CONFIG_INVALID), str(anchors))
    elsewhere = None if checkpoint is None else _Elsewhere(checkpoint, _note(checkpoint))
    try:
        asyncio.run(_watch(gateway, ca, token_file, folder, trusted, interval, once, stale_after, elsewhere, json=json))
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_OUTPUT, f"{folder} can't be read or written: {error}", "name another folder"
        ) from error


async def _watch(
    gateway: str,
    ca: Path,
    token_file: Path,
    folder: Path,
    anchors: Anchors,
    interval: float,
    once: bool,
    stale_after: float,
    elsewhere: "_Elsewhere | None",
    *,
    json: bool,
) -> None:
    from ztrooted.audit import check_identity  # noqa: PLC0415 -- loads what --help has no use for
    from ztrooted.gateway_attestation import verify_gateway  # noqa: PLC0415
    from ztrooted.log_memory import LogMemory  # noqa: PLC0415
    from ztrooted.monitor import Monitor  # noqa: PLC0415

    async with connect(gateway, ca, token_file) as client:
        client.memory = LogMemory(client.url)  # the folder is the memory here, and it has the notes
        nonce = os.urandom(limits.NONCE)
        answer = await client.attestation(nonce)
        verify_gateway(answer, anchors, nonce)
        counter = check_identity(answer.identity.model_dump(), anchors)
        watching = Monitor(folder, anchors, counter, SystemClock(), stale_s=stale_after)

        async def prove(old: int, new: int) -> list[bytes]:
            found = await client.consistency(f"/v1/log/consistency?from={old}&to={new}")
            return [bytes.fromhex(one) for one in found.hashes]

        while True:
            try:
                client.memory = LogMemory(client.url)
                note = await client.log_file("checkpoint")
                with about(folder):
                    done = await watching.look(note, prove)
                grown = f"{done.size - done.before} new" if done.size > done.before else "nothing new"
                show(done.encode(), f"{done.size} records, {grown}; root {done.root.hex()}", json=json)
            except EnvironmentProblem as error:
                if once or elsewhere is not None or error.reason != GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE:
                    raise
                errors.print(f"not reached: {error.detail}", markup=False)
                watching.check_age()
            if elsewhere is not None:
                with about(elsewhere.file):
                    other = await watching.compare(elsewhere.note, prove)
                show(
                    {"consistent": True, "size": other.size, "root": other.root.hex()},
                    f"The checkpoint of {other.size} records is of this log.",
                    json=json,
                )
            if once or elsewhere is not None:
                return
            await asyncio.sleep(interval)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A checkpoint that came another way, and the file it is in."""

    file: Path
    note: bytes


def _note(file: Path) -> bytes:
    """The note in a file, which is a checkpoint or a bundle."""
    data = read(file, limits.BUNDLE, GateReason.BUNDLE_TOO_LARGE)
    if data[:1] == b"{" or data[:2] == b"\x1f\x8b":
        with about(file):
            return parse_bundle(data).checkpoint
    return data
