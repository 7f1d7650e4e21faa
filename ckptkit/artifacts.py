"""Finished models as files: written, loaded again and compared, and only then visible at their path.

ckptkit.save_model(model, "export/digits.keras")           # or digits.h5, or a folder: export/digits
model = ckptkit.load_model("export/digits.keras")          # compiled, with its optimizer's state
ckptkit.save_weights(model, "export/digits.weights.h5")
ckptkit.save_architecture(model, "export/digits.yaml")
ckptkit.publish_version(model, "serving/digits")           # serving/digits/1, 2, 3 … for TensorFlow Serving

export/
  digits/            SavedModel, with assets.extra/model.keras and assets.extra/ckptkit.json
  digits.keras       with digits.keras.ckptkit.json: what it was made from, versions, checksums
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from ckptkit.errors import ExportError
from ckptkit.export import architecture, facts, saved_model, versions, weights
from ckptkit.export.formats import READERS, WRITERS, kind_at, kind_of, text_of, why_not
from ckptkit.export.names import FILES
from ckptkit.export.publishing import put_back, refuse_to_overwrite, replaced
from ckptkit.export.verification import Checks
from ckptkit.option_rules import VERBOSE
from ckptkit.progress import progress
from ckptkit.records import CheckpointRecord
from ckptkit.which_keras import NAME, keras

__all__ = [
    "load_architecture",
    "load_model",
    "load_weights",
    "publish_version",
    "save_architecture",
    "save_model",
    "save_weights",
    "write_all",
]


def save_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    overwrite: bool = False,
    verify: bool = True,
    input_signature: Any = None,
    source: CheckpointRecord | None = None,
    verbose: int = 1,
) -> str:
    """Save a whole model: architecture, weights, compile config and the optimizer's state.

    Args:
        model: Built. It stays as it is, whatever the format and the order of several.
        path: ``NAME.keras``, ``NAME.h5``, or a folder without an ending for a SavedModel. It appears in one step, when
            all is written and checked; until then an old one stays.
        format: ``"keras"``, ``"h5"`` or ``"saved_model"``; None goes by the ending.
        overwrite: Whether something that is at the path already is replaced.
        verify: Whether it is loaded again in a process of its own and compared with the live model: variables bit by
            bit, outputs at two batch sizes. That takes as long as starting TensorFlow does.
        input_signature: What the model takes, for the signature of a SavedModel and for made inputs: TensorSpecs in
            the structure of its inputs. None for what it was built with, and any batch size.
        source: Checkpoint that the model's values come from; it is noted with the artifact.
        verbose: 1 shows a bar on a terminal, and logs a line at the level INFO when it is done; 0 is silent.

    Returns:
        The path.

    Raises:
        ExportError: Something is there already, or what was written is not the model. Nothing is left behind.
        ValueError: The format is unknown or cannot hold this model, the model is not built, or an argument is out of
            its range.

    Example:
        >>> ckptkit.save_model(model, "export/digits.keras")
        'export/digits.keras'
        >>> ckptkit.save_model(model, "export/digits")  # a SavedModel, for any server
        'export/digits'
    """
    path = os.fspath(path).rstrip(os.sep)
    kind = kind_of(path, format)
    _require_possible(model, kind)
    _require_built(model)
    write = WRITERS[kind]
    return _save(
        model,
        path,
        kind,
        lambda to: write(model, to, input_signature),
        overwrite,
        verify,
        verbose,
        input_signature,
        source,
    )


def load_model(
    path: str | os.PathLike[str],
    *,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
    verbose: int = 1,
) -> Any:
    """Load a model that ``save_model`` or Keras has saved, in any format.

    Args:
        path: A ``.keras`` file, an HDF5 file, or the folder of a SavedModel.
        custom_objects: Your own classes and functions by name, if they are not registered.
        compile: Whether it is compiled as it was, with the optimizer's state.
        safe_mode: Whether code in the file, such as a Lambda layer's, is refused. The graph of a SavedModel that others
            wrote is loaded in any case.
        verbose: As of :func:`save_model`; a bar is shown for what is large.

    Returns:
        The model. Of a SavedModel that others wrote, a ``keras.layers.TFSMLayer``: it answers, and cannot be trained.

    Raises:
        FileNotFoundError: Nothing is there.
        ArtifactError: It is damaged, of another format, or needs a class or function that is not here.

    Example:
        >>> path = ckptkit.save_model(model, "digits.h5", verify=False)
        >>> again = ckptkit.load_model("digits.h5")
        >>> bool(np.all(again.predict(x, verbose=0) == model.predict(x, verbose=0)))
        True
    """
    path = os.fspath(path).rstrip(os.sep)
    with _loading(path, verbose):
        kind = kind_at(path)
        return READERS[kind](path, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode)


def save_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    verify: bool = True,
    verbose: int = 1,
) -> str:
    """Save the weights of a built model to a file.

    Args:
        model: Built.
        path: ``NAME.weights.h5`` or the older ``weights.h5``; appears in one step.
        overwrite: Whether a file that is there is replaced.
        verify: Whether the weights are loaded into a new model of the same architecture and compared.
        verbose: As of :func:`save_model`.

    Returns:
        The path.

    Raises:
        ExportError: A file is there already, or what was written are not the weights.
        ValueError: The ending is another one, or the model is not built.

    Example:
        >>> ckptkit.save_weights(model, "digits.weights.h5")
        'digits.weights.h5'
    """
    path = os.fspath(path).rstrip(os.sep)
    if not path.endswith("weights.h5"):
        raise ValueError(f"weights go to a file whose name ends in .weights.h5, got {path!r}.")
    _require_built(model)
    return _save(model, path, "weights", lambda to: weights.write(model, to), overwrite, verify, verbose)


def load_weights(model: keras.Model, path: str | os.PathLike[str], *, verbose: int = 1) -> None:
    """Load weights into a built model, all of them or none.

    Args:
        model: Built as it was when they were saved.
        path: A file that :func:`save_weights` or Keras has written, Keras 2's HDF5 among them.
        verbose: As of :func:`load_model`.

    Raises:
        FileNotFoundError: Nothing is there.
        ArtifactError: It is no file of weights, or damaged.
        CheckpointMismatchError: The weights do not fit the model; nothing was changed.
        ValueError: The model is not built.

    Example:
        >>> path = ckptkit.save_weights(model, "digits.weights.h5", verify=False)
        >>> history = model.fit(x, y, verbose=0)
        >>> ckptkit.load_weights(model, "digits.weights.h5")
    """
    path = os.fspath(path).rstrip(os.sep)
    with _loading(path, verbose):
        _require_file(path)
        facts.check(path)
        weights.read_into(model, path)


def save_architecture(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    verify: bool = True,
    verbose: int = 1,
) -> str:
    """Save what a model is made of, without its weights and what it was compiled with.

    Args:
        model: A model.
        path: ``NAME.json``, ``NAME.yaml`` or ``NAME.yml``; appears in one step.
        overwrite: Whether a file that is there is replaced.
        verify: Whether a model is made of it in a process of its own, and its variables compared in shape and dtype.
        verbose: As of :func:`save_model`.

    Returns:
        The path.

    Raises:
        ExportError: A file is there already, or another model comes of what was written.
        ValueError: The ending is another one.

    Example:
        >>> ckptkit.save_architecture(model, "digits.yaml")
        'digits.yaml'
    """
    path = os.fspath(path).rstrip(os.sep)
    kind = text_of(path)
    _require_possible(model, kind)
    return _save(model, path, kind, lambda to: architecture.write(model, to, kind), overwrite, verify, verbose)


def load_architecture(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, Any] | None = None, safe_mode: bool = True
) -> Any:
    """Make a new model of a file that ``save_architecture`` has written, with fresh weights.

    It is built as it was, and not compiled.

    Args:
        path: ``NAME.json``, ``NAME.yaml`` or ``NAME.yml``.
        custom_objects: Your own classes and functions by name, if they are not registered.
        safe_mode: Whether code in the file, such as a Lambda layer's, is refused.

    Raises:
        FileNotFoundError: Nothing is there.
        ArtifactError: It is no architecture, damaged, or needs a class or function that is not here.

    Example:
        >>> path = ckptkit.save_architecture(model, "digits.json", verify=False)
        >>> ckptkit.load_architecture("digits.json").count_params() == model.count_params()
        True
    """
    path = os.fspath(path).rstrip(os.sep)
    kind = text_of(path)
    _require_file(path)
    facts.check(path)
    return architecture.read(path, kind, custom_objects=custom_objects, safe_mode=safe_mode)


def publish_version(
    model: keras.Model,
    base_dir: str | os.PathLike[str],
    *,
    version: int | None = None,
    max_versions: int | None = None,
    labels: Sequence[str] = (),
    verify: bool = True,
    input_signature: Any = None,
    source: CheckpointRecord | None = None,
    verbose: int = 1,
) -> int:
    """Publish a model as the next version below a folder that TensorFlow Serving polls.

    That is ``base_dir/1``, ``/2`` and so on. A version appears in one step, whole and checked, whoever else is
    publishing. ``ckptkit.versions`` lists, labels and rolls back.

    Args:
        model: Built.
        base_dir: Folder of the versions; made if it is missing.
        version: Number to take; None for the next free one.
        max_versions: How many to keep; older ones that carry no label are deleted.
        labels: Names for this version, such as ``"stable"``; they leave the version that had them.
        verify: As of :func:`save_model`.
        input_signature: As of :func:`save_model`.
        source: As of :func:`save_model`.
        verbose: As of :func:`save_model`.

    Returns:
        The number.

    Raises:
        ExportError: The number is taken, or what was written is not the model. Nothing is left behind.
        ValueError: An argument is out of its range, or the model is not built.

    Example:
        >>> ckptkit.publish_version(model, "serving/digits", max_versions=3, labels=["stable"])
        1
        >>> ckptkit.versions.path_of("serving/digits", "stable")
        'serving/digits/1'
    """
    _require_built(model)
    notes, base_dir = _facts(source), os.fspath(base_dir)
    told, verbose = (f"publishing {base_dir}", f"published {base_dir}"), VERBOSE.take("verbose", verbose)
    with progress(*told, steps=2 + verify, verbose=verbose) as work:

        def write(folder: str) -> None:
            how = (verify, input_signature, work.step)
            noted = write_all(model, folder, ("saved_model",), notes, *how, is_version=True)
            work.size_bytes = facts.size_of(noted["files"])

        number = versions.publish(base_dir, write, version=version, max_versions=max_versions, labels=labels)
        work.done = f"published version {number} of {base_dir}"
    return number


def write_all(
    model: keras.Model,
    folder: str,
    kinds: Sequence[str],
    notes: Mapping[str, Any],
    verify: bool,
    input_signature: Any,
    step: Callable[[str], None],
    *,
    is_version: bool = False,
) -> dict[str, Any]:
    """Write a model in several formats to a new folder, check them all at once, and return the facts.

    Args:
        model: Built.
        folder: Is not there yet.
        kinds: Some of :data:`FILES`.
        notes: What to note with a SavedModel.
        verify: Whether they are checked.
        input_signature: What the model takes, or None.
        step: Called with the name of each step.
        is_version: Whether the folder is the SavedModel itself, and the other files lie in its ``assets.extra``.

    Raises:
        ExportError: One of them could not be written, or is not the model.
    """
    extra = os.path.join(folder, saved_model.EXTRA) if is_version else folder
    places = {
        kind: folder if is_version and kind == "saved_model" else os.path.join(extra, FILES[kind]) for kind in kinds
    }
    checks = Checks(model, input_signature) if verify else None
    if not is_version:
        os.makedirs(folder)
    for kind in sorted(kinds, key=lambda kind: kind != "saved_model"):  # first: it makes its folder itself
        step(f"writing {kind}")
        _write(lambda to, kind=kind: WRITERS[kind](model, to, input_signature), places[kind], kind, folder)  # type: ignore[misc]
    verified: str | bool = False
    if checks is not None:
        step("loading it again")
        verified = checks.run([(place, kind) for kind, place in places.items()])
    step("noting checksums")
    noted = {**notes, "verified": verified}
    if "saved_model" in places:
        facts.write(
            facts.place_of(places["saved_model"]),
            {"kind": "saved_model", **noted, "files": facts.files_of(places["saved_model"])},
        )
    return {**noted, "files": facts.files_of(folder)}


def _save(
    model: keras.Model,
    path: str,
    kind: str,
    write: Callable[[str], None],
    overwrite: bool,
    verify: bool,
    verbose: int,
    input_signature: Any = None,
    source: CheckpointRecord | None = None,
) -> str:
    told = f"saving {os.path.basename(os.path.abspath(path))}", f"saved {path}"
    verbose = VERBOSE.take("verbose", verbose)
    put_back(path)
    refuse_to_overwrite(path, overwrite)
    checks = Checks(model, input_signature) if verify else None
    try:
        with (
            progress(*told, steps=2 + verify, verbose=verbose) as work,
            replaced(path, overwrite=overwrite, note=facts.BESIDE) as temporary,
        ):
            work.step("writing")
            _write(write, temporary, kind, path)
            verified: str | bool = False
            if checks is not None:
                work.step("loading it again")
                verified = checks.run([(temporary, kind)])
            work.step("noting checksums")
            noted = {"kind": kind, **_facts(source), "verified": verified, "files": facts.files_of(temporary)}
            work.size_bytes = facts.size_of(noted["files"])
            facts.write(facts.place_of(temporary), noted)
    except OSError as error:
        raise ExportError(f"could not write {kind} to {path}: {error}\nNothing was left at its path.") from error
    return path


@contextmanager
def _loading(path: str, verbose: int) -> Iterator[None]:
    verbose = VERBOSE.take("verbose", verbose)
    size = facts.size_at(path) if verbose else 0
    with progress(f"loading {os.path.basename(path)}", f"loaded {path}", size_bytes=size, steps=1, verbose=verbose):
        yield


def _write(write: Callable[[str], None], temporary: str, kind: str, path: str) -> None:
    try:
        write(temporary)
    except Exception as error:  # whatever Keras raises
        raise ExportError(f"could not write {kind} to {path}: {str(error).strip()}") from error


def _facts(source: CheckpointRecord | None) -> dict[str, Any]:
    made_from = None
    if source is not None:
        made_from = {
            "checkpoint": source.prefix,
            "run_id": source.run_id,
            "step": source.step,
            "epoch": source.epoch,
            "metrics": dict(source.metrics),
        }
    return {"source": made_from, "versions": {NAME: keras.__version__, "tensorflow": tf.__version__}}


def _require_possible(model: keras.Model, kind: str) -> None:
    reason = why_not(model, kind)
    if reason is not None:
        raise ValueError(f"{model.name} cannot be saved as {kind}: {reason}.")


def _require_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file is at {path}.")


def _require_built(model: keras.Model) -> None:
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on a batch, or fit it, before it is saved.")
