"""What a route says of itself: who may use it, what it takes, and each way in which it answers.

The guard in ``gateway.routes.route`` holds requests to it, and ``gateway.openapi`` writes it down for others, so a
route that says too little does not start the server.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from aiohttp import web
from pydantic import BaseModel

from gateway.auth import Caller, Role
from ztrooted import limits

Handle = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
Schema: TypeAlias = Mapping[str, Any]  # JSON Schema, draft 2020-12

JSON = "application/json"
NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
TEXT: Schema = MappingProxyType({"type": "string"})
BYTES: Schema = MappingProxyType({})  # OpenAPI 3.1 §4.8.14.3: of bytes there is nothing to say


@dataclass(frozen=True, slots=True)
class Content:
    """One form of a body: its media type, and a model or a schema of it."""

    media: str
    schema: type[BaseModel] | Schema


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which a route answers when it does not refuse."""

    status: int
    what: str
    contents: tuple[Content, ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """What a request is to bring: JSON of a model, up to ``maximum`` bytes."""

    model: type[BaseModel] | Schema
    maximum: int = limits.BODY
    required: bool = True


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the query or a header; ``schema`` is of type string with a pattern, or of type integer."""

    name: str
    what: str
    schema: Schema
    required: bool = False

    def fits(self, text: str) -> bool:
        """Whether a text is one of the values that ``schema`` has."""
        if self.schema["type"] == "integer":
            digits = text.isascii() and text.isdigit() and len(text) < 16
            return digits and self.schema["minimum"] <= int(text) <= self.schema["maximum"]
        return re.fullmatch(self.schema["pattern"].removeprefix("^").removesuffix("$"), text) is not None


@dataclass(frozen=True, slots=True)
class Route:
    """One route: who may use it, what it takes, what it answers, and with which statuses it may refuse.

    ``refuses`` has what is particular to it; ``statuses`` adds what follows from the rest.
    """

    method: str
    path: str
    roles: frozenset[Role]
    handle: Handle
    answers: tuple[Answer, ...]
    refuses: frozenset[int] = frozenset()
    body: Body | None = None
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    keyed: bool = False  # done once under an Idempotency-Key
    limited: bool = True  # by how often somebody asks; what watches over the gateway always gets its answer
    lasting: bool = False  # it lasts for as long as the connection
    tagged: bool = False  # its answer has an ETag, and is not sent again to who has it

    @property
    def names(self) -> list[str]:
        """The parameters of the path."""
        return re.findall(r"\{([a-z_]+)(?::[^}]*)?\}", self.path)

    @property
    def statuses(self) -> frozenset[int]:
        """Every status of a problem document that it may answer with."""
        found = {400, 500} | self.refuses  # 400: whatever has no meaning as HTTP
        if self.limited:
            found.add(429)
        if Role.ANYONE not in self.roles:
            found |= {401, 403}
        if self.names:
            found.add(404)
        if self.body is not None:
            found |= {408, 413, 415}
        if self.keyed:
            found |= {409, 422}
        if self.method != "GET" or Role.ANYONE not in self.roles:  # a change, or who it was, can't be written down
            found.add(503)
        return frozenset(found)

    def check(self) -> None:
        """ValueError for a route that says too little of itself."""
        name = f"{self.method} {self.path}"
        if not self.roles:  # it would be open to everybody by accident
            raise ValueError(f"{name} declares no role")
        if not self.answers:
            raise ValueError(f"{name} declares no answer")
        if not (self.handle.__doc__ or "").strip():
            raise ValueError(f"{name} has no description")
        if self.method in {"POST", "PUT", "PATCH"} and self.body is None:
            raise ValueError(f"{name} declares no body")
        if unknown := set(self.names) - PATH.keys():
            raise ValueError(f"{name} has undescribed parameters: {', '.join(sorted(unknown))}")


def json_of(model: type[BaseModel] | Schema, status: int = 200, what: str = "") -> tuple[Answer, ...]:
    """The answer of most routes: JSON of one model. What it means is the model's own first line, unless told."""
    told = what or (model.__doc__ or "").partition("\n")[0] if isinstance(model, type) else what
    return (Answer(status, told, (Content(JSON, model),)),)


def bytes_of(media: str, what: str, schema: Schema = BYTES) -> tuple[Answer, ...]:
    """An answer that is no model: text, or bytes that something else describes."""
    return (Answer(200, what, (Content(media, schema),)),)


# What the parts of paths in braces are. A value that can't be one is answered as one that names nothing, 404.
PATH: Mapping[str, str] = MappingProxyType(
    {
        "authorization": "The id of an authorization.",
        "baseline": "The SHA-256 of a baseline, in hexadecimal.",
        "decision": "The id of an authorization or executor, or the number of a record.",
        "enrollment": "The id of an enrollment that has begun.",
        "executor": "The id of an executor.",
        "executor_class": "A class of the appraisal policy.",
        "level": "The level of a tile, 0 to 5.",
        "number": "The number of a tile as C2SP tlog-tiles writes it: x001/234, or x001/234.p/5 for a part.",
        "token": "The id of a bearer token.",
        "other": "The SHA-256 of another baseline, in hexadecimal.",
    }
)
