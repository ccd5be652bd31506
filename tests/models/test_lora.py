from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, nn

from lpft.models.base import BodyHeadNet
from lpft.models.cnn import SmallCNN
from lpft.models.lora import (
    ADAPTER_TARGETS,
    LORA_TARGETS,
    AdapterLinear,
    LoRALinear,
    extend_layers,
    load_personalized,
    merge_lora,
    unused_layers,
)
from lpft.models.mlp import MLP
from lpft.types import DataSpec
from tests.models.test_vit import SPEC, vit

BLOCK = "body.1.encoder.layers.encoder_layer_0"


def lora(net: BodyHeadNet, targets: list[str] | None = None) -> BodyHeadNet:
    generator = Generator().manual_seed(0)
    return extend_layers(net, targets, LORA_TARGETS, lambda layer: LoRALinear(layer, 2, 16.0, generator))


def adapters(net: BodyHeadNet, targets: list[str] | None = None) -> BodyHeadNet:
    generator = Generator().manual_seed(0)
    return extend_layers(net, targets, ADAPTER_TARGETS, lambda layer: AdapterLinear(layer, 5, generator))


def shaken(net: BodyHeadNet) -> BodyHeadNet:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".adapter." in name or ".lora." in name:
                parameter.normal_(std=0.3)
    return net


def extended_layers(net: BodyHeadNet) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, LoRALinear | AdapterLinear)]


def test_a_low_rank_update_by_hand() -> None:
    """Weight 0, alpha 6, rank 2: 3 * up @ down = 3 * [[1, 0], [2, 1]] @ [[1, 1], [0, 1]] = [[3, 3], [6, 9]]."""
    layer = LoRALinear(nn.Linear(2, 2), rank=2, alpha=6, generator=Generator())
    state = {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, 1.0])}
    state |= {"lora.up": torch.tensor([[1.0, 0.0], [2.0, 1.0]]), "lora.down": torch.tensor([[1.0, 1.0], [0.0, 1.0]])}
    layer.load_state_dict(state)
    assert torch.equal(layer(torch.tensor([[1.0, 10.0]])), torch.tensor([[33.0, 97.0]]))


def test_an_adapter_by_hand() -> None:
    """y = 2, down 0.5 y, up 3: 2 + 3 gelu(1), and gelu(1) = 1 * (1 + erf(1/sqrt(2))) / 2."""
    layer = AdapterLinear(nn.Linear(1, 1), 1, Generator())
    weights = {"": 1.0, "adapter.down.": 0.5, "adapter.up.": 3.0}
    state = {f"{prefix}weight": torch.tensor([[weight]]) for prefix, weight in weights.items()}
    layer.load_state_dict(state | {f"{prefix}bias": torch.zeros(1) for prefix in weights})
    expected = 2 + 3 * (1 + math.erf(2**-0.5)) / 2
    assert float(layer(torch.tensor([2.0])).detach()) == pytest.approx(expected)


@pytest.mark.parametrize("add", [lora, adapters])
@pytest.mark.parametrize("net", [vit(), MLP(SPEC, [9, 6])], ids=["vit", "mlp"])
def test_added_modules_are_the_identity_at_first(net: BodyHeadNet, add: object) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    extended, x = add(net), torch.randn(4, 1, 8, 8)  # type: ignore[operator]
    assert torch.equal(extended(x), net(x))
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(extended.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(".adapter." in name or ".lora." in name for name in extended.state_dict().keys() - before.keys())
    assert not torch.allclose(shaken(extended)(x), net(x))
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_which_layers_are_extended() -> None:
    assert set(extended_layers(lora(vit(layers=1)))) == {f"{BLOCK}.self_attention.q", f"{BLOCK}.self_attention.v"}
    assert set(extended_layers(adapters(vit(layers=1)))) == {f"{BLOCK}.self_attention.out", f"{BLOCK}.mlp.3"}
    assert extended_layers(lora(vit(layers=1), ["*.mlp.*"])) == [f"{BLOCK}.mlp.0", f"{BLOCK}.mlp.3"]
    assert extended_layers(lora(MLP(SPEC, [9, 6]))) == ["body.1", "body.3"]


def test_torchs_packed_attention_is_left_out() -> None:
    net = vit(DataSpec(3, 8, 3), layers=1)
    packed = nn.MultiheadAttention(8, 2)
    net.body[1].encoder.layers[0].self_attention = packed  # type: ignore[index, union-attr]
    assert f"{BLOCK}.self_attention.out_proj" not in extended_layers(adapters(net))
    with pytest.raises(ValueError, match=r"out_proj.*mlp\.0.*self_attention cannot be changed.*HINT"):
        lora(net, ["*.out_proj"])


def test_networks_without_such_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SmallCNN.*\['\*\.query'\].*body\.7.*HINT"):
        lora(SmallCNN(SPEC), ["*.query"])
    with pytest.raises(ValueError, match=r"none at all.*HINT"):
        lora(MLP(SPEC, []))


def test_layers_that_are_not_called_are_named() -> None:
    class Bypassing(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self[0](x), self[1].weight, self[1].bias)

    net = MLP(SPEC)
    net.body = Bypassing(nn.Flatten(), nn.Linear(64, 64))
    assert unused_layers(lora(net), SPEC) == ["body.1"]
    assert unused_layers(lora(vit()), SPEC) == unused_layers(adapters(vit()), SPEC) == []


def test_merging_equals_unmerged() -> None:
    plain = vit().double()
    extended = shaken(lora(plain))
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    merged = merge_lora(dict(extended.state_dict()), scale=16.0 / 2)
    assert merged.keys() == plain.state_dict().keys()
    loaded = load_personalized(plain, merged)
    assert extended_layers(loaded) == []
    torch.testing.assert_close(loaded(x), extended(x))


def test_a_network_with_adapters_is_loaded_from_its_state() -> None:
    plain, extended = vit(), shaken(adapters(vit()))
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(load_personalized(plain, dict(extended.state_dict()))(x), extended(x))
