"""The appraisal policy: a file with any doubt in it is refused whole, and the refusal names the key."""

import pytest

from ztrooted import limits
from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason

GOOD = """\
format = "ztrooted-appraisal/1"

[class.default]
bank = "sha256"
pcrs = [0, 5, 7, 10]
pinned = [0, 5, 7]
interval_s = 10
idle_interval_s = 60
response_deadline_s = 5
lease_s = 30

[class.default.event_log]
secure_boot = true

[class.default.ima]
allow_list = "baseline"
"""


def load(text: str) -> AppraisalPolicy:
    return AppraisalPolicy(text.encode(), "policy.toml")


def test_a_good_policy_says_what_it_says() -> None:
    policy = load(GOOD)
    rules = policy.for_class("default")
    assert (rules.bank, rules.pcrs, rules.pinned) == ("sha256", [0, 5, 7, 10], [0, 5, 7])
    assert rules.verdict_life_ms == 65_000
    assert rules.event_log_rules.secure_boot is True
    assert policy.digest == sha256(GOOD.encode())


def test_the_defaults_are_a_policy_by_themselves() -> None:
    rules = load('format = "ztrooted-appraisal/1"\n[class.a]\npcrs = [0]\npinned = [0]\n').for_class("a")
    assert rules.lease_s >= rules.interval_s + rules.response_deadline_s + 1
    assert rules.ima is None
    assert rules.event_log is None


def test_no_rules_for_a_class_means_no_trust() -> None:
    with pytest.raises(PolicyError) as refusal:
        load(GOOD).for_class("other")
    assert refusal.value.reason is GateReason.POLICY_NO_CLASS


# What is changed in GOOD, into what, and what the refusal has to say.
CHANGES = {
    "J3 unknown key of a class": ("lease_s = 30", "lease_s = 30\nlease = 30", "class.default.lease: unknown key"),
    "J3 misspelt key": ("pinned =", "pined =", "class.default.pined: unknown key"),
    "J3 unknown key of the event log": ("secure_boot = true", "sekure_boot = true", "event_log.sekure_boot"),
    "J3 unknown key of ima": ('allow_list = "baseline"', 'deny_list = "baseline"', "ima.deny_list: unknown key"),
    "J3 unknown table": ("[class.default.ima]", "[class.default.imma]", "class.default.imma: unknown key"),
    "J3 unknown key of the document": ("[class.default]", "version = 1\n\n[class.default]", "version: unknown key"),
    "J4 unknown format": ("appraisal/1", "appraisal/2", "format"),
    "J4 unknown bank": ('bank = "sha256"', 'bank = "sha1"', "class.default.bank"),
    "J4 unknown allow-list": ('allow_list = "baseline"', 'allow_list = "any"', "ima.allow_list"),
    "J7 bank is a list": ('bank = "sha256"', 'bank = ["sha256"]', "class.default.bank"),
    "J7 PCR as text": ("pcrs = [0, 5, 7, 10]", 'pcrs = ["0", 5, 7, 10]', "class.default.pcrs.0"),
    "J7 PCR is true": ("pcrs = [0, 5, 7, 10]", "pcrs = [0, 5, true]", "class.default.pcrs.2"),
    "J7 PCR is a fraction": ("pinned = [0, 5, 7]", "pinned = [0, 5, 7.0]", "class.default.pinned.2"),
    "J7 pcrs is a number": ("pcrs = [0, 5, 7, 10]", "pcrs = 7", "class.default.pcrs"),
    "J7 pcrs is a wildcard": ("pcrs = [0, 5, 7, 10]", 'pcrs = "*"', "class.default.pcrs"),
    "J7 secure_boot as text": ("secure_boot = true", 'secure_boot = "true"', "event_log.secure_boot"),
    "J7 secure_boot is 1": ("secure_boot = true", "secure_boot = 1", "event_log.secure_boot"),
    "J7 lease as text": ("lease_s = 30", 'lease_s = "30"', "class.default.lease_s"),
    "J7 lease is true": ("lease_s = 30", "lease_s = true", "class.default.lease_s"),
    "J7 ima is true": ('[class.default.ima]\nallow_list = "baseline"', "", "IMA rules and PCR 10"),
    "J10 PCR 24": ("pcrs = [0, 5, 7, 10]", "pcrs = [0, 5, 7, 24]", "class.default.pcrs.3"),
    "J10 PCR -1": ("pinned = [0, 5, 7]", "pinned = [-1, 5, 7]", "class.default.pinned.0"),
    "J10 repeated PCR": ("pcrs = [0, 5, 7, 10]", "pcrs = [0, 5, 7, 7, 10]", "'pcrs' and 'pinned'"),
    "J10 descending PCRs": ("pinned = [0, 5, 7]", "pinned = [7, 5, 0]", "'pcrs' and 'pinned'"),
    "lease is not a number": ("lease_s = 30", "lease_s = nan", "class.default.lease_s"),
    "lease for ever": ("lease_s = 30", "lease_s = inf", "class.default.lease_s"),
    "lease over the limit": ("lease_s = 30", f"lease_s = {limits.ARTIFACT_LIFE_S + 1}", "class.default.lease_s"),
    "lease too short": ("lease_s = 30", "lease_s = 15.9", "'lease_s' must be at least"),
    "interval of zero": ("interval_s = 10\nidle", "interval_s = 0\nidle", "class.default.interval_s"),
    "interval below zero": ("interval_s = 10\nidle", "interval_s = -1\nidle", "class.default.interval_s"),
    "interval is not a number": ("interval_s = 10\nidle", "interval_s = nan\nidle", "class.default.interval_s"),
    "idle interval of zero": ("idle_interval_s = 60", "idle_interval_s = 0", "class.default.idle_interval_s"),
    "deadline of zero": ("response_deadline_s = 5", "response_deadline_s = 0", "class.default.response_deadline_s"),
    "deadline over a challenge's life": (
        "response_deadline_s = 5",
        f"response_deadline_s = {limits.CHALLENGE_LIFE_S + 1}",
        "class.default.response_deadline_s",
    ),
    "IMA rules without PCR 10": ("pcrs = [0, 5, 7, 10]", "pcrs = [0, 5, 7]", "IMA rules and PCR 10"),
    "pinned and not quoted": ("pinned = [0, 5, 7]", "pinned = [0, 4, 5, 7]", "'pinned' names PCRs that are not quoted"),
    "PCR 10 pinned": ("pinned = [0, 5, 7]", "pinned = [0, 5, 7, 10]", "PCR 10 changes"),
    "Secure Boot without PCR 7": (
        "pcrs = [0, 5, 7, 10]\npinned = [0, 5, 7]",
        "pcrs = [0, 5, 10]\npinned = [0, 5]",
        "add 7 to 'pcrs'",
    ),
    "event log without the PCR of its end": (
        "pcrs = [0, 5, 7, 10]\npinned = [0, 5, 7]",
        "pcrs = [0, 7, 10]\npinned = [0, 7]",
        "add 5 to 'pcrs'",
    ),
    "quoted PCRs missing": ("pcrs = [0, 5, 7, 10]\n", "", "class.default.pcrs: Field required"),
    "no class": (GOOD, 'format = "ztrooted-appraisal/1"\n', "class: Field required"),
    "J2 empty table of classes": (GOOD, 'format = "ztrooted-appraisal/1"\n[class]\n', "class"),
    "J2 empty class": (GOOD, 'format = "ztrooted-appraisal/1"\n[class.default]\n', "class.default.pcrs"),
    "J2 nothing required": (
        GOOD,
        'format = "ztrooted-appraisal/1"\n[class.default]\npcrs = [0]\npinned = []\n',
        "nothing is required of the evidence",
    ),
    "J2 quoted and never compared": (
        GOOD,
        'format = "ztrooted-appraisal/1"\n[class.default]\npcrs = [0, 5, 7]\npinned = []\n',
        "nothing is required of the evidence",
    ),
    "J2 an empty file": (GOOD, "", "format: Field required"),
    "format missing": ('format = "ztrooted-appraisal/1"', "", "format: Field required"),
    "a key twice": ("lease_s = 30", "lease_s = 30\nlease_s = 600", "not TOML"),
    "J14 no TOML": (GOOD, "format: ztrooted-appraisal/1", "not TOML"),
}


@pytest.mark.parametrize(("old", "new", "says"), CHANGES.values(), ids=CHANGES.keys())
def test_a_doubtful_policy_is_refused_whole(old: str, new: str, says: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(PolicyError) as refusal:
        load(GOOD.replace(old, new))
    assert refusal.value.reason is GateReason.POLICY_INVALID
    assert says in refusal.value.detail
    assert refusal.value.detail.startswith("policy.toml")


def test_every_finding_is_named_not_only_the_first() -> None:
    with pytest.raises(PolicyError) as refusal:
        load(GOOD.replace("lease_s = 30", "lease = 30").replace('"baseline"', '"any"'))
    assert "class.default.lease: unknown key" in refusal.value.detail
    assert "class.default.ima.allow_list" in refusal.value.detail


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(PolicyError) as refusal:
        AppraisalPolicy(b"\xff\xfe" + GOOD.encode("utf-16-le"), "policy.toml")
    assert refusal.value.reason is GateReason.POLICY_INVALID


def test_the_shortest_lease_that_healthy_machines_survive_is_accepted() -> None:
    assert load(GOOD.replace("lease_s = 30", "lease_s = 16")).for_class("default").lease_s == 16


def test_secure_boot_may_be_left_to_the_pinned_values() -> None:
    text = GOOD.replace("secure_boot = true", "secure_boot = false").replace("[0, 5, 7", "[0, 5")
    assert load(text).for_class("default").event_log_rules.secure_boot is False
