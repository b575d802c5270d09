"""Fixtures of the end-to-end tests."""

from tests.support.gate import blueprint, gates, shared_gates

__all__ = ["blueprint", "gates", "shared_gates"]
