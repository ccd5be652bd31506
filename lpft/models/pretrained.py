"""Networks of other libraries, divided into body and head."""

from __future__ import annotations

import copy
import difflib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.models.fit import fit_state
from lpft.models.foreign_checkpoints import read_state
from lpft.models.weights import checksum
from lpft.types import DataSpec, State

log = logging.getLogger("lpft")


class SplitNet(BodyHeadNet, ABC):
    """A classification network of a library; its last linear layer becomes the head, all other layers the body.

    Nothing is downloaded. Layers keep their names, below ``body``. The network takes three channels; the channel of
    grayscale images is repeated. Images are normalized with the dataset's mean and std, not with those with which the
    weights were trained. Subclasses specify the library and build the network.

    Args:
        spec: channels, size and number of classes of the data.
        name: the library's name of the network.
        weights: local file of pretrained weights with the library's names, safetensors or a torch state dict; null for
            random weights. Its last layer is used if it has as many classes as the data.
        new_head: whether to discard the last layer of the file even if its classes fit.
        settings: arguments of the library's function, such as ``{image_size: 64}`` for torchvision's ViTs and
            ``{img_size: 64}`` for timm's.

    Raises:
        FileNotFoundError: if the weights file does not exist.
        ValueError: if the network does not exist, its logits are not the output of one linear layer, or it does not fit
            the data or the weights.
    """

    library: str
    listing: str
    """Python call that lists all names."""
    derived: Sequence[str]
    """Arguments that must not be set, because they follow from the data or other settings."""

    def __init__(
        self,
        spec: DataSpec,
        name: str,
        weights: str | None = None,
        new_head: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=1)
        settings, label, names = settings or {}, f"{self.library}'s {name}", self.names()
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise ValueError(
                f"{self.library} has no classification network `{name}`. HINT: {hint}`{self.listing}` lists all."
            )
        for key in settings:
            if key in self.derived:
                raise ValueError(
                    f"`settings.{key}` of {label} cannot be set."
                    " HINT: channels and classes follow from the data; for a file of weights there is `weights`."
                )
        try:
            net = self.make(name, spec.num_classes, settings)
        except (TypeError, AssertionError) as error:
            raise ValueError(f"{label} cannot be built: {error}. HINT: correct the network's `settings`.") from error
        layer = head_name(net, spec, label)
        if weights is not None:
            state = self.renamed(read_state(weights))
            _load(net, layer, state, weights, new_head)
            self.weights_hash = checksum(state)
        parent, _, child = layer.rpartition(".")
        head = net.get_submodule(layer)
        assert isinstance(head, nn.Linear)
        setattr(net.get_submodule(parent), child, nn.Identity())
        self.body, self.head = net, head
        if spec.in_channels == 1:
            self.body.register_forward_pre_hook(_grey_to_rgb)

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the library's networks."""

    @abstractmethod
    def make(self, name: str, num_classes: int, settings: dict[str, Any]) -> nn.Module:
        """Build a network with random weights."""

    def renamed(self, state: State) -> State:
        """Rename the tensors of a weights file to their names in the network."""
        return state


def head_name(net: nn.Module, spec: DataSpec, label: str) -> str:
    """Return the name of the linear layer whose output is the network's output.

    A copy runs on the meta device, in training mode, in which some networks return more than logits.

    Args:
        net: the network.
        spec: size of the images.
        label: name of the network in messages.

    Raises:
        ValueError: if there is no such layer, or the network cannot take such images.

    >>> head_name(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 5)), DataSpec(3, 2, 5), "a network")
    '2'
    """
    size, calls = spec.image_size, list[tuple[str, Tensor, Tensor]]()
    probe = copy.deepcopy(net).to("meta").train()
    for name, module in probe.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, args, out, name=name: calls.append((name, args[0], out)))
    try:
        out = probe(torch.empty(2, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{label} cannot take images of {size}x{size} pixels ({str(error).splitlines()[0]})."
            " HINT: change the data's `image_size`, or pass it to the network if its library has a setting for it,"
            f" such as `settings: {{image_size: {size}}}` (torchvision) or `settings: {{img_size: {size}}}` (timm)."
        ) from error
    if not isinstance(out, Tensor):
        raise ValueError(
            f"{label} returns {type(out).__name__} in training, not only logits."
            " HINT: disable other outputs, as with `settings: {aux_logits: false}`, or choose another network."
        )
    heads = [name for name, features, logits in calls if logits is out and features.dim() == 2]
    if not heads:
        raise ValueError(
            f"The logits of {label} are not the output of a torch.nn.Linear, which becomes the head."
            " HINT: choose another network; most residual, dense, mobile and transformer networks have one."
        )
    return heads[0]


def _load(net: nn.Module, head: str, state: State, source: str, new_head: bool) -> None:
    """Load a state into the network; the last layer only if it has as many classes."""
    like, weight = net.state_dict(), state.get(f"{head}.weight")
    other_classes = weight is not None and weight.shape[:1] != like[f"{head}.weight"].shape[:1]
    if weight is not None and other_classes:
        log.info("%s has %d classes: the network gets a new head", source, len(weight))
    if new_head or other_classes:
        state, like = ({name: t for name, t in s.items() if not name.startswith(f"{head}.")} for s in (state, like))
    net.load_state_dict(fit_state(state, like, f"The weights {source}"), strict=False)


def _grey_to_rgb(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat the channel of images ``(batch, 1, size, size)``."""
    images, *rest = args
    return images.expand(-1, 3, -1, -1), *rest
