from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lpft.federated.settings import Federation
from tests.toy import same_bits, toy_net


def test_the_entry_of_a_file_is_taken(tmp_path: Path) -> None:
    net = toy_net(norm=True)
    other = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    torch.save({"model_0": other, "server_model": net.state_dict()}, tmp_path / "m.pt")
    federation = Federation(init=str(tmp_path / "m.pt"), init_entry="server_model")
    assert same_bits(federation.read_init(net), dict(net.state_dict()))


def test_an_entry_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"init_entry.*HINT.*federation\.init FILE"):
        Federation(init_entry="server_model")
