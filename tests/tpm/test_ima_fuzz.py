"""Mutated lists and signatures: whatever comes, the verifier answers, or raises what it says it raises."""

import os
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ima_machine import Machine, file_digest
from tpm.errors import EvidenceError
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import collect_ima_findings
from tpm.ima_replay import ImaState, VerifiedImaEntries, replay, replayed_pcr10
from tpm.ima_rules import AllowList, ImaRules
from tpm.ima_signature import ImaKeyring, parse_ima_signature
from tpm.ima_template import FROM_TEXT
from tpm.ima_writer import ima_entry

_KEY = ec.derive_private_key(20240607, ec.SECP256R1()).public_key()
# A slice for every run of the suite; the environment asks for more.
EXECUTIONS = int(os.environ.get("ZTROOTED_FUZZ_EXECUTIONS", "4000"))
TOKENS = [
    *FROM_TEXT,
    *(b" ", b"\n", b"\0", b":", b"10", b"/", b"..", b"boot_aggregate", b"sha256:", b"verity:", b"ima:sha1:", b"md5:"),
    *(b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\x0a\0\0\0", b"0" * 40, b"\xc3\x28", b"sha3-512:"),
]


def seeds() -> list[bytes]:
    machine = Machine("ima-sig").measure("/bin/a", "/bin/caf\u00e9").measure("/var/log/x", violation=True)
    machine.append(ima_entry("/bin/b", file_digest("b", "sha1"), "sha1", "ima-ng"))
    machine.append(ima_entry("/bin/c", file_digest("c"), template="ima-sigv2", blob=b"\x03\x02\x04abcd\0\x04wxyz"))
    machine.append(ima_entry("cmdline", file_digest("d"), template="ima-buf", blob=b"quiet"))
    legacy = b"10 " + b"01" * 20 + b" ima " + b"02" * 20 + b" /bin/d\n"
    modsig = b"10 " + b"01" * 20 + b" ima-modsig sha256:" + b"ab" * 32 + b" /m 03 sha1:" + b"cd" * 20 + b" 30\n"
    return [machine.ascii(), machine.binary(), machine.ascii() + legacy + modsig, legacy, modsig, b""]


def mutate(random_: random.Random, data: bytes) -> bytes:
    """A few of the usual: flips, cuts, repeats, splices, and the words of the format."""
    value = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at, end = sorted((random_.randint(0, len(value)), random_.randint(0, len(value))))
        match random_.randrange(6):
            case 0 if value:
                value[min(at, len(value) - 1)] ^= 1 << random_.randrange(8)
            case 1:
                del value[at : min(end, at + 40)]
            case 2:
                value[at:at] = value[at : min(end, at + 200)]
            case 3:
                value[at : at + random_.choice((0, 1, 4))] = random_.choice(TOKENS)
            case 4:
                value[at:at] = random_.randbytes(random_.randint(1, 8))
            case _:
                value[at:end] = value[at:end].replace(b" ", random_.choice(TOKENS), 1)
    return bytes(value)


def exercise(data: bytes, rules: ImaRules) -> int:
    """All that is done with a list; the number of its entries."""
    entries = parse_ima_list(data).entries
    assert [entry.path for entry in entries] == [entries[index].path for index in range(len(entries))]
    collect_ima_findings(VerifiedImaEntries(0, entries), rules)
    AllowList(AllowList.of_entries(entries))
    pcr10 = replayed_pcr10(entries, "sha256")
    result = replay(ImaState.initial(), entries, bank="sha256", pcr10=pcr10, offset=0)
    assert result.matched == len(entries)
    return len(entries)


@pytest.mark.timeout(3600)
def test_mutated_lists_raise_only_what_is_declared() -> None:
    random_ = random.Random(20240607)  # noqa: S311 -- repeatable, not secret
    rules = ImaRules.of(
        Machine().measure("/bin/a").allow,
        excludes=["/var/log/**"],
        templates=frozenset(name.decode() for name in FROM_TEXT),
        digest_algs=frozenset({"sha1", "sha256", "sha3-512", "md5", "sm3"}),
        keyring=ImaKeyring([(b"abcd", _KEY)]),
    )
    pool, accepted = seeds(), 0
    for _ in range(EXECUTIONS):
        data = mutate(random_, random_.choice(pool))
        try:
            accepted += bool(exercise(data, rules))
        except EvidenceError:
            continue
        if len(pool) < 200 and len(data) < 4000:
            pool.append(data)
    # Some mutants must get through, or the fuzzing never saw what comes after the parser.
    assert accepted > EXECUTIONS // 200


def test_mutated_signatures_raise_only_what_is_declared() -> None:
    random_ = random.Random(20240608)  # noqa: S311 -- repeatable, not secret
    for _ in range(EXECUTIONS // 4):
        data = mutate(random_, b"\x03\x02\x04abcd\0\x04wxyz")
        try:
            assert parse_ima_signature(data).version in {2, 3}
        except EvidenceError:
            continue


def test_every_cut_of_a_binary_list_is_refused_or_ends_between_entries() -> None:
    machine = Machine("ima-sig").measure("/bin/a", "/bin/b")
    data, ends, offset = machine.binary(), {0}, 0
    for entry in machine.entries:
        offset += len(entry.binary)
        ends.add(offset)
    for cut in range(len(data)):
        if cut in ends:
            parse_ima_list(data[:cut], format="binary")
            continue
        with pytest.raises(EvidenceError):
            parse_ima_list(data[:cut], format="binary")
