"""What an auditor verifies: ``bundle``, ``canonical``, ``checkpoint``, ``lineage``, ``note``."""

from collections.abc import Mapping
from types import MappingProxyType

from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import GateReason, Reason

PROOFS: Mapping[Reason, Explanation] = MappingProxyType(
    {
        GateReason.BUNDLE_CONTINUITY: Explanation(
            403,
            "The bundle leaves a time in which the job ran without a good proof of its machine.",
            "Don't rely on that time; ask the gateway's operator for the records that are missing.",
        ),
        GateReason.BUNDLE_INCOMPLETE: Explanation(
            403,
            "The bundle lacks records or evidence that it refers to.",
            "Export the bundle again; if it is the same, ask the gateway's operator.",
        ),
        GateReason.BUNDLE_LIFECYCLE: Explanation(
            403,
            "The bundle's records are not a permitted course of an authorization.",
            "Don't rely on it; ask the gateway's operator how these records came about.",
        ),
        GateReason.BUNDLE_MALFORMED: Explanation(
            400,
            "The bundle cannot be read, or is not in its only valid form.",
            "Export the bundle again, and pass it on unchanged.",
        ),
        GateReason.BUNDLE_MISMATCH: Explanation(
            403,
            "Parts of the bundle contradict each other, or belong to another authorization.",
            "Don't rely on it; export the bundle again from the gateway itself.",
        ),
        GateReason.BUNDLE_TOO_LARGE: Explanation(
            413,
            "The bundle has more bytes or records than are read.",
            "Export the bundle of a single authorization.",
        ),
        GateReason.CANONICAL_MALFORMED: Explanation(
            400,
            "The JSON is not in its canonical form, so it could be read in two ways.",
            "Use the bytes as they were signed or recorded; don't format them again.",
        ),
        GateReason.CHECKPOINT_KEY: Explanation(
            403,
            "The checkpoint is not signed by the log key in the anchors.",
            "Get the checkpoint from the gateway again; compare the anchors with the operator's.",
        ),
        GateReason.CHECKPOINT_MALFORMED: Explanation(
            400,
            "The checkpoint cannot be read.",
            "Get the checkpoint from the gateway again, and pass it on unchanged.",
        ),
        GateReason.CHECKPOINT_ORIGIN: Explanation(
            403,
            "The checkpoint is of another log.",
            "Use the checkpoint and the anchors of the same gateway.",
        ),
        GateReason.CHECKPOINT_QUORUM: Explanation(
            403,
            "Too few known witnesses cosigned the checkpoint.",
            "Wait for more cosignatures; if none come, ask the witnesses whether they saw another log.",
        ),
        GateReason.CHECKPOINT_SEAL: Explanation(
            403,
            "The checkpoint's seal by the gateway's TPM is missing, malformed or not valid.",
            "Get a sealed checkpoint; if its seal stays invalid, examine the gateway.",
        ),
        GateReason.CHECKPOINT_SPLIT_VIEW: Explanation(
            409,
            "The log shows another history than it showed before: records were taken away or changed.",
            "Keep both checkpoints, each of which is signed: together they convict the log's operator.",
        ),
        GateReason.CHECKPOINT_STALE: Explanation(
            503,
            "The newest published checkpoint is too old, so nothing more may be issued on it.",
            "Look in the gateway's log for why it can't seal or publish: its TPM, or its witnesses.",
        ),
        GateReason.CHECKPOINT_UNWITNESSED: Explanation(
            503,
            "Too few witnesses cosigned the newest checkpoint, so it is not published and nothing rests on it.",
            "See in the gateway's log which witness is silent and which refuses; a refusal is to be examined.",
        ),
        GateReason.LINEAGE_CHAIN_BROKEN: Explanation(
            500,
            "The stored lineage contradicts itself: records were changed, removed or inserted.",
            "Stop the gateway, keep the database as evidence, and compare it with a backup and checkpoints.",
        ),
        GateReason.LINEAGE_KEY: Explanation(
            403,
            "The issuing key was not introduced by the log key that the anchors name.",
            "Don't rely on its artifacts; compare the anchors with the operator's.",
        ),
        GateReason.LINEAGE_PROOF_INVALID: Explanation(
            403,
            "The proof does not connect this record to the checkpoint.",
            "Get record, proof and checkpoint together again; if it stays, the record is not in the log.",
        ),
        GateReason.LINEAGE_RECORD_MALFORMED: Explanation(
            400,
            "A record of the lineage is too large, of an unknown type or not in its form.",
            "Use the record's bytes as they were stored; update the verifier if the type is new.",
        ),
        GateReason.LINEAGE_NO_TILE: Explanation(
            404,
            "The log has no such tile: its number is written otherwise, or it lies beyond the newest checkpoint.",
            "Ask for the tiles that the newest checkpoint covers, by their one path.",
        ),
        GateReason.LINEAGE_RANGE: Explanation(
            404,
            "The log has not so many records: a proof was asked for that lies beyond its newest checkpoint.",
            "If the log had as many before, it is not that log any more: keep what you have of it, and tell its auditor.",
        ),
        GateReason.LINEAGE_ROLLED_BACK: Explanation(
            500,
            "The TPM's counter and the database disagree: the database is an older copy, or the counter went on without it.",
            "Bring back the newest database; where there is none, 'ztrooted gateway recover' goes on, and the log says so.",
        ),
        GateReason.RECOVERY_PASSPHRASE: Explanation(
            400,
            "The passphrase for a recovery export is too short to keep keys for years.",
            "Put a longer one into the file, such as 'openssl rand -base64 24' makes.",
        ),
        GateReason.RECOVERY_REFUSED: Explanation(
            400,
            "The recovery export is none, was altered, is of another gateway, or has another passphrase.",
            "Take the file that 'ztrooted gateway recovery-export' wrote for this trust domain, and its passphrase.",
        ),
        GateReason.SECRETS_DAMAGED: Explanation(
            500,
            "A sealed key of the gateway is damaged, or was put where it does not belong.",
            "Restore its file from a backup of this gateway, or all keys: 'ztrooted gateway recovery-import'.",
        ),
        GateReason.SECRETS_PLAIN: Explanation(
            500,
            "A key of the gateway lies in its data folder in the clear, so a copy of the folder is enough to misuse it.",
            "Stop the gateway and seal it: 'ztrooted gateway seal-keys'.",
        ),
        GateReason.RESEAL_DOCUMENT: Explanation(
            400,
            "The request or approval of another state of the gateway is none, is damaged, or is for another gateway.",
            "Ask and approve again: 'ztrooted gateway reseal --request', 'ztrooted gateway approve'.",
        ),
        GateReason.RESEAL_NO_APPROVER: Explanation(
            500,
            "The gateway's keys work in the state it was made in and in no other: it has no approver.",
            "Bring the machine back to that state, or initialise a new gateway, with --approver.",
        ),
        GateReason.RESEAL_REFUSED: Explanation(
            500,
            "What was approved is not this machine's state, is not the next version, or was not signed by the approver.",
            "Ask again, from this machine: 'ztrooted gateway reseal --request'.",
        ),
        GateReason.LINEAGE_TRUNCATED: Explanation(
            500,
            "The lineage is shorter than it has been: records at its end are missing.",
            "Stop the gateway, keep the database as evidence, and restore the missing records.",
        ),
        GateReason.WITNESS_ANSWER: Explanation(
            503,
            "A witness answered otherwise than its protocol says, or cosigned with another key than its own.",
            "Compare url and vkey of the witness with what its operator says.",
        ),
        GateReason.WITNESS_REQUEST: Explanation(
            400,
            "A request to a witness is not an old size, a proof, an empty line and a checkpoint.",
            "Send what C2SP tlog-witness says.",
        ),
        GateReason.WITNESS_UNREACHABLE: Explanation(
            503,
            "A witness can't be reached, or does not answer in time.",
            "Check that the witness runs and the way to it; it is asked again by itself.",
        ),
        GateReason.EAR_EXPIRED: Explanation(
            410,
            "The attestation result is past its end, so it says nothing about now.",
            "Ask the verifier for a new one.",
        ),
        GateReason.EAR_MALFORMED: Explanation(
            400,
            "This is no attestation result, or one that contradicts itself.",
            "Ask the verifier for it again; nothing in it counts.",
        ),
        GateReason.EAR_PROFILE: Explanation(
            406,
            "The result can't be had in the form that was asked for.",
            "Ask for application/eat+jwt with one of the profiles that the detail lists.",
        ),
        GateReason.NOTE_KEY: Explanation(
            403,
            "A verifier key for signed notes cannot be used, or clashes with another.",
            "Correct the key in the anchors; take it from its owner.",
        ),
        GateReason.NOTE_MALFORMED: Explanation(
            400,
            "The signed note cannot be read.",
            "Get the note again, and pass it on unchanged.",
        ),
        GateReason.NOTE_SIGNATURE: Explanation(
            403,
            "No known key signed the note, or a known key's signature is wrong.",
            "Get the note again; compare the key with its owner's.",
        ),
    }
)
