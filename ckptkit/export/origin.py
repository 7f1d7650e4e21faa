"""Which Keras wrote an artifact, and what to say to one that the Keras of this process cannot read.

    refuse_another("model.keras", "2.21.0")
    # ArtifactError: model.keras was written by Keras 2.21.0, and this process uses Keras 3.15.1, which cannot read it.
    # Set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, with tf_keras installed, and load it again.
    refuse_another("model.keras", None)               # nobody knows: it is tried

Source: https://keras.io/getting_started/#tensorflow--keras-2-backwards-compatibility
"""

from __future__ import annotations

from typing import Any

from ckptkit.errors import ArtifactError
from ckptkit.which_keras import IS_LEGACY, keras

__all__ = ["is_another", "refuse_another", "what_to_set"]


def is_another(version: Any) -> bool:
    """Say whether a version of Keras is known to be of the other of the two, Keras 2 or Keras 3."""
    return version is not None and _generation(version) != _generation(keras.__version__)


def refuse_another(path: str, version: Any) -> None:
    """Refuse an artifact that the other Keras has written.

    Raises:
        ArtifactError: It was written by that.
    """
    if is_another(version):
        raise ArtifactError(
            f"{path} was written by Keras {version}, and this process uses Keras {keras.__version__}, which cannot "
            f"read it.\n{what_to_set()}"
        )


def what_to_set() -> str:
    """Say how a process gets the other Keras."""
    if IS_LEGACY:
        return "Take TF_USE_LEGACY_KERAS out of the environment before TensorFlow is imported, and load it again."
    return "Set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, with tf_keras installed, and load it again."


def _generation(version: Any) -> str:
    return "3" if str(version).startswith("3") else "2"  # Keras 1 wrote files that Keras 2 reads
