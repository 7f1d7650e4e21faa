"""Short hashes of values, the same whether they are live, read back by TensorFlow, or read from a file without it."""

from collections import Counter

import numpy as np

from ckptkit.bundle import Bundle
from ckptkit.checksums import crc32c
from ckptkit.run_state import unpack

EXTRA = "_CKPTKIT/"  # keys of what was saved beside the objects
_PLACES = frozenset({"input", "inputs", "validation"})


def of(value):
    """Return the hash of a variable, tensor, array, text or bytes."""
    if isinstance(value, (str, bytes)):
        return _short(b"text", value.encode() if isinstance(value, str) else value)
    array = value.numpy() if hasattr(value, "numpy") else value
    if isinstance(array, bytes):
        return of(array)
    array = np.asarray(array)
    if array.dtype == object:  # TensorFlow's strings
        return of(array[()]) if array.ndim == 0 else _short(b"texts", *(of(each).encode() for each in array.flat))
    return _short(f"{array.dtype.name}{array.shape}".encode(), np.ascontiguousarray(array).reshape(-1).view("uint8"))


def of_variables(model):
    """Return the hashes of a compiled model's variables and of its optimizer's, in their order, without metrics."""
    return [of(variable) for variable in (*model.variables, *model.optimizer.variables)]


def of_state(state):
    """Return one hash of where a run stands: of what was saved beside the objects, but for its place in the data.

    There is more than one way to say the same place; a wrong one shows in what is trained from there.
    """
    name = next(name for name in ("run_state", "loop") if name in state)
    return _short(_told(unpack(state, name)).encode())


def in_file(prefix):
    """Return how often each hash occurs in a checkpoint, and the hash of what it holds beside the objects."""
    with Bundle(prefix) as bundle:
        values = {key: bundle.read(key) for key in bundle.entries}
    state = {key[len(EXTRA) :]: value for key, value in values.items() if key.startswith(EXTRA)}
    return Counter(of(value) for value in values.values()), of_state(state)


def _told(value):
    """Return a tree of plain values and arrays as text."""
    if isinstance(value, dict):
        return str([(key, _told(value[key])) for key in sorted(value, key=str) if key not in _PLACES])
    if isinstance(value, (list, tuple)):
        return str([_told(each) for each in value])
    return of(value) if hasattr(value, "dtype") else repr(value)


def _short(*parts):
    crc = 0
    for part in parts:
        crc = crc32c(part, crc32c(f"{len(part)} ".encode(), crc))
    return f"{crc:08x}"
