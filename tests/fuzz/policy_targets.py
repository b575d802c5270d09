"""What operators write: policies and anchors."""

from collections.abc import Mapping
from functools import cache

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.attestation import VALUES, SoftwareAk
from tests.support.endorsement import vendor
from tests.support.seals import LOG
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.entities import Entities
from ztrooted.policies import Policies
from ztrooted.policy import STARTER, DispatchPolicy, Request
from ztrooted.policy_cases import parse_cases, run_cases

_mutate_toml = mutate_bytes(
    (b"'''", b'"""', b"[[", b"]]", b"[class.x]", b"=", b"inf", b"nan", b"1979-05-27T07:32:00Z", b"a.b.c", b"{}")
)
APPRAISAL = b"""format = "ztrooted-appraisal/1"
[class.default]
bank = "sha256"
pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14]
pinned = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]
interval_s = 10.0
idle_interval_s = 60.0
response_deadline_s = 5.0
lease_s = 30.0
[class.default.event_log]
secure_boot = true
[class.default.ima]
allow_list = "baseline"
"""
SMALL_APPRAISAL = b'format = "ztrooted-appraisal/1"\n[class.default]\npcrs = [0, 7]\npinned = [7]\n'


def run_appraisal_policy(data: bytes) -> None:
    """What is accepted can be used: it has a selection, and rules for its event log."""
    policy = AppraisalPolicy(data, "the policy")
    for name in policy.classes:
        rules = policy.for_class(name)
        assert not rules.selection.is_empty
        assert rules.verdict_life_ms > 0
        if rules.event_log is not None:
            assert rules.event_log_rules


@cache
def anchors_text() -> bytes:
    ak = SoftwareAk.ecc()
    values = "\n".join(f'{index} = "{VALUES["sha256"][index].hex()}"' for index in (0, 1, 10))
    return (
        f'format = "ztrooted-anchors/1"\ntrust_domain = "log.test"\nlog_key = "{LOG.key.vkey}"\n'
        f'gateway_ak = "{ak.public.marshal().hex()}"\nek_vendors = ["id:494E5443"]\n'
        f"ek_roots = '''\n{vendor().root.pem.decode()}'''\n[gateway_pcrs.sha256]\n{values}\n"
    ).encode()


def run_anchors(data: bytes) -> None:
    """What is accepted can be used."""
    anchors = parse_anchors(data, "the anchors")
    assert isinstance(anchors, Anchors)
    assert not anchors.gateway_selection.is_empty
    assert anchors.origin == anchors.log_key.name
    assert anchors.ek_policy.vendors is None or anchors.ek_policy.vendors


@cache
def toml_bombs() -> Mapping[str, bytes]:
    """Nesting, dotted names, long numbers, many tables."""
    return {
        "arrays": b"a = " + b"[" * 1_000_000,
        "tables": b"a = " + b"{a=" * 300_000,
        "dotted": b"a." * 500_000 + b"a = 1",
        "header": b"[" + b"a." * 500_000 + b"a]",
        "many_dotted": b"".join(b"a" + b".a" * 200 + b".b%d = 1\n" % number for number in range(2500)),
        "digits": b"a = " + b"1" * 1_000_000,
        "many_digits": b"".join(b"a%d = %s\n" % (number, b"1" * 4000) for number in range(250)),
        "many_tables": b"".join(b"[class.a%d]\npcrs=[0]\n" % number for number in range(40_000)),
        "array_tables": b"[[a]]\n" * 170_000,
        "string": b"a = '''" + b"'" * 1_000_000,
        "comments": b"#\n" * 500_000,
        "underscores": b"a = 1" + b"_1" * 500_000,
        "dates": b"a = [" + b"1979-05-27," * 95_000 + b"]",
        "spaces": b"a" + b" " * 1_000_000,
        "quotes": b'a = """' + b'\\"' * 500_000,
        "hex": b'format = "ztrooted-anchors/1"\ngateway_ak = "' + b"00" * 500_000 + b'x"\n',
    }


def run_dispatch_policy(data: bytes) -> None:
    """What is accepted decides any request without raising, and decides it twice alike."""
    policy = DispatchPolicy(data, "the policy")
    for context in ({"trusted": True}, {}, {"trusted": "\u00e9", "x": [1, {}]}):
        request = Request("dispatch", "o", (), "ex-1", (), {"virtual": True}, context)
        assert policy.decide(request) == policy.decide(request)


@cache
def cedar_bombs() -> Mapping[str, bytes]:
    """Nesting, many policies, long ones."""
    start, end = b"permit (principal, action, resource) when { ", b" };"
    return {
        "cedar_brackets": start + b"(" * 500_000,
        "cedar_sets": start + b"[" * 100_000 + b"]" * 100_000 + end,
        "cedar_and": start + b"true && " * 100_000 + b"true" + end,
        "cedar_if": start + b"if true then true else " * 40_000 + b"true" + end,
        "cedar_attributes": start + b"context" + b".a" * 400_000 + end,
        "cedar_not": start + b"!" * 500_000 + end,
        "cedar_statements": b";" * 1_000_000,
        "cedar_policies": (start + b"context.x" + end) * 1000,
        "cedar_names": start + b"[" + b'"x",' * 10_000 + b"] == context.job_files" + end,
        "cedar_path": start + b"A::" * 10_000 + b'"x" == principal' + end,
        "cedar_annotations": b"".join(b'@a%d("x") ' % number for number in range(4000)) + start + b"true" + end,
        "cedar_unfinished": start + b"context.trusted, " * 3500,
        "cedar_text": start + b'context.step == "' + b"\\u{41}" * 100_000,
        "cedar_comments": b"// (((((\n" * 100_000 + start + b"context.trusted" + end,
    }


ENTITIES = b"""format = "ztrooted-entities/1"
[group.a]
members = ["ci", "nightly"]
in = ["b"]
[group.b]
[pool.gpu]
labels = { gpu = "yes" }
executors = ["ex-00000000000000000000000000000000"]
classes = ["default"]
"""
CASES = b"""format = "ztrooted-cases/1"
[[case]]
name = "one"
orchestrator = "ci"
labels = { gpu = "yes" }
tier = 3
vector = { executables = 33 }
time = "wed 02:30"
expect = "permit"
by = ["trusted-machines-only"]
[[case]]
name = "two"
action = "delegate"
class = "default"
parent = { orchestrator = "ci" }
delegation = { depth = 1, children = 2 }
expect = "deny"
[[class_case]]
name = "three"
expect = "default"
"""


def run_entities(data: bytes) -> None:
    """What is accepted answers for anybody, with names that are there, in order, and alike twice."""
    entities = Entities(data, "the entities")
    for name in ("ci", "nightly", "stranger"):
        groups = entities.groups_of(name)
        assert groups == tuple(sorted(set(groups))) == Entities(data, "the entities").groups_of(name)
        assert set(groups) <= set(entities.groups)
    pools = entities.pools_of("ex-" + "0" * 32, "default", {"gpu": "yes"})
    assert set(pools) <= set(entities.pools)


@cache
def _policies() -> Policies:
    return Policies.load({"appraisal": SMALL_APPRAISAL, "dispatch": STARTER.encode(), "entities": ENTITIES})


def run_policy_cases(data: bytes) -> None:
    """What is accepted has a case, each comes out one way, and what it is asked about fits the schema."""
    cases = parse_cases(data, "the cases")
    results = run_cases(cases, _policies())
    assert len(results) == len(cases.cases) + len(cases.class_cases) > 0
    assert results == run_cases(cases, _policies())
    assert not any("a policy failed" in one.detail for one in results)


_CEDAR = (
    b"permit",
    b"forbid",
    b"when {",
    b"}",
    b"unless",
    b"context.",
    b"@id(",
    b"::",
    b"&&",
    b"if",
    b"like",
    b"*",
    b"has",
)


def cedar_seeds() -> list[bytes]:
    """The starter, and one that uses every kind of condition."""
    rich = """@id("a") @description("b")
permit (principal in Group::"g", action == Action::"dispatch", resource in Pool::"p")
when { context.trusted && context.tier >= 3 || [1, 2].contains(context.time.hour) } unless { !context.virtual };
forbid (principal == Orchestrator::"x", action, resource is Executor)
when { resource.hasTag("a") && resource.getTag("a") like "x*" && context has parent && context.parent.depth < 2 };
"""
    return [STARTER.encode(), rich.encode()]


TARGETS = (
    Target("appraisal_policy", run_appraisal_policy, lambda: [APPRAISAL, SMALL_APPRAISAL], (_mutate_toml,), toml_bombs),
    Target("anchors", run_anchors, lambda: [anchors_text()], (_mutate_toml,), toml_bombs),
    Target("dispatch_policy", run_dispatch_policy, cedar_seeds, (mutate_bytes(_CEDAR),), cedar_bombs),
    Target("entities", run_entities, lambda: [ENTITIES], (_mutate_toml,), toml_bombs),
    Target("policy_cases", run_policy_cases, lambda: [CASES], (_mutate_toml,), toml_bombs),
)
