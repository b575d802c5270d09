"""``tpm2_eventlog`` as a peer: where it is installed, both readers must agree on every log that it can read.

Explained disagreements of version 5.4: it starts PCR 0 at zero whatever StartupLocality says, and it extends the digests of
EV_NO_ACTION events, even zeros, which no TPM does (PFP 1.06 §10.4.5). The last test pins both.
"""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import corpus
from tests.support.eventlog_builder import NO_ACTION, Log, event
from tpm.errors import EvidenceError
from tpm.eventlog import EventLog, EventType, Quirk, parse_event_log

pytestmark = pytest.mark.skipif(shutil.which("tpm2_eventlog") is None, reason="tpm2_eventlog is not installed")

PCR_LINE = re.compile(r"^    (\d+)\s*: 0x([0-9a-f]+)$")


def peer(path: str) -> dict[str, dict[int, str]] | None:
    """The peer's replayed PCRs by bank, or None where it gives up."""
    done = subprocess.run(["tpm2_eventlog", path], capture_output=True, check=False, timeout=20)
    if done.returncode:
        return None
    found: dict[str, dict[int, str]] = {}
    bank = ""
    for line in done.stdout.decode(errors="replace").partition("\npcrs:")[2].splitlines():
        if match := PCR_LINE.match(line):
            found[bank][int(match[1])] = match[2]
        elif line.startswith("  ") and line.endswith(":"):
            bank = line.strip(" :")
            found[bank] = {}
    return found


def disputed(log: EventLog) -> set[int]:
    """PCRs about which the peer is known to be wrong."""
    return {item.pcr for item in log.events[1:] if item.type == EventType.NO_ACTION}


def agree(log: EventLog, theirs: dict[str, dict[int, str]]) -> int:
    compared = 0
    for bank, values in theirs.items():
        ours = {pcr: value.hex() for pcr, value in log.replay(bank).items()}
        for pcr, value in values.items():
            if pcr in disputed(log):
                continue
            assert ours.get(pcr) == value, (bank, pcr)
            compared += 1
    return compared


@pytest.mark.parametrize("entry", corpus.entries("evidence", "tpm_event_log"))
def test_peer_agrees_on_real_logs(entry: corpus.Entry) -> None:
    if "pointer" in entry or entry["format"].startswith("base64"):
        pytest.skip("not a file that the peer reads")
    path = corpus.ROOT / "evidence" / entry["file"]
    theirs = peer(str(path))
    if theirs is None:
        pytest.skip("the peer cannot read it")
    agree(parse_event_log(path.read_bytes(), quirks=frozenset(Quirk)), theirs)


@pytest.mark.parametrize("entry", corpus.entries("attacks", "event_log"))
def test_peer_agrees_on_spoilt_logs_that_parse(entry: corpus.Entry) -> None:
    path = corpus.ROOT / "attacks" / entry["file"]
    theirs = peer(str(path))
    if theirs is None:
        pytest.skip("the peer cannot read it")
    try:
        log = parse_event_log(path.read_bytes())
        log.replay("sha256")
    except EvidenceError:
        return  # we are the stricter
    agree(log, theirs)


@pytest.mark.parametrize("banks", [("sha1",), ("sha256",), ("sha1", "sha256", "sha384")])
def test_peer_agrees_on_logs_made_here(banks: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(Log(banks=banks).data())
    theirs = peer(str(path))
    assert theirs is not None
    assert agree(parse_event_log(path.read_bytes()), theirs) == 10 * len(banks)


def test_peer_disagrees_about_no_action(tmp_path: Path) -> None:
    """The TPM starts PCR 0 at the locality (TPM 2.0 Part 1 §34.3) and extends nothing for the event that says so."""
    log = Log(locality=3)
    log.insert(0, event(0, NO_ACTION, b"StartupLocality\x00\x03"))
    path = tmp_path / "log"
    path.write_bytes(log.data())
    assert parse_event_log(log.data()).replay("sha256")[0] == log.pcrs()[0]
    wrong = bytes(32)
    for record in log.records:
        if record.pcr == 0:
            wrong = hashlib.sha256(wrong + record.digest("sha256")).digest()
    theirs = peer(str(path))
    assert theirs is not None
    if theirs["sha256"][0] != log.pcrs()[0].hex():
        assert theirs["sha256"][0] == wrong.hex()
