"""An artifact is loaded again, by a process of its own, and compared with the live model before anyone sees it.

    checks = Checks(model, input_signature=None)
    checks.run([("export/.digits.tmp-1a2b3c4d", "saved_model")])     # raises ExportError, or says "child" or "here"

What is compared: every variable of model and optimizer, bit by bit and in order; outputs at two batch sizes; the kinds
of optimizer, loss and metrics; and of a SavedModel the outputs of its signature as well, loaded without Keras.

The child is ``python -m ckptkit.export.verification REQUEST.json``. It works on the CPU, and needs the user's own
classes from modules that it can import. If one is defined in ``__main__`` or inside a function it cannot, and the check
is made in this process: a script must not be run twice to check its result.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ckptkit import randomness
from ckptkit.errors import ExportError
from ckptkit.export import architecture, saved_model, weights
from ckptkit.export.custom_code import custom_objects_of, homes_of
from ckptkit.export.example import inputs_like, outputs_of, signature_of
from ckptkit.export.formats import READERS
from ckptkit.export.state import no_weights

__all__ = ["Checks", "main"]

_log = logging.getLogger("ckptkit")
_WHOLE = ("other variables", "optimizer", "optimizer variables", "compiled with")


class Checks:
    """What a live model is and answers, to compare artifacts with.

    Args:
        model: Built. It is called on made inputs, and left as it was.
        input_signature: What it takes; None for what it was built with.

    Raises:
        ExportError: It cannot be called on inputs of that kind.
    """

    def __init__(self, model: keras.Model, input_signature: Any = None) -> None:
        self._model = model
        self._facts = _facts_of(model)
        self._inputs = inputs_like(signature_of(model, input_signature))
        try:
            self._outputs = [outputs_of(model, inputs) for inputs in self._inputs]
        except Exception as error:  # the model's own code raises whatever it raises
            raise ExportError(
                f"{model.name} cannot be tried on inputs made for it: {str(error).strip()}\n"
                "Pass input_signature= with the shapes and dtypes that it takes, or verify=False."
            ) from error
        self._custom = custom_objects_of(model)
        self._tolerance = _tolerance_of(model)

    def run(self, artifacts: Sequence[tuple[str, str]]) -> str:
        """Load artifacts and compare them.

        Args:
            artifacts: Path and format of each.

        Returns:
            ``"child"`` or ``"here"``, for where it was done.

        Raises:
            ExportError: One of them is not the model; the message says where and by how much.
        """
        homes = homes_of(self._custom)
        request = {
            "artifacts": [list(each) for each in artifacts],
            "facts": self._facts,
            "architecture": architecture.model_to_json(self._model)
            if any(kind == "weights" for _, kind in artifacts)
            else "",
            "tolerance": self._tolerance,
        }
        if homes is None:
            _log.info("checked in this process: %s cannot be imported by another.", ", ".join(sorted(self._custom)))
            before = randomness.capture()  # a new layer draws its seed from them
            try:
                said = _compare(request, self._inputs, self._outputs, self._custom)
            finally:
                randomness.reinstate(before)
        else:
            said = self._ask_child({**request, "homes": homes})
        if said is not None:
            raise ExportError(f"{said}\nNothing was left at its path; the model itself is unharmed.")
        return "here" if homes is None else "child"

    def _ask_child(self, request: Mapping[str, Any]) -> str | None:
        with tempfile.TemporaryDirectory(prefix="ckptkit-") as folder:
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            templates = [keras.tree.map_structure(lambda leaf: _store(arrays, leaf), each) for each in self._inputs]
            names = [{name: _store(arrays, each) for name, each in outputs.items()} for outputs in self._outputs]
            np.savez(os.path.join(folder, "arrays.npz"), allow_pickle=False, **arrays)
            place = os.path.join(folder, "request.json")
            with open(place, "w", encoding="utf-8") as file:
                json.dump({**request, "inputs": templates, "outputs": names}, file)
            command = [sys.executable, "-m", "ckptkit.export.verification", place]
            done = subprocess.run(command, capture_output=True, text=True, env=_environment())
        lines = done.stdout.splitlines()
        if done.returncode != 0 or not lines:
            told = "\n".join(done.stderr.strip().splitlines()[-5:])
            return f"the process that was to check the artifacts ended with exit code {done.returncode}:\n{told}"
        said = json.loads(lines[-1])["said"]
        return None if said is None else str(said)


def main(place: str) -> None:
    """Answer a request of :class:`Checks`: print what is wrong as a line of JSON."""
    with open(place, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(os.path.join(os.path.dirname(place), "arrays.npz")) as arrays:
        inputs = [_filled(template, arrays) for template in request["inputs"]]
        outputs = [{name: arrays[at] for name, at in each.items()} for each in request["outputs"]]
    custom = {name: getattr(importlib.import_module(home), name) for name, home in request["homes"].items()}
    print(json.dumps({"said": _compare(request, inputs, outputs, custom)}))


def _compare(
    request: Mapping[str, Any],
    inputs: Sequence[Any],
    outputs: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    custom: Mapping[str, Any],
) -> str | None:
    """Return what is wrong with the first artifact that is not the model, None if all are."""
    for path, kind in request["artifacts"]:
        if kind == "saved_model" and not saved_model.is_whole(path):
            wrong = _other_answers(path, inputs, outputs, request["tolerance"])
            if wrong is not None:
                return f"the {kind} that was written is not the model: {wrong}"
            continue
        try:
            model = _load(path, kind, request["architecture"], custom)
        except Exception as error:  # whatever Keras raises
            return f"the {kind} that was written cannot be loaded again: {str(error).strip()}"
        wrong = _other_facts(kind, _facts_of(model), request["facts"])
        if wrong is None and kind not in ("json", "yaml"):
            wrong = _other_outputs(model, inputs, outputs, request["tolerance"])
        if wrong is None and kind == "saved_model":
            wrong = _other_answers(path, inputs, outputs, request["tolerance"])
        if wrong is not None:
            return f"the {kind} that was written is not the model: {wrong}"
    return None


def _load(path: str, kind: str, text: str, custom: Mapping[str, Any]) -> keras.Model:
    # Code that the model came with is the user's own: it has run here already.
    if kind in architecture.KINDS:
        return architecture.read(path, kind, custom_objects=custom, safe_mode=False)
    if kind == "weights":
        model = architecture.model_from_json(text, custom_objects=custom, safe_mode=False)
        weights.read_into(model, path)
        return model
    return READERS[kind](path, custom_objects=custom, safe_mode=False)


def _facts_of(model: keras.Model) -> dict[str, Any]:
    optimizer = model.optimizer if model.compiled else None
    return {
        "weights": [_digest(weight) for weight in model.weights],
        "other variables": [_digest(variable) for variable in no_weights(model)],
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "optimizer variables": [_digest(v) for v in optimizer.variables] if optimizer and optimizer.built else None,
        "compiled with": _compiled_with(model),
    }


def _compiled_with(model: keras.Model) -> Any:
    config = dict(model.get_compile_config() or {}) if model.compiled else {}
    return json.loads(json.dumps({key: config.get(key) for key in ("loss", "metrics", "weighted_metrics")}))


def _digest(variable: Any) -> dict[str, Any]:
    value = np.asarray(variable)
    digest = hashlib.sha256(value.tobytes()).hexdigest()[:16]
    return {"shape": list(value.shape), "dtype": value.dtype.name, "digest": digest, "path": variable.path}


def _other_facts(kind: str, found: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    is_text, is_whole = kind in architecture.KINDS, kind in READERS
    compared = ["weights", *(_WHOLE if is_whole else ())]
    for each in compared:
        if each in ("optimizer", "compiled with"):
            if found[each] != known[each]:
                return f"{each} is {found[each]} in it and {known[each]} in the model."
        elif known[each] is None:  # an optimizer that was not used yet; a loaded one is built
            continue
        elif (wrong := _other_variables(found[each], known[each], is_text)) is not None:
            return wrong
    return None


def _other_variables(found: Sequence[Any], known: Sequence[Any], is_text: bool) -> str | None:
    if len(found) != len(known):
        return f"it has {len(found)} variables instead of {len(known)}."
    for one, other in zip(found, known):
        for what in ("shape", "dtype", *(() if is_text else ("digest",))):
            if one[what] != other[what]:
                said = "other values" if what == "digest" else f"the {what} {one[what]} instead of {other[what]}"
                return f"{other['path']} has {said}."
    return None


def _other_outputs(model: Any, inputs: Any, outputs: Any, tolerance: float) -> str | None:
    for each, expected in zip(inputs, outputs):
        wrong = _difference(outputs_of(model, each), expected, tolerance)
        if wrong is not None:
            return wrong
    return None


def _other_answers(path: str, inputs: Any, outputs: Any, tolerance: float) -> str | None:
    served = tf.saved_model.load(path)
    for each, expected in zip(inputs, outputs):
        answer = served.serve(keras.tree.map_structure(tf.constant, each))
        answer = answer if isinstance(answer, dict) else {"": answer}
        leaves = {
            f"{n}{at or ''}": leaf for n, part in answer.items() for at, leaf in enumerate(keras.tree.flatten(part))
        }
        wrong = _difference({name: np.asarray(leaf) for name, leaf in leaves.items()}, expected, tolerance)
        if wrong is not None:
            return f"its signature: {wrong}"
    return None


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> str | None:
    if found.keys() != expected.keys():
        return f"it has the outputs {sorted(found)} instead of {sorted(expected)}."
    for name, known in expected.items():
        value, known = np.asarray(found[name]), np.asarray(known)
        where = f"output {name!r}" if name else "the output"
        if value.shape != known.shape:
            return f"{where} has the shape {value.shape} instead of {known.shape}."
        if known.dtype.kind not in "fc":
            if not np.array_equal(value, known):
                return f"{where} differs in {int(np.sum(value != known))} of {known.size} places."
            continue
        off = np.abs(value.astype("float64") - known.astype("float64"))
        off = np.where(np.isnan(value.astype("float64")) & np.isnan(known.astype("float64")), 0.0, off)
        most = float(np.max(np.abs(np.nan_to_num(known.astype("float64"))), initial=1e-6))
        if not float(np.max(off, initial=0.0)) <= tolerance * most:
            at = tuple(
                int(index) for index in np.unravel_index(int(np.argmax(np.nan_to_num(off, nan=np.inf))), off.shape)
            )
            return (
                f"{where} at {at} of a batch of {known.shape[0] if known.ndim else 1} is {value[at]} instead of "
                f"{known[at]}, {off[at] / most:.2g} of the largest value off; {tolerance:.2g} is allowed."
            )
    return None


def _tolerance_of(model: keras.Model) -> float:
    """Return how far outputs may be off, in parts of the largest: another process may add up in another order."""
    dtypes = {str(layer.compute_dtype) for layer in model._flatten_layers()}
    if dtypes & {"float16", "bfloat16"}:
        return 3e-2
    return 1e-4 if all("GPU" not in getattr(v.value, "device", "") for v in model.variables) else 1e-2


def _store(arrays: dict[str, np.ndarray[Any, Any]], value: Any) -> str:
    name = f"a{len(arrays)}"
    arrays[name] = np.asarray(value)
    return name


def _filled(template: Any, arrays: Mapping[str, Any]) -> Any:
    return keras.tree.map_structure(lambda name: arrays[name], template)


def _environment() -> dict[str, str]:
    here = [os.path.abspath(each) for each in sys.path if each != ""] + [os.getcwd()]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(here),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "tensorflow",
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
