"""Handwritten digits that come with scikit-learn, seen by clients with different cameras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.base import FederatedDataModule
from lpft.data.cache import SPLITS, ArrayWriter
from lpft.data.partition import Iid, Partitioner, train_val_test
from lpft.runtime.seeding import stable_seed
from lpft.types import DataSpec

Domain = Literal["plain", "inverted", "blended", "rotated", "noisy"]

NUM_IMAGES = 1797
SIZE = 16
MIN_IMAGES_PER_CLIENT = 10
TEST_SHARE, VAL_SHARE = 0.25, 0.1
NOISE = 64.0


class Digits(FederatedDataModule):
    """Real digits of ten classes, no download: 1,797 images of 8x8 pixels, enlarged to 16x16, as RGB.

    The images (UCI, Alpaydin and Kaynak, 1998) are dealt to the clients in disjoint parts, by default stratified and of
    equal size. A client belongs to one of five domains, by turns, and is named after it: ``plain-0``, ``inverted-0``,
    ..., ``plain-1``. What a domain does to an image (values 0 to 255, white ink on black):

    - plain: nothing;
    - inverted: 255 - image;
    - blended: |photo - image| as in MNIST-M (Ganin et al., 2016), the photo being a random crop, 32x32 pixels averaged
      to 16x16, of one of the two photographs that scikit-learn ships;
    - rotated: by 90 degrees, anticlockwise;
    - noisy: Gaussian noise of standard deviation 64 on every pixel and channel, cut to 0..255.

    A quarter of a client's images is tested on; a tenth of the rest is for choices. A random draw belongs to an image
    and to `seed`, so an image looks the same in a domain whatever the number of clients.

    Args:
        num_clients: number of clients, at most 179 (ten images each).
        shift: share of a client's images that its domain changes: 0 leaves all of them plain, 1 changes all. The
            images that are changed at one value are changed at every higher one too.
        domains: the domains that take turns; all five by default.
        partition: who gets which images, such as `lpft.data.partition.Dirichlet`. A client's own images are split into
            train, val and test, so all three have its mix of classes.
        seed: of the parts and of all draws; not the seed of a run.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.

    Raises:
        ValueError: if there are too many clients, or a domain is named twice or none at all.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self,
        num_clients: PositiveInt = 10,
        shift: ClosedUnitInterval = 1.0,
        domains: list[Domain] | None = None,
        partition: Partitioner | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(cache_dir)
        most = NUM_IMAGES // MIN_IMAGES_PER_CLIENT
        if num_clients > most:
            raise ValueError(
                f"`num_clients={num_clients}` is too many: {NUM_IMAGES} images are enough for {most} clients with"
                f" {MIN_IMAGES_PER_CLIENT} each. HINT: set `--data.init_args.num_clients={most}` or less."
            )
        self.domains: list[Domain] = list(get_args(Domain)) if domains is None else list(domains)
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ValueError(f"`domains={domains}` must name at least one domain, and none of them twice.")
        self.num_clients, self.shift, self.seed = num_clients, shift, seed
        self.partition: Partitioner = partition or Iid()

    @property
    def spec(self) -> DataSpec:
        """RGB images of 16x16 pixels, ten classes."""
        return DataSpec(in_channels=3, image_size=SIZE, num_classes=10)

    def settings(self) -> dict[str, object]:
        """Return the key of the cache: the constructor's settings."""
        return {
            "num_clients": self.num_clients,
            "shift": float(self.shift),
            "domains": self.domains,
            "partition": self.partition.settings(),
            "seed": self.seed,
        }

    def write(self, writer: ArrayWriter) -> None:
        """Deal the images to the clients, change them as the client's domain does, and split them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = as_rgb(enlarge(digits.images.astype(np.int64)))
        labels = digits.target
        changed = self._rng("changed").uniform(size=NUM_IMAGES) < self.shift
        looks = {domain: images if domain == "plain" else self._look(domain, images) for domain in self.domains}
        parts_of_all = self.partition(labels, self.num_clients, self._rng("clients", self.num_clients))
        for position, mine in enumerate(parts_of_all):
            domain, turn = self.domains[position % len(self.domains)], position // len(self.domains)
            name = f"{domain}-{turn}"
            seen = np.where(changed[mine, None, None, None], looks[domain][mine], images[mine])
            parts = train_val_test(labels[mine], TEST_SHARE, VAL_SHARE, self._rng("split", self.num_clients, position))
            for split, part in zip(SPLITS, parts, strict=True):
                writer.add(name, split, seen[part], labels[mine][part])

    def _look(self, domain: Domain, images: np.ndarray) -> np.ndarray:
        looks: dict[Domain, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
            "inverted": invert,
            "blended": blend,
            "rotated": rotate,
            "noisy": add_noise,
        }
        return looks[domain](images, self._rng(domain))

    def _rng(self, *key: int | str) -> np.random.Generator:
        return np.random.default_rng(stable_seed("digits", self.seed, *key))


def enlarge(images: np.ndarray) -> np.ndarray:
    """Double height and width by bilinear interpolation, in integers and so alike on every machine.

    Args:
        images: int64, ``(n, size, size)``, values 0 to 16.

    Returns:
        uint8, ``(n, 2 * size, 2 * size)``, values 0 to 255.

    >>> enlarge(np.array([[[0, 16]]]))
    array([[[  0,  64, 191, 255],
            [  0,  64, 191, 255]]], dtype=uint8)
    """
    for axis in (1, 2):
        edges = np.pad(images, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, here, after = (edges.take(range(k, k + images.shape[axis]), axis) for k in range(3))
        images = np.stack([before + 3 * here, 3 * here + after], axis + 1).reshape(
            [n * 2 if a == axis else n for a, n in enumerate(images.shape)]
        )
    return ((images * 255 + 128) // 256).astype(np.uint8)


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Repeat grey images ``(n, size, size)`` in three channels, ``(n, 3, size, size)``."""
    return np.repeat(images[:, None], 3, axis=1)


def invert(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the negatives of uint8 images."""
    return 255 - images


def rotate(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn images ``(n, 3, size, size)`` by 90 degrees, anticlockwise."""
    return np.rot90(images, axes=(2, 3))


def add_noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of standard deviation 64 to uint8 images."""
    return np.clip(np.rint(images + NOISE * rng.standard_normal(images.shape)), 0, 255).astype(np.uint8)


def blend(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return |photo - image| for uint8 images ``(n, 3, 16, 16)`` and random crops of scikit-learn's photographs."""
    from sklearn.datasets import load_sample_images

    photos = np.stack(load_sample_images().images).transpose(0, 3, 1, 2)  # (2, 3, 427, 640)
    which = rng.integers(len(photos), size=len(images))
    top, left = (rng.integers(photos.shape[axis] - 2 * SIZE + 1, size=len(images)) for axis in (2, 3))
    windows = np.lib.stride_tricks.sliding_window_view(photos, (2 * SIZE, 2 * SIZE), axis=(2, 3))
    crops = windows[which, :, top, left].astype(np.int64)  # (n, 3, 32, 32)
    averaged = (crops.reshape(len(images), 3, SIZE, 2, SIZE, 2).sum((3, 5)) + 2) // 4
    return np.abs(averaged - images).astype(np.uint8)
