"""Where a value stands in a TOML document."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted.toml_lines import key_lines, line_of

DOCUMENT = '''\
# comment
top = 1
dotted.inner = { a = 1, b = [1, 2] }

[class.default] # [not.a.table]
pcrs = [
  0, # one
  1,
]
text = """
[no.table]
key = 1
"""
other = \'\'\'
x = 2\'\'\'
last = "a # b"

[class."with.dot".sub]
key = 1

[[case]]
name = "first"
[[case]]
name = "second"
[case.parent]
depth = 1
'''

PLACES = {
    ("top",): 2,
    ("dotted",): 3,
    ("dotted", "inner", "b", 1): 3,
    ("class",): 5,
    ("class", "default"): 5,
    ("class", "default", "pcrs"): 6,
    ("class", "default", "pcrs", 1): 6,
    ("class", "default", "text"): 10,
    ("class", "default", "other"): 14,
    ("class", "default", "last"): 16,
    ("class", "with.dot", "sub", "key"): 19,
    ("case", 0, "name"): 22,
    ("case", 1): 23,
    ("case", 1, "name"): 24,
    ("case", 1, "parent", "depth"): 26,
    ("class", "default", "missing"): 5,
    ("missing",): None,
    (): None,
}


@pytest.mark.parametrize(("path", "line"), PLACES.items(), ids=str)
def test_a_value_is_found(path: tuple[str | int, ...], line: int | None) -> None:
    tomllib.loads(DOCUMENT)
    assert line_of(DOCUMENT, path) == line


KEYS = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
VALUES = st.sampled_from(["1", '"a=b"', "[1,\n 2]", '"""\n[x]\ny = 1\n"""', "{ z = 1 }", "'''\nq\n'''", "true # c = 1"])


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4))
def test_every_key_of_a_document_is_found_in_its_line(tables: dict[str, dict[str, str]]) -> None:
    text = "".join(
        f"[t{table}]\n" + "".join(f"{key} = {value}\n\n" for key, value in keys.items())
        for table, keys in tables.items()
    )
    tomllib.loads(text)
    lines, split = key_lines(text), text.split("\n")
    for table, keys in tables.items():
        assert split[lines[f"t{table}",] - 1] == f"[t{table}]"
        for key in keys:
            assert split[lines[f"t{table}", key] - 1].startswith(f"{key} = ")
