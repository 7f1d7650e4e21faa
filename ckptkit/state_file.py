r"""TensorFlow's ``checkpoint`` file: a ``CheckpointState`` in protobuf's text form, without TensorFlow.

    StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (1.0, 2.0), 0.5).to_text()

        model_checkpoint_path: "ckpt-2"
        all_model_checkpoint_paths: "ckpt-1"
        all_model_checkpoint_paths: "ckpt-2"
        all_model_checkpoint_timestamps: 1.0
        all_model_checkpoint_timestamps: 2.0
        last_preserved_timestamp: 0.5

Source: tensorflow/python/training/checkpoint_state.proto.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["StateFile"]

_LINE = re.compile(r"""\s*(?P<field>\w+)\s*:\s*(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[-+.\w]+)""")
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ESCAPED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "'": r"\'", "\\": r"\\"}
_TO_ESCAPE = re.compile(r"""[\x00-\x1f\x7f"'\\]""")


@dataclass(frozen=True)
class StateFile:
    """The four fields of a ``CheckpointState``; paths are as they stand in the file, usually relative to it."""

    model_checkpoint_path: str
    all_model_checkpoint_paths: tuple[str, ...] = ()
    all_model_checkpoint_timestamps: tuple[float, ...] = ()
    last_preserved_timestamp: float = 0.0

    def to_text(self) -> str:
        """Return the text that TensorFlow's own manager would write."""
        lines = [f'model_checkpoint_path: "{_quoted(self.model_checkpoint_path)}"']
        lines += [f'all_model_checkpoint_paths: "{_quoted(path)}"' for path in self.all_model_checkpoint_paths]
        lines += [f"all_model_checkpoint_timestamps: {float(t)}" for t in self.all_model_checkpoint_timestamps]
        lines += [f"last_preserved_timestamp: {float(self.last_preserved_timestamp)}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, content: bytes) -> StateFile:
        """Read the text form.

        Raises:
            ValueError: It is not one, it names no checkpoint, or a time in it is none.
        """
        fields: dict[str, list[str]] = {}
        text, at = content.decode("utf-8", errors="strict"), 0
        while (match := _LINE.match(text, at)) is not None:
            fields.setdefault(match["field"], []).append(match["value"])
            at = match.end()
        if text[at:].strip():
            raise ValueError(f"not a CheckpointState: {text[at : at + 40]!r}")
        times = [float(value) for value in fields.get("all_model_checkpoint_timestamps", ())]
        preserved = float(fields.get("last_preserved_timestamp", ["0"])[-1])
        if any(map(math.isnan, [*times, preserved])):  # neither before nor after any other
            raise ValueError("a time in it is not a number")
        latest = _unquoted(fields.get("model_checkpoint_path", ['""'])[-1])
        if not latest:
            raise ValueError("names no checkpoint")
        return cls(
            model_checkpoint_path=latest,
            all_model_checkpoint_paths=tuple(_unquoted(v) for v in fields.get("all_model_checkpoint_paths", ())),
            all_model_checkpoint_timestamps=tuple(times),
            last_preserved_timestamp=preserved,
        )


def _quoted(text: str) -> str:
    return _TO_ESCAPE.sub(lambda match: _ESCAPED.get(match[0], f"\\{ord(match[0]):03o}"), text)


def _unquoted(literal: str) -> str:
    def character(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, named = match.groups()
        if named is not None:
            return _NAMED.get(named, named)
        return bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)])

    if literal[0] not in "\"'":
        raise ValueError(f"not a CheckpointState: {literal!r} is no string")
    return _ESCAPE.sub(character, literal[1:-1].encode()).decode("utf-8")
