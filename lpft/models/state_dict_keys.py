"""Renaming the tensors of another program's model to their names in a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lpft.types import State

COUNTER = "num_batches_tracked"
"""Ending of the names of BatchNorm's counters, which older files lack."""

Renames = Mapping[str, str | None]
"""Prefixes of names, and their replacements; None leaves the names out."""


def rename(state: State, renames: Renames) -> State:
    """Replace prefixes of the tensors' names; the longest matching prefix applies.

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
            f"No name begins with `{unused[0]}`; the names are {', '.join(list(state)[:10])}, ..."
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
    """Guess the renames that make a model fit a network; None if there are none, or more than ``most``.

    Tensors are paired in their order if all shapes match, otherwise by shape and the number of parts that the ends of
    their names have in common. The number of classes of the head may differ. Tensors that the network does not have
    are left out: those before or after the model, or unpaired ones.

    >>> from torch import zeros
    >>> network = {"body.0.weight": zeros(4, 2), "head.weight": zeros(3, 4), "head.bias": zeros(3)}
    >>> proposal({"0.weight": zeros(4, 2), "fc.weight": zeros(9, 4), "fc.bias": zeros(9)}, network)
    {'': 'body.', 'fc.': 'head.'}
    >>> proposal({"0.weight": zeros(4, 2), "fc.weight": zeros(9, 4), "fc.bias": zeros(9), "loss.w": zeros(9)}, network)
    {'': 'body.', 'fc.': 'head.', 'loss.': None}
    """
    source, target = ({n: t for n, t in tensors.items() if not n.endswith(COUNTER)} for tensors in (state, like))
    names, extra = list(source), len(source) - len(target)
    in_order = [list(zip(names[start:], target, strict=False)) for start in range(extra + 1)]
    for pairs in (*in_order, _paired_by_name(source, target)):
        if not pairs or not all(_fits(new, source[old], target[new]) for old, new in pairs):
            continue
        paired = {old for old, _ in pairs}
        dropped = [name for name in names if name not in paired]
        renames: dict[str, str | None] = dict(sorted(_prefixes(old, new) for old, new in pairs))
        renames |= dict.fromkeys(sorted({_prefix_of_dropped(name, paired) for name in dropped}), None)
        if len(renames) <= most and _reproduces(renames, state, pairs, like):
            return renames
    return None


def _reproduces(renames: Renames, state: State, pairs: list[tuple[str, str]], like: Mapping[str, Tensor]) -> bool:
    """Return whether renames give each tensor the name that it is paired with, without any other tensors."""
    try:
        renamed = rename(state, renames)
    except ValueError:
        return False
    unknown = [name for name in renamed if name not in like]
    return not unknown and all(renamed.get(new) is state[old] for old, new in pairs)


def _prefix_of_dropped(name: str, paired: set[str]) -> str:
    """Return the shortest prefix of a name, in whole parts, that no paired name has.

    >>> _prefix_of_dropped("loss.weight.0", {"net.weight"}), _prefix_of_dropped("scale", {"scales.weight"})
    ('loss.', 'scale')
    """
    parts = name.split(".")
    prefixes = [".".join(parts[:count]) + "." for count in range(1, len(parts))]
    return next((prefix for prefix in prefixes if not any(old.startswith(prefix) for old in paired)), name)


def _fits(name: str, tensor: Tensor, target: Tensor) -> bool:
    """Return whether a tensor has the shape of the target; in the head, except for the number of classes."""
    if name.startswith("head."):
        return tensor.dim() == target.dim() and tensor.shape[1:] == target.shape[1:]
    return tensor.shape == target.shape


def _paired_by_name(source: State, target: State) -> list[tuple[str, str]]:
    """Pair each target name with a source name, those that have most in common first."""
    candidates = [
        (-_common_end(old, new), position, old, new)
        for old in source
        for position, new in enumerate(target)
        if _fits(new, source[old], target[new])
    ]
    pairs: dict[str, str] = {}
    used: set[str] = set()
    for _, _, old, new in sorted(candidates):
        if old not in pairs and new not in used:
            pairs[old] = new
            used.add(new)
    return [(old, pairs[old]) for old in source if old in pairs] if len(pairs) == len(target) else []


def _common_end(old: str, new: str) -> int:
    """Return the number of trailing parts that two names have in common.

    >>> _common_end("layer1.conv.weight", "body.layer1.conv.weight"), _common_end("fc.bias", "head.bias")
    (3, 1)
    """
    parts = list(zip(reversed(old.split(".")), reversed(new.split(".")), strict=False))
    return next((number for number, (a, b) in enumerate(parts) if a != b), len(parts))


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Remove the trailing parts that two names have in common.

    >>> _prefixes("layer1.conv.weight", "body.layer1.conv.weight"), _prefixes("fc.bias", "head.bias")
    (('', 'body.'), ('fc.', 'head.'))
    """
    count = _common_end(old, new)
    if count == 0:
        return old, new
    first, second = ("".join(f"{part}." for part in name.split(".")[:-count]) for name in (old, new))
    return first, second
