"""What the kernel's measurement list must show, as the appraisal policy says it."""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tpm.errors import RejectedError
from tpm.ima_paths import PathPatterns
from tpm.ima_rules import STRONG_DIGESTS, TEMPLATES, AllowList, ImaRules
from tpm.ima_signature import ImaKeyring

Pem = Annotated[str, StringConstraints(max_length=16 << 10)]
Pattern = Annotated[str, StringConstraints(max_length=4096)]
NOTHING = AllowList({})


class ImaPolicy(BaseModel):
    """Which measured files are acceptable.

    ``allow_list``: those of the class's baseline, or none by list. ``keys``: public keys or certificates, PEM, whose
    signatures on files are accepted; a key that the list says was loaded at run time is never learned from it.
    ``excludes``: files that are not judged, by anchored patterns. ``violations``: files that may have been open for
    writing while they were measured.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ignored_types=(cached_property,))

    allow_list: Literal["baseline", "none"] = "baseline"
    keys: list[Pem] = Field([], max_length=256)
    excludes: list[Pattern] = Field([], max_length=256)
    violations: list[Pattern] = Field([], max_length=256)
    digest_algs: list[Literal["sha256", "sha384", "sha512"]] = Field(
        sorted(STRONG_DIGESTS),  # type: ignore[arg-type]
        min_length=1,
    )
    templates: list[Literal["ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf", "ima-modsig"]] = Field(
        sorted(TEMPLATES),  # type: ignore[arg-type]
        min_length=1,
    )

    @model_validator(mode="after")
    def _usable(self) -> "ImaPolicy":
        for name, patterns in (("excludes", self.excludes), ("violations", self.violations)):
            try:
                PathPatterns.of(patterns)
            except RejectedError as error:
                raise ValueError(f"'{name}': {error.detail}") from error
        try:
            ImaKeyring.from_pem([one.encode() for one in self.keys])
        except ValueError as error:
            raise ValueError(f"'keys': {error}") from error
        return self

    @cached_property
    def _parsed(self) -> tuple[PathPatterns, PathPatterns, ImaKeyring]:
        keyring = ImaKeyring.from_pem([one.encode() for one in self.keys])
        return PathPatterns.of(self.excludes), PathPatterns.of(self.violations), keyring

    def allows_anything(self) -> bool:
        """Whether any file at all could be accepted."""
        return self.allow_list == "baseline" or bool(self.keys)

    def rules(self, allow: AllowList | None) -> ImaRules:
        """As rules of the verifier, over an allow-list that was parsed once."""
        excludes, violations, keyring = self._parsed
        return ImaRules(
            NOTHING if allow is None or self.allow_list == "none" else allow,
            excludes,
            templates=frozenset(self.templates),
            digest_algs=frozenset(self.digest_algs),
            violations=violations,
            keyring=keyring,
        )
