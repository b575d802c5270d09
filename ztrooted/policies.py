"""What is in force together: the appraisal policy, the dispatch policy, and the entities it speaks about."""

from dataclasses import dataclass

from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.entities import Entities
from ztrooted.policy import DispatchPolicy

# What the documents are called in a folder, by role.
FILES = {"appraisal": "appraisal.toml", "dispatch": "dispatch.cedar", "entities": "entities.toml"}


@dataclass(frozen=True, slots=True)
class Policies:
    """Three documents that are activated at once, so that no decision rests on a mixture."""

    appraisal: AppraisalPolicy
    dispatch: DispatchPolicy
    entities: Entities

    @classmethod
    def load(cls, documents: dict[str, bytes], names: dict[str, str] | None = None) -> "Policies":
        """From the bytes of ``appraisal``, ``dispatch`` and ``entities``. PolicyError for the first that can't be used.

        ``names`` are what to call each in that error; without them a document is called by its role.
        """
        named = {role: role for role in documents} | (names or {})
        return cls(
            AppraisalPolicy(documents["appraisal"], named["appraisal"]),
            DispatchPolicy(documents["dispatch"], named["dispatch"]),
            Entities(documents["entities"], named["entities"]),
        )

    def documents(self) -> dict[str, bytes]:
        """The exact bytes, by role."""
        return {
            "appraisal": self.appraisal.data,
            "dispatch": self.dispatch.data,
            "entities": self.entities.data,
        }

    def trusts_everything(self) -> tuple[str, ...]:
        """What permits or trusts without any condition, for people to see in red; empty for policies that don't."""
        found = [f"appraisal class {name!r} only observes" for name in self.appraisal.open_classes]
        found += [
            f"dispatch policy {one.id!r} permits everything" for one in self.dispatch.rules if one.permits_everything
        ]
        return tuple(found)

    def digests(self) -> dict[str, str]:
        """What records and artifacts call them."""
        return {
            "appraisal": self.appraisal.digest,
            "dispatch": self.dispatch.digest,
            "entities": self.entities.digest,
        }
