"""Recognizes clients' image files of other programs, and generates scripts that convert them to ``.npz``."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lpft.data.messages import READ_ERRORS
from lpft.data.sources.pickles import member_dtype


class Kind(NamedTuple):
    """A file format of another program.

    Args:
        description: for the message.
        black, white: the lowest and highest value of pixels.
        reader: lines that define `clients`, which yields each client's name and, by split, its images and labels.
    """

    description: str
    black: int
    white: int
    reader: str


PFLLIB = Kind(
    "a pickled dictionary of images and labels, as PFLlib writes one for each client",
    -1,
    1,
    """from lpft.data.sources.pickles import load_npz

def clients():
    for path in sorted(Path("train").glob("*.npz")):
        parts = {split: load_npz(Path(split, path.name))["data"].item() for split in ("train", "test")}
        yield path.stem, {split: (part["x"], part["y"]) for split, part in parts.items()}
""",
)
"""https://github.com/TsingZ0/PFLlib writes ``np.savez_compressed(file, data={"x": ..., "y": ...})``."""

PICKLE = Kind(
    "a pickle, as FedLab and torch.save write them, which can run any program when it is read",
    0,
    1,
    """import torch

def read(path):
    held = torch.load(path, weights_only=False)  # runs what is in the file: do this only if you trust where it is from
    if isinstance(held, dict):
        return held["x"], held["y"]
    images, labels = zip(*held)
    return np.stack([np.asarray(image) for image in images]), [int(label) for label in labels]

def clients():
    for path in sorted(file for file in Path("train").iterdir() if file.suffix in (".pkl", ".pt", ".pth")):
        yield path.stem, {split: read(Path(split, path.name)) for split in ("train", "test")}
""",
)

KINDS = {
    ".json": Kind(
        "a text of numbers, as LEAF writes them for many clients at once",
        0,
        1,
        """import json

def clients():
    users = {}
    for split in ("train", "test"):
        for path in sorted(Path(split).glob("*.json")):
            for user, data in json.loads(path.read_text())["user_data"].items():
                users.setdefault(user, {})[split] = data["x"], data["y"]
    yield from users.items()
""",
    ),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), PICKLE),
    **dict.fromkeys(
        (".h5", ".hdf5"),
        Kind(
            "an HDF5 file, as TensorFlow Federated has them for many clients at once",
            0,
            1,
            """import h5py  # pip install h5py

def clients():
    train, test = (h5py.File(next(Path(".").glob(f"*{split}.h*5"))) for split in ("train", "test"))
    for name in train["examples"]:
        parts = {split: file["examples"][name] for split, file in (("train", train), ("test", test))}
        pixels = "pixels" if "pixels" in parts["train"] else "image"
        yield name, {split: (part[pixels][()], part["label"][()]) for split, part in parts.items()}
""",
        ),
    ),
    ".mat": Kind(
        "a MATLAB file",
        0,
        255,
        """from scipy.io import loadmat

def clients():
    for path in sorted(Path(".").glob("*.mat")):
        held = loadmat(path)  # put in the names of the variables in your files
        yield path.stem, {split: (held[f"x_{split}"], held[f"y_{split}"].ravel()) for split in ("train", "test")}
""",
    ),
}
"""Formats by file ending."""

SCRIPT = """from pathlib import Path
import numpy as np
{reader}
BLACK, WHITE = {black}, {white}  # what the pixels of your files go from and to
Path("clients").mkdir(exist_ok=True)
yaml = ["source:", "  class_path: lpft.data.sources.Arrays", "  init_args:", "    root: clients", "    domains:"]
for name, parts in clients():
    arrays = {{}}
    for split, (x, y) in parts.items():
        x = np.asarray(x)
        if x.ndim == 2:  # a row of pixels for each image
            x = x.reshape(len(x), round(x.shape[1] ** 0.5), -1)
        if x.dtype != np.uint8:
            assert BLACK <= x.min() and x.max() <= WHITE, (x.min(), x.max())
            x = np.rint((x - BLACK) / (WHITE - BLACK) * 255).astype(np.uint8)
        arrays[f"x_{{split}}"], arrays[f"y_{{split}}"] = x, np.asarray(y).astype(np.int64)
    np.savez_compressed(f"clients/{{name}}.npz", **arrays)
    yaml.append(f'      "client_{{name}}": {{{{path: "{{name}}.npz"}}}}')
channels = 3 if 3 in (x.shape[1], x.shape[-1]) and x.ndim == 4 else 1
Path("clients.yaml").write_text("\\n".join([*yaml, f"image_size: {{x.shape[2]}}", f"channels: {{channels}}", ""]))
"""


def foreign(path: Path) -> str:
    """Return a message on a file of another program and how to convert it; empty for other or missing files."""
    kind = KINDS.get(path.suffix.lower())
    if path.suffix == ".npz" and "data" in objects_in(path):
        kind = PFLLIB
    if kind is None or not path.is_file():
        return ""
    script = SCRIPT.format(**kind._asdict())
    folder = path.parent.parent if path.parent.name in ("train", "test") else path.parent
    return (
        f"{path} is {kind.description}, which is not supported. HINT: put the lines below into a file convert.py, run"
        f" `python convert.py` in {folder.resolve()}, then `lpft prepare --data clients.yaml` there.\n{script}"
    )


def foreign_in(folder: Path) -> str:
    """Return `foreign` of the first such file in a folder, or in its folder ``train``, if it has no other folders."""
    inner = folder / "train" if (folder / "train").is_dir() else folder
    paths = sorted(inner.iterdir())
    return "" if any(path.is_dir() for path in paths) else next(filter(None, map(foreign, paths)), "")


def objects_in(path: Path) -> list[str]:
    """Return the names of pickled arrays in an ``.npz`` file; empty for other files."""
    names = []
    with suppress(*READ_ERRORS), zipfile.ZipFile(path) as file:
        for name in file.namelist():
            with file.open(name) as member:
                if member_dtype(member).hasobject:
                    names.append(name.removesuffix(".npy"))
        return names
    return []
