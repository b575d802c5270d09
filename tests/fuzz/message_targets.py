"""What travels over HTTP, the channel and the control socket."""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from tests.fuzz.json_targets import json_bombs, mutate_json_text
from tests.fuzz.mutation import mutate_json
from tests.fuzz.target import Target
from tests.support.attestation import SELECTION, VALUES, SoftwareAk
from tests.support.endorsement import ec_key, ek_certificate, ek_public, vendor
from tests.support.seals import AK
from tests.support.tokens import token
from ztrooted import channel_messages, control_messages, limits, models

_mutate_members = mutate_json()


def _message_models() -> tuple[Any, ...]:
    return (
        *(
            channel_messages.EXECUTOR_MESSAGE,
            channel_messages.GATEWAY_MESSAGE,
            control_messages.EXEC_EVENT,
            models.DispatchRequest,
            models.Job,
        ),
        *(
            models.EnrollmentRequest,
            models.EnrollmentChallenge,
            models.ActivationRequest,
            models.Enrolled,
            models.Grant,
        ),
        *(control_messages.ExecRequest, models.Problem, models.LabelsRequest),
    )


def run_message(data: bytes) -> None:
    """The first byte says which kind is expected; every part that a handler derives is derived."""
    kinds = _message_models()
    parsed = models.parse_json(kinds[(data[0] if data else 0) % len(kinds)], data[1:], maximum=limits.EVIDENCE_BODY)
    if isinstance(parsed, channel_messages.EvidenceMessage | models.ActivationRequest):
        evidence = parsed.quote.evidence(b"log")
        assert len(evidence.digest()) == 64
    if isinstance(parsed, models.DispatchRequest):
        assert len(parsed.job.digest()) == 64


@cache
def messages() -> tuple[bytes, ...]:
    attest, signature = SoftwareAk.ecc().quote()

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    quote = {
        "attest": text(attest),
        "signature": text(signature),
        "pcrs": {bank: {str(index): value.hex() for index, value in values.items()} for bank, values in VALUES.items()},
        "event_log": text(b"log"),
        "event_log_digest": "ab" * 32,
        "ima_offset": 0,
        "ima": text(b"10 "),
    }
    job = {
        "workflow": "train",
        "run": "r/1",
        "step": "fit",
        "attempt": 1,
        "argv": ["/bin/true", "\u00e9"],
        "env": "00" * 32,
        "cwd": "/",
        "files": {"/a": "01" * 32},
    }
    executor, identifier, digest = "ex-" + "0" * 32, "0123456789ab", "ab" * 32
    enrollment = {
        "ek_public": text(ek_public(ec_key(100).public_key())),
        "ek_certificate": text(ek_certificate(vendor().issuer)),
        "ek_chain": [text(vendor().issuer.der)],
        "ak_public": text(AK.public.marshal()),
        "session_key": text(b"key"),
    }
    challenge = {
        "type": "challenge",
        "challenge": identifier,
        "purpose": "runtime",
        "nonce": digest,
        "bindings": ["00"],
        "selection": SELECTION.as_dict(),
        "ima_offset": 1,
        "event_log_digest": digest,
        "deadline_ms": 5000,
    }
    ended = {"authorization": identifier, "outcome": "killed", "exit_status": None, "signal": 9, "reason": "x"}
    delegation = {"depth": 2, "children": 3, "steps": ["fit"], "executors": [executor]}
    made: list[tuple[int, Any]] = [
        (0, {"type": "evidence", "challenge": identifier, "quote": quote}),
        (0, {"type": "activate", "artifact": token()}),
        (0, {"type": "started", "authorization": identifier, "enforcement": "pidns"}),
        (0, {"type": "ended", **ended, "kill_ms": 1}),
        (1, challenge),
        (1, {"type": "lease", "authorization": identifier, "challenge": identifier, "artifact": token(), "life_ms": 1}),
        (1, {"type": "refused", "authorization": None, "reason": "x", "detail": ""}),
        (1, {"type": "issuer", "issuer": {"statement": text(b"{}"), "signature": text(b"s")}}),
        (2, {"event": "ended", **ended, "detail": ""}),
        (3, {"executor": executor, "job": job, "max_runtime_s": 60}),
        (3, {"executor": executor, "job": job, "parent": "0" * 32, "delegation": delegation}),
        (4, job),
        (5, enrollment),
        (7, {"mac": digest, "quote": quote}),
        (10, {"artifact": token(), "job": job, "env": {"A": "b"}}),
        (12, {"executor": executor}),
    ]
    return tuple(bytes((kind,)) + json.dumps(value).encode() for kind, value in made)


def mutate_message(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Change members of a message."""
    return data[:1] + _mutate_members(random, data[1:], pool)


@cache
def message_bombs() -> Mapping[str, bytes]:
    """The bombs of JSON that are objects, for two kinds of message, and members with as much as fits."""
    chosen = {name: data for name, data in json_bombs().items() if data[:1] == b"{" or name in {"digits", "empties"}}
    whole = {f"{kind}_{name}": bytes((kind,)) + data for kind in (0, 3) for name, data in chosen.items()}
    large = base64.b64encode(bytes(700_000)).decode()
    base = json.loads(messages()[0][1:])
    base["quote"]["ima"] = large
    whole["evidence"] = b"\0" + json.dumps(base).encode()
    wrong = json.loads(messages()[9][1:])
    wrong["job"]["argv"] = [0] * 200_000
    whole["argv"] = b"\3" + json.dumps(wrong).encode()
    wrong["job"]["argv"] = ["x"]
    wrong["job"]["files"] = {str(number): 0 for number in range(60_000)}
    whole["files"] = b"\3" + json.dumps(wrong).encode()
    return {name: data[: 1 << 20] for name, data in whole.items()}


TARGETS = (Target("message", run_message, messages, (mutate_message, mutate_json_text), message_bombs),)
