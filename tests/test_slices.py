"""Parts of tensors: how they read, what they pick, and the keys under which TensorFlow stores them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.slices import TensorSlice, are_tiles, overlap, parse_shape_and_slice, slice_key, within
from ckptkit.table import decode_table

SPECS = [
    "20 10 0,10:-",
    "20 10 7,13:2,3",
    "1000 300,64",
    "70000 10 65535,4000:-",
    "3 3 3 -:1,1:-",
    "100 63,1",
    "100 64,1",
]
BIG = [f"{2**bits + 9} {2**bits - 1},3" for bits in (13, 20, 27, 34, 41, 48, 55, 61, 62)]
NAMES = ["kernel", "a/b/.ATTRIBUTES/VARIABLE_VALUE", "gewöhnlich/重み", "nul\0nul", "x" * 500]


def keys_of_tensorflow(folder, name, spec):
    _, part = parse_shape_and_slice(spec)
    shape = [1 if extent is None else extent[1] for extent in part.extents]
    spec = " ".join("1" if e is None else dim for dim, e in zip(spec.split(), part.extents)) + f" {part}"
    prefix = str(folder / "x")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=[name], shape_and_slices=[spec], tensors=[tf.zeros(shape, tf.uint8)])
    with open(prefix + ".index", "rb") as file:
        return [key for key, _ in decode_table(file.read(), "x")], part


@pytest.mark.parametrize("spec", SPECS + BIG)
def test_a_key_is_the_one_that_tensorflow_gives(spec, tmp_path):
    keys, part = keys_of_tensorflow(tmp_path, "kernel", spec)
    assert slice_key("kernel", part) in keys


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_key_of_any_name_is_the_one_that_tensorflow_gives(name, tmp_path):
    keys, part = keys_of_tensorflow(tmp_path, name, "20 3 4,7:1,2")
    assert slice_key(name, part) in keys


def test_a_name_that_is_not_unicode_has_a_key_too(tmp_path):
    keys, part = keys_of_tensorflow(tmp_path, b"\xff\x00\xfe\xff\xff", "20 3,4")
    assert slice_key(b"\xff\x00\xfe\xff\xff".decode("utf-8", "surrogateescape"), part) in keys


part_of = st.integers(0, 2**63 - 2).flatmap(lambda start: st.tuples(st.just(start), st.integers(1, 2**63 - 1 - start)))


@given(st.lists(st.tuples(st.text(max_size=3), part_of), min_size=2, max_size=2))
@settings(max_examples=300)
def test_keys_are_in_the_order_of_names_starts_and_lengths(pair):
    below, above = sorted(pair, key=lambda each: (each[0].encode(), each[1]))
    keys = [slice_key(name, TensorSlice((extent,))) for name, extent in (below, above)]
    assert keys == sorted(keys)
    assert (keys[0] == keys[1]) == (below == above)


@pytest.mark.parametrize("text", ["-", "0,5", "0,5:-:3,1"])
def test_a_slice_reads_as_it_is_written(text):
    assert str(TensorSlice.parse(text)) == text


def test_a_part_has_a_shape_and_picks_its_values():
    shape, part = parse_shape_and_slice("4 3 1,2:-")
    assert (shape, part.shape_in(shape)) == ((4, 3), (2, 3))
    assert np.arange(12).reshape(shape)[part.bounds_in(shape)].tolist() == [[3, 4, 5], [6, 7, 8]]


def test_the_whole_of_a_tensor_is_a_part_too():
    assert str(TensorSlice.whole((4, 3))) == "-:-"
    assert TensorSlice.whole((4, 0)).shape_in((4, 0)) == (4, 0)
    assert TensorSlice.whole(()).shape_in(()) == ()


@pytest.mark.parametrize("text", ["", "5", "1,2,3", "a,b", "-1,2", "0,0", "3,-1", "0,5:", f"{2**63 - 1},1"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(ValueError, match=r"a slice reads like '0,5:-', got "):
        TensorSlice.parse(text)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("20 10 0,5", "slice 0,5 is of 1 dimensions, shape (20, 10) has 2"),
        ("20 18,3", "slice 18,3 reaches beyond shape (20,)"),
        ("x 0,1", "invalid literal for int() with base 10: 'x'"),
        ("20 10 0,5:7", "a slice reads like '0,5:-', got '0,5:7'"),
        ("", "not enough values"),
        (" ", "not enough values"),
        ("0,1", "slice 0,1 is of 1 dimensions, shape () has 0"),
    ],
)
def test_what_is_no_shape_and_slice_is_refused_and_why(spec, why):
    with pytest.raises(ValueError, match="a shape and slice reads like '20 10 0,5:-', got ") as caught:
        parse_shape_and_slice(spec)
    assert why in str(caught.value)


bounds = st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: slice(*sorted(pair)))] * 2)


@given(bounds, bounds)
def test_an_overlap_is_what_both_pick_and_lies_within_each(a, b):
    picked = np.zeros((2, 6, 6), bool)
    picked[0][a] = picked[1][b] = True
    both = picked.all(0)
    common = overlap(a, b)
    assert (common is None) == (not both.any())
    if common is not None:
        again = np.zeros((6, 6), bool)
        again[common] = True
        assert (again == both).all()
        inside = np.zeros((6, 6), bool)
        inside[a][within(common, a)] = True
        assert (inside == both).all()


@given(st.lists(bounds, max_size=4))
def test_parts_are_tiles_if_they_pick_every_element_once(parts):
    times = np.zeros((6, 6), int)
    for part in parts:
        times[part] += 1
    assert are_tiles(parts, (6, 6)) == (times == 1).all()


@given(st.lists(st.integers(0, 6), unique=True), st.lists(st.integers(0, 6), unique=True), st.randoms())
def test_what_a_tensor_is_cut_into_are_tiles_in_any_order_and_none_of_them_can_be_missing(rows, columns, random):
    def pieces(cuts):
        edges = sorted({0, 6, *cuts})
        return [slice(*pair) for pair in itertools.pairwise(edges)]

    parts = [(row, column) for row in pieces(rows) for column in pieces(columns)]
    random.shuffle(parts)
    assert are_tiles(parts, (6, 6))
    assert not are_tiles(parts[1:], (6, 6))


def test_a_scalar_is_tiled_by_itself_once():
    assert [are_tiles([()] * times, ()) for times in range(3)] == [False, True, False]
