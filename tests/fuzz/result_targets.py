"""What people hand to the command line to be read: attestation results, decision files, Debian packages."""

import gzip
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz.bundle_targets import bundles, mutate_blob, mutate_records
from tests.fuzz.corpus_seeds import files
from tests.fuzz.json_targets import CANONICAL, json_bombs, mutate_json_text
from tests.fuzz.mutation import canonical_json, mutate_bytes, mutate_json, mutate_value
from tests.fuzz.target import Target
from ztrooted import ear
from ztrooted.ar4si import CLAIMS
from ztrooted.bundle import parse_bundle
from ztrooted.debian_package import package_files
from ztrooted.decision_file import parse_decision_file
from ztrooted.explain import explain
from ztrooted.redecide_bundle import _decisions, redecide_file

_EAR_TOKENS = (
    b'"eat_profile"',
    b'"submods"',
    b"-1",
    b"99",
    b"127",
    b"128",
    b"2.0",
    b"1e3",
    *(b'"%s"' % name.encode() for name in CLAIMS),
)


def run_ear(data: bytes) -> None:
    """What is accepted has known claims in range; one that is consistent can be written and read again the same."""
    result = ear.parse_json(data)
    assert result.appraised() or result.status is not None or result.submods
    for part in result.appraised().values():
        assert set(part.vector) <= set(CLAIMS)
        assert all(-128 <= value <= 127 for value in part.vector.values())
        if not part.consistent or result.profile not in ear.WRITTEN:
            continue
        alone = ear.Appraised(part.status, part.vector, part.policy_ids)
        claims = ear.build(
            result.profile, name="one", result=alone, build_id="b", issuer="i", now_s=1, expires_s=2, nonce="n" * 8
        )
        again = ear.parse_json(json.dumps(claims).encode()).appraised()["one"]
        assert (again.status, again.vector) == (part.status, part.vector)


def ears() -> Sequence[bytes]:
    good = ear.Appraised(2, {"hardware": 2, "executables": 2, "configuration": 2}, ("a", "b"), {"tier": "A2"})
    made = [
        json.dumps(
            ear.build(profile, name="x", result=good, build_id="b", issuer="i", now_s=1, expires_s=2, nonce="n" * 8)
        ).encode()
        for profile in ear.WRITTEN
    ]
    return [*made, *files("evidence/veraison-ear", ".json")]


def run_ear_token(data: bytes) -> None:
    """Three segments, and what the signature covers is what was given."""
    header, _, signed, _ = ear.split_foreign(data.decode("latin-1"))
    assert isinstance(header, dict)
    assert data.strip(b" \t\r\n").startswith(signed)


def ear_tokens() -> Sequence[bytes]:
    return [b"eyJhbGciOiJFUzI1NiJ9.eyJpYXQiOjF9." + b"A" * 86, b"e30.e30.", b"eyJhbGciOiJub25lIn0.e30.AA"]


# --- decision files
def run_decision_file(data: bytes) -> None:
    """What is accepted is written back byte by byte; whatever its records say, it can be explained or is refused."""
    file = parse_decision_file(data)
    assert file.encode() == data
    explained = explain(file)
    assert explained.text()
    json.dumps(explained.encode())
    for decision in redecide_file(data):
        json.dumps(decision.encode())


def run_redecide_bundle(data: bytes) -> None:
    """The decisions of a bundle, of which nothing was verified."""
    for decision in redecide_file(data):
        json.dumps(decision.encode())


@cache
def decision_files() -> tuple[bytes, ...]:
    return tuple(file.encode() for data in bundles() for file in _decisions(parse_bundle(data)))


def mutate_decision(random: Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Change what one of its records says, and keep the file well-formed."""
    try:
        value = json.loads(data)
        name = random.choice([one for one in ("record", "asked", "enrolled", "approved", "activated") if value[one]])
        record = json.loads(value[name])
        record["body"] = mutate_value(random, record["body"])
        value[name] = canonical_json(record).decode("utf-8", "surrogatepass")
    except (ValueError, TypeError, LookupError):
        return data
    return canonical_json(value)


# --- Debian packages


def run_debian_package(data: bytes) -> None:
    """What is accepted names files inside of it, with digests."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        for name, digest in package_files(Path(file.name), "sha256"):
            assert name.startswith("/")
            assert ".." not in name.split("/")
            assert len(digest) == 64


def package(members: Mapping[str, bytes]) -> bytes:
    """An ``ar`` archive as Debian writes them."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts += [data, b"\n" * (len(data) % 2)]
    return b"".join(parts)


def tree(*, format_: int = tarfile.GNU_FORMAT, long: bool = False) -> bytes:
    """A small tar archive with a folder, a file, a hard link and a symbolic one."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format_) as archive:
        name = "./usr/bin/" + ("x" * 200 if long else "x")
        for one, kind, content, link in (
            ("./usr/", tarfile.DIRTYPE, b"", ""),
            (name, tarfile.REGTYPE, b"program" * 100, ""),
            ("./usr/bin/y", tarfile.LNKTYPE, b"", name),
            ("./usr/bin/z", tarfile.SYMTYPE, b"", "x"),
        ):
            member = tarfile.TarInfo(one)
            member.type, member.size, member.linkname, member.mode = kind, len(content), link, 0o755
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


@cache
def packages() -> tuple[bytes, ...]:
    rest = {"debian-binary": b"2.0\n", "control.tar.gz": gzip.compress(tree(), mtime=0)}
    return (
        package({**rest, "data.tar": tree()}),
        package({**rest, "data.tar": tree(format_=tarfile.PAX_FORMAT, long=True)}),
        package({**rest, "data.tar.gz": gzip.compress(tree(long=True), mtime=0)}),
        package({**rest, "data.tar.xz": lzma.compress(tree())}),
    )


def header(name: str, kind: bytes, size: int) -> bytes:
    """One tar header that may claim anything."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(extended: Mapping[str, str]) -> bytes:
    """One file whose extended header claims something else of it than its own."""
    member = tarfile.TarInfo("f")
    member.size, member.pax_headers = 512, dict(extended)
    return member.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n1\n".ljust(512, b"\0")


@cache
def package_bombs() -> Mapping[str, bytes]:
    """Names and headers that are long or endless, sparse files, archives that unpack to a thousand times their size."""
    zeros = bytes(96 << 20)  # more than a parser may keep
    # A package costs what it unpacks to, and what few bytes unpack to is bounded by the number of files alone.
    many = b"".join(header(f"f{number}", tarfile.DIRTYPE, 0) for number in range(2000))
    trees = {
        "long_name": header("x", tarfile.GNUTYPE_LONGNAME, len(zeros)) + zeros,
        "long_link": header("x", tarfile.GNUTYPE_LONGLINK, len(zeros)) + zeros,
        "pax": header("x", tarfile.XHDTYPE, len(zeros)) + zeros,
        "pax_global": header("x", tarfile.XGLTYPE, len(zeros)) + zeros,
        "members": many * 10,
        "long_names": (header("x", tarfile.GNUTYPE_LONGNAME, 512) + b"y" * 512) * 5000,
        "pax_sparse": pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 40)}),
        "pax_sparse_old": pax({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}),
        "pax_size": pax({"size": str(1 << 40)}),
        "sparse": header("x", tarfile.GNUTYPE_SPARSE, 1 << 40),
    }
    made = {
        name: package({"debian-binary": b"2.0\n", "data.tar.xz": lzma.compress(data, preset=0)})
        for name, data in trees.items()
    }
    made["size"] = package({"debian-binary": b"2.0\n"}) + f"{'data.tar':<48}{'9' * 10}`\n".encode()
    made["sizes"] = b"!<arch>\n" + (f"{'x':<48}{0:<10}`\n".encode()) * 17_000
    return made


TARGETS = (
    Target("ear", run_ear, ears, (mutate_json(), mutate_bytes(_EAR_TOKENS), mutate_json_text), json_bombs),
    Target("ear_token", run_ear_token, ear_tokens),
    Target(
        "decision_file", run_decision_file, decision_files, (mutate_decision, mutate_decision, CANONICAL), json_bombs
    ),
    Target("redecide_bundle", run_redecide_bundle, bundles, (mutate_records, CANONICAL, mutate_blob)),
    Target("debian_package", run_debian_package, packages, bombs=package_bombs),
)
