"""A Slurm cluster of two nodes on this machine, for as long as the tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.jobs import Cluster

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start it; where Slurm is missing, install it if that is allowed (LPFT_SLURM_INSTALL=1), else skip the tests.

    With LPFT_SLURM_REQUIRED=1 they are never skipped, and Slurm is installed.
    """
    required = os.environ.get("LPFT_SLURM_REQUIRED") == "1"
    install = required or os.environ.get("LPFT_SLURM_INSTALL") == "1"
    if not install and not (
        shutil.which("sbatch") and shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin")
    ):
        pytest.skip("Slurm is not installed; LPFT_SLURM_INSTALL=1 lets the tests install it (Debian, as root)")
    folder = tempfile.mkdtemp(prefix="lpft-", dir="/tmp")  # sockets need a short path
    started = subprocess.run(
        [HERE / "start-slurm", folder],
        env={**os.environ, "LPFT_SLURM_INSTALL": str(int(install))},
        stdout=subprocess.PIPE,
        text=True,
    )
    if started.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        (pytest.fail if required else pytest.skip)("no Slurm cluster could be started, see the messages above")
    try:
        yield Cluster(started.stdout.strip().partition("=")[2], tmp_path_factory.mktemp("slurm"))
    finally:
        subprocess.run([HERE / "stop-slurm", "--rm", folder], check=True)
