"""Names of a model's tensors: from those that another program gave them to those of a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lpft.types import State

COUNTER = "num_batches_tracked"
"""Ending of BatchNorm's counters, which older files lack, and which no network here uses."""

Renames = Mapping[str, str | None]
"""Prefixes of names, and their replacements; None leaves the names out."""


def rename(state: State, renames: Renames) -> State:
    """Replace prefixes of the tensors' names; of several that match, the longest counts.

    Args:
        state: tensors by name.
        renames: prefixes and their replacements. The prefix ``""`` matches every name.

    Raises:
        ValueError: if a prefix matches no name, or two tensors would have the same name.

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
        old = max((old for old in renames if name.startswith(old)), key=len, default="")
        new = renames.get(old, "")
        if new is None:
            continue
        new += name.removeprefix(old)
        if new in renamed:
            raise ValueError(f"Two tensors would be named `{new}`. HINT: give one of them another name.")
        renamed[new] = tensor
    return renamed


def proposal(state: State, like: Mapping[str, Tensor], most: int = 12) -> dict[str, str | None] | None:
    """Guess the renames with which a model fits a network; None if there are none, or more than ``most``.

    Tensors are paired in their order if all shapes match, otherwise by shape and the number of parts that the ends of
    their names have in common. The number of classes of the head may differ. Tensors that the network does not have
    are left out: those before or behind the model, or those that no tensor of the network is paired with.

    >>> from torch import zeros
    >>> network = {"body.0.weight": zeros(4, 2), "head.weight": zeros(3, 4), "head.bias": zeros(3)}
    >>> proposal({"0.weight": zeros(4, 2), "fc.weight": zeros(9, 4), "fc.bias": zeros(9)}, network)
    {'': 'body.', 'fc.': 'head.'}
    >>> proposal({"0.weight": zeros(4, 2), "fc.weight": zeros(9, 4), "fc.bias": zeros(9), "loss.w": zeros(9)}, network)
    {'': 'body.', 'fc.': 'head.', 'loss.': None}
    """
    given, wanted = ({n: t for n, t in tensors.items() if not n.endswith(COUNTER)} for tensors in (state, like))
    names, extra = list(given), len(given) - len(wanted)
    in_order = [list(zip(names[start:], wanted, strict=False)) for start in range(extra + 1)]
    for pairs in (*in_order, _paired_by_name(given, wanted)):
        if not pairs or not all(_fits(new, given[old], wanted[new]) for old, new in pairs):
            continue
        kept = {old for old, _ in pairs}
        dropped = [name for name in names if name not in kept]
        renames: dict[str, str | None] = dict(sorted(_prefixes(old, new) for old, new in pairs))
        renames |= dict.fromkeys(sorted({_family(name, kept) for name in dropped}), None)
        if len(renames) <= most and _does(renames, state, pairs, like):
            return renames
    return None


def _does(renames: Renames, state: State, pairs: list[tuple[str, str]], like: Mapping[str, Tensor]) -> bool:
    """Return whether renames turn each tensor into the one it is paired with, and nothing else is left."""
    try:
        renamed = rename(state, renames)
    except ValueError:
        return False
    unknown = [name for name in renamed if name not in like]
    return not unknown and all(renamed.get(new) is state[old] for old, new in pairs)


def _family(name: str, kept: set[str]) -> str:
    """Return the shortest prefix, in whole parts, that a name shares with no name that is kept.

    >>> _family("loss.weight.0", {"net.weight"}), _family("scale", {"scales.weight"})
    ('loss.', 'scale')
    """
    parts = name.split(".")
    prefixes = [".".join(parts[:count]) + "." for count in range(1, len(parts))]
    return next((prefix for prefix in prefixes if not any(old.startswith(prefix) for old in kept)), name)


def _fits(name: str, tensor: Tensor, wanted: Tensor) -> bool:
    """Return whether a tensor has the wanted shape; in the head, except for the number of classes."""
    if name.startswith("head."):
        return tensor.dim() == wanted.dim() and tensor.shape[1:] == wanted.shape[1:]
    return tensor.shape == wanted.shape


def _paired_by_name(given: State, wanted: State) -> list[tuple[str, str]]:
    """Pair every wanted name with a given one, those that have most in common first."""
    common = [
        (-_common_end(old, new), place, old, new)
        for old in given
        for place, new in enumerate(wanted)
        if _fits(new, given[old], wanted[new])
    ]
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    for _, _, old, new in sorted(common):
        if old not in pairs and new not in taken:
            pairs[old] = new
            taken.add(new)
    return [(old, pairs[old]) for old in given if old in pairs] if len(pairs) == len(wanted) else []


def _common_end(old: str, new: str) -> int:
    """Count the parts that the ends of two names have in common.

    >>> _common_end("layer1.conv.weight", "body.layer1.conv.weight"), _common_end("fc.bias", "head.bias")
    (3, 1)
    """
    parts = list(zip(reversed(old.split(".")), reversed(new.split(".")), strict=False))
    return next((number for number, (a, b) in enumerate(parts) if a != b), len(parts))


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Remove the end that two names have in common.

    >>> _prefixes("layer1.conv.weight", "body.layer1.conv.weight"), _prefixes("fc.bias", "head.bias")
    (('', 'body.'), ('fc.', 'head.'))
    """
    count = _common_end(old, new)
    if count == 0:
        return old, new
    first, second = ("".join(f"{part}." for part in name.split(".")[:-count]) for name in (old, new))
    return first, second
