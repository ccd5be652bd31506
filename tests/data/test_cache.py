import json
import logging
import multiprocessing
import os
import signal
import time
import tracemalloc
import warnings
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from lpft.data import cache
from lpft.data.cache import Samples, open_or_build
from lpft.data.sources.image_files import Decoded
from lpft.data.splits import SplitPositions
from lpft.types import DataSpec

SPEC = DataSpec(in_channels=1, image_size=2, num_classes=3)
KEY = {"seed": 0}
VALUES = (10, 11, 12, 13, 20)


def positions(*parts):
    return SplitPositions(*(np.array(part, np.int64) for part in parts))


CLIENTS = {
    "a": positions([0, 1, 3], [], [2]),
    "b": positions([], [], [4]),
    "c": positions([], [], []),
}


def images(*values):
    return np.array(values, np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)


def build(folder, values=VALUES, clients=CLIENTS, labels=(0, 1, 2, 0, 2), key=KEY, step=2, kill_at=None, asked=None,
          groups=None, group_names=()):  # fmt: skip
    """Build or open an entry of grey images of these values, decoded some at a time."""

    def decode(samples, done):
        if asked is not None:
            asked.append(done)
        for start in range(done, len(values), step):
            if start == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            part = values[start : start + step]
            yield Decoded(images(*part), np.ones(len(part), bool), [])

    groups = np.full(len(values), -1) if groups is None else np.array(groups)
    samples = Samples(np.arange(len(values)), np.array(labels), groups, clients, group_names)
    return open_or_build(folder, "Toy", key, lambda: samples, decode, SPEC)


def forbidden(*arguments):
    raise AssertionError("the entry should have been opened")


def reopen(folder):
    return open_or_build(folder, "Toy", KEY, forbidden, forbidden, SPEC)


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_every_sample_is_where_it_was_put(tmp_path):
    arrays = build(tmp_path)
    assert arrays.images[:, 0, 0, 0].tolist() == list(VALUES)
    assert arrays.labels.tolist() == [0, 1, 2, 0, 2]
    assert (arrays.images.dtype, arrays.labels.dtype) == (torch.uint8, torch.int64)
    found = {c.name: [part.tolist() for part in (c.train, c.val, c.test)] for c in arrays.clients}
    assert found == {"a": [[0, 1, 3], [], [2]], "b": [[], [], [4]], "c": [[], [], []]}


def test_second_opening_maps_the_files_quickly_and_quietly(tmp_path):
    first = build(tmp_path)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = reopen(tmp_path)
    assert time.perf_counter() - start < 0.5
    assert second.content_hash == first.content_hash
    maps = Path("/proc/self/maps")  # where there is one
    assert not maps.exists() or str(tmp_path) in maps.read_text()
    assert entries(tmp_path)[0].startswith("Toy-")


def test_another_key_or_format_is_another_entry(tmp_path, monkeypatch):
    build(tmp_path)
    build(tmp_path, key={"seed": 1})
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    build(tmp_path)
    assert len(entries(tmp_path)) == 3


def test_content_hash_is_of_the_content_alone(tmp_path):
    """The key and the size of the batches do not matter; a pixel, a label, a name, a split do."""
    numbers = iter(range(100))

    def content(**changed):
        return build(tmp_path, key={"seed": next(numbers)}, **changed).content_hash

    assert content() == content(step=5)
    other_split = {**CLIENTS, "b": positions([4], [], [])}
    renamed = {"z" if name == "a" else name: parts for name, parts in CLIENTS.items()}
    changes = [
        {"values": (9, *VALUES[1:])}, {"labels": (2, 1, 2, 0, 2)}, {"clients": renamed}, {"clients": other_split},
    ]  # fmt: skip
    assert len({content(), *(content(**change) for change in changes)}) == 5


def test_clashing_names_and_empty_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'Ward' and 'ward'"):
        build(tmp_path, clients={"Ward": CLIENTS["a"], "ward": CLIENTS["b"]})
    with pytest.raises(ValueError, match="not one image"):
        build(tmp_path, (), {"a": positions([], [], [])}, ())
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
def test_a_damaged_entry_is_reported_and_built_again(tmp_path, caplog, name, damage):
    good = build(tmp_path)
    entry = tmp_path / entries(tmp_path)[0]
    damage(entry / name)
    with caplog.at_level(logging.WARNING, "lpft"):
        again = build(tmp_path)
    assert "damaged" in caplog.text
    assert again.content_hash == good.content_hash
    assert torch.equal(again.labels, torch.tensor([0, 1, 2, 0, 2]))
    assert entries(tmp_path) == [entry.name]
    reopen(tmp_path)


def test_a_file_in_the_place_of_an_entry_is_replaced(tmp_path):
    build(tmp_path)
    entry = tmp_path / entries(tmp_path)[0]
    entry.rename(tmp_path / "old")
    entry.write_text("not a folder")
    build(tmp_path)
    assert entry.is_dir()


def killed_build(folder):
    """Kill a build after the first two of five images."""
    process = multiprocessing.get_context("fork").Process(target=build, args=(folder,), kwargs={"kill_at": 2})
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    (leftover,) = entries(folder)
    assert leftover.endswith(".partial")
    return folder / leftover


def test_a_killed_build_continues_where_it_stopped(tmp_path):
    """What was cut in the middle of writing is dropped; the first two images are not asked for again."""
    leftover = killed_build(tmp_path / "killed")
    with (leftover / "journal").open("ab") as file:
        file.write(b'{"stop')
    asked = []
    arrays = build(tmp_path / "killed", asked=asked)
    whole = build(tmp_path / "whole")
    assert asked == [2]
    assert arrays.content_hash == whole.content_hash
    for name in ("images.npy", "labels.npy", "groups.npy", "index.npy", "digests.npy", "meta.json"):
        (one,), (other,) = (list(tmp_path.glob(f"{folder}/*/{name}")) for folder in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("name", ["images.npy", "digests.npy", "journal"])
def test_what_a_killed_build_left_is_made_again_if_it_is_damaged(tmp_path, caplog, name):
    leftover = killed_build(tmp_path)
    (leftover / name).write_bytes(b"\n" if name == "journal" else b"")
    with caplog.at_level(logging.WARNING, "lpft"):
        arrays = build(tmp_path)
    assert "are built again" in caplog.text
    assert arrays.images[:, 0, 0, 0].tolist() == list(VALUES)


def test_old_leftovers_are_removed(tmp_path):
    build(tmp_path)
    entry = tmp_path / entries(tmp_path)[0]
    leftover = tmp_path / ".Other-0123.partial"
    entry.rename(leftover)
    for path in (*leftover.iterdir(), leftover):
        os.utime(path, (0, 0))
    build(tmp_path)
    assert entries(tmp_path) == [entry.name]


def build_slowly(folder, builds, answers):
    def decode(samples, done):
        with (builds / str(os.getpid())).open("w"):
            time.sleep(0.5)
        yield Decoded(images(*VALUES), np.ones(5, bool), [])

    samples = Samples(np.arange(5), np.zeros(5, np.int64), np.zeros(5, np.int64), CLIENTS, ("x",))
    arrays = open_or_build(folder, "Toy", KEY, lambda: samples, decode, SPEC)
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
    def no_locks(*arguments, **settings):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert len(build(tmp_path).labels) == 5


def test_groups_are_kept(tmp_path):
    arrays = build(tmp_path, groups=[1, -1, 0, 0, -1], group_names=("blond", "dark"))
    assert arrays.groups.tolist() == [1, -1, 0, 0, -1]
    assert arrays.group_names == ("blond", "dark")


def test_an_error_while_building_leaves_nothing(tmp_path):
    def fail(samples, done):
        raise RuntimeError("decode")

    samples = Samples(np.arange(1), np.zeros(1, np.int64), np.zeros(1, np.int64), {"a": positions([0], [], [])})
    with pytest.raises(RuntimeError, match="decode"):
        open_or_build(tmp_path, "Toy", KEY, lambda: samples, fail, SPEC)
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written.*LPFT_CACHE"):
        build(tmp_path / "file" / "cache")


def test_building_holds_one_batch_at_a_time(tmp_path):
    """40 MB are written in batches of 1 MB; the peak of Python's and numpy's memory stays near one of them."""
    num, spec = 4000, DataSpec(1, 100, 10)

    def decode(samples, done):
        for _ in range(40):
            yield Decoded(np.zeros((100, 1, 100, 100), np.uint8), np.ones(100, bool), [])

    clients = {"a": positions(np.arange(num), [], [])}
    samples = Samples(np.arange(num), np.zeros(num, np.int64), np.zeros(num, np.int64), clients)
    tracemalloc.start()
    open_or_build(tmp_path, "Toy", KEY, lambda: samples, decode, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
