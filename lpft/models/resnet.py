"""A residual network for small images."""

from __future__ import annotations

from collections import OrderedDict

from jsonargparse.typing import PositiveInt
from torch import nn
from torchvision.models.resnet import BasicBlock

from lpft.models.base import BodyHeadNet, check_image_size
from lpft.types import DataSpec


class CifarResNet18(BodyHeadNet):
    """ResNet-18 whose first layer is a 3x3 convolution with stride 1 and no max-pooling, as is usual on 32x32 pixels.

    Four stages of two blocks each, the last three of which halve the image; the mean over its pixels is the feature.
    11,173,962 parameters on RGB images in ten classes. Layers have torchvision's names.

    Args:
        spec: channels, size (any) and number of classes of the data.
        width: channels of the first stage; the following ones have two, four and eight times as many.

    References:
        He et al., arXiv:1512.03385; blocks and initial values are torchvision's. The paper names neither model nor
        width for CIFAR-10-C; both are ours.
    """

    def __init__(self, spec: DataSpec, width: PositiveInt = 64) -> None:
        super().__init__()
        check_image_size(self, spec, smallest=1)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(spec.in_channels, width, kernel_size=3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            layer1=nn.Sequential(_block(width, width, 1), _block(width, width, 1)),
        )
        for number in (2, 3, 4):
            channels = width * 2 ** (number - 1)
            layers[f"layer{number}"] = nn.Sequential(_block(channels // 2, channels, 2), _block(channels, channels, 1))
        self.body = nn.Sequential(layers | OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
        self.head = nn.Linear(8 * width, spec.num_classes)
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _block(in_channels: int, out_channels: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    return BasicBlock(in_channels, out_channels, stride, shortcut)
