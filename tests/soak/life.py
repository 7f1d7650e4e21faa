"""One life of a script that trains and saves; it tells what it does, and may be killed at any moment.

A line that it tells is JSON and goes to a file outside of its directory: ``{"at": "writing"}``, and more where there
is something to compare. ``fit`` and ``loop`` are two ways to train one model.
"""

import faulthandler
import json
import os
import sys
import traceback
import warnings

import keras
import numpy as np
import tensorflow as tf

import ckptkit
from ckptkit.held import Held
from ckptkit.policies import EveryEpochs, EverySteps
from ckptkit.preservation import Best
from ckptkit.store import Store
from tests.soak import fingerprints
from tests.soak.faults import Faults

KEPT = 2  # newest checkpoints, beside the best
MONITOR = "val_loss"
ROWS, BATCH, STEPS = 44, 4, 11
FAILED, SEED = 3, 7


class Teller:
    """Appends lines to a file that survive the process."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._write = os.write

    def __call__(self, **facts):
        self._write(self._descriptor, json.dumps(facts).encode() + b"\n")


# The script ----------------------------------------------------------------------------------------------------------


def model():
    """Return a compiled model with one of each kind of state, one of its values too large to be copied."""
    keras.utils.set_random_seed(SEED)
    layers = [
        keras.layers.Input((6,)),
        keras.layers.Dense(512, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(520, "relu"),
        keras.layers.Dense(1),
    ]
    made = keras.Sequential(layers)
    made.compile("adam", "mse", metrics=["mae"])
    return made


def arrays():
    """Return inputs ``(rows, 6) float32`` and targets ``(rows, 1) float32``, always the same."""
    x = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def fit(directory, epochs, save_freq, **options):
    """Train by ``model.fit``; return the model."""
    trained, (x, y) = model(), arrays()
    callback = ckptkit.TrainingCheckpoint(directory, save_freq=save_freq, max_to_keep=KEPT, monitor=MONITOR, **options)
    slower = keras.callbacks.ReduceLROnPlateau(MONITOR, patience=1)
    data = {"batch_size": BATCH, "validation_data": (x[:9], y[:9])}
    trained.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback, slower], **data)
    return trained


def loop(directory, epochs, save_freq, **options):
    """Train by a GradientTape loop; return the model."""
    trained, (x, y) = model(), arrays()
    trained.optimizer.build(trained.trainable_variables)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(ROWS).batch(BATCH)

    @tf.function
    def step_on(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((trained(x, training=True) - y) ** 2)
        variables = trained.trainable_variables
        trained.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    checkpoint = tf.train.Checkpoint(model=trained, optimizer=trained.optimizer)
    policy = EverySteps(save_freq) | EveryEpochs(1)
    best = Best(MONITOR, "min")
    with ckptkit.CheckpointManager(
        checkpoint, directory, KEPT, save_policy=policy, preservation_policy=best, **options
    ) as manager:
        steps = ckptkit.TrainingLoop(manager, dataset, epochs=epochs)
        for step, batch in steps:
            step_on(*batch)
            if (step + 1) % STEPS == 0:
                steps.report({MONITOR: float(tf.reduce_mean((trained(x[:9]) - y[:9]) ** 2))})
    return trained


SCRIPTS = {"fit": fit, "loop": loop}

# Its life ------------------------------------------------------------------------------------------------------------


def live(kind, directory, epochs, plan, told, limit_secs):
    """Be a child: train, tell it, and exit."""
    code = 1
    try:
        tell = Teller(told)
        speak_into(f"{told}.output")
        faulthandler.dump_traceback_later(limit_secs, exit=True, file=sys.__stderr__)
        warnings.simplefilter("ignore")
        tell(at="starting")
        faults = Faults(plan.faults, directory, tell)
        observe(tell, before_save=faults.arm)
        options = {"async_save": plan.async_save, "on_save_error": plan.on_save_error}
        trained = SCRIPTS[kind](directory, epochs, plan.save_freq, **options)
        tell(ended=fingerprints.of_variables(trained))
        code = 0
    except BaseException as error:
        traceback.print_exc()
        tell(failed=[each.__name__ for each in type(error).__mro__], errors=errors_of(error), text=str(error))
        code = FAILED
    finally:
        os._exit(code)


def speak_into(path):
    """Let a child say what it has to say into a file."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)


def errors_of(error):
    """Return the error numbers of an exception and of what it came from."""
    found = []
    while error is not None:
        found.append(getattr(error, "errno", None))
        error = error.__cause__ or error.__context__
    return [number for number in found if number is not None]


def observe(tell, before_save=lambda: None):
    """Let the process tell what it saves and restores, and where it is when it is killed."""
    manager = ckptkit.CheckpointManager
    save, restore, close = manager.save, manager.restore, manager.close

    def told_save(self, number, *arguments, state, **named):
        before_save()
        tell(at="taking", **facts_of(self, number, state))
        prefix = save(self, number, *arguments, state=state, **named)
        tell(at="training")
        return prefix

    def told_restore(self, which="latest", *, before=lambda record, state: None, **named):
        read = {}

        def looked(record, state):
            before(record, state)
            read["state"] = state

        tell(at="restoring")
        try:
            record = restore(self, which, before=looked, **named)
        except ckptkit.CheckpointNotFoundError:
            tell(at="training", resumed=None)
            raise
        tell(at="training", resumed=True, **facts_of(self, record.step, read["state"]))
        return record

    def told_close(self):
        tell(at="closing")
        close(self)

    manager.save, manager.restore, manager.close = told_save, told_restore, told_close
    Store.lock = _telling(tell, "opening", Store.lock)
    Store.write_state = _telling(tell, "state file", Store.write_state)
    Store.delete = _telling(tell, "pruning", Store.delete)
    Held.write = _telling(tell, "writing", Held.write)
    commit = Store.commit

    def told_commit(*arguments, **named):
        tell(at="committing")
        record = commit(*arguments, **named)
        tell(at="committed", committed=record.step, metrics=dict(record.metrics))
        return record

    committed = Store.committed

    def told_committed(*arguments, **named):
        record = committed(*arguments, **named)
        if record is not None:  # its save has failed, but after the commit: it counts as any other
            tell(at="committed", committed=record.step, metrics=dict(record.metrics))
        return record

    Store.commit, Store.committed = told_commit, told_committed


def facts_of(manager, step, state):
    """Return what is saved at a step, or was restored."""
    return {
        "step": step,
        "variables": fingerprints.of_variables(manager.checkpoint.model),
        "state": fingerprints.of_state(state),
    }


def _telling(tell, place, operation):
    def call(*arguments, **named):
        tell(at=place)
        result = operation(*arguments, **named)
        tell(at="training", did=place)
        return result

    return call


# The run that nothing befalls -----------------------------------------------------------------------------------------


def undisturbed(kind, directory, epochs, told):
    """Be a child that trains without saving, and tell at each step what would be saved."""
    code = 1
    try:
        tell = Teller(told)

        def only_told(self, number, *arguments, state, **named):
            tell(**facts_of(self, number, state))
            return os.path.join(directory, f"ckpt-{number}")

        ckptkit.CheckpointManager.save = only_told
        SCRIPTS[kind](directory, epochs, 1)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# Who looks on ---------------------------------------------------------------------------------------------------------


def look_on(asked, answers, output):
    """Be a child that restores from any directory it is asked for, without ever writing, and answers what it got."""
    try:
        speak_into(output)
        warnings.simplefilter("ignore")
        mine = model()
        mine.optimizer.build(mine.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=mine, optimizer=mine.optimizer)
        for line in os.fdopen(asked, encoding="utf-8"):
            try:
                manager = ckptkit.CheckpointManager(checkpoint, line.rstrip("\n"), None, read_only=True)
                record = manager.restore()
                answer = facts_of(manager, record.step, manager.state(record))
            except ckptkit.CheckpointError as error:
                answer = {"error": type(error).__name__, "text": str(error)}
            os.write(answers, json.dumps(answer).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
