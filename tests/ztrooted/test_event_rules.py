"""Event rules: one baseline for many machines, and what is not in it is named."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import corpus
from tpm.boot_simulator import BootSimulator, Machine
from tpm.errors import EvidenceError
from tpm.eventlog import EventLogRules, parse_event_log, verify_event_log
from ztrooted.boot_reference import BootReference, boot_reference
from ztrooted.errors import GateError
from ztrooted.event_rules import EventLogPolicy, judge_boot
from ztrooted.reasons import GateReason

ZERO = "00" * 32


@pytest.fixture
def boot(tmp_path: Path) -> Callable[..., BootReference]:
    """The facts of a simulated boot."""

    def make(machine: Machine | None = None) -> BootReference:
        BootSimulator(lambda _pcr, _digests: None, ["sha256"], tmp_path).boot(machine)
        log = parse_event_log((tmp_path / "binary_bios_measurements").read_bytes())
        rules = EventLogRules(secure_boot=False)
        return boot_reference(verify_event_log(log, bank="sha256", pcrs=log.replay("sha256"), rules=rules))

    return make


def policy(**rules: object) -> EventLogPolicy:
    return EventLogPolicy.model_validate(rules)


ALL = {
    "keys": {"PK": "baseline", "KEK": "baseline", "db": "baseline", "dbx": "baseline"},
    "authorities": "baseline",
    "images": "baseline",
    "files": "baseline",
    "command_line": "baseline",
    "events": [0, 1, 2, 3, 5],
}


def test_an_equal_machine_passes_every_rule(boot: Callable[..., BootReference]) -> None:
    judge_boot(policy(**ALL), boot(), boot())


CHANGED: dict[str, tuple[Machine, dict[str, object], GateReason, str]] = {
    "another kernel": (Machine(kernel=b"k"), {"images": "baseline"}, GateReason.BOOT_IMAGE, "vmlinuz"),
    "another kernel file": (Machine(kernel=b"k"), {"files": "baseline"}, GateReason.BOOT_FILE, "event"),
    "another initrd": (Machine(initrd=b"i"), {"files": "baseline"}, GateReason.BOOT_FILE, "event"),
    "another command line": (
        Machine(command_line="root=/dev/sda init=/bin/sh"),
        {"command_line": "baseline"},
        GateReason.BOOT_COMMAND_LINE,
        "init=/bin/sh",
    ),
    "another loader": (Machine(loader=b"l"), {"images": "baseline"}, GateReason.BOOT_IMAGE, "grubx64"),
    "fewer revocations": (
        Machine(forbidden=(b"\1" * 32,)),
        {"keys": {"dbx": "baseline"}},
        GateReason.BOOT_KEYS,
        "dbx lacks 2 entries",
    ),
    "another firmware": (Machine(firmware=b"f"), {"events": [0]}, GateReason.BOOT_EVENT, "event 2 of PCR 0"),
    "another version": (
        Machine(firmware_version="2.0"),
        {"events": [0]},
        GateReason.BOOT_EVENT,
        "event 1 of PCR 0 is EV_S_CRTM_VERSION '2.0'",
    ),
    "Secure Boot off": (
        Machine(secure_boot=False),
        {"authorities": "baseline"},
        GateReason.BOOT_AUTHORITY,
        "no authority was measured",
    ),
}


@pytest.mark.parametrize(("machine", "rules", "reason", "says"), CHANGED.values(), ids=CHANGED.keys())
def test_what_differs_is_named(
    boot: Callable[..., BootReference], machine: Machine, rules: dict[str, object], reason: GateReason, says: str
) -> None:
    good, seen = boot(), boot(machine)
    with pytest.raises(GateError) as refused:
        judge_boot(policy(**rules), seen, good)
    assert refused.value.reason is reason
    assert says in refused.value.detail
    others = {name: rule for name, rule in ALL.items() if name not in {*rules, "events"}}
    judge_boot(policy(**rules), good, good)
    if reason is GateReason.BOOT_EVENT:
        judge_boot(policy(**others), seen, good)  # the other rules look elsewhere


def test_newer_revocations_are_welcome_and_other_keys_are_not(boot: Callable[..., BootReference]) -> None:
    good = boot()
    more = replace(good, keys={**good.keys, "dbx": good.keys["dbx"] | {"ff" * 32}})
    judge_boot(policy(keys={"dbx": "baseline"}), more, good)
    stranger = replace(good, keys={**good.keys, "db": good.keys["db"] | {"ff" * 32}})
    with pytest.raises(GateError, match="db has 1 entries that are not allowed"):
        judge_boot(policy(keys={"db": "baseline"}), stranger, good)
    without = replace(good, keys={name: found for name, found in good.keys.items() if name != "PK"})
    with pytest.raises(GateError, match="PK was not measured"):
        judge_boot(policy(keys={"PK": "baseline"}), without, good)


def test_a_list_in_the_policy_needs_no_baseline(boot: Callable[..., BootReference]) -> None:
    seen = boot()
    judge_boot(policy(images=sorted(seen.images), files=sorted(seen.files)), seen, None)
    with pytest.raises(GateError) as refused:
        judge_boot(policy(images=[ZERO]), seen, None)
    assert refused.value.reason is GateReason.BOOT_IMAGE


@pytest.mark.parametrize(
    "rules", [{"images": "baseline"}, {"events": [0]}, {"command_line": "baseline"}, {"keys": {"db": "baseline"}}]
)
def test_a_baseline_without_facts_is_no_permission(
    boot: Callable[..., BootReference], rules: dict[str, object]
) -> None:
    with pytest.raises(GateError) as refused:
        judge_boot(policy(**rules), boot(), None)
    assert refused.value.reason is GateReason.BOOT_NO_REFERENCE


@pytest.mark.parametrize("empty", ["authorities", "images", "files", "texts"])
def test_nothing_measured_fulfils_no_rule(boot: Callable[..., BootReference], empty: str) -> None:
    good = boot()
    rule = "command_line" if empty == "texts" else empty
    with pytest.raises(GateError, match="was measured, and the policy asks for known ones"):
        judge_boot(policy(**{rule: "baseline"}), replace(good, **{empty: frozenset()}), good)


def test_what_varies_by_declaration_is_left_out_and_nothing_else(boot: Callable[..., BootReference]) -> None:
    good = boot()
    order = next(n for n, event in enumerate(good.events) if event.pcr == 1 and "BootOrder" in event.shown)
    moved = replace(
        good, events=(*good.events[:order], replace(good.events[order], digest=b"\1" * 32), *good.events[order + 1 :])
    )
    varying = [{"pcr": 1, "type": "EV_EFI_VARIABLE_BOOT"}]
    with pytest.raises(GateError, match="event 2 of PCR 1 is EV_EFI_VARIABLE_BOOT 'BootOrder'"):
        judge_boot(policy(events=[1]), moved, good)
    judge_boot(policy(events=[1], varying=varying), moved, good)
    tables = next(n for n, event in enumerate(good.events) if event.type_name == "EV_EFI_HANDOFF_TABLES2")
    other = replace(
        good,
        events=(*good.events[:tables], replace(good.events[tables], digest=b"\2" * 32), *good.events[tables + 1 :]),
    )
    with pytest.raises(GateError, match="EV_EFI_HANDOFF_TABLES2"):
        judge_boot(policy(events=[1], varying=varying), other, good)


def test_an_event_more_or_less_is_a_difference(boot: Callable[..., BootReference]) -> None:
    good = boot()
    last = next(event for event in reversed(good.events) if event.pcr == 5)
    more = replace(good, events=(*good.events, replace(last, digest=b"\1" * 32)))
    less = replace(good, events=tuple(event for event in good.events if event is not last))
    with pytest.raises(GateError, match="the baseline has no further one"):
        judge_boot(policy(events=[5]), more, good)
    with pytest.raises(GateError, match="PCR 5 ends after"):
        judge_boot(policy(events=[5]), less, good)


LINES = "root=/dev/nvme0n1p2 ro ima_policy=tcb *"


@pytest.mark.parametrize("wrapped", ["{}", "{}\0", "BOOT_IMAGE={}", "BOOT_IMAGE={}\0"])
@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_every_form_in_which_a_stub_measures_it(
    boot: Callable[..., BootReference], wrapped: str, tagged: bool, bank: str
) -> None:
    good = boot()
    text = "/vmlinuz root=/dev/sda"
    data = wrapped.format(text).encode("utf-16-le")
    measured = struct.pack("<II", 0x8F3B22ED, len(data)) + data if tagged else data
    files = frozenset({"ab" * hashlib.new(bank).digest_size})
    seen = replace(good, files=files | {hashlib.new(bank, measured).hexdigest()}, texts=frozenset({text}))
    rules = {"files": sorted(files), "command_line": ["/vmlinuz root=*"]}
    judge_boot(policy(**rules), seen, None)
    other = replace(seen, files=files | {hashlib.new(bank, measured + b"\0").hexdigest()})
    with pytest.raises(GateError, match="allowed files"):
        judge_boot(policy(**rules), other, None)


def test_a_command_line_among_the_files_is_judged_as_a_text(boot: Callable[..., BootReference]) -> None:
    """Linux' stub measures it into PCR 9; patterns for it would be of no use if the files' rule refused it."""
    good = boot()
    seen = boot(Machine(command_line="root=/dev/nvme0n1p2 ro ima_policy=tcb quiet"))
    patterns = [*good.texts, LINES, f"/vmlinuz {LINES}", f"linux /vmlinuz {LINES}"]
    judge_boot(policy(files="baseline", command_line=patterns), seen, good)
    with pytest.raises(GateError, match="is none of the 3 allowed files"):
        judge_boot(policy(files="baseline"), seen, good)  # nobody would judge it
    with pytest.raises(GateError) as refused:
        judge_boot(policy(files="baseline", command_line=sorted(good.texts)), seen, good)
    assert refused.value.reason is GateReason.BOOT_COMMAND_LINE
    initrd = boot(Machine(initrd=b"i", command_line="root=/dev/nvme0n1p2 ro ima_policy=tcb quiet"))
    with pytest.raises(GateError, match="is none of the 3 allowed files"):
        judge_boot(policy(files="baseline", command_line=patterns), initrd, good)


@pytest.mark.parametrize(
    "text",
    ["root=/dev/nvme0n1p2 ro ima_policy=tcb \n", "root=/dev/nvme0n1p2 ro ima_policy=tcb \u4f60"],
    ids=["line", "wide"],
)
def test_what_could_be_more_than_a_command_line_stays_a_file(boot: Callable[..., BootReference], text: str) -> None:
    good = boot()
    digest = hashlib.sha256(text.encode("utf-16-le")).hexdigest()
    hidden = replace(good, files=good.files | {digest}, texts=good.texts | {text})
    with pytest.raises(GateError) as refused:
        judge_boot(policy(files="baseline", command_line=[*good.texts, LINES]), hidden, good)
    assert refused.value.reason is GateReason.BOOT_FILE


PATTERNS = [
    ("a*b*c", "a c", False),
    ("a*b*c", "a b c", True),
    ("root=/dev/sda ro", "root=/dev/sda ro", True),
    ("root=/dev/sda ro", "root=/dev/sda rw", False),
    ("root=* ro", "root=/dev/sda ro", True),
    ("root=* ro", "root=/dev/sda ro init=/bin/sh", False),
    ("root=*", "xroot=/dev/sda", False),
    ("*quiet", "a b quiet", True),
    ("*quiet", "quiet loud", False),
    ("a*b*c", "a-b-b-c", True),
    ("a*b*c", "a-c-b", False),
    ("ab*ba", "aba", False),
    ("a.c", "abc", False),
    ("a[bc]", "ab", False),
]


@pytest.mark.parametrize(("pattern", "text", "fits"), PATTERNS)
def test_a_pattern_is_anchored_and_knows_only_the_star(
    boot: Callable[..., BootReference], pattern: str, text: str, fits: bool
) -> None:
    seen = replace(boot(), texts=frozenset({text}))
    if fits:
        judge_boot(policy(command_line=[pattern]), seen, None)
        return
    with pytest.raises(GateError) as refused:
        judge_boot(policy(command_line=[pattern]), seen, None)
    assert refused.value.reason is GateReason.BOOT_COMMAND_LINE


def test_I22_a_pattern_takes_no_time_by_its_stars(boot: Callable[..., BootReference]) -> None:
    """Eight stars over a long text: a matcher that backtracks would not come back."""
    seen = replace(boot(), texts=frozenset({"a" * 50_000}))
    with pytest.raises(GateError):
        judge_boot(policy(command_line=["a*a*a*a*a*a*a*a*b"]), seen, None)


def test_one_text_that_is_not_allowed_spoils_all(boot: Callable[..., BootReference]) -> None:
    """Which of them is the command line no digest says, so each must be allowed."""
    good = boot()
    with pytest.raises(GateError, match="evil"):
        judge_boot(policy(command_line="baseline"), replace(good, texts=good.texts | {"evil"}), good)


def test_real_logs_agree_with_themselves_and_with_nobody_else() -> None:
    """Every event log of the corpus that verifies: its own facts are its own baseline, and another machine's are not."""
    facts: list[BootReference] = []
    for path in sorted(corpus.folder("evidence").rglob("*")):
        if not path.is_file() or path.stat().st_size > 1 << 20:
            continue
        try:
            log = parse_event_log(path.read_bytes())
            bank = next(one for one in ("sha256", "sha384") if one in log.banks)
            pcrs = {pcr: value for pcr, value in log.replay(bank).items() if pcr < 16}
            facts.append(
                boot_reference(verify_event_log(log, bank=bank, pcrs=pcrs, rules=EventLogRules(secure_boot=False)))
            )
        except (EvidenceError, StopIteration):
            continue
    assert len(facts) > 3
    rules = policy(images="baseline", events=[0, 4, 7])
    for one in facts:
        assert BootReference.decode(one.encode()) == one
        if one.images:
            judge_boot(rules, one, one)
        for other in facts:
            if one.images and other.events != one.events:
                with pytest.raises(GateError):
                    judge_boot(rules, other, one)
