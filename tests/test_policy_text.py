"""Policies as text: what was written is read back, and nothing else is read at all."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import policies, preservation
from ckptkit.policies import (
    Always,
    AtSteps,
    EveryEpochs,
    EverySecs,
    EverySteps,
    Never,
    OnImprovement,
    OverheadBudget,
    SavePolicy,
)
from ckptkit.policy_text import read_frequency, read_policy, write_policy
from ckptkit.preservation import (
    All,
    Best,
    EveryNSecs,
    EveryNSteps,
    Latest,
    NewerThan,
    PreservationPolicy,
    Steps,
)
from tests.policy_cases import combined, public_classes

counts = st.integers(1, 10**30)
secs = st.floats(0, allow_infinity=False, exclude_min=True) | st.integers(1, 10**9)
names = st.text(min_size=1) | st.sampled_from(["val_loss", 'it\'s "new"', "a\\d", "ä # | &", "\udcff"])
modes = st.sampled_from(["min", "max"])
steps = st.lists(st.integers(1, 10**9), min_size=1)


SAVE = {
    EverySteps: st.builds(EverySteps, counts),
    EveryEpochs: st.builds(EveryEpochs, counts),
    EverySecs: st.builds(EverySecs, secs),
    AtSteps: st.builds(AtSteps, steps),
    OnImprovement: st.builds(OnImprovement, names, modes),
    OverheadBudget: st.builds(OverheadBudget, st.floats(0, 1, exclude_min=True, exclude_max=True), st.none() | secs),
    Always: st.just(Always()),
    Never: st.just(Never()),
}
KEEP = {
    All: st.just(All()),
    Latest: st.builds(Latest, counts),
    Best: st.builds(Best, names, modes, counts),
    EveryNSteps: st.builds(EveryNSteps, counts),
    EveryNSecs: st.builds(EveryNSecs, secs),
    NewerThan: st.builds(NewerThan, secs),
    Steps: st.builds(Steps, steps),
}


save_policies = combined(st.one_of(*SAVE.values()))
preservation_policies = combined(st.one_of(*KEEP.values()))


class Own(SavePolicy):
    """A policy of a user's, which no text can name."""


# What was written is read back -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(save_policies)
def test_the_repr_of_a_save_policy_read_back_is_the_same_policy(policy):
    assert read_policy(repr(policy), SavePolicy) == policy
    assert write_policy(policy) == repr(policy)


@settings(deadline=None)
@given(preservation_policies)
def test_the_repr_of_a_preservation_policy_read_back_is_the_same_policy(policy):
    assert read_policy(repr(policy), PreservationPolicy) == policy
    assert write_policy(policy) == repr(policy)


@pytest.mark.parametrize(
    ("module", "family", "drawn"),
    [(policies, SavePolicy, SAVE), (preservation, PreservationPolicy, KEEP)],
    ids=["save", "preservation"],
)
def test_these_laws_are_about_every_policy_that_there_is(module, family, drawn):
    assert set(drawn) == public_classes(module, family)


def test_a_very_long_list_of_steps_is_read():
    policy = AtSteps(range(10, 200_000, 10))
    assert read_policy(repr(policy), SavePolicy) == policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("EverySteps(500)", EverySteps(500)),
        ("  ( EverySteps(500) )  ", EverySteps(500)),
        ("EverySteps(500)\n| EveryEpochs()\n", EverySteps(500) | EveryEpochs(1)),
        ("EverySteps(5) | Always() & Never()", EverySteps(5) | (Always() & Never())),
        ("(EverySteps(5) | Always()) & Never()", (EverySteps(5) | Always()) & Never()),
        ("OnImprovement('a', mode=\"max\")", OnImprovement("a", "max")),
        ("AtSteps([3, 1])", AtSteps([1, 3])),
        ("OverheadBudget(mtbf_secs=None)", OverheadBudget()),
    ],
    ids=str,
)
def test_a_policy_is_read_as_python_would_write_it(text, policy):
    assert read_policy(text, SavePolicy) == policy


@pytest.mark.parametrize(
    "policy",
    [Own(), Own() | Always(), (Own() & Never()) | Always(), AtSteps(range(1, 10**5)), EverySteps(10**5000)],
    ids=["own", "or", "and", "long", "large"],
)
def test_a_policy_of_ones_own_and_one_that_is_too_long_have_no_text(policy):
    assert write_policy(policy) is None


# What is not a policy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("EveryStep(5)", 1, "no policy of ckptkit.policies is called 'EveryStep'.\nDid you mean 'EverySteps'?"),
        (" Never() | Evry(5)", 12, "no policy of ckptkit.policies is called 'Evry'.\nDid you mean 'Every"),
        ("Latest(3)", 1, "no policy of ckptkit.policies is called 'Latest'.\nThere are EverySteps, EveryEpochs, "),
        ('OnImprovement("ä", "min") | Evry(5)', 29, "no policy of ckptkit.policies is called 'Evry'."),
        ("_AnyOf(())", 1, "no policy of ckptkit.policies is called '_AnyOf'."),
        ("SavePolicy()", 1, "no policy of ckptkit.policies is called 'SavePolicy'."),
        ("SaveContext(1, 0)", 1, "no policy of ckptkit.policies is called 'SaveContext'."),
        ("Always", 1, "a policy is one of EverySteps, EveryEpochs, "),
        ('OnImprovement("ä", "min") | 3', 29, "a policy is one of EverySteps, "),
        ("policies.Always()", 1, "a policy is one of EverySteps, "),
        ("Always()()", 1, "a policy is one of EverySteps, "),
        ("Always() ^ Never()", 1, "a policy is one of EverySteps, "),
        ("Always() or Never()", 1, "a policy is one of EverySteps, "),
        ("EverySteps(0)", 1, "EverySteps takes n = a whole number of at least 1, got 0."),
        ("EverySteps(-5)", 1, "EverySteps takes n = a whole number of at least 1, got -5."),
        ("EverySecs(1e999)", 1, "EverySecs takes secs = a number of more than 0, got inf."),
        ("EverySteps()", 1, "EverySteps takes n: missing a required argument: 'n'."),
        ("EverySteps(1, 2)", 1, "EverySteps takes n: too many positional arguments."),
        ("Always(1)", 1, "Always takes no arguments: too many positional arguments."),
        ("EverySteps(n=1, n=2)", 1, "EverySteps takes n: an argument is there twice."),
        ("OverheadBudget(mtbf=3)", 1, "OverheadBudget takes max_fraction, mtbf_secs: got an unexpected keyword argume"),
        ('EverySteps(**{"n": 5})', 1, "EverySteps takes n: missing a required argument: 'n'."),
        ("EverySteps(*[5])", 1, "EverySteps takes plain values, no names and no sums."),
        ("EverySteps(2 * 250)", 1, "EverySteps takes plain values, no names and no sums."),
        ("EverySteps(__import__('os').getpid())", 1, "EverySteps takes plain values, no names and no sums."),
        ("AtSteps({[1]: 2})", 1, "AtSteps takes plain values, no names and no sums."),
        ("", 1, "it is empty."),
        (" \n", 3, "it is empty."),
        ("EverySteps(5", 11, "'(' was never closed."),
        ("Always();Never()", 9, "invalid syntax."),
        ("Always() # one\n| Never()", 10, "a comment cannot be part of it."),
        ('OnImprovement("a\\d", "min")', 15, "invalid escape sequence '\\d'."),
        ("a\0b", 1, "source code string cannot contain null bytes."),
        ("\udcff", 1, "'utf-8' codec can't encode character"),
    ],
    ids=repr,
)
def test_what_is_no_policy_is_refused_with_the_place_and_the_reason(text, column, why):
    message = f"cannot read the policy {text!r}, column {column}: {why}"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        read_policy(text, SavePolicy)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 300 + "Always()" + ")" * 300,
        "-" * 4_900,
        "a" + ".b" * 2_400,
        "~".join(["1"] * 2_000),
        "Always" + "()" * 2_000,
        "Always()" + " | Always()" * 700,
        "EverySteps(" + "[" * 150 + "]" * 150 + ")",
        "EverySteps(" * 30_000,
        "EverySteps(" + "9" * 100_000 + ")",
        "EverySteps(" + "9" * 300_000 + ")",
        "1" + "|1" * 4_900,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_is_refused_like_any_other_and_is_not_repeated_whole(text):
    with pytest.raises(ValueError, match=r"^cannot read the policy '.{,60}'[,:]") as caught:
        read_policy(text, SavePolicy)
    assert len(str(caught.value)) < 500


def test_what_python_only_warns_of_is_refused_though_nobody_listens_to_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="invalid escape sequence"):
            read_policy('OnImprovement("a\\d", "min")', SavePolicy)


def test_what_to_keep_is_read_by_its_own_family_alone():
    assert read_policy("Latest(3) | Best('a', 'min')", PreservationPolicy) == Latest(3) | Best("a", "min")
    with pytest.raises(
        ValueError, match=r"no policy of ckptkit.preservation is called 'Latests'.\nDid you mean 'Latest"
    ):
        read_policy("Latests(3)", PreservationPolicy)


# How often ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("epoch", EveryEpochs(1)),
        ("500 steps", EverySteps(500)),
        ("1 step", EverySteps(1)),
        (" 2 epochs ", EveryEpochs(2)),
        ("1 epoch", EveryEpochs(1)),
        *((f"30 {unit}", EverySecs(30)) for unit in ("s", "sec", "secs", "second", "seconds")),
        *((f"10 {unit}", EverySecs(600)) for unit in ("min", "mins", "minute", "minutes")),
        *((f"1.5 {unit}", EverySecs(5400)) for unit in ("h", "hour", "hours")),
        ("10min", EverySecs(600)),
    ],
)
def test_a_frequency_is_read_in_the_usual_spellings(text, policy):
    assert read_frequency(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "'epochs' says no frequency: write \"epoch\", \"500 steps\", .*\nDid you mean 'epoch'"),
        ("5 stepz", "'5 stepz' says no frequency: write .* or \"1.5 h\".\nDid you mean 'step"),
        ("10 Min", "\nDid you mean 'min'"),
        *((text, 'or "1.5 h".$') for text in ("", "min", "5", "-5 s", "1e3 s", "5 s s", "\u0663 s", "9" * 20 + " s")),
        ("1.5 steps", "'1.5 steps' says no frequency: the number of steps must be whole.$"),
        ("0 steps", "EverySteps takes n = a whole number of at least 1, got 0"),
        ("0 s", "EverySecs takes secs = a number of more than 0, got 0.0"),
    ],
    ids=lambda value: value[:10],
)
def test_what_is_no_frequency_is_refused_with_the_forms_there_are_and_the_nearest_unit(text, message):
    with pytest.raises(ValueError, match=message):
        read_frequency(text)
