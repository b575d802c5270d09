"""Demo: not there yet, so the navigation has no entry for it."""

from typing import TYPE_CHECKING

from gateway.console.page import Surface

if TYPE_CHECKING:
    from gateway.console.app import Console


def surface(_console: "Console") -> Surface:
    """Its place."""
    return Surface("Demo", "/console/demo", ())
