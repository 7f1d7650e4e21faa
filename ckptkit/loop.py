"""Checkpoints in a GradientTape loop: an iterator over steps and batches that saves, and resumes where it was.

loop = ckptkit.TrainingLoop(manager, dataset, epochs=3)
for step, batch in loop:
    train_step(batch)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from ckptkit.errors import CheckpointMismatchError, CheckpointNotFoundError
from ckptkit.manager import CheckpointManager
from ckptkit.records import CheckpointRecord
from ckptkit.snapshot import pick_up_iterator, put_down_iterator

__all__ = ["TrainingLoop"]

_log = logging.getLogger("ckptkit")
_POSITION = "loop"
_ITERATOR = "iterator"


class TrainingLoop:
    """Go over a dataset for some epochs, saving between steps and resuming from the newest checkpoint.

    Iterating restores the newest checkpoint of the manager's directory first, if there is one, and goes on with the
    batch after the last one that was trained before it was saved. Iterating again when all is done does nothing.

    Saves are numbered by step and taken by the manager's ``save_policy``; without one, at the end of every epoch. A
    last save is taken when the loop ends. Leaving it early with ``break`` takes none.

    Args:
        manager: Saves and restores; its checkpoint holds model, optimizer and whatever else the loop needs.
        dataset: A ``tf.data.Dataset``, or any iterable that yields the same batches every time it is gone over.
        epochs: Times to go over it, counted from the very start of the run.
        steps_per_epoch: Batches an epoch, for a dataset without an end; it then is one stream over all epochs.

    Attributes:
        step: Steps done since the start of the run.
        epoch: Epochs done.
        batch: Batches done in the epoch under way.
        resumed_from: Record of the checkpoint that was restored, or None.
        input_state: How the position in the data is kept: ``"iterator"``, with the iterator's own state, or
            ``"replay"``, by drawing and dropping the batches that were done. None before it is known.

    Yields:
        ``(step, batch)``, where ``step`` counts from 0 over all epochs: the number of steps done before this one.

    Example:
        >>> for step, (x, y) in ckptkit.TrainingLoop(manager, dataset, epochs=3):
        ...     train_step(x, y)
    """

    def __init__(
        self,
        manager: CheckpointManager,
        dataset: Iterable[Any],
        *,
        epochs: int,
        steps_per_epoch: int | None = None,
    ) -> None:
        if not isinstance(manager, CheckpointManager):
            raise TypeError(f"manager must be a ckptkit.CheckpointManager, got {type(manager).__name__}.")
        if isinstance(dataset, Iterator):
            raise TypeError(
                f"dataset must be something that can be gone over more than once, got the iterator {dataset!r}.\n"
                "A resumed run begins at the start of its data: pass the dataset itself."
            )
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if not (value is None and name == "steps_per_epoch") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        self.manager = manager
        self.step = self.epoch = self.batch = 0
        self.resumed_from: CheckpointRecord | None = None
        self.input_state: str | None = None
        self._dataset = dataset
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._iterator: Iterator[Any] = iter(())
        self._saved_step = -1
        self._metrics: dict[str, float] = {}

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say what was measured at this step: a save that is taken right after it carries these numbers."""
        self._metrics = {name: float(value) for name, value in metrics.items()}

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        self._restore()
        while self.epoch < self._epochs:
            yield from self._one_epoch()
        if self.step != self._saved_step:
            self._save(self._state())
        self.manager.wait_until_finished()

    def _one_epoch(self) -> Iterator[tuple[int, Any]]:
        batch = self._next()
        due = False
        while batch is not _END:
            yield self.step, batch
            self.step += 1
            self.batch += 1
            due = self.manager.save_policy is not None and self.manager.is_due(
                self.step, epoch=self.epoch, metrics=self._metrics
            )
            # Before the next batch is drawn: the position that is saved must be the one the variables have seen.
            state = self._state() if due else {}
            batch = self._next()
            if batch is not _END:
                if due:
                    self._save(state)
                self._metrics = {}
        self._end_epoch(due)

    def _end_epoch(self, due: bool) -> None:
        if self.batch == 0:
            raise ValueError(f"no batch in epoch {self.epoch}: the dataset is empty, or has come to its end.")
        self.epoch, self.batch = self.epoch + 1, 0
        if self._steps_per_epoch is None:  # else it is one stream over all epochs
            # Before the save: a spent iterator has drawn a shuffle seed more than its epoch needed, a fresh one tells
            # exactly where the next epoch begins.
            self._iterator = iter(self._dataset)
        if self.manager.is_due(self.step, epoch=self.epoch, metrics=self._metrics) or due:
            self._save(self._state())
        self._metrics = {}

    def _next(self) -> Any:
        if self.batch == self._steps_per_epoch:
            return _END
        return next(self._iterator, _END)

    # The run's position in its data ----------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        position = {"step": self.step, "epoch": self.epoch, "batch": self.batch}
        iterator = self._picked_up()
        self.input_state = "replay" if iterator is None else "iterator"
        return {_POSITION: json.dumps(position), **({} if iterator is None else {_ITERATOR: iterator})}

    def _picked_up(self) -> tf.Tensor | None:
        reason = f"a {type(self._iterator).__name__} has no state that can be saved"
        if self.input_state != "replay" and isinstance(self._iterator, tf.data.Iterator):
            try:
                return pick_up_iterator(self._iterator)
            except (tf.errors.OpError, NotImplementedError) as error:
                reason = str(error).split("\n")[0]
        if self.input_state is None:
            _log.info("the position in the data is kept by counting; a resume draws and drops batches (%s).", reason)
        return None

    def _save(self, state: dict[str, Any]) -> None:
        self.manager.save(self.step, False, metrics=self._metrics, epoch=self.epoch, batch=self.batch, state=state)
        self._saved_step = self.step

    def _restore(self) -> None:
        try:
            record = self.manager.restore()
        except CheckpointNotFoundError:
            self._iterator = iter(self._dataset)
            return
        state = self.manager.state(record)
        if _POSITION not in state:
            raise CheckpointMismatchError(
                f"{record.prefix} was not saved by a TrainingLoop: it does not say where in the data the run was.\n"
                "Restore it with manager.restore() and save to another directory, which then begins at epoch 0."
            )
        position = json.loads(state[_POSITION].numpy())
        self.resumed_from = record
        self.step, self.epoch, self.batch = position["step"], position["epoch"], position["batch"]
        self._saved_step = self.step
        self._move_to(state.get(_ITERATOR))
        _log.info("resuming from %s: step %d, epoch %d, batch %d.", record.prefix, self.step, self.epoch, self.batch)

    def _move_to(self, state: tf.Tensor | None) -> None:
        self._iterator = iter(self._dataset)
        self.input_state = "replay" if state is None else "iterator"
        if state is None:
            self._replay()
        elif isinstance(self._iterator, tf.data.Iterator):
            put_down_iterator(self._iterator, state)
        else:
            raise CheckpointMismatchError(
                "the checkpoint holds the position of a tf.data iterator, "
                f"and the dataset is a {type(self._dataset).__name__} now.\nResume with the dataset it was saved with."
            )

    def _replay(self) -> None:
        drop = self.step
        if self._steps_per_epoch is None:
            drop = self.batch
            for _ in range(self.epoch):  # each time a dataset is gone over its shuffles draw new seeds
                next(self._iterator, None)
                self._iterator = iter(self._dataset)
        for _ in range(drop):
            next(self._iterator, None)


_END = object()
