"""Runs that are told to end again and again: ``python -m tests.preempted_child FOLDER fit 50 7`` prints JSON.

A child trains and its parent sends it signals at random times. Told to end, it leaves, and begins anew as a script that
is started again does, until it has left so many times. What is traced is kept from life to life, all values are not.
"""

import json
import os
import random
import signal
import sys
import time

import tensorflow as tf

import ckptkit
from ckptkit import finished_fits
from ckptkit.which_keras import IS_LEGACY, keras, variables_of
from tests import exact_cases
from tests.exact_cases import BATCH, EPOCHS, STEPS, arrays, dataset, dense
from tests.exact_child import all_of, digest, newest_step

SAVE_FREQ = 4
LONGEST = 0.15  # seconds that a signal waits for, about what it takes to train


class Life:
    """What is known of a life: what it is doing, how many steps it has done, in what phases signals came."""

    def __init__(self, tell):
        self.phase, self.steps, self.signals = "at the start", 0, []
        self.record = lambda: None  # that it was resumed from
        self.tell = tell

    def step(self):
        self.steps += 1
        if self.steps == 1:
            self.tell("training")


class Phases(keras.callbacks.Callback):
    """Notes what a fit is doing, and how many steps it has done."""

    def __init__(self, life):
        super().__init__()
        self.life = life

    def on_epoch_begin(self, epoch, logs=None):
        self.life.phase = "training"

    def on_train_batch_end(self, batch, logs=None):
        self.life.step()

    def on_test_begin(self, logs=None):
        self.life.phase = "validation"

    def on_test_end(self, logs=None):
        self.life.phase = "between epochs"


class Fit:
    """A script that calls ``fit``."""

    def __init__(self):
        self.model, self.data = dense(), arrays()
        self.options = {"batch_size": BATCH, "verbose": 0, "validation_data": self.data}
        self.model.fit(*self.data, **self.options)
        self.variables = [*all_of(self.model), *variables_of(self.model.optimizer)]

    def run(self, directory, life):
        callback = ckptkit.TrainingCheckpoint(directory, save_freq=SAVE_FREQ)
        life.record = lambda: callback.resumed_from
        history = self.model.fit(*self.data, epochs=EPOCHS, callbacks=[callback, Phases(life)], **self.options)
        return repr(history.history)


class Loop:
    """A script with a ``TrainingLoop``."""

    def __init__(self):
        self.script = exact_cases.loop(graph=True, dataset=None)
        self.total = self.script.more["total"]
        self.variables = [*all_of(self.script.model), *variables_of(self.script.optimizer)]

    def run(self, directory, life):
        script, losses = self.script, tf.Variable(tf.zeros(EPOCHS))
        self.total.assign(0.0)
        script.more["generator"].reset_from_seed(3)
        objects = {"model": script.model, "optimizer": script.optimizer, "losses": losses, **script.more}
        policy = ckptkit.policies.EverySteps(SAVE_FREQ)
        with ckptkit.CheckpointManager(tf.train.Checkpoint(**objects), directory, 3, save_policy=policy) as manager:
            data, validation = dataset().shuffle(20).batch(BATCH), dataset().shuffle(9).batch(7).take(3)
            loop = ckptkit.TrainingLoop(manager, data, epochs=EPOCHS, validation=validation)
            life.record = lambda: loop.resumed_from
            for step, batch in loop:
                life.phase = "training"
                script.step_on(*batch)
                if (step + 1) % STEPS == 0:
                    life.phase = "validation"
                    losses[step // STEPS].assign(sum(float(script.validate_on(*each)) for each in loop.validation()))
                life.phase = "between steps"
                life.step()
        return repr([losses.numpy().tolist(), float(self.total)])


def train(folder, kind, tell):
    """Live again and again; tell of each beginning, of the first step, and what it came to at the end."""
    life = Life(tell)

    def handle(number, frame):
        is_watched = "preemption" in sys._getframe(1).f_code.co_filename
        life.signals.append(life.phase if is_watched else "before or after the run")

    signal.signal(signal.SIGTERM, handle)
    if IS_LEGACY:
        keras.backend.experimental.enable_tf_random_generator()
    script = {"fit": Fit, "loop": Loop}[kind]()
    begun_with = [(variable, variable.numpy()) for variable in script.variables]
    number = 0
    while True:
        directory = os.path.join(folder, str(number))
        keras.utils.set_random_seed(7)
        finished_fits.forget()
        for variable, value in begun_with:
            variable.assign(value * 0 if variable.name.startswith("iteration") else value)
        life = Life(tell)
        tell("begins")
        try:
            text = script.run(directory, life)
            end = {"ends": [text, digest([variable for variable, _ in begun_with])]}
            number += 1
        except ckptkit.Preempted as preempted:
            end = {"step": preempted.step, "newest": newest_step(directory), "code": preempted.code}
        end["is_put_back"] = signal.getsignal(signal.SIGTERM) is handle
        end["resumed"] = getattr(life.record(), "step", 0)
        tell(end | {"signals": life.signals, "steps": life.steps})


def main(folder, kind, count, seed):
    """Print what each life came to: as many as it takes until so many were told to end, between two left alone."""
    chosen = random.Random(int(seed))
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        train(folder, kind, lambda what: os.write(tell, json.dumps(what).encode() + b"\n"))
    os.close(tell)
    ended = []
    with os.fdopen(told) as lines:
        ended.append(json.loads(next(line for line in lines if "steps" in line)))
        while sum("step" in each for each in ended) < int(count):
            until = "begins" if chosen.random() < 0.2 else "training"
            line = next(line for line in lines if until in line or "steps" in line)
            if "steps" not in line:
                time.sleep(chosen.uniform(0, LONGEST))  # there is no other way to a random moment
                for _ in range(chosen.choice([1, 1, 2])):
                    os.kill(child, signal.SIGTERM)
                line = next(line for line in lines if "steps" in line)
            ended.append(json.loads(line))
        ended.append(json.loads(next(line for line in lines if "steps" in line)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
