"""Changed inputs before two readers: whatever ours accepts, an independent one reads alike.

The X.509 library and the lenient JSON reader are such peers too; they are asked within their targets, on every input.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz.evidence_targets import attests, publics, selections, signatures
from tests.fuzz.log_targets import mutate_event_data, written_machine
from tests.fuzz.target import DECLARED
from tests.fuzz.targets import TARGETS
from tests.tpm.test_eventlog_peer import agree, peer
from tpm.attest import AttestType, parse_attest
from tpm.errors import EvidenceError
from tpm.eventlog import parse_event_log
from tpm.ima import parse_ima_list
from tpm.public import ObjectAttributes, parse_public

MUTANTS = 3000
# Younger than the releases of the TSS that are about, which refuse or drop them.
_YOUNG = ObjectAttributes.FIRMWARE_LIMITED | ObjectAttributes.SVN_LIMITED


def known_to_tss(name: str, data: bytes) -> bool:
    """Whether the peer's revision of the specification has what ``data`` holds."""
    if name == "attest":
        return parse_attest(data).type is not AttestType.NV_DIGEST
    return name != "public" or not parse_public(data).attributes & _YOUNG


STRUCTURES: dict[str, tuple[str, Callable[[], Any]]] = {
    "attest": ("TPMS_ATTEST", attests),
    "public": ("TPM2B_PUBLIC", publics),
    "signature": ("TPMT_SIGNATURE", signatures),
    "pcr_selection": ("TPML_PCR_SELECTION", selections),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_we_accept_the_tss_reads_and_writes_back(name: str) -> None:
    tss = pytest.importorskip("tpm2_pytss", reason="tpm2_pytss is not installed")
    kind, seeds = STRUCTURES[name]
    target, source, compared = TARGETS[name], Random(41), 0  # noqa: S311 -- repeatable
    pool = list(seeds())
    for number in range(MUTANTS):
        data = target.mutators[0](source, pool[number % len(pool)], pool)
        try:
            target.run(data)
        except DECLARED:
            continue
        if not known_to_tss(name, data):
            continue
        theirs, used = getattr(tss, kind).unmarshal(data)
        assert used == len(data), data.hex()
        assert bytes(theirs.marshal()) == data, data.hex()
        compared += 1
    assert compared > MUTANTS // 20


@pytest.mark.skipif(shutil.which("tpm2_eventlog") is None, reason="tpm2_eventlog is not installed")
def test_event_logs_with_changed_events_replay_alike(tmp_path: Path) -> None:
    source, compared = Random(42), 0  # noqa: S311 -- repeatable
    path = tmp_path / "log"
    for _ in range(60):
        data = mutate_event_data(source, b"", ())
        path.write_bytes(data)
        theirs = peer(str(path))
        if theirs is None:
            continue
        try:
            log = parse_event_log(data)
            log.replay("sha256")
        except EvidenceError:
            continue
        compared += agree(log, theirs)
    assert compared > 100


def test_both_forms_of_a_measurement_list_are_read_alike() -> None:
    source, compared = Random(43), 0  # noqa: S311 -- repeatable
    for _ in range(MUTANTS // 3):
        machine = written_machine(source)
        try:
            binary = parse_ima_list(machine.binary(), format="binary").entries
            text = parse_ima_list(machine.ascii(), format="ascii").entries
        except EvidenceError:
            continue
        assert text.rows == binary.rows
        compared += len(text)
    assert compared > MUTANTS // 6
