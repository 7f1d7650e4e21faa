"""Who saves: each with a ``save`` that says how long it kept the caller, and a ``done`` that says when it is over.

A manager is called in a GradientTape loop. Keras' callbacks do everything in ``on_train_batch_end``: that hook is
called where ``fit`` would call it. ckptkit's callback gets into ``fit``'s own loop, so it has a ``fit``: ``fitting``.
"""

import os
import shutil
import threading
import time

import keras
import tensorflow as tf

import ckptkit

SAVE_TIMEOUT_SECS = 300
CKPTKIT = "ckptkit manager, async"
CKPTKIT_FIT = "ckptkit TrainingCheckpoint"
CKPTKIT_SYNC = "ckptkit manager, sync"
OURS = (CKPTKIT, CKPTKIT_FIT)
TENSORFLOW = "tf.train.CheckpointManager"
ORBAX = "OrbaxCheckpoint"
BACKUP = "BackupAndRestore"
KERAS = "ModelCheckpoint .keras"
WEIGHTS = "ModelCheckpoint .weights.h5"
PEERS = (TENSORFLOW, ORBAX, BACKUP, KERAS, WEIGHTS)
TO_HOST = "plain device-to-host copy"


class Contestant:
    """One way to save, in a directory of its own.

    Args:
        training: What is saved.
        directory: Where; made here.
    """

    def __init__(self, training, directory):
        self.training = training
        self.directory = directory
        os.makedirs(directory)
        self.open()

    def open(self):
        """Get ready."""

    def step(self):
        """Train one step."""
        self.training.step()

    def save(self):
        """Save; return when it was called and when it came back, by ``time.perf_counter()``."""
        began = time.perf_counter()
        self.call()
        return began, time.perf_counter()

    def call(self):
        """Do what is timed."""
        raise NotImplementedError

    def done(self):
        """Say, without waiting, whether the last save is over; of ckptkit's, whether it is durable."""
        return True

    def finish(self):
        """Wait for what is still under way."""

    def saved_bytes(self):
        """Return the bytes of all files in the directory."""
        return sum(
            os.path.getsize(os.path.join(at, name)) for at, _, files in os.walk(self.directory) for name in files
        )

    def clean(self):
        """Delete what was saved, so that no later save pays for it and no dirty page is left to be written."""
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            if os.path.isdir(path) and name != ".ckptkit":
                shutil.rmtree(path)
            elif os.path.isfile(path) and name != "checkpoint":
                os.remove(path)

    def close(self):
        """Let go of everything."""


class Ckptkit(Contestant):
    """ckptkit's manager, in the background."""

    in_background = True

    def open(self):
        self.manager = ckptkit.CheckpointManager(
            self.training.checkpoint(), self.directory, None, async_save=self.in_background
        )
        self.prefix = None

    def call(self):
        self.prefix = self.manager.save()

    def done(self):
        return self.manager.latest_checkpoint == self.prefix

    def finish(self):
        self.manager.wait_until_finished()

    def close(self):
        self.manager.close()


class CkptkitSync(Ckptkit):
    """The same, in the caller."""

    in_background = False


class TensorFlow(Contestant):
    """TensorFlow's own manager, which never flushes to the disk."""

    def open(self):
        self.manager = tf.train.CheckpointManager(self.training.checkpoint(), self.directory, None)

    def call(self):
        self.manager.save()


class ToHost(Contestant):
    """No save: what copying from the device takes in the caller."""

    def call(self):
        self.training.to_host()


class Hook(Contestant):
    """A callback of Keras: its hook at a batch's end is called as ``fit`` calls it."""

    def open(self):
        self.callback = self.make()
        self.callback.set_model(self.training.model)
        self.callback.on_train_begin()
        self.callback.on_epoch_begin(0)
        self.batch = -1

    def make(self):
        """Return the callback, one that saves at every batch it is told of."""
        raise NotImplementedError

    def call(self):
        self.batch += 1
        self.callback.on_train_batch_end(self.batch, {})

    def close(self):
        self.finish()
        self.callback.on_train_end()


class Backup(Hook):
    """Weights and optimizer in one HDF5 file."""

    def make(self):
        return keras.callbacks.BackupAndRestore(self.directory, save_freq=1)


class Keras(Hook):
    """The whole model in a ``.keras`` archive."""

    def make(self):
        return keras.callbacks.ModelCheckpoint(os.path.join(self.directory, "model.keras"), save_freq=1)


class Weights(Hook):
    """Weights and optimizer in a ``.weights.h5`` file."""

    def make(self):
        path = os.path.join(self.directory, "model.weights.h5")
        return keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=1)


class Orbax(Hook):
    """Orbax, in the background."""

    def make(self):
        self.over = threading.Event()
        self.watcher = self.error = None
        return keras.callbacks.OrbaxCheckpoint(self.directory, save_freq=1, max_to_keep=None)

    def save(self):
        self.over.clear()
        window = super().save()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return window

    def watch(self):
        """Wait where nobody is kept: the callback has nothing to ask whether it is done."""
        try:
            self.callback.wait_until_finished()
        except BaseException as error:  # a thread has nobody to tell; finish() raises it
            self.error = error
        finally:
            self.over.set()

    def done(self):
        return self.over.is_set()

    def finish(self):
        if self.watcher is not None:
            self.watcher.join()
        if self.error is not None:
            raise self.error


def contestants():
    """Return the classes of contestants by name, in the order of their turns."""
    from tests.benchmarks.fitting import CkptkitFit

    return {
        CKPTKIT: Ckptkit,
        CKPTKIT_FIT: CkptkitFit,
        CKPTKIT_SYNC: CkptkitSync,
        TENSORFLOW: TensorFlow,
        ORBAX: Orbax,
        BACKUP: Backup,
        KERAS: Keras,
        WEIGHTS: Weights,
    }


def has_orbax():
    """Say whether OrbaxCheckpoint can run."""
    try:
        import orbax.checkpoint  # noqa: F401
    except ImportError:
        return False
    return True
