import time

import numpy as np

from lpft.data.duplicates import without_duplicates
from lpft.data.splits import SplitPositions


def positions(*parts):
    return SplitPositions(*(np.array(part, np.int64) for part in parts))


def test_an_image_that_is_tested_or_chosen_on_is_left_out_of_training():
    """By hand: image 10 is a's test image, 20 b's val image; both are in b's train part, 10 in b's val part too."""
    values = (10, 20, 10, 20, 30, 10, 30)
    clients = {"a": positions([6], [], [0]), "b": positions([3, 4, 5], [1, 2], [])}
    digests = np.repeat(np.array(values, np.uint8)[:, None], 16, axis=1)
    kept, left_out = without_duplicates(clients, digests, np.empty(0, np.int64))
    assert {name: [part.tolist() for part in parts] for name, parts in kept.items()} == {
        "a": [[6], [], [0]], "b": [[4], [1], []],
    }  # fmt: skip
    assert left_out == {"b": {"train": 2, "val": 1}}


def test_thousands_of_clients_are_checked_in_seconds():
    digests = np.random.default_rng(0).integers(256, size=(100_000, 16)).astype(np.uint8)
    parts = np.arange(100_000).reshape(5000, 20)
    clients = {str(k): positions(part[:10], part[10:15], part[15:]) for k, part in enumerate(parts)}
    start = time.perf_counter()
    without_duplicates(clients, digests, np.empty(0, np.int64))
    assert time.perf_counter() - start < 5
