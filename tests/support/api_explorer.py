"""Asks a running gateway what its OpenAPI document leads schemathesis to ask, in every role, and says what was wrong.

Run by the interpreter of .peers: it reads what to do as JSON from its standard input and writes what it found to its
standard output. ``{"url", "ca", "document", "examples", "seed", "tokens": {role: token}, "certificate": [file, key] or null,
"known": {parameter: value}}`` becomes ``{"asked": {operation: {status: count}}, "wrong": [text]}``.
"""

import json
import random
import sys
from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

# They last for as long as the connection does, so there is no answer to look at.
LASTING = ("/v1/events", "/v1/executor/channel")
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
WRONG = 20  # findings that are told


class Explorer:
    """One run."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: dict[str, str] = {}
        self._sessions = {
            role: self._session({"Authorization": f"Bearer {one}"}) for role, one in asked["tokens"].items()
        }
        self._sessions["anyone"] = self._session({})
        if asked["certificate"]:
            self._sessions["executor"] = self._session({})
            self._sessions["executor"].cert = tuple(asked["certificate"])

    def _session(self, headers: dict[str, str]) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers.update(headers)
        return session

    def explore(self) -> dict[str, Any]:
        """Every operation in turn, with as many examples as was said, in a role each."""
        for found in schemathesis.openapi.from_dict(self._asked["document"]).get_all_operations():
            operation = found.ok()
            if operation.path not in LASTING:
                self._operation(operation)
        return {"asked": self.counts, "wrong": list(self.wrong.values())[:WRONG]}

    def _operation(self, operation: Any) -> None:
        name = f"{operation.method.upper()} {operation.path}"
        self.counts[name] = Counter()
        modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
        strategies = [operation.as_strategy(generation_mode=mode) for mode in modes]

        @seed(self._asked["seed"])
        @settings(
            max_examples=self._asked["examples"],
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def ask(data: st.DataObject) -> None:
            case = data.draw(strategies[data.draw(st.integers(0, 1))])
            if data.draw(st.booleans()):
                self._make_known(case)
            role = data.draw(st.sampled_from(sorted(self._sessions)))
            self._ask(name, case, role)

        try:
            ask()
        except Exception as error:  # noqa: BLE001 -- a strategy that can't be made is a finding
            self.wrong.setdefault(name, f"{name}: {type(error).__name__}: {error}")

    def _make_known(self, case: Any) -> None:
        """Let it be about something that is there."""
        known = self._asked["known"]
        for parameter in list(case.path_parameters or {}):
            if parameter in known:
                case.path_parameters[parameter] = known[parameter]
        if isinstance(case.body, dict) and "executor" in case.body:
            case.body["executor"] = known["executor"]

    def _ask(self, name: str, case: Any, role: str) -> None:
        try:
            response = case.call(base_url=self._asked["url"], session=self._sessions[role], verify=self._asked["ca"])
        except (requests.exceptions.InvalidHeader, UnicodeError, ValueError):
            return  # what this client can't send
        self.counts[name][str(response.status_code)] += 1
        try:
            case.validate_response(response, checks=list(CHECKS))
        except (Failure, FailureGroup) as error:
            causes = error.exceptions if isinstance(error, FailureGroup) else [error]
            for cause in causes:
                key = f"{name} {response.status_code} {type(cause).__name__}"
                answered = f"{response.status_code} {response.content[:300]!r}"
                told = f"{name} as {role}: {type(cause).__name__}: {cause}: {answered}"
                self.wrong.setdefault(key, told)


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    random.seed(wanted["seed"])
    json.dump(Explorer(wanted).explore(), sys.stdout)
