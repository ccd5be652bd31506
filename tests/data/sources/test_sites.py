import logging
import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from lpft.data.sources import Sites
from lpft.data.sources.names import in_order
from lpft.types import DataSpec
from tests.data.made import opened, sizes
from tests.shapes import SHAPES, save_shapes


def make(root, **settings):
    return opened(Sites, str(root), **{"image_size": 8, "cache_dir": str(root.parent / "cache"), **settings})


def paint(path, value, size=(8, 8)):
    """Save a plain grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def seen(data, positions):
    """Return value and class of every image; all its pixels have the value."""
    return sorted((data.images[i, 0, 0, 0].item(), data.source.class_names[data.labels[i]]) for i in positions.tolist())


def bytes_of(data, split):
    return {data.images[i].numpy().tobytes() for client in data.clients for i in getattr(client, split).tolist()}


def test_folders_by_class_are_split(tmp_path):
    save_shapes(tmp_path / "sites" / "north", 8, seed=0)
    save_shapes(tmp_path / "sites" / "south", 4, seed=1, mode="L")
    data = make(tmp_path / "sites", image_size=16)
    assert sizes(data) == {"north": (16, 2, 6), "south": (8, 1, 3)}
    assert data.source.class_names == SHAPES
    assert data.spec == DataSpec(3, 16, 3)
    for client in data.clients:
        assert torch.bincount(data.labels[client.test]).tolist() == [len(client.test) // 3] * 3
    grey = data.images[data.clients[1].train]
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert not bytes_of(data, "train") & bytes_of(data, "test")
    assert not bytes_of(data, "train") & bytes_of(data, "val")


def test_a_clients_own_split_is_kept(tmp_path):
    """Each image has a value of its own, and is found where it was put, under the class it was put in."""
    root = tmp_path / "sites"
    for value in range(0, 200, 20):
        paint(root / "a" / ("Train" if value < 120 else "val" if value < 160 else "TEST") / "xy"[value % 40 // 20]
              / f"{value}.png", value)  # fmt: skip
    data = make(root)
    (client,) = data.clients
    assert seen(data, client.train) == [(0, "x"), (20, "y"), (40, "x"), (60, "y"), (80, "x"), (100, "y")]
    assert seen(data, client.val) == [(120, "x"), (140, "y")]
    assert seen(data, client.test) == [(160, "x"), (180, "y")]


def test_what_is_not_split_is_made_from_train(tmp_path):
    root = tmp_path / "sites"
    save_shapes(root / "no_test" / "train", 4, seed=1)
    save_shapes(root / "no_test" / "val", 1, seed=2)
    save_shapes(root / "no_val" / "train", 4, seed=3)
    save_shapes(root / "no_val" / "test", 1, seed=4)
    data = make(root, image_size=16)
    assert sizes(data) == {"no_test": (9, 3, 3), "no_val": (11, 1, 3)}


def test_clients_without_train_or_test_are_named_and_do_no_harm(tmp_path, caplog):
    """An empty folder `test` stays empty; a client's folder without anything is a client without samples."""
    root = tmp_path / "sites"
    save_shapes(root / "only_test" / "test", 2, seed=1)
    save_shapes(root / "empty_test" / "train", 4, seed=2)
    (root / "empty_test" / "test").mkdir()
    (root / "nothing").mkdir()
    save_shapes(root / "whole", 4, seed=3)
    with caplog.at_level(logging.WARNING, "lpft"):
        data = make(root, image_size=16)
    assert sizes(data) == {"empty_test": (11, 1, 0), "nothing": (0, 0, 0), "only_test": (0, 0, 6), "whole": (8, 1, 3)}
    assert "2 of 4 clients have no training samples: nothing, only_test." in caplog.text
    assert "2 of 4 clients have no test samples: empty_test, nothing." in caplog.text


def test_lists_with_splits_and_groups(tmp_path):
    root = tmp_path / "sites"
    for value in range(10, 70, 10):
        paint(root / "a" / "images" / f"{value}.png", value)
    (root / "a" / "labels.csv").write_text(
        "\ufeffFile;Split;Label;Group;Age\n"
        "images/10.png;train;cat;women;30\nimages/20.png;train;dog;men;31\n\n"
        "images/30.png;VAL;cat;men;32\nimages/40.png;val;dog;;33\n"
        "images/50.png;test;cat;women;34\nimages/60.png;test; dog ;women;35\n",
        encoding="utf-8",
    )
    save_shapes(root / "b", 2, classes={"cat": "circle", "dog": "square"})
    data = make(root)
    assert data.arrays.group_names == ("men", "women")
    first = data.clients[0]
    assert seen(data, first.train) == [(10, "cat"), (20, "dog")]
    assert seen(data, first.val) == [(30, "cat"), (40, "dog")]
    assert seen(data, first.test) == [(50, "cat"), (60, "dog")]
    assert data.arrays.groups[first.train].tolist() == [1, 0]
    assert data.arrays.groups[first.val].tolist() == [0, -1]
    assert data.arrays.groups[first.test].tolist() == [1, 1]
    assert set(data.arrays.groups[data.clients[1].train].tolist()) == {-1}


def test_lists_without_splits(tmp_path):
    root = tmp_path / "sites"
    lines = ["file,label"]
    for value in range(0, 240, 12):
        paint(root / "a" / f"{value}.png", value)
        lines.append(f"{value}.png,{value % 24 // 12}")
    (root / "a" / "labels.csv").write_text("\n".join(lines))
    data = make(root)
    assert sizes(data) == {"a": (13, 2, 5)}
    assert all(label == str(value % 24 // 12) for value, label in seen(data, data.clients[0].train))


@pytest.mark.parametrize(
    "listed",
    ["scans\\\\{}.png", "Scans/{}.PNG", "./scans/{}.png", "/home/x/west/scans/{}.png", "west/scans/{}.png", "scans/{}"],
)
def test_lists_of_another_machine(tmp_path, listed):
    root = tmp_path / "sites"
    lines = ["file,label"]
    for value in range(0, 240, 12):
        paint(root / "west" / "scans" / f"{value}.png", value)
        lines.append(f"{listed.replace(chr(92) * 2, chr(92)).format(value)},{'xy'[value % 24 // 12]}")
    (root / "west" / "labels.csv").write_text("\r\n".join(lines), encoding="utf-16")
    data = make(root)
    assert sizes(data) == {"west": (13, 2, 5)}
    assert all(label == "xy"[value % 24 // 12] for value, label in seen(data, data.clients[0].train))


def test_torchvisions_order_of_numbered_classes(tmp_path):
    for label in ("0", "1", "2", "10", "11"):
        paint(tmp_path / "sites" / "a" / label / "1.png", int(label))
    assert make(tmp_path / "sites").source.imagefolder_order == ("0", "1", "10", "11", "2")
    assert make(tmp_path / "sites", classes=["0", "1", "2", "10", "11"]).source.imagefolder_order is None
    for label in ("10", "11"):
        (tmp_path / "sites" / "a" / label).rename(tmp_path / "sites" / "a" / (label[1:] * 2))
    assert make(tmp_path / "sites").source.imagefolder_order == ("0", "00", "1", "11", "2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,class\na.png,x\n", r"labels.csv starts with 'name,class'\. Expected .*file,label"),
        ("file,label\na.png\n", r"line 2: there is no label"),
        ("file,label\na.png,x\na.png,y\n", r"line 3: the file 'a.png' stands in line 2 already"),
        ("file,label,split\na.png,x,dev\n", r"line 2: the split 'dev' is not one of train, val, test"),
        ("file,label,split\na.png,x,\n", r"line 2: there is no split"),
        ('file,label\n"a.png,x\n', r"not a table of comma-separated values"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, text, said):
    paint(tmp_path / "sites" / "a" / "a.png", 1)
    (tmp_path / "sites" / "a" / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        make(tmp_path / "sites")


def test_a_list_in_another_encoding_is_named(tmp_path):
    paint(tmp_path / "sites" / "a" / "a.png", 1)
    (tmp_path / "sites" / "a" / "labels.csv").write_bytes("file,label\na.png,\xfc\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"labels.csv is neither a table .* UTF-8"):
        make(tmp_path / "sites")


def test_hidden_files_links_unicode_and_what_is_no_image(tmp_path, caplog):
    root = tmp_path / "sites"
    store = tmp_path / "store"
    composed, apart = unicodedata.normalize("NFC", "Köln"), unicodedata.normalize("NFD", "Köln")
    for value in (10, 20):
        paint(root / apart / unicodedata.normalize("NFD", "süß") / f"{value}.PNG", value)
        paint(root / apart / "sauer" / f"{value + 1}.png", value + 1)
        paint(store / unicodedata.normalize("NFC", "süß") / f"{value + 2}.jpg", value + 2)
        paint(store / "sauer" / f"{value + 3}.png", value + 3)
    (root / "itself").symlink_to(root / "itself")
    (root / "北京").symlink_to(store, target_is_directory=True)
    paint(root / "北京" / "sauer" / ".hidden.png", 200)
    (root / ".ipynb_checkpoints").mkdir()
    (root / "readme.txt").write_text("")
    (root / "北京" / "sauer" / "notes.txt").write_text("")
    (root / "北京" / "sauer" / "Thumbs.db").write_text("")
    (root / "北京" / "leer").mkdir()
    (root / "北京" / "sauer" / "link.png").symlink_to(root / apart / "sauer" / "11.png")
    with caplog.at_level(logging.WARNING, "lpft"):
        data = make(root, test_share=0.0, val_share=0.0)
    assert [client.name for client in data.clients] == [composed, "北京"]
    assert data.source.class_names == ("leer", "sauer", unicodedata.normalize("NFC", "süß"))
    assert seen(data, data.clients[0].train) == [(10, "süß"), (11, "sauer"), (20, "süß"), (21, "sauer")]
    assert [value for value, _ in seen(data, data.clients[1].train)] == [11, 12, 13, 22, 23]
    assert (
        "1 files in the class folders are left out, being no images by their ending: 北京/sauer/notes.txt."
        in caplog.text
    )


def test_bad_images_stop_or_are_listed(tmp_path, caplog):
    root = tmp_path / "sites"
    save_shapes(root / "a", 4)
    (root / "a" / "circle" / "cut.png").write_bytes((root / "a" / "circle" / "0-000.png").read_bytes()[:60])
    (root / "a" / "square" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"1 files are missing in .*a/square/gone.png.*on_bad_image skip"):
        make(root)
    (root / "a" / "square" / "gone.png").unlink()
    with pytest.raises(ValueError, match=r"1 image files cannot be decoded:\n.*cut.png"):
        make(root)
    (root / "a" / "square" / "gone.png").symlink_to(root / "nowhere.png")
    with caplog.at_level(logging.WARNING, "lpft"):
        data = make(root, on_bad_image="skip")
    assert sum(sizes(data)["a"]) == 12
    assert sorted(os.path.basename(bad.split(" (")[0]) for bad in data.arrays.bad) == ["cut.png", "gone.png"]  # noqa: PTH119
    assert "2 image files could not be decoded and were left out" in caplog.text


def test_no_tested_image_is_trained_on_anywhere(tmp_path):
    """Client b trains on a copy, in another format, of an image that client a is tested on."""
    root = tmp_path / "sites"
    save_shapes(root / "a" / "train", 2, seed=0)
    save_shapes(root / "a" / "test", 1, seed=1)
    save_shapes(root / "b" / "train", 3, seed=2)
    Image.open(root / "a" / "test" / "circle" / "1-000.png").save(root / "b" / "train" / "circle" / "copy.bmp")
    data = make(root, val_share=0.0, image_size=16)
    assert data.arrays.left_out["b"] == {"train": 1}
    assert not bytes_of(data, "train") & bytes_of(data, "test")


def test_classes_in_an_order_of_ones_own(tmp_path):
    root = tmp_path / "sites"
    paint(root / "a" / "x" / "1.png", 1)
    paint(root / "a" / "y" / "2.png", 2)
    data = make(root, classes=["z", "y", "x"], test_share=0.0, val_share=0.0)
    assert data.spec.num_classes == 3
    assert seen(data, data.clients[0].train) == [(1, "x"), (2, "y")]
    (root / "classes.txt").write_text("y\nz\n\nx\n")
    from_file = make(root, classes="classes.txt", test_share=0.0, val_share=0.0)
    assert sorted(from_file.labels.tolist()) == [0, 2]
    assert from_file.arrays.entry != data.arrays.entry
    with pytest.raises(ValueError, match=r"Site 'a' has the classes 'y', which are not in `classes`: x, z"):
        make(root, classes=["x", "z"])
    with pytest.raises(FileNotFoundError, match=r"names.txt with the names of the `classes`"):
        make(root, classes="names.txt")
    with pytest.raises(ValueError, match="none of them twice"):
        make(root, classes=["x", "x", "y"])


def test_numbers_are_sorted_as_numbers(tmp_path):
    for label in ("0", "9", "10"):
        paint(tmp_path / "sites" / "a" / label / "1.png", int(label))
    assert make(tmp_path / "sites").source.class_names == ("0", "9", "10")
    assert in_order(["1", "01", "a"]) == ("01", "1", "a")


def test_a_class_may_be_called_train(tmp_path):
    for value, label in enumerate(("bus", "car", "train")):
        paint(tmp_path / "sites" / "a" / label / "1.png", value)
        paint(tmp_path / "sites" / "b" / "test" / label / "1.png", value + 10)
    data = make(tmp_path / "sites")
    assert data.source.class_names == ("bus", "car", "train")
    assert len(data.clients[1].test) == 3


def test_some_of_the_clients(tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        save_shapes(tmp_path / "sites" / name, 2, seed=seed)
    assert list(sizes(make(tmp_path / "sites", sites=["c", "a"]))) == ["c", "a"]
    with pytest.raises(ValueError, match=r"`sites`: .* has no folders 'd', found a, b, c"):
        make(tmp_path / "sites", sites=["d"])


def test_the_split_depends_on_seed_and_name_alone(tmp_path):
    save_shapes(tmp_path / "sites" / "b", 8, seed=0)
    alone = make(tmp_path / "sites", image_size=16)
    save_shapes(tmp_path / "sites" / "a", 8, seed=1)
    together = make(tmp_path / "sites", image_size=16)
    assert bytes_of(alone, "test") < bytes_of(together, "test")
    assert bytes_of(make(tmp_path / "sites", image_size=16, seed=1), "test") != bytes_of(together, "test")
    capped = make(tmp_path / "sites", image_size=16, train_per_client=10)
    assert sizes(capped) == {"a": (9, 1, 6), "b": (9, 1, 6)}


def test_normalization_is_that_of_the_model(tmp_path):
    paint(tmp_path / "sites" / "a" / "x" / "1.png", 51)
    paint(tmp_path / "sites" / "a" / "y" / "1.png", 102)
    data = make(tmp_path / "sites", channels=1, mean=[0.2], std=[0.1], test_share=0.0, val_share=0.0)
    assert data.normalize(data.images)[:, 0, 0, 0].tolist() == pytest.approx([0, 2])
    for wrong in ({"channels": 2}, {"channels": 1, "mean": [0.1, 0.2, 0.3]}, {"std": [0.0, 1.0, 1.0]}):
        with pytest.raises(ValueError, match=r"channels|scale"):
            make(tmp_path / "sites", **wrong)


def tree(root, *paths):
    for value, path in enumerate(paths):
        if path.endswith((".png", ".dcm", ".csv")):
            paint(root / path, value) if path.endswith("png") else _touch(root / path)
        else:
            (root / path).mkdir(parents=True)


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ((".hidden",), r"found nothing\. Expected ROOT/SITE/CLASS/IMAGE.* HINT: `root` must contain one folder per"),
        (("1.png", "2.png"), r"found 2 images \(1.png, 2.png\).*HINT: `root` must contain one folder per site"),
        (("train/x/1.png", "test/y/1.png"), r"found 2 folders \(test, train\).*HINT: `root` must contain one folder"),
        (("labels.csv", "images/1.png"), r"other files \(labels.csv\).*HINT: `root` must contain one folder"),
        (("x/1.png", "y/1.png"), r"/x: found 1 images.*HINT: put images in folders.*`root` is too deep"),
        (("a/train/1.png", "a/test/2.png"), r"/a: found 2 folders.*HINT: they contain images; move these into folders"),
        (("a/train/x/1.png", "a/train/2.png"), r"/a: found 1 folders \(train\).*they contain images; move"),
        (("a/train/x/1.png", "a/valid/x/2.png"), r"/a: found 2 folders \(train, valid\).*beside train there can be no"),
        (("s/a/x/1.png", "s/b/x/2.png"), r"/s/a: found 1 folders \(x\).*HINT: .*set `root` to the folder above it"),
        (("a/x/more/1.png", "a/x/2.png", "a/y/3.png"), r"/a/x: found 1 folders \(more\), 1 images"),
        (("a/images/1.png", "b/images/2.png"), r"All images are of one class, 'images'"),
        (("a/x/1.dcm", "a/y/2.dcm"), r"found 1 folders without images, but a/x/1.dcm, .*HINT: image files end in .jpg"),
        (("a/Cat/1.png", "b/cat/2.png"), r"'Cat' \(site 'a'\) and 'cat' \(site 'b'\) differ in case only"),
        (("a/x/1.png", "A/y/2.png"), r"would share a file on file systems that ignore case"),
    ],
)  # fmt: skip
def test_other_layouts_are_distinguished(tmp_path, paths, said):
    root = tmp_path / "sites"
    root.mkdir()
    tree(root, *paths)
    with pytest.raises(ValueError, match=said):
        make(root)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*sites\. Expected .*--data.source.root"):
        make(tmp_path / "sites")


def test_a_name_that_is_not_unicode_is_reported(tmp_path):
    folder = os.fsencode(tmp_path / "sites") + b"/a\xff"
    os.makedirs(folder)  # noqa: PTH103
    paint(tmp_path / "sites" / "b" / "x" / "1.png", 1)
    with pytest.raises(ValueError, match=r"is not encoded in UTF-8\. HINT: rename"):
        make(tmp_path / "sites")


def test_image_names_that_are_no_unicode_are_read(tmp_path):
    for value, label in enumerate("xy"):
        paint(tmp_path / "sites" / "a" / label / "1.png", value)
        os.rename(tmp_path / "sites" / "a" / label / "1.png",  # noqa: PTH104
                  os.fsencode(tmp_path / "sites" / "a" / label) + b"/\xff.png")  # fmt: skip
    assert seen(make(tmp_path / "sites", test_share=0.0), torch.arange(2)) == [(0, "x"), (1, "y")]


def test_sixteen_bit_and_grey_images_in_grey(tmp_path):
    deep = Image.fromarray(np.full((9, 7), 130 * 256 + 5, np.uint16))
    (tmp_path / "sites" / "a" / "x").mkdir(parents=True)
    deep.save(tmp_path / "sites" / "a" / "x" / "deep.png")
    paint(tmp_path / "sites" / "a" / "y" / "plain.png", 9, size=(5, 40))
    data = make(tmp_path / "sites", channels=1, test_share=0.0, val_share=0.0)
    assert seen(data, data.clients[0].train) == [(9, "y"), (130, "x")]
