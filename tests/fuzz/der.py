"""A mutator for DER that changes one element and corrects the lengths of all that contain it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.fuzz.mutation import mutate_bytes

_DEEPEST = 24
_TAGS = (
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x0A,
    0x0C,
    0x13,
    0x16,
    0x17,
    0x18,
    0x1E,
    0x30,
    0x31,
    0x80,
    0xA0,
    0xA3,
    0xA4,
)
_IDENTIFIERS = tuple(
    bytes.fromhex(text)
    for text in (
        "551d0e",
        "551d0f",
        "551d11",
        "551d13",
        "551d1e",
        "551d20",
        "551d23",
        "551d25",
        "6781050801",
        "678105020d",
    )
)
_content = mutate_bytes(_IDENTIFIERS)


@dataclass(slots=True)
class Node:
    """One element: its tag, and either its content or the elements in it."""

    tag: int
    content: bytes = b""
    children: list["Node"] = field(default_factory=list)
    prefix: bytes = b""  # unused bits of a bit string with DER in it

    def encode(self) -> bytes:
        """The element with the lengths that follow from what is in it."""
        body = self.prefix + b"".join(child.encode() for child in self.children) if self.children else self.content
        size = len(body)
        if size < 0x80:
            return bytes((self.tag, size)) + body
        length = size.to_bytes((size.bit_length() + 7) // 8, "big")
        return bytes((self.tag, 0x80 | len(length))) + length + body


def read(data: bytes, depth: int = 0) -> list[Node] | None:
    """The elements that fill ``data`` exactly, or None. Octet and bit strings are opened where DER is in them."""
    found: list[Node] = []
    at = 0
    while at < len(data):
        if len(data) - at < 2:
            return None
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        body = data[at : at + size]
        if len(body) != size or tag & 0x1F == 0x1F:
            return None
        at += size
        inner = None
        prefix = b"\0" if tag == 0x03 and body[:1] == b"\0" else b""
        if depth < _DEEPEST and (tag & 0x20 or tag in {0x03, 0x04}):
            inner = read(body[len(prefix) :], depth + 1)
        found.append(Node(tag, body, inner or [], prefix))
    return found


def mutate_der(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Change content or tag of an element, remove, repeat or exchange elements, nest one deeper."""
    tree = read(data)
    if not tree:
        return _content(random, data, pool)
    for _ in range(1 + int(random.expovariate(1.0))):
        places: list[tuple[list[Node], int]] = []
        todo = [tree]
        while todo:
            level = todo.pop()
            for index, node in enumerate(level):
                places.append((level, index))
                if node.children:
                    todo.append(node.children)
        if not places:
            break
        _change(random, places, pool)
    return b"".join(node.encode() for node in tree)


def _change(random: Random, places: list[tuple[list[Node], int]], pool: Sequence[bytes]) -> None:
    level, index = random.choice(places)
    node = level[index]
    match int(random.random() * 7):
        case 0 | 1:
            node.content, node.children = (
                _content(random, node.encode()[2:] if node.children else node.content, pool),
                [],
            )
        case 2:
            node.tag = random.choice(_TAGS)
        case 3:
            del level[index]
        case 4:
            level.insert(index, Node(node.tag, node.content, node.children, node.prefix))
        case 5:
            other_level, other = random.choice(places)
            # A node is never put into itself: what is moved is a leaf again.
            if other < len(other_level):
                level[index] = Node(other_level[other].tag, other_level[other].content)
        case _:
            level[index] = Node(0x30, b"", [node])
