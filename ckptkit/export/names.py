"""The formats of artifacts by name, and what the file of each is called in a folder of several.

FILES["h5"]      # "model.h5"
"""

from __future__ import annotations

__all__ = ["FILES"]

FILES = {
    "saved_model": "saved_model",
    "h5": "model.h5",
    "keras": "model.keras",
    "weights": "model.weights.h5",
    "json": "model.json",
    "yaml": "model.yaml",
}
