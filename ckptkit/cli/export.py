"""``ckptkit export CKPT``: finished artifacts of a checkpoint, from the code that builds its model.

$ ckptkit export runs/digits/ckpt-1200 --model my_module:build_model -o export/digits.keras
$ ckptkit export runs/digits --which best --model my_module:build_model --format saved_model --format h5 -o export/all
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ckptkit.cli.chosen import CHECKPOINT, checkpoint_at
from ckptkit.cli.printing import print_json
from ckptkit.cli.usage import UsageError
from ckptkit.errors import CheckpointMismatchError, ExportError
from ckptkit.export.names import FILES, MODELS, TEXTS
from ckptkit.readable import plain
from ckptkit.records import CheckpointRecord
from ckptkit.spelling import near

__all__ = ["add"]

_ENDINGS = {"weights.h5": "weights", **MODELS, **TEXTS}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "export",
        help="make finished artifacts of a checkpoint",
        description="Build a model, restore all of its variables from a checkpoint, and write it in one format or "
        "several. Each artifact is loaded again and compared with the model before it appears.",
        epilog="example: ckptkit export runs/digits --which best --model my_module:build_model -o export/digits.keras",
    )
    parser.add_argument("path", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument("--which", metavar="WHICH", help="of a directory: latest, best, or a step")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODULE:NAME",
        help="the function that builds the model, or the model; modules are looked for in the working directory, too",
    )
    parser.add_argument(
        "--object", default="model", metavar="NAME", help="its name in the checkpoint, 'model' if not said"
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=list(FILES),
        dest="formats",
        help="may be said several times; by default the ending of PATH says it, and a folder is a SavedModel",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="the artifact, or the folder for several of them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--no-verify", action="store_true", help="do not load what was written again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, verb="export")


def _run(options: argparse.Namespace) -> int:
    if options.which is not None and not os.path.isdir(options.path):
        raise UsageError("--which chooses from a directory, and CKPT is none")
    places = _places(options)
    for path in places.values():
        if os.path.lexists(path) and not options.overwrite:
            raise ExportError(f"{path} is there already. Choose another path, or replace it with --overwrite.")
    record = checkpoint_at(options.path, options.which or "latest")
    with redirect_stdout(sys.stderr), _working_directory_first():  # what Keras and the builder print is no result
        model = _model(options.model)
        _restore(options, model, record)
        for kind, path in places.items():
            _save(model, kind, path, record, overwrite=options.overwrite, verify=not options.no_verify)
    if options.json:
        print_json({"checkpoint": record.prefix, "step": record.step, "artifacts": places})
    else:
        for kind, path in places.items():
            print(plain(f"{kind} of {record.prefix}: {path}"))
    return 0


def _places(options: argparse.Namespace) -> dict[str, str]:
    """Return where each artifact goes, by its format."""
    path = options.output.rstrip(os.sep) or os.sep
    ending = os.path.splitext(path)[1]
    told = next((kind for end, kind in _ENDINGS.items() if end and path.endswith(end)), _ENDINGS.get(ending))
    kinds = list(dict.fromkeys(options.formats or ([told] if told else [])))
    if not kinds:
        raise UsageError(f"the ending {ending!r} says no format: say it with --format, or take another ending")
    if len(kinds) > 1:
        return {kind: os.path.join(path, FILES[kind]) for kind in kinds}
    if kinds[0] != told and not (kinds[0] == "saved_model" and told is None):
        raise UsageError(f"{kinds[0]} goes to a path like {FILES[kinds[0]]}, got {path}")
    return {kinds[0]: path}


def _model(path: str) -> Any:
    """Return the model that a module builds, or has."""
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise UsageError(f"--model takes MODULE:NAME, my_module:build_model, got {path!r}")
    builder = _import(module_name)
    for part in name.split("."):
        if not hasattr(builder, part):
            hint = near(part, vars(builder) if hasattr(builder, "__dict__") else ())
            raise UsageError(f"{module_name} has no {name!r}.{hint}")
        builder = getattr(builder, part)
    from ckptkit.which_keras import keras

    if isinstance(builder, keras.Model):
        return builder
    if not callable(builder):
        raise UsageError(f"{path} is of type {type(builder).__name__}: name a function that builds a model")
    needed = _arguments_needed_by(builder)
    if needed:
        raise UsageError(f"{path} cannot be called without {', '.join(needed)}: name one that can")
    with _explained(f"{path} failed"):
        model = builder()
    if not isinstance(model, keras.Model):
        raise UsageError(f"{path} returns a {type(model).__name__}: it is to return a keras.Model")
    if not model.built:
        raise UsageError(f"{path} returns a model that is not built: call it on a batch first")
    return model


def _import(name: str) -> Any:
    with _explained(f"importing {name} failed"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and lacks another
            modules = [os.path.splitext(file)[0] for file in os.listdir() if file.endswith(".py")]
            hint = near(name, modules)
            raise UsageError(f"no module {name!r}, in the working directory or installed.{hint}") from error


def _arguments_needed_by(builder: Any) -> list[str]:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # of a builtin: it says itself what it lacks
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _restore(options: argparse.Namespace, model: Any, record: CheckpointRecord) -> None:
    from ckptkit.export.restored import restore_into

    try:
        restore_into(model, record, options.object)
    except CheckpointMismatchError as error:
        told = str(error).replace(", or pass strict=False to skip these", "")
        raise CheckpointMismatchError(told) from error


def _save(model: Any, kind: str, path: str, record: CheckpointRecord, *, overwrite: bool, verify: bool) -> None:
    from ckptkit import artifacts

    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        if kind == "weights":
            artifacts.save_weights(model, path, overwrite=overwrite, verify=verify)
        elif kind in ("json", "yaml"):
            artifacts.save_architecture(model, path, overwrite=overwrite, verify=verify)
        else:
            artifacts.save_model(model, path, format=kind, overwrite=overwrite, verify=verify, source=record)
    except ValueError as error:  # a model that this format cannot hold
        raise ExportError(str(error)) from error


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say where somebody's own code failed, in place of a traceback through ours."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise ExportError(f"{what}: {type(error).__name__}: {error}\n{at.filename}, line {at.lineno}") from error


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Let modules be found where the command runs."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
