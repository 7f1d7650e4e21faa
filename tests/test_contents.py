"""Whether containers hold what they held: by identity, in order, and without calling anything of theirs."""

from __future__ import annotations

import gc
import weakref

import pytest

from ckptkit.contents import Contents


class Touchy:
    """Nothing may be asked of it."""

    def __eq__(self, other):
        raise AssertionError("compared")

    def __hash__(self):
        raise AssertionError("hashed")

    def __bool__(self):
        raise AssertionError("asked")


def some():
    return {"list": [Touchy(), [1]], "tuple": (Touchy(),), "dict": {"a": Touchy(), "b": Touchy()}, "empty": []}


CHANGES = {
    "append": lambda held: held["list"].append(None),
    "pop": lambda held: held["list"].pop(),
    "reverse": lambda held: held["list"].reverse(),
    "replace": lambda held: held["list"].__setitem__(0, Touchy()),
    "new key": lambda held: held["dict"].__setitem__("c", None),
    "new value": lambda held: held["dict"].__setitem__("a", Touchy()),
    "key gone": lambda held: held["dict"].pop("a"),
    "order of keys": lambda held: held["dict"].__setitem__("a", held["dict"].pop("a")),
    "key renamed": lambda held: held["dict"].__setitem__("c", held["dict"].pop("b")),
    "moved": lambda held: held["empty"].append(held["list"].pop()),
}


def test_containers_that_nobody_touched_are_the_same():
    held = some()
    contents = Contents(held.values())
    assert contents.are_same()
    assert contents.are_same()


def test_what_holds_nothing_is_the_same_until_it_holds_something():
    held = []
    contents = Contents([held])
    assert contents.are_same()
    held.append(1)
    assert not contents.are_same()


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_seen(name):
    held = some()
    contents = Contents(held.values())
    CHANGES[name](held)
    assert not contents.are_same()


def test_an_equal_object_is_another_one():
    held = [float("1.5")]
    contents = Contents([held])
    held[0] = float("1.5")
    assert not contents.are_same()


def test_what_a_container_in_a_container_holds_counts_only_if_it_was_handed_in():
    inner = [1]
    outer = [inner]
    alone, both = Contents([outer]), Contents([outer, inner])
    inner.append(2)
    assert alone.are_same()
    assert not both.are_same()


def test_an_object_cannot_go_and_leave_its_place_to_another_one():
    held = [Touchy()]
    seen = weakref.ref(held[0])
    contents = Contents([held])
    held.clear()
    gc.collect()
    assert seen() is not None
    del contents
    gc.collect()
    assert seen() is None
