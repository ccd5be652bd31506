"""Sections of an experiment that do not fit together are refused before training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from lpft.config.files import ConfigError
from lpft.config.study import open_study
from lpft.data.transforms import Augment
from lpft.federated.algorithms import Algorithm
from lpft.types import DataSpec
from tests.commands import TOY
from tests.toy import ToyNet

HERE = "tests.config.test_experiment_checks"


class Frozen(ToyNet):
    """A network of which a part is not trained.

    Args:
        spec: shape of the images.
        part: its name; nothing for all of it.
    """

    def __init__(self, spec: DataSpec, part: str) -> None:
        super().__init__(spec, norm=True)
        (self.get_submodule(part) if part else self).requires_grad_(False)


class Masked(ToyNet):
    """A network with a large constant."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec, norm=True)
        self.body.register_buffer("mask", torch.tensor([0.0, -1e9]))


class Epochs(Algorithm):
    """An algorithm that trains these parts.

    Args:
        parts: the result of `epochs`.
    """

    def __init__(self, parts: list[str] | None = None) -> None:
        self.parts = parts

    def epochs(self, local_epochs: int) -> list[str] | None:  # type: ignore[override]
        return self.parts


def plan(out: Path, *words: str) -> None:
    open_study("plan", ["-c", TOY, "--out", str(out), *words])


@pytest.mark.parametrize(
    ("part", "words", "message"),
    [
        ("", [], "Frozen cannot be trained|`federation.algorithm`: .* no trainable parameters,"),
        ("head", [], "`lpft`: .* no trainable parameters in its head"),
        ("head", ["--federation.algorithm", "lpft.federated.algorithms.FedRep", "--only", "ft"], "`federation.algo"),
        ("body", ["--federation.algorithm", "lpft.federated.algorithms.FedRep"], "`federation.algo.* its body"),
        ("head", ["--only", "ft,none"], ""),
        ("body", [], ""),
    ],
)
def test_what_is_trained_must_be_trainable(part: str, words: list[str], message: str, out: Path) -> None:
    words = ["--network", f"{HERE}.Frozen", "--network.part", part, *words]
    if not message:
        return plan(out, *words)
    with pytest.raises(ConfigError, match=message):
        plan(out, *words)


def test_initial_values_must_not_count_as_diverged(out: Path) -> None:
    with pytest.raises(ConfigError, match=r"count as diverged: body\.mask"):
        plan(out, "--network", f"{HERE}.Masked")


@pytest.mark.parametrize("parts", ["null", "[]", "[all, heads]"])
def test_an_algorithm_must_train_parts_of_the_network(parts: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"`federation\.algorithm`: `epochs` returned"):
        plan(out, "--federation.algorithm", f"{HERE}.Epochs", "--federation.algorithm.parts", parts)


class Rate(SGD):
    """An optimizer whose learning rate has another name."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, lr=0.1)
        for group in self.param_groups:
            group["rate"] = group.pop("lr")

    def step(self, closure: object = None) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize("section", ["federation", "personalization"])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [(f"{HERE}.Rate", "no setting `lr`"), ("torch.optim.LBFGS", "LBFGS"), ("torch.optim.SparseAdam", "dense")],
)
def test_optimizers_must_take_steps_with_a_rate(section: str, optimizer: str, message: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=rf"`{section}\.optimizer`.*{message}"):
        plan(out, f"--{section}.optimizer", optimizer)


class Own(Augment):
    """An augmentation that makes a mistake.

    Args:
        mistake: which one.
    """

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake
        if mistake != "no number of draws":
            self.num_draws = 1

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        results = {"type": images / 255, "shape": images[:1], "nothing": None, "transposed": images.mT}
        return results[self.mistake]  # type: ignore[return-value]


@pytest.mark.parametrize("mistake", ["no number of draws", "type", "shape", "nothing"])
def test_augmentations_must_return_images_like_the_given_ones(mistake: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"Own.*HINT"):
        plan(out, "--augment", f"{HERE}.Own", "--augment.mistake", mistake)


def test_augmented_images_need_not_be_contiguous(out: Path) -> None:
    plan(out, "--augment", f"{HERE}.Own", "--augment.mistake", "transposed")
