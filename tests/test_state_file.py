"""TensorFlow's state file without TensorFlow: it reads ours as we mean it, and we read its."""

from __future__ import annotations

import textwrap
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptkit import state_file
from ckptkit.state_file import StateFile

paths = st.text(min_size=1)
times = st.floats(allow_nan=False)


@st.composite
def states(draw):
    listed = draw(st.lists(st.tuples(paths, times), max_size=4))
    return StateFile(draw(paths), tuple(p for p, _ in listed), tuple(t for _, t in listed), draw(times))


@settings(deadline=None)
@given(states())
def test_what_is_written_is_read_back(state):
    assert StateFile.parse(state.to_text().encode()) == state


@settings(deadline=None)
@given(states())
@example(StateFile("é\x01'\"\n\r\t\\\x7f\x85\u2028\U0001f600\0" + "1", ("a\\1", "\x001"), (1e22, float("-inf")), -0.0))
def test_tensorflow_reads_and_prints_the_same_text(state):
    from google.protobuf import text_format
    from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

    theirs = text_format.Parse(state.to_text(), CheckpointState())
    assert theirs.model_checkpoint_path == state.model_checkpoint_path
    assert tuple(theirs.all_model_checkpoint_paths) == state.all_model_checkpoint_paths
    assert tuple(theirs.all_model_checkpoint_timestamps) == state.all_model_checkpoint_timestamps
    assert theirs.last_preserved_timestamp == state.last_preserved_timestamp

    printed = text_format.MessageToString(theirs)
    assert StateFile.parse(printed.encode()) == state
    # Protobuf leaves out a field that holds its default.
    unset = (
        ""
        if text_format.MessageToString(CheckpointState(last_preserved_timestamp=state.last_preserved_timestamp))
        else "last_preserved_timestamp: 0.0\n"
    )
    assert printed + unset == state.to_text()


def test_the_example_at_the_top_of_the_module_is_what_is_written():
    _, call, text, _ = state_file.__doc__.split("\n\n")
    assert eval(call.strip(), vars(state_file).copy()) == textwrap.dedent(text) + "\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r'"a\101"', "aA"),
        (r'"\x41\x4a"', "AJ"),
        (r'"\303\251"', "é"),
        (r'"\0011"', "\x011"),
        (r'"\n\r\t\"\'\\"', "\n\r\t\"'\\"),
        ("'single \"quoted\"'", 'single "quoted"'),
        ('"/moved/away/ckpt-1"', "/moved/away/ckpt-1"),
        ('"a: \\"b\\" c"', 'a: "b" c'),
    ],
)
def test_a_path_is_read_however_protobuf_may_escape_it(text, path):
    assert StateFile.parse(f"model_checkpoint_path: {text}".encode()).model_checkpoint_path == path


def test_layout_does_not_matter_and_unknown_fields_are_passed_over():
    text = (
        b'\n  model_checkpoint_path:"b"  extra : 3\n\tall_model_checkpoint_paths:"a" all_model_checkpoint_paths:  "b"'
    )
    assert StateFile.parse(text) == StateFile("b", ("a", "b"))


def test_of_two_values_for_one_field_the_last_counts_as_in_protobuf():
    text = (
        b'model_checkpoint_path: "a" last_preserved_timestamp: 1 model_checkpoint_path: "b" last_preserved_timestamp: 2'
    )
    assert StateFile.parse(text) == StateFile("b", last_preserved_timestamp=2.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "^names no checkpoint$"),
        (b"  \n", "^names no checkpoint$"),
        (b'all_model_checkpoint_paths: "a"', "^names no checkpoint$"),
        (b'model_checkpoint_path: ""', "^names no checkpoint$"),
        (b"\0\0\0\0", r"^not a CheckpointState: '\\x00\\x00\\x00\\x00'$"),
        (b'model_checkpoint_path: "ckpt-1', "^not a CheckpointState: 'model_checkpoint_path: \"ckpt-1'$"),
        (b'model_checkpoint_path: "ckpt-1"\nall_mod', r"^not a CheckpointState: '\\nall_mod'$"),
        (b"model_checkpoint_path: ckpt-1", "not a CheckpointState"),
        (b"\xff\xfe", "can't decode"),
        (rb'model_checkpoint_path: "\377"', "can't decode"),
        (b'model_checkpoint_path: "a" last_preserved_timestamp: soon', "could not convert string to float: 'soon'"),
        (b'model_checkpoint_path: "a" all_model_checkpoint_timestamps: "1"', "could not convert string to float"),
        (b'model_checkpoint_path: "a" all_model_checkpoint_timestamps: nan', "^a time in it is not a number$"),
        (b'model_checkpoint_path: "a" last_preserved_timestamp: nan', "^a time in it is not a number$"),
    ],
    ids=[
        "empty file",
        "blank",
        "no newest",
        "an empty name",
        "zeros, as power loss leaves them",
        "cut short in a name",
        "cut short in a field",
        "a name without quotes",
        "not utf-8",
        "a name that is not utf-8",
        "a time that is no number",
        "a time in quotes",
        "a time that is nan",
        "a time kept that is nan",
    ],
)
def test_a_file_that_is_no_state_file_is_refused_and_told_why(content, message):
    with pytest.raises(ValueError, match=message):
        StateFile.parse(content)


@st.composite
def nearly_states(draw):
    text = draw(states()).to_text().encode()
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]


@settings(deadline=None, max_examples=300)
@given(st.binary() | st.text().map(str.encode) | nearly_states())
@example(b"model_checkpoint_path: 1")
def test_whatever_bytes_a_state_file_holds_it_is_read_or_refused_with_value_error(content):
    with suppress(ValueError):
        assert isinstance(StateFile.parse(content), StateFile)
