"""How ckptkit gets into the loop over the batches in ``fit`` of Keras 2; for Keras 3 see :mod:`ckptkit.input_hooks3`.

Keras 2 goes over a ``DataHandler``: ``for epoch, iterator in handler.enumerate_epochs()``, and in each epoch
``for step in handler.steps()``. It makes the iterator before ``on_epoch_begin``, and one more before the first epoch
that it uses only where all epochs go on with it.

Source: tf_keras/src/engine/data_adapter.py and training.py of tf_keras 2.21; tests/test_input_hooks2.py fails if they
work differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ckptkit.fit_frame import last_logs
from ckptkit.input_facts import InputFacts
from ckptkit.input_position import InputPosition
from ckptkit.which_keras import keras

__all__ = ["InputHooks", "dataset_of", "facts_of", "replay_epochs", "sequence_of"]


class InputHooks:
    """Gets into the loop over the batches, of training or of validation.

    Args:
        epochs: Keras' data handler.
        position: Goes over its dataset in its place.
        before_epoch: Called when the loop over the batches begins, behind every ``on_epoch_begin``.
        before_step: Called before a step that follows another in the same epoch, with the batches done in it and a
            function that returns the logs of the last step.
        model: What is trained.
        callbacks: The list of this ``fit``.
    """

    def __init__(
        self,
        epochs: Any,
        position: InputPosition,
        before_epoch: Callable[[], None] = lambda: None,
        before_step: Callable[[int, Callable[[], Mapping[str, Any]]], None] | None = None,
        *,
        model: keras.Model | None = None,
        callbacks: keras.callbacks.CallbackList | None = None,
    ) -> None:
        self._handler = epochs
        self._position = position
        self._before_epoch = before_epoch
        self._before_step = before_step
        self._model = model
        self._callbacks = callbacks
        self._first_epoch: int | None = None
        self._skip = 0
        self._is_all_done = False  # in the epoch that comes next
        self._begun = (0, 0)  # batches with and without the last step
        self._unwanted = 0  # iterators that Keras is about to make, and that were made before the resume
        self._last_logs: dict[str, Any] | None = None
        epochs._dataset = self
        epochs.enumerate_epochs = self._epochs
        epochs.steps = self._steps

    def begin_at(self, epoch: int | None) -> None:
        """Let ``fit`` begin with an epoch; None lets it begin where it was told to."""
        self._first_epoch = epoch

    def skip(
        self,
        batches: int,
        *,
        is_all: bool = False,
        logs: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin the next epoch behind so many batches; the position is moved there as well.

        Args:
            batches: Batches done.
            is_all: Whether the next epoch has no more of them: it ends at once, and its data are not asked.
            logs: What the last of them returned. Keras 2 takes an epoch without a step for an error, so ``fit`` gets
                them once more.
        """
        self._skip, self._is_all_done = batches, is_all
        self._unwanted = (1 + is_all) * self._makes_one_an_epoch
        self._last_logs = dict(logs or {}) if batches else None

    @property
    def batches_done(self) -> int:
        """Batches of the newest epoch that are done, at its end."""
        begun, done = self._begun
        if self._handler._insufficient_data:
            return done  # the data had run out when the last step was begun
        batches = self._handler.inferred_steps
        return begun if batches is None else min(begun, int(batches))

    @property
    def goes_on(self) -> bool:
        """Whether the next epoch goes on with the iterator that is there now."""
        return not self._makes_one_an_epoch

    @property
    def steps_per_call(self) -> int:
        """Steps that one call of the train function takes."""
        return int(self._handler._steps_per_execution.numpy())

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches of an epoch, None as long as nobody knows."""
        return self._handler.inferred_steps  # type: ignore[no-any-return]

    @property
    def batches_counted(self) -> int | None:
        """Batches of the data, if they were known at the start or are counted."""
        return self._handler.inferred_steps  # type: ignore[no-any-return]

    def count(self, batches: int | None) -> None:
        """Take it for known how many batches the data has, if it is not; Keras counts them in the first epoch."""
        if self._handler._inferred_steps is None:
            self._handler._inferred_steps = batches

    def __iter__(self) -> Iterator[Any]:
        """Make an iterator, for Keras; one that was made before the resume is not made again."""
        if self._unwanted:
            self._unwanted -= 1
            return iter(())
        return iter(self._position)

    @property
    def _makes_one_an_epoch(self) -> bool:
        return bool(self._handler._adapter.should_recreate_iterator())

    def _epochs(self) -> Iterator[tuple[int, Any]]:
        first, self._first_epoch = self._first_epoch, None
        if first is not None:
            self._handler._initial_epoch = first
            if first >= self._handler._epochs:
                return  # and no iterator is made
        yield from type(self._handler).enumerate_epochs(self._handler)

    def _begin(self) -> None:
        self._before_epoch()
        if not self._is_all_done:
            self._position.begin_again()
        elif not self._position.is_begun:
            self._position.catch_up()  # to the end of the epoch, as far as a validation may see it

    def _steps(self) -> Iterator[int]:
        skip, self._skip = self._skip, 0
        is_all_done = self._is_all_done
        self._begin()
        self._is_all_done, self._begun = False, (skip, skip)
        logs, self._last_logs = self._last_logs, None
        if logs is not None:
            with self._nothing_but(logs):
                yield skip
        if is_all_done:
            return
        first = True
        self._handler._initial_step = skip
        for step in type(self._handler).steps(self._handler):
            if not first and self._before_step is not None:
                self._before_step(step, last_logs)
            first = False
            batches = self._handler.step_increment + 1
            self._position.drew(batches)
            self._begun = (step + batches, step)
            yield step

    @contextmanager
    def _nothing_but(self, logs: dict[str, Any]) -> Iterator[None]:
        """Let one step of ``fit`` return these logs, train nothing and call no callback."""
        model, callbacks = self._model, self._callbacks
        assert model is not None
        assert callbacks is not None
        train, calls = model.train_function, callbacks._should_call_train_batch_hooks

        def step(iterator: Any) -> dict[str, Any]:
            model.train_function = train
            return logs

        model.train_function = step
        callbacks._should_call_train_batch_hooks = False
        try:
            yield
        finally:
            model.train_function = train
            callbacks._should_call_train_batch_hooks = calls


def dataset_of(epochs: Any) -> Iterable[Any]:
    """Return the dataset that Keras' data handler goes over."""
    return epochs._dataset  # type: ignore[no-any-return]


def facts_of(epochs: Any) -> InputFacts:
    """Return what Keras' data handler knows of its data, beyond what the dataset tells."""
    adapter = epochs._adapter
    adapter = getattr(adapter, "_internal_adapter", adapter)  # of a list of numbers, which becomes an array
    kind = type(adapter).__name__
    obstacle = None
    if kind == "KerasSequenceAdapter":
        obstacle = "a Sequence is a Python object and has no state that can be saved"
    if kind in ("TensorLikeDataAdapter", "GenericArrayLikeDataAdapter"):
        # And if not: a state from the end of the stream has nothing behind it, however many epochs are asked for.
        obstacle = "arrays are one stream over all epochs, and the operation that shuffles them is stateful"
    return InputFacts(one_stream=kind == "GeneratorDataAdapter", obstacle=obstacle)


def sequence_of(epochs: Any) -> Any:
    """Return the Sequence that the data come from, None if it is something else."""
    return getattr(epochs._adapter, "_keras_sequence", None)


def replay_epochs(sequence: Any, epochs: int, *, validates: bool = False, is_under_way: bool = False) -> None:
    """Tell a Sequence of the epochs it has seen: many shuffle themselves at the end of each.

    Args:
        sequence: The Sequence; anything else is passed by.
        epochs: How many.
        validates: Whether it is gone over in validations; Keras 3 ends an epoch once more before each.
        is_under_way: Whether the validation of the last one has begun: Keras ends that epoch itself.
    """
    if isinstance(sequence, keras.utils.Sequence):
        for _ in range(epochs - is_under_way):
            sequence.on_epoch_end()
