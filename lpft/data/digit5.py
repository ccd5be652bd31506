"""Digit5: five domains of digits, one client each, from the files in which they are passed around."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from lpft.data.base import FederatedDataModule
from lpft.data.cache import ArrayWriter
from lpft.data.digit_files import DOMAINS, DigitFiles, Domain, Found, Layout, joined
from lpft.data.images import stamp
from lpft.data.partition import stratified_order, train_val_test
from lpft.data.shares import Share, write_shares
from lpft.runtime.seeding import stable_seed
from lpft.types import DataSpec

MERGED_TEST_SHARE = 0.2
"""Share of the merged official sets that FedBN tests on."""

TERMS = (
    "MNIST yann.lecun.com/exdb/mnist (CC BY-SA 3.0), SVHN ufldl.stanford.edu/housenumbers (non-commercial), FedBN's"
    " pickles github.com/med-air/FedBN, the .mat files github.com/FengHZ/KD3A; USPS, MNIST-M and SynthDigits carry no"
    " clear licence: for research, not to be passed on"
)


class Digit5(FederatedDataModule):
    """Feature shift: MNIST, MNIST-M, SVHN, SynthDigits and USPS, one client each, their images as RGB.

    Each domain may come in any of three layouts, in `root`:

    - ``mat``, as in KD3A: ``Digit-Five/mnist_data.mat``, ``mnistm_with_label.mat``, ``svhn_train_32x32.mat``,
      ``svhn_test_32x32.mat``, ``synth_train_32x32.mat``, ``synth_test_32x32.mat``, ``usps_28x28.mat``;
    - ``fedbn``, pickles: ``MNIST/partitions/train_part0.pkl`` to ``train_part9.pkl`` and ``MNIST/test.pkl``, likewise
      ``MNIST_M``, ``SVHN``, ``SynthDigits``, ``USPS``; they are already split, so `split` does not matter;
    - ``torchvision``: ``MNIST/raw``, ``SVHN/train_32x32.mat`` and ``test_32x32.mat``, ``USPS/usps.bz2`` and
      ``usps.t.bz2``.

    The default is FedBN's recipe: official training and test set are merged, a fifth is tested on, and 743 images are
    trained on, a tenth of which is for choices here; splits and draws are stratified by class. USPS, the smallest, is
    never repeated to reach the size of the others: with the repetition that is usual in the ``mat`` layout, and its
    sets merged, an image is both trained and tested on. A label 10 is the digit 0.

    Args:
        root: folder of the files.
        domains: which domains; by default all five.
        folders: folder of a domain that is not in `root`, or its ``.npz`` file with ``x_train, y_train, x_test,
            y_test``, by domain; relative to `root`.
        layout: take this layout only; by default the first one that a domain is found in.
        split: whether the official training and test sets are merged and split anew, or kept.
        train_per_client: most images that a client trains on and chooses by; null for all. Of FedBN's parts so many
            are read as are needed.
        test_per_client: most images that a client is tested on; null for all.
        val_share: share of the training images on which choices are made.
        image_size: height and width to which all images are resized (bilinear, antialiased).
        seed: of the splits; not the seed of a run.
        cache_dir: folder of the array cache; by default ``$LPFT_CACHE``, else ``~/.cache/lpft``.

    Raises:
        ValueError: if a setting is out of range, or a file does not hold what it should.
        FileNotFoundError: if a domain is in none of the layouts.

    References:
        Li et al. (FedBN), arXiv:2102.07623; Feng et al. (KD3A), arXiv:2011.09757.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self,
        root: str = ".",
        domains: list[Domain] | None = None,
        folders: dict[str, str] | None = None,
        layout: Layout | None = None,
        split: Literal["merged", "official"] = "merged",
        train_per_client: PositiveInt | None = 743,
        test_per_client: PositiveInt | None = None,
        val_share: ClosedUnitInterval = 0.1,
        image_size: PositiveInt = 28,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(cache_dir)
        self.domains: Sequence[Domain] = DOMAINS if domains is None else domains
        self.folders = folders or {}
        if not self.domains or len(set(self.domains)) < len(self.domains) or not set(self.domains) <= set(DOMAINS):
            raise ValueError(
                f"`domains: {list(self.domains)}` must name at least one, none of them twice, of {', '.join(DOMAINS)}."
            )
        if not set(self.folders) <= set(self.domains):
            raise ValueError(
                f"`folders` names {', '.join(self.folders)}, expected domains of this run: {', '.join(self.domains)}."
            )
        self.root, self.layout, self.split = Path(root).expanduser(), layout, split
        self.train_per_client, self.test_per_client = train_per_client, test_per_client
        self.val_share, self.image_size, self.seed = val_share, image_size, seed

    @property
    def spec(self) -> DataSpec:
        """RGB images in ten classes."""
        return DataSpec(in_channels=3, image_size=self.image_size, num_classes=10)

    def settings(self) -> dict[str, object]:
        """Return the key of the cache: the settings, and the files' names, sizes and times.

        Raises:
            FileNotFoundError: if domains are not there; all that are missing are named.
        """
        return {
            "files": {domain: stamp(found.root, found.names) for domain, found in self._found().items()},
            "split": self.split,
            "train_per_client": self.train_per_client,
            "test_per_client": self.test_per_client,
            "val_share": float(self.val_share),
            "seed": self.seed,
        }

    def write(self, writer: ArrayWriter) -> None:
        """Split every domain and take as many images as are wanted."""
        found = self._found()
        write_shares(writer, [share for domain in found for share in self._shares(domain, found[domain])])

    def _shares(self, domain: Domain, found: Found) -> Iterator[Share]:
        rng = np.random.default_rng(stable_seed("digit5", self.seed, domain))
        train, test = found.open(self.train_per_client)
        merged = self.split == "merged" and not found.is_split
        if merged:
            train = test = joined(train, test)
        test_share = MERGED_TEST_SHARE if merged else 0.0
        made = train_val_test(train.labels, test_share, self.val_share, rng, self.train_per_client)
        tested = made.test if merged else np.arange(len(test.labels))
        if self.test_per_client is not None:
            tested = np.sort(tested[stratified_order(test.labels[tested], rng)[: self.test_per_client]])
        yield Share(domain, "test", test, tested)
        yield Share(domain, "val", train, made.val)
        yield Share(domain, "train", train, made.train)

    def _found(self) -> dict[Domain, Found]:
        """Find the files of all domains."""
        files = DigitFiles(self.layout, self.image_size)
        places = {domain: self.root / self.folders.get(domain, ".") for domain in self.domains}
        found = {domain: files.find(domain, place) for domain, place in places.items()}
        missing = [files.said_of_missing(domain, places[domain]) for domain in found if found[domain] is None]
        if missing:
            raise FileNotFoundError(
                "Digit5 is not complete:\n  " + "\n  ".join(missing) + "\nHINT: set the folder with"
                " `--data.init_args.root`, a domain's own with `--data.init_args.folders`, or take fewer with"
                f" `--data.init_args.domains`. Nothing is downloaded; get the files at: {TERMS}."
            )
        return {domain: each for domain, each in found.items() if each is not None}
