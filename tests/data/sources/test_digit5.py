"""Small files in the exact layouts; every image carries its domain, set and number in its upper left corner."""

import os
import pickle
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lpft.data.datamodule import Normalization
from lpft.data.sources.digit5 import Digit5
from lpft.data.sources.digit_files import DOMAINS
from tests.data import made
from tests.layouts import digits, images_of, save_mats, save_pickles, save_torchvision


def marks(data, positions):
    """Read (domain, set, number) back from an image."""
    return [tuple(int(v) for v in image[0, [1, 5, 9], 1]) for image in data.images[positions]]


def opened(root, cache, **settings):
    return made.opened(Digit5, str(root), cache_dir=str(cache), **settings)


def sizes(data):
    return [(len(client.train), len(client.val), len(client.test)) for client in data.clients]


def check_no_leak(data):
    parts = {
        split: chain(*(getattr(client, split).tolist() for client in data.clients))
        for split in ("train", "val", "test")
    }
    seen = {split: {data.images[position].numpy().tobytes() for position in part} for split, part in parts.items()}
    assert all(not seen[one] & seen[other] for one, other in combinations(seen, 2))


def test_mat_files_by_fedbns_recipe(tmp_path):
    """Of 40 + 20 merged images 12 are tested on; of the other 48, 30 are used: 27 for training, 3 for choices."""
    save_mats(tmp_path / "Digit-Five")
    data = opened(tmp_path, tmp_path / "cache", train_per_client=30)
    assert [client.name for client in data.clients] == list(DOMAINS)
    assert sizes(data) == [(27, 3, 12)] * 5
    assert (data.images.shape[1:], data.normalize) == ((3, 28, 28), Normalization((0.5,) * 3, (0.5,) * 3))
    for position, client in enumerate(data.clients):
        for part in (client.train, client.val, client.test):
            found = marks(data, part)
            assert {domain for domain, _, _ in found} == {40 * position}
            assert data.labels[part].tolist() == [number % 10 for _, _, number in found]
        assert {which for _, which, _ in marks(data, client.test)} == {0, 100}  # merged
        counts = np.bincount(data.labels[client.test], minlength=10)
        assert counts.max() - counts.min() <= 1
    check_no_leak(data)


def test_mat_files_with_official_sets(tmp_path):
    """As in the preset for KD3A: the sets are kept, 32x32 pixels, USPS is not repeated."""
    save_mats(tmp_path)
    data = opened(
        tmp_path, tmp_path / "cache", split="official", image_size=32, large=True, train_per_client=100,
        test_per_client=9, layout="mat",
    )  # fmt: skip
    assert sizes(data) == [(36, 4, 9)] * 5
    for client in data.clients:
        assert {which for _, which, _ in marks(data, client.train)} == {0}
        assert {which for _, which, _ in marks(data, client.test)} == {100}
    usps = data.clients[4]
    assert len({data.images[position].numpy().tobytes() for position in [*usps.train, *usps.val]}) == 40
    check_no_leak(data)
    mnist = data.images[data.clients[0].test][0]
    number = marks(data, data.clients[0].test)[0][2]
    assert np.array_equal(mnist[0], images_of("mnist", 1, 20, 32, 1)[number, ..., 0])  # of the 32x32 array, not resized


def test_an_image_in_both_official_sets_is_only_tested_on(tmp_path):
    save_mats(tmp_path)
    usps = np.empty((2, 2), object)
    for test in range(2):
        usps[test, 0] = images_of("usps", 0, 40, 28, 1).transpose(0, 3, 1, 2) / 255.0
        usps[test, 1] = digits(40)[:, None]
    savemat(tmp_path / "usps_28x28.mat", {"dataset": usps})
    data = opened(tmp_path, tmp_path / "cache", domains=["usps"], max_left_out=1.0)
    check_no_leak(data)
    assert len(data.arrays.left_out["usps"]) > 0


def test_pickles_are_split_already(tmp_path):
    save_pickles(tmp_path)
    data = opened(tmp_path, tmp_path / "cache", train_per_client=20, wanted=20)
    assert sizes(data) == [(18, 2, 15)] * 5
    assert {number for _, _, number in marks(data, data.clients[2].train)} <= set(range(20))  # the first part
    check_no_leak(data)
    more = opened(tmp_path, tmp_path / "cache", train_per_client=30, wanted=30)
    assert sizes(more) == [(27, 3, 15)] * 5
    numbers = {number for _, _, number in marks(more, more.clients[2].train)}
    assert max(numbers) in range(20, 40)
    assert sizes(opened(tmp_path, tmp_path / "cache", train_per_client=None)) == [(54, 6, 15)] * 5
    assert data.labels[data.clients[0].test].tolist() == [n % 10 for _, _, n in marks(data, data.clients[0].test)]


def test_torchvisions_files(tmp_path):
    save_torchvision(tmp_path)
    data = opened(tmp_path, tmp_path / "cache", domains=["mnist", "svhn", "usps"], image_size=32)
    assert sizes(data) == [(43, 5, 12)] * 3
    svhn = data.clients[1]
    assert data.labels[svhn.test].tolist() == [number % 10 for _, _, number in marks(data, svhn.test)]
    assert len(data.labels.unique()) == 10
    check_no_leak(data)


def test_domains_from_different_layouts_and_places(tmp_path):
    """MNIST in torchvision's layout, MNIST-M as an array file elsewhere, the others as pickles."""
    save_pickles(tmp_path / "one")
    save_torchvision(tmp_path / "two")
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = (images_of("mnist_m", 0, 40), digits(40), images_of("mnist_m", 1, 20), digits(20))
    np.savez(tmp_path / "m.npz", **dict(zip(names, arrays, strict=True)))
    data = opened(
        tmp_path / "one", tmp_path / "cache", folders={"mnist": "../two", "mnist_m": "../m.npz"}, split="official"
    )
    assert sizes(data) == [(36, 4, 20), (36, 4, 20), *[(54, 6, 15)] * 3]
    check_no_leak(data)


def test_the_seed_decides_who_is_tested_on(tmp_path):
    save_mats(tmp_path)
    tests = [
        marks(data, data.clients[0].test)
        for seed in (0, 0, 1)
        for data in [opened(tmp_path, tmp_path / "cache", domains=["mnist"], seed=seed)]
    ]
    assert tests[0] == tests[1] != tests[2]


def test_all_that_is_missing_is_named_with_what_is_there(tmp_path):
    save_torchvision(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        Digit5(str(tmp_path)).stamp()
    said = str(caught.value)
    assert "mnist_m: expected Digit-Five/mnistm_with_label.mat (mat) or MNIST_M/partitions/train_part0.pkl" in said
    assert "synth_digits: expected" in said
    assert "found in" in said
    assert "MNIST/, SVHN/, usps.bz2" in said
    assert "svhn: " not in said
    assert "HINT" in said
    assert "non-commercial" in said
    with pytest.raises(FileNotFoundError, match=r"mnist: expected Digit-Five/mnist_data.mat \(mat\); found"):
        Digit5(str(tmp_path), layout="mat").stamp()
    with pytest.raises(FileNotFoundError, match=r"no such folder"):
        Digit5(str(tmp_path / "nowhere")).stamp()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"domains": ["mnist", "mnist"]}, "none of them twice, of mnist, mnist_m, svhn, synth_digits, usps"),
        ({"domains": []}, "at least one"),
        ({"domains": ["mnist"], "folders": {"usps": "x"}}, "`folders` names usps, expected .*: mnist"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Digit5(**settings)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("svhn_train_32x32.mat", {"Y": np.ones(3)}, "there is no variable y, found Y"),
        ("svhn_train_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, "2 images and 1 labels"),
        ("svhn_train_32x32.mat", {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": [[11]]}, "labels go from 11 to 11"),
        ("svhn_train_32x32.mat", b"x" * 200, "cannot be read"),
    ],
)
def test_mat_files_that_hold_something_else(tmp_path, file, content, message):
    save_mats(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    else:
        savemat(tmp_path / file, content)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, tmp_path / "cache", domains=["svhn"], split="official")


def test_pickles_that_hold_something_else(tmp_path):
    save_pickles(tmp_path)
    for content, message in (
        ({"images": 1}, "does not hold a pair of arrays"),
        ((np.zeros((2, 28, 28), np.uint8), np.zeros(3)), "2 images and 3 labels"),
        (print, "is not loaded: it names `.*print`"),
    ):
        (tmp_path / "USPS" / "test.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, tmp_path / "cache", domains=["usps"])


@pytest.mark.realdata
@pytest.mark.skipif("LPFT_TEST_DATA" not in os.environ, reason="LPFT_TEST_DATA names no folder of image sets")
def test_real_digits(tmp_path):
    data = opened(
        Path(os.environ["LPFT_TEST_DATA"]), tmp_path, domains=["mnist", "mnist_m", "usps"], train_per_client=743,
        folders={"mnist": "open", "mnist_m": "research/mnist_m.npz", "usps": "research/USPS"},
    )  # fmt: skip
    assert [len(client.train) + len(client.val) for client in data.clients] == [743] * 3
    assert [len(client.test) for client in data.clients] == [1300, 480, 800]
    check_no_leak(data)
