"""``python -m ztrooted``: the same as ``ztrooted``."""

from ztrooted.cli.main import main

if __name__ == "__main__":
    main()
