"""An experiment is fitted to the folder that it is shown, and runs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lpft.shipped.own_sites import fit
from tests.commands import lpft
from tests.shapes import save_shapes


def sites(root: Path) -> None:
    save_shapes(root / "north", 8, seed=0)
    save_shapes(root / "south" / "train", 6, seed=1)
    save_shapes(root / "south" / "test", 4, seed=2)


def one_site(root: Path) -> None:
    save_shapes(root, 24, mode="L")


def one_site_in_a_folder(root: Path) -> None:
    save_shapes(root / "only", 24)


def split(root: Path) -> None:
    save_shapes(root / "train", 16, seed=0)
    save_shapes(root / "test", 8, seed=1)


def listed(root: Path) -> None:
    save_shapes(root / "scans", 16)
    lines = [f"{path.relative_to(root).as_posix()},{path.parent.name}" for path in sorted(root.rglob("*.*"))]
    (root / "labels.csv").write_text("\n".join(["file,label", *lines]))


def domains(root: Path) -> None:
    for seed, name in enumerate(("photo", "sketch")):
        save_shapes(root / name, 8, seed=seed)
        lines = [
            f"{path.relative_to(root).as_posix()} {label}"
            for label, folder in enumerate(sorted((root / name).iterdir()))
            for path in sorted(folder.iterdir())
        ]
        (root / f"{name}_train.txt").write_text("\n".join(lines[::2]))
        (root / f"{name}_test.txt").write_text("\n".join(lines[1::2]))


def arrays(root: Path) -> None:
    root.mkdir()
    images, labels = np.random.default_rng(0).integers(256, size=(70, 32, 32), dtype=np.uint8), np.arange(30) % 3
    np.savez(root / "usual.npz", x_train=images[:30], y_train=labels)
    labels = labels[:, None]
    parts = {
        "train_images": images[30:60],
        "train_labels": labels,
        "test_images": images[60:],
        "test_labels": labels[:10],
    }
    np.savez(root / "medmnist.npz", **parts)


LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[str, int], int, int]] = {
    "a folder for each site": (sites, {"north": 24, "south": 30}, 2, 3),
    "one site": (one_site, {"images": 72}, 2, 1),
    "one site in a folder": (one_site_in_a_folder, {"only": 72}, 2, 3),
    "one site with a split": (split, {"images": 72}, 2, 3),
    "one site with a list": (listed, {"images": 48}, 2, 3),
    "domains with lists": (domains, {"photo": 24, "sketch": 24}, 2, 3),
    "arrays": (arrays, {"medmnist": 40, "usual": 30}, 2, 1),
}
"""What makes a folder; images of each domain, clients, channels."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_fitted(layout: str, tmp_path: Path) -> None:
    make, counts, num_clients, channels = LAYOUTS[layout]
    make(tmp_path / "images")
    fitted = fit(tmp_path / "images")
    assert {name: sum(parts.values()) for name, parts in fitted.counts.items()} == counts
    assert (fitted.num_clients or len(counts), fitted.num_classes, fitted.channels) == (num_clients, 3, channels)


@pytest.mark.parametrize("layout", ["a folder for each site", "one site with a split", "arrays"])
def test_what_is_written_can_be_prepared(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, _, num_clients, channels = LAYOUTS[layout]
    monkeypatch.chdir(tmp_path)
    make(Path("images"))
    lpft("init", "own_sites", "images")
    capsys.readouterr()
    lpft("prepare", "-c", "own_sites.yaml")
    assert f"{num_clients} clients, 3 classes, images {channels}x" in capsys.readouterr().out


def test_settings_follow_from_the_images(tmp_path: Path) -> None:
    for number in range(25):
        for name, level in (("a", 0), ("b", 200)):
            folder = tmp_path / f"site {number:02}" / name
            folder.mkdir(parents=True)
            for i in range(9):
                Image.new("I;16", (90, 50), level + i).save(folder / f"{i}.png")
    (tmp_path / "site 00" / "a" / "0.png").write_bytes(b"no image")
    fitted = fit(tmp_path)
    assert (fitted.image_size, fitted.sides, fitted.channels) == (48, (50, 50, 50), 1)  # the largest up to 50
    assert fitted.participation == 0.8  # 20 of 25
    assert fitted.smallest_train == 12  # of 18, less a quarter, less a tenth of the rest
    assert fitted.batch_size == 8
    assert (fitted.num_deep, len(fitted.unreadable)) == (199, 1)


def test_names_with_special_characters_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path('we"ird: #\n')
    for site in ("yes", "1e3"):
        save_shapes(root / site, 4, classes={"no": "circle", "ä 'b'": "square", "{x}": "triangle"})
    lpft("init", "own_sites", root, "--to", root)
    source = yaml.safe_load((root / "own_sites.yaml").read_text())["data"]["source"]["init_args"]
    assert source == {"root": str(root), "classes": ["no", "{x}", "ä 'b'"]}


def empty(root: Path) -> None:
    root.mkdir()


def only_images(root: Path) -> None:
    save_shapes(root, 2, classes={".": "circle"})


def one_class(root: Path) -> None:
    save_shapes(root / "site", 2, classes={"cat": "circle"})


def split_above_sites(root: Path) -> None:
    save_shapes(root / "train" / "site", 2)


def damaged(root: Path) -> None:
    for name in ("site/a/1.png", "site/b/2.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"no image")


def other_arrays(root: Path) -> None:
    root.mkdir()
    np.savez(root / "a.npz", foo=np.zeros(3))


def tables(root: Path) -> None:
    root.mkdir()
    (root / "north.csv").write_text("age,ill\n1,yes\n")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (tables, ["north.csv", "FeatureArrays"]),
        (empty, ["found nothing", "Expected ROOT/SITE/CLASS/IMAGE"]),
        (only_images, ["found 2 images", "Expected ROOT/SITE/CLASS/IMAGE"]),
        (one_class, ["'cat'", "Expected"]),
        (split_above_sites, ["found 1 folders (train)", "Expected ROOT/SITE/CLASS/IMAGE"]),
        (damaged, ["None of the 2"]),
        (other_arrays, ["foo", "x_train"]),
        (Path.touch, ["is a file"]),
        (str, ["does not exist"]),
    ],
)
def test_a_folder_with_an_unknown_layout_is_an_error(
    make: Callable[[Path], object], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "images")
    lpft("init", "own_sites", tmp_path / "images", "--to", tmp_path / "to", code=2)
    error = capsys.readouterr().err
    assert [text for text in expected if text not in error] == []
    assert not (tmp_path / "to").exists()
