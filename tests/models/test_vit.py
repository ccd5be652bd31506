from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torchvision.models import VisionTransformer

from lpft.models.vit import Adapter, LowRankLinear, SmallViT
from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec

SPEC = DataSpec(1, 8, 3)
ADDED = {"adapters": 5, "lora": 2}


def vit(spec: DataSpec = SPEC, **settings: int) -> SmallViT:
    with global_generator(0, "vit"):
        return SmallViT(spec, **{"layers": 2, "heads": 2, "width": 8, "mlp": 12, **settings})


def shaken(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".adapter." in name or ".lora." in name:
                parameter.normal_()
    return net


@pytest.mark.parametrize("spec", [SPEC, DataSpec(3, 9, 2), DataSpec(1, 4, 3), DataSpec(3, 28, 10)], ids=str)
def test_contract(spec: DataSpec) -> None:
    net = vit(spec, **ADDED).eval()
    x = torch.randn(5, spec.in_channels, spec.image_size, spec.image_size)
    assert net.body(x).shape == (5, 8)
    assert net(x).shape == (5, spec.num_classes)
    assert torch.equal(net(x), net.head(net.body(x)))
    assert {name.split(".")[0] for name in net.state_dict()} == {"body", "head"}


def test_it_is_torchvisions_transformer() -> None:
    """By reference: with its packed query, key and value the features are the same."""
    net = vit(DataSpec(3, 8, 3)).double().eval()
    reference = VisionTransformer(8, 4, 2, 2, 8, 12).double().eval()
    state = {}
    for name, tensor in net.body[1].state_dict().items():
        name = name.replace("self_attention.out.", "self_attention.out_proj.").replace("mlp.layer.", "mlp.")
        state[name] = tensor
    for prefix in [name.removesuffix("q.weight") for name in state if name.endswith(".q.weight")]:
        for kind in ("weight", "bias"):
            state[f"{prefix}in_proj_{kind}"] = torch.cat([state.pop(f"{prefix}{part}.{kind}") for part in "qkv"])
    reference.heads = nn.Identity()
    reference.load_state_dict(state)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net.body(x), reference(x))


def test_added_modules_are_the_identity_and_not_trained() -> None:
    plain, carrying = vit(), vit(**ADDED)
    carrying.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(carrying(x), plain(x))
    added = set(carrying.state_dict()) - set(plain.state_dict())
    assert {name for name, p in carrying.named_parameters() if not p.requires_grad} == added
    assert set(plain.state_dict()) < set(carrying.state_dict())
    assert all(".adapter." in name or ".lora." in name for name in added)
    assert not torch.allclose(shaken(carrying)(x), plain(x))


def test_a_low_rank_update_by_hand() -> None:
    """Weight 0, alpha 6, rank 2: 3 * up @ down = 3 * [[1, 0], [2, 1]] @ [[1, 1], [0, 1]] = [[3, 3], [6, 9]]."""
    layer = LowRankLinear(2, 2, rank=2, alpha=6)
    state = {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, 1.0])}
    state |= {"lora.up": torch.tensor([[1.0, 0.0], [2.0, 1.0]]), "lora.down": torch.tensor([[1.0, 1.0], [0.0, 1.0]])}
    layer.load_state_dict(state)
    assert torch.equal(layer(torch.tensor([[1.0, 10.0]])), torch.tensor([[33.0, 97.0]]))


def test_an_adapter_by_hand() -> None:
    """x = 2, down 0.5 x, up 3: 2 + 3 gelu(1), and gelu(1) = 1 * (1 + erf(1/sqrt(2))) / 2."""
    adapter = Adapter(1, 1)
    for layer, weight in ((adapter.down, 0.5), (adapter.up, 3.0)):
        layer.load_state_dict({"weight": torch.tensor([[weight]]), "bias": torch.zeros(1)})
    expected = 2 + 3 * (1 + math.erf(2**-0.5)) / 2
    assert float(adapter(torch.tensor([2.0]))) == pytest.approx(expected)


def test_stacked_gradients_equal_single_ones() -> None:
    torch.manual_seed(0)
    nets = [shaken(vit(**ADDED)).double() for _ in range(3)]
    x, y = torch.randn(3, 6, 1, 8, 8, dtype=torch.float64), torch.randint(3, (3, 6))
    params, buffers = stack_module_state(nets)
    for net in nets:
        net.requires_grad_(True)

    def loss(params, buffers, x, y):  # type: ignore[no-untyped-def]
        return nn.functional.cross_entropy(functional_call(nets[0], (params, buffers), (x,)), y)

    stacked = vmap(grad(loss))(params, buffers, x, y)
    for k, net in enumerate(nets):
        nn.functional.cross_entropy(net(x[k]), y[k]).backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(stacked[name][k], parameter.grad)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`width=10`.*`heads=4`.*HINT"):
        SmallViT(SPEC, width=10)
    with pytest.raises(ValueError, match=r"`patch=9` is larger.*8x8.*HINT"):
        SmallViT(SPEC, patch=9)
