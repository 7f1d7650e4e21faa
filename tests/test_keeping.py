"""Why each checkpoint is kept: what is said is what a run would act on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.history import Event
from ckptkit.keeping import Upkeep, reasons_in, resumed_from, with_best, words
from ckptkit.ledger import Ledger
from ckptkit.listing import Listing
from ckptkit.policy_text import write_policy
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
from ckptkit.records import CheckpointRecord
from ckptkit.state_file import StateFile
from tests.policy_cases import unions

NOW = 1e6


def record(step, *, name=None, **facts):
    facts = {"created_at": float(step), "sequence": step, **facts}
    return CheckpointRecord(f"run/{name or f'ckpt-{step}'}", step, **facts)


def manager(max_to_keep=None, policy=None, **options):
    text = None if policy is None else write_policy(policy)
    return {"checkpoint_manager": {"max_to_keep": max_to_keep, "preservation_policy": text, **options}}


def callback(max_to_keep=None, policy=None, monitor=None, mode=None):
    text = None if policy is None else write_policy(policy)
    options = {"max_to_keep": max_to_keep, "preservation_policy": text, "monitor": monitor, "mode": mode}
    return {"training_checkpoint": options}


def upkeep_of(config, records, *, state=None, went_on_from=None):
    """What is known of some records, the newest of which has a configuration."""
    *rest, newest = records
    newest = record(newest.step, metrics=newest.metrics, config=config)
    return Upkeep(Listing((*rest, newest), {}, state), NOW, went_on_from)


FOUR = [record(step, metrics={"loss": loss}) for step, loss in ((1, 3.0), (2, 1.0), (3, math.nan), (4, 2.0))]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (manager(2), [(), (), ("latest 2",), ("latest 2",)]),
        (manager(2, keep_checkpoint_every_n_hours=0.0), [(), (), ("latest 2",), ("latest 2",)]),
        (manager(), [("all",)] * 4),
        (manager(1, EveryNSteps(2)), [(), ("every 2 steps",), (), ("every 2 steps", "latest 1")]),
        (manager(None, Best("loss", "min")), [(), ("best loss",), (), ("newest",)]),
        (
            manager(None, Latest(1) | Best("loss", "max", 2)),
            [("best 2 by loss",), (), (), ("latest 1", "best 2 by loss")],
        ),
        (
            manager(None, Latest(3) & EveryNSteps(2)),
            [(), ("latest 3 and every 2 steps",), (), ("latest 3 and every 2 steps",)],
        ),
        (callback(1), [(), (), (), ("latest 1",)]),
        (callback(1, None, "loss", "min"), [(), ("best loss",), (), ("latest 1",)]),
        (callback(None, None, "loss", "min"), [("all",), ("all", "best loss"), ("all",), ("all",)]),
        (callback(None, EveryNSteps(3), "loss", "min"), [(), ("best loss",), ("every 3 steps",), ("newest",)]),
    ],
    ids=str,
)
def test_each_part_of_the_policy_that_keeps_a_checkpoint_is_told(config, told):
    assert list(upkeep_of(config, FOUR).reasons.values()) == told


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"checkpoint_manager": {"max_to_keep": 3}},  # a policy of somebody's own class has no text
        {"checkpoint_manager": ["max_to_keep", "preservation_policy"]},
        {"checkpoint_manager": None},
        manager(0),
        manager("many"),
        manager(1, keep_checkpoint_every_n_hours="x"),
        manager(1, keep_checkpoint_every_n_hours=1e308),
        {"checkpoint_manager": {"max_to_keep": 1, "preservation_policy": "Latest(1) | Mine()"}},
        {"checkpoint_manager": {"max_to_keep": 1, "preservation_policy": 7}},
        callback(1, None, "loss", "up"),
        callback(1, None, ["loss"], "min"),
    ],
    ids=str,
)
def test_what_no_configuration_says_is_unknown(config):
    upkeep = upkeep_of(config, FOUR)
    assert set(upkeep.reasons.values()) == {("unknown",)}
    assert upkeep.best is upkeep.best_policy is None


def test_of_plain_tensorflows_nothing_is_known_and_no_checkpoints_have_no_reasons():
    foreign = [record(step, foreign=True, sequence=0) for step in (1, 2)]
    assert Upkeep(Listing(tuple(foreign)), NOW).reasons == {"ckpt-1": ("unknown",), "ckpt-2": ("unknown",)}
    assert Upkeep(Listing(), NOW).reasons == {}


def test_the_newest_configuration_counts_and_not_that_of_a_foreign_one_after_it():
    records = (
        record(1, config=manager(9)),
        record(2, config=manager(1)),
        record(3, foreign=True, sequence=0),
    )
    state = StateFile("ckpt-3", ("ckpt-1", "ckpt-2", "ckpt-3"), (1.0, 2.0, 3.0), 0.0)
    assert Upkeep(Listing(records, {}, state), NOW).reasons == {"ckpt-1": (), "ckpt-2": (), "ckpt-3": ("latest 1",)}


def test_the_best_is_that_of_the_policy_and_not_a_damaged_one():
    upkeep = upkeep_of(callback(1, None, "loss", "min"), FOUR)
    assert (upkeep.best, upkeep.best_policy) == ("ckpt-2", Best("loss", "min"))
    assert upkeep_of(callback(1), FOUR).best is None
    assert upkeep_of(callback(1, None, "accuracy", "max"), FOUR).best is None


def test_the_one_that_the_run_went_on_from_stays():
    upkeep = upkeep_of(manager(1), FOUR, went_on_from="ckpt-2")
    assert upkeep.reasons["ckpt-2"] == ("resumed from",)
    assert upkeep.reasons["ckpt-1"] == ()


@pytest.mark.parametrize(
    ("events", "name"),
    [
        ([], None),
        ([("begun", {"resumed_from": "ckpt-1"})], "ckpt-1"),
        ([("begun", {"resumed_from": "ckpt-1"}), ("begun", {"resumed_from": None})], None),
        (
            [("begun", {"resumed_from": "ckpt-1"}), ("restored", {"name": "ckpt-2"}), ("saved", {"name": "ckpt-3"})],
            "ckpt-2",
        ),
        ([("begun", {"resumed_from": 7})], None),
        ([("begun", {})], None),
    ],
    ids=str,
)
def test_the_one_that_the_last_run_went_on_from_is_what_its_history_says(tmp_path, events, name):
    (tmp_path / ".ckptkit").mkdir()
    lines = [Event(kind, 1.0, "run", facts).to_json() for kind, facts in events]
    (tmp_path / ".ckptkit" / "history.jsonl").write_text("\n".join(lines))
    assert resumed_from(str(tmp_path)) == name


def test_what_is_not_on_the_list_is_not_managed_or_kept_for_its_age():
    records = [record(1), record(2, name="other-2"), record(3), record(4)]
    state = StateFile("ckpt-4", ("other-2", "ckpt-3", "ckpt-4"), (2.0, 3.0, 4.0), 0.0)
    reasons = upkeep_of(manager(1), records, state=state).reasons
    assert list(reasons.values()) == [("not managed",), ("not managed",), (), ("latest 1",)]
    reasons = upkeep_of(manager(1, keep_checkpoint_every_n_hours=1.5), records, state=state).reasons
    assert list(reasons.values()) == [("every 1.5 h",), ("not managed",), (), ("latest 1",)]


def test_a_damaged_one_takes_nobodys_place_and_stays_for_what_it_would_be():
    records = [record(1), record(2), record(3, found_damaged={"ckpt-2": 2})]
    config = manager(2)
    newest = record(3, config=config, found_damaged={"ckpt-2": 2})
    assert Upkeep(Listing((*records[:2], newest)), NOW).reasons == {
        "ckpt-1": ("latest 2",),
        "ckpt-2": ("latest 2",),
        "ckpt-3": ("latest 2",),
    }


@settings(deadline=None, max_examples=200)
@given(
    policy=unions, losses=st.lists(st.floats(0, 5), min_size=1, max_size=12), max_to_keep=st.none() | st.integers(1, 4)
)
def test_what_has_no_reason_goes_and_what_goes_has_none(policy, losses, max_to_keep):
    records = [record(step, metrics={"loss": loss}) for step, loss in enumerate(losses, start=1)]
    ledger = Ledger("ckpt", max_to_keep, None, policy, NOW)
    ledger.adopt(Listing(tuple(records)), NOW)
    reasons = reasons_in(ledger, NOW, "not managed")
    gone = {each.name for each in ledger.take_out_superfluous(NOW)}
    assert {name for name, told in reasons.items() if not told} == gone
    assert list(reasons) == [each.name for each in records]


# In words ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mine(PreservationPolicy):
    def keep(self, context):
        return frozenset()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (All(), "all"),
        (Latest(3), "latest 3"),
        (Best("val_loss", "min"), "best val_loss"),
        (Best("val_loss", "min", 3), "best 3 by val_loss"),
        (EveryNSteps(1000), "every 1000 steps"),
        (EveryNSecs(5400), "every 1.5 h"),
        (EveryNSecs(0.5), "every 0.5 s"),
        (EveryNSecs(172800), "every 2 d"),
        (NewerThan(60), "newer than 1 min"),
        (Steps([3, 5]), "its step is listed"),
        (Latest(3) & (Best("loss", "min") | Steps([1])), "latest 3 and (best loss or its step is listed)"),
        (Mine(), "Mine()"),
    ],
    ids=repr,
)
def test_a_policy_in_a_few_words(policy, text):
    assert words(policy) == text


@pytest.mark.parametrize(
    ("policy", "max_to_keep", "whole"),
    [
        (None, None, All() | Best("loss", "min")),
        (None, 2, Latest(2) | Best("loss", "min")),
        (EveryNSteps(5), 2, EveryNSteps(5) | Best("loss", "min")),
    ],
    ids=repr,
)
def test_the_best_is_kept_beside_what_is_kept_anyway(policy, max_to_keep, whole):
    assert with_best(policy, max_to_keep, Best("loss", "min")) == whole
