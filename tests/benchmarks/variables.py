"""variables: thousands of small ones, where a save's price is by the variable and not by the byte."""

import os

import keras
import tensorflow as tf

import ckptkit
from tests.benchmarks.contestants import CKPTKIT, TENSORFLOW
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.state import COPIES, forget
from tests.benchmarks.timing import timed

OURS = "ckptkit manager"
THEIRS = "tf.train.Checkpoint.read"
WIDTH = 4


def variables(folder, options, say):
    """Measure; return the figures."""
    found = []
    for kind, make in (("flat list", flat), ("Keras, Adam", layered)):
        values, objects = make(options.variables)
        found += one_kind(os.path.join(folder, make.__name__), kind, values, objects, options.rounds)
        say(f"  {len(values):,} variables, {kind}")
        del values, objects
        forget()
    return found


def flat(count):
    """Return a flat list of variables, and what to make a checkpoint of."""
    values = [tf.Variable(tf.fill([WIDTH], float(at))) for at in range(count)]
    return values, {"values": values}


def layered(count):
    """Return the variables of a Keras model and its optimizer, and what to make a checkpoint of."""
    layers = [keras.layers.Dense(WIDTH) for _ in range(max(1, count // (2 * COPIES)))]
    model = keras.Sequential([keras.layers.Input((WIDTH,)), *layers])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    values = [each.value for each in [*model.variables, *optimizer.variables]]
    return values, {"model": model, "optimizer": optimizer}


def one_kind(folder, kind, values, objects, rounds):
    """Return the figures of one kind."""
    ours = ckptkit.CheckpointManager(tf.train.Checkpoint(**objects), os.path.join(folder, "ours"), 1, async_save=True)
    theirs = tf.train.CheckpointManager(tf.train.Checkpoint(**objects), os.path.join(folder, "theirs"), 1)
    plain = tf.train.Checkpoint(**objects)
    blocked = {CKPTKIT: [], TENSORFLOW: []}
    restored = {OURS: [], THEIRS: []}
    with ours:
        for turn in range(rounds + 1):
            for name, save in ((CKPTKIT, ours.save), (TENSORFLOW, theirs.save)):
                for value in values:
                    value.assign_add(tf.ones_like(value))
                took = timed(save)
                ours.wait_until_finished()
                if turn:
                    blocked[name].append(took / len(values) * 1e6)
            prefix = ours.latest_checkpoint
            calls = ((OURS, ours.restore), (THEIRS, lambda prefix=prefix: plain.read(prefix).expect_partial()))
            for name, restore in calls:
                took = timed(restore)
                if turn:
                    restored[name].append(took / len(values) * 1e6)
    count = {"variables": len(values)}
    return [
        Figure(f"blocking a variable ({kind})", "µs", blocked, (Target(CKPTKIT, 15.0),), count),
        Figure(f"restore a variable ({kind})", "µs", restored, (Target(OURS, 1.0, THEIRS),), count),
    ]
