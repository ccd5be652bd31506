import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lpft.data.sources.celeba import CelebA
from tests.commands import lpft, table
from tests.data.made import assert_no_leaks, opened

ATTRIBUTES = ["5_o_Clock_Shadow", "Blond_Hair", "Male", "Young"]
NUM = 220
SIZE = (178, 218)


def rows():
    """Values of all attributes and the part of every image; blond men are the rarest."""
    rng = np.random.default_rng(0)
    male = rng.random(NUM) < 0.5
    blond = rng.random(NUM) < np.where(male, 0.4, 0.6)
    return [
        {"image_id": f"{i + 1:06}.jpg", "5_o_Clock_Shadow": 0, "Blond_Hair": blond[i], "Male": male[i], "Young": i % 2,
         "partition": [0, 0, 0, 1, 2][i % 5]}
        for i in range(NUM)
    ]  # fmt: skip


def values(row):
    return [1 if row[name] else -1 for name in ATTRIBUTES]


def write_lists(root, form="txt"):
    root.mkdir(exist_ok=True)
    if form == "txt":
        lines = [f"{NUM}", " ".join(ATTRIBUTES) + " "]
        lines += [f"{row['image_id']} " + " ".join(f"{value:2}" for value in values(row)) for row in rows()]
        (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        parts = "".join(f"{row['image_id']} {row['partition']}\n" for row in rows())
        (root / "list_eval_partition.txt").write_text(parts)
        return
    for name, columns in (("list_attr_celeba", ATTRIBUTES), ("list_eval_partition", ["partition"])):
        with (root / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", *columns])
            for row in rows():
                writer.writerow([row["image_id"], *(values(row) if len(columns) > 1 else [row["partition"]])])


def write_images(folder):
    """Write images of the set's size; the middle 178x178 have a colour of their own, above and below is white."""
    folder.mkdir(parents=True)
    for i, row in enumerate(rows()):
        image = Image.new("RGB", SIZE, (255, 255, 255))
        image.paste((16 * (i % 16) + 8, 16 * (i // 16) + 8, 100), (0, 20, 178, 198))
        image.save(folder / row["image_id"], quality=95)


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    root = tmp_path_factory.mktemp("celeba") / "celeba"
    write_lists(root)
    write_images(root / "img_align_celeba")
    return root


def make(root, **settings):
    return opened(
        CelebA, str(root), **{"rho": (0.8, 0.2), "image_size": 16, "cache_dir": str(root.parent / "cache"), **settings}
    )


def rows_of(data, positions):
    """Read off the colours which rows the images are of."""
    red, green = (data.images[positions, channel, 8, 8].long() // 16 for channel in (0, 1))
    return [rows()[i] for i in (red + 16 * green).tolist()]


def test_labels_groups_parts_and_crop(celeba):
    data = make(celeba)
    assert data.spec.num_classes == 2
    assert data.source.class_names == ("not Blond_Hair", "Blond_Hair")
    assert data.images.shape[1:] == (3, 16, 16)
    assert (data.images[:, 2] < 130).all(), "nothing of the white above and below is left"
    assert data.arrays.group_names == (
        "not Blond_Hair, not Male", "not Blond_Hair, Male", "Blond_Hair, not Male", "Blond_Hair, Male",
    )  # fmt: skip
    for client, rho in zip(data.clients, (0.8, 0.2), strict=True):
        for number, split in enumerate(("train", "val", "test")):
            part = getattr(client, split)
            for row, label, group in zip(rows_of(data, part), data.labels[part], data.arrays.groups[part], strict=True):
                assert (row["Blond_Hair"], row["Male"], row["partition"]) == (label == 1, group % 2 == 1, number)
            counts = torch.bincount(data.arrays.groups[part], minlength=4).tolist()
            assert counts[0] == counts[3] == round(rho * len(part) / 2)
            assert counts[1] == counts[2] == len(part) // 2 - counts[0]
    assert_no_leaks(data)


def test_size_is_what_blond_men_suffice_for(celeba):
    """Of two clients with rhos 0.8 and 0.2 each group is as large as half a client."""
    data = make(celeba)
    for number, split in enumerate(("train", "val", "test")):
        there = Counter((bool(r["Blond_Hair"]), bool(r["Male"])) for r in rows() if r["partition"] == number)
        assert {len(getattr(client, split)) for client in data.clients} == {2 * min(there.values())}


def test_the_csv_form_and_a_folder_within_a_folder_are_the_same(celeba, tmp_path):
    write_lists(tmp_path / "celeba", "csv")
    (tmp_path / "celeba" / "img_align_celeba").mkdir()
    (tmp_path / "celeba" / "img_align_celeba" / "img_align_celeba").symlink_to(celeba / "img_align_celeba")
    assert make(tmp_path / "celeba").arrays.content_hash == make(celeba).arrays.content_hash


def test_other_attributes_and_three_clients(celeba):
    data = make(celeba, target="Male", attribute="Young", rho=(0.9, 0.5, 0.1))
    assert [client.name for client in data.clients] == ["rho_0.9", "rho_0.5", "rho_0.1"]
    assert data.arrays.group_names[3] == "Male, Young"
    part = data.clients[0].train
    assert [row["Male"] for row in rows_of(data, part)] == data.labels[part].bool().tolist()


def test_no_identity_is_in_two_parts(celeba, tmp_path):
    """Every person has five images in a row, which the list of parts has torn apart."""
    write_lists(tmp_path / "celeba")
    (tmp_path / "celeba" / "img_align_celeba").symlink_to(celeba / "img_align_celeba")
    who = {row["image_id"]: str(i // 5 if i < 60 else i) for i, row in enumerate(rows())}
    (tmp_path / "celeba" / "identity_CelebA.txt").write_text("".join(f"{k} {v}\n" for k, v in who.items()))
    for root, torn in ((tmp_path / "celeba", False), (celeba, True)):
        data = make(root)
        parts = [
            {who[row["image_id"]] for client in data.clients for row in rows_of(data, getattr(client, split))}
            for split in ("train", "val", "test")
        ]
        assert bool(parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]) == torn


def test_all_that_is_missing_is_named_with_the_page(tmp_path):
    (tmp_path / "Img").mkdir()
    said = (
        r"img_align_celeba/ and list_attr_celeba\.txt or list_attr_celeba\.csv and list_eval_partition\.txt or"
        r" list_eval_partition\.csv must be in .*, which has: Img/\. HINT: .*mmlab\.ie\.cuhk\.edu\.hk"
    )
    with pytest.raises(FileNotFoundError, match=said):
        make(tmp_path)
    write_lists(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^img_align_celeba/ must be in"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("list_attr_celeba.txt", "220\n", "219\n", "has 220 images, expected 219 according"),
        ("list_attr_celeba.txt", "220\n", "", r"starts with '5_o_Clock_Shadow .*', expected the number of images"),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", r"line 5 \(000003.jpg\) has 4 values, expected 5"),
        ("list_attr_celeba.txt", "000003.jpg -1  1", "000003.jpg -1  7", "has the values 7, expected -1 and 1"),
        ("list_eval_partition.txt", "000003.jpg 0\n", "", "lacks 1 images that have attributes: 000003.jpg"),
        (
            "list_eval_partition.txt",
            "000003.jpg 0\n",
            "000003.jpg 5\n",
            "has the values 5, expected train, val and test",
        ),
        (
            "list_eval_partition.txt",
            "000003.jpg 0\n",
            "000003.jpg\n",
            r"line 3 \(000003.jpg\) has 1 values, expected 2",
        ),
    ],
)
def test_lists_of_another_form(celeba, tmp_path, file, before, after, said):
    write_lists(tmp_path / "celeba")
    (tmp_path / "celeba" / "img_align_celeba").symlink_to(celeba / "img_align_celeba")
    text = (tmp_path / "celeba" / file).read_text()
    assert text.count(before) == 1
    (tmp_path / "celeba" / file).write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=said):
        make(tmp_path / "celeba", rho=(0.5,))


def test_an_attribute_that_is_not_there(celeba):
    with pytest.raises(
        ValueError, match=r"no column 'Blonde'; found .*5_o_Clock_Shadow, Blond_Hair, Male, Young\. HINT"
    ):
        make(celeba, target="Blonde")


@pytest.mark.slow
def test_the_shipped_experiment_runs(celeba, out):
    configs = Path(__file__).parents[3] / "configs"
    lpft(
        "run", "-c", configs / "celeba.yaml", "-c", configs / "sizes" / "smoke.yaml", "--out", out,
        "--data.source.root", celeba, "--data.clients.rho", "[0.8, 0.2]",
        "--data.image_size", 32, "--trainer.devices", 1,
    )  # fmt: skip
    results = table(out / "results.csv")
    assert len(results) == 10
    assert all(0 <= float(row["worst_group_all"]) <= float(row["global_all"]) for row in results)
    assert "Blond_Hair, Male" in (out / "report.html").read_text()
