"""What a ``tf.data`` pipeline is made of, as far as coming back to a place in it depends on it.

    pipeline = Pipeline(dataset)
    pipeline.obstacle()                  # None, or why an iterator's own state would not bring the same batches
    pipeline.advance([10, 0, 10, 0])     # as if four iterators had been made, and ten batches drawn from two of them

All that outlives one iterator of a ``tf.data`` pipeline is how many seeds each of its shuffles has drawn: one for every
iterator that is made of the shuffle. So the shuffles are brought to where they were by making iterators of the shuffles
themselves, which reads no data. Everything else begins anew with each iterator, random operations in ``map`` included.

Source: seen on TensorFlow 2.21; tests/test_pipeline.py fails if it is not so any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ckptkit.snapshot import inputs_of, stateful_operation

__all__ = ["Pipeline"]

# What TensorFlow spends on each place in a shuffle's buffer, however small the element, when it writes the state down:
# 150 bytes and 4 to 8 microseconds. Counted as bytes, to keep one limit for both.
_BYTES_PER_PLACE = 1000


@dataclass(frozen=True)
class _Shuffle:
    """A dataset that draws a seed for every iterator that is made of it.

    Attributes:
        dataset: The shuffle.
        lazy: Whether its iterator is made when the first batch is drawn, as below another shuffle.
        passes: Iterators that are made of it while one iterator of the whole pipeline is gone over to its end.
        late: Whether it is reached somewhere on the way only, as in the second part of ``concatenate``.
    """

    dataset: tf.data.Dataset
    lazy: bool
    passes: float
    late: bool

    def seeds(self, iterators: Sequence[int]) -> int:
        """Return how many seeds it draws for iterators with so many batches drawn from each."""
        used = sum(drawn > 0 for drawn in iterators)
        unused = 0 if self.lazy or self.late else len(iterators) - used
        return unused + used * int(self.passes)

    @property
    def is_counted(self) -> bool:
        return math.isfinite(self.passes)


class Pipeline:
    """The shuffles of a dataset, and what else decides how to come back to a place in it.

    Attributes:
        shuffles: How many there are.
        is_seeded: Whether all of them have a seed.
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._dataset = dataset
        self._shuffles: list[_Shuffle] = []
        self._buffered = 0
        self.shuffles = 0
        self.is_seeded = True
        self._follow(dataset, lazy=False, passes=1, late=False, frozen=False)

    @property
    def is_counted(self) -> bool:
        """Whether :meth:`advance` can tell the seeds from the number of iterators alone."""
        return all(shuffle.is_counted for shuffle in self._shuffles)

    @property
    def goes_over_once(self) -> bool:
        """Whether one iterator of the pipeline makes one of each shuffle."""
        return all(shuffle.passes == 1 for shuffle in self._shuffles)

    def obstacle(self, limit: int) -> str | None:
        """Return why an iterator's own state does not do, None if it does.

        Args:
            limit: Most bytes that the state may take.
        """
        policy = self._dataset.options().experimental_external_state_policy
        if policy in (tf.data.experimental.ExternalStatePolicy.IGNORE, tf.data.experimental.ExternalStatePolicy.WARN):
            operation = stateful_operation(self._dataset)
            if operation is not None:
                return operation
        for shuffle in self._shuffles:
            if shuffle.late:
                return "a shuffle in the second part of concatenate()"
        if self._buffered > limit:
            return f"the shuffle buffers hold up to {self._buffered / 2**20:,.0f} MiB, over the limit"
        return None

    def advance(self, iterators: Sequence[int]) -> None:
        """Let every shuffle draw the seeds that it drew for iterators with so many batches drawn from each."""
        for shuffle in self._shuffles:
            for _ in range(shuffle.seeds(iterators)):
                iter(shuffle.dataset)

    def catch_up(self) -> None:
        """Let the shuffles that are made with the first batch draw their seed, as they have if a batch was drawn.

        They may have come to their end long before the pipeline has, and are in no iterator's state then.
        """
        for shuffle in self._shuffles:
            if shuffle.lazy:
                iter(shuffle.dataset)

    def _follow(self, dataset: Any, *, lazy: bool, passes: float, late: bool, frozen: bool) -> None:
        kind = type(dataset).__name__.lstrip("_")
        self.shuffles += kind == "ShuffleDataset"
        if kind == "ShuffleDataset":
            self.is_seeded = self.is_seeded and not _is_zero(dataset._seed, dataset._seed2)
            self._buffered += int(dataset._buffer_size) * (_bytes_per_element(dataset) + _BYTES_PER_PLACE)
            if dataset._reshuffle_each_iteration is not False and not frozen:
                self._shuffles.append(_Shuffle(dataset, lazy, passes, late))
            lazy = True
        elif kind == "RandomDataset":
            self.is_seeded = self.is_seeded and not _is_zero(dataset._seed, dataset._seed2)
            if dataset._rerandomize and not frozen:
                self._shuffles.append(_Shuffle(dataset, lazy, passes, late))
        elif kind == "RepeatDataset":
            count = int(dataset._count)
            passes *= math.inf if count < 0 else count
        elif kind == "CacheDataset":
            frozen = True  # gone over once; from then on the order is the one that was kept
        for position, source in enumerate(inputs_of(dataset)):
            is_late = late or (kind == "ConcatenateDataset" and position > 0)
            self._follow(source, lazy=lazy, passes=passes, late=is_late, frozen=frozen)


def _is_zero(*seeds: Any) -> bool:
    return all(int(seed) == 0 for seed in seeds)


def _bytes_per_element(dataset: tf.data.Dataset) -> int:
    return sum(_bytes(spec) for spec in _flat(dataset.element_spec))


def _flat(spec: Any) -> Iterator[Any]:
    yield from tf.nest.flatten(spec)


def _bytes(spec: Any) -> int:
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
        return 0
    return int(math.prod(size or 1 for size in spec.shape) * spec.dtype.size)
