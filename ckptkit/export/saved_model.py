"""TensorFlow's SavedModel: a folder that any server loads, for inference.

saved_model.write(model, "export/saved_model")
tf.saved_model.load("export/saved_model").serve(images)
"""

from __future__ import annotations

import keras

__all__ = ["write"]


def write(model: keras.Model, path: str) -> None:
    """Write a built model to a new folder, with an endpoint ``serve`` for any batch size.

    Raises:
        ValueError: The model was never built.

    Source: https://keras.io/api/models/model_saving_apis/export/
    """
    model.export(path, format="tf_saved_model", verbose=False)
