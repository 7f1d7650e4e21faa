"""What a report knows of a directory: turns and what was lost with them, what became of saves, curves, and totals."""

from __future__ import annotations

import math
import os
import subprocess
from dataclasses import replace

import pytest

from ckptkit.report import event_facts
from ckptkit.report.curves import Curve, families
from ckptkit.report.facts import gather
from ckptkit.report.page import page
from ckptkit.report.turns import is_alive
from tests import checkpoint_dirs
from tests.report_cases import EVENTS, NOW, RECORDS, cost, event, facts, measured, record, saved, write


def saves(**given):
    return {save.name: save for save in facts(**given).saves}


# Turns -------------------------------------------------------------------------------------------------------------


def test_turns_are_told_apart_by_how_they_ended():
    assert [(turn.number, turn.ended, turn.why) for turn in facts().turns] == [
        (1, "killed", ""),
        (2, "preempted", "SIGTERM"),
        (3, "ended", ""),
    ]


def test_what_a_command_has_noted_is_no_turn_and_what_it_deleted_was_pruned():
    left = [each for each in RECORDS if each.name != "ckpt-380"]
    noted = (event("pruned", 6000, "", names=["ckpt-380"]), event("failed", 6001, "", step=380, why="odd"))
    found = facts(events=(*EVENTS, *noted), records=left)
    assert len(found.turns) == 3
    assert [incident.kind for incident in found.incidents] == ["skipped", "failed"]
    assert [save.fate for save in found.saves if save.name == "ckpt-380"] == ["pruned"]


def test_a_turn_knows_where_it_began_and_how_far_it_came():
    assert [(turn.resumed_from, turn.first_step, turn.last_step) for turn in facts().turns] == [
        (None, 0, 300),
        ("ckpt-200", 200, 380),
        ("ckpt-380", 380, 400),
    ]
    assert [turn.seen_at - turn.began_at for turn in facts().turns] == [300.0, 181.0, 110.0]


def test_what_was_trained_after_the_save_that_the_next_turn_went_on_from_is_lost():
    killed, preempted, _ = facts().turns
    assert (killed.lost_from, killed.repeated_steps) == (NOW - 9_800.0, 100)
    assert (preempted.lost_from, preempted.repeated_steps) == (None, 0)


def test_all_of_a_turn_is_lost_if_the_next_one_begins_where_it_did():
    begins = [event("begun", at, run, step=50, pid=1, host="h") for at, run in ((0, "a"), (500, "b"))]
    first, _ = facts([begins[0], measured(90, 100, "a", loss=1.0), begins[1]], []).turns
    assert (first.lost_from, first.repeated_steps) == (first.began_at, 50)


def test_a_save_that_the_next_turn_could_not_go_on_from_is_lost_as_well():
    events = [
        event("begun", 0, "a", step=0, pid=1, host="h"),
        saved(10, 100, "a"),
        saved(20, 200, "a"),
        cost(30, 100, 0.1, "a"),  # of an older step, and noted last
        event("begun", 500, "b", step=100, resumed_from="ckpt-100", pid=1, host="h"),
    ]
    first, _ = facts(events, []).turns
    assert (first.lost_from, first.last_step, first.repeated_steps) == (NOW - 9_990.0, 200, 100)


def test_a_clock_that_goes_back_makes_no_turn_shorter_than_nothing():
    (turn,) = facts([event("begun", 100, step=0), event("ended", 40, step=5)], []).turns
    assert turn.seen_at - turn.began_at == 0.0


def test_nothing_is_lost_of_a_turn_that_ended_by_itself_though_the_next_one_begins_afresh():
    events = [*EVENTS, event("begun", 6000, "d", step=0, pid=1, host="h")]
    ended = facts(events).turns[2]
    assert (ended.ended, ended.lost_from, ended.repeated_steps) == ("ended", None, 0)


def test_an_error_that_nobody_caught_is_an_interruption_and_is_named():
    events = [*EVENTS[:-1], event("ended", 5110, "c", step=400, error="ValueError")]
    last = facts(events).turns[-1]
    assert (last.ended, last.why, last.is_interrupted) == ("failed", "ValueError", True)


@pytest.mark.parametrize(
    ("alive", "ended", "is_lost"), [(True, "running", False), (False, "killed", True), (None, "unknown", False)]
)
def test_of_the_last_turn_without_an_end_its_process_tells(alive, ended, is_lost):
    asked = []
    found = facts(EVENTS[:9], is_alive=lambda pid, host: asked.append((pid, host)) or alive).turns[-1]
    assert (found.ended, found.lost_from is not None) == (ended, is_lost)
    assert asked == [(7, "node-1")]


def test_an_end_that_was_not_the_last_thing_to_be_noted_is_one_all_the_same():
    events = [*EVENTS, cost(5111, 400, 0.2, "c")]
    assert facts(events).turns[-1].ended == "ended"


def test_a_process_is_alive_or_not_on_its_own_machine_alone():
    here = os.uname().nodename
    child = subprocess.Popen(["true"])
    child.wait()
    assert is_alive(os.getpid(), here) is True
    assert is_alive(child.pid, here) is False
    assert is_alive(os.getpid(), here + "-not") is None
    assert is_alive(0, here) is None, "that would be all processes of the group"
    assert is_alive(1 << 70, here) is None


# Saves -------------------------------------------------------------------------------------------------------------


def test_every_checkpoint_that_was_ever_saved_is_there_with_what_became_of_it():
    assert [(save.name, save.fate) for save in facts().saves] == [
        ("ckpt-100", "pruned"),
        ("ckpt-200", "kept"),
        ("ckpt-300", "pruned"),
        ("ckpt-380", "kept"),
        ("ckpt-400", "kept"),
    ]


def test_what_a_save_cost_is_known_from_the_history():
    told = saves()
    assert (told["ckpt-100"].blocked_secs, told["ckpt-100"].lost_secs) == (0.002, 0.1)
    assert told["ckpt-380"].lost_secs is None


def test_what_was_blocked_in_all_is_known_a_step_later():
    events = [*EVENTS, event("cost", 5105, "c", name="ckpt-400", step=400, lost_secs=0.5, blocked_secs=0.25)]
    assert saves(events=events)["ckpt-400"].blocked_secs == 0.25


def test_the_latest_the_best_the_one_resumed_from_and_what_keeps_each_are_marked():
    told = saves()
    assert [name for name, save in told.items() if save.is_latest] == ["ckpt-400"]
    assert [name for name, save in told.items() if save.is_best] == ["ckpt-200"]
    assert {name: save.resumed_times for name, save in told.items() if save.resumed_times} == {
        "ckpt-200": 1,
        "ckpt-380": 1,
    }
    assert told["ckpt-200"].kept_by == ("best val_loss",)
    assert told["ckpt-380"].kept_by == ("latest 2", "resumed from")


def test_what_was_restored_in_mid_run_is_what_the_run_went_on_from():
    assert saves(events=[*EVENTS, event("restored", 5105, "c", name="ckpt-200", step=200)])["ckpt-200"].kept_by == (
        "best val_loss",
        "resumed from",
    )


def test_one_that_was_saved_again_is_there_twice_and_the_later_one_is_what_lies_there():
    events = [
        *EVENTS,
        event("begun", 6000, "d", step=200, resumed_from="ckpt-200"),
        saved(6100, 400, "d", size_bytes=5),
    ]
    told = [save for save in facts(events, (*RECORDS[:2], record(400, 6100, {}))).saves if save.name == "ckpt-400"]
    assert [(save.fate, save.at) for save in told] == [("replaced", NOW - 4_900.0), ("kept", NOW - 3_900.0)]
    assert [save.is_latest for save in told] == [False, True]


def test_one_that_was_saved_anew_after_it_was_pruned_was_pruned_once():
    events = [*EVENTS, saved(6100, 300, "c")]
    told = [save for save in facts(events, (*RECORDS, record(300, 6100, {}))).saves if save.name == "ckpt-300"]
    assert [save.fate for save in told] == ["pruned", "kept"]


def test_one_that_is_gone_though_nobody_pruned_it_is_missing():
    assert saves(records=RECORDS[1:])["ckpt-200"].fate == "missing"


def test_one_that_was_to_be_pruned_and_lies_there_still_is_kept():
    assert saves(records=(*RECORDS, record(100, 100, {})))["ckpt-100"].fate == "kept"


def test_a_damaged_one_says_why_whether_the_history_knows_it_or_not():
    told = saves(records=RECORDS[:2], damaged={"ckpt-400": "a file is missing", "ckpt-5": "its index is gone"})
    assert (told["ckpt-400"].fate, told["ckpt-400"].damage) == ("damaged", "a file is missing")
    assert (told["ckpt-5"].fate, told["ckpt-5"].step) == ("damaged", None)


def test_one_that_somebody_has_read_and_found_damaged_inside_is_damaged():
    doubting = replace(RECORDS[2], found_damaged={"ckpt-200": 200, "ckpt-380": 1})  # the latter of another commit
    told = saves(records=(*RECORDS[:2], doubting))
    assert told["ckpt-200"].fate == "damaged"
    assert "was not what was written" in told["ckpt-200"].damage
    assert told["ckpt-380"].fate == "kept"


def test_without_a_history_the_manifests_tell_what_they_know():
    known = facts(events=(), seconds={"ckpt-400": {"blocked": 0.01, "written": 0.2}})
    last = known.saves[-1]
    assert (last.name, last.blocked_secs, last.written_secs, last.lost_secs) == ("ckpt-400", 0.01, 0.2, None)
    assert [curve.metric for curve in known.curves] == ["loss", "val_loss"]
    assert known.turns == ()
    assert "No history lies in this directory" in known.unknown[0]


def test_of_what_plain_tensorflow_wrote_it_is_said_what_cannot_be_known():
    foreign = [replace(record(step, 0, {}), foreign=True, config={}) for step in range(1, 8)]
    known = facts(events=(), records=foreign)
    assert {save.fate for save in known.saves} == {"foreign"}
    assert known.unknown[1].startswith(
        "ckpt-1, ckpt-2, ckpt-3, ckpt-4, ckpt-5 and 2 more: written by plain TensorFlow."
    )


def test_a_history_that_does_not_go_back_to_the_beginning_says_so():
    assert facts(EVENTS[4:]).unknown == (
        "The history does not go back to the beginning: what happened before is not told here.",
    )
    assert facts().unknown == ()


def test_that_the_last_turn_may_be_at_work_still_is_said():
    assert "at work still or was killed cannot be known" in facts(EVENTS[:9]).unknown[0]


# Curves ------------------------------------------------------------------------------------------------------------


def test_of_a_step_that_was_trained_twice_the_later_value_counts_and_the_earlier_is_kept_apart():
    loss, val_loss = facts().curves
    assert loss == Curve("loss", (100, 200, 300, 400), (0.9, 0.5, 0.4, 0.35), (300,), (0.41,))
    assert val_loss.lost_values == (0.47,)


def test_what_was_measured_before_a_fresh_start_is_given_up():
    events = [*EVENTS, event("begun", 6000, "d", step=0), measured(6100, 100, "d", loss=2.0)]
    loss = facts(events, ()).curves[0]
    assert (loss.steps, loss.values) == ((100,), (2.0,))
    assert loss.lost_steps == (100, 200, 300, 400)


def test_a_metric_and_its_validation_belong_together_whatever_came_first():
    curves = [Curve(name, (), ()) for name in ("val_loss", "acc", "loss", "val_", "val_auc")]
    assert [[curve.metric for curve in family] for family in families(curves)] == [
        ["loss", "val_loss"],
        ["acc"],
        ["val_"],
        ["val_auc"],
    ]


# All of it ---------------------------------------------------------------------------------------------------------


def test_the_totals_add_up():
    totals = facts().totals
    assert (totals.saves, totals.there, totals.damaged, totals.skipped, totals.failed) == (5, 3, 0, 1, 1)
    assert (totals.there_bytes, totals.written_bytes) == (3000, 5000)
    assert (totals.blocked_secs, totals.lost_secs) == (pytest.approx(0.01), pytest.approx(0.4))
    assert totals.turns_secs == 300.0 + 181.0 + 110.0
    assert (totals.interruptions, totals.repeated_steps) == ({"killed": 1, "preempted": 1}, 100)


def test_what_nobody_knows_is_not_zero():
    totals = facts(events=()).totals
    assert (totals.blocked_secs, totals.lost_secs) == (None, None)


def test_what_else_happened_is_told_with_its_turn():
    assert [(each.kind, each.turn, each.step, each.why) for each in facts().incidents] == [
        ("skipped", 1, 250, ""),
        ("failed", 2, 350, "OSError 28 No space left on device"),
    ]


def test_a_directory_is_gathered_with_its_history_and_changed_in_nothing(tmp_path):
    directory = str(tmp_path / "digits")
    write(directory)
    checkpoint_dirs.save(directory, 420, seconds={"blocked": 0.5, "written": 1.5})  # which the history does not know
    before = checkpoint_dirs.files_in(directory)
    found = gather(directory, NOW)
    assert [save.name for save in found.saves if save.is_there] == ["ckpt-420", "ckpt-200", "ckpt-380", "ckpt-400"]
    assert (found.saves[0].blocked_secs, found.saves[0].written_secs) == (0.5, 1.5)
    assert [turn.ended for turn in found.turns] == ["killed", "preempted", "ended"]
    assert (found.name, found.has_history, found.is_empty) == ("digits", True, False)
    assert checkpoint_dirs.files_in(directory) == before


def test_what_happened_at_a_time_that_no_calendar_has_is_passed_over(tmp_path):
    write(str(tmp_path), [event("begun", -1e300, "x"), *EVENTS, event("ended", 1e300, "x")])
    assert len(gather(str(tmp_path), NOW).turns) == 3


def test_a_manifest_that_goes_away_while_it_is_read_takes_nothing_with_it(tmp_path, monkeypatch):
    checkpoint_dirs.save(str(tmp_path), 1, seconds={"blocked": 0.5})
    from ckptkit.report import facts as module

    scan = module.DirectoryReader.scan

    def scan_and_lose(reader):
        listing = scan(reader)
        os.unlink(tmp_path / "ckpt-1.manifest.json")
        return listing

    monkeypatch.setattr(module.DirectoryReader, "scan", scan_and_lose)
    (save,) = gather(str(tmp_path), NOW).saves
    assert (save.name, save.blocked_secs) == ("ckpt-1", None)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_directory_without_anything_has_nothing_to_tell(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert gather(str(tmp_path / name), NOW).is_empty


ODD = [None, True, "x", -1, 1 << 70, 10**400, 0.5, [], {}, ["a", 1], {"a": "x", "b": 10**400, "c": 1}]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_an_event_may_say_anything_and_the_rest_is_told_all_the_same(odd):
    keys = ("step", "name", "names", "metrics", "size_bytes", "blocked_secs", "lost_secs", "resumed_from", "pid")
    kinds = ("begun", "saved", "cost", "pruned", "measured", "skipped", "failed", "restored", "preempted", "ended", "?")
    events = [event(kind, at, run, **dict.fromkeys(keys, odd)) for run in "xy" for at, kind in enumerate(kinds, 6000)]
    known = facts([*EVENTS, *events])
    assert known.saves[:3] == facts().saves[:3]
    page(known, "")


def test_what_is_of_a_wrong_type_counts_as_not_said():
    odd = event("saved", 0, step=True, size_bytes=-1, lost_secs="0.1", name=5, names={"a": 1}, metrics=[1])
    assert event_facts.whole(odd, "step") is None
    assert event_facts.whole(odd, "size_bytes") is None
    assert event_facts.number(odd, "lost_secs") is None
    assert event_facts.text(odd, "name") == ""
    assert event_facts.names(odd, "names") == ()
    assert event_facts.metrics(odd) == {}
    assert event_facts.metrics(event("saved", 0, metrics={"a": 10**400, "b": True, "c": "x"})) == {"a": math.inf}
    assert event_facts.number(event("cost", 0, lost_secs=math.nan), "lost_secs") is None
