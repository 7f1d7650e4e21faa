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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from ckptkit.snapshot import captures_dataset, inputs_of, stateful_operation, variables_in

__all__ = ["Pipeline"]

# What TensorFlow spends on each place in a shuffle's buffer, however small the element, when it writes the state down:
# 150 bytes and 4 to 8 microseconds. Counted as bytes, to keep one limit for both.
_BYTES_PER_PLACE = 1000


# Datasets that go over what they are made of to its end.
_WHOLE = frozenset(
    {
        *("BatchDataset", "CacheDataset", "ConcatenateDataset", "DatasetV1Adapter", "FilterDataset", "FlatMapDataset"),
        *("InterleaveDataset", "MapDataset", "OptionsDataset", "PaddedBatchDataset", "ParallelBatchDataset"),
        *("ParallelInterleaveDataset", "ParallelMapDataset", "PrefetchDataset", "RepeatDataset"),
        *("RestructuredDataset", "ScanDataset", "ShardDataset", "ShuffleDataset", "SkipDataset", "UnbatchDataset"),
    }
)


@dataclass(frozen=True)
class _Shuffle:
    """A dataset that draws a seed for every iterator that is made of it.

    Attributes:
        dataset: The shuffle.
        lazy: Whether its iterator is made when the first batch is drawn, as below another shuffle.
        passes: Iterators that are made of it while one iterator of the whole pipeline is gone over to its end; NaN
            where that cannot be told.
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


@dataclass(frozen=True)
class _Way:
    """How a dataset is reached from the end of its pipeline.

    Attributes:
        lazy, passes, late: As of a shuffle.
        cut: Whether it may be left before its end.
        frozen: Whether its order is kept by a cache.
    """

    lazy: bool = False
    passes: float = 1
    late: bool = False
    cut: bool = False
    frozen: bool = False


class Pipeline:
    """The shuffles of a dataset, and what else decides how to come back to a place in it.

    Attributes:
        shuffles: How many there are.
        is_seeded: Whether all of them have a seed.
        layout: The datasets it is made of, with what decides how many elements they take at a time, and how many there
            are to take.
        variables: What its functions use and may change; it outlives an iterator.
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._dataset = dataset
        self._shuffles: list[_Shuffle] = []
        self._buffered = 0
        self.shuffles = 0
        self.is_seeded = True
        self._captures = self._is_kept = self._has_cache = False
        self.layout: list[str] = []
        self.variables: list[tf.Variable] = []
        self._follow(dataset, _Way())

    @property
    def batches(self) -> int | None:
        """How many batches there are, -1 without an end; None if TensorFlow cannot tell."""
        count = int(self._dataset.cardinality())
        return None if count == tf.data.UNKNOWN_CARDINALITY else count

    @property
    def is_counted(self) -> bool:
        """Whether :meth:`advance` can tell the seeds from the number of iterators alone."""
        return not self._captures and all(math.isfinite(shuffle.passes) for shuffle in self._shuffles)

    @property
    def goes_over_once(self) -> bool:
        """Whether one iterator of the pipeline makes one of each shuffle."""
        return all(shuffle.passes == 1 for shuffle in self._shuffles)

    @property
    def draws_seeds(self) -> bool:
        """Whether there is a shuffle whose order is another one for each iterator."""
        return bool(self._shuffles)

    def shares(self, other: Pipeline) -> bool:
        """Say whether a shuffle of this one is one of the other's as well."""
        ours = {id(shuffle.dataset) for shuffle in self._shuffles}
        return any(id(shuffle.dataset) in ours for shuffle in other._shuffles)

    def obstacle(self, limit: int) -> str | None:
        """Return why an iterator's own state does not do, None if it does.

        Args:
            limit: Most bytes that the state may take.
        """
        if self.variables:
            return f"its functions use the variable {self.variables[0].name}, which goes on while data are read ahead"
        policy = self._dataset.options().experimental_external_state_policy
        if policy in (tf.data.experimental.ExternalStatePolicy.IGNORE, tf.data.experimental.ExternalStatePolicy.WARN):
            operation = stateful_operation(self._dataset)
            if operation is not None:
                return operation
        if self._captures:
            return "a function uses a dataset from outside"
        if self._is_kept:
            return "a cache keeps the order of a shuffle below it"
        if self._has_cache and self._shuffles:
            return "a cache beside a shuffle"
        if self._dataset.options().experimental_warm_start:
            return "experimental_warm_start makes iterators before anything is drawn"
        if any(shuffle.late for shuffle in self._shuffles):
            return "a shuffle in the second part of concatenate()"
        if len({id(shuffle.dataset) for shuffle in self._shuffles}) < len(self._shuffles):
            return "a shuffle that is used twice"
        if self._buffered > limit:
            return f"the shuffle buffers hold up to {self._buffered / 2**20:,.0f} MiB, over the limit"
        return None

    def advance(self, iterators: Sequence[int]) -> None:
        """Let every shuffle draw the seeds that it drew for iterators with so many batches drawn from each."""
        for shuffle in self._shuffles:
            for _ in range(shuffle.seeds(iterators)):
                iter(shuffle.dataset)

    def fresh_iterator(self) -> tf.data.Iterator:
        """Make an iterator whose state can be saved before anything is drawn, whatever operations there are."""
        options = tf.data.Options()
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return iter(self._dataset.with_options(options))

    def catch_up(self) -> None:
        """Let the shuffles that are made with the first batch draw their seed, as they have if a batch was drawn.

        They may have come to their end long before the pipeline has, and are in no iterator's state then.
        """
        for shuffle in self._shuffles:
            if shuffle.lazy:
                iter(shuffle.dataset)

    def _follow(self, dataset: Any, way: _Way) -> None:
        kind = type(dataset).__name__.lstrip("_")
        self._captures = self._captures or captures_dataset(dataset)
        self.variables += [v for v in variables_in(dataset) if not any(v is known for known in self.variables)]
        sources = inputs_of(dataset)
        self._enter(dataset, kind, way, is_source=not sources)
        if kind.startswith("ShuffleDataset"):
            way = replace(way, lazy=True)
        elif kind == "RepeatDataset":
            count = int(dataset._count)
            passes = way.passes * (math.inf if count < 0 else count)
            # At its end it makes an iterator more, but where TensorFlow makes one dataset of it and the shuffle below.
            is_one_more = count > 1 and not type(sources[0]).__name__.endswith("ShuffleDataset")
            way = replace(way, passes=math.nan if is_one_more or (way.cut and passes != 1) else passes)
        elif kind == "ShuffleAndRepeatDataset":
            way = replace(way, lazy=True, passes=math.nan)
        elif kind == "CacheDataset":
            self._has_cache = self._has_cache or not way.lazy
            # Gone over once; from then on the order is the one that was kept. TensorFlow throws an incomplete one away.
            way = replace(way, passes=math.nan) if way.cut else replace(way, frozen=True)
        if kind not in _WHOLE or bool(getattr(dataset, "_drop_remainder", False)):
            way = replace(way, cut=True)
        for position, source in enumerate(sources):
            late = kind == "ConcatenateDataset" and position > 0
            passes = math.nan if late and way.cut else way.passes
            self._follow(source, replace(way, late=way.late or late, passes=passes))

    def _enter(self, dataset: Any, kind: str, way: _Way, is_source: bool) -> None:
        sizes = [
            str(int(getattr(dataset, name))) for name in ("_batch_size", "_buffer_size") if _is_size(dataset, name)
        ]
        count = int(dataset.cardinality()) if is_source else tf.data.UNKNOWN_CARDINALITY
        if count != tf.data.UNKNOWN_CARDINALITY:
            sizes.append(str(count))
        self.layout.append(f"{kind}({', '.join(sizes)})" if kind != "PrefetchDataset" else kind)
        if kind in ("ShuffleDataset", "ShuffleAndRepeatDataset"):
            self.shuffles += 1
            self.is_seeded = self.is_seeded and not _is_zero(dataset._seed, dataset._seed2)
            self._buffered += max(0, int(dataset._buffer_size)) * (_bytes_per_element(dataset) + _BYTES_PER_PLACE)
            draws = getattr(dataset, "_reshuffle_each_iteration", True) is not False
        elif kind == "RandomDataset":
            self.is_seeded = self.is_seeded and not _is_zero(dataset._seed, dataset._seed2)
            draws = bool(dataset._rerandomize)
        else:
            return
        self._is_kept = self._is_kept or (draws and way.frozen)
        if draws and not way.frozen:
            passes = math.nan if kind == "ShuffleAndRepeatDataset" else way.passes
            self._shuffles.append(_Shuffle(dataset, way.lazy, passes, way.late))


def _is_zero(*seeds: Any) -> bool:
    return all(int(seed) == 0 for seed in seeds)


def _is_size(dataset: Any, name: str) -> bool:
    value: Any = getattr(dataset, name, None)
    return isinstance(value, int) or (tf.is_tensor(value) and value.shape.rank == 0)


def _bytes_per_element(dataset: tf.data.Dataset) -> int:
    return sum(_bytes(spec) for spec in tf.nest.flatten(dataset.element_spec))


def _bytes(spec: Any) -> int:
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
        return 0
    return int(math.prod(size or 1 for size in spec.shape) * spec.dtype.size)
