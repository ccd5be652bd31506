"""Writing a Flower app: a folder that `flwr run` bundles and sends to the nodes."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

TEMPLATE = Path(__file__).parent / "app"


def write_app(folder: Path) -> list[Path]:
    """Write pyproject.toml and experiment.yaml into a folder.

    Returns:
        The written files.

    Raises:
        FileExistsError: if one of them exists; nothing is written then.
    """
    files = [folder / path.name for path in sorted(TEMPLATE.iterdir()) if path.is_file()]
    if existing := [str(path) for path in files if path.exists()]:
        raise FileExistsError(f"{', '.join(existing)} already exists. HINT: choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(TEMPLATE / path.name, path)
    return files


def main() -> None:
    """Write an app into the folder given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m lpft.flower", description="Write a Flower app.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write, created if it does not exist")
    try:
        print(*write_app(parser.parse_args().folder), sep="\n")
    except OSError as error:
        parser.error(str(error))
