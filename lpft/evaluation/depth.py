"""Distortion by depth: how far fine-tuning has moved what each layer of the body puts out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lpft.clients.features import GlobalFeatures, chunks
from lpft.types import State

IMAGES = 64
"""Images in one forward pass: the outputs of all layers are held at once."""

FEATURES = "features"
"""What comes last: the input of the head."""


@torch.inference_mode()
def distortion_by_depth(features: GlobalFeatures, state: State, index: Tensor) -> dict[str, float]:
    """Compare every layer's output with theta_G's, in evaluation mode, each network with its own norm statistics.

    A layer's distortion is the mean l2 distance of its outputs over the samples, divided by the mean l2 norm of
    theta_G's: layers differ in size, so that distances alone cannot be compared. Layers are those with a weight of two
    or more dimensions (linear, convolution); what they put out is taken before normalization and activation.

    Args:
        features: theta_G and the data.
        state: a plain state dict of the same network, personalized.
        index: positions of the samples in the dataset's arrays, ``(n,)``.

    Returns:
        Distortion by the layer's name in the body, in the order in which they run; last `FEATURES`. Empty if there are
        no samples. A layer whose name is a number has its type added; one that runs repeatedly is there repeatedly.

    References:
        Chen et al., arXiv:2511.12695, for the distortion of the features; layers and division are ours.
    """
    net, other = features.net, copy.deepcopy(features.net)
    other.load_state_dict(state)
    other.eval()
    distances: dict[str, float] = defaultdict(float)
    norms: dict[str, float] = defaultdict(float)
    for part in chunks(index, IMAGES) if len(index) else ():
        images = features.images(part)
        with _outputs(net.body) as before, _outputs(other.body) as after:
            before[FEATURES], after[FEATURES] = net.body(images), other.body(images)
        for name, output in before.items():
            distances[name] += _norms(after[name] - output, len(part))
            norms[name] += _norms(output, len(part))
    return {name: distances[name] / norms[name] for name in norms if norms[name]}


def _norms(output: Tensor, num_samples: int) -> float:
    """Return the sum of the samples' l2 norms; windows of one image, which some transformers have, count as one."""
    return float(output.double().reshape(num_samples, -1).norm(dim=1).sum())


@contextmanager
def _outputs(body: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect what the layers put out in a forward pass, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            if isinstance(output, Tensor):
                times = sum(key == name or key.startswith(f"{name} (") for key in found)
                found[f"{name} ({times + 1})" if times else name] = output

        return hook

    hooks = [part.register_forward_hook(keep(_title(name, part))) for name, part in _layers(body)]
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()


def _layers(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in body.named_modules():
        weight = part._parameters.get("weight")
        if weight is not None and weight.dim() >= 2:
            yield name, part


def _title(name: str, part: nn.Module) -> str:
    """Return a layer's name, which says nothing if it is a number.

    >>> _title("layer1.0.conv2", nn.Identity()), _title("mlp.0", nn.Linear(1, 1))
    ('layer1.0.conv2', 'mlp.0 Linear')
    """
    bare = not name or name.rpartition(".")[2].isdigit()
    return f"{name} {type(part).__name__}".strip() if bare else name
