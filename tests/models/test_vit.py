from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torchvision.models import VisionTransformer

from lpft.models.vit import SmallViT
from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec

SPEC = DataSpec(1, 8, 3)


def vit(spec: DataSpec = SPEC, **settings: int) -> SmallViT:
    with global_generator(0, "vit"):
        return SmallViT(spec, **{"layers": 2, "heads": 2, "width": 8, "mlp": 12, **settings})


@pytest.mark.parametrize("spec", [SPEC, DataSpec(3, 9, 2), DataSpec(1, 4, 3), DataSpec(3, 28, 10)], ids=str)
def test_contract(spec: DataSpec) -> None:
    net = vit(spec).eval()
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
        name = name.replace("self_attention.out.", "self_attention.out_proj.")
        state[name] = tensor
    for prefix in [name.removesuffix("q.weight") for name in state if name.endswith(".q.weight")]:
        for kind in ("weight", "bias"):
            state[f"{prefix}in_proj_{kind}"] = torch.cat([state.pop(f"{prefix}{part}.{kind}") for part in "qkv"])
    reference.heads = nn.Identity()
    reference.load_state_dict(state)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net.body(x), reference(x))


def test_stacked_gradients_equal_single_ones() -> None:
    torch.manual_seed(0)
    nets = [vit().double() for _ in range(3)]
    x, y = torch.randn(3, 6, 1, 8, 8, dtype=torch.float64), torch.randint(3, (3, 6))
    params, buffers = stack_module_state(nets)

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
