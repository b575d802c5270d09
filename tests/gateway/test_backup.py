"""A backup is whole while the gateway serves; what is restored is seen by the TPM's counter, and goes on by name only."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path

from gateway.app import DATABASE
from gateway.backup import backup
from gateway.config import load_config
from tests.support.commands import run
from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.support.gateway_process import GatewayProcess, running

__all__ = ["gate", "running"]  # fixtures


def label(gateway: GatewayProcess, number: int) -> None:
    """One more record."""

    async def ask() -> None:
        async with gateway.client("operator") as client:
            await client.label(f"ex-{number:032x}", {"n": str(number)})

    asyncio.run(ask())


def test_backup_restore_refusal_recovery(running: GatewayProcess, tmp_path: Path) -> None:
    data, file, away = running.data, tmp_path / "kept.tar.gz", tmp_path / "away"
    label(running, 1)
    done = run("gateway", "backup", str(data), str(file), "--json")
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)["records"]
    assert records > 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert running._process is not None
    assert running._process.poll() is None
    label(running, 2)
    running.stop()  # which anchors: the counter goes on
    assert running._process.returncode == 0
    data.rename(away)

    assert run("gateway", "restore", str(file), str(data)).returncode == 0
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "tls" / "key.sealed").stat().st_mode & 0o077 == 0
    assert run("gateway", "config", "check", str(data)).returncode == 0
    fsck = run("gateway", "fsck", str(data))
    assert fsck.returncode == 0, fsck.stdout
    assert f"{records} records: sound" in fsck.stdout
    refused = subprocess.run(
        [sys.executable, "-m", "gateway", str(data)], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 3
    assert "lineage.rolled_back" in refused.stderr
    done = run("gateway", "recover", str(data), "--operator", "olivia", "--reason", "the disk burnt")
    assert done.returncode == 0, done.stderr
    running.start(None)
    label(running, 3)
    running.stop()
    after = run("gateway", "fsck", str(data))
    assert after.returncode == 0, after.stdout
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        kinds = [kind for (kind,) in connection.execute("SELECT type FROM records ORDER BY seq")]
    assert kinds.count("gateway.recovered") == 1


async def test_it_is_of_one_instant_while_much_is_written(gate: GatewayInProcess, tmp_path: Path) -> None:
    config, over = load_config(gate.data), threading.Event()

    async def write() -> None:
        while not over.is_set():
            await gate.gateway.database.write(lambda tx: [tx.append(gate.some_record()) for _ in range(20)])

    writing = asyncio.create_task(write())
    sizes = []
    for number in range(3):
        done = await asyncio.to_thread(backup, config, tmp_path / f"{number}.tar.gz")
        sizes.append(done["records"])
        with tarfile.open(tmp_path / f"{number}.tar.gz") as archive:
            archive.extract(DATABASE, tmp_path / str(number), filter="data")
        with closing(sqlite3.connect(tmp_path / str(number) / DATABASE)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("SELECT COUNT(*), MAX(seq) + 1 FROM records").fetchone() == (sizes[-1],) * 2
    over.set()
    await writing
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3  # it went on meanwhile


async def test_it_writes_nothing_into_the_folder_and_over_no_file(gate: GatewayInProcess, tmp_path: Path) -> None:
    await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()) and None)
    before = {path: path.read_bytes() for path in gate.data.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    file = tmp_path / "kept.tar.gz"
    await asyncio.to_thread(backup, load_config(gate.data), file)
    assert before == {path: path.read_bytes() for path in before}
    with tarfile.open(file) as archive:
        names = set(archive.getnames())
    assert {
        "gateway.toml",
        "identity.json",
        "tls/key.sealed",
        "sealed-key.json",
        "policy/dispatch.cedar",
        DATABASE,
    } <= names
    assert not any(name.endswith(("-wal", "-shm", ".lock")) or name == "address" for name in names)
    kept = file.read_bytes()
    assert run("gateway", "backup", str(gate.data), str(file)).returncode == 3
    assert file.read_bytes() == kept
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert sorted(left) == sorted({"gateway", "roots.pem", "kept.tar.gz"})  # nothing half made


def test_what_is_no_backup_is_not_restored(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"not an archive")):
        file = tmp_path / f"{number}.tar.gz"
        file.write_bytes(content)
        assert run("gateway", "restore", str(file), str(tmp_path / "data")).returncode == 3
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as archive:
        member = tarfile.TarInfo("../outside")
        archive.addfile(member)
    assert run("gateway", "restore", str(evil), str(tmp_path / "data")).returncode == 3
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "outside").exists()
    (tmp_path / "data").mkdir()
    assert run("gateway", "restore", str(evil), str(tmp_path / "data")).returncode == 2
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".restored")]
