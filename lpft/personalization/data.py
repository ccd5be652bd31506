"""The training data of a stack of clients, by positions among each client's own samples."""

from __future__ import annotations

from functools import cached_property

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
        return self.global_features.images(self.index.gather(1, positions), draws)

    def labels(self, positions: Tensor) -> Tensor:
        """Return the labels, int64, ``(K, n)``."""
        return self._labels.gather(1, positions)

    def features(self, positions: Tensor, draws: Tensor) -> Tensor:
        """Return the global model's features, ``(K, n, k)``: stored ones, unless the images are augmented."""
        if self.augments:
            return self.global_features.embed(self.images(positions, draws))
        stored = self._features
        return stored.gather(1, positions.unsqueeze(-1).expand(-1, -1, stored.shape[-1]))

    @cached_property
    def _labels(self) -> Tensor:
        return self.global_features.samples.labels(self.index)

    @cached_property
    def _features(self) -> Tensor:
        return self.global_features.stacked(self.clients)
