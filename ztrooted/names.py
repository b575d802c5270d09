"""What follows from a trust domain: the names of its gateway, its executors and its lineage.

Gateway, executors and auditors each derive these by themselves, so the rules stand here once.
"""

import re

EXECUTOR_ID = re.compile(r"ex-[0-9a-f]{32}")
# What people, orchestrators and their jobs may be called.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
_GATEWAY = "/gateway"
_SPIFFE = "spiffe://"


def lineage(trust_domain: str) -> str:
    """The lineage's origin: the first line of its checkpoints."""
    return f"{trust_domain}/lineage"


def gateway(trust_domain: str) -> str:
    """The gateway's SPIFFE id: ``iss`` of every artifact."""
    return f"{_SPIFFE}{trust_domain}{_GATEWAY}"


def trust_domain_of(gateway_id: str) -> str:
    """The trust domain of a gateway's SPIFFE id, the inverse of ``gateway``."""
    return gateway_id.removeprefix(_SPIFFE).removesuffix(_GATEWAY)


def executors(trust_domain: str) -> str:
    """All executors together: ``aud`` of every artifact."""
    return f"{_SPIFFE}{trust_domain}/executors"


def person(trust_domain: str, role: str, name: str) -> str:
    """The SPIFFE id of somebody with a role: the only URI in their client certificate."""
    return f"{_SPIFFE}{trust_domain}/{role}/{name}"


def parse_person(trust_domain: str, uri: str) -> tuple[str, str] | None:
    """(role, name) of somebody's SPIFFE id, whatever the role; None where it is not one of this trust domain."""
    role, _, name = uri.removeprefix(f"{_SPIFFE}{trust_domain}/").partition("/")
    return (role, name) if NAME.fullmatch(name) and uri == person(trust_domain, role, name) else None


def executor(trust_domain: str, executor_id: str) -> str:
    """One executor's SPIFFE id: the only name in its session certificate."""
    return f"{_SPIFFE}{trust_domain}/executor/{executor_id}"
