"""Finished artifacts when ``fit`` ends, all of them or none.

model.fit(x, y, callbacks=[TrainingCheckpoint("runs/digits"), ExportOnCompletion("export/digits")])

export/digits/
  saved_model/       formats=("saved_model", …)
  model.h5           formats=(…, "h5")
  export.json        what it was made from: step, run, checkpoint, metrics, versions
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from ckptkit.callbacks import TrainingCheckpoint
from ckptkit.durability import sync_directory, sync_file
from ckptkit.errors import ExportError
from ckptkit.export import hdf5, saved_model
from ckptkit.fit import AfterAll, callback_list, disarm, find_callback
from ckptkit.records import CheckpointRecord

__all__ = ["ExportOnCompletion"]

_log = logging.getLogger("ckptkit")
_FORMATS: dict[str, tuple[str, Callable[[keras.Model, str], None]]] = {
    "saved_model": ("saved_model", saved_model.write),
    "h5": ("model.h5", hdf5.write),
}
_FACTS = "export.json"
_ORDER = 1  # after the last checkpoint


class ExportOnCompletion(keras.callbacks.Callback):
    """Write finished artifacts when ``fit`` ends normally. A fit that is killed or fails writes none.

    Everything is written to a folder beside ``path`` first and appears in one step. A script that is started again
    after it had finished finds its own artifacts and leaves them.

    Args:
        path: Folder of the artifacts; must not exist, unless this very run has made it.
        formats: Any of ``"saved_model"`` and ``"h5"``.
        which: ``"final"`` for the model as ``fit`` leaves it, ``"best"`` for the best checkpoint of the
            ``TrainingCheckpoint`` in the same ``fit``, which then needs ``monitor``. The model itself is not changed.
        overwrite: Whether artifacts of something else are replaced; the old ones stay until the new ones are whole.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        formats: Sequence[str] = ("saved_model", "h5"),
        which: str = "final",
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        unknown = [name for name in formats if name not in _FORMATS]
        if unknown or not formats or isinstance(formats, str):
            raise ValueError(f"formats must be some of {', '.join(_FORMATS)}, got {formats!r}.")
        if which not in ("final", "best"):
            raise ValueError(f'which must be "final" or "best", got {which!r}.')
        self.path = os.fspath(path)
        self._formats = tuple(formats)
        self._which = which
        self._overwrite = overwrite
        self._training: TrainingCheckpoint | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuse what cannot come to a good end, before hours of training."""
        callbacks = callback_list(sys._getframe(1))
        self._training = find_callback(callbacks, TrainingCheckpoint)
        if self._which == "best" and (self._training is None or not self._training.has_monitor):
            raise ValueError('which="best" needs a TrainingCheckpoint with monitor= in the same fit.')
        reason = hdf5.refusal(self.model) if "h5" in self._formats else None
        if reason is not None:
            raise ValueError(f'cannot export to "h5": {reason}. Leave "h5" out of formats.')
        disarm(callbacks, self)
        AfterAll(self, _ORDER, on_train_begin=self._refuse_to_overwrite, on_train_end=self._export).join(callbacks)

    def _refuse_to_overwrite(self) -> None:
        # After all: TrainingCheckpoint knows by now which run this is.
        if not self._overwrite and os.path.lexists(self.path) and not self._is_ours():
            raise ExportError(
                f"{self.path} exists and was not made by this run. Choose another path, or pass overwrite=True."
            )

    def _is_ours(self) -> bool:
        return self._made_before().get("run_id") == self._run_id()

    def _made_before(self) -> dict[str, Any]:
        """Return the facts of the artifacts that are there, nothing if they are none of ours."""
        try:
            with open(os.path.join(self.path, _FACTS), encoding="utf-8") as file:
                facts = json.load(file)
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def _run_id(self) -> str:
        records = () if self._training is None else self._training.manager.records()
        return records[-1].run_id if records else uuid.uuid4().hex

    def _export(self) -> None:
        facts = self._facts()
        before = self._made_before()
        if all(before.get(key) == facts[key] for key in ("run_id", "step", "which", "formats")):
            _log.info("%s is there already, made from step %d of this run.", self.path, facts["step"])
            return
        with _whole_or_nothing(self.path) as folder, self._weights_to_export():
            for name in self._formats:
                file, write = _FORMATS[name]
                try:
                    write(self.model, os.path.join(folder, file))
                except Exception as error:
                    raise ExportError(f"could not export {name} to {self.path}: {error}") from error
            with open(os.path.join(folder, _FACTS), "w", encoding="utf-8") as out:
                json.dump(facts, out, indent=2)
        _log.info("exported %s to %s.", ", ".join(self._formats), self.path)

    def _source(self) -> CheckpointRecord | None:
        if self._training is None:
            return None
        if self._which == "best":
            return self._training.manager.best_record
        return self._training.manager.records()[-1]

    def _facts(self) -> dict[str, Any]:
        source = self._source()
        return {
            "run_id": self._run_id(),
            "which": self._which,
            "step": None if source is None else source.step,
            "checkpoint": None if source is None else source.name,
            "metrics": {} if source is None else dict(source.metrics),
            "formats": list(self._formats),
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        }

    @contextmanager
    def _weights_to_export(self) -> Iterator[None]:
        """Put the best checkpoint into the model, and the model's own values back after."""
        source = self._source()
        if self._which == "final" or source is None:
            yield
            return
        assert self._training is not None
        with self._training.manager.borrowed(source):
            yield


@contextmanager
def _whole_or_nothing(path: str) -> Iterator[str]:
    """Give a folder beside ``path`` to write to, which takes its place in one step when all went well."""
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    folder = f"{path}.tmp-{uuid.uuid4().hex[:8]}"
    os.mkdir(folder)
    try:
        yield folder
        for at, _, files in os.walk(folder):
            for file in files:
                sync_file(os.path.join(at, file))
            sync_directory(at)
        old = f"{path}.old-{uuid.uuid4().hex[:8]}"
        if os.path.lexists(path):
            os.rename(path, old)
        try:
            os.rename(folder, path)
        except BaseException:
            if os.path.lexists(old):
                os.rename(old, path)
            raise
        sync_directory(os.path.dirname(path))
        if os.path.isdir(old) and not os.path.islink(old):
            shutil.rmtree(old)
        elif os.path.lexists(old):
            os.unlink(old)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
