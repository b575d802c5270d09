"""The reader: never short, never past its end, finished only when nothing is left; each refusal says where and why."""

import pytest

from tpm.codec import Reader
from tpm.errors import MalformedError
from tpm.reasons import EvidenceReason

SHORT, LEFT = EvidenceReason.QUOTE_MALFORMED, EvidenceReason.QUOTE_TRAILING_BYTES


def reader(data: bytes, *, little_endian: bool = False) -> Reader:
    return Reader(data, SHORT, trailing=LEFT, little_endian=little_endian)


def test_integers_are_read_in_the_order_asked_for() -> None:
    data = bytes(range(1, 16))
    big, little = reader(data), reader(data, little_endian=True)
    assert [big.u8("a"), big.u16("b"), big.u32("c"), big.u64("d")] == [1, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F]
    found = [little.u8("a"), little.u16("b"), little.u32("c"), little.u64("d")]
    assert found == [1, 0x0302, 0x07060504, 0x0F0E0D0C0B0A0908]
    big.done("it")
    little.done("it")


@pytest.mark.parametrize(("width", "name"), [(1, "u8"), (2, "u16"), (4, "u32"), (8, "u64")])
def test_an_integer_that_is_cut_off_is_refused(width: int, name: str) -> None:
    with pytest.raises(MalformedError, match=rf"x needs {width} bytes, {width - 1} are left at offset 0") as caught:
        getattr(reader(bytes(width - 1)), name)("x")
    assert caught.value.reason is SHORT


def test_a_sized_buffer_is_read_up_to_its_maximum() -> None:
    some = reader(b"\x00\x03abc\x00\x00rest")
    assert (some.sized(3, "x"), some.sized(0, "y"), some.take(4, "z")) == (b"abc", b"", b"rest")
    some.done("it")
    assert reader(b"\x03\x00abc", little_endian=True).sized(3, "x") == b"abc"


REFUSED = {
    "no size": (b"", "size of x needs 2 bytes, 0 are left at offset 0"),
    "half a size": (b"\x00", "size of x needs 2 bytes, 1 are left at offset 0"),
    "nothing behind the size": (b"\x00\x01", "x needs 1 bytes, 0 are left at offset 2"),
    "one byte missing": (b"\x00\x04abc", "x needs 4 bytes, 3 are left at offset 2"),
    "over the maximum": (b"\x00\x05abcde", "x of 5 bytes is over its maximum of 4 at offset 2"),
    "far over it, and cut off": (b"\xff\xffabc", "x of 65535 bytes is over its maximum of 4 at offset 2"),
}


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED)
def test_a_sized_buffer_that_lies_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedError, match=said) as caught:
        reader(data).sized(4, "x")
    assert caught.value.reason is SHORT


@pytest.mark.parametrize("size", [-1, 4])
def test_no_more_is_taken_than_there_is_and_nothing_backwards(size: int) -> None:
    some = reader(b"abc")
    with pytest.raises(MalformedError):
        some.take(size, "x")
    assert some.take(3, "x") == b"abc"


def test_many_are_bounded_before_the_first_is_read() -> None:
    some = reader(bytes(4))
    with pytest.raises(MalformedError, match="3 items are over the maximum of 2 at offset 0"):
        some.many(3, 2, lambda: some.u8("item"), "items")
    assert some.many(2, 2, lambda: some.u8("item"), "items") == (0, 0)


def test_what_is_left_over_has_its_own_reason() -> None:
    with pytest.raises(MalformedError, match="2 bytes follow the end of it") as caught:
        reader(b"ab").done("it")
    assert caught.value.reason is LEFT
    assert Reader(b"a", SHORT).remaining == 1
    with pytest.raises(MalformedError) as caught:
        Reader(b"a", SHORT).done("it")
    assert caught.value.reason is SHORT
