"""Runs a script of exact_cases, ends it and starts it again: ``python -m tests.exact_child FOLDER CASE``.

TensorFlow is loaded once and never used in this process; every life of a script is a fork of it. Prints as JSON what
the script that was left alone ended with, and what each one that was killed did.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
import warnings

import h5py
import numpy as np
import tensorflow as tf

import ckptkit
from ckptkit.listing import DirectoryReader
from ckptkit.replicas import replicas_of
from ckptkit.which_keras import IS_LEGACY, counts_of, keras, seed_of, variables_of
from tests.exact_cases import CASES, INPUTS, Loop
from tests.kill_child import forked

SAVE_FREQ = 5


class Killer(keras.callbacks.Callback):
    """Sends its process a signal at the n-th time that something happens, counted over all calls of fit."""

    def __init__(self, event, count, name="SIGKILL"):
        super().__init__()
        self.event, self.left, self.signal, self.batches = event, count, signal.Signals[name], 0

    def _happens(self, event):
        self.left -= event == self.event
        if self.left == 0 and event == self.event:
            signal.raise_signal(self.signal)

    def on_epoch_begin(self, epoch, logs=None):
        self._happens("epoch_begin")

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        self._happens("batch")

    def on_test_batch_end(self, batch, logs=None):
        self._happens("test")

    def on_epoch_end(self, epoch, logs=None):
        self._happens("epoch_end")

    def on_train_end(self, logs=None):
        self._happens("train_end")


def all_of(model):
    """Return a model's variables; those that Keras 3 counts among them, and Keras 2 does not, as well."""
    return [*model.variables, *counts_of(model), *seeds_of(model)] if IS_LEGACY else model.variables


def seeds_of(model):
    """Return the variables that the random numbers of a model's layers come from."""
    if not IS_LEGACY:
        return [variable for variable in model.variables if "seed_generator" in variable.path]
    seeds = [seed_of(getattr(layer, "_random_generator", None)) for layer in model._flatten_layers()]
    return [seed for seed in seeds if seed is not None]


def digest(variables):
    """Return a hash of the variables' bytes, dtypes and shapes, those of all replicas, in their order."""
    parts = [np.asarray(part) for variable in variables for part in replicas_of(variable).values() or (variable,)]
    facts = [f"{part.dtype}{part.shape}".encode() + part.tobytes() for part in parts]
    return hashlib.sha256(b"".join(facts)).hexdigest()[:16]


def state_of(callback):
    """Return what a callback remembers and has written: whatever is plain, as text."""
    plain = (bool, int, float, str, type(None), np.generic, list)
    lazy = ("monitor_op", "min_delta", "_write_filepath")  # set up once a process, when they are needed
    state = {name: value for name, value in vars(callback).items() if isinstance(value, plain) and name not in lazy}
    if state.get("best_weights") is not None:
        state["best_weights"] = digest(state["best_weights"])
    state = {name: repr(value) for name, value in state.items()}
    if isinstance(callback, keras.callbacks.CSVLogger):
        with open(callback.filename, newline="") as file:
            state["text"] = file.read()
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        with h5py.File(callback.filepath) as file:
            arrays = []
            file.visititems(lambda name, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
        state["file"] = digest(arrays)
    return state


def one_life(case, directory, kill=None, with_ckptkit=True, spoil=None):
    """Run a script from its start; return everything that must be equal, and ``has``, what ``kills_of`` takes."""
    warnings.simplefilter("ignore")
    if case not in INPUTS:  # small graphs run once: to make them faster takes longer than to run them
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    os.makedirs(f"{directory}-files", exist_ok=True)
    os.chdir(f"{directory}-files")
    if spoil is not None:
        spoil()
    script = CASES[case]()
    killer = Killer(*kill or ("nothing", 1))
    if isinstance(script, Loop):
        return one_life_of_loop(script, directory if with_ckptkit else None, killer)
    histories, resumed = [], None
    for _ in range(script.fits):
        ours = []
        if with_ckptkit:
            options = {"save_freq": SAVE_FREQ, "async_save": False, **script.checkpoint}
            ours = [ckptkit.TrainingCheckpoint(directory, **options)]
        # In front of the others: the place in the list must not matter.
        history = script.model.fit(*script.data, callbacks=[*ours, *script.callbacks, killer], **script.options)
        histories.append({"epoch": list(history.epoch), "history": repr(history.history)})
        resumed = next((each.resumed_from.step for each in ours if each.resumed_from is not None), resumed)
    return {
        "trained": killer.batches,
        "resumed": resumed,
        "variables": digest(all_of(script.model)),
        "optimizer": digest(variables_of(script.model.optimizer)),
        "histories": histories,
        "callbacks": [state_of(callback) for callback in script.callbacks],
        "random": [] if script.reads_ahead else [random.random(), float(np.random.random())],
        "has": (script.steps, script.epochs, True),
    }


def one_life_of_loop(script, directory, killer):
    """The same for a GradientTape loop; without a directory it is a plain one."""
    losses = tf.Variable(tf.zeros(script.epochs))  # what was measured at each epoch's end
    objects = {"model": script.model, "optimizer": script.optimizer, "losses": losses, **script.more}

    def train(step, batch, validation):
        if step % script.steps == 0:
            killer.on_epoch_begin(step // script.steps)
        script.step_on(*batch)
        killer.on_train_batch_end(step)
        epoch, done = divmod(step + 1, script.steps)
        if done == 0:
            measured = []
            for batch in validation() if script.validation is not None else ():
                measured.append(float(script.validate_on(*batch)))
                killer.on_test_batch_end(len(measured))
            losses[epoch - 1].assign(sum(measured))
            killer.on_epoch_end(epoch)

    if directory is None:
        stream = None
        for epoch in range(script.epochs):
            if stream is None or "steps_per_epoch" not in script.options:
                stream = iter(script.dataset)
            for at in range(script.steps):
                train(epoch * script.steps + at, next(stream), lambda: script.validation)
        resumed = None
    else:
        policy = ckptkit.policies.EverySteps(SAVE_FREQ)
        checkpoint = tf.train.Checkpoint(**objects)
        with ckptkit.CheckpointManager(checkpoint, directory, 3, save_policy=policy) as manager:
            loop = ckptkit.TrainingLoop(
                manager, script.dataset, epochs=script.epochs, validation=script.validation, **script.options
            )
            for step, batch in loop:
                train(step, batch, loop.validation)
            killer.on_train_end()
            resumed = None if loop.resumed_from is None else loop.resumed_from.step
    return {
        "trained": killer.batches,
        "resumed": resumed,
        "variables": digest(all_of(script.model)),
        "optimizer": digest(variables_of(script.optimizer)),
        "histories": [repr(losses.numpy().tolist()), float(script.more["total"])],
        "callbacks": digest([script.more["generator"].state]),
        "random": [random.random(), float(np.random.random()), float(tf.random.uniform([]))],
        "has": (script.steps, script.epochs, script.validation is not None),
    }


def kills_of(name, steps, epochs, validates):
    """Return kills in a row, each in a life of its own, after which one is left alone.

    The first is at a random batch; each other one comes soon, so that there is something left for the next. In a
    validation it is a signal that asks for a save. Each case is killed at two of these, and what has the place in the
    data of another case at one: over all cases each is met many times.
    """
    chosen = random.Random(name)
    test = ("test", chosen.randrange(1, 4), "SIGTERM")
    row = [("epoch_end", 1), ("epoch_begin", 2), *([test] if validates else [])]
    chosen.shuffle(row)
    row = row[: 2 if name in INPUTS else 1]
    at_the_end = [("train_end", 1)] if chosen.random() < 0.3 else []  # else the last life has something left to train
    return [("batch", chosen.randrange(2, (steps * epochs - 2) // 2)), *row, *at_the_end]


def died(name, at, kill):
    """Run a script until it is killed, or leaves as it was told to; return whether it did, and saved what it was to."""
    end, ended_by = forked(lambda: how_it_leaves(name, at, kill))
    return ended_by == signal.SIGKILL or end == [143, newest_step(at)]


def how_it_leaves(name, at, kill):
    """Return the code that a life leaves with and the step it has saved, None if it comes to its end."""
    try:
        one_life(name, at, kill)
    except ckptkit.Preempted as preempted:
        return preempted.code, preempted.step
    return None


def newest_step(at):
    """Return the step of the newest checkpoint, None if there is none."""
    return max((record.step for record in DirectoryReader(at).scan().records), default=None)


def lives_of(name, at):
    """Run a script without ckptkit and some that are killed, the last of them twice; return what they end with."""
    result = {"case": name}
    result["whole"], _ = forked(lambda: one_life(name, at, with_ckptkit=False))
    kills = kills_of(name, *result["whole"]["has"])
    deaths = [died(name, f"{at}-killed", kill) for kill in kills]
    newest = newest_step(f"{at}-killed")
    ended, _ = forked(lambda: one_life(name, f"{at}-killed"))
    result["killed"] = {"kills": kills, "died": deaths, "newest": newest, **ended}
    result["again"], _ = forked(functools.partial(one_life, name, f"{at}-killed"))
    return result


# Ways to break a resume by very little: what the comparison has to catch.


def one_seed_off():
    """Let one dropout seed be one further than it was."""
    from ckptkit import callbacks

    begin = callbacks.TrainingCheckpoint._begin_where_it_was

    def spoilt(self):
        begin(self)
        if self.resumed_from is not None:
            seed = seeds_of(self.model)[0]
            value = seed.numpy()
            value[0] += 1
            seed.assign(value)

    callbacks.TrainingCheckpoint._begin_where_it_was = spoilt


def one_callback_forgotten():
    """Put back no callback's state."""
    from ckptkit.callback_state import CallbackStates

    CallbackStates.put_back = lambda self, states: None


def one_batch_off():
    """Skip a batch of the data too many."""
    from ckptkit.input_position import InputPosition

    move = InputPosition._move

    def spoilt(self, place, state):
        move(self, place, state)
        next(self._current)

    InputPosition._move = spoilt


def one_shuffle_off():
    """Let the shuffles draw a seed too many."""
    from ckptkit.pipeline import Pipeline

    advance = Pipeline.advance
    Pipeline.advance = lambda self, iterators: advance(self, [*iterators, 1])


def starts_over():
    """Find no checkpoint."""
    from ckptkit.manager import CheckpointManager

    def spoilt(self, *arguments, **named):
        raise ckptkit.CheckpointNotFoundError

    CheckpointManager.restore = spoilt


def no_metrics():
    """Leave what the beginning of the epoch has changed, the metrics that it has reset among it."""
    from ckptkit.manager import CheckpointManager

    CheckpointManager.hold = lambda self: lambda: None


def no_random_numbers():
    """Leave the global generators as they are."""
    from ckptkit import randomness

    randomness.reinstate = lambda state: None


SPOILERS = {
    "one_seed_off": (one_seed_off, "arrays_shuffled", ("batch", 19)),
    "one_callback_forgotten": (one_callback_forgotten, "early_stopping_and_plateau", ("batch", 72)),
    "one_batch_off": (one_batch_off, "arrays_shuffled", ("batch", 19)),
    "one_shuffle_off": (one_shuffle_off, "tf_data_random_operations_in_map", ("batch", 25)),
    "starts_over": (starts_over, "arrays_shuffled", ("batch", 19)),
    "no_metrics": (no_metrics, "arrays_shuffled", ("batch", 19)),
    "no_random_numbers": (no_random_numbers, "every_global_generator_is_drawn_from", ("batch", 19)),
}


def spoilt_lives(folder, names):
    """Kill scripts and resume each with something broken; return what they end with and what they should have."""

    @functools.cache
    def killed(case_name, kill):
        at = os.path.join(folder, case_name)
        whole, _ = forked(lambda: one_life(case_name, f"{at}-whole"))
        return whole, {"kills": kill, "died": [died(case_name, at, kill)], "newest": newest_step(at)}, at

    def spoilt(name):
        spoil, case_name, kill = SPOILERS[name]
        whole, killed_there, left = killed(case_name, kill)
        at = os.path.join(folder, name)
        for end in ("", "-files"):
            shutil.copytree(left + end, at + end)
        ended, _ = forked(lambda: one_life(case_name, at, spoil=spoil))
        return {"case": name, "whole": whole, "killed": {**killed_there, **ended}}

    return [spoilt(name) for name in names]


def main(folder, *names):
    """Print what the lives of a case end with, or those that resume with something broken."""
    of_cases = [lives_of(name, os.path.join(folder, name)) for name in names if name in CASES]
    print(json.dumps(of_cases or spoilt_lives(folder, names)), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        raise
