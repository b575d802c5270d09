"""The proof viewer as one HTML file that a browser opens without a network and without a server.

Browsers load no modules from a saved page's folder, so each becomes a function that returns what it exports, in one script
which the page's own policy permits by its hash, and nothing else: no other script, no request to anybody. The modules export
by name, where they declare, and rename nothing that they import; anything else is a ValueError here.
"""

import base64
import hashlib
import re
from pathlib import Path, PurePosixPath

HERE = Path(__file__).parent
ENTRY = PurePosixPath("viewer/viewer.js")
STYLE = ("console.css", "viewer/viewer.css")
BODY = HERE / "templates" / "viewer" / "body.html"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ztrooted: proof viewer</title>
<style>{style}</style>
</head>
<body>
<main id="viewer" class="viewer">
{body}</main>
<script type="module">{script}</script>
</body>
</html>
"""
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "(\.{1,2}/[a-z_./]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) ([A-Za-z0-9_]+)", re.MULTILINE)
_OTHER = re.compile(r"^\s*(?:import\b|export\b)|\bimport\s*\(", re.MULTILINE)


def saved_viewer() -> str:
    """The page."""
    script, style = f"\n{_script()}", "\n" + "".join(_read(PurePosixPath(name)) for name in STYLE)
    if re.search(r"</script|<!--", script, re.IGNORECASE) or re.search(r"</style", style, re.IGNORECASE):
        raise ValueError("a module or stylesheet would end the element that it stands in")
    policy = (
        f"default-src 'none'; script-src '{_source(script)}'; style-src '{_source(style)}'; base-uri 'none';"
        " form-action 'none'"
    )
    return _PAGE.format(policy=policy, style=style, body=BODY.read_text("utf-8"), script=script)


def _source(text: str) -> str:
    """How a Content-Security-Policy names an inline element of these contents (CSP Level 3 §2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(path: PurePosixPath) -> str:
    """A file by the name under which a browser would load it: the verifier lies beside the surfaces then."""
    folder = HERE if path.parts[0] == "verifier" else HERE / "static"
    return (folder / path).read_text("utf-8")


def _script() -> str:
    """Every module that the viewer imports, each behind those it imports itself."""
    written: dict[PurePosixPath, str] = {}

    def add(path: PurePosixPath) -> None:
        if path in written:
            return
        source = _read(path)
        for found in _IMPORT.finditer(source):
            add(_beside(path, found[2]))
        written[path] = _wrapped(path, source)

    add(ENTRY)
    return "const modules = {};\n" + "".join(written.values())


def _beside(path: PurePosixPath, name: str) -> PurePosixPath:
    """What a module's import names."""
    parts: list[str] = []
    for part in (*path.parent.parts, *PurePosixPath(name).parts):
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)


def _wrapped(path: PurePosixPath, source: str) -> str:
    body = _IMPORT.sub(lambda found: f'const {found[1]} = modules["{_beside(path, found[2])}"];\n', source)
    exported = ", ".join(_EXPORT.findall(body))
    body = re.sub(r"^export (?=(?:async )?(?:function|class|const) )", "", body, flags=re.MULTILINE)
    if _OTHER.search(body):
        raise ValueError(f"{path} imports or exports in a way that can't be put into one script")
    return f'modules["{path}"] = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n'
