"""Runs the scripts of exact_cases, kills them and starts them again: ``python -m tests.exact_child FOLDER CASE ...``.

TensorFlow is loaded once and never used in this process; every life of a script is a fork of it. Prints a line of JSON
a case: what the script that was left alone ended with, and what each one that was killed did.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import signal
import sys
import traceback
import warnings

import keras
import numpy as np

import ckptkit
from tests.exact_cases import CASES, EPOCHS, Script
from tests.kill_child import forked

SAVE_FREQ = 5


class Killer(keras.callbacks.Callback):
    """Kills its process at the n-th time that something happens, counted over all calls of fit."""

    def __init__(self, event, count):
        super().__init__()
        self.event, self.left = event, count

    def _happens(self, event):
        self.left -= event == self.event
        if self.left == 0 and event == self.event:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_begin(self, epoch, logs=None):
        self._happens("epoch_begin")

    def on_train_batch_end(self, batch, logs=None):
        self._happens("batch")

    def on_test_batch_end(self, batch, logs=None):
        self._happens("test")

    def on_epoch_end(self, epoch, logs=None):
        self._happens("epoch_end")

    def on_train_end(self, logs=None):
        self._happens("train_end")


def digest(variables):
    """Return a hash of the variables' bytes and dtypes, in their order."""
    parts = [np.asarray(variable) for variable in variables]
    return hashlib.sha256(b"".join(str(part.dtype).encode() + part.tobytes() for part in parts)).hexdigest()[:16]


def state_of(callback):
    """Return what a callback remembers, as text."""
    names = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter", "_ema_weights_in_model", "drawn")
    return {name: repr(vars(callback)[name]) for name in names if name in vars(callback)}


def one_life(case, directory, kill=None, with_ckptkit=True, spoil=None):
    """Run a script from its start; return everything that must be equal."""
    warnings.simplefilter("ignore")
    if spoil is not None:
        spoil()
    script: Script = CASES[case]()
    callbacks = list(script.callbacks)
    if kill is not None:
        callbacks.append(Killer(*kill))
    histories = []
    for _ in range(script.fits):
        ours = []
        if with_ckptkit:
            options = {"save_freq": SAVE_FREQ, "async_save": False, **script.checkpoint}
            ours = [ckptkit.TrainingCheckpoint(directory, **options)]
        # In front of the others: the place in the list must not matter.
        options = {"epochs": EPOCHS, "verbose": 0, **script.options}
        history = script.model.fit(*script.data, callbacks=[*ours, *callbacks], **options)
        histories.append({"epoch": list(history.epoch), "history": repr(history.history)})
    return {
        "variables": digest(script.model.variables),
        "optimizer": digest(script.model.optimizer.variables),
        "histories": histories,
        "callbacks": [state_of(callback) for callback in script.callbacks],
        "random": [random.random(), float(np.random.random())],
    }


def kills_of(script_name, steps, seed):
    """Return lives that end early: each a list of kills in a row, after which a life is left alone."""
    chosen = random.Random(f"{script_name} {seed}")
    last = steps * EPOCHS
    return [
        [("batch", chosen.randrange(SAVE_FREQ + 2, last))],
        [("batch", chosen.randrange(2, last)), ("batch", chosen.randrange(2, 2 * steps)), ("epoch_end", 1)],
        [("epoch_end", chosen.randrange(1, EPOCHS)), ("epoch_begin", 2), ("test", 2)],
        [("train_end", 1)],
    ]


def lives_of(name, at):
    """Run a script that is left alone, one without ckptkit, and some that are killed; return what they end with."""
    steps, _ = forked(lambda: CASES[name]().steps)
    result = {"case": name, "lives": []}
    result["whole"], _ = forked(lambda: one_life(name, f"{at}-whole"))
    result["plain"], _ = forked(lambda: one_life(name, at, with_ckptkit=False))
    for number, kills in enumerate(kills_of(name, steps, 0)):
        directory = f"{at}-{number}"
        died = [forked(functools.partial(one_life, name, directory, kill))[1] == signal.SIGKILL for kill in kills]
        ended, _ = forked(functools.partial(one_life, name, directory))
        result["lives"].append({"kills": kills, "died": died, **ended})
    return result


def main(folder, *names):
    """Print what each case's lives end with."""
    for name in names:
        print(json.dumps(lives_of(name, os.path.join(folder, name))), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        raise
