import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lpft.data.checks import better_scaling
from lpft.data.datamodule import FederatedDataModule
from lpft.data.sources import FeatureArrays
from lpft.data.sources.pixels import Depth, PixelSettings
from lpft.data.sources.sites import Sites
from tests.data.made import opened
from tests.rasters import save_png


def noise(rng):
    return rng.integers(256, size=(8, 8, 3)).astype(np.uint8)


def write_sites(root, tumour, background, num=20):
    """Write two sites of two classes; the functions make an image of a generator."""
    rng = np.random.default_rng(0)
    for site in ("north", "south"):
        for name, image in (("tumour", tumour), ("background", background)):
            (root / site / name).mkdir(parents=True)
            for i in range(num):
                Image.fromarray(image(rng)).save(root / site / name / f"{i}.png")
    return root


def sites(root, **settings):
    settings = {"image_size": 8, "val_share": 0.2, "cache_dir": str(root.parent / "cache"), **settings}
    return opened(Sites, str(root), **settings)


def test_blank_images_are_counted_and_stay(tmp_path):
    data = sites(write_sites(tmp_path / "sites", noise, lambda rng: np.full((8, 8, 3), 243, np.uint8)))
    assert data.arrays.blank == {0: 40}
    assert data.arrays.left_out == {}
    assert [np.bincount(data.labels[client.train]).tolist() for client in data.clients] == [[12, 12]] * 2


def test_a_class_does_not_vanish_and_what_was_decoded_is_kept(tmp_path, monkeypatch):
    """All images of a class are one: with few of them as with many, nothing of it would be left to train on."""
    same = noise(np.random.default_rng(1))
    for num in (4, 20):
        root = write_sites(tmp_path / str(num) / "sites", noise, lambda rng: same, num)
        with pytest.raises(
            ValueError, match=r"(?s)class background: (\d+) of \1 train images\n.*--data.max_left_out 1"
        ):
            sites(root)
        monkeypatch.setattr(Sites, "read", None)
        data = sites(root, max_left_out=1.0)
        monkeypatch.undo()
        assert set(data.labels[data.clients[0].train].tolist()) == {1}


def test_a_copied_site_is_an_error(tmp_path):
    root = write_sites(tmp_path / "sites", noise, noise)
    shutil.rmtree(root / "south")
    shutil.copytree(root / "north", root / "south")
    with pytest.raises(ValueError, match=r"client south: \d+ of 24 train images"):
        sites(root)
    data = sites(root, max_left_out=1.0)
    trained, tested = ({data.images[i].numpy().tobytes() for c in data.clients for i in getattr(c, split).tolist()}
                       for split in ("train", "test"))  # fmt: skip
    assert not trained & tested


def test_images_under_several_classes_are_counted(tmp_path):
    root = write_sites(tmp_path / "sites", noise, noise)
    shutil.copy(root / "north" / "tumour" / "0.png", root / "north" / "background" / "1.png")
    assert sites(root).arrays.ambiguous == 2


def test_xrays_of_twelve_bits_are_reported_and_scaled(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for site in ("north", "south"):
        for name in ("a", "b"):
            (tmp_path / "sites" / site / name).mkdir(parents=True)
            for i in range(8):
                save_png(tmp_path / "sites" / site / name / f"{i}.png", rng.integers(1500, 3300, size=(8, 8)))
    with caplog.at_level(logging.WARNING, "lpft"):
        dark = sites(tmp_path / "sites", channels=1)
    (depth,) = dark.arrays.depths
    assert (depth.limit, depth.images) == (65535, 32)
    assert 1500 <= depth.lowest < depth.highest < 3300
    assert "`--data.bits 12`" in caplog.text
    assert dark.images.max() == 12
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lpft"):
        scaled = sites(tmp_path / "sites", channels=1, bits=12)
    assert scaled.arrays.entry != dark.arrays.entry
    assert 1500 >> 4 <= scaled.images.min() < scaled.images.max() <= 3300 >> 4
    assert "bits" not in caplog.text


@pytest.mark.parametrize(
    ("depth", "settings", "option"),
    [
        (Depth(65535, 9, 0, 40000), PixelSettings(), None),
        (Depth(65535, 9, 0, 4095), PixelSettings(), "--data.bits 12"),
        (Depth(65535, 9, 0, 0), PixelSettings(), None),
        (Depth(65535, 9, 0, 4095), PixelSettings(value_range=(0, 65535)), None),
        (Depth(1, 9, 0, 0.25), PixelSettings(), "--data.value_range '[0,0.25]'"),
    ],
)
def test_which_scaling_is_better(depth, settings, option):
    assert better_scaling(depth, settings) == option


def test_another_background_is_another_entry(tmp_path):
    ink = np.zeros((8, 8, 4), np.uint8)
    root = write_sites(tmp_path / "sites", noise, noise)
    ink[2:5, 3, 3] = 255
    Image.fromarray(ink).save(root / "north" / "tumour" / "0.png")
    white, black = (sites(root, background=colour) for colour in ("white", "black"))
    assert white.arrays.entry != black.arrays.entry
    difference = (white.images != black.images).flatten(1).any(1)
    assert difference.sum() == 1
    assert (white.images[difference] - black.images[difference]).unique().tolist() == [0, 255]


def test_files_with_several_frames_are_listed(tmp_path, caplog):
    root = write_sites(tmp_path / "sites", noise, noise)
    pages = [Image.fromarray(noise(np.random.default_rng(i))) for i in (7, 8)]
    pages[0].save(root / "north" / "tumour" / "pages.tif", save_all=True, append_images=pages[1:])
    with caplog.at_level(logging.WARNING, "lpft"):
        data = sites(root)
    assert data.arrays.frames == (str(root / "north" / "tumour" / "pages.tif"),)
    assert "pages.tif" in caplog.text


def test_samples_left_out_for_their_unit_are_counted(tmp_path, caplog):
    """Both sites number their patients from 0, and only one has a test set."""
    (tmp_path / "sites").mkdir()
    rows = pd.DataFrame({"x": np.arange(40.0), "label": np.arange(40) % 2, "patient": np.arange(40) // 2})
    rows.assign(part=["test"] * 8 + ["train"] * 32).to_csv(tmp_path / "sites/a.csv", index=False)
    rows.assign(x=rows["x"] + 0.5, part="").to_csv(tmp_path / "sites/b.csv", index=False)
    source = FeatureArrays("sites", str(tmp_path), unit="patient", split="part")
    data = FederatedDataModule(source, val_share=0, cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert [len(client.test) for client in data.clients] == [8, 10]
    left_out = 80 - sum(len(client.train) + len(client.test) for client in data.clients)
    assert left_out > 0
    assert f"{left_out} of 80 samples" in caplog.text
