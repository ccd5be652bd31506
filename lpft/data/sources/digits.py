"""Handwritten digits that come with scikit-learn, with a different look for each client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.partition.iid import equal_parts
from lpft.data.sources.base import Source
from lpft.data.sources.names import check_choice

Domain = Literal["plain", "inverted", "blended", "rotated", "noisy"]

NUM_IMAGES = 1797
SIZE = 16
MIN_IMAGES_PER_CLIENT = 10
NOISE = 64.0


class Digits(Source):
    """Real digits of ten classes, no download: 1,797 images of 8x8 pixels, enlarged to 16x16, as RGB.

    The images (UCI, Alpaydin and Kaynak, 1998) are divided into disjoint, stratified parts of equal size, one for each
    client or, without `num_clients`, for each domain. Clients belong to five domains, by turns, and are named after
    them: ``plain-0``, ``inverted-0``, ..., ``plain-1``. A domain changes images (values 0 to 255, white ink on black):

    - plain: nothing;
    - inverted: 255 - image;
    - blended: ``|photo - image|`` as in MNIST-M (Ganin et al., 2016); the photo is a random crop, 32x32 pixels
      averaged to 16x16, of one of the two photographs in scikit-learn;
    - rotated: by 90 degrees, anticlockwise;
    - noisy: Gaussian noise of standard deviation 64 on every pixel and channel, clipped to 0..255.

    Random draws are keyed by image and `seed`, so an image looks the same in a domain for any number of clients.

    Args:
        num_clients: number of clients before any further partition, at most 179 (ten images each); null gives every
            domain one part, with the domain's name, for a further partition.
        shift: share of a client's images that its domain changes: 0 leaves all of them plain, 1 changes all. Images
            changed at one value are also changed at every higher one.
        domains: the domains; all five by default.
        seed: seed of the parts and the domains' draws; not the seed of a run.

    Raises:
        ValueError: if there are too many clients, or a domain is named twice or none at all.
    """

    draws = "digits"
    image_size = SIZE
    num_classes = 10

    def __init__(
        self,
        num_clients: PositiveInt | None = 10,
        shift: ClosedUnitInterval = 1.0,
        domains: list[Domain] | None = None,
        seed: int = 0,
    ) -> None:
        most = NUM_IMAGES // MIN_IMAGES_PER_CLIENT
        if num_clients is not None and num_clients > most:
            raise ValueError(
                f"`num_clients={num_clients}` is too many: {NUM_IMAGES} images are enough for {most} clients with"
                f" {MIN_IMAGES_PER_CLIENT} each. HINT: set `--data.source.num_clients={most}` or less."
            )
        self.domains: list[Domain] = list(get_args(Domain)) if domains is None else list(domains)
        check_choice("domains", self.domains, get_args(Domain))
        self.num_clients, self.shift, self.seed = num_clients, float(shift), seed

    def table(self) -> pd.DataFrame:
        """Assign the images to clients."""
        from sklearn.datasets import load_digits

        labels = load_digits().target
        num_domains = len(self.domains)
        num = self.num_clients or num_domains
        looks = [self.domains[k % num_domains] for k in range(num)]
        names = [f"{look}-{k // num_domains}" for k, look in enumerate(looks)] if self.num_clients else looks
        client = np.empty(NUM_IMAGES, np.int64)
        for position, part in enumerate(equal_parts(labels, num, self.rng(self.seed, "clients", num))):
            client[part] = position
        domain = pd.Categorical.from_codes(client, pd.Index(names))
        return pd.DataFrame({"label": labels, "domain": domain, "look": np.array(looks)[client]})

    def images(self, positions: np.ndarray) -> np.ndarray:
        """Return the images, changed as in their domains."""
        from sklearn.datasets import load_digits

        grey = enlarge(load_digits().images.astype(np.int64))
        plain = np.repeat(grey[:, None], 3, axis=1)
        images = plain.copy()
        changed = self.rng(self.seed, "changed").uniform(size=NUM_IMAGES) < self.shift
        looks = self.cached_table["look"].to_numpy()
        for domain, change in LOOKS.items():
            rows = np.flatnonzero(changed & (looks == domain))
            if len(rows):
                images[rows] = change(plain, self.rng(self.seed, domain))[rows]
        return images[positions].transpose(0, 2, 3, 1)

    @property
    def one_domain(self) -> bool:  # type: ignore[override]
        """Whether there is only one domain."""
        return len(self.domains) == 1

    def split_key(self, client: str, position: int, num_clients: int) -> tuple[str | int, ...]:
        """Use the client's number instead of its name."""
        return ("split", num_clients, position)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Double height and width by bilinear interpolation, in integers and therefore equal on every machine.

    From int64, ``(n, size, size)``, values 0 to 16, to uint8, ``(n, 2 * size, 2 * size)``, values 0 to 255.

    >>> enlarge(np.array([[[0, 16]]]))
    array([[[  0,  64, 191, 255],
            [  0,  64, 191, 255]]], dtype=uint8)
    """
    for _ in range(2):  # first the rows, then the columns
        padded = np.pad(images, [(0, 0), (1, 1), (0, 0)], mode="edge")
        before, after = padded[:, :-2], padded[:, 2:]
        doubled = np.stack([before + 3 * images, 3 * images + after], 2)
        images = doubled.reshape(len(images), -1, images.shape[2]).transpose(0, 2, 1)
    return ((images * 255 + 128) // 256).astype(np.uint8)


def invert(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Invert uint8 images."""
    return 255 - images


def rotate(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate images ``(n, 3, size, size)`` by 90 degrees, anticlockwise."""
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


LOOKS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "inverted": invert,
    "blended": blend,
    "rotated": rotate,
    "noisy": add_noise,
}
"""Functions of the domains on images ``(n, 3, 16, 16)``."""
