"""Model files of lpft: a state dict with a fingerprint of its settings and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lpft.storage.atomic import replacing
from lpft.storage.client_result import DamagedFileError
from lpft.types import State


def save_model(path: Path, state: State, fingerprint: str) -> None:
    """Write a state dict as safetensors, atomically, with the fingerprint of its settings and a checksum.

    Raises:
        OSError: if it cannot be written, as on a full disk.
    """
    # Copies, since safetensors refuses tensors that share their memory, as tied weights do.
    state = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    # One entry, since the order of several is not fixed.
    note = json.dumps({"fingerprint": fingerprint, "checksum": checksum(state, fingerprint)})
    with writing(path, SafetensorError), replacing(path) as temporary:
        save_file(state, temporary, metadata={"lpft": note})


@contextmanager
def writing(path: Path, error: type[Exception]) -> Iterator[None]:
    """Raise OSError with the path instead of the error that a library raises if it cannot write."""
    try:
        yield
    except error as cause:
        raise OSError(
            f"{path} cannot be written: {str(cause).splitlines()[0]}. HINT: check whether the disk is full"
        ) from cause


def load_model(path: Path) -> tuple[State, str]:
    """Load a file written by `save_model`.

    Returns:
        The state dict and the fingerprint of its settings.

    Raises:
        FileNotFoundError: if it does not exist.
        DamagedFileError: if it is truncated or was edited.
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


def checksum(state: State, note: str = "") -> str:
    """Hash names, types, shapes and values of a state dict, and a note."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
