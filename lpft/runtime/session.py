"""The state of a process that trains: one thread, quiet loggers, and imports from the working directory."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lpft.runtime.launcher import without_foreign_ranks

LOGGERS = ("lightning.fabric", "lightning.pytorch")
ONE_AT_A_TIME = threading.RLock()
"""Threads of a process train one after the other: a session, and the parser, which changes the working directory while
it reads a file, change the state of the whole process."""


@contextmanager
def training_session() -> Iterator[None]:
    """Use one thread per process, and make modules of the working directory importable; restore both afterwards.

    Other threads that begin a session wait until this one ends.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
    with ONE_AT_A_TIME, without_foreign_ranks(), importable_working_directory():
        import lightning.pytorch  # noqa: F401  (the import sets the levels of its loggers)
        import torch

        threads = torch.get_num_threads()
        levels = {name: logging.getLogger(name).level for name in LOGGERS}
        torch.set_num_threads(1)
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)  # hides the number of processes
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def importable_working_directory() -> Iterator[None]:
    """Make modules of the working directory importable without shadowing libraries, as a file ``queue.py`` would.

    A working directory that is in ``PYTHONPATH``, or from which lpft itself is imported, stays before installed
    packages. ``PYTHONSAFEPATH`` (Python 3.11) keeps spawned processes from searching it first.
    """
    original, safe_path, working_directory = list(sys.path), os.environ.get("PYTHONSAFEPATH"), str(Path.cwd())
    sys.path[:] = _moved_back(sys.path, working_directory)
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.path[:] = [*original, *(folder for folder in sys.path if folder not in (*original, working_directory))]
        if safe_path is None:
            del os.environ["PYTHONSAFEPATH"]


def _moved_back(folders: list[str], working_directory: str) -> list[str]:
    """Return the import path with the working directory last, or just before installed packages if it was requested."""
    others = [folder for folder in folders if folder not in ("", ".", working_directory)]
    requested = {str(Path(folder).absolute()) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    position = len(others)
    if working_directory in requested or working_directory == str(Path(__file__).parents[2]):
        installed = (n for n, name in enumerate(others) if Path(name).name in ("site-packages", "dist-packages"))
        position = next(installed, position)
    return [*others[:position], working_directory, *others[position:]]
