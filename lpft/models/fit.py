"""Checks that the tensors of another program's model fit a network, with hints if they do not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lpft.models.foreign_checkpoints import read_state
from lpft.models.state_dict_keys import COUNTER, Renames, proposal, rename
from lpft.types import State


def read_weights(
    path: str | Path,
    like: Mapping[str, Tensor],
    renames: Renames | None = None,
    new_head: bool = False,
    entry: str | None = None,
) -> State:
    """Read another program's model, and check that it fits the network.

    Arrays without names, as saved by Flower, are assigned in the order of the network's state dict.

    Args:
        path: a file that `read_state` can read.
        like: state dict of the network.
        renames: prefixes of names in the file, and their replacements in the network.
        new_head: whether to leave out the file's head, of any shape; then the result has no head.
        entry: name of the entry of the file that contains the model.

    Returns:
        The state, in the types of `like`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be read, or names or shapes differ; the message lists the differences, and proposes
            renames or a new head if these help.
    """
    unrenamed = read_state(path, entry)
    source = f"The model file {path}"
    if not renames and all(re.fullmatch(r"arr_\d+", name) for name in unrenamed):
        unrenamed = _named_in_order(unrenamed, like, source)
    try:
        state = rename(unrenamed, renames or {})
    except ValueError as error:
        raise ValueError(f"{source} does not fit `federation.init_map`: {error}") from error
    hint = _hint(unrenamed, state, like, new_head)
    if new_head:
        state, like = _headless(state), _headless(like)
    return fit_state(state, like, source, hint)


def fit_state(state: State, like: Mapping[str, Tensor], source: str, hint: str = "") -> State:
    """Check that a state fits a network.

    BatchNorm's counters, which older files lack, may be missing or have any shape and type: unless a counter is a
    single number, it becomes 0.

    Args:
        state: the tensors.
        like: state dict of the network, or the required part of it.
        source: description of their origin.
        hint: hint of the error message.

    Returns:
        The state, in the order and with the types of `like`.

    Raises:
        ValueError: if names, shapes or kinds of numbers differ, or values are not finite; the message lists which.
    """
    complete = _with_counters(state, like)
    differences = _differences(complete, like)
    if differences:
        hint = hint or "choose the network whose layers have these names and shapes, or rename the file's entries."
        raise ValueError(f"{source} does not fit the network:{_listed(differences)}\nHINT: {hint}")
    problems = [line for name, t in like.items() for line in _value_problems(name, complete[name], t)]
    if problems:
        raise ValueError(
            f"{source} cannot be used:{_listed(problems)}\nHINT: save the model before training diverges, as"
            " floating-point numbers."
        )
    return {name: complete[name].to(like[name].dtype) for name in like}


def _named_in_order(arrays: State, like: Mapping[str, Tensor], source: str) -> State:
    """Assign unnamed arrays to the network's tensors in their order, with or without its counters."""
    values = [arrays[name] for name in sorted(arrays, key=lambda name: int(name.removeprefix("arr_")))]
    for names in (list(like), [name for name in like if not name.endswith(COUNTER)]):
        if len(names) == len(values):
            return dict(zip(names, values, strict=True))
    statistics = [name for name in like if name.endswith((COUNTER, "running_mean", "running_var"))]
    missing = (
        " The number of parameters fits: the statistics of BatchNorm are missing, which belong to the model."
        if len(values) == len(like) - len(statistics)
        else ""
    )
    shapes = [str(tuple(value.shape)) for value in values]
    raise ValueError(
        f"{source} contains {len(values)} arrays without names, but the network's state dict has {len(like)} tensors."
        f"{missing} The arrays' shapes: {', '.join(shapes[:20])}{', ...' * (len(shapes) > 20)}."
        " HINT: choose the same network, or save the whole state dict with names:"
        " `numpy.savez(path, **{name: t.numpy() for name, t in net.state_dict().items()})`."
    )


def _with_counters(state: State, like: Mapping[str, Tensor]) -> State:
    """Convert every counter of BatchNorm to a single integer, 0 if it is missing."""
    counters = {name: _counter(state.get(name), t) for name, t in like.items() if name.endswith(COUNTER)}
    return {**state, **counters}


def _counter(saved: Tensor | None, like: Tensor) -> Tensor:
    value = float(saved) if saved is not None and saved.numel() == 1 and not saved.is_complex() else 0.0
    return torch.full_like(like, round(value) if math.isfinite(value) else 0, device="cpu")


def _hint(unrenamed: State, state: State, like: Mapping[str, Tensor], new_head: bool) -> str:
    """Return a hint for a state that does not fit; empty if there is no simple remedy."""
    without_head = _headless(like)
    if not new_head and not _differences(_with_counters(_headless(state), without_head), without_head):
        return (
            "for a new head, whose initial values depend on the seed, set `--federation.init_head new`;"
            " otherwise choose data with the same classes."
        )
    renames = proposal(unrenamed, like)
    if renames is None and new_head:
        renames = proposal(unrenamed, without_head)
    if renames is None:
        return ""
    changed = rename(unrenamed, renames)
    other_head = not new_head and any(
        name in changed and changed[name].shape != t.shape for name, t in like.items() if name.startswith("head.")
    )
    return (
        f"the shapes fit with `--federation.init_map '{json.dumps(renames)}'`"
        + (", and a new head, `--federation.init_head new`" if other_head else "")
        + ". Check it: layers of the same shape could be mixed up."
    )


def _headless(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def _differences(state: State, like: Mapping[str, Tensor]) -> list[str]:
    lines = [f"missing in the file: {name} {tuple(like[name].shape)}" for name in like if name not in state]
    lines += [f"unknown to the network: {name} {tuple(state[name].shape)}" for name in state if name not in like]
    lines += [
        f"other shape: {name} is {tuple(state[name].shape)}, the network needs {tuple(like[name].shape)}"
        for name in like
        if name in state and state[name].shape != like[name].shape
    ]
    return lines


def _value_problems(name: str, tensor: Tensor, like: Tensor) -> list[str]:
    if tensor.device.type == "meta":
        return [f"no values: {name}"]
    if like.is_floating_point() and not tensor.is_floating_point():
        return [f"no floating-point numbers: {name} is {str(tensor.dtype).removeprefix('torch.')}"]
    if not tensor.isfinite().all():
        return [f"not finite: {name} has NaN or infinity"]
    return []


def _listed(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines[:20]) + ("\n  ..." if len(lines) > 20 else "")
