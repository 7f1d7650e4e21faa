"""The workers of a ``tf.distribute.MultiWorkerMirroredStrategy``: which of them this process is, and what all agree on.

    cluster = cluster_of(variables)                  # None where one process trains alone
    cluster.is_chief
    cluster.told({"name": "ckpt-1200"})              # what the chief has said, in every worker
    cluster.failed(fine=True)                        # the numbers of those that say no

Both are collectives of TensorFlow: all workers call them at the same place, from the thread that trains. If one of them
has died, TensorFlow says so, by a ``tf.errors.UnavailableError`` that names it.

Source: https://www.tensorflow.org/tutorials/distribute/multi_worker_with_keras
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import tensorflow as tf

__all__ = ["Cluster", "cluster_of", "is_in_cluster", "said"]

_JOBS = ("chief", "worker")  # in the order in which TensorFlow numbers them
_LONGEST = 2048  # bytes of a message

_known: weakref.WeakKeyDictionary[Any, Cluster | None] = weakref.WeakKeyDictionary()


class Cluster:
    """This process as one of several workers.

    Args:
        strategy: The strategy that they train with.
        index: Its number, 0 for the chief, who saves.
        addresses: Host and port of each worker.
    """

    def __init__(self, strategy: tf.distribute.Strategy, index: int, addresses: tuple[str, ...]) -> None:
        self.index = index
        self.addresses = addresses
        self._strategy = weakref.ref(strategy)
        self._sum: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether it is this process that saves."""
        return self.index == 0

    @property
    def count(self) -> int:
        """The number of workers."""
        return len(self.addresses)

    @property
    def first_replica(self) -> int:
        """The number of this worker's first replica among those of all workers."""
        return self.index * self._local_replicas

    @property
    def replicas(self) -> int:
        """The number of replicas of all workers."""
        return self.count * self._local_replicas

    def name(self, index: int) -> str:
        """Return how a worker is called in a message."""
        return f"{'the chief, ' if index == 0 else ''}worker {index} ({self.addresses[index]})"

    def names(self, indices: Iterable[int]) -> str:
        """Return how several workers are called in a message."""
        return ", ".join(map(self.name, indices))

    def told(self, message: Any = None) -> Any:
        """Return what the chief has said, in all workers.

        Args:
            message: Said by the chief; JSON, 2048 bytes at the most. What another one says is not heard.
        """
        content = json.dumps(message, ensure_ascii=False).encode() if self.is_chief else b""
        if len(content) > _LONGEST:
            raise ValueError(f"a message to all workers may take {_LONGEST} bytes, got {len(content)}.")
        row = self._total([len(content), *content, *[0] * (_LONGEST - len(content))])
        return json.loads(bytes(row[1 : 1 + row[0]]))

    def failed(self, *, fine: bool) -> list[int]:
        """Return the numbers of the workers that are not fine."""
        row = self._total([int(not fine and number == self.index) for number in range(self.count)])
        found = [number for number, is_failed in enumerate(row) if is_failed]
        if found:
            self.settle()
        return found

    def settle(self) -> None:
        """Wait until all workers know what was said last: this one is about to end because of it.

        Whose process ends takes from the others what TensorFlow has not told them yet.
        """
        with suppress(tf.errors.OpError):  # who has ended already knew
            self._total([0])

    @property
    def _local_replicas(self) -> int:
        strategy = self._strategy()
        assert strategy is not None  # whoever has a cluster has variables of its strategy
        return int(strategy.num_replicas_in_sync) // self.count

    def _total(self, row: list[int]) -> list[int]:
        """Return the sum of what all workers call this with."""
        if self._sum is None:
            self._sum = _sum_of(self._strategy(), self._local_replicas)
        return [int(each) for each in self._sum(tf.constant(row, tf.int32)).numpy()]


def cluster_of(variables: Iterable[Any]) -> Cluster | None:
    """Return the workers that variables are trained by; None if it is this process alone.

    Args:
        variables: Variables of TensorFlow, distributed or not, or other objects that know their strategy. If none does,
            it is the strategy whose scope this is in.
    """
    strategies = [getattr(each, "distribute_strategy", None) for each in variables]
    for strategy in (*strategies, tf.distribute.get_strategy()):
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            if strategy not in _known:
                _known[strategy] = _read(strategy)
            return _known[strategy]
    return None


def is_in_cluster() -> bool:
    """Say whether TensorFlow runs as one of several processes here; that costs nothing to ask."""
    return any("/job:" in device.name and "/job:localhost/" not in device.name for device in _devices())


def said(error: BaseException) -> str:
    """Return what an error says, as much of it as a message to all workers has room for."""
    return str(error).encode()[: _LONGEST // 2].decode(errors="ignore")


def _devices() -> list[Any]:
    return list(tf.config.list_logical_devices("CPU"))


def _read(strategy: tf.distribute.Strategy) -> Cluster | None:
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec().as_dict()
    tasks = [(job, number) for job in _JOBS for number in range(len(spec.get(job, ())))]
    if len(tasks) < 2:
        return None
    index = tasks.index((resolver.task_type, resolver.task_id))
    return Cluster(strategy, index, tuple(spec[job][number] for job, number in tasks))


def _sum_of(strategy: Any, local_replicas: int) -> Any:
    def of_replica(row: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        is_first = tf.cast(replica.replica_id_in_sync_group % local_replicas == 0, tf.int32)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, row * is_first)

    def of_all(row: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(of_replica, args=(row,)))[0]

    return tf.function(of_all, input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
