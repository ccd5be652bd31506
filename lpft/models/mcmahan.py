"""The convolutional network of the paper that named federated averaging."""

from __future__ import annotations

from torch import nn

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.types import DataSpec


class McMahanCNN(BodyHeadNet):
    """Two 5x5 convolutions (32, 64 channels), each with ReLU and 2x2 max-pooling, and 512 features.

    1,663,370 parameters on grey images of 28x28 pixels in ten classes, as in the paper.

    Args:
        spec: channels, size (at least 4) and number of classes of the data.

    Raises:
        ValueError: if the images are too small.

    References:
        McMahan et al., arXiv:1602.05629, section 3.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=4)
        side = spec.image_size // 4
        self.body = nn.Sequential(
            nn.Conv2d(spec.in_channels, 32, kernel_size=5, padding=2),
            nn.MaxPool2d(2),  # before ReLU: the same values for less work
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * side * side, 512),
            nn.ReLU(),
        )
        self.head = nn.Linear(512, spec.num_classes)
