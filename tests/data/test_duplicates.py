import time

import numpy as np

from lpft.data.duplicates import are_blank, by_class, by_client, large_losses, without_duplicates
from lpft.data.splits import SplitPositions

NONE = np.empty(0, np.int64)


def positions(*parts):
    return SplitPositions(*(np.array(part, np.int64) for part in parts))


def test_an_image_that_is_tested_or_chosen_on_is_left_out_of_training():
    """By hand: image 10 is a's test image, 20 b's val image; both are in b's train part, 10 in b's val part too."""
    values = (10, 20, 10, 20, 30, 10, 30)
    clients = {"a": positions([6], [], [0]), "b": positions([3, 4, 5], [1, 2], [])}
    digests = np.repeat(np.array(values, np.uint8)[:, None], 16, axis=1)
    kept, left_out = without_duplicates(clients, digests, NONE, NONE)
    assert {name: [part.tolist() for part in parts] for name, parts in kept.items()} == {
        "a": [[6], [], [0]], "b": [[4], [1], []],
    }  # fmt: skip
    assert by_client(left_out) == {"b": {"train": 2, "val": 1}}
    assert by_class(left_out.values(), np.array([0, 1, 0, 1, 2, 0, 2])) == {0: {"train": 1, "val": 1}, 1: {"train": 1}}
    assert by_client(without_duplicates(clients, digests, NONE, np.array([0, 2, 5]))[1]) == {"b": {"train": 1}}


def test_an_image_counts_as_blank_if_each_channel_is_even():
    images = np.zeros((4, 3, 8, 8), np.uint8)
    images[1:] += np.array([9, 100, 200], np.uint8)[:, None, None]
    images[2, 0, 3, 3] += 2  # rounding
    images[3, 0, 3, 3] += 3
    assert are_blank(images).tolist() == [True, True, True, False]


def test_what_is_too_much_to_leave_out():
    kept = {"half": {"train": 10}, "tenth": {"train": 90, "val": 9}, "few": {"train": 1}}
    left_out = {"half": {"train": 10}, "tenth": {"train": 10, "val": 1}, "few": {"train": 2}, "gone": {"train": 2}}
    assert [loss.whose for loss in large_losses(kept, left_out, 0.1)] == ["half"]
    assert [loss.whose for loss in large_losses(kept, left_out, 0.09)] == ["half", "tenth"]
    assert large_losses(kept, left_out, 0.5) == []
    assert [loss.whose for loss in large_losses(kept, left_out, 0.5, nothing_left=True)] == ["gone"]


def test_thousands_of_clients_are_checked_in_seconds():
    digests = np.random.default_rng(0).integers(256, size=(100_000, 16)).astype(np.uint8)
    parts = np.arange(100_000).reshape(5000, 20)
    clients = {str(k): positions(part[:10], part[10:15], part[15:]) for k, part in enumerate(parts)}
    start = time.perf_counter()
    without_duplicates(clients, digests, NONE, NONE)
    assert time.perf_counter() - start < 5
