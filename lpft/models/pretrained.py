"""Networks of other libraries, taken apart into a body and a head."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpft.models.base import BodyHeadNet
from lpft.models.weights import checksum, fit_state
from lpft.types import DataSpec, State

log = logging.getLogger("lpft")


class SplitNet(BodyHeadNet):
    """A network cut before its last linear layer: the head is that layer, the body everything before it.

    The layers keep their names, below ``body``. The network takes three channels; grey images are repeated, so that
    weights of RGB networks mean the same. Images are normalised by the dataset's mean and std, not by those that the
    weights were trained with.

    Args:
        net: the whole network; it is changed.
        spec: channels, size and number of classes of the data.
        label: its name in messages.
        weights: state of the whole network, by its own names; None to leave it as it is.
        source: where the weights come from.
        new_head: leave the last layer as it is, even if the weights are of as many classes.

    Raises:
        ValueError: if its logits do not come from one linear layer, it cannot take such images, or the weights do not
            fit.
    """

    def __init__(
        self, net: nn.Module, spec: DataSpec, label: str, weights: State | None, source: str | None, new_head: bool
    ) -> None:
        super().__init__()
        name = head_name(net, spec, label)
        if weights is not None:
            _load(net, name, weights, source, new_head)
            self.weights_hash = checksum(weights)
        head = net.get_submodule(name)
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, nn.Identity())
        self.body = net
        self.head = head  # type: ignore[assignment]
        if spec.in_channels == 1:
            self.body.register_forward_pre_hook(_grey_to_rgb)


def head_name(net: nn.Module, spec: DataSpec, label: str) -> str:
    """Return the name of the linear layer whose output is the network's own.

    Nothing is computed: a copy without values runs, in training mode, where some networks return more than logits.

    Args:
        net: the network.
        spec: size of the images.
        label: the network's name in messages.

    Raises:
        ValueError: if there is no such layer, or the network cannot take such images.

    >>> head_name(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 5)), DataSpec(3, 2, 5), "a small one")
    '2'
    """
    size, seen = spec.image_size, list[tuple[str, Tensor, Tensor]]()
    probe = copy.deepcopy(net).to("meta").train()
    for name, module in probe.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, args, out, name=name: seen.append((name, args[0], out)))
    try:
        out = probe(torch.empty(2, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{label} cannot take images of {size}x{size} pixels ({str(error).splitlines()[0]})."
            " HINT: change the data's `image_size`, or tell the network of it where its library has a setting for that,"
            f" such as `settings: {{image_size: {size}}}` (torchvision) or `settings: {{img_size: {size}}}` (timm)."
        ) from error
    if not isinstance(out, Tensor):
        raise ValueError(
            f"{label} returns {type(out).__name__} in training, not logits alone."
            " HINT: turn other outputs off, such as by `settings: {aux_logits: false}`, or choose another network."
        )
    heads = [name for name, features, logits in seen if logits is out and features.dim() == 2]
    if not heads:
        raise ValueError(
            f"The logits of {label} do not come from a torch.nn.Linear, which body and head need."
            " HINT: choose another network; most residual, dense, mobile and transformer networks have one."
        )
    return heads[0]


def check_name(name: str, known: Sequence[str], library: str, listing: str) -> None:
    """Raise ValueError if a library has no classification network of this name.

    Args:
        name: the name.
        known: those that it has.
        library: its name.
        listing: the call that lists them.
    """
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"perhaps {' or '.join(close)} is meant; " if close else ""
        raise ValueError(f"{library} has no classification network `{name}`. HINT: {hint}`{listing}` lists all.")


def check_settings(label: str, settings: dict[str, Any], taken: Sequence[str]) -> None:
    """Raise ValueError if settings of a library's network are among those that follow from other settings."""
    for key in settings:
        if key in taken:
            raise ValueError(
                f"`settings.{key}` of {label} cannot be given."
                " HINT: channels and classes follow from the data; a file of weights is named by `weights`."
            )


def _load(net: nn.Module, head: str, state: State, source: str | None, new_head: bool) -> None:
    """Write a state into the whole network, the last layer if it is of as many classes."""
    like, weight = net.state_dict(), state.get(f"{head}.weight")
    other = weight is not None and weight.shape[:1] != like[f"{head}.weight"].shape[:1]
    if weight is not None and other:
        log.info("%s is of %d classes: the network gets a new head", source, len(weight))
    if new_head or other:
        state, like = ({name: t for name, t in s.items() if not name.startswith(f"{head}.")} for s in (state, like))
    net.load_state_dict(fit_state(state, like, f"The weights {source}"), strict=False)


def _grey_to_rgb(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat the one channel of images ``(batch, 1, size, size)``."""
    images, *rest = args
    return images.expand(-1, 3, -1, -1), *rest
