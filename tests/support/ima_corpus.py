"""Runs IMA entries of the corpus, with the context each brings, through the public API.

``judge_attack`` and ``judge_evidence`` return normally where the entry is acceptable and raise what the verifier raises.
"""

from typing import Any

from tpm.errors import RejectedError
from tpm.ima import ImaEntries, parse_ima_line, parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_replay import ImaState, VerifiedImaEntries, replay, replayed_pcr10
from tpm.ima_rules import ImaRules
from tpm.ima_signature import ImaKeyring, verify_ima_signature
from tpm.reasons import EvidenceReason

Context = dict[str, Any]


def rules_of(policy: Context) -> ImaRules:
    """Rules from the policy of an attack."""
    return ImaRules.of(
        policy["allow"],
        excludes=policy["excludes"],
        templates=frozenset(policy["templates"]),
        digest_algs=frozenset(policy["digest_algs"]),
        allow_violations=policy["allow_violations"],
    )


def judge_attack(data: bytes, context: Context) -> None:
    """A list (kind ``ima_list``) against PCR 10, the state of the round before, and a policy."""
    rules = rules_of(context["policy"])
    bank = context["bank"]
    state, offset = ImaState.initial(), 0
    if context.get("prev"):
        before = context["prev"]
        pcrs = {bank: bytes.fromhex(before["pcr10"][bank])}
        state, offset = ImaState(before["entries"], pcrs), before["offset"]
    entries = parse_ima_list(data, format=context.get("format")).entries
    result = replay(
        state, entries, bank=bank, pcr10=bytes.fromhex(context["pcr10"][bank]), offset=offset, allow_pending=False
    )
    appraise_ima(result.verified, rules)


def judge_list(text: bytes, policy: Context | None, keys: list[bytes]) -> None:
    """A text list without a quote (kind ``ima_log``): parsed, replayed onto itself, and appraised.

    A list that does not start with a boot aggregate is an excerpt from somewhere later.
    """
    entries = parse_ima_list(text if text.endswith(b"\n") or not text else text + b"\n").entries
    if not entries:
        raise RejectedError(EvidenceReason.IMA_EMPTY, "an empty list")
    replayed_pcr10(entries, "sha256")
    allow: dict[str, list[str]] = {}
    if policy:
        allow = {**policy["digests"], **policy.get("keyrings", {})}
    rules = ImaRules.of(allow, keyring=ImaKeyring.from_pem(keys))
    first = 0 if entries[0].path == "boot_aggregate" else 1
    appraise_ima(VerifiedImaEntries(first, entries), rules)


def check_line(line: bytes) -> ImaEntries:
    """One line (kind ``ima_log_entry``), whose template hash must be that of its fields."""
    entry = parse_ima_line(line)
    if not entry.template_hash_matches:
        raise RejectedError(EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH, entry.path)
    return parse_ima_list(line + b"\n").entries


__all__ = ["check_line", "judge_attack", "judge_list", "rules_of", "verify_ima_signature"]
