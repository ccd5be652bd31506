"""Running statistics of BatchNorm layers: keep them, or compute them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lpft.clients.stack import ClientStack


def batch_norms(net: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Yield name and module of the BatchNorm layers that have running statistics."""
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield name, module


def has_batch_norm(net: nn.Module) -> bool:
    """Return whether a network has running statistics.

    >>> has_batch_norm(nn.Sequential(nn.BatchNorm2d(3))), has_batch_norm(nn.Sequential(nn.LayerNorm(3)))
    (True, False)
    """
    return any(True for _ in batch_norms(net))


def keep_batch_norm(net: nn.Module) -> None:
    """Let BatchNorm layers use their running statistics without updating them."""
    for _, module in batch_norms(net):
        module.eval()


@torch.no_grad()
def refresh_batch_norm(stack: ClientStack, batches: Iterable[Tensor]) -> None:
    """Recompute the running statistics of every client's BatchNorm layers.

    They become the plain average over the batches, as in `torch.optim.swa_utils.update_bn`, which does not support
    stacks. Dropout is off. Afterwards all layers are in evaluation mode.

    Args:
        stack: K networks.
        batches: images ``(K, batch, channels, size, size)``.
    """
    layers = dict(batch_norms(stack.module))
    buffers = stack.net_buffers()
    for name in layers:
        for statistic, start in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffers[f"{name}.{statistic}"].fill_(start)
    momenta = {name: layer.momentum for name, layer in layers.items()}
    stack.eval()
    for number, images in enumerate(batches):
        for layer in layers.values():
            layer.train()
            layer.momentum = 1 / (number + 1)  # `None` has the same effect, but does not work under vmap
        stack.features(images)
    for name, layer in layers.items():
        layer.momentum = momenta[name]
    stack.eval()
