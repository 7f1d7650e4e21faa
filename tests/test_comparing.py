"""Two checkpoints side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ckptkit.bundle import Bundle
from ckptkit.bundle_index import Entry, encode_index
from ckptkit.bundle_writer import BundleWriter
from ckptkit.checksums import crc32c
from ckptkit.comparing import Moved, Other, compare
from ckptkit.errors import CheckpointDamagedError
from ckptkit.tensor_values import Distance
from tests.checkpoint_dirs import flip
from tests.named_tensors import END, PLAIN, graph_of


def write(folder, name, tensors):
    prefix = str(folder / name)
    with BundleWriter(prefix) as writer:
        for key, values in tensors.items():
            writer.add(key, np.array(values, object) if isinstance(values, bytes) else np.asarray(values))
    return prefix


def compared(folder, a, b, told=lambda size: None):
    with Bundle(write(folder, "a", a)) as left, Bundle(write(folder, "b", b)) as right:
        return compare(left, right, told)


def test_a_checkpoint_is_the_same_as_its_copy(tmp_path):
    tensors = {"kernel": np.eye(3), "text": b"words", "nan": math.nan}
    found = compared(tmp_path, tensors, tensors)
    assert found.is_same
    assert {each.key for each in found.same} == {"kernel", "text", "nan"}
    assert found.others == found.moved == ()


def test_what_only_one_has_and_what_has_another_shape_or_dtype_is_told(tmp_path):
    found = compared(
        tmp_path,
        {"same": 1.0, "gone": np.zeros(2), "shape": np.zeros((2, 3)), "dtype": np.zeros(2)},
        {"same": 1.0, "new": np.zeros((), "int32"), "shape": np.zeros((3, 2)), "dtype": np.zeros(2, "float32")},
    )
    assert set(found.others) == {
        Other("gone", "gone", "(2,) float64", None),
        Other("new", "new", None, "() int32"),
        Other("shape", "shape", "(2, 3) float64", "(3, 2) float64"),
        Other("dtype", "dtype", "(2,) float64", "(2,) float32"),
    }
    assert [each.key for each in found.same] == ["same"]
    assert not found.is_same


def test_what_has_moved_is_sorted_by_how_far_and_what_has_no_numbers_comes_last(tmp_path):
    found = compared(
        tmp_path,
        {"a": [1.0, 1.0], "b": [1.0], "c": [0.0], "d": b"x", "e": [2.0], "f": [1.0]},
        {"a": [1.0, 2.0], "b": [3.0], "c": [5.0], "d": b"y", "e": [2.0], "f": [3.0]},
    )
    assert [each.key for each in found.moved] == ["c", "b", "f", "a", "d"]
    assert found.moved[1] == Moved("b", "b", Distance(2.0, 1))
    assert found.moved[-1].distance == Distance(None, 1)
    assert not found.is_same


def test_variables_go_by_the_names_that_either_has(tmp_path):
    a = {f"m/a{END}": [1.0], f"m/b{END}": [1.0], PLAIN: graph_of({f"m/a{END}": "dense/kernel"})}
    b = {f"m/a{END}": [2.0], f"m/c{END}": [1.0], PLAIN: graph_of({f"m/a{END}": "other", f"m/c{END}": "dense/bias"})}
    found = compared(tmp_path, a, b)
    assert found.moved[0].name == "dense/kernel"
    assert [each.name for each in found.others] == ["dense/bias", "m/b"]


def test_what_nobody_here_can_read_goes_by_its_bytes(tmp_path):
    for name, content in (("a", b"12345678"), ("b", b"12345678"), ("c", b"12345679")):
        entry = Entry("x", "resource", (2,), size=8, checksum=crc32c(content))
        (tmp_path / f"{name}.index").write_bytes(encode_index([entry], 1))
        (tmp_path / f"{name}.data-00000-of-00001").write_bytes(content)
    with Bundle(str(tmp_path / "a")) as a, Bundle(str(tmp_path / "b")) as b:
        assert compare(a, b).is_same
        with Bundle(str(tmp_path / "c")) as c:
            assert compare(a, c).moved == (Moved("x", "x", Distance(None, 1)),)
        (tmp_path / "b.data-00000-of-00001").write_bytes(b"1234567?")
        with pytest.raises(CheckpointDamagedError, match="tensor 'x' has checksum"):
            compare(a, b)


def test_damage_is_an_error_and_no_difference(tmp_path):
    prefixes = [write(tmp_path, name, {"x": np.arange(9.0)}) for name in "ab"]
    flip(str(tmp_path), "b.data-00000-of-00001", 20)
    with Bundle(prefixes[0]) as a, Bundle(prefixes[1]) as b, pytest.raises(CheckpointDamagedError, match="tensor 'x'"):
        compare(a, b)


def test_every_byte_that_is_read_is_told(tmp_path):
    told = []
    compared(tmp_path, {"x": np.zeros(4), "s": b"abc"}, {"x": np.ones(4), "y": np.zeros(9), "s": b"abc"}, told.append)
    with Bundle(str(tmp_path / "a")) as a:
        assert sum(told) == 2 * sum(entry.size_bytes for entry in a.entries.values())
