"""Sets of domains with list files, in small."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lpft.data.datamodule import FederatedDataModule
from lpft.data.sources.domains import DOMAINNET


class Set:
    """Images and lists of a made-up set; every image has a value of its own above a black edge."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.values, self.count = folder, dict[str, int](), 0

    def image(self, path: str) -> None:
        value = self.count = self.count + 1
        self.values[path] = value
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (5, 7), (value % 251, value // 251, 9))
        image.paste("black", (0, 5, 5, 7))
        image.save(self.folder / path)

    def lists(
        self,
        domain: str,
        classes: Sequence[str],
        num_train: int,
        num_test: int,
        labels: Sequence[int] | None = None,
        place: str = ".",
    ) -> None:
        """Add images 0, 1, ... of every class, and the two lists, class by class."""
        for split, nums in (("train", range(num_train)), ("test", range(num_train, num_train + num_test))):
            lines = []
            for label, name in enumerate(classes):
                for num in nums:
                    path = f"{domain}/{name}/{name} {num}.png"
                    self.image(path)
                    lines.append(f"{path} {labels[label] if labels else label}\n")
            (self.folder / place).mkdir(parents=True, exist_ok=True)
            (self.folder / place / f"{domain}_{split}.txt").write_text("".join(lines))

    def paths(self, data: FederatedDataModule, positions: Tensor) -> list[str]:
        """Return the paths that images of the arrays came from."""
        names = {value: path for path, value in self.values.items()}
        pixels = data.images[positions][:, :, 0, 0].long()
        return [names[red + 251 * green] for red, green, _ in pixels.tolist()]

    def pickle_lists(self, classes: Collection[str], as_array: bool = True) -> dict[tuple[str, str], list[str]]:
        """Replace the lists by FedBN's: pickled, mixed, of some classes, with paths that name the set's folder."""
        rng, listed = np.random.default_rng(0), dict[tuple[str, str], list[str]]()
        for path in sorted(self.folder.glob("*.txt")):
            paths = [line.rsplit(" ", 1)[0] for line in path.read_text().splitlines() if line.split("/")[1] in classes]
            paths = [paths[i] for i in rng.permutation(len(paths))]
            pair = [f"{self.folder.name}/{each}" for each in paths], [each.split("/")[1] for each in paths]
            with path.with_suffix(".pkl").open("wb") as file:
                pickle.dump(np.array(pair) if as_array else pair, file)
            domain, split = path.stem.rsplit("_", 1)
            listed[domain, split] = paths
            path.unlink()
        return listed


def domainnet(folder: Path) -> Set:
    """DomainNet in small: the ten classes and two more, with the labels that the true lists have."""
    made = Set(folder)
    true = {"bird": 23, "feather": 109, "headphones": 143, "ice_cream": 150, "teapot": 304, "tiger": 314, "whale": 333,
            "windmill": 335, "wine_glass": 337, "zebra": 344, "axe": 12, "t-shirt": 301}  # fmt: skip
    for number, domain in enumerate(DOMAINNET):
        names = [name for name in true if (domain, name) != ("painting", "t-shirt")]
        made.lists(domain, names, 2 + number // 3, 1, [true[name] for name in names])
    return made
