"""Model files: those of lpft, with fingerprint and checksum, and those of other programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lpft.models.state_dict_keys import COUNTER, Renames, proposal, rename
from lpft.storage.atomic import replacing
from lpft.storage.client_result import DamagedFileError
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
    """Raise OSError with the path instead of the error that a library raises if it cannot write."""
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


def checksum(state: State, note: str = "") -> str:
    """Hash names, types, shapes and values of a state dict, and a note."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(
    path: str | Path, like: Mapping[str, torch.Tensor], renames: Renames | None = None, new_head: bool = False
) -> State:
    """Read a model of another program, and check that it fits the network.

    Args:
        path: a file that `read_state` can read.
        like: state dict of the network.
        renames: prefixes of names in the file, and what replaces them in the network.
        new_head: leave the file's head out, of whatever shape; the result lacks it.

    Returns:
        The state, in the types of `like`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or names or shapes differ; the message lists the differences, and proposes
            renames or a new head where those would do.
    """
    as_read = read_state(path)
    source = f"The model file {path}"
    try:
        state = rename(as_read, renames or {})
    except ValueError as error:
        raise ValueError(f"{source} does not fit `federation.init_map`: {error}") from error
    hint = _hint(as_read, state, like, new_head)
    return (
        fit_state(_headless(state), _headless(like), source, hint) if new_head else fit_state(state, like, source, hint)
    )


def read_state(path: str | Path) -> State:
    """Read the tensors of a model of another program, by their names there.

    The state dict may be the entry `state_dict`, `model_state_dict` or `model` of a checkpoint. The prefix `module.` of
    data parallel training is removed.

    Args:
        path: a safetensors file, or a state dict saved by `torch.save`; pickled objects are refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is no mapping of names to tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}. HINT: give a .safetensors or a torch state dict.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"The model file {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})."
            f" HINT: {SAVE_HINT}"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        entries = f" with the entries {', '.join(map(str, list(state)[:10]))}" if isinstance(state, Mapping) else ""
        raise ValueError(
            f"The model file {path} holds a {type(state).__name__}{entries}, not tensors by their names."
            f" HINT: {SAVE_HINT}"
        )
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


SAVE_HINT = "save a plain state dict, `torch.save(net.state_dict(), path)`, or a safetensors file."
WRAPPERS = ("state_dict", "model_state_dict", "model")


def fit_state(state: State, like: Mapping[str, torch.Tensor], source: str, hint: str = "") -> State:
    """Check that a state fits a network; BatchNorm's counters, which older files lack, may be missing.

    Args:
        state: the tensors.
        like: state dict of the network, or the part of it that is wanted.
        source: description of their origin.
        hint: what to do if they do not fit.

    Returns:
        The state, in the order and the types of `like`.

    Raises:
        ValueError: if names or shapes differ; the message lists the differences.
    """
    complete = {**{name: torch.zeros_like(t) for name, t in like.items() if name.endswith(COUNTER)}, **state}
    differences = _differences(complete, like)
    if differences:
        listed = "".join(f"\n  {line}" for line in differences[:20]) + ("\n  ..." if len(differences) > 20 else "")
        hint = hint or "choose the network whose layers have these names and shapes, or rename the file's entries."
        raise ValueError(f"{source} does not fit the network:{listed}\nHINT: {hint}")
    return {name: complete[name].to(like[name].dtype) for name in like}


def _hint(as_read: State, state: State, like: Mapping[str, torch.Tensor], new_head: bool) -> str:
    """Return what to do about a state that does not fit; empty if nothing simple helps."""
    if not new_head and not _differences(_headless(state), _headless(like)):
        return (
            "for a new head, whose initial values depend on the seed, set `--federation.init_head new`;"
            " otherwise choose data with the classes that the model knows."
        )
    renames = proposal(as_read, like)
    if renames is None:
        return ""
    changed = rename(as_read, renames)
    other_head = not new_head and any(changed[name].shape != like[name].shape for name in changed if name in like)
    return (
        f"the shapes fit with `--federation.init_map '{json.dumps(renames)}'`"
        + (", and a new head, `--federation.init_head new`" if other_head else "")
        + ". See that it is right: layers of the same shape could be mixed up."
    )


def _headless(state: Mapping[str, torch.Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def _differences(state: State, like: Mapping[str, torch.Tensor]) -> list[str]:
    lines = [f"missing in the file: {name} {tuple(like[name].shape)}" for name in like if name not in state]
    lines += [f"unknown to the network: {name} {tuple(state[name].shape)}" for name in state if name not in like]
    lines += [
        f"other shape: {name} is {tuple(state[name].shape)}, the network needs {tuple(like[name].shape)}"
        for name in like
        if name in state and state[name].shape != like[name].shape
    ]
    return lines
