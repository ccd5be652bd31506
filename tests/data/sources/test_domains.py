import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from lpft.data.sources.domains import FEDBN_CLASSES, DomainNet, Domains
from lpft.types import DataSpec
from tests.data.made import made as made_of
from tests.data.made import opened, parse, sizes
from tests.domains import Set, domainnet

CONFIGS = Path(__file__).parents[3] / "configs" / "data"


def make(kind, root, **settings):
    return opened(kind, root=str(root), image_size=4, cache_dir=str(root.parent / "cache"), **settings)


def check_no_leak(data):
    held = {split: {data.images[i].numpy().tobytes() for c in data.clients for i in getattr(c, split).tolist()}
            for split in ("train", "val", "test")}  # fmt: skip
    assert not held["train"] & held["test"]
    assert not held["train"] & held["val"]
    assert not held["val"] & held["test"]


@pytest.mark.parametrize("place", [".", "splits"])
@pytest.mark.parametrize("first", [0, 1])
def test_lists_become_clients(tmp_path, place, first):
    """Labels count from 0 or 1; a class that one domain's list lacks keeps its number."""
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog", "t-shirt"], 10, 2, [first, first + 1, first + 2], place)
    made.lists("sketch", ["cat", "t-shirt"], 10, 3, [first, first + 2], place)
    data = make(Domains, tmp_path / "set")
    assert data.source.class_names == ("cat", "dog", "t-shirt")
    assert sizes(data) == {"photo": (27, 3, 6), "sketch": (18, 2, 6)}
    assert data.spec == DataSpec(3, 4, 3)
    for client in data.clients:
        for split in ("train", "val", "test"):
            positions = getattr(client, split)
            for path, label in zip(made.paths(data, positions), data.labels[positions].tolist(), strict=True):
                assert path.split("/")[:2] == [client.name, ["cat", "dog", "t-shirt"][label]]
                assert (int(path[:-4].split()[-1]) >= 10) == (split == "test")


def test_selected_classes_are_renumbered(tmp_path):
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog", "owl"], 4, 2)
    made.lists("sketch", ["cat", "dog", "owl"], 4, 2)
    data = make(Domains, tmp_path / "set", classes=["owl", "cat"], domains=["sketch"], val_share=0.0)
    assert sizes(data) == {"sketch": (8, 0, 4)}
    assert {(label, path.split("/")[1]) for label, path in zip(data.labels.tolist(), made.paths(data, torch.arange(12)),
            strict=True)} == {(0, "owl"), (1, "cat")}  # fmt: skip
    with pytest.raises(ValueError, match=r"`classes`: cow are in no list of .*set; found cat, dog, owl"):
        make(Domains, tmp_path / "set", classes=["cow", "cat"])


def test_most_images_of_a_client(tmp_path):
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 30, 2)
    data = make(Domains, tmp_path / "set", train_per_client=20)
    assert sizes(data) == {"photo": (18, 2, 4)}
    assert torch.bincount(data.labels[data.clients[0].train]).tolist() == [9, 9]


def test_a_share_of_the_smallest_domain(tmp_path):
    """A fifth of 20 images; text lists go class by class, so they are mixed first."""
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 10, 2)
    made.lists("sketch", ["cat", "dog"], 15, 2)
    data = make(Domains, tmp_path / "set", share_of_smallest=0.2)
    assert sizes(data) == {"photo": (4, 4, 4), "sketch": (4, 4, 4)}
    for client in data.clients:
        assert torch.bincount(data.labels[client.train]).tolist() == [2, 2]
        assert torch.bincount(data.labels[client.val]).tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"`share_of_smallest=0.01` of 20 training images is none"):
        make(Domains, tmp_path / "set", share_of_smallest=0.01)
    with pytest.raises(ValueError, match=r"both determine how many"):
        made_of(Domains, share_of_smallest=0.1, train_per_client=3)


def test_domainnet(tmp_path):
    """The ten classes of FedBN in its order; all 345 with their own labels, though few have images here."""
    made = domainnet(tmp_path / "data" / "DomainNet")
    data = make(DomainNet, tmp_path / "data", train_per_client=20)
    assert list(sizes(data)) == ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]
    assert data.spec == DataSpec(3, 4, 10)
    assert set(sizes(data).values()) == {(18, 2, 10)}
    for client in data.clients:
        names = [path.split("/")[1] for path in made.paths(data, client.train)]
        assert names == [FEDBN_CLASSES[label] for label in data.labels[client.train].tolist()]
    whole = make(DomainNet, tmp_path / "data", classes="all")
    assert whole.spec.num_classes == 345
    assert sorted(set(whole.labels.tolist())) == [12, 23, 109, 143, 150, 301, 304, 314, 333, 335, 337, 344]
    check_no_leak(whole)
    assert made_of(DomainNet).spec == DataSpec(3, 64, 10)


@pytest.mark.parametrize("form", ["array", "lists"])
def test_fedbns_lists(tmp_path, form):
    """The first share of a list is trained on, the last is chosen by, in FedBN's own order; paths name the set."""
    made = domainnet(tmp_path / "data" / "DomainNet")
    listed = made.pickle_lists(FEDBN_CLASSES, as_array=form == "array")
    data = make(DomainNet, tmp_path / "data", lists="pkl", share_of_smallest=0.1)
    assert set(sizes(data).values()) == {(2, 2, 10)}  # clipart has 20 images
    for client in data.clients:
        assert made.paths(data, client.train) == listed[client.name, "train"][:2]
        assert made.paths(data, client.val) == listed[client.name, "train"][-2:]
        assert made.paths(data, client.test) == listed[client.name, "test"]
        names = [path.split("/")[1] for path in made.paths(data, client.train)]
        assert names == [FEDBN_CLASSES[label] for label in data.labels[client.train].tolist()]


class Evil:
    def __reduce__(self):
        return os.system, ("touch run",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Evil(), "is not loaded"),
        ((["a/b.png"], ["b", "c"]), "two lists of the same length"),
        ((["a/b.png"], [3]), "two lists of the same length"),
        (["a/b.png"], "two lists of the same length"),
        (7, "two lists of the same length"),
    ],
)
def test_pickles_of_something_else(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"a_{split}.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=said):
        make(Domains, tmp_path / "set", lists="pkl")
    assert not (tmp_path / "run").exists()


def test_no_tested_image_is_trained_on_anywhere(tmp_path):
    """The same image is in a test list of one domain and in a training list of another, and twice in a third."""
    made = Set(tmp_path / "set")
    for domain in ("a", "b", "c"):
        made.lists(domain, ["x", "y"], 10, 2)
    tested = (tmp_path / "set" / "a" / "x" / "x 10.png").read_bytes()
    for copy in ("b/x/x 0.png", "c/x/x 0.png", "c/x/x 11.png"):
        (tmp_path / "set" / copy).write_bytes(tested)
    data = make(Domains, tmp_path / "set")
    assert sum(sum(left.values()) for left in data.arrays.left_out.values()) == 2
    check_no_leak(data)


def test_missing_lists_and_images_are_named(tmp_path):
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 4, 2)
    (made.folder / "photo_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Lists are missing in .*set: photo_test.txt; found photo_train.txt"):
        make(Domains, tmp_path / "set")
    (made.folder / "photo_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"DOMAIN_test.txt; found photo/\. Expected.*Sites"):
        make(Domains, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"clipart_train.txt, .*; found no such folder.*http://ai.bu.edu/M3SDA"):
        make(DomainNet, tmp_path)
    made.lists("photo", ["cat", "dog"], 4, 2)
    (made.folder / "photo" / "cat" / "cat 1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files are missing in .*set: photo/cat/cat 1.png"):
        make(Domains, tmp_path / "set")
    assert sum(sizes(make(Domains, tmp_path / "set", on_bad_image="skip"))["photo"]) == 11


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace(".png", ".PNG").replace("\n", "\r\n"),
        lambda text: f"\ufeff# path and label\n\n{text}",
        lambda text: f"image_path label\n{text}",
        lambda text: text.replace(".png ", ".png\t").replace("\n", "  \n"),
        lambda text: text.replace(".png ", ".png; "),
        lambda text: text.replace(".png ", ".png,"),
        lambda text: "".join(f'"{line[:-2]}" {line[-1]}\n' for line in text.splitlines()),
        lambda text: "".join(f"/home/alice/PACS/{line}\n" for line in text.splitlines()),
        lambda text: "".join(f"./{line}\n" for line in text.splitlines()),
        lambda text: text.replace("cat 1", "cat%201"),
        lambda text: text.replace("dog/", "Dog/"),
        lambda text: text + text,
        lambda text: text.encode("utf-16"),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_lists_of_another_machine(tmp_path, change, first):
    """They give the same samples, of the same classes, in the same parts."""
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 4, 2, [first, first + 1])
    made.lists("sketch", ["cat", "dog"], 4, 2, [first, first + 1])
    before = make(Domains, tmp_path / "set")
    for path in made.folder.glob("*.txt"):
        changed = change(path.read_text())
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    after = make(Domains, tmp_path / "set")
    assert after.arrays.content_hash == before.arrays.content_hash
    assert after.source.class_names == ("cat", "dog")


def test_a_missing_first_image_does_not_move_the_base(tmp_path):
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 4, 2)
    for path in made.folder.glob("*.txt"):
        path.write_text("".join(f"set/{line}\n" for line in path.read_text().splitlines()))
    (made.folder / "photo" / "cat" / "cat 0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files are missing in .*: .*photo/cat/cat 0.png"):
        make(Domains, tmp_path / "set")
    assert sum(sizes(make(Domains, tmp_path / "set", on_bad_image="skip"))["photo"]) == 11


def test_labels_from_one_are_reported_and_can_be_set(tmp_path, caplog):
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 4, 2, [1, 2])
    with caplog.at_level(logging.WARNING, "lpft"):
        shifted = make(Domains, tmp_path / "set")
    assert "first_label: 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lpft"):
        said = make(Domains, tmp_path / "set", first_label=1)
    assert "first_label" not in caplog.text
    kept = make(Domains, tmp_path / "set", first_label=0)
    assert [sorted(set(data.labels.tolist())) for data in (shifted, said, kept)] == [[0, 1], [0, 1], [1, 2]]
    made.lists("sketch", ["cat", "dog"], 4, 2, [0, 1])
    with pytest.raises(ValueError, match=r"`first_label: 1`, but .* label 0.*`first_label: 0`"):
        make(Domains, tmp_path / "set", first_label=1)


def test_an_image_with_two_classes_is_named(tmp_path):
    made = Set(tmp_path / "set")
    made.lists("photo", ["cat", "dog"], 4, 2)
    with (made.folder / "photo_train.txt").open("a") as file:
        file.write("photo/cat/cat 1.png 1\n")
    with pytest.raises(ValueError, match=r"photo_train.txt: 1 files .* values of label: photo/cat/cat 1.png"):
        make(Domains, tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a/x/1.png\n", r"a_train.txt, line 1: 'a/x/1.png' is not a path and a label"),
        ("a/x/1.png 0\n\na/x/2.png -1\n", r"line 3"),
        ("\n", r"The lists in .* are empty"),
    ],
)
def test_lists_of_something_else(tmp_path, text, said):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a_train.txt").write_text(text)
    (tmp_path / "set" / "a_test.txt").write_text("")
    with pytest.raises(ValueError, match=said):
        make(Domains, tmp_path / "set")


def test_domains_that_disagree_about_a_label(tmp_path):
    made = Set(tmp_path / "set")
    made.lists("a", ["x", "y"], 4, 2)
    made.lists("b", ["y", "x"], 4, 2)
    with pytest.raises(ValueError, match=r"The class 'y' has the labels 1 and 0 in the lists"):
        make(Domains, tmp_path / "set", classes=["x", "y"])


real = pytest.mark.skipif("LPFT_TEST_DATA" not in os.environ, reason="LPFT_TEST_DATA names no folder of image sets")


def load(name, tmp_path, *arguments):
    where = (f"--data.source.root={os.environ['LPFT_TEST_DATA']}", f"--data.cache_dir={tmp_path}")
    data = parse(f"--data={CONFIGS / name}.yaml", *where, *arguments)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.realdata
@real
def test_four_real_domains_of_pacs(tmp_path, caplog):
    data = load("pacs", tmp_path)
    assert {name: sum(parts) for name, parts in sizes(data).items()} == {
        "art_painting": 420, "cartoon": 420, "photo": 420, "sketch": 400,
    }  # fmt: skip
    assert sizes(data)["sketch"] == (270, 30, 100)
    assert "left out" not in caplog.text
    check_no_leak(data)
    numbered = load("pacs", tmp_path, "--data.source.classes=null")
    assert torch.equal(numbered.labels, data.labels)  # the names stand in the order of the lists' labels
    brightness = {c.name: data.images[c.train].float().mean().item() for c in data.clients}
    assert brightness["sketch"] > 220 > max(brightness["photo"], brightness["art_painting"])


@pytest.mark.realdata
@real
def test_four_real_domains_of_office_caltech(tmp_path):
    data = load("office_caltech10", tmp_path)
    assert {name: parts[2] for name, parts in sizes(data).items()} == {
        "amazon": 120, "caltech10": 124, "dslr": 23, "webcam": 41,
    }  # fmt: skip
    assert {name: sum(parts[:2]) for name, parts in sizes(data).items()} == {
        "amazon": 344, "caltech10": 356, "dslr": 54, "webcam": 103,
    }  # fmt: skip
    check_no_leak(data)
    numbered = load("office_caltech10", tmp_path, "--data.source.classes=null")
    assert torch.equal(numbered.labels, data.labels)
