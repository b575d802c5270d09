"""What travels over HTTP about policies."""

from typing import Annotated

from pydantic import Field

from ztrooted import limits
from ztrooted.models import Hex32, Id, Model, Name, Text

Document = Annotated[str, Field(max_length=limits.POLICY)]
Detail = Annotated[str, Field(max_length=64 << 10)]


class PolicyDocuments(Model):
    """The three documents that are activated together, as text."""

    appraisal: Document
    dispatch: Document
    entities: Document

    def by_role(self) -> dict[str, str]:
        """The texts by role."""
        return {"appraisal": self.appraisal, "dispatch": self.dispatch, "entities": self.entities}


class ActivationOfPolicies(PolicyDocuments):
    """Put them in force. ``allow_rollback`` is the explicit word for ones that were in force before."""

    allow_rollback: bool = False


class TrialOfPolicies(PolicyDocuments):
    """Replay the last ``last`` recorded decisions under them; nothing is written."""

    last: Annotated[int, Field(ge=1, le=limits.REPLAYED)] = 100


class PoliciesView(Model):
    """What is in force. ``trusts_everything`` names the rules that permit or trust without any condition."""

    appraisal: Hex32
    dispatch: Hex32
    entities: Hex32
    operator: Name | None
    activated_at: int
    trusts_everything: list[Text]
    documents: PolicyDocuments
    revoked: list[Id]


class Change(Model):
    """One recorded decision that would be another. ``was`` and ``would_be`` are 'permit' or 'deny' with the reason why."""

    record: int
    authorization: Id
    was: Text
    would_be: Text
    reason: Text | None
    detail: Detail


class TrialView(Model):
    """What would have been otherwise. ``skipped`` counts, by reason, decisions whose evidence says too little for this."""

    replayed: int
    changed: list[Change]
    skipped: dict[Text, int]


class NoteView(Model):
    """One line of an explanation."""

    label: str
    text: str


class ExplanationView(Model):
    """Why a decision was made: the headline, where it was made, what led to it; ``text`` has it all for a terminal."""

    permitted: bool
    reason: str | None
    headline: str
    where: str
    notes: list[NoteView]
    help: str
    text: str
