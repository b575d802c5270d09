"""Tables of inspections for people. Whatever comes out of evidence goes through ``printable`` on its way to a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ztrooted.clock import instant
from ztrooted.inspect.plain import Report, printable

# Longer texts (command lines, device paths, databases) are cut: --json has all of it.
MAX_CELL = 120
_ROWS = 400


def event_log(report: Report) -> None:
    """A boot log: its events, the PCRs they add up to, and findings."""
    console = Console(highlight=False)
    table = _table("#", "PCR", "event", "measured", "what it says")
    for event in report["events"]:
        if event["measured"] is None and event["type"] == "EV_NO_ACTION":
            covered = "no"
        else:
            covered = {"whole": "yes", "value": "value", "nothing": "image"}.get(event["measured"], "")
        table.add_row(
            str(event["number"]), _pcr(event["pcr"]), event["type"].removeprefix("EV_"), covered, _cell(_said(event))
        )
    console.print(table)
    _pcr_table(console, report["pcrs"])
    _facts(
        console,
        {
            "form": f"{report['format']}, {report['size']} bytes, {len(report['events'])} events",
            "Secure Boot": {True: "on", False: "off"}.get(report["secure_boot"], "not told"),
            "firmware": {True: "handed over", False: "did not say that it handed over"}.get(
                report["exit_boot_services"], "not judged"
            ),
        },
    )
    if report["claims"]:
        _facts(console, {"command line": " | ".join(report["claims"]["kernel_command_lines"]) or "none measured"})
    _findings(console, report["findings"])
    _verdict(
        console, report, "the log adds up to the PCR values given", "no PCR values were given: nothing is verified"
    )


def _pcr(number: int) -> str:
    return "-" if number == 0xFFFFFFFF else str(number)


def _said(event: Report) -> str:
    """One line for an event's content."""
    if event["content"] is None:
        return f"not decoded: {event['undecoded']['detail']}"
    content = {name: value for name, value in event["content"].items() if name != "kind"}
    if "text" in content:
        return f"{content['label']}: {content['text']}" if content.get("label") else str(content["text"])
    if "variable" in content:
        return _variable(content)
    if "partitions" in content:
        names = (str(partition["name"]) for partition in content["partitions"])
        return f"disk {content['disk']}: {', '.join(names)}"
    if content.get("description"):
        return str(content["description"])
    return ", ".join(f"{name} {value}" for name, value in content.items() if value not in (None, [], ""))


def _variable(content: dict[str, Any]) -> str:
    name, value = content["variable"]["name"], content.get("value")
    if "value" not in content:
        return f"{name}: an entry of {len(content['variable']['data']) // 2} bytes"
    if isinstance(value, dict) and "certificates" in value:
        return f"{name}: {len(value['hashes'])} hashes, certificates {', '.join(value['certificates']) or 'none'}"
    if isinstance(value, dict):
        return f"{name}: {value['description']}"
    return f"{name}: {value}"


def ima(report: Report) -> None:
    """A measurement list: its entries and the PCR 10 they add up to."""
    console = Console(highlight=False)
    table = _table("#", "template", "digest", "path", "")
    for entry in report["entries"][:_ROWS]:
        mark = "violation" if entry["violation"] else "signed" if entry["signature"] else ""
        table.add_row(str(entry["number"]), entry["template"], _short(entry["digest"]), _cell(entry["path"]), mark)
    console.print(table)
    if report["count"] > _ROWS:
        console.print(f"… and {report['count'] - _ROWS} more; --json has all of them")
    _pcr_table(console, report["pcrs"])
    _facts(console, {"form": f"{report['format']}, {report['count']} entries, {len(report['violations'])} violations"})
    if report["appraisal"]:
        _facts(console, {name: str(value) for name, value in report["appraisal"].items()})
    matched, pending = report["matched"], report["pending"]
    _findings(console, report["findings"])
    _verdict(
        console,
        report,
        f"PCR 10 covers {matched} entries" + (f"; nothing is known of the last {pending}" if pending else ""),
        "no value of PCR 10 was given: nothing is verified",
    )


def ima_findings(report: Report) -> None:
    """What the rules refuse, all of it."""
    console = Console(highlight=False, stderr=True)
    table = _table("#", "reason", "path", "digest", "why")
    for found in report["findings"]:
        table.add_row(
            str(found["index"]),
            f"[bold red]{found['reason']}[/]",
            _cell(found["path"]),
            _short(found["digest"]),
            _cell(found["detail"]),
        )
    console.print(table)


def quote(report: Report) -> None:
    """A verified quote: who signed, what, when."""
    console = Console(highlight=False)
    _key_facts(console, report["key"])
    attestation_facts(console, report["attest"])
    _pcr_table(console, report["pcrs"])
    compared = "; not reset since the round before" if report["clock_compared"] else "; no earlier clock was given"
    _verdict(console, report, f"quoted by this key for this nonce ({report['signature']}){compared}", "")


def ak_public(report: Report) -> None:
    """An accepted attestation key."""
    console = Console(highlight=False)
    _key_facts(console, report)
    _verdict(console, report, "an attestation key", "vouched for by whoever handed it in, not by its attributes")


def ek_certificate(report: Report) -> None:
    """An EK certificate and its path."""
    console = Console(highlight=False)
    table = _table("certificate", "serial", "not before", "not after", "authority")
    for certificate in report["chain"]:
        table.add_row(
            _cell(certificate["label"] or "(no subject)"),
            certificate["serial"],
            certificate["not_before"],
            certificate["not_after"],
            "yes" if certificate["is_ca"] else "",
        )
    console.print(table)
    facts = {name.replace("_", " "): str(value) for name, value in report["tpm"].items()}
    _facts(console, {**facts, "key": report["key"], "template": report.get("template") or "not compared"})
    for note in report["notes"]:
        console.print(f"  [yellow]note[/] {_cell(note)}")
    _verdict(
        console, report, f"a path to the roots given, at {report['at']}", "nobody vouches for it: no roots were given"
    )


def attestation(report: Report) -> None:
    """Any attestation."""
    console = Console(highlight=False)
    attestation_facts(console, report)
    _verdict(console, report, "", "its signature was not looked at: nothing is verified")


def attestation_facts(console: Console, report: Report) -> None:
    """The fields of an attestation."""
    clock = report["clock"]
    facts = {
        "type": report["type"],
        "extraData": report["extra_data"] or "empty",
        "signer": report["qualified_signer"] or "empty",
        "clock": f"{clock['clock']} ms, {clock['reset_count']} resets, {clock['restart_count']} restarts"
        + ("" if clock["safe"] else ", not safe"),
        "firmware": report["firmware_version"],
    }
    _facts(console, facts | {name.replace("_", " "): str(value) for name, value in report["attested"].items()})


def _key_facts(console: Console, key: Report) -> None:
    public = key["public"] or {}
    facts = {"key": key["key"], "scheme": key.get("scheme", "not fixed"), "Name": key["name"] or "none"}
    if public:
        facts["attributes"] = ", ".join(public["attributes"])
    _facts(console, facts)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _pcr_table(console: Console, pcrs: dict[str, dict[str, str]]) -> None:
    table = _table("bank", "PCR")
    table.add_column("value", overflow="fold")
    for bank, values in pcrs.items():
        for index, value in values.items():
            table.add_row(bank, str(index), value)
    console.print()
    console.print(table)
    console.print()


def _facts(console: Console, facts: dict[str, str]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(f"[bold]{escape(name)}[/]", escape(printable(value)))
    console.print(table)


def _findings(console: Console, findings: list[Report]) -> None:
    for found in findings:
        where = next((f" #{found[name]}" for name in ("event", "index") if found.get(name) is not None), "")
        console.print(f"  [yellow]{found['reason']}[/]{where} {_cell(found['detail'])}")


def _verdict(console: Console, report: Report, yes: str, no: str) -> None:
    if report["verified"]:
        console.print(f"[bold green]Verified[/]: {escape(yes)}.")
    else:
        console.print(f"[yellow]Read, not verified[/]: {escape(no)}.")


def _cell(text: object) -> str:
    shown = printable(str(text))
    return escape(shown if len(shown) <= MAX_CELL else f"{shown[: MAX_CELL - 1]}…")


def _short(digest: str) -> str:
    algorithm, _, digits = digest.rpartition(":")
    return f"{algorithm}:{digits[:16]}…" if len(digits) > 16 else digest


def attestation_result(report: Report) -> None:
    """An attestation result, part by part."""
    console = Console(highlight=False)
    colour = {"affirming": "green", "warning": "yellow", "contraindicated": "bold red", "none": "dim"}
    for name, part in report["parts"].items():
        status = part["status"]
        console.print(f"[bold]{_cell(name)}[/]: [{colour[status]}]{status}[/]")
        table = _table("claim", "value", "tier", "meaning")
        for claim, said in part["vector"].items():
            table.add_row(claim, str(said["value"]), f"[{colour[said['tier']]}]{said['tier']}[/]", said["meaning"])
        if part["vector"]:
            console.print(table)
    facts = {
        "profile": report["profile"],
        "verifier": f"{report['verifier']['developer']}, {report['verifier']['build']}",
        "issued": instant(report["issued"] * 1000),
        "expires": "not said" if report["expires"] is None else instant(report["expires"] * 1000),
        "nonces": ", ".join(report["nonces"]) or "none",
        "signature": report["signature"],
    }
    _facts(console, facts | ({"detached": ", ".join(report["detached"])} if report["detached"] else {}))
    for finding in report["findings"]:
        console.print(f"[yellow]{_cell(finding)}[/]")
    if not report["verified"]:
        console.print("[yellow]The signature was not verified: anybody may have written this.[/]")
