"""Synthetic clients whose difference is a setting: their teacher networks share some units."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lpft.data.sources.base import Source, categories
from lpft.data.splits import GivenSplits, split_stratified

PIXELS_PER_SD = 127.5 / 4
VAL_SHARE = 0.1
NUM_REFERENCE = 2000
MAX_BATCHES = 200

Teacher = tuple[np.ndarray, np.ndarray]
"""One client's rows of the body, ``(num_features, size**2)``, and its head, ``(num_features,)``."""


class TeacherStudent(Source):
    """Inputs labelled by a two-layer teacher with a shared body and heads that differ by an adjustable amount.

    The linear model of the paper's theory (arXiv:2511.12695, assumption 4.1) as a nonlinear classification task:

    - Body: orthonormal rows and a ReLU. A client sees ``num_features`` of its units: m = ``shared_share *
      num_features``, rounded, are the same for all clients, the others belong to this client only.
    - Head: V_i = [V_com; lambda e_i]. V_com are m random signs, the same for all; e_i are random signs on the client's
      own units; lambda is `shift`. With one own unit per client this is the paper's head.
    - Inputs: x = mu_i + eps z, z standard normal, in size**2 dimensions; mu_i is a random direction of length
      `mean_norm`; eps is `noise`.
    - Images: pixel = 127.5 + 127.5/4 * x / sqrt(E x^2), rounded and clipped to 0..255, where E x^2 is a pixel's
      mean square, eps^2 + mean_norm^2/size^2. The teacher labels the input after rounding, so that the image
      determines the label. `normalize` inverts the affine map, to pixels of mean square 1.
    - Labels: the teacher's output V_i ReLU(B_i x) divided into `num_classes` ranges by thresholds that all clients
      share: the quantiles over 2,000 inputs of each client. Classes are equally frequent over all clients, not within
      each.

    At ``shift: 0`` all clients have one labelling function; with ``mean_norm: 0`` also one distribution.
    If `noise` is small compared with `mean_norm`, inputs identify their client, and one model can fit different
    clients. Draws are keyed by `seed`, client and purpose: with another `shift`, `noise` or number of samples the
    directions, the teachers' signs and the z stay the same, so that sweeps are paired.

    Args:
        num_clients: number of clients, ``client-0`` to ``client-(C - 1)``.
        shift: lambda, weight of a client's own units; 0 makes the labelling functions equal.
        noise: eps, standard deviation of a client's inputs around their mean.
        samples_per_client: training and validation images of a client (a stratified tenth for validation).
        test_per_client: test images of a client.
        num_classes: number of ranges of the teacher's output.
        image_size: height and width; all units together, ``m + num_clients * (num_features - m)``, must not outnumber
            the pixels.
        num_features: number of body units that a client's labels depend on, k.
        shared_share: share m/k of units shared by all clients. At 0 clients share none.
        mean_norm: distance of a client's mean input from 0.
        disjoint_labels: give every client classes that no other has, in train, val and test. Each gets a range of
            neighbouring classes, the client with the lowest outputs the lowest ones; inputs of other classes are
            redrawn.
        seed: seed of all draws; not the seed of a run.

    Raises:
        ValueError: if the settings are inconsistent.
    """

    draws = "teacher-student"
    channels = 1
    image_size: int
    num_classes: int
    mean = (0.5,)
    std = (PIXELS_PER_SD / 255,)

    def __init__(
        self,
        num_clients: PositiveInt = 5,
        shift: NonNegativeFloat = 0.5,
        noise: PositiveFloat = 0.5,
        samples_per_client: PositiveInt = 100,
        test_per_client: NonNegativeInt = 200,
        num_classes: PositiveInt = 4,
        image_size: PositiveInt = 5,
        num_features: PositiveInt = 4,
        shared_share: ClosedUnitInterval = 0.75,
        mean_norm: NonNegativeFloat = 1.0,
        disjoint_labels: bool = False,
        seed: int = 0,
    ) -> None:
        self.num_clients, self.num_classes, self.image_size = num_clients, num_classes, image_size
        self.shift, self.noise, self.mean_norm = float(shift), float(noise), float(mean_norm)
        self.samples_per_client, self.test_per_client = samples_per_client, test_per_client
        self.num_features, self.num_shared = num_features, round(shared_share * num_features)
        self.disjoint_labels, self.seed = disjoint_labels, seed
        num_own = num_features - self.num_shared
        num_units = self.num_shared + num_clients * num_own
        if num_units > image_size**2:
            raise ValueError(
                f"The teachers have {num_units} units ({self.num_shared} shared and {num_own} for each of {num_clients}"
                f" clients), more than the {image_size**2} pixels of `image_size={image_size}`. HINT: set `image_size`"
                f" to {int(np.ceil(np.sqrt(num_units)))} or more, or fewer clients or `num_features`."
            )
        if not self.num_shared and not shift:
            raise ValueError(
                "Without shared units `shift=0` leaves the teachers no output. HINT: set `shift` or `shared_share`"
                " above 0."
            )
        if num_classes < 2:
            raise ValueError(f"`num_classes={num_classes}` leaves nothing to learn. HINT: set it to 2 or more.")
        if disjoint_labels and num_classes < num_clients:
            raise ValueError(
                f"`disjoint_labels` needs a class for each of the {num_clients} clients, there are {num_classes}."
                f" HINT: set `num_classes` to {num_clients} or more."
            )

    def table(self) -> pd.DataFrame:
        """Draw and label every client's images.

        Raises:
            ValueError: if rounding makes two images equal, a client's classes are too rare, or one output is frequent
                enough to fill several classes.
        """
        means, teachers = self._means(), list(self._teachers())
        outputs = [
            answer(teacher, self._inputs(self._images(mean, NUM_REFERENCE, "reference", k)))
            for k, (mean, teacher) in enumerate(zip(means, teachers, strict=True))
        ]
        levels = np.arange(1, self.num_classes) / self.num_classes
        thresholds = np.quantile(np.concatenate(outputs), levels)
        if len(np.unique(thresholds)) < len(thresholds):
            raise ValueError(
                f"The teachers' outputs cannot be cut into {self.num_classes} classes: one value (0, where no unit is"
                " active) is too frequent. HINT: raise `num_features`, or lower `num_classes`."
            )
        classes = self._classes([float(of_client.mean()) for of_client in outputs])
        images, tables = [], []
        for k, (mean, teacher) in enumerate(zip(means, teachers, strict=True)):
            for split in ("train", "test"):
                drawn, labels = self._labelled(k, mean, teacher, thresholds, classes[k], split)
                images.append(drawn)
                tables.append(pd.DataFrame({"label": labels, "domain": f"client-{k}", "split": split}))
                if split == "train":
                    val = split_stratified(labels, VAL_SHARE, self.rng(self.seed, "val", k))[1]
                    tables[-1].loc[val, "split"] = "val"
        self._drawn = np.concatenate(images)
        num_images, num_different = len(self._drawn), len({image.tobytes() for image in self._drawn})
        if num_different < num_images:
            raise ValueError(
                f"Only {num_different} of {num_images} images differ after rounding to 8 bits, so some would be trained"
                f" and tested on. HINT: `noise={self.noise}` is too small beside `mean_norm={self.mean_norm}`, or"
                f" `image_size={self.image_size}` too small."
            )
        table = pd.concat(tables, ignore_index=True)
        return table.assign(domain=categories(table["domain"], [f"client-{k}" for k in range(self.num_clients)]))

    def images(self, positions: np.ndarray) -> np.ndarray:
        """Return the images drawn by `table`."""
        if not hasattr(self, "_drawn"):
            self.table()
        return self._drawn[positions].transpose(0, 2, 3, 1)

    def given_splits(self, table: pd.DataFrame) -> GivenSplits:
        """Return all splits: this source makes them, including empty ones."""
        return {domain: {"train", "val", "test"} for domain in table["domain"].cat.categories}

    def _means(self) -> np.ndarray:
        """Return mu of every client, ``(num_clients, size**2)``."""
        rngs = (self.rng(self.seed, "mean", k) for k in range(self.num_clients))
        means = np.stack([rng.standard_normal(self.image_size**2) for rng in rngs])
        return self.mean_norm * means / np.linalg.norm(means, axis=1, keepdims=True)

    def _teachers(self) -> Iterator[Teacher]:
        """Yield every client's teacher; all clients' rows are orthogonal to one another and to the shared rows."""
        dim, num_own = self.image_size**2, self.num_features - self.num_shared
        rows = np.linalg.qr(self.rng(self.seed, "body").standard_normal((dim, dim)))[0].T
        common = self.rng(self.seed, "common").choice([-1.0, 1.0], size=self.num_features)[: self.num_shared]
        for k in range(self.num_clients):
            first = self.num_shared + k * num_own
            body = np.concatenate([rows[: self.num_shared], rows[first : first + num_own]])
            signs = self.rng(self.seed, "own", k).choice([-1.0, 1.0], size=self.num_features)[:num_own]
            yield body, np.concatenate([common, self.shift * signs])

    def _classes(self, mean_outputs: list[float]) -> list[np.ndarray]:
        """Return every client's classes: all, or disjoint ranges in the order of the clients' mean outputs."""
        classes = np.arange(self.num_classes)
        if not self.disjoint_labels:
            return [classes] * self.num_clients
        ranks = np.argsort(np.argsort(mean_outputs, kind="stable"), kind="stable")
        return [np.array_split(classes, self.num_clients)[rank] for rank in ranks]

    def _labelled(
        self, k: int, mean: np.ndarray, teacher: Teacher, thresholds: np.ndarray, classes: np.ndarray, split: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a client's images of the given classes for a split, in batches until there are enough."""
        num = self.samples_per_client if split == "train" else self.test_per_client
        pixels, labels = self._images(mean, 0, "none"), np.empty(0, np.int64)
        for batch in range(MAX_BATCHES):
            drawn = self._images(mean, num, split, k, batch)
            drawn_labels = np.searchsorted(thresholds, answer(teacher, self._inputs(drawn)), side="right")
            chosen = np.flatnonzero(np.isin(drawn_labels, classes))[: num - len(labels)]
            pixels, labels = np.concatenate([pixels, drawn[chosen]]), np.append(labels, drawn_labels[chosen])
            if len(labels) == num:
                return pixels, labels
        raise ValueError(
            f"client-{k} has only {len(labels)} of {num} images of the classes {classes.tolist()} after"
            f" {MAX_BATCHES * num} draws. HINT: raise `noise`, lower `mean_norm`, or set fewer clients or classes."
        )

    def _images(self, mean: np.ndarray, num: int, *key: int | str) -> np.ndarray:
        """Draw inputs around a mean and round them to images, uint8, ``(num, 1, size, size)``."""
        inputs = mean + self.noise * self.rng(self.seed, "inputs", *key).standard_normal((num, self.image_size**2))
        pixels = np.clip(np.rint(127.5 + PIXELS_PER_SD / self._scale * inputs), 0, 255)
        return pixels.astype(np.uint8).reshape(num, 1, self.image_size, self.image_size)

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        """Return the inputs that images represent, ``(num, size**2)``."""
        return (images.reshape(len(images), self.image_size**2) - 127.5) * self._scale / PIXELS_PER_SD

    @property
    def _scale(self) -> float:
        """Root mean square of a pixel."""
        return float(np.sqrt(self.noise**2 + self.mean_norm**2 / self.image_size**2))


def answer(teacher: Teacher, inputs: np.ndarray) -> np.ndarray:
    """Return V ReLU(B x) for inputs x, ``(n, d)``; shape ``(n,)``.

    >>> answer((np.eye(2), np.array([1.0, -2.0])), np.array([[3.0, 1.0], [-5.0, 1.0]]))
    array([ 1., -2.])
    """
    body, head = teacher
    outputs: np.ndarray = np.maximum(inputs @ body.T, 0) @ head
    return outputs
