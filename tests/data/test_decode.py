import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from lpft.data import decode
from lpft.data.cache import BadImageError, Interrupted
from lpft.data.sources import image_files
from lpft.data.sources.image_files import read_image
from lpft.data.sources.sites import Sites
from tests.data.made import made, opened


@pytest.fixture
def root(tmp_path):
    """Thirty images of three classes at one site."""
    rng = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "sites" / "a" / str(i % 3) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(12, 12 + i % 3, 3)).astype(np.uint8)).save(path)
    return tmp_path / "sites"


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(decode, "BATCH_BYTES", 4 * 3 * 8 * 8)


def several_processes(monkeypatch):
    monkeypatch.setattr(decode, "FEW_FILES", 5)
    monkeypatch.setattr(decode, "available_cores", lambda: 2)


def settings(root, name="cache"):
    return {"image_size": 8, "cache_dir": str(root.parent / name)}


def files_read(monkeypatch):
    """Return a list of the files that are read from now on."""
    read = []
    monkeypatch.setattr(
        image_files, "read_image", lambda path, *rest: read.append(path.name) or read_image(path, *rest)
    )
    return read


def test_several_processes_give_the_same_images(root, monkeypatch):
    alone = opened(Sites, str(root), **settings(root, "alone"))
    several_processes(monkeypatch)
    together = opened(Sites, str(root), **settings(root, "together"))
    assert torch.equal(alone.images, together.images)
    assert alone.arrays.content_hash == together.arrays.content_hash
    assert np.array_equal(together.images[0], read_image(root / "a" / "0" / "0000.png", 3, 8))


def test_a_bad_file_stops_the_build_and_what_was_decoded_is_kept(root, monkeypatch):
    """Files are read by class; the bad one is in the third of eight batches."""
    (root / "a" / "0" / "0027.png").write_bytes(b"nothing")
    with pytest.raises(BadImageError, match=r"1 image files cannot be decoded:\n.*0027.png .*\n.*on_bad_image skip"):
        opened(Sites, str(root), **settings(root))
    read = files_read(monkeypatch)
    data = opened(Sites, str(root), on_bad_image="skip", **settings(root))
    assert len(read) == 30 - 8
    assert len(data.arrays.bad) == 1
    assert sum(len(part) for part in (data.clients[0].train, data.clients[0].val, data.clients[0].test)) == 29
    with pytest.raises(BadImageError, match=r"0027.png"):
        opened(Sites, str(root), **settings(root))


class Deadly(Sites):
    """Its seventh batch kills the process that decodes it."""

    def read(self, positions, channels, size, settings):
        if positions[0] == 24:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(positions, channels, size, settings)


def test_a_killed_helper_loses_nothing_that_was_decoded(root, monkeypatch):
    several_processes(monkeypatch)
    with pytest.raises(Interrupted, match=r"was killed .*HINT"):
        opened(Deadly, str(root), **settings(root))
    monkeypatch.setattr(Deadly, "read", Sites.read)
    monkeypatch.setattr(decode, "FEW_FILES", 1000)
    read = files_read(monkeypatch)
    data = made(Deadly, str(root), **settings(root))
    data.setup()
    assert len(data.labels) == 30
    assert len(read) < 30
