"""What saves cost: training is played with numbers for times, and what the books say is known beforehand."""

from __future__ import annotations

import dataclasses
import sys
import threading
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit import stats as stats_module
from ckptkit.stats import SaveCost, SaveRecorder, SaveStats, Took

pytestmark = pytest.mark.core

USUAL = 0.25  # secs of a step; with it and the times below sums are exact or nearly so


class Training:
    """A training loop that goes by a clock of its own."""

    def __init__(self, now=100.0):
        self.now = now
        self.books = SaveRecorder()
        self.books.step_boundary(now)

    def wait(self, secs):
        self.now += secs
        return self

    def steps(self, count, secs=USUAL):
        for _ in range(count):
            self.books.step_boundary(self.wait(secs).now)
        return self

    def begin(self, step=1, blocked=0.0):
        self.books.save_began(step, self.wait(blocked).now, blocked)
        return self

    def finish(self, step=1, size_bytes=10, *, at=None, staged=0.0, written=0.0, synced=0.0):
        now = self.now if at is None else at
        self.books.save_finished(step, now, Took(size_bytes, staged, written, synced))
        return self

    @property
    def lost(self):
        return self.books.stats().lost_secs


secs = st.floats(0.0, 20.0, allow_subnormal=False)


# Time lost ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(secs, min_size=1, max_size=20), secs, st.integers(3, 100))
def test_time_lost_is_what_the_caller_was_blocked_and_what_steps_took_longer_than_usual(longer, blocked, before):
    training = Training().steps(before).begin(blocked=blocked)
    for more in longer:
        training.steps(1, USUAL + more)
    training.finish().steps(before)
    assert training.lost == pytest.approx(blocked + sum(longer))
    assert training.books.stats().blocked_secs == blocked


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 5.0, allow_subnormal=False), max_size=8), secs, secs, st.floats(0.0, 1e6))
def test_no_save_is_said_to_have_lost_less_than_it_blocked_or_more_than_it_took(lengths, blocked, rest, start):
    training = Training(start).steps(5).begin(blocked=blocked)
    began = training.now
    for length in lengths:
        training.steps(1, length)
    training.wait(rest).finish()
    took = training.now - began
    training.steps(3)
    assert blocked <= training.lost <= blocked + took + 1e-6


@pytest.mark.parametrize(
    ("held_up", "lost"),
    [(0.0625, 0.0625), (0.125, 0.125), (0.25, 0.125), (0.375, 0.125), (0.5, 0.0), (9.0, 0.0)],
)
def test_a_step_loses_no_more_to_a_save_than_the_save_was_there_and_nothing_if_it_is_a_pause(held_up, lost):
    training = Training().steps(9).begin().wait(0.125).finish()
    assert training.steps(1, USUAL - 0.125 + held_up).lost == lost


def test_steps_before_a_save_are_none_of_its_doing_nor_its_gain():
    training = Training().steps(9).begin(1).steps(4).begin(2).steps(1, USUAL + 0.5).finish(2).steps(1)
    assert training.lost == 0.5


def test_the_costs_of_the_last_saves_are_known_one_by_one():
    training = Training().steps(9)
    for step in range(1, 8):
        training.begin(step, blocked=step / 8)
        training.steps(1, USUAL + 0.5).finish(step)
        assert training.books.is_saving
        training.steps(1)
        assert not training.books.is_saving
    assert training.books.lost_secs == tuple(step / 8 + 0.5 for step in (3, 4, 5, 6, 7))


@pytest.mark.parametrize(("blocked", "counted"), [(0.125, 0.5), (2.0, 2.0)])
def test_a_save_that_failed_counts_for_no_less_than_the_one_before_it_and_for_nothing_where_there_is_none(
    blocked, counted
):
    training = Training().steps(9).begin(1, blocked=blocked)
    training.books.save_failed(1, training.now)
    assert training.steps(1).books.lost_secs == ()
    training.begin(2, blocked=0.5).finish(2).steps(1).begin(3, blocked=blocked)
    training.books.save_failed(3, training.now)
    assert training.steps(1).books.lost_secs == (0.5, counted)


def test_what_a_save_costs_is_not_known_before_it_is_known_how_long_a_step_takes_unless_the_caller_has_waited_for_it():
    training = Training().begin(1).steps(1, 0.5).finish(1).steps(4)
    assert training.books.lost_secs == ()
    training.begin(2).steps(1, 0.5).finish(2).steps(1)
    assert training.books.lost_secs == (0.25,)
    waits = Training()
    waits.begin(1).finish(1).books.save_blocked(waits.wait(0.5).now, 0.5)
    assert waits.steps(1).books.lost_secs == (0.5,)


def test_steps_that_were_faster_are_set_off_against_those_that_were_slower():
    training = Training().steps(9).begin().steps(1, 0.75).steps(1, 0.125).finish().steps(1)
    assert training.lost == 0.5 - 0.125


def test_steps_that_were_all_faster_are_no_gain():
    assert Training().steps(9).begin().steps(4, 0.125).finish().steps(1).lost == 0.0


def test_a_usual_step_is_the_median_of_the_last_fifty():
    training = Training().steps(500, 0.5).steps(20, 0.125).steps(30, 0.25)
    assert training.begin().steps(1, 1.0).finish().steps(1).lost == 0.75
    training = Training().steps(25, 0.125).steps(25, 0.25)
    assert training.begin().steps(1, 1.0).finish().steps(1, 0.1875).lost == 0.8125


def test_a_usual_step_is_one_of_late_whatever_saves_lie_between():
    training = Training().steps(60, 0.5).begin(1).finish(1).steps(41, 0.25)
    training.begin(2).steps(1, 1.0).finish(2).steps(1)
    assert training.lost == 0.75


def test_steps_during_a_save_do_not_count_as_usual():
    training = Training().steps(3)
    training.begin(1).steps(60, 2.0).finish(1).steps(1)
    assert training.lost == 60 * 1.75
    training.begin(2).steps(1, 1.0).finish(2).steps(1)
    assert training.lost == 60 * 1.75 + 0.75


def test_where_no_usual_step_is_known_what_was_blocked_is_lost():
    assert Training().begin(blocked=0.5).steps(4, 9.0).finish().steps(1).lost == 0.5


def test_the_step_in_which_a_save_ends_is_known_when_it_has_ended():
    training = Training().steps(9).begin(blocked=0.5).wait(0.25).finish()
    assert training.lost == 0.5
    assert training.books.take_settled() == ()
    training.steps(1, 0.125)  # the step took 0.375
    assert training.lost == 0.625
    (cost,) = training.books.take_settled()
    assert cost.lost_secs == 0.625


def test_a_step_says_whether_a_save_is_settled_that_nobody_has_taken():
    training = Training().steps(9).begin()
    books = training.books
    assert not books.step_boundary(training.wait(USUAL).now)
    training.finish()
    assert books.step_boundary(training.wait(USUAL).now)
    assert books.step_boundary(training.wait(USUAL).now)
    books.take_settled()
    assert not books.step_boundary(training.wait(USUAL).now)


def test_steps_after_a_save_are_not_charged_to_it():
    assert Training().steps(9).begin().steps(1).finish().steps(1).steps(5, 9.0).lost == 0.0


def test_where_no_step_follows_a_save_is_settled_when_it_is_asked_for_or_the_next_one_begins():
    training = Training().steps(9).begin(1, blocked=0.5).steps(1, 0.5).finish(1)
    training.books.settle()
    assert [cost.lost_secs for cost in training.books.take_settled()] == [0.75]
    training.begin(2, blocked=1.0).finish(2).begin(3)
    assert [cost.step for cost in training.books.take_settled()] == [2]
    assert training.lost == 1.75


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.25, 2.0), st.floats(0.0, 1.0)), min_size=1, max_size=6), st.integers(0, 9))
def test_of_saves_that_are_under_way_together_a_step_is_charged_to_one(lengths, between):
    training = Training().steps(9).begin(1)
    for at, (length, blocked) in enumerate(lengths):
        if at == min(between, len(lengths) - 1):
            training.begin(2, blocked=blocked)
        training.steps(1, length)
    training.finish(1).steps(1).steps(1, 1.0).finish(2).steps(1)
    costs = training.books.take_settled()
    assert [cost.step for cost in costs] == [1, 2]
    blocked = lengths[min(between, len(lengths) - 1)][1]
    assert training.lost == pytest.approx(sum(length - USUAL for length, _ in lengths) + blocked + 0.75)
    assert costs[1].lost_secs == pytest.approx(blocked + 0.75)


def test_of_saves_that_end_in_one_step_the_first_is_charged_for_it():
    training = Training().steps(9).begin(1).begin(2).wait(1.0).finish(1).finish(2).steps(1)
    assert [cost.lost_secs for cost in training.books.take_settled()] == [1.0, 0.0]


# Pauses ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["before", "during", "after"]), secs), max_size=6))
def test_a_pause_that_is_told_changes_nothing(pauses):
    def run(pauses):
        training = Training().steps(4)

        def pause(where):
            for at, length in pauses:
                if at == where:
                    training.books.pause()
                    training.steps(1, length)

        pause("before")
        training.steps(4).begin(blocked=0.5).steps(2, 0.5)
        pause("during")
        training.steps(1).finish().steps(1)
        pause("after")
        training.steps(3).begin(2).steps(1, 1.0).finish(2).steps(1)
        return training.lost

    assert run(pauses) == pytest.approx(run([]))


def test_a_pause_that_goes_on_when_the_save_is_over_is_none_of_its_doing():
    training = Training().steps(9).begin(blocked=0.5).wait(0.25).finish()
    assert training.steps(1, 60.0).lost == 0.5


def test_a_pause_before_a_save_is_none_of_its_doing():
    assert Training().steps(9).wait(60.0).begin(blocked=0.5).wait(0.25).finish().steps(1).lost == 0.5


def test_a_stall_that_lies_within_the_save_is_lost_however_long_it_is():
    assert Training().steps(9).begin().wait(60.0).finish().steps(1).lost == 60.0


# Blocked -----------------------------------------------------------------------------------------------------------


def test_a_save_that_the_caller_waits_for_loses_what_it_blocks_and_a_pause_after_it_is_none_of_its_doing():
    training = Training().steps(9).begin(blocked=0.5)
    training.wait(2.0).finish().books.save_blocked(training.now, 2.0)
    assert training.lost == training.books.stats().blocked_secs == 2.5
    assert training.steps(1, 1.75).lost == 2.5


def test_waiting_when_a_save_is_over_does_not_lengthen_it():
    training = Training().steps(9).begin().wait(0.25).finish().wait(60.0)
    training.books.save_blocked(training.now, 0.0)
    assert training.steps(1).lost == 0.0


def test_what_earlier_saves_blocked_does_not_lengthen_a_later_one():
    training = Training().steps(9).begin(1, blocked=10.0).finish(1).steps(1)
    training.begin(2).wait(0.25).finish(2)
    assert training.steps(1, 5.0).lost == 10.0


def test_waiting_for_a_place_in_the_queue_is_charged_to_the_save_that_waits():
    training = Training().steps(9).begin(1).begin(2, blocked=0.5)
    training.wait(3.0).finish(1).books.save_blocked(training.now, 3.0)
    training.steps(1).finish(2).steps(1)
    assert [(cost.step, cost.blocked_secs) for cost in training.books.take_settled()] == [(1, 0.0), (2, 3.5)]
    assert training.lost == 3.5


def test_waiting_for_nothing_is_charged_to_nobody_and_no_step():
    training = Training().steps(9).begin().finish().steps(1)
    training.wait(5.0).books.save_blocked(training.now, 5.0)
    training.steps(1).begin(2).steps(1).finish(2).steps(1)
    assert (training.lost, training.books.stats().blocked_secs) == (0.0, 0.0)


# Totals ------------------------------------------------------------------------------------------------------------


def test_before_the_first_save_there_is_nothing():
    assert SaveRecorder().stats() == SaveStats()
    assert SaveStats() == SaveStats(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, None)


costs = st.tuples(st.integers(0, 2**40), secs, secs, secs, secs)


@settings(deadline=None)
@given(st.lists(costs, max_size=6), st.integers(0, 5))
def test_the_totals_are_the_sums_of_all_saves(each, skipped):
    training = Training().steps(9)
    for step, (size_bytes, blocked, staged, written, synced) in enumerate(each):
        training.begin(step, blocked).wait(written)
        training.finish(step, size_bytes, staged=staged, written=written, synced=synced).steps(1, 0.5)
    for _ in range(skipped):
        training.books.skipped()
    told, settled = training.books.stats(), training.books.take_settled()
    assert (told.saves, told.skipped, told.failed) == (len(each), skipped, 0)
    assert told.bytes_written == sum(cost.size_bytes for cost in settled) == sum(row[0] for row in each)
    for name in ("blocked_secs", "lost_secs", "staged_secs", "written_secs", "synced_secs"):
        assert getattr(told, name) == pytest.approx(sum(getattr(cost, name) for cost in settled))
    assert [dataclasses.astuple(cost)[1:3] + dataclasses.astuple(cost)[4:] for cost in settled] == each
    assert told.last == (settled[-1] if settled else None)
    assert training.books.take_settled() == ()


def test_a_save_that_has_just_ended_is_counted_with_what_is_known_of_it():
    training = Training().steps(9).begin(7, blocked=0.5).steps(1, 0.75)
    assert training.books.stats() == SaveStats()
    training.finish(7, 99, staged=1.0, written=2.0, synced=3.0)
    cost = SaveCost(7, 99, 0.5, 1.0, 1.0, 2.0, 3.0)
    assert training.books.stats() == SaveStats(1, 0, 0, 99, 0.5, 1.0, 1.0, 2.0, 3.0, cost)


def test_a_save_that_failed_costs_time_and_is_neither_the_last_nor_settled():
    training = Training().steps(9).begin(1).finish(1).steps(1).begin(2, blocked=0.5).steps(1, 1.0)
    training.books.save_failed(2, training.now)
    told = training.steps(1).books.stats()
    assert (told.saves, told.failed, told.bytes_written, told.lost_secs, told.last.step) == (1, 1, 10, 1.25, 1)
    assert [cost.step for cost in training.books.take_settled()] == [1]


def test_a_save_that_failed_before_it_began_is_counted_and_costs_nothing():
    training = Training().steps(9)
    training.books.failed()
    assert training.books.stats() == SaveStats(failed=1)
    assert training.books.take_settled() == ()


@pytest.mark.parametrize("end", [Training.finish, lambda training, step: training.books.save_failed(step, 0.0)])
def test_the_end_of_a_save_that_never_began_is_refused(end):
    training = Training()
    with pytest.raises(ValueError, match=r"^no save of step 3 is under way; under way: none\.$"):
        end(training, 3)
    training.begin(1).begin(2)
    with pytest.raises(ValueError, match=r"^no save of step 3 is under way; under way: 1, 2\.$"):
        end(training, 3)


def test_two_saves_of_one_step_end_in_their_order():
    training = Training().begin(1, blocked=0.5).begin(1, blocked=1.0).finish(1).finish(1)
    training.books.settle()
    assert [cost.blocked_secs for cost in training.books.take_settled()] == [0.5, 1.0]


def test_the_books_cannot_be_changed_by_those_who_read_them():
    training = Training().begin().finish()
    for value in (training.books.stats(), training.books.stats().last):
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
            setattr(value, dataclasses.fields(value)[0].name, 1)


# What it costs -----------------------------------------------------------------------------------------------------


def test_a_step_outside_of_saves_is_noted_and_nothing_else_is_done():
    training, calls = Training().steps(9), []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    training.books.step_boundary(200.0)
    sys.setprofile(None)
    assert [event for event in calls if event in ("call", "c_call")] == ["call", "c_call", "c_call"]


def test_memory_is_bounded_however_many_steps_there_are():
    training = Training().steps(100_000).begin().steps(100_000, 0.25).finish()
    assert len(training.books._boundaries) < 20_000
    assert training.steps(1).lost == 0.0
    assert len(training.books._boundaries) == 1


def test_no_clock_is_read():
    assert not {"time", "datetime"} & set(vars(stats_module))


def test_saves_that_end_in_another_thread_are_all_counted():
    training, stop = Training().steps(9), threading.Event()
    to_end, read = [], []

    def end():
        while not (stop.is_set() and not to_end):
            if to_end:
                training.finish(to_end.pop(0), 1, at=training.now)

    def ask():
        while not stop.is_set():
            read.append(training.books.stats().saves)

    threads = [threading.Thread(target=target) for target in (end, ask)]
    for thread in threads:
        thread.start()
    for step in range(300):
        training.begin(step).steps(1)
        to_end.append(step)
    stop.set()
    for thread in threads:
        thread.join()
    training.steps(1)
    assert training.books.stats().saves == training.books.stats().bytes_written == 300
    assert [cost.step for cost in training.books.take_settled()] == list(range(300))
    assert read == sorted(read)


# For people --------------------------------------------------------------------------------------------------------


def test_a_save_is_told_in_one_line():
    cost = SaveCost(1200, 403_000_000, 0.0021, 0.09, 0.06, 0.31, 0.02)
    assert cost.line("runs/a/ckpt-1200") == (
        "saved runs/a/ckpt-1200: 403 MB, blocked 2.1 ms, lost 0.09 s, staged in 0.06 s, written in 0.31 s, "
        "synced in 0.02 s"
    )


# How they are shown ------------------------------------------------------------------------------------------------


def test_statistics_are_a_line_with_what_was_saved_and_what_it_cost():
    told = SaveStats(saves=3, bytes_written=1_209_000_000, blocked_secs=0.0063, lost_secs=0.27)
    assert repr(told) == "<SaveStats: 3 saves, 1.21 GB, blocked 6.3 ms, lost 0.27 s>"
    assert repr(SaveStats(saves=1, skipped=2, failed=1)).endswith("lost 0.0 ms, 2 skipped, 1 failed>")


def test_statistics_are_a_table_with_all_saves_and_the_last():
    cost = SaveCost(1200, 403_000_000, 0.0021, 0.09, 0.06, 0.31, 0.02)
    html = SaveStats(3, 1, 0, 1_209_000_000, 0.0063, 0.27, 0.18, 0.93, 0.06, cost)._repr_html_()
    rows = [[cell.text for cell in row] for row in ElementTree.fromstring(html).iter("tr")]
    assert rows == [
        ["saves", "size", "blocked", "lost", "staged", "written", "synced"],
        ["3 saves", "1.21 GB", "6.3 ms", "0.27 s", "0.18 s", "0.93 s", "0.06 s"],
        ["the last, of step 1200", "403 MB", "2.1 ms", "0.09 s", "0.06 s", "0.31 s", "0.02 s"],
    ]
    assert "<caption>1 skipped, 0 failed</caption>" in html
    assert "the last" not in SaveStats()._repr_html_()
