"""``python ray_worker PROGRAM ARG…``, as Ray starts a worker: guard this process, then be Ray's own program."""

import argparse
import runpy
import sys

from ztrooted.integrations.ray_guard import ENVIRONMENTS, die, guard


def main() -> None:
    """Ray's own worker, guarded. What says that it is to be anything else ends it."""
    told = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    told.add_argument("--serialized-runtime-env-context", default="")
    told.add_argument("--language", default="PYTHON")
    options, rest = told.parse_known_args()
    if options.language != "PYTHON":
        die(f"a worker for {options.language:.20}")
    if options.serialized_runtime_env_context not in ENVIRONMENTS:
        die("a runtime environment")
    sys.argv = [one for one in rest if one not in {"-S", "-s"}]
    guard()
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
