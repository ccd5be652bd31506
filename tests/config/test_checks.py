"""Sections of an experiment that do not fit together are refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lpft.config.files import ConfigError
from lpft.config.study import open_study
from lpft.federated.algorithms import Algorithm
from lpft.types import DataSpec
from tests.commands import TOY
from tests.toy import ToyNet

HERE = "tests.config.test_checks"


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
