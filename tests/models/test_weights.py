from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lpft.models.weights import load_model, read_weights, save_model
from lpft.runs import DamagedFileError
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


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_weights_from_elsewhere(name: str, tmp_path: Path) -> None:
    save = save_file if name.endswith("safetensors") else torch.save
    save({n: t.float() if t.is_floating_point() else t for n, t in state().items()}, tmp_path / name)
    read = read_weights(tmp_path / name, like=state())
    assert read["head.weight"].dtype == torch.float64
    torch.testing.assert_close(read["head.weight"], state()["head.weight"], rtol=1e-6, atol=0)


def test_differences_are_listed(tmp_path: Path) -> None:
    other = state()
    other["fc.weight"] = other.pop("head.weight")
    other["head.bias"] = torch.zeros(7)
    torch.save(other, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"(?s)missing in the file: head.weight \(3, 10\).*unknown.*fc.weight.*\(7,\)"):
        read_weights(tmp_path / "m.pt", like=state())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_pickled_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"head.weight": Evil()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / "m.pt", like=state())
    assert "executed" not in capsys.readouterr().out
