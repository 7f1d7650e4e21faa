"""Everything that can be asked of managers, callbacks and exports, in one YAML file.

config = ckptkit.load_config("run.yaml")
model.fit(x, y, callbacks=config.callbacks())

run.yaml
  training_checkpoint:     the arguments of ckptkit.TrainingCheckpoint
    directory: runs/digits
    save_freq: 500 steps
    preservation_policy: Latest(3) | EveryNSteps(10000)
  export_on_completion:    the arguments of ckptkit.ExportOnCompletion, or a list of such
    path: export/digits
  checkpoint_manager:      the arguments of ckptkit.CheckpointManager
    directory: runs/loop
    max_to_keep: 3
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from ckptkit.durability import write_file
from ckptkit.errors import ConfigError
from ckptkit.option_rules import Rule
from ckptkit.options import (
    CheckpointManagerOptions,
    ExportOnCompletionOptions,
    Options,
    TrainingCheckpointOptions,
)
from ckptkit.spelling import near
from ckptkit.yaml_file import Entry, YamlFile, unquoted

if TYPE_CHECKING:
    from ckptkit.manager import CheckpointManager

__all__ = ["RunConfig", "load_config"]

SomeOptions = TypeVar("SomeOptions", bound=Options)

_SECTIONS = ("checkpoint_manager", "training_checkpoint", "export_on_completion")


@dataclass(frozen=True)
class RunConfig:
    """The options of one run.

    Attributes:
        checkpoint_manager: Those of its ``CheckpointManager``, None where the file has no such section.
        training_checkpoint: Those of its ``TrainingCheckpoint``.
        export_on_completion: Those of each ``ExportOnCompletion``.

    Raises:
        ConfigError: There are none at all.

    Example:
        >>> from ckptkit.options import TrainingCheckpointOptions
        >>> options = TrainingCheckpointOptions(directory="runs/digits", save_freq="10 min")
        >>> config = ckptkit.RunConfig(training_checkpoint=options)
        >>> callbacks = config.callbacks()
        >>> text = config.dump("run.yaml")
        >>> ckptkit.load_config("run.yaml") == config
        True
    """

    checkpoint_manager: CheckpointManagerOptions | None = None
    training_checkpoint: TrainingCheckpointOptions | None = None
    export_on_completion: Sequence[ExportOnCompletionOptions] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "export_on_completion", tuple(self.export_on_completion))
        if not any(getattr(self, section) for section in _SECTIONS):
            raise ConfigError(f"a configuration needs at least one of {', '.join(_SECTIONS)}.")

    def manager(
        self, checkpoint: Any, *, step_counter: Any = None, init_fn: Callable[[], object] | None = None
    ) -> CheckpointManager:
        """Make the ``CheckpointManager``.

        Args:
            checkpoint: The ``tf.train.Checkpoint`` to save.
            step_counter: A ``tf.Variable`` with the current step; needed for ``checkpoint_interval``.
            init_fn: Called where there is nothing to restore.

        Raises:
            ConfigError: There is no section ``checkpoint_manager``.
        """
        from ckptkit.manager import CheckpointManager

        if self.checkpoint_manager is None:
            raise ConfigError("this configuration makes no manager: it has no section 'checkpoint_manager'.")
        arguments = self.checkpoint_manager.arguments()
        return CheckpointManager(checkpoint, step_counter=step_counter, init_fn=init_fn, **arguments)

    def callbacks(self, *, callbacks: Sequence[Any] | None = None, input_signature: Any = None) -> list[Any]:
        """Make the callbacks for ``fit``: the ``TrainingCheckpoint`` first, then the exports.

        Args:
            callbacks: The callbacks whose state is saved; None for all that are passed to ``fit``.
            input_signature: What the model takes, for the exports, as of ``ckptkit.save_model``.

        Raises:
            ConfigError: There is neither a section ``training_checkpoint`` nor ``export_on_completion``.
        """
        from ckptkit.callbacks import TrainingCheckpoint
        from ckptkit.completion import ExportOnCompletion

        made: list[Any] = []
        if self.training_checkpoint is not None:
            made.append(TrainingCheckpoint(**self.training_checkpoint.arguments(), callbacks=callbacks))
        for export in self.export_on_completion:
            made.append(ExportOnCompletion(**export.arguments(), input_signature=input_signature))
        if not made:
            raise ConfigError(
                "this configuration makes no callbacks: it has neither a section 'training_checkpoint' nor "
                "'export_on_completion'."
            )
        return made

    def dump(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the YAML from which :func:`load_config` makes the same configuration, every option written out.

        Args:
            path: Also write it there, whole or not at all; what is there is replaced.

        Raises:
            ConfigError: A policy has no text: it is of a class of your own, or too long.
        """
        plain: dict[str, Any] = {}
        for options in (self.checkpoint_manager, self.training_checkpoint):
            if options is not None:
                plain[options.section] = _plain(options)
        exports = [_plain(options) for options in self.export_on_completion]
        if exports:
            plain["export_on_completion"] = exports if len(exports) > 1 else exports[0]
        text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
        if path is not None:
            path = os.fspath(path)
            write_file(path, text.encode(), temporary=f"{path}.tmp-{uuid.uuid4().hex}")
        return text


class _Dumper(yaml.SafeDumper):
    """Writes what cannot be seen in quotes, with escapes: PyYAML reads some of it back as blanks else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def load_config(path: str | os.PathLike[str]) -> RunConfig:
    """Read a configuration from a YAML file.

    A section has the arguments of the class of its name. What is not there has the default of the class. Policies are
    written as in Python, ``EverySteps(500) | EveryEpochs(1)``. Paths are taken as they are: ``~`` and environment
    variables are not expanded, and what is relative is relative to where the process runs.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: It says something that cannot be meant; the message has the line, and the nearest name.

    Example:
        >>> with open("run.yaml", "w") as file:
        ...     count = file.write("training_checkpoint: {directory: runs/digits, save_freq: 500 steps}")
        >>> config = ckptkit.load_config("run.yaml")
        >>> config.training_checkpoint.save_freq
        EverySteps(n=500)
        >>> history = model.fit(x, y, verbose=0, callbacks=config.callbacks())
    """
    file = YamlFile(path)
    try:
        return _run_config(file)
    except RecursionError as error:
        raise ConfigError(f"{os.fspath(path)} merges its mappings through too many others.") from error


def _run_config(file: YamlFile) -> RunConfig:
    sections = file.mapping(file.root, "the file")
    _refuse_unknown(file, sections, _SECTIONS, "the file has no section")
    made: dict[str, Any] = {}
    for kind in (CheckpointManagerOptions, TrainingCheckpointOptions):
        if kind.section in sections:
            made[kind.section] = _options(file, sections[kind.section], kind)
    if ExportOnCompletionOptions.section in sections:
        entry = sections[ExportOnCompletionOptions.section]
        values = file.sequence(entry.value)
        entries = [entry] if values is None else [Entry(value, value) for value in values]
        made[ExportOnCompletionOptions.section] = [_options(file, each, ExportOnCompletionOptions) for each in entries]
    try:
        return RunConfig(**made)
    except ConfigError as error:
        raise file.refusal(file.root, str(error)) from error


def _options(file: YamlFile, entry: Entry, kind: type[SomeOptions]) -> SomeOptions:
    section, rules = kind.section, kind.rules()
    entries = file.mapping(entry.value, section)
    _refuse_unknown(file, entries, rules, f"{section} has no option")
    values = {name: _value(file, each.value, section, name, rules[name]) for name, each in entries.items()}
    missing = [name for name in kind.required() if name not in values]
    if missing:
        raise file.refusal(entry.key, f"{section} needs {missing[0]!r}.")
    try:
        return kind(**values)
    except ValueError as error:
        raise file.refusal(entry.key, f"{section}: {error}") from error


def _refuse_unknown(file: YamlFile, entries: dict[str, Entry], known: Iterable[str], why: str) -> None:
    for name, entry in entries.items():
        if name not in known:
            hint = near(name, known) or f"\nThere are {', '.join(known)}."
            raise file.refusal(entry.key, f"{why} {name!r}.{hint}")


def _value(file: YamlFile, node: yaml.Node, section: str, name: str, rule: Rule) -> Any:
    value = file.value(node)
    try:
        return rule.take(name, rule.of_text(value) if isinstance(value, str) else value, none="null")
    except (TypeError, ValueError) as error:
        raise file.refusal(node, f"{section}: {error}{_hint(node, value, rule)}") from error


def _hint(node: yaml.Node, value: Any, rule: Rule) -> str:
    """Say how to write what was meant, where YAML made something else of it."""
    if not isinstance(node, yaml.ScalarNode):
        return ""
    written, is_text = node.value, isinstance(value, str)
    numbers = [each for each in _numbers(written) if rule.fits(each)]
    if numbers:
        why = f"YAML reads {written!r} as text: write" if is_text and not node.style else "Write"
        return f"\n{why} {' or '.join(map(repr, numbers))}."
    if is_text and value == "None" and rule.fits(None):
        return "\nYAML's word for None is null."
    if is_text and node.style and rule.fits(unquoted(written)):
        return "\nWrite it without quotes."
    if not is_text and rule.fits(written):
        kind = "a number" if type(value) in (int, float) else json.dumps(value)
        return f"\nYAML reads {written!r} as {kind}: put it into quotes."
    if isinstance(value, bool) and written.lower() != json.dumps(value):
        return f"\nYAML reads {written!r} as {json.dumps(value)}."
    return ""


def _numbers(written: str) -> list[float]:
    """Return the number that somebody has written, as a whole one and as one with a fraction."""
    try:
        number = float(written)
    except ValueError:
        return []
    return [int(number), number] if number.is_integer() and abs(number) < 1e15 else [number]


def _plain(options: Options) -> dict[str, Any]:
    plain = options.effective()
    for name in options.arguments():
        if name not in plain:
            raise ConfigError(f"{options.section}: {name} is of a class of your own, or too long, and has no text.")
    return plain
