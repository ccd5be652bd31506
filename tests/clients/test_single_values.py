from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lpft
from lpft.clients.single_values import single_value_layers, untrainable_clients
from lpft.config.files import ConfigError
from lpft.data.datamodule import FederatedDataModule
from lpft.models.base import BodyHeadNet
from lpft.models.fedbn import FedBNDigitCNN
from lpft.types import DataSpec
from tests.toy import ToySource, toy_net

pytestmark = pytest.mark.usefixtures("undrawn")

SPEC = DataSpec(1, 8, 3)


class OneImage(ToySource):
    """The first client has copies of one image only, the second a single one."""

    def __init__(self, counts: tuple[int, ...] = (16, 1, 20)) -> None:
        super().__init__(counts)

    def draw(self, rng: np.random.Generator, client: int, split: str, num: int) -> tuple[np.ndarray, ...]:
        images, labels = super().draw(rng, client, split, num)
        if client == 0 and split == "train":
            images[:], labels[:] = images[0], labels[0]
        return images, labels


class Vector(BodyHeadNet):
    """A network whose BatchNorm layer gets one value per channel and image."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(spec.image_size**2, 10), nn.BatchNorm1d(10), nn.ReLU())
        self.head = nn.Linear(10, spec.num_classes)


def test_layers_that_get_one_value_are_found() -> None:
    assert single_value_layers(Vector(SPEC), SPEC) == ["body.2"]
    assert single_value_layers(toy_net(norm=True), SPEC) == []
    assert len(single_value_layers(FedBNDigitCNN(SPEC), SPEC)) == 2


def test_clients_with_one_image_are_found() -> None:
    data = FederatedDataModule(OneImage())
    data.setup()
    assert untrainable_clients(Vector(SPEC), data) == [0, 1]
    assert untrainable_clients(toy_net(norm=True), data) == []


def experiment(out: Path, **settings: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "seeds": [0],
        "data": {"source": {"class_path": "tests.clients.test_single_values.OneImage"}},
        "network": {"class_path": "tests.clients.test_single_values.Vector"},
        "federation": {"rounds": 2, "batch_size": 16},
        "personalization": {"epochs": 50, "batch_size": 16},
        "methods": {
            "ft": {"class_path": "lpft.methods.ft.FT"},
            "adabn": {"class_path": "lpft.methods.adabn.AdaBN"},
            "lp": {"class_path": "lpft.methods.lpft.LPFT", "init_args": {"lp_epochs": None}},
            "kept": {"class_path": "lpft.methods.ft.FT", "init_args": {"bn": "eval"}},
        },
        "trainer": {"accelerator": "cpu", "devices": 1},
        **settings,
    }


def test_models_of_clients_with_one_image_count_as_diverged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lpft"):
        results = lpft.run(experiment(tmp_path))
    assert any("c0, c1" in r.message and "body.2" in r.message and "batch_size" in r.message for r in caplog.records)
    status = results.clients.set_index(["method", "client"])["status"]
    for method in ("ft", "adabn"):
        assert status[method].to_dict() == {"c0": "diverged", "c1": "diverged", "c2": "ok"}
    assert set(status["lp"]) == set(status["kept"]) == {"ok"}
    for client in ("c0", "c1"):
        kept = results.model("ft", client, 0).state_dict()
        assert all(
            torch.equal(t, results.model("lp", client, 0).state_dict()[n]) for n, t in kept.items() if "body" in n
        )
    assert float(results.model("lp", "c2", 0).body[2].running_var.min()) > 1e-3


@pytest.mark.parametrize("section", ["federation", "personalization"])
def test_batches_of_one_are_refused_where_they_have_no_variance(section: str, tmp_path: Path) -> None:
    settings = experiment(tmp_path)
    settings[section]["batch_size"] = 1
    with pytest.raises(ConfigError, match=rf"{section}\.batch_size=1.*body\.2.*HINT.*batch_size 2"):
        lpft.run(settings)


def test_batches_of_one_are_fine_where_norm_layers_stay_as_they_are(tmp_path: Path) -> None:
    settings = experiment(tmp_path, methods={"lp": experiment(tmp_path)["methods"]["lp"]})
    settings["personalization"].update(batch_size=1, epochs=1)
    assert set(lpft.run(settings).clients["status"]) == {"ok"}


def test_a_federation_of_single_images_is_refused(tmp_path: Path) -> None:
    settings = experiment(tmp_path)
    settings["data"]["source"]["init_args"] = {"counts": [16, 1]}
    with pytest.raises(ConfigError, match="No client can be trained"):
        lpft.run(settings)
