"""RunState: what goes into a checkpoint beside the variables comes out of it, bit by bit, and nothing else goes in."""

import dataclasses
import enum
import json
import math
import random
import re
import struct
from collections import OrderedDict, namedtuple
from contextlib import suppress
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ckptkit
from ckptkit.run_state import FitState, RunState, pack, unpack

MARK = "__ckptkit__"
QUICK = settings(max_examples=100, deadline=None)
SLOWER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# A high surrogate before a low one is another test's matter.
texts = st.one_of(
    st.text(), st.sampled_from(["\ud800", "\udfff\ud800", "a\udc80", MARK, "value", "", "\0", "é"])
).filter(lambda text: not re.search("[\ud800-\udbff][\udc00-\udfff]", text))
dtypes = st.sampled_from(
    [np.dtype(name) for name in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")]
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
brain_floats = hnp.arrays("u2", hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=3)).map(
    lambda bits: bits.view(ml_dtypes.bfloat16)
)
# Numbers that NumPy has made: a NaN's payload is not kept, for which reason there is only one NaN here.
scalars = st.sampled_from(["bool", "i1", "i4", "i8", "u1", "u8", "f2", "f4", "f8"]).flatmap(
    lambda name: hnp.from_dtype(np.dtype(name), allow_nan=False)
) | st.just(np.float32("nan"))
floats = st.floats(allow_nan=False) | st.sampled_from([math.nan, -0.0, 5e-324, math.inf, -math.inf, 0.1])
plain = st.none() | st.booleans() | st.integers() | floats | st.binary() | texts
keys = st.recursive(plain, lambda inner: st.lists(inner, max_size=2).map(tuple), max_leaves=3)
trees = st.recursive(
    plain | arrays | brain_floats | scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(one, other):
    """Say whether two trees are alike to the bit, types and order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.keys()), list(other.keys())) and same(list(one.values()), list(other.values()))
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


@pytest.fixture(scope="module")
def through_disk(tmp_path_factory):
    """Return a function that saves packed values in a checkpoint and reads them back from it."""
    checkpoint = tf.train.Checkpoint(variable=tf.Variable(0.0))
    with ckptkit.CheckpointManager(checkpoint, tmp_path_factory.mktemp("run"), 1, durable=False) as manager:

        def there_and_back(values):
            manager.save(state=values)
            return manager.state(manager.records()[-1])

        yield there_and_back


@pytest.fixture(params=["memory", "disk"])
def back(request):
    """Return a function that packs a value and unpacks it, with or without a checkpoint in between."""
    carry = request.getfixturevalue("through_disk") if request.param == "disk" else dict
    return lambda value: unpack(carry(pack(value, "state")), "state")


@pytest.fixture
def back_from_disk(through_disk):
    return lambda value: unpack(through_disk(pack(value, "state")), "state")


# pack and unpack -----------------------------------------------------------------------------------------------------


@QUICK
@given(trees)
@example({MARK: "tuple", "value": [1]})
@example({1: "int", "1": "text", False: "bool", 1.5: "float", b"1": "bytes", None: "none", (1, b""): "tuple"})
@example([np.array([1 + 2j], "c8"), np.array(True), np.zeros((0, 3), "f2")])
def test_unpack_after_pack_is_the_identity(tree):
    assert same(unpack(pack(tree, "state"), "state"), tree)


@SLOWER
@given(tree=trees)
@example(tree={MARK: {MARK: (math.nan, -0.0, "\ud800", b"\xff\0", 2**200)}})
@example(tree=[np.zeros((0, 3), ml_dtypes.bfloat16), np.array(-0.0), (np.float32(1e-45), np.uint64(2**64 - 1))])
def test_a_tree_that_was_saved_in_a_checkpoint_is_read_back_bit_by_bit(through_disk, tree):
    assert same(unpack(through_disk(pack(tree, "state")), "state"), tree)


def test_same_can_tell_what_is_almost_alike():
    pairs = [(0.0, -0.0), (1, True), (1, 1.0), ((1,), [1]), ("a", b"a"), (np.float32(1), 1.0), ({"a": 1, "b": 2},) * 2]
    assert [same(one, other) for one, other in pairs] == [False] * 6 + [True]
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same(np.zeros(2, "f4"), np.zeros(2, "f8"))
    assert not same(np.zeros((1, 2)), np.zeros((2, 1)))


def test_the_states_of_pythons_and_numpys_generators_come_back_as_they_can_be_set(back):
    one, other = random.Random(5), np.random.RandomState(5)
    one.gauss(0, 1), other.standard_normal()  # each keeps the second of a pair for later
    state = back(
        {"python": one.getstate(), "numpy": other.get_state(), "new": np.random.default_rng(5).bit_generator.state}
    )
    assert same(state["python"], one.getstate())
    assert same(state["numpy"], other.get_state())
    assert state["new"] == np.random.default_rng(5).bit_generator.state
    again, numpy_again = random.Random(), np.random.RandomState()
    again.setstate(state["python"])
    numpy_again.set_state(state["numpy"])
    assert [again.gauss(0, 1), again.random()] == [one.gauss(0, 1), one.random()]
    assert list(numpy_again.standard_normal(3)) == list(other.standard_normal(3))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (tf.constant([1, 2], tf.int32), np.array([1, 2], "i4")),
        (tf.Variable([1.5]), np.array([1.5], "f4")),
        (tf.constant(True), np.array(True)),
        (tf.constant([1.5], tf.bfloat16), np.array([1.5], ml_dtypes.bfloat16)),
        (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy()),
        (np.arange(6)[::-2], np.array([5, 3, 1])),
        (np.array([1, 2], ml_dtypes.float8_e4m3fn), np.array([1, 2], ml_dtypes.float8_e4m3fn)),
        (np.array([1.0], ">f4"), np.array([1.0], "f4")),
    ],
    ids=["tensor", "variable", "0-d bool", "bfloat16", "transposed", "reversed", "float8", "big-endian"],
)
def test_tensors_and_arrays_of_any_layout_come_back_as_arrays(back_from_disk, value, expected):
    assert same(back_from_disk([value]), [expected])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (enum.IntEnum("Number", {"THREE": 3}).THREE, 3),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (MappingProxyType({"a": (1,)}), {"a": (1,)}),
        (namedtuple("Point", "x y")(1, 2), (1, 2)),
        (type("Number", (float,), {})(1.5), 1.5),
        (np.bytes_(b"x"), b"x"),
    ],
    ids=["int enum", "ordered", "proxy", "namedtuple", "float subclass", "bytes of numpy"],
)
def test_a_subclass_comes_back_as_what_it_is_a_kind_of(back, value, expected):
    assert same(back({"value": value}), {"value": expected})


class Colour(str, enum.Enum):
    RED = "red"


def test_a_member_of_an_enum_of_texts_comes_back_as_its_text():
    assert unpack(pack([Colour.RED], "state"), "state") == ["red"]


def test_a_key_from_an_enum_of_texts_comes_back_as_its_text():
    assert unpack(pack({Colour.RED: 1}, "state"), "state") == {"red": 1}


def test_a_key_that_is_numpys_text_comes_back_as_text():
    assert unpack(pack({np.str_("a"): 1}, "state"), "state") == {"a": 1}


def test_numpys_text_comes_back_as_text(back_from_disk):
    assert same(back_from_disk([np.str_("a")]), ["a"])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn], ids=["bfloat16", "float8"])
def test_a_zero_dimensional_array_of_a_small_float_comes_back_from_a_checkpoint(back_from_disk, dtype):
    assert same(back_from_disk([np.array(1.5, dtype)]), [np.array(1.5, dtype)])


@pytest.mark.parametrize("value", [np.complex64(1 + 2j), ml_dtypes.bfloat16(1.5)], ids=["complex64", "bfloat16"])
def test_other_scalars_of_numpy_come_back_as_scalars(value):
    assert same(unpack(pack([value], "state"), "state"), [value])


def test_an_array_can_be_changed_in_place_after_it_was_read_back(back_from_disk):
    counts = back_from_disk({"counts": np.array([1, 2])})["counts"]
    assert counts.flags.writeable


def test_two_surrogates_that_make_a_pair_stay_two():
    assert unpack(pack("\ud83d\ude00", "state"), "state") == "\ud83d\ude00"


def test_arrays_lie_beside_the_text_under_numbers(back):
    values = pack({"a": [np.zeros(2), np.ones(3)], "b": np.float32(1)}, "state")
    assert list(values) == ["state", "state/0", "state/1"]
    assert isinstance(values["state"], str)
    assert same(back([np.zeros(2), np.ones(3)]), [np.zeros(2), np.ones(3)])


def test_two_trees_of_different_names_share_a_checkpoint(through_disk):
    values = through_disk({**pack([np.zeros(2)], "one"), **pack([np.ones(3), 1], "two")})
    assert same(unpack(values, "one"), [np.zeros(2)])
    assert same(unpack(values, "two"), [np.ones(3), 1])


@pytest.mark.parametrize("kind", [str, str.encode, lambda text: np.array(text.encode()), tf.constant])
def test_the_text_may_be_text_bytes_an_array_or_a_tensor(kind):
    values = pack({"a": "é\ud800"}, "state")
    assert unpack({"state": kind(values["state"])}, "state") == {"a": "é\ud800"}


def test_pack_does_not_write_into_what_it_is_given():
    tree = {"a": [1, {"b": (2, np.zeros(1))}], MARK: {3: 4}}
    before = repr(tree)
    pack(tree, "state")
    assert repr(tree) == before


def test_an_array_changed_after_a_save_that_waits_to_be_written_is_saved_as_it_was(tmp_path, gate):
    array = np.zeros(100_000, "float32")
    checkpoint = tf.train.Checkpoint(variable=tf.Variable(0.0))
    with ckptkit.CheckpointManager(checkpoint, tmp_path, 1, durable=False, async_save=True) as manager:
        manager.save(state=pack({"array": array}, "state"))
        array += 1
        gate.set()
        manager.wait_until_finished()
        assert not unpack(manager.state(manager.records()[-1]), "state")["array"].any()


REFUSED = {
    "at the top": ({1, 2}, "cannot store the value: set is not a number, text, bytes, array, or a list"),
    "in a dict": ({"a": object()}, r"cannot store \['a'\]: object is not"),
    "in a list in a tuple": ({"a": (0, [1, {2: {3}}])}, r"cannot store \['a'\]\[1\]\[1\]\[2\]: set is not"),
    "a complex number": ([1j], r"cannot store \[0\]: complex is not"),
    "a bytearray": ([bytearray(b"x")], r"cannot store \[0\]: bytearray is not"),
    "a function": ({"f": print}, r"cannot store \['f'\]: builtin_function_or_method is not"),
    "a member of a plain enum": ([enum.Enum("Kind", "A").A], r"cannot store \[0\]: Kind is not"),
    "a type of TensorFlow": ([tf.float32], r"cannot store \[0\]: DType is not"),
    "as a key": ({"a": {frozenset([1]): 2}}, r"cannot store a key of \['a'\]: frozenset is not"),
    "in a key": ({"a": {(1, frozenset()): 2}}, r"cannot store a key of \['a'\]\[1\]: frozenset is not"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stored_is_refused_by_its_place(value, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        pack(value, "state")


def test_a_key_of_the_outermost_dict_is_refused_without_a_gap_in_the_message():
    with pytest.raises(TypeError, match=r"^cannot store [^ ].*key"):
        pack({frozenset([1]): 2}, "state")


UNSTORABLE = {
    "objects": np.array([object()]),
    "long doubles": np.longdouble(1),
    "a date": np.datetime64("2020"),
    "a structure": np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
    "a ragged tensor": tf.ragged.constant([[1], [2, 3]]),
    "a spec": tf.TensorSpec([1]),
    "a class of numpy": np.float32,
    "a masked array": np.ma.array([1, 2], mask=[False, True]),  # would come back without its mask
    "texts": np.array(["a", "bc"]),  # would come back as bytes, in an array of objects
}


@pytest.mark.parametrize("value", UNSTORABLE.values(), ids=UNSTORABLE)
def test_an_array_that_tensorflow_has_no_type_for_is_refused_by_its_place(value):
    with pytest.raises(TypeError, match=r"cannot store \['a'\]\[0\]"):
        pack({"a": [value]}, "state")


# RunState ------------------------------------------------------------------------------------------------------------


def a_fit(**changes):
    known = {
        "epoch": 3,
        "batch": 120,
        "history": {"loss": [0.9, math.nan, 0.1], "lr": [np.float32(0.1)] * 3},
        "epochs": (0, 1, 2),
        "stopped": True,
        "validating": True,
        "logs": {"loss": np.array(0.25, "f4")},
        "random": {"python": random.Random(1).getstate()},
        "callbacks": {
            "EarlyStopping": {"best": 0.1, "wait": 2, "best_weights": [np.ones((2, 3), "f4")]},
            "Mine": [1, None],
        },
        "inputs": {"train": {"drawn": 3, "before": [10], "state": (tf.constant(b"abc"),), "spec": None}},
        "asked": 20,
        "model": {"optimizer": "Adam", "is_built": True, "metrics": ["Mean"]},
    }
    return FitState(**{**known, **changes})


def test_a_run_state_comes_back_from_a_checkpoint(through_disk):
    state = RunState((a_fit().when_over(), a_fit(batch=0, stopped=False)))
    values = through_disk(state.to_values())
    again = RunState.from_values(values)
    over, under_way = [fit.inputs["train"].pop("state") for fit in again.fits]
    assert (over, under_way[0].numpy()) == ((), b"abc")
    both = [RunState(tuple(dataclasses.replace(fit, inputs={}) for fit in run.fits)) for run in (again, state)]
    assert same(*[[vars(fit) for fit in run.fits] for run in both])


def test_every_field_of_a_fit_is_stored():
    names = [field.name for field in dataclasses.fields(FitState)]
    (stored,) = json.loads(RunState((a_fit(),)).to_values()["run_state"])["fits"]
    assert list(stored) == names
    assert all(getattr(a_fit(), name) != getattr(FitState(), name) for name in names), "the example leaves none out"


def test_the_synopsis_of_the_module_is_true():
    state = RunState((FitState(epoch=3, batch=120, history={"loss": [0.9, 0.5, 0.4]}, epochs=(0, 1, 2)),))
    assert RunState.from_values(state.to_values()) == state


@pytest.mark.parametrize("fits", [(), (FitState(),), (FitState(1), FitState(2))], ids=["none", "one", "two"])
def test_a_run_of_any_number_of_fits_comes_back_under_any_name(through_disk, fits):
    assert RunState.from_values(through_disk(RunState(fits).to_values("mine")), "mine") == RunState(fits)


def test_fields_of_a_newer_version_are_ignored_and_those_of_an_older_one_take_their_defaults():
    values = pack({"fits": [{"epoch": 2, "colour": "red"}], "weather": "fine"}, "run_state")
    assert RunState.from_values(values) == RunState((FitState(epoch=2),))


def test_a_field_of_a_newer_version_may_hold_a_kind_of_value_of_a_newer_version():
    text = json.dumps({"fits": [{"epoch": 2, "seen": {MARK: "set", "value": [1]}}]})
    assert RunState.from_values({"run_state": text}) == RunState((FitState(epoch=2),))


def test_a_fit_that_is_over_keeps_all_but_iterators_and_logs():
    fit, over = a_fit(), a_fit().when_over()
    assert over.inputs == {"train": {**fit.inputs["train"], "state": ()}}
    assert over.logs == {}
    rest = {"inputs": {}, "logs": {}}
    assert same(vars(dataclasses.replace(over, **rest)), vars(dataclasses.replace(fit, **rest)))
    assert fit.inputs["train"]["state"] != (), "nothing is changed in place"
    assert same(vars(over.when_over()), vars(over))


def test_a_fit_that_is_over_may_have_had_no_callbacks_and_no_inputs():
    assert FitState(epoch=1).when_over() == FitState(epoch=1)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"fits": 3}', '{"fits": [{"epoch": {"__ckptkit__": "array", "value": 7}}]}', '{"fit": []}']
)
def test_what_is_no_run_state_is_damaged(text):
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"what was saved as 'run_state' cannot be read: .*Error"):
        RunState.from_values({"run_state": text})


@pytest.mark.parametrize(
    ("fit", "epochs", "is_over"),
    [
        (FitState(epoch=3), 3, True),
        (FitState(epoch=3), 2, True),
        (FitState(epoch=3), 4, False),
        (FitState(epoch=3, stopped=True, asked=9), 9, True),
        (FitState(epoch=3, stopped=True, asked=9), 8, True),
        (FitState(epoch=3, stopped=True, asked=9), 10, False),
        (FitState(epoch=3, stopped=True, validating=True, asked=9), 9, False),
    ],
)
def test_a_fit_is_over_at_its_end_or_where_it_was_stopped_until_more_epochs_are_asked_for(fit, epochs, is_over):
    assert fit.is_over(epochs) is is_over


# From anywhere -------------------------------------------------------------------------------------------------------


def marked(kind, value, **more):
    return {MARK: kind, "value": value, **more}


HOSTILE = {
    "a number as large as it says": marked("scalar", 10**15, dtype="V"),
    "a number beyond its type": marked("scalar", 300, dtype="int8"),
    "a number of no type": marked("scalar", 1, dtype="object"),
    "a number without end": marked("scalar", "9" * 5000, dtype="int64"),
    "a key that is a list": marked("dict", [[[1], 2]]),
    "no pairs": marked("dict", [1]),
    "no base64": marked("bytes", "\u20ac"),
    "an array that is not there": marked("array", 7),
    "no value": {MARK: "tuple"},
}


@pytest.mark.parametrize("tree", HOSTILE.values(), ids=HOSTILE)
def test_a_state_that_says_something_impossible_is_damage(tree):
    with pytest.raises(ckptkit.CheckpointDamagedError, match="what was saved as 'state' cannot be read: "):
        unpack({"state": json.dumps({"a": tree})}, "state")


@pytest.mark.parametrize("depth", [900, 990, 100_000])
def test_a_state_that_is_too_deep_is_damage_or_read(depth):
    try:
        assert isinstance(unpack({"state": "[" * depth + "]" * depth}, "state"), list)
    except ckptkit.CheckpointDamagedError:
        assert depth > 500


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(FitState) if f.name not in ("stopped", "validating")]
)
def test_a_fit_with_a_field_of_another_kind_is_damage(field):
    values = RunState((FitState(),)).to_values("run")
    content = json.loads(values["run"])
    content["fits"][0][field] = None
    with pytest.raises(ckptkit.CheckpointDamagedError, match=f"'run' cannot be read: TypeError {field} is a NoneType"):
        RunState.from_values({**values, "run": json.dumps(content)}, "run")


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_bytes_a_state_holds_it_is_read_or_refused_as_damage(content):
    for read in (
        lambda: unpack({"state": content}, "state"),
        lambda: RunState.from_values({"state": content}, "state"),
    ):
        with suppress(ckptkit.CheckpointDamagedError):
            read()
