"""Convolutional networks for small images."""

from __future__ import annotations

from jsonargparse.typing import PositiveInt
from torch import nn

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.types import DataSpec


class SmallCNN(BodyHeadNet):
    """Two 3x3 convolutions, each with 2x2 max-pooling and ReLU, and one layer of features: quick on a CPU.

    Args:
        spec: channels, size (at least 4) and number of classes of the data.
        width: channels of the first convolution; the second has twice as many.
        features: size of the feature layer.
        norm: put BatchNorm after both convolutions.

    Raises:
        ValueError: if the images are too small.
    """

    def __init__(self, spec: DataSpec, width: PositiveInt = 16, features: PositiveInt = 64, norm: bool = False) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=4)
        side = spec.image_size // 4
        self.body = nn.Sequential(
            *_conv_block(spec.in_channels, width, norm),
            *_conv_block(width, 2 * width, norm),
            nn.Flatten(),
            nn.Linear(2 * width * side * side, features),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, spec.num_classes)


def _conv_block(in_channels: int, out_channels: int, norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=not norm)
    norms = [nn.BatchNorm2d(out_channels)] if norm else []
    return [conv, *norms, nn.MaxPool2d(2), nn.ReLU()]  # ReLU of a maximum is the maximum of ReLUs, and less work
