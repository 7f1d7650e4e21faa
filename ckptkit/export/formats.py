"""The formats there are: what writes and reads each, which one a path asks for, and which one is there.

kind_of("export/digits.keras", None)        # "keras"
WRITERS["keras"](model, "export/digits.keras", None)
kind_at("export/digits")                    # "saved_model", by its content
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from typing import Any

import h5py

from ckptkit.errors import ArtifactError
from ckptkit.export import architecture, facts, hdf5, keras_archive, saved_model, versions, weights
from ckptkit.export.custom_code import why_not_revived
from ckptkit.export.names import FILES, MODELS, TEXTS
from ckptkit.export.publishing import put_back
from ckptkit.which_keras import keras

__all__ = ["READERS", "WRITERS", "kind_at", "kind_of", "text_of", "why_not"]

READERS = {"keras": keras_archive.read, "h5": hdf5.read, "saved_model": saved_model.read}


WRITERS: dict[str, Callable[[keras.Model, str, Any], None]] = {
    "keras": lambda model, path, signature: keras_archive.write(model, path),
    "h5": lambda model, path, signature: hdf5.write(model, path),
    "saved_model": saved_model.write,
    "weights": lambda model, path, signature: weights.write(model, path),
    "json": lambda model, path, signature: architecture.write(model, path, "json"),
    "yaml": lambda model, path, signature: architecture.write(model, path, "yaml"),
}


def kind_of(path: str, format: str | None) -> str:
    """Return the format of a whole model that a path asks for.

    Raises:
        ValueError: It says none, or another than ``format``.
    """
    if format is not None and format not in READERS:
        raise ValueError(f'format must be "keras", "h5" or "saved_model", got {format!r}.')
    ending = os.path.splitext(path.rstrip("/"))[1]
    if format is None and path.endswith("weights.h5"):
        raise ValueError(f"{path} is a name for weights alone: call ckptkit.save_weights, or name it NAME.h5.")
    if format is None and ending in TEXTS:
        raise ValueError(f"{ending} holds the architecture alone: call ckptkit.save_architecture.")
    kind = format or MODELS.get(ending)
    if kind is None:
        raise ValueError(
            f"the ending {ending!r} says no format: use NAME.keras, NAME.h5, or a folder without an ending for a "
            'SavedModel; or pass format="saved_model".'
        )
    if kind != "saved_model" and MODELS.get(ending) != kind:
        raise ValueError(f'format="{kind}" needs a name that ends in .{kind}, got {path!r}.')
    return kind


def kind_at(path: str) -> str:
    """Return the format of the whole model at a path, by its content.

    Raises:
        FileNotFoundError: Nothing is there.
        ArtifactError: It is of no format that is known, or cut short.
    """
    put_back(path)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"nothing is at {path}.")
    facts.check(path)  # says best what is wrong with it, if it is ours
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            return "saved_model"
        found = [name for kind, name in FILES.items() if os.path.exists(os.path.join(path, name))]
        numbers = versions.versions(path)
        if found or numbers:
            inside = found or [str(number) for number in numbers]
            raise ArtifactError(f"{path} holds several artifacts: load one of {', '.join(inside)} in it.")
        raise ArtifactError(f"{path} is a folder, and no SavedModel: there is no saved_model.pb in it.")
    if zipfile.is_zipfile(path):
        return "keras"
    if h5py.is_hdf5(path):
        if hdf5.is_weights_alone(path):
            raise ArtifactError(f"{path} holds weights alone: call ckptkit.load_weights.")
        return "h5"
    if os.path.splitext(path)[1] in TEXTS:
        raise ArtifactError(f"{path} holds an architecture alone: call ckptkit.load_architecture.")
    raise ArtifactError(f"{path} is neither a .keras file nor HDF5 nor a SavedModel, or it was cut short.")


def text_of(path: str) -> str:
    """Return the format of an architecture, by the ending of its file.

    Raises:
        ValueError: It is another ending.
    """
    ending = os.path.splitext(path)[1]
    if ending not in TEXTS:
        raise ValueError(f"an architecture goes to a file that ends in .json, .yaml or .yml, got {path!r}.")
    return TEXTS[ending]


def why_not(model: keras.Model, kind: str) -> str | None:
    """Say why a model cannot be saved in a format, None if it can."""
    reason = hdf5.refusal(model) if kind == "h5" else None
    # A SavedModel serves without, and weights can be loaded by code.
    return reason if reason or kind in ("saved_model", "weights") else why_not_revived(model)
