"""What a page of the console says of itself: its address, who may see it, and who looks at it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.console.sessions import Session

PEOPLE = frozenset({Role.ORCHESTRATOR, Role.AUDITOR, Role.OPERATOR})
OVERSEERS = frozenset({Role.AUDITOR, Role.OPERATOR})
OPERATORS = frozenset({Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page: somebody with a session, or anybody where the configuration lets them."""

    caller: Caller
    session: Session | None = None

    @property
    def role(self) -> Role:
        """``anyone`` without a session."""
        return self.caller.role

    @property
    def name(self) -> str:
        """Empty without a session."""
        return "" if self.session is None else self.caller.name

    @property
    def signed_in(self) -> bool:
        """Whether there is a session."""
        return self.session is not None

    @property
    def own(self) -> str | None:
        """Whose authorizations are shown, where it is not everybody's."""
        return self.caller.name if self.role is Role.ORCHESTRATOR else None

    @property
    def orders(self) -> bool:
        """Whether this is an operator, whose orders are carried out."""
        return self.role is Role.OPERATOR

    @property
    def oversees(self) -> bool:
        """Whether policies, reference values and who did what are shown."""
        return self.role in OVERSEERS

    @property
    def scope(self) -> str:
        """Viewers of one scope are shown the same."""
        return f"{self.role}:{self.own or ''}"

    def form(self) -> str:
        """The number that every form of this session brings. Empty without a session."""
        return "" if self.session is None else self.session.form


ANYBODY = Viewer(Caller(Role.ANYONE, "anyone"))
Show = Callable[[web.Request, Viewer], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Page:
    """One address. ``public``: shown without a session, where ``console_public`` is set. ``open``: always.

    A page that is ``live`` has parts that a browser asks for again when something has happened: see ``Console.render``.
    ``lasting``: it is a stream. ``forms``: its live parts have forms, which are of one session and shared with nobody.
    """

    method: str
    path: str
    show: Show
    roles: frozenset[Role] = PEOPLE
    public: bool = False
    open: bool = False
    live: bool = False
    lasting: bool = False
    forms: bool = False

    def permits(self, viewer: Viewer) -> bool:
        """Whether somebody with that role may see it."""
        return self.open or viewer.role in self.roles or (self.public and viewer.role is Role.ANYONE)


@dataclass(frozen=True, slots=True)
class Surface:
    """A part of the console with an entry in its navigation; without pages it has none."""

    title: str
    url: str
    pages: tuple[Page, ...]
    roles: frozenset[Role] = PEOPLE
    public: bool = True
    within: tuple[str, ...] = field(
        default=()
    )  # beginnings of the addresses that belong to it, where they are not below its own

    def permits(self, viewer: Viewer) -> bool:
        """Whether its entry is shown."""
        return bool(self.pages) and (viewer.role in self.roles or (self.public and viewer.role is Role.ANYONE))

    def holds(self, path: str) -> bool:
        """Whether an address belongs to it."""
        beginnings = self.within or (self.url.rstrip("/") + "/",)
        return path == self.url or any(path == one.rstrip("/") or path.startswith(one) for one in beginnings)
