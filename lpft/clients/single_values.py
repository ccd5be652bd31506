"""BatchNorm layers and clients whose batches have no variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lpft.data.datamodule import FederatedDataModule
from lpft.models.base import BodyHeadNet, dry_run
from lpft.types import DataSpec


def single_value_layers(net: BodyHeadNet, spec: DataSpec) -> list[str]:
    """Return the names of the BatchNorm layers with one input value per image and channel, in training mode.

    In a batch of one image, or of its copies, their variance is 0: running variances tend to 0, and features explode in
    evaluation mode. Layers with feature maps as input have the variance over a map.
    """
    layers: list[str] = []

    def note(name: str, layer: nn.Module, values: Tensor) -> None:
        if layer.training and values[:, 0].numel() == len(values) and name not in layers:
            layers.append(name)

    def watch(probe: BodyHeadNet) -> None:
        for name, module in probe.named_modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(lambda layer, args, name=name: note(name, layer, args[0]))

    if any(isinstance(module, _BatchNorm) for module in net.modules()):
        dry_run(net, spec, training=True, watch=watch)
    return layers


def untrainable_clients(net: BodyHeadNet, data: FederatedDataModule) -> list[int]:
    """Return the positions of clients that cannot train the network's `single_value_layers`.

    These are clients whose training images are all equal, unless images are augmented.
    """
    if data.augment is not None or not single_value_layers(net, data.spec):
        return []
    return [position for position, client in enumerate(data.clients) if _all_same(data.images, client.train)]


def _all_same(images: Tensor, positions: Tensor) -> bool:
    """Return whether all images at positions ``(n,)`` are equal; False if there are none."""
    if not len(positions):
        return False
    first = images[positions[0]]
    return all(torch.equal(images[position], first) for position in positions[1:].tolist())
