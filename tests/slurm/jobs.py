"""Submit experiments by the scripts in slurm/, watch their jobs, and get in their way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "slurm" / "experiment.yaml"
GONE = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 400) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.2)


class Cluster:
    """A cluster, and settings of slurm/ that fit it.

    Args:
        conf: its slurm.conf.
        folder: for the settings.
    """

    def __init__(self, conf: str, folder: Path) -> None:
        self.bin = Path(sys.executable).parent
        self.settings = folder / "settings.sh"
        self.settings.write_text(
            f"load_lpft() {{ PATH={self.bin}:$PATH; }}\n"
            "NODES=2 TASKS_PER_NODE=1 STACKS_PER_TASK=9 STOP_BEFORE=60\n"
            'WHILE_QUEUED="${TWICE:-no}"\n'
        )
        self.env = {**os.environ, "SLURM_CONF": conf, "LPFT_SETTINGS": str(self.settings), "PYTHONPATH": str(ROOT)}
        self.env |= {"OMP_NUM_THREADS": "1", "SBATCH_TIMELIMIT": "50"}  # enough on a busy machine

    def call(self, *words: Any, code: int = 0, **env: Any) -> str:
        """Run a command, and return what it prints; its exit code must be `code`."""
        env = {**self.env, **{name: str(value) for name, value in env.items()}}
        command = [str(word) for word in words]
        done = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == code, done.stdout
        return done.stdout

    def submit(self, out: Path, *options: Any, **env: Any) -> dict[str, str]:
        """Submit the experiment; return the job of each stage that there was something to do for."""
        text = self.call("slurm/submit.sh", CONFIG, "--", "--out", out, *options, **env)
        assert f"{out}: " in text
        return dict(re.findall(r": (\w+) is job (\d+)", text))

    def tasks(self, job: str) -> list[dict[str, str]]:
        """Return what Slurm knows of a job, or of each task of an array."""
        lines = self.call("scontrol", "-o", "show", "job", job).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    def task(self, name: str) -> dict[str, str]:
        """Return what Slurm knows of a job, or of the task ``JOB_NUMBER``."""
        return self.tasks(name)[0]

    def wait(self, *jobs: str, seconds: float = 400) -> list[str]:
        """Wait for the end of jobs; return the different states of their ends, sorted."""
        wait_until(lambda: all(t["JobState"] in GONE for j in jobs for t in self.tasks(j)), f"jobs {jobs}", seconds)
        return sorted({task["JobState"] for job in jobs for task in self.tasks(job)})

    def wait_until_idle(self) -> None:
        """Wait until the queue is empty: what depends on a failed job is cancelled a little later than that ends."""
        wait_until(lambda: not self.call("squeue", "--noheader").strip(), "the queue is empty")

    def kill(self, job: str, rank: int = 0) -> None:
        """Kill a task of a running job by SIGKILL, by its Slurm job id (a task of an array has its own)."""
        wanted = {
            f"SLURM_JOB_ID={job}",
            f"SLURM_PROCID={rank}",
            "SLURM_STEP_ID=0",
            f"SLURM_CONF={self.env['SLURM_CONF']}",
        }
        killed = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = set((folder / "environ").read_bytes().decode(errors="replace").split("\0"))
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if wanted <= environ and b"lpft" in command and b"srun" not in command:
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(folder.name)
        assert len(killed) == 1, killed
