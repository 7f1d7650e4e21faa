"""How ckptkit gets into the loop over the batches in ``fit`` of Keras 3; for Keras 2 see :mod:`ckptkit.input_hooks2`.

Keras goes over ``epoch_iterator``, which it makes before ``on_train_begin``, once an epoch, and asks it for the next
step when every callback has seen the one before. Standing there, and not in front of the train function, skipping
costs nothing: Keras begins the epoch at the later batch, and no callback sees a batch that is not trained.

Source: keras/src/trainers/epoch_iterator.py and keras/src/trainers/data_adapters of Keras 3.15; tests/test_fit.py fails
if they work differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ckptkit.fit_frame import last_logs
from ckptkit.input_facts import InputFacts
from ckptkit.input_position import InputPosition
from ckptkit.which_keras import keras

__all__ = ["InputHooks", "dataset_of", "facts_of", "replay_epochs", "sequence_of"]


class InputHooks:
    """Gets into the loop over the batches, of training or of validation.

    Args:
        epochs: Keras' epoch iterator.
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
        self._epochs = epochs
        self._position = position
        self._before_epoch = before_epoch
        self._before_step = before_step
        self._model = model
        self._skip = 0
        self._is_all_done = False  # in the epoch that comes next
        self._begun = (0, 0)  # batches with and without the last step
        epochs._get_iterator = lambda: position
        epochs._enumerate_iterator = self._steps

    def begin_at(self, epoch: int | None) -> None:
        """Let ``fit`` begin with an epoch; None lets it begin where it was told to.

        It must not outlive this fit, or the next one of the same model starts late.
        """
        assert self._model is not None
        self._model._initial_epoch = epoch

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
            logs: What the last of them returned; Keras 3 does without.
        """
        self._skip, self._is_all_done = batches, is_all

    @property
    def batches_done(self) -> int:
        """Batches of the newest epoch that are done, at its end."""
        begun, done = self._begun
        if begun == done:
            return done  # all were, before a resume
        batches = self._epochs.num_batches
        if self._epochs._current_iterator is None and batches is not None:
            return done  # the data had run out when the last step was begun
        return begun if batches is None else min(begun, int(batches))

    @property
    def goes_on(self) -> bool:
        """Whether the next epoch goes on with the iterator that is there now."""
        return self._epochs.steps_per_epoch is not None and self._epochs._current_iterator is not None

    @property
    def steps_per_call(self) -> int:
        """Steps that one call of the train function takes."""
        return int(self._epochs.steps_per_execution)

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches of an epoch, None as long as nobody knows."""
        return self._epochs.num_batches  # type: ignore[no-any-return]

    @property
    def batches_counted(self) -> int | None:
        """Batches of the data, if they were known at the start or are counted."""
        return self._epochs._num_batches  # type: ignore[no-any-return]

    def count(self, batches: int | None) -> None:
        """Take it for known how many batches the data has, if it is not; Keras counts them in the first epoch."""
        if self._epochs._num_batches is None:
            self._epochs._num_batches = batches

    def _begin(self) -> None:
        self._before_epoch()
        if not self._is_all_done:
            if not self.goes_on:
                self._position.prepare()
        elif self._position.is_under_way:  # one stream over all epochs
            self._epochs._current_iterator = iter(self._position)
            self._epochs._steps_seen = self._position.drawn
        else:
            self._position.catch_up()  # to the end of the epoch, as far as a validation may see it

    def _steps(self) -> Iterator[tuple[int, int, Any]]:
        skip, self._skip = self._skip, 0
        self._begin()
        if self._is_all_done:
            self._is_all_done, self._begun = False, (skip, skip)
            return
        first = True
        for begin, end, iterator in type(self._epochs)._enumerate_iterator(self._epochs):
            if begin < skip:
                continue
            if first and skip and self._epochs.steps_per_epoch is not None:
                # Keras has counted from this epoch's start, and the stream began in an earlier one.
                self._epochs._steps_seen += self._position.drawn - skip
            if not first and self._before_step is not None:
                self._before_step(begin, last_logs)
            first = False
            self._position.drew(self._epochs.steps_per_execution)
            self._begun = (end + 1, begin)
            yield begin, end, iterator


def dataset_of(epochs: Any) -> Iterable[Any]:
    """Return the dataset that Keras' epoch iterator goes over."""
    return epochs._get_iterator()  # type: ignore[no-any-return]


def facts_of(epochs: Any) -> InputFacts:
    """Return what Keras' epoch iterator knows of its data, beyond what the dataset tells."""
    adapter = epochs.data_adapter
    kind = type(adapter).__name__
    obstacle = None
    if kind == "PyDatasetAdapter":
        obstacle = "a PyDataset has no state that can be saved"
    if kind == "ArrayDataAdapter" and adapter._shuffle == "batch":
        obstacle = 'shuffle="batch" shuffles each batch on its own'
    return InputFacts(
        one_stream=kind == "GeneratorDataAdapter",
        exact=kind == "ArrayDataAdapter",  # its only random operation draws the whole epoch's order at once
        obstacle=obstacle,
    )


def sequence_of(epochs: Any) -> Any:
    """Return the PyDataset that the data come from, None if it is something else."""
    return getattr(epochs.data_adapter, "py_dataset", None)


def replay_epochs(sequence: Any, epochs: int, *, validates: bool = False, is_under_way: bool = False) -> None:
    """Tell a PyDataset of the epochs it has seen: many shuffle themselves at the end of each.

    Args:
        sequence: The PyDataset; anything else is passed by.
        epochs: How many.
        validates: Whether it is gone over in validations: Keras ends an epoch once more before each.
        is_under_way: Whether the validation of the last one has begun; Keras 2 ends an epoch behind that.
    """
    if not isinstance(sequence, keras.utils.PyDataset):
        return
    for _ in range(epochs):
        sequence.on_epoch_begin()
        for _ in range(1 + validates):
            sequence.on_epoch_end()
