"""Reads the tensors of other programs' model files, by name. Pickled code is never executed."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lpft.storage.file_checks import check_content
from lpft.types import State

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Entries that contain the model in checkpoints with several entries."""
INSERTED = ("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names inserted by `torch.compile`, Lightning's Fabric and others."""
SAVE_HINT = "save a plain state dict, `torch.save(net.state_dict(), path)`, or a safetensors file."
NPZ_HINT = (
    "in the program that wrote it, save the tensors by their names in the network:"
    " `numpy.savez('weights.npz', **{name: array, ...})`."
)
NUMPY: tuple[Any, ...] = (np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0])
"""NumPy's functions that build unpickled arrays and scalars."""
HARMLESS: list[Any] = [
    (pathlib.PurePath, "pathlib.PosixPath"),
    (pathlib.PurePath, "pathlib.WindowsPath"),
    (pathlib.PurePath, "pathlib._local.PosixPath"),
    (pathlib.PurePath, "pathlib._local.WindowsPath"),
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    *((function, f"numpy.{core}.multiarray.{function.__name__}") for function in NUMPY for core in ("core", "_core")),
]
"""Classes in many checkpoints besides weights: paths, arguments, arrays. Building them runs no code of the file."""


def read_state(path: str | Path, entry: str | None = None) -> State:
    """Read the tensors of another program's model file, by name.

    The format is detected from the content: safetensors, torch, ``.npz``, or the index of a model in several files. In
    a checkpoint, the model is the entry `state_dict`, `model_state_dict` or `model`, or the only entry with a matrix.
    Name prefixes added by data parallel training or compilation are removed.

    Args:
        path: the file.
        entry: name of the entry that contains the model; names of nested entries are joined by dots.

    Returns:
        Dense tensors on the CPU; arrays without names are called ``arr_0``, ``arr_1``, ...

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be read, or contains no named tensors.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"There is no model file {path.absolute()}. HINT: give a .safetensors, a torch state dict or a .npz."
        )
    state = _model(_content(path), path, entry)
    names = [".".join(part for part in name.split(".") if part not in INSERTED) for name in state]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if len(set(names)) < len(names):
        names = list(state)
    return {name: _dense(tensor) for name, tensor in zip(names, state.values(), strict=True)}


# Formats


def _content(path: Path) -> Any:
    """Read the content of a file: nested mappings and lists of tensors and other values."""
    if path.name.endswith(".index.json"):
        return _sharded(path)
    try:
        check_content(path)
    except ValueError as error:
        raise ValueError(f"The model file {error}") from None
    with path.open("rb") as file:
        head = file.read(64)
    members = zipfile.ZipFile(path).namelist() if head.startswith(b"PK") and zipfile.is_zipfile(path) else []
    is_safetensors = head[8:9] == b"{"  # after eight bytes of length
    unsupported = None if is_safetensors else _unsupported_format(path, head, members)
    if unsupported:
        raise ValueError(f"The model file {path} {unsupported}")
    try:
        if is_safetensors or path.suffix == ".safetensors":
            return load_file(path)
        if head.startswith(b"\x93NUMPY") or any(name.endswith(".npy") for name in members):
            return _arrays(path)
        return _torch(path, members)
    except _UnreadableError as error:
        raise ValueError(f"The model file {path} {error}") from None
    except Exception as error:
        raise ValueError(
            f"The model file {path} cannot be read ({type(error).__name__}: {_first_line(error)}). HINT: {SAVE_HINT}"
        ) from error


class _UnreadableError(Exception):
    """The content of a valid file is not supported; the message describes it, with a hint."""


def _sharded(path: Path) -> State:
    """Read a model in several files, from an index file in the format of Hugging Face."""
    try:
        names: dict[str, str] = json.loads(path.read_text())["weight_map"]
        files = {file: read_state(path.parent / file) for file in dict.fromkeys(names.values())}
        return {name: files[file][name] for name, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of model files ({error}). HINT: {SAVE_HINT}") from error


def _unsupported_format(path: Path, head: bytes, members: list[str]) -> str | None:
    """Return a description of an unsupported format, with a hint; None for other formats."""
    if head.startswith(b"\x89HDF") or any(name.endswith(".h5") for name in members):
        return f"is HDF5, such as from Keras. HINT: {NPZ_HINT}"
    if path.suffix == ".onnx":
        return (
            "is ONNX. HINT: save its tensors: `import onnx, numpy;"
            f" tensors = onnx.load({str(path)!r}).graph.initializer;"
            " numpy.savez('weights.npz', **{t.name: onnx.numpy_helper.to_array(t) for t in tensors})`."
        )
    if path.suffix in (".pb", ".pbuf", ".proto"):
        return f"is a protocol buffer. HINT: {NPZ_HINT}"
    if any(name.endswith("/constants.pkl") for name in members):
        line = f"import torch; torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), 'weights.pt')"
        return f'is TorchScript, which is a program. HINT: if you trust it, save only the weights: python -c "{line}"'
    if head.startswith((b"\x80", b"\x78\x9c")) and LEGACY not in head:
        line = f"import pickle, torch; m = pickle.load(open({str(path)!r}, 'rb')); {_save_line()}"
        return f'is a pickle, which can run any code. HINT: if you trust it, save only the weights: python -c "{line}"'
    if members and not any(name.endswith(("/data.pkl", ".npy")) for name in members):
        return f"is a zip archive of {', '.join(members[:5])}, .... HINT: unpack it, and give the file of the model."
    if not members and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = archive.getnames()
        if {"storages", "tensors", "pickle"} <= set(members):
            return f"is of PyTorch before 0.4. HINT: if you trust it, save only the weights: {_resave(path, '')}"
        return f"is a tar archive of {', '.join(members[:5])}. HINT: unpack it, and give the file of the model."
    return None


LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Start of files of PyTorch before 1.6, after pickle's protocol."""


def _arrays(path: Path) -> Any:
    """Read NumPy arrays by name; object arrays raise an error."""
    savez = f"`numpy.savez({str(path.with_suffix('.npz'))!r}, *arrays)`"
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise _UnreadableError(
                f"contains one array of shape {content.shape}, not a model. HINT: save all of its arrays with {savez}."
            )
        with content:
            return {name: content[name] for name in content.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise _UnreadableError(
            "contains arrays of Python objects, which are pickled and can run any code, so they are not read."
            f" HINT: save the arrays of the list one by one, with {savez}."
        ) from None


def _torch(path: Path, members: list[str]) -> Any:
    """Read a file of `torch.save`: tensors, numbers, strings and safe classes; any others raise an error."""
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        with torch.serialization.safe_globals(HARMLESS):
            refused = (
                torch.serialization.get_unsafe_globals_in_checkpoint(path)
                if members
                else re.findall(r"GLOBAL ([\w.]+)", str(error))
            )
        if not refused:
            raise
        first, texts = _opcodes(path)
        key = next((wrapper for wrapper in WRAPPERS if wrapper in texts), None) if first == "EMPTY_DICT" else None
        raise _UnreadableError(
            f"cannot be read: it contains objects of {', '.join(sorted(refused)[:5])}, and pickled objects can run any"
            " code. HINT: if you trust the file, save only the weights, where the program that wrote it is installed:"
            f" {_resave(path, f'[{key!r}]' if key else '')}"
        ) from None


def _resave(path: Path, entry: str) -> str:
    load = f"m = torch.load({str(path)!r}, map_location='cpu', weights_only=False){entry}"
    return f'python -c "import torch; {load}; {_save_line()}"'


def _save_line() -> str:
    """Return code that saves the weights of ``m``, which may be a module or its state dict."""
    return "torch.save(getattr(m, 'state_dict', lambda: m)(), 'weights.pt')"


def _opcodes(path: Path) -> tuple[str, set[str]]:
    """Return the first instruction and the strings of the pickle in a torch file, without executing it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickled = io.BytesIO(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    else:
        pickled = io.BytesIO(path.read_bytes().split(LEGACY, 1)[-1])
    names, texts = list[str](), set[str]()
    with contextlib.suppress(ValueError):
        if not zipfile.is_zipfile(path):  # two smaller pickles come first
            for _ in range(2):
                list(pickletools.genops(pickled))
        for code, arg, _ in pickletools.genops(pickled):
            names.append(code.name)
            texts |= {arg} if isinstance(arg, str) else set()
    return next((name for name in names if name not in ("PROTO", "FRAME")), ""), texts


# Entries


def _model(content: Any, path: Path, entry: str | None) -> State:
    """Return the tensors of the model in the content of a file."""
    content = _at(content, entry.split("."), path) if entry else content
    while isinstance(content, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        content = content[wrapper]
    models = dict(_models(content))
    if len(models) > 1 and "" not in models:
        first = next((name for name in models if "server" in name or "global" in name), next(iter(models)))
        names = [f"{entry}.{name}" if entry else name for name in models]
        first = f"{entry}.{first}" if entry else first
        raise ValueError(
            f"The model file {path} contains several models: {', '.join(names[:10])}{', ...' * (len(names) > 10)}."
            f" HINT: choose one with `--federation.init_entry {first}`."
        )
    state = models.get("", next(iter(models.values()), None))
    if state is None:
        subject = f"The entry {entry} of the model file {path} is" if entry else f"The model file {path} contains"
        entries = f" with the entries {', '.join(map(str, list(content)[:10]))}" if isinstance(content, Mapping) else ""
        raise ValueError(f"{subject} a {type(content).__name__}{entries}, not tensors by name. HINT: {SAVE_HINT}")
    return state


def _at(content: Any, parts: list[str], path: Path) -> Any:
    """Return a nested entry; keys may contain dots."""
    if not parts:
        return content
    keys = {str(key): key for key in content} if isinstance(content, Mapping) else {}
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if key in keys:
            return _at(content[keys[key]], parts[count:], path)
    raise ValueError(
        f"The model file {path} has no entry `{'.'.join(parts)}`{' there' if keys else ''}."
        f" HINT: `federation.init_entry` can be {', '.join(list(keys)[:10]) or 'left out'}."
    )


def _models(content: Any, name: str = "") -> Iterator[tuple[str, State]]:
    """Yield all mappings with at least one matrix, except optimizers, with the names of their nested entries."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: tensor for key, value in content.items() if (tensor := _tensor(value)) is not None}
    if any(tensor.dim() > 1 for tensor in tensors.values()) or (tensors and len(tensors) == len(content)):
        yield name, tensors
    for key, value in content.items():
        if "optim" not in key.lower():
            yield from _models(value, f"{name}.{key}" if name else key)


def _tensor(value: Any) -> Tensor | None:
    """Return a tensor, or a numeric array as one; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    return value if isinstance(value, Tensor) else None


def _dense(tensor: Tensor) -> Tensor:
    """Return the values of a sparse or quantized tensor."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _first_line(error: Exception) -> str:
    """Return the first line of an error message without terminal control codes."""
    return next(iter(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()), "")
