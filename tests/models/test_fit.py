from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lpft.models.fit import read_weights
from tests.toy import same_bits, toy_net


def state() -> dict[str, torch.Tensor]:
    return dict(toy_net(norm=True).state_dict())


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


# Arrays without names, as Flower saves them


def arrays(without: tuple[str, ...] = ()) -> list[np.ndarray]:
    return [t.numpy() for name, t in state().items() if not name.endswith(without or "nothing")]


@pytest.mark.parametrize("counter", [np.array(7), np.array([7]), np.array(7.2, "f4"), np.array([], "f4"), None])
def test_arrays_without_names_are_taken_in_order(counter: np.ndarray | None, tmp_path: Path) -> None:
    given = arrays(("num_batches_tracked",) if counter is None else ())
    place = list(state()).index("body.1.num_batches_tracked")
    if counter is not None:
        given[place] = counter
    np.savez(tmp_path / "round-3-weights.npz", *given)
    read = read_weights(tmp_path / "round-3-weights.npz", state())
    expected = {**state(), "body.1.num_batches_tracked": torch.tensor(7 if counter is not None and counter.size else 0)}
    assert same_bits(read, expected)


def test_arrays_with_names_are_taken_by_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **{name: t.numpy() for name, t in reversed(state().items())})
    assert same_bits(read_weights(tmp_path / "m.npz", state()), state())


def test_parameters_alone_are_not_a_model_with_batch_norm(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", *arrays(("num_batches_tracked", "running_mean", "running_var")))
    with pytest.raises(ValueError, match=r"contains 8 arrays .* 11 tensors.*statistics of BatchNorm are missing.*HINT"):
        read_weights(tmp_path / "m.npz", state())


def test_arrays_of_another_network_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", *reversed(arrays()))
    with pytest.raises(ValueError, match=r"other shape: body\.0\.weight"):
        read_weights(tmp_path / "m.npz", state())
    np.savez(tmp_path / "m.npz", *arrays()[:3])
    with pytest.raises(ValueError, match="contains 3 arrays without names"):
        read_weights(tmp_path / "m.npz", state())


def test_arrays_without_names_may_get_a_new_head(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", *arrays()[:-2], np.ones((7, 10)), np.ones(7))
    with pytest.raises(ValueError, match="init_head new"):
        read_weights(tmp_path / "m.npz", state())
    assert "head.weight" not in read_weights(tmp_path / "m.npz", state(), new_head=True)


# Counters and values


@pytest.mark.parametrize("shape", [(0,), (1,), (1, 1), (5,)])
def test_counters_of_any_shape_are_counters(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save({**state(), "body.1.num_batches_tracked": torch.full(shape, 3.0)}, tmp_path / "m.pt")
    read = read_weights(tmp_path / "m.pt", state())
    value = 3 if torch.Size(shape).numel() == 1 else 0
    assert torch.equal(read["body.1.num_batches_tracked"], torch.tensor(value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((10,), torch.nan), "not finite: body.6.bias"),
        (torch.zeros(10, dtype=torch.complex64), "body.6.bias is complex64"),
        (torch.zeros(10, dtype=torch.int8), "body.6.bias is int8"),
        (torch.zeros(10, device="meta"), "no values: body.6.bias"),
    ],
)
def test_values_that_cannot_be_weights_are_refused(value: torch.Tensor, message: str, tmp_path: Path) -> None:
    torch.save({**state(), "body.6.bias": value}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "m.pt", state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: t.to(dtype) for name, t in state().items()}, tmp_path / "m.pt")
    assert read_weights(tmp_path / "m.pt", state())["head.weight"].dtype == torch.float64


# Maps for files that hold more than the model


def lightning(**extra: torch.Tensor) -> dict[str, torch.Tensor]:
    theirs = {f"model.{name}": tensor for name, tensor in elsewhere().items()}
    return {**theirs, **extra}


EXTRAS = {
    "loss": {"loss.weight": torch.ones(3)},
    "metric": {"acc.tp": torch.ones(3), "acc.fp": torch.ones(3)},
    "bare": {"scale": torch.ones(())},
    "ema": {f"ema_model.{name}": tensor for name, tensor in elsewhere().items()},
    "head": {"model.aux.bn.num_batches_tracked": torch.tensor(3), "model.aux.bn.weight": torch.ones(4)},
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
def test_the_proposed_map_works_with_more_in_the_file(extra: dict, first: bool, tmp_path: Path) -> None:
    content = {**extra, **lightning()} if first else {**lightning(), **extra}
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match="unknown to the network") as caught:
        read_weights(tmp_path / "m.ckpt", state())
    proposed = json.loads(str(caught.value).partition("init_map '")[2].partition("'")[0])
    read = read_weights(tmp_path / "m.ckpt", state(), proposed)
    assert torch.equal(read["body.0.weight"], state()["body.0.weight"])
    assert torch.equal(read["head.weight"], torch.ones(3, 10, dtype=torch.float64))


def test_a_file_without_a_head_gives_a_body(tmp_path: Path) -> None:
    body = {name: t for name, t in elsewhere().items() if not name.startswith("fc.")}
    torch.save(body, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="init_map") as caught:
        read_weights(tmp_path / "m.pt", state(), new_head=True)
    proposed = json.loads(str(caught.value).partition("init_map '")[2].partition("'")[0])
    read = read_weights(tmp_path / "m.pt", state(), proposed, new_head=True)
    assert torch.equal(read["body.6.weight"], state()["body.6.weight"])
