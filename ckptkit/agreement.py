"""How the workers of a cluster come to restore one and the same checkpoint, or none.

The chief proposes, all read and compare, and only when everybody is ready anything is assigned:

    agreement = Agreement(cluster)               # of a process alone, None, nothing is asked
    agreement.propose("ckpt-1200")               # tells the others, which read it as well
    agreement.ready("ckpt-1200")                 # or agreement.failed(), and the chief proposes the one before it
    ...                                          # assign
    name = proposed(cluster)                     # in another worker

All are collectives, which every worker comes to in the same order.
"""

from __future__ import annotations

from ckptkit import errors
from ckptkit.cluster import Cluster, said
from ckptkit.errors import CheckpointError, WorkerError

__all__ = ["Agreement", "ChiefFailedError", "proposed"]


class ChiefFailedError(Exception):
    """What the chief has proposed it cannot read itself: it proposes another one."""


class Agreement:
    """What one worker says of what is proposed.

    Args:
        cluster: The workers, None if this process is alone.
    """

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._is_open = self._is_reached = False

    def propose(self, name: str) -> None:
        """Say which checkpoint to restore; the chief does, and the others have heard it."""
        self._is_open = True
        if self._cluster is not None and self._cluster.is_chief:
            self._cluster.told({"name": name})

    def ready(self, name: str) -> None:
        """Say that this worker has read it, and that it fits; wait for the others.

        Raises:
            ChiefFailedError: The chief could not read it.
            WorkerError: Another worker could not, or it does not fit there.
        """
        if self._cluster is None:
            return
        self._is_open, self._is_reached = False, True
        failed = self._cluster.failed(fine=True)
        if 0 in failed:
            raise ChiefFailedError(name)
        if failed:
            raise WorkerError(
                f"{name} was not restored: {self._cluster.names(failed)} of {self._cluster.count} could not read it, "
                "or it does not fit there; the log of that worker says why. Nothing was assigned in any worker."
            )

    def failed(self) -> None:
        """Say that this worker could not read it, or that it does not fit.

        Raises:
            ChiefFailedError: The chief could not read it, either.
        """
        if self._cluster is None or not self._is_open:
            return
        self._is_open = False
        if 0 in self._cluster.failed(fine=False) and not self._cluster.is_chief:
            raise ChiefFailedError

    def give_up(self, error: Exception) -> None:
        """Say that there is nothing more to propose; where all have spoken already, they know."""
        if self._cluster is not None and not self._is_reached:
            self.failed()
            self._cluster.told({"error": type(error).__name__, "says": said(error)})
            self._cluster.settle()


def proposed(cluster: Cluster) -> str:
    """Return the name of the checkpoint that the chief proposes.

    Raises:
        CheckpointError: There is none; of the chief's own kind.
    """
    told = cluster.told()
    if "error" in told:
        cluster.settle()
        kind = getattr(errors, told["error"], CheckpointError)
        raise kind(f"{told['says']}\n{cluster.name(0)} has said so.")
    return str(told["name"])
