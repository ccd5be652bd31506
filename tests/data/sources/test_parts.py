import numpy as np

from lpft.data.sources import Arrays
from lpft.data.sources.array_files import ArrayDomain
from tests.data.made import opened, save_arrays


def test_images_of_many_groups_come_from_those_that_are_asked(tmp_path):
    """Forty writers, whose images lie in the file in random order; a few rows are of three of them."""
    writers = np.random.default_rng(0).permutation(np.arange(80) // 2)
    save_arrays(tmp_path / "a.npz", writer=writers)
    source = Arrays({"a": ArrayDomain("a.npz", x_test=None, y_test=None, group="writer")}, str(tmp_path))
    order = np.argsort(writers, kind="stable")
    stored = np.load(tmp_path / "a.npz")
    assert source.table()["label"].tolist() == stored["y_train"][order].tolist()
    assert np.array_equal(np.stack(source.images(np.arange(80)))[..., 0], stored["x_train"][order])
    asked = []
    for number, (domain, split, part) in enumerate(source.parts):
        read = lambda rows, part=part, domain=domain: asked.append(domain) or part.images(rows)  # noqa: E731
        source.parts[number] = (domain, split, part._replace(images=read))
    rows = np.array([7, 12, 13, 79])
    assert np.array_equal(np.stack(source.images(rows))[..., 0], stored["x_train"][order[rows]])
    assert asked == ["a-3", "a-6", "a-39"]


def test_images_of_domains_without_training_images(tmp_path):
    """Rows on either side of an empty part; images of other sizes come one by one."""
    save_arrays(tmp_path / "a.npz", num_train=3, num_test=2)
    empty = {"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, np.int64)}
    save_arrays(tmp_path / "b.npz", num_train=3, num_test=0, seed=1, **empty)
    save_arrays(tmp_path / "c.npz", num_train=2, num_test=0, seed=2, size=5)
    source = Arrays({name: ArrayDomain(f"{name}.npz") for name in "abc"}, str(tmp_path))
    stored = {name: np.load(tmp_path / f"{name}.npz") for name in "ab"}
    alike = np.concatenate([stored["a"]["x_train"], stored["a"]["x_test"], stored["b"]["x_train"]])
    assert np.array_equal(np.stack(source.images(np.array([2, 4, 7])))[..., 0], alike[[2, 4, 7]])
    assert [image.shape for image in source.images(np.array([7, 8, 9]))] == [(8, 8, 1), (5, 5, 1), (5, 5, 1)]


def test_the_file_is_closed_when_the_cache_has_its_images(tmp_path):
    """The parts hold an array of all images; they are opened again if the cache is lost."""
    save_arrays(tmp_path / "a.npz")
    domains = {"a": ArrayDomain("a.npz")}
    data = opened(Arrays, domains, root=str(tmp_path), image_size=8, cache_dir=str(tmp_path / "cache"))
    assert "parts" not in vars(data.source)
    expected = data.arrays.content_hash
    for path in sorted(data.arrays.entry.iterdir()):
        path.unlink()
    data.arrays = None
    data.setup()
    assert data.arrays.content_hash == expected
