"""``python -m tests.upgrade.make FILE.tar.xz``: what this version leaves on a disk, for later versions to open.

One gateway with its TPM, one executor with its own, three stories (a normal end, a revocation, a denial), the bundle of the
first, anchors, and an operator's token. It is made by the code that it is run with, so it runs in older checkouts too.
"""

import asyncio
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from gateway.anchors import anchors_file
from tests.support.executor import ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tpm.software import SoftwareTpm, ca_certificates, provision
from ztrooted.client import Refused

EPOCH = 1_600_000_000  # the time of every file: two archives of the same content are the same


async def play(folder: Path) -> None:
    """Everything that is to be on the disk, in ``folder``."""
    for name in ("gateway", "executor"):
        provision(folder / "tpm" / name, ca=folder / "ca", certificates=name == "executor")
    with SoftwareTpm(folder / "tpm" / "gateway") as ours, SoftwareTpm(folder / "tpm" / "executor") as theirs:
        gate = GatewayInProcess(folder, ours, ca_certificates(folder / "ca"), {})
        executor = ScriptedExecutor(gate, theirs, folder / "machine")
        try:
            await gate.start()
            await executor.enroll()
            async with executor.connect() as channel:
                await executor.approve()
                await channel.renew()
                ended = await executor.authorize(job("ended"))
                await channel.activate(ended)
                await channel.started(ended)
                await channel.renew()
                await channel.ended(ended)
                revoked = await executor.authorize(job("revoked"))
                await channel.activate(revoked)
                await channel.started(revoked)
                async with await gate.client("operator", "olivia") as operator:
                    await operator.revoke(revoked.authorization, "it was to be seen")
                await channel.ended(revoked, "killed", signal=9)
                executor.drift()
                try:
                    await executor.authorize(job("denied"))
                except Refused as refused:
                    (folder / "denied").write_text(f"{refused.authorization}\n")
            await gate.gateway.checkpointer.publish(anchor=True)
            async with await gate.client("auditor") as auditor:
                (folder / "bundle.json").write_bytes(await auditor.bundle(ended.authorization))
            (folder / "anchors.toml").write_text(anchors_file(gate.gateway.config))
        finally:
            executor.device.close()
            await gate.stop()


def pack(folder: Path, target: Path) -> None:
    """The files of ``folder``, without what belongs to processes."""
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if not path.is_file() or {"run", "ca"} & set(name.parts) or path.suffix in {".lock", ".log"}:
                continue
            data, entry = path.read_bytes(), tarfile.TarInfo(str(name))
            entry.size, entry.mtime, entry.mode = len(data), EPOCH, path.stat().st_mode & 0o777
            archive.addfile(entry, io.BytesIO(data))


def main() -> int:
    """Make one."""
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        asyncio.run(play(Path(folder)))
        pack(Path(folder), target)
    print(f"{target.name}: {target.stat().st_size:,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
