"""The rows of ``scripts/bench verify``: what it costs to verify the evidence of one machine."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.bench.measure import Comparison, Row, compare, row
from tests.support import corpus
from tests.support.attestation import NONCE, SELECTION, VALUES, SoftwareAk
from tests.support.endorsement import ec_key, ek_certificate, ek_public, vendor
from tests.support.eventlog_builder import Log, event
from tpm.attestation_key import AttestationKey
from tpm.ek_template import parse_ek_public
from tpm.endorsement import EkRoots, verify_ek_certificate
from tpm.errors import EvidenceError
from tpm.eventlog import EventLog, decode, parse_event_log
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_entry import HASHERS
from tpm.ima_replay import ImaState, replay, replayed_pcr10
from tpm.ima_rules import ImaRules
from tpm.ima_writer import ima_entry
from tpm.quote import parse_quote, verify_quote
from tpm.signature import parse_signature

LOG_BYTES = 34_000
ENTRIES = 100_000
NEW_ENTRIES = 100


def rows(*, entries: int = ENTRIES, rounds: int = 51) -> Iterator[Row]:
    """All rows; smaller numbers make a quick run that proves nothing about speed."""
    yield _quote("quote_p256", SoftwareAk.ecc(), 0.75, rounds)
    yield _quote("quote_rsa2048", SoftwareAk.rsa(), 0.5, rounds)
    yield event_log(rounds)
    yield from ima(entries, rounds)
    yield ek_chain(rounds)
    yield import_quote(max(3, rounds // 5))


def _bare_check(key: AttestationKey, attest: bytes, signature: bytes) -> Callable[[], object]:
    """The signature check alone, with everything it needs prepared."""
    values, public = parse_signature(signature).values, key.key
    if isinstance(public, rsa.RSAPublicKey):
        scheme, algorithm = padding.PKCS1v15(), hashes.SHA256()
        return lambda: public.verify(values[0], attest, scheme, algorithm)
    encoded = encode_dss_signature(*(int.from_bytes(value, "big") for value in values))
    ecdsa = ec.ECDSA(hashes.SHA256())
    return lambda: public.verify(encoded, attest, ecdsa)


def _quote(name: str, ak: SoftwareAk, least: float, rounds: int) -> Row:
    """Parse both structures and run all checks of a quote, with the key accepted once before."""
    (attest, signature), key = ak.quote(), ak.key

    def full() -> None:
        verify_quote(parse_quote(attest, signature), key, nonce=NONCE, selection=SELECTION, pcr_values=VALUES)

    found = compare(full, _bare_check(key, attest, signature), rounds=rounds)
    return row(name, found, "us", 1e6, "signature check alone", f"ratio >= {least}", found.speed >= least)


def boot_log() -> bytes:
    """A real log of about the size wanted where the corpus has one, or one made here."""
    found: list[tuple[int, bytes]] = []
    index = corpus.ROOT / "evidence" / "INDEX.json"
    for entry in json.loads(index.read_text())["entries"] if index.exists() else []:
        if entry["kind"] == "tpm_event_log" and abs(entry.get("size", 0) - LOG_BYTES) < LOG_BYTES // 10:
            data = corpus.read("evidence", entry["file"])
            try:
                usable = "sha256" in parse_event_log(data).banks
            except EvidenceError:
                continue
            if usable:
                found.append((abs(len(data) - LOG_BYTES), data))
    return min(found)[1] if found else made_log()


def made_log() -> bytes:
    """An honest boot with as many loader events behind it as make up the size."""
    log = Log(banks=("sha1", "sha256"))
    while len(log.data()) < LOG_BYTES:
        text = b"linux /boot/vmlinuz root=/dev/sda1 ro quiet module=%d" % len(log.records)
        log.records.append(event(8, 0x0D, b"grub_cmd: " + text + b"\0", text))
    return log.data()


def _bare_replay(log: EventLog) -> Callable[[], object]:
    """The hashing of a replay alone."""
    digests, sha256 = [one.digests["sha256"] for one in log.events if "sha256" in one.digests], HASHERS["sha256"]

    def replayed() -> None:
        value = bytes(32)
        for digest in digests:
            value = sha256(value + digest).digest()

    return replayed


def event_log(rounds: int) -> Row:
    """Parse, decode every event, replay one bank."""
    data = boot_log()

    def full() -> None:
        log = parse_event_log(data)
        for one in log.events:
            decode(one)
        log.replay("sha256")

    found = compare(full, _bare_replay(parse_event_log(data)), rounds=rounds)
    return row("event_log_34k_ms", found, "ms", 1e3, "hashing alone", "<= 1.0 ms", found.value <= 1e-3)


def _machine(entries: int) -> tuple[list[bytes], dict[str, list[str]]]:
    """The lines of a machine's list, and the allow-list that has every file of it."""
    lines, allow = [], {}
    for number in range(entries):
        digest = HASHERS["sha256"](b"%d" % number).digest()
        path = (
            f"/usr/lib/x86_64-linux-gnu/package{number // 100}/libfile{number}.so.1.2" if number else "boot_aggregate"
        )
        lines.append(ima_entry(path, digest).ascii)
        allow[path] = [f"sha256:{digest.hex()}"]
    return lines, allow


def _bare_hashing(data: bytes) -> Callable[[], object]:
    """What a replay hashes, without reading the text: template data twice, and the register."""
    parts, sha1, sha256 = [row[4] for row in parse_ima_list(data).entries.rows], HASHERS["sha1"], HASHERS["sha256"]

    def hashed() -> None:
        value = bytes(32)
        for part in parts:
            sha1(part).digest()
            value = sha256(value + sha256(part).digest()).digest()

    return hashed


def ima(entries: int, rounds: int) -> Iterator[Row]:
    """A whole list, and then a few new entries on the state it left."""
    lines, allow = _machine(entries)
    data, rules = b"".join(lines), ImaRules.of(allow)
    pcr10 = replayed_pcr10(parse_ima_list(data).entries, "sha256")

    def whole() -> None:
        done = replay(ImaState.initial(), parse_ima_list(data).entries, bank="sha256", pcr10=pcr10, offset=0)
        appraise_ima(done.verified, rules)

    found = compare(whole, _bare_hashing(data), rounds=max(3, rounds // 5))
    rates = sorted(entries / seconds for seconds in found.values)
    yield Row(
        "ima_replay_100k",
        statistics.median(rates),
        "entries/s",
        "hashing alone",
        entries / found.reference,
        found.speed,
        ">= 300000 entries/s",
        statistics.median(rates) >= 300_000,
        rates[-1],
    )

    new = b"".join(lines[-NEW_ENTRIES:])
    before = parse_ima_list(b"".join(lines[:-NEW_ENTRIES])).entries
    known = replayed_pcr10(before, "sha256")
    kept = replay(ImaState.initial(), before, bank="sha256", pcr10=known, offset=0).state.to_dict()
    del before

    def increment() -> None:
        state = ImaState.from_dict(kept)
        entries_ = parse_ima_list(new).entries
        done = replay(state, entries_, bank="sha256", pcr10=pcr10, offset=state.entries)
        appraise_ima(done.verified, rules)
        done.state.to_dict()

    found = compare(increment, _bare_hashing(new), rounds=rounds)
    yield row("ima_incremental_ms", found, "ms", 1e3, "hashing alone", "<= 1.0 ms", found.value <= 1e-3)


def ek_chain(rounds: int) -> Row:
    """An EK certificate, its issuer and its root, with the EK's public area."""
    issuer, root = vendor().issuer, vendor().root
    leaf = ek_certificate(issuer)
    roots, public = EkRoots.from_pem(root.pem), parse_ek_public(ek_public(ec_key(100).public_key()))
    at = datetime(2026, 6, 1, tzinfo=UTC)
    message, ecdsa = bytes(600), ec.ECDSA(hashes.SHA256())
    signature, key = issuer.key.sign(message, ecdsa), issuer.key.public_key()

    def checks() -> None:
        for _ in range(3):
            key.verify(signature, message, ecdsa)

    found = compare(
        lambda: verify_ek_certificate(leaf, [issuer.der], roots, at=at, ek_public=public), checks, rounds=rounds
    )
    met = statistics.median(value - known for value, known in zip(found.values, found.references, strict=True)) <= 1e-3
    return row("ek_chain", found, "ms", 1e3, "3 signature checks alone", "<= reference + 1.0 ms", met)


_IMPORT = """
import sys, time
began = time.process_time()
import {modules}
took = time.process_time() - began
assert "tpm2_pytss" not in sys.modules
print(took)
"""
_CRYPTOGRAPHY = (
    "cryptography.hazmat.primitives.asymmetric.ec, cryptography.hazmat.primitives.asymmetric.rsa, "
    "cryptography.hazmat.primitives.asymmetric.padding"
)


def import_quote(rounds: int) -> Row:
    """The import of ``tpm.quote`` by an interpreter that has just started, which must not load a TSS."""

    def seconds(modules: str) -> float:
        done = subprocess.run([sys.executable, "-c", _IMPORT.format(modules=modules)], capture_output=True, check=True)
        return float(done.stdout)

    pairs = [(seconds("tpm.quote"), seconds(_CRYPTOGRAPHY)) for _ in range(rounds + 1)][1:]
    found = Comparison(*(tuple(column) for column in zip(*pairs, strict=True)))
    reference = "import of what it uses of cryptography"
    return row("import_tpm_quote_ms", found, "ms", 1e3, reference, "< 60 ms", found.value < 0.06)
