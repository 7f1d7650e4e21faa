"""The bookkeeping: what is managed, what may go, and that a manager made again knows the same."""

from __future__ import annotations

import dataclasses
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.ledger import Ledger
from ckptkit.listing import Listing
from ckptkit.preservation import All, Best, EveryNSecs, Latest
from ckptkit.records import CheckpointRecord
from ckptkit.state_file import StateFile
from tests.policy_cases import preservation_policies, steady_policies, unions

pytestmark = pytest.mark.core

HOUR = 3600.0


def ledger(max_to_keep=None, *, keep_every_secs=None, policy=None, now=0.0):
    return Ledger("ckpt", max_to_keep, keep_every_secs, policy, now)


def record(step, *, at=None, sequence=None, name=None, **facts):
    name = name or f"ckpt-{step}"
    at = float(step) if at is None else at
    sequence = step if sequence is None else sequence
    return CheckpointRecord(prefix=f"run/{name}", step=step, created_at=at, sequence=sequence, **facts)


def foreign(step, **facts):
    return record(step, sequence=0, foreign=True, **facts)


def add_and_tidy(book, records):
    """Add records one after the other and tidy up after each; returns the steps that went, in order."""
    gone = []
    for each in records:
        book.add(each)
        gone += [r.step for r in book.take_out_superfluous(each.created_at)]
    return gone


def steps(records):
    return [r.step for r in records]


def end_of(records):
    return records[-1].created_at if records else 0.0


def active_steps(book):
    return [int(prefix.rpartition("-")[2]) for prefix in book.active]


policies = st.none() | preservation_policies


@st.composite
def histories(draw):
    rows = draw(
        st.lists(st.tuples(st.floats(0.5, 100), st.none() | st.integers(-3, 3) | st.just(math.nan)), max_size=12)
    )
    records, at = [], 10.0
    for step, (later, loss) in enumerate(rows, start=1):
        at += later
        records.append(record(step, at=at, metrics={} if loss is None else {"loss": float(loss)}, run_id="run"))
    return records


max_to_keeps = st.none() | st.integers(1, 4)
every = st.none() | st.floats(1, 200)


# What goes ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    histories(), max_to_keeps, every, policies, st.integers(1, 12), st.lists(st.integers(1, 12), max_size=3), st.data()
)
def test_the_newest_the_one_resumed_from_and_those_being_read_survive_any_policy(
    records, max_to_keep, keep_every_secs, policy, resumed_from, being_read, data
):
    book = ledger(max_to_keep, keep_every_secs=keep_every_secs, policy=policy)
    book.resumed_from = f"ckpt-{resumed_from}"
    book.being_read += [f"ckpt-{step}" for step in being_read]
    for each in records:
        book.add(each)
        if data.draw(st.booleans(), label="tidy up"):
            gone = book.take_out_superfluous(each.created_at)
            assert not {each.step, resumed_from, *being_read} & set(steps(gone))
        assert book.latest == each
        assert book.active[-1] == each.prefix
    there = {r.step for r in records} & {len(records), resumed_from, *being_read}
    assert there <= set(steps(book.records))


def test_one_that_is_being_read_is_taken_out_when_the_last_reader_is_done():
    book = ledger(1)
    book.being_read += ["ckpt-1", "ckpt-1"]
    assert add_and_tidy(book, [record(1), record(2), record(3)]) == [2]
    book.being_read.remove("ckpt-1")
    assert steps(book.take_out_superfluous(4.0)) == []
    book.being_read.remove("ckpt-1")
    assert steps(book.take_out_superfluous(4.0)) == [1]


@settings(deadline=None, max_examples=200)
@given(histories(), max_to_keeps, st.none() | unions)
def test_tidying_up_after_every_save_takes_out_what_tidying_up_once_would(records, max_to_keep, policy):
    one_by_one, at_once = (ledger(max_to_keep, policy=policy) for _ in range(2))
    gone = add_and_tidy(one_by_one, records)
    for each in records:
        at_once.add(each)
    # The newest is kept beside what a policy keeps, so one by one it may outlive a tie, never the other way round.
    assert set(gone) == set(steps(at_once.take_out_superfluous(end_of(records))))
    assert one_by_one.records == at_once.records


def test_an_intersection_may_keep_more_if_one_tidies_up_after_every_save():
    one_by_one, at_once = (ledger(policy=Latest(3) & Best("loss", "min")) for _ in range(2))
    records = [record(step, metrics={"loss": float(step)}) for step in (1, 2, 3, 4)]
    assert add_and_tidy(one_by_one, records) == [2, 3]
    for each in records:
        at_once.add(each)
    assert steps(at_once.take_out_superfluous(4.0)) == [1, 2, 3]


@settings(deadline=None)
@given(histories(), max_to_keeps, every, st.none() | unions | steady_policies)
def test_what_is_taken_out_is_known_no_more_and_taken_out_once(records, max_to_keep, keep_every_secs, policy):
    book = ledger(max_to_keep, keep_every_secs=keep_every_secs, policy=policy)
    gone = add_and_tidy(book, records)
    assert len(set(gone)) == len(gone)
    assert sorted(gone + steps(book.records)) == steps(records)
    assert set(book.active) <= {r.prefix for r in book.records}
    assert book.take_out_superfluous(end_of(records)) == []


@settings(deadline=None)
@given(histories(), st.integers(1, 4))
def test_max_to_keep_keeps_exactly_the_newest(records, n):
    book = ledger(n)
    assert add_and_tidy(book, records) == steps(records)[: max(len(records) - n, 0)]
    assert active_steps(book) == steps(records)[-n:]


def test_max_to_keep_and_a_policy_keep_what_either_keeps():
    book = ledger(1, policy=Best("loss", "min"))
    losses = [3.0, 1.0, 2.0, 4.0]
    assert add_and_tidy(book, [record(i, metrics={"loss": v}) for i, v in enumerate(losses, start=1)]) == [1, 3]


def test_without_max_to_keep_the_policy_decides_alone():
    book = ledger(None, policy=Best("loss", "min"))
    losses = [3.0, 1.0, 2.0, 4.0]
    assert add_and_tidy(book, [record(i, metrics={"loss": v}) for i, v in enumerate(losses, start=1)]) == [1, 3]


def test_without_either_everything_is_kept():
    book = ledger()
    assert add_and_tidy(book, [record(i) for i in range(1, 9)]) == []


def test_the_best_that_was_kept_goes_when_a_better_one_comes():
    book = ledger(1, policy=Best("loss", "min"))
    losses = [1.0, 2.0, 3.0, 0.5, 4.0]
    assert add_and_tidy(book, [record(i, metrics={"loss": v}) for i, v in enumerate(losses, start=1)]) == [2, 1, 3]
    assert steps(book.records) == [4, 5]


def test_what_is_kept_for_its_age_leaves_the_list_and_not_the_disk():
    # As tf.train.CheckpointManager does with keep_checkpoint_every_n_hours.
    book = ledger(1, keep_every_secs=HOUR, now=0.0)
    records = [record(i, at=i * 0.4 * HOUR) for i in range(1, 9)]
    assert add_and_tidy(book, records) == [1, 2, 4, 5, 7]
    assert steps(book.records) == [3, 6, 8]
    assert active_steps(book) == [8]
    assert book.state_file().last_preserved_timestamp == 6 * 0.4 * HOUR


def test_a_checkpoint_saved_again_moves_to_the_end():
    book = ledger(2)
    add_and_tidy(book, [record(1), record(2)])
    again = record(1, sequence=3, at=3.0)
    assert add_and_tidy(book, [again]) == []
    assert active_steps(book) == [2, 1]
    assert book.latest == again
    assert add_and_tidy(book, [record(4)]) == [2]


# What is known -----------------------------------------------------------------------------------------------------


def test_an_empty_ledger_knows_nothing():
    book = ledger(3)
    assert (book.records, book.active, book.latest, book.next_sequence) == ((), [], None, 1)
    assert book.newest_first() == []
    assert book.take_out_superfluous(0.0) == []


def test_sequences_go_on_from_the_highest_that_is_known():
    book = ledger()
    book.add(record(5, sequence=9))
    book.add(record(6, sequence=4))
    assert book.next_sequence == 10


def test_the_newest_is_the_newest_under_our_own_name_and_of_others_only_where_there_is_none():
    book = ledger()
    book.adopt(Listing((record(7, name="ckpt-7"), record(9, name="other-9"))), 0.0)
    assert steps(book.newest_first()) == [7]
    book.adopt(Listing((record(8, name="other-8"), record(9, name="other-9"))), 0.0)
    assert steps(book.newest_first()) == [9, 8]
    assert book.latest.name == "other-9"


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        (Best("loss", "min"), Best("loss", "min")),
        (Latest(2) | Best("loss", "max"), Best("loss", "max")),
        (All() & (Latest(2) | Best("loss", "max", n=3)), Best("loss", "max", n=3)),
        (Best("a", "min") | Best("b", "max"), Best("a", "min")),
        (Latest(2) | EveryNSecs(3), None),
        (None, None),
    ],
    ids=repr,
)
def test_the_metric_that_best_means_is_found_wherever_it_stands_in_the_policy(policy, found):
    assert ledger(policy=policy).best_policy == found


def test_best_is_the_earliest_of_the_best_and_none_where_nothing_was_measured():
    book = ledger(policy=Latest(9) | Best("loss", "min"))
    assert book.best is None
    for step, loss in enumerate([math.nan, 2.0, 1.0, 1.0], start=1):
        book.add(record(step, metrics={"loss": loss}))
    assert book.best.step == 3


def test_the_best_value_outlives_its_checkpoint_and_the_process():
    modes = {"loss": "min", "accuracy": "max"}
    book = Ledger("ckpt", 2, None, None, 0.0, modes)
    for step, loss in enumerate([3.0, 1.0, 2.0, math.nan], start=1):
        metrics = {"loss": loss}
        book.add(record(step, metrics=metrics, best=book.best_with(metrics)))
        book.take_out_superfluous(step)
    assert steps(book.records) == [3, 4]
    assert book.best_values == {"loss": 1.0}
    again = Ledger("ckpt", 2, None, None, 0.0, modes)
    again.adopt(Listing(book.records), 5.0)
    assert again.best_values == {"loss": 1.0}
    assert again.best_with({"loss": 0.5, "accuracy": 0.9}) == {"loss": 0.5, "accuracy": 0.9}


def test_where_one_is_damaged_the_best_value_is_that_of_what_is_left():
    book = Ledger("ckpt", 9, None, None, 0.0, {"loss": "min"})
    book.adopt(Listing((record(1, metrics={"loss": 2.0}), record(2, metrics={"loss": 1.0}, best={"loss": 1.0}))), 0.0)
    assert book.best_values == {"loss": 1.0}
    book.doubt(book.records[1])
    assert book.best_values == {"loss": 2.0}
    again = Ledger("ckpt", 9, None, None, 0.0, {"loss": "min"})
    again.adopt(Listing((*book.records, record(3, found_damaged={"ckpt-2": 2}))), 0.0)
    assert (again.damaged, again.best_values) == ({}, {"loss": 2.0})


@settings(deadline=None, max_examples=200)
@given(histories(), max_to_keeps, policies, st.sets(st.integers(1, 12)))
def test_a_process_for_each_commit_keeps_what_one_for_all_would_whichever_are_damaged(
    records, max_to_keep, policy, damaged
):
    def commit(book, record):
        newest = book.latest
        if newest is not None and newest.step in damaged:  # it is what a run would go on from, so it was read
            book.doubt(newest)
        return add_and_tidy(book, [dataclasses.replace(record, found_damaged=book.found_damaged)])

    one = ledger(max_to_keep, policy=policy)
    listing = Listing()
    for each in records:
        another = ledger(max_to_keep, policy=policy)
        another.adopt(listing, each.created_at)
        assert commit(another, each) == commit(one, each)
        listing = Listing(another.records, state=another.state_file())
    assert listing.records == one.records


def test_a_damaged_checkpoint_of_another_directory_is_not_taken_for_our_own():
    book = ledger()
    book.adopt(Listing((record(1), record(2))), 0.0)
    book.doubt(dataclasses.replace(record(1), prefix="elsewhere/ckpt-1"))
    assert book.found_damaged == {}
    book.doubt(record(1))
    assert book.found_damaged == {"ckpt-1": 1}


def test_what_was_found_damaged_is_told_until_it_is_saved_again_or_gone():
    book = ledger(9)
    book.adopt(Listing((record(1), record(2), record(3, found_damaged={"ckpt-1": 1, "ckpt-2": 2, "ckpt-0": 0}))), 0.0)
    assert book.found_damaged == {"ckpt-1": 1, "ckpt-2": 2}
    book.add(record(2, sequence=4))
    assert book.found_damaged == {"ckpt-1": 1}
    book.adopt(Listing((record(3, found_damaged={"ckpt-1": 1}), record(2, sequence=4))), 0.0)
    assert book.found_damaged == {}


# The directory, read ----------------------------------------------------------------------------------------------


def test_without_a_state_file_all_that_we_have_committed_under_our_name_are_managed():
    book = ledger(1)
    book.adopt(Listing((foreign(1), record(2), record(3), record(4, name="other-4"))), 100.0)
    assert active_steps(book) == [2, 3]
    assert steps(book.take_out_superfluous(100.0)) == [2]
    assert steps(book.records) == [1, 3, 4]


def test_a_state_file_says_which_are_managed():
    state = StateFile("ckpt-3", ("ckpt-2", "ckpt-3"), (2.0, 3.0), 0.5)
    book = ledger(1)
    book.adopt(Listing((record(1), record(2), record(3)), state=state), 100.0)
    assert active_steps(book) == [2, 3]
    assert book.state_file() == StateFile("ckpt-3", ("ckpt-2", "ckpt-3"), (2.0, 3.0), 0.5)
    assert steps(book.take_out_superfluous(100.0)) == [2]
    assert steps(book.records) == [1, 3]


def test_a_checkpoint_whose_listing_a_crash_forestalled_is_managed_all_the_same():
    state = StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (1.0, 2.0), 0.5)
    book = ledger(5)
    book.adopt(Listing((record(1), record(2), record(3)), state=state), 100.0)
    assert active_steps(book) == [1, 2, 3]
    assert book.latest.step == 3


def test_entries_that_are_not_newer_than_the_last_preserved_one_are_known_and_not_managed():
    state = StateFile("ckpt-3", ("ckpt-1", "ckpt-2", "ckpt-3"), (1.0, 2.0, 3.0), 2.0)
    book = ledger(5)
    book.adopt(Listing((record(1), record(2), record(3)), state=state), 100.0)
    assert active_steps(book) == [3]
    assert steps(book.records) == [1, 2, 3]


def test_a_state_file_without_times_makes_its_entries_known_and_not_managed():
    state = StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (), 7.0)
    book = ledger(1)
    book.adopt(Listing((foreign(1), foreign(2)), state=state), 100.0)
    assert book.active == []
    assert steps(book.records) == [1, 2]


def test_entries_whose_files_are_gone_are_dropped_and_those_of_other_names_are_carried_along():
    state = StateFile("ckpt-2", ("ckpt-1", "other-8", "ckpt-2"), (1.0, 1.5, 2.0), 0.5)
    book = ledger(5)
    book.adopt(Listing((record(2),), state=state), 100.0)
    assert book.state_file() == StateFile("ckpt-2", ("other-8", "ckpt-2"), (1.5, 2.0), 0.5)


def test_paths_in_a_state_file_may_be_absolute_and_of_another_place():
    state = StateFile("/old/ckpt-2", ("/old/ckpt-1", "/old/ckpt-2"), (1.0, 2.0), 0.5)
    book = ledger(5)
    book.adopt(Listing((record(1), record(2)), state=state), 100.0)
    assert active_steps(book) == [1, 2]
    assert book.state_file().all_model_checkpoint_paths == ("ckpt-1", "ckpt-2")


def test_a_clock_that_went_back_deletes_nothing_that_is_there():
    # As tf.train.CheckpointManager does: known, and not managed.
    state = StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (1000.0, 2000.0), 900.0)
    book = ledger(1, keep_every_secs=HOUR)
    book.adopt(Listing((record(1, at=1000.0), record(2, at=2000.0)), state=state), 50.0)
    assert book.state_file().last_preserved_timestamp == 50.0
    assert add_and_tidy(book, [record(3, at=51.0), record(4, at=52.0)]) == [3]
    assert steps(book.records) == [1, 2, 4]


def test_damage_is_remembered_until_the_checkpoint_is_saved_again():
    book = ledger()
    damaged = {"ckpt-2": "cut short"}
    book.adopt(Listing((record(1),), damaged), 0.0)
    assert book.damaged == damaged
    book.add(record(2))
    assert book.damaged == {}
    assert damaged == {"ckpt-2": "cut short"}


def test_damage_that_a_restore_has_found_is_remembered_for_as_long_as_it_is_the_same_checkpoint():
    book, found = ledger(), {"ckpt-2": "tensor 'kernel' has another checksum"}
    book.adopt(Listing((record(1), record(2))), 0.0)
    book.damaged.update(found)
    book.adopt(Listing((record(1), record(2), record(3))), 0.0)
    assert book.damaged == found
    book.adopt(Listing((record(1), record(2, sequence=4))), 0.0)
    assert book.damaged == {}


def test_a_damaged_checkpoint_is_not_the_best_and_takes_nobodys_place():
    book = ledger(1, policy=Best("loss", "min"))
    losses = {1: 0.5, 2: 0.3, 3: 0.1}
    book.adopt(Listing(tuple(record(step, metrics={"loss": loss}) for step, loss in losses.items())), 3.0)
    book.damaged["ckpt-3"] = "a bit has flipped"
    assert (book.best.step, book.best_of_all.step) == (2, 3)
    assert add_and_tidy(book, [record(4, metrics={"loss": 0.4}), record(5)]) == [1, 4]
    assert steps(book.records) == [2, 3, 5]
    book.add(record(3, sequence=6, metrics={"loss": 0.1}))
    assert book.best.step == 3
    assert steps(book.take_out_superfluous(6.0)) == [2, 5]


def test_a_run_goes_on_under_the_identity_of_the_newest_that_has_one():
    book = ledger()
    own = book.run_id
    book.adopt(Listing((foreign(1),)), 0.0)
    assert book.run_id == own
    book.adopt(Listing((record(2, run_id="first"), record(3, run_id="second"), foreign(4))), 0.0)
    assert book.run_id == "second"


def test_two_new_runs_have_two_identities():
    assert ledger().run_id != ledger().run_id


@settings(deadline=None, max_examples=200)
@given(
    histories(),
    max_to_keeps,
    st.tuples(every, st.none()) | st.tuples(st.none(), policies),
    st.floats(0, 1000),
)
def test_a_ledger_made_again_from_the_directory_knows_the_same(records, max_to_keep, keep, later):
    keep_every_secs, policy = keep
    book = ledger(max_to_keep, keep_every_secs=keep_every_secs, policy=policy)
    add_and_tidy(book, records)
    if not records:
        return
    now = records[-1].created_at + later
    again = ledger(max_to_keep, keep_every_secs=keep_every_secs, policy=policy, now=now)
    state = StateFile.parse(book.state_file().to_text().encode())
    again.adopt(Listing(book.records, state=state), now)
    assert again.records == book.records
    assert again.active == book.active
    assert again.latest == book.latest
    assert again.next_sequence == book.next_sequence
    assert again.run_id == "run"
    assert again.state_file() == book.state_file()
    more = dataclasses.replace(records[-1], prefix="run/ckpt-99", step=99, sequence=99, created_at=now)
    assert add_and_tidy(again, [more]) == add_and_tidy(book, [more])


def test_the_best_stays_managed_in_a_ledger_made_again_though_a_younger_one_was_kept_for_its_age():
    book, again = (ledger(1, keep_every_secs=1.0, policy=Best("loss", "min")) for _ in range(2))
    add_and_tidy(book, [record(11, metrics={"loss": 0.0}), record(12), record(13)])
    assert active_steps(book) == [11, 13]
    again.adopt(Listing(book.records, state=book.state_file()), 14.0)
    assert active_steps(again) == [11, 13]


def test_a_state_file_names_its_checkpoints_relative_to_itself():
    book = ledger()
    book.add(record(1))
    state = book.state_file()
    assert state.model_checkpoint_path == "ckpt-1"
    assert [os.path.dirname(path) for path in state.all_model_checkpoint_paths] == [""]


def test_a_managed_checkpoint_stays_so_while_it_is_read_where_it_is_being_replaced():
    book = ledger(2)
    add_and_tidy(book, [record(1), record(2)])
    state = book.state_file()
    moved = dataclasses.replace(record(2, sequence=3), prefix="run/.ckptkit/replace-0/ckpt-2")
    book.adopt(Listing((record(1), moved), state=state), 100.0)
    assert book.active == ["run/ckpt-1", moved.prefix]
    book.adopt(Listing((record(1), record(2, sequence=3)), state=state), 100.0)
    assert book.active == ["run/ckpt-1", "run/ckpt-2"]


def test_what_cannot_be_read_may_be_newer_than_all_that_can():
    book = ledger()
    book.adopt(Listing((record(1),)), 100.0)
    assert book.next_sequence == 2
    book.adopt(Listing((record(1),), damaged={"ckpt-9": "its manifest cannot be read"}), 100.0)
    assert book.next_sequence > 1000


def test_a_directory_that_was_read_again_is_stale_no_more():
    book = ledger()
    book.is_stale = True
    book.adopt(Listing(), 100.0)
    assert not book.is_stale
