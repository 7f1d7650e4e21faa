"""The training and the validation data of one ``fit``: where they are, and how they come back there.

    inputs = FitInputs(epochs, input_state="auto", limit=DEFAULT_LIMIT, before_epoch=..., before_step=...)
    inputs.move_to(saved, batch=120)
    saved = inputs.save(batch=0)

What Keras goes over in ``fit`` is another object in each Keras; see :mod:`ckptkit.input_hooks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from ckptkit.errors import CheckpointMismatchError
from ckptkit.input_hooks import InputHooks, dataset_of, facts_of, replay_epochs, sequence_of
from ckptkit.input_position import InputPosition
from ckptkit.which_keras import keras

__all__ = ["FitInputs"]


class FitInputs:
    """What a ``fit`` trains and validates on.

    Args:
        epochs: Keras' epoch iterator.
        validation: What ``fit`` is to validate on; it makes that an epoch iterator when it comes to it.
        model: What is trained.
        callbacks: The list of this ``fit``.
        input_state: ``"auto"``, ``"iterator"``, ``"replay"`` or ``"restart"``.
        limit: Most bytes that the state of an iterator may take.
        before_epoch: Called when the loop over an epoch's batches begins.
        before_step: Called between two steps of an epoch; see :class:`InputHooks`.
        verbose: As of :class:`InputPosition`.
    """

    def __init__(
        self,
        epochs: Any,
        validation: Any = None,
        *,
        model: keras.Model,
        callbacks: keras.callbacks.CallbackList,
        input_state: str,
        limit: int,
        before_epoch: Callable[[], None],
        before_step: Callable[[int, Callable[[], Mapping[str, Any]]], None],
        verbose: int = 1,
    ) -> None:
        self._options: dict[str, Any] = {"input_state": input_state, "limit": limit, "verbose": verbose}
        self._epochs = epochs
        self._train = _position(epochs, "training data", **self._options)
        self._validate_on = validation
        self._validation: InputPosition | None = None
        self._saved_validation: Mapping[str, Any] | None = None
        self._hooks = InputHooks(epochs, self._train, before_epoch, before_step, model=model, callbacks=callbacks)
        self._said = False

    @property
    def batches_done(self) -> int:
        """Batches of the newest epoch that are done, at its end."""
        return self._hooks.batches_done

    def save(self, batch: int) -> dict[str, Any]:
        """Return where both are.

        Args:
            batch: Batches done in the epoch that is under way; 0 between two epochs.
        """
        train = _saved(self._train, goes_on=batch > 0 or self._hooks.goes_on)
        lengths = {"per_epoch": self._hooks.batches_per_epoch, "counted": self._hooks.batches_counted}
        places: dict[str, Any] = {"train": {**train, **lengths}}
        if not self._said and self._train.way is not None:
            self._train.say()
            self._said = True
        if self._validation is not None:
            places["validation"] = _saved(self._validation, goes_on=False)
        elif self._saved_validation is not None:
            places["validation"] = self._saved_validation
        return places

    def guarantees(self, saved: Mapping[str, Any]) -> list[str]:
        """Say how each of both comes back to where it was saved, and how exactly."""
        told = []
        if "train" in saved:
            told.append(self._train.guarantee(saved["train"], saved["train"]["state"]))
        if "validation" in saved and self._validate_on is not None:
            validation = InputPosition(
                self._validate_on, input_state=self._options["input_state"], name="validation data"
            )
            told.append(validation.guarantee(saved["validation"], saved["validation"]["state"]))
        return told

    def random_outside(self, random: Mapping[str, Any]) -> dict[str, Any]:
        """Return the states of the global generators but for those that the data, where they are now, draw from."""
        return self._train.without_its_own(random)

    def compare(self, saved: Mapping[str, Any], *, batch: int) -> None:
        """Refuse what :meth:`move_to` could not do.

        Raises:
            CheckpointMismatchError: The place is not there in this data.
        """
        if "train" in saved:
            self._compare(saved["train"], batch)
            self._train.compare(saved["train"], saved["train"]["state"])

    def begin_at(self, epoch: int | None) -> None:
        """Let ``fit`` begin with an epoch; None lets it begin where it was told to."""
        self._hooks.begin_at(epoch)

    def move_to(
        self,
        saved: Mapping[str, Any],
        *,
        batch: int,
        is_all: bool = False,
        logs: Mapping[str, Any] | None = None,
    ) -> None:
        """Let the next epoch begin where :meth:`save` was called.

        Args:
            saved: What it returned.
            batch: Batches done in the epoch.
            is_all: Whether these are all of them. The place is then the one of the epoch after.
            logs: What the last of them returned.
        """
        place = saved.get("train")
        if place is None:
            return
        if self._train.is_like(place):
            self._hooks.count(place["counted"])
        self._train.move_to(place, place["state"])
        self._hooks.skip(batch, is_all=is_all, logs=logs)
        replay_epochs(sequence_of(self._epochs), _gone_over(place), is_under_way=is_all)
        self._saved_validation = saved.get("validation")
        if self._saved_validation is not None and self._is_shared:
            self._train.carry(self._past_validation, self._saved_validation, self._saved_validation["state"])

    def leave_behind(self, saved: Mapping[str, Any]) -> None:
        """Leave the data as a fit left them that had come to this place and is over."""
        if "train" in saved:
            replay_epochs(sequence_of(self._epochs), _gone_over(saved["train"]))
            self._train.leave_behind(saved["train"])
        if "validation" in saved:
            replay_epochs(self._validate_on, _gone_over(saved["validation"]), validates=True)
            if isinstance(self._validate_on, tf.data.Dataset):
                self._past_validation.leave_behind(saved["validation"])

    def begin_validation(self, epochs: Any, before_step: Callable[[], None]) -> None:
        """Get into the loop over the validation data, as soon as Keras has made it.

        Args:
            epochs: Keras' epoch iterator of this validation.
            before_step: Called between two steps of any validation.
        """
        if epochs is None or self._validation is not None:
            return
        self._validation = _position(epochs, "validation data", **self._options)
        InputHooks(epochs, self._validation, before_step=lambda batch, logs: before_step())
        if self._saved_validation is not None:
            saved = self._saved_validation
            self._validation.move_to(saved, saved["state"], is_caught_up=self._is_shared)
            replay_epochs(sequence_of(epochs), _gone_over(saved), validates=True)

    @property
    def _past_validation(self) -> InputPosition:
        return InputPosition(self._validate_on, name="validation data")

    @property
    def _is_shared(self) -> bool:
        return isinstance(self._validate_on, tf.data.Dataset) and self._train.shares_a_shuffle(self._past_validation)

    def _compare(self, place: Mapping[str, Any], batch: int) -> None:
        before, now, per_call = place["per_epoch"], self._hooks.batches_per_epoch, self._hooks.steps_per_call
        if self._options["input_state"] == "restart" or not batch:
            return
        if now is not None and before is not None and now != before:
            raise CheckpointMismatchError(
                f"the checkpoint was saved at batch {batch} of an epoch of {before} batches, and the data has {now} "
                "batches an epoch now.\nResume with the data and the batch size it was saved with, or pass "
                'input_state="restart" to train the rest of the epoch on its first batches.'
            )
        if batch % per_call and batch != now:
            raise CheckpointMismatchError(
                f"the checkpoint was saved at batch {batch} of an epoch, which steps_per_execution={per_call} steps "
                "over.\nCompile the model with the steps_per_execution it was saved with."
            )


def _position(epochs: Any, name: str, *, input_state: str, limit: int, verbose: int) -> InputPosition:
    """Return the position in what Keras goes over, which knows more of it than its dataset tells."""
    facts = facts_of(epochs)
    return InputPosition(
        dataset_of(epochs),
        input_state=input_state,
        limit=limit,
        one_stream=facts.one_stream,
        exact=facts.exact,
        obstacle=facts.obstacle,
        name=name,
        verbose=verbose,
    )


def _saved(position: InputPosition, *, goes_on: bool) -> dict[str, Any]:
    place, state = position.save(goes_on=goes_on)
    return {**place, "state": state}


def _gone_over(place: Mapping[str, Any]) -> int:
    """Return how many times the data were gone over; Keras makes more iterators than it uses."""
    return sum(drawn > 0 for drawn in place["before"])
