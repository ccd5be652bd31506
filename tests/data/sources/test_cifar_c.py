"""Archives and plain images in their exact layouts, of few images, which carry their id and look in their pixels."""

import logging
import os
import pickle
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from lpft.data.sources.cifar_c import TEN_TYPES, CifarC, open_archive
from lpft.data.sources.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from lpft.runtime.seeding import stable_seed
from tests.data import made
from tests.layouts import pictures, save_archive, save_batches

NUM_IDS = 60
LABELS = np.arange(NUM_IDS) % 10


def opened(*args, cache, **settings):
    return made.opened(CifarC, *args, cache_dir=str(cache), **settings)


def ids_of(data, client, split):
    return data.images[getattr(client, split)][:, 0, 0, 0].tolist()


@pytest.fixture
def archive(tmp_path):
    return save_archive(tmp_path / "CIFAR-10-C")


def test_fifty_clients_by_default(archive, tmp_path):
    data = opened(str(tmp_path), cache=tmp_path / "cache")
    assert [client.name for client in data.clients[:6]] == [
        *(f"gaussian_noise-{s}" for s in SEVERITIES),
        "impulse_noise-1",
    ]
    assert len(data.clients) == 50
    assert data.spec.num_classes == 10
    looks = [{int(look) for look in data.images[client.test][:, 1, 0, 0]} for client in data.clients]
    assert looks == [{10 * position + severity} for position in range(10) for severity in SEVERITIES]
    for client in data.clients:
        for split in ("train", "val", "test"):
            ids = ids_of(data, client, split)
            assert data.labels[getattr(client, split)].tolist() == LABELS[ids].tolist()


def test_an_image_is_in_one_split_only_whatever_its_corruption(archive, tmp_path):
    """Of 60 ids 6 are for testing and 6 for choices, the same for all; 48 are dealt to the clients, each to one."""
    data = opened(str(tmp_path), cache=tmp_path / "cache")
    tests, vals = ({tuple(sorted(ids_of(data, c, split))) for c in data.clients} for split in ("test", "val"))
    assert len(tests) == len(vals) == 1
    test, val = set(*tests), set(*vals)
    assert (len(test), len(val)) == (6, 6)
    trains = [ids_of(data, client, "train") for client in data.clients]
    assert sorted(chain(*trains)) == sorted(set(range(NUM_IDS)) - test - val)
    assert not test & val


def test_shared_ids_let_everybody_train_on_all(archive, tmp_path):
    data = opened(str(tmp_path), cache=tmp_path / "cache", types=["fog", "snow"], severities=[3], shared_ids=True)
    assert [client.name for client in data.clients] == ["fog-3", "snow-3"]
    trains = [sorted(ids_of(data, client, "train")) for client in data.clients]
    assert trains[0] == trains[1]
    assert len(trains[0]) == 48
    own = opened(str(tmp_path), cache=tmp_path / "cache", types=["fog", "snow"], severities=[3])
    assert [len(client.train) for client in own.clients] == [24, 24]
    assert ids_of(own, own.clients[0], "test") == ids_of(data, data.clients[0], "test")


def test_the_seed_decides_about_the_split(archive, tmp_path):
    tests = [
        ids_of(data, data.clients[0], "test")
        for seed in (0, 1)
        for data in [opened(str(tmp_path), cache=tmp_path / "cache", types=["fog"], seed=seed)]
    ]
    assert tests[0] != tests[1]


def test_root_may_be_the_archive_itself_and_images_are_mapped(archive, tmp_path):
    one, other = CifarC(str(archive)), CifarC(str(tmp_path))
    assert (one.settings(), one.stamp()) == (other.settings(), other.stamp())
    labels, images = open_archive(archive, TEN_TYPES)
    assert labels.tolist() == LABELS.tolist()
    assert isinstance(images["fog"], np.memmap)
    row = one.table().query("corruption == 'snow' and severity == 2").index[0]
    assert one.images(np.array([row]))[0][0, 0].tolist() == [one.table()["unit"][row], 42, 0]


def test_cifar_100(tmp_path):
    save_archive(tmp_path / "CIFAR-100-C", types=["fog"], num_classes=100)
    data = opened(str(tmp_path), cache=tmp_path / "cache", num_classes=100, types=["fog"], severities=[1, 5])
    assert data.labels.max() == 90
    assert data.normalize.mean == (0.507, 0.487, 0.441)
    save_batches(tmp_path, 100)
    (tmp_path / "CIFAR-100-C").rename(tmp_path / "away")
    data = opened(str(tmp_path), cache=tmp_path / "cache", num_classes=100, types=["fog"], severities=[1, 5])
    assert len(data.clients[0].test) == 1


def test_computed_from_torchvisions_files_where_there_is_no_archive(tmp_path, caplog):
    images = save_batches(tmp_path)[-10:]
    with caplog.at_level(logging.WARNING, "lpft"):
        data = opened(str(tmp_path), cache=tmp_path / "cache", types=["snow", "contrast"], severities=[2])
    assert "not those of the published archive" in caplog.text
    snow = data.clients[0]
    assert [len(part) for part in (snow.train, snow.val, snow.test)] == [4, 1, 1]
    label = int(data.labels[snow.test])
    expected = corrupt(images[label], "snow", 2, np.random.default_rng(stable_seed("cifar-c", 0, "snow", 2, label)))
    assert np.array_equal(data.images[snow.test][0].permute(1, 2, 0), expected)


@pytest.mark.parametrize(("part", "num"), [("test", 20), ("all", 60)])
def test_computed_from_an_npz_file(tmp_path, part, num):
    """The draws belong to id, corruption and severity: an image looks the same whichever clients there are."""
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(
        tmp_path / "it.npz", **dict(zip(names, [pictures(40), LABELS[:40], pictures(20, 1), LABELS[:20]], strict=True))
    )
    one, other = (
        opened(str(tmp_path), cache=tmp_path / "cache", plain="it.npz", part=part, types=types, severities=[1])
        for types in (["fog"], ["snow", "fog"])
    )
    assert sum(len(each) for each in (one.clients[0].train, one.clients[0].val, one.clients[0].test)) == num
    assert torch.equal(one.images[one.clients[0].test], other.images[other.clients[1].test])


def test_copies_of_an_image_are_one_image(tmp_path, caplog):
    """Noise would make them unlike, and one could be trained on where another is tested on."""
    images = pictures(40)
    images[1::2] = images[:-1:2]
    np.savez(tmp_path / "it.npz", x_train=images, y_train=LABELS[:40], x_test=images[:1], y_test=LABELS[:1])
    with caplog.at_level(logging.WARNING, "lpft"):
        data = opened(str(tmp_path), cache=tmp_path / "cache", plain="it.npz", part="all", types=["contrast"])
    assert "21 images are copies" in caplog.text
    assert sum(len(client.train) for client in data.clients) + 2 + 2 == 20


def test_clients_share_no_image_between_training_and_test(tmp_path):
    """Also where different images come to look the same under a corruption: all that is bright becomes white."""
    images = np.repeat(np.arange(200, 240, dtype=np.uint8)[:, None, None, None], 3, axis=3)
    images = np.broadcast_to(images, (40, 32, 32, 3)).copy()
    images[:, :8] = 0  # images of one colour would not count as copies
    np.savez(tmp_path / "it.npz", x_train=images, y_train=LABELS[:40], x_test=images[:1], y_test=LABELS[:1])
    data = opened(str(tmp_path), cache=tmp_path / "cache", plain="it.npz", part="all", types=["brightness"],
                  max_left_out=1.0)  # fmt: skip
    seen = {
        split: {image.numpy().tobytes() for client in data.clients for image in data.images[getattr(client, split)]}
        for split in ("train", "val", "test")
    }
    assert all(not seen[a] & seen[b] for a, b in combinations(seen, 2))
    assert data.arrays.left_out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": ["fogg"]}, "`types: .'fogg'.` must name.*gaussian_noise"),
        ({"types": []}, "at least one"),
        ({"severities": [1, 1]}, "none of them twice, of 1, 2, 3, 4, 5"),
        ({"severities": [0]}, "severities"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        CifarC(**settings)


def test_missing_data_are_reported_with_the_expected_layout(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)found: notes.txt.*CIFAR-10-C.*labels.npy.*gaussian_noise.npy.*cifar-10-batches-py.*zenodo.*2535967",
    ):
        CifarC(str(tmp_path)).stamp()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        CifarC(str(tmp_path / "nowhere")).stamp()
    with pytest.raises(FileNotFoundError, match=r"`plain: x.npz` is missing.*`root`"):
        CifarC(str(tmp_path), plain="x.npz").stamp()


def test_missing_and_wrong_files_of_an_archive(archive, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"frost.npy"):
        CifarC(str(tmp_path), types=["frost"]).stamp()
    with pytest.raises(ValueError, match="HINT: name the plain images"):
        CifarC(str(tmp_path), part="all").stamp()
    np.save(archive / "fog.npy", np.zeros((NUM_IDS, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"fog.npy: found uint8 of shape \(60, 32, 32, 3\), expected .*\(300, 32"):
        opened(str(tmp_path), cache=tmp_path / "cache", types=["fog"])
    np.save(archive / "labels.npy", np.arange(300, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"labels.npy.*once for each severity"):
        opened(str(tmp_path), cache=tmp_path / "cache", types=["snow"])


def test_batches_that_are_something_else(tmp_path):
    save_batches(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({"fine_labels": [1], "data": np.zeros((1, 5), np.uint8)}))
    with pytest.raises(ValueError, match=r"test_batch holds fine_labels, data, expected .*`labels`"):
        opened(str(tmp_path), cache=tmp_path / "cache")
    path.write_bytes(pickle.dumps({"labels": [1], "data": np.zeros((1, 5), np.uint8)}))
    with pytest.raises(ValueError, match=r"`data` in .*\(1, 5\), expected uint8 of shape \(1, 3072\)"):
        opened(str(tmp_path), cache=tmp_path / "cache")


@pytest.mark.realdata
@pytest.mark.skipif("LPFT_TEST_DATA" not in os.environ, reason="LPFT_TEST_DATA names no folder of image sets")
def test_real_images(tmp_path):
    root = Path(os.environ["LPFT_TEST_DATA"])
    data = opened(
        str(root), cache=tmp_path, plain="research/cifar10.npz", part="all", types=list(CORRUPTIONS), severities=[3]
    )
    assert len(data.clients) == 19
    assert {len(client.test) for client in data.clients} == {240}
    assert sum(len(client.train) for client in data.clients) == 1920
