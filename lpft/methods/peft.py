"""Parameter-efficient fine-tuning: adapters and low-rank updates, with or without linear probing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator

from lpft.methods.base import Phase
from lpft.methods.lpft import LPFT
from lpft.models.base import BodyHeadNet
from lpft.models.lora import add_adapters, add_lora, merge_lora
from lpft.types import State


class PEFT(LPFT):
    """Add small modules to the global model, and train only these and the head.

    The body of the network needs linear layers. The modules are initially the identity, with the same values for all
    clients of a seed. With `lp_epochs`, the head is trained first.

    After training, LoRA's updates are added to the weights, so that personalized models are tested and saved as plain
    networks. Adapters cannot be merged and are saved with the models, see `lpft.models.lora.load_personalized`.

    By default, rate and epochs are those of full fine-tuning, for comparisons at an equal budget. A step counts as a
    full pass, although gradients of frozen weights are not computed.

    Args:
        modules: ``lora``: low-rank updates of weights. ``adapter``: bottleneck layers.
        rank: rank of LoRA's updates.
        alpha: scale of LoRA's updates, before division by the rank.
        bottleneck: width of the adapters' hidden layer.
        targets: patterns such as ``["*.q_proj", "*.fc1"]`` for the names of the linear layers to extend. null: LoRA
            extends attention's queries and values (a fused ``qkv`` as a whole), adapters the last layers of attention
            and MLP; if a network has none by the usual names, all linear layers of its body.
        lp_epochs: epochs of linear probing first; null: all epochs.
        lpft: the other settings of `LPFT`: ``lp_lr``, ``lr``, ``epochs``, ``head_init``, ``lp_solver``, ``bn``,
            ``flood``.

    References:
        Houlsby et al., arXiv:1902.00751 (adapters); Hu et al., arXiv:2106.09685 (LoRA); Chen et al., arXiv:2511.12695,
        combine such with LP-FT, in a part of the text that we do not have: all settings are ours.
    """

    def __init__(
        self,
        modules: Literal["adapter", "lora"] = "lora",
        rank: PositiveInt = 8,
        alpha: PositiveFloat = 16.0,
        bottleneck: PositiveInt = 64,
        targets: list[str] | None = None,
        lp_epochs: NonNegativeInt | None = 0,
        **lpft: Any,
    ) -> None:
        super().__init__(lp_epochs=lp_epochs, **lpft)
        self.modules = modules
        self.rank = rank
        self.alpha = alpha
        self.bottleneck = bottleneck
        self.targets = targets

    def phases(self, budget: int) -> list[Phase]:
        """Return LP-FT's phases, the second restricted to the added modules and the head."""
        only = (f"*.{self.modules}.*",)
        return [phase if phase.trains == "head" else replace(phase, only=only) for phase in super().phases(budget)]

    def extend(self, net: BodyHeadNet, generator: Generator) -> BodyHeadNet:
        """Add the modules."""
        if self.modules == "lora":
            return add_lora(net, self.targets, self.rank, self.alpha, generator)
        return add_adapters(net, self.targets, self.bottleneck, generator)

    def merge(self, params: State) -> State:
        """Add LoRA's updates to the weights; adapters stay."""
        return merge_lora(params, self.alpha / self.rank) if self.modules == "lora" else params
