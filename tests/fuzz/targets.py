"""All targets by name."""

from tests.fuzz import (
    bundle_targets,
    certificate_targets,
    evidence_targets,
    json_targets,
    log_targets,
    message_targets,
    policy_targets,
    proof_targets,
    result_targets,
)
from tests.fuzz.target import Target

_TARGETS: tuple[Target, ...] = (
    *evidence_targets.TARGETS,
    *log_targets.TARGETS,
    *certificate_targets.TARGETS,
    *json_targets.TARGETS,
    *proof_targets.TARGETS,
    *policy_targets.TARGETS,
    *message_targets.TARGETS,
    *bundle_targets.TARGETS,
    *result_targets.TARGETS,
)
TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}
