"""Arrays of an .npz file that may be hostile: their sizes are known to fit before any memory is taken."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.errors import BundleError, one_line
from vl2v_deploy.regular_files import open_regular

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
MOST_BYTES = 1 << 30  # of all arrays of a file together
_MOST_ARRAYS = 1000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def arrays_of(path: Path) -> Arrays:
    """The arrays of an .npz file by name.

    Raises BundleError, which names the file, when it cannot be read or claims to be larger than the bounds.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_ARRAYS:
                raise ValueError(f"holds more than {_MOST_ARRAYS} arrays")
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ValueError(f"its arrays are larger than {MOST_BYTES:,} bytes")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Whatever a parser makes of other bytes: zipfile, zlib, numpy and ast have their own errors.
    except Exception as error:
        raise BundleError(f"{path}: its arrays cannot be read: {one_line(error)[:300]}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, once its header is known to describe no more than the file holds."""
    if entry.compress_type not in _METHODS:
        raise ValueError(f"{entry.filename!r} is not compressed by deflate")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"{entry.filename!r} is of numpy's format {version}, expected (1, 0) or (2, 0)")
        shape, _, dtype = read_header(file)
        if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(
                f"{entry.filename!r} claims shape {str(shape)[:60]}, which its bytes cannot hold"
            )
    with archive.open(entry) as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
