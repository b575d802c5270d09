"""All targets by name."""

from tests.fuzz import bundle_targets, certificate_targets, evidence_targets, gate_targets, log_targets
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (evidence_targets, log_targets, certificate_targets, gate_targets, bundle_targets)
    for target in module.TARGETS
}
