"""Locks between processes, and file systems without them."""

from __future__ import annotations

import errno
from pathlib import Path

import filelock
import pytest

from lpft.storage.lock import acquire


def test_a_locked_file_is_waited_for_until_the_timeout(tmp_path: Path) -> None:
    held = acquire(tmp_path / "lock")
    assert held is not None
    with pytest.raises(filelock.Timeout):
        acquire(tmp_path / "lock", timeout=0)
    held.release()
    again = acquire(tmp_path / "lock", timeout=0)
    assert again is not None
    again.release()


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "no locks available")])
def test_file_systems_without_locks(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert acquire(tmp_path / "lock") is None
