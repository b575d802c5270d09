"""Appraisal of verified IMA entries."""

import hashlib
from typing import Any

import pytest

from tests.support.ima_machine import Machine, file_digest
from tpm.errors import RejectedError
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import ImaAppraisal, appraise_ima, boot_aggregate, collect_ima_findings
from tpm.ima_replay import VerifiedImaEntries
from tpm.ima_rules import BootAggregate, ImaRules
from tpm.ima_writer import ima_entry
from tpm.reasons import EvidenceReason

ALL_TEMPLATES = frozenset({"ima", "ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf", "ima-modsig"})


def judge(machine: Machine, **options: Any) -> ImaAppraisal:
    pcrs = options.pop("pcrs", None)
    return appraise_ima(machine.verified(), ImaRules.of(machine.allow, **options), pcrs=pcrs)


def refused(reason: EvidenceReason, machine: Machine, **options: Any) -> str:
    with pytest.raises(RejectedError) as caught:
        judge(machine, **options)
    assert caught.value.reason is reason
    return caught.value.detail


@pytest.mark.parametrize("template", ["ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2"])
def test_listed_files_are_accepted(template: str) -> None:
    appraisal = judge(Machine(template).measure("/bin/a", "/bin/b"))
    assert appraisal == ImaAppraisal(entries=3, listed=3, signed=0, excluded=0, violations=0)


def test_the_first_failure_names_entry_path_and_digest() -> None:
    machine = Machine().measure("/bin/a").measure("/bin/evil", "/bin/worse", allow=False)
    detail = refused(EvidenceReason.IMA_NOT_ALLOWED, machine)
    assert "entry 2" in detail
    assert "'/bin/evil'" in detail
    assert file_digest("/bin/evil").hex() in detail


def test_all_failures_can_be_collected() -> None:
    machine = Machine().measure("/bin/a").measure("/bin/evil", "/bin/worse", allow=False)
    machine.measure("/var/log/x", violation=True)
    rules = ImaRules.of(machine.allow)
    appraisal = collect_ima_findings(machine.verified(), rules)
    assert [(found.index, found.reason, found.path) for found in appraisal.findings] == [
        (2, EvidenceReason.IMA_NOT_ALLOWED, "/bin/evil"),
        (3, EvidenceReason.IMA_NOT_ALLOWED, "/bin/worse"),
        (4, EvidenceReason.IMA_VIOLATION, "/var/log/x"),
    ]
    assert (appraisal.entries, appraisal.listed) == (5, 2)
    limited = collect_ima_findings(machine.verified(), rules, limit=2)
    assert (len(limited.findings), limited.entries, limited.listed) == (2, 4, 2)
    assert collect_ima_findings(Machine().verified(), rules).findings == ()


def test_a_listed_path_needs_its_digest() -> None:
    machine = Machine().measure("/bin/a", allow=False)
    machine.allow["/bin/a"] = ["01" * 32]
    assert "01" * 32 in refused(EvidenceReason.IMA_DIGEST_NOT_ALLOWED, machine)
    machine.allow["/bin/a"].append(file_digest("/bin/a").hex())
    judge(machine)


def test_a_listed_path_is_not_excluded() -> None:
    """Listing a path under an excluded place makes it count again."""
    machine = Machine().measure("/var/lib/app/x", allow=False)
    assert judge(machine, excludes=["/var/lib/app/**"]).excluded == 1
    machine.allow["/var/lib/app/x"] = ["01" * 32]
    refused(EvidenceReason.IMA_DIGEST_NOT_ALLOWED, machine, excludes=["/var/lib/app/**"])


@pytest.mark.parametrize("path", ["bin/a", "/bin/../a", "/bin//a", "/bin/./a"])
def test_paths_that_mean_other_places_are_refused(path: str) -> None:
    refused(EvidenceReason.IMA_NOT_ALLOWED, Machine().measure(path, allow=False))


def test_a_name_on_the_list_is_no_file() -> None:
    """Listed names that are no paths are buffers; a file cannot pass as one."""
    machine = Machine().measure("kexec-cmdline")
    assert "absolute" in refused(EvidenceReason.IMA_NOT_ALLOWED, machine)


@pytest.mark.parametrize("alg", ["sha1", "md5"])
def test_weak_digests_are_refused_although_listed(alg: str) -> None:
    machine = Machine().measure("/bin/a", alg=alg)
    refused(EvidenceReason.IMA_DIGEST_ALG, machine)
    judge(machine, digest_algs=frozenset({"sha256", alg}))


def test_a_verity_digest_is_not_that_of_a_file() -> None:
    digest = file_digest("/bin/a").hex().encode()
    line = b"10 " + b"01" * 20 + b" ima-ngv2 verity:sha256:" + digest + b" /bin/a\n"
    verified = VerifiedImaEntries(1, parse_ima_list(line).entries)
    with pytest.raises(RejectedError) as caught:
        appraise_ima(verified, ImaRules.of({"/bin/a": [digest.decode()]}))
    assert caught.value.reason is EvidenceReason.IMA_DIGEST_NOT_ALLOWED
    listed = f"verity:sha256:{digest.decode()}"
    assert appraise_ima(verified, ImaRules.of({"/bin/a": [listed]})).listed == 1
    with pytest.raises(RejectedError) as caught:
        appraise_ima(verified, ImaRules.of({"/bin/a": [listed]}, digest_algs=frozenset({"sha512"})))
    assert caught.value.reason is EvidenceReason.IMA_DIGEST_ALG


def test_templates_are_those_of_the_rules() -> None:
    machine = Machine("ima-sig").measure("/bin/a")
    refused(EvidenceReason.IMA_TEMPLATE_UNKNOWN, machine, templates=frozenset({"ima-ng"}))
    machine = Machine().measure("/bin/a")
    machine.append(ima_entry("/bin/a", file_digest("/bin/a"), template="ima-sig"))
    refused(EvidenceReason.IMA_TEMPLATE_UNKNOWN, machine, templates=frozenset({"ima-ng"}))


def test_the_old_template_is_accepted_only_when_listed() -> None:
    digest = file_digest("/bin/a", "sha1").hex()
    line = f"10 {'01' * 20} ima {digest} /bin/a\n".encode()
    verified = VerifiedImaEntries(1, parse_ima_list(line).entries)
    options: dict[str, Any] = {"digest_algs": frozenset({"sha1"})}
    with pytest.raises(RejectedError) as caught:
        appraise_ima(verified, ImaRules.of({"/bin/a": [digest]}, **options))
    assert caught.value.reason is EvidenceReason.IMA_TEMPLATE_UNKNOWN
    assert appraise_ima(verified, ImaRules.of({"/bin/a": [digest]}, templates=ALL_TEMPLATES, **options)).listed == 1


def test_violations_are_accepted_where_the_rules_say_so() -> None:
    machine = Machine().measure("/var/log/x", violation=True, allow=False)
    refused(EvidenceReason.IMA_VIOLATION, machine)
    assert judge(machine, allow_violations=True).violations == 1
    assert judge(machine, violations=["/var/log/**"]).violations == 1
    refused(EvidenceReason.IMA_VIOLATION, machine, violations=["/var/cache/app/**"])


def test_a_violation_of_a_listed_file_is_still_one() -> None:
    refused(EvidenceReason.IMA_VIOLATION, Machine().measure("/bin/a", violation=True))


def buffer_machine(name: str, content: bytes, digest: bytes | None = None) -> Machine:
    machine = Machine()
    shown = hashlib.sha256(content).digest() if digest is None else digest
    machine.append(ima_entry(name, shown, template="ima-buf", blob=content))
    machine.allow[name] = [shown.hex()]
    return machine


def test_buffers_are_listed_by_name() -> None:
    machine = buffer_machine("kexec-cmdline", b"quiet")
    assert judge(machine).listed == 2
    machine.allow["kexec-cmdline"] = ["01" * 32]
    refused(EvidenceReason.IMA_DIGEST_NOT_ALLOWED, machine)
    del machine.allow["kexec-cmdline"]
    refused(EvidenceReason.IMA_NOT_ALLOWED, machine, excludes=["/var/log/**"])


def test_a_buffer_has_its_own_digest() -> None:
    detail = refused(EvidenceReason.IMA_NOT_ALLOWED, buffer_machine("kexec-cmdline", b"quiet", file_digest("loud")))
    assert "not that of the buffer" in detail


def test_a_buffer_is_no_file() -> None:
    refused(EvidenceReason.IMA_NOT_ALLOWED, buffer_machine("/bin/a", b"quiet"))


PCRS = {bank: {index: hashlib.new(bank, bytes([index])).digest() for index in range(24)} for bank in ("sha1", "sha256")}


def aggregate(bank: str, last: int) -> bytes:
    return hashlib.new(bank, b"".join(PCRS[bank][index] for index in range(last + 1))).digest()


def booted(digest: bytes, alg: str = "sha256", template: str = "ima-ng") -> Machine:
    machine = Machine()
    written = machine.entries.pop()
    machine.pcr10 = {bank: bytes(len(value)) for bank, value in machine.pcr10.items()}
    del written, machine.allow["boot_aggregate"]
    machine.append(ima_entry("boot_aggregate", digest, alg, template))
    return machine


def test_the_boot_aggregate_is_computed_from_the_quoted_pcrs() -> None:
    good = booted(aggregate("sha256", 9))
    assert judge(good, pcrs=PCRS).listed == 1
    detail = refused(EvidenceReason.IMA_BOOT_AGGREGATE, booted(aggregate("sha256", 7)), pcrs=PCRS)
    assert aggregate("sha256", 9).hex() in detail
    changed = {"sha256": {**PCRS["sha256"], 8: bytes(32)}}
    refused(EvidenceReason.IMA_BOOT_AGGREGATE, good, pcrs=changed)


def test_older_kernels_compute_the_boot_aggregate_otherwise() -> None:
    seven = booted(aggregate("sha256", 7))
    both = frozenset({BootAggregate.BANK, BootAggregate.BANK_0_7})
    assert judge(seven, pcrs=PCRS, boot_aggregate=both).listed == 1
    assert judge(booted(aggregate("sha256", 9)), pcrs=PCRS, boot_aggregate=both).listed == 1
    old = booted(aggregate("sha1", 7), "sha1")
    refused(EvidenceReason.IMA_BOOT_AGGREGATE, old, pcrs=PCRS)
    assert judge(old, pcrs=PCRS, boot_aggregate=frozenset({BootAggregate.SHA1})).listed == 1
    refused(EvidenceReason.IMA_BOOT_AGGREGATE, old, pcrs=PCRS, boot_aggregate=both)


def test_a_boot_aggregate_that_cannot_be_computed_must_be_listed() -> None:
    machine = booted(aggregate("sha256", 9))
    partial = {"sha256": {index: PCRS["sha256"][index] for index in range(9)}}
    for pcrs in (None, {}, partial, {"sha384": PCRS["sha256"]}):
        assert "not listed" in refused(EvidenceReason.IMA_BOOT_AGGREGATE, machine, pcrs=pcrs)
    machine.allow["boot_aggregate"] = [aggregate("sha256", 9).hex()]
    assert judge(machine).listed == 1


def test_the_quoted_pcrs_decide_over_the_list() -> None:
    machine = booted(aggregate("sha256", 7))
    machine.allow["boot_aggregate"] = [aggregate("sha256", 7).hex()]
    judge(machine)
    refused(EvidenceReason.IMA_BOOT_AGGREGATE, machine, pcrs=PCRS)


def test_a_weak_boot_aggregate_is_not_accepted_because_it_is_listed() -> None:
    machine = booted(aggregate("sha1", 7), "sha1")
    machine.allow["boot_aggregate"] = [aggregate("sha1", 7).hex()]
    refused(EvidenceReason.IMA_BOOT_AGGREGATE, machine)
    assert judge(machine, boot_aggregate=frozenset({BootAggregate.SHA1})).listed == 1


def test_the_first_entry_is_a_measured_boot_aggregate() -> None:
    missing = Machine()
    missing.entries.clear()
    missing.pcr10 = {bank: bytes(len(value)) for bank, value in missing.pcr10.items()}
    missing.measure("/bin/a")
    refused(EvidenceReason.IMA_BOOT_AGGREGATE, missing)
    for options in ({"template": "ima-buf"}, {"violation": True}, {"path": "/bin/boot_aggregate"}):
        machine = booted(aggregate("sha256", 9))
        machine.entries.clear()
        machine.pcr10 = {bank: bytes(len(value)) for bank, value in machine.pcr10.items()}
        given: dict[str, Any] = {"path": "boot_aggregate", **options}
        machine.append(ima_entry(file_digest=aggregate("sha256", 9), **given))
        refused(EvidenceReason.IMA_BOOT_AGGREGATE, machine, pcrs=PCRS, allow_violations=True)
    refused(EvidenceReason.IMA_TEMPLATE_UNKNOWN, Machine("ima-sig"), templates=frozenset({"ima-ng"}))


def test_a_later_round_has_no_boot_aggregate() -> None:
    machine = Machine().measure("/bin/a")
    state = machine.replayed().state
    machine.measure("/bin/b")
    verified = machine.replayed(state).verified
    assert appraise_ima(verified, ImaRules.of(machine.allow)).listed == 1
    machine.append(machine.entries[0])
    with pytest.raises(RejectedError) as caught:
        appraise_ima(machine.replayed(state).verified, ImaRules.of(machine.allow))
    assert caught.value.reason is EvidenceReason.IMA_BOOT_AGGREGATE


def test_nothing_new_is_nothing_wrong() -> None:
    machine = Machine()
    verified = machine.replayed(machine.replayed().state).verified
    assert appraise_ima(verified, ImaRules.of({})).entries == 0


def test_boot_aggregates_of_unknown_banks_are_not_computed() -> None:
    assert boot_aggregate(BootAggregate.BANK, "md5", {"md5": PCRS["sha1"]}) is None
    assert boot_aggregate(BootAggregate.SHA1, "sha256", PCRS) is None
    assert boot_aggregate(BootAggregate.BANK, "sha1", PCRS) is None
