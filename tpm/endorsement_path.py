"""From an EK certificate to a configured root: trust anchors, bounded path building, and the checks on authorities.

Whoever sends the certificate also sends the intermediates, so everything here is bounded: their number, the depth of
a path, signatures tried, paths looked at. Running out is a refusal. Paths are built on names and signatures only and
judged afterwards, so that a path which fails says why. Nothing is ever fetched: an issuer that was not sent is
missing (RFC 5280 §6.1).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from tpm.endorsement_certificate import (
    ANY_EXTENDED_KEY_USAGE,
    BASIC_CONSTRAINTS,
    CERTIFICATE_POLICIES,
    EK_CERTIFICATE_USAGE,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    Certificate,
    KeyUsage,
    format_oid,
    parse_certificate,
)
from tpm.endorsement_der import SEQUENCE, split_pem
from tpm.endorsement_names import DIRECTORY_NAME, GeneralName, Name, check_name_constraints
from tpm.endorsement_quirks import EkQuirk
from tpm.endorsement_signature import ALGORITHMS, find_authority_key_weakness, is_signed_by
from tpm.errors import EvidenceError, RejectedError
from tpm.reasons import EvidenceReason

MAX_INTERMEDIATES = 16  # real chains have one to three; some vendors keep their whole set in NV
MAX_AUTHORITIES_IN_PATH = 8  # real chains have one to three
MAX_SIGNATURE_CHECKS = 64  # about 5 ms of RSA, whatever was sent
MAX_PATHS = 32  # paths tried for one certificate; cross-signing gives real vendors two
MAX_STEPS = 512  # certificates looked at as the end of a partial path: bounds what remembered signatures make cheap
MAX_ROOT_FILE_BYTES = 8 * 1024 * 1024  # all TPM vendors' roots together are under one

_HANDLED = frozenset((BASIC_CONSTRAINTS, KEY_USAGE, NAME_CONSTRAINTS, CERTIFICATE_POLICIES, EXTENDED_KEY_USAGE))


@dataclass(frozen=True, slots=True)
class EkRoots:
    """The trust anchors of EK certificates: never empty, each an authority with a sound key."""

    certificates: tuple[Certificate, ...]
    by_subject: Mapping[Name, tuple[Certificate, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.certificates:
            raise RejectedError(EvidenceReason.EK_NO_ROOTS, "no EK root is configured, so no EK can be verified")
        grouped: dict[Name, tuple[Certificate, ...]] = {}
        for certificate in self.certificates:
            _check_anchor(certificate)
            if all(certificate.der != known.der for known in grouped.get(certificate.subject, ())):
                grouped[certificate.subject] = (*grouped.get(certificate.subject, ()), certificate)
        object.__setattr__(self, "by_subject", MappingProxyType(grouped))

    @classmethod
    def from_pem(cls, text: bytes, *, quirks: frozenset[EkQuirk] = frozenset()) -> "EkRoots":
        """Anchors from PEM text; ``ek.no_roots`` where it holds none, the parser's reason where one is bad."""
        return cls(tuple(parse_certificate(der, quirks=quirks) for der in split_pem(text)))

    @classmethod
    def load(cls, paths: Iterable[Path], *, quirks: frozenset[EkQuirk] = frozenset()) -> "EkRoots":
        """Anchors from files of PEM or one DER certificate each, and from directories of such files.

        All or nothing: a file that cannot be read, holds no certificate, or holds one that cannot be an anchor
        refuses the whole load with ``ek.roots_unreadable`` and its name, so that a set never shrinks unnoticed. In a
        directory only names that begin with a dot are passed over. Nothing found at all is ``ek.no_roots``.
        """
        found: list[Certificate] = []
        for path in paths:
            for file in _files_of(path):
                found.extend(_load_file(file, quirks))
        return cls(tuple(found))


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise RejectedError(EvidenceReason.EK_ROOTS_UNREADABLE, f"{path}: {error.strerror}") from error


def _load_file(path: Path, quirks: frozenset[EkQuirk]) -> list[Certificate]:
    try:
        if path.stat().st_size > MAX_ROOT_FILE_BYTES:
            raise RejectedError(EvidenceReason.EK_ROOTS_UNREADABLE, f"{path} is over {MAX_ROOT_FILE_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise RejectedError(EvidenceReason.EK_ROOTS_UNREADABLE, f"{path}: {error.strerror}") from error
    try:
        ders = [data] if data[:1] == bytes((SEQUENCE,)) else split_pem(data)
        certificates = [parse_certificate(der, quirks=quirks) for der in ders]
        for certificate in certificates:
            _check_anchor(certificate)
    except EvidenceError as error:
        raise RejectedError(EvidenceReason.EK_ROOTS_UNREADABLE, f"{path}: {error.detail}") from error
    if not certificates:
        raise RejectedError(EvidenceReason.EK_ROOTS_UNREADABLE, f"{path} holds no certificate")
    return certificates


def _check_anchor(certificate: Certificate) -> None:
    """An anchor is believed, so it must say that it is an authority; its own signature proves nothing."""
    weakness = find_authority_key_weakness(certificate.spki)
    usage = certificate.key_usage
    if not certificate.is_ca or (usage is not None and KeyUsage.KEY_CERT_SIGN not in usage):
        weakness = "no right to sign certificates"
    if weakness is not None:
        raise RejectedError(EvidenceReason.EK_ROOTS_UNREADABLE, f"root {certificate} has {weakness}")


class _Search:
    """Depth-first search for signed paths, best issuers first, every signature checked at most once."""

    def __init__(self, intermediates: Sequence[Certificate], roots: EkRoots) -> None:
        self._roots = roots
        self._intermediates: dict[Name, list[Certificate]] = {}
        for certificate in intermediates:
            self._intermediates.setdefault(certificate.subject, []).append(certificate)
        self._edges: dict[tuple[int, int], bool] = {}
        self._steps = 0
        self.obstacles: list[str] = []

    def paths(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        """Every path that begins with ``path`` and ends at an anchor."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise RejectedError(EvidenceReason.EK_TOO_LARGE, f"no path to a root within {MAX_STEPS} steps")
        child = path[-1]
        issuers = self._roots.by_subject.get(child.issuer, ())
        for root in sorted(issuers, key=lambda issuer: _distance(child, issuer)):
            if self._is_issued_by(child, root):
                yield (*path, root)
        if len(path) >= MAX_AUTHORITIES_IN_PATH:
            return
        known = self._intermediates.get(child.issuer, ())
        for issuer in sorted(known, key=lambda issuer: _distance(child, issuer)):
            # The same name and key twice in a path would be a loop (RFC 4158 §2.4.2).
            if any(issuer.spki == above.spki and issuer.subject == above.subject for above in path):
                continue
            if self._is_issued_by(child, issuer):
                yield from self.paths((*path, issuer))

    def _is_issued_by(self, child: Certificate, issuer: Certificate) -> bool:
        edge = id(child), id(issuer)
        if edge not in self._edges:
            if len(self._edges) >= MAX_SIGNATURE_CHECKS:
                detail = f"no path to a root within {MAX_SIGNATURE_CHECKS} signature checks"
                raise RejectedError(EvidenceReason.EK_TOO_LARGE, detail)
            self._edges[edge] = self._check_edge(child, issuer)
        return self._edges[edge]

    def _check_edge(self, child: Certificate, issuer: Certificate) -> bool:
        if child.algorithm not in ALGORITHMS:
            self.obstacles.append(f"{child} is signed with an algorithm that is not accepted")
            return False
        weakness = find_authority_key_weakness(issuer.spki)
        if weakness is not None:
            self.obstacles.append(f"authority {issuer} has {weakness}")
            return False
        if not is_signed_by(child.signed, child.algorithm, child.signature, issuer.spki):
            self.obstacles.append(f"{child} bears the name of {issuer} as its issuer, but not its signature")
            return False
        return True


def _distance(child: Certificate, issuer: Certificate) -> int:
    """Key identifiers only order the candidates: they are hints, and anybody can copy them (RFC 4158 §3.5.12)."""
    if child.authority_key_id is None or issuer.subject_key_id is None:
        return 1
    return 0 if child.authority_key_id == issuer.subject_key_id else 2


def build_path(
    leaf: Certificate, intermediates: Sequence[Certificate], roots: EkRoots, *, at: datetime
) -> tuple[Certificate, ...]:
    """The path (leaf, authorities…, root) whose every signature and authority holds at the time ``at``.

    ``ek.too_large`` where a bound is exceeded; the fault of the first complete path where none is good; ``ek.chain``
    where no root can be reached. The leaf's own rules and validity are not looked at here.
    """
    if len(intermediates) > MAX_INTERMEDIATES:
        detail = f"{len(intermediates)} intermediates are over {MAX_INTERMEDIATES}"
        raise RejectedError(EvidenceReason.EK_TOO_LARGE, detail)
    search = _Search(intermediates, roots)
    fault: RejectedError | None = None
    for count, path in enumerate(search.paths((leaf,))):
        if count >= MAX_PATHS:
            raise RejectedError(EvidenceReason.EK_TOO_LARGE, f"more than {MAX_PATHS} paths, none of them good")
        try:
            check_path(path, at=at)
        except RejectedError as error:
            fault = fault or error
        else:
            return path
    if fault is not None:
        raise fault
    obstacle = search.obstacles[0] if search.obstacles else "an issuer is missing"
    raise RejectedError(EvidenceReason.EK_CHAIN, f"no path from {leaf} to a configured root: {obstacle}")


def check_path(path: tuple[Certificate, ...], *, at: datetime) -> None:
    """Check the authorities of a signed path, from the leaf's issuer to the root (RFC 5280 §6.1.4).

    For each: 1. valid at ``at``; 2. an authority that may sign certificates; 3. no more authorities below than it
    allows;
    4. nothing critical that is not understood; 5. not restricted to other uses; 6. every name below within its
    constraints.
    """
    below = 0
    for index, authority in enumerate(path[1:], 1):
        is_root = index == len(path) - 1
        # 1
        check_validity(authority, at)
        # 2
        usage = authority.key_usage
        if not authority.is_ca:
            raise RejectedError(EvidenceReason.EK_CHAIN, f"{authority} signed a certificate and is not an authority")
        if (usage is None and not is_root) or (usage is not None and KeyUsage.KEY_CERT_SIGN not in usage):
            raise RejectedError(EvidenceReason.EK_CHAIN, f"{authority} may not sign certificates")
        # 3
        if authority.path_length is not None and below > authority.path_length:
            detail = f"{below} authorities below {authority}, which allows {authority.path_length}"
            raise RejectedError(EvidenceReason.EK_CHAIN, detail)
        if authority.subject != authority.issuer:
            below += 1
        # 4
        for identifier, extension in authority.extensions.items():
            if extension.critical and identifier not in _HANDLED:
                detail = f"critical extension {format_oid(identifier)} of {authority} is not understood"
                raise RejectedError(EvidenceReason.EK_UNHANDLED_CRITICAL, detail)
        # 5
        uses = authority.extended_key_usage
        if uses is not None and EK_CERTIFICATE_USAGE not in uses and ANY_EXTENDED_KEY_USAGE not in uses:
            raise RejectedError(EvidenceReason.EK_CHAIN, f"{authority} is not for EK certificates")
        # 6
        if authority.name_constraints is not None:
            for position, certificate in enumerate(path[:index]):
                # Self-issued authorities are exempt, the leaf never is (§6.1.3 b).
                if position == 0 or certificate.subject != certificate.issuer:
                    check_name_constraints(authority.name_constraints, _names_of(certificate), str(certificate))


def check_validity(certificate: Certificate, at: datetime) -> None:
    """``ek.not_yet_valid`` before, and ``ek.expired`` after, a certificate's period, both ends included."""
    if at < certificate.not_before:
        detail = f"{certificate} is valid from {certificate.not_before:%Y-%m-%d %H:%M:%S}"
        raise RejectedError(EvidenceReason.EK_NOT_YET_VALID, detail)
    if at > certificate.not_after:
        raise RejectedError(
            EvidenceReason.EK_EXPIRED, f"{certificate} expired {certificate.not_after:%Y-%m-%d %H:%M:%S}"
        )


def _names_of(certificate: Certificate) -> list[GeneralName]:
    subject = [GeneralName(DIRECTORY_NAME, certificate.subject, b"")] if certificate.subject else []
    return [*subject, *certificate.alternative_names]
