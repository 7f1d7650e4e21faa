"""What can be asked of managers and callbacks, as values: checked when built, and known as plain data.

options = TrainingCheckpointOptions(directory="runs/digits", save_freq="500 steps", monitor="val_loss", mode="min")
options.save_freq            # EverySteps(n=500)
options.effective()          # {"directory": "runs/digits", "save_freq": "EverySteps(n=500)", "max_to_keep": 5, ...}
TrainingCheckpoint(**options.arguments())
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from ckptkit.combinators import Combinable
from ckptkit.export.names import FILES
from ckptkit.option_rules import (
    EXIT_CODE,
    FILE_NAME,
    FLAG,
    FREQUENCY,
    HOURS,
    METRIC,
    PATH,
    PATH_OR_NONE,
    SECS,
    SIGNALS,
    VERBOSE,
    Rule,
    one_of,
    policy_of,
    some_of,
    whole_number,
)
from ckptkit.policies import SavePolicy
from ckptkit.policy_text import write_policy
from ckptkit.preservation import PreservationPolicy
from ckptkit.tolerance import MAX_SAVE_ERRORS

__all__ = [
    "DEFAULT_LIMIT",
    "INPUT_STATES",
    "WORKER_TIMEOUT_SECS",
    "CheckpointManagerOptions",
    "ExportOnCompletionOptions",
    "Options",
    "TrainingCheckpointOptions",
]

INPUT_STATES = ("auto", "iterator", "replay", "restart")
DEFAULT_LIMIT = 64 * 2**20
WORKER_TIMEOUT_SECS = 300.0

_COUNT = whole_number(1, "Expected a positive integer or `None` for `{name}`", or_none=True)  # TensorFlow's words
_STEPS = whole_number(0, "must be a whole number of at least 0, or None", or_none=True)
_ERRORS = whole_number(1, "must be a whole number of at least 1, or None for never", or_none=True)
_BYTES = whole_number(0, "must be a whole number of bytes")
_VERSIONS = whole_number(1, "must be a number of versions to keep, at least 1", or_none=True)
_ON_ERROR = one_of(("raise", "warn"), "must be 'raise' or 'warn'")
_MODE = one_of(("min", "max", None), "TrainingCheckpoint takes {name} = 'min' or 'max'")
_INPUT_STATE = one_of(INPUT_STATES, f"must be one of {', '.join(map(repr, INPUT_STATES))}")
_WHICH = one_of(("final", "best"), 'must be "final" or "best"')
_FORMATS = some_of(FILES, f"must be some of {', '.join(FILES)}")


def _by(rule: Rule) -> dict[str, Rule]:
    return {"rule": rule}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one class, each by its rule; the class says what they mean.

    Raises:
        ValueError: A value is out of its range, or two contradict each other.
        TypeError: A value is of a wrong kind.
    """

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for name, rule in self.rules().items():
            object.__setattr__(self, name, rule.take(name, getattr(self, name)))

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        """Return the rule of each option, by its name."""
        return {each.name: each.metadata["rule"] for each in fields(cls)}

    @classmethod
    def required(cls) -> list[str]:
        """Return the names of the options that have no default."""
        return [each.name for each in fields(cls) if each.default is MISSING]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that make an object with these options."""
        return {name: getattr(self, name) for name in self.rules()}

    def effective(self) -> dict[str, Any]:
        """Return the options as JSON and YAML can have them, policies as their text; one without a text is left out."""
        plain = {name: _plain(value) for name, value in self.arguments().items()}
        return {name: value for name, value in plain.items() if value is not None or getattr(self, name) is None}


@dataclass(frozen=True, kw_only=True)
class CheckpointManagerOptions(Options):
    """What can be asked of a ``CheckpointManager``, but for objects."""

    section: ClassVar[str] = "checkpoint_manager"
    directory: str | os.PathLike[str] = field(metadata=_by(PATH))
    max_to_keep: int | None = field(metadata=_by(_COUNT))
    keep_checkpoint_every_n_hours: float | None = field(default=None, metadata=_by(HOURS))
    checkpoint_name: str = field(default="ckpt", metadata=_by(FILE_NAME))
    checkpoint_interval: int | None = field(default=None, metadata=_by(_STEPS))
    last_checkpoint_step: int | None = field(default=None, metadata=_by(_STEPS))
    save_policy: SavePolicy | None = field(default=None, metadata=_by(policy_of(SavePolicy)))
    preservation_policy: PreservationPolicy | None = field(default=None, metadata=_by(policy_of(PreservationPolicy)))
    async_save: bool = field(default=False, metadata=_by(FLAG))
    durable: bool = field(default=True, metadata=_by(FLAG))
    on_save_error: str = field(default="raise", metadata=_by(_ON_ERROR))
    max_save_errors: int | None = field(default=MAX_SAVE_ERRORS, metadata=_by(_ERRORS))
    read_only: bool = field(default=False, metadata=_by(FLAG))
    worker_timeout_secs: float | None = field(default=WORKER_TIMEOUT_SECS, metadata=_by(SECS))
    tensorboard_dir: str | os.PathLike[str] | None = field(default=None, metadata=_by(PATH_OR_NONE))
    verbose: int = field(default=1, metadata=_by(VERBOSE))


@dataclass(frozen=True, kw_only=True)
class TrainingCheckpointOptions(Options):
    """What can be asked of a ``TrainingCheckpoint``, but for objects; ``save_freq`` is kept as the policy it means."""

    section: ClassVar[str] = "training_checkpoint"
    directory: str | os.PathLike[str] = field(metadata=_by(PATH))
    save_freq: str | int | SavePolicy = field(default="epoch", metadata=_by(FREQUENCY))
    final_save: bool = field(default=True, metadata=_by(FLAG))
    max_to_keep: int | None = field(default=5, metadata=_by(_COUNT))
    monitor: str | None = field(default=None, metadata=_by(METRIC))
    mode: str | None = field(default=None, metadata=_by(_MODE))
    preservation_policy: PreservationPolicy | None = field(default=None, metadata=_by(policy_of(PreservationPolicy)))
    resume: bool = field(default=True, metadata=_by(FLAG))
    save_on_preemption: bool = field(default=True, metadata=_by(FLAG))
    preemption_signals: Sequence[str | signal.Signals] = field(default=("SIGTERM",), metadata=_by(SIGNALS))
    grace_secs: float | None = field(default=None, metadata=_by(SECS))
    preemption_code: int = field(default=143, metadata=_by(EXIT_CODE))
    async_save: bool = field(default=True, metadata=_by(FLAG))
    durable: bool = field(default=True, metadata=_by(FLAG))
    on_save_error: str = field(default="raise", metadata=_by(_ON_ERROR))
    max_save_errors: int | None = field(default=MAX_SAVE_ERRORS, metadata=_by(_ERRORS))
    worker_timeout_secs: float | None = field(default=WORKER_TIMEOUT_SECS, metadata=_by(SECS))
    tensorboard_dir: str | os.PathLike[str] | None = field(default=None, metadata=_by(PATH_OR_NONE))
    input_state: str = field(default="auto", metadata=_by(_INPUT_STATE))
    max_input_state_bytes: int = field(default=DEFAULT_LIMIT, metadata=_by(_BYTES))
    verbose: int = field(default=1, metadata=_by(VERBOSE))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode is not None and self.monitor is None:
            raise ValueError(f"mode={self.mode!r} says how to rank a metric; say which one with monitor=.")


@dataclass(frozen=True, kw_only=True)
class ExportOnCompletionOptions(Options):
    """What can be asked of an ``ExportOnCompletion``, but for objects."""

    section: ClassVar[str] = "export_on_completion"
    path: str | os.PathLike[str] = field(metadata=_by(PATH))
    formats: Sequence[str] = field(default=("saved_model", "h5"), metadata=_by(_FORMATS))
    which: str = field(default="final", metadata=_by(_WHICH))
    versions: int | None = field(default=None, metadata=_by(_VERSIONS))
    overwrite: bool = field(default=False, metadata=_by(FLAG))
    verify: bool = field(default=True, metadata=_by(FLAG))
    verbose: int = field(default=1, metadata=_by(VERBOSE))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.versions is not None and "saved_model" not in self.formats:
            raise ValueError(f'versions are SavedModels: put "saved_model" into formats, got {self.formats!r}.')


def _plain(value: Any) -> Any:
    if isinstance(value, Combinable):
        return write_policy(value)
    return list(value) if isinstance(value, tuple) else value
