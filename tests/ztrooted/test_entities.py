"""Groups and pools: who belongs where, and which documents are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted.entities import MAX_ENTITIES, STARTER, Entities
from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason

HEAD = 'format = "ztrooted-entities/1"\n'
EX = "ex-" + "0" * 32
OTHER = "ex-" + "1" * 32
DOCUMENT = f"""{HEAD}
[group.engineering]
members = ["ci"]

[group.release]
members = ["nightly"]
in = ["engineering"]

[group.everyone]

[pool.gpu]
labels = {{ gpu = "yes", site = "here" }}

[pool.named]
executors = ["{EX}"]
in = ["all"]

[pool.booted]
classes = ["boot"]
in = ["all"]

[pool.all]
"""


def load(text: str) -> Entities:
    return Entities(text.encode(), "entities.toml")


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as refusal:
        load(text)
    assert refusal.value.reason is GateReason.POLICY_INVALID
    return refusal.value.detail


def test_members_belong_to_groups_and_to_what_these_are_in() -> None:
    entities = load(DOCUMENT)
    assert entities.groups_of("ci") == ("engineering",)
    assert entities.groups_of("nightly") == ("engineering", "release")
    assert entities.groups_of("stranger") == ()
    assert entities.groups_of("engineering") == ()


@pytest.mark.parametrize(
    ("executor", "executor_class", "labels", "pools"),
    [
        (EX, "other", {}, ("all", "named")),
        (OTHER, "boot", {}, ("all", "booted")),
        (EX, "boot", {"gpu": "yes", "site": "here", "more": "x"}, ("all", "booted", "gpu", "named")),
        (OTHER, "other", {"gpu": "yes"}, ()),
        (OTHER, "other", {"site": "here"}, ()),
        (OTHER, "other", {"gpu": "no", "site": "here"}, ()),
        (OTHER, "", {}, ()),
    ],
)
def test_an_executor_belongs_by_id_by_class_or_by_all_labels(
    executor: str, executor_class: str, labels: dict[str, str], pools: tuple[str, ...]
) -> None:
    assert load(DOCUMENT).pools_of(executor, executor_class, labels) == pools


def test_a_pool_without_labels_takes_nobody_in_by_labels() -> None:
    assert load(HEAD + "[pool.x]\n").pools_of(EX, "a", {"a": "b"}) == ()


def test_the_starter_has_nobody() -> None:
    assert load(STARTER).groups_of("ci") == ()
    assert load(STARTER).groups == {} == load(STARTER).pools


NAMES = [f"g{number}" for number in range(8)]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), st.sampled_from(NAMES))
def test_belonging_is_what_can_be_reached(edges: list[tuple[int, int]], member_of: str) -> None:
    """Compared with a closure made by repetition, over graphs without a way back."""
    within: dict[str, set[str]] = {name: set() for name in NAMES}
    for one, other in edges:
        if one < other:
            within[NAMES[one]].add(NAMES[other])
    text = HEAD + "".join(f"[group.{name}]\nin = {sorted(above)}\n" for name, above in within.items())
    text = text.replace(f"[group.{member_of}]\n", f'[group.{member_of}]\nmembers = ["ci"]\n')
    reached = {member_of}
    for _ in NAMES:
        reached |= {above for name in reached for above in within[name]}
    assert load(text).groups_of("ci") == tuple(sorted(reached))


REFUSED = {
    "J3 unknown key": ("[group.a]\nmember = []\n", "entities.toml:3: group.a.member: unknown key"),
    "J3 unknown table": ("[pools.a]\n", "entities.toml:2: pools: unknown key; did you mean 'pool'?"),
    "J7 members are a text": ('[group.a]\nmembers = "ci"\n', "entities.toml:3: group.a.members"),
    "J7 a label is a number": ("[pool.a]\nlabels = { gpu = 1 }\n", "entities.toml:3: pool.a.labels.gpu"),
    "J10 an id that is none": ('[pool.a]\nexecutors = ["*"]\n', "entities.toml:3: pool.a.executors.0"),
    "J10 a name with a space": ('[group."a b"]\n', "entities.toml:2: group.a b"),
    "J4 a group that is not there": ('[group.a]\nin = ["b"]\n', "entities.toml:3: group.a.in: there is no group 'b'"),
    "J4 a pool in a group": (
        '[group.b]\n[pool.a]\nin = ["b"]\n',
        "entities.toml:4: pool.a.in: there is no pool 'b'",
    ),
    "in itself": ('[group.a]\nin = ["a"]\n', "entities.toml:3: group.a.in: it would be in itself: a in a"),
    "in a circle": (
        '[pool.a]\nin = ["b"]\n[pool.b]\nin = ["c"]\n[pool.c]\nin = ["a"]\n',
        "it would be in itself: ",
    ),
    "twice": ('[group.a]\nmembers = ["ci", "ci"]\n', "entities.toml:3: group.a.members: 'ci' is there more than once"),
    "too many": ("".join(f"[group.g{number}]\n" for number in range(MAX_ENTITIES + 1)), "at most 1000 items"),
    "J14 half a document": ("[group.a\n", "entities.toml is not TOML"),
}


@pytest.mark.parametrize(("text", "detail"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_refused_whole_with_its_line(text: str, detail: str) -> None:
    assert detail in refused(HEAD + text)


def test_J2_a_document_without_its_format_is_refused() -> None:
    assert "format" in refused("[group.a]\n")
    assert "format" in refused('format = "ztrooted-entities/2"\n')
