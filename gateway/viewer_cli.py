"""``ztrooted viewer``: the proof viewer as a file."""

from pathlib import Path
from typing import Annotated

import typer

from ztrooted.cli.files import write
from ztrooted.cli.output import JsonFlag, show

app = typer.Typer()


@app.callback(invoke_without_command=True)
def viewer(
    save: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it; what is there is replaced.")],
    json: JsonFlag = False,
) -> None:
    """Write the proof viewer as one HTML file. A browser opens it without a network and without this gateway.

    Bundles and anchors are checked in it as in 'ztrooted audit verify', by a second verifier that is not written in Python.
    """
    from gateway.console.saved import saved_viewer  # noqa: PLC0415 -- loads what --help has no use for

    data = saved_viewer().encode()
    write(save, data)
    show(
        {"file": str(save), "bytes": len(data)},
        f"Wrote {save}. Open it in a browser; nothing that you choose there leaves it.",
        json=json,
    )
