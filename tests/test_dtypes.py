"""Element types against TensorFlow's: names, numbers, sizes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptkit.dtypes import bytes_of, dtype_name, dtype_number, name_of, numpy_dtype
from ckptkit.errors import UnsupportedBundleError
from tests.bundle_cases import DTYPES

pytestmark = pytest.mark.core


def test_every_type_that_tensorflow_has_is_known_by_its_name_and_number():
    assert {dtype_name(dtype.as_datatype_enum): dtype.as_datatype_enum for dtype in DTYPES} == {
        dtype.name: dtype_number(dtype.name) for dtype in DTYPES
    }


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.size], ids=lambda dtype: dtype.name)
def test_an_array_takes_as_much_memory_as_a_tensor_and_goes_by_the_same_name(dtype):
    ours, theirs = numpy_dtype(dtype.name), np.dtype(dtype.as_numpy_dtype)
    assert ours.itemsize == theirs.itemsize
    assert name_of(theirs) == dtype.name
    if not dtype.name.startswith("q"):
        assert ours == theirs


@pytest.mark.parametrize("name", ["string", "variant"])
def test_elements_of_any_length_are_objects(name):
    assert numpy_dtype(name) == np.dtype(object)


@pytest.mark.parametrize("name", ["resource", "unknown-99", "float32_ref", "q", "", "finfo", "__doc__"])
def test_values_of_a_type_that_numpy_does_not_have_cannot_be_read(name):
    with pytest.raises(UnsupportedBundleError, match=f"values of dtype {name}: NumPy and ml_dtypes have no such type"):
        numpy_dtype(name)


def test_a_number_that_is_not_known_has_a_name_all_the_same():
    assert dtype_name(99) == "unknown-99"


def test_a_name_that_is_not_known_has_no_number():
    with pytest.raises(ValueError, match=r"no TensorFlow dtype is called 'float23' \(there are: bfloat16, bool, "):
        dtype_number("float23")


@pytest.mark.parametrize("dtype", ["U3", "S3", "datetime64[s]", "longdouble", [("a", "i4"), ("b", "i4")]], ids=str)
def test_an_array_of_a_type_that_tensorflow_does_not_have_has_no_name(dtype):
    with pytest.raises(ValueError, match=r"TensorFlow has no such type\. Convert it first"):
        name_of(np.dtype(dtype))


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, ml_dtypes.int4, bool, [("qint8", "i1")]], ids=str)
def test_the_bytes_of_an_array_are_its_own_memory(dtype, shape):
    array = np.zeros(shape, dtype)
    view = bytes_of(array)
    assert (view.nbytes, bytes(view), view.readonly) == (array.nbytes, array.tobytes(), False)
    view[:] = b"\1" * array.nbytes
    assert array.tobytes() == b"\1" * array.nbytes


def test_an_array_in_pieces_has_no_bytes_to_show():
    with pytest.raises(ValueError, match=r"array of shape \(2, 3\) does not lie in one piece"):
        bytes_of(np.zeros((3, 2)).T)
