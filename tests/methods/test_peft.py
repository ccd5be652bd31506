from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from lpft.clients.features import GlobalFeatures
from lpft.methods.base import Phase, check_phases
from lpft.methods.peft import PEFT
from lpft.types import DataSpec
from tests.methods.fitting import LP_LR, fit, personalize, personalizer, settings
from tests.models.test_vit import SPEC, vit
from tests.toy import largest_difference, same_bits, toy_data, toy_net

QUICK = settings(epochs=2, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2))
SMALL: dict[str, Any] = {"rank": 2, "bottleneck": 5}


def transformer(dtype: torch.dtype = torch.float64) -> GlobalFeatures:
    net = vit(DataSpec(1, 8, 3), layers=1)
    return GlobalFeatures(net.to(dtype), toy_data(), torch.device("cpu"))


def test_phases() -> None:
    assert PEFT("lora").phases(15) == [Phase(15, only=("*.lora.*",))]
    assert PEFT("adapter", lp_epochs=5).phases(15) == [Phase(5, "head", 1e-2), Phase(10, only=("*.adapter.*",))]


@pytest.mark.parametrize("modules", ["adapter", "lora"])
@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_all_but_the_added_modules_and_the_head_keep_their_bits(modules: Any, clients: list[int]) -> None:
    """With momentum and weight decay; a phase of linear probing leaves even the added ones."""
    features = transformer(torch.float32)
    module = personalizer(features, clients, PEFT(modules, **SMALL), QUICK)
    start = dict(module.hooks.start_net.state_dict())
    assert same_bits(dict(features.net.state_dict()), {name: start[name] for name in features.net.state_dict()})
    for state in fit(module).stack.states():
        trained = {name for name in start if f".{modules}." in name or name.startswith("head.")}
        for name in start:
            assert torch.equal(state[name], start[name]) == (name not in trained), name
    for state in personalize(features, clients, PEFT(modules, lp_epochs=None, **SMALL), QUICK):
        assert {name for name in start if not torch.equal(state[name], start[name])} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_what_is_saved(clients: list[int]) -> None:
    """LoRA: the plain network, its updates merged, which makes no difference to the logits. Adapters: with them."""
    features, x = transformer(), torch.randn(len(clients), 4, 1, 8, 8, dtype=torch.float64)
    names = features.net.state_dict().keys()
    module = fit(personalizer(features, clients, PEFT("lora", **SMALL), QUICK))
    stack, start = module.hooks.merged()
    assert start is features.net
    assert all(state.keys() == names for state in stack.states())
    torch.testing.assert_close(stack.eval()(x), module.stack.eval()(x))
    assert largest_difference(stack.states()[0], dict(features.net.state_dict())) > 1e-4
    module = fit(personalizer(features, clients, PEFT("adapter", **SMALL), QUICK))
    assert module.hooks.merged() == (module.stack, module.hooks.start_net)


def test_seeds_differ_in_the_modules_and_clients_do_not() -> None:
    def down(clients: list[int], seed: int) -> torch.Tensor:
        params = personalizer(transformer(), clients, PEFT("lora", **SMALL), QUICK, seed).stack.params()
        return next(p for name, p in params.items() if name.endswith("lora.down"))

    assert torch.equal(down([1, 2], seed=0)[0], down([1, 2], seed=0)[1])
    assert torch.equal(down([1, 2], seed=0)[0], down([3], seed=0)[0])
    assert not torch.equal(down([1], seed=0), down([1], seed=1))


@pytest.mark.parametrize("modules", ["adapter", "lora"])
@pytest.mark.parametrize("lp_epochs", [0, 1])
def test_stacked_equals_one_by_one(modules: Any, lp_epochs: int) -> None:
    features, method = transformer(), PEFT(modules, lp_epochs=lp_epochs, lp_lr=LP_LR, **SMALL)
    stacked = personalize(features, [1, 2], method, QUICK)
    for k, client in enumerate([1, 2]):
        assert largest_difference(stacked[k], personalize(features, [client], method, QUICK)[0]) < 1e-12


def test_a_method_that_does_not_fit_the_network_is_refused() -> None:
    check_phases("peft", PEFT("lora"), toy_net(), 15, SPEC)
    with pytest.raises(ValueError, match=r"Method `peft`: ToyNet has no linear layers.*\*\.query.*body\.6.*HINT"):
        check_phases("peft", PEFT("lora", targets=["*.query"]), toy_net(), 15, SPEC)
