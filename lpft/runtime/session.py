"""The state of a process while it trains: one thread, quiet loggers, and classes of the current folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGERS = ("lightning.fabric", "lightning.pytorch")


@contextmanager
def heavy_work() -> Iterator[None]:
    """Use one thread per process, and let YAML name classes in files of the current folder; undo both afterwards."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
    import lightning.pytorch  # noqa: F401  (it sets the levels of its loggers when it is imported)
    import torch

    threads, folder = torch.get_num_threads(), str(Path.cwd())
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    torch.set_num_threads(1)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)  # not how many processes there are
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if added and folder in sys.path:
            sys.path.remove(folder)
