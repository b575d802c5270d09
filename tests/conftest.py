"""Fixtures that every test may ask for."""

pytest_plugins = ["tests.support.tpm", "tests.support.fail_closed"]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values (keys, tokens) don't belong into test names; made at random they would differ between processes."""
    if isinstance(val, (str, bytes, int)) and len(str(val)) > 40:
        return argname
    return None
