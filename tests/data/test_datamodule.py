import copy
import logging
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lpft.data import sources
from lpft.data.cache import Arrays, ClientSplit
from lpft.data.checks import warn_of_gaps
from lpft.data.datamodule import checked_table, default_cache
from lpft.data.partition import Dirichlet, Iid
from lpft.data.sources import CifarC, Digits, Sites
from lpft.data.sources.array_files import ArrayDomain
from tests.data.made import assert_no_leaks, made, opened
from tests.layouts import save_archive
from tests.shapes import save_shapes
from tests.toy import toy_module


@pytest.fixture
def digits(tmp_path):
    return made(Digits, num_clients=2, cache_dir=str(tmp_path))


def test_what_goes_to_another_process_is_small_and_maps_the_same_arrays(digits):
    """A spawned process gets the settings, not the 1.4 MB of images."""
    with pytest.raises(RuntimeError, match="not set up"):
        _ = pickle.loads(pickle.dumps(digits)).arrays
    digits.setup()
    sent = pickle.dumps(digits)
    received = pickle.loads(sent)
    assert len(sent) < 10_000
    assert torch.equal(received.images, digits.images)
    assert received.arrays.content_hash == digits.arrays.content_hash
    assert [client.name for client in copy.deepcopy(digits).clients] == ["plain-0", "inverted-0"]


def test_setting_up_twice_does_nothing(digits):
    digits.setup()
    arrays = digits.arrays
    digits.setup("fit")
    assert digits.arrays is arrays


def test_normalizing_by_hand(digits):
    """Mean 0.5 and deviation 0.5 take 0 and 255 to -1 and 1; any leading dimensions."""
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(4, 2, 3, 16, 16)
    normal = digits.normalize(images, torch.float64)
    assert normal.shape == images.shape
    assert normal.dtype == torch.float64
    assert normal[:, 0].unique().tolist() == [-1]
    assert normal[:, 1].unique().tolist() == [1]


def test_cache_dir_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LPFT_CACHE", str(tmp_path))
    assert made(Digits)._cache_dir == tmp_path
    monkeypatch.delenv("LPFT_CACHE")
    assert made(Digits)._cache_dir.parts[-2:] == (".cache", "lpft")


def test_gaps_are_named(caplog):
    rows, none = torch.arange(2), torch.empty(0, dtype=torch.int64)
    clients = [
        ClientSplit("full", rows, none, rows),
        ClientSplit("untrained", none, none, rows),
        ClientSplit("half", rows[:1], none, none),
    ]
    arrays = Arrays(
        Path(), torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([-1, -1]), clients, ""
    )
    with caplog.at_level(logging.WARNING, "lpft"):
        warn_of_gaps(arrays, num_classes=2)
    assert caplog.messages == [
        "1 of 3 clients have no training samples: untrained.",
        "1 of 3 clients have no test samples: half.",
        "1 of 3 clients lack some of the 2 classes in training: half.",
    ]


def test_the_key_is_the_same_before_and_after_the_data_are_opened(tmp_path):
    save_shapes(tmp_path / "sites" / "a", 4)
    data = made(Sites, str(tmp_path / "sites"), image_size=8, cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert data.source.class_names
    assert data._open().entry == data.arrays.entry


def test_any_partition_of_any_source(tmp_path):
    """Corrupted images, whose units are images seen many times, dealt by label over all corruptions: no unit leaks."""
    save_archive(tmp_path / "CIFAR-10-C", types=["fog", "snow"])
    clients = Dirichlet(3, 1.0, 10, within_domains=False)
    data = opened(CifarC, str(tmp_path), types=["fog", "snow"], clients=clients, cache_dir=str(tmp_path / "cache"))
    assert [client.name for client in data.clients] == ["client-0", "client-1", "client-2"]
    ids = {
        split: {int(i) for c in data.clients for i in data.images[getattr(c, split)][:, 0, 0, 0]}
        for split in ("train", "val", "test")
    }
    assert not ids["train"] & (ids["val"] | ids["test"])
    assert not ids["val"] & ids["test"]


def test_domains_are_dealt_to_several_clients(tmp_path):
    data = opened(Digits, num_clients=None, clients=Iid(2), cache_dir=str(tmp_path))
    assert [client.name for client in data.clients][:3] == ["plain-0", "plain-1", "inverted-0"]
    assert_no_leaks(data)


@pytest.mark.parametrize("settings", [{"test_share": 1.0}, {"val_share": 1.0}, {"channels": 2}, {"std": [0.0, 1, 1]}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        made(Digits, **settings)


@pytest.mark.parametrize("nothing", [None, np.nan, ""])
def test_samples_without_a_unit_are_not_one_unit(nothing):
    rows = {"label": [0, 1, 0], "domain": pd.Categorical(["a"] * 3), "unit": ["p", nothing, nothing], "row": [5, 6, 7]}
    with pytest.raises(ValueError, match=r"2 of 3 samples.*row: 6"):
        checked_table(pd.DataFrame(rows), 2)


@pytest.mark.parametrize(("labels", "message"), [([], "no samples"), ([0] * 8, "one class")])
def test_too_few_samples_or_classes(labels, message, tmp_path):
    arrays = {"x_train": np.zeros((len(labels), 4, 4), np.uint8), "y_train": np.array(labels, np.int64)}
    np.savez(tmp_path / "a.npz", **arrays)
    domain = ArrayDomain("a.npz", x_test=None, y_test=None)
    with pytest.raises(ValueError, match=message):
        opened(sources.Arrays, {"a": domain}, str(tmp_path), image_size=4, cache_dir=str(tmp_path / "cache"))


def test_where_there_is_no_home_the_cache_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with ``--user 12345``: HOME is `/`, or not set, and the user id has no name."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LPFT_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert default_cache() == tmp_path / "me" / ".cache" / "lpft"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    elsewhere = default_cache()
    assert elsewhere.parent == Path(tempfile.gettempdir())
    monkeypatch.setattr(Path, "home", homeless)
    assert default_cache() == elsewhere
    assert toy_module(cache_dir=str(tmp_path))._cache_dir == tmp_path
