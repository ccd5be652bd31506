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


def test_an_equal_network_has_not_moved_and_no_samples_give_nan(known: GlobalFeatures) -> None:
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


def test_a_layer_that_runs_twice_is_listed_twice(known: GlobalFeatures) -> None:
    spec = known.data.spec
    net = Twice(spec.in_channels * spec.image_size**2, spec.num_classes)
    features = GlobalFeatures(net, known.data, torch.device("cpu"))
    test = known.data.clients[0].test
    found = distortion_by_depth(features, changed(net.state_dict(), "body."), test)
    assert list(found) == ["1 Linear", "1 Linear (2)", FEATURES]
    assert found["1 Linear (2)"] == found[FEATURES] != found["1 Linear"]


class Made(BodyHeadNet):
    """A head of three classes on a body."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 3)


def moved(known: GlobalFeatures, body: nn.Module, width: int, part: str = "body.") -> dict[str, float]:
    features = GlobalFeatures(Made(body, width), known.data, torch.device("cpu"))
    return distortion_by_depth(features, changed(features.net.state_dict(), part), known.data.clients[0].test)


@pytest.mark.parametrize("rows", [7, 12, 24])
def test_layers_that_run_on_no_images_are_left_out(known: GlobalFeatures, rows: int) -> None:
    """A table of positions, of whatever length; there are 12 images."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Linear(2, 1), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            shift: Tensor = self.last(x.flatten(1)) + self.table(torch.ones(rows, 2)).mean()
            return shift

    assert list(moved(known, Positions(), 5)) == ["last", FEATURES]


def test_layers_that_do_not_run_for_both_networks_are_left_out(known: GlobalFeatures) -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 4)
            self.again = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1))
            return x if self.first.weight[0, 0] > 0 else self.again(x)

    body = Repeated()
    with torch.no_grad():
        body.first.weight.abs_()
    features = GlobalFeatures(Made(body, 4), known.data, torch.device("cpu"))
    state = {name: -tensor for name, tensor in features.net.state_dict().items()}
    assert list(distortion_by_depth(features, state, known.data.clients[0].test)) == ["first", FEATURES]
    features.net.load_state_dict(state)  # and the other way round
    other = {name: -tensor for name, tensor in state.items()}
    assert list(distortion_by_depth(features, other, known.data.clients[0].test)) == ["first", FEATURES]


def test_activations_in_place_come_after(known: GlobalFeatures) -> None:
    def body(inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(inplace), nn.Linear(9, 5), nn.ReLU(inplace))

    assert moved(known, body(inplace=True), 5) == moved(known, body(inplace=False), 5)


def test_a_layer_called_features_is_not_taken_for_the_features(known: GlobalFeatures) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.last = nn.Linear(64, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.features(x.flatten(1)))
            return out

    found = moved(known, Named(), 5, "body.last")
    assert list(found) == ["features Linear", "last", FEATURES]
    assert found["features Linear"] == 0 < found[FEATURES]


def test_transformers_have_their_layers_in_order(known: GlobalFeatures) -> None:
    net = SmallViT(known.data.spec, layers=1, width=8, mlp=16)
    features = GlobalFeatures(net, known.data, torch.device("cpu"))
    found = distortion_by_depth(features, changed(net.state_dict(), "body.1.encoder"), known.data.clients[0].test)
    tails = [name.rpartition("encoder_layer_0.")[2] for name in found]
    assert tails == [
        "1.conv_proj", "self_attention.q", "self_attention.k", "self_attention.v", "self_attention.out",
        "mlp.0 Linear", "mlp.3 Linear", FEATURES,
    ]  # fmt: skip
    assert found["1.conv_proj"] == 0 < found[FEATURES]
