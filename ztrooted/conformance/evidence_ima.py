"""IMA lists and entries of other projects, held to what those projects' own tests expect of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

from tpm.errors import EvidenceError, RejectedError
from tpm.ima import parse_ima_line, parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_entry import ImaEntry
from tpm.ima_replay import VerifiedImaEntries, replayed_pcr10
from tpm.ima_rules import ImaRules
from tpm.ima_signature import ImaKeyring
from tpm.reasons import EvidenceReason
from ztrooted.conformance.index import Entry, Fields
from ztrooted.conformance.results import Checks, MissingFileError, NotApplicableError
from ztrooted.inspect.ima_allow import policy_lists

ACCEPTING, REFUSING = frozenset({"accept", "ok"}), frozenset({"reject", "error"})


def judge_list(text: bytes, policy: Mapping[str, Any] | None, keys: list[bytes]) -> None:
    """A list without a quote, with another verifier's policy: parsed, replayed onto itself, and appraised.

    One that does not start with a boot aggregate is an excerpt from somewhere later. Raises what refuses it.
    """
    entries = parse_ima_list(text if text.endswith(b"\n") or not text else text + b"\n").entries
    if not entries:
        raise RejectedError(EvidenceReason.IMA_EMPTY, "an empty list")
    replayed_pcr10(entries, "sha256")
    allow, excludes = policy_lists(policy) if policy else ({}, [])
    rules = ImaRules.of(allow, excludes=excludes, keyring=ImaKeyring.from_files(keys))
    first = 0 if entries[0].path == "boot_aggregate" else 1
    appraise_ima(VerifiedImaEntries(first, entries), rules)


VERDICTS = ("parse", "verify", "with_policy", "with_empty_policy", "with_keys", "with_keyring", "without_keys")


def judge_log(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ima_log``: verdicts with a policy, with keys, and with nothing. A single one is raised or returned."""
    text, policy, keys = _given(entry)
    verdicts = {name: value for name in VERDICTS if (value := expected.take(name)) is not None}
    if unknown := sorted(set(map(str, verdicts.values())) - ACCEPTING - REFUSING):
        raise NotApplicableError(f"{unknown[0]!r} is no verdict")
    if len(verdicts) < 2:
        _judge(next(iter(verdicts), "parse"), entry, text, policy, keys)
        checks.names += verdicts
        return
    for name, verdict in verdicts.items():
        try:
            _judge(name, entry, text, policy, keys)
        except EvidenceError as error:
            checks.true(name, verdict in REFUSING, str(error))
        except MissingFileError as error:
            checks.skip(name, str(error))
        else:
            checks.true(name, verdict in ACCEPTING, "accepted")


def _judge(name: str, entry: Entry, text: bytes, policy: Mapping[str, Any] | None, keys: list[str]) -> None:
    if name == "parse":
        _parse(text)
        return
    chosen = None if name == "with_empty_policy" else policy
    read = [] if name in ("with_empty_policy", "without_keys") else [entry.read(key) for key in keys]
    judge_list(text, chosen, read)


def _parse(text: bytes) -> None:
    if not parse_ima_list(text).entries:
        raise RejectedError(EvidenceReason.IMA_EMPTY, "an empty list")


def _given(entry: Entry) -> tuple[bytes, Mapping[str, Any] | None, list[str]]:
    """The list, and the policy and key files beside it."""
    if "pointer" not in entry.value:
        return entry.data(), None, []
    item = Fields(entry.vector(), "item")
    text, policy, keys = item.need("list"), item.take("policy"), item.take("keys", [])
    item.done()
    return text.encode("utf-8", "surrogateescape"), policy, list(keys)


def check_line(line: bytes) -> ImaEntry:
    """One line of a list, whose template hash must be that of its fields."""
    parsed = parse_ima_line(line)
    if not parsed.template_hash_matches:
        raise RejectedError(EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH, parsed.path)
    return parsed


def judge_entry(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ima_log_entry``. Raises what refuses the line."""
    line = entry.vector().get("line")
    if not isinstance(line, str):
        raise NotApplicableError("the item has no line")
    parsed = check_line(line.encode("utf-8", "surrogateescape"))
    checks.names.append("parse")
    for name, found in (("pcr", parsed.pcr), ("path", parsed.path), ("template", parsed.template)):
        value = expected.take(name)
        if value is not None:
            checks.equal(name, found, value)
    matches = expected.take("template_hash_sha1_matches")
    if matches is not None:
        checks.equal("template_hash_sha1_matches", parsed.template_hash_matches, matches)
    expected.take("source_behaviour")  # the origin's own mistake, not an expectation
    _check_template_data(parsed, expected.take("template_data_hex"), checks)


def _check_template_data(parsed: ImaEntry, expected: str | None, checks: Checks) -> None:
    """The bytes the hash covers. Ones that do not hash to what a kernel recorded are the origin's mistake."""
    if expected is None:
        return
    data = bytes.fromhex(expected)
    if hashlib.sha1(data, usedforsecurity=False).digest() != parsed.template_hash:
        checks.skip("template_data_hex", "it does not hash to the template hash of its own line")
    else:
        checks.equal("template_data_hex", parsed.data.hex(), expected)
