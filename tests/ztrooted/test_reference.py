"""Baselines: one form of bytes, and nothing that couldn't be compared with evidence."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpm.ima_rules import ImaRules
from ztrooted import canonical
from ztrooted.errors import GateError, PolicyError, ProofError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.reference import MAXIMUM, Baseline, parse_baseline

ONE, TWO = "sha256:" + "11" * 32, "sha256:" + "22" * 32
SOME = Baseline(
    "sha256",
    {0: bytes(32), 7: bytes.fromhex("ab" * 32)},
    {"/usr/bin/true": frozenset({ONE, TWO}), "boot_aggregate": frozenset({ONE})},
    "ex-" + "0" * 32,
    1_780_000_000_000,
)

# What a path may hold: every byte but NUL, as the kernel sees it.
COMPONENTS = st.binary(min_size=1, max_size=6).filter(
    lambda raw: b"\0" not in raw and b"/" not in raw and raw not in {b".", b".."}
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=3).map(lambda parts: os.fsdecode(b"/" + b"/".join(parts)))
BASELINES = st.builds(
    Baseline,
    bank=st.just("sha256"),
    pcrs=st.dictionaries(st.integers(0, 23), st.binary(min_size=32, max_size=32), min_size=1, max_size=4),
    ima=st.dictionaries(PATHS, st.frozensets(st.sampled_from([ONE, TWO]), max_size=2), max_size=4),
    captured_from=st.just("ex-" + "0" * 32),
    captured_at=st.integers(0, 2**53 - 1),
)


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(SOME.encode())
    change(value)
    return canonical.encode(value)


def put(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value.update(members)


@given(BASELINES)
def test_what_is_written_is_read_back_and_written_again_alike(baseline: Baseline) -> None:
    """Any file name the kernel can measure survives, with bytes that are no UTF-8."""
    data = baseline.encode()
    assert data.isascii()
    assert parse_baseline(data) == baseline
    assert parse_baseline(data).encode() == data


@given(BASELINES)
def test_whatever_can_be_read_can_be_used_as_an_allow_list(baseline: Baseline) -> None:
    ImaRules.of(parse_baseline(baseline.encode()).ima)


def test_the_order_of_capture_does_not_change_the_name() -> None:
    backwards = Baseline(
        SOME.bank,
        dict(reversed(SOME.pcrs.items())),
        dict(reversed(SOME.ima.items())),
        SOME.captured_from,
        SOME.captured_at,
    )
    assert sha256(backwards.encode()) == sha256(SOME.encode())


MUTATIONS = {
    "another format": put(format="ztrooted-baseline/2"),
    "an unknown bank": put(bank="sm3"),
    "a bank of another length": put(bank="sha384"),
    "bank is a list": put(bank=["sha256"]),
    "an extra member": put(extra=1),
    "nothing pinned": put(pcrs={}, ima=[]),
    "pcrs is a list": put(pcrs=[]),
    "pcrs is null": put(pcrs=None),
    "PCR 24": put(pcrs={"24": "00" * 32}),
    "PCR -1": put(pcrs={"-1": "00" * 32}),
    "PCR with a leading zero": put(pcrs={"07": "00" * 32}),
    "PCR with a sign": put(pcrs={"+7": "00" * 32}),
    "PCR with a space": put(pcrs={" 7": "00" * 32}),
    "PCR with an underscore": put(pcrs={"1_0": "00" * 32}),
    "PCR twice": put(pcrs={"7": "00" * 32, "07": "11" * 32}),
    "PCR is a word": put(pcrs={"seven": "00" * 32}),
    "a short value": put(pcrs={"7": "00" * 31}),
    "an empty value": put(pcrs={"7": ""}),
    "a value in upper case": put(pcrs={"7": "AB" * 32}),
    "a value with spaces": put(pcrs={"7": "00 " * 32}),
    "a value is a number": put(pcrs={"7": 0}),
    "ima is null": put(ima=None),
    "ima is an object": put(ima={"/a": [ONE]}),
    "a path without digests": put(ima=[["/a"]]),
    "a digest instead of a list": put(ima=[["/a", ONE]]),
    "a digest of another length": put(ima=[["/a", ["sha256:" + "11" * 31]]]),
    "a digest of an unknown algorithm": put(ima=[["/a", ["md9:" + "11" * 32]]]),
    "a digest is a number": put(ima=[["/a", [5]]]),
    "a digest is null": put(ima=[["/a", [None]]]),
    "digests out of order": put(ima=[["/a", [TWO, ONE]]]),
    "a digest twice": put(ima=[["/a", [ONE, ONE]]]),
    "paths out of order": put(ima=[["/b", [ONE]], ["/a", [ONE]]]),
    "a path twice": put(ima=[["/a", [ONE]], ["/a", [TWO]]]),
    "a path escaped without need": put(ima=[["/%61", [ONE]]]),
    "an escape in lower case": put(ima=[["/%ff", [ONE]]]),
    "a path of plain Unicode": put(ima=[["/é", [ONE]]]),
    "a path that climbs": put(ima=[["/a/../b", [ONE]]]),
    "a path is a number": put(ima=[[5, [ONE]]]),
    "captured_from is null": put(captured_from=None),
    "captured_at as text": put(captured_at="now"),
    "captured_at is true": put(captured_at=True),
    "captured_at before the epoch": put(captured_at=-1),
    "format is missing": lambda value: value.pop("format"),
    "bank is missing": lambda value: value.pop("bank"),
    "pcrs is missing": lambda value: value.pop("pcrs"),
    "ima is missing": lambda value: value.pop("ima"),
    "captured_from is missing": lambda value: value.pop("captured_from"),
    "captured_at is missing": lambda value: value.pop("captured_at"),
}


@pytest.mark.parametrize("change", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_every_other_content_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    assert parse_baseline(altered(lambda value: None)) == SOME  # only the change makes the difference
    with pytest.raises(PolicyError) as refusal:
        parse_baseline(altered(change))
    assert refusal.value.reason is GateReason.BASELINE_MALFORMED


@pytest.mark.parametrize("data", [b"null", b"[]", b"7", b'"text"', b"true"])
def test_a_document_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyError) as refusal:
        parse_baseline(data)
    assert refusal.value.reason is GateReason.BASELINE_MALFORMED


@pytest.mark.parametrize("data", [b"", b"{", SOME.encode() + b" ", b" " * (MAXIMUM + 1)], ids=len)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(ProofError) as refusal:
        parse_baseline(data)
    assert refusal.value.reason is GateReason.CANONICAL_MALFORMED


@given(st.data())
def test_no_changed_byte_gives_the_same_baseline(data: st.DataObject) -> None:
    encoded = bytearray(SOME.encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        read = parse_baseline(bytes(encoded))
    except GateError:
        return
    assert read != SOME
    assert read.encode() == bytes(encoded)


BOOT: dict[str, Any] = {
    "events": [[4, 0x80000003, "ab" * 32, "shimx64.efi"]],
    "secure_boot": True,
    "keys": {"db": ["cd" * 32]},
    "authorities": ["ab" * 32],
    "images": ["ab" * 32],
    "files": [],
    "texts": ["root=/dev/sda"],
}
BROKEN_BOOTS: dict[str, dict[str, Any]] = {
    "a member more": {"pcrs": {}},
    "an event of no PCR": {"events": [[24, 1, "ab" * 32, ""]]},
    "an event without a digest": {"events": [[4, 1, "", ""]]},
    "an event of another bank": {"events": [[4, 1, "ab" * 48, ""]]},
    "an event with a long description": {"events": [[4, 1, "ab" * 32, "x" * 121]]},
    "an event whose PCR is true": {"events": [[True, 1, "ab" * 32, ""]]},
    "an event that is none": {"events": [[4, 1, "ab" * 32]]},
    "a key variable that is none": {"keys": {"PK ": ["cd" * 32]}},
    "text for a list": {"images": "ab" * 32},
    "a number among texts": {"texts": [1]},
    "a list of keys that is text": {"keys": {"db": "cd" * 32}},
    "secure boot as a number": {"secure_boot": 1},
    "secure boot as text": {"secure_boot": "true"},
}


def test_facts_of_a_boot_are_read_back() -> None:
    baseline = parse_baseline(altered(put(boot=BOOT)))
    assert baseline.boot is not None
    assert baseline.boot.encode() == BOOT


@pytest.mark.parametrize("change", BROKEN_BOOTS.values(), ids=BROKEN_BOOTS.keys())
def test_facts_of_a_boot_that_could_not_be_compared_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(GateError) as refused:
        parse_baseline(altered(put(boot=BOOT | change)))
    assert refused.value.reason is GateReason.BASELINE_MALFORMED
    assert "spelled in another way" not in refused.value.detail  # it is refused for what it says


@pytest.mark.parametrize("change", [{"format": "ztrooted-baseline/0"}, {"more": 1}])
def test_another_format_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(GateError, match="it is not of format"):
        parse_baseline(altered(put(**change)))
