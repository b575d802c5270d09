"""What a dispatch policy may speak about: the Cedar schema that policies are validated against.

* An orchestrator (``principal``) belongs to groups, an executor (``resource``) to pools, as ``entities.toml`` says.
* An executor's labels are tags: ``resource.hasTag("gpu") && resource.getTag("gpu") == "yes"``.
* ``context.vector`` has the eight AR4SI claims, -128 to 127; 0 is no claim.
* ``context.time`` is the instant of the proof in UTC. ``weekday`` is 1 (Monday) to 7, ``day_minutes`` 60 x hour + minute.
* ``context.job_files`` are the SHA-256 digests of the files that the job names, ``context.env`` that of its environment.
* ``context.max_runtime_s`` is the longest that the job may run.
* ``context.user`` is ``UID:GID`` where the job is to run as another user than the agent, and ``context.limits`` what it
  is limited to (bytes, processes, percent of one processor). What was not asked for is not there: ask
  ``context has limits && context.limits has memory`` before.
* ``context.parent`` is there for a child of another authorization, and for its renewals.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ztrooted import limits

VECTOR = (
    "configuration",
    "executables",
    "file_system",
    "hardware",
    "instance_identity",
    "runtime_opaque",
    "sourced_data",
    "storage_opaque",
)
LIMITS = ("memory", "pids", "cpu")
ACTIONS = ("dispatch", "delegate", "renew")

# Shapes: the name of a type, or a record of shapes; a "?" marks a member that may be missing.
Shape = str | Mapping[str, "Shape"]

ATTRIBUTES: Mapping[str, Shape] = {"id": "String", "class": "String", "virtual": "Bool", "manufacturer": "String"}
CONTEXT: Mapping[str, Shape] = {
    "trusted": "Bool",
    "tier": "Long",
    "virtual": "Bool",
    "vector": dict.fromkeys(VECTOR, "Long"),
    "risk": "Long",
    "workflow": "String",
    "run": "String",
    "step": "String",
    "attempt": "Long",
    "job": "String",
    "job_files": "Set<String>",
    "env": "String",
    "max_runtime_s": "Long",
    "time": {"hour": "Long", "minute": "Long", "weekday": "Long", "day_minutes": "Long"},
    "delegation": {"depth": "Long", "children": "Long"},
    "user?": "String",
    "limits?": {f"{name}?": "Long" for name in LIMITS},
    "parent?": {
        "authorization": "String",
        "orchestrator": "Orchestrator",
        "executor": "String",
        "workflow": "String",
        "step": "String",
        "depth": "Long",
        "children": "Long",
        "tier": "Long",
    },
}


def _text(shape: Shape) -> str:
    if isinstance(shape, str):
        return shape
    return "{ " + ", ".join(f"{name}: {_text(one)}" for name, one in shape.items()) + " }"


SCHEMA = f"""
entity Group;
entity Pool;
entity Orchestrator in [Group];
entity Executor in [Pool] = {_text(ATTRIBUTES)} tags String;
action {", ".join(ACTIONS)} appliesTo {{
  principal: [Orchestrator],
  resource: [Executor],
  context: {_text(CONTEXT)},
}};
"""


def misfit(value: Any, shape: Shape, name: str) -> str:
    """What keeps ``value`` from having ``shape``, beginning with ``name``; "" if it has it.

    As strict as Cedar is when it is given the schema with a request, and much cheaper.
    """
    if not isinstance(shape, str):
        if not isinstance(value, Mapping):
            return f"{name} is no record"
        count = 0
        for key, inner in shape.items():
            plain = key.removesuffix("?")
            if plain in value:
                count += 1
                if wrong := misfit(value[plain], inner, f"{name}.{plain}"):
                    return wrong
            elif plain is key:
                return f"{name}.{plain} is missing"
        return "" if len(value) == count else f"{name} has members that it can't have"
    return "" if _FITS[shape](value) else f"{name} is no {shape}"


def _is_text(value: Any) -> bool:
    return type(value) is str and (value.isascii() or not _SURROGATE.search(value))


def _is_entity(value: Any) -> bool:
    if type(value) is not dict or value.keys() != {"__entity"}:
        return False
    named = value["__entity"]
    return (
        type(named) is dict
        and named.keys() == {"type", "id"}
        and named["type"] == "Orchestrator"
        and _is_text(named["id"])
    )


_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no text that could be written down
_FITS: Mapping[str, Callable[[Any], bool]] = {
    "Bool": lambda value: type(value) is bool,
    "Long": lambda value: type(value) is int and -(1 << 63) <= value < 1 << 63,
    "String": _is_text,
    "Set<String>": lambda value: type(value) is list and all(map(_is_text, value)),
    "Orchestrator": _is_entity,
}

# The least and the greatest value that a number in the context can have; what is always true of one is no condition.
RANGES = {
    "context.tier": (0, 4),
    "context.risk": (0, 100),
    "context.attempt": (1, 1_000_000),
    "context.max_runtime_s": (1, 7 * 86400),
    "context.time.hour": (0, 23),
    "context.time.minute": (0, 59),
    "context.time.weekday": (1, 7),
    "context.time.day_minutes": (0, 1439),
    "context.delegation.depth": (0, 8),
    "context.delegation.children": (0, 256),
    "context.limits.memory": (1 << 20, limits.JOB_MEMORY),
    "context.limits.pids": (1, limits.JOB_PIDS),
    "context.limits.cpu": (1, limits.JOB_CPU),
    **{f"context.vector.{name}": (-128, 127) for name in VECTOR},
}

# Everything that can be named, for "did you mean": whole paths.
PATHS = (
    "resource.id",
    "resource.class",
    "resource.virtual",
    "resource.manufacturer",
    *(f"context.{name}" for name in ("trusted", "virtual", "workflow", "run", "step", "job", "job_files", "env")),
    "context.vector",
    "context.time",
    "context.delegation",
    "context.user",
    "context.limits",
    "context.parent",
    *RANGES,
    *(
        f"context.parent.{name}"
        for name in ("authorization", "orchestrator", "executor", "workflow", "step", "depth", "children", "tier")
    ),
)
