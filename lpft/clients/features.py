"""The global model's features, computed once per process and client."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lpft.clients.device_data import DeviceSamples
from lpft.data.datamodule import FederatedDataModule
from lpft.models.base import BodyHeadNet

CHUNK = 128
"""Inputs in one forward pass without gradients. Fixed, since the size of a batch changes rounding."""


def chunks(index: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """Split positions into chunks of at most `size`."""
    yield from index.split(size)


class GlobalFeatures:
    """The global model's features of samples; those of training samples are computed once and kept.

    Features are computed from un-augmented images in evaluation mode: heads are trained on them while the body is
    frozen, and probed heads are tested on them.

    Args:
        net: the global model.
        data: the dataset.
        device: device of the computation and of the features.
    """

    def __init__(self, net: BodyHeadNet, data: FederatedDataModule, device: torch.device) -> None:
        self.net = net.to(device).to(memory_format=torch.channels_last).eval()
        self.data = data
        self.device = device
        self.samples = DeviceSamples(data, device)
        self._dims = len(data.spec.shape)
        self._train: dict[int, Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.net.head.weight.dtype

    @torch.no_grad()
    def of(self, index: Tensor) -> Tensor:
        """Compute the features ``(n, k)`` of samples at positions ``(n,)`` of the dataset's arrays."""
        width = self.net.head.in_features
        parts = [self.embed(self.images(part)) for part in chunks(index)]
        return torch.cat(parts) if parts else torch.zeros(0, width, device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Compute the features ``(..., k)`` of normalized inputs ``(..., *shape)``.

        They have the network's type even within a Trainer's autocast, so that they do not depend on the first caller.
        """
        with torch.autocast(self.device.type, enabled=False):
            features: Tensor = self.net.body(images.flatten(0, -1 - self._dims))
        return features.unflatten(0, images.shape[: -self._dims])

    def images(self, index: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return normalized images at positions of the dataset's arrays, in the network's type, on the device.

        Args:
            index: the positions, of any shape.
            draws: uniform numbers ``(*index.shape, num_draws)`` to augment the images by; None leaves them as they are.
        """
        return self.samples.images(index, self.dtype, draws)

    def train(self, client: int) -> Tensor:
        """Return the features ``(num_train, k)`` of a client's training samples."""
        if client not in self._train:
            self._train[client] = self.of(self.data.clients[client].train)
        return self._train[client]

    def stacked(self, clients: list[int]) -> Tensor:
        """Return the training features of several clients, ``(K, n_max, k)``, padded with zeros."""
        return torch.nn.utils.rnn.pad_sequence([self.train(client) for client in clients], batch_first=True)
