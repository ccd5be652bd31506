from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lpft.models.weights import load_model, read_weights, save_model
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


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state_dict"])
def test_checkpoints_and_parallel_training_are_seen_through(wrap: str, tmp_path: Path) -> None:
    parallel = {f"module.{name}": tensor for name, tensor in state().items()}
    torch.save({"epoch": 3, wrap: parallel}, tmp_path / "m.pt")
    assert same_bits(read_weights(tmp_path / "m.pt", like=state()), state())


def test_files_without_counters_fit(tmp_path: Path) -> None:
    save_file({n: t for n, t in state().items() if not n.endswith("num_batches_tracked")}, tmp_path / "m.safetensors")
    assert same_bits(read_weights(tmp_path / "m.safetensors", like=state()), state())


def elsewhere(classes: int = 3) -> dict[str, torch.Tensor]:
    """The toy network with the names of a flat one, and a head for other classes."""
    theirs = {name.removeprefix("body.").replace("head.", "fc."): t for name, t in state().items()}
    return {**theirs, "fc.weight": torch.ones(classes, 10), "fc.bias": torch.ones(classes)}


RENAMES = {"": "body.", "fc.": "head."}


def test_names_are_mapped(tmp_path: Path) -> None:
    torch.save({**elsewhere(), "aux.weight": torch.ones(1)}, tmp_path / "m.pt")
    read = read_weights(tmp_path / "m.pt", state(), {**RENAMES, "aux.": None})
    assert list(read) == list(state())
    assert torch.equal(read["body.0.weight"], state()["body.0.weight"])
    assert torch.equal(read["head.weight"], torch.ones(3, 10, dtype=torch.float64))


def test_a_new_head_leaves_theirs_out(tmp_path: Path) -> None:
    torch.save(elsewhere(classes=7), tmp_path / "m.pt")
    read = read_weights(tmp_path / "m.pt", state(), RENAMES, new_head=True)
    assert same_bits(read, {name: t for name, t in state().items() if name.startswith("body.")})


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])  # the former has lost the order of the layers
@pytest.mark.parametrize("classes", [3, 7])
def test_the_map_that_would_do_is_proposed(name: str, classes: int, tmp_path: Path) -> None:
    (save_file if name.endswith("safetensors") else torch.save)(elsewhere(classes), tmp_path / name)
    with pytest.raises(ValueError, match=r"missing in the file: body\.0\.weight") as caught:
        read_weights(tmp_path / name, like=state())
    hint = str(caught.value).partition("HINT: ")[2]
    proposed = json.loads(hint.partition("init_map '")[2].partition("'")[0])
    assert proposed == RENAMES
    assert ("--federation.init_head new" in hint) == (classes == 7)
    read_weights(tmp_path / name, state(), proposed, new_head=classes == 7)


def test_a_head_of_other_classes_gives_the_choice(tmp_path: Path) -> None:
    torch.save({**state(), "head.weight": torch.ones(7, 10), "head.bias": torch.ones(7)}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"(?s)head.weight is \(7, 10\).*HINT: for a new head.*init_head new"):
        read_weights(tmp_path / "m.pt", like=state())


WRONG_MAPS = {
    "unused": ({"backbone.": "body."}, "No name begins with `backbone.`"),
    "clash": ({"0.": "body.7.", "6.": "body.7."}, "Two tensors would be named `body.7.weight`"),
}


@pytest.mark.parametrize(("renames", "message"), WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_maps_that_cannot_be_meant_are_refused(renames: dict[str, str], message: str, tmp_path: Path) -> None:
    torch.save(elsewhere(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=f"init_map.*{message}.*HINT"):
        read_weights(tmp_path / "m.pt", state(), renames)


@pytest.mark.parametrize("content", [{"epoch": 3, "optimizer": {"lr": 0.1}}, [torch.ones(1)], {}])
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"holds a (dict|list).* not tensors by their names.*HINT"):
        read_weights(tmp_path / "m.pt", like=state())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_pickled_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"head.weight": Evil()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / "m.pt", like=state())
    assert "executed" not in capsys.readouterr().out
