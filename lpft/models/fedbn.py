"""The digit network of FedBN, with BatchNorm after every layer but the last."""

from __future__ import annotations

from torch import nn

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.types import DataSpec


class FedBNDigitCNN(BodyHeadNet):
    """Three 5x5 convolutions (64, 64, 128 channels) and two linear layers (2048, 512), each with BatchNorm and ReLU.

    2x2 max-pooling follows the first two. 14,219,210 parameters on RGB images of 28x28 pixels in ten classes.

    Args:
        spec: channels, size (at least 4) and number of classes of the data.

    Raises:
        ValueError: if the images are too small.

    References:
        Li et al., arXiv:2102.07623, appendix; ``DigitModel`` of github.com/med-air/FedBN.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=4)
        side = spec.image_size // 4
        self.body = nn.Sequential(
            *_conv_block(spec.in_channels, 64, pooled=True),
            *_conv_block(64, 64, pooled=True),
            *_conv_block(64, 128, pooled=False),
            nn.Flatten(),
            *_linear_block(128 * side * side, 2048),
            *_linear_block(2048, 512),
        )
        self.head = nn.Linear(512, spec.num_classes)


def _conv_block(in_channels: int, out_channels: int, pooled: bool) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=5, padding=2)
    pools = [nn.MaxPool2d(2)] if pooled else []  # before ReLU: the same values for less work
    return [conv, nn.BatchNorm2d(out_channels), *pools, nn.ReLU()]


def _linear_block(in_features: int, out_features: int) -> list[nn.Module]:
    return [nn.Linear(in_features, out_features), nn.BatchNorm1d(out_features), nn.ReLU()]
