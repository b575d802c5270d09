"""What the fuzzer found once, each with the smallest input that shows it."""

import json
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.fuzz.bundle_targets import story
from tests.fuzz.mutation import canonical_json
from tests.fuzz.policy_targets import anchors_text
from tests.fuzz.result_targets import decision_files, package, package_bombs, pax
from tests.support.endorsement import crl, vendor
from tpm.endorsement_crl import parse_crl
from tpm.endorsement_der import MAX_CHILDREN, SEQUENCE, encode, read_children, read_only_element
from tpm.endorsement_google import parse_instance_identity
from tpm.endorsement_san import check_tpm_specification
from tpm.errors import EvidenceError, MalformedError
from ztrooted import toml_lines
from ztrooted.anchors import parse_anchors
from ztrooted.bundle import parse_bundle
from ztrooted.debian_package import package_files
from ztrooted.decision_file import parse_decision_file, redecide
from ztrooted.ear import split_foreign
from ztrooted.errors import EnvironmentProblem, GateError, PolicyError, ProofError
from ztrooted.explain import explain
from ztrooted.policy_cases import parse_cases
from ztrooted.reasons import GateReason
from ztrooted.redecide_bundle import redecide_file
from ztrooted.validation import MAX_FINDINGS, MAX_LISTED, explain_validation


def test_an_element_holds_no_more_than_its_maximum() -> None:
    """A revocation list of a mebibyte of empty elements took 70 MiB."""
    full = encode(SEQUENCE, b"\x05\x00" * MAX_CHILDREN)
    assert len(read_children(full, read_only_element(full, SEQUENCE, "it"))) == MAX_CHILDREN
    over = encode(SEQUENCE, b"\x05\x00" * (MAX_CHILDREN + 1))
    with pytest.raises(MalformedError, match="more than 256 elements"):
        read_children(over, read_only_element(over, SEQUENCE, "it"))


def test_the_entries_of_a_revocation_list_are_not_bounded_by_that() -> None:
    assert len(parse_crl(crl(vendor().issuer, range(1, 4 * MAX_CHILDREN))).entries) == 4 * MAX_CHILDREN - 1


def _integer(value: int) -> bytes:
    return encode(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


@pytest.mark.parametrize("number", [1 << 64, 1 << 16_000, -1], ids=["65 bits", "16,001 bits", "negative"])
def test_numbers_that_nobody_can_print_are_refused_where_they_are_read(number: int) -> None:
    """A level of 2,000 bytes in tpmSpecification ended in a ValueError, because Python prints no such number."""
    for numbers in ((number, 1), (1, number)):
        family, oid = encode(0x0C, b"2.0"), encode(0x06, bytes.fromhex("6781050210"))
        specification = encode(SEQUENCE, family + b"".join(map(_integer, numbers)))
        value = encode(SEQUENCE, encode(SEQUENCE, oid + encode(0x31, specification)))
        if number > 0:
            with pytest.raises(MalformedError, match="tpmSpecification"):
                check_tpm_specification(value)
        text = encode(0x0C, b"a")
        parts = (text, _integer(numbers[0]), text, _integer(numbers[1]), text)
        with pytest.raises(MalformedError, match="64 bits"):
            parse_instance_identity(encode(SEQUENCE, b"".join(parts)))


def test_numbers_up_to_64_bits_are_read() -> None:
    text, largest = encode(0x0C, b"a"), _integer((1 << 64) - 1)
    found = parse_instance_identity(encode(SEQUENCE, text + largest + text + _integer(0) + text))
    assert (found.project_number, found.instance_id) == ((1 << 64) - 1, 0)


@pytest.mark.parametrize("vendors", ['["il:494E5443"]', '["id:494E544"]', '["id:494E5443", ""]'])
def test_anchors_whose_vendors_are_no_vendors_are_refused_when_read(vendors: str) -> None:
    """They were read, and failed when first used."""
    text = anchors_text().decode().replace('["id:494E5443"]', vendors)
    with pytest.raises(EnvironmentProblem, match="is not a TPM vendor id"):
        parse_anchors(text.encode(), "the anchors")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f'24 = "{"00" * 32}"', "run from 0 to 23"),
        (f'9223372036854775808 = "{"00" * 32}"', "run from 0 to 23"),
        (f'2 = "{"00" * 31}"', "has 32 bytes"),
    ],
)
def test_anchors_of_pcrs_that_no_tpm_has_are_refused_when_read(line: str, why: str) -> None:
    """The same."""
    text = anchors_text().decode().replace("[gateway_pcrs.sha256]\n", f"[gateway_pcrs.sha256]\n{line}\n")
    with pytest.raises(EnvironmentProblem, match=why):
        parse_anchors(text.encode(), "the anchors")


@pytest.mark.parametrize("member", ["artifacts", "ima"])
def test_a_list_of_a_bundle_written_as_text_is_refused(member: str) -> None:
    """It was read as a list of its characters."""
    value = json.loads(story())
    value[member] = "ab"
    with pytest.raises(ProofError):
        parse_bundle(canonical_json(value))


def test_a_bundle_has_one_way_to_write_a_hash_and_a_blob() -> None:
    value = json.loads(story())
    assert parse_bundle(canonical_json(value)).encode() == canonical_json(value)
    (spaced := json.loads(story()))["records"][0]["proof"] = [" 00" * 32]
    (upper := json.loads(story()))["records"][0]["proof"] = ["AB" * 32]
    for other in (spaced, upper):
        with pytest.raises(ProofError, match="is written"):
            parse_bundle(canonical_json(other))
    digest = next(name for name, text in value["blobs"].items() if text.endswith("="))
    text = value["blobs"][digest].rstrip("=")
    # The last character has bits that no byte uses: another one decodes to the same.
    value["blobs"][digest] = text[:-1] + chr(ord(text[-1]) + 1) + "=" * (-len(text) % 4)
    with pytest.raises(ProofError):
        parse_bundle(canonical_json(value))


def test_a_document_with_very_many_faults_is_explained_in_few_words() -> None:
    """Ninety thousand unknown keys took 80 MiB to explain."""
    for count in (MAX_FINDINGS, MAX_FINDINGS + 1, MAX_LISTED + 1):
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(list[int]).validate_python(["x"] * count, strict=True)
        said = explain_validation(caught.value)
        assert said.count("valid integer") == (0 if count > MAX_LISTED else MAX_FINDINGS)
        assert ("and 1 more" in said) is (count == MAX_FINDINGS + 1)
        assert (said == f"{count} values are wrong") is (count > MAX_LISTED)


@pytest.mark.parametrize("name", package_bombs())
def test_a_package_that_unpacks_to_much_is_refused_or_read_in_its_time(name: str, tmp_path: Path) -> None:
    """Names of 256 MB were kept in memory, holes of a terabyte hashed, and a chain of names overflowed the stack."""
    path = tmp_path / "x.deb"
    path.write_bytes(package_bombs()[name])
    if name == "members":
        assert list(package_files(path, "sha256")) == []  # 20,000 folders, of which none is a file
        return
    with pytest.raises(PolicyError) as refused:
        list(package_files(path, "sha256"))
    assert refused.value.reason is GateReason.BASELINE_SOURCE


def test_a_size_that_no_number_holds_is_refused(tmp_path: Path) -> None:
    """An extended header may claim one, and the tar reader multiplies it."""
    path = tmp_path / "x.deb"
    for size in ("9" * 30, str(1 << 63), "-1"):
        path.write_bytes(package({"debian-binary": b"2.0\n", "data.tar": pax({"size": size})}))
        with pytest.raises(PolicyError):
            list(package_files(path, "sha256"))


def test_many_cases_are_read_in_one_pass() -> None:
    """Each looked for its own line from the start of the file."""
    text = "".join(f'[[class_case]]\nname = "{number}"\nexpect = "default"\n' for number in range(400))
    key_lines, calls = toml_lines.key_lines, []

    def counted(text: str) -> dict[tuple[str | int, ...], int]:
        calls.append(text)
        return key_lines(text)

    with mock.patch.object(toml_lines, "key_lines", counted):
        cases = parse_cases(b'format = "ztrooted-cases/1"\n' + text.encode(), "the cases")
    assert [line for line, _ in cases.class_cases] == list(range(2, 1202, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("text", ["\x1ce30.e30.", "\x85e30.e30.", "e30.e30.\x1f"])
def test_a_token_is_what_was_given(text: str) -> None:
    """Only white space that a file may end in is left out of it."""
    with pytest.raises(ProofError):
        split_foreign(text)


@pytest.mark.parametrize("member", ["enrollment", "appraisal_policy", "class", "manifest", "now", "verdict"])
@pytest.mark.parametrize("value", [None, [], "x"], ids=["absent", "list", "text"])
def test_records_that_lie_about_their_form_are_refused_when_decided_again(member: str, value: object) -> None:
    """They raised KeyError and TypeError, so the command line showed a traceback."""
    bundle = json.loads(story())
    for one in bundle["records"]:
        record = json.loads(one["record"])
        body = record["body"].get("round", record["body"])
        if member in body:
            body[member] = value
            if value is None:
                del body[member]
        one["record"] = canonical_json(record).decode()
    with suppress(GateError, EvidenceError):
        redecide_file(canonical_json(bundle))
    decision = json.loads(decision_files()[0])
    record = json.loads(decision["record"])
    body = record["body"].get("round", record["body"])
    body[member] = value
    decision["record"] = canonical_json(record).decode()
    file = parse_decision_file(canonical_json(decision))
    with suppress(GateError, EvidenceError):
        explain(file)
    with pytest.raises((GateError, EvidenceError)):
        redecide(file)
