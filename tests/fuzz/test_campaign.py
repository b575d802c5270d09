"""The fuzzer itself: a parser that breaks a promise is found out, one that keeps them is not."""

import time
from collections.abc import Callable
from random import Random

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Campaign, peak_memory
from tests.fuzz.der import mutate_der, read
from tests.fuzz.mutation import mutate_bytes, mutate_json, mutate_length
from tests.fuzz.target import Target
from tests.support.endorsement import ek_certificate, vendor
from tpm.errors import MalformedError
from tpm.reasons import EvidenceReason

SEED = b"begin 1234 end"


def campaign_of(run: Callable[[bytes], object], executions: int = 3000) -> campaign.Result:
    return Campaign(Target("made_up", run, lambda: [SEED]), 1).run(executions)


def strict(data: bytes) -> None:
    if not data.startswith(b"begin"):
        raise MalformedError(EvidenceReason.QUOTE_MALFORMED, "it does not begin")


def test_a_parser_that_keeps_its_promises_gives_no_finding() -> None:
    result = campaign_of(strict)
    assert result.findings == []
    assert result.executions == 3000
    assert 0 < result.accepted < 3000
    assert result.outcomes == 2


def test_an_undeclared_exception_is_found_once_with_its_place() -> None:
    def run(data: bytes) -> None:
        strict(data)
        data.decode("ascii")

    (finding,) = campaign_of(run).findings
    assert finding.kind == "exception"
    assert "UnicodeDecodeError" in finding.detail
    assert "test_campaign.py" in finding.detail
    with pytest.raises(UnicodeDecodeError):
        run(finding.data)


def test_an_input_that_takes_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "SUSPICIOUS_S", 0.0005)
    monkeypatch.setattr(campaign, "max_seconds", lambda: 0.001)

    def run(data: bytes) -> None:
        end = time.process_time() + 0.002
        while len(data) < len(SEED) // 2 and time.process_time() < end:
            pass

    assert "slow" in [finding.kind for finding in campaign_of(run, 200).findings]


def test_one_that_never_ends_is_stopped_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "HANG_S", 0.02)

    def run(data: bytes) -> None:
        while not data:
            pass

    (finding,) = campaign_of(run, 500).findings
    assert (finding.kind, finding.data) == ("slow", b"")


def test_an_input_that_takes_much_memory_is_found() -> None:
    kept: list[object] = []

    def run(data: bytes) -> None:
        if len(data) < 4:
            kept.append(bytearray(b"x") * (80 << 20))
            kept.clear()

    result = campaign_of(run, 40)
    # Memory that an earlier test had is given to this one without being noticed; weighed directly it is always seen.
    assert {finding.kind for finding in result.findings} <= {"memory"}
    assert peak_memory(Target("made_up", run, lambda: [SEED]), b"") > campaign.MAX_BYTES


def test_the_same_seed_gives_the_same_inputs() -> None:
    seen: list[list[bytes]] = []
    for _ in range(2):
        seen.append([])
        campaign_of(seen[-1].append, 200)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 150


def test_the_der_mutator_reads_and_corrects_lengths() -> None:
    der = ek_certificate(vendor().issuer)
    tree = read(der)
    assert tree is not None
    assert b"".join(node.encode() for node in tree) == der
    source = Random(5)  # noqa: S311 -- repeatable
    changed = [mutate_der(source, der, [der]) for _ in range(300)]
    framed = sum(len(data) == 4 + int.from_bytes(data[2:4], "big") for data in changed if data[:2] == b"\x30\x82")
    # Nearly all are still one well-formed element.
    assert framed > 200
    assert len(set(changed)) > 250


@pytest.mark.parametrize("mutate", [mutate_bytes(), mutate_json(), mutate_length, mutate_der])
@pytest.mark.parametrize("seed", [b"", b"\0", b"{}", b"[[1]]", b"\x30\x00", b"x" * 5000])
def test_mutators_take_any_input_and_stay_below_a_mebibyte(mutate: Callable[..., bytes], seed: bytes) -> None:
    source = Random(6)  # noqa: S311 -- repeatable
    for _ in range(200):
        assert len(mutate(source, seed, [b"other"])) <= campaign.MAX_INPUT + 512
