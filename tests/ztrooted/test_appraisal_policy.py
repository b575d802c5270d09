"""The appraisal policy: a file with any doubt in it is refused whole, and the refusal names the key."""

import pytest

from ztrooted import limits
from ztrooted.appraisal_policy import AppraisalPolicy, Subject
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
    "J2 empty match": ("bank =", "match = {}\nbank =", "an empty 'match' says nothing"),
    "match by host name": ("bank =", 'match = { hostname = "a" }\nbank =', "match.hostname: unknown key"),
    "match by address": ("bank =", 'match = { address = "10.0.0.1" }\nbank =', "match.address: unknown key"),
    "a manufacturer in small letters": (
        "bank =",
        'match = { manufacturers = ["id:494e5443"] }\nbank =',
        "write 'id:494E5443'",
    ),
    "a manufacturer that is none": ("bank =", 'match = { manufacturers = ["x:1"] }\nbank =', "'manufacturers'"),
    "observing, with rules": (
        "bank =",
        "observe = true\nbank =",
        "'observe' asks for genuine evidence and nothing else",
    ),
    "a tier that is none": ("bank =", 'min_tier = "A5"\nbank =', "class.default.min_tier"),
    "a tier above the rules": (
        GOOD,
        'format = "ztrooted-appraisal/1"\n[class.default]\npcrs = [0]\npinned = [0]\nmin_tier = "A4"\n',
        "which is below min_tier = 'A4'",
    ),
    "evidence older than an idle round": (
        "lease_s = 30",
        "lease_s = 30\nmax_evidence_age_s = 64",
        "'max_evidence_age_s'",
    ),
    "no file could be accepted": ('allow_list = "baseline"', 'allow_list = "none"', "no file could be accepted"),
    "an exclude that is not anchored": ('"baseline"', '"baseline"\nexcludes = ["log/**"]', "'excludes'"),
    "a key that is none": ('"baseline"', '"baseline"\nkeys = ["secret"]', "'keys'"),
    "images without PCR 4": ("secure_boot = true", 'images = "baseline"', "add 4 to 'pcrs'"),
    "files without PCR 9": ("secure_boot = true", 'files = "baseline"', "add 9 to 'pcrs'"),
    "a command line without PCR 8": ("secure_boot = true", 'command_line = "baseline"', "add 8 to 'pcrs'"),
    "any command line": ("secure_boot = true", 'command_line = ["*"]', "allow every command line"),
    "a pattern of many stars": ("secure_boot = true", 'command_line = ["*a*a*a*a*a*a*a*a*"]', "at most 8 of *"),
    "events of a pinned PCR": (
        "secure_boot = true",
        "events = [5]",
        "'events' are of PCRs that are neither pinned nor 10",
    ),
    "code that varies": (
        "secure_boot = true",
        'varying = [{ pcr = 4, type = "EV_EFI_BOOT_SERVICES_APPLICATION" }]',
        "event_log.varying.0.pcr",
    ),
    "an event type that is none": (
        "secure_boot = true",
        'varying = [{ pcr = 5, type = "EV_EFI_GTP_EVENT" }]',
        "there is no event type 'EV_EFI_GTP_EVENT'",
    ),
    "a separator that varies": (
        "secure_boot = true",
        'varying = [{ pcr = 5, type = "EV_SEPARATOR" }]',
        "never differs",
    ),
    "what varies is not compared": (
        "secure_boot = true",
        'varying = [{ pcr = 1, type = "EV_EFI_VARIABLE_BOOT" }]',
        "add it to 'events'",
    ),
    "a quirk that is none": ("secure_boot = true", 'quirks = ["anything"]', "event_log.quirks.0"),
    "an empty list of images": ("secure_boot = true", "images = []", "event_log.images"),
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


CLASSES = """\
format = "ztrooted-appraisal/1"

[class.lab]
match = { virtual = true, labels = { site = "lab" } }
observe = true
pcrs = [0]

[class.one]
match = { executors = ["ex-00000000000000000000000000000001"] }
pcrs = [0]
pinned = [0]

[class.chips]
match = { manufacturers = ["id:49465800"], virtual = false }
pcrs = [0]
pinned = [0]
"""


def subject(number: int = 2, *, virtual: bool = True, manufacturer: str = "id:49424D00", **labels: str) -> Subject:
    return Subject(f"ex-{number:032x}", virtual=virtual, manufacturer=manufacturer, labels=labels)


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (subject(site="lab"), "lab"),
        (subject(1, site="lab"), "lab"),  # the first class in the file wins
        (subject(1), "one"),
        (subject(virtual=False, manufacturer="id:49465800"), "chips"),
    ],
)
def test_an_executor_is_of_the_first_class_that_matches(who: Subject, expected: str) -> None:
    assert load(CLASSES).class_of(who) == expected


@pytest.mark.parametrize(
    "who",
    [
        subject(),
        subject(site="Lab"),
        subject(site="lab", virtual=False),
        subject(manufacturer="id:49465800"),
        subject(Site="lab"),
    ],
)
def test_an_executor_that_no_class_is_for_has_no_rules(who: Subject) -> None:
    with pytest.raises(PolicyError) as refusal:
        load(CLASSES).class_of(who)
    assert refusal.value.reason is GateReason.POLICY_NO_CLASS


def test_a_class_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(PolicyError) as refusal:
        load(CLASSES.replace('match = { executors = ["ex-00000000000000000000000000000001"] }\n', ""))
    assert "class 'one' has no 'match', so it takes every executor" in refusal.value.detail


def test_classes_that_trust_every_genuine_machine_are_told_apart() -> None:
    assert load(CLASSES).open_classes == ("lab",)


def test_a_refusal_names_the_line() -> None:
    with pytest.raises(PolicyError) as refusal:
        load(GOOD.replace("lease_s = 30", "lease_s = 30\nobserv = true"))
    assert refusal.value.detail.startswith("policy.toml")
    assert "policy.toml:11" in refusal.value.detail
    assert "observe" in refusal.value.detail
