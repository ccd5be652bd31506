from __future__ import annotations

from functools import partial

import pytest
import torch

from lpft.clients.features import GlobalFeatures
from lpft.clients.stack import ClientStack
from lpft.methods.base import Phase
from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.methods.peft import PEFT
from lpft.types import DataSpec
from tests.methods.fitting import LP_LR, fit, personalize, personalizer, settings
from tests.models.test_vit import ADDED, vit
from tests.toy import largest_difference, same_bits, toy_data, toy_features

QUICK = settings(epochs=2, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2))


def transformer(dtype: torch.dtype = torch.float64, **added: int) -> GlobalFeatures:
    net = vit(DataSpec(1, 8, 3), layers=1, **(added or ADDED))
    return GlobalFeatures(net.to(dtype), toy_data(), torch.device("cpu"))


def test_phases() -> None:
    assert PEFT("lora").phases(15) == [Phase(15, only=("*.lora.*",))]
    assert PEFT("adapter", lp_epochs=5).phases(15) == [Phase(5, "head", 1e-2), Phase(10, only=("*.adapter.*",))]


@pytest.mark.parametrize("modules", ["adapter", "lora"])
@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_all_but_the_added_modules_and_the_head_keep_their_bits(modules: str, clients: list[int]) -> None:
    """With momentum and weight decay; a phase of linear probing leaves even the added ones."""
    features = transformer(torch.float32)
    start = dict(features.net.state_dict())
    for state in personalize(features, clients, PEFT(modules), QUICK):  # type: ignore[arg-type]
        trained = {name for name in start if f".{modules}." in name or name.startswith("head.")}
        for name in start:
            assert torch.equal(state[name], start[name]) == (name not in trained), name
    for state in personalize(features, clients, PEFT(modules, lp_epochs=None), QUICK):  # type: ignore[arg-type]
        assert {name for name in start if not torch.equal(state[name], start[name])} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("clients", [[1], [1, 2]])
def test_full_fine_tuning_leaves_the_added_modules(clients: list[int]) -> None:
    features = transformer(torch.float32)
    start = dict(features.net.state_dict())
    for state in personalize(features, clients, FT(), QUICK):
        for name in start:
            added = ".lora." in name or ".adapter." in name
            assert torch.equal(state[name], start[name]) == added or name.endswith(".k.bias"), name


def test_modules_that_are_not_trained_change_no_bit() -> None:
    """FT and LP-FT of the network that carries them are those of the plain one."""
    plain = GlobalFeatures(vit(DataSpec(1, 8, 3), layers=1), toy_data(), torch.device("cpu"))
    carrying = transformer(torch.float32)
    carrying.net.load_state_dict(plain.net.state_dict(), strict=False)
    for method in (FT(), LPFT(lp_epochs=1)):
        (a,), (b,) = (personalize(features, [1], method, QUICK) for features in (plain, carrying))
        assert same_bits(a, {name: b[name] for name in a})


@pytest.mark.parametrize("modules", ["adapter", "lora"])
@pytest.mark.parametrize("lp_epochs", [0, 1])
def test_stacked_equals_one_by_one(modules: str, lp_epochs: int) -> None:
    features, method = transformer(), PEFT(modules, lp_epochs=lp_epochs, lp_lr=LP_LR)  # type: ignore[arg-type]
    stacked = personalize(features, [1, 2], method, QUICK)
    for k, client in enumerate([1, 2]):
        assert largest_difference(stacked[k], personalize(features, [client], method, QUICK)[0]) < 1e-12


def test_a_network_without_them_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameters named \*\.lora\.\*.*HINT"):
        fit(personalizer(toy_features(), [1], PEFT("lora"), QUICK))


def test_what_a_network_does_not_train_stays_so_in_a_stack() -> None:
    """So that federated training leaves it, too."""
    net = transformer().net
    for num_clients in (1, 2):
        stack = ClientStack(net, num_clients)
        stack.freeze_body(False)
        trained = sum(p.requires_grad for p in stack.parameters())
        assert trained == sum(p.requires_grad for p in net.parameters()) < len(list(net.parameters()))
