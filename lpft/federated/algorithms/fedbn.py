"""FedBN: each client keeps its BatchNorm layers."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lpft.federated.algorithms.base import KeepsEntries
from lpft.models.base import BodyHeadNet
from lpft.types import State


class FedBN(KeepsEntries):
    """Clients keep weights, biases and running statistics of BatchNorm layers; all other entries are averaged.

    The global model, which methods personalize and which is tested on other clients, contains the mean of the clients'
    BatchNorm layers. The method ``lpft.methods.federated.FedBN`` evaluates each client's own.

    References:
        Li et al., arXiv:2102.07623, Algorithm 1.
    """

    def check(self, net: BodyHeadNet, optimizer: Optimizer) -> None:
        """Raise ValueError if the network has no BatchNorm layer."""
        if not self.memory(net):
            raise ValueError(
                f"FedBN needs BatchNorm layers, but {type(net).__name__} has none."
                " HINT: choose a network with BatchNorm, as with `--network.norm true`, or another algorithm."
            )

    def memory(self, net: BodyHeadNet) -> State:
        """Return the entries of BatchNorm layers, except counters."""
        layers = {name: module for name, module in net.named_modules() if isinstance(module, _BatchNorm)}
        entries = {f"{layer}.{name}": t for layer, module in layers.items() for name, t in module.state_dict().items()}
        return {name: t for name, t in entries.items() if t.is_floating_point()}
