"""ckptkit's callback in a real ``model.fit``, which goes on one step at a time when it is told to."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras

import ckptkit
from ckptkit.policies import SaveContext, SavePolicy
from tests.benchmarks.contestants import SAVE_TIMEOUT_SECS, Contestant


class Gate(keras.callbacks.Callback):
    """Stops ``fit`` before each batch until it is let through.

    It overrides none of the hooks that would make Keras wait for the device at every batch.
    """

    def __init__(self):
        super().__init__()
        self.arrived = threading.Semaphore(0)
        self.through = threading.Semaphore(0)
        self.arrived_at = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.arrived_at = time.perf_counter()
        wait_for_device(self.model)
        self.arrived.release()
        self.through.acquire()


def wait_for_device(model):
    """Wait until the last step is done: ``fit`` itself does not."""
    int(model.optimizer.iterations)


@dataclass(frozen=True)
class OnDemand(SavePolicy):
    """Due once after each ``asked.append(True)``; notes when it was asked then."""

    wait: Callable[[], None]
    asked: list = field(default_factory=list)
    asked_at: list = field(default_factory=list)

    def should_save(self, context: SaveContext) -> bool:
        if not self.asked:
            return False
        self.asked.clear()
        self.wait()  # for the step before, which is no part of the save
        self.asked_at.append(time.perf_counter())
        return True


class CkptkitFit(Contestant):
    """``TrainingCheckpoint``: what it does between two batches is the time from its policy's question to the gate."""

    def open(self):
        self.gate, self.error = Gate(), None
        self.policy = OnDemand(lambda: wait_for_device(self.training.model))
        self.callback = ckptkit.TrainingCheckpoint(self.directory, save_freq=self.policy, max_to_keep=None)
        self.thread = threading.Thread(target=self.fit, daemon=True)
        self.thread.start()
        self.wait()

    def fit(self):
        """Train until :meth:`close`."""
        try:
            self.training.model.fit(
                self.training.dataset(),
                steps_per_epoch=1_000_000,
                verbose=0,
                shuffle=False,
                callbacks=[self.callback, self.gate],
            )
        except BaseException as error:  # a thread has nobody to tell; wait() raises it
            self.error = error
        self.gate.arrived.release()

    def wait(self):
        """Wait until ``fit`` stands before the next batch, or is over."""
        arrived = self.gate.arrived.acquire(timeout=SAVE_TIMEOUT_SECS)
        if self.error is not None:
            raise self.error
        if not arrived:
            raise TimeoutError(f"fit made no step in {SAVE_TIMEOUT_SECS} s.")

    def step(self):
        self.gate.through.release()
        self.wait()

    def save(self):
        before = self.callback.manager.latest_checkpoint
        self.policy.asked.append(True)
        self.step()  # the save comes behind it, and the window begins with the save
        self.before = before
        return self.policy.asked_at[-1], self.gate.arrived_at

    def done(self):
        return self.callback.manager.latest_checkpoint != self.before

    def finish(self):
        self.callback.manager.wait_until_finished()

    def close(self):
        self.training.model.stop_training = True
        self.gate.through.release()
        self.thread.join()
        if self.error is not None:
            raise self.error
