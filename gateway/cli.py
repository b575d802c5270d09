"""``ztrooted gateway …``: everything an operator does on the gateway's own machine."""

import asyncio
import gc
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.config_cli import app as config_app
from gateway.config_cli import flags_of
from gateway.keys_cli import app as keys_app
from ztrooted import canonical
from ztrooted.cli.executor import tpm_address
from ztrooted.cli.files import new_secret, read_at_most
from ztrooted.cli.output import JsonFlag, Version, show
from ztrooted.clock import instant
from ztrooted.errors import UsageProblem
from ztrooted.reasons import GateReason

app = typer.Typer(no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(keys_app)  # its commands stand beside ours

COLLECT_AFTER = (50_000, 20, 50)  # objects of the youngest generation, and times of the younger ones


@app.callback()
def about(version: Version = False) -> None:
    """Run a gateway: create its data folder, serve, hand out tokens and anchors."""


DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="The gateway's data folder.")]


@app.command()
def init(
    data: DataFolder,
    tpm: Annotated[
        str,
        typer.Option(
            help="The gateway's TPM: device:/dev/tpmrm0, or swtpm:/abs/state for a managed software TPM.",
            metavar="ADDRESS",
            callback=tpm_address,
        ),
    ],
    trust_domain: Annotated[str, typer.Option(help="A DNS-like name; executors become spiffe://NAME/executor/…")],
    ek_roots: Annotated[
        list[Path], typer.Option(help="PEM file, or folder of them: roots that vouch for executors' TPMs.")
    ],
    ek_vendor: Annotated[
        list[str] | None,
        typer.Option(help="TCG vendor id to accept, such as id:494E5443. Default: every registered hardware maker."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8443,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host name or address for the TLS certificate. Default: host and this machine."),
    ] = None,
    approver: Annotated[
        Path | None,
        typer.Option(
            help="Private key (PEM, P-256) of who may approve another state of this machine (see 'gateway reseal')."
            " Used once; keep it elsewhere. Default: the gateway's keys work in the present state only, for ever.",
            metavar="KEY",
        ),
    ] = None,
    recovery: Annotated[
        Path | None,
        typer.Option(
            help="Take over the CAs and keys of an older gateway of this trust domain, from its recovery export.",
            metavar="FILE",
        ),
    ] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="The passphrase of --recovery.", metavar="FILE")] = None,
    json: JsonFlag = False,
) -> None:
    """Create a gateway: keys in the TPM, certificates, starter policies. Complete or not at all."""
    from gateway.recovery_export import MAX_EXPORT, read_passphrase, unpack  # noqa: PLC0415
    from gateway.setup import create_data_folder  # noqa: PLC0415 -- loads the TSS, which --help has no use for

    if (recovery is None) != (passphrase_file is None):
        raise UsageProblem(
            GateReason.RECOVERY_PASSPHRASE, "--recovery and --passphrase-file go together", "give both, or none"
        )
    recovered = None
    if recovery is not None and passphrase_file is not None:
        recovered = unpack(read_at_most(recovery, MAX_EXPORT), read_passphrase(passphrase_file))
    summary = create_data_folder(
        data,
        tpm=tpm,
        trust_domain=trust_domain,
        ek_roots=ek_roots,
        ek_vendors=ek_vendor or [],
        host=host,
        port=port,
        names=name or list(dict.fromkeys([host, "localhost", socket.gethostname()])),
        approver=approver,
        recovered=recovered,
    )
    lines = [
        f"Created a gateway in {summary['data']}.",
        f"Its TPM is {'a software TPM (virtual)' if summary['virtual_tpm'] else 'hardware'}: {tpm}",
        f"Review policy/appraisal.toml and policy/dispatch.cedar, then: ztrooted gateway serve {data}",
    ]
    show(summary, "\n".join(lines), json=json)


@app.command()
def serve(
    data: DataFolder,
    host: Annotated[str | None, typer.Option(help="Listen here instead of where the configuration says.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Likewise; 0 takes a free port.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every message.")] = False,
    demo: Annotated[Path | None, typer.Option(hidden=True, help="Folder of 'ztrooted demo --console'.")] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Logs are lines on standard error, in the form of the setting 'log_format'."""
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.serving import serve as run  # noqa: PLC0415
    from ztrooted.logs import configure, take_over  # noqa: PLC0415

    configure(verbose=verbose)
    take_over()
    flags = flags_of(host, port, verbose=verbose)
    # What was imported stays for ever, and reference counts free nearly all of the rest: looking for cycles as often as
    # Python does by default would take a seventh of the time, and a walk over all connections at once is a long pause.
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    config = load_config(data, **flags)
    configure(verbose=config.log_level == "debug", form=config.log_format)
    raise typer.Exit(asyncio.run(run(config, flags=flags, demo=demo)))


@app.command()
def fsck(data: DataFolder, json: JsonFlag = False) -> None:
    """Look at everything in the database and say what is wrong; exit code 1 if anything is. The gateway may run.

    Derives the tree, its tiles and every table from the records anew, and verifies every digest, checkpoint, anchor and
    artifact. It only reads, and asks no TPM.
    """
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.fsck import fsck as run  # noqa: PLC0415
    from gateway.fsck import summary  # noqa: PLC0415

    count, found = run(load_config(data), progress)
    findings = []
    for one in found:
        findings.append(one)
        if not json:
            typer.echo(f"{one.where}: {one.detail} ({one.reason})")
    last = f"{count} records: {'sound' if not findings else f'{len(findings)} findings'}"
    show(summary(count, findings), last, json=json)
    raise typer.Exit(1 if findings else 0)


def progress(done: int, of: int) -> None:
    """One line on a terminal that is written again and again."""
    if sys.stderr.isatty() and of:
        line = f"\r{done:,} of {of:,} records ({done * 100 // of} %)"
        typer.echo(line, err=True, nl=done == of)


@app.command()
def backup(
    data: DataFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file to write: an archive for its owner only.")],
    json: JsonFlag = False,
) -> None:
    """Copy the data folder into one file, as of one instant. The gateway may run. It holds secrets: keep it safe."""
    from gateway.backup import backup as run  # noqa: PLC0415
    from gateway.config import load_config  # noqa: PLC0415

    done = run(load_config(data), file.absolute())
    show(done, f"Wrote {done['files']} files and {done['records']} records to {file}.", json=json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'gateway backup' has written.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The new data folder; it must not be there yet.")],
    json: JsonFlag = False,
) -> None:
    """Make a data folder of a backup. Its database is an older one, which 'recover' has to put on the record."""
    from gateway.backup import restore as run  # noqa: PLC0415

    done = run(file, data)
    text = f"Restored {done['files']} files to {data}. If the start is refused: ztrooted gateway recover {data}"
    show(done, text, json=json)


@app.command()
def recover(
    data: DataFolder,
    operator: Annotated[str, typer.Option(help="Who decides this; it is recorded.")],
    reason: Annotated[str, typer.Option(help="Why the newest database is gone; it is recorded.")],
    json: JsonFlag = False,
) -> None:
    """Go on from an older database, or without the TPM's counter, once the newest one is lost for good.

    What was in the lost records is gone; that it is, the log shows from now on.
    """
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.recover import recover as run  # noqa: PLC0415
    from ztrooted.logs import configure  # noqa: PLC0415

    configure(quiet=True)
    config = load_config(data)
    done = asyncio.run(run(config, operator=operator, reason=reason))
    show(
        done,
        f"Recovered: the TPM's counter was {done['counter']}, the database knew {done['anchored']}, both are {done['now']}"
        f" now. Record {int(str(done['size'])) - 1} says so.",
        json=json,
    )


@app.command()
def reseal(
    data: DataFolder,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only write what the approver has to see to this new file.")
    ] = None,
    approval: Annotated[Path | None, typer.Option(metavar="FILE", help="What 'gateway approve' has written.")] = None,
    approver: Annotated[
        Path | None, typer.Option(metavar="KEY", help="The approver's key, where it is at hand: approve at once.")
    ] = None,
    operator: Annotated[str, typer.Option(help="Who does this; it is recorded.")] = "",
    reason: Annotated[str, typer.Option(help="What was changed on the machine; it is recorded.")] = "",
    json: JsonFlag = False,
) -> None:
    """Go on in another state of this machine, such as after a firmware update, once its approver has signed for it.

    Keys and lineage stay. The old state is over: the TPM takes no approval again that is older than the newest one.
    Exactly one of --request, --approval and --approver. The gateway must be stopped.
    """
    from gateway import reseal as resealing  # noqa: PLC0415
    from gateway.config import load_config  # noqa: PLC0415
    from ztrooted.logs import configure  # noqa: PLC0415

    configure(quiet=True)
    if [request, approval, approver].count(None) != 2:
        raise UsageProblem(
            GateReason.RESEAL_DOCUMENT, "one of --request, --approval and --approver is needed", "choose one of them"
        )
    config = load_config(data)
    if approval is not None:
        document = read_at_most(
            approval, resealing.MAX_DOCUMENT, "have it made: 'ztrooted gateway approve', from 'reseal --request'"
        )
    else:
        asked = resealing.request(config)
        if request is not None:
            with new_secret(request) as file:
                file.write(canonical.encode(asked))
            show(asked, "\n".join([*resealing.changes(asked), f"Wrote the request to {request}."]), json=json)
            return
        key = resealing.approver_key(approver or Path())
        document = canonical.encode(resealing.approve(canonical.encode(asked), key))
    done = asyncio.run(resealing.reseal(config, document, operator=operator, reason=reason))
    show(
        done,
        f"Resealed as version {done['version']}; record {done['size'] - 1} says so. Auditors and executors need the new"
        " anchors: ztrooted gateway anchors",
        json=json,
    )


@app.command()
def approve(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What 'gateway reseal --request' has written.")],
    approver: Annotated[Path, typer.Option(metavar="KEY", help="The approver's private key (PEM, P-256).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Write the approval to this new file.")
    ],
    json: JsonFlag = False,
) -> None:
    """Sign for the state that a gateway's machine is in. Anywhere; 'reseal --request' says what has changed."""
    from gateway import reseal as resealing  # noqa: PLC0415

    document = read_at_most(
        request, resealing.MAX_DOCUMENT, "have it made on the gateway's machine: 'ztrooted gateway reseal --request'"
    )
    approval = resealing.approve(document, resealing.approver_key(approver))
    with new_secret(output) as file:
        file.write(canonical.encode(approval))
    show(approval, f"Approved as version {approval['version']}, in {output}.", json=json)


@app.command()
def token(
    data: DataFolder,
    role: Annotated[Literal["orchestrator", "auditor", "operator"], typer.Option(help="What its holder may do.")],
    name: Annotated[str, typer.Option(help="Whose token this is; it appears in every record of what they do.")],
    days: Annotated[int, typer.Option(min=1, max=366, help="How long it is valid.")] = 90,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it to this new file, for its owner's eyes only."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Create a bearer token and print it, once. To rotate one, create the next, hand it out, then revoke the first."""
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.tokens import create  # noqa: PLC0415

    config = load_config(data)
    if output is None:
        made = asyncio.run(create(config, role, name, days * 86400))
        show(made.model_dump(), made.token, json=json)
        return
    with new_secret(output) as file:
        made = asyncio.run(create(config, role, name, days * 86400))
        file.write(f"{made.token}\n".encode())
    said = {**made.model_dump(exclude={"token"}), "output": str(output)}
    show(said, f"Wrote token {made.id} for {role} {name} to {output}.", json=json)


@app.command()
def tokens(data: DataFolder, json: JsonFlag = False) -> None:
    """List the bearer tokens: whose they are, and until when."""
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.tokens import listing  # noqa: PLC0415

    found = asyncio.run(listing(load_config(data)))
    lines = [f"{one.id}  {one.role:<12}  until {instant(one.expires)}  {one.name}" for one in found.tokens]
    show(found.model_dump(), "\n".join(lines) or "There are no tokens.", json=json)


@app.command()
def revoke_token(
    data: DataFolder,
    token: Annotated[str, typer.Argument(metavar="ID", help="As 'ztrooted gateway tokens' lists it.")],
    json: JsonFlag = False,
) -> None:
    """End a bearer token at once. What runs because of it goes on; see 'ztrooted revoke' for that."""
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.tokens import revoke  # noqa: PLC0415

    ended = asyncio.run(revoke(load_config(data), token))
    show(ended.model_dump(), f"Token {ended.id} of {ended.role} {ended.name} is no more.", json=json)


@app.command()
def anchors(data: DataFolder) -> None:
    """Print the trust anchors to hand to auditors, out of band. Redirect into anchors.toml."""
    from gateway.anchors import anchors_file  # noqa: PLC0415
    from gateway.config import load_config  # noqa: PLC0415

    typer.echo(anchors_file(load_config(data)), nl=False)


@app.command()
def webhook(
    data: DataFolder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name in gateway.toml.")],
    json: JsonFlag = False,
) -> None:
    """Create the secret of a webhook and print it, for its receiver. A table [\\[webhooks]] in gateway.toml names it."""
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.webhooks import create_secret  # noqa: PLC0415

    path = create_secret(load_config(data).data, name)
    secret = path.read_text().strip()
    show({"name": name, "secret": secret, "file": str(path)}, secret, json=json)
