"""Policies under ``|`` and ``&``: flat, without repetition, readable, and deaf to strangers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.combinators import Combinable, Combined, alternatives


class Word(Combinable):
    """The root of a family for these tests."""


@dataclass(frozen=True)
class Letter(Word):
    char: str


@dataclass(frozen=True, repr=False)
class AnyOf(Combined, Word):
    operator = "|"


@dataclass(frozen=True, repr=False)
class AllOf(Combined, Word):
    operator = "&"


Word.family, Word.union, Word.intersection = Word, AnyOf, AllOf


class Stranger(Combinable):
    """The root of another family."""


Stranger.family, Stranger.union, Stranger.intersection = Stranger, AnyOf, AllOf

letters = st.builds(Letter, st.sampled_from("abc"))
words = st.recursive(
    letters,
    lambda inner: st.tuples(inner, inner, st.booleans()).map(lambda t: t[0] | t[1] if t[2] else t[0] & t[1]),
    max_leaves=6,
)
A, B, C = map(Letter, "abc")


def nodes(word):
    yield word
    for part in word.parts if isinstance(word, Combined) else ():
        yield from nodes(part)


@settings(deadline=None)
@given(words, words)
def test_a_union_keeps_the_parts_of_both_sides_in_order_and_once(left, right):
    def parts(word):
        return word.parts if isinstance(word, AnyOf) else (word,)

    wanted = tuple(dict.fromkeys(parts(left) + parts(right)))
    assert parts(left | right) == wanted


@settings(deadline=None)
@given(words)
def test_a_combination_is_flat_and_repeats_nothing(word):
    for node in nodes(word):
        if isinstance(node, Combined):
            assert len(node.parts) >= 2
            assert len(set(node.parts)) == len(node.parts)
            assert not any(type(part) is type(node) for part in node.parts)


@settings(deadline=None)
@given(words, words, words)
def test_grouping_makes_no_difference(x, y, z):
    assert (x | y) | z == x | (y | z)
    assert (x & y) & z == x & (y & z)


@settings(deadline=None)
@given(words)
def test_a_policy_combined_with_itself_is_itself(word):
    assert word | word == word
    assert word & word == word


@settings(deadline=None)
@given(words)
def test_a_repr_read_back_is_the_same_policy(word):
    again = eval(repr(word), {"Letter": Letter})
    assert again == word
    assert hash(again) == hash(word)


def test_a_repr_has_brackets_only_where_they_are_needed():
    assert repr(A | B | C) == "Letter(char='a') | Letter(char='b') | Letter(char='c')"
    assert repr(A | (B & C)) == "Letter(char='a') | (Letter(char='b') & Letter(char='c'))"
    assert repr((A | B) & C) == "(Letter(char='a') | Letter(char='b')) & Letter(char='c')"


@pytest.mark.parametrize("other", [1, None, "a", True, {"a"}, Stranger()], ids=lambda other: type(other).__name__)
def test_a_policy_combines_with_nothing_but_its_own_family(other):
    assert A.__or__(other) is NotImplemented
    assert A.__and__(other) is NotImplemented
    assert (A | B).__or__(other) is NotImplemented
    assert (A & B).__and__(other) is NotImplemented
    for combine in (lambda: A | other, lambda: other | A, lambda: (A | B) & other):
        with pytest.raises(TypeError, match="unsupported operand"):
            combine()


def test_an_object_that_knows_policies_may_combine_itself():
    class Friend:
        def __ror__(self, other):
            return "combined"

    assert (A | Friend()) == "combined"


def test_a_subclass_of_a_users_own_combines_as_well():
    class Own(Word):
        pass

    own = Own()
    assert (A | own).parts == (A, own)
    assert (own & A).parts == (own, A)


def test_a_combination_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="parts"):
        (A | B).parts = ()


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        (Letter("a"), [Letter("a")]),
        (Letter("a") | Letter("b") | Letter("c"), [Letter("a"), Letter("b"), Letter("c")]),
        (Letter("a") & Letter("b"), [Letter("a") & Letter("b")]),
        (Letter("a") | (Letter("b") & Letter("c")), [Letter("a"), Letter("b") & Letter("c")]),
    ],
    ids=repr,
)
def test_the_parts_of_a_union_are_the_alternatives(policy, parts):
    assert alternatives(policy) == parts
