"""An artifact is loaded again, by a process of its own, and compared with the live model before anyone sees it.

    checks = Checks(model, input_signature=None)
    checks.run([("export/.digits.tmp-1a2b3c4d", "saved_model")])     # raises ExportError, or says "child" or "here"

What is compared: every variable of model and optimizer, bit by bit and in order; outputs at two batch sizes; the kinds
of optimizer, loss and metrics; and of a SavedModel the outputs of its signature as well, loaded without Keras.

The child works on the CPU, and needs the user's own classes from modules that it can import. If one is defined in
``__main__``, in a function or in a module that is being imported, it cannot, and the check is made in this process: a
script must not be run twice to check its result.
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

import numpy as np
import tensorflow as tf

from ckptkit import randomness
from ckptkit.errors import ExportError
from ckptkit.export import architecture, hdf5, saved_model, weights
from ckptkit.export.compiled import is_built, is_compiled, optimizer_of, variables_of
from ckptkit.export.custom_code import custom_objects_of, homes_of, why_not_revived
from ckptkit.export.example import by_name, inputs_like, outputs_of, signature_of
from ckptkit.export.formats import READERS
from ckptkit.export.state import name_of, no_weights, weights_of
from ckptkit.which_keras import IS_LEGACY, keras, tree, unwrapped

__all__ = ["Checks", "main"]

_log = logging.getLogger("ckptkit")
_MASK = 1e6  # numbers as large as those that masks put in the place of logits say nothing of the others
_ANSWER = "answer.json"
_CHECKING = "CKPTKIT_CHECKING"  # in the child: so that what it imports starts no check of its own
# Its own path first: the folder it runs in must not hide a module.
_CHILD = """import sys, os
sys.path[:] = sys.argv[2].split(os.pathsep)
from ckptkit.export.verification import main
main(sys.argv[1])
os._exit(0)  # the answer is written: to take TensorFlow down takes a second
"""
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
        try:
            self._facts = _facts_of(model)
        except Exception as error:  # whatever Keras raises at what it cannot describe
            raise ExportError(
                f"what {model.name} is compiled with cannot be described: {str(error).strip()}"
            ) from error
        self._inputs = inputs_like(signature_of(model, input_signature))
        try:
            self._outputs = [outputs_of(model, inputs) for inputs in self._inputs]
        except Exception as error:  # the model's own code raises whatever it raises
            raise ExportError(
                f"{model.name} cannot be tried on inputs made for it: {str(error).strip()}\n"
                "Pass input_signature= with the shapes and dtypes that it takes, or verify=False. A call with several "
                "arguments cannot be tried: let it take them as one dict or list."
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
        if os.environ.get(_CHECKING):
            raise ExportError(
                "a module that was imported to check an artifact saves a model itself, when it is imported.\n"
                'Put what it does under: if __name__ == "__main__":'
            )
        files = [path for path, kind in artifacts if kind == "weights"]
        into_a_new_one = bool(files) and self._is_made_again()
        alone = [] if into_a_new_one else files
        said = self._wrong_weights(alone)
        whole = [each for each in artifacts if each[0] not in alone]
        request = {
            "artifacts": [list(each) for each in whole],
            "facts": self._facts,
            "architecture": architecture.model_to_json(self._model) if into_a_new_one else "",
            "tolerance": self._tolerance,
            "floatx": keras.backend.floatx(),
        }
        where = "here"
        if said is None and whole:
            where, said = self._ask(request)
        if said is not None:
            raise ExportError(
                f"{said}\nNothing was left at its path; the model itself is unharmed. verify=False saves it unchecked."
            )
        return where

    def _is_made_again(self) -> bool:
        """Whether its architecture alone makes the model: with no class of the user's in the way, and no vocabulary."""
        return why_not_revived(self._model) is None and not any(map(hdf5.has_assets, self._model._flatten_layers()))

    def _wrong_weights(self, paths: Sequence[str]) -> str | None:
        for path in paths:
            if not weights.holds(path, self._model):
                return "the weights that were written are not those of the model."
        return None

    def _ask(self, request: Mapping[str, Any]) -> tuple[str, str | None]:
        homes = homes_of(self._custom)
        if homes is not None:
            answer = self._ask_child({**request, "homes": homes})
            if "cannot" not in answer:
                return "child", answer["said"]
            _log.info("checked in this process: another one cannot import what it needs (%s).", answer["cannot"])
        else:
            _log.info("checked in this process: %s cannot be imported by another.", ", ".join(sorted(self._custom)))
        before = randomness.capture()  # a new layer draws its seed from them
        try:
            return "here", _compare(request, self._inputs, self._outputs, self._custom)
        finally:
            randomness.reinstate(before)

    def _ask_child(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="ckptkit-") as folder:
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            templates = [tree.map_structure(lambda leaf: _store(arrays, leaf), each) for each in self._inputs]
            names = [{name: _store(arrays, each) for name, each in outputs.items()} for outputs in self._outputs]
            np.savez(os.path.join(folder, "arrays.npz"), **arrays)  # type: ignore[arg-type]  # NumPy before 2.1 takes no allow_pickle
            place = os.path.join(folder, "request.json")
            with open(place, "w", encoding="utf-8") as file:
                json.dump({**request, "inputs": templates, "outputs": names}, file)
            paths = os.pathsep.join([*_import_paths(), *(folder for _, _, folder in request["homes"].values())])
            command = [sys.executable, "-c", _CHILD, place, paths]
            done = subprocess.run(command, capture_output=True, text=True, env=_environment(), errors="replace")
            if done.returncode != 0:
                told = "\n".join(done.stderr.strip().splitlines()[-5:])
                code = done.returncode
                return {"said": f"the process that was to check the artifacts ended with exit code {code}:\n{told}"}
            with open(os.path.join(folder, _ANSWER), encoding="utf-8") as file:
                return dict(json.load(file))


def main(place: str) -> None:
    """Answer a request of :class:`Checks` in a file beside it: what is wrong, or what cannot be imported."""
    with open(place, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(os.path.join(os.path.dirname(place), "arrays.npz")) as arrays:
        inputs = [_filled(template, arrays) for template in request["inputs"]]
        outputs = [{name: arrays[at] for name, at in each.items()} for each in request["outputs"]]
    keras.backend.set_floatx(request["floatx"])
    try:
        homes = request["homes"].items()
        custom = {name: getattr(importlib.import_module(home), kind) for name, (home, kind, _) in homes}
        answer = {"said": _compare(request, inputs, outputs, custom)}
    except (ImportError, AttributeError, SystemExit) as error:
        answer = {"cannot": f"{type(error).__name__} {error}"}
    with open(os.path.join(os.path.dirname(place), _ANSWER), "w", encoding="utf-8") as file:
        json.dump(answer, file)


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
    optimizer = optimizer_of(model)
    has_slots = optimizer is not None and is_built(optimizer)
    return {
        "weights": [_digest(weight) for weight in weights_of(model)],
        "other variables": [_digest(variable) for variable in no_weights(model)],
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "optimizer variables": [_digest(v) for v in variables_of(optimizer)] if has_slots else None,
        "compiled with": _compiled_with(model),
    }


def _compiled_with(model: keras.Model) -> Any:
    config = dict(model.get_compile_config() or {}) if is_compiled(model) else {}
    kinds = {key: config.get(key) for key in ("loss", "metrics", "weighted_metrics")}
    return json.loads(json.dumps(kinds), object_hook=_without_code)


def _without_code(node: dict[str, Any]) -> dict[str, Any]:
    # The bytes of a lambda are not the same twice.
    return {"class_name": "__lambda__"} if node.get("class_name") == "__lambda__" else node


def _digest(variable: Any) -> dict[str, Any]:
    value = np.asarray(variable.numpy())
    digest = hashlib.sha256(value.tobytes()).hexdigest()[:16]
    return {"shape": list(value.shape), "dtype": value.dtype.name, "digest": digest, "path": name_of(variable)}


def _other_facts(kind: str, found: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    is_text, is_whole = kind in architecture.KINDS, kind in READERS
    compared = ["weights", *(_WHOLE if is_whole else ())]
    for each in compared:
        if each in ("optimizer", "compiled with"):
            if found[each] != known[each]:
                return f"{each} is {found[each]} in it and {known[each]} in the model."
        elif known[each] is None:  # an optimizer that was not used yet; a loaded one is built
            continue
        elif (wrong := _other_variables(each, found[each], known[each], is_text)) is not None:
            return wrong
    return None


def _other_variables(what: str, found: Sequence[Any], known: Sequence[Any], is_text: bool) -> str | None:
    if len(found) != len(known):
        return (
            f"it has {len(found)} {what} instead of {len(known)}. If layers were frozen or changed after compile(), "
            "compile the model again before it is saved."
        )
    for one, other in zip(found, known):
        for fact in ("shape", "dtype", *(() if is_text else ("digest",))):
            if one[fact] != other[fact]:
                said = "other values" if fact == "digest" else f"the {fact} {one[fact]} instead of {other[fact]}"
                return f"{other['path']} has {said}."
    return None


def _other_outputs(model: Any, inputs: Any, outputs: Any, tolerance: float) -> str | None:
    for each, expected in zip(inputs, outputs):
        wrong = _difference(outputs_of(model, each), expected, tolerance)
        if wrong is not None:
            return wrong
    return None


def _other_answers(path: str, inputs: Any, outputs: Any, tolerance: float) -> str | None:
    for each, expected in zip(inputs, outputs):
        served = tf.saved_model.load(path)  # anew: what keeps a state begins with that of the model each time
        answer = by_name(served.serve(tree.map_structure(tf.constant, each)))
        wrong = _difference(answer, expected, tolerance)
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
        off, allowed = _off(value, known, tolerance)
        if not np.all(off <= allowed):
            worst = np.argmax(np.nan_to_num(off, nan=np.inf) - allowed)
            at = tuple(int(index) for index in np.unravel_index(int(worst), off.shape))
            return (
                f"{where} at {at} of a batch of {known.shape[0] if known.ndim else 1} is {value[at]} instead of "
                f"{known[at]}; it may be off by {np.broadcast_to(allowed, off.shape)[at]:.2g}."
            )
    return None


def _off(value: Any, known: Any, tolerance: float) -> tuple[Any, Any]:
    """Return how far each number is off and may be: in parts of itself, and of the largest that is no mask's."""
    kind = "complex128" if known.dtype.kind == "c" else "float64"
    value, known = value.astype(kind), known.astype(kind)
    same = (value == known) | (np.isnan(value) & np.isnan(known))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(value - known))
    size = np.abs(np.where(np.isfinite(known), known, 0.0))
    ordinary = size[size < _MASK]
    return off, tolerance * (size + float(np.max(ordinary, initial=1e-6)))


def _tolerance_of(model: keras.Model) -> float:
    """Return how far outputs may be off, in parts of the largest: another process may add up in another order."""
    dtypes = {str(layer.compute_dtype) for layer in model._flatten_layers()}
    if dtypes & {"float16", "bfloat16"}:
        return 3e-2
    inside = map(unwrapped, weights_of(model))
    return 1e-4 if all("GPU" not in getattr(each, "device", "") for each in inside) else 1e-2


def _store(arrays: dict[str, np.ndarray[Any, Any]], value: Any) -> str:
    name = f"a{len(arrays)}"
    arrays[name] = np.asarray(value)
    return name


def _filled(template: Any, arrays: Mapping[str, Any]) -> Any:
    return tree.map_structure(lambda name: arrays[name], template)


def _import_paths() -> list[str]:
    return [os.path.abspath(each) for each in sys.path]  # the empty one is the folder that this runs in


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        _CHECKING: "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "tensorflow",
        "TF_USE_LEGACY_KERAS": "1" if IS_LEGACY else "0",  # as it was when Keras was imported here
    }
