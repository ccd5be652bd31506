from __future__ import annotations

import torch

from lpft.models.resnet import CifarResNet18
from lpft.models.state_dict_keys import proposal, rename
from lpft.types import DataSpec


def network() -> dict[str, torch.Tensor]:
    return dict(CifarResNet18(DataSpec(3, 8, 5), width=2).state_dict())


def renamed(*pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    """The network's tensors with other names, as another program would give them."""
    theirs = {}
    for name, tensor in network().items():
        for ours, other in pairs:
            name = name.replace(ours, other)
        theirs[name] = tensor
    return theirs


FLAT = (("body.", ""), ("head.", "linear."), ("downsample", "shortcut"))


def test_shortcuts_of_other_names_are_found() -> None:
    theirs = renamed(*FLAT)
    renames = proposal(theirs, network())
    assert renames is not None
    assert renames[""] == "body."
    assert renames["layer2.0.shortcut."] == "body.layer2.0.downsample."
    assert list(rename(theirs, renames)) == list(network())


def test_tensors_in_another_order_are_paired_by_their_names() -> None:
    theirs = renamed(*FLAT)
    assert proposal(dict(sorted(theirs.items())), network()) == proposal(theirs, network())


def test_nothing_is_proposed_for_another_network() -> None:
    theirs = renamed(*FLAT)
    theirs["conv1.weight"] = torch.zeros(2, 3, 5, 5)
    assert proposal(theirs, network()) is None
    del theirs["conv1.weight"]
    assert proposal(theirs, network()) is None


def test_a_long_map_is_not_proposed() -> None:
    names = {f"t{i}": tensor for i, tensor in enumerate(network().values())}
    assert proposal(names, network()) is None
