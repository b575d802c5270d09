"""Lies about one run, told with every key of the gateway, that the adversarial tests don't tell already.

Each makes one promise of docs/bundle-format.md false. ``scripts/vectors`` writes them down as mutations.
"""

from collections.abc import Callable
from typing import Any

from tests.adversarial.test_bundle import Lie, _restate
from tests.support.forger import Forger, Value
from tpm.public import ObjectAttributes
from ztrooted import canonical

Change = Callable[[bytes], bytes]


def flip(at: int, bit: int = 1) -> Change:
    """One bit of a byte; a negative place counts from the end."""

    def change(data: bytes) -> bytes:
        place = at % len(data)
        return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]

    return change


def put(at: int, inserted: bytes) -> Change:
    return lambda data: data[:at] + inserted + data[at + len(inserted) :]


def attributes(at: int, bits: ObjectAttributes) -> Change:
    """Turn attributes of a public area whose bytes begin at ``at``."""

    def change(data: bytes) -> bytes:
        found = int.from_bytes(data[at + 4 : at + 8], "big") ^ int(bits)
        return data[: at + 4] + found.to_bytes(4, "big") + data[at + 8 :]

    return change


def identity(**changes: Change) -> Lie:
    """Another identity of the gateway than the one it started with."""

    def lie(forger: Forger) -> None:
        told = forger.first("gateway.started")["body"]["identity"]
        for name, change in changes.items():
            told[name] = change(bytes.fromhex(told[name])).hex()

    return lie


def evidence(part: str, change: Change) -> Lie:
    """Other evidence in the last good round, and everything that names it agrees."""

    def lie(forger: Forger) -> None:
        body = forger.all("attestation.passed")[-1]["body"]
        manifest = body["manifest"]
        holder, name = (manifest["ima"], "entries") if part == "ima" else (manifest, part)
        holder[name] = forger.blob(change(forger.blobs[holder[name]]))
        _named(forger, body)

    return lie


def manifest(change: Callable[[Value], Any]) -> Lie:
    def lie(forger: Forger) -> None:
        body = forger.all("attestation.passed")[-1]["body"]
        change(body["manifest"])
        _named(forger, body)

    return lie


def _named(forger: Forger, body: Value) -> None:
    body["evidence"] = canonical.digest(body["manifest"])
    _restate(forger)


def enrolled(name: str, change: Change) -> Lie:
    """Another key in the enrollment."""

    def lie(forger: Forger) -> None:
        body = forger.first("executor.enrolled")["body"]
        body[name] = forger.blob(change(forger.blobs[body[name]]))

    return lie


def told(kind: str, **changes: Any) -> Lie:
    """Something else in the last record of a type."""

    def lie(forger: Forger) -> None:
        [one for one in forger.records if one["type"] == kind][-1]["body"].update(changes)

    return lie


def round_told(**changes: Any) -> Lie:
    def lie(forger: Forger) -> None:
        forger.all("attestation.passed")[-1]["body"].update(changes)

    return lie


def introduced(change: Callable[[str], str]) -> Lie:
    def lie(forger: Forger) -> None:
        body = forger.first("key.introduced")["body"]
        body["statement"] = change(body["statement"])

    return lie


def drop(*kinds: str) -> Lie:
    return lambda forger: forger.remove(*[one for one in forger.records if one["type"] in kinds])


def denied_for_something_else(forger: Forger) -> None:
    forger.all("authorization.denied")[-1]["body"]["reason"] = "parent.scope"


def job_changed(forger: Forger) -> None:
    forger.first("dispatch.requested")["body"]["job"]["argv"] = ["/bin/false"]


def dispatched_for_another(forger: Forger) -> None:
    forger.first("dispatch.requested")["body"]["executor"] = "ex-" + "0" * 32


def quote_after_the_lease(forger: Forger) -> None:
    """A lease that had ended a minute before the next quote came, and everything in between agrees."""
    passed = forger.all("attestation.passed")
    for claims in [one["body"]["claims"] for one in forger.all("authorization.issued", "authorization.renewed")]:
        claims["exp"] = claims["iat"] + 1
    at = next(number for number, one in enumerate(forger.records) if one is passed[-1])
    for one in forger.records[at:]:
        one["at"] += 3000
    body = passed[-1]["body"]
    body["now"] += 3000
    _restate(forger)
    for claims in [one["body"]["claims"] for one in forger.all("authorization.renewed")[-1:]]:
        claims["exp"] = claims["iat"] + 1


def artifact(**changes: Any) -> Lie:
    """Artifacts that say something else than their records."""
    return lambda forger: setattr(forger, "claims", lambda _number, claims: {**claims, **changes})


def verdict(change: Callable[[Value], Any]) -> Lie:
    return lambda forger: change(forger.all("attestation.passed")[-1]["body"]["verdict"])


def without(name: str) -> Callable[[Value], Any]:
    return lambda told: told.update(checks=[one for one in told["checks"] if one["name"] != name])


def enrollment_continues(forger: Forger) -> None:
    forger.first("executor.enrolled")["body"]["round"]["previous"]["ima"] = {
        "entries": 1,
        "pcrs": {"sha256": "ab" * 32},
        "pending": 0,
    }


_KEY = 2  # of a TPM2B_PUBLIC: the public area begins behind its size

LIES: dict[str, Lie] = {
    "gateway_never_started": drop("gateway.started"),
    "log_key_opened_by_a_password": identity(log_key_public=attributes(_KEY, ObjectAttributes.USER_WITH_AUTH)),
    "log_key_restricted": identity(log_key_public=attributes(_KEY, ObjectAttributes.RESTRICTED)),
    "log_key_not_fixed": identity(log_key_public=attributes(_KEY, ObjectAttributes.FIXED_TPM)),
    "log_key_of_another_policy": identity(log_key_public=flip(_KEY + 12)),
    "log_key_off_its_curve": identity(log_key_public=flip(-1)),
    "log_key_with_a_byte_more": identity(log_key_public=lambda data: data + b"\0"),
    "log_key_certified_by_nobody": identity(certify_signature=flip(-1)),
    "log_key_certified_for_another": identity(certify_attest=flip(-1)),
    "log_key_certificate_of_no_tpm": identity(certify_attest=flip(0)),
    "log_key_certificate_of_another_type": identity(certify_attest=flip(5)),
    "counter_that_a_password_increments": identity(counter_public=flip(9)),
    "counter_of_another_index": identity(counter_public=flip(3)),
    "counter_with_a_byte_more": identity(counter_public=lambda data: data + b"\0"),
    "counter_certified_by_nobody": identity(counter_signature=flip(-1)),
    "counter_with_another_value": identity(counter_attest=flip(-1)),
    "counter_that_began_elsewhere": lambda forger: forger.first("gateway.started")["body"]["identity"].update(
        counter_start="99999"
    ),
    "quote_of_no_tpm": evidence("attest", flip(0)),
    "quote_of_another_type": evidence("attest", flip(5, 0x0F)),
    "quote_with_a_byte_more": evidence("attest", lambda data: data + b"\0"),
    "quote_cut_short": evidence("attest", lambda data: data[:-1]),
    "quote_with_another_digest": evidence("attest", flip(-1)),
    "quote_signed_by_nobody": evidence("signature", flip(-1)),
    "quote_signed_by_another_scheme": evidence("signature", put(0, bytes.fromhex("0014"))),
    "quote_signed_over_sha1": evidence("signature", put(2, bytes.fromhex("0004"))),
    "quote_signature_with_a_byte_more": evidence("signature", lambda data: data + b"\0"),
    "pcr_value_that_was_not_quoted": manifest(lambda one: one["pcrs"]["sha256"].update({"7": "00" * 32})),
    "pcr_value_too_many": manifest(lambda one: one["pcrs"]["sha256"].update({"23": "00" * 32})),
    "pcr_value_missing": manifest(lambda one: one["pcrs"]["sha256"].pop("0")),
    "pcr_value_too_short": manifest(lambda one: one["pcrs"]["sha256"].update({"0": "00"})),
    "event_log_with_another_digest": evidence("event_log", flip(120)),
    "event_log_with_other_data": evidence("event_log", flip(-20)),
    "event_log_cut_short": evidence("event_log", lambda data: data[:-1]),
    "event_log_without_its_beginning": evidence("event_log", lambda data: data[32:]),
    "event_log_empty": evidence("event_log", lambda data: b""),
    "measurements_without_an_end": evidence("ima", lambda data: data + b"10 "),
    "measurements_never_covered": evidence(
        "ima", lambda data: data + b"10 " + b"ab" * 20 + b" ima-ng sha256:" + b"cd" * 32 + b" /usr/bin/never\n"
    ),
    "measurements_from_elsewhere": manifest(lambda one: one["ima"].update(offset=10_000)),
    "measurements_of_a_shorter_history": round_told(
        previous={"clock": None, "ima": {"entries": 0, "pcrs": {}, "pending": 0}}
    ),
    "nonce_too_short": round_told(nonce="00" * 16),
    "purpose_unknown": round_told(purpose="leisure"),
    "evidence_that_is_not_here": round_told(
        manifest={
            "attest": "0" * 64,
            "signature": "0" * 64,
            "event_log": "0" * 64,
            "ima": {"offset": 0, "entries": "0" * 64},
            "pcrs": {},
        }
    ),
    "ek_that_signs": enrolled("ek_public", attributes(_KEY, ObjectAttributes.SIGN)),
    "ek_of_another_policy": enrolled("ek_public", flip(_KEY + 12)),
    "ek_off_its_curve": enrolled("ek_public", flip(-1)),
    "ak_unrestricted": enrolled("ak_public", attributes(_KEY, ObjectAttributes.RESTRICTED)),
    "ak_that_decrypts": enrolled("ak_public", attributes(_KEY, ObjectAttributes.DECRYPT)),
    "ak_that_can_leave": enrolled("ak_public", attributes(_KEY, ObjectAttributes.FIXED_TPM)),
    "ak_with_another_parent": enrolled("ak_public", attributes(_KEY, ObjectAttributes.FIXED_PARENT)),
    "ak_made_elsewhere": enrolled("ak_public", attributes(_KEY, ObjectAttributes.SENSITIVE_DATA_ORIGIN)),
    "ak_that_does_not_sign": enrolled("ak_public", attributes(_KEY, ObjectAttributes.SIGN)),
    "ak_of_another_name": enrolled("ak_public", attributes(_KEY, ObjectAttributes.NO_DA)),
    "session_key_off_its_curve": enrolled("session_key", flip(-1)),
    "session_key_with_a_byte_more": enrolled("session_key", lambda data: data + b"\0"),
    "enrolled_as_another": told("executor.enrolled", executor="ex-" + "0" * 32),
    "enrolled_with_another_ak": told("executor.enrolled", ak="000b" + "0" * 64),
    "dispatched_for_another_executor": dispatched_for_another,
    "issuing_key_of_another_log": introduced(lambda text: text.replace("gate.test/lineage", "gate.other/lineage")),
    "issuing_key_introduced_by_nobody": told("key.introduced", signature="30" * 70),
    "issuing_key_never_introduced": drop("key.introduced"),
    "job_changed": job_changed,
    "quote_after_the_lease": quote_after_the_lease,
    "artifact_of_another_chain": lambda forger: setattr(
        forger, "claims", lambda number, claims: {**claims, "ren": {"n": 7, "prev": "0" * 64}} if number else claims
    ),
    "first_artifact_that_is_a_renewal": lambda forger: forger.first("authorization.issued")["body"]["claims"].update(
        ren={"n": 1, "prev": "0" * 64}
    ),
    "no_time_was_asked_for": told("dispatch.requested", max_runtime_s=None),
    "artifact_past_its_runtime": lambda forger: (
        forger.first("dispatch.requested")["body"].update(max_runtime_s=20)
        or [one["body"]["claims"]["lim"].update(max_runtime_s=20) for one in forger.all() if "claims" in one["body"]]
    ),
    "artifact_by_another_issuer": artifact(iss="spiffe://other.test/gateway"),
    "artifact_for_another_audience": artifact(aud="spiffe://gate.test/gateway"),
    "artifact_from_the_future": artifact(iat=2_000_000_000, nbf=2_000_000_000, exp=2_000_000_060),
    "artifact_from_the_past": artifact(iat=1_000_000_000, nbf=1_000_000_000, exp=1_000_000_060),
    "verdict_without_a_quote": verdict(without("quote")),
    "verdict_without_an_event_log": verdict(without("event_log")),
    "verdict_of_no_checks": verdict(lambda told: told.update(checks=[])),
    "verdict_against_its_checks": verdict(lambda told: told["checks"][-1].update(status="fail", reason="ima.empty")),
    "enrollment_that_continues_something": enrollment_continues,
    "ended_by_nothing": told("execution.closed", outcome="not_started"),
    "closed_without_a_word": drop("execution.started", "execution.closed"),
}
LIES_ABOUT_DENIAL: dict[str, Lie] = {
    "denied_for_something_else": denied_for_something_else,
    "denied_by_nobody": drop("authorization.denied"),
}
