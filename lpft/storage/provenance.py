"""The provenance of a run's results besides its settings: the key ``provenance`` of its config.yaml."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass
class Provenance:
    """Versions, device and data that a run's results depend on, and the run's place in a sweep or tuning.

    Args:
        version: version of lpft.
        python: version of Python.
        torch: version of torch.
        lightning: version of lightning.
        git: commit and state of the git checkout that lpft is imported from; None if it is installed.
        device: ``cpu`` or ``cuda``.
        clients: names of the clients, in order.
        held_out: names of the clients that take no part in federated training and tuning.
        spec: channels, size and number of classes of the images; of feature arrays the number of features.
        classes: names of the classes, in the order of their labels; empty if the source has no names.
        mean: mean of every channel, on the scale from 0 to 1, or of every feature, which is subtracted.
        std: standard deviation of every channel or feature, by which the difference is divided.
        crop: side of the square that the source crops from its image files, in pixels.
        features: ``names`` of the features, and whether missing values are filled with the mean (``fills``); None for
            images.
        content_hash: hash of images, labels and splits.
        settings: fingerprint of the settings that all methods share.
        reference_settings: fingerprint of the settings that the results of references depend on.
        variants: ``method`` and swept ``values`` of each variant of a swept method, by its name.
        point: swept values of this run; None if it is not part of a sweep.
        tuned: settings that tuning chose, by the name of the tuned method.
        flower: Flower runs that trained global models, by seed; empty for models that lpft trained itself.
    """

    version: str | None = None
    python: str | None = None
    torch: str | None = None
    lightning: str | None = None
    git: str | None = None
    device: str | None = None
    clients: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    spec: dict[str, int] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    crop: int | None = None
    features: dict[str, Any] | None = None
    content_hash: str | None = None
    settings: str | None = None
    reference_settings: str | None = None
    variants: dict[str, Any] = field(default_factory=dict)
    point: dict[str, Any] | None = None
    tuned: dict[str, Any] = field(default_factory=dict)
    flower: dict[str, Any] = field(default_factory=dict)


def software() -> dict[str, Any]:
    """Return the versions of lpft and of the packages that its results depend on."""
    from lpft import __version__

    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "lightning": _version("lightning"),
        "git": _git_state(Path(__file__)),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(file: Path) -> str | None:
    """Return commit and state of the git checkout that tracks a file; None if no checkout does."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    tracked = ["git", "ls-files", "--error-unmatch", file.name]
    try:
        described, _ = (
            subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=5, check=True)
            for command in (describe, tracked)
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
