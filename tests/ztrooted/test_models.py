"""What travels: one form for each value, nothing unknown, nothing without a bound, and one reason for every refusal."""

import ast
import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from gateway import webhook_config
from ztrooted import baseline_models, canonical, limits, models, operator_models, policy_models
from ztrooted.channel_messages import EXECUTOR_MESSAGE, GATEWAY_MESSAGE
from ztrooted.control_messages import EXEC_EVENT
from ztrooted.errors import GateError
from ztrooted.evidence import Evidence
from ztrooted.models import DispatchRequest, EnrollmentRequest, Job, Model, Quote, parse_json
from ztrooted.reasons import GateReason
from ztrooted.validation import WRITTEN

PROJECT = Path(__file__).resolve().parents[2]

EXECUTOR = "ex-" + "0a" * 16
DIGEST = "ab" * 32
JOB = {"workflow": "nightly", "run": "17", "step": "build", "attempt": 1, "argv": ["/bin/true"], "env": DIGEST}
DISPATCH = {"executor": EXECUTOR, "job": JOB, "max_runtime_s": 60}
QUOTE = {
    "attest": "AAEC",
    "signature": "AAEC",
    "pcrs": {"sha256": {"0": "00" * 32}},
    "event_log": None,
    "event_log_digest": DIGEST,
    "ima_offset": 0,
    "ima": "",
}
ENROLLMENT = {
    "ek_public": "AAEC",
    "ek_certificate": "AAEC",
    "ek_chain": ["AAEC"],
    "ak_public": "AAEC",
    "session_key": "AAEC",
}


def refused(model: Any, data: bytes, *, maximum: int = limits.BODY) -> str:
    with pytest.raises(GateError) as refusal:
        parse_json(model, data, maximum=maximum)
    assert refusal.value.reason is GateReason.REQUEST_MALFORMED
    assert len(refusal.value.detail) <= limits.STRING
    return refusal.value.detail


def changed(original: dict[str, Any], place: str, value: Any) -> bytes:
    """``original`` as JSON with the member at ``place`` ("job.env") replaced."""
    copy = json.loads(json.dumps(original))
    *above, last = place.split(".")
    inside = copy
    for name in above:
        inside = inside[name]
    inside[last] = value
    return json.dumps(copy).encode()


# --- the text ----------------------------------------------------------------------------------------------------
GOOD = json.dumps(DISPATCH)
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "half a document": GOOD[:-1].encode(),
    "two documents": (GOOD + GOOD).encode(),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "Latin-1": GOOD.replace("nightly", "nächtlich").encode("latin-1"),
    "L7 a duplicate member": GOOD.replace('"executor"', f'"executor": "{EXECUTOR}", "executor"', 1).encode(),
    "L7 a duplicate member inside": GOOD.replace('"env"', f'"env": "{DIGEST}", "env"', 1).encode(),
    "L7 a duplicate member, escaped": GOOD.replace('"env"', f'"\\u0065nv": "{DIGEST}", "env"', 1).encode(),
    "L7 NaN": GOOD.replace("60", "NaN").encode(),
    "L7 Infinity": GOOD.replace("60", "Infinity").encode(),
    "L7 -Infinity": GOOD.replace("60", "-Infinity").encode(),
    "L7 1e400": GOOD.replace("60", "1e400").encode(),
    "L7 an integer of 5,000 digits": GOOD.replace("60", "9" * 5000).encode(),
    "L7 an integer of 54 bits": GOOD.replace("60", str(1 << 53)).encode(),
    "half a surrogate pair": GOOD.replace("nightly", "\\ud800").encode(),
    "N3 nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "N3 nested one too deep": changed(DISPATCH, "job", json.loads("[" * limits.JSON_DEPTH + "]" * limits.JSON_DEPTH)),
    "N3 objects nested too deep": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "a comment": GOOD.encode() + b"// and so on",
    "a list": b"[" + GOOD.encode() + b"]",
    "null": b"null",
    "text": b'"text"',
    "a single quote": GOOD.replace('"', "'").encode(),
    "a trailing comma": GOOD[:-1].encode() + b",}",
}


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS.keys())
def test_a_text_with_two_meanings_or_none_is_refused(data: bytes) -> None:
    refused(DispatchRequest, data)


def test_the_same_text_without_the_fault_is_read() -> None:
    request = parse_json(DispatchRequest, GOOD.encode())
    assert request.job.digest() == Job.model_validate(JOB).digest()


def test_N1_a_body_at_the_maximum_is_read_and_one_byte_more_is_refused() -> None:
    data = GOOD.encode().ljust(limits.BODY)
    assert parse_json(DispatchRequest, data).executor == EXECUTOR
    assert refused(DispatchRequest, data + b" ") == f"over {limits.BODY} bytes of JSON"
    small = len(GOOD) - 1
    assert refused(DispatchRequest, GOOD.encode(), maximum=small) == f"over {small} bytes of JSON"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for model in (DispatchRequest, EXECUTOR_MESSAGE):
        refused(model, data)


@given(st.data())
def test_no_changed_byte_raises_anything_else(data: st.DataObject) -> None:
    encoded = bytearray(GOOD.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_json(DispatchRequest, bytes(encoded))
    except GateError as refusal:
        assert refusal.reason is GateReason.REQUEST_MALFORMED  # noqa: PT017 -- either way is right


# --- values ------------------------------------------------------------------------------------------------------
NAMES_REFUSED = [
    "",
    " a",
    "a b",
    "a\n",
    "a\r\nb",
    "\x1b[31m",
    "a\u2028b",
    "ä",
    "-a",
    ".hidden",
    "../a",
    "a" * 129,
    "a\0",
]
VALUES: list[tuple[str, Any]] = [
    ("executor", EXECUTOR.upper()),
    ("executor", EXECUTOR + "\n"),
    ("executor", EXECUTOR[:-1]),
    ("executor", None),
    ("executor", 7),
    ("executor", [EXECUTOR]),
    *(("job.workflow", name) for name in NAMES_REFUSED),
    *(("job.run", name) for name in NAMES_REFUSED),
    *(("job.step", name) for name in NAMES_REFUSED),
    ("job.run", 17),
    ("job.attempt", 0),
    ("job.attempt", -1),
    ("job.attempt", 1_000_001),
    ("job.attempt", "1"),
    ("job.attempt", 1.0),
    ("job.attempt", True),
    ("job.attempt", None),
    ("job.argv", []),
    ("job.argv", "/bin/true"),
    ("job.argv", [7]),
    ("job.argv", [None]),
    ("job.argv", ["x"] * (limits.ARGV_ITEMS + 1)),
    ("job.argv", ["x" * (limits.STRING + 1)]),
    ("job.argv", {"0": "/bin/true"}),
    ("job.env", DIGEST.upper()),
    ("job.env", DIGEST + "\n"),
    ("job.env", DIGEST[:-1]),
    ("job.env", DIGEST + "0"),
    ("job.env", DIGEST[:-1] + "g"),
    ("job.env", "0x" + DIGEST[2:]),
    ("job.env", DIGEST[:-1] + "０"),
    ("job.cwd", "x" * (limits.STRING + 1)),
    ("job.files", {"/a": DIGEST.upper()}),
    ("job.files", {"/a": None}),
    ("job.files", {f"/{n}": DIGEST for n in range(limits.FILES_ITEMS + 1)}),
    ("job.files", {"x" * (limits.STRING + 1): DIGEST}),
    ("job.files", [["/a", DIGEST]]),
    ("max_runtime_s", 0),
    ("max_runtime_s", 7 * 86400 + 1),
    ("max_runtime_s", "60"),
    ("max_runtime_s", 60.5),
    ("max_runtime_s", True),
    ("job", None),
    ("job", "build"),
    ("job", []),
    ("extra", 1),
    ("job.extra", 1),
    ("job.Workflow", "x"),
]


@pytest.mark.parametrize(("place", "value"), VALUES, ids=lambda part: repr(part)[:40])
def test_a_value_outside_its_form_is_refused_and_named(place: str, value: Any) -> None:
    detail = refused(DispatchRequest, changed(DISPATCH, place, value))
    assert place in detail


@pytest.mark.parametrize("place", ["executor", "job", "job.workflow", "job.run", "job.step", "job.argv", "job.env"])
def test_a_member_that_is_missing_is_refused_and_named(place: str) -> None:
    value = json.loads(GOOD)
    *above, last = place.split(".")
    del (value[above[0]] if above else value)[last]
    assert f"{place}: Field required" in refused(DispatchRequest, json.dumps(value).encode())


def test_values_at_their_limits_are_read() -> None:
    job = {
        **JOB,
        "workflow": "a" * 128,
        "attempt": 1_000_000,
        "argv": ["ä" * limits.STRING] * limits.ARGV_ITEMS,
        "files": {f"/{n}": DIGEST for n in range(limits.FILES_ITEMS)},
    }
    data = json.dumps({**DISPATCH, "job": job, "max_runtime_s": 7 * 86400}, ensure_ascii=False).encode()
    assert parse_json(DispatchRequest, data, maximum=4 << 20).job.attempt == 1_000_000


# --- bytes in JSON -----------------------------------------------------------------------------------------------
BASE64 = {
    "no padding": "AAE",
    "too much padding": "AAEC====",
    "padding inside": "AA==AAEC",
    "set bits behind the end": "AAF=",
    "the URL alphabet": "-_-_",
    "a newline": "AAEC\n",
    "a space": "AA EC",
    "leading space": " AAEC",
    "a letter outside": "AAE!",
    "not ASCII": "AAÉC",
    "only padding": "====",
    "hexadecimal of odd length": "abc",
}


@pytest.mark.parametrize("text", BASE64.values(), ids=BASE64.keys())
@pytest.mark.parametrize("place", ["ek_public", "ek_certificate", "ak_public", "session_key"])
def test_L8_base64_has_one_form(place: str, text: str) -> None:
    assert parse_json(EnrollmentRequest, json.dumps(ENROLLMENT).encode()).ek_public == b"\0\1\2"
    assert place in refused(EnrollmentRequest, changed(ENROLLMENT, place, text))


@pytest.mark.parametrize("value", [7, 1.5, True, [0, 1, 2], {"0": 1}])
def test_bytes_are_never_made_of_anything_but_text(value: Any) -> None:
    assert "ek_public" in refused(EnrollmentRequest, changed(ENROLLMENT, "ek_public", value))


@given(st.binary(max_size=100))
def test_bytes_survive_the_wire(data: bytes) -> None:
    request = EnrollmentRequest(ek_public=data, ek_certificate=None, ek_chain=[data], ak_public=b"", session_key=b"")
    assert parse_json(EnrollmentRequest, request.model_dump_json().encode()) == request


@pytest.mark.parametrize(
    ("place", "maximum"),
    [
        ("ek_public", limits.PUBLIC_AREA),
        ("ek_certificate", limits.EK_CERTIFICATE),
        ("ak_public", limits.PUBLIC_AREA),
        ("session_key", 256),
    ],
)
def test_A16_decoded_bytes_are_bounded(place: str, maximum: int) -> None:
    full = base64.b64encode(bytes(maximum)).decode()
    parse_json(EnrollmentRequest, changed(ENROLLMENT, place, full))
    over = base64.b64encode(bytes(maximum + 1)).decode()
    assert place in refused(EnrollmentRequest, changed(ENROLLMENT, place, over))


def test_A16_a_chain_is_bounded_in_length_and_size() -> None:
    parse_json(EnrollmentRequest, changed(ENROLLMENT, "ek_chain", ["AAEC"] * limits.EK_CHAIN))
    assert "ek_chain" in refused(EnrollmentRequest, changed(ENROLLMENT, "ek_chain", ["AAEC"] * (limits.EK_CHAIN + 1)))
    over = base64.b64encode(bytes(limits.EK_CERTIFICATE + 1)).decode()
    assert "ek_chain" in refused(EnrollmentRequest, changed(ENROLLMENT, "ek_chain", [over]))


# --- evidence ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "maximum"),
    [
        ("attest", limits.ATTEST),
        ("signature", limits.SIGNATURE),
        ("event_log", limits.EVENT_LOG),
        ("ima", limits.IMA_LIST),
    ],
)
def test_evidence_is_bounded(place: str, maximum: int) -> None:
    full = base64.b64encode(bytes(maximum)).decode()
    parse_json(Quote, changed(QUOTE, place, full), maximum=limits.EVIDENCE_BODY)
    over = base64.b64encode(bytes(maximum + 1)).decode()
    assert place in refused(Quote, changed(QUOTE, place, over), maximum=limits.EVIDENCE_BODY)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("pcrs", {"sha3": {"0": "00"}}),
        ("pcrs", {"SHA256": {"0": "00" * 32}}),
        ("pcrs", {"sha256": {"0": "AB" * 32}}),
        ("pcrs", {"sha256": {"0": "0" * 63}}),
        ("pcrs", {"sha256": {"0": "00" * 129}}),
        ("pcrs", {"sha256": ["00" * 32]}),
        ("pcrs", None),
        ("event_log_digest", DIGEST.upper()),
        ("ima_offset", -1),
        ("ima_offset", (1 << 31) + 1),
        ("ima_offset", "0"),
        ("ima_offset", 0.0),
        ("ima", None),
        ("attest", None),
        ("signature", None),
        ("magic", 1),
    ],
    ids=repr,
)
def test_evidence_outside_its_form_is_refused(place: str, value: Any) -> None:
    assert place in refused(Quote, changed(QUOTE, place, value))


@pytest.mark.parametrize("index", ["00", "07", "+7", "-1", " 7", "7 ", "1_0", "0x7", "", "a", "²", "٣", "100", "7.0"])
def test_J10_a_PCR_index_has_one_form(index: str) -> None:
    quote = parse_json(Quote, changed(QUOTE, "pcrs", {"sha256": {index: "00" * 32}}))
    with pytest.raises(GateError) as refusal:
        quote.evidence(b"")
    assert refusal.value.reason is GateReason.REQUEST_MALFORMED


@given(
    st.builds(
        Evidence,
        attest=st.binary(max_size=40),
        signature=st.binary(max_size=40),
        pcrs=st.fixed_dictionaries(
            {"sha256": st.dictionaries(st.integers(0, 23), st.binary(min_size=32, max_size=32), max_size=4)}
        ),
        event_log=st.binary(max_size=40),
        ima_offset=st.integers(0, 1000),
        ima=st.binary(max_size=40),
    ),
    st.booleans(),
)
def test_evidence_survives_the_wire(evidence: Evidence, whole_log: bool) -> None:
    sent = Quote.of(evidence, event_log_digest=DIGEST, whole_log=whole_log)
    received = parse_json(Quote, sent.model_dump_json().encode())
    assert received.evidence(evidence.event_log) == evidence
    assert received.event_log == (evidence.event_log if whole_log else None)


# --- messages ----------------------------------------------------------------------------------------------------
ENDED = {
    "type": "ended",
    "authorization": "a" * 32,
    "outcome": "exited",
    "exit_status": 0,
    "signal": None,
    "reason": "execution.exited",
}


@pytest.mark.parametrize("adapter", [EXECUTOR_MESSAGE, GATEWAY_MESSAGE, EXEC_EVENT])
@pytest.mark.parametrize("kind", ["", "Ended", "unknown", None, 7, ["ended"]])
def test_a_message_of_an_unknown_type_is_refused(adapter: TypeAdapter[Any], kind: Any) -> None:
    refused(adapter, json.dumps({**ENDED, "type": kind, "event": kind}).encode())


def test_a_message_for_the_other_direction_is_refused() -> None:
    assert parse_json(EXECUTOR_MESSAGE, json.dumps(ENDED).encode()).exit_status == 0
    refused(GATEWAY_MESSAGE, json.dumps(ENDED).encode())
    lease = {"type": "lease", "authorization": "a" * 32, "challenge": "c" * 32, "artifact": "x", "life_ms": 1}
    assert parse_json(GATEWAY_MESSAGE, json.dumps(lease).encode()).life_ms == 1
    refused(EXECUTOR_MESSAGE, json.dumps(lease).encode())


IDS = ["a" * 7, "a" * 65, "a" * 31 + "/", "a" * 31 + ".", "a" * 32 + "\n", "../../etc/passwd", "é" * 32]


@pytest.mark.parametrize("name", IDS)
def test_M7_an_id_is_never_a_path(name: str) -> None:
    assert "authorization" in refused(EXECUTOR_MESSAGE, json.dumps({**ENDED, "authorization": name}).encode())


def every(found: type[BaseModel] = Model) -> list[type[BaseModel]]:
    return [one for kind in found.__subclasses__() for one in (kind, *every(kind))]


WIRE = {room.__name__ for room in (models, operator_models, policy_models, baseline_models)}
MODELS = [kind for kind in every() if kind.__module__ in WIRE]


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_J3_every_model_is_strict_closed_and_frozen(kind: type[BaseModel]) -> None:
    assert kind.model_config["strict"] is True
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["frozen"] is True
    assert kind.__doc__


def test_a_parsed_request_cannot_be_changed() -> None:
    request = parse_json(DispatchRequest, GOOD.encode())
    with pytest.raises(ValueError, match="frozen"):
        request.executor = "ex-" + "f" * 32


# --- jobs --------------------------------------------------------------------------------------------------------
JOB_CHANGES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda job: {**job, "workflow": "nightly2"},
    lambda job: {**job, "run": "18"},
    lambda job: {**job, "step": "test"},
    lambda job: {**job, "attempt": 2},
    lambda job: {**job, "argv": ["/bin/true", ""]},
    lambda job: {**job, "argv": ["/bin/tru", "e"]},
    lambda job: {**job, "env": "cd" * 32},
    lambda job: {**job, "cwd": "/tmp"},
    lambda job: {**job, "files": {"/a": DIGEST}},
    lambda job: {**job, "files": {"/b": DIGEST}},
    lambda job: {**job, "user": "1000:1000"},
    lambda job: {**job, "user": "1000:0"},
    lambda job: {**job, "memory": 1 << 30},
    lambda job: {**job, "pids": 100},
    lambda job: {**job, "cpu": 100},
]


def test_the_digest_of_a_job_depends_on_all_of_it() -> None:
    digests = {Job.model_validate(change(JOB)).digest() for change in (lambda job: job, *JOB_CHANGES)}
    assert len(digests) == len(JOB_CHANGES) + 1


def test_the_digest_of_a_job_does_not_depend_on_how_it_was_sent() -> None:
    plain = parse_json(Job, json.dumps(JOB).encode())
    spaced = parse_json(Job, json.dumps({**dict(reversed(JOB.items())), "cwd": "/", "files": {}}, indent=2).encode())
    assert plain.digest() == spaced.digest()
    assert Job.model_validate_json(plain.model_dump_json()).digest() == plain.digest()


def test_what_a_job_does_not_ask_for_is_not_in_its_digest() -> None:
    """Jobs without options are named as they were before there were any."""
    asked = {**JOB, "cwd": "/", "files": {}}
    assert Job.model_validate(JOB).digest() == canonical.digest(asked)
    nothing = Job.model_validate({**JOB, "user": None, "memory": None, "pids": None, "cpu": None})
    assert nothing.digest() == canonical.digest(asked)
    some = Job.model_validate({**JOB, "user": "0:0", "pids": 1})
    assert some.digest() == canonical.digest({**asked, "user": "0:0", "pids": 1})
    assert Job.model_validate_json(some.model_dump_json()) == some


@pytest.mark.parametrize(
    "option",
    [
        {"user": "1000"},
        {"user": "root:root"},
        {"user": "01:1"},
        {"user": "-1:0"},
        {"user": "4294967295:0"},
        {"user": "1:1\n"},
        {"memory": (1 << 20) - 1},
        {"memory": 1.5e9},
        {"memory": (1 << 50) + 1},
        {"pids": 0},
        {"pids": True},
        {"cpu": 0},
        {"cpu": -1},
    ],
)
def test_options_that_no_kernel_could_keep_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(GateError) as refusal:
        parse_json(Job, json.dumps({**JOB, **option}).encode())
    assert refusal.value.reason is GateReason.REQUEST_MALFORMED
    assert next(iter(option)) in refusal.value.detail


def test_a_file_name_that_has_no_canonical_form_is_refused_and_not_renamed() -> None:
    with pytest.raises(GateError) as refusal:
        parse_json(Job, json.dumps({**JOB, "files": {"/é": DIGEST}}).encode())
    assert refusal.value.reason is GateReason.REQUEST_MALFORMED


def test_no_pattern_is_shown_to_people() -> None:
    """Each has its words, and a message has those."""
    source = "\n".join(path.read_text() for room in ("ztrooted", "gateway") for path in (PROJECT / room).rglob("*.py"))
    patterns = {ast.literal_eval(found) for found in re.findall(r'pattern=(r"[^"]*")', source)}
    assert len(patterns) > 10
    assert patterns | {f"^{webhook_config.NAME.pattern}$"} == WRITTEN.keys()
    said = refused(DispatchRequest, changed(DISPATCH, "executor", "nonsense"))
    assert said == "executor: this is to be an executor's id, 'ex-' and 32 lower-case hexadecimal digits"
