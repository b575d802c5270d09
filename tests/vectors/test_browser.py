"""The second verifier where it is meant to run: in a browser, which loads its modules and says what Node.js says."""

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.node import VERIFIER, judged

DATA = Path(__file__).parent / "data"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = """<!doctype html><script type="module">
import { verifyBundle } from "/verifier/verify.js";
const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
let report;
try {
  report = await verifyBundle(await bytes("/data/BUNDLE"), await bytes("/data/anchors.toml"));
} catch (error) {
  report = { error: String(error) };
}
await fetch("/report", { method: "POST", body: JSON.stringify(report) });
</script>"""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Modules, vectors, and pages named after the bundle they verify."""

    def __init__(self, reports: "queue.Queue[dict[str, Any]]", *args: Any) -> None:
        self.reports = reports
        super().__init__(*args)

    def do_GET(self) -> None:
        folder, _, name = self.path[1:].partition("/")
        if folder == "page":
            self._answer(PAGE.replace("BUNDLE", name).encode(), "text/html")
        elif folder in ("verifier", "data") and "/" not in name:
            file = (VERIFIER if folder == "verifier" else DATA) / name
            self._answer(file.read_bytes(), "text/javascript" if folder == "verifier" else "application/octet-stream")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b"", "text/plain")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def served() -> Iterator[tuple[str, "queue.Queue[dict[str, Any]]"]]:
    """Where it is, and what pages reported."""
    reports: queue.Queue[dict[str, Any]] = queue.Queue()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, reports)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", reports
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, so nothing is known of browsers here")
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("bundle", "word"), [("grant.json", "partial"), ("grant.json.gz", "partial"), ("unasked.json", "verified")]
)
def test_a_browser_says_what_node_says(
    served: tuple[str, "queue.Queue[dict[str, Any]]"], tmp_path: Path, bundle: str, word: str
) -> None:
    address, reports = served
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}",
    ]
    with subprocess.Popen(
        [str(CHROMIUM), *options, "--remote-debugging-port=0", f"{address}/page/{bundle}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as browser:
        try:
            report = reports.get(timeout=150)
        finally:
            browser.terminate()
    assert report.get("word") == word, report
    assert [report] == judged([((DATA / bundle).read_bytes(), (DATA / "anchors.toml").read_bytes())])
