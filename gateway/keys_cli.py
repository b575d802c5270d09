"""``ztrooted gateway seal-keys|recovery-export|recovery-import``: the keys of a gateway that is stopped."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ztrooted.cli.files import read_at_most
from ztrooted.cli.output import JsonFlag, show

app = typer.Typer()

DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="The gateway's data folder.")]
Export = Annotated[Path, typer.Argument(metavar="FILE", help="The recovery export.")]
Passphrase = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="The passphrase: the first line of a file that only you can read, 16 bytes or more."
    ),
]
Operator = Annotated[str, typer.Option(help="Who does this; it is recorded.")]
Why = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command()
def seal_keys(data: DataFolder, operator: Operator, reason: Why, json: JsonFlag = False) -> None:
    """Seal keys that lie in the clear, as gateways once kept them, to the TPM, and remove the clear ones.

    Copies that were made before, backups among them, still have them: where one may be in wrong hands, make a new gateway.
    """
    from gateway.config import load_config  # noqa: PLC0415 -- loads what --help has no use for
    from gateway.recovery import seal_keys as run  # noqa: PLC0415
    from ztrooted.logs import configure  # noqa: PLC0415

    configure(quiet=True)
    done = asyncio.run(run(load_config(data), operator=operator, reason=reason))
    said = f"Sealed {', '.join(done['keys'])}; record {done['size'] - 1} says so."
    show(done, f"{said} Older backups still have them in the clear.", json=json)


@app.command()
def recovery_export(
    data: DataFolder, file: Export, passphrase_file: Passphrase, operator: Operator, reason: Why, json: JsonFlag = False
) -> None:
    """Write the gateway's CA and TLS keys to a new file, under a passphrase, for the day its TPM is gone.

    Whoever has both can be this gateway to its clients, and enroll executors of his own: keep them apart, and offline.
    """
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.recovery import export  # noqa: PLC0415
    from gateway.recovery_export import read_passphrase  # noqa: PLC0415
    from ztrooted.logs import configure  # noqa: PLC0415

    configure(quiet=True)
    config, passphrase = load_config(data), read_passphrase(passphrase_file)
    done = asyncio.run(export(config, file, passphrase, operator=operator, reason=reason))
    typer.echo(
        f"Warning: {file} and its passphrase together are this gateway's CA on any machine. Keep them apart, and offline;"
        " no TPM protects them, and an export can't be called back.",
        err=True,
    )
    show(done, f"Wrote the keys to {file}; record {done['size'] - 1} says so.", json=json)


@app.command()
def recovery_import(
    data: DataFolder, file: Export, passphrase_file: Passphrase, operator: Operator, reason: Why, json: JsonFlag = False
) -> None:
    """Seal the keys of an export anew, where the gateway's sealed keys are lost or damaged and its TPM is not.

    With another TPM, make a new gateway that takes them over: 'ztrooted gateway init --recovery FILE'.
    """
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.recovery import restore_keys  # noqa: PLC0415
    from gateway.recovery_export import MAX_EXPORT, read_passphrase, unpack  # noqa: PLC0415
    from ztrooted.logs import configure  # noqa: PLC0415

    configure(quiet=True)
    config = load_config(data)
    recovered = unpack(read_at_most(file, MAX_EXPORT), read_passphrase(passphrase_file))
    done = asyncio.run(restore_keys(config, recovered, operator=operator, reason=reason))
    lost = f" Not in the export, and lost: {', '.join(done['lost'])}." if done["lost"] else ""
    show(done, f"Restored and sealed the keys; record {done['size'] - 1} says so.{lost}", json=json)
