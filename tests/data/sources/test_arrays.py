import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lpft.data.partition import Dirichlet, Iid, Pathological
from lpft.data.sources import Arrays
from lpft.data.sources.array_files import ArrayDomain
from tests.data.made import made, parse, save_arrays, sizes
from tests.layouts import save_medmnist

CONFIGS = Path(__file__).parents[3] / "configs" / "data"


def make(root, sources, **settings):
    settings = {"image_size": 8, "cache_dir": str(root / "cache"), **settings}
    data = made(Arrays, sources, root=str(root), **settings)
    data.setup()
    return data


def bytes_of(data, positions):
    return {data.images[i].numpy().tobytes() for i in positions.tolist()}


def test_sources_become_clients(tmp_path):
    """Own test parts are kept, made otherwise; a source may be cut; val is a tenth of train."""
    save_arrays(tmp_path / "a.npz")
    save_arrays(tmp_path / "b.npz", num_test=0, seed=1)
    save_arrays(tmp_path / "c.npz", seed=2, size=5)
    sources = {"a": ArrayDomain("a.npz"), "b": ArrayDomain("b.npz"), "c": ArrayDomain("c.npz")}
    data = make(tmp_path, sources, clients=Iid({"c": 2}))
    expected = {"a": (72, 8, 20), "b": (54, 6, 20), "c-0": (36, 4, 10), "c-1": (36, 4, 10)}
    assert sizes(data) == expected
    assert data.images.shape == (280, 3, 8, 8)
    assert data.spec.num_classes == 4
    for client in data.clients:
        assert torch.bincount(data.labels[client.test]).max() - torch.bincount(data.labels[client.test]).min() <= 1


def test_images_and_labels_stay_together(tmp_path):
    """A label can be read off the image: all its pixels are ten times the label."""
    labels = np.random.default_rng(0).integers(4, size=50)
    images = np.full((50, 8, 8), 10, np.uint8) * labels[:, None, None].astype(np.uint8)
    images += np.arange(50, dtype=np.uint8)[:, None, None] // 5 % 10  # and they differ a little
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels)
    data = make(tmp_path, {"a": ArrayDomain("a.npz")}, clients=Iid(2), channels=1)
    assert torch.equal(data.images[:, 0, 0, 0].long() // 10, data.labels)


def test_labels_from_one_are_reported_and_shifted_by_a_setting(tmp_path, caplog):
    """A client that merely lacks class 0 while others have it is no reason."""
    labels = {"a": [1, 2, 3] * 10, "b": [2, 3, 3] * 10, "c": [0, 1, 2] * 10}
    for number, (name, y) in enumerate(labels.items()):
        images = np.random.default_rng(number).integers(256, size=(30, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=y)
    with caplog.at_level(logging.WARNING, "lpft"):
        make(tmp_path, {"a": ArrayDomain("a.npz"), "c": ArrayDomain("c.npz")})
    assert "first_label" not in caplog.text
    with caplog.at_level(logging.WARNING, "lpft"):
        data = make(tmp_path, {"a": ArrayDomain("a.npz"), "b": ArrayDomain("b.npz")})
    assert "first_label: 1" in caplog.text
    assert data.spec.num_classes == 4
    data = make(tmp_path, {name: ArrayDomain(f"{name}.npz", first_label=1) for name in "ab"})
    assert data.spec.num_classes == 3
    assert [torch.bincount(data.labels[client.test]).tolist()[0] for client in data.clients] == [3, 0]
    with pytest.raises(ValueError, match=r"`domains.c`: `first_label: 1`, but there is the label 0.*`first_label: 0`"):
        make(tmp_path, {"c": ArrayDomain("c.npz", first_label=1)})


def test_groups_become_clients(tmp_path):
    save_arrays(tmp_path / "a.npz")
    np.savez(tmp_path / "groups.npz", site=np.repeat([7, 30], 40))
    data = make(tmp_path, {"site": ArrayDomain("a.npz", group="site", group_file="groups.npz")})
    assert sizes(data) == {"site-7": (27, 3, 10), "site-30": (27, 3, 10)}
    first = np.load(tmp_path / "a.npz")["x_train"][:40]
    client = data.clients[0]
    mine = torch.cat([client.train, client.val, client.test])
    assert {x[0].tobytes() for x in data.images[mine].numpy()} == {x.tobytes() for x in first}


def test_train_per_client_caps_train_and_val_together(tmp_path):
    save_arrays(tmp_path / "a.npz")
    save_arrays(tmp_path / "b.npz", num_train=12, seed=1)
    data = make(tmp_path, {"a": ArrayDomain("a.npz"), "b": ArrayDomain("b.npz")}, train_per_client=40)
    assert sizes(data) == {"a": (36, 4, 20), "b": (11, 1, 20)}
    assert torch.bincount(data.labels[data.clients[0].train]).tolist() == [9, 9, 9, 9]


def test_no_tested_image_is_trained_on(tmp_path, caplog):
    """Client b trains on a copy of an image that client a is tested on, and on one that a chooses by."""
    save_arrays(tmp_path / "a.npz")
    first = make(tmp_path, {"a": ArrayDomain("a.npz")}, channels=1)
    tested, chosen_by = first.images[first.clients[0].test[0], 0], first.images[first.clients[0].val[0], 0]
    save_arrays(tmp_path / "b.npz", seed=1)
    arrays = dict(np.load(tmp_path / "b.npz"))
    arrays["x_train"][5], arrays["x_train"][6] = tested, chosen_by
    np.savez(tmp_path / "b.npz", **arrays)

    with caplog.at_level(logging.WARNING, "lpft"):
        data = make(tmp_path, {"a": ArrayDomain("a.npz"), "b": ArrayDomain("b.npz")}, channels=1)
        data.prepare_data()
    assert "images of client b were left out of train or val" in caplog.text
    assert list(data.arrays.left_out) == ["b"]
    tests = set().union(*(bytes_of(data, client.test) for client in data.clients))
    vals = set().union(*(bytes_of(data, client.val) for client in data.clients))
    trains = set().union(*(bytes_of(data, client.train) for client in data.clients))
    assert tested.numpy().tobytes() in tests
    assert not tests & vals
    assert not tests & trains
    assert not vals & trains


def test_the_same_from_another_place(tmp_path):
    """Neither the place of the files nor their age changes the content; the age builds the arrays anew."""
    data = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        save_arrays(tmp_path / name / "a.npz")
        os.utime(tmp_path / name / "a.npz", ns=(0, 10**18))
        data.append(make(tmp_path / name, {"a": ArrayDomain("a.npz")}))
    assert data[0].arrays.content_hash == data[1].arrays.content_hash
    assert data[0].arrays.entry.name == data[1].arrays.entry.name
    os.utime(tmp_path / "here" / "a.npz", ns=(0, 2 * 10**18))
    assert make(tmp_path / "here", {"a": ArrayDomain("a.npz")}).arrays.entry != data[0].arrays.entry


def test_seed_and_order_of_sources(tmp_path):
    """A client's split depends on the seed and its name, not on who else is there."""
    save_arrays(tmp_path / "a.npz", num_test=0)
    save_arrays(tmp_path / "b.npz", num_test=0, seed=1)
    a, b = ArrayDomain("a.npz"), ArrayDomain("b.npz")
    alone, together = make(tmp_path, {"a": a}), make(tmp_path, {"b": b, "a": a})
    assert bytes_of(alone, alone.clients[0].test) == bytes_of(together, together.clients[1].test)
    other = make(tmp_path, {"a": a}, seed=1)
    assert bytes_of(alone, alone.clients[0].test) != bytes_of(other, other.clients[0].test)


def mixes(data, split):
    parts = [getattr(client, split) for client in data.clients]
    return torch.stack([torch.bincount(data.labels[part], minlength=4) / len(part) for part in parts])


def test_label_shift_of_a_pool_with_its_own_test_part(tmp_path):
    """Train and test images stay what they are; a client's test set has the mix of what it trains on."""
    save_arrays(tmp_path / "a.npz", num_train=400, num_test=200)
    pool = dict(np.load(tmp_path / "a.npz"))
    data = make(tmp_path, {"a": ArrayDomain("a.npz")}, clients=Dirichlet(4, 0.5, 40), channels=1)
    trained = torch.cat([torch.cat([client.train, client.val]) for client in data.clients])
    tested = torch.cat([client.test for client in data.clients])
    assert bytes_of(data, trained) == {image.tobytes() for image in pool["x_train"]}
    assert bytes_of(data, tested) == {image.tobytes() for image in pool["x_test"]}
    assert all(len(c.train) + len(c.val) >= 40 for c in data.clients)
    assert (mixes(data, "train") - mixes(data, "test")).abs().sum(1).max() < 0.2
    assert (mixes(data, "train") - 0.25).abs().sum(1).max() > 0.4


def test_label_shift_of_a_pool_without_test_part(tmp_path):
    save_arrays(tmp_path / "a.npz", num_train=400, num_test=0)
    data = make(tmp_path, {"a": ArrayDomain("a.npz")}, clients=Pathological(4, 2))
    for split in ("train", "val", "test"):
        assert ((mixes(data, split) > 0).sum(1) == 2).all()


MED = {
    f"{x}_{part}": f"{part}_{what}"
    for x, what in (("x", "images"), ("y", "labels"))
    for part in ("train", "val", "test")
}


def test_a_part_for_choices_is_kept(tmp_path):
    """As in MedMNIST: nothing is taken from the training images; its 12 images are dealt as the others are."""
    arrays = save_medmnist(tmp_path / "m.npz")
    data = make(tmp_path, {"m": ArrayDomain("m.npz", **MED)}, clients=Iid(2))
    assert sizes(data) == {"m-0": (40, 6, 10), "m-1": (40, 6, 10)}
    for split in ("train", "val", "test"):
        positions = torch.cat([getattr(client, split) for client in data.clients])
        assert {image[0].numpy().tobytes() for image in data.images[positions]} == {
            image.tobytes() for image in arrays[f"{split}_images"]
        }
    data = make(tmp_path, {"m": ArrayDomain("m.npz", **MED)}, clients=Pathological(2, 2))
    assert sizes(data) == {"m-0": (40, 6, 10), "m-1": (40, 6, 10)}
    assert torch.equal(mixes(data, "train") > 0, mixes(data, "val") > 0)
    one = make(tmp_path, {"m": ArrayDomain("m.npz", invert=True, **MED)})
    assert bytes_of(one, one.clients[0].val) == {np.repeat(255 - x[None], 3, 0).tobytes() for x in arrays["val_images"]}


def test_a_part_for_choices_shares_no_image_with_the_others(tmp_path, caplog):
    arrays = save_medmnist(tmp_path / "m.npz")
    both = np.concatenate([arrays["val_images"][:5], arrays["train_images"][5:]])
    save_medmnist(tmp_path / "m.npz", test_images=arrays["val_images"], test_labels=arrays["val_labels"])
    with pytest.raises(ValueError, match="client m: 12 of 12 val images"):
        make(tmp_path, {"m": ArrayDomain("m.npz", **MED)})
    data = make(tmp_path, {"m": ArrayDomain("m.npz", **MED)}, max_left_out=1.0)
    assert sizes(data) == {"m": (80, 0, 12)}
    save_medmnist(tmp_path / "m.npz", train_images=both)
    data = make(tmp_path, {"m": ArrayDomain("m.npz", **MED)})
    assert sizes(data) == {"m": (75, 12, 20)}


def test_another_partition_is_another_key(tmp_path):
    save_arrays(tmp_path / "a.npz")
    partitions = [Iid(2), Dirichlet(2, 0.1), Dirichlet(2, 0.2)]
    sources = {"a": ArrayDomain("a.npz")}
    assert len({make(tmp_path, sources, clients=partition).arrays.entry for partition in partitions}) == 3


def test_a_pool_that_is_too_small_is_named(tmp_path):
    save_arrays(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"`clients`: `min_samples=50` for each of 2 clients.*HINT"):
        make(tmp_path, {"a": ArrayDomain("a.npz")}, clients=Dirichlet(2, 0.1, 50))


def test_inverting(tmp_path):
    save_arrays(tmp_path / "a.npz")
    plain = make(tmp_path, {"a": ArrayDomain("a.npz")})
    negative = make(tmp_path, {"a": ArrayDomain("a.npz", invert=True)})
    assert torch.equal(plain.images, 255 - negative.images)


def test_tiny_clients_do_not_crash_and_are_named(tmp_path, caplog):
    save_arrays(tmp_path / "a.npz", num_train=3, num_test=0, group=np.array([0, 0, 1]))
    data = made(Arrays, {"a": ArrayDomain("a.npz", group="group")}, root=str(tmp_path), cache_dir=str(tmp_path / "c"))
    with caplog.at_level(logging.WARNING, "lpft"):
        data.prepare_data()
    data.setup()
    assert sizes(data) == {"a-0": (1, 0, 1), "a-1": (1, 0, 0)}
    assert "1 of 2 clients have no test samples: a-1." in caplog.text
    assert "2 of 2 clients lack some of the 3 classes" in caplog.text


def test_missing_files_are_all_named(tmp_path):
    data = made(Arrays, {"a": ArrayDomain("a.npz"), "b": ArrayDomain("b.npz")}, root=str(tmp_path), num_classes=4)
    with pytest.raises(FileNotFoundError, match=r"domains.a`.*a.npz; `domains.b`.*--data.source.root"):
        data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"domains.a"):
        _ = made(Arrays, {"a": ArrayDomain("a.npz")}, root=str(tmp_path)).spec


def test_an_error_about_the_content_names_the_domain(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4, 4), np.uint8), y_train=[0])
    with pytest.raises(ValueError, match=r"`domains.a`: x_train and y_train: there are 2 images and 1 labels"):
        make(tmp_path, {"a": ArrayDomain("a.npz")})


def test_more_classes_than_configured(tmp_path):
    save_arrays(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="labels go from 0 to 3, expected 0 to 1"):
        make(tmp_path, {"a": ArrayDomain("a.npz")}, num_classes=2)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="neither 1"):
        made(Arrays, {"a": ArrayDomain("a.npz")}, channels=2)
    with pytest.raises(ValueError, match="empty"):
        Arrays({})
    with pytest.raises(ValueError, match="share a file"):
        Arrays({"a": ArrayDomain("a.npz"), "A": ArrayDomain("a.npz")})


NUM_CLASSES = {"teacher_student": 4, "pacs": 7, "cifar100_c": 100}
NUM_CLASSES |= dict.fromkeys(
    ["celeba", "celeba_3", "chexpert", "fairface", "pacs_spurious", "pneumonia_mnist", "breast_cancer"], 2
)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_parse(path):
    assert parse(f"--data={path}").spec.num_classes == NUM_CLASSES.get(path.stem, 10)


def test_partition_and_null_on_the_command_line(tmp_path):
    """A null inside a domain reaches it as the word None."""
    data = parse(
        f"--data={CONFIGS / 'cifar10_small_dirichlet.yaml'}",
        "--data.clients.alpha=0.1",
        "--data.source.domains.cifar10.x_test=null",
        "--data.source.domains.cifar10.y_test=null",
    )
    domain = data.source.domains["cifar10"]
    assert data._partition.settings() == Dirichlet(10, 0.1).settings()
    assert (domain.x_test, domain.y_test) == (None, None)
    data = parse(
        f"--data={CONFIGS / 'digit5_small.yaml'}",
        "--data.clients=lpft.data.partition.Pathological",
        "--data.clients.num_clients={mnist: 5}",
        "--data.clients.classes_per_client=3",
    )
    assert data._partition.settings() == Pathological({"mnist": 5}, 3).settings()


def test_yaml_and_overrides(tmp_path):
    save_arrays(tmp_path / "a.npz", num_test=0)
    source = {"domains": {"a": {"path": "a.npz", "x_test": None, "y_test": None}}}
    settings = {
        "source": {"class_path": "lpft.data.sources.Arrays", "init_args": source},
        "clients": {"class_path": "lpft.data.partition.Iid", "init_args": {"num_clients": 2}},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(settings))
    data = parse(
        f"--data={tmp_path / 'data.yaml'}",
        f"--data.source.root={tmp_path}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        "--data.clients.num_clients=4",
        "--data.channels=1",
    )
    data.setup()
    assert isinstance(data.source.domains["a"], ArrayDomain)
    assert list(sizes(data)) == ["a-0", "a-1", "a-2", "a-3"]


real = pytest.mark.skipif("LPFT_TEST_DATA" not in os.environ, reason="LPFT_TEST_DATA names no folder of image sets")


def load(name, tmp_path, *arguments):
    root = os.environ["LPFT_TEST_DATA"]
    config = f"--data={CONFIGS / name}.yaml"
    data = parse(config, f"--data.source.root={root}", f"--data.cache_dir={tmp_path}", *arguments)
    data.setup()
    return data


@pytest.mark.realdata
@real
def test_five_real_domains(tmp_path, caplog):
    data = load("digit5_small", tmp_path)
    assert sizes(data) == {
        "mnist": (669, 74, 1500),
        "usps": (669, 74, 1000),
        "mnist_m": (669, 74, 800),
        "meter": (429, 48, 203),
        "femnist": (669, 74, 751),
    }
    assert "left out" not in caplog.text
    brightness = {c.name: data.images[c.train].float().mean().item() for c in data.clients}
    assert brightness["mnist"] < 60  # white ink on black
    assert brightness["femnist"] > 200  # dark ink on white
    grey = {c.name: bool((data.images[c.train][:, 0] == data.images[c.train][:, 1]).all()) for c in data.clients}
    assert grey == {"mnist": True, "usps": True, "mnist_m": False, "meter": False, "femnist": True}


@pytest.mark.realdata
@real
def test_a_line_tells_mnist_and_usps_the_same_way_up(tmp_path):
    """The mean images of a class correlate between MNIST and USPS; mirrored or turned ones would less."""
    data = load("digit5_small", tmp_path)
    mnist, usps = (data.images[c.train][:, 0].float() for c in data.clients[:2])
    labels = [data.labels[c.train] for c in data.clients[:2]]

    def likeness(turn):
        pairs = [
            torch.stack([mnist[labels[0] == k].mean(0).flatten(), turn(usps[labels[1] == k].mean(0)).flatten()])
            for k in (2, 4, 5, 7)
        ]
        return torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean()

    upright = likeness(lambda image: image)
    assert upright > likeness(lambda image: image.T)
    assert upright > likeness(lambda image: image.flip(0))
    assert upright > likeness(lambda image: image.flip(1))


@pytest.mark.realdata
@real
def test_fifty_real_writers(tmp_path):
    data = load("mnist_writers", tmp_path)
    assert len(data.clients) == 50
    assert data.images.shape == (5000, 1, 28, 28)
    assert set(sizes(data).values()) == {(67, 8, 25)}
    assert data.clients[0].name == "writer-0"


@pytest.mark.realdata
@real
@pytest.mark.parametrize(
    ("name", "num_clients", "num_train", "num_test"),
    [
        ("mnist_split", 5, 5000, 1500),
        ("fashion_small_dirichlet", 10, 2000, 1000),
        ("cifar10_small_dirichlet", 10, 1600, 800),
        ("cifar10_small_pathological", 10, 1600, 800),
    ],
)
def test_real_pools_with_label_shift(tmp_path, name, num_clients, num_train, num_test):
    data = load(name, tmp_path)
    trained = torch.cat([torch.cat([client.train, client.val]) for client in data.clients])
    tested = torch.cat([client.test for client in data.clients])
    assert (len(data.clients), len(trained), len(tested)) == (num_clients, num_train, num_test)
    assert not bytes_of(data, trained) & bytes_of(data, tested)
    for client in data.clients:
        mix, test_mix = (torch.bincount(data.labels[p], minlength=10) / len(p) for p in (client.train, client.test))
        assert (mix - test_mix).abs().sum().item() / 2 < 0.1
