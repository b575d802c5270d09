"""The exception tree of the gate.

::

    GateError                a refusal with a reason code; what the HTTP API turns into a problem document
    ├── ArtifactError        an authorization artifact is not acceptable
    ├── ProofError           a note, checkpoint, tree proof or bundle does not prove what it claims
    ├── PolicyError          a policy or reference value cannot be used
    ├── UsageProblem         what a person or a program gave us can't be meant, whatever the gateway says; exit code 2
    └── EnvironmentProblem   something around us is missing or wrong; carries a remedy; exit code 3

``tpm.errors.EvidenceError`` stands beside it for refused evidence; both have ``reason`` and ``detail``.
"""

from ztrooted.reasons import Reason


class GateError(Exception):
    """A refusal. ``reason`` is for scripts, ``detail`` tells a person what happened; ``remedy`` what to do, if known.

    A traceback shows all three: the remedy is its note, unless its text has it.
    """

    remedy_in_text = False

    def __init__(self, reason: Reason, detail: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        if remedy and not self.remedy_in_text:
            self.add_note(remedy)
        self.reason = reason
        self.detail = detail
        self.remedy = remedy


class ArtifactError(GateError):
    """An authorization artifact is not acceptable."""


class ProofError(GateError):
    """A note, checkpoint, tree proof or bundle does not prove what it claims."""


class PolicyError(GateError):
    """A policy or reference value cannot be used."""


class UsageProblem(GateError):  # noqa: N818 -- it is found before anything is tried
    """What a person or a program gave us can't be meant: an option, an argument, a field of a message."""


class EnvironmentProblem(GateError):  # noqa: N818 -- it is a condition of the machine, not an error of ours
    """Something around us is missing or wrong: a file, a device, a port, a peer."""
