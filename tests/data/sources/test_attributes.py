import csv
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lpft.data.sources.attributes import Attribute, AttributeTable
from tests.data.made import assert_no_leaks, opened, parse

CONFIGS = Path(__file__).parents[3] / "configs"
AGE = {"column": "age", "at_least": 40, "names": ("young", "old")}
SEX = {"column": "sex", "values": ["m"], "others": ["f"], "names": ("women", "men")}


def make_rows(num=240, per_person=1):
    rng = np.random.default_rng(0)
    people = np.arange(num) // per_person
    rows = [
        {
            "file": f"images/{i:04}.png",
            "age": str(rng.choice([25, 35, 45, 60])),
            "sex": "fm"[people[i] % 2],
            "split": ["train", "train", "test"][people[i] // 2 % 3],
            "person": f"p{people[i]}",
        }
        for i in range(num)
    ]
    return rows


def write_set(root):
    """Write images whose colour tells their row, and a table of them."""
    (root / "images").mkdir(parents=True)
    for i, row in enumerate(make_rows()):
        Image.new("RGB", (10, 12), (i, 3, 7)).save(root / row["file"])
    write_table(root, make_rows())


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("attributes") / "set"
    write_set(root)
    return root


def write_table(root, rows, name="metadata.csv"):
    with (root / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def make(root, target=AGE, attribute=SEX, **settings):
    settings = {"rho": (0.9, 0.1), "image_size": 8, "cache_dir": str(root.parent / "cache"), **settings}
    target, attribute = Attribute(**target), Attribute(**attribute)
    return opened(AttributeTable, target, attribute, root=str(root), **settings)


def rows_of(data, positions):
    """Read off the colours which rows the images are of."""
    return data.images[positions, 0, 0, 0].tolist()


def test_clients_follow_their_rho_and_labels_stay_with_images(faces):
    rows = make_rows()
    data = make(faces, rho=(0.8, 0.2, 0.2), split="split")
    assert [client.name for client in data.clients] == ["rho_0.8", "rho_0.2-0", "rho_0.2-1"]
    assert data.arrays.group_names == ("young, women", "young, men", "old, women", "old, men")
    for client, rho in zip(data.clients, (0.8, 0.2, 0.2), strict=True):
        for split in ("train", "test"):
            part = getattr(client, split)
            count = torch.bincount(data.arrays.groups[part], minlength=4)
            assert count[0] == count[3] == round(rho * len(part) / 2)
            assert count[1] == count[2] == len(part) // 2 - count[0]
    for client in data.clients:
        for split in ("train", "val", "test"):
            part = getattr(client, split)
            for row, label, group in zip(rows_of(data, part), data.labels[part], data.arrays.groups[part], strict=True):
                assert label == (int(rows[row]["age"]) >= 40)
                assert group == 2 * label + (rows[row]["sex"] == "m")
                assert rows[row]["split"] == ("test" if split == "test" else "train")
    assert_no_leaks(data)


def test_no_person_is_in_two_parts(faces):
    rows = make_rows(per_person=3)
    write_table(faces, rows, "people.csv")
    data = make(faces, rho=(0.8, 0.2), unit="person", table="people.csv")
    people = {
        split: {rows[row]["person"] for client in data.clients for row in rows_of(data, getattr(client, split))}
        for split in ("train", "val", "test")
    }
    assert all(people.values())
    assert not people["train"] & people["val"]
    assert not (people["train"] | people["val"]) & people["test"]


def test_only_known_rows_are_used(faces, caplog):
    rows = make_rows()
    for i, row in enumerate(rows):
        row["age"] = "" if i % 10 == 0 else row["age"]
        row["sex"] = "unknown" if i % 10 == 5 else row["sex"]
    write_table(faces, rows, "gaps.csv")
    with caplog.at_level(logging.WARNING, "lpft"):
        data = make(faces, rho=(0.5,), table="gaps.csv")
    assert "48 of 240 images" in caplog.text
    used = [
        row
        for client in data.clients
        for part in (client.train, client.val, client.test)
        for row in rows_of(data, part)
    ]
    assert used
    assert all(row % 10 not in (0, 5) for row in used)


def test_the_key_follows_files_and_settings(tmp_path):
    write_set(tmp_path / "set")
    before = make(tmp_path / "set")
    assert make(tmp_path / "set").arrays.entry == before.arrays.entry
    assert make(tmp_path / "set", seed=1).arrays.content_hash != before.arrays.content_hash
    image = make_rows()[rows_of(before, before.clients[0].train)[0]]["file"]
    Image.new("RGB", (10, 12), (1, 2, 250)).save(tmp_path / "set" / image)
    assert make(tmp_path / "set").arrays.content_hash != before.arrays.content_hash


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": {"column": "height", "at_least": 40}}, r"no column 'height'; found file, age, sex, split, person"),
        (
            {"target": {"column": "sex", "at_least": 40}},
            r"column 'sex': 'f' and 'm' is no number.* HINT: name the `values`",
        ),
        ({"target": {"column": "age", "values": ["old"]}}, r"same answer to 'age old'.*values 25, 35, 45, 60\. HINT"),
        ({"split": "person"}, r"column 'person' has the values p0, p1, .* and 232 more, expected train, val and test"),
        ({"rho": ()}, r"`rho` is empty\. HINT"),
        ({"test_share": 1.0}, r"`test_share=1.0`.*HINT"),
        (
            {"table": "labels.csv"},
            r"labels.csv must be in .*, which has: .*images/, .*metadata.csv.*\. HINT.* https://faces",
        ),
        (
            {"rho": (0.9999,)},
            r"too few (test|train) images .*young, women: \d+, needed 5000; old, men: \d+, needed 5000\)",
        ),
    ],
)
def test_errors_say_what_was_found_and_what_to_do(faces, settings, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        make(faces, home="https://faces.example", **settings)


def test_bad_tables_and_missing_images(tmp_path):
    write_set(tmp_path / "set")
    data = make(tmp_path / "set")
    gone = make_rows()[rows_of(data, data.clients[1].val)[0]]["file"]
    (tmp_path / "set" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 files are missing in .*: {gone}"):
        make(tmp_path / "set")
    table = tmp_path / "set" / "metadata.csv"
    for content, said in (
        (b"", "no column 'file', 'age', 'sex'; found nothing"),
        (b"file,age,sex\n", "has no rows"),
        (b"file,age,sex\na.png,3\n", r"line 2 \(a.png\) has 2 values, expected 3"),
        (b"file,age,sex\n\xff\xfe,3,m\n", "no table of comma-separated values"),
    ):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            make(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="which has: no such folder"):
        make(tmp_path / "elsewhere")


@pytest.mark.parametrize("settings", [{}, {"values": ["m"], "at_least": 3.0}, {"others": ["m"], "at_least": 3.0}])
def test_a_question_has_one_kind_of_answer(settings):
    with pytest.raises(ValueError, match=r"column 'x' has .*HINT: give the `values`"):
        Attribute("x", **settings)


real = pytest.mark.skipif("LPFT_TEST_DATA" not in os.environ, reason="LPFT_TEST_DATA names no folder of image sets")


def load(name, tmp_path):
    root = Path(os.environ["LPFT_TEST_DATA"])
    words = [f"--data={CONFIGS / 'data' / name}.yaml", f"--data.source.root={root}", f"--data.cache_dir={tmp_path}"]
    data = parse(*words)
    data.setup()
    return data, root


@pytest.mark.realdata
@real
def test_real_faces(tmp_path):
    data, root = load("fairface", tmp_path)
    assert_no_leaks(data)
    with (root / "open" / "fairface" / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    tested = Counter((row["age"] >= "40", row["gender"] == "Male") for row in rows if row["split"] == "test")
    num_test = {len(client.test) for client in data.clients}
    assert num_test == {2 * min(tested.values())}  # of rhos that add up to 1
    assert [client.name for client in data.clients] == ["rho_0.8", "rho_0.2"]


@pytest.mark.realdata
@real
def test_real_table_with_the_columns_of_waterbirds(tmp_path):
    data, _ = load("pacs_spurious", tmp_path)
    assert_no_leaks(data)
    assert data.arrays.group_names == ("no animal, photo", "no animal, cartoon", "animal, photo", "animal, cartoon")
    assert [len(client.test) for client in data.clients] == [88, 88]
