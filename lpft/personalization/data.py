"""The training data of a stack of clients, by positions among each client's own samples."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lpft.clients.batches import StackSamples
from lpft.clients.features import GlobalFeatures


class StackData:
    """Images, labels and global features of the training samples of K clients, on the device.

    Positions are int64, ``(K, n)``: each row counts that client's own training samples.

    Args:
        features: the global model, its features, and the data.
        clients: positions of the clients in the list of all clients.
        batch_size: samples in a client's batch.
    """

    def __init__(self, features: GlobalFeatures, clients: list[int], batch_size: int) -> None:
        self.global_features = features
        self.clients = clients
        self.samples = StackSamples.of(features.data, clients, batch_size)
        self.index = self.samples.index.to(features.device)

    @property
    def augments(self) -> bool:
        """Whether training changes the images."""
        return self.global_features.data.augment is not None

    def images(self, positions: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return normalized images ``(K, n, channels, size, size)``, augmented by uniform numbers if there are any."""
        if self._images is None or (draws is not None and self.augments):
            return self.global_features.images(self.index.gather(1, positions), draws)
        return self._chosen(self._images, positions)

    def labels(self, positions: Tensor) -> Tensor:
        """Return the labels, int64, ``(K, n)``."""
        return self._labels.gather(1, positions)

    def features(self, positions: Tensor, draws: Tensor) -> Tensor:
        """Return the global model's features, ``(K, n, k)``: stored ones, unless the images are augmented."""
        if self.augments:
            return self.global_features.embed(self.images(positions, draws))
        return self._chosen(self._features, positions)

    def _chosen(self, stored: Tensor, positions: Tensor) -> Tensor:
        """Take entries ``(K, n, ...)`` of what is stored of each client's own samples, ``(K, n_max, ...)``."""
        chosen = stored.flatten(0, 1).index_select(0, (positions + self._first).flatten())
        return chosen.unflatten(0, positions.shape)

    @cached_property
    def _first(self) -> Tensor:
        """Positions of the clients' first samples among those of the stack, ``(K, 1)``."""
        num_clients, num_samples = self.index.shape
        return num_samples * torch.arange(num_clients, device=self.index.device).unsqueeze(1)

    @cached_property
    def _labels(self) -> Tensor:
        return self.global_features.samples.labels(self.index)

    @cached_property
    def _images(self) -> Tensor | None:
        """All normalized images, ``(K, n_max, ...)``, where they are small; None where a batch is made when needed."""
        can_keep = self.global_features.samples.can_keep(self.index.numel())
        return self.global_features.images(self.index) if can_keep else None

    @cached_property
    def _features(self) -> Tensor:
        return self.global_features.stacked(self.clients)
