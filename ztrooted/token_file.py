"""A bearer token in a file of its own, which nobody but its owner can read."""

import stat
from pathlib import Path

from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason


def read_token(token_file: Path) -> str:
    """The token. EnvironmentProblem ``environment.key_file`` for a file that is missing, shared, or holds none."""
    try:
        mode = token_file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is not a file")
        if mode & 0o077:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_KEY_FILE,
                f"the token file {token_file} can be read by others than its owner",
                f"if nobody has read it: chmod 600 {token_file}; otherwise ask for a new token",
            )
        token = token_file.read_text().strip()
        if not token:
            raise ValueError("it is empty")
        if not token.isascii() or not token.isprintable():
            raise ValueError("it does not hold a token")
    except (OSError, ValueError) as error:  # text that isn't UTF-8 is a ValueError
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE,
            f"the token file {token_file} can't be used: {getattr(error, 'strerror', None) or error}",
            "the gateway's operator makes tokens with 'ztrooted gateway token --output FILE'",
        ) from error
    return token
