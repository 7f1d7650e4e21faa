"""Checkpoints in ``model.fit``: one callback that saves the run and, when the script is started again, goes on with it.

model.fit(x, y, epochs=20, callbacks=[ckptkit.TrainingCheckpoint("runs/digits", save_freq=500)])
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from typing import Any

import keras
import tensorflow as tf

from ckptkit.errors import CheckpointError, CheckpointNotFoundError
from ckptkit.fit import AfterAll, StepFunction, callback_list, find_callback
from ckptkit.manager import CheckpointManager
from ckptkit.policies import EveryEpochs, EverySteps, SavePolicy
from ckptkit.preservation import All, Best, Latest, PreservationPolicy
from ckptkit.records import CheckpointRecord, is_better
from ckptkit.run_state import FitState, RunState

__all__ = ["TrainingCheckpoint"]

_log = logging.getLogger("ckptkit")
_STATE = "run_state"
_ORDER = 0  # before exports, which want the final save behind them

# Calls of fit that came to their end in this process, by directory: what tells the second fit of a script from the
# first one started again.
_finished_fits: dict[str, int] = {}


class TrainingCheckpoint(keras.callbacks.Callback):
    """Save model, optimizer and run in ``model.fit``, and resume when the same script is started again.

    Restores the newest checkpoint in ``directory`` before the first step, so that ``fit`` goes on at the epoch and
    batch where it was: optimizer slots, step numbers and the ``History`` of earlier epochs included. Where training had
    already ended, ``fit`` does nothing and returns the whole ``History``.

    Args:
        directory: Folder of the checkpoints; one a run.
        save_freq: ``"epoch"``, a number of steps, or a policy from ``ckptkit.policies``. A save is never delayed; one
            that is due at the last batch of an epoch is taken at the epoch's end, with its metrics. When training ends
            a last save is taken in any case.
        max_to_keep: Number of newest checkpoints to keep; None keeps all or leaves it to ``preservation_policy``.
        monitor: Name in the epoch's logs, such as ``"val_loss"``: an epoch that is the best so far is saved, and the
            best checkpoint is kept beyond ``max_to_keep``.
        mode: ``"min"`` or ``"max"``; may be left out for a loss.
        preservation_policy: What else to keep, from ``ckptkit.preservation``.
        resume: False starts afresh, and refuses a directory that holds checkpoints.
        async_save: Whether training goes on while files are written.
        durable: Whether files are flushed to the disk before a checkpoint counts as saved.
        on_save_error: ``"raise"`` at the next step, or ``"warn"``.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> callback = ckptkit.TrainingCheckpoint("runs/digits", save_freq=500, max_to_keep=3)
        >>> history = model.fit(x, y, epochs=20, callbacks=[callback])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        save_freq: str | int | SavePolicy = "epoch",
        max_to_keep: int | None = 5,
        monitor: str | None = None,
        mode: str | None = None,
        preservation_policy: PreservationPolicy | None = None,
        resume: bool = True,
        async_save: bool = True,
        durable: bool = True,
        on_save_error: str = "raise",
    ) -> None:
        super().__init__()
        self.directory = os.fspath(directory)
        self._policy = _save_policy(save_freq)
        self._best = _best(monitor, mode)
        if self._best is not None:  # beside what is kept anyway: all of them, where nothing says otherwise
            all_or_newest = All() if max_to_keep is None else Latest(max_to_keep)
            preservation_policy = (preservation_policy or all_or_newest) | self._best
        self._resume = resume
        self._options: dict[str, Any] = {
            "max_to_keep": max_to_keep,
            "preservation_policy": preservation_policy,
            "save_policy": self._policy,
            "async_save": async_save,
            "durable": durable,
            "on_save_error": on_save_error,
        }
        self._manager: CheckpointManager | None = None
        self._step_function: StepFunction | None = None
        self._history: keras.callbacks.History | None = None
        self._fits: tuple[FitState, ...] = ()  # the calls of fit before this one
        self._now = FitState()
        self._initial_epoch = 0
        self._resumed_from: CheckpointRecord | None = None
        self._step = 0
        self._saved_step = -1

    @property
    def manager(self) -> CheckpointManager:
        """The manager of the directory.

        Raises:
            RuntimeError: ``fit`` has not begun.
        """
        if self._manager is None:
            raise RuntimeError("there is no manager before fit has begun: the model is not known yet.")
        return self._manager

    @property
    def resumed_from(self) -> CheckpointRecord | None:
        """The checkpoint that the last ``fit`` resumed from, None if it started afresh."""
        return self._resumed_from

    @property
    def has_monitor(self) -> bool:
        """Whether a ``monitor`` tells which checkpoint is best."""
        return self._best is not None

    # Keras' hooks ----------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the directory, restore, and get in front of the train function."""
        callbacks = callback_list(sys._getframe(1))
        objects = {"model": self.model}
        if self.model.optimizer is not None:
            objects["optimizer"] = self.model.optimizer
        self._manager = CheckpointManager(tf.train.Checkpoint(**objects), self.directory, **self._options)
        self._history = find_callback(callbacks, keras.callbacks.History)
        self._initial_epoch = self.model._initial_epoch
        self._restore()
        if self._now.stopped:
            self.model._initial_epoch = self.params["epochs"]
        elif self._resumed_from is not None:
            self.model._initial_epoch = self._now.epoch
        self._step = self._saved_step = self._optimizer_steps()
        if self._resumed_from is None:
            self._saved_step = -1
        inner = self.model.train_function
        while isinstance(inner, StepFunction):  # left behind by a fit that was broken off
            inner = inner.inner
        self._step_function = StepFunction(inner, self.model.steps_per_execution, self._before_step)
        self.model.train_function = self._step_function
        AfterAll(
            _ORDER, on_train_begin=self._after_begin, on_epoch_end=self._after_epoch, on_train_end=self._after_training
        ).join(callbacks)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Announce the epoch, and how much of it is done already."""
        # fit has read it; it must not outlive this fit, or the next one of the same model starts late.
        self.model._initial_epoch = self._initial_epoch
        assert self._step_function is not None
        if epoch != self._now.epoch:  # fit was told to begin later
            self._now = FitState(epoch)
        self._step_function.begin_epoch(skip=self._now.batch)

    # Between and after -----------------------------------------------------------------------------------------------

    def _before_step(self, batch: int) -> None:
        self._step += self.model.steps_per_execution
        saved = self.manager.maybe_save(
            self._step, epoch=self._now.epoch, batch=batch, state=lambda: self._state(batch)
        )
        self._saved_step = self._step if saved is not None else self._saved_step

    def _after_begin(self) -> None:
        # The others have reset themselves by now.
        if self._resumed_from is not None and self._history is not None:
            self._history.history = {name: list(values) for name, values in self._now.history.items()}
            self._history.epoch = list(self._now.epochs)

    def _after_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        assert self._step_function is not None
        self._step_function.end_epoch()
        self._step = self._optimizer_steps()
        self._now = FitState(epoch=epoch + 1)
        metrics = _numbers(logs)
        # Asked in any case: the policy counts from its last question.
        due = self.manager.is_due(self._step, epoch=epoch + 1, metrics=metrics)
        if self._is_best(metrics) or due:
            self._save(metrics)

    def _after_training(self) -> None:
        assert self._step_function is not None
        self.model._initial_epoch = self._initial_epoch
        self.model.train_function = self._step_function.inner
        self._step = self._optimizer_steps()
        if self._step != self._saved_step:
            self._save({})
        self.manager.close()
        self._fits = (*self._fits, self._fit_state(0))
        _finished_fits[os.path.realpath(self.directory)] = len(self._fits)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        self._resumed_from, self._fits, self._now = None, (), FitState()
        there = self.manager.latest_checkpoint
        this_fit = _finished_fits.get(os.path.realpath(self.directory), 0)
        if this_fit and self._is_older_than(there):
            this_fit = 0  # the model was made anew: the script starts again, in a notebook for one
        saved = self._saved_fits() if there is not None else ()
        if this_fit and this_fit >= len(saved):
            self._fits = saved  # another fit of the same script: it goes on from the live model
            return
        if there is not None and not self._resume:
            raise CheckpointError(
                f"{self.directory} holds checkpoints up to {os.path.basename(there)}, and resume=False was asked for.\n"
                "Choose an empty directory to start afresh, or let it resume: nothing is deleted or overwritten."
            )
        if there is not None and self.model.built and self.model.optimizer is not None:
            # As fit would at its first step; a fit that is over takes none, and its slots are wanted all the same.
            self.model.optimizer.build(self.model.trainable_variables)
        try:
            record = self.manager.restore()
        except CheckpointNotFoundError:
            return
        fits = self._fits_of(record)
        self._resumed_from = record
        self._fits, self._now = fits[:this_fit], fits[min(this_fit, len(fits) - 1)]
        if this_fit < len(fits) - 1:  # a later fit was under way: this one is over
            self._now = FitState(**{**vars(self._now), "stopped": True})
        at = self._now
        _log.info("resuming from %s: step %d, epoch %d, batch %d.", record.prefix, record.step, at.epoch, at.batch)

    def _is_older_than(self, prefix: str | None) -> bool:
        steps = [record.step for record in self.manager.records() if record.prefix == prefix]
        return bool(steps) and self._optimizer_steps() < steps[0]

    def _saved_fits(self) -> tuple[FitState, ...]:
        latest = self.manager.latest_checkpoint
        return next((self._fits_of(record) for record in self.manager.records() if record.prefix == latest), ())

    def _fits_of(self, record: CheckpointRecord) -> tuple[FitState, ...]:
        state = self.manager.state(record).get(_STATE)
        if state is not None:
            return RunState.from_json(state.numpy()).fits
        # Written by a plain manager: model and optimizer go on, fit's epochs are not known.
        _log.warning("%s holds no state of a fit; its weights are taken and epochs are counted afresh.", record.prefix)
        return (FitState(),)

    def _fit_state(self, batch: int) -> FitState:
        history = self._history
        return FitState(
            epoch=self._now.epoch,
            batch=batch,
            history={} if history is None else {name: list(values) for name, values in history.history.items()},
            epochs=() if history is None else tuple(history.epoch),
            stopped=bool(self.model.stop_training) and batch == 0,
        )

    def _state(self, batch: int) -> dict[str, Any]:
        return {_STATE: RunState((*self._fits, self._fit_state(batch))).to_json()}

    def _save(self, metrics: dict[str, float]) -> None:
        epoch = self._now.epoch
        self.manager.save(self._step, False, metrics=metrics, epoch=epoch, batch=0, state=self._state(0))
        self._saved_step = self._step

    def _optimizer_steps(self) -> int:
        optimizer = self.model.optimizer
        return self._step if optimizer is None else int(optimizer.iterations.numpy())

    def _is_best(self, metrics: dict[str, float]) -> bool:
        if self._best is None:
            return False
        monitor = self._best.monitor
        if monitor not in metrics:
            if monitor.startswith("val_") and not any(name.startswith("val_") for name in metrics):
                return False  # no validation at this epoch: no decision
            near = difflib.get_close_matches(monitor, metrics, n=1)
            raise ValueError(
                f"cannot rank checkpoints by {monitor!r}: no such metric at epoch {self._now.epoch} "
                f"(have: {', '.join(sorted(metrics))})." + (f"\nDid you mean {near[0]!r}?" if near else "")
            )
        best = self.manager.best_record
        return is_better(metrics[monitor], None if best is None else best.metrics[monitor], self._best.mode)


def _save_policy(save_freq: str | int | SavePolicy) -> SavePolicy:
    if isinstance(save_freq, SavePolicy):
        return save_freq
    if save_freq == "epoch":
        return EveryEpochs(1)
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return EverySteps(save_freq)
    raise ValueError(f'save_freq must be "epoch", a number of steps or a policy, got {save_freq!r}.')


def _best(monitor: str | None, mode: str | None) -> Best | None:
    if monitor is None:
        if mode is not None:
            raise ValueError(f"mode={mode!r} says how to rank a metric; say which one with monitor=.")
        return None
    if mode is None and monitor.endswith("loss"):
        mode = "min"
    if mode is None:
        raise ValueError(f'say whether {monitor!r} is better when smaller or larger: mode="min" or mode="max".')
    return Best(monitor, mode)


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Return the logs that are numbers, as floats."""
    numbers = {}
    for name, value in logs.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers
