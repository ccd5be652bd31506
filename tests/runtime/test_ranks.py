"""The processes that lpft starts as ranks."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import pytest

from lpft.runtime.devices import OwnProcesses


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_rank_leaves_with_its_starter_before_ranks_are_connected() -> None:
    """A starter that was killed at that moment left ranks behind that waited for each other."""
    reader, writer = os.pipe()
    starter = os.fork()
    if not starter:
        ranks = OwnProcesses()
        if not os.fork():
            ranks.set_global_rank(1)
            time.sleep(60)  # as if the first rank never came
            os._exit(0)
        os.close(writer)
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    time.sleep(0.5)
    os.kill(starter, signal.SIGKILL)
    os.waitpid(starter, 0)
    assert select.select([reader], [], [], 20)[0], "the rank has not ended"
    os.close(reader)
