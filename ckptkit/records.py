"""What is known about one checkpoint, and the JSON file that holds it.

    manifest = Manifest.from_json(text)            # ManifestError says what is wrong with it
    record = CheckpointRecord.of(manifest, "runs/digits")

``ckpt-1200.manifest.json`` is the commit of ``ckpt-1200``: it is written last, and a checkpoint whose manifest is
missing or does not describe the files beside it was never saved.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ckptkit.checksums import crc32c
from ckptkit.readable import age_text, count_text, line, metrics_text, size_text, table

__all__ = [
    "FORMAT",
    "CheckpointRecord",
    "Manifest",
    "ManifestError",
    "NewerManifestError",
    "TensorInfo",
    "finite_json",
    "from_finite_json",
    "split_number",
]

FORMAT = 1
_SHARD = re.compile(r"\.data-[0-9]{5}-of-[0-9]{5}\Z")
_NAME_BYTES = 255  # of a file, in any file system of today
_NUMBER = re.compile(rf"(?P<stem>.+)-(?P<number>[0-9]{{1,{_NAME_BYTES}}})\Z", re.DOTALL)
_MAX_BYTES = 64 << 20  # half a million tensors
_MAX_COUNT = (1 << 64) - 1
_HEAD_BYTES = 4096  # of most manifests, all but the table of tensors
_TABLE = b',\n  "tensors": ['
_END = b"]\n  ]\n}\n"  # of a table with rows, and of the manifest
_WORDS = {
    "step": "step {}",
    "epoch": "epoch {}",
    "age": "{} ago",
    "size": "{}",
    "metrics": "{}",
    "writer": "written by {}",
}
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class ManifestError(ValueError):
    """A manifest is not JSON, is of a newer format, or says something impossible."""


class NewerManifestError(ManifestError):
    """A manifest of a format that a newer ckptkit writes: nothing says that it is damaged."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint: its key, dtype name, shape and size in bytes (0 where it has no fixed size)."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The facts that make a checkpoint a checkpoint; see the module's docstring.

    ``sequence`` counts commits in one directory, so that order does not hang on clocks or on step numbers.
    ``files`` maps each file's name, relative to the directory, to its size in bytes. ``best`` has the best value so far
    of each metric that ranks checkpoints, ``config`` what the run was configured with, as JSON has it.
    ``found_damaged`` has the sequences of older checkpoints, by name, whose files look right and whose content was read
    before this commit and was not what was written. ``workers`` is the number of those that trained together.
    """

    name: str
    step: int
    sequence: int
    created_at: float
    files: Mapping[str, int]
    index_crc32c: int
    run_id: str
    epoch: int | None = None
    batch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    found_damaged: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()

    def to_json(self) -> str:
        """Return the manifest as strict JSON, the table of tensors last and a line each."""
        head = {
            "format": FORMAT,
            "name": self.name,
            "run_id": self.run_id,
            "sequence": self.sequence,
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "metrics": finite_json(self.metrics),
            "best": finite_json(self.best),
            "config": dict(self.config),
            "found_damaged": dict(self.found_damaged),
            "workers": self.workers,
            "created_at": self.created_at,
            "files": dict(self.files),
            "index_crc32c": self.index_crc32c,
            "versions": dict(self.versions),
            "seconds": dict(self.seconds),
        }
        lines = [json.dumps([t.key, t.dtype, list(t.shape), t.size_bytes]) for t in self.tensors]
        table = "[\n    " + ",\n    ".join(lines) + "\n  ]" if lines else "[]"
        head["tensors_crc32c"] = crc32c(f"[{', '.join(lines)}]".encode())
        head["crc32c"] = _checksum(head)
        return json.dumps(head, indent=2, allow_nan=False)[:-2] + f',\n  "tensors": {table}\n}}\n'

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse a manifest.

        Raises:
            ManifestError: It is not JSON, of a newer format, or a field is missing, of a wrong type or unsafe; or it is
                not what was written.
        """
        return cls._from_json(text, with_table=True)

    @classmethod
    def _from_json(cls, text: str | bytes, *, with_table: bool) -> Manifest:
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ManifestError(f"expected a JSON object, got {type(raw).__name__}")
        _require_format(raw)
        try:
            _require_checksums(raw, with_table=with_table)
            return cls(
                name=_file_name(_typed(raw, "name", str)),
                step=_count(raw, "step"),
                sequence=_count(raw, "sequence"),
                created_at=_finite(float(_typed(raw, "created_at", (int, float)))),
                files=_files(raw),
                index_crc32c=_count(raw, "index_crc32c"),
                run_id=_typed(raw, "run_id", str),
                epoch=None if raw.get("epoch") is None else _count(raw, "epoch"),
                batch=None if raw.get("batch") is None else _count(raw, "batch"),
                metrics=_numbers(raw, "metrics"),
                best=_numbers(raw, "best"),
                config=_typed(raw, "config", dict) if "config" in raw else {},
                found_damaged=_counts(raw, "found_damaged") if "found_damaged" in raw else {},
                workers=_count(raw, "workers") if "workers" in raw else 1,
                versions={str(k): str(v) for k, v in _typed(raw, "versions", dict).items()},
                seconds={name: _finite(value) for name, value in _numbers(raw, "seconds").items()},
                tensors=tuple(_tensor(row) for row in _typed(raw, "tensors", list)),
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ManifestError(str(error)) from error

    @classmethod
    def read(cls, file: BinaryIO) -> Manifest:
        """Read a manifest from a file that is open at its beginning.

        Raises:
            ManifestError: As :meth:`from_json` does, or the file is larger than a manifest can be.
        """
        _require_size(file)
        return cls.from_json(file.read())

    @classmethod
    def read_head(cls, file: BinaryIO) -> Manifest:
        """Read a manifest without its tensors: the table may be long, and only its end is looked at.

        A manifest that was cut short, or is not laid out as :meth:`to_json` does it, is read whole.

        Args:
            file: Open at its beginning, for reading and seeking.

        Raises:
            ManifestError: As :meth:`read` does, but for what is wrong inside the table.
        """
        _require_size(file)
        head = file.read(_HEAD_BYTES)
        while (at := head.find(_TABLE)) < 0 and (more := file.read(len(head))):
            head += more
        if at >= 0:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() == _END:
                with suppress(ManifestError):  # reading it whole tells the places in the file
                    return cls._from_json(head[:at] + _TABLE + b"]}", with_table=False)
        file.seek(0)
        return replace(cls.from_json(file.read()), tensors=())


@dataclass(frozen=True, repr=False)
class CheckpointRecord:
    """One checkpoint in a directory.

    Attributes:
        prefix: Path stem as TensorFlow takes it, ``runs/digits/ckpt-1200``.
        step: The number in its name: the global step, or the save counter where no step was given.
        epoch: Epochs done, or None where it was not said.
        batch: Batches done in the epoch that follows, or None.
        metrics: What was measured at that very moment, empty where nothing was.
        best: The best value so far of each metric that ranks checkpoints.
        config: What the run was configured with, empty where that is not known.
        found_damaged: Sequences of older checkpoints, by name, that had been read before and were damaged inside.
        workers: How many workers trained together.
        created_at: Seconds since the Epoch, from ``time.time()``.
        size_bytes: Size of all its files.
        sequence: Its place in the order of commits; 0 for a foreign one.
        foreign: True for a checkpoint that plain TensorFlow wrote: usable, and unverified.
        run_id: Identity of the run that wrote it, "" for a foreign one.

    Example:
        >>> prefix = manager.save(1200, epoch=3, metrics={"val_loss": 0.31})
        >>> manager.records()[-1]
        <CheckpointRecord runs/digits/ckpt-1200: step 1200, epoch 3, ... ago, ... kB, val_loss 0.31>
        >>> manager.records()[-1].metrics["val_loss"]
        0.31
    """

    prefix: str
    step: int
    epoch: int | None = None
    batch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    found_damaged: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1
    created_at: float = 0.0
    size_bytes: int = 0
    sequence: int = 0
    foreign: bool = False
    run_id: str = ""

    @property
    def name(self) -> str:
        """The prefix without its directory, ``ckpt-1200``."""
        return os.path.basename(self.prefix)

    @classmethod
    def of(cls, manifest: Manifest, directory: str) -> CheckpointRecord:
        """Return the record of the checkpoint that a ``manifest`` in ``directory`` commits."""
        return cls(
            prefix=os.path.join(directory, manifest.name),
            step=manifest.step,
            epoch=manifest.epoch,
            batch=manifest.batch,
            metrics=dict(manifest.metrics),
            best=dict(manifest.best),
            config=dict(manifest.config),
            found_damaged=dict(manifest.found_damaged),
            workers=manifest.workers,
            created_at=manifest.created_at,
            size_bytes=sum(manifest.files.values()),
            sequence=manifest.sequence,
            run_id=manifest.run_id,
        )

    def at(self, prefix: str) -> CheckpointRecord:
        """Return the same record with its files at another ``prefix``."""
        return replace(self, prefix=prefix)

    def facts(self, now: float) -> dict[str, str]:
        """Return what a person wants to know: step, epoch, age, size, metrics and writer, those that are known.

        Args:
            now: Seconds since the Epoch.
        """
        batches = f" + {count_text(self.batch, 'batch', 'batches')}" if self.batch else ""
        facts = {
            "step": str(self.step),
            "epoch": "" if self.epoch is None else f"{self.epoch}{batches}",
            "age": age_text(now - self.created_at) if self.created_at else "",
            "size": size_text(self.size_bytes) if self.size_bytes else "",
            "metrics": metrics_text(self.metrics),
            "writer": "plain TensorFlow, unverified" if self.foreign else "",
        }
        return {name: text for name, text in facts.items() if text}

    def brief(self, now: float) -> list[str]:
        """Return the shortest of it, as in a sentence: ``step 1200``, ``2 min ago``, ``403 MB``.

        Args:
            now: Seconds since the Epoch.
        """
        return self._told(now, ("step", "age", "size"))

    def _told(self, now: float, names: Iterable[str]) -> list[str]:
        facts = self.facts(now)
        return [_WORDS[name].format(facts[name]) for name in names if name in facts]

    def __repr__(self) -> str:
        return line("CheckpointRecord", self.prefix, self._told(time.time(), _WORDS))

    def _repr_html_(self) -> str:
        return table(self.prefix, list(self.facts(time.time()).items()))


def split_number(name: str) -> tuple[str, int] | None:
    """Split ``ckpt-1200`` into ``("ckpt", 1200)``; None for a name without a number."""
    match = _NUMBER.match(name)
    return None if match is None else (match["stem"], int(match["number"]))


def finite_json(values: Mapping[str, float]) -> dict[str, float | str]:
    """Return numbers as strict JSON can hold them: NaN and the infinities by their names."""
    # JSON has no NaN; a metric may well be one.
    names = {repr(number): name for name, number in _NON_FINITE.items()}
    return {key: names.get(repr(float(value)), float(value)) for key, value in values.items()}


def from_finite_json(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that :func:`finite_json` was given.

    Raises:
        TypeError: One is no number.
        ValueError: One is text, and not the name of a number.
    """
    return {str(k): _NON_FINITE[v] if v in _NON_FINITE else float(v) for k, v in values.items()}


def _require_size(file: BinaryIO) -> None:
    # Asked before anything is read: a file with a hole in it is as large as it likes.
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > _MAX_BYTES:
        raise ManifestError(f"{size} bytes are too many, a manifest has {_MAX_BYTES} at most")


def _require_format(raw: Mapping[str, Any]) -> None:
    found = raw.get("format")
    if type(found) is not int:
        raise ManifestError(f"field 'format' is a {type(found).__name__}")
    if found > FORMAT:
        raise NewerManifestError(
            f"written by a newer ckptkit in format {found}, and this one reads format {FORMAT}: "
            "upgrade ckptkit to use it"
        )
    if found != FORMAT:
        raise ManifestError(f"format {found}, this ckptkit reads format {FORMAT}")


def _require_checksums(raw: Mapping[str, Any], *, with_table: bool) -> None:
    # A manifest of an older ckptkit has none.
    if "crc32c" in raw:
        _require_checksum(raw, "crc32c", _checksum(raw))
    if "tensors_crc32c" in raw and with_table:
        _require_checksum(raw, "tensors_crc32c", crc32c(json.dumps(raw.get("tensors")).encode()))


def _require_checksum(raw: Mapping[str, Any], key: str, found: int) -> None:
    if raw[key] != found:
        raise ValueError(f"field {key!r} says {raw[key]!r}, and what it is of has {found}: it was altered")


def _checksum(raw: Mapping[str, Any]) -> int:
    """Return the checksum of all that a manifest says, but for its table, which has one of its own."""
    told = {key: value for key, value in raw.items() if key not in ("crc32c", "tensors")}
    return crc32c(json.dumps(told, sort_keys=True).encode())


def _numbers(raw: Mapping[str, Any], key: str) -> dict[str, float]:
    return from_finite_json(_typed(raw, key, dict))


def _typed(raw: Mapping[str, Any], key: str, kinds: Any) -> Any:
    if key not in raw:
        raise ValueError(f"no field {key!r}")
    if not isinstance(raw[key], kinds) or isinstance(raw[key], bool):
        raise TypeError(f"field {key!r} is a {type(raw[key]).__name__}")
    return raw[key]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"a time of {value}")
    return value


def _count(raw: Mapping[str, Any], key: str) -> int:
    value = _typed(raw, key, int)
    if value < 0:
        raise ValueError(f"field {key!r} is negative: {value}")
    if value > _MAX_COUNT:
        raise ValueError(f"field {key!r} is beyond 64 bits")
    return int(value)


def _counts(raw: Mapping[str, Any], key: str) -> dict[str, int]:
    counts = _typed(raw, key, dict)
    return {name: _count(counts, name) for name in counts}


def _file_name(name: str) -> str:
    # A manifest may come from anywhere: a name that leaves the directory is refused before it is used.
    if not name or name != os.path.basename(name) or name in (".", "..") or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    if len(os.fsencode(name)) > _NAME_BYTES:  # which also refuses what no file name can be encoded from
        raise ValueError(f"{name[:40]!r}… is too long for a file name")
    return name


def _files(raw: Mapping[str, Any]) -> dict[str, int]:
    name = _file_name(_typed(raw, "name", str))
    files: dict[str, int] = {}
    for file, size in _typed(raw, "files", dict).items():
        if not file.startswith(name) or not (file == f"{name}.index" or _SHARD.fullmatch(file[len(name) :])):
            raise ValueError(f"file {file!r} does not belong to checkpoint {name!r}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise TypeError(f"size of {file!r} is {size!r}")
        files[_file_name(file)] = size
    if f"{name}.index" not in files:
        raise ValueError(f"no {name}.index among its files")
    return files


def _tensor(row: Any) -> TensorInfo:
    if not isinstance(row, list):
        raise TypeError(f"a row of tensors is a {type(row).__name__}")
    key, dtype, shape, size_bytes = row
    return TensorInfo(str(key), str(dtype), tuple(int(n) for n in shape), int(size_bytes))
