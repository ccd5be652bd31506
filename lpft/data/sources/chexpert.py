"""CheXpert: a finding in chest X-rays, which correlates with the patient's sex."""

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
"""Findings whose uncertain labels (-1) count as positive; those of all others count as negative."""
LOCATION = r"(?:^|[/\\])(train|valid)[/\\](patient[^/\\]*)[/\\]([^/\\]+[/\\][^/\\]+)$"
"""Matches an image's list, its patient, and its path in the patient's folder."""
BATCHES = "CheXpert-v1.0*batch*"
"""Folders of archives that were unpacked separately."""


class CheXpert(AttributeSource):
    """CheXpert (Irvin et al., 2019): pleural effusion or no finding? The spurious attribute is the patient's sex.

    Only frontal views with exactly one of the two findings are used. An uncertain label (-1) counts as positive for
    edema and atelectasis, as negative for all other findings; a blank counts as negative. The images of ``train.csv``
    and the few of ``valid.csv`` are merged and split by patient: no patient is in two splits, not even of different
    clients. The grey images are converted to RGB and normalized as for ImageNet.

    In ``root``: ``train.csv``, ``valid.csv``, and the folders ``train`` and ``valid`` with
    ``patientXXXXX/studyN/viewM_frontal.jpg``; or the folders of the four unpacked archives, such as
    ``CheXpert-v1.0 batch 2 (train 1)``. The data are for registered, non-commercial research only; neither images nor
    trained weights may be shared.

    Args:
        root: folder of the data set.
        target: the finding of class 1.
        other: the finding of class 0.

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
        folders = [self.root, *(self.root / batch for batch in batches)]
        folder = next((folder for folder in folders if (folder / LISTS[0]).exists()), self.root)
        require(folder, {name: [name] for name in (*LISTS, *([] if batches else ["train", "valid"]))}, HOME)
        rows = pd.concat([self._read_list(folder / name) for name in LISTS])
        return rows.assign(file=in_batches(self.root, batches, list(rows["file"]))) if batches else rows

    def _read_list(self, path: Path) -> pd.DataFrame:
        rows = read_columns(path, ["Path", "Sex", "Frontal/Lateral", self.target, self.other], HOME)
        target, other = (has_finding(rows[finding], finding, path) for finding in (self.target, self.other))
        used = (rows["Frontal/Lateral"] == "Frontal") & (target != other) & rows["Sex"].isin(SEXES)
        location = rows.loc[used, "Path"].str.extract(LOCATION)
        if location[0].isna().any():
            image = rows["Path"][location.index[location[0].isna()][0]]
            raise wrong_file(
                f"{path} names the image {image!r}, expected .../train/patientXXXXX/studyN/viewM_frontal.jpg", HOME
            )
        return pd.DataFrame({
            "file": location[0] + "/" + location[1] + "/" + location[2].str.replace("\\", "/"),
            "label": target[used],
            "attribute": rows.loc[used, "Sex"] == SEXES[1],
            "unit": location[1],
        })  # fmt: skip


def in_batches(root: Path, batches: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return the paths of images ``train/patientXXXXX/...`` whose patients are spread over batches.

    Patients' folders are in a batch, in its folder ``train`` or ``valid``, or in ``train`` or ``valid`` of the root.
    """
    folder_of_patient: dict[str, str] = {}
    below_batches = [f"{batch}{below}" for batch in batches for below in ("", "/train", "/valid")]
    for folder in [*below_batches, "train", "valid"]:
        if (root / folder).is_dir():
            names = os.listdir(root / folder)  # noqa: PTH208
            folder_of_patient.update((name, folder) for name in names if name.startswith("patient"))
    split = [file.split("/", 2) for file in files]
    return [f"{folder_of_patient.get(patient, part)}/{patient}/{image}" for part, patient, image in split]


def has_finding(labels: Iterable[str], finding: str, path: Path) -> np.ndarray:
    """Return which images show a finding, bool, ``(n,)``; `UNCERTAIN_IS_POSITIVE` decides about -1.

    Labels are 1 (positive), 0 (negative), -1 (uncertain) or blank (not mentioned); others raise a ValueError.

    >>> has_finding(["1.0", "-1.0", "", "0"], "Edema", Path("train.csv")).tolist()
    [True, True, False, False]
    >>> has_finding(["1.0", "-1.0", "", "0"], "Pleural Effusion", Path("train.csv")).tolist()
    [True, False, False, False]
    """
    meaning = {"1": True, "0": False, "-1": finding in UNCERTAIN_IS_POSITIVE, "": False}
    short = [label.removesuffix(".0") for label in labels]
    unknown = sorted(set(short) - meaning.keys())
    if unknown:
        problem = f"{path}, column {finding!r} has the values {shortened(unknown)}, expected 1, 0, -1 or blank"
        raise wrong_file(problem, HOME)
    return np.array([meaning[label] for label in short], bool)
