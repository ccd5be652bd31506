from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from jsonargparse import ArgumentParser
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from lpft.models.alexnet import AlexNetBN
from lpft.models.base import BodyHeadNet, NetFactory, build_network, check_network
from lpft.models.cnn import SmallCNN
from lpft.models.fedbn import FedBNDigitCNN
from lpft.models.mcmahan import McMahanCNN
from lpft.models.mlp import MLP
from lpft.models.residual import ResidualMLP
from lpft.models.resnet import CifarResNet18
from lpft.types import DataSpec

CONFIGS = Path(__file__).parents[2] / "configs" / "networks"
FOR_FEATURES = {
    "mlp": MLP,
    "mlp-batch": lambda spec: MLP(spec, [8, 4], norm="batch"),
    "mlp-layer": lambda spec: MLP(spec, norm="layer"),
    "residual": ResidualMLP,
    "residual-batch": lambda spec: ResidualMLP(spec, width=3, blocks=2, norm="batch"),
}
ANY_SIZE = {**FOR_FEATURES, "cifar-resnet18": lambda spec: CifarResNet18(spec, width=2)}
FROM_4 = {
    "small": SmallCNN,
    "small-norm": lambda spec: SmallCNN(spec, norm=True),
    "mcmahan": McMahanCNN,
    "fedbn": FedBNDigitCNN,
}
FROM_63 = {"alexnet": lambda spec: AlexNetBN(spec, width=8)}
SMALLEST = {**dict.fromkeys(ANY_SIZE, 1), **dict.fromkeys(FROM_4, 4), **dict.fromkeys(FROM_63, 63)}
NETS = ANY_SIZE | FROM_4 | FROM_63
ANY_NET = pytest.mark.parametrize("name", NETS)


def count(net):
    return sum(p.numel() for p in net.parameters())


@ANY_NET
@pytest.mark.parametrize("spec", [DataSpec(3, 16, 10), DataSpec(1, 9, 2), DataSpec(1, 4, 3)], ids=str)
def test_contract(name, spec):
    """Body and head own everything; the head is the last linear layer; logits are the head of the features."""
    spec = replace(spec, image_size=max(spec.image_size, SMALLEST[name]))
    net = NETS[name](spec).eval()
    x = torch.randn(5, spec.in_channels, spec.image_size, spec.image_size)
    features = net.body(x)
    assert isinstance(net, BodyHeadNet)
    assert isinstance(net.head, nn.Linear)
    assert features.shape == (5, net.head.in_features)
    assert net(x).shape == (5, spec.num_classes)
    assert torch.equal(net(x), net.head(features))
    assert {name.split(".")[0] for name in net.state_dict()} == {"body", "head"}
    assert torch.equal(net(x)[:2], net(x[:2])) or torch.allclose(net(x)[:2], net(x[:2]), atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_feature_arrays(name):
    """Flat networks take rows; networks for images say that they are."""
    spec = DataSpec.of_features(7, num_classes=3)
    if name in FOR_FEATURES:
        net = build_network(NETS[name], spec, torch.float32, seed=0).eval()
        assert net(torch.randn(5, 7)).shape == (5, 3)
    else:
        with pytest.raises(ValueError, match="is a network for images, but the data are rows of 7 features"):
            NETS[name](spec)


def test_a_residual_network_starts_as_a_linear_classifier_and_adds_by_hand():
    """One block, features (2, 0), LayerNorm to (1, -1), W1 = [1 0], W2 = (3, 0): 2 + 3 * 1 and 0 + 0."""
    net = ResidualMLP(DataSpec.of_features(2, 3), width=1)
    x = torch.tensor([[2.0, 0.0]])
    assert torch.equal(net.body(x), x)
    block = net.body[1]
    with torch.no_grad():
        block.down.weight.copy_(torch.tensor([[1.0, 0.0]]))
        block.down.bias.zero_()
        block.up.weight.copy_(torch.tensor([[3.0], [0.0]]))
    assert net.body(x)[0].tolist() == pytest.approx([5.0, 0.0], abs=1e-4)


@ANY_NET
def test_stacked_gradients_equal_single_ones(name):
    """Three networks mapped as one: gradients and running statistics as one by one, in float64."""
    torch.manual_seed(0)
    spec = DataSpec(1, max(4, SMALLEST[name]), 3)
    nets = [NETS[name](spec).double() for _ in range(3)]
    x = torch.randn(3, 6, 1, spec.image_size, spec.image_size, dtype=torch.float64)
    y = torch.randint(3, (3, 6))
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


@pytest.mark.parametrize("name", FROM_4 | FROM_63)
def test_images_that_are_too_small_are_refused(name):
    n = SMALLEST[name]
    with pytest.raises(ValueError, match=f"at least {n}x{n} pixels, but the data's are {n - 1}x{n - 1}"):
        NETS[name](DataSpec(1, n - 1, 10))


def test_number_of_parameters():
    """By reference: McMahan et al. give 1,663,370; the layers of the others are counted by hand.

    Convolutions 3*64*25+64, 64*64*25+64, 64*128*25+128; linear 6272*2048+2048, 2048*512+512, 512*10+10; BatchNorm two
    each for 64, 64, 128, 2048 and 512. ResNet-18: torchvision's network with 1000 classes has 11,689,512; the first
    convolution has 3*64*40 weights less, the head 990*513. AlexNet: convolutions 3*64*121+64, 64*192*25+192,
    192*384*9+384, 384*256*9+256, 256*256*9+256; linear 9216*4096+4096, 4096*4096+4096, 4096*10+10; BatchNorm two each
    for 64, 192, 384, 256, 256, 4096 and 4096.
    """
    assert count(McMahanCNN(DataSpec(1, 28, 10))) == 1_663_370
    assert count(FedBNDigitCNN(DataSpec(3, 28, 10))) == 4864 + 102_464 + 204_928 + 12_847_104 + 1_049_088 + 5130 + 5632
    assert count(CifarResNet18(DataSpec(3, 32, 10))) == 11_689_512 - 7680 - 507_870
    with torch.device("meta"):
        alexnet = count(AlexNetBN(DataSpec(3, 256, 10)))
    convolutions = 23_296 + 307_392 + 663_936 + 884_992 + 590_080
    assert alexnet == convolutions + 37_752_832 + 16_781_312 + 40_970 + 2 * (64 + 192 + 384 + 256 + 256 + 4096 + 4096)
    assert count(SmallCNN(DataSpec(3, 16, 10))) == 448 + 4640 + 32_832 + 650


def test_mlp_widths():
    assert count(MLP(DataSpec(1, 28, 10), widths=[200, 200])) == 199_210  # McMahan et al.'s 2NN
    linear = MLP(DataSpec(1, 2, 3), widths=[])
    assert (len(list(linear.body.parameters())), linear.head.in_features) == (0, 4)


def test_residual_network_equals_torchvisions():
    """By reference: the same blocks and names, but for the first layers; values that torchvision would start from."""
    ours, theirs = CifarResNet18(DataSpec(3, 8, 5)), torchvision.models.resnet18(num_classes=5)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    state = {name.removeprefix("body.").replace("head.", "fc."): t for name, t in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    weight = ours.body.layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_build(path):
    if path.stem.startswith("timm"):
        pytest.importorskip("timm")
    size = 63 if path.stem == "alexnet_bn" else 16
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=NetFactory, sub_configs=True)
    make = parser.instantiate(parser.parse_args([f"--network={path}"])).network
    assert make(DataSpec(3, size, 10))(torch.zeros(2, 3, size, size)).shape == (2, 10)


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


class Own(BodyHeadNet):
    """A network whose parts are given."""

    def __init__(self, body: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.head = body, head or nn.Linear(4, 3)


class Calls(nn.Module):
    """A body that calls a function on the features."""

    def __init__(self, function, before=lambda x: x) -> None:
        super().__init__()
        self.layer, self.function, self.before = nn.Linear(16, 4), function, before

    def forward(self, x):
        return self.function(self.layer(self.before(x).flatten(1)))


def tied_to_the_head():
    net = Own(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 3), nn.Linear(3, 4)))
    net.head.weight = net.body[2].weight
    return net


def of_layer(layer):
    return Own(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), layer))


class ComplexScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.scale).real


class Cosine(nn.Linear):
    def forward(self, x):
        return super().forward(nn.functional.normalize(x))


def with_head(outputs):
    net = Own(Calls(lambda x: x))
    net.head = nn.Linear(4, outputs)
    return net


class Shifted(nn.Module):
    """A body that adds a tensor to the features, which is stored in some way."""

    def __init__(self, store, shift) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        store(self, shift)

    def forward(self, x):
        return self.layer(x.flatten(1)) + torch.zeros(4)


def shifted(store, shift=None):
    return Own(Shifted(store, torch.randn(4) if shift is None else shift))


def as_buffer(body, shift):
    body.register_buffer("shift", shift)


def as_parameter(body, shift):
    body.shift = nn.Parameter(shift)


def as_data(body, shift):
    body.other = nn.Linear(16, 4)
    body.other.weight.data = body.layer.weight.data


class Lazy(nn.Module):
    """A body that creates its last layer when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def forward(self, x):
        self.last = self.last or nn.Linear(16, 4).to(x.device)
        return self.last(x.flatten(1))


class Hooked(nn.Module):
    """A body whose hook collects features in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.collected = nn.Linear(16, 4), {}
        self.layer.register_forward_hook(lambda layer, inputs, out: self.collected.update(out=out))

    def forward(self, x):
        return self.layer(x.flatten(1))


UNFIT = {
    "too few outputs": (lambda: with_head(2), "2 outputs.* 3 classes"),
    "too many outputs": (lambda: with_head(4), "4 outputs.* 3 classes"),
    "features of one image": (lambda: Own(Calls(torch.squeeze)), r"returns \(4,\) for 1 image,"),
    "complex features": (lambda: Own(Calls(torch.fft.fft)), "complex64, but .*float32"),
    "float64 features": (lambda: Own(Calls(torch.Tensor.double)), "float64, but .*float32"),
    "complex buffer": (lambda: shifted(as_buffer, torch.ones(4) * 1j), "complex .*body.shift"),
    "infinite buffer": (lambda: shifted(as_buffer, torch.full((4,), -torch.inf)), "not finite.*body.shift"),
    "undefined parameter": (lambda: shifted(as_parameter, torch.full((4,), torch.nan)), "not finite.*body.shift"),
    "expanded": (lambda: shifted(as_parameter, torch.ones(1).expand(4)), "share memory: body.shift"),
    "tied by data": (lambda: shifted(as_data), "body.other.weight shares the memory of body.layer.weight"),
    "created": (lambda: Own(Lazy()), "creates layers .*body.last.bias, body.last.weight"),
    "hook": (lambda: Own(Hooked()), "cannot be copied"),
    "list of layers": (
        lambda: shifted(lambda body, _: setattr(body, "own", [nn.Linear(4, 4)])),
        r"body.own\[0\].weight",
    ),
    "dict of parameters": (lambda: shifted(lambda body, t: setattr(body, "own", {"w": nn.Parameter(t)})), "body.own"),
    "random tensor": (lambda: shifted(lambda body, t: setattr(body, "own", t)), "not saved .*body.own"),
    "tied to the head": (tied_to_the_head, "ties head.weight to body.2.weight"),
    "lazy": (lambda: of_layer(nn.LazyLinear(4)), "not known before they run: body.2"),
    "complex": (lambda: of_layer(ComplexScale()), "complex parameters.*body.2.scale"),
    "synchronized": (lambda: of_layer(nn.SyncBatchNorm(4)), "SyncBatchNorm.*body.2"),
    "own head": (lambda: Own(Calls(lambda x: x), Cosine(4, 3)), "not a plain torch.nn.Linear"),
    "normed head": (
        lambda: Own(Calls(lambda x: x), nn.utils.weight_norm(nn.Linear(4, 3))),
        "not a plain torch.nn.Linear",
    ),
    "tuple": (lambda: Own(Calls(lambda x: (x, x))), "returns a tuple"),
    "dict": (lambda: Own(Calls(lambda x: {"features": x})), "returns a dict"),
    "shape": (lambda: Own(Calls(lambda x: x[..., None])), r"\(2, 4, 1\) for 2 images.*\(2, 4\)"),
    "in place": (lambda: Own(Calls(lambda x: x, before=lambda x: x.sub_(0.5))), "modifies its inputs, the images"),
    "error": (lambda: Own(Calls(lambda x: x @ torch.ones(5, 5))), "cannot run on images of 1x4x4: RuntimeError"),
}


@pytest.mark.parametrize(("make", "message"), UNFIT.values(), ids=UNFIT)
def test_networks_that_cannot_be_trained_are_refused_by_name(make, message) -> None:
    with pytest.raises(ValueError, match=f"{message}.*HINT"):
        build_network(lambda spec: make(), DataSpec(1, 4, 3), torch.float32, seed=0)


FIT = {
    "constant": lambda: shifted(lambda body, _: setattr(body, "own", torch.arange(4.0))),
    "buffer": lambda: shifted(as_buffer),
    "parameter": lambda: shifted(as_parameter),
    "registered layers in a list": lambda: shifted(lambda body, _: setattr(body, "own", [body.layer])),
    "frozen copy": lambda: shifted(lambda body, _: setattr(body, "own", [nn.LayerNorm(4).requires_grad_(False)])),
    "computed": lambda: Own(nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(16, 4)))),
    "recurrent": lambda: Own(nn.Sequential(nn.Flatten(2), Last(nn.LSTM(16, 4, batch_first=True)))),
    "BatchNorm without statistics": lambda: of_layer(nn.BatchNorm1d(4, track_running_stats=False)),
}


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize("make", FIT.values(), ids=FIT)
def test_networks_with_other_tensors_that_do_not_change_are_accepted(make) -> None:
    net = build_network(lambda spec: make(), DataSpec(1, 4, 3), torch.float32, seed=0)
    assert net(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
