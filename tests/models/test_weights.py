from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lpft.models.weights import load_model, save_model
from lpft.storage.client_result import DamagedFileError
from tests.damage import flipped
from tests.toy import same_bits, toy_net


def state() -> dict[str, torch.Tensor]:
    return dict(toy_net(norm=True).state_dict())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", state(), "abc")
    loaded, fingerprint = load_model(tmp_path / "m.safetensors")
    assert same_bits(loaded, state())
    assert fingerprint == "abc"


def test_the_same_model_makes_the_same_file(tmp_path: Path) -> None:
    for i in range(8):
        save_model(tmp_path / f"{i}.safetensors", state(), "abc")
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(8)}) == 1


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:50], lambda b: b"", lambda b: b[:-3] + b"abc"])
def test_damage_is_detected(damage, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, state(), "abc")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError):
        load_model(path)


def test_a_flipped_bit_anywhere_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, {"w": torch.arange(3.0)}, "abc")
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(flipped(whole, position))
        with pytest.raises(DamagedFileError):
            load_model(path)


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    save_model(tmp_path / "m.safetensors", {"a": shared, "b": shared}, "abc")
    assert same_bits(load_model(tmp_path / "m.safetensors")[0], {"a": shared, "b": shared})
