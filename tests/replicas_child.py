"""Saves and restores on two logical devices: ``python -m tests.replicas_child FOLDER`` prints what came of it as JSON.

Every scene runs in a fork of this process, which has TensorFlow loaded and not used: the number of devices is fixed
when it is.
"""

import json
import logging
import os
import sys

import numpy as np
import tensorflow as tf

import ckptkit
from ckptkit.replicas import replicas_of
from tests.exact_cases import BATCH, arrays, dense
from tests.kill_child import forked


class Said(logging.Handler):
    """Keeps what was logged."""

    def __init__(self):
        super().__init__()
        self.lines = []
        logging.getLogger("ckptkit").addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())


def strategy(devices=2):
    """Return a strategy over the first of three logical devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    return tf.distribute.MirroredStrategy([f"/cpu:{number}" for number in range(devices)])


def counter():
    """Return a variable that each replica counts for itself."""
    on_read, total = tf.VariableSynchronization.ON_READ, tf.VariableAggregation.SUM
    return tf.Variable(0.0, synchronization=on_read, aggregation=total)


def trained(devices=2, fit=True):
    """Return a model that was fitted on so many devices, and its checkpoint."""
    with strategy(devices).scope():
        model = dense()
        if fit:
            model.fit(*arrays(), batch_size=BATCH, verbose=0)
        else:
            model.optimizer.build(model.trainable_variables)
            model._symbolic_build(data_batch=tuple(array[:BATCH] for array in arrays()))
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def values(model):
    """Return the values of every replica of everything, the model's first and the metrics' last."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [[np.asarray(part).tolist() for part in replicas_of(v).values() or (v,)] for v in variables]


def save(folder):
    """Fit on two devices and save; the file must hold the moment of the save."""
    model, checkpoint = trained()
    with ckptkit.CheckpointManager(checkpoint, folder, 3, async_save=True) as manager:
        manager.save()
        saved = values(model)
        model.fit(*arrays(), batch_size=BATCH, verbose=0)
    names = [name for name, _ in tf.train.list_variables(folder) if name.startswith("_CKPTKIT_REPLICA")]
    asked = [type(each.trackable).__name__ for each in manager._graph._plan.others]
    metrics = len(model.metrics_variables)
    return {"saved": saved, "later": values(model), "names": names, "metrics": metrics, "asked": asked}


def restore(folder):
    """Restore on two devices."""
    model, checkpoint = trained(fit=False)
    before = values(model)
    ckptkit.CheckpointManager(checkpoint, folder, 3).restore()
    return {"before": before, "restored": values(model)}


def restore_by_tensorflow(folder):
    """Restore with TensorFlow's own method, which a manager makes whole."""
    model, checkpoint = trained(fit=False)
    manager = ckptkit.CheckpointManager(checkpoint, folder, 3)
    checkpoint.restore(manager.latest_checkpoint)
    return {"restored": values(model)}


def restore_before_the_build(folder):
    """Restore a model whose layers have no variables yet."""
    import keras

    def made(build):
        model = keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        if build:
            model.fit(*arrays(), batch_size=BATCH, verbose=0)
        return model

    with strategy().scope():
        model, again = made(True), made(False)
        ckptkit.CheckpointManager(tf.train.Checkpoint(model=model), folder + "-unbuilt", 3).save()
        manager = ckptkit.CheckpointManager(tf.train.Checkpoint(model=again), folder + "-unbuilt", 3)
        manager.restore()
        again.build((None, 6))
        ours, theirs = (
            [[p.numpy().tolist() for p in replicas_of(v).values()] for v in m.variables] for m in (again, model)
        )
        return {"restored": ours, "saved": theirs, "left": manager.leftovers()}


def hold(folder):
    """Hold everything, train, put it back."""
    model, checkpoint = trained()
    manager = ckptkit.CheckpointManager(checkpoint, folder + "-none", 3)
    before, put_back = values(model), manager.hold()
    model.fit(*arrays(), batch_size=BATCH, verbose=0)
    later = values(model)
    put_back()
    return {"before": before, "later": later, "put back": values(model)}


def restore_on(devices, folder):
    """Restore on another number of devices."""
    said = Said()
    model, checkpoint = trained(devices, fit=False)
    ckptkit.CheckpointManager(checkpoint, folder, 3).restore()
    return {"restored": values(model), "said": said.lines}


def export(folder):
    """Export what was trained on two devices."""
    model, _ = trained()
    before = values(model)
    ckptkit.save_model(model, folder + "-export")
    return {"before": before, "after": values(model)}


def restore_plainly(folder):
    """Restore as a process without ckptkit does."""
    with strategy().scope():
        variables = {"mirrored": tf.Variable([0.0, 0.0]), "counter": counter()}
    mirrored, counted = variables["mirrored"], variables["counter"]
    mirrored.assign([1.0, 2.0])
    for number, replica in replicas_of(counted).items():
        replica.assign(10.0 + number)
    ckptkit.CheckpointManager(tf.train.Checkpoint(**variables), folder + "-plain", 3).save()
    with tf.distribute.get_strategy().scope():
        plain = {"mirrored": tf.Variable([0.0, 0.0]), "counter": tf.Variable(0.0)}
    status = tf.train.Checkpoint(**plain).restore(tf.train.latest_checkpoint(folder + "-plain"))
    status.assert_consumed()
    names = [name for name, _ in tf.train.list_variables(folder + "-plain")]
    return {"values": [plain["mirrored"].numpy().tolist(), float(plain["counter"])], "names": names}


def loop(folder, *, until=None):
    """Go over shared data in a loop on two devices, to its end or until a step; return what every replica holds."""
    import keras

    keras.utils.set_random_seed(7)
    model, checkpoint = trained(fit=False)
    here = model.optimizer.variables[0].value.distribute_strategy
    dataset = tf.data.Dataset.from_tensor_slices(arrays()).shuffle(100, seed=3).batch(BATCH)

    @tf.function
    def step(batch):
        def of_replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

        here.run(of_replica, args=batch)

    policy = ckptkit.policies.EverySteps(2)
    with ckptkit.CheckpointManager(checkpoint, folder, 3, save_policy=policy, async_save=True) as manager:
        rounds = ckptkit.TrainingLoop(manager, here.experimental_distribute_dataset(dataset), epochs=2)
        for number, batch in rounds:
            step(batch)
            if number == until:
                break
    resumed = rounds.resumed_from
    return {"values": values(model), "step": rounds.step, "resumed": None if resumed is None else resumed.step}


def main(folder):
    """Print what each scene saw."""
    directory = os.path.join(folder, "run")
    scenes = {each.__name__: each for each in (save, restore, restore_by_tensorflow, hold, export, restore_plainly)}
    scenes["restore_before_the_build"] = restore_before_the_build
    scenes["loop"] = lambda at: loop(at + "-whole")
    scenes["loop_left"] = lambda at: loop(at + "-left", until=5)
    scenes["loop_again"] = lambda at: loop(at + "-left")
    scenes |= {f"restore_on_{number}": lambda at, number=number: restore_on(number, at) for number in (1, 3)}
    print(json.dumps({name: forked(lambda scene=scene: scene(directory))[0] for name, scene in scenes.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
