"""Groups and pools: who belongs together, by id, class and label, directly or through another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted.entities import STARTER, Entities
from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason

EX = "ex-" + "1" * 32
TEXT = f"""\
format = "ztrooted-entities/1"

[group.ci]
members = ["flows", "nightly"]
in = ["engineering"]

[group.engineering]
in = ["everybody"]

[group.everybody]
members = ["visitor"]

[pool.gpu]
labels = {{ gpu = "yes", zone = "eu" }}
in = ["fast"]

[pool.fast]
executors = ["{EX}"]

[pool.strict]
classes = ["strict"]
"""


def load(text: str) -> Entities:
    return Entities(text.encode(), "entities.toml")


def test_groups_are_found_through_groups() -> None:
    entities = load(TEXT)
    assert entities.groups_of("flows") == ("ci", "engineering", "everybody")
    assert entities.groups_of("visitor") == ("everybody",)
    assert entities.groups_of("nobody") == ()


def test_pools_are_found_by_id_class_and_all_labels() -> None:
    entities = load(TEXT)
    other = "ex-" + "2" * 32
    assert entities.pools_of(EX, "default", {}) == ("fast",)
    assert entities.pools_of(other, "default", {"gpu": "yes", "zone": "eu"}) == ("fast", "gpu")
    assert entities.pools_of(other, "default", {"gpu": "yes"}) == ()
    assert entities.pools_of(other, "strict", {"gpu": "no", "zone": "eu"}) == ("strict",)


def test_the_starter_knows_nobody() -> None:
    assert load(STARTER).groups_of("flows") == ()


def test_a_circle_of_groups_ends() -> None:
    circle = 'format = "ztrooted-entities/1"\n[group.a]\nmembers = ["x"]\nin = ["b"]\n[group.b]\nin = ["a"]\n'
    assert load(circle).groups_of("x") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            TEXT.replace('in = ["everybody"]', 'in = ["everyone"]'),
            "entities.toml:8: group.engineering.in: there is no group 'everyone'",
        ),
        (TEXT.replace("members", "member"), "entities.toml:4: group.ci.member: unknown key; did you mean 'members'?"),
        (TEXT.replace(f'"{EX}"', '"host-1"'), "entities.toml:18: pool.fast.executors.0"),
        (TEXT.replace("entities/1", "entities/2"), "entities.toml:1: format"),
        (TEXT + "[pool.gpu]\n", "not TOML"),
        ("", "format: Field required"),
    ],
    ids=["unknown group", "misspelt key", "host name", "format", "twice", "empty"],
)
def test_a_doubtful_document_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(PolicyError) as refused:
        load(text)
    assert refused.value.reason is GateReason.POLICY_INVALID
    assert says in refused.value.detail


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"))), st.sampled_from("abcdef"))
def test_a_closure_holds_exactly_what_can_be_reached(edges: dict[str, set[str]], start: str) -> None:
    names = sorted({*edges, *(name for targets in edges.values() for name in targets), start})
    text = 'format = "ztrooted-entities/1"\n'
    for name in names:
        within = ", ".join(f'"{one}"' for one in sorted(edges.get(name, ())))
        members = '["x"]' if name == start else "[]"
        text += f"[group.{name}]\nmembers = {members}\nin = [{within}]\n"
    reached, left = set(), [start]
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += edges.get(name, ())
    assert load(text).groups_of("x") == tuple(sorted(reached))
