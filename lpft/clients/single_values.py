"""BatchNorm layers and clients whose batches have no variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lpft.data.datamodule import FederatedDataModule
from lpft.models.base import BodyHeadNet, dry_run
from lpft.types import DataSpec


def single_value_layers(net: BodyHeadNet, spec: DataSpec) -> list[str]:
    """Return the names of the BatchNorm layers that get one value per channel of an image, in training mode.

    In a batch of one image, or of copies of one, their variance is 0: running variances tend to 0, and features explode
    in evaluation mode. Layers that get maps have the variance over a map.
    """
    found: list[str] = []

    def note(name: str, layer: nn.Module, values: Tensor) -> None:
        if layer.training and values[:, 0].numel() == len(values) and name not in found:
            found.append(name)

    def watch(probe: BodyHeadNet) -> None:
        for name, module in probe.named_modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(lambda layer, args, name=name: note(name, layer, args[0]))

    if any(isinstance(module, _BatchNorm) for module in net.modules()):
        dry_run(net, spec, training=True, watch=watch)
    return found


def untrainable_clients(net: BodyHeadNet, data: FederatedDataModule) -> list[int]:
    """Return the positions of the clients on which `single_value_layers` cannot be trained.

    These are clients all of whose training images are the same, unless images are augmented.
    """
    if data.augment is not None or not single_value_layers(net, data.spec):
        return []
    return [position for position, client in enumerate(data.clients) if _all_same(data.images, client.train)]


def _all_same(images: Tensor, positions: Tensor) -> bool:
    """Tell whether all images at these positions ``(n,)`` are the same; no images are not."""
    if not len(positions):
        return False
    first = images[positions[0]]
    return all(torch.equal(images[position], first) for position in positions[1:].tolist())
