"""Distortion by depth: how far fine-tuning moved the output of each layer of the body."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lpft.clients.features import GlobalFeatures, chunks
from lpft.models.base import BodyHeadNet, copy_network
from lpft.types import State

IMAGES = 32
"""Images per forward pass; the outputs of all layers of both networks are in memory at the same time."""

FEATURES = "features"
"""The name of the last entry: the input of the head."""


@torch.inference_mode()
def distortion_by_depth(
    features: GlobalFeatures, state: State, index: Tensor, like: BodyHeadNet | None = None
) -> dict[str, float]:
    """Compare the outputs of every layer with the global model's, both in evaluation mode with their own statistics.

    The distortion of a layer is the mean l2 distance of its outputs over the samples, divided by the mean l2 norm of
    the global model's outputs, since layers differ in size. Layers are modules with a ``weight`` of two or more
    dimensions (linear, convolution); their output is measured before normalization and activation. Layers without image
    inputs (such as position embeddings), that do not run for every batch, or whose outputs are all zero, are skipped.

    Args:
        features: the global model and the data.
        state: state dict of the personalized network.
        index: positions of the samples in the dataset's arrays, ``(n,)``.
        like: a network that fits the state, if it has more modules than the global model.

    Returns:
        Distortion by the layer's name in the body, in execution order; `FEATURES` is last. Empty without samples. If a
        layer's name is a number, its type is added; a layer that runs repeatedly has an entry for each call.

    References:
        Chen et al., arXiv:2511.12695, for the distortion of the features; layers and division are ours.
    """
    if not len(index):
        return {}
    net, other = features.net, copy_network(like or features.net)
    other.load_state_dict(state)
    other.eval()
    distances = dict.fromkeys(_of_images(net.body, features.images(index[:1])), 0.0)
    norms = dict(distances)
    for part in chunks(index, IMAGES):
        images = features.images(part)
        before, after = _outputs(net.body, images), _outputs(other.body, images)
        for name in list(distances):
            if name in before and name in after and before[name].shape == after[name].shape:
                distances[name] += _norms(after[name].double() - before[name].double(), len(part))
                norms[name] += _norms(before[name].double(), len(part))
            else:
                del distances[name]
    return {name: distance / norms[name] for name, distance in distances.items() if norms[name]}


def _norms(output: Tensor, num_samples: int) -> float:
    """Return the sum of the samples' l2 norms; if a transformer splits an image into windows, they are one sample."""
    return float(output.reshape(num_samples, -1).norm(dim=1).sum())


def _of_images(body: nn.Module, image: Tensor) -> list[str]:
    """Return the layers whose output for two images is twice as long as for one image ``(1, ...)``."""
    one, two = _outputs(body, image), _outputs(body, image.expand(2, *image.shape[1:]))
    return [name for name, output in one.items() if _doubled(output) == (two[name].shape if name in two else None)]


def _doubled(output: Tensor) -> torch.Size | None:
    return torch.Size((2 * output.shape[0], *output.shape[1:])) if output.dim() else None


def _outputs(body: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of all layers in a forward pass, by name; the features are last."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            if isinstance(output, Tensor):
                times = sum(key == name or key.startswith(f"{name} (") for key in outputs)
                outputs[f"{name} ({times + 1})" if times else name] = output.clone()  # activations may be in-place

        return hook

    hooks = [part.register_forward_hook(keep(_title(name, part))) for name, part in _layers(body)]
    try:
        return outputs | {FEATURES: body(images)}
    finally:
        for handle in hooks:
            handle.remove()


def _layers(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in body.named_modules():
        weight = part._parameters.get("weight")
        if weight is not None and weight.dim() >= 2:
            yield name, part


def _title(name: str, part: nn.Module) -> str:
    """Return a layer's name, with its type if the name is a number or equal to `FEATURES`.

    >>> _title("layer1.0.conv2", nn.Identity()), _title("mlp.0", nn.Linear(1, 1))
    ('layer1.0.conv2', 'mlp.0 Linear')
    """
    bare = name in ("", FEATURES) or name.rpartition(".")[2].isdigit()
    kind = "Linear" if isinstance(part, nn.Linear) else type(part).__name__  # also with LoRA or an adapter
    return f"{name} {kind}".strip() if bare else name
