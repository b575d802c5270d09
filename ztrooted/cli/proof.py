"""``ztrooted audit proof`` and ``check-proof``: one record of a log, proved by a text that other tools read, too."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ztrooted import limits
from ztrooted.anchors import parse_anchors
from ztrooted.bundle import parse_bundle
from ztrooted.cli.connection import connect
from ztrooted.cli.files import about, read, read_at_most, write
from ztrooted.cli.output import JsonFlag, show
from ztrooted.clock import instant
from ztrooted.errors import UsageProblem
from ztrooted.reasons import GateReason
from ztrooted.tlog_proof import MAX_TLOG_PROOF, format_tlog_proof

_REMEDY = "'ztrooted audit proof' writes it"


def proof(
    record: Annotated[int, typer.Argument(min=0, metavar="INDEX", help="Which record, counted from 0.")],
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take it from this bundle; otherwise it is the gateway's.")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(envvar="ZTROOTED_GATEWAY", metavar="URL", help="The gateway, with the next two.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(envvar="ZTROOTED_CA", metavar="PEM", help="Its CA.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(envvar="ZTROOTED_TOKEN_FILE", metavar="FILE", help="File with an auditor's token."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the proof there, not here.")
    ] = None,
    record_output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the record itself there, which is what is proved.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Print the proof that a record is in the log (C2SP tlog-proof). It is checked with the record and anchors."""
    from ztrooted.record_proof import RecordProof, proof_from_bundle, proof_from_log  # noqa: PLC0415 -- not for --help

    if bundle is not None:
        with about(bundle):
            found = proof_from_bundle(parse_bundle(read_at_most(bundle, limits.BUNDLE)), record)
    elif gateway is not None and ca is not None and token_file is not None:

        async def fetch(url: str, pem: Path, token: Path) -> RecordProof:
            async with connect(url, pem, token) as client:
                return await proof_from_log(client.log_file, record)

        found = asyncio.run(fetch(gateway, ca, token_file))
    else:
        raise UsageProblem(
            GateReason.CONFIG_INVALID,
            "nothing says where the record is",
            "give --bundle, or --gateway, --ca, --token-file",
        )
    text = format_tlog_proof(found.proof)
    if record_output is not None:
        write(record_output, found.record)
    if output is not None:
        write(output, text)
    said = {
        "index": record,
        "size": found.checkpoint.size,
        "origin": found.checkpoint.origin,
        "proof": text.decode(),
        "record": found.record.decode(),
    }
    wrote = f"Wrote the proof of record {record} below {found.checkpoint.size} to {output}."
    show(said, text.decode().removesuffix("\n") if output is None else wrote, json=json)


def check_proof(
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="What 'ztrooted audit proof' has written.")],
    record: Annotated[Path, typer.Option(metavar="FILE", help="The record that is to be proved, byte for byte.")],
    anchors: Annotated[
        Path, typer.Option(metavar="FILE", help="Trust anchors, from the gateway's operator: ztrooted gateway anchors.")
    ],
    json: JsonFlag = False,
) -> None:
    """Check the proof of a record offline: its place, and the checkpoint's signatures and seal. Exit code 0 only if all
    of it holds."""
    from ztrooted.record_proof import verify_record_proof  # noqa: PLC0415 -- loads what --help has no use for

    trusted = parse_anchors(read(anchors, limits.BODY, GateReason.CONFIG_INVALID), str(anchors))
    text, data = read_at_most(proof, MAX_TLOG_PROOF, _REMEDY), read_at_most(record, limits.RECORD, _REMEDY)
    with about(proof):
        proven = verify_record_proof(text, data, trusted)
    covered, of = proven.checkpoint.checkpoint, proven.record.authorization
    when = instant(proven.record.at, "milliseconds")
    lines = [
        f"Record {proven.index} of {covered.origin}: {proven.record.type}, {when}",
        *([f"of authorization {of}"] if of is not None else []),
        f"Proved below a sealed checkpoint of {covered.size} records.",
    ]
    show(proven.encode(), "\n".join(lines), json=json)
