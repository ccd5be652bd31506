from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import StochasticDepth

from lpft.clients.stack import ClientStack, sample_losses
from lpft.clients.stack_size import forward_flops
from lpft.models.base import BodyHeadNet, check_network
from lpft.models.pretrained import SplitNet
from lpft.models.timm import TimmNet
from lpft.models.torchvision import ClientwiseDepth, TorchvisionNet
from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec
from tests.toy import same_bits

K = 2
SMALL = {
    "shufflenet": (TorchvisionNet, {"name": "shufflenet_v2_x0_5"}, 16),
    "timm-resnet": (TimmNet, {"name": "test_resnet"}, 16),
    "timm-vit": (TimmNet, {"name": "test_vit", "settings": {"img_size": 32}}, 32),
}
LARGE = {  # some at 64 pixels: norm layers over a few nearly equal values blow rounding up
    "resnet": (TorchvisionNet, {"name": "resnet18"}, 8),
    "densenet": (TorchvisionNet, {"name": "densenet121"}, 32),
    "mobilenet2": (TorchvisionNet, {"name": "mobilenet_v2"}, 32),
    "mobilenet3": (TorchvisionNet, {"name": "mobilenet_v3_small"}, 32),
    "efficientnet": (TorchvisionNet, {"name": "efficientnet_b0"}, 64),
    "regnet": (TorchvisionNet, {"name": "regnet_y_400mf"}, 64),
    "convnext": (TorchvisionNet, {"name": "convnext_tiny"}, 32),
    "vit": (TorchvisionNet, {"name": "vit_b_32", "settings": {"image_size": 32}}, 32),
    "swin": (TorchvisionNet, {"name": "swin_t"}, 32),
    "swin2": (TorchvisionNet, {"name": "swin_v2_t"}, 32),
    "googlenet": (TorchvisionNet, {"name": "googlenet", "settings": {"aux_logits": False}}, 32),
    "timm-convnext": (TimmNet, {"name": "convnext_atto"}, 32),
    "timm-efficientnet": (TimmNet, {"name": "efficientnet_b0"}, 64),
}
NETS = [
    *(pytest.param(*case, id=name) for name, case in SMALL.items()),
    *(pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in LARGE.items()),
]


@pytest.fixture(autouse=True)
def _without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded: whoever opens a connection fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection to the network was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def make(kind: type[SplitNet], settings: dict[str, object], spec: DataSpec, **more: object) -> SplitNet:
    if kind is TimmNet:
        pytest.importorskip("timm")
    with global_generator(0, "split"):
        return kind(spec, **settings, **more)  # type: ignore[arg-type]


def shufflenet(classes: int = 3, channels: int = 3, **settings: object) -> SplitNet:
    return make(TorchvisionNet, {"name": "shufflenet_v2_x0_5"}, DataSpec(channels, 16, classes), **settings)


@pytest.mark.parametrize(("kind", "settings", "size"), NETS)
def test_stacked_training_equals_training_each_network(
    kind: type[SplitNet], settings: dict[str, object], size: int
) -> None:
    """One step of a stack and evaluation on shared images, as each network alone; float64, grey images, no dropping."""
    torch.manual_seed(0)
    spec = DataSpec(1, size, 3)
    net = make(kind, settings, spec).double()
    check_network(net)
    for module in net.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
    assert forward_flops(net, spec, 2) > 0
    x, y = torch.rand(K, 3, 1, size, size, dtype=torch.float64), torch.randint(3, (K, 3))
    stack = ClientStack(net, K).train()
    sample_losses(stack(x), y).mean(1).sum().backward()
    buffers = {name: b.clone() for name, b in stack.net_buffers().items()}
    shared = stack.eval().features(x[0], shared=True)
    for k in range(K):
        single = ClientStack(net, 1).train()
        sample_losses(single(x[k : k + 1]), y[k : k + 1]).mean(1).sum().backward()
        for name, parameter in single.net.named_parameters():
            largest = float(parameter.grad.abs().max())  # BatchNorm of three samples magnifies rounding
            torch.testing.assert_close(stack.params()[name].grad[k], parameter.grad, rtol=0, atol=1e-5 * largest + 2e-9)
        for name, buffer in single.net.named_buffers():
            torch.testing.assert_close(buffers[name][k], buffer)
        torch.testing.assert_close(shared[k], single.eval().features(x[0], shared=True)[0], rtol=1e-6, atol=2e-9)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_parts_make_the_librarys_own_network(library: str) -> None:
    spec = DataSpec(3, 32, 5)
    if library == "torchvision":
        net, own = shufflenet(5), torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    else:
        timm = pytest.importorskip("timm")
        net, own = make(TimmNet, {"name": "test_resnet"}, spec), timm.create_model("test_resnet", num_classes=5)
    own.load_state_dict({n.removeprefix("body.").replace("head.", "fc."): t for n, t in net.state_dict().items()})
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(net.eval()(x), own.eval()(x))


def test_grey_images_are_repeated() -> None:
    grey, rgb = shufflenet(channels=1).eval(), shufflenet().eval()
    assert same_bits(dict(grey.state_dict()), dict(rgb.state_dict()))
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(grey(x), rgb(x.repeat(1, 3, 1, 1)))


# Weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_come_from_a_file_with_their_head_if_it_fits(name: str, tmp_path: Path) -> None:
    own = torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    state = {n: t for n, t in own.state_dict().items() if not n.endswith("num_batches_tracked")}  # as in older files
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    x = torch.rand(2, 3, 16, 16)
    weights = str(tmp_path / name)
    net = shufflenet(5, weights=weights)
    assert torch.equal(net.eval()(x), own.eval()(x))
    for other in (shufflenet(3, weights=weights), shufflenet(5, weights=weights, new_head=True)):
        assert torch.equal(other.eval().body(x), net.body(x))
        assert other.head.weight.shape[1:] == (1024,)
        assert not torch.equal(other.head.weight[:3], net.head.weight[:3])
    assert net.weights_hash is not None
    assert net.weights_hash != shufflenet(3).weights_hash


@pytest.mark.slow
def test_weights_with_torchvisions_older_names_are_known(tmp_path: Path) -> None:
    own = torchvision.models.densenet121(num_classes=5)
    names = {name: name.replace("norm1", "norm.1").replace("norm2", "norm.2") for name in own.state_dict()}
    names = {name: old.replace("conv1", "conv.1").replace("conv2", "conv.2") for name, old in names.items()}
    torch.save({old: own.state_dict()[name] for name, old in names.items()}, tmp_path / "w.pth")
    spec, weights = DataSpec(3, 32, 5), str(tmp_path / "w.pth")
    net = make(TorchvisionNet, {"name": "densenet121"}, spec, weights=weights)
    state = {n.removeprefix("body.").replace("head.", "classifier."): t for n, t in net.state_dict().items()}
    assert same_bits(state, dict(own.state_dict()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.mnasnet0_5(num_classes=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"(?s)w\.pth does not fit.*missing in the file: conv1.0.weight.*HINT"):
        shufflenet(weights=str(tmp_path / "w.pth"))
    with pytest.raises(FileNotFoundError, match="HINT"):
        shufflenet(weights=str(tmp_path / "none.pth"))


# What cannot be used

REFUSED = {
    "unknown": ({"name": "resnet81"}, r"no classification network `resnet81`.*resnet18"),
    "no classifier": ({"name": "fcn_resnet50"}, r"no classification network `fcn_resnet50`.*HINT"),
    "several outputs": (
        {"name": "googlenet", "settings": {"init_weights": False}},
        r"returns GoogLeNetOutputs in training.*HINT.*aux_logits: false",
    ),
    "convolution": ({"name": "squeezenet1_1"}, r"not the output of a torch.nn.Linear.*HINT"),
    "too small": ({"name": "densenet121"}, r"cannot take images of 24x24 pixels \(.*\)\. HINT: change"),
    "other size": ({"name": "vit_b_32"}, r"cannot take images of 24x24 .*224.*settings: \{image_size: 24\}"),
    "setting": ({"name": "resnet18", "settings": {"depth": 3}}, r"cannot be built: .*depth.*HINT"),
    "classes": ({"name": "resnet18", "settings": {"num_classes": 3}}, r"`settings.num_classes`.*HINT"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_combinations_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(TorchvisionNet, settings, DataSpec(3, 24, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "hf-hub:timm/resnet18.a1_in1k"}, r"no classification network.*HINT"),
        ({"name": "deit_tiny_distilled_patch16_224", "settings": {"img_size": 16}}, r"not the output of a torch.nn"),
        ({"name": "vit_tiny_patch16_224"}, r"cannot take images of 16x16 .*settings: \{img_size: 16\}"),
        ({"name": "test_vit", "settings": {"pretrained": True}}, r"`settings.pretrained`.*HINT"),
        ({"name": "test_vit", "settings": {"depht": 3}}, r"cannot be built: .*depht.*HINT"),
    ],
)
def test_what_does_not_fit_is_refused_of_timm(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(TimmNet, settings, DataSpec(3, 16, 3))


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match=r"HINT: pip install lpft\[timm\]"):
        TimmNet(DataSpec(3, 16, 3), name="resnet18")


# Stochastic depth


def test_stochastic_depth_differs_between_the_clients_of_a_stack() -> None:
    body = nn.Sequential(nn.Flatten(), ClientwiseDepth(0.5, "row"))
    net = BodyHeadNet()
    net.body, net.head = body, nn.Linear(12, 3)
    stack = ClientStack(net, K).train()
    torch.manual_seed(0)
    features = stack.features(torch.ones(K, 32, 3, 2, 2))
    assert set(features.flatten().tolist()) == {0.0, 2.0}
    assert not torch.equal(features[0], features[1])
    assert torch.equal(stack.eval().features(torch.ones(K, 32, 3, 2, 2)), torch.ones(K, 32, 12))


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_stochastic_depth_of_one_client_is_torchvisions(mode: str, p: float) -> None:
    x, results = torch.rand(8, 2, 3), []
    for layer in (ClientwiseDepth(p, mode), StochasticDepth(p, mode)):
        torch.manual_seed(0)
        results.append(layer(x))
    assert torch.equal(*results)


def test_networks_with_stochastic_depth_can_be_stacked() -> None:
    net = make(TorchvisionNet, {"name": "efficientnet_b0"}, DataSpec(3, 32, 3))
    assert any(isinstance(module, ClientwiseDepth) for module in net.modules())
    assert not any(type(module) is StochasticDepth for module in net.modules())
    with torch.no_grad():
        assert ClientStack(net, K).train()(torch.rand(K, 2, 3, 32, 32)).isfinite().all()
