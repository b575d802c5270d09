"""The console's static files: read once, served under the digest of them all, so that they may be kept for ever."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).parent
PREFIX = "/console/static"
# What is served, and as what. Anything else that lies in the folders is none of a browser's business.
TYPES: Mapping[str, str] = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
DIGEST = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is sent."""

    data: bytes
    media: str


class Assets:
    """All of them. One digest stands in front of every name, so modules import each other by relative names."""

    @cached_property
    def files(self) -> Mapping[str, Asset]:
        """By name: ``console.css``, ``health/health.js``, ``verifier/verify.js``."""
        return dict(_files())

    @cached_property
    def digest(self) -> str:
        """Changes when any of them does."""
        made = hashlib.sha256()
        for name, asset in sorted(self.files.items()):
            made.update(b"%s\0%d\0" % (name.encode(), len(asset.data)))
            made.update(asset.data)
        return made.hexdigest()[:DIGEST]

    def url(self, name: str) -> str:
        """The address of one. KeyError where there is none: a template that names it is wrong."""
        self.files[name]
        return f"{PREFIX}/{self.digest}/{name}"

    def find(self, digest: str, name: str) -> Asset | None:
        """What is asked for, if it is of this version."""
        return self.files.get(name) if digest == self.digest else None


def _files() -> Iterator[tuple[str, Asset]]:
    for folder, prefix in ((HERE / "static", ""), (HERE / "verifier", "verifier/")):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in TYPES:
                yield prefix + path.relative_to(folder).as_posix(), Asset(path.read_bytes(), TYPES[path.suffix])
