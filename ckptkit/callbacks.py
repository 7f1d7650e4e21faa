"""Checkpoints in ``model.fit``: one callback that saves the run and, when the script is started again, goes on with it.

model.fit(x, y, epochs=20, callbacks=[ckptkit.TrainingCheckpoint("runs/digits", save_freq=500)])
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import tensorflow as tf

from ckptkit import finished_fits, fit_model, randomness
from ckptkit.callback_state import CallbackStates
from ckptkit.combinators import leaves
from ckptkit.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
)
from ckptkit.fit import AfterAll, BeforeAll, callback_list, disarm, find_callback
from ckptkit.fit_callbacks import refuse_rivals, validate
from ckptkit.fit_frame import (
    epoch_iterator,
    epoch_logs,
    first_epoch,
    runs_in_fit,
    validation_data,
    validation_input,
)
from ckptkit.fit_inputs import FitInputs
from ckptkit.fit_place import STATE, Place, fits_of
from ckptkit.held import Held
from ckptkit.input_hooks import dataset_of
from ckptkit.keeping import with_best
from ckptkit.leaving import Departure
from ckptkit.manager import CheckpointManager
from ckptkit.options import DEFAULT_LIMIT, WORKER_TIMEOUT_SECS, TrainingCheckpointOptions
from ckptkit.policies import OnImprovement, SavePolicy
from ckptkit.preemption import PreemptionWatch
from ckptkit.preservation import Best, PreservationPolicy
from ckptkit.records import CheckpointRecord
from ckptkit.resuming import parts_of, resume_line
from ckptkit.run_state import FitState, RunState
from ckptkit.tolerance import MAX_SAVE_ERRORS
from ckptkit.unsaved_random import say_what_is_lost
from ckptkit.which_keras import keras

__all__ = ["TrainingCheckpoint"]

_log = logging.getLogger("ckptkit")
_ORDER = 0  # before exports, which want the final save behind them
_OF_MANAGER = (
    "max_to_keep",
    "preservation_policy",
    "async_save",
    "durable",
    "on_save_error",
    "max_save_errors",
    "worker_timeout_secs",
    "tensorboard_dir",
    "verbose",
)

# Managers of fits in this process, by directory: one that was broken off may still be writing in the background.
_managers: weakref.WeakValueDictionary[str, CheckpointManager] = weakref.WeakValueDictionary()


class TrainingCheckpoint(keras.callbacks.Callback):
    """Save a run of ``model.fit`` whole, and go on with it when the same script is started again.

    Restores the newest checkpoint in ``directory`` before the first step, so that ``fit`` goes on at the very batch
    where it was: with the optimizer's slots, the order of the data, the epoch's metrics so far, random numbers, the
    state of the other callbacks and the ``History`` of earlier epochs. A run that was broken off ends with the same
    bits as one that was not, if seeds are set. Where training had already ended, ``fit`` does nothing and returns the
    whole ``History``; another ``fit`` of the same model in the same process is a further part of the run, and trains.
    The learning rate is part of what is restored.

    Args:
        directory: Folder of the checkpoints; one a run.
        save_freq: ``"epoch"``, a number of steps, or a policy from ``ckptkit.policies``. A save is never delayed; one
            that is due at the last batch of an epoch is taken at the epoch's end, with its metrics.
        max_to_keep: Number of newest checkpoints to keep; None keeps all or leaves it to ``preservation_policy``.
        final_save: Whether a last save is taken when training ends normally.
        monitor: Name in the epoch's logs, such as ``"val_loss"``: an epoch that is the best so far is saved, and the
            best checkpoint is kept beyond ``max_to_keep``. A name that is not there after the first validation is an
            error.
        mode: ``"min"`` or ``"max"``; may be left out for a loss, and for a metric of Keras that says it itself.
        preservation_policy: What else to keep, from ``ckptkit.preservation``.
        resume: False starts afresh, and refuses a directory that holds checkpoints.
        save_on_preemption: Whether a signal makes ``fit`` save at the next batch, of training or validation, wait until
            that is durable, and leave with ``ckptkit.Preempted``, which ends a script that does not catch it. In
            another thread than the main one ``ckptkit.request_preemption()`` takes the signal's place.
        preemption_signals: Which signals: SIGUSR1 where SLURM sends it, SIGINT for Ctrl-C. Handlers that are there
            are called when it comes, and put back when ``fit`` ends.
        grace_secs: How long after the signal the process is left alone; a save that takes longer is given up, and the
            checkpoint before it stands. None for as long as it takes.
        preemption_code: Exit code of the script then: 143 is what a scheduler sees of a process that SIGTERM ended.
        async_save: Whether training goes on while files are written.
        durable: Whether files are flushed to the disk before a checkpoint counts as saved.
        on_save_error: ``"raise"`` at the next step, or ``"warn"`` to log a failed save and train on.
        max_save_errors: With ``"warn"`` the error of so many failed saves in a row is raised after all; None for never.
        worker_timeout_secs: How long workers that train together wait for each other at a save; see
            :class:`CheckpointManager`.
        tensorboard_dir: Folder of TensorBoard's files, ``keras.callbacks.TensorBoard``'s perhaps, where what saves
            cost and how often the run was resumed is written as scalars; None for nowhere.
        input_state: How the place in the training data is kept: ``"iterator"`` saves the state of its iterator, and a
            resume takes the same time wherever it was; ``"replay"`` draws and drops the batches before it;
            ``"restart"`` trains the rest of the epoch on the first batches. ``"auto"`` takes the best that is exact;
            the first save logs which one it is.
        max_input_state_bytes: Most bytes that an iterator's state, shuffle buffers included, may take in a checkpoint.
        verbose: 1 logs at the level INFO what a resume goes on from, what each save has cost and how the place in the
            data is kept, and shows a bar on a terminal while a large checkpoint is restored. 0 is silent; warnings and
            errors are told in any case.
        callbacks: The callbacks whose state is saved; None for all that are passed to ``fit``. A callback of your own
            joins with ``get_state()`` and ``set_state(state)``; those of Keras are known.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> callback = ckptkit.TrainingCheckpoint("runs/digits", save_freq=500, max_to_keep=3)
        >>> history = model.fit(x, y, epochs=20, callbacks=[callback], verbose=0)
        >>> callback.manager.latest_checkpoint
        'runs/digits/ckpt-20'
        >>> callback.resumed_from is None  # else the record of the checkpoint that it went on from
        True
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        save_freq: str | int | SavePolicy = "epoch",
        final_save: bool = True,
        max_to_keep: int | None = 5,
        monitor: str | None = None,
        mode: str | None = None,
        preservation_policy: PreservationPolicy | None = None,
        resume: bool = True,
        save_on_preemption: bool = True,
        preemption_signals: Sequence[str | signal.Signals] = ("SIGTERM",),
        grace_secs: float | None = None,
        preemption_code: int = 143,
        async_save: bool = True,
        durable: bool = True,
        on_save_error: str = "raise",
        max_save_errors: int | None = MAX_SAVE_ERRORS,
        worker_timeout_secs: float | None = WORKER_TIMEOUT_SECS,
        tensorboard_dir: str | os.PathLike[str] | None = None,
        input_state: str = "auto",
        max_input_state_bytes: int = DEFAULT_LIMIT,
        verbose: int = 1,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> None:
        super().__init__()
        self._options = TrainingCheckpointOptions(
            directory=directory,
            save_freq=save_freq,
            final_save=final_save,
            max_to_keep=max_to_keep,
            monitor=monitor,
            mode=mode,
            preservation_policy=preservation_policy,
            resume=resume,
            save_on_preemption=save_on_preemption,
            preemption_signals=preemption_signals,
            grace_secs=grace_secs,
            preemption_code=preemption_code,
            async_save=async_save,
            durable=durable,
            on_save_error=on_save_error,
            max_save_errors=max_save_errors,
            worker_timeout_secs=worker_timeout_secs,
            tensorboard_dir=tensorboard_dir,
            input_state=input_state,
            max_input_state_bytes=max_input_state_bytes,
            verbose=verbose,
        )
        validate(callbacks)
        self.directory = os.fspath(self._options.directory)
        self._listed = callbacks
        self._manager: CheckpointManager | None = None
        self._inputs: FitInputs | None = None
        self._others = CallbackStates(())
        self._history: keras.callbacks.History | None = None
        self._list: keras.callbacks.CallbackList | None = None
        self._fits: tuple[FitState, ...] = ()  # the calls of fit before this one
        self._now = FitState()
        self._put_back: Callable[[], None] | None = None
        self._watch = PreemptionWatch(
            [str(each) for each in self._options.preemption_signals],
            grace_secs=self._options.grace_secs,
            code=self._options.preemption_code,
        )
        self._departure = Departure(self._watch)
        self._held: Held | None = None  # as the validation that is under way has found it
        self._place = Place()
        self._resumed_from: CheckpointRecord | None = None
        self._step = self._epochs_first_step = 0
        self._is_validated = self._has_said = False
        self._metrics: dict[str, float] = {}  # of the epoch that has just ended

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
    def step(self) -> int:
        """Steps done since the start of the run, at the last question whether to save."""
        return self._step

    @property
    def has_monitor(self) -> bool:
        """Whether a ``monitor``, or a ``Best`` policy, tells which checkpoint is best."""
        kept = leaves(self._options.preservation_policy)
        return self._options.monitor is not None or any(isinstance(leaf, Best) for leaf in kept)

    # Keras' hooks ----------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the directory, restore, and get into the loop over the batches."""
        frame = sys._getframe(1)
        self._list, epochs = callback_list(frame), epoch_iterator(frame)
        refuse_rivals(self, self._list.callbacks)
        disarm(self._list, self)
        if self._options.save_on_preemption:
            self._watch.begin(runs_in_fit(frame))
        objects = {"model": self.model}
        if self.model.optimizer is not None:
            objects["optimizer"] = self.model.optimizer
        self._let_earlier_finish()
        mode = self._mode()
        checkpoint = tf.train.Checkpoint(**objects)
        self._manager = CheckpointManager(checkpoint, self.directory, **self._manager_options(mode))
        self._manager.config = {self._options.section: {**self._options.effective(), "mode": mode}}
        _managers[os.path.realpath(self.directory)] = self._manager
        self._history = find_callback(self._list, keras.callbacks.History)
        others = self._list.callbacks if self._listed is None else self._listed
        self._others = CallbackStates([each for each in others if each is not self])
        dataset = dataset_of(epochs)
        validate_on = validation_data(frame)
        self._is_validated = validate_on is not None
        self._inputs = FitInputs(
            epochs,
            validate_on,
            model=self.model,
            callbacks=self._list,
            before_epoch=self._before_epoch,
            before_step=self._before_step,
            input_state=self._options.input_state,
            limit=self._options.max_input_state_bytes,
            verbose=self._options.verbose,
        )
        self._inputs.begin_at(None)
        self._restore(dataset, first_epoch(frame))
        self._departure.prepare(self.manager, self._step, is_watched=self._options.save_on_preemption)
        self.manager.begin_history()
        self._begin_where_it_was()
        AfterAll(
            self,
            _ORDER,
            on_train_begin=self._after_begin,
            on_epoch_end=self._after_epoch,
            on_train_end=self._after_training,
        ).join(self._list)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the epoch."""
        if epoch != self._now.epoch:  # fit was told to begin later
            self._now = FitState(epoch)

    # Between and after -----------------------------------------------------------------------------------------------

    def _after_begin(self) -> None:
        assert self._list is not None
        assert self._inputs is not None
        BeforeAll(
            self,
            self._now.logs,
            self._forget_initial_epoch,
            on_test_begin=self._before_validation,
            on_test_end=self._release,
        ).join(self._list)
        if self._resumed_from is None:
            return
        # The others have reset themselves by now.
        self._others.put_back(self._now.callbacks)
        if self._history is not None:
            self._history.history = {name: list(values) for name, values in self._now.history.items()}
            self._history.epoch = list(self._now.epochs)
        randomness.reinstate(self._now.random)
        if self._place.is_over:
            self._inputs.begin_at(self.params["epochs"])
            return
        self._inputs.begin_at(self._now.epoch)  # last of all, for nothing may go wrong before fit reads it
        if self._now.batch:
            self._put_back = self.manager.hold()

    def _forget_initial_epoch(self) -> None:
        # Or, on Keras 3, the next fit of the same model starts late.
        assert self._inputs is not None
        self._inputs.begin_at(None)

    def _before_epoch(self) -> None:
        if self._step == self.manager.saved_step:
            self._heed()  # else there is a step to be done first
        if self._put_back is None:
            return
        assert self._inputs is not None
        # The epoch had begun already: what its beginning has changed, from metrics to the learning rate, is put back.
        self._put_back()
        self._put_back = None
        self._others.put_back(self._now.callbacks)
        randomness.reinstate(self._inputs.random_outside(self._now.random))
        if self._now.validating and self._now.stops(self.params["epochs"]):
            self.model.stop_training = True

    def _before_step(self, batch: int, logs: Callable[[], Mapping[str, Any]]) -> None:
        self._step = self._epochs_first_step + batch
        self._metrics = {}
        if self._departure.is_told(self._step):  # and not one call more: this is in every step's way
            self._heed(batch, lambda: self._state(batch, logs()))
        assert self._manager is not None
        self._manager.maybe_save(
            self._step, epoch=self._now.epoch, batch=batch, state=lambda: self._state(batch, logs())
        )

    def _before_validation(self) -> None:
        """Hold everything as it is, before other callbacks and the validation itself change any of it."""
        assert self._inputs is not None
        self._inputs.begin_validation(validation_input(self.model), self._heed_in_validation)
        if self._options.save_on_preemption and not self._departure.is_appointed:  # else all come to its end first
            self._held = self.manager.take(self._state(self._inputs.batches_done, epoch_logs(), validating=True))
            self._heed_in_validation()

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def _after_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        assert self._inputs is not None
        self._step = self._epochs_first_step = self._epochs_first_step + self._inputs.batches_done
        self._now = FitState(epoch=epoch + 1)
        self._metrics = metrics = _numbers(logs)
        # Asked in any case: the policy counts from its last question.
        due = self.manager.is_due(self._step, epoch=epoch + 1, metrics=metrics)
        # The last epoch as well, and now: what other callbacks do to the model when training ends is no part of it.
        is_last = epoch + 1 >= self.params["epochs"] or self.model.stop_training
        if due or (is_last and self._options.final_save):
            self._save(self._state(0))
        self._departure.is_told(self._step)
        self._heed(0, lambda: self._state(0))
        if metrics:
            self.manager.note("measured", step=self._step, epoch=epoch + 1, metrics=metrics)
            self.manager.require_monitors(metrics, epoch + 1, is_complete=True, is_validated=self._is_validated)

    def _after_training(self) -> None:
        self._forget_initial_epoch()
        self.manager.wait_until_finished()
        if self._options.final_save and self._step != self.manager.saved_step:  # that of the last epoch may have failed
            self._save(self._state(0))
            self.manager.wait_until_finished()
        self._heed(0, lambda: self._state(0), is_end=True)
        self._watch.end()
        self._departure.end()
        self.manager.close()
        self._fits = self._passed((*self._fits, self._now if self._place.is_over else self._fit_state(0)))
        self._others.let_go()
        finished_fits.note(self.directory, self.model, fits=len(self._fits))
        self._inputs = self._list = self._put_back = None  # the data need not live as long as we do

    # Preemption ------------------------------------------------------------------------------------------------------

    def _heed(self, batch: int = 0, state: Callable[[], dict[str, Any]] | None = None, *, is_end: bool = False) -> None:
        """Save and leave, if that was asked for, and if all workers can; without a state nothing is saved."""
        save = None if state is None else lambda options: self._save(state(), batch, options)
        with self._left():
            self._departure.heed(self._step, save, is_end=is_end)

    def _heed_in_validation(self) -> None:
        if self._watch.request is None or self._departure.is_appointed:
            return
        assert self._inputs is not None
        batch = self._inputs.batches_done
        step = self._epochs_first_step + batch

        def save(options: tf.train.CheckpointOptions) -> None:
            self.manager.save(step, False, options, epoch=self._now.epoch, batch=batch, held=self._held)

        with self._left():
            self._departure.leave(step, save)

    @contextmanager
    def _left(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._release()
            self.manager.close()
            raise

    # Inside ----------------------------------------------------------------------------------------------------------

    def _restore(self, dataset: Any, initial_epoch: int) -> None:
        self._resumed_from, self._fits, self._now = None, (), FitState()
        self._place = Place()
        there = self.manager.latest_checkpoint
        done = finished_fits.count(self.directory, self.model)
        latest = next((record for record in self.manager.records() if record.prefix == there), None)
        self._step = self._epochs_first_step = fit_model.steps_of(self.model) if latest is None else latest.step
        self._metrics = {}
        self.manager.begin_at(self._step)
        known = self._newest_fits() if done else ()
        if done and done >= len(known):
            self._fits = self._passed(known)  # another fit of the same script: it goes on from the live model
            return
        if there is not None and not self._options.resume:
            raise CheckpointError(
                f"{self.directory} holds checkpoints up to {os.path.basename(there)}, and resume=False was asked for.\n"
                "Choose an empty directory to start afresh, or let it resume: nothing is deleted or overwritten."
            )

        def before(record: CheckpointRecord, state: Mapping[str, Any]) -> None:
            place = Place.find(fits_of(record, state), done=done, epochs=self.params["epochs"])
            if record.workers != self.manager.workers:
                place = place.shared_out_anew(is_new=self.manager.worker >= record.workers)
            self._move_to(place, record, initial_epoch)
            fit_model.build(self.model, dataset, self._now.model)

        try:
            record = self.manager.restore(before=before)
        except CheckpointNotFoundError:
            return
        except CheckpointMismatchError:
            if not self._place.is_passed:
                raise
            # A fit of this script that is passed by: compiled otherwise, perhaps, than the one that was under way.
            record = self.manager.restore(before=before, strict=False)
        self._resumed_from = record
        self._step = record.step

    def _move_to(self, place: Place, record: CheckpointRecord, initial_epoch: int) -> None:
        """Refuse what does not fit this call of ``fit``; change nothing of it yet."""
        assert self._inputs is not None
        self._fits, self._now, self._place = self._passed(place.fits), place.now, place
        if not place.is_over:
            place.require_epoch(initial_epoch, record)
            fit_model.compare(place.now.model, self.model, record.prefix)
            self._inputs.compare(place.now.inputs, batch=0 if place.now.validating else place.now.batch)

    def _begin_where_it_was(self) -> None:
        self._put_back = None
        if self._resumed_from is None:
            return
        assert self._inputs is not None
        at, record = self._now, self._resumed_from
        self._epochs_first_step = self._step - at.batch
        if self._place.is_over:
            self._inputs.leave_behind(at.inputs)
            _log.warning("nothing to train: %s", self._place.why_over(record, self.params["epochs"]))
            return
        self._inputs.move_to(at.inputs, batch=at.batch, is_all=at.validating, logs=at.logs)
        if at.batch and fit_model.has_other_metrics(at.model, self.model):
            self.model.reset_metrics()
            _log.warning("the model has other metrics than were saved: those of epoch %d count from here.", at.epoch)
        if self._options.verbose:
            _log.info("%s", self._resume_line(record))

    def _resume_line(self, record: CheckpointRecord) -> str:
        assert self._inputs is not None
        at, others = self._now, self._others.names_in(self._now.callbacks)
        restored = parts_of(self.manager.checkpoint)
        restored += ["random numbers"] if at.random else []
        restored += [f"{len(others)} callback{'s' if len(others) > 1 else ''} ({', '.join(others)})"] if others else []
        inputs = self._inputs.guarantees(at.inputs)
        return resume_line(record, time.time(), epoch=at.epoch, batch=at.batch, restored=restored, inputs=inputs)

    def _mode(self) -> str | None:
        """Return which way ``monitor`` ranks, None where nothing is monitored; the metric may say it itself."""
        monitor = self._options.monitor
        return None if monitor is None else self._options.mode or fit_model.mode_of(monitor, self.model)

    def _manager_options(self, mode: str | None) -> dict[str, Any]:
        """Return what the manager is made with."""
        ours = self._options.arguments()
        options = {name: ours[name] for name in _OF_MANAGER}
        options["save_policy"] = ours["save_freq"]
        if mode is not None:
            options["save_policy"] |= OnImprovement(ours["monitor"], mode)
            best = Best(ours["monitor"], mode)
            options["preservation_policy"] = with_best(ours["preservation_policy"], ours["max_to_keep"], best)
        return options

    def _let_earlier_finish(self) -> None:
        earlier = _managers.get(os.path.realpath(self.directory))
        if earlier is not None:
            try:
                earlier.close()
            except CheckpointError as error:  # of a fit that was broken off: its checkpoint is not there, that is all
                _log.warning("%s", error)

    def _newest_fits(self) -> tuple[FitState, ...]:
        for record in reversed(self.manager.records()):
            try:
                return fits_of(record, self.manager.state(record))
            except CheckpointDamagedError:
                continue  # the restore says so, if there is one
        return ()

    def _passed(self, fits: Iterable[FitState]) -> tuple[FitState, ...]:
        """Return what is kept of fits that are over."""
        return tuple(replace(fit.when_over(), callbacks=self._others.without_weights(fit.callbacks)) for fit in fits)

    def _fit_state(self, batch: int, logs: Mapping[str, Any] | None = None, *, validating: bool = False) -> FitState:
        assert self._inputs is not None
        history = self._history
        return FitState(
            epoch=self._now.epoch,
            batch=batch,
            history={} if history is None else {name: list(values) for name, values in history.history.items()},
            epochs=() if history is None else tuple(history.epoch),
            stopped=bool(self.model.stop_training) and (batch == 0 or validating),
            validating=validating,
            logs=logs or {},
            random=randomness.capture(),
            callbacks=self._others.take(),
            inputs=self._inputs.save(0 if validating else batch),
            asked=self.params["epochs"],
            model=fit_model.facts_of(self.model),
        )

    def _state(self, batch: int, logs: Mapping[str, Any] | None = None, *, validating: bool = False) -> dict[str, Any]:
        if not self._has_said and not self.model.run_eagerly:  # operations outside of graphs have a state that is saved
            say_what_is_lost(self.manager.objects())
        self._has_said = True
        return RunState((*self._fits, self._fit_state(batch, logs, validating=validating))).to_values(STATE)

    def _save(self, state: dict[str, Any], batch: int = 0, options: tf.train.CheckpointOptions | None = None) -> None:
        epoch = self._now.epoch
        self.manager.save(self._step, False, options, metrics=self._metrics, epoch=epoch, batch=batch, state=state)


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Return the logs that are numbers, as floats."""
    numbers = {}
    for name, value in logs.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers
