"""torchvision's classification networks, by name."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.ops import StochasticDepth

from lpft.models.pretrained import SplitNet
from lpft.types import State

OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""What torchvision's files of DenseNets call ``norm1`` and so on."""


class TorchvisionNet(SplitNet):
    """A network of torchvision, such as ``resnet18``; see `SplitNet` for its settings.

    The layers keep torchvision's names, below ``body``. Networks whose logits do not come from a linear layer
    (SqueezeNet) are refused, as are those that return more in training (Inception and GoogLeNet, unless
    ``settings: {aux_logits: false}``). Names are those of ``torchvision.models.list_models(torchvision.models)``.
    """

    library = "torchvision"
    listing = "torchvision.models.list_models(torchvision.models)"
    derived = ("weights", "weights_backbone", "progress", "num_classes")

    def names(self) -> list[str]:
        """Return the names of torchvision's classification networks."""
        names: list[str] = models.list_models(models)
        return names

    def make(self, name: str, num_classes: int, settings: dict[str, Any]) -> nn.Module:
        """Build a network with random weights."""
        net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **settings)
        for module in list(net.modules()):
            for child_name, child in module.named_children():
                if isinstance(child, StochasticDepth):
                    setattr(module, child_name, ClientwiseDepth(child.p, child.mode))
        return net

    def renamed(self, state: State) -> State:
        """Rename the tensors of old DenseNet files to current names."""
        return {OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in state.items()}


class ClientwiseDepth(StochasticDepth):
    """torchvision's layer, with draws that differ between the clients of a stack; theirs cannot be made in one."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples, or the whole batch, and scale the others up."""
        if not self.training or self.p == 0:
            return x
        shape = [len(x) if self.mode == "row" else 1] + [1] * (x.dim() - 1)
        kept = x.new_empty(shape).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p) if self.p < 1 else kept)
