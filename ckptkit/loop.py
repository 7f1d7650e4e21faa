"""Checkpoints in a GradientTape loop: an iterator over steps and batches that saves, and resumes where it was.

loop = ckptkit.TrainingLoop(manager, dataset, epochs=3)
for step, batch in loop:
    train_step(batch)
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ckptkit import randomness
from ckptkit.errors import CheckpointMismatchError, CheckpointNotFoundError
from ckptkit.input_position import InputPosition, shared_out_anew
from ckptkit.leaving import Departure
from ckptkit.manager import CheckpointManager
from ckptkit.options import DEFAULT_LIMIT, TrainingCheckpointOptions
from ckptkit.preemption import PreemptionWatch
from ckptkit.readable import count_text, line, table
from ckptkit.records import CheckpointRecord
from ckptkit.resuming import parts_of, resume_line
from ckptkit.run_state import pack, unpack
from ckptkit.unsaved_random import say_what_is_lost

__all__ = ["TrainingLoop"]

_log = logging.getLogger("ckptkit")
_STATE = "loop"


class TrainingLoop:
    """Go over a dataset for some epochs, save between steps, resume from the newest checkpoint.

    Iterating restores the newest checkpoint of the manager's directory first, if there is one, and goes on with the
    batch after the last one that was trained before it was saved; random numbers go on as well. A loop that was broken
    off ends with the same bits as one that was not, if seeds are set. Iterating again when all is done does nothing.

    Saves are numbered by step and taken by the manager's ``save_policy``; without one, at the end of every epoch. A
    last save is taken when the loop ends. Leaving it early with ``break`` takes none: iterating again goes back to the
    newest checkpoint, and is an error if there is none.

    A signal, by default SIGTERM, makes the loop save when the body has done its step, wait until that is durable, and
    leave with ``ckptkit.Preempted``, which ends a script that does not catch it.

    Args:
        manager: Saves and restores; its checkpoint holds model, optimizer and whatever else the loop needs.
        dataset: A ``tf.data.Dataset``, or any iterable that yields the same batches every time it is gone over.
        epochs: Times to go over it, counted from the very start of the run.
        steps_per_epoch: Batches an epoch, for a dataset without an end; it then is one stream over all epochs.
        validation: A second dataset, gone over by :meth:`validation`. Give it if it is shuffled.
        input_state: How the place in the dataset is kept: ``"iterator"`` saves the state of its iterator, and a resume
            takes the same time wherever it was; ``"replay"`` draws and drops the batches before it; ``"restart"`` goes
            on with the first batches. ``"auto"`` takes the best that is exact; the first save logs which one it is.
        max_input_state_bytes: Most bytes that an iterator's state, shuffle buffers included, may take in a checkpoint.
        final_save: Whether a last save is taken when the loop ends.
        save_on_preemption: Whether a signal makes the loop save and leave.
        preemption_signals: Which signals; see :class:`TrainingCheckpoint`.
        grace_secs: How long after the signal the process is left alone; a save that takes longer is given up, and the
            checkpoint before it stands. None for as long as it takes.
        preemption_code: Exit code of the script then.

    Attributes:
        step: Steps done since the start of the run.
        epoch: Epochs done.
        batch: Batches done in the epoch under way.
        resumed_from: Record of the checkpoint that was restored, or None.

    Yields:
        ``(step, batch)``, where ``step`` counts from 0 over all epochs: the number of steps done before this one.

    Example:
        >>> loop = ckptkit.TrainingLoop(manager, dataset, epochs=3)
        >>> for step, (x, y) in loop:
        ...     loss = train_step(x, y)
        >>> loop
        <TrainingLoop runs/digits: step 12, 3 of 3 epochs>
        >>> manager.latest_checkpoint
        'runs/digits/ckpt-12'
    """

    def __init__(
        self,
        manager: CheckpointManager,
        dataset: Iterable[Any],
        *,
        epochs: int,
        steps_per_epoch: int | None = None,
        validation: Iterable[Any] | None = None,
        input_state: str = "auto",
        max_input_state_bytes: int = DEFAULT_LIMIT,
        final_save: bool = True,
        save_on_preemption: bool = True,
        preemption_signals: Sequence[str | signal.Signals] = ("SIGTERM",),
        grace_secs: float | None = None,
        preemption_code: int = 143,
    ) -> None:
        if not isinstance(manager, CheckpointManager):
            raise TypeError(f"manager must be a ckptkit.CheckpointManager, got {type(manager).__name__}.")
        for each in (dataset, validation):
            if isinstance(each, Iterator):
                raise TypeError(
                    f"dataset must be something that can be gone over more than once, got the iterator {each!r}.\n"
                    "A resumed run begins at the start of its data: pass the dataset itself."
                )
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if not (value is None and name == "steps_per_epoch") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        options: dict[str, Any] = {
            "input_state": input_state,
            "max_input_state_bytes": max_input_state_bytes,
            "final_save": final_save,
            "save_on_preemption": save_on_preemption,
            "preemption_signals": preemption_signals,
            "grace_secs": grace_secs,
            "preemption_code": preemption_code,
        }
        rules = TrainingCheckpointOptions.rules()
        options = {name: rules[name].take(name, value) for name, value in options.items()}
        self.manager = manager
        self.step = self.epoch = self.batch = 0
        self.resumed_from: CheckpointRecord | None = None
        self._input = InputPosition(
            dataset, input_state=input_state, limit=max_input_state_bytes, verbose=manager.verbose
        )
        self._validation = None
        if validation is not None:
            self._validation = InputPosition(validation, name="validation data", verbose=manager.verbose)
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._iterator: Iterator[Any] | None = None
        self._final_save = final_save
        self._is_watched = save_on_preemption
        self._watch = PreemptionWatch(
            options["preemption_signals"], grace_secs=options["grace_secs"], code=options["preemption_code"]
        )
        self._departure = Departure(self._watch)
        self._said = False
        self._metrics: dict[str, float] = {}

    @property
    def input_state(self) -> str | None:
        """How the place in the dataset is kept; None before it is known."""
        return self._input.way

    def validation(self) -> Iterator[Any]:
        """Go over the second dataset; what it has shuffled goes on after a resume.

        A signal that tells the run to end lets it come to its end first: nobody knows how much of its step the body
        has done. Only when ``grace_secs`` are over is it left between two batches, and nothing saved.

        Raises:
            ValueError: There is none.
            Preempted: The time of grace is over.
        """
        if self._validation is None:
            raise ValueError("this loop has no second dataset: pass it as TrainingLoop(..., validation=dataset).")
        for batch in self._validation:
            if self._watch.secs_left == 0:
                self._departure.leave(self.step)
            self._validation.drew(1)
            yield batch

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say what was measured at this step: a save that is taken right after it carries these numbers.

        Args:
            metrics: Scalars by name; tensors are taken as well.
        """
        self._metrics = {name: float(value) for name, value in metrics.items()}

    def __repr__(self) -> str:
        return object.__repr__(self) if "_metrics" not in vars(self) else line(*self._told())

    def _repr_html_(self) -> str | None:
        if "_metrics" not in vars(self):  # an argument was refused; tracebacks with values show the object all the same
            return None
        kind, directory, facts = self._told()
        return table(f"{kind} {directory}", [(fact,) for fact in facts])

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self._is_watched:
            self._watch.begin(lambda frame: True)
        try:
            self._restore()
            self._departure.prepare(self.manager, self.step, is_watched=self._is_watched)
            self.manager.begin_history()
            if self.step == (self.manager.saved_step or 0):
                self._heed()  # else there is a step to be done first
            while self.epoch < self._epochs:
                yield from self._one_epoch()
            self.manager.wait_until_finished()
            if self._final_save and self.step != self.manager.saved_step:  # that of the last epoch may have failed
                self._save(self._state())
                self.manager.wait_until_finished()
            self._heed(self._state, is_end=True)
            self.manager.end_history()
        finally:
            self._watch.end()
            self._departure.end()

    def _told(self) -> tuple[str, str, list[str]]:
        """Return what this is called, its directory, and where it stands."""
        facts = [f"step {self.step}", f"{self.epoch} of {count_text(self._epochs, 'epoch')}"]
        facts += [count_text(self.batch, "batch", "batches")] if self.batch else []
        facts += [f"resumed from {self.resumed_from.name}"] if self.resumed_from is not None else []
        return "TrainingLoop", self.manager.directory, facts

    def _one_epoch(self) -> Iterator[tuple[int, Any]]:
        if self._iterator is None:
            self._iterator = iter(self._input)
        batch = self._next()
        due = False
        while batch is not _END:
            self._metrics = {}
            yield self.step, batch
            self.step += 1
            self.batch += 1
            due = self.manager.save_policy is not None and self.manager.is_due(
                self.step, epoch=self.epoch, metrics=self._metrics
            )
            is_told = self._departure.is_told(self.step)
            # Before the next batch is drawn: the position that is saved must be the one the variables have seen.
            state = self._state() if due or is_told else {}
            batch = self._next()
            if batch is not _END and is_told:
                self._heed(lambda: state)  # noqa: B023  it is called at once
            if batch is not _END and due:
                self._save(state)
        self._end_epoch(due)

    def _end_epoch(self, due: bool) -> None:
        if self.batch == 0:
            raise ValueError(f"no batch in epoch {self.epoch}: the dataset is empty, or has come to its end.")
        self.epoch, self.batch = self.epoch + 1, 0
        if self._steps_per_epoch is None:  # else it is one stream over all epochs
            self._iterator = None
        self._heed(self._state)
        if self._metrics:
            self.manager.note("measured", step=self.step, epoch=self.epoch, metrics=self._metrics)
        if self.manager.is_due(self.step, epoch=self.epoch, metrics=self._metrics) or due:
            self._save(self._state())
        if self._metrics:
            self.manager.require_monitors(self._metrics, self.epoch)

    def _next(self) -> Any:
        if self.batch == self._steps_per_epoch:
            return _END
        assert self._iterator is not None
        self._input.drew(1)
        return next(self._iterator, _END)

    # The run's position in its data ----------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "batch": self.batch}
        state["input"] = self._input.save(goes_on=self._iterator is not None)
        if self._validation is not None:
            state["validation"] = self._validation.save(goes_on=False)
        if not self._said and self._input.way is not None:
            self._input.say()
            say_what_is_lost(self.manager.objects())
            self._said = True
        return pack({**state, "random": randomness.capture()}, _STATE)

    def _save(self, state: dict[str, Any], options: tf.train.CheckpointOptions | None = None) -> None:
        self.manager.save(
            self.step, False, options, metrics=self._metrics, epoch=self.epoch, batch=self.batch, state=state
        )

    def _heed(self, state: Callable[[], dict[str, Any]] | None = None, *, is_end: bool = False) -> None:
        """Save and leave, if that was asked for, and if all workers can; without a state nothing is saved."""
        save = None if state is None else lambda options: self._save(state(), options)
        self._departure.heed(self.step, save, is_end=is_end)

    def _restore(self) -> None:
        states = []

        def before(record: CheckpointRecord, values: Mapping[str, Any]) -> None:
            if _STATE not in values:
                raise CheckpointMismatchError(
                    f"{record.prefix} was not saved by a TrainingLoop: it does not say where in the data the run was.\n"
                    "Restore it with manager.restore() and save to another directory, which then begins at epoch 0."
                )
            state = unpack(values, _STATE)
            if record.workers != self.manager.workers:
                state = _shared_out_anew(state, is_new=self.manager.worker >= record.workers)
            if state["epoch"] < self._epochs:
                self._input.compare(*state["input"])
            states.append(state)

        try:
            record = self.manager.restore(before=before)
        except CheckpointNotFoundError as error:
            if self.step:
                raise CheckpointNotFoundError(
                    f"this loop was left at step {self.step} before anything was saved to {self.manager.directory}: "
                    "there is nothing to go on from.\nMake model and loop anew, or save before it is left."
                ) from error
            return
        state = states[-1]
        self.resumed_from = record
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self._iterator = None
        if self.epoch < self._epochs:
            randomness.reinstate(state.get("random", {}))
            self._input.move_to(*state["input"])
            if self._validation is not None and "validation" in state:
                shared = self._input.shares_a_shuffle(self._validation)
                if shared:
                    self._input.carry(self._validation, *state["validation"])
                self._validation.move_to(*state["validation"], is_caught_up=shared)
        if self.manager.verbose:
            _log.info("%s", self._resume_line(record, state))

    def _resume_line(self, record: CheckpointRecord, state: Mapping[str, Any]) -> str:
        restored = parts_of(self.manager.checkpoint)
        inputs = []
        if self.epoch < self._epochs:
            restored += ["random numbers"] if "random" in state else []
            inputs.append(self._input.guarantee(*state["input"]))
            if self._validation is not None and "validation" in state:
                inputs.append(self._validation.guarantee(*state["validation"]))
        return resume_line(record, time.time(), epoch=self.epoch, batch=self.batch, restored=restored, inputs=inputs)


def _shared_out_anew(state: Mapping[str, Any], *, is_new: bool) -> dict[str, Any]:
    """Return the state for another number of workers; a new one has drawn no random numbers yet."""
    places = {name: (shared_out_anew(state[name][0]), ()) for name in ("input", "validation") if name in state}
    return {name: value for name, value in state.items() if name != "random" or not is_new} | places


_END = object()
