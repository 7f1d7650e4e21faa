"""What is in tensors and how far they lie apart, against NumPy on all of their values at once."""

from __future__ import annotations

import math
import os

import ml_dtypes
import numpy as np
import pytest

from ckptkit import tensor_values
from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.errors import CheckpointDamagedError
from ckptkit.tensor_values import Distance, Summary, distance_between, summary_of
from tests.checkpoint_dirs import flip

REAL = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "int8", "uint64", "bool"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """So that a tensor of some values comes in several pieces."""
    monkeypatch.setattr(tensor_values, "_PIECE", 7)


@pytest.fixture
def opened(tmp_path):
    """A function that writes tensors and opens their checkpoint."""
    bundles = []

    def write(**tensors):
        prefix = str(tmp_path / f"x-{len(bundles)}")
        with BundleWriter(prefix) as writer:
            for key, values in tensors.items():
                writer.add(key, values)
        bundles.append(Bundle(prefix))
        return bundles[-1]

    yield write
    for bundle in bundles:
        bundle.close()


def values_of(name, count=20, seed=0):
    numbers = np.random.default_rng(seed).integers(0 if name.startswith("u") else -3, 4, count)
    return numbers.astype(getattr(ml_dtypes, name, name))


def summary(opened, values):
    bundle = opened(x=values)
    return summary_of(bundle, bundle.entries["x"])


def distance(opened, a, b):
    left, right = opened(x=a), opened(x=b)
    return distance_between((left, left.entries["x"]), (right, right.entries["x"]))


# What is in one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_least_greatest_and_mean_are_those_of_all_pieces(opened, name):
    values = values_of(name)
    wide = values.astype(float)
    found = summary(opened, values.reshape(4, 5))
    assert (found.least, found.greatest, found.nans) == (wide.min(), wide.max(), 0)
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert type(found.least) in (int, float, bool)


def test_whole_numbers_stay_whole_beyond_what_a_float_holds(opened):
    found = summary(opened, np.array([2**63 - 1, -(2**63) + 1]))
    assert (found.least, found.greatest) == (-(2**63) + 1, 2**63 - 1)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e5m2", "complex64"])
def test_values_that_are_no_numbers_are_counted_and_left_out(opened, name):
    values = np.array([1.0] * 9 + [math.nan] * 8 + [3.0]).astype(getattr(ml_dtypes, name, name))
    assert summary(opened, values) == Summary(1.0, 3.0, 1.2, 8)


def test_a_tensor_without_numbers_has_none_to_tell(opened):
    assert summary(opened, np.full(9, math.nan)) == Summary(None, None, None, 9)
    assert summary(opened, np.zeros((0, 3), "float32")) == Summary(None, None, None, 0)
    assert summary(opened, np.array([b"a", b"b"], object)) is None


def test_a_scalar_infinities_and_complex_values_are_told(opened):
    assert summary(opened, np.array(2.5)) == Summary(2.5, 2.5, 2.5, 0)
    assert summary(opened, np.array([3 + 4j, 0])) == Summary(0.0, 5.0, 2.5, 0)
    found = summary(opened, np.array([-math.inf, math.inf]))
    assert (found.least, found.greatest) == (-math.inf, math.inf)
    assert math.isnan(found.mean)


def test_what_was_read_is_told_byte_by_byte(opened):
    told = []
    bundle = opened(x=np.arange(20.0))
    summary_of(bundle, bundle.entries["x"], told.append)
    assert told == [56, 56, 48]


def test_a_damaged_tensor_is_no_summary(opened, tmp_path):
    bundle = opened(x=np.arange(20.0))
    flip(str(tmp_path), "x-0.data-00000-of-00001", 100)
    with pytest.raises(CheckpointDamagedError, match="tensor 'x' has checksum"):
        summary_of(bundle, bundle.entries["x"])


def test_a_large_tensor_takes_no_more_memory_than_a_piece(opened, monkeypatch):
    monkeypatch.undo()
    bundle = opened(x=np.zeros(3 * tensor_values._PIECE + 1, "int16"))
    pieces = [piece.nbytes for piece in bundle.pieces(bundle.entries["x"], tensor_values._PIECE)]
    assert pieces == [2 * tensor_values._PIECE] * 3 + [2]


# How far two lie apart ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REAL, "complex64", "complex128"])
def test_the_change_is_the_norm_of_the_difference_by_that_of_the_first(opened, name):
    a, b = values_of(name, seed=1), values_of(name, seed=2)
    wide = [each.astype(complex) for each in (a, b)]
    found = distance(opened, a, b)
    assert found.change == pytest.approx(np.linalg.norm(wide[1] - wide[0]) / np.linalg.norm(wide[0]), rel=1e-12)
    assert found.differing == int((wide[0] != wide[1]).sum())
    assert found.nans == (0, 0)


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ([1.0] * 9, [1.0] * 9, Distance(0.0, 0)),
        ([0.0] * 9, [0.0] * 8 + [1.0], Distance(math.inf, 1)),
        ([0.0] * 9, [-0.0] * 9, Distance(0.0, 0)),
        ([3.0] + [math.nan] * 8, [6.0] + [math.nan] * 8, Distance(1.0, 1, (8, 8))),
        ([4.0, math.nan] * 5, [4.0] * 10, Distance(0.0, 5, (5, 0))),
        ([2.0, math.inf], [2.0, math.inf], Distance(0.0, 0)),
        ([2.0, 2.0], [2.0, math.inf], Distance(math.inf, 1)),
        ([3.0, math.inf], [6.0, math.inf], Distance(0.0, 1)),
        ([3e200, 4e200], [3e200, 9e200], Distance(1.0, 1)),
        ([3e-200, 4e-200], [3e-200, 9e-200], Distance(1.0, 1)),
        ([1.5e308], [-1.5e308], Distance(math.inf, 1)),
        (["a", "b"], ["a", "c"], Distance(None, 1)),
        (["a", "b"], ["a", "b"], Distance(None, 0)),
        ([], [], Distance(0.0, 0)),
        (7.0, 14.0, Distance(1.0, 1)),
    ],
    ids=str,
)
def test_what_is_odd_is_compared_as_well(opened, a, b, found):
    a, b = (
        np.array([s.encode() for s in x], object)
        if x and isinstance(x, list) and isinstance(x[0], str)
        else np.array(x)
        for x in (a, b)
    )
    got = distance(opened, a, b)
    assert (got.differing, got.nans) == (found.differing, found.nans)
    assert got.change == pytest.approx(found.change)


def test_whole_numbers_that_no_float_tells_apart_differ_all_the_same(opened):
    assert distance(opened, np.array([2**60]), np.array([2**60 + 1])).differing == 1


def test_one_that_is_stored_in_slices_is_laid_beside_one_that_is_not(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 5))
    with BundleWriter(str(tmp_path / "a")) as writer:
        writer.add("x", values[4:], "6 5 4,2:-")
        writer.add("x", values[:4], "6 5 0,4:-")
    with BundleWriter(str(tmp_path / "b")) as writer:
        writer.add("x", values)
    with Bundle(str(tmp_path / "a")) as a, Bundle(str(tmp_path / "b")) as b:
        assert distance_between((a, a.entries["x"]), (b, b.entries["x"])) == Distance(0.0, 0)


def test_damage_in_either_is_an_error(opened, tmp_path):
    a, b = opened(x=np.arange(20.0)), opened(x=np.arange(20.0))
    flip(str(tmp_path), "x-1.data-00000-of-00001", 100)
    with pytest.raises(CheckpointDamagedError, match=f"{os.sep}x-1"):
        distance_between((a, a.entries["x"]), (b, b.entries["x"]))
