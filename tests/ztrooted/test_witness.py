"""A witness cosigns what a log grew into, and nothing else: each rule of C2SP tlog-witness with its status."""

import asyncio
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.support.notes import NoteSigner
from tests.support.witness import SmallLog, WitnessProcess
from ztrooted.clock import SystemClock
from ztrooted.cosigner import Cosigner
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.note import Signature, format_note, parse_note, tree_head
from ztrooted.note_keys import NoteKey, SignatureType, TreeHead, check_signature, parse_vkey
from ztrooted.witness import MAX_BODY, Refused, Witness, format_request
from ztrooted.witness_folder import create_witness, load_witness
from ztrooted.witness_store import FILE as DATABASE
from ztrooted.witness_store import Remembered, WitnessStore

ORIGIN = "log.example/one"


class SetClock(SystemClock):
    at_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at_ms


class SlowCosigner(Cosigner):
    """Leaves time for others between what is compared and what is remembered."""

    def cosign(self, text: bytes, head: TreeHead, time_s: int) -> Signature:
        time.sleep(0.05)
        return super().cosign(text, head, time_s)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def log() -> SmallLog:
    return SmallLog(ORIGIN)


@pytest.fixture
def witness(tmp_path: Path, log: SmallLog, clock: SetClock) -> Iterator[Witness]:
    """One with both keys."""
    made = create_witness(tmp_path / "w", "witness.example/w", {ORIGIN: [log.signer.key]}, post_quantum=True)
    store = WitnessStore(made.database)
    yield Witness(made.logs, made.cosigners, store, clock)
    store.close()


def refused(witness: Witness, body: bytes) -> tuple[HTTPStatus, str, int | None]:
    with pytest.raises(Refused) as refusal:
        witness.add_checkpoint(body)
    return refusal.value.status, str(refusal.value.cause.reason), refusal.value.size


def times(witness: Witness, note: bytes, lines: bytes) -> dict[int, int | None]:
    """When each of the witness's keys cosigned ``note``, by type, every signature verified."""
    text = parse_note(note).text
    keys = {(one.key.name, one.key.key_id): one.key for one in witness._cosigners}
    found: dict[int, int | None] = {}
    for line in parse_note(text + b"\n" + lines).signatures:
        key: NoteKey = keys[line.name, line.key_id]
        found[key.type] = check_signature(key, text, tree_head(text), line.value)
    return found


def test_what_a_log_grew_into_is_cosigned_by_each_key(witness: Witness, log: SmallLog, clock: SetClock) -> None:
    before = 0
    for size in (1, 2, 7, 7, 8, 300):
        lines = witness.add_checkpoint(log.request(before, size))
        now_s = clock.at_ms // 1000
        assert times(witness, log.note(size), lines) == {0x04: now_s, 0x06: now_s}
        before = size


@pytest.mark.parametrize("kind", [SignatureType.ED25519, SignatureType.ECDSA])
def test_logs_of_any_key_type_are_watched(tmp_path: Path, kind: SignatureType) -> None:
    log = SmallLog("other.example/log", kind)
    made = create_witness(tmp_path / "w", "w", {log.origin: [log.signer.key]}, post_quantum=False)
    witness = Witness(made.logs, made.cosigners, WitnessStore(made.database), SystemClock())
    assert list(times(witness, log.note(3), witness.add_checkpoint(log.request(0, 3)))) == [0x04]


def test_lines_behind_the_root_are_signed_too(witness: Witness, log: SmallLog) -> None:
    note = log.note(3, extension="more\nyet more\n")
    assert times(witness, note, witness.add_checkpoint(format_request(0, [], note)))


def test_an_empty_log_is_cosigned_before_it_grows(witness: Witness, log: SmallLog) -> None:
    assert witness.add_checkpoint(log.request(0, 0))
    assert witness.add_checkpoint(log.request(0, 0))
    assert witness.add_checkpoint(log.request(0, 5))
    assert refused(witness, log.request(0, 0)) == (HTTPStatus.CONFLICT, "witness.request", 5)


def test_an_empty_log_with_another_root_is_another_log(witness: Witness, log: SmallLog) -> None:
    text = log.checkpoint(3).text.replace(b"\n3\n", b"\n0\n")
    body = format_request(0, [], format_note(text, [log.signer.sign(text)]))
    assert refused(witness, body) == (HTTPStatus.CONFLICT, "checkpoint.split_view", 0)


def _malformed(log: SmallLog) -> dict[str, bytes]:
    good, note = log.request(2, 5), log.note(5)
    return {
        "nothing": b"",
        "no old size": good.removeprefix(b"old 2\n"),
        "no empty line": good.replace(b"\n\n", b"\n", 1),
        "a leading zero": good.replace(b"old 2", b"old 02"),
        "a sign": good.replace(b"old 2", b"old +2"),
        "two spaces": good.replace(b"old 2", b"old  2"),
        "carriage returns": good.replace(b"\n", b"\r\n"),
        "a size of 64 bits": good.replace(b"old 2", b"old 9999999999999999999"),
        "not base64": good.replace(b"old 2\n", b"old 2\nx\n"),
        "a short hash": good.replace(b"old 2\n", b"old 2\nAAAA\n"),
        "base64 that is not canonical": re.sub(rb"[A-Za-z0-9+/]=\n", b"B=\n", good, count=1),
        "64 hashes": format_request(2, [bytes(32)] * 64, note),
        "no checkpoint": format_request(2, [], b""),
        "a note that is none": format_request(2, [], b"x\n\n" + note.partition(b"\n\n")[2]),
        "no newline at the end": good[:-1],
        "an empty line behind the root": format_request(0, [], log.note(5, extension="x\n\ny\n")),
        "an old size above the new one": format_request(6, [], note),
    }


@pytest.mark.parametrize("what", list(_malformed(SmallLog(ORIGIN))))
def test_what_is_no_request_is_400(witness: Witness, log: SmallLog, what: str) -> None:
    witness.add_checkpoint(log.request(0, 2))
    status, reason, size = refused(witness, _malformed(log)[what])
    assert (status, size) == (HTTPStatus.BAD_REQUEST, None)
    assert reason in {"witness.request", "note.malformed", "checkpoint.malformed"}
    assert witness.add_checkpoint(log.request(2, 5))  # nothing was remembered of it


def test_a_proof_of_63_lines_is_read(witness: Witness, log: SmallLog) -> None:
    witness.add_checkpoint(log.request(0, 2))
    body = format_request(2, [bytes(32)] * 63, log.note(5))
    assert refused(witness, body)[:2] == (HTTPStatus.UNPROCESSABLE_ENTITY, "lineage.proof_invalid")


def test_an_unknown_log_is_404(witness: Witness) -> None:
    assert refused(witness, SmallLog("log.example/two").request(0, 3))[:2] == (
        HTTPStatus.NOT_FOUND,
        "checkpoint.origin",
    )


def test_no_signature_by_a_known_key_is_403(witness: Witness, log: SmallLog) -> None:
    other = NoteSigner.of(ORIGIN, SignatureType.ED25519)
    assert refused(witness, format_request(0, [], log.note(3, other)))[0] == HTTPStatus.FORBIDDEN
    forged = log.note(3).replace(log.checkpoint(3).text, log.checkpoint(4).text)
    assert refused(witness, format_request(0, [], forged))[0] == HTTPStatus.FORBIDDEN


def test_signatures_of_others_are_not_looked_at(witness: Witness, log: SmallLog) -> None:
    text = log.checkpoint(3).text
    other = NoteSigner.of("somebody.else", SignatureType.ED25519)
    note = format_note(text, [other.sign(b"another text"), log.signer.sign(text)])
    assert witness.add_checkpoint(format_request(0, [], note))


def test_another_old_size_than_the_remembered_is_409_with_that(witness: Witness, log: SmallLog) -> None:
    assert refused(witness, log.request(1, 3)) == (HTTPStatus.CONFLICT, "witness.request", 0)
    witness.add_checkpoint(log.request(0, 3))
    for old in (0, 2, 4):
        assert refused(witness, log.request(old, 9)) == (HTTPStatus.CONFLICT, "witness.request", 3)


def test_another_root_of_the_same_size_is_409(witness: Witness, log: SmallLog) -> None:
    witness.add_checkpoint(log.request(0, 3))
    other = SmallLog(ORIGIN, leaf="other")
    body = format_request(3, [], other.note(3, log.signer))
    assert refused(witness, body) == (HTTPStatus.CONFLICT, "checkpoint.split_view", 3)
    assert witness.add_checkpoint(log.request(3, 3))


def test_another_history_is_422(witness: Witness, log: SmallLog) -> None:
    witness.add_checkpoint(log.request(0, 3))
    other = SmallLog(ORIGIN, leaf="other")
    for proof in (other.proof(3, 8), log.proof(3, 8), []):
        body = format_request(3, proof, other.note(8, log.signer))
        assert refused(witness, body) == (HTTPStatus.UNPROCESSABLE_ENTITY, "lineage.proof_invalid", None)
    assert witness.add_checkpoint(log.request(3, 8))


def test_where_there_is_nothing_to_prove_a_proof_is_422(witness: Witness, log: SmallLog) -> None:
    assert refused(witness, format_request(0, [bytes(32)], log.note(3)))[0] == HTTPStatus.UNPROCESSABLE_ENTITY
    witness.add_checkpoint(log.request(0, 3))
    assert refused(witness, format_request(3, [bytes(32)], log.note(3)))[0] == HTTPStatus.UNPROCESSABLE_ENTITY


def test_no_cosignature_is_dated_before_an_earlier_one(witness: Witness, log: SmallLog, clock: SetClock) -> None:
    """It says which tree was the largest at that time."""
    later = clock.at_ms // 1000
    witness.add_checkpoint(log.request(0, 3))
    clock.at_ms -= 3_600_000
    assert set(times(witness, log.note(8), witness.add_checkpoint(log.request(3, 8))).values()) == {later}


def test_of_many_at_once_each_sees_what_the_one_before_left(tmp_path: Path, log: SmallLog) -> None:
    """Two stores on one file are two processes; all ask to go on from the same size, by two histories."""
    made = create_witness(tmp_path / "w", "w", {ORIGIN: [log.signer.key]}, post_quantum=False)
    stores = [WitnessStore(made.database) for _ in range(2)]
    slow = [SlowCosigner(one.key, one.private) for one in made.cosigners]
    witnesses = [Witness(made.logs, slow, store, SystemClock()) for store in stores]
    witnesses[0].add_checkpoint(log.request(0, 3))
    other = SmallLog(ORIGIN, leaf="leaf")
    bodies = [format_request(3, other.proof(3, size), other.note(size, log.signer)) for size in range(4, 20)]
    gate = threading.Barrier(len(bodies))

    def ask(number: int) -> int | None:
        gate.wait()
        try:
            witnesses[number % 2].add_checkpoint(bodies[number])
        except Refused as refusal:
            return refusal.size
        return None

    with ThreadPoolExecutor(len(bodies)) as pool:
        sizes = list(pool.map(ask, range(len(bodies))))
    assert sizes.count(None) == 1  # one was cosigned, and all others were told what is remembered now
    assert {size for size in sizes if size is not None} == {sizes.index(None) + 4}
    for store in stores:
        store.close()


def test_the_file_itself_never_goes_back(witness: Witness, log: SmallLog, tmp_path: Path) -> None:
    witness.add_checkpoint(log.request(0, 3))
    for smaller in (Remembered(2, bytes(32), 0), Remembered(3, bytes(32), 0)):
        with pytest.raises(sqlite3.IntegrityError), witness._store.changing(ORIGIN) as entry:
            entry.remember(smaller, b"")
    with sqlite3.connect(tmp_path / "w" / DATABASE) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("DELETE FROM logs")


def test_every_commit_waits_for_the_disk(witness: Witness) -> None:
    assert witness._store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_witness_that_lost_its_memory_does_not_serve(tmp_path: Path, log: SmallLog) -> None:
    made = create_witness(tmp_path / "w", "w", {ORIGIN: [log.signer.key]}, post_quantum=False)
    made.database.unlink()
    with pytest.raises(EnvironmentProblem, match="does not know what it cosigned"):
        WitnessStore(made.database)


def test_keys_are_for_their_owner_alone(tmp_path: Path, log: SmallLog) -> None:
    folder = tmp_path / "w"
    made = create_witness(folder, "w", {ORIGIN: [log.signer.key]}, post_quantum=True)
    pems = sorted(folder.glob("*.pem"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in pems] == [0o600, 0o600]
    assert [one.key for one in load_witness(folder).cosigners] == [one.key for one in made.cosigners]
    pems[0].chmod(0o640)
    with pytest.raises(EnvironmentProblem) as problem:
        load_witness(folder)
    assert problem.value.reason == "environment.key_file"


@pytest.mark.parametrize("name", ["", "a b", "a+b", 'a"b', "x" * 300])
def test_a_name_that_no_key_may_have_makes_no_witness(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageProblem):
        create_witness(tmp_path / "w", name, {}, post_quantum=False)
    assert not (tmp_path / "w").exists()


def test_a_configuration_that_is_not_understood_is_refused(tmp_path: Path, log: SmallLog) -> None:
    folder = tmp_path / "w"
    create_witness(folder, "w", {ORIGIN: [log.signer.key]}, post_quantum=False)
    file = folder / "witness.toml"
    good = file.read_text()
    cosigner = NoteSigner.of("x", SignatureType.ED25519_COSIGNATURE).key.vkey
    for bad in (
        good + "more = 1\n",
        good.replace("ztrooted-witness/1", "ztrooted-witness/2"),
        good + good.partition("\n\n")[2],
        good.replace(log.signer.key.vkey, cosigner),
        good.replace(log.signer.key.vkey, "x"),
    ):
        file.write_text(bad)
        with pytest.raises(EnvironmentProblem) as problem:
            load_witness(folder)
        assert problem.value.reason == "config.invalid"


_NO_TSS = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tpm2_pytss", "gateway", "sqlite_utils"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import ztrooted.cli.witness, ztrooted.witness_service
"""


def test_a_witness_needs_no_TPM_and_no_gateway() -> None:
    subprocess.run([sys.executable, "-c", _NO_TSS], check=True, capture_output=True)


@pytest.mark.asyncio
async def test_the_statuses_on_the_wire_and_what_a_kill_leaves(tmp_path: Path, log: SmallLog) -> None:
    process = WitnessProcess(tmp_path / "w", "witness.example/w", log.option)
    key = parse_vkey(process.vkeys[0])
    await asyncio.to_thread(process.start)
    try:
        status, kind, lines = await process.ask(log.request(0, 4))
        assert (status, kind) == (200, "text/plain")
        text = log.checkpoint(4).text
        (line,) = parse_note(text + b"\n" + lines).signatures
        assert check_signature(key, text, tree_head(text), line.value)
        assert await process.ask(log.request(0, 9)) == (409, "text/x.tlog.size", b"4\n")
        other = format_request(4, [], SmallLog(ORIGIN, leaf="other").note(4, log.signer))
        assert await process.ask(other) == (409, "text/x.tlog.size", b"4\n")
        assert (await process.ask(b"old"))[0] == 400
        assert (await process.ask(SmallLog("x").request(0, 1)))[0] == 404
        assert (await process.ask(format_request(4, [], log.note(9))))[0] == 422
        assert (await process.ask(format_request(4, [], log.note(9, SmallLog(ORIGIN).signer))))[0] == 403
        assert (await process.ask(b"x" * (MAX_BODY + 1)))[0] == 413
        assert (await process.ask(log.request(4, 9)))[0] == 200
        process.kill()
        await asyncio.to_thread(process.start)
        assert await process.ask(log.request(4, 9)) == (409, "text/x.tlog.size", b"9\n")
        assert (await process.ask(log.request(9, 9)))[0] == 200
    finally:
        process.kill()


# Dies at the n-th thing that it does with its file: statements, the signature, the answer.
_DIES = """
import os, sys
from pathlib import Path
from ztrooted.clock import SystemClock
from ztrooted.cosigner import Cosigner
from ztrooted.witness import Witness
from ztrooted.witness_folder import load_witness
from ztrooted.witness_store import Entry, WitnessStore

left = int(sys.argv[2])
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

def around(owner, name):
    inner = getattr(owner, name)
    def outer(*arguments, **options):
        step()
        done = inner(*arguments, **options)
        step()
        return done
    setattr(owner, name, outer)

folder = load_witness(Path(sys.argv[1]))
store = WitnessStore(folder.database)
around(Entry, "__init__"); around(Entry, "remember"); around(Cosigner, "cosign")
store._connection.set_trace_callback(lambda _statement: step())
body = sys.stdin.buffer.read()
sys.stdout.buffer.write(Witness(folder.logs, folder.cosigners, store, SystemClock()).add_checkpoint(body))
"""


def test_killed_at_any_step_it_never_cosigned_what_it_does_not_remember(tmp_path: Path, log: SmallLog) -> None:
    made = create_witness(tmp_path / "w", "w", {ORIGIN: [log.signer.key]}, post_quantum=False)
    witness = Witness(made.logs, made.cosigners, WitnessStore(made.database), SystemClock())
    witness.add_checkpoint(log.request(0, 3))
    remembered, killed, step = 3, 0, 0
    while True:
        step += 1
        command = [sys.executable, "-c", _DIES, str(made.path), str(step)]
        asked = remembered + 1
        done = subprocess.run(command, input=log.request(remembered, asked), check=False, capture_output=True)
        killed += done.returncode == -9
        with closing(WitnessStore(made.database)) as store, store.changing(ORIGIN) as entry:
            known = entry.remembered
        assert known.root == log.checkpoint(known.size).root
        if done.stdout:  # what was given away is remembered
            assert known.size == asked
            assert done.returncode == 0
            break
        assert known.size in {remembered, asked}
        remembered = known.size
    assert killed >= 8
