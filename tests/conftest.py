"""What all tests share: one thread, a cache of their own, small made-up clients."""

import gc
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from lpft.storage.run import Run

torch.set_num_threads(1)
os.fsync = lambda file: None  # no test cuts the power, and waiting for the disk takes long


def pytest_collection_finish() -> None:
    """Let the collector of garbage, here and in forked processes, not look through all that was imported."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["LPFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Undo what a command leaves: it ends its process, and ignores signals meanwhile."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A finished run of the toy experiment; do not change it."""
    from tests.commands import toy

    return toy("run", tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Write empty figures in the tests of a module that does not look at them: drawing takes half of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpft.reporting.drawing.to_svg", lambda name, draw: '<svg viewBox="0 0 72 72"></svg>')
        yield
