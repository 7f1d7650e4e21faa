"""Finished artifacts when ``fit`` ends, all of them or none, checked before anyone sees them.

model.fit(x, y, callbacks=[TrainingCheckpoint("runs/digits"), ExportOnCompletion("export/digits")])

export/digits/
  saved_model/       formats=("saved_model", …)
  model.h5           formats=(…, "h5"); model.keras, model.weights.h5, model.json, model.yaml likewise
  export.json        what it was made from: step, run, checkpoint, metrics, versions, checksums

export/digits/7/     with versions=…: a SavedModel, with the other files in its assets.extra/
"""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import tensorflow as tf

from ckptkit.artifacts import write_all
from ckptkit.callbacks import TrainingCheckpoint
from ckptkit.cluster import Cluster, cluster_of
from ckptkit.errors import ExportError
from ckptkit.export import facts, versions
from ckptkit.export.formats import why_not
from ckptkit.export.publishing import replaced
from ckptkit.fit import AfterAll, callback_list, disarm, find_callback
from ckptkit.options import ExportOnCompletionOptions
from ckptkit.progress import progress
from ckptkit.records import CheckpointRecord
from ckptkit.which_keras import NAME, keras

__all__ = ["ExportOnCompletion"]

_log = logging.getLogger("ckptkit")
_FACTS = "export.json"
_ORDER = 1  # after the last checkpoint


class ExportOnCompletion(keras.callbacks.Callback):
    """Write finished artifacts when ``fit`` ends normally; one that is killed or fails has none.

    Everything is written to a folder beside ``path`` first, loaded again, compared with the model, and appears in one
    step. A script with a ``TrainingCheckpoint`` that is started again after it had finished finds its own artifacts and
    leaves them; when the run has gone on they are replaced, with all that is in their folder.

    Args:
        path: Folder of the artifacts; must not exist, unless this very run has made it. With ``versions`` the folder
            of the versions, which may hold earlier ones.
        formats: Any of ``"saved_model"``, ``"h5"``, ``"keras"``, ``"weights"``, ``"json"`` and ``"yaml"``.
        which: ``"final"`` for the model as ``fit`` leaves it, ``"best"`` for the best checkpoint of the
            ``TrainingCheckpoint`` in the same ``fit``, which then needs ``monitor``. The model itself is not changed.
        versions: How many versions to keep below ``path``, as for ``ckptkit.publish_version``; None for no versions.
        overwrite: Whether artifacts of something else are replaced; the old ones stay until the new ones are whole.
        verify: Whether they are loaded again in a process of its own and compared with the model.
        verbose: 1 shows a bar on a terminal, and logs a line at the level INFO when it is done; 0 is silent.
        input_signature: What the model takes, as of ``ckptkit.save_model``.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> export = ckptkit.ExportOnCompletion("export/digits", formats=("h5", "yaml"))
        >>> history = model.fit(x, y, callbacks=[export], verbose=0)
        >>> sorted(os.listdir("export/digits"))
        ['export.json', 'model.h5', 'model.yaml']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        formats: Sequence[str] = ("saved_model", "h5"),
        which: str = "final",
        versions: int | None = None,
        overwrite: bool = False,
        verify: bool = True,
        verbose: int = 1,
        input_signature: Any = None,
    ) -> None:
        super().__init__()
        options = ExportOnCompletionOptions(
            path=path,
            formats=formats,
            which=which,
            versions=versions,
            overwrite=overwrite,
            verify=verify,
            verbose=verbose,
        )
        self.path = os.fspath(options.path)
        self._formats = tuple(options.formats)
        self._which = which
        self._versions = options.versions
        self._overwrite = overwrite
        self._verify = verify
        self._verbose = options.verbose
        self._input_signature = input_signature
        self._training: TrainingCheckpoint | None = None
        self._own_id = ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuse what cannot come to a good end, before hours of training."""
        callbacks = callback_list(sys._getframe(1))
        self._own_id = uuid.uuid4().hex
        self._training = find_callback(callbacks, TrainingCheckpoint)
        if self._which == "best" and (self._training is None or not self._training.has_monitor):
            raise ValueError('which="best" needs a TrainingCheckpoint with monitor= in the same fit.')
        for kind in self._formats:
            reason = why_not(self.model, kind)
            if reason is not None:
                raise ValueError(f'cannot export to "{kind}": {reason}. Or leave "{kind}" out of formats.')
        disarm(callbacks, self)
        AfterAll(self, _ORDER, on_train_begin=self._refuse_to_overwrite, on_train_end=self._export).join(callbacks)

    def _refuse_to_overwrite(self) -> None:
        # After all: TrainingCheckpoint knows by now which run this is.
        if self._versions is None and not self._overwrite and os.path.lexists(self.path) and not self._is_ours():
            raise ExportError(
                f"{self.path} exists and was not made by this run. Choose another path, or pass overwrite=True."
            )

    def _is_ours(self) -> bool:
        return any(made.get("run_id") == self._run_id() for made in self._made_before())

    def _made_before(self) -> list[dict[str, Any]]:
        """Return the facts of the artifacts that are there, of each version; nothing if they are none of ours."""
        if self._versions is not None:
            return [facts.read(versions.path_of(self.path, n)) or {} for n in versions.versions(self.path)]
        try:
            with open(os.path.join(self.path, _FACTS), encoding="utf-8") as file:
                made = json.load(file)
        except (OSError, ValueError):
            return []
        return [made] if isinstance(made, dict) else []

    def _is_done(self, facts_now: dict[str, Any]) -> bool:
        """Say whether this run has exported this step, or a later one; it may have been rolled back since."""
        step = facts_now["step"]
        same = [
            made
            for made in self._made_before()
            if all(made.get(key) == facts_now[key] for key in ("run_id", "which", "formats"))
        ]
        return step is not None and any((made.get("step") or 0) >= step for made in same)

    def _run_id(self) -> str:
        records = () if self._training is None else self._training.manager.records()
        return records[-1].run_id if records else self._own_id

    def _export(self) -> None:
        made = self._facts()
        if self._which == "best" and made["step"] is None:
            raise ExportError(
                f"nothing to export to {self.path}: no checkpoint has a value to rank by, it was NaN or missing in "
                'every epoch.\nExport the final model with which="final", or mend what is monitored.'
            )
        cluster = cluster_of([self.model])
        is_done = self._is_done(made)
        if is_done if cluster is None else cluster.told(is_done):
            if self._verbose:
                _log.info("%s is there already, made from step %d of this run.", self.path, made["step"])
            return
        is_other = cluster is not None and not cluster.is_chief
        doing = f"exporting {os.path.basename(os.path.abspath(self.path))}"
        with (
            progress(
                doing,
                f"exported {', '.join(self._formats)} to {self.path}",
                steps=len(self._formats) + 1 + self._verify,
                verbose=0 if is_other else self._verbose,
            ) as work,
            _together(cluster, self.path),
            self._weights_to_export(),
        ):

            def write(folder: str) -> None:
                is_version = self._versions is not None
                how = (self._verify, self._input_signature, work.step)
                noted = write_all(self.model, folder, self._formats, made, *how, is_version=is_version)
                work.size_bytes = facts.size_of(noted["files"])
                if not is_version:
                    facts.write(os.path.join(folder, _FACTS), noted)

            if is_other:
                # TensorFlow asks all workers while one of them writes: the others write to where nobody looks.
                with (
                    TemporaryDirectory() as scratch,
                    replaced(os.path.join(scratch, "export"), overwrite=False) as folder,
                ):
                    write(folder)
                return
            if self._versions is not None:
                number = versions.publish(self.path, write, max_versions=self._versions)
                work.done = f"published version {number} of {self.path}"
                return
            with replaced(self.path, overwrite=self._overwrite or self._is_ours()) as folder:
                write(folder)

    def _source(self) -> CheckpointRecord | None:
        """Return the checkpoint that holds what is exported, None if there is none."""
        if self._training is None:
            return None
        if self._which == "best":
            return self._training.manager.best_record
        newest = self._training.manager.records()[-1:]
        return next((record for record in newest if record.step == self._training.step), None)

    def _facts(self) -> dict[str, Any]:
        source = self._source()
        final = None if self._training is None or self._which == "best" else self._training.step
        return {
            "run_id": self._run_id(),
            "which": self._which,
            "step": final if source is None else source.step,
            "checkpoint": None if source is None else source.name,
            "metrics": {} if source is None else dict(source.metrics),
            "formats": list(self._formats),
            "versions": {NAME: keras.__version__, "tensorflow": tf.__version__},
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
def _together(cluster: Cluster | None, path: str) -> Iterator[None]:
    """Wait until all workers are done, and let none go on if one of them could not."""
    try:
        yield
    except BaseException:
        if cluster is not None:
            cluster.failed(fine=False)
        raise
    failed = [] if cluster is None else cluster.failed(fine=True)
    if cluster is not None and failed:
        raise ExportError(f"nothing was exported to {path}: {cluster.names(failed)} could not, as its log says.")
