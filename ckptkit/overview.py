"""The checkpoints of a directory at a glance: on one line, or in a small table of a notebook.

    overview = Overview("CheckpointManager", "runs/a", ledger, now=time.time())
    overview.line()         # <CheckpointManager runs/a: 3 checkpoints, latest ckpt-1200 (step 1200, 2 min ago, 403 MB)>
    overview.table()        # HTML: the newest, the best, and what is damaged

Made of what is known: no file is touched here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptkit.ledger import Ledger
from ckptkit.readable import count_text, line, metrics_text, table
from ckptkit.records import CheckpointRecord

__all__ = ["Overview"]

_NEWEST = 10
_COLUMNS = ("step", "epoch", "age", "size", "metrics")


@dataclass(frozen=True)
class Overview:
    """What there is to say about a directory.

    Attributes:
        kind: Name of the class that it is said of.
        directory: The directory.
        ledger: What is known of it.
        now: Seconds since the Epoch.
    """

    kind: str
    directory: str
    ledger: Ledger
    now: float

    def line(self) -> str:
        """Return it on one line."""
        told, latest, best = self._counts(), self.ledger.latest, self._best()
        if latest is not None:
            told.insert(1, f"latest {latest.name} ({', '.join(latest.brief(self.now))})")
        if best is not None:
            told.insert(2, f"best {best.name} by {metrics_text(self._ranked_by(best))}")
        return line(self.kind, self.directory, told)

    def table(self) -> str:
        """Return it as a table in HTML: the ten newest checkpoints, the best of all, and why a damaged one is one."""
        records, damaged, best = self.ledger.records, dict(self.ledger.damaged), self._best()
        older, newest = records[:-_NEWEST], records[-_NEWEST:]
        shown = [record for record in older if record is best] + list(newest)
        rows = [self._row(record, damaged.pop(record.name, None), best) for record in shown]
        rows += [(name, *[""] * len(_COLUMNS), f"damaged: {why}") for name, why in damaged.items()]
        if len(shown) < len(records):
            rows.insert(0, (f"{len(records) - len(shown):,} older", *[""] * (len(_COLUMNS) + 1)))
        caption = f"{self.kind} {self.directory}: {', '.join(self._counts())}"
        return table(caption, rows, headings=("checkpoint", *_COLUMNS, ""))

    def _counts(self) -> list[str]:
        count, damaged = len(self.ledger.records), len(self.ledger.damaged)
        return [count_text(count, "checkpoint") if count else "no checkpoints", *[f"{damaged} damaged"] * bool(damaged)]

    def _best(self) -> CheckpointRecord | None:
        return None if self.ledger.best_policy is None else self.ledger.best

    def _ranked_by(self, record: CheckpointRecord) -> dict[str, float]:
        monitor = self.ledger.best_policy.monitor if self.ledger.best_policy is not None else ""
        return {monitor: record.metrics[monitor]}

    def _row(self, record: CheckpointRecord, why_damaged: str | None, best: CheckpointRecord | None) -> tuple[str, ...]:
        facts = record.facts(self.now)
        notes = {
            "latest": record is self.ledger.latest,
            "best": record is best,
            f"written by {facts.get('writer')}": "writer" in facts,
            f"damaged: {why_damaged}": why_damaged is not None,
        }
        told = ", ".join(note for note, is_so in notes.items() if is_so)
        return (record.name, *(facts.get(column, "") for column in _COLUMNS), told)
