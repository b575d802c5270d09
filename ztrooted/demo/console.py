"""``ztrooted demo --console``: a gateway that serves the demo's page, and the link that opens it."""

import secrets
from pathlib import Path

from ztrooted.demo.player import VISITORS_PACE
from ztrooted.demo.stage import Stage
from ztrooted.demo.story import Story

KEY_FILE = "enter.key"
PAGE = "/console/demo"
KEY_BYTES = 24


def open_console(stage: Stage) -> str:
    """Make TPMs and gateway, have it serve, and give the link to its demo page. It lives as long as the stage.

    The link works once: whoever opens it is signed in as the demo's operator.
    """
    story = Story(stage, VISITORS_PACE)
    story.make_tpms()
    story.make_gateway()
    key = secrets.token_urlsafe(KEY_BYTES)
    write_key(stage.data, key)
    stage.start("gateway", "gateway", "serve", str(story.gateway), "--demo", str(stage.data))
    return f"{story.find_gateway()}{PAGE}/enter/{key}"


def write_key(data: Path, key: str) -> None:
    """Leave the key of the link for the gateway, for nobody else to read."""
    file = data / KEY_FILE
    file.touch(mode=0o600)
    file.write_text(key)


def take_key(data: Path, key: str) -> bool:
    """Whether this is the key, which is none from then on. A wrong one leaves the right one where it is."""
    file = data / KEY_FILE
    try:
        known = file.read_text()
    except FileNotFoundError:
        return False
    if not known or not secrets.compare_digest(known.encode(), key.encode("utf-8", "surrogatepass")):
        return False
    file.unlink(missing_ok=True)
    return True
