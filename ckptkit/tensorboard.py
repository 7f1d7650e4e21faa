"""What saves cost and how often a run was resumed, as scalars that TensorBoard shows beside the loss.

    history.listen(SaveScalars("logs/digits", "runs/digits"))

At each save ``checkpoint/blocked_secs``, ``checkpoint/save_secs``, ``checkpoint/bytes`` and ``checkpoint/lost_secs``;
``checkpoint/skipped_saves`` and ``checkpoint/restores`` count up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

import tensorflow as tf

from ckptkit import history
from ckptkit.history import Event

__all__ = ["SaveScalars"]

# What tf.summary.scalar would say, which wants the package tensorboard: who writes need not have it.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)


class SaveScalars:
    """Write an event's numbers to TensorBoard's files, at the step it belongs to.

    Args:
        log_dir: Folder of TensorBoard's files; made if it is missing.
        directory: Folder of the checkpoints.

    Raises:
        OSError: The folder cannot be made.

    Source: https://www.tensorflow.org/api_docs/python/tf/summary
    """

    def __init__(self, log_dir: str, directory: str) -> None:
        os.makedirs(log_dir, exist_ok=True)
        self._log_dir = log_dir
        self._directory = directory
        self._writer: tf.summary.SummaryWriter | None = None  # not before there is something to write
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        self._skipped = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Take what an event says, and write it in the background, when a save has ended, or at the end of all."""
        with self._lock:
            numbers = self._numbers(event)
            if numbers:
                self._waiting.append((event.facts["step"], numbers))
            is_end = event.kind in ("ended", "preempted")
            if self._waiting and (is_end or event.kind == "saved"):
                self._write()
            if is_end and self._writer is not None:
                self._writer.close()
                self._writer = None

    def _numbers(self, event: Event) -> Mapping[str, float]:
        facts = event.facts
        if event.kind == "saved":
            return {"save_secs": facts["written_secs"] + facts["synced_secs"], "bytes": facts["size_bytes"]}
        if event.kind == "cost":
            return {"blocked_secs": facts["blocked_secs"], "lost_secs": facts["lost_secs"]}
        if event.kind == "skipped":
            self._skipped += 1
            return {"skipped_saves": self._skipped}
        if _is_restore(event):
            return {"restores": sum(map(_is_restore, history.read(self._directory)))}
        return {}

    def _write(self) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._log_dir, filename_suffix=".ckptkit")
        # Whatever the script has said about its own summaries.
        with tf.summary.record_if(True), self._writer.as_default():
            for step, numbers in self._waiting:
                for name, value in numbers.items():
                    tf.summary.write(f"checkpoint/{name}", tf.constant(value, tf.float32), step, metadata=_SCALAR)
        self._waiting.clear()


def _is_restore(event: Event) -> bool:
    return event.kind == "restored" or (event.kind == "begun" and event.facts.get("resumed_from") is not None)
