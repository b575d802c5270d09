"""Allow-lists, path patterns and rules for IMA."""

from typing import Any

import pytest

from tests.support.ima_machine import Machine
from tests.support.pace import at_most
from tpm import ima_paths, ima_rules
from tpm.errors import RejectedError
from tpm.ima import parse_ima_list
from tpm.ima_paths import PathPatterns, is_plain
from tpm.ima_rules import AllowList, ImaRules, digest_text
from tpm.ima_writer import ima_entry
from tpm.reasons import EvidenceReason


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("ab" * 32, "sha256:" + "ab" * 32),
        ("AB" * 32, "sha256:" + "ab" * 32),
        (b"\xab" * 20, "sha1:" + "ab" * 20),
        ("ab" * 16, "md5:" + "ab" * 16),
        ("sha3-256:" + "ab" * 32, "sha3-256:" + "ab" * 32),
        ("ima:sha256:" + "ab" * 32, "sha256:" + "ab" * 32),
        ("verity:sha256:" + "ab" * 32, "verity:sha256:" + "ab" * 32),
    ],
)
def test_digests_are_written_in_one_way(given: str | bytes, text: str) -> None:
    assert digest_text(given) == text.encode()


@pytest.mark.parametrize(
    "given", ["", "ab", "sha256:" + "ab" * 31, "sha9:" + "ab" * 32, "tree:sha256:" + "ab" * 32, "zz" * 32]
)
def test_what_is_no_digest_is_refused(given: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- which of the sentences is of no matter
        digest_text(given)


def test_an_allow_list_keeps_files_buffers_and_the_boot_aggregate_apart() -> None:
    allow = AllowList({"/bin/a": ["ab" * 32], ".ima": ["cd" * 32], "boot_aggregate": ["ef" * 32]})
    assert allow.files == {b"/bin/a": (b"sha256:" + b"ab" * 32,)}
    assert allow.names == {b".ima": {b"sha256:" + b"cd" * 32}}
    assert allow.boot_aggregate == {b"sha256:" + b"ef" * 32}
    assert len(allow) == 2


def test_many_digests_of_one_path_are_all_allowed() -> None:
    digests = [f"{number:064x}" for number in range(9)]
    assert set(AllowList({"/bin/a": digests}).files[b"/bin/a"]) == {digest_text(digest) for digest in digests}


@pytest.mark.parametrize("path", ["/bin/../a", "/bin//a", "/bin/./a", "/", "/bin/"])
def test_an_allow_list_names_only_plain_paths(path: str) -> None:
    assert not is_plain(path.encode())
    with pytest.raises(ValueError, match="never be allowed"):
        AllowList({path: ["ab" * 32]})


def test_one_digest_is_not_a_list_of_digests() -> None:
    with pytest.raises(ValueError, match="list of digests"):
        AllowList({"/bin/a": "ab" * 32})


def test_an_allow_list_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ima_rules, "MAX_ALLOWED_PATHS", 1)
    AllowList({"/bin/a": []})
    with pytest.raises(ValueError, match="maximum"):
        AllowList({"/bin/a": [], "/bin/b": []})


def test_a_baseline_is_what_the_list_shows() -> None:
    machine = Machine().measure("/bin/a", "/bin/b").measure("/var/log/x", violation=True, allow=False)
    machine.measure("relative", "/bin/../c", allow=False)
    machine.append(ima_entry("kexec-cmdline", b"\1" * 32, template="ima-buf", blob=b"x"))
    captured = AllowList.of_entries(machine.parsed())
    assert captured == {**machine.allow, "kexec-cmdline": ["sha256:" + "01" * 32]}
    AllowList(captured)


@pytest.mark.parametrize("field", ["templates", "digest_algs"])
def test_rules_name_what_exists(field: str) -> None:
    options: dict[str, Any] = {field: frozenset({"ima-nl"})}
    with pytest.raises(ValueError, match="ima-nl"):
        ImaRules.of({}, **options)


def test_rules_have_no_unknown_fields() -> None:
    with pytest.raises(TypeError):
        ImaRules.of({}, exclude=["/x"])


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/var/log/**", ["/var/log/a", "/var/log/a/b", "/var/log/a\nb"], ["/var/log", "/var/logs/a", "/srv/var/log/a"]),
        ("/var/log/.*", ["/var/log/a", "/var/log/.a/b"], ["/var/log", "/var/log/../../bin/a", "/var/log//a"]),
        ("/var/log/*.log", ["/var/log/a.log"], ["/var/log/a/b.log", "/var/log/a.log.1", "/var/log/a-log"]),
        ("/etc/app/*/cache", ["/etc/app/a/cache"], ["/etc/app/a/b/cache", "/etc/app/cache"]),
        ("/etc/app/state", ["/etc/app/state"], ["/etc/app/state2", "/etc/app/state/x"]),
        ("/etc/file", ["/etc/file"], ["/etc/file2"]),
    ],
)
def test_patterns_cover_what_they_say(pattern: str, matching: list[str], others: list[str]) -> None:
    patterns = PathPatterns.of(["/srv/data/**", pattern])
    assert [path for path in matching if not patterns.matches(path.encode())] == []
    assert [path for path in others if patterns.matches(path.encode())] == []


def test_no_patterns_cover_nothing() -> None:
    assert not PathPatterns.of([]).matches(b"/var/log/x")


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/",
        "/**",
        "/.*",
        ".*",
        "*",
        "var/log/**",
        "/var/**",
        "/etc/**",
        "/srv/*",
        "/v*/log/x",
        "/var/log*",
        "/var/lib/**",
        "/tmp/**",
        "/tmp/.*",
        "/tmp/one-file",
        "/usr/bin/.*",
        "/usr/bin/bash",
        "/usr/lib/x/**",
        "/home/user/.cache/**",
        "/dev/shm/**",
        "/run/user/1000/**",
        "/var/tmp/x",
        "/var/log/../../usr/bin/**",
        "/var//log/**",
        "/var/log/./**",
        "/var/log/a*b*c",
        "/var/log/**/x",
        "/var/log/(a|b)",
        "/var/log/[ab]",
        "/var/log/a+",
        "/var/log/a?",
        "^/var/log/x$",
        "/var/log/\\x",
        "/var/log/x\n",
        "/var/log/" + "a" * 5000,
    ],
)
def test_patterns_that_cover_too_much_are_refused(pattern: str) -> None:
    with pytest.raises(RejectedError) as caught:
        PathPatterns.of([pattern])
    assert caught.value.reason is EvidenceReason.IMA_EXCLUDE_TOO_BROAD


def test_a_relative_pattern_is_told_what_is_wrong() -> None:
    with pytest.raises(RejectedError, match="not an absolute path"):
        PathPatterns.of(["var/log/x"])


def test_patterns_have_a_largest_number() -> None:
    listed = [f"/var/log/{number}/**" for number in range(ima_paths.MAX_PATTERNS + 1)]
    assert PathPatterns.of(listed[1:]).matches(b"/var/log/7/x")
    with pytest.raises(RejectedError):
        PathPatterns.of(listed)


def test_matching_cannot_run_away() -> None:
    """The longest path against the most patterns, each with as many wildcards as it may have."""
    wild = "/var/log" + "/*a" * 100
    patterns = PathPatterns.of([f"{wild}{number}" for number in range(ima_paths.MAX_PATTERNS)])
    path = b"/var/log" + b"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 100
    with at_most(0.5):
        assert not patterns.matches(path)


def test_a_large_allow_list_is_parsed_once_and_looked_up_fast() -> None:
    rules = ImaRules.of({f"/usr/lib/p{number}": [f"{number:064x}"] for number in range(100_000)})
    entries = parse_ima_list(ima_entry("/usr/lib/p77", (77).to_bytes(32, "big")).ascii).entries
    with at_most(0.5):
        for _ in range(1000):
            assert entries.rows[0][2] in rules.allow.files[entries.rows[0][3]]
