from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from lpft.models.base import BodyHeadNet, NetFactory, check_network
from lpft.models.cnn import SmallCNN
from lpft.models.fedbn import FedBNDigitCNN
from lpft.models.mcmahan import McMahanCNN
from lpft.models.mlp import MLP
from lpft.types import DataSpec

CONFIGS = Path(__file__).parents[2] / "configs" / "networks"
NETS = [MLP, SmallCNN, lambda spec: SmallCNN(spec, norm=True), McMahanCNN, FedBNDigitCNN]
IDS = ["mlp", "small", "small-norm", "mcmahan", "fedbn"]


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("make", NETS, ids=IDS)
@pytest.mark.parametrize("spec", [DataSpec(3, 16, 10), DataSpec(1, 9, 2), DataSpec(1, 4, 3)], ids=str)
def test_contract(make, spec):
    """Body and head own everything; the head is the last linear layer; logits are the head of the features."""
    net = make(spec).eval()
    x = torch.randn(5, spec.in_channels, spec.image_size, spec.image_size)
    features = net.body(x)
    assert isinstance(net, BodyHeadNet)
    assert isinstance(net.head, nn.Linear)
    assert features.shape == (5, net.head.in_features)
    assert net(x).shape == (5, spec.num_classes)
    assert torch.equal(net(x), net.head(features))
    assert {name.split(".")[0] for name in net.state_dict()} == {"body", "head"}
    assert torch.equal(net(x)[:2], net(x[:2])) or torch.allclose(net(x)[:2], net(x[:2]), atol=1e-5)


@pytest.mark.parametrize("make", NETS, ids=IDS)
def test_stacked_gradients_equal_single_ones(make):
    """Three networks mapped as one: gradients and running statistics as one by one, in float64."""
    torch.manual_seed(0)
    spec = DataSpec(1, 4, 3)
    nets = [make(spec).double() for _ in range(3)]
    x, y = torch.randn(3, 6, 1, 4, 4, dtype=torch.float64), torch.randint(3, (3, 6))
    params, buffers = stack_module_state(nets)

    def loss(params, buffers, x, y):
        return nn.functional.cross_entropy(functional_call(nets[0], (params, buffers), (x,)), y)

    # functional_call puts the statistics of the step into the tensors it was given
    stacked = vmap(grad(loss))(params, buffers, x, y)
    for k, net in enumerate(nets):
        nn.functional.cross_entropy(net(x[k]), y[k]).backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(stacked[name][k], parameter.grad)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffers[name][k], buffer)


@pytest.mark.parametrize("make", NETS[1:], ids=IDS[1:])
def test_images_that_are_too_small_are_refused(make):
    with pytest.raises(ValueError, match="at least 4x4 pixels, but the data's are 3x3"):
        make(DataSpec(1, 3, 10))


def test_number_of_parameters():
    """By reference: McMahan et al. give 1,663,370; FedBN's layers are counted by hand.

    Convolutions 3*64*25+64, 64*64*25+64, 64*128*25+128; linear 6272*2048+2048, 2048*512+512, 512*10+10; BatchNorm two
    each for 64, 64, 128, 2048 and 512.
    """
    assert count(McMahanCNN(DataSpec(1, 28, 10))) == 1_663_370
    assert count(FedBNDigitCNN(DataSpec(3, 28, 10))) == 4864 + 102_464 + 204_928 + 12_847_104 + 1_049_088 + 5130 + 5632
    assert count(SmallCNN(DataSpec(3, 16, 10))) == 448 + 4640 + 32_832 + 650


def test_mlp_widths():
    assert count(MLP(DataSpec(1, 28, 10), widths=[200, 200])) == 199_210  # McMahan et al.'s 2NN
    linear = MLP(DataSpec(1, 2, 3), widths=[])
    assert (len(list(linear.body.parameters())), linear.head.in_features) == (0, 4)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_build(path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=NetFactory, sub_configs=True)
    make = parser.instantiate(parser.parse_args([f"--network={path}"])).network
    assert make(DataSpec(3, 16, 10))(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


class Whole(BodyHeadNet):
    """A network that fits, to be spoiled."""

    def __init__(self, spec):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(spec.in_channels * spec.image_size**2, 4))
        self.head = nn.Linear(4, spec.num_classes)


class OwnForward(Whole):
    def forward(self, x):
        return self.head(self.body(x)) / 2


SPOILED = {
    "outside": (lambda net: net.register_parameter("scale", nn.Parameter(torch.ones(1))), "outside .* scale"),
    "outside, buffer": (lambda net: net.register_buffer("mean", torch.ones(1)), "outside .* mean"),
    "head": (lambda net: setattr(net, "head", nn.Sequential(nn.Linear(4, 3))), "torch.nn.Linear"),
    "not saved": (lambda net: net.body.register_buffer("b", torch.ones(1), persistent=False), "not saved .* body.b"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_a_network_that_does_not_fit_is_refused(spoil, message):
    net = Whole(DataSpec(1, 4, 3))
    check_network(net)
    spoil(net)
    with pytest.raises(ValueError, match=f"{message}.*HINT"):
        check_network(net)


@pytest.mark.parametrize("net", [OwnForward(DataSpec(1, 4, 3)), nn.Linear(2, 2)])
def test_a_network_with_its_own_forward_is_refused(net):
    with pytest.raises(ValueError, match="HINT: derive"):
        check_network(net)
