import itertools

import numpy as np
import pytest

from lpft.reporting.labels import Box, place_labels

BOUNDS = (0.0, 0.0, 500.0, 300.0)


def apart(a: Box, b: Box) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("seed", range(5))
def test_names_of_a_dense_crowd_hide_nothing(seed: int) -> None:
    points = [tuple(point) for point in np.random.default_rng(seed).normal((250, 150), 12, size=(10, 2))]
    boxes = place_labels(points, [(50, 12)] * 10, BOUNDS, gap=9)
    assert all(apart(a, b) for a, b in itertools.combinations(boxes, 2))
    assert all(apart(box, (x - 4.5, y - 4.5, x + 4.5, y + 4.5)) for box in boxes for x, y in points)


@pytest.mark.parametrize("point", [(1, 1), (499, 299), (1, 299), (250, 1)])
def test_names_stay_inside(point: tuple[float, float]) -> None:
    (box,) = place_labels([point], [(80, 12)], BOUNDS, gap=9)
    assert box[0] >= 0
    assert box[1] >= 0
    assert box[2] <= 500
    assert box[3] <= 300


def test_other_things_are_avoided_if_there_is_room() -> None:
    above = (200.0, 158.0, 300.0, 180.0)
    (box,) = place_labels([(250, 150)], [(50, 12)], BOUNDS, gap=9, obstacles=[above])
    assert apart(box, above)
