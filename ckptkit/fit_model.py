"""The model of one ``fit``: what it is compiled with, and whether that is what a checkpoint was saved with.

    facts = facts_of(model)             # {"optimizer": "Adam", "is_built": True, "metrics": ["Mean", "MeanMetric"]}
    compare(facts, another_model)       # raises if its optimizer is of another kind
    mode_of("val_accuracy", model)      # "max": Keras' metric says so
    build(another_model, dataset, facts)

Source: keras/src/trainers/trainer.py of Keras 3.15 and tf_keras/src/engine/training.py of tf_keras 2.21;
tests/test_fit_model.py fails if they work differently.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ckptkit import which_keras
from ckptkit.errors import CheckpointMismatchError
from ckptkit.which_keras import IS_LEGACY, asked_metrics, build_from, builder_of, direction_of, is_built, keras

__all__ = ["build", "compare", "facts_of", "has_other_metrics", "mode_of", "steps_of"]

_log = logging.getLogger("ckptkit")
_MODES = {"up": "max", "down": "min"}


def facts_of(model: keras.Model) -> dict[str, Any]:
    """Return what decides whether the values of one model mean the same in another one."""
    optimizer = model.optimizer
    return {
        "optimizer": _kind_of(optimizer),
        "is_built": optimizer is not None and is_built(optimizer),
        "metrics": [_kind_of(metric) for metric in _metrics(model)],
    }


def compare(facts: Mapping[str, Any], model: keras.Model, prefix: str) -> None:
    """Refuse an optimizer whose variables mean something else, even if their shapes are the same.

    Raises:
        CheckpointMismatchError: The model is compiled with another kind of optimizer than was saved.
    """
    before, now = facts.get("optimizer"), _kind_of(model.optimizer)
    if facts and before != now:
        raise CheckpointMismatchError(
            f"cannot resume from {prefix}: it was trained with another optimizer.\n"
            f"  checkpoint {before}   model {now}\n"
            "Compile the model as it was, or train on in another directory."
        )


def has_other_metrics(facts: Mapping[str, Any], model: keras.Model) -> bool:
    """Say whether the built model has other metrics than were saved, whose values are told apart by their places."""
    return bool(facts) and list(facts["metrics"]) != [_kind_of(metric) for metric in _metrics(model)]


def build(model: keras.Model, dataset: Any, facts: Mapping[str, Any]) -> None:
    """Make what ``fit`` makes in its first step, so that all of it takes its values now.

    Args:
        model: Built or not.
        dataset: What it is trained on.
        facts: Of the model that was saved. An optimizer that was never used there, because the model's train step has
            others, is not built here.
    """
    optimizer = model.optimizer
    leave_it = optimizer is not None and not is_built(optimizer) and not facts.get("is_built", True)
    try:
        with model.distribute_strategy.scope():
            build_from(model, dataset.element_spec, leave_optimizer=leave_it)
    except Exception as error:  # Keras raises whatever the model's call raises
        _log.warning(
            "%s cannot be built from the shapes of its data (%s): it is restored when fit builds it, and the "
            "metrics of an epoch that is resumed in its middle count from there.",
            model.name,
            str(error).split("\n")[0],
        )
        if IS_LEGACY:
            return  # the model may be built in part
        if model.built and optimizer is not None and not leave_it and not is_built(optimizer):
            builder, name = builder_of(optimizer)
            getattr(builder, name)(model.trainable_variables)


def mode_of(monitor: str, model: keras.Model) -> str:
    """Return ``"min"`` or ``"max"``: a loss is to be small, and most of Keras' metrics say which way they rank.

    Args:
        monitor: Name in the logs of ``fit``.
        model: Compiled, built or not.

    Raises:
        ValueError: No metric of that name says it.
    """
    name = monitor.removeprefix("val_")
    outputs = getattr(model, "output_names", None) or ()
    if name == "loss" or name in [f"{output}_loss" for output in outputs]:
        return "min"
    for named, metric in _named_metrics(model):
        if name in [named, *(f"{output}_{named}" for output in outputs)]:
            mode = _MODES.get(direction_of(metric) or "")
            if mode is not None:
                return mode
    raise ValueError(
        f'say whether {monitor!r} is better when smaller or larger: mode="min" or mode="max". No metric of that name '
        "that the model is compiled with says it."
    )


def steps_of(model: keras.Model) -> int:
    """Return how often the optimizer was given gradients, whatever it made of them."""
    return 0 if model.optimizer is None else which_keras.steps_of(model.optimizer)


def _metrics(model: keras.Model) -> list[Any]:
    compiled = getattr(model, "_compile_metrics", None)
    metrics = [each for each in model.metrics if each is not compiled]
    return metrics if compiled is None else metrics + list(compiled.metrics)


def _named_metrics(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of a model by the names they have in its logs, also those that are not built yet."""
    for metric in _metrics(model):
        yield metric.name, metric
    for asked in asked_metrics(model):
        if isinstance(asked, str):  # "accuracy" becomes one of several, which all rank alike
            yield asked, keras.metrics.get({"acc": "accuracy"}.get(asked.lower(), asked))
        elif asked is not None:
            yield getattr(asked, "name", ""), asked


def _kind_of(each: Any) -> str | None:
    """Return the class, with what it wraps."""
    if each is None:
        return None
    inside = getattr(each, "inner_optimizer", None) or getattr(each, "_fn", None)
    name = type(each).__name__
    if inside is None:
        return name
    return f"{name}({getattr(inside, '__name__', type(inside).__name__)})"
