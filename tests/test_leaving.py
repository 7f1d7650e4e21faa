"""A run that is told to end leaves at once, saved: a fit, a loop, a script; see preempted_child.py for the hundred."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import threading
from unittest.mock import Mock

import pytest
import tensorflow as tf

import ckptkit
from ckptkit import finished_fits, history
from ckptkit.leaving import Departure
from ckptkit.policies import EverySteps, Never
from ckptkit.preemption import PreemptionWatch
from ckptkit.store import Store
from ckptkit.which_keras import IS_LEGACY, keras
from tests.test_callbacks import STEPS, X, Y, everything, fit, sequential

pytestmark = pytest.mark.core


@pytest.fixture
def directory(tmp_path):
    finished_fits.forget()
    yield str(tmp_path / "run")
    finished_fits.forget()


@pytest.fixture(autouse=True)
def _the_default_handlers():
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    for number in numbers[:2]:  # a fit of another test that ended by an exception has told nobody
        signal.signal(number, signal.SIG_DFL)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def send(name="SIGTERM"):
    signal.raise_signal(signal.Signals[name])  # to this thread: one to the process may come some instructions later


class Sends(keras.callbacks.Callback):
    """Sends this process a signal at the n-th time that something happens."""

    def __init__(self, event, count=1, send=send):
        super().__init__()
        self.left, self.trained, self.validated = count, 0, 0
        self.event, self.send = event, send

    def _happens(self, event):
        self.left -= event == self.event
        if event == self.event and self.left == 0:
            self.send()

    def on_train_begin(self, logs=None):
        self._happens("train_begin")

    def on_epoch_begin(self, epoch, logs=None):
        self._happens("epoch_begin")

    def on_train_batch_end(self, batch, logs=None):
        self.trained += 1
        self._happens("batch")

    def on_test_begin(self, logs=None):
        self._happens("test_begin")

    def on_test_batch_end(self, batch, logs=None):
        self.validated += 1
        self._happens("test")

    def on_test_end(self, logs=None):
        self._happens("test_end")

    def on_epoch_end(self, epoch, logs=None):
        self._happens("epoch_end")

    def on_train_end(self, logs=None):
        self._happens("train_end")


def ours(directory, **options):
    return ckptkit.TrainingCheckpoint(directory, **{"save_freq": Never(), **options})


def preempted(model, callback, *others, **options):
    """Fit, and return how it left."""
    options = {"epochs": 2, "validation_data": (X[:8], Y[:8]), **options}
    with pytest.raises(ckptkit.Preempted) as caught:
        fit(model, callback, *others, **options)
    return caught.value


def facts_of(callback):
    return [(record.step, record.epoch, record.batch) for record in callback.manager.records()]


# A fit ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "count", "facts", "trained", "validated"),
    [
        ("train_begin", 1, [], 0, 0),
        ("epoch_begin", 1, [], 0, 0),
        ("batch", 1, [(1, 0, 1)], 1, 0),
        ("batch", STEPS, [(STEPS, 0, STEPS)], STEPS, 0),  # the next boundary is the beginning of the validation
        ("test_begin", 1, [(STEPS, 0, STEPS)], STEPS, 1),
        ("test", 1, [(STEPS, 0, STEPS)], STEPS, 1),
        ("test_end", 1, [(STEPS, 1, 0)], STEPS, 2),
        ("epoch_end", 1, [(STEPS, 1, 0)], STEPS, 2),
        ("epoch_begin", 2, [(STEPS + 1, 1, 1)], STEPS + 1, 2),  # nothing was saved at the end of the epoch before
        ("epoch_end", 2, [(2 * STEPS, 2, 0)], 2 * STEPS, 4),
        ("train_end", 1, [(2 * STEPS, 2, 0)], 2 * STEPS, 4),
    ],
)
@pytest.mark.slow
def test_a_fit_leaves_at_the_next_batch_wherever_it_is_and_has_saved_what_it_did(
    directory, event, count, facts, trained, validated
):
    callback, sends = ours(directory), Sends(event, count)
    left = preempted(sequential(), callback, sends)
    assert facts_of(callback) == facts
    assert (sends.trained, sends.validated, left.step) == (trained, validated, trained)
    assert (left.code, left.cause) == (143, "SIGTERM")
    last = [(each.kind, each.facts["step"], each.facts["cause"]) for each in history.read(directory)[-1:]]
    assert last == [("preempted", trained, "SIGTERM")] * bool(facts)  # without a save there is no directory
    assert left.checkpoint == (callback.manager.latest_checkpoint if facts else None)


def test_between_two_epochs_a_fit_leaves_before_the_next_one_if_the_last_was_saved(directory):
    callback, sends = ours(directory, save_freq="epoch"), Sends("epoch_begin", 2)
    preempted(sequential(), callback, sends)
    assert facts_of(callback) == [(STEPS, 1, 0)]
    assert sends.trained == STEPS


def test_a_step_that_is_being_saved_is_waited_for_and_not_saved_again(directory, gate):
    def send_and_open():
        send()
        gate.set()

    callback = ours(directory, save_freq=EverySteps(3), async_save=True)
    left = preempted(sequential(), callback, Sends("batch", 4, send_and_open))
    assert facts_of(callback) == [(3, 0, 3), (4, 0, 4)]
    assert callback.manager.stats().saves == 2
    assert left.step == 4


@pytest.mark.parametrize("asked", [(), ("SIGUSR1", "SIGINT")], ids=["only by call", "others"])
@pytest.mark.slow
def test_a_signal_that_was_not_asked_for_is_none_of_ours(directory, asked):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("SIGTERM"))
    callback = ours(directory, preemption_signals=asked)
    fit(sequential(), callback, Sends("batch", 1), epochs=1)
    assert signal.signal(signal.SIGTERM, before) is not before
    assert seen == ["SIGTERM"]
    assert facts_of(callback) == [(STEPS, 1, 0)]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
@pytest.mark.slow
def test_other_signals_than_sigterm_and_other_codes_may_be_asked_for(directory, name):
    callback = ours(directory, preemption_signals=[signal.Signals[name]], preemption_code=99)
    left = preempted(sequential(), callback, Sends("batch", 2, lambda: send(name)))
    assert (left.code, left.cause, left.step) == (99, name, 2)


def test_with_save_on_preemption_off_the_signal_does_what_it_does(directory):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("SIGTERM"))
    fit(sequential(), ours(directory, save_on_preemption=False), Sends("batch", 1), epochs=1)
    signal.signal(signal.SIGTERM, before)
    assert seen == ["SIGTERM"]


def test_what_the_handler_of_the_script_raises_is_raised_when_all_is_saved(directory):
    def stop(number, frame):
        raise SystemExit(7)

    before = signal.signal(signal.SIGTERM, stop)
    callback = ours(directory)
    with pytest.raises(SystemExit, match="7") as caught:
        fit(sequential(), callback, Sends("batch", 5))
    assert signal.signal(signal.SIGTERM, before) is stop
    assert type(caught.value) is SystemExit
    assert isinstance(caught.value.__cause__, ckptkit.Preempted)
    assert facts_of(callback) == [(5, 0, 5)]


def test_a_fit_in_a_thread_leaves_when_it_is_asked_to(directory, caplog):
    ended = []

    def run():
        ended.append(preempted(sequential(), ours(directory), Sends("batch", 3, ckptkit.request_preemption)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert (ended[0].step, ended[0].cause) == (3, "request_preemption")
    assert "Python handles signals in the main thread alone" in caplog.text


def test_a_fit_that_broke_off_swallows_no_signal(directory):
    class Broken(Exception):
        pass

    def broken():
        raise Broken

    seen = []
    before = signal.signal(signal.SIGTERM, handler := lambda *_: seen.append("SIGTERM"))
    with pytest.raises(Broken):
        fit(sequential(), ours(directory), Sends("batch", 3, broken))
    send()
    assert seen == ["SIGTERM"]
    assert signal.signal(signal.SIGTERM, before) is handler


@pytest.mark.slow
def test_a_run_that_left_goes_on_in_the_same_process_and_ends_with_the_same_bits(directory, tmp_path):
    whole = sequential()
    validation = {"validation_data": (X[:8], Y[:8])}
    history = fit(whole, ours(tmp_path / "whole"), **validation).history
    for event, count in [("test", 1), ("test", 2), ("batch", 3), ("epoch_end", 1), ("test_begin", 1)]:
        preempted(sequential(), ours(directory), Sends(event, count), epochs=3)
    resumed = sequential()
    assert fit(resumed, ours(directory), **validation).history == history
    assert everything(resumed) == everything(whole)


def test_a_stop_that_was_decided_in_an_epoch_counts_after_a_validation_that_was_left(directory):
    class Stops(Sends):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            self.model.stop_training = self.trained == 4

    callback, sends = ours(directory), Stops("test")
    preempted(sequential(), callback, sends, epochs=3)
    assert facts_of(callback) == [(4, 0, 4)]
    history = fit(sequential(), again := ours(directory), validation_data=(X[:8], Y[:8]))
    assert (history.epoch, again.step) == ([0], 4)


@pytest.mark.slow
def test_what_a_validation_holds_is_let_go_when_it_ends(directory):
    held = []

    class Looks(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            held.append(callback._held is not None)

        def on_test_end(self, logs=None):
            held.append(callback._held is not None)

    callback = ours(directory)
    fit(sequential(), callback, Looks(), epochs=1, validation_data=(X, Y))
    assert held == [True, False]


# A loop ---------------------------------------------------------------------------------------------------------------


def loop_of(directory, manager_options=(), **options):
    total = tf.Variable(0, dtype=tf.int64)
    manager = ckptkit.CheckpointManager(
        tf.train.Checkpoint(total=total), directory, 3, **{"save_policy": Never(), **dict(manager_options)}
    )
    data = tf.data.Dataset.range(12).shuffle(12, seed=3).batch(3)
    return manager, total, ckptkit.TrainingLoop(manager, data, epochs=2, validation=[1, 2, 3], **options)


def go_over(manager, total, loop, at=None):
    """Go over a loop, sending a signal at a step; return the steps done."""
    done = []
    with manager:
        for step, batch in loop:
            total.assign(total * 3 + tf.reduce_sum(batch))
            if step == at:
                send()
            done.append(step)
    return done


@pytest.mark.parametrize(("at", "facts"), [(0, (1, 0, 1)), (2, (3, 0, 3)), (3, (4, 1, 0)), (7, (8, 2, 0))])
def test_a_loop_leaves_when_the_body_has_done_its_step(directory, tmp_path, at, facts):
    _, whole, _ = run = loop_of(tmp_path / "whole")
    go_over(*run)
    manager, total, loop = loop_of(directory)
    with pytest.raises(
        ckptkit.Preempted, match=rf"^preempted by SIGTERM at step {at + 1}; newest checkpoint .*-{at + 1}"
    ):
        go_over(manager, total, loop, at)
    assert [(record.step, record.epoch, record.batch) for record in manager.records()] == [facts]
    manager, total, loop = loop_of(directory)
    assert go_over(manager, total, loop) == list(range(at + 1, 8))
    assert total.numpy() == whole.numpy()


def test_a_loop_that_has_not_begun_leaves_before_its_first_step(directory):
    manager, total, loop = loop_of(directory)
    restore = manager.restore
    manager.restore = lambda **options: (send(), restore(**options))[1]
    with pytest.raises(ckptkit.Preempted, match="at step 0; newest checkpoint none"):
        go_over(manager, total, loop)


def test_a_loop_that_is_told_to_end_while_its_last_save_is_written_leaves_as_well(directory):
    manager, total, loop = loop_of(directory)
    wait = manager.wait_until_finished
    manager.wait_until_finished = lambda *secs: (send(), wait(*secs))[1]
    with pytest.raises(ckptkit.Preempted, match=r"at step 8; newest checkpoint .*ckpt-8"):
        go_over(manager, total, loop)


def test_a_loop_lets_its_validation_come_to_an_end_unless_its_time_is_over(directory):
    def train(loop, seen):
        for _ in loop:
            for batch in loop.validation():
                send()
                seen.append(batch)

    for options, seen, steps in ({}, [], [1]), ({"grace_secs": 1e-9}, [], []):
        manager, _, loop = loop_of(directory, **options)
        with pytest.raises(ckptkit.Preempted):
            train(loop, seen)
        assert seen == [1, 2, 3][: 3 if steps else 1]
        assert [record.step for record in manager.records()] == [1]
        manager.close()


def test_a_loop_that_is_left_puts_the_handlers_back(directory):
    _, _, loop = loop_of(directory)
    before = signal.getsignal(signal.SIGTERM)
    for _ in loop:
        assert signal.getsignal(signal.SIGTERM) is not before
        break
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loop_may_be_asked_not_to_watch(directory):
    _, _, loop = loop_of(directory, save_on_preemption=False)
    before = signal.getsignal(signal.SIGTERM)
    assert all(signal.getsignal(signal.SIGTERM) is before for _ in loop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"preemption_signals": ["SIGKILL"]},
            r"^preemption_signals must be a list of signals that a program can handle",
        ),
        ({"preemption_signals": "SIGTERM"}, r"^preemption_signals must be a list of signals .*, got 'SIGTERM'"),
        ({"grace_secs": 0}, r"^grace_secs must be a number of seconds of more than 0, or None, got 0"),
        ({"preemption_code": 256}, r"^preemption_code must be an exit code, a whole number from 0 to 255, got 256"),
        ({"save_on_preemption": 1}, r"^save_on_preemption must be True or False, got 1"),
    ],
)
def test_a_loop_refuses_what_cannot_be_meant(directory, options, message):
    with pytest.raises(ValueError, match=message):
        loop_of(directory, **options)


# What may go wrong ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watch():
    watch = PreemptionWatch(["SIGTERM"])
    watch.begin(lambda frame: True)
    yield watch
    watch.heed()


def manager_of(directory, **options):
    return ckptkit.CheckpointManager(tf.train.Checkpoint(value=tf.Variable(1.0)), directory, 3, **options)


def leave(watch, manager, step, save=None):
    departure = Departure(watch)
    departure.prepare(manager, step, is_watched=False)
    departure.leave(step, save)


def saves(manager, step):
    return lambda options: manager.save(step, False, options)


@pytest.mark.parametrize("async_save", [True, False], ids=["async", "sync"])
def test_a_save_that_takes_longer_than_the_time_of_grace_is_given_up_and_the_one_before_stands(
    directory, watch, gate, caplog, async_save
):
    manager = manager_of(directory, async_save=async_save)
    gate.set()
    manager.save(1)
    manager.wait_until_finished()
    gate.clear()
    watch.grace_secs = 0.05
    send()
    with manager, pytest.raises(ckptkit.Preempted) as caught:
        leave(watch, manager, 2, saves(manager, 2))
    assert os.path.basename(caught.value.checkpoint) == "ckpt-1"
    assert "SIGTERM: leaving at step 2, not saved within 0.05 s." in caplog.text
    assert f"{directory}/ckpt-1 is the newest complete checkpoint." in caplog.text
    assert manager._saver._directory_lock is not None, "what is under way needs it"
    gate.set()


def test_a_save_that_was_under_way_and_takes_too_long_is_no_reason_to_begin_another(directory, watch, gate):
    manager = manager_of(directory, async_save=True)
    manager.save(1)
    watch.grace_secs = 0.05
    send()
    with pytest.raises(ckptkit.Preempted, match="newest checkpoint none"):
        leave(watch, manager, 2, lambda options: pytest.fail("no time for that"))
    gate.set()


def test_no_save_is_begun_when_the_time_of_grace_is_over(directory, watch, caplog):
    watch.grace_secs = 1e-9
    send()
    with pytest.raises(ckptkit.Preempted, match="newest checkpoint none"):
        leave(watch, manager_of(directory), 2, lambda options: pytest.fail("no time for that"))
    assert "leaving at step 2, not saved within 1e-09 s." in caplog.text


def test_signals_during_the_save_do_not_break_it(directory, watch, gate):
    manager = manager_of(directory)

    def disturb():
        for _ in range(20):
            send()
        gate.set()

    def save(options):
        manager.save(2, False, options)
        threading.Thread(target=disturb).start()

    send()
    with pytest.raises(ckptkit.Preempted, match=r"at step 2; newest checkpoint .*ckpt-2"):
        leave(watch, manager, 2, save)


@pytest.mark.parametrize("on_save_error", ["raise", "warn"])
def test_a_save_that_fails_is_logged_and_the_run_leaves_all_the_same(
    directory, watch, monkeypatch, caplog, on_save_error
):
    manager = manager_of(directory, on_save_error=on_save_error)
    manager.save(1)
    monkeypatch.setattr(Store, "commit", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    send()
    with pytest.raises(ckptkit.Preempted, match=r"at step 2; newest checkpoint .*ckpt-1"):
        leave(watch, manager, 2, saves(manager, 2))
    assert "ENOSPC No space left on device" in caplog.text
    assert "SIGTERM: leaving at step 2, not saved. " in caplog.text


def test_a_save_that_failed_before_is_logged_and_the_step_is_saved(directory, watch, monkeypatch, caplog):
    manager = manager_of(directory, async_save=True)
    commit, errors = Store.commit, [OSError(5, "Input/output error")]

    def failing(*arguments):
        if errors:
            raise errors.pop()
        return commit(*arguments)

    monkeypatch.setattr(Store, "commit", failing)
    manager.save(2)
    send()
    with pytest.raises(ckptkit.Preempted, match=r"at step 2; newest checkpoint .*ckpt-2"):
        leave(watch, manager, 2, saves(manager, 2))
    assert "EIO Input/output error" in caplog.text


def test_what_a_callback_of_the_script_raises_when_asked_for_its_state_is_logged(directory, caplog):
    class Fails(keras.callbacks.Callback):
        def get_state(self):
            raise ZeroDivisionError("of the script")

        def set_state(self, state):
            pass

    preempted(sequential(), ours(directory), Fails(), Sends("batch", 2))
    assert "step 2 could not be saved" in caplog.text
    assert "ZeroDivisionError: of the script" in caplog.text


def test_a_step_that_needs_no_save_is_none(directory, watch, caplog):
    manager = manager_of(directory)
    send()
    with caplog.at_level(logging.WARNING), pytest.raises(ckptkit.Preempted):
        leave(watch, manager, 0)
    assert caplog.messages == ["SIGTERM: leaving at step 0. There is no complete checkpoint yet."]


# Scripts --------------------------------------------------------------------------------------------------------------

FIT = """
import itertools, os, signal, sys, threading
import numpy as np
from ckptkit.which_keras import keras
import ckptkit
from ckptkit.held import Held

how, directory = sys.argv[1:]
if how == "hangs":
    write, number = Held.write, itertools.count(1)
    Held.write = lambda *arguments: threading.Event().wait() if next(number) == 2 else write(*arguments)


class Sends(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            signal.raise_signal(signal.SIGTERM)


keras.utils.set_random_seed(1)
model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
model.compile("sgd", "mse", run_eagerly=True)
x = np.ones((8, 3), "float32")
callbacks = [
    ckptkit.TrainingCheckpoint(directory, save_freq=1, grace_secs=0.2 if how == "hangs" else None),
    ckptkit.ExportOnCompletion(directory + "-export", formats=["weights"], verify=False),
    *([Sends()] if how != "goes on" else []),
]
try:
    model.fit(x, x[:, :1], batch_size=2, verbose=0, callbacks=callbacks)
finally:
    print("last words", flush=how != "hangs")
print("trained")
"""


def test_a_script_that_catches_nothing_ends_with_143_and_reaches_its_export_when_it_is_started_again(
    fork_server, tmp_path
):
    directory = str(tmp_path / "run")
    first = fork_server.run("-c", FIT, "told", directory)
    assert (first.returncode, first.stdout) == (143, "last words\n")
    assert "Traceback" not in first.stderr
    assert f"SIGTERM: leaving at step 2. {directory}/ckpt-2 is the newest complete checkpoint." in first.stderr
    assert not os.path.exists(directory + "-export")
    again = fork_server.run("-c", FIT, "goes on", directory)
    assert (again.returncode, again.stdout) == (0, "last words\ntrained\n")
    assert os.path.exists(directory + "-export/model.weights.h5")


def test_a_disk_that_hangs_does_not_keep_the_process_beyond_its_time_of_grace(fork_server, tmp_path):
    directory = str(tmp_path / "run")
    done = fork_server.run("-c", FIT, "hangs", directory)
    assert (done.returncode, done.stdout) == (143, "last words\n")
    assert "SIGTERM: leaving at step 2, not saved within 0.2 s." in done.stderr
    assert f"{directory}/ckpt-1 is the newest complete checkpoint." in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("fit", 10), ("loop", 10)] if IS_LEGACY else [("fit", 40), ("loop", 60)])
def test_of_a_hundred_signals_at_random_times_all_are_saved_and_gone_on_from_bit_for_bit(
    run_fork, tmp_path, kind, count
):
    lives = json.loads(run_fork("-m", "tests.preempted_child", str(tmp_path), kind, str(count), "7"))
    left = [life for life in lives if "step" in life]
    assert len(left) == count
    # One that is told before the very first step has nothing to save.
    assert [life for life in left if (life["newest"] or 0) != life["step"] or life["code"] != 143] == []
    assert [life for life in lives if not life["is_put_back"]] == []
    assert len({tuple(life["ends"]) for life in lives if "ends" in life}) == 1
    assert all("ends" in life for life in (lives[0], lives[-1])), "one was left alone, and one was only gone on with"
    phases = [[phase for phase in life["signals"] if "run" not in phase] for life in lives]
    assert [bool(each) for each in phases] == ["step" in life for life in lives], "each signal that came to a run"
    assert IS_LEGACY or {"training", "validation"} <= {phase for each in phases for phase in each}, "of ten not always"
    for life, following in itertools.pairwise(lives):
        assert following["resumed"] == life.get("step", 0), "nothing is done again"
    for life in left:
        assert life["resumed"] + life["steps"] == life["step"], "nothing is lost"


@pytest.mark.parametrize("is_broken", [True, False])
def test_where_another_worker_does_not_say_when_it_can_leave_nothing_is_saved(directory, watch, is_broken):
    manager = manager_of(directory)
    manager.save(1)
    departure = Departure(watch)
    departure.prepare(manager, 1, is_watched=False)
    departure._appointment = Mock(is_broken=is_broken, is_due=lambda step: step == 3)
    send()
    departure.heed(2, saves(manager, 2))  # too early: goes on
    with manager, pytest.raises(ckptkit.Preempted):
        departure.heed(3, saves(manager, 3))
    assert [record.step for record in manager.records()] == ([1] if is_broken else [1, 3])
    assert not departure.is_appointed
