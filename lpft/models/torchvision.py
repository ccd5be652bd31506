"""torchvision's classification networks, by name."""

from __future__ import annotations

import re
from typing import Any

import torchvision
from torch import Tensor
from torchvision.ops import StochasticDepth

from lpft.models.pretrained import SplitNet, check_name, check_settings
from lpft.models.weights import read_state
from lpft.types import DataSpec


class TorchvisionNet(SplitNet):
    """A network of torchvision, such as ``resnet18``, cut before its last linear layer.

    Nothing is ever downloaded. The layers keep torchvision's names, below ``body``. Networks whose logits do not come
    from a linear layer (SqueezeNet) are refused, as are those that return more in training (Inception and GoogLeNet,
    unless ``settings: {aux_logits: false}``). Grey images are repeated to three channels.

    Args:
        spec: channels, size and number of classes of the data.
        name: as in ``torchvision.models.list_models(torchvision.models)``.
        weights: a local file of weights to start from, by torchvision's names: safetensors or a torch state dict; null:
            random ones. Its last layer is taken if it is of as many classes as the data.
        new_head: do not take the last layer in any case.
        settings: further settings of torchvision's function, such as ``{image_size: 64}`` for a ViT.

    Raises:
        FileNotFoundError: if there is no such file of weights.
        ValueError: if there is no such network, it does not fit the data or the weights, or cannot be cut so.
    """

    def __init__(
        self,
        spec: DataSpec,
        name: str,
        weights: str | None = None,
        new_head: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        settings, label = settings or {}, f"torchvision's {name}"
        known = torchvision.models.list_models(torchvision.models)
        check_name(name, known, "torchvision", "torchvision.models.list_models(torchvision.models)")
        check_settings(label, settings, ("weights", "weights_backbone", "progress", "num_classes"))
        state = None if weights is None else read_state(weights)
        try:
            net = torchvision.models.get_model(name, weights=None, num_classes=spec.num_classes, **settings)
        except (TypeError, AssertionError) as error:
            raise ValueError(f"{label} cannot be built: {error}. HINT: correct the network's `settings`.") from error
        for module in list(net.modules()):
            for child_name, child in module.named_children():
                if isinstance(child, StochasticDepth):
                    setattr(module, child_name, ClientwiseDepth(child.p, child.mode))
        if state is not None:
            state = {OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in state.items()}
        super().__init__(net, spec, label, state, weights, new_head)


OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""What torchvision's files of DenseNets call ``norm1`` and so on."""


class ClientwiseDepth(StochasticDepth):
    """torchvision's layer, with draws that differ between the clients of a stack; theirs cannot be made in one."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples, or the whole batch, and scale the others up."""
        if not self.training or self.p == 0:
            return x
        shape = [len(x) if self.mode == "row" else 1] + [1] * (x.dim() - 1)
        kept = x.new_empty(shape).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p) if self.p < 1 else kept)
