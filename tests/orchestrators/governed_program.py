"""A program with a governed function: ``python -m tests.orchestrators.governed_program FILE`` writes it."""

import sys

from tests.orchestrators import tools
from ztrooted.guard.governed import Gate

if __name__ == "__main__":
    Gate.from_environment().governed(workflow="contract")(tools.write)(sys.argv[1])
