"""Names beside points, where they hide neither points nor each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

RINGS = (1.0, 2.4, 4.0, 6.0)
"""How far from its point a name may be, in multiples of the gap."""
DIRECTIONS = 16
CROWD = 2.0
PASSES = 3


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    gap: float,
    obstacles: Sequence[Box] = (),
    crowded: Sequence[bool] = (),
) -> list[Box]:
    """Find a box for every name, one after the other: as near as possible, over as little as possible.

    Args:
        points: what is named; a square of one gap around each is kept free.
        sizes: width and height of the names.
        bounds: where names may be.
        gap: distance between a point and its name.
        obstacles: what is better not covered.
        crowded: whether each name is to keep more distance, with room for a line to its point.

    Returns:
        One box per name.

    >>> place_labels([(50, 50)], [(20, 10)], (0, 0, 100, 100), gap=8)
    [(40.0, 58.0, 60.0, 68.0)]
    """
    markers = [(x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in points]
    placed: dict[int, Box] = {}
    for _ in range(PASSES):
        for i, (point, size) in enumerate(zip(points, sizes, strict=True)):
            hard = [*markers, *(box for j, box in placed.items() if j != i)]
            candidates = _candidates(point, size, CROWD * gap if crowded and crowded[i] else gap)
            placed[i] = min(candidates, key=lambda box: _cost(box, point, hard, obstacles, bounds))
        _untangle(points, placed, markers)
    return [placed[i] for i in range(len(points))]


def _untangle(points: Sequence[tuple[float, float]], placed: dict[int, Box], markers: Sequence[Box]) -> None:
    """Let two names change places where that brings them nearer to their points and hides nothing."""
    for i, j in itertools.combinations(placed, 2):
        before = _distance(points[i], placed[i]) + _distance(points[j], placed[j])
        after = _distance(points[i], placed[j]) + _distance(points[j], placed[i])
        moved = {i: _moved(placed[i], placed[j]), j: _moved(placed[j], placed[i])}
        others = [*markers, *(box for k, box in placed.items() if k not in moved)]
        hidden = _overlap(*moved.values()) + sum(_overlap(box, other) for box in moved.values() for other in others)
        if after < before - 1 and hidden == 0:
            placed.update(moved)


def _moved(box: Box, to: Box) -> Box:
    across, up = (to[0] + to[2] - box[0] - box[2]) / 2, (to[1] + to[3] - box[1] - box[3]) / 2
    return box[0] + across, box[1] + up, box[2] + across, box[3] + up


def _distance(point: tuple[float, float], box: Box) -> float:
    return math.dist(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), point)


def _candidates(point: tuple[float, float], size: tuple[float, float], gap: float) -> list[Box]:
    (x, y), (width, height) = point, size
    boxes = []
    for ring in RINGS:
        for step in range(DIRECTIONS):
            angle = 2 * math.pi * step / DIRECTIONS
            across, up = round(math.cos(angle), 9), round(math.sin(angle), 9)
            center_x = x + across * (ring * gap + width / 2)
            center_y = y + up * (ring * gap + height / 2)
            boxes.append((center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2))
    return boxes


def _cost(
    box: Box, point: tuple[float, float], hard: Sequence[Box], soft: Sequence[Box], bounds: Box
) -> tuple[float, float]:
    """Return first what must not be covered, then what should not, the distance included."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    outside = area - _overlap(box, bounds)
    covered = sum(_overlap(box, other) for other in hard) + outside
    return round(covered, 6), 4 * sum(_overlap(box, other) for other in soft) + _distance(point, box)


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
