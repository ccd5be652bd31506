import json
import logging
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lpft.data import cache
from lpft.data.cache import ArrayWriter, open_or_build
from lpft.types import DataSpec

SPEC = DataSpec(in_channels=1, image_size=2, num_classes=3)
KEY = {"class": "tests.Toy", "seed": 0}


def images(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)


def write_two_clients(writer: ArrayWriter) -> None:
    writer.add("a", "train", images(10, 11), np.array([0, 1]))
    writer.add("b", "test", images(20), np.array([2]))
    writer.add("a", "test", images(12), np.array([2]))
    writer.add("a", "train", images(13), np.array([0]))
    writer.add("c", "val", images(), np.array([], np.int64))


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def forbid_writing(writer: ArrayWriter) -> None:
    raise AssertionError("the entry should have been opened")


def test_every_sample_is_where_it_was_put(tmp_path):
    """By hand: rows in the order of the calls, positions by client and split, a client without samples kept."""
    arrays = open_or_build(tmp_path, KEY, SPEC, write_two_clients)

    assert arrays.images[:, 0, 0, 0].tolist() == [10, 11, 20, 12, 13]
    assert arrays.labels.tolist() == [0, 1, 2, 2, 0]
    assert arrays.images.dtype == torch.uint8
    assert arrays.labels.dtype == torch.int64
    assert list(arrays.clients) == ["a", "b", "c"]
    assert [part.tolist() for part in arrays.clients["a"]] == [[0, 1, 4], [], [3]]
    assert [part.tolist() for part in arrays.clients["b"]] == [[], [], [2]]
    assert [len(part) for part in arrays.clients["c"]] == [0, 0, 0]


def test_second_opening_maps_the_files_quickly_and_quietly(tmp_path):
    first = open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = open_or_build(tmp_path, KEY, SPEC, forbid_writing)
    assert time.perf_counter() - start < 0.5
    assert second.content_hash == first.content_hash
    maps = Path("/proc/self/maps")  # where there is one
    assert not maps.exists() or str(tmp_path) in maps.read_text()
    assert entries(tmp_path)[0].startswith("Toy-")


def test_another_key_or_spec_is_another_entry(tmp_path):
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    open_or_build(tmp_path, {**KEY, "seed": 1}, SPEC, write_two_clients)
    open_or_build(tmp_path, KEY, DataSpec(1, 2, 4), write_two_clients)
    assert len(entries(tmp_path)) == 3


def test_content_hash_is_of_the_content_alone(tmp_path):
    """The key and the size of the parts do not matter; a pixel, a label, a name, a split do."""

    def content(pixel=10, label=0, name="a", split="train", at_once=True):
        def write(writer):
            if at_once:
                writer.add(name, split, images(pixel, 11), np.array([label, 1]))
            else:
                writer.add(name, split, images(pixel), np.array([label]))
                writer.add(name, split, images(11), np.array([1]))

        key = {**KEY, "what": [pixel, label, name, split, at_once]}
        return open_or_build(tmp_path, key, SPEC, write).content_hash

    assert content() == content(at_once=False)
    others = [content(pixel=9), content(label=2), content(name="b"), content(split="val")]
    assert len({content(), *others}) == 5


@pytest.mark.parametrize(
    ("whose_images", "labels", "message"),
    [
        (images(1).astype(np.float32), [0], "images are float32"),
        (images(1)[:, :, :1], [0], r"images are uint8 of shape \(1, 1, 1, 2\), expected uint8 of shape \(n, 1, 2, 2\)"),
        (images(1), [0, 1], r"labels are int64 of shape \(2,\)"),
        (images(1), [0.5], "labels are float64"),
        (images(1), [3], "labels go from 3 to 3, expected 0 to 2"),
        (images(1), [-1], "labels go from -1"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path, whose_images, labels, message):
    with pytest.raises(ValueError, match=rf"Client 'a', train: {message}"):
        open_or_build(tmp_path, KEY, SPEC, lambda w: w.add("a", "train", whose_images, np.array(labels)))
    assert entries(tmp_path) == []


def test_clashing_names_unknown_splits_and_empty_sets_are_refused(tmp_path):
    def write_clash(writer):
        writer.add("Ward", "train", images(1), np.array([0]))
        writer.add("ward", "train", images(2), np.array([0]))

    with pytest.raises(ValueError, match="'Ward' and 'ward'"):
        open_or_build(tmp_path, KEY, SPEC, write_clash)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        open_or_build(tmp_path, KEY, SPEC, lambda w: w.add("a", "dev", images(1), np.array([0])))
    with pytest.raises(ValueError, match="not one image"):
        open_or_build(tmp_path, KEY, SPEC, lambda w: w.add("a", "train", images(), np.array([])))
    assert entries(tmp_path) == []


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def edit_meta(path):
    meta = json.loads(path.read_text())
    meta["clients"][0][0] = "z"
    path.write_text(json.dumps(meta))


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.npy", cut),
        ("images.npy", lambda path: path.unlink()),
        ("labels.npy", cut),
        ("labels.npy", flip_last_byte),
        ("meta.json", cut),
        ("meta.json", edit_meta),
        ("meta.json", lambda path: path.write_text("[]")),
        ("meta.json", lambda path: path.unlink()),
    ],
)
def test_damaged_entry_is_found_said_and_built_again(tmp_path, caplog, name, damage):
    good = open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    entry = next(tmp_path.iterdir())
    damage(entry / name)
    with caplog.at_level(logging.WARNING, "lpft"):
        again = open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    assert "damaged" in caplog.text
    assert again.content_hash == good.content_hash
    assert torch.equal(again.labels, torch.tensor([0, 1, 2, 2, 0]))
    assert entries(tmp_path) == [entry.name]
    open_or_build(tmp_path, KEY, SPEC, forbid_writing)


def test_a_file_in_the_place_of_an_entry_is_replaced(tmp_path):
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    entry = next(tmp_path.iterdir())
    entry.rename(tmp_path / "old")
    entry.write_text("not a folder")
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    assert entry.is_dir()


def build_and_die(folder):
    def write(writer):
        writer.add("a", "train", images(10, 11), np.array([0, 1]))
        writer.add("b", "test", images(20), np.array([2]))
        os.kill(os.getpid(), signal.SIGKILL)

    open_or_build(folder, KEY, SPEC, write)


def killed_build(folder):
    process = multiprocessing.get_context("fork").Process(target=build_and_die, args=(folder,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    (leftover,) = folder.iterdir()
    assert leftover.name.endswith(".partial")
    return leftover


def test_a_killed_build_is_taken_up_where_it_was(tmp_path):
    """Rows of a third call that was cut are dropped; the first two are not asked for again; the entry is the same."""
    leftover = killed_build(tmp_path / "killed")
    for name in ("images.npy", "labels.npy", "journal"):
        with (leftover / name).open("ab") as file:
            file.write(b'{"client')
    asked = []

    def write(writer):
        asked.append([writer.skip() for _ in range(3)])
        writer.add("a", "test", images(12), np.array([2]))
        writer.add("a", "train", images(13), np.array([0]))
        writer.add("c", "val", images(), np.array([], np.int64))

    arrays = open_or_build(tmp_path / "killed", KEY, SPEC, write)
    whole = open_or_build(tmp_path / "whole", KEY, SPEC, write_two_clients)
    assert asked == [[True, True, False]]
    assert arrays.content_hash == whole.content_hash
    for name in ("images.npy", "labels.npy", "groups.npy", "digests.npy", "meta.json"):
        (one,), (other,) = (tmp_path.glob(f"{folder}/*/{name}") for folder in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("name", ["images.npy", "digests.npy", "journal"])
def test_what_a_killed_build_left_is_made_again_if_it_is_damaged(tmp_path, caplog, name):
    leftover = killed_build(tmp_path)
    (leftover / name).write_bytes(b"\n" if name == "journal" else b"")
    with caplog.at_level(logging.WARNING, "lpft"):
        arrays = open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    assert "is done again" in caplog.text
    assert arrays.images[:, 0, 0, 0].tolist() == [10, 11, 20, 12, 13]


def test_leftovers_of_yesterday_are_removed(tmp_path):
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    entry = next(tmp_path.iterdir())
    leftover = tmp_path / ".Other-0123.partial"
    entry.rename(leftover)
    for path in (*leftover.iterdir(), leftover):
        os.utime(path, (0, 0))
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    assert entries(tmp_path) == [entry.name]


def build_slowly(folder, builds, answers):
    def write(writer):
        with (builds / str(os.getpid())).open("w"):
            time.sleep(0.5)
        write_two_clients(writer)

    arrays = open_or_build(folder, KEY, SPEC, write)
    answers.put((arrays.content_hash, arrays.images[:, 0, 0, 0].tolist()))


def test_of_processes_that_need_the_same_entry_one_builds_it(tmp_path):
    context = multiprocessing.get_context("fork")
    (tmp_path / "builds").mkdir()
    answers = context.Queue()
    arguments = (tmp_path / "cache", tmp_path / "builds", answers)
    processes = [context.Process(target=build_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert found[0] == found[1] == found[2]
    assert len(entries(tmp_path / "builds")) == 1
    assert len(entries(tmp_path / "cache")) == 1


def test_where_there_are_no_locks_every_process_builds_for_itself(tmp_path, monkeypatch):
    import fcntl

    def no_locks(*arguments):
        raise OSError("not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert len(open_or_build(tmp_path, KEY, SPEC, write_two_clients).labels) == 5


def test_an_image_that_is_tested_or_chosen_on_is_left_out_of_training(tmp_path):
    """By hand: 10 is a's test image, 20 b's val image; both are in b's train part, 10 in b's val part too."""

    def write(writer):
        writer.add("a", "test", images(10), np.array([0]))
        writer.add("b", "val", images(20, 10), np.array([1, 1]))
        writer.add("b", "train", images(20, 30, 10), np.array([0, 1, 2]))
        writer.add("a", "train", images(30), np.array([0]))

    arrays = open_or_build(tmp_path, KEY, SPEC, write)
    assert arrays.images[:, 0, 0, 0].tolist() == [10, 20, 30, 30]
    assert arrays.labels.tolist() == [0, 1, 1, 0]
    assert arrays.left_out == {"b": {"val": 1, "train": 2}}


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val"), ("val", "test")])
def test_an_image_in_two_parts_is_found_in_any_order(tmp_path, splits):
    def write(writer):
        writer.add("a", splits[0], images(10, 11), np.array([0, 1]))
        writer.add("b", splits[1], images(12, 11), np.array([0, 1]))

    with pytest.raises(ValueError, match=rf"1 images of client 'a' are in its {splits[0]} part and in a {splits[1]}"):
        open_or_build(tmp_path, KEY, SPEC, write)
    assert entries(tmp_path) == []


def test_groups_and_bad_files_are_kept(tmp_path):
    def write(writer):
        writer.add("a", "test", images(10, 11), np.array([0, 1]), np.array([1, -1]), bad=["x.png (cut off)"])
        writer.add("a", "train", images(12), np.array([2]))

    arrays = open_or_build(tmp_path, KEY, SPEC, write, ["blond", "dark"])
    assert arrays.groups.tolist() == [1, -1, -1]
    assert arrays.group_names == ("blond", "dark")
    assert arrays.bad == ("x.png (cut off)",)
    with pytest.raises(ValueError, match="groups are not positions in"):
        open_or_build(tmp_path, KEY, SPEC, write, ["blond"])


def test_an_error_while_building_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="decode"):
        open_or_build(tmp_path, KEY, SPEC, lambda writer: (_ for _ in ()).throw(RuntimeError("decode")))
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written.*LPFT_CACHE"):
        open_or_build(tmp_path / "file" / "cache", KEY, SPEC, write_two_clients)


def test_writing_holds_one_part_at_a_time(tmp_path):
    """40 MB are written in parts of 1 MB; the peak of Python's and numpy's memory stays near one part."""
    import tracemalloc

    spec = DataSpec(1, 100, 10)
    part = np.zeros((100, 1, 100, 100), np.uint8)

    def write(writer):
        for _ in range(40):
            writer.add("a", "train", part, np.zeros(100, np.int64))

    tracemalloc.start()
    open_or_build(tmp_path, KEY, spec, write)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_format_is_part_of_the_name(tmp_path, monkeypatch):
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    open_or_build(tmp_path, KEY, SPEC, write_two_clients)
    assert len(entries(tmp_path)) == 2
