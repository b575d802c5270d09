"""Allow-lists for IMA as people have them: a mapping, a captured baseline, another verifier's policy, sha256sum's text.

They are a caller's words and not evidence: what is wrong with them is a ValueError.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tpm.ima_rules import ImaRules
from tpm.ima_signature import ImaKeyring
from ztrooted import canonical
from ztrooted.reference import FORMAT, parse_baseline

Allowed = dict[str, list[str]]

# coreutils: digest, a space, a space or an asterisk, the name; a backslash in front where the name is escaped.
_CHECKSUM = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}) [ *](.+)")
# Members of a runtime policy that allow more than its lists do, or nothing at all: without them it is the stricter.
_REMARKS = frozenset({"meta", "release", "ima", "verification-keys", "timestamp", "generator"})
_NAMED = ("keyrings", "ima-buf")


def load_ima_rules(
    lists: Iterable[bytes], keys: Sequence[bytes], excludes: Iterable[str], *, allow_violations: bool
) -> ImaRules:
    """Rules from allow-lists, PEM keys and exclude patterns; what several lists allow is allowed.

    Raises ValueError for a list that cannot be read, and ``ima.exclude_too_broad`` (EvidenceError) for a pattern that
    covers too much.
    """
    allowed: Allowed = {}
    patterns = list(excludes)
    for data in lists:
        found, more = parse_allow_list(data)
        patterns += more
        for path, digests in found.items():
            allowed.setdefault(path, []).extend(digests)
    keyring = ImaKeyring.from_files(list(keys))
    return ImaRules.of(allowed, excludes=patterns, keyring=keyring, allow_violations=allow_violations)


def parse_allow_list(data: bytes) -> tuple[Allowed, list[str]]:
    """Paths with their digests, and exclude patterns, of a list in any of the forms. ValueError otherwise."""
    if not data.lstrip().startswith(b"{"):
        return _parse_checksums(data.decode("utf-8", "surrogateescape")), []
    table = json.loads(data)
    if table.get("format") == FORMAT:
        baseline = parse_baseline(canonical.encode(table))
        return {path: sorted(digests) for path, digests in baseline.ima.items()}, []
    if isinstance(table.get("digests"), Mapping):
        return policy_lists(table)
    return _mapping(table.get("allow", table)), []


def policy_lists(policy: Mapping[str, Any]) -> tuple[Allowed, list[str]]:
    """The files, keyrings and excludes of a runtime policy of the kind that has ``digests``.

    ValueError for a member whose meaning we do not know: a rule that is passed over might have refused something.
    """
    unknown = policy.keys() - _REMARKS - {"digests", "excludes", *_NAMED}
    if unknown:
        raise ValueError(f"the policy has the member {min(unknown)!r}, which is not understood")
    allowed = _mapping(policy["digests"])
    for member in _NAMED:
        allowed |= _mapping(policy.get(member, {}))
    return allowed, list(policy.get("excludes", []))


def _mapping(table: Any) -> Allowed:
    if not isinstance(table, Mapping):
        raise ValueError("paths with their lists of digests were expected")
    for path, digests in table.items():
        if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
            raise ValueError(f"{path!r} needs a list of digests")
    return {path: list(digests) for path, digests in table.items()}


def _parse_checksums(text: str) -> Allowed:
    allowed: Allowed = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        found = _CHECKSUM.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} is not a digest, two spaces and a path")
        allowed.setdefault(found.group(2), []).append(found.group(1))
    return allowed
