"""The three rooms: who may import whom, what needs no server and no TPM, and the few places that catch everything."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROOMS = ("tpm", "ztrooted", "gateway")  # left is imported by right, never the other way
MODULES = [path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))]

# The TPM's library and what only a server or an executor needs: the core has to work where they are not installed.
OPTIONAL = ("tpm2_pytss", "aiohttp", "sqlite_utils", "sqlite3", "structlog")
BLOCKER = f"""
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*OPTIONAL, "gateway")!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def imported(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, inside functions too, by statement or by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, level=level):
                assert level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
                yield module or ""
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"), args=[first, *_]
            ):
                yield first.value if isinstance(first, ast.Constant) else "?"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_from_itself_and_from_its_left(path: Path) -> None:
    room = path.relative_to(PROJECT).parts[0]
    forbidden = ROOMS[ROOMS.index(room) + 1 :]
    assert [name for name in imported(path) if name.partition(".")[0] in forbidden] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_imports_the_tests(path: Path) -> None:
    assert [name for name in imported(path) if name.partition(".")[0] in {"tests", "pytest", "hypothesis"}] == []


def test_only_the_device_imports_the_TPM_library() -> None:
    found = [path for path in MODULES if any(name.partition(".")[0] == "tpm2_pytss" for name in imported(path))]
    assert found
    assert all(path.parent.name == "tpm" and path.name.startswith("device") for path in found), found


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "tpm"], ids=name_of)
def test_what_parses_and_verifies_needs_only_cryptography(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "tpm", "cryptography"}
    others = {name.partition(".")[0] for name in imported(path)} - allowed
    assert others <= ({"tpm2_pytss"} if path.name.startswith("device") else set())


def broad(path: Path) -> Iterator[str]:
    """Handlers that would swallow a defect: bare, Exception or BaseException, alone or in a tuple; suppress() too.

    One that only cleans up and raises again on every way out swallows nothing.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        caught: list[ast.expr | None] = []
        match node:
            case ast.ExceptHandler() if raises_again(node):
                continue
            case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
                caught = [*kinds]
            case ast.ExceptHandler(type=kind):
                caught = [kind]
            case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=kinds):
                caught = [*kinds]
        for kind in caught:
            named = getattr(kind, "id", None) or getattr(kind, "attr", None)
            if kind is None or named in {"Exception", "BaseException"}:
                yield f"{path}:{getattr(node, 'lineno', 0)}"


def raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    leaves = any(isinstance(node, ast.Return | ast.Break | ast.Continue) for node in ast.walk(handler))
    return isinstance(last, ast.Raise) and last.exc is None and not leaves


def test_at_most_two_places_catch_everything() -> None:
    found = [place for path in MODULES for place in broad(path)]
    assert len(found) <= 2, found


@pytest.mark.parametrize(
    ("handler", "count"),
    [
        ("except:\n pass", 1),
        ("except Exception:\n pass", 1),
        ("except (ValueError, BaseException) as error:\n pass", 1),
        ("except builtins.Exception:\n pass", 1),
        ("except Exception:\n if x: return\n raise", 1),
        ("except Exception as error:\n raise ValueError from error", 1),
        ("except BaseException:\n clean()\n raise", 0),
        ("except OSError:\n pass", 0),
        ("finally:\n with contextlib.suppress(Exception): pass", 1),
        ("finally:\n with suppress(OSError): pass", 0),
    ],
)
def test_the_count_of_broad_handlers_sees_every_spelling(tmp_path: Path, handler: str, count: int) -> None:
    source = tmp_path / "source.py"
    source.write_text(f"def f():\n try: pass\n {handler.replace(chr(10), chr(10) + ' ')}\n")
    assert len(list(broad(source))) == count


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_nouns_of_the_domain(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert path.parent.name not in {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(path.read_text()))


def importing(module: str) -> subprocess.CompletedProcess[str]:
    program = f"{BLOCKER}\nimport {module}\nassert not set(sys.modules) & set({OPTIONAL!r})\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["ztrooted.verify", "ztrooted.cli.main"])
def test_the_core_imports_without_server_database_and_TPM_library(module: str) -> None:
    done = importing(module)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", OPTIONAL)
def test_the_blockade_blocks(module: str) -> None:
    """Otherwise the test above would show nothing on a machine where they are installed."""
    assert importlib.util.find_spec(module) is not None
    done = importing(module)
    assert done.returncode != 0
    assert f"{module} is blocked" in done.stderr


def test_the_offline_commands_answer_without_the_optional_packages() -> None:
    program = f"{BLOCKER}\nimport sys\nsys.argv = ['ztrooted', 'audit', '--help']\n" + (
        "import importlib.metadata\nimportlib.metadata.entry_points = lambda **_: ()\n"
        "from ztrooted.cli.main import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verify" in done.stdout
