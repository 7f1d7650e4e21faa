"""What an artifact was made from and what its files are, beside it or in it.

model.keras              model.keras.ckptkit.json
saved_model/             saved_model/assets.extra/ckptkit.json

{"format": 1, "kind": "keras", "verified": "child", "source": {"checkpoint": "ckpt-1200", "step": 1200, ...},
 "versions": {...}, "files": {"model.keras": {"bytes": 81234, "sha256": "..."}}}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ckptkit.errors import ArtifactError

__all__ = ["BESIDE", "check", "files_of", "place_of", "read", "size_at", "size_of", "write"]

_INSIDE = os.path.join("assets.extra", "ckptkit.json")
BESIDE = ".ckptkit.json"


def place_of(path: str) -> str:
    """Return where the facts of an artifact are, or go."""
    return os.path.join(path, _INSIDE) if os.path.isdir(path) else path + BESIDE


def files_of(path: str) -> dict[str, dict[str, Any]]:
    """Return size in bytes and SHA-256 of each file of an artifact, by its name."""
    if not os.path.isdir(path):
        return {os.path.basename(path): _digest(path)}
    found = [os.path.join(at, file) for at, _, files in os.walk(path) for file in files]
    names = {os.path.relpath(file, path).replace(os.sep, "/"): file for file in found}
    return {name: _digest(names[name]) for name in sorted(names) if name != _INSIDE.replace(os.sep, "/")}


def size_of(files: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the size in bytes of what :func:`files_of` has returned."""
    return sum(file["bytes"] for file in files.values())


def size_at(path: str) -> int:
    """Return the size in bytes of a file or a SavedModel, 0 for anything else: nobody knows how much there is in it."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    if not os.path.exists(os.path.join(path, "saved_model.pb")):
        return 0
    return sum(os.path.getsize(os.path.join(at, file)) for at, _, files in os.walk(path) for file in files)


def write(place: str, facts: Mapping[str, Any]) -> None:
    """Write facts to a new file."""
    os.makedirs(os.path.dirname(os.path.abspath(place)), exist_ok=True)
    with open(place, "w", encoding="utf-8") as file:
        json.dump({"format": 1, **facts}, file, indent=2)


def read(path: str) -> dict[str, Any] | None:
    """Return the facts of an artifact, None if it has none.

    Raises:
        ArtifactError: They are there and cannot be read.
    """
    place = place_of(path)
    try:
        with open(place, encoding="utf-8") as file:
            facts = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{place} cannot be read: {error}\nDelete it to load {path} unchecked.") from error
    return facts if isinstance(facts, dict) else {}


def check(path: str) -> None:
    """Compare the files of an artifact with its facts, if it has any.

    Raises:
        ArtifactError: A file is missing, cut short or altered.
    """
    facts = read(path)
    if facts is None:
        return
    there, noted = files_of(path), dict(facts.get("files", {}))
    if not os.path.isdir(path):  # a file may have been given another name, with its facts
        there = dict.fromkeys(noted, next(iter(there.values())))
    for name, known in noted.items():
        found = there.get(name)
        if found != known:
            is_size = found is None or found["bytes"] != known["bytes"]
            said = "it is missing" if found is None else f"{found['bytes']:,} bytes instead of {known['bytes']:,}"
            raise ArtifactError(
                f"{path} is damaged, or was written over by something else: {name} is not what was saved "
                f"({said if is_size else 'its checksum differs'}).\n"
                f"If you wrote it over yourself, delete {place_of(path)}; else bring it back from a copy."
            )


def _digest(path: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": os.path.getsize(path), "sha256": digest.hexdigest()}
