"""The log for other tools, and a mirror that notices when it is not the log that it was."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.anchors import anchors_file
from gateway.config import load_config
from tests.support.gateway_in_process import GatewayInProcess
from tpm.attestation_key import accept_attestation_key
from tpm.public import parse_public
from ztrooted import merkle, tiles
from ztrooted.anchors import parse_anchors
from ztrooted.checkpoint import Checkpoint, parse_checkpoint, seal_line
from ztrooted.client import GatewayClient
from ztrooted.errors import ProofError
from ztrooted.mirror import Fetch, Mirror
from ztrooted.note import format_note, parse_note, signature_of
from ztrooted.note_keys import ecdsa_key
from ztrooted.reasons import GateReason
from ztrooted.records import Record

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def auditor(gate: GatewayInProcess) -> AsyncIterator[GatewayClient]:
    async with await gate.client("auditor", "anna") as client:
        yield client


async def grow(gate: GatewayInProcess, count: int) -> None:
    """More records, and a checkpoint over them."""
    start = gate.clock.now_ms()
    records = [Record("gateway.stopped", start, {"n": number}) for number in range(count)]
    await gate.gateway.database.write(lambda tx: [tx.append(one) for one in records])
    await gate.gateway.checkpointer.seal()


async def signed(gate: GatewayInProcess, checkpoint: Checkpoint) -> bytes:
    """A checkpoint that the gateway's own TPM signs and seals, whatever it says."""
    signer = gate.gateway.signer
    signature, quoted = await signer.seal(checkpoint.text)
    ak = accept_attestation_key(parse_public(signer.identity.ak_public))
    line = seal_line(checkpoint.origin, ak.name, quoted.attest, quoted.signature, quoted.pcrs)
    key = ecdsa_key(checkpoint.origin, signer.identity.log_key())
    return format_note(checkpoint.text, [signature_of(key, signature), line])


def instead(fetch: Fetch, files: dict[str, bytes]) -> Fetch:
    """The log, with other files at some paths."""

    async def fetched(path: str) -> bytes:
        return files[path] if path in files else await fetch(path)

    return fetched


async def test_paths_are_those_of_the_format() -> None:
    assert tiles.path(0, 0) == "tile/0/000"
    assert tiles.path("entries", 1234067, 5) == "tile/entries/x001/x234/067.p/5"
    for number, width in ((0, 256), (7, 1), (999, 255), (1000, 256), (1234067, 8), (10**9, 256)):
        assert tiles.parse_number(tiles.path(3, number, width).removeprefix("tile/3/")) == (number, width)
    for bad in (
        "",
        "0",
        "00",
        "0000",
        "x000/001",
        "x001/x001",
        "001.p/0",
        "001.p/256",
        "001.p/01",
        "001/002",
        "001.p/",
        "-01",
    ):
        assert tiles.parse_number(bad) is None, bad


async def test_the_tiles_are_the_tree(gate: GatewayInProcess, auditor: GatewayClient) -> None:
    await grow(gate, 600)
    head = parse_checkpoint(parse_note(await auditor.log_file("checkpoint")).text)
    leaves: list[bytes] = []
    for number, width in tiles.tiles_of(head.size):
        entries = tiles.parse_entries(await auditor.log_file(tiles.path("entries", number, width)), width)
        hashes = tiles.parse_hashes(await auditor.log_file(tiles.path(0, number, width)), width)
        assert hashes == [merkle.leaf_hash(entry) for entry in entries]
        leaves += hashes
    assert merkle.root(leaves) == head.root
    above = tiles.parse_hashes(await auditor.log_file(tiles.path(1, 0, head.size // 256)), head.size // 256)
    assert above == [merkle.root(leaves[:256]), merkle.root(leaves[256:512])]


async def test_nothing_beyond_the_checkpoint_and_nothing_misspelt(
    gate: GatewayInProcess, auditor: GatewayClient
) -> None:
    await grow(gate, 10)
    size = parse_checkpoint(parse_note(await auditor.log_file("checkpoint")).text).size
    await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()))
    token = await gate.token("auditor", "anna")
    for path in (
        tiles.path(0, 0, size + 1),
        tiles.path("entries", 0, size + 1),
        "tile/0/000",
        "tile/1/000",
        "tile/9/000",
        "tile/0/x000/000",
        f"tile/0/000.p/0{size}",
        "tile/0/../checkpoint",
    ):
        answer = await gate.call("GET", f"/log/{path}", token=token)
        assert answer.status == 404, path
    answer = await gate.call("GET", "/log/checkpoint", token=await gate.token("orchestrator", "ci"))
    assert answer.status == 403


async def test_a_mirror_follows_and_can_be_followed(
    gate: GatewayInProcess, auditor: GatewayClient, tmp_path: Path
) -> None:
    mirror = Mirror(tmp_path, anchors(gate))
    for count in (3, 250, 1, 700, 5):
        await grow(gate, count)
        done = await mirror.update(auditor.log_file)
        assert done.size == parse_checkpoint(parse_note(await auditor.log_file("checkpoint")).text).size
    assert (await mirror.update(auditor.log_file)).before == done.size
    assert not list(tmp_path.rglob("*.new"))  # noqa: ASYNC240

    async def static(path: str) -> bytes:
        return (tmp_path / path).read_bytes()

    second = await Mirror(tmp_path / "second", anchors(gate)).update(static)
    assert (second.size, second.root) == (done.size, done.root)


async def test_a_mirror_raises_the_alarm(gate: GatewayInProcess, auditor: GatewayClient, tmp_path: Path) -> None:
    fetch = auditor.log_file
    await grow(gate, 300)
    old = await fetch("checkpoint")
    mirror = Mirror(tmp_path, anchors(gate))
    kept = await mirror.update(fetch)
    await grow(gate, 10)
    head = parse_checkpoint(parse_note(await fetch("checkpoint")).text)
    number, width = list(tiles.tiles_of(head.size))[-1]
    last = tiles.path("entries", number, width)
    entries = tiles.parse_entries(await fetch(last), width)
    changed = tiles.format_entries([*entries[:-1], entries[-1].replace(b'"n":9', b'"n":8')])
    truncated = Checkpoint(head.origin, kept.size - 1, bytes(32))
    other = Checkpoint(head.origin, kept.size, bytes(32))
    split, broken = GateReason.CHECKPOINT_SPLIT_VIEW, GateReason.LINEAGE_RECORD_MALFORMED
    unsigned = GateReason.NOTE_SIGNATURE
    for case, (files, reason) in {
        "it is shorter": ({"checkpoint": await signed(gate, truncated)}, split),
        "the same size, another tree": ({"checkpoint": await signed(gate, other)}, split),
        "a record is another": ({last: changed}, split),
        "another root": ({"checkpoint": await signed(gate, Checkpoint(head.origin, head.size, bytes(32)))}, split),
        "a record is missing": ({last: tiles.format_entries(entries[:-1])}, broken),
        "an entry is cut off": ({last: (await fetch(last))[:-1]}, broken),
        "not signed": ({"checkpoint": old.replace(b"\n%d\n" % kept.size, b"\n%d\n" % head.size)}, unsigned),
    }.items():
        with pytest.raises(ProofError) as refused:
            await mirror.update(instead(fetch, files))
        assert refused.value.reason is reason, case
        assert (tmp_path / "checkpoint").read_bytes() == old, case
    assert (await mirror.update(fetch)).size == head.size


@pytest.mark.parametrize("growth", [1, 300])
async def test_a_record_that_is_mirrored_already_is_not_replaced(
    gate: GatewayInProcess, auditor: GatewayClient, tmp_path: Path, growth: int
) -> None:
    """The last bundle of entries is fetched again once it has grown: what was in it before must be in it still."""
    await grow(gate, 300)
    mirror = Mirror(tmp_path, anchors(gate))
    kept = await mirror.update(auditor.log_file)
    await grow(gate, growth)
    size = parse_checkpoint(parse_note(await auditor.log_file("checkpoint")).text).size
    number, width = next(tiles.tiles_of(size, kept.size))
    path = tiles.path("entries", number, width)
    entries = tiles.parse_entries(await auditor.log_file(path), width)
    for forged in (0, kept.size % tiles.WIDTH - 1):
        other = [*entries[:forged], b'{"forged":true}', *entries[forged + 1 :]]
        with pytest.raises(ProofError) as refused:
            await mirror.update(instead(auditor.log_file, {path: tiles.format_entries(other)}))
        assert refused.value.reason is GateReason.CHECKPOINT_SPLIT_VIEW
        assert not (tmp_path / path).exists()
    assert (await mirror.update(auditor.log_file)).size == size


async def test_a_mirror_that_was_damaged_says_so(
    gate: GatewayInProcess, auditor: GatewayClient, tmp_path: Path
) -> None:
    await grow(gate, 300)
    mirror = Mirror(tmp_path, anchors(gate))
    await mirror.update(auditor.log_file)
    tile = tmp_path / "tile/1/000.p/1"
    tile.write_bytes(bytes(32))
    await grow(gate, 3)
    with pytest.raises(ProofError) as refused:
        await mirror.update(auditor.log_file)
    assert refused.value.reason is GateReason.LINEAGE_CHAIN_BROKEN


async def test_on_the_command_line(gate: GatewayInProcess, tmp_path: Path) -> None:
    await grow(gate, 5)
    (tmp_path / "anchors.toml").write_text(anchors_file(load_config(gate.data)))
    token = tmp_path / "token"
    token.write_text(await gate.token("auditor", "anna"))
    token.chmod(0o600)
    command = [sys.executable, "-m", "ztrooted", "audit", "mirror", str(tmp_path / "log"), "--gateway", gate.url]
    command += ["--ca", str(gate.ca), "--token-file", str(token), "--anchors", str(tmp_path / "anchors.toml")]
    done = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "new; root" in done.stdout
    (tmp_path / "log" / "checkpoint").write_bytes(
        await signed(gate, Checkpoint(gate.gateway.config.origin, 10**6, bytes(32)))
    )
    alarm = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True)
    assert alarm.returncode == 1
    assert "checkpoint.split_view" in alarm.stderr


def anchors(gate: GatewayInProcess):  # type: ignore[no-untyped-def]

    return parse_anchors(anchors_file(load_config(gate.data)).encode(), "anchors")
