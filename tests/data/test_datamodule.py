import copy
import logging
import pickle

import pytest
import torch

from lpft.data.cache import Arrays, Parts
from lpft.data.datamodule import warn_of_gaps
from lpft.data.sources.digits import Digits


@pytest.fixture
def digits(tmp_path):
    return Digits(num_clients=2, cache_dir=str(tmp_path))


def test_what_goes_to_another_process_is_small_and_maps_the_same_arrays(digits):
    """A spawned process gets the settings, not the 1.4 MB of images."""
    assert not hasattr(pickle.loads(pickle.dumps(digits)), "clients")
    digits.setup()
    sent = pickle.dumps(digits)
    received = pickle.loads(sent)
    assert len(sent) < 10_000
    assert torch.equal(received.images, digits.images)
    assert received.content_hash == digits.content_hash
    assert [client.name for client in copy.deepcopy(digits).clients] == ["plain-0", "inverted-0"]


def test_setting_up_twice_does_nothing(digits):
    digits.setup()
    images = digits.images
    digits.setup("fit")
    assert digits.images is images


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
    assert Digits().cache_dir == tmp_path
    monkeypatch.delenv("LPFT_CACHE")
    assert Digits().cache_dir.parts[-2:] == (".cache", "lpft")


def test_gaps_are_named(caplog):
    rows, none = torch.arange(2), torch.empty(0, dtype=torch.int64)
    clients = {
        "full": Parts(rows, none, rows),
        "untrained": Parts(none, none, rows),
        "half": Parts(rows[:1], none, none),
    }
    arrays = Arrays(
        torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([-1, -1]), clients, ""
    )
    with caplog.at_level(logging.WARNING, "lpft"):
        warn_of_gaps(arrays, num_classes=2)
    assert caplog.messages == [
        "1 of 3 clients have no training samples: untrained.",
        "1 of 3 clients have no test samples: half.",
        "1 of 3 clients lack some of the 2 classes in training: half.",
    ]
