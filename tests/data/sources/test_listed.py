"""Files are found however another machine has spelled them, and never two for one name."""

import os
import unicodedata

import pytest

from lpft.data.sources.listed import images_below, locate

NFC, NFD = (unicodedata.normalize(form, "köln/süß.png") for form in ("NFC", "NFD"))


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def found(root, names, **settings):
    return locate(names, [root], **settings).files


@pytest.mark.parametrize(
    ("listed", "on_disk"),
    [
        ("photo\\dog\\1.png", "photo/dog/1.png"),
        ("photo/dog\\1.png", "photo/dog/1.png"),
        ("photo/dog/1.PNG", "photo/dog/1.png"),
        ("photo/dog/1.jpg", "photo/dog/1.JPG"),
        ("Photo/DOG/1.png", "photo/dog/1.png"),
        ("./photo//dog/./1.png", "photo/dog/1.png"),
        (".\\photo\\dog\\1.PNG", "photo/dog/1.png"),
        ('"photo/dog/1 a.png"', "photo/dog/1 a.png"),
        ("  photo/dog/1.png ", "photo/dog/1.png"),
        ("photo/dog/1%20a.png", "photo/dog/1 a.png"),
        ("/home/alice/sets/photo/dog/1.png", "photo/dog/1.png"),
        ("C:\\Users\\Alice\\photo\\dog\\1.png", "photo/dog/1.png"),
        ("../photo/dog/1.png", "photo/dog/1.png"),
        ("SET/photo/dog/1.png", "photo/dog/1.png"),
        ("photo/dog/1", "photo/dog/1.jpeg"),
        ("photo/dog/ISIC_0027419", "photo/dog/ISIC_0027419.jpg"),
        (NFC, NFD),
        (NFD, NFC),
        ("photo/dog/00123.png", "photo/dog/00123.png"),
        ("photo\\dog.png", "photo\\dog.png"),
        ("photo/50%25.png", "photo/50%25.png"),
        ("photo/'a'.png", "photo/'a'.png"),
    ],
)
def test_one_file_is_meant(tmp_path, listed, on_disk):
    touch(tmp_path, on_disk, "photo/dog/2.png", "other/1.png")
    (file,) = found(tmp_path, [listed])
    assert (tmp_path / file).samefile(tmp_path / on_disk)


def test_the_very_name_wins(tmp_path):
    touch(tmp_path, "a\\b.png", "a/b.png", "a/B.png")
    names = ["a\\b.png", "a/b.png", "a/B.png"]
    assert found(tmp_path, names) == names


@pytest.mark.parametrize("name", ["a/B.PNG", "a\\b.Png", "A/b.PNG"])
def test_two_files_that_fit_are_named(tmp_path, name):
    touch(tmp_path, "a/b.png", "a/B.png")
    with pytest.raises(ValueError, match=r"1 names .*a/B\.png.* or a/b\.png|1 names .*a/b\.png.* or a/B\.png"):
        found(tmp_path, [name])


def test_two_endings_that_fit_are_named(tmp_path):
    touch(tmp_path, "a/1.png", "a/1.jpg")
    with pytest.raises(ValueError, match=r"'a/1' may be a/1\.jpg or a/1\.png"):
        found(tmp_path, ["a/1"])


@pytest.mark.parametrize("first_is_there", [True, False])
@pytest.mark.parametrize("prefix", ["", "set/"])
def test_the_base_is_where_most_files_are(tmp_path, prefix, first_is_there):
    names = [f"{prefix}dog/{number}.png" for number in range(5)]
    touch(tmp_path, *(f"set/dog/{number}.png" for number in range(not first_is_there, 5)), "dog/7.png")
    located = locate(names, [tmp_path / "set", tmp_path])
    assert [(located.base / file).exists() for file in located.files] == [first_is_there, True, True, True, True]


def test_a_missing_file_is_not_replaced_by_another(tmp_path):
    touch(tmp_path, "a/x/1.png", "a/2.png", "1.png", "b/1.png")
    assert found(tmp_path, ["a/1.png", "a/2.png"], look_below=True) == ["a/1.png", "a/2.png"]


def test_files_are_found_in_subfolders_of_the_listed_ones(tmp_path):
    touch(tmp_path, "part_1/ISIC_1.jpg", "part_2/more/ISIC_2.JPG", "__MACOSX/part_1/ISIC_1.jpg", "part_1/._ISIC_1.jpg")
    names = ["ISIC_1", "ISIC_2", "ISIC_3"]
    assert found(tmp_path, names, look_below=True) == ["part_1/ISIC_1.jpg", "part_2/more/ISIC_2.JPG", "ISIC_3"]
    assert found(tmp_path, names) == names
    assert found(tmp_path, names, folders=["part_1", "part_2/more"]) == [
        "part_1/ISIC_1.jpg", "part_2/more/ISIC_2.JPG", "ISIC_3",
    ]  # fmt: skip
    touch(tmp_path, "masks/ISIC_1.png")
    with pytest.raises(ValueError, match=r"'ISIC_1' may be part_1/ISIC_1.jpg or masks/ISIC_1.png.*`images`"):
        found(tmp_path, names, look_below=True)


def test_below_keeps_folders_apart(tmp_path):
    touch(tmp_path, "unpacked/north/1.png", "unpacked/south/1.png")
    names = ["/data/x/north/1.png", "/data/x/south/1.png"]
    assert found(tmp_path, names, look_below=True) == ["unpacked/north/1.png", "unpacked/south/1.png"]


def test_links_in_circles_end(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list(images_below(tmp_path)) == ["a/1.png"]


def test_many_files_are_found_quickly(tmp_path, monkeypatch):
    """Each folder is listed once, however many names there are."""
    touch(tmp_path, *(f"d{number % 3}/{number}.png" for number in range(60)))
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    assert len(set(found(tmp_path, [f"D{number % 3}\\{number}.PNG" for number in range(60)]))) == 60
    assert len(listed) == len(set(listed)) == 4
