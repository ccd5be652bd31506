"""CheXpert: a finding in chest X-rays, where it goes with the patient's sex."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lpft.data.messages import shortened
from lpft.data.sources.attributes import AttributeSource
from lpft.data.sources.tables import read_columns, require, wrong_file

HOME = "https://stanfordmlgroup.github.io/competitions/chexpert/"
LISTS = ("train.csv", "valid.csv")
SEXES = ("Female", "Male")
UNCERTAIN_IS_POSITIVE = ("Edema", "Atelectasis")
"""Findings that are taken for there where the label is -1 (uncertain); all others are taken for not there."""
LOCATION = r"(?:^|[/\\])(train|valid)[/\\](patient[^/\\]*)[/\\]([^/\\]+[/\\][^/\\]+)$"
"""An image's list, its patient, and its path within the patient's folder."""
BATCHES = "CheXpert-v1.0*batch*"
"""The folders that the archives are unpacked to where each gets one of its own."""


class CheXpert(AttributeSource):
    """CheXpert (Irvin et al., 2019): is there a pleural effusion or nothing, where that goes with the patient's sex?

    Taken are frontal views of which exactly one of the two findings is there. A label of -1 (uncertain) counts as there
    for edema and atelectasis, as not there for all other findings; a blank counts as not there. The images of
    ``train.csv`` and the few of ``valid.csv`` are put together and split by patient: no patient is in two parts, not
    even of different clients. The images are grey; they are given as RGB, normalised as for ImageNet.

    In ``root``: ``train.csv``, ``valid.csv``, and the folders ``train`` and ``valid`` with
    ``patientXXXXX/studyN/viewM_frontal.jpg``; or the four folders that the archives are unpacked to, such as
    ``CheXpert-v1.0 batch 2 (train 1)``. The data are for registered, non-commercial research only; neither images nor
    trained weights may be passed on.

    Args:
        root: folder of the data set.
        target: the finding that makes class 1.
        other: the one that makes class 0.

    References:
        Irvin et al., arXiv:1901.07031.
    """

    def __init__(
        self, root: str = "CheXpert-v1.0-small", target: str = "Pleural Effusion", other: str = "No Finding"
    ) -> None:
        super().__init__(root, (other, target), SEXES)
        self.target, self.other = target, other

    def read_rows(self) -> pd.DataFrame:
        """Read both lists."""
        batches = sorted(path.name for path in self.root.glob(BATCHES) if path.is_dir())
        home = next((batch for batch in (".", *batches) if (self.root / batch / LISTS[0]).exists()), ".")
        require(self.root / home, {name: [name] for name in (*LISTS, *([] if batches else ["train", "valid"]))}, HOME)
        rows = pd.concat([self._read_list(self.root / home / name) for name in LISTS])
        return rows.assign(file=in_batches(self.root, batches, list(rows["file"]))) if batches else rows

    def _read_list(self, path: Path) -> pd.DataFrame:
        rows = read_columns(path, ["Path", "Sex", "Frontal/Lateral", self.target, self.other], HOME)
        target, other = (finding_there(rows[finding], finding, path) for finding in (self.target, self.other))
        taken = (rows["Frontal/Lateral"] == "Frontal") & (target != other) & rows["Sex"].isin(SEXES)
        location = rows.loc[taken, "Path"].str.extract(LOCATION)
        if location[0].isna().any():
            image = rows["Path"][location.index[location[0].isna()][0]]
            raise wrong_file(
                f"{path} names the image {image!r}, expected .../train/patientXXXXX/studyN/viewM_frontal.jpg", HOME
            )
        return pd.DataFrame({
            "file": location[0] + "/" + location[1] + "/" + location[2].str.replace("\\", "/"),
            "label": target[taken],
            "attribute": rows.loc[taken, "Sex"] == SEXES[1],
            "unit": location[1],
        })  # fmt: skip


def in_batches(root: Path, batches: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return where images are, ``train/patientXXXXX/...``, of which each batch has some patients.

    A batch has the patients' folders in it, or in ``train`` or ``valid`` below it; some may be in those of the root.
    """
    homes: dict[str, str] = {}
    below_batches = [f"{batch}{below}" for batch in batches for below in ("", "/train", "/valid")]
    for place in [*below_batches, "train", "valid"]:
        if (root / place).is_dir():
            homes.update((name, place) for name in os.listdir(root / place) if name.startswith("patient"))  # noqa: PTH208
    split = [file.split("/", 2) for file in files]
    return [f"{homes.get(patient, part)}/{patient}/{rest}" for part, patient, rest in split]


def finding_there(labels: Iterable[str], finding: str, path: Path) -> np.ndarray:
    """Say which images show a finding, bool, ``(n,)``; its name decides what becomes of -1.

    Labels are 1 (there), 0 (not there), -1 (uncertain) or blank (not mentioned); others raise a ValueError.

    >>> finding_there(["1.0", "-1.0", "", "0"], "Edema", Path("train.csv")).tolist()
    [True, True, False, False]
    >>> finding_there(["1.0", "-1.0", "", "0"], "Pleural Effusion", Path("train.csv")).tolist()
    [True, False, False, False]
    """
    meaning = {"1": True, "0": False, "-1": finding in UNCERTAIN_IS_POSITIVE, "": False}
    short = [label.removesuffix(".0") for label in labels]
    unknown = sorted(set(short) - meaning.keys())
    if unknown:
        problem = f"{path}, column {finding!r} has the values {shortened(unknown)}, expected 1, 0, -1 or blank"
        raise wrong_file(problem, HOME)
    return np.array([meaning[label] for label in short], bool)
