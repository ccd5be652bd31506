"""The state of a process while it trains: one thread, quiet loggers, and classes of the working folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lpft.runtime.launched import without_foreign_ranks

LOGGERS = ("lightning.fabric", "lightning.pytorch")


@contextmanager
def training_session() -> Iterator[None]:
    """Use one thread per process, and let YAML name classes in files of the working folder; undo both afterwards."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
    with without_foreign_ranks(), working_folder_importable():
        import lightning.pytorch  # noqa: F401  (it sets the levels of its loggers when it is imported)
        import torch

        threads = torch.get_num_threads()
        levels = {name: logging.getLogger(name).level for name in LOGGERS}
        torch.set_num_threads(1)
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)  # not how many processes there are
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def working_folder_importable() -> Iterator[None]:
    """Import modules of the working folder, but none of a name that a library has, as ``queue.py`` or ``random.py``.

    A working folder that ``PYTHONPATH`` names, or that lpft itself is imported from, stays before installed packages.
    Processes that are started anew heed ``PYTHONSAFEPATH`` (Python 3.11): without it they would look there first.
    """
    before, safe, here = list(sys.path), os.environ.get("PYTHONSAFEPATH"), str(Path.cwd())
    sys.path[:] = _placed_late(sys.path, here)
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.path[:] = [*before, *(folder for folder in sys.path if folder not in (*before, here))]
        if safe is None:
            del os.environ["PYTHONSAFEPATH"]


def _placed_late(folders: list[str], here: str) -> list[str]:
    """Return the import path with the working folder after the standard library or, unless it was asked for, last."""
    others = [folder for folder in folders if folder not in ("", ".", here)]
    asked_for = {str(Path(folder).absolute()) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    place = len(others)
    if here in asked_for or here == str(Path(__file__).parents[2]):
        installed = (n for n, name in enumerate(others) if Path(name).name in ("site-packages", "dist-packages"))
        place = next(installed, place)
    return [*others[:place], here, *others[place:]]
