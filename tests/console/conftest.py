"""Fixtures of the console's tests: a gateway in this process, a machine, and a real browser."""

from tests.support.browser import browse, browser, chromium, watched
from tests.support.executor import channel, executor, executors
from tests.support.gateway_in_process import gate

__all__ = ["browse", "browser", "channel", "chromium", "executor", "executors", "gate", "watched"]
