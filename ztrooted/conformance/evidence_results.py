"""Attestation results of other projects: EAR tokens and claims, and the tiers of AR4SI's values."""

import json
import time
from typing import Any

from ztrooted import ear, jose
from ztrooted.ar4si import TIER_NAMES, tier_of
from ztrooted.conformance.index import Entry, Fields
from ztrooted.conformance.results import Checks, NotApplicableError


def judge_table(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ar4si_table``: the tier of every signed byte, listed by tier."""
    expected.take("tier_of_every_int8")
    table: dict[str, Any] = entry.item()
    for name, values in table.items():
        for value in values if isinstance(values, list) else [values]:
            checks.equal(f"tier of {value}", TIER_NAMES[tier_of(value)], name)


def judge_claims(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ear_claims``: decoded claims, as a file or within one; what is expected of their parts is compared."""
    expected.take("parse")
    expected.take("error")
    checks.names.append("parse")
    result = ear.parse_json(_claims(entry))
    _compare(result, expected, checks)


def _claims(entry: Entry) -> bytes:
    if "pointer" not in entry.value:
        return entry.data()
    item = entry.item()
    if isinstance(item, dict) and isinstance(item.get("json"), str):
        return str(item["json"]).encode()
    claims = item.get("claims", item) if isinstance(item, dict) else item
    return json.dumps(claims).encode()


def judge_token(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ear_jwt``: a signed result with the key that verifies it beside it, or in its own header."""
    expected.take("verify")
    expected.take("error")
    checks.names.append("verify")
    item = entry.item() if "pointer" in entry.value else {"token": entry.data().decode("ascii", "replace").strip()}
    token = str(item.get("token"))
    told = item.get("jwk")
    if told is None:  # nobody vouches for it; that it hangs together is all that can be said
        told = ear.split_foreign(token)[0].get("jwk")
    if not isinstance(told, dict):
        raise NotApplicableError("there is no key to verify the token with")
    key = jose.parse_jwk({name: told[name] for name in ("kty", "crv", "x", "y") if name in told})
    result = ear.verify_foreign(token, key)
    ear.require_current(result, int(time.time()))
    _compare(result, expected, checks)


def _compare(result: ear.EarResult, expected: Fields, checks: Checks) -> None:
    parts = result.appraised()
    for name, status in (expected.take("status") or {}).items():
        checks.equal(f"status of {name}", TIER_NAMES[parts[name].status] if name in parts else None, status)
    claims = expected.take("claims") or {}
    if "eat_profile" in claims:
        checks.equal("eat_profile", str(result.profile), claims["eat_profile"])
    for name in claims.keys() - {"eat_profile"}:
        checks.skip(name, "not compared")
