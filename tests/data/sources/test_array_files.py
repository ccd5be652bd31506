from pathlib import Path

import numpy as np
import pytest

from lpft.data.sources.array_files import (
    ArrayDomain,
    ArrayFiles,
    channels_last,
    domain_files,
    open_domain,
    read_groups,
)

IMAGES = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)


def save(folder, **arrays):
    np.savez(folder / "digits.npz", **arrays)


def test_keys_of_an_npz_file(tmp_path):
    save(tmp_path, a=IMAGES, b=np.array([[1], [0]], np.uint8), c=IMAGES[:1], d=[5])
    source = ArrayDomain(path="digits.npz", x_train="a", y_train="b", x_test="c", y_test="d")
    train, test = open_domain(source, tmp_path).values()
    assert train.labels.tolist() == [1, 0]
    assert train.labels.dtype == np.int64
    assert np.array_equal(train.images(np.array([1]))[0, :, :, 0], IMAGES[1])
    assert test.labels.tolist() == [5]


def test_npy_files_are_mapped(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "y.npy", [0, 1])
    source = ArrayDomain(x_train="x.npy", y_train="y.npy", x_test=None, y_test=None)
    (train,) = open_domain(source, tmp_path).values()
    assert isinstance(ArrayFiles(tmp_path).read("x.npy"), np.memmap)
    assert np.array_equal(train.images(np.array([0, 1]))[..., 0], IMAGES)
    assert domain_files(source, tmp_path) == [tmp_path / "x.npy", tmp_path / "y.npy"]


def test_a_source_without_test_arrays_has_no_test_part(tmp_path):
    save(tmp_path, x_train=IMAGES, y_train=[0, 1])
    assert list(open_domain(ArrayDomain(path="digits.npz"), tmp_path)) == ["train"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES, "y_train": [0, 1]}, "no array 'x_train' in .*digits.npz, found x, y_train. HINT"),
        ({"x_train": IMAGES, "y_train": [0]}, "2 images and 1 labels"),
        ({"x_train": IMAGES / 255.0, "y_train": [0, 1]}, "images are float64, expected uint8.*multiply by 255"),
        ({"x_train": IMAGES[0], "y_train": [0, 1, 2, 3]}, r"shape \(4, 6\), expected"),
        ({"x_train": IMAGES, "y_train": [0.0, 1.0]}, "labels are float64"),
        ({"x_train": IMAGES, "y_train": [-1, 1]}, "from -1 on, expected integers from 0 on"),
        ({"x_train": IMAGES, "y_train": [[0, 1], [1, 0]]}, r"shape \(2, 2\)"),
        ({"x_train": IMAGES, "y_train": [0, 1], "x_test": IMAGES}, "no array 'y_test'"),
        ({"x_train": np.array([{}, {}]), "y_train": [0, 1]}, "cannot be read.*never unpickled"),
    ],
)
def test_invalid_input_is_reported(tmp_path, arrays, message):
    save(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message):
        open_domain(ArrayDomain(path="digits.npz"), tmp_path)


def test_a_folder_is_no_array_file(tmp_path):
    (tmp_path / "cats").mkdir()
    with pytest.raises(ValueError, match=r"cats is a folder.*HINT.*Sites"):
        domain_files(ArrayDomain(path="cats"), tmp_path)


def test_a_truncated_file_is_reported(tmp_path):
    save(tmp_path, x_train=IMAGES, y_train=[0, 1])
    content = (tmp_path / "digits.npz").read_bytes()
    (tmp_path / "digits.npz").write_bytes(content[:-30])
    with pytest.raises(ValueError, match=r"digits.npz is truncated.*HINT"):
        open_domain(ArrayDomain(path="digits.npz"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no `path`"),
        ({"dataset": "torchvision.datasets.MNIST"}, "no `path`"),
        ({"path": "a.npz", "x_test": None}, "`x_test: None` and `y_test: y_test`. HINT: give both or none"),
        ({"path": "a.npz", "y_val": "v"}, "`x_val: None` and `y_val: v`. HINT: give both or none"),
        (
            {"x_train": "a.npy", "y_train": "b.npy", "x_test": None, "y_test": None, "x_val": "c", "y_val": "d"},
            "no `path`",
        ),
        ({"path": "a.npz", "group_file": "g.npz"}, "but no `group`"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        ArrayDomain(**settings)


@pytest.mark.parametrize("dataset", ["MNIST", "torchvision.datasets.NoSuch", "no_such_module.MNIST"])
def test_a_dataset_that_cannot_be_imported(tmp_path, dataset):
    with pytest.raises(ValueError, match=r"cannot be imported.*full dotted path"):
        open_domain(ArrayDomain(path=".", dataset=dataset), tmp_path)


def test_a_dataset_without_files_or_with_wrong_arguments(tmp_path):
    mnist = "torchvision.datasets.MNIST"
    with pytest.raises(FileNotFoundError, match=r"does not find its files.*nothing is downloaded"):
        open_domain(ArrayDomain(path=".", dataset=mnist), tmp_path)
    with pytest.raises(ValueError, match=r"does not take the arguments.*train_args"):
        open_domain(ArrayDomain(path=".", dataset=mnist, train_args={"split": "x"}), tmp_path)


def test_only_the_datasets_own_folder_counts(tmp_path):
    for name in ("MNIST/raw/a", "other/b", "cifar-10-batches-py/c"):
        (tmp_path / "open" / name).parent.mkdir(parents=True)
        (tmp_path / "open" / name).write_text("")
    source = ArrayDomain(path="open", dataset="torchvision.datasets.MNIST")
    assert domain_files(source, tmp_path) == [tmp_path / "open/MNIST/raw/a"]
    assert domain_files(source, Path("nowhere")) == [Path("nowhere/open")]
    source = ArrayDomain(path="open", dataset="torchvision.datasets.CIFAR10")
    assert domain_files(source, tmp_path) == [tmp_path / "open/cifar-10-batches-py/c"]


def test_groups_are_checked(tmp_path):
    save(tmp_path, group=np.array([[3], [4]]), names=np.array(["a", "b"]), parts=np.array([0.5, 1]))
    assert read_groups(ArrayDomain(path="digits.npz", group="group"), tmp_path, 2).tolist() == [3, 4]
    assert read_groups(ArrayDomain(path="digits.npz", group="names"), tmp_path, 2).tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"expected integers or strings of shape \(3,\)"):
        read_groups(ArrayDomain(path="digits.npz", group="group"), tmp_path, 3)
    with pytest.raises(ValueError, match="float64"):
        read_groups(ArrayDomain(path="digits.npz", group="parts"), tmp_path, 2)


@pytest.mark.parametrize(("shape", "seen"), [
    ((5, 8, 9), (5, 8, 9, 1)),
    ((5, 8, 9, 1), (5, 8, 9, 1)),
    ((5, 8, 9, 3), (5, 8, 9, 3)),
    ((5, 3, 8, 9), (5, 8, 9, 3)),
    ((5, 1, 8, 9), (5, 8, 9, 1)),
])  # fmt: skip
def test_layouts(shape, seen):
    assert channels_last(np.zeros(shape, np.uint8)).shape == seen
