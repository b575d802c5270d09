"""What an earlier version has left on a disk opens, is sound, and goes on; what a later one has left is refused.

Each archive in ``data/`` is of one version, by its name; ``scripts/upgrade-folder`` makes the next one. They hold keys of
gateways that never were.
"""

import hashlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.app import DATABASE
from gateway.certificates import Authority, private_pem
from gateway.config import load_config
from gateway.fsck import fsck
from gateway.recovery import seal_keys
from gateway.storage import database
from gateway.storage.database import Database
from tests.support.executor import ScriptedExecutor, job
from tests.support.gateway_in_process import HOST, GatewayInProcess
from tests.support.tpm import missing
from tpm.software import SoftwareTpm
from ztrooted.anchors import parse_anchors
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason
from ztrooted.verify import verify_bundle

DATA = Path(__file__).parent / "data"
VERSIONS = sorted(DATA.glob("*.tar.xz"))
BEFORE = DATA / "0.1.0-m0001.tar.xz"  # with a migration still to come
MOST = 200 << 10  # bytes of one archive


def unpack(archive: Path, folder: Path) -> Path:
    """The folder of an archive. Sockets have short names, so it lies where there is room for them."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    if (folder / "gateway" / "gateway.toml").stat().st_mtime > time.time() or _newest(folder) > time.time() * 1000:
        pytest.skip("this machine's clock is behind the time at which the archive was made")
    return folder


def _newest(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "gateway" / DATABASE)) as connection:
        return int(connection.execute("SELECT MAX(at) FROM records").fetchone()[0])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if reason := missing():
        pytest.skip(reason)
    base = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp")
    short = base / f"ztu-{hashlib.sha256(bytes(tmp_path)).hexdigest()[:12]}"
    short.mkdir()
    yield short
    shutil.rmtree(short)


class Machine:
    """The gateway's machine and the executor's of an archive, switched on again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours = SoftwareTpm(folder / "tpm" / "gateway")
        self.theirs = SoftwareTpm(folder / "tpm" / "executor")
        settings = folder / "gateway" / "gateway.toml"
        text, found = re.subn(r'(?m)^tpm = ".*"$', f'tpm = "{self.ours.address}"', settings.read_text())
        assert found == 1
        settings.write_text(text)
        self.gate = GatewayInProcess.on(folder, self.ours)

    async def seal_keys(self) -> None:
        """Where keys lie in the clear, as once they did, nothing is served until an operator has them sealed."""
        if not (self.folder / "gateway" / "executor-ca" / "key.pem").exists():
            return
        with pytest.raises(EnvironmentProblem) as refused:
            await self.gate.start()
        assert refused.value.reason is GateReason.SECRETS_PLAIN
        assert "seal-keys" in refused.value.remedy
        await seal_keys(load_config(self.gate.data), operator="olivia", reason="an update")

    def renew_tls(self) -> None:
        """As operators do every two years."""
        now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
        authority = Authority.create("renewed", now)
        server = authority.issue_server(key.public_key(), [HOST], now)
        tls = self.folder / "gateway" / "tls"
        (tls / "ca.pem").write_bytes(authority.pem())
        (tls / "cert.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
        (tls / "key.pem").write_bytes(private_pem(key))
        (tls / "key.pem").chmod(0o600)


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name.removesuffix(".tar.xz"))
async def machine(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Machine]:
    made = Machine(unpack(request.param, folder))
    with made.ours, made.theirs:
        try:
            yield made
        finally:
            await made.gate.stop()


async def test_the_folder_of_an_earlier_version_opens_is_sound_and_goes_on(machine: Machine) -> None:
    """Under the keys in its TPM: a job is permitted, runs, and is proved by a bundle, under the anchors of before."""
    gate, folder = machine.gate, machine.folder
    anchors = parse_anchors((folder / "anchors.toml").read_bytes(), "anchors")
    old = (folder / "bundle.json").read_bytes()
    report = verify_bundle(old, anchors)
    assert report.verified, report.failed
    with closing(sqlite3.connect(gate.data / DATABASE)) as connection:
        before = [bytes(data) for (data,) in connection.execute("SELECT bytes FROM records ORDER BY seq")]
    await machine.seal_keys()
    machine.renew_tls()
    await gate.start()
    after = [bytes(data) for (data,) in gate.gateway.database.reading.execute("SELECT bytes FROM records ORDER BY seq")]
    assert after[: len(before)] == before
    assert gate.anchors() == anchors
    executor = ScriptedExecutor(gate, machine.theirs, folder / "machine-again")  # it boots
    try:
        enrolled = await executor.enroll()
        assert enrolled.trusted, enrolled.detail  # by the baseline that was approved then
        async with executor.connect() as channel:
            grant = await executor.authorize(job("after"))
            await channel.activate(grant)
            await channel.started(grant)
            await channel.ended(grant)
        await gate.gateway.checkpointer.publish(anchor=True)
        async with await gate.client("auditor") as auditor:
            fresh = await auditor.bundle(grant.authorization)
            again = await auditor.bundle(str(report.facts["authorization"]))
    finally:
        executor.device.close()
    for bundle in (fresh, again):
        made = verify_bundle(bundle, anchors)
        assert made.verified, made.failed
    assert list(fsck(gate.gateway.config)[1]) == []
    await gate.restart()
    assert gate.gateway.not_ready() == []


def test_there_is_one_of_this_version_and_each_is_small() -> None:
    from importlib.metadata import version  # noqa: PLC0415

    assert DATA / f"{version('ztrooted')}.tar.xz" in VERSIONS
    assert all(path.stat().st_size < MOST for path in VERSIONS)


async def test_a_newer_schema_is_refused_and_nothing_is_done_to_it(folder: Path) -> None:
    file = unpack(VERSIONS[0], folder) / "gateway" / DATABASE
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO _sqlite_migrations VALUES (99, 'ztrooted', 'm0099_later', '2030-01-01')")
    before = _dump(file)
    with pytest.raises(EnvironmentProblem, match="m0099_later") as refused:
        Database(file, on_failure=lambda: None)
    assert refused.value.reason is GateReason.DATABASE_NEWER
    assert "newer" in refused.value.detail
    assert "start that version" in refused.value.remedy
    assert _dump(file) == before


async def test_a_schema_that_only_has_the_names_of_ours_is_refused(folder: Path) -> None:
    """Such as that of a development version whose first migration was another one."""
    file = unpack(VERSIONS[0], folder) / "gateway" / DATABASE
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("ALTER TABLE executors RENAME COLUMN proof_due TO deadline")
    with pytest.raises(EnvironmentProblem, match="executors") as refused:
        Database(file, on_failure=lambda: None)
    assert refused.value.reason is GateReason.DATABASE_CORRUPT


def _dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


# Opens copies of one database, and is killed at the first, second, third … statement that does more than look.
KILLED = """
import os, shutil, signal, sqlite3, sys
from gateway.storage import database
source, folder = sys.argv[1:]

def migrate(path, kill_at):
    connection, told = database._connect(path), []
    def traced(statement):
        if not statement.upper().startswith(("SELECT", "PRAGMA", "--")):
            told.append(statement)
        if len(told) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    connection.set_trace_callback(traced)
    database._prepare(connection)
    os._exit(0)

number = 0
while True:
    number += 1
    copy = os.path.join(folder, f"{number}.db")
    shutil.copy(source, copy)
    child = os.fork()
    if child == 0:
        migrate(copy, number)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def test_a_migration_killed_at_any_statement_is_done_by_the_next_start(folder: Path) -> None:
    source = unpack(BEFORE, folder) / "gateway" / DATABASE
    copies = folder / "copies"
    copies.mkdir()
    with closing(sqlite3.connect(source)) as connection:  # one file, without a write-ahead log beside it
        connection.execute("PRAGMA journal_mode = DELETE")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(copies)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    killed = sorted(copies.glob("*.db"))
    assert len(killed) > 10
    states = set()
    for copy in killed:
        with closing(sqlite3.connect(copy)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            applied = {name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations")}
        assert ("replies" in tables) == ("m0002_replies" in applied), "half of a migration is on the disk"
        states.add("replies" in tables)
        with closing(database._connect(copy)) as connection:
            database._prepare(connection)  # what a start does, without what it looks at besides
            assert connection.execute("SELECT COUNT(*) FROM replies").fetchone() == (0,)
    assert states == {True, False}
