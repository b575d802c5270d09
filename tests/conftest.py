"""Fixtures that every test may ask for."""

import secrets

import pytest

pytest_plugins = ["tests.support.tpm", "tests.support.fail_closed"]


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one test's clients remember of a gateway's log is nothing to those of another, nor of this machine's user."""
    monkeypatch.setenv("ZTROOTED_STATE", str(tmp_path_factory.getbasetemp() / f"state-{secrets.token_hex(8)}"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values (keys, tokens) don't belong into test names; made at random they would differ between processes."""
    if isinstance(val, (str, bytes, int)) and len(str(val)) > 40:
        return argname
    return None
