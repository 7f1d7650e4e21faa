"""The formats of artifacts by name: the file of each in a folder of several, and which an ending asks for.

FILES["h5"]         # "model.h5"
MODELS[".hdf5"]     # "h5"
"""

from __future__ import annotations

__all__ = ["FILES", "MODELS", "TEXTS"]

FILES = {
    "saved_model": "saved_model",
    "h5": "model.h5",
    "keras": "model.keras",
    "weights": "model.weights.h5",
    "json": "model.json",
    "yaml": "model.yaml",
}

# Endings of whole models, a folder has none, and of architectures.
MODELS = {".keras": "keras", ".h5": "h5", ".hdf5": "h5", "": "saved_model"}
TEXTS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
