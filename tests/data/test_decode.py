from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch
from lpft.data.shares import BadImageError, Part, Share, fit, write_shares
from PIL import Image

from lpft.data import images, shares
from lpft.data.cache import Interrupted, open_or_build
from lpft.data.sources.image_files import ImageFiles, read_image
from lpft.types import DataSpec


def test_fitting_keeps_what_fits_and_keeps_flat_areas():
    rgb = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(fit(rgb, 3, 8), rgb.transpose(0, 3, 1, 2))
    assert (fit(np.full((1, 5, 9, 1), 77, np.uint8), 3, 28) == 77).all()
    assert fit(rgb, 1, 4).shape == (3, 1, 4, 4)


def test_grey_is_pillows_luminance():
    rgb = np.random.default_rng(0).integers(256, size=(1, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(fit(rgb, 1, 8)[0, 0], np.asarray(Image.fromarray(rgb[0]).convert("L")))


SPEC = DataSpec(in_channels=3, image_size=8, num_classes=4)
KEY = {"class": "tests.Files"}


def save_images(folder, num, size=12):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(num):
        Image.fromarray(rng.integers(256, size=(size, size + i % 3, 3)).astype(np.uint8)).save(folder / f"{i:04}.png")
    return ImageFiles(folder, [f"{i:04}.png" for i in range(num)])


def shares_of(files):
    num = len(files.names)
    part = Part(np.arange(num) % 4, files, np.arange(num) % 2)
    thirds = np.array_split(np.arange(num), 3)
    yield from (Share("a", split, part, where) for split, where in zip(("train", "val", "test"), thirds, strict=True))


def test_many_files_are_decoded_by_several_processes_and_come_out_the_same(tmp_path, monkeypatch):
    files = save_images(tmp_path / "images", 30)

    def build(name):
        return open_or_build(
            tmp_path / name, KEY, SPEC, lambda writer: write_shares(writer, shares_of(files)), ["x", "y"]
        )

    alone = build("alone")
    monkeypatch.setattr(shares, "FEW_FILES", 5)
    monkeypatch.setattr(shares, "CHUNK_BYTES", 4 * 3 * 8 * 8)
    monkeypatch.setattr(shares, "available_cores", lambda: 2)
    together = build("together")
    assert torch.equal(alone.images, together.images)
    assert alone.content_hash == together.content_hash
    first_of_train = read_image(files.root / "0000.png", 3, 8)
    assert np.array_equal(together.images[together.clients["a"].train[0]], first_of_train)
    assert together.labels[together.clients["a"].train].tolist() == [i % 4 for i in range(10)]
    assert together.groups[together.clients["a"].test].tolist() == [i % 2 for i in range(20, 30)]


def test_a_bad_file_stops_the_build_and_what_was_decoded_is_kept(tmp_path, monkeypatch):
    """Of six chunks four are whole; mended, the build goes on with the fifth and reads no other file."""
    files = save_images(tmp_path / "images", 24)
    monkeypatch.setattr(shares, "CHUNK_BYTES", 4 * 3 * 8 * 8)
    bad = files.root / files.names[1]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])

    def build(on_bad_image="error"):
        return open_or_build(
            tmp_path / "cache",
            KEY,
            SPEC,
            lambda writer: write_shares(writer, shares_of(files), on_bad_image),
            ["x", "y"],
        )

    with pytest.raises(BadImageError, match=r"1 image files cannot be decoded:\n.*0001.png .*\n.*on_bad_image skip"):
        build()
    read = []
    monkeypatch.setattr(images, "read_image", lambda path, *rest: read.append(path.name) or read_image(path, *rest))
    arrays = build("skip")
    assert read == [f"{i:04}.png" for i in range(8)]
    assert [len(part) for part in arrays.clients["a"]] == [7, 8, 8]
    assert arrays.labels[arrays.clients["a"].train].tolist() == [0, 2, 3, 0, 1, 2, 3]
    assert len(arrays.bad) == 1
    assert "0001.png" in arrays.bad[0]


def test_a_killed_helper_loses_nothing_that_was_decoded(tmp_path, monkeypatch):
    files = save_images(tmp_path / "images", 30)
    monkeypatch.setattr(shares, "FEW_FILES", 5)
    monkeypatch.setattr(shares, "CHUNK_BYTES", 4 * 3 * 8 * 8)

    class Killed:
        def __init__(self, *arguments):
            self.given = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def shutdown(self, **how):
            return None

        def submit(self, decode, *arguments):
            """Decode three chunks, then be gone."""
            future, self.given = Future(), self.given + 1
            if self.given > 3:
                future.set_exception(BrokenProcessPool("terminated abruptly"))
            else:
                future.set_result(decode(*arguments))
            return future

    def build():
        return open_or_build(tmp_path / "cache", KEY, SPEC, lambda w: write_shares(w, shares_of(files)), ["x", "y"])

    monkeypatch.setattr(shares, "available_cores", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(shares, "ProcessPoolExecutor", Killed)
        with pytest.raises(Interrupted, match=r"was killed .*HINT"):
            build()
    read = []
    monkeypatch.setattr(shares, "FEW_FILES", 1000)
    monkeypatch.setattr(images, "read_image", lambda path, *rest: read.append(path.name) or read_image(path, *rest))
    assert len(build().labels) == 30
    assert len(read) == 30 - 10
