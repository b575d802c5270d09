"""The gateway's witnesses: nothing is published without as many as are demanded, and no second history finds any."""

import asyncio
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from gateway.app import DATABASE
from gateway.config import load_config
from gateway.fsck import fsck
from gateway.recover import recover
from tests.adversarial.test_policies import running
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.notes import NoteSigner
from tests.support.storage import by_hand
from tests.support.witness import WitnessProcess
from ztrooted.anchors import parse_anchors
from ztrooted.checkpoint import verify_checkpoint
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.mirror import Mirror
from ztrooted.note import parse_note
from ztrooted.note_keys import SignatureType, parse_vkey
from ztrooted.verify import verify_bundle

pytestmark = pytest.mark.asyncio

INTERVAL_S = 10
LIMIT_S = 30  # the least age of a checkpoint at which issuing stops


def configure(gate: GatewayInProcess, quorum: int, tables: str) -> None:
    """For the next start."""
    file = gate.data / "gateway.toml"
    kept = file.read_text().partition("[[witnesses]]")[0]
    lines = [line for line in kept.splitlines() if not line.startswith(("witness_quorum", "checkpoint_interval_s"))]
    settings = [f"witness_quorum = {quorum}", f"checkpoint_interval_s = {INTERVAL_S}"]
    file.write_text("\n".join([*settings, *lines, tables]))


@pytest.fixture
def witnesses(gate: GatewayInProcess, tmp_path: Path) -> Iterator[list[WitnessProcess]]:
    """Two that serve, and know the gateway's log by its anchors."""
    from gateway.anchors import anchors_file  # noqa: PLC0415

    anchors = tmp_path / "anchors.toml"
    anchors.write_text(anchors_file(gate.gateway.config))
    made = [
        WitnessProcess(tmp_path / f"w{n}", f"witness.test/{n}", options=("--anchors", str(anchors), *more))
        for n, more in ((1, ()), (2, ("--ml-dsa",)))
    ]
    made[1].vkeys.reverse()  # the second one is known by its post-quantum key
    for one in made:
        one.spawn()
    for one in made:
        one.wait()
    yield made
    for one in made:
        one.kill()


@pytest.fixture
async def watched(gate: GatewayInProcess, witnesses: list[WitnessProcess]) -> GatewayInProcess:
    """A gateway that needs both."""
    await gate.stop()
    configure(gate, 2, "".join(one.toml for one in witnesses))
    await gate.start()
    return gate


async def more(gate: GatewayInProcess, count: int = 1) -> None:
    for _ in range(count):
        await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()) and None)


def cosigned_size(gate: GatewayInProcess) -> int:
    """How many records the published checkpoint covers; it is verified with both witnesses."""
    latest = gate.gateway.checkpointer.latest()
    assert latest is not None
    found = gate.anchors().verify_checkpoint(latest[1])
    assert len(found.cosigners) == 2
    assert found.checkpoint.size == latest[0]
    return latest[0]


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def codes(logged: list[Any]) -> set[str]:
    return {str(line["code"]) for line in logged if "code" in line}


async def unwitnessed(gate: GatewayInProcess) -> None:
    with pytest.raises(GateError) as refusal:
        await gate.gateway.checkpointer.publish()
    assert str(refusal.value.reason) == "checkpoint.unwitnessed"


# --- with a quorum -----------------------------------------------------------------------------------------------
async def test_without_a_witness_publishing_stops_then_issuing_and_with_it_both_go_on(
    watched: GatewayInProcess, witnesses: list[WitnessProcess], executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await running(channel, await executor.authorize(job("a")))
    await channel.ended(grant)
    async with await watched.client("operator") as operator:
        bundle = await operator.bundle(grant.authorization)
    assert watched.anchors().witness_quorum == 2
    assert verify_bundle(bundle, watched.anchors()).verified
    published = cosigned_size(watched)

    witnesses[1].kill()
    await more(watched)
    with capture_logs() as logged:
        await unwitnessed(watched)
    assert codes(logged) == {"witness.unreachable"}
    # Sealed, and shown to nobody.
    ((sealed,),) = watched.gateway.database.reading.execute("SELECT MAX(size) FROM checkpoints").fetchall()
    assert sealed > published == cosigned_size(watched)
    shown = await watched.call("GET", "/log/checkpoint", token=await watched.token("auditor"))
    assert parse_note(shown.data).text.split(b"\n")[1] == b"%d" % published
    # What was published goes on to be provable; what was not, is not.
    async with await watched.client("operator") as operator:
        again = await operator.bundle(grant.authorization)
        assert verify_bundle(again, watched.anchors()).verified
        later = await executor.authorize(job("b"))  # the last checkpoint is not too old yet
        with pytest.raises(GateError) as refusal:
            await operator.bundle(later.authorization)
        assert str(refusal.value.reason) == "checkpoint.unwitnessed"

    await watched.pass_time(LIMIT_S + 1)
    assert watched.gateway.not_ready() == ["checkpoint.stale", "checkpoint.unwitnessed"]
    with pytest.raises(GateError) as refusal:
        await executor.authorize(job("c"))
    assert str(refusal.value.reason) == "checkpoint.stale"

    await asyncio.to_thread(witnesses[1].start)
    await watched.pass_time(INTERVAL_S + 1)
    await eventually(lambda: not watched.gateway.not_ready())
    assert cosigned_size(watched) > published
    assert await executor.authorize(job("d"))


async def test_an_idle_gateway_notices_too_that_a_witness_is_gone(
    watched: GatewayInProcess, witnesses: list[WitnessProcess]
) -> None:
    witnesses[0].kill()
    await watched.pass_time(LIMIT_S + 1)
    await eventually(lambda: watched.gateway.not_ready() == ["checkpoint.stale", "checkpoint.unwitnessed"])


async def test_it_starts_without_its_witnesses_and_is_not_ready(
    watched: GatewayInProcess, witnesses: list[WitnessProcess]
) -> None:
    published = cosigned_size(watched)
    await watched.stop()
    for one in witnesses:
        one.kill()
    await watched.start()
    assert watched.gateway.not_ready() == ["checkpoint.stale", "checkpoint.unwitnessed"]
    assert cosigned_size(watched) > published  # what was sealed and cosigned before the stop
    for one in witnesses:
        await asyncio.to_thread(one.start)
    await watched.gateway.checkpointer.publish()
    assert watched.gateway.not_ready() == []


async def test_a_sealed_checkpoint_that_nobody_cosigned_is_asked_for_after_a_crash(
    watched: GatewayInProcess, witnesses: list[WitnessProcess]
) -> None:
    await more(watched)
    size, _ = await watched.gateway.checkpointer.seal(anchor=True)
    assert cosigned_size(watched) < size
    await crash(watched)
    await watched.start()
    assert cosigned_size(watched) > size


async def test_asking_holds_up_no_append(
    watched: GatewayInProcess, witnesses: list[WitnessProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.witnesses.ASK_S", 60)
    process = witnesses[0]._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await more(watched)
        asking = asyncio.create_task(watched.gateway.checkpointer.publish())
        await asyncio.sleep(0.3)
        async with asyncio.timeout(20):
            await more(watched, 3)
            await watched.gateway.checkpointer.seal()
        assert not asking.done()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    await asking


# --- another history ---------------------------------------------------------------------------------------------
async def crash(gate: GatewayInProcess) -> None:
    """End without the anchor of a clean stop."""

    async def never(**_: object) -> tuple[int, bytes]:
        raise GateError("witness.unreachable", "the process is dead")  # type: ignore[arg-type]

    gate.gateway.checkpointer.publish = never  # type: ignore[method-assign]
    await gate.stop()


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


async def test_an_older_database_of_the_same_anchor_finds_no_witness(watched: GatewayInProcess, tmp_path: Path) -> None:
    """The TPM's counter can't tell them apart within one anchor interval."""
    copy(watched.data / DATABASE, tmp_path / "old.db")
    await more(watched, 5)
    published, _ = await watched.gateway.checkpointer.publish()
    await crash(watched)
    for leftover in watched.data.glob(f"{DATABASE}*"):
        leftover.unlink()
    copy(tmp_path / "old.db", watched.data / DATABASE)
    with capture_logs() as logged:
        await watched.start()
    assert {line["code"] for line in logged if line["event"] == "not cosigned"} == {"checkpoint.split_view"}
    assert watched.gateway.not_ready() == ["checkpoint.stale", "checkpoint.unwitnessed"]
    assert cosigned_size(watched) < published
    # Larger than what the witnesses know, it is still another one: 422.
    await more(watched, 10)
    with capture_logs() as logged:
        await unwitnessed(watched)
    refused = [line for line in logged if line["event"] == "not cosigned"]
    assert {line["code"] for line in refused} == {"checkpoint.split_view"}
    # The gateway's own loop may have asked about fewer of them meanwhile.
    larger = [line["detail"] for line in refused if line["size"] > published]
    assert len(larger) >= 2
    assert all(f"the {published} records that it cosigned" in detail for detail in larger)


async def test_recovering_does_not_help_where_witnesses_know_better(watched: GatewayInProcess, tmp_path: Path) -> None:
    copy(watched.data / DATABASE, tmp_path / "old.db")
    await more(watched, 3)
    await watched.gateway.checkpointer.publish()
    await watched.stop()
    for leftover in watched.data.glob(f"{DATABASE}*"):
        leftover.unlink()
    copy(tmp_path / "old.db", watched.data / DATABASE)
    await recover(load_config(watched.data), operator="ops", reason="the disk is gone")
    with capture_logs() as logged:
        await watched.start()
    assert "checkpoint.split_view" in codes(logged)
    assert watched.gateway.not_ready() == ["checkpoint.stale", "checkpoint.unwitnessed"]


async def test_of_two_databases_of_one_size_the_second_is_refused(watched: GatewayInProcess, tmp_path: Path) -> None:
    """409 with the very size that was asked for."""
    await more(watched)
    await watched.gateway.checkpointer.publish()
    size, root = watched.checkpoint().size, bytes(32)
    other = replace(watched.checkpoint(), root=root)
    checkpointer = watched.gateway.checkpointer
    signature, _ = await watched.gateway.signer.seal(other.text)
    from ztrooted.note import signature_of  # noqa: PLC0415

    with capture_logs() as logged:
        assert await checkpointer._witnesses.cosign(other, signature_of(checkpointer._log_key, signature)) == []
    assert [line["code"] for line in logged] == ["checkpoint.split_view"] * 2
    assert all(f"this database's {size}" in line["detail"] for line in logged)


# --- witnesses that lie ------------------------------------------------------------------------------------------
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(answer: Answering) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/add-checkpoint", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


KEY = NoteSigner.of("liar", SignatureType.ED25519_COSIGNATURE)
OTHER = NoteSigner.of("liar", SignatureType.ED25519_COSIGNATURE)


def _cosign(gate: GatewayInProcess, body: bytes, signer: NoteSigner = KEY, ago_s: int = 0, cut: int = 0) -> bytes:
    text = parse_note(body.partition(b"\n\n")[2]).text
    return signer.sign(text[cut:], gate.clock.now_ms() // 1000 - ago_s).line().encode()


LIES: dict[str, Callable[[GatewayInProcess, bytes], web.Response]] = {
    "nothing": lambda gate, body: web.Response(body=b""),
    "another key": lambda gate, body: web.Response(body=_cosign(gate, body, OTHER)),
    "another text": lambda gate, body: web.Response(body=_cosign(gate, body, cut=1)),
    "long ago": lambda gate, body: web.Response(body=_cosign(gate, body, ago_s=3600)),
    "in the future": lambda gate, body: web.Response(body=_cosign(gate, body, ago_s=-3600)),
    "no line end": lambda gate, body: web.Response(body=_cosign(gate, body)[:-1]),
    "another status": lambda gate, body: web.Response(status=201, body=_cosign(gate, body)),
    "elsewhere": lambda gate, body: web.Response(status=307, headers={"Location": "/"}),
    "without end": lambda gate, body: web.Response(body=_cosign(gate, body) * 4000),
    "no proof from nothing": lambda gate, body: web.Response(status=422),
    "the size it was asked with": lambda gate, body: web.Response(
        status=409, body=b"0\n", headers={"Content-Type": "text/x.tlog.size"}
    ),
    "no size": lambda gate, body: web.Response(status=409, body=b"0\n"),
    "a size with a zero": lambda gate, body: web.Response(
        status=409, body=b"01\n", headers={"Content-Type": "text/x.tlog.size"}
    ),
    "another size each time": lambda gate, body: web.Response(
        status=409,
        body=b"%d\n" % (int(body.split(b"\n")[0].split()[1]) + 1),
        headers={"Content-Type": "text/x.tlog.size"},
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
async def test_a_witness_that_lies_is_not_counted(gate: GatewayInProcess, lie: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return LIES[lie](gate, await request.read())

    async with served(answer) as url:
        await gate.stop()
        configure(gate, 1, f'[[witnesses]]\nurl = "{url}"\nvkey = "{KEY.key.vkey}"\n')
        with capture_logs() as logged:
            await gate.start()
        refused = {line["code"] for line in logged if line["event"] == "not cosigned"}
        assert refused == {"witness.answer"}
        assert gate.gateway.checkpointer.latest() is None
        assert gate.gateway.not_ready() == ["checkpoint.stale", "checkpoint.unwitnessed"]


async def test_the_same_witness_saying_the_truth_is_counted(gate: GatewayInProcess) -> None:
    """Else the ones above are refused for another reason. It is told nothing but the log key's signature."""
    asked: list[bytes] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(await request.read())
        return web.Response(body=_cosign(gate, asked[-1]) + OTHER.sign(b"something else\n").line().encode())

    async with served(answer) as url:
        await gate.stop()
        configure(gate, 1, f'[[witnesses]]\nurl = "{url}/"\nvkey = "{KEY.key.vkey}"\n')
        await gate.start()
        assert gate.gateway.not_ready() == []
        assert len(parse_note(asked[-1].partition(b"\n\n")[2]).signatures) == 1


# --- without a quorum --------------------------------------------------------------------------------------------
async def test_without_a_quorum_a_witness_that_is_gone_costs_a_line_in_the_log(
    gate: GatewayInProcess, witnesses: list[WitnessProcess]
) -> None:
    witnesses[1].kill()
    await gate.stop()
    configure(gate, 0, "".join(one.toml for one in witnesses))
    await gate.start()
    await more(gate)
    with capture_logs() as logged:
        await gate.pass_time(INTERVAL_S + 1)
        await eventually(lambda: any(line["event"] == "cosigned" for line in logged))
    assert codes(logged) == {"witness.unreachable"}
    assert gate.gateway.not_ready() == []
    latest = gate.gateway.checkpointer.latest()
    assert latest is not None
    assert len(gate.anchors().verify_checkpoint(latest[1]).cosigners) == 1
    text = gate.gateway.metrics.text().decode()
    assert 'ztrooted_witness_failures_total{witness="witness.test/2"}' in text
    assert "ztrooted_checkpoint_cosigners 1.0" in text


# --- what is stored, and what a verifier demands -----------------------------------------------------------------
async def test_fsck_verifies_what_witnesses_signed(watched: GatewayInProcess, tmp_path: Path) -> None:
    await more(watched)
    await watched.gateway.checkpointer.publish()
    await watched.stop()
    database = watched.data / DATABASE
    assert list(fsck(load_config(watched.data))[1]) == []
    shutil.copy(database, tmp_path / "sound.db")
    with closing(sqlite3.connect(database)) as connection:
        (note,) = connection.execute("SELECT note FROM cosigned ORDER BY n DESC LIMIT 1").fetchone()
    start = bytes(note).index("— witness.test/1 ".encode()) + 80  # inside of the signature
    forged = note[:start] + (b"A" if note[start : start + 1] != b"A" else b"B") + note[start + 1 :]
    for statement, reason in (
        ("UPDATE cosigned SET size = size - 1", "note.signature"),
        (f"UPDATE cosigned SET note = x'{forged.hex()}' WHERE n = (SELECT MAX(n) FROM cosigned)", "note.signature"),  # noqa: S608 -- our own bytes
    ):
        by_hand(database, statement)
        assert reason in {str(one.reason) for one in fsck(load_config(watched.data))[1]}, statement
        shutil.copy(tmp_path / "sound.db", database)


async def test_what_was_published_is_verified_again_at_a_start(
    watched: GatewayInProcess, witnesses: list[WitnessProcess]
) -> None:
    await watched.stop()
    for one in witnesses:
        one.kill()
    by_hand(
        watched.data / DATABASE,
        "UPDATE cosigned SET note = (SELECT note FROM checkpoints c WHERE c.size = cosigned.size)",
    )
    await watched.start()
    assert watched.gateway.checkpointer.latest() is None
    shown = await watched.call("GET", "/log/checkpoint", token=await watched.token("auditor"))
    assert shown.code == "service.not_ready"


async def test_a_bundle_is_verified_only_with_the_cosignatures_that_the_anchors_demand(
    gate: GatewayInProcess,
    witnesses: list[WitnessProcess],
    executor: ScriptedExecutor,
    channel: Channel,
    tmp_path: Path,
) -> None:
    from gateway.anchors import anchors_file  # noqa: PLC0415

    grant = await running(channel, await executor.authorize(job("a")))
    await channel.ended(grant)
    async with await gate.client("operator") as operator:
        plain = await operator.bundle(grant.authorization)
    text = anchors_file(gate.gateway.config)
    keys = ", ".join(f'"{one.vkeys[0]}"' for one in witnesses)
    head, _, tables = text.partition("\n[")

    def demanding(quorum: int) -> Any:
        return parse_anchors(
            f"{head}\nwitnesses = [{keys}]\nwitness_quorum = {quorum}\n\n[{tables}".encode(), "anchors"
        )

    assert verify_bundle(plain, gate.anchors()).verified
    assert verify_bundle(plain, demanding(0)).verified
    # A mirror from before goes on as soon as there is a checkpoint with what is demanded now.
    async with await gate.client("auditor") as auditor:
        folder = tmp_path / "mirror"
        await Mirror(folder, gate.anchors()).update(auditor.log_file)
        await more(gate)
        await gate.gateway.checkpointer.seal()
        with pytest.raises(ProofError, match="witnesses cosigned"):
            await Mirror(folder, demanding(2)).update(auditor.log_file)
    for quorum in (1, 2):
        report = verify_bundle(plain, demanding(quorum))
        assert not report.verified
        assert [str(one.reason) for one in report.checks if one.reason is not None] == ["checkpoint.quorum"]
    await gate.stop()
    configure(gate, 2, "".join(one.toml for one in witnesses))
    await gate.start()
    async with await gate.client("auditor") as auditor:
        assert (await Mirror(folder, demanding(2)).update(auditor.log_file)).size == cosigned_size(gate)


@pytest.mark.parametrize(
    ("witnesses", "quorum"),
    [
        ([("a", 0), ("b", 0)], 2),
        ([("a", 0), ("a", 1)], 1),
        ([("a", 0)], 2),
        ([], 1),
    ],
    ids=["one key, two names", "one name, two keys", "more than there are", "none"],
)
async def test_anchors_that_count_a_witness_twice_are_refused(
    gate: GatewayInProcess, witnesses: list[tuple[str, int]], quorum: int
) -> None:
    from gateway.anchors import anchors_file  # noqa: PLC0415

    kind = SignatureType.ED25519_COSIGNATURE
    pairs = [KEY.private, OTHER.private]
    signers = [NoteSigner.of(name, kind, pairs[at]) for name, at in witnesses]
    listed = ", ".join(f'"{one.key.vkey}"' for one in signers)
    head, _, tables = anchors_file(gate.gateway.config).partition("\n[")
    with pytest.raises(EnvironmentProblem) as problem:
        parse_anchors(f"{head}\nwitnesses = [{listed}]\nwitness_quorum = {quorum}\n\n[{tables}".encode(), "anchors")
    assert str(problem.value.reason) == "config.invalid"
    tables = "".join(f'[[witnesses]]\nurl = "http://w"\nvkey = "{one.key.vkey}"\n' for one in signers)
    await gate.stop()
    configure(gate, quorum, tables)
    with pytest.raises(EnvironmentProblem):
        load_config(gate.data)


async def test_one_key_under_two_names_is_counted_once(gate: GatewayInProcess) -> None:
    log = NoteSigner.of("log.test/x", SignatureType.ED25519)
    from tests.support.notes import checkpoint_text  # noqa: PLC0415
    from ztrooted.note import format_note  # noqa: PLC0415

    text = checkpoint_text("log.test/x")
    twice = [NoteSigner.of(name, SignatureType.ED25519_COSIGNATURE, KEY.private) for name in ("a", "b")]
    note = format_note(text, [log.sign(text), *(one.sign(text) for one in twice)])
    keys = [one.key for one in twice]
    assert verify_checkpoint(note, origin="log.test/x", log_key=log.key, witnesses=keys, quorum=1)
    with pytest.raises(ProofError) as refusal:
        verify_checkpoint(note, origin="log.test/x", log_key=log.key, witnesses=keys, quorum=2)
    assert str(refusal.value.reason) == "checkpoint.quorum"


async def test_the_second_verifier_demands_cosignatures_as_well(
    gate: GatewayInProcess, witnesses: list[WitnessProcess], executor: ScriptedExecutor, channel: Channel
) -> None:
    """Of type 0x04; where one of type 0x06 is needed it says that it did not check, which is not verified."""
    from gateway.anchors import anchors_file  # noqa: PLC0415
    from tests.vectors.node import judged  # noqa: PLC0415

    grant = await running(channel, await executor.authorize(job("a")))
    await channel.ended(grant)
    async with await gate.client("operator") as operator:
        plain = await operator.bundle(grant.authorization)
    told = anchors_file(gate.gateway.config)
    await gate.stop()
    configure(gate, 2, "".join(one.toml for one in witnesses))
    await gate.start()
    async with await gate.client("operator") as operator:
        cosigned = await operator.bundle(grant.authorization)
    head, _, tables = told.partition("\n[")
    first, second = (one.vkeys[0] for one in witnesses)
    assert (parse_vkey(first).type, parse_vkey(second).type) == (0x04, 0x06)

    def demanding(quorum: object, *keys: str) -> bytes:
        listed = ", ".join(f'"{key}"' for key in keys)
        return f"{head}\nwitnesses = [{listed}]\nwitness_quorum = {quorum}\n\n[{tables}".encode()

    cases = {
        "nothing": (plain, told.encode(), "pass", None),
        "one of one": (cosigned, demanding(1, first), "pass", None),
        "one, and none is there": (plain, demanding(1, first), "fail", "checkpoint.quorum"),
        "another one": (cosigned, demanding(1, KEY.key.vkey), "fail", "checkpoint.quorum"),
        "two, and one is there": (cosigned, demanding(2, first, KEY.key.vkey), "fail", "checkpoint.quorum"),
        "a post-quantum one": (cosigned, demanding(1, second), "not_checked", None),
    }
    reports = judged((bundle, anchors) for bundle, anchors, *_ in cases.values())
    for (name, (bundle, anchors, status, reason)), report in zip(cases.items(), reports, strict=True):
        check = report["checks"][1]
        assert (check["status"], check["reason"]) == (status, reason), name
        ours = verify_bundle(bundle, parse_anchors(anchors, name)).checks[1]
        assert str(ours.status) == ("pass" if status == "not_checked" else status), name
        assert str(ours.reason or "None") == str(reason), name
    twice = NoteSigner.of("twice", SignatureType.ED25519_COSIGNATURE, KEY.private).key.vkey
    refused = [demanding(1), demanding(2, KEY.key.vkey, twice), demanding('"1"', first), demanding(-1, first)]
    for anchors in refused:
        with pytest.raises(EnvironmentProblem):
            parse_anchors(anchors, "anchors")
    assert [report["error"] for report in judged((plain, anchors) for anchors in refused)] == ["config.invalid"] * len(
        refused
    )
