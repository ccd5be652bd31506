"""Distortion by depth: against its definition, and against the distortion of the features."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lpft.clients.features import GlobalFeatures
from lpft.evaluation.depth import FEATURES, distortion_by_depth
from lpft.models.base import BodyHeadNet
from lpft.models.cnn import SmallCNN
from lpft.models.vit import SmallViT
from lpft.types import State
from tests.toy import toy_data


def changed(state: State, part: str) -> State:
    return {name: tensor * 1.5 if name.startswith(part) else tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def known() -> GlobalFeatures:
    data = toy_data(counts=(20, 33))
    torch.manual_seed(0)
    return GlobalFeatures(SmallCNN(data.spec, width=4, features=8, norm=True), data, torch.device("cpu"))


def test_layers_move_from_the_changed_one_on(known: GlobalFeatures) -> None:
    test = known.data.clients[0].test
    found = distortion_by_depth(known, changed(known.net.state_dict(), "body.4."), test)
    assert list(found) == ["0 Conv2d", "4 Conv2d", "9 Linear", FEATURES]
    assert found["0 Conv2d"] == 0
    assert found["4 Conv2d"] == pytest.approx(0.5)  # half as much again, whatever the images
    assert found["9 Linear"] > 0 < found[FEATURES]


def test_a_layer_s_distortion_is_a_ratio_of_means(known: GlobalFeatures) -> None:
    test = known.data.clients[1].test
    state = changed(known.net.state_dict(), "body.0.")
    other = copy.deepcopy(known.net)
    other.load_state_dict(state)
    with torch.no_grad():
        first: list[Tensor] = [net.body[:5](known.images(test)).flatten(1) for net in (known.net, other)]  # type: ignore[index]
        features = [net.body(known.images(test)) for net in (known.net, other)]
    found = distortion_by_depth(known, state, test)
    for name, (before, after) in {"4 Conv2d": first, FEATURES: features}.items():
        expected = sum((b - a).norm() for b, a in zip(before, after, strict=True)) / sum(b.norm() for b in before)
        assert found[name] == pytest.approx(float(expected), rel=1e-5)


def test_the_same_network_has_not_moved_and_no_samples_say_nothing(known: GlobalFeatures) -> None:
    test = known.data.clients[0].test
    assert set(distortion_by_depth(known, known.net.state_dict(), test).values()) == {0.0}
    assert distortion_by_depth(known, known.net.state_dict(), test[:0]) == {}


class Twice(BodyHeadNet):
    """Runs one layer two times."""

    def __init__(self, size: int, num_classes: int) -> None:
        super().__init__()
        layer = nn.Linear(size, size)
        self.body = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)
        self.head = nn.Linear(size, num_classes)


def test_a_layer_that_runs_twice_is_there_twice(known: GlobalFeatures) -> None:
    spec = known.data.spec
    net = Twice(spec.in_channels * spec.image_size**2, spec.num_classes)
    features = GlobalFeatures(net, known.data, torch.device("cpu"))
    test = known.data.clients[0].test
    found = distortion_by_depth(features, changed(net.state_dict(), "body."), test)
    assert list(found) == ["1 Linear", "1 Linear (2)", FEATURES]
    assert found["1 Linear (2)"] == found[FEATURES] != found["1 Linear"]


def test_transformers_have_their_layers_in_order(known: GlobalFeatures) -> None:
    net = SmallViT(known.data.spec, layers=1, width=8, mlp=16)
    features = GlobalFeatures(net, known.data, torch.device("cpu"))
    found = distortion_by_depth(features, changed(net.state_dict(), "body.1.encoder"), known.data.clients[0].test)
    tails = [name.rpartition("encoder_layer_0.")[2] for name in found]
    assert tails == [
        "1.conv_proj", "self_attention.q", "self_attention.k", "self_attention.v", "self_attention.out",
        "mlp.layer.0 Linear", "mlp.layer.3 Linear", FEATURES,
    ]  # fmt: skip
    assert found["1.conv_proj"] == 0 < found[FEATURES]
