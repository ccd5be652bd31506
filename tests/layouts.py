"""Image sets in the exact layouts in which they are passed around, but of a few made-up images."""

from __future__ import annotations

import bz2
import pickle

import numpy as np
from scipy.io import savemat

from lpft.data.sources.cifar_c import TEN_TYPES
from lpft.data.sources.corruptions import SEVERITIES
from lpft.data.sources.digit_files import DOMAINS

FOLDERS = {"mnist": "MNIST", "mnist_m": "MNIST_M", "svhn": "SVHN", "synth_digits": "SynthDigits", "usps": "USPS"}


def images_of(domain, test, num, size=28, channels=3):
    """Random pictures whose flat corners say whose they are: (domain, set, number)."""
    rng = np.random.default_rng([DOMAINS.index(domain), test])
    images = rng.integers(256, size=(num, size, size, channels)).astype(np.uint8)
    for k, value in enumerate((np.full(num, 40 * DOMAINS.index(domain)), np.full(num, 100 * test), np.arange(num))):
        images[:, 4 * k : 4 * k + 4, :4] = value[:, None, None, None]
    return images


def digits(num):
    return np.arange(num) % 10


def save_mats(folder, num=40, num_test=20):
    """Save the ``.mat`` files of all five domains."""
    folder.mkdir(exist_ok=True)
    one_hot = np.eye(10, dtype=np.uint8)
    mnist, mnist_m = {}, {}
    for split, test, n in (("train", 0, num), ("test", 1, num_test)):
        mnist |= {f"{split}_{size}": images_of("mnist", test, n, size, 1) for size in (28, 32)}
        mnist[f"{split}_32"] = mnist[f"{split}_32"][..., 0]
        mnist[f"label_{split}"] = mnist_m[f"label_{split}"] = one_hot[digits(n)]
        mnist_m[split] = images_of("mnist_m", test, n)
        for domain, name in (("svhn", "svhn"), ("synth_digits", "synth")):
            labels = np.where(digits(n) == 0, 10, digits(n)).astype(np.uint8)[:, None]
            images = images_of(domain, test, n, 32).transpose(1, 2, 3, 0)
            savemat(folder / f"{name}_{split}_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    savemat(folder / "mnist_data.mat", mnist)
    savemat(folder / "mnistm_with_label.mat", mnist_m)
    usps = np.empty((2, 2), object)
    for test, n in enumerate((num, num_test)):
        usps[test, 0] = images_of("usps", test, n, 28, 1).transpose(0, 3, 1, 2) / 255.0
        usps[test, 1] = digits(n)[:, None]
    savemat(folder / "usps_28x28.mat", {"dataset": usps})


def save_pickles(root, parts=3, per_part=20, num_test=15):
    """Save FedBN's pickles of all five domains."""
    for domain, name in FOLDERS.items():
        (root / name / "partitions").mkdir(parents=True)
        channels = 1 if domain in ("mnist", "usps") else 3
        images = images_of(domain, 0, parts * per_part, 28, channels)
        images, tests = (
            each[..., 0] if channels == 1 else each for each in (images, images_of(domain, 1, num_test, 28, channels))
        )
        for k, positions in enumerate(np.split(np.arange(parts * per_part), parts)):
            pair = (images[positions], digits(parts * per_part)[positions])
            (root / name / "partitions" / f"train_part{k}.pkl").write_bytes(pickle.dumps(pair, pickle.HIGHEST_PROTOCOL))
        (root / name / "test.pkl").write_bytes(pickle.dumps((tests, digits(num_test)), pickle.HIGHEST_PROTOCOL))


def save_torchvision(root, num=40, num_test=20):
    """Save MNIST, SVHN and USPS as torchvision reads them."""
    (root / "MNIST" / "raw").mkdir(parents=True)
    (root / "SVHN").mkdir()
    for prefix, split, test, n in (("train", "train", 0, num), ("t10k", "test", 1, num_test)):
        images, labels = images_of("mnist", test, n, 28, 1), digits(n).astype(np.uint8)
        for kind, magic, array in (
            ("images-idx3", b"\0\0\x08\x03", images[..., 0]),
            ("labels-idx1", b"\0\0\x08\x01", labels),
        ):
            header = magic + np.array(array.shape, ">i4").tobytes()
            (root / "MNIST" / "raw" / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
        images = images_of("svhn", test, n, 32).transpose(1, 2, 3, 0)
        savemat(
            root / "SVHN" / f"{split}_32x32.mat", {"X": images, "y": np.where(digits(n) == 0, 10, digits(n))[:, None]}
        )
    for name, test, n in (("usps.bz2", 0, num), ("usps.t.bz2", 1, num_test)):
        rows = images_of("usps", test, n, 16, 1).reshape(n, -1) / 127.5 - 1
        text = "\n".join(
            f"{digit + 1} " + " ".join(f"{k + 1}:{value:.5f}" for k, value in enumerate(row))
            for digit, row in zip(digits(n), rows, strict=True)
        )
        (root / name).write_bytes(bz2.compress(text.encode()))


def save_archive(folder, types=TEN_TYPES, num_classes=10, num_ids=60):
    """Save CIFAR-C's archive; the first pixel of an image is (id, 10 * position of the type + severity, 0)."""
    folder.mkdir(parents=True)
    for position, name in enumerate(types):
        rows = np.zeros((len(SEVERITIES), num_ids, 32, 32, 3), np.uint8)
        rows[:, :, 0, 0, 0] = np.arange(num_ids)
        rows[:, :, 0, 0, 1] = 10 * position + np.array(SEVERITIES)[:, None]
        np.save(folder / f"{name}.npy", rows.reshape(-1, 32, 32, 3))
    np.save(folder / "labels.npy", np.tile(digits(num_ids) * (num_classes // 10), 5).astype(np.uint8))
    return folder


def pictures(num=60, seed=0):
    return np.random.default_rng(seed).integers(256, size=(num, 32, 32, 3)).astype(np.uint8)


def save_batches(root, num_classes=10, per_file=10):
    """Save plain CIFAR as torchvision reads it; return the images in the order of the files."""
    folder = root / ("cifar-10-batches-py" if num_classes == 10 else "cifar-100-python")
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"] if num_classes == 10 else ["train", "test"]
    folder.mkdir()
    images, labels = pictures(per_file * len(names)), digits(per_file).tolist()
    for name, part in zip(names, np.split(images, len(names)), strict=True):
        batch = {"data": part.transpose(0, 3, 1, 2).reshape(per_file, -1), "filenames": ["x.png"] * per_file}
        batch |= {"labels": labels} if num_classes == 10 else {"fine_labels": labels, "coarse_labels": [0] * per_file}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if num_classes == 10:
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(k) for k in range(10)]}, protocol=2))
    return images


def save_medmnist(path, num_train=80, num_val=12, num_test=20, num_classes=4, **more):
    """Save MedMNIST's layout: its names, and labels of shape (n, 1)."""
    arrays = {}
    for k, (part, num) in enumerate((("train", num_train), ("val", num_val), ("test", num_test))):
        arrays[f"{part}_images"] = np.random.default_rng(k).integers(256, size=(num, 8, 8)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(num) % num_classes)[:, None].astype(np.uint8)
    np.savez(path, **{**arrays, **more})
    return arrays
