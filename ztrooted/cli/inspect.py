"""``ztrooted inspect …``: what evidence says, and, given something to compare it with, whether it may be believed.

Works offline and without a TPM. A report is printed only for what is accepted; what is refused is told as an error
with its reason code.
"""

import json as jsonlib
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tpm.attest import MAX_ATTEST
from tpm.endorsement import EkPolicy, EkQuirk, EkRoots, split_pem
from tpm.endorsement_der import MAX_CERTIFICATE_BYTES
from tpm.eventlog import MAX_LOG_BYTES, EventLogRules, Quirk
from tpm.ima import MAX_LIST_BYTES
from tpm.ima_replay import ImaState
from tpm.public import MAX_PUBLIC
from tpm.quote import DEFAULT_BANKS, Clock
from tpm.signature import DEFAULT_SIGNATURES
from ztrooted import limits
from ztrooted.cli import inspect_view as view
from ztrooted.cli.files import read_at_most
from ztrooted.cli.output import JsonFlag, show
from ztrooted.errors import EnvironmentProblem
from ztrooted.inspect import (
    MAX_EAR,
    Report,
    inspect_ak_public,
    inspect_attest,
    inspect_ear,
    inspect_ek_certificate,
    inspect_event_log,
    inspect_ima,
    inspect_quote,
)
from ztrooted.inspect.ima import ImaQuoted
from ztrooted.inspect.ima_allow import load_ima_rules
from ztrooted.inspect.pcr_values import parse_hex, parse_pcr10, parse_pcr_values, parse_selection
from ztrooted.inspect.quote import QuoteChallenge
from ztrooted.reasons import GateReason

app = typer.Typer(
    no_args_is_help=True, help="Read and verify evidence: event logs, IMA lists, quotes, keys, EK chains."
)

T = TypeVar("T")

Evidence = Annotated[Path, typer.Argument(metavar="FILE", help="What to inspect.")]
PcrsOption = Annotated[
    str | None,
    typer.Option(
        help='Expected PCR values: a JSON file or JSON itself, {"sha256": {"0": "<hex>"}}.', metavar="FILE|JSON"
    ),
]
BankOption = Annotated[str | None, typer.Option(help="Only this bank; of values that name none, their bank.")]
SIZES = {"chain": 1 << 20, "allow-list": 64 << 20}


class ListFormat(StrEnum):
    """The two forms in which a kernel shows its measurement list."""

    ASCII = "ascii"
    BINARY = "binary"


@app.command()
def eventlog(
    file: Evidence,
    pcrs: PcrsOption = None,
    bank: BankOption = None,
    select: Annotated[str | None, typer.Option(help="Judge only these of the PCRs given, such as 0-9,14.")] = None,
    quirk: Annotated[list[Quirk] | None, typer.Option(help="Tolerate this deviation of real firmware.")] = None,
    secure_boot: Annotated[bool, typer.Option(help="Whether Secure Boot must be on.")] = True,
    exit_boot_services: Annotated[bool, typer.Option(help="Whether firmware must have handed over.")] = True,
    separators: Annotated[bool, typer.Option(help="Whether firmware must have closed its PCRs.")] = True,
    legacy: Annotated[bool, typer.Option("--legacy", help="Accept a log of the SHA-1 form.")] = False,
    debugger: Annotated[bool, typer.Option("--debugger", help="Accept a firmware debugger.")] = False,
    dma: Annotated[bool, typer.Option("--dma", help="Accept disabled DMA protection.")] = False,
    boot_attempts: Annotated[int, typer.Option(min=1, help="How many boot options may have been tried.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Decode a measured boot log and replay its PCRs; with --pcrs verify it against them.

    Without --pcrs nothing is verified: what the rules would refuse is listed as a finding.
    """
    rules = EventLogRules(
        secure_boot=secure_boot,
        exit_boot_services=exit_boot_services,
        separators=separators,
        boot_attempts=boot_attempts,
        legacy_format=legacy,
        debugger=debugger,
        dma_unprotected=dma,
    )
    expected = None
    if pcrs is not None:
        expected = _told("--pcrs", lambda: parse_pcr_values(_text(pcrs), bank))
        if bank is not None:
            expected = {bank: expected.get(bank, {})}
        if select is not None:
            kept = set(_told("--select", lambda: parse_selection(f"sha256:{select}")).as_dict()["sha256"])
            expected = {name: {i: v for i, v in values.items() if i in kept} for name, values in expected.items()}
    tolerated = frozenset(quirk) if quirk else None
    report = inspect_event_log(read_at_most(file, MAX_LOG_BYTES), pcrs=expected, rules=rules, quirks=tolerated)
    _show(report, view.event_log, json)


@app.command()
def ima(
    file: Evidence,
    pcr10: Annotated[
        str | None,
        typer.Option(help="Quoted value of PCR 10: hexadecimal, JSON, or a JSON file.", metavar="HEX|FILE|JSON"),
    ] = None,
    bank: BankOption = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            help="What may have been measured: JSON of paths and digests, or sha256sum's output.", metavar="FILE"
        ),
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Key or certificate that may sign files.", metavar="PEM")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Paths that need not be listed.", metavar="PATTERN")] = None,
    allow_violations: Annotated[bool, typer.Option("--allow-violations", help="Accept violations.")] = False,
    pcrs: PcrsOption = None,
    state: Annotated[
        str | None, typer.Option(help="State of the round before, as an earlier report has it.", metavar="FILE|JSON")
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Number of the first entry in FILE.")] = 0,
    allow_pending: Annotated[
        bool, typer.Option("--allow-pending", help="Accept entries at the end that the quote does not cover.")
    ] = False,
    padded_sha1: Annotated[bool, typer.Option("--padded-sha1", help="The kernel is older than 5.8.")] = False,
    form: Annotated[ListFormat | None, typer.Option("--format", help="The form of FILE, if it is to be one.")] = None,
    json: JsonFlag = False,
) -> None:
    """Read an IMA measurement list and replay it; with --pcr10 verify it, with --allow, --key or --exclude judge it."""
    quoted = None
    if pcr10 is not None:
        values = _told("--pcr10", lambda: parse_pcr10(_words(pcr10), bank))
        if bank is not None:
            values = _told("--pcr10", lambda: {bank: values[bank]})
        before = _told("--state", lambda: ImaState.from_dict(jsonlib.loads(_text(state)))) if state else None
        others = _told("--pcrs", lambda: parse_pcr_values(_text(pcrs), bank)) if pcrs else None
        quoted = ImaQuoted(values, before or ImaState.initial(), offset, allow_pending, padded_sha1, others)
    rules = None
    if allow or key or exclude:
        lists = [read_at_most(path, SIZES["allow-list"]) for path in allow or []]
        keys = [read_at_most(path, SIZES["chain"]) for path in key or []]
        rules = _told("--allow", lambda: load_ima_rules(lists, keys, exclude or (), allow_violations=allow_violations))
    found = inspect_ima(
        read_at_most(file, MAX_LIST_BYTES), form=form.value if form else None, quoted=quoted, rules=rules
    )
    if found.refused and not json:
        view.ima_findings(found.report)
    if found.refused:
        raise found.refused[0].error()
    _show(found.report, view.ima, json)


@app.command()
def quote(
    attest: Annotated[Path, typer.Option(help="TPMS_ATTEST.", metavar="FILE")],
    signature: Annotated[Path, typer.Option(help="TPMT_SIGNATURE.", metavar="FILE")],
    ak: Annotated[Path, typer.Option(help="Public area of the AK: TPM2B_PUBLIC, TPMT_PUBLIC or PEM.", metavar="FILE")],
    nonce: Annotated[str, typer.Option(help="What the quote was asked for, all of extraData.", metavar="HEX")],
    pcrs: Annotated[str, typer.Option(help="Claimed PCR values: a JSON file or JSON itself.", metavar="FILE|JSON")],
    selection: Annotated[
        str | None,
        typer.Option(help="The selection asked for; by default the PCRs that have values.", metavar="sha256:0,1,7"),
    ] = None,
    previous: Annotated[
        str | None, typer.Option(help="Clock of the round before, as an earlier report has it.", metavar="FILE|JSON")
    ] = None,
    allow_signature: Annotated[
        list[str] | None, typer.Option(help="Accept only this scheme, such as ecdsa-sha256.", metavar="SCHEME")
    ] = None,
    allow_bank: Annotated[list[str] | None, typer.Option(help="Accept only this PCR bank.", metavar="BANK")] = None,
    json: JsonFlag = False,
) -> None:
    """Verify a quote: key, signature, nonce, selection, PCR values, and the clock where an earlier one is given."""
    values = _told("--pcrs", lambda: parse_pcr_values(_text(pcrs)))
    challenge = QuoteChallenge(
        nonce=_told("--nonce", lambda: parse_hex(nonce, "the nonce")),
        selection=_told("--selection", lambda: parse_selection(_words(selection or jsonlib.dumps(_listed(values))))),
        pcr_values=values,
        previous=_told("--previous", lambda: Clock.from_dict(jsonlib.loads(_text(previous)))) if previous else None,
        allowed_signatures=_named("--allow-signature", allow_signature, DEFAULT_SIGNATURES, DEFAULT_SIGNATURES),
        allowed_banks=_named("--allow-bank", allow_bank, DEFAULT_BANKS, DEFAULT_BANKS | {"sha1"}),
    )
    report = inspect_quote(
        read_at_most(attest, MAX_ATTEST),
        read_at_most(signature, limits.SIGNATURE),
        read_at_most(ak, MAX_PUBLIC),
        challenge,
    )
    _show(report, view.quote, json)


@app.command()
def akpub(
    file: Evidence,
    tpmt: Annotated[bool, typer.Option("--tpmt", help="FILE is a TPMT_PUBLIC, without the size in front.")] = False,
    allow_signature: Annotated[
        list[str] | None, typer.Option(help="Accept only this scheme, such as ecdsa-sha256.", metavar="SCHEME")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Decode a TPM2B_PUBLIC and judge it as an attestation key."""
    allowed = _named("--allow-signature", allow_signature, DEFAULT_SIGNATURES, DEFAULT_SIGNATURES)
    _show(inspect_ak_public(read_at_most(file, MAX_PUBLIC), tpmt=tpmt, allowed=allowed), view.ak_public, json)


@app.command()
def ekcert(
    leaf: Annotated[Path, typer.Argument(metavar="LEAF", help="The EK certificate, DER.")],
    chain: Annotated[list[Path] | None, typer.Option(help="Intermediates, PEM or DER.", metavar="FILE")] = None,
    roots: Annotated[
        list[Path] | None, typer.Option(help="Trusted roots, PEM or DER, or a folder.", metavar="PATH")
    ] = None,
    at: Annotated[str | None, typer.Option(help="Judge at this time; by default now.", metavar="TIME")] = None,
    ek_public: Annotated[Path | None, typer.Option(help="The EK's TPM2B_PUBLIC.", metavar="FILE")] = None,
    vendor: Annotated[list[str] | None, typer.Option(help="Accept only this maker.", metavar="id:HEX")] = None,
    crl: Annotated[list[Path] | None, typer.Option(help="Revocation lists, PEM or DER.", metavar="FILE")] = None,
    require_crl: Annotated[bool, typer.Option("--require-crl", help="Refuse what no list vouches for.")] = False,
    eku: Annotated[bool, typer.Option(help="Whether the certificate must say that it is one of an EK.")] = True,
    allow_expired_leaf: Annotated[
        bool, typer.Option("--allow-expired-leaf", help="Forgive the EK certificate, and no other, that it expired.")
    ] = False,
    quirk: Annotated[list[EkQuirk] | None, typer.Option(help="Tolerate this deviation of real certificates.")] = None,
    pem: Annotated[bool, typer.Option("--pem", help="LEAF is PEM.")] = False,
    json: JsonFlag = False,
) -> None:
    """Verify an EK certificate up to --roots; without roots only read it and hold it against its profile."""
    policy = _told(
        "--vendor",
        lambda: EkPolicy(
            vendors=frozenset(vendor) if vendor else None,
            require_eku=eku,
            allow_expired_leaf=allow_expired_leaf,
            require_crl=require_crl,
            quirks=frozenset(quirk or ()),
        ),
    )
    for path in roots or []:
        _exists(path)
    report = inspect_ek_certificate(
        _only_pem(read_at_most(leaf, limits.EK_CERTIFICATE * 2)) if pem else read_at_most(leaf, MAX_CERTIFICATE_BYTES),
        [der for path in chain or [] for der in _ders(read_at_most(path, SIZES["chain"]), "CERTIFICATE")],
        EkRoots.load(roots, quirks=policy.quirks) if roots else None,
        at=_told("--at", lambda: _time(at)) if at else datetime.now(UTC),
        ek_public=read_at_most(ek_public, MAX_PUBLIC) if ek_public else None,
        policy=policy,
        crls=[der for path in crl or [] for der in _ders(read_at_most(path, SIZES["chain"]), "X509 CRL")],
    )
    _show(report, view.ek_certificate, json)


@app.command()
def attest(file: Evidence, json: JsonFlag = False) -> None:
    """Decode any attestation (TPMS_ATTEST). Nothing in it is verified: that takes a key and a nonce."""
    _show(inspect_attest(read_at_most(file, MAX_ATTEST)), view.attestation, json)


@app.command()
def ear(
    file: Evidence,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The verifier's public key, PEM or JWK: verify the signature.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Decode an attestation result (EAR), a token or its claims, of any verifier; say what its claims mean."""
    told = None if key is None else read_at_most(key, 16 << 10)
    _show(inspect_ear(read_at_most(file, MAX_EAR), told), view.attestation_result, json)


def _show(report: Report, render: Callable[[Report], None], json: bool) -> None:
    if json:
        show(report, "", json=True)
    else:
        render(report)


def _exists(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(GateReason.CONFIG_MISSING, f"{path} can't be read: {error.strerror}", "check the path")


def _text(value: str) -> str:
    """JSON as it is, or that in the file of this name."""
    if value.lstrip().startswith("{"):
        return value
    try:
        return read_at_most(Path(value), limits.BODY).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{value} is not text") from None


def _words(value: str) -> str:
    """Words as they are, or JSON in the file of this name."""
    if value.lstrip().startswith("{"):
        return value
    try:
        return _text(value) if Path(value).is_file() else value
    except OSError:  # too long for a name
        return value


def _told(option: str, parse: Callable[[], T]) -> T:
    """What the caller said, or exit code 2: a mistake in an option is not a verdict."""
    try:
        return parse()
    except (ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _named(option: str, given: list[str] | None, default: frozenset[str], known: frozenset[str]) -> frozenset[str]:
    if not given:
        return default
    if unknown := sorted(set(given) - known):
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(sorted(known))}", param_hint=option)
    return frozenset(given)


def _listed(values: dict[str, dict[int, bytes]]) -> dict[str, list[int]]:
    return {bank: sorted(indices) for bank, indices in values.items()}


def _ders(data: bytes, label: str) -> list[bytes]:
    return split_pem(data, label) if b"-----BEGIN" in data else [data]


def _only_pem(data: bytes) -> bytes:
    ders = split_pem(data)
    if len(ders) != 1:
        raise typer.BadParameter(f"there are {len(ders)} certificates in it", param_hint="LEAF")
    return ders[0]


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
