import csv
import json
import logging
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lpft.data.partition import ByColumn
from lpft.data.sources.attributes import Attribute, AttributeTable, normalized
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
    if settings["rho"] is None:
        del settings["rho"]
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
            r"column 'sex': 'f' and 'm' is not a number.* HINT: name the `values`",
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
        (b"file,age,sex\n\xff\xfe,3,m\n", "neither a table of comma-separated values"),
    ):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            make(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="which has: no such folder"):
        make(tmp_path / "elsewhere")


def ham(root):
    """Write HAM10000 as it is distributed, small: ids without endings, images in two folders, blanks and `unknown`."""
    rows = [
        {
            "lesion_id": f"HAM_{i // 2:07}", "image_id": f"ISIC_{i:07}", "dx": ["mel", "nv", "bkl"][i // 4 % 3],
            "dx_type": "histo", "age": "" if i % 30 == 0 else f"{[35, 65][i // 2 % 2]}.0",
            "sex": "unknown" if i % 20 == 0 else ["male", "female"][i % 2],
            "localization": ["back", "face"][i // 8 % 2], "dataset": "vidir_modern",
        }
        for i in range(240)
    ]  # fmt: skip
    for i, row in enumerate(rows):
        folder = root / f"HAM10000_images_part_{1 + i // 120}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12), (i, 3, 7)).save(folder / f"{row['image_id']}.png")
    write_table(root, rows, "HAM10000_metadata.csv")
    return rows


MELANOMA = {"column": "dx", "values": ["mel"], "names": ("other", "melanoma")}
HAM = {"table": "HAM10000_metadata.csv", "file": "image_id", "unit": "lesion_id", "target": MELANOMA}


def used(data):
    return [row for c in data.clients for part in (c.train, c.val, c.test) for row in rows_of(data, part)]


def test_ham10000_is_read_as_it_is_distributed(tmp_path, caplog):
    rows = ham(tmp_path / "ham")
    age, sex = {"column": "age", "at_least": 50}, {"column": "sex", "values": ["male"], "missing": ["unknown"]}
    with caplog.at_level(logging.WARNING, "lpft"):
        by_age = make(tmp_path / "ham", attribute=age, rho=(0.5,), **HAM)
        by_sex = make(tmp_path / "ham", attribute=sex, rho=(0.5,), **HAM)
    assert [text.split(" images")[0] for text in caplog.messages] == ["8 of 240", "12 of 240"]
    assert used(by_age)
    assert all(rows[row]["age"] for row in used(by_age))
    assert all(rows[row]["sex"] != "unknown" for row in used(by_sex))
    clients = ByColumn("localization")
    data = make(tmp_path / "ham", attribute=sex, rho=None, clients=clients, columns=["localization"], **HAM)
    assert [client.name for client in data.clients] == ["back", "face"]
    for client in data.clients:
        for row, label in zip(rows_of(data, client.train), data.labels[client.train], strict=True):
            assert (rows[row]["localization"], rows[row]["dx"] == "mel") == (client.name, label)


def test_an_unknown_word_is_reported_with_the_setting_that_ignores_it(tmp_path, caplog):
    """The hints, followed, lead to data without these rows."""
    rows = ham(tmp_path / "ham")
    with caplog.at_level(logging.WARNING, "lpft"):
        make(tmp_path / "ham", attribute={"column": "sex", "values": ["male"]}, rho=(0.5,), **HAM)
    hint = re.search(r"`missing: (.*?)`", caplog.text)
    data = make(
        tmp_path / "ham",
        rho=(0.5,),
        **HAM,
        attribute={"column": "sex", "values": ["male"], "missing": json.loads(hint[1])},
    )
    assert all(rows[row]["sex"] != "unknown" for row in used(data))
    rows[5]["age"], rows[6]["age"] = "unknown", "n/a"
    write_table(tmp_path / "ham", rows, "HAM10000_metadata.csv")
    with pytest.raises(ValueError, match="is not a number") as stop:
        make(tmp_path / "ham", attribute={"column": "age", "at_least": 50}, rho=(0.5,), **HAM)
    missing = json.loads(re.search(r"`missing: (.*?)`", str(stop.value))[1])
    data = make(tmp_path / "ham", attribute={"column": "age", "at_least": 50, "missing": missing}, rho=(0.5,), **HAM)
    assert not {5, 6} & {*used(data)}


def test_images_that_are_not_there_are_left_out_before_clients_are_made(tmp_path):
    """Clients keep their correlation if half of the images is not unpacked; of nothing nothing is proposed."""
    rows = ham(tmp_path / "ham")
    age, ham_set = {"column": "age", "at_least": 50}, {**HAM, "unit": None, "val_share": 0.2}
    shutil.move(tmp_path / "ham" / "HAM10000_images_part_2", tmp_path / "part_2")
    with pytest.raises(FileNotFoundError, match=r"files are missing .*on_bad_image skip"):
        make(tmp_path / "ham", attribute=age, rho=(0.6, 0.4), **ham_set)
    data = make(tmp_path / "ham", attribute=age, rho=(0.6, 0.4), on_bad_image="skip", **ham_set)
    assert max(used(data)) < 120
    for client, rho in zip(data.clients, (0.6, 0.4), strict=True):
        count = torch.bincount(data.arrays.groups[client.train], minlength=4)
        assert count[0] == count[3] == round(rho * len(client.train) / 2)
        assert count[1] == count[2] == len(client.train) // 2 - count[0]
    whole = make(
        tmp_path / "ham", attribute=age, rho=(0.6, 0.4), images=["HAM10000_images_part_1", "../part_2"], **ham_set
    )
    assert max(used(whole)) > 200
    shutil.move(tmp_path / "ham" / "HAM10000_images_part_1", tmp_path / "part_1")
    for skip in ("error", "skip"):
        with pytest.raises(FileNotFoundError, match=r"None of the 232 image files .*`--data.source.images") as stop:
            make(tmp_path / "ham", attribute=age, on_bad_image=skip, **ham_set)
        assert "on_bad_image" not in str(stop.value)
    assert len(rows) == 240


@pytest.mark.parametrize(
    ("columns", "settings"),
    [
        (  # Camelyon17 of WILDS has no paths, numbers with zeros, and a first column without a name
            {"": "{i}", "patient": "{i:03}", "node": "{odd}", "x_coord": "{i}", "tumor": "{third}", "center": "{odd}"},
            {
                "file": "patches/patient_{patient}_node_{node}/patch_x_{x_coord}.png", "unit": "patient",
                "target": {"column": "tumor", "values": [1]}, "attribute": {"column": "center", "values": ["1"]},
            },
        ),
        (  # Fitzpatrick17k has hashes for names, and -1 where nothing is known
            {"md5hash": "{i:032x}", "fitzpatrick_scale": "{skin}", "three_partition_label": "{word}"},
            {
                "file": "md5hash", "target": {"column": "three_partition_label", "values": ["malignant"]},
                "attribute": {"column": "fitzpatrick_scale", "at_least": 4, "missing": [-1]},
            },
        ),
        (  # PAD-UFES-20 has names with endings, of another case here, images in folders, and yes and no in words
            {"img_id": "PAT_{i}.PNG", "gender": "{sex}", "biopsed": "{truth}", "patient_id": "PAT_{i}"},
            {
                "file": "img_id", "unit": "patient_id", "target": {"column": "biopsed", "values": [True]},
                "attribute": {"column": "gender", "values": ["MALE"], "others": ["female"]},
            },
        ),
        (  # ISIC 2020
            {"image_name": "ISIC_{i:07}", "sex": "{sex}", "target": "{third}.0", "patient_id": "IP_{i}"},
            {
                "file": "image_name", "unit": "patient_id", "target": {"column": "target", "values": ["1"]},
                "attribute": {"column": "sex", "values": ["male"], "missing": ["", "nan"]},
            },
        ),
    ],
    ids=["camelyon17", "fitzpatrick17k", "pad-ufes-20", "isic2020"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["utf-8", "utf-16", ";", "tab", "sep", "crlf"])
def test_tables_as_they_are_distributed(tmp_path, columns, settings, form):
    root = tmp_path / "set"
    rows = []
    for i in range(120):
        facts = {
            "i": i, "odd": i % 2, "third": i % 3 // 2, "skin": [-1, 2, 5][i % 7 % 3],
            "word": ["benign", "malignant"][i % 2],
            "sex": ["MALE", "FEMALE"][i // 2 % 2] if i % 10 else "", "truth": ["True", "False"][i % 2],
        }  # fmt: skip
        row = {name: text.format(**facts) for name, text in columns.items()}
        rows.append(row)
        name = (
            settings["file"].format(**row) if "{" in settings["file"] else f"imgs_part_{i % 3}/{row[settings['file']]}"
        )
        path = root / (name.replace(".PNG", ".png") if name.lower().endswith(".png") else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 3, 7)).save(path)
    mark, end = {";": ";", "tab": "\t", "sep": ";"}.get(form, ","), "\r\n" if form == "crlf" else "\n"
    lines = ["sep=;"] * (form == "sep") + [mark.join(columns)] + [mark.join(row.values()) for row in rows]
    (root / "metadata.csv").write_bytes((end.join(lines) + end).encode("utf-16" if form == "utf-16" else "utf-8"))
    data = make(root, rho=(0.5,), **settings)
    target = settings["target"]
    assert len(used(data)) > 20
    for client in data.clients:
        for row, label in zip(rows_of(data, client.train), data.labels[client.train], strict=True):
            assert normalized(rows[row][target["column"]]) in map(normalized, target["values"]) or not label


def test_rows_that_repeat_or_contradict_others(faces, tmp_path, caplog):
    rows = make_rows()
    write_table(faces, [*rows, rows[0], rows[1]], "repeated.csv")
    with caplog.at_level(logging.WARNING, "lpft"):
        table = make(faces, table="repeated.csv").source.cached_table
    assert len(table) == len(rows)
    assert "2 lines repeat others" in caplog.text
    write_table(faces, [*rows, {**rows[0], "file": rows[0]["file"].upper(), "sex": "m"}], "torn.csv")
    with pytest.raises(
        ValueError, match=r"1 files are listed with different values of sex, attribute: images/0000.png"
    ):
        make(faces, table="torn.csv")
    (faces / "twice.csv").write_text("file,age,sex,age\na.png,3,m,4\n")
    with pytest.raises(ValueError, match=r"several columns 'age'"):
        make(faces, table="twice.csv")


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
