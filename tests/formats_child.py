"""Reads artifacts in a fresh process: ``python -m tests.formats_child READER FOLDER`` prints JSON.

READER is ``ckptkit``, ``keras`` (Keras alone) or ``serving`` (TensorFlow alone): modules are imported by the one that
needs them.
"""

import dataclasses
import json
import os
import sys
import traceback

WHOLE = {"saved_model": "saved_model", "h5": "model.h5", "keras": "model.keras"}
WEIGHTS = {"weights": "model.weights.h5", "old name": "weights.h5"}
TEXTS = {"json": "model.json", "yaml": "model.yaml"}
ORDERS = [("saved_model", "h5", "keras"), ("saved_model", "keras", "h5"), ("h5", "saved_model", "keras")]
ORDERS += [("h5", "keras", "saved_model"), ("keras", "saved_model", "h5"), ("keras", "h5", "saved_model")]
if os.environ.get("TF_USE_LEGACY_KERAS") == "1":  # each takes seconds: one order and its reverse
    ORDERS = [ORDERS[0], ORDERS[-1]]


def tried(function, *arguments):
    """Return what a function returns, or how it failed."""
    try:
        return function(*arguments)
    except Exception:
        return {"error": traceback.format_exc()}


def by_ckptkit(folder):
    """Load everything with ckptkit, and train on what is trained."""
    import ckptkit
    from tests.format_models import CASES, after_training, keras, outputs_of, state_of

    def whole(case, path):
        model = ckptkit.load_model(path, custom_objects=case.custom_objects)
        read = {"state": state_of(model), "outputs": outputs_of(model, case)}
        return {**read, "trained": after_training(model, case)} if case.is_trained else read

    def text(case, path):
        model = ckptkit.load_architecture(path, custom_objects=case.custom_objects)
        ckptkit.load_weights(model, os.path.join(os.path.dirname(path), WEIGHTS["weights"]))
        return {"state": state_of(model), "outputs": outputs_of(model, case)}

    def weights(case, path):
        model = case.make()
        ckptkit.load_weights(model, path)
        return {"state": state_of(model), "outputs": outputs_of(model, case)}

    found = {}
    for name, case in CASES.items():
        keras.backend.clear_session()
        for names, read in ((WHOLE, whole), (TEXTS, text), (WEIGHTS, weights)):
            for kind, file in names.items():
                path = os.path.join(folder, name, file)
                if os.path.exists(path):
                    found[f"{name}/{kind}"] = tried(read, case, path)
    untrained = dataclasses.replace(CASES["sequential"], is_trained=False)
    for name in map("-".join, ORDERS):
        for kind, file in WHOLE.items():
            found[f"{name}/{kind}"] = tried(whole, untrained, os.path.join(folder, name, file))
    return found


def by_keras(folder):
    """Load whole files with Keras alone."""
    from tests.format_models import CASES, keras, outputs_of, state_of, trained

    def read(case, path):
        model = keras.models.load_model(path, custom_objects=case.custom_objects)
        return {"state": state_of(model), "outputs": outputs_of(model, case)}

    found = {}
    for name, case in CASES.items():
        for kind in ("h5", "keras"):
            path = os.path.join(folder, name, WHOLE[kind])
            if os.path.exists(path):
                found[f"{name}/{kind}"] = tried(read, case, path)
    h5 = keras.models.load_model(os.path.join(folder, "sequential", WHOLE["h5"]))
    h5.run_eagerly = True  # as it was trained; and what is wrong is said in words
    found["training of h5"] = tried(trained, h5, CASES["sequential"], 1)
    return {**found, "modules": sorted(sys.modules)}


def by_serving(folder):
    """Ask SavedModels with TensorFlow alone, by both doors, and store the answers beside them."""
    sys.modules["keras"] = sys.modules["tf_keras"] = None  # TensorFlow imports it where it can
    import numpy as np
    import tensorflow as tf

    def ask(path):
        loaded = tf.saved_model.load(os.path.join(path, WHOLE["saved_model"]))
        signature = loaded.signatures["serving_default"]
        with open(os.path.join(path, "questions.json")) as file:
            questions = json.load(file)  # the structure of the inputs: a name, a list or a dict of them
        answers = {}
        for count in questions["batches"]:
            with np.load(os.path.join(path, f"questions-{count}.npz")) as arrays:
                named = {name: tf.constant(arrays[name]) for name in arrays.files}
            by_name = signature(**named)
            answers |= {f"{count}/signature/{name}": value.numpy() for name, value in by_name.items()}
            served = loaded.serve(tf.nest.map_structure(lambda name, named=named: named[name], questions["inputs"]))
            served = served if isinstance(served, dict) else {"": served}
            answers |= {f"{count}/serve/{name}": value.numpy() for name, value in served.items()}
        np.savez(os.path.join(path, "answers.npz"), **answers)
        return {"inputs": sorted(signature.structured_input_signature[1])}

    names = sorted(name for name in os.listdir(folder) if os.path.exists(os.path.join(folder, name, "questions.json")))
    found = {name: tried(ask, os.path.join(folder, name)) for name in names}
    return {**found, "modules": sorted(name for name, module in sys.modules.items() if module)}


def main(reader, folder):
    """Print what one reader found."""
    readers = {"ckptkit": by_ckptkit, "keras": by_keras, "serving": by_serving}
    print(json.dumps(readers[reader](folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
