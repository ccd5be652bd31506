"""Digit5: five domains of digits, in the layouts in which they are distributed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveInt

from lpft.data.messages import content_of
from lpft.data.sources.array_files import SourceSplit
from lpft.data.sources.arrays import SplitSource
from lpft.data.sources.base import OnBadImage
from lpft.data.sources.digit_files import (
    DOMAINS,
    Domain,
    DomainFiles,
    Layout,
    expected,
    find_files,
    open_files,
    read_mat_images,
)
from lpft.data.sources.image_files import stamp
from lpft.data.sources.names import check_choice

TERMS = (
    "MNIST yann.lecun.com/exdb/mnist (CC BY-SA 3.0), SVHN ufldl.stanford.edu/housenumbers (non-commercial), FedBN's"
    " pickles github.com/med-air/FedBN, the .mat files github.com/FengHZ/KD3A; USPS, MNIST-M and SynthDigits carry no"
    " clear licence: for research, not to be passed on"
)


class Digit5(SplitSource):
    """Feature shift: MNIST, MNIST-M, SVHN, SynthDigits and USPS, one client each, their images as RGB.

    Each domain may have any of three layouts, in `root`:

    - ``mat``, as in KD3A: ``Digit-Five/mnist_data.mat``, ``mnistm_with_label.mat``, ``svhn_train_32x32.mat``,
      ``svhn_test_32x32.mat``, ``synth_train_32x32.mat``, ``synth_test_32x32.mat``, ``usps_28x28.mat``;
    - ``fedbn``, pickles: ``MNIST/partitions/train_part0.pkl`` to ``train_part9.pkl`` and ``MNIST/test.pkl``, likewise
      ``MNIST_M``, ``SVHN``, ``SynthDigits``, ``USPS``; they are already split, so `split` has no effect;
    - ``torchvision``: ``MNIST/raw``, ``SVHN/train_32x32.mat`` and ``test_32x32.mat``, ``USPS/usps.bz2`` and
      ``usps.t.bz2``.

    `data.train_per_client: 743` gives FedBN's recipe: the official training and test sets are merged, a fifth is the
    test set, and 743 images are for training, a tenth of them for validation. USPS, the smallest, is never repeated to
    reach the size of the others: with the repetition that is usual in the ``mat`` layout, merged sets would have the
    same image in train and test. A label 10 is the digit 0.

    Args:
        root: folder of the files.
        domains: which domains; by default all five.
        folders: folder of a domain that is not in `root`, or its ``.npz`` file with ``x_train, y_train, x_test,
            y_test``, by domain; relative to `root`.
        layout: use only this layout; by default the first one with files of the domain.
        split: whether the official training and test sets are merged and split again, or kept.
        large: read MNIST's 32x32 images instead of its 28x28 ones, if the file has both.
        wanted: number of training images that you need of each domain; only as many of FedBN's pickles are read, null
            reads all.

    Raises:
        ValueError: if a setting is out of range.

    References:
        Li et al. (FedBN), arXiv:2102.07623; Feng et al. (KD3A), arXiv:2011.09757.
    """

    draws = "digit5"
    image_size = 28
    num_classes = 10
    test_share = 0.2
    """FedBN's test share of the merged official sets."""

    def __init__(
        self,
        root: str = ".",
        domains: list[Domain] | None = None,
        folders: dict[str, str] | None = None,
        layout: Layout | None = None,
        split: Literal["merged", "official"] = "merged",
        large: bool = False,
        wanted: PositiveInt | None = None,
    ) -> None:
        self.domains: Sequence[Domain] = DOMAINS if domains is None else domains
        self.folders = folders or {}
        check_choice("domains", self.domains, DOMAINS)
        if not set(self.folders) <= set(self.domains):
            raise ValueError(
                f"`folders` names {', '.join(self.folders)}, expected domains of this run: {', '.join(self.domains)}."
            )
        self.root, self.layout, self.split = Path(root).expanduser(), layout, split
        self.large, self.wanted = large, wanted

    def open_parts(self) -> Iterator[tuple[str, str, SourceSplit]]:
        """Open every domain; merged sets have no split."""
        mat_images = lru_cache(maxsize=2)(read_mat_images)  # keeps two sets in memory; others are read again
        for domain, files in self._files().items():
            parts = open_files(files, self.wanted, 32 if self.large else 28, mat_images)
            merged = self.split == "merged" and files.layout != "fedbn"
            for split, part in parts.items():
                yield domain, "" if merged else split, part

    def stamp(self, on_missing: OnBadImage = "error") -> str:
        """Return a hash of names, sizes and modification times of each domain's files."""
        return json.dumps({domain: stamp(files.root, files.names) for domain, files in self._files().items()})

    def _files(self) -> dict[Domain, DomainFiles]:
        files, missing = dict[Domain, DomainFiles](), []
        for domain in self.domains:
            folder = self.root / self.folders.get(domain, ".")
            domain_files = find_files(domain, folder, self.layout)
            if domain_files is None:
                missing.append(
                    f"{domain}: expected {expected(domain, self.layout)}; found in {folder}: {content_of(folder)}"
                )
            else:
                files[domain] = domain_files
        if missing:
            raise FileNotFoundError(
                "Digit5 is not complete:\n  " + "\n  ".join(missing) + "\nHINT: set the folder with"
                " `--data.source.root`, a domain's own with `--data.source.folders`, or take fewer with"
                f" `--data.source.domains`. Nothing is downloaded; get the files at: {TERMS}."
            )
        return files
