import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lpft.data.sources.chexpert import CheXpert, has_finding
from tests.commands import lpft, table
from tests.data.made import assert_no_leaks, opened

FINDINGS = [
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
]
NUM_PATIENTS = {"train": 110, "valid": 6}


def rows(part):
    """Patients with one to three images, some of them lateral; all labels there are."""
    rng = np.random.default_rng(len(part))
    found = []
    for number in range(NUM_PATIENTS[part]):
        patient = f"patient{number + (64541 if part == 'valid' else 1):05}"
        sex = "Unknown" if number == 7 else str(rng.choice(["Female", "Male"]))
        for study in range(1, 1 + rng.integers(1, 4)):
            view = "lateral" if rng.random() < 0.15 else "frontal"
            labels = {name: str(rng.choice(["", "1.0", "0.0", "-1.0"])) for name in FINDINGS}
            nothing = rng.random() < 0.5
            labels["No Finding"] = "1.0" if nothing else ""
            labels["Pleural Effusion"] = str(rng.choice(["1.0", "1.0", "-1.0", "0.0", ""], p=[0.1, 0.1, 0.2, 0.3, 0.3]
                                                        if nothing else [0.4, 0.4, 0.1, 0.05, 0.05]))  # fmt: skip
            found.append({
                "Path": f"CheXpert-v1.0-small/{part}/{patient}/study{study}/view1_{view}.jpg",
                "Sex": sex, "Age": str(rng.integers(18, 90)), "Frontal/Lateral": view.title(),
                "AP/PA": "AP" if view == "frontal" else "", **labels,
            })  # fmt: skip
    return found


ROWS = {part: rows(part) for part in NUM_PATIENTS}
EVERY = [row for part in ROWS.values() for row in part]
assert len(EVERY) <= 256


def write_lists(root, edit=lambda row: row):
    root.mkdir(exist_ok=True)
    for part, content in ROWS.items():
        with (root / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, edit(dict(content[0])))
            writer.writeheader()
            writer.writerows(edit(dict(row)) for row in content)


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    """Write grey images; pixels tell the row as a number to the base of 16, one digit in each of two halves."""
    root = tmp_path_factory.mktemp("chexpert") / "CheXpert-v1.0-small"
    write_lists(root)
    for number, row in enumerate(EVERY):
        path = root.parent / row["Path"]
        path.parent.mkdir(parents=True)
        pixels = np.full((16, 32), 8 + 16 * (number % 16), np.uint8)
        pixels[:, 16:] = 8 + 16 * (number // 16)
        Image.fromarray(pixels).save(path, quality=95)
    return root


def make(root, **settings):
    return opened(
        CheXpert,
        str(root),
        **{"rho": (0.7, 0.3), "image_size": 16, "cache_dir": str(root.parent / "cache"), **settings},
    )


def rows_of(data, positions):
    """Read off the pixels which rows the images are of."""
    low, high = (data.images[positions, 0, 8, column].long() // 16 for column in (3, 12))
    return [EVERY[number] for number in (low + 16 * high).tolist()]


def test_only_frontal_views_with_one_of_the_two_findings(chexpert):
    data = make(chexpert)
    assert data.arrays.group_names == (
        "No Finding, Female", "No Finding, Male", "Pleural Effusion, Female", "Pleural Effusion, Male",
    )  # fmt: skip
    for client, rho in zip(data.clients, (0.7, 0.3), strict=True):
        for split in ("train", "val", "test"):
            part = getattr(client, split)
            for row, label, group in zip(rows_of(data, part), data.labels[part], data.arrays.groups[part], strict=True):
                assert row["Frontal/Lateral"] == "Frontal"
                assert (row["Pleural Effusion"] == "1.0", row["No Finding"] == "1.0") == (label == 1, label == 0)
                assert row["Sex"] == ("Female", "Male")[group % 2]
            counts = torch.bincount(data.arrays.groups[part], minlength=4).tolist()
            assert counts[0] == counts[3] == round(rho * len(part) / 2)
            assert counts[1] == counts[2] == len(part) // 2 - counts[0]
    assert data.images.shape[1] == 3
    assert_no_leaks(data)


def test_no_patient_is_in_two_parts(chexpert):
    data = make(chexpert)
    patients = {
        split: {row["Path"].split("/")[2] for client in data.clients for row in rows_of(data, getattr(client, split))}
        for split in ("train", "val", "test")
    }
    assert all(patients.values())
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]
    images = [
        row["Path"] for client in data.clients for part in (client.train, client.test) for row in rows_of(data, part)
    ]
    assert len({path.split("/")[2] for path in images}) < len(images), "some patients have several images"


def test_all_rows_that_may_be_used_are(chexpert):
    """Counted by hand from the lists, here with a rule of their own."""
    table = CheXpert(str(chexpert)).table()
    expected = [
        row["Path"].removeprefix("CheXpert-v1.0-small/")
        for row in EVERY
        if row["Frontal/Lateral"] == "Frontal"
        and row["Sex"] != "Unknown"
        and (row["Pleural Effusion"] == "1.0") != (row["No Finding"] == "1.0")
    ]
    assert table["file"].tolist() == expected
    assert any(name.startswith("valid/") for name in expected)
    assert sum(row["Sex"] == "Unknown" for row in EVERY) > 0


def test_uncertain_labels_depend_on_the_finding():
    labels = ["1.0", "0.0", "-1.0", "", "1", "0", "-1"]
    for finding in FINDINGS:
        uncertain = finding in ("Edema", "Atelectasis")
        expected = [True, False, uncertain, False, True, False, uncertain]
        assert has_finding(labels, finding, Path("train.csv")).tolist() == expected


def test_another_finding(chexpert):
    data = make(chexpert, target="Edema", rho=(0.5,))
    for row, label in zip(rows_of(data, data.clients[0].train), data.labels[data.clients[0].train], strict=True):
        assert (row["Edema"] in ("1.0", "-1.0")) == (label == 1)


def test_the_folder_may_have_another_name(chexpert, tmp_path):
    (tmp_path / "renamed").symlink_to(chexpert)
    assert make(tmp_path / "renamed").arrays.content_hash == make(chexpert).arrays.content_hash


def test_all_that_is_missing_is_named_with_the_page(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"^train\.csv and valid\.csv and train and valid must be in .*has: nothing\. HINT: .*stanfordmlgroup",
    ):
        make(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Sex": None}, r"no column 'Sex'; found Path, Age, Frontal/Lateral, .*HINT: .*stanfordmlgroup"),
        ({"No Finding": "yes"}, r"column 'No Finding' has the values yes, expected 1, 0, -1 or blank\. HINT"),
        ({"Path": "images/1.jpg"}, r"names the image 'images/1\.jpg', expected .*patientXXXXX"),
    ],
)
def test_lists_of_another_form(tmp_path, change, said):
    def edit(row):
        return {key: value for key, value in {**row, **change}.items() if value is not None}

    write_lists(tmp_path, edit)
    for part in ROWS:
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match=said):
        make(tmp_path)


BATCHES = {
    "CheXpert-v1.0 batch 1 (validate & csv)": ("valid", range(0)),
    "CheXpert-v1.0 batch 2 (train 1)": ("", range(1, 40)),
    "CheXpert-v1.0 batch 3 (train 2)": ("", range(40, 80)),
    "CheXpert-v1.0 batch 4 (train 3)": ("train", range(80, 64541)),
}


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0", "CheXpert-v1.0-small", "/data/x/CheXpert-v1.0"])
@pytest.mark.parametrize("lists_at", [".", "CheXpert-v1.0 batch 1 (validate & csv)"])
def test_the_four_folders_of_the_archives_are_one_set(chexpert, tmp_path, prefix, lists_at):
    root = tmp_path / "chexpertchestxrays-u20210408"
    for batch, (below, numbers) in BATCHES.items():
        for part in ("train", "valid"):
            (root / batch / below).mkdir(parents=True, exist_ok=True)
            for patient in (chexpert / part).iterdir():
                number = int(patient.name.removeprefix("patient"))
                if number in numbers or (number > 64540 and below == "valid"):
                    (root / batch / below / patient.name).symlink_to(patient)
    write_lists(root / lists_at, lambda row: {**row, "Path": row["Path"].replace("CheXpert-v1.0-small", prefix)})
    data = make(root)
    assert data.arrays.content_hash == make(chexpert).arrays.content_hash
    missing = root / "CheXpert-v1.0 batch 3 (train 2)"
    missing.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"files are missing .*train/patient000[4-7].*on_bad_image skip"):
        make(root)
    data = make(root, on_bad_image="skip", rho=(0.5,))
    numbers = {int(row["Path"].split("/")[2].removeprefix("patient")) for row in rows_of(data, data.clients[0].train)}
    assert numbers
    assert not numbers & {*range(40, 80)}


def test_paths_with_backslashes(chexpert, tmp_path):
    root = tmp_path / "set"
    write_lists(root, lambda row: {**row, "Path": row["Path"].replace("/", "\\").replace(".jpg", ".JPG")})
    for part in ("train", "valid"):
        (root / part).symlink_to(chexpert / part)
    assert make(root).arrays.content_hash == make(chexpert).arrays.content_hash


@pytest.mark.slow
def test_the_shipped_experiment_runs(chexpert, out):
    configs = Path(__file__).parents[3] / "configs"
    lpft(
        "run", "-c", configs / "chexpert.yaml", "-c", configs / "sizes" / "smoke.yaml", "--out", out,
        "--data.source.root", chexpert, "--data.clients.rho", "[0.7, 0.3]",
        "--data.image_size", 32, "--trainer.devices", 1,
    )  # fmt: skip
    assert len(table(out / "results.csv")) == 10
    assert "Pleural Effusion, Male" in (out / "report.html").read_text()
    assert table(out / "verdicts.csv")[0]["line"].startswith("Against the paper's CheXpert, whose settings differ")
