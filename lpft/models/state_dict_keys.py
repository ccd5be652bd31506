"""Names of a model's tensors: from those that another program gave them to those of a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lpft.types import State

COUNTER = "num_batches_tracked"
"""Ending of BatchNorm's counters, which older files lack, and which no network here uses."""

Renames = Mapping[str, str | None]
"""What names begin with, and what they are to begin with instead; None: they are left out."""


def rename(state: State, renames: Renames) -> State:
    """Give tensors other names; of several beginnings that fit, the longest counts.

    Args:
        state: tensors by name.
        renames: beginnings and their replacements. The beginning ``""`` fits every name.

    Raises:
        ValueError: if a beginning fits no name, or two tensors would get the same.

    >>> list(rename({"conv1.weight": 1, "fc.bias": 2, "aux.bias": 3}, {"": "body.", "fc.": "head.", "aux.": None}))
    ['body.conv1.weight', 'head.bias']
    """
    unused = [old for old in renames if not any(name.startswith(old) for name in state)]
    if unused:
        raise ValueError(
            f"No name begins with `{unused[0]}`; there are {', '.join(list(state)[:10])}, ..."
            " HINT: remove it, or write it as in the file."
        )
    renamed: State = {}
    for name, tensor in state.items():
        old = max((old for old in renames if name.startswith(old)), key=len, default=None)
        new = name if old is None else _begun(name, old, renames[old])
        if new in renamed:
            raise ValueError(f"Two tensors would be named `{new}`. HINT: give one of them another name.")
        if new is not None:
            renamed[new] = tensor
    return renamed


def proposal(state: State, like: Mapping[str, Tensor], most: int = 12) -> dict[str, str] | None:
    """Guess the renames with which a model fits a network; None if there are none, or too many to be read.

    Tensors are paired in their order if all their shapes fit, else by shape and the most parts that their names have in
    common at the end. The head may be of another number of classes.

    >>> from torch import zeros
    >>> network = {"body.0.weight": zeros(4, 2), "head.weight": zeros(3, 4), "head.bias": zeros(3)}
    >>> proposal({"0.weight": zeros(4, 2), "fc.weight": zeros(9, 4), "fc.bias": zeros(9)}, network)
    {'': 'body.', 'fc.': 'head.'}
    """
    given, wanted = ({n: t for n, t in tensors.items() if not n.endswith(COUNTER)} for tensors in (state, like))
    if len(given) != len(wanted):
        return None
    in_order = list(zip(given, wanted, strict=True))
    for pairs in (in_order, _paired_by_name(given, wanted)):
        if not all(fits(new, given[old], wanted[new]) for old, new in pairs):
            continue
        renames = dict(sorted(_beginnings(old, new) for old, new in pairs))
        if len(renames) <= most and list(rename(given, renames)) == [new for _, new in pairs]:
            return renames
    return None


def fits(name: str, tensor: Tensor, wanted: Tensor) -> bool:
    """Tell whether a tensor has the wanted shape; in the head, but for the number of classes."""
    if name.startswith("head."):
        return tensor.dim() == wanted.dim() and tensor.shape[1:] == wanted.shape[1:]
    return tensor.shape == wanted.shape


def _begun(name: str, old: str, new: str | None) -> str | None:
    return None if new is None else new + name[len(old) :]


def _paired_by_name(given: State, wanted: State) -> list[tuple[str, str]]:
    """Pair every wanted name with a given one, those first that have most in common."""
    common = [
        (-_common_end(old, new), place, old, new)
        for old in given
        for place, new in enumerate(wanted)
        if fits(new, given[old], wanted[new])
    ]
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    for _, _, old, new in sorted(common):
        if old not in pairs and new not in taken:
            pairs[old] = new
            taken.add(new)
    return [(old, pairs[old]) for old in given if old in pairs] if len(pairs) == len(given) else []


def _common_end(old: str, new: str) -> int:
    """Count the parts of two names that are the same, from the end.

    >>> _common_end("layer1.conv.weight", "body.layer1.conv.weight"), _common_end("fc.bias", "head.bias")
    (3, 1)
    """
    parts = list(zip(reversed(old.split(".")), reversed(new.split(".")), strict=False))
    return next((number for number, (a, b) in enumerate(parts) if a != b), len(parts))


def _beginnings(old: str, new: str) -> tuple[str, str]:
    """Cut what two names have in common at the end.

    >>> _beginnings("layer1.conv.weight", "body.layer1.conv.weight"), _beginnings("fc.bias", "head.bias")
    (('', 'body.'), ('fc.', 'head.'))
    """
    count = _common_end(old, new)
    if count == 0:
        return old, new
    first, second = ("".join(f"{part}." for part in name.split(".")[:-count]) for name in (old, new))
    return first, second
