"""One line an event, whatever is in it, and no secret in any: by the processors that every process logs with."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from tests.support.pace import at_most
from ztrooted.inspect.plain import printable
from ztrooted.logs import Form, configure
from ztrooted.redaction import REDACTED, redact
from ztrooted.webhook import new_secret

TOKEN = "zt-" + "Ab1_-" * 8 + "xyz"
ARTIFACT = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIwIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIOsecret\nmoresecret==\n-----END EC PRIVATE KEY-----\n"
# What could begin a line, move a cursor, change a colour, or turn text round.
HOSTILE = (
    'x\n{"event": "forged"}',
    "x\r\nforged",
    "x\x1b[2K\x1b[1A\x1b[31mforged",
    "x\u2028forged\u2029\x85\x0b\x0c\x1c\x1d\x1e",
    "x\u202eforged\u2066",
    "x\x00\x07\x08\x7f\x9b31m",
    "x\ud800forged\ufeff\U000e0041",
)

Logged = Callable[[Form], io.StringIO]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logged]:
    """Log everything from now on, in a form; what comes of it."""

    def start(form: Form) -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure(verbose=True, form=form)
        return stream

    yield start
    structlog.reset_defaults()


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_in_an_event_it_is_one_line(logged: Logged, form: Form, hostile: str) -> None:
    stream, log = logged(form), structlog.get_logger()
    log.info("refused", detail=hostile, deep={"a": [hostile, {hostile: hostile}]}, odd=ValueError(hostile))
    log.info(hostile)
    with structlog.contextvars.bound_contextvars(instance=hostile):
        try:
            fail(hostile)
        except ValueError:
            log.exception("internal error", **{hostile: 1})
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    assert len(lines) == 3
    for line in lines:
        assert printable(line) == line
        assert line.isascii() or form == "console"
    if form == "json":
        assert [set(json.loads(line)) >= {"event", "level", "timestamp"} for line in lines] == [True] * 3
        assert json.loads(lines[0])["detail"] == hostile  # nothing is lost
        assert json.loads(lines[2])["instance"] == hostile


@pytest.mark.parametrize(
    ("value", "gone"),
    [
        (f"DELETE /v1/tokens/{TOKEN}", TOKEN[3:]),
        ({"headers": {"Authorization": f"Bearer {TOKEN}"}}, TOKEN[3:]),
        ({"Authorization": "Other opaquecredential"}, "opaque"),
        ("sent 'Basic dXNlcjpwYXNzd29yZA=='", "dXNlcjpw"),
        (f"artifact {ARTIFACT}", "eyJqdGki"),
        (f"token cut off: {ARTIFACT[:30]}", ARTIFACT[10:30]),
        (ValueError(f"odd key {PEM}"), "secret"),
        (repr(PEM), "secret"),
        (PEM[:50], "MHcCAQEEIO"),
        (f"secret is {(secret := new_secret())}", secret[6:]),
        ("cannot connect to https://user:word@host:1/x", "word"),
        ("https://host/hook?key=word&more=1 is down", "word"),
        ("(https://host?word), 'http://other/?a=word'", "word"),
        ({"cookie": "word", "nested": [{"Set-Cookie": "word"}]}, "word"),
        ({"password": "hush", "idempotency_key": "hush", "token": ["hush"], "mac": "hush"}, "hush"),
        ({TOKEN: 1}, TOKEN[3:]),
        ((f"Bearer {TOKEN}".encode(),), TOKEN[3:]),
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_form_or_by_its_name(value: Any, gone: str) -> None:
    found = json.dumps(redact(value))
    assert gone not in found
    assert REDACTED in found


@pytest.mark.parametrize(
    "text",
    ["a", "http://", "a" * 4000 + "://", "a://", "bearer ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "eyJ", "zt-",
     "whsec_"],
    ids=lambda text: text[-12:],
)  # fmt: skip
def test_no_text_takes_long_to_look_through(text: str) -> None:
    """A path as long as a request line may be is logged for anybody, on the thread that leases are renewed on."""
    with at_most(0.1):
        redact("/" + text * (30_000 // len(text)) + "b")


def test_what_is_no_secret_stays() -> None:
    value = {
        "authorization": "0123456789abcdef" * 2,
        "executor": "ex-" + "0" * 32,
        "root": "ab" * 32,
        "path": "/v1/tokens/0123456789abcdef",
        "url": "https://127.0.0.1:8443",
        "detail": "send a token: 'Authorization: Bearer zt-…'",
        "count": 3,
        "nothing": None,
        "token": None,
    }
    assert redact(value) == value


def test_every_line_is_redacted_in_either_form(logged: Logged) -> None:
    for form in ("json", "console"):
        stream = logged(form)  # type: ignore[arg-type]
        with structlog.contextvars.bound_contextvars(instance=TOKEN):
            try:
                fail(f"{TOKEN} {ARTIFACT} {PEM}")
            except ValueError:
                structlog.get_logger().exception(TOKEN, headers={"Authorization": TOKEN})
        said = stream.getvalue()
        assert said.count(REDACTED) >= 5
        assert all(secret not in said for secret in (TOKEN[3:], ARTIFACT[3:], "MHcCAQEEIO"))


def test_levels(logged: Logged) -> None:
    stream = logged("json")
    structlog.get_logger().debug("told")
    configure()
    structlog.get_logger().debug("not told")
    configure(quiet=True)
    structlog.get_logger().info("not told either")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["told"]


OTHERS = """
import asyncio, logging, sys, threading, warnings
from ztrooted.logs import configure, take_over
configure(form=sys.argv[1])
take_over()
logging.getLogger("aiohttp.server").error("Error handling %s", "x\\nforged")
logging.getLogger("odd").error("%d", "not a number")
logging.getLogger("quiet").debug("not told")
for level in (5, 35, 60):
    logging.getLogger("odd").log(level, "a level of its own")
warnings.warn("x\\nforged")
async def main():
    async def lost():
        raise ValueError("x\\nforged")
    task = asyncio.create_task(lost())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
asyncio.run(main())
thread = threading.Thread(target=lambda: 1 / 0)
thread.start(); thread.join()
class Odd:
    def __del__(self): raise ValueError("x\\nforged")
Odd()
raise RuntimeError("Bearer zt-0123456789abcdefghij\\nforged")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_python_and_libraries_say_comes_in_the_same_lines(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", OTHERS, form], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 9, done.stderr
    assert all(printable(line) == line for line in lines)
    assert "0123456789abcdefghij" not in done.stderr
    if form == "json":
        events = [json.loads(line) for line in lines]
        assert [event["level"] for event in events] == [
            "error",
            "error",
            "warning",
            "critical",
            "warning",
            "error",
            "critical",
            "error",
            "critical",
        ]
        assert events[0]["logger"] == "aiohttp.server"
        assert "ZeroDivisionError" in events[6]["exception"]
