"""Where a run of ``model.fit`` stands, beside the values of its variables.

    state = RunState((FitState(epoch=3, batch=120, history={"loss": [0.9, 0.5, 0.4]}, epochs=(0, 1, 2)),))
    RunState.from_json(state.to_json()) == state

A script may call ``fit`` several times on one model; each call has a state, and the last one is under way or over.
Floats pass through unchanged: JSON holds the shortest decimal that reads back as the same double.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["FitState", "RunState"]


@dataclass(frozen=True)
class FitState:
    """One call of ``fit``.

    Attributes:
        epoch: Epochs done.
        batch: Batches done in the epoch that follows.
        history: ``History.history``, a list a metric.
        epochs: ``History.epoch``, the numbers of the epochs in it.
        stopped: Whether a callback had set ``model.stop_training``.
    """

    epoch: int = 0
    batch: int = 0
    history: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    epochs: Sequence[int] = ()
    stopped: bool = False


@dataclass(frozen=True)
class RunState:
    """All calls of ``fit`` so far, in order."""

    fits: tuple[FitState, ...] = ()

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(asdict(self), default=_plain)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunState:
        """Read what :meth:`to_json` wrote."""
        fits = json.loads(text)["fits"]
        return cls(tuple(FitState(**{**fit, "epochs": tuple(fit["epochs"])}) for fit in fits))


def _plain(value: Any) -> Any:
    # Logs may hold NumPy and TensorFlow numbers and arrays; History does not mind plain ones.
    return np.asarray(value).tolist()
