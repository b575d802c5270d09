"""Policies to start from: ``observe``, ``boot`` and ``strict``. docs/policies.md explains each line by line."""

from importlib.resources import files as resources

from ztrooted.policies import FILES

CASES_FILE = "policy.cases.toml"
NAMES = ("observe", "boot", "strict")


def files(name: str) -> dict[str, bytes]:
    """The documents and the table of cases of one ready-made policy, by file name. KeyError for a name there is not."""
    if name not in NAMES:
        raise KeyError(name)
    folder = resources(__name__) / name
    return {file: (folder / file).read_bytes() for file in (*FILES.values(), CASES_FILE)}
