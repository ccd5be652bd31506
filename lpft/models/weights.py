"""Model files: ours, with fingerprint and checksum, and those that come from elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lpft.runs import DamagedFileError, replacing
from lpft.types import State


def save_model(path: Path, state: State, fingerprint: str) -> None:
    """Write a state dict as safetensors, atomically, with its settings' fingerprint and a checksum of its content.

    Raises:
        OSError: if it cannot be written, as on a full disk.
    """
    state = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    # One entry, since the order of several is not fixed.
    note = json.dumps({"fingerprint": fingerprint, "checksum": checksum(state, fingerprint)})
    with writing(path, SafetensorError), replacing(path) as temporary:
        save_file(state, temporary, metadata={"lpft": note})


@contextmanager
def writing(path: Path, error: type[Exception]) -> Iterator[None]:
    """Raise OSError with the path in place of the error that a library raises if it cannot write."""
    try:
        yield
    except error as cause:
        raise OSError(f"{path} cannot be written: {str(cause).splitlines()[0]}") from cause


def load_model(path: Path) -> tuple[State, str]:
    """Read a file that `save_model` wrote.

    Returns:
        The state dict, and the fingerprint of the settings it was made with.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: if it was cut off or edited.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no model {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})["lpft"])
        fingerprint, expected = str(note["fingerprint"]), note["checksum"]
        state: State = load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError("it is not a complete safetensors file") from error
    if expected != checksum(state, fingerprint):
        raise DamagedFileError("its checksum does not fit its content")
    return state, fingerprint


def checksum(state: State, note: str) -> str:
    """Hash names, types, shapes and values of a state dict, and what is noted beside it."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: str | Path, like: Mapping[str, torch.Tensor]) -> State:
    """Read a model that comes from elsewhere, and check that it fits the network.

    Args:
        path: a safetensors file, or a state dict saved by `torch.save`; pickled objects are refused.
        like: state dict of the network it has to fit.

    Returns:
        The state, in the types of `like`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or names or shapes differ; the message lists the differences.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}. HINT: give a .safetensors or a torch state dict.")
    try:
        if path.suffix == ".safetensors":
            state: State = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)  # type: ignore[assignment]
    except Exception as error:
        raise ValueError(
            f"The model file {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})."
            " HINT: save a plain state dict, `torch.save(net.state_dict(), path)`, or a safetensors file."
        ) from error
    differences = _differences(state, like)
    if differences:
        listed = "".join(f"\n  {line}" for line in differences[:20]) + ("\n  ..." if len(differences) > 20 else "")
        raise ValueError(
            f"The model file {path} does not fit the network:{listed}\n"
            "HINT: choose the `network` whose layers have these names and shapes, or rename the file's entries."
        )
    return {name: state[name].to(like[name].dtype) for name in like}


def _differences(state: State, like: Mapping[str, torch.Tensor]) -> list[str]:
    if not isinstance(state, Mapping) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        return ["it is not a mapping of names to tensors"]
    lines = [f"missing in the file: {name} {tuple(like[name].shape)}" for name in like if name not in state]
    lines += [f"unknown to the network: {name} {tuple(state[name].shape)}" for name in state if name not in like]
    lines += [
        f"other shape: {name} is {tuple(state[name].shape)}, the network needs {tuple(like[name].shape)}"
        for name in like
        if name in state and state[name].shape != like[name].shape
    ]
    return lines
