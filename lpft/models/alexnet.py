"""AlexNet with BatchNorm, FedBN's network for DomainNet and Office-Caltech10."""

from __future__ import annotations

from collections import OrderedDict

from jsonargparse.typing import PositiveInt
from torch import nn

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.types import DataSpec


class AlexNetBN(BodyHeadNet):
    """Five convolutions and two linear layers of 4096, each with BatchNorm and ReLU; meant for 256x256 pixels.

    The last feature map is pooled to 6x6 whatever its size: 7x7 at 256 pixels, 1x1 at 64, where all 36 values of a
    channel are the same. Layers have the names that they have in FedBN's files, below ``features`` and ``classifier``.

    Args:
        spec: channels, size (at least 63) and number of classes of the data.
        width: size of the two linear layers, the second of which gives the features.

    Raises:
        ValueError: if the images are too small.

    References:
        Li et al., arXiv:2102.07623, appendix; ``AlexNet`` of github.com/med-air/FedBN. Krizhevsky, arXiv:1404.5997
        (the layers, less its dropout).
    """

    def __init__(self, spec: DataSpec, width: PositiveInt = 4096) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=63)
        features: OrderedDict[str, nn.Module] = OrderedDict()
        channels = spec.in_channels
        for number, (out_channels, kernel, stride, padding, pooled) in enumerate(CONVOLUTIONS, start=1):
            features[f"conv{number}"] = nn.Conv2d(channels, out_channels, kernel, stride, padding)
            features[f"bn{number}"] = nn.BatchNorm2d(out_channels)
            if pooled:  # before ReLU: the same values for less work
                features[f"maxpool{number}"] = nn.MaxPool2d(kernel_size=3, stride=2)
            features[f"relu{number}"] = nn.ReLU(inplace=True)
            channels = out_channels
        classifier: OrderedDict[str, nn.Module] = OrderedDict(
            fc1=nn.Linear(channels * 6 * 6, width),
            bn6=nn.BatchNorm1d(width),
            relu6=nn.ReLU(inplace=True),
            fc2=nn.Linear(width, width),
            bn7=nn.BatchNorm1d(width),
            relu7=nn.ReLU(inplace=True),
        )
        self.body = nn.Sequential(
            OrderedDict(
                features=nn.Sequential(features),
                avgpool=nn.AdaptiveAvgPool2d(6),
                flatten=nn.Flatten(),
                classifier=nn.Sequential(classifier),
            )
        )
        self.head = nn.Linear(width, spec.num_classes)


CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)
"""Channels, kernel size, stride and padding of every convolution, and whether max-pooling follows."""
