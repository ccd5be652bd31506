"""Reads untrusted pickles of arrays without running code from the file."""

from __future__ import annotations

import codecs
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

KINDS = "biufcSUO"
"""Allowed kinds of numpy types: numbers, text, and objects that are themselves allowed."""


def load_arrays(path: Path) -> Any:
    """Read a pickle of numpy arrays, numbers, strings, and lists, tuples, sets and dictionaries of them.

    A pickle is a program that may call anything importable. Here it can use only constructors of arrays, and numpy's
    constructors, which trust the file's sizes and types, are replaced by ones that check them. Pickles of Python 2 are
    read too; their strings and keys are decoded as Latin-1.

    Args:
        path: the file, written by any version of numpy with any pickle protocol.

    Raises:
        ValueError: if the file uses anything else, or is not a complete pickle.
        FileNotFoundError: if the file does not exist.
    """
    with _clear_errors(path), Path(path).open("rb") as file:
        return _converted(_Unpickler(file, encoding="latin1").load())


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file; pickled objects are read like in `load_arrays`.

    Raises:
        ValueError: if the file uses anything else, or is damaged.
        FileNotFoundError: if the file does not exist.
    """
    arrays: dict[str, np.ndarray] = {}
    with _clear_errors(path), zipfile.ZipFile(path) as file:
        for name in file.namelist():
            member = io.BytesIO(file.read(name))
            if member_dtype(member).hasobject:
                array = _converted(_Unpickler(member, encoding="latin1").load())
            else:
                member.seek(0)
                array = np.load(member, allow_pickle=False)
            arrays[name.removesuffix(".npy")] = array
    return arrays


def member_dtype(member: IO[bytes]) -> np.dtype:
    """Return the dtype in the header of an ``.npy`` file."""
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(member)]
    dtype: np.dtype = read(member)[2]
    return dtype


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except _RefusedError as error:
        raise ValueError(
            f"{path} is not loaded: {error}, and a pickle may only hold numpy arrays, numbers, strings, and lists,"
            " tuples, sets and dictionaries of them. HINT: a pickle can run any program; ask for one of arrays alone,"
            " or for `.npz`."
        ) from None
    except Exception as error:  # damaged pickles raise nearly anything
        raise ValueError(
            f"{path} cannot be read as a pickle of arrays ({type(error).__name__}: {' '.join(str(error).split())})."
            " HINT: it may be cut off or of another format; get it again."
        ) from error


class _RefusedError(Exception):
    """The file contains something that is not allowed."""


class _Dtype:
    """Stands for a numpy dtype while a pickle is read."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name, self.order = _text(name), "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = {"|": "=", "": "="}.get(_text(state[1]), _text(state[1]))
        if any(part is not None for part in state[2:5]):
            raise _RefusedError("it holds arrays of records")

    def convert(self) -> np.dtype:
        dtype = np.dtype(self.order + self.name)
        if dtype.kind not in KINDS:
            raise _RefusedError(f"it holds arrays of type {dtype}")
        return dtype


class _Array:
    """Stands for an array while a pickle is read."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[tuple[int, ...], _Dtype, bool, Any] | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        shape, dtype, columns_first, content = state[-4:]
        self.state = (tuple(shape), dtype, bool(columns_first), content)

    def convert(self) -> np.ndarray:
        if self.state is None:
            raise ValueError("an array without content")
        shape, dtype_state, columns_first, content = self.state
        dtype = dtype_state.convert()
        if dtype.kind == "O":
            flat = np.empty(len(content), object)
            flat[:] = [_converted(element) for element in content]
        else:
            flat = np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype).copy()
        if prod(shape) != flat.size or any(side < 0 for side in shape):
            raise ValueError(f"an array of shape {shape} with {flat.size} elements")
        return flat.reshape(shape, order="F" if columns_first else "C")


def _from_buffer(content: Any, dtype: _Dtype, shape: Sequence[int], order: str) -> _Array:
    array = _Array()
    array.__setstate__((shape, dtype, order == "F", content))
    return array


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return _from_buffer(content, dtype, (1,), "C").convert()[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Encode text, as pickles of bytes from Python 3 in a protocol of Python 2 require."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise _RefusedError(f"it encodes text as {encoding}")
    return text.encode("latin1")


ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    **{f"builtins.{plain.__name__}": plain for plain in (set, frozenset, complex, bytes)},
}
"""Allowed names, and their replacements."""
RENAMED = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{RENAMED.get(module, module)}.{name}"
        if full_name not in ALLOWED:
            raise _RefusedError(f"it names `{module}.{name}`")
        return ALLOWED[full_name]


def _converted(content: Any) -> Any:
    """Replace `_Array` and `_Dtype` by arrays and dtypes, in containers of any depth."""
    if isinstance(content, _Array | _Dtype):
        return content.convert()
    if isinstance(content, dict):
        return {key: _converted(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return type(content)(_converted(element) for element in content)
    return content


def _text(content: str | bytes) -> str:
    return content.decode("latin1") if isinstance(content, bytes) else content
