"""LoRA and adapters for the linear layers of any network.

Both are added to a copy of a trained network, right before fine-tuning; they are initially the identity. A layer keeps
its name and its weights, so the state dict of the extended network is that of the plain one plus ``LAYER.lora.down``
and ``LAYER.lora.up``, or ``LAYER.adapter.down.weight`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatch

import torch
from torch import Generator, Tensor, nn

from lpft.models.base import BodyHeadNet, aliases, copy_network, dry_run
from lpft.models.rotation import ROTATION, with_rotation
from lpft.types import DataSpec, State

LORA_TARGETS = ("*.q", "*.v", "*.q_proj", "*.v_proj", "*.query", "*.value", "*.qkv")
"""Queries and values of attention, in torch's, timm's and other libraries' names; ``qkv`` has keys, too."""
ADAPTER_TARGETS = ("*.out", "*.out_proj", "*.attn.proj", "*.mlp.3", "*.fc2")
"""The last linear layers of attention and of the MLP behind it."""


class LoRALinear(nn.Linear):
    """A linear layer whose weight is updated by ``alpha / rank * up @ down``; the update is initially 0.

    Args:
        layer: the layer; its weight and bias are used, not copied.
        rank: rank of the update.
        alpha: multiplies the update, divided by the rank.
        generator: draws ``down`` as `torch.nn.Linear` draws its weight.

    References:
        Hu et al., arXiv:2106.09685.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        down, up = _uniform((rank, layer.in_features), generator), torch.zeros(layer.out_features, rank)
        self.lora = nn.ParameterDict({"down": down.to(layer.weight), "up": up.to(layer.weight)})

    def forward(self, x: Tensor) -> Tensor:
        """Apply the updated layer."""
        return super().forward(x) + self.scale * (x @ self.lora["down"].T @ self.lora["up"].T)


class AdapterLinear(nn.Linear):
    """A linear layer with an adapter behind: ``y + up(gelu(down(y)))``, where ``up`` is initially 0.

    Args:
        layer: the layer; its weight and bias are used, not copied.
        bottleneck: outputs of ``down``.
        generator: draws ``down`` as `torch.nn.Linear` does.

    References:
        Houlsby et al., arXiv:1902.00751.
    """

    def __init__(self, layer: nn.Linear, bottleneck: int, generator: Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        width, like = layer.out_features, layer.weight
        down, up = nn.Linear(width, bottleneck, device="meta"), nn.Linear(bottleneck, width, device="meta")
        down.weight = nn.Parameter(_uniform((bottleneck, width), generator).to(like))
        down.bias = nn.Parameter(_uniform((bottleneck,), generator, fan_in=width).to(like))
        up.weight = nn.Parameter(torch.zeros(width, bottleneck).to(like))
        up.bias = nn.Parameter(torch.zeros(width).to(like))
        self.adapter = nn.ModuleDict({"down": down, "up": up})

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and the adapter."""
        y = super().forward(x)
        change: Tensor = self.adapter["up"](nn.functional.gelu(self.adapter["down"](y)))
        return y + change


def add_lora(
    net: BodyHeadNet, targets: Sequence[str] | None, rank: int, alpha: float, generator: Generator
) -> BodyHeadNet:
    """Return a copy of a network with LoRA in some linear layers; see `extend_layers` and `LoRALinear`."""
    return extend_layers(net, targets, LORA_TARGETS, lambda layer: LoRALinear(layer, rank, alpha, generator))


def add_adapters(net: BodyHeadNet, targets: Sequence[str] | None, bottleneck: int, generator: Generator) -> BodyHeadNet:
    """Return a copy of a network with adapters behind some linear layers; see `extend_layers` and `AdapterLinear`."""
    return extend_layers(net, targets, ADAPTER_TARGETS, lambda layer: AdapterLinear(layer, bottleneck, generator))


def extend_layers(
    net: BodyHeadNet, targets: Sequence[str] | None, default: Sequence[str], make: Callable[[nn.Linear], nn.Linear]
) -> BodyHeadNet:
    """Return a copy of a network in which the chosen linear layers of the body are replaced.

    Layers of `torch.nn.MultiheadAttention` and `torch.nn.TransformerEncoderLayer` cannot be chosen: these use weights
    without calling the layers. Nor can layers whose weight is tied to another, or computed from other parameters.

    Args:
        net: the network.
        targets: shell-style patterns of layer names; None: those of `default`, or all linear layers if none
            matches.
        default: patterns.
        make: function that adds a module to a layer.

    Raises:
        ValueError: if no linear layer matches.
    """
    bypassing = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    hidden = [f"{name}." for name, module in net.named_modules() if isinstance(module, bypassing)]
    tied = {name for pair in aliases(net).items() for name in pair}
    layers = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith("body")
        and not name.startswith(tuple(hidden))
        and "weight" in module._parameters
        and f"{name}.weight" not in tied
    ]
    matching = [name for name in layers if any(fnmatch(name, pattern) for pattern in targets or default)]
    chosen = matching if matching or targets else layers
    if not chosen:
        note = f" Layers within {hidden[0][:-1]} cannot be changed: torch does not call them." if hidden else ""
        raise ValueError(
            f"{type(net).__name__} has no linear layers in its body that match `targets={targets}`; it has"
            f" {', '.join(layers) or 'none at all'}.{note} HINT: name some of these, with * for any text, or choose a"
            " network with linear layers of their own for attention, such as lpft.models.vit.SmallViT."
        )
    return _replaced(net, chosen, lambda _, layer: make(layer))


def merge_lora(params: State, scale: float) -> State:
    """Add LoRA's updates to the weights; returns the parameters of the plain network.

    >>> layer = {"q.weight": torch.zeros(1, 2), "q.lora.down": torch.ones(1, 2), "q.lora.up": torch.ones(1, 1)}
    >>> merge_lora(layer, scale=2.0)
    {'q.weight': tensor([[2., 2.]])}
    """
    merged = {name: p for name, p in params.items() if ".lora." not in name}
    for name in params:
        if name.endswith(".lora.up"):
            layer = name.removesuffix(".lora.up")
            update = params[name] @ params[f"{layer}.lora.down"]
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + scale * update
    return merged


def load_personalized(net: BodyHeadNet, state: State) -> BodyHeadNet:
    """Return a copy of a network that holds a personalized state, with the adapters or the rotation that the state has.

    Args:
        net: the plain network.
        state: what a run saved for a client.
    """
    ending = ".adapter.down.weight"
    width = {name.removesuffix(ending): len(tensor) for name, tensor in state.items() if name.endswith(ending)}
    loaded = _replaced(net, list(width), lambda name, layer: AdapterLinear(layer, width[name], Generator()))
    if f"body.{ROTATION}" in state:
        loaded = with_rotation(loaded, state[f"body.{ROTATION}"])
    loaded.load_state_dict(state)
    return loaded


def unused_layers(net: BodyHeadNet, spec: DataSpec) -> list[str]:
    """Return the names of LoRA and adapter layers that a forward pass does not call; nothing is computed."""
    added = [name for name, module in net.named_modules() if isinstance(module, LoRALinear | AdapterLinear)]
    called: set[str] = set()

    def watch(probe: BodyHeadNet) -> None:
        for name in added:
            probe.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))

    dry_run(net, spec, watch=watch)
    return sorted(set(added) - called)


def _replaced(net: BodyHeadNet, names: Sequence[str], make: Callable[[str, nn.Linear], nn.Linear]) -> BodyHeadNet:
    extended = copy_network(net)
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = extended.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        setattr(extended.get_submodule(parent), child, make(name, layer))
    return extended


def _uniform(shape: tuple[int, ...], generator: Generator, fan_in: int | None = None) -> Tensor:
    """Draw uniformly from ``[-1/sqrt(fan_in), 1/sqrt(fan_in)]``."""
    bound = 1 / math.sqrt(shape[-1] if fan_in is None else fan_in)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
