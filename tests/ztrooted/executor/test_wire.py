"""Lines over pipes, and the plan of a job."""

import os
from collections.abc import Iterator

import pytest

from ztrooted.executor import wire
from ztrooted.executor.wire import Lines, Plan, ProtocolError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


class TestLines:
    def test_come_whole_and_in_order(self, pipe: tuple[int, int]) -> None:
        lines = Lines(pipe[0])
        assert lines.read() == []
        os.write(pipe[1], b"renew 1\nrene")
        assert lines.read() == ["renew 1"]
        os.write(pipe[1], b"w 2\n\n")
        assert lines.read() == ["renew 2", ""]
        assert not lines.eof

    def test_the_end_is_seen_after_the_last_line(self, pipe: tuple[int, int]) -> None:
        lines = Lines(pipe[0])
        os.write(pipe[1], b"bye\n")
        os.close(pipe[1])
        assert (lines.read(), lines.eof) == (["bye"], True)
        assert (lines.read(), lines.eof) == ([], True)

    def test_a_line_cut_off_is_none(self, pipe: tuple[int, int]) -> None:
        os.write(pipe[1], b"renew 123")
        os.close(pipe[1])
        with pytest.raises(ProtocolError, match="cut off"):
            Lines(pipe[0]).read()

    @pytest.mark.parametrize("data", [b"x" * wire.MAX_LINE, b"x" * wire.MAX_LINE + b"\n"])
    def test_a_line_too_long_is_none(self, pipe: tuple[int, int], data: bytes) -> None:
        os.write(pipe[1], data)
        with pytest.raises(ProtocolError, match="too long"):
            Lines(pipe[0]).read()

    def test_bytes_above_ascii_are_none(self, pipe: tuple[int, int]) -> None:
        os.write(pipe[1], "renew ²\n".encode())
        with pytest.raises(ProtocolError, match="ASCII"):
            Lines(pipe[0]).read()

    def test_nothing_too_long_is_written(self, pipe: tuple[int, int]) -> None:
        with pytest.raises(ProtocolError):
            wire.write_line(pipe[1], "x" * wire.MAX_LINE)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "1_000", "²", "9" * 20])
def test_what_is_no_number_of_nanoseconds(text: str) -> None:
    with pytest.raises(ProtocolError):
        wire.parse_ns(text)


@pytest.mark.parametrize("text", ["", "0", "9", "19", "65", "-2", "+2", " 2", "2 ", "²", "INT", "002"])
def test_what_is_no_signal_to_pass_on(text: str) -> None:
    """Not SIGKILL and SIGSTOP either: whoever wants those has other ways."""
    with pytest.raises(ProtocolError):
        wire.parse_signal(text)


def test_a_number_of_nanoseconds() -> None:
    assert wire.parse_ns("1234567890123456789") == 1234567890123456789


class TestPlan:
    def plan(self) -> Plan:
        return Plan(
            argv=["a", "ü\udcff"],
            env={"A": "\n"},
            cwd="/",
            files={"/a": "0" * 64},
            stdio=[3, 4, 5],
            lease_until=1,
            run_until=2,
            allow_weak=False,
        )

    def test_arrives_as_it_was(self) -> None:
        sent = self.plan()
        received = Plan.from_bytes(sent.to_bytes())
        assert all(getattr(received, name) == getattr(sent, name) for name in Plan.__slots__)

    def test_half_of_one_is_none(self) -> None:
        data = self.plan().to_bytes()
        for broken in (b"", data[:-1], b"[]", b"{}", data.replace(b'"argv"', b'"arguments"'), b"\xff"):
            with pytest.raises(ProtocolError):
                Plan.from_bytes(broken)
