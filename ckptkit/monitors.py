"""The metrics that policies look at: what they are, and whether they are measured at all.

modes = modes_of(OnImprovement("val_loss", "min"), Best("val_loss", "min"))     # {"val_loss": "min"}
require_measured(modes, {"loss": 0.3, "val_loss": 0.4}, epoch=3)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptkit.combinators import Combinable, leaves
from ckptkit.policies import OnImprovement
from ckptkit.preservation import Best
from ckptkit.spelling import near

__all__ = ["modes_of", "require_measured"]

_VALIDATION = "val_"


def modes_of(*policies: Combinable | None) -> dict[str, str]:
    """Return the metrics that some policies look at, and for each whether smaller or larger is better.

    Raises:
        ValueError: One of them is ranked both ways.
    """
    modes: dict[str, str] = {}
    for policy in policies:
        for leaf in leaves(policy):
            if not isinstance(leaf, (Best, OnImprovement)):
                continue
            if modes.setdefault(leaf.monitor, leaf.mode) != leaf.mode:
                raise ValueError(
                    f"{leaf.monitor!r} is to be as small as possible by one policy and as large as possible by "
                    'another. Which is better is a fact of the metric: say mode="min" in all of them, or mode="max".'
                )
    return modes


def require_measured(
    monitors: Iterable[str],
    metrics: Mapping[str, float],
    epoch: int,
    *,
    is_complete: bool = True,
    is_validated: bool = True,
) -> None:
    """Refuse monitors that an epoch's metrics do not have: nothing would ever be the best.

    An epoch without a validation decides nothing on ``val_`` metrics.

    Args:
        monitors: Names of metrics that were never measured before.
        metrics: What was measured at the end of the epoch.
        epoch: Epochs done.
        is_complete: Whether these are all that an epoch measures, but for those of a validation. If not, a name that
            is not there is refused only if one that is there is near.
        is_validated: Whether there are validations.

    Raises:
        ValueError: One is not there; the message lists those that are, and the nearest.
    """
    is_validation = any(name.startswith(_VALIDATION) for name in metrics)
    for monitor in monitors:
        of_validation = monitor.startswith(_VALIDATION)
        must_be_there = is_validation or not is_validated if of_validation else is_complete or near(monitor, metrics)
        if monitor in metrics or not must_be_there:
            continue
        hint = near(monitor, metrics)
        if of_validation and not is_validated:
            hint += "\nThere was no validation: pass validation_data or validation_split to fit."
        raise ValueError(
            f"cannot rank checkpoints by {monitor!r}: no such metric at epoch {epoch} "
            f"(have: {', '.join(sorted(metrics)) or 'none'}).{hint}"
        )
