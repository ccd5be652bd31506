"""Slurm: the number of tasks, checks that it matches the settings, and requeueing of jobs."""

from __future__ import annotations

import os
import subprocess
import sys

from lpft.runtime.signals import ignore

STAGE = "HINT: use the stages, as the scripts in slurm/ do: `srun lpft federate`, then an array of `--shard I/N`"


def num_tasks() -> int:
    """Return the number of tasks; 1 outside of Slurm."""
    return number("SLURM_NTASKS") or 1


def number(name: str) -> int | None:
    """Return an environment variable as a positive integer; None if it is anything else."""
    text = os.environ.get(name, "")
    return int(text) or None if text.isascii() and text.isdigit() else None


def check_command(command: str) -> None:
    """Raise ValueError if Slurm has several tasks for a single-process command, or for one that srun did not start.

    The check reads only the environment, so that errors come before slow imports.
    """
    tasks = num_tasks()
    if tasks == 1 or command not in ("run", "federate", "tune", "personalize"):
        return
    if command != "federate":
        raise ValueError(
            f"`lpft {command}` is a single process, but SLURM_NTASKS={tasks}: each task would do the same work."
            f" {STAGE} with `--ntasks=1`."
        )
    if "SLURM_STEP_ID" not in os.environ:
        raise ValueError(
            f"SLURM_NTASKS={tasks}, but srun did not start this process: it would wait for the others forever."
            " HINT: `srun lpft federate ...`, or `--ntasks=1`."
        )
    name = os.environ.get("SLURM_JOB_NAME")
    if name in ("bash", "interactive"):
        raise ValueError(
            f"In a job named `{name}` Lightning does not look for Slurm's other {tasks - 1} tasks."
            " HINT: give it another name, `--job-name=federate`."
        )
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM_NTASKS={tasks}, but the number of tasks per node is not set."
            " HINT: use `--nodes` and `--ntasks-per-node` instead of `--ntasks`."
        )


def check_devices(devices: int, num_nodes: int) -> None:
    """Raise ValueError if Slurm's tasks do not match the section `trainer`, which Lightning does not always detect."""
    tasks = num_tasks()
    per_node = number("SLURM_NTASKS_PER_NODE") or devices
    nodes = number("SLURM_NNODES") or num_nodes
    if (per_node, nodes) != (devices, num_nodes) or tasks != devices * num_nodes:
        raise ValueError(
            f"`trainer.devices={devices}` on `trainer.num_nodes={num_nodes}` are {devices * num_nodes} processes, but"
            f" Slurm has {tasks}: --nodes={nodes}, --ntasks-per-node={per_node}."
            f" HINT: `--trainer.devices {per_node} --trainer.num_nodes {nodes}`, or change the job."
        )


def requeue() -> None:
    """Requeue this job, or this task of an array, and print the outcome.

    Nothing is requeued outside of Slurm or with ``LPFT_REQUEUE=0``. Afterwards signals are ignored.
    """
    ignore()  # Slurm sends TERM to a requeued job, which exits by itself
    job = _job()
    if job is None or os.environ.get("LPFT_REQUEUE", "1") == "0":
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        problem = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    text = f"job {job} continues later" if not problem else f"job {job} cannot be requeued ({problem}); submit it again"
    print(f"lpft: {text}", file=sys.stderr, flush=True)


def _job() -> str | None:
    """Return the id of the job for `scontrol`; in an array ``JOB_TASK``, since its last task has the array's job id."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
