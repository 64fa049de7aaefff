"""Arrays in NumPy's file format, from untrusted bytes."""

import io
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt


def load_npy(data: bytes) -> npt.NDArray[Any]:
    """The array of a .npy file; nothing larger than the file is allocated.

    Raises:
        ValueError: It is no such file, holds Python objects, or has another size than it says.
    """
    stream = io.BytesIO(data)
    try:
        # headers of Python 2 and metadata of types are read with a warning
        with warnings.catch_warnings(action="ignore"):
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, is_fortran, dtype = read_header(stream)
    except Exception as error:
        # the header is a Python expression, which fails in many ways
        raise ValueError(f"no header of an array: {type(error).__name__}: {error}") from error
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    found, count = len(data) - stream.tell(), math.prod(shape)
    if min((0, *shape)) < 0 or found != count * dtype.itemsize:
        raise ValueError(f"{found} bytes of data; expected {dtype} of shape {shape}")
    flat = np.frombuffer(data, dtype, count=count, offset=stream.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")
