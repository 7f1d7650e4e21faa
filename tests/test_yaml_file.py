"""A YAML file as plain values with their lines: YAML's own types and nothing else, and every fault with its place."""

from __future__ import annotations

import re

import pytest

from ckptkit.errors import ConfigError
from ckptkit.yaml_file import YamlFile, unquoted


def file_of(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return YamlFile(path)


def values(file):
    """Every value of the outermost mapping, with its line."""
    return {
        name: (file.value(entry.value), entry.value.start_mark.line + 1)
        for name, entry in file.mapping(file.root, "the file").items()
    }


# What is read ------------------------------------------------------------------------------------------------------


def test_values_of_yamls_own_types_are_read_with_their_lines(tmp_path):
    text = "# first\na: 3\nb: 2.5\nc: [x, 1]\nd: null\ne: yes\nf: 'yes'\n1: ü\n"
    assert values(file_of(tmp_path, text)) == {
        "a": (3, 2),
        "b": (2.5, 3),
        "c": (["x", 1], 4),
        "d": (None, 5),
        "e": (True, 6),
        "f": ("yes", 7),
        "1": ("ü", 8),
    }


def test_what_is_merged_gives_way_to_what_is_there_and_the_first_merged_to_none_behind_it(tmp_path):
    text = "a: &a {x: 1, y: 1, z: 1}\nb: &b {y: 2, w: 2}\nc:\n  x: 3\n  <<: [*a, *b]\n"
    file = file_of(tmp_path, text)
    merged = file.mapping(file.mapping(file.root, "the file")["c"].value, "c")
    assert {name: file.value(entry.value) for name, entry in merged.items()} == {"x": 3, "y": 1, "z": 1, "w": 2}
    assert merged["w"].key.start_mark.line == 1


def test_merges_of_merges_of_merges_take_no_time(tmp_path):
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 30)]  # 10**29 ways to a0
    file = file_of(tmp_path, "\n".join(lines))
    last = file.mapping(file.root, "the file")["a29"].value
    assert list(file.mapping(last, "a29")) == ["x"]


def test_a_byte_order_mark_and_an_end_of_document_are_no_fault(tmp_path):
    assert values(file_of(tmp_path, b"\xef\xbb\xbfa: 1\n...\n")) == {"a": (1, 1)}


def test_what_a_text_would_be_without_its_quotes():
    assert [unquoted(text) for text in ("3", "yes", "null", "1e3", "2024-13-45", "<<", "a")] == [
        3,
        True,
        None,
        "1e3",
        "2024-13-45",
        "<<",
        "a",
    ]


# What is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "run.yaml is empty."),
        (b"# nothing\n---\n", "run.yaml is empty."),
        (b"a: 1\nb: \xff\n", "run.yaml, line 2: this is not UTF-8: invalid start byte."),
        ("a: 1\n".encode("utf-16"), "run.yaml, line 1: this is not UTF-8"),
        (b"a: 1\nb: \x07", "run.yaml, line 2: the character '\\x07' may not stand in YAML."),
        (b"a: 1\n---\nb: 2\n", "run.yaml, line 2: this is not YAML as it is read here: expected a single document"),
        (b"a: 1\nb: c: d\n", "run.yaml, line 2: this is not YAML as it is read here: mapping values are not allowed"),
        (b"a: 1\n\tb: 1\n", "run.yaml, line 2: this is not YAML as it is read here: while scanning"),
        (b"a: [1\n", "run.yaml, line 2: this is not YAML as it is read here: while parsing a flow sequence, expected"),
        (b"a: *b\n", "run.yaml, line 1: this is not YAML as it is read here: found undefined alias 'b'."),
        (b'a: "\\UFFFFFFFF"\n', "run.yaml is not YAML: "),
        (b"[" * 100_000, "run.yaml is nested too deeply."),
        (b"a: 1\n" + b"#" * 1_000_000, "run.yaml has more than 1000000 bytes: that is no file of options."),
    ],
    ids=lambda value: value[-20:],
)
def test_a_file_that_is_no_single_yaml_document_is_refused(tmp_path, content, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        file_of(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just text", "line 1: the file must be a mapping of names to values, got 'just text'."),
        ("- a", "line 1: the file must be a mapping of names to values, got a list."),
        ("!!set {a, b}", "line 1: the file must be a mapping of names to values, got a mapping."),
        ("!run {a: 1}", "line 1: the file must be a mapping of names to values, got a value tagged '!run'."),
        ("a: 1\nb: 2\na: 3", "line 3: the file has 'a' twice, first at line 1."),
        ("a: 1\n'a': 3", "line 2: the file has 'a' twice, first at line 1."),
        ("[1]: 3", "line 1: a plain value is wanted here, got a list."),
        ("a: 1\nb:\n  c: 3", "line 3: a plain value is wanted here, got a mapping."),
        ("a: &b [1, *b]", "line 1: a plain value is wanted here, got a list."),
        ("a: 1\nb: !!python/name:os.system ''", "line 2: values tagged 'tag:yaml.org,2002:python/name:os.system' are"),
        ("!!python/name:os.system a: 1", "line 1: values tagged 'tag:yaml.org,2002:python/name:os.system' are not rea"),
        ("a: !!python/object/apply:os.system ['true']", "line 1: a plain value is wanted here, got a list."),
        ("a: !!binary aGk=", "line 1: values tagged 'tag:yaml.org,2002:binary' are not read."),
        ("a: <<", "line 1: values tagged 'tag:yaml.org,2002:merge' are not read."),
        ("a: 2024-01-31", "line 1: YAML reads 2024-01-31 as a date: put it into quotes."),
        ("a: 010", "line 1: YAML reads 010 as 8: write 8, or put it into quotes."),
        ("a: 1:30", "line 1: YAML reads 1:30 as 90: write 90, or put it into quotes."),
        ("a: 1:30.5", "line 1: YAML reads 1:30.5 as 90.5: write 90.5, or put it into quotes."),
        ("a: !!int three", "line 1: 'three' is no int."),
        ("a: !!int ''", "line 1: '' is no int."),
        ("a: !!bool maybe", "line 1: 'maybe' is no bool."),
        ("a: " + "9" * 5000, "is no int."),
        ("<<: 3", "line 1: what << merges must be a mapping of names to values, got '3'."),
        ("<<:", "line 1: what << merges must be a mapping of names to values, got nothing."),
        ("&a\nb: 1\n<<: *a", "what << merges is merged into itself."),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_plain_value_under_one_name_is_refused_with_its_line(tmp_path, text, message):
    file = file_of(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        values(file)


def test_a_list_is_told_from_what_is_none(tmp_path):
    file = file_of(tmp_path, "a: [1, 2]\nb: 1\nc: !!omap [a: 1]\n")
    entries = file.mapping(file.root, "the file")
    assert [file.value(node) for node in file.sequence(entries["a"].value) or []] == [1, 2]
    assert file.sequence(entries["b"].value) is None
    assert file.sequence(entries["c"].value) is None


def test_a_file_that_is_not_there_is_missing_as_python_says_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*run.yaml"):
        YamlFile(tmp_path / "run.yaml")
