"""``python -m gateway DATA``: the same as ``ztrooted gateway serve DATA``."""

import sys

from ztrooted.cli.main import main

sys.argv[1:1] = ["gateway", "serve"]
main()
