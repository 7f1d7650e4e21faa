"""TrainingLoop: saves between steps, resumes where it was, the position in the data included."""

import json

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import history
from ckptkit.policies import EveryEpochs, EverySteps, OnImprovement
from ckptkit.store import Store
from ckptkit.which_keras import keras
from tests.test_callbacks import Blocks

pytestmark = pytest.mark.core

EPOCHS = 3
POLICY = EverySteps(4) | EveryEpochs(1)


def shuffled():
    return tf.data.Dataset.range(20).shuffle(20).batch(3).prefetch(1)


def endless():
    return tf.data.Dataset.range(50).shuffle(10).repeat().batch(3)


def listed():
    return [tf.constant([i, i + 1], tf.int64) for i in range(7)]


def generated():
    return tf.data.Dataset.from_generator(lambda: iter(range(21)), output_signature=tf.TensorSpec((), tf.int64)).batch(
        3
    )


CASES = {
    "shuffled": (shuffled, {}, "iterator"),
    "endless": (endless, {"steps_per_epoch": 5}, "iterator"),
    "list": (listed, {}, "replay"),
    "generator": (generated, {}, "replay"),
    "endless generator": (lambda: generated().repeat(), {"steps_per_epoch": 4}, "replay"),
}


def run(directory, dataset, stop_after=None, policy=POLICY, verbose=1, **options):
    """Train a toy whose end depends on every batch and its place; return (value, batches seen, loop)."""
    tf.random.set_seed(7)
    value = tf.Variable(0.0, dtype=tf.float64)
    checkpoint = tf.train.Checkpoint(value=value)
    seen = []
    with ckptkit.CheckpointManager(checkpoint, directory, 3, save_policy=policy, verbose=verbose) as manager:
        loop = ckptkit.TrainingLoop(manager, dataset(), epochs=EPOCHS, **options)
        for step, batch in loop:
            value.assign(value * 1.1 + float(np.dot(batch, np.arange(1, 1 + len(batch)))))
            seen.append((step, batch.numpy().tolist()))
            if len(seen) == stop_after:
                break
    return value.numpy(), seen, loop


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop_after", [2, 5, 6, 8, 13])
@pytest.mark.slow
def test_a_loop_that_was_left_goes_on_where_it_was_and_ends_with_the_same_bits(tmp_path, case, stop_after):
    dataset, options, input_state = CASES[case]
    value, seen, _ = run(tmp_path / "whole", dataset, **options)
    run(tmp_path / "left", dataset, stop_after, **options)
    resumed, rest, loop = run(tmp_path / "left", dataset, **options)
    first = 0 if loop.resumed_from is None else loop.resumed_from.step
    assert rest == seen[first:]
    assert resumed == value
    assert loop.input_state == input_state or not rest, "known as soon as something is drawn"


def test_several_breaks_in_a_row_end_with_the_same_bits(tmp_path):
    value, _, _ = run(tmp_path / "whole", shuffled)
    for stop_after in (6, 5, 4, 7):
        run(tmp_path / "left", shuffled, stop_after)
    assert run(tmp_path / "left", shuffled)[0] == value


def test_a_loop_saves_at_every_epochs_end_if_the_manager_has_no_policy(tmp_path):
    _, _, loop = run(tmp_path, shuffled, policy=None)
    assert [(r.step, r.epoch, r.batch) for r in loop.manager.records()] == [(7, 1, 0), (14, 2, 0), (21, 3, 0)]


def test_a_save_due_at_the_last_batch_is_taken_once_at_the_epochs_end(tmp_path):
    _, _, loop = run(tmp_path, shuffled, policy=EverySteps(7))
    assert [(r.step, r.epoch, r.batch) for r in loop.manager.records()] == [(7, 1, 0), (14, 2, 0), (21, 3, 0)]


def test_the_last_step_is_saved_when_the_loop_ends_even_if_none_is_due(tmp_path):
    _, _, loop = run(tmp_path, shuffled, policy=ckptkit.policies.Never())
    assert [record.step for record in loop.manager.records()] == [21]


def test_a_finished_loop_gone_over_again_does_nothing(tmp_path):
    value, _, _ = run(tmp_path, shuffled)
    again, seen, loop = run(tmp_path, shuffled)
    assert (again, seen, loop.step) == (value, [], 21)


def test_metrics_that_were_reported_go_with_the_save_at_that_step_only(tmp_path):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None, save_policy=EverySteps(2))
    loop = ckptkit.TrainingLoop(manager, listed(), epochs=1)
    for step, _ in loop:
        if step == 1:
            loop.report({"loss": tf.constant(0.5)})
    assert [(r.step, r.metrics) for r in manager.records()] == [(2, {"loss": 0.5}), (4, {}), (6, {}), (7, {})]


def functional():
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])


@pytest.mark.parametrize("make", [functional, Blocks], ids=["functional", "blocks in a list"])
@pytest.mark.slow
def test_a_tf_function_step_with_dropout_and_slots_resumes_to_the_same_bits(tmp_path, make):
    def train(directory, stop_after=None):
        keras.utils.set_random_seed(1)
        images = tf.random.stateless_uniform((40, 4), seed=(1, 2))
        dataset = tf.data.Dataset.from_tensor_slices((images, tf.reduce_sum(images, 1))).shuffle(40).batch(8)
        model = make()
        model(images[:1])
        optimizer = keras.optimizers.Adam(0.1)

        @tf.function
        def step_on(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True)[:, 0] - y) ** 2)
            optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))

        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
        with ckptkit.CheckpointManager(checkpoint, directory, 2, save_policy=EverySteps(3)) as manager:
            for step, (x, y) in ckptkit.TrainingLoop(manager, dataset, epochs=3):
                step_on(x, y)
                if step == stop_after:
                    break
        return [v.numpy().tobytes() for v in (*model.variables, *optimizer.variables)]

    whole = train(tmp_path / "whole")
    train(tmp_path / "left", stop_after=7)
    assert train(tmp_path / "left") == whole


def test_a_checkpoint_that_no_loop_saved_is_refused_with_what_to_do(tmp_path):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None)
    manager.save()
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"not saved by a TrainingLoop.*\n.*another directory"):
        next(iter(ckptkit.TrainingLoop(manager, listed(), epochs=1)))


def test_a_dataset_of_another_kind_than_the_saved_position_is_refused(tmp_path):
    run(tmp_path, shuffled, stop_after=6)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"at batch 4 of other input: the kind of batch differs"):
        run(tmp_path, listed)


def test_an_empty_dataset_is_an_error_and_no_endless_loop(tmp_path):
    with pytest.raises(ValueError, match="no batch in epoch 0: the dataset is empty"):
        run(tmp_path, list)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1, "steps_per_epoch": 0}, "steps_per_epoch must be a whole number"),
    ],
)
def test_counts_below_one_are_refused(tmp_path, arguments, message):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None)
    with pytest.raises(ValueError, match=message):
        ckptkit.TrainingLoop(manager, listed(), **arguments)


def test_an_iterator_in_place_of_a_dataset_is_refused_with_the_reason(tmp_path):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None)
    with pytest.raises(TypeError, match=r"gone over more than once, got the iterator"):
        ckptkit.TrainingLoop(manager, iter(listed()), epochs=1)


def test_tensorflows_own_manager_is_refused(tmp_path):
    theirs = tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), 1)
    with pytest.raises(TypeError, match=r"manager must be a ckptkit\.CheckpointManager"):
        ckptkit.TrainingLoop(theirs, listed(), epochs=1)


def test_the_position_lies_in_the_checkpoint_as_json(tmp_path):
    _, _, loop = run(tmp_path, shuffled, stop_after=6)
    record = loop.manager.records()[-1]
    state = json.loads(loop.manager.state(record)["loop"].numpy())
    assert (state["step"], state["epoch"], state["batch"]) == (4, 0, 4)


@pytest.fixture
def full_disk(monkeypatch):
    def full(self, pending, manifest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "commit", full)


def failing_loop(directory, **options):
    checkpoint = tf.train.Checkpoint(value=tf.Variable(0.0))
    manager = ckptkit.CheckpointManager(checkpoint, directory, 3, async_save=True, save_policy=EverySteps(2), **options)
    return manager, ckptkit.TrainingLoop(manager, range(5), epochs=2)


def test_a_failed_background_save_is_raised_between_two_steps(tmp_path, full_disk):
    manager, loop = failing_loop(tmp_path)
    done = []
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-2 .* ENOSPC No space left"):  # noqa: PT012
        for step, _ in loop:
            manager._saver.writer.wait()
            done.append(step)
    assert done == [0, 1, 2]


def test_a_loop_that_goes_on_says_in_one_line_from_what_and_one_that_is_silent_does_not(tmp_path, caplog):
    caplog.set_level("INFO", "ckptkit")
    lines = []
    for verbose in (1, 0):
        run(tmp_path, shuffled, stop_after=6, validation=shuffled(), verbose=verbose)
        caplog.clear()
        run(tmp_path, shuffled, stop_after=6, validation=shuffled(), verbose=verbose)
        told = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
        assert bool(told) is bool(verbose)
        lines += [line for line in told if line.startswith("resuming")]
    assert lines == [
        f"resuming from {tmp_path}/ckpt-4, saved 0 s ago, at step 4, epoch 0, batch 4: restored value, random numbers; "
        "input: iterator, the position is restored, exactly; "
        "validation data: not gone over so far."
    ]


def test_a_loop_that_is_done_claims_nothing_about_its_data(tmp_path, caplog):
    run(tmp_path, shuffled)
    caplog.set_level("INFO", "ckptkit")
    run(tmp_path, shuffled)
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("resuming")]
    assert line.endswith("at step 21, epoch 3, batch 0: restored value.")


def test_a_failed_save_does_not_hide_the_error_of_the_step(tmp_path, full_disk, caplog):
    manager, loop = failing_loop(tmp_path)
    with pytest.raises(ZeroDivisionError, match="ours"), manager:  # noqa: PT012
        for step, _ in loop:
            manager._saver.writer.wait()
            if step == 2:
                raise ZeroDivisionError("ours")
    assert [r.message[:14] for r in caplog.records if r.levelname == "ERROR"] == ["save of ckpt-2"]


def test_a_failed_last_save_is_raised_by_the_loop(tmp_path, full_disk):
    manager, loop = failing_loop(tmp_path, on_save_error="warn", max_save_errors=5)
    told = r"(?s)save of ckpt-10 .*\n5 saves in a row have failed"
    with pytest.raises(ckptkit.CheckpointSaveError, match=told):  # noqa: PT012
        for _ in loop:
            manager._saver.writer.wait()


def test_a_last_save_that_failed_is_tried_again_when_the_loop_ends(tmp_path, monkeypatch):
    commit, errors = Store.commit, [OSError(5, "Input/output error")]

    def failing(self, pending, manifest):
        if manifest.step == 10 and errors:
            raise errors.pop()
        return commit(self, pending, manifest)

    monkeypatch.setattr(Store, "commit", failing)
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, 3, on_save_error="warn")
    for _ in ckptkit.TrainingLoop(manager, range(5), epochs=2):
        pass
    assert errors == []
    assert [record.step for record in manager.records()] == [5, 10]


def test_an_improvement_is_saved_at_the_step_at_which_it_was_reported(tmp_path):
    policy = OnImprovement("val_loss", "min")
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None, save_policy=policy)
    loop = ckptkit.TrainingLoop(manager, listed(), epochs=2, final_save=False)
    for step, _ in loop:
        if step in (2, 4, 6, 9):
            loop.report({"val_loss": {2: 3.0, 4: 4.0, 6: 2.0, 9: 2.5}[step]})
    assert [(r.step, r.epoch, r.metrics) for r in manager.records()] == [
        (3, 0, {"val_loss": 3.0}),
        (7, 1, {"val_loss": 2.0}),
    ]


def test_the_last_save_of_a_loop_carries_what_was_measured_at_its_step(tmp_path):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None, save_policy=ckptkit.policies.Never())
    loop = ckptkit.TrainingLoop(manager, listed(), epochs=1)
    for step, _ in loop:
        loop.report({"loss": float(step)})
    assert [(r.step, r.metrics) for r in manager.records()] == [(7, {"loss": 6.0})]


def test_a_validation_metric_that_is_never_reported_is_an_error_at_the_end_of_the_epoch(tmp_path):
    policy = EveryEpochs(1) | OnImprovement("val_acc", "max")
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(), tmp_path, None, save_policy=policy)
    loop = ckptkit.TrainingLoop(manager, listed(), epochs=3)

    def train():
        for step, _ in loop:
            if step == 13:
                loop.report({"val_loss": 0.5})

    with pytest.raises(ValueError, match=r"by 'val_acc': no such metric at epoch 2 \(have: val_loss\)"):
        train()
    assert manager.records()[-1].epoch == 2


def test_the_history_tells_where_a_loop_began_what_it_measured_and_that_it_ended(tmp_path):
    value = tf.Variable(0.0)
    checkpoint = tf.train.Checkpoint(value=value)
    for epochs in (1, 2):
        manager = ckptkit.CheckpointManager(checkpoint, tmp_path, 1, save_policy=EverySteps(5))
        loop = ckptkit.TrainingLoop(manager, listed(), epochs=epochs)
        for step, _ in loop:
            loop.report({"loss": 1 / (step + 1)})
    told = [
        (each.kind, each.facts["step"])
        for each in history.read(str(tmp_path))
        if each.kind in ("begun", "saved", "measured", "ended")
    ]
    first = [("begun", 0), ("saved", 5), ("measured", 7), ("saved", 7), ("ended", 7)]
    assert told == [*first, ("begun", 7), ("saved", 10), ("measured", 14), ("saved", 14), ("ended", 14)]
    measured = [each.facts for each in history.read(str(tmp_path)) if each.kind == "measured"]
    assert measured == [{"step": 7 * n, "epoch": n, "metrics": {"loss": 1 / (7 * n)}} for n in (1, 2)]


def test_a_loop_shows_where_it_stands_and_what_it_resumed_from(tmp_path):
    _, _, loop = run(tmp_path, shuffled, stop_after=10)
    assert repr(loop) == f"<TrainingLoop {tmp_path}: step 9, 1 of 3 epochs, 2 batches>"
    _, _, loop = run(tmp_path, shuffled)
    assert repr(loop) == f"<TrainingLoop {tmp_path}: step 21, 3 of 3 epochs, resumed from ckpt-8>"
    assert "<caption>TrainingLoop" in loop._repr_html_()
    assert "<tr><th>step 21</th></tr><tr><th>3 of 3 epochs</th></tr>" in loop._repr_html_()


def test_a_loop_whose_arguments_were_refused_can_be_shown_in_a_traceback():
    refused = object.__new__(ckptkit.TrainingLoop)
    assert repr(refused).startswith("<ckptkit.loop.TrainingLoop object at")
    assert refused._repr_html_() is None
