"""The ``ztrooted`` command.

Another distribution on the package index installs a module named ``tpm`` too. Whoever has both would get errors that
nobody understands, so this is the first thing that is looked at, before anything of ours imports it.
"""

import importlib.util
import sys
from pathlib import Path

_OURS = Path(__file__).resolve().parents[2] / "tpm" / "__init__.py"


def _refuse_foreign_tpm() -> None:
    spec = importlib.util.find_spec("tpm")
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    if found != _OURS:
        sys.stderr.write(
            f"Error: the module 'tpm' comes from {found}, which is not ours. (environment.foreign_tpm)\n"
            "What to do: uninstall the distribution named 'tpm', or install ztrooted into an environment of its own.\n"
        )
        sys.exit(3)


_refuse_foreign_tpm()
