"""Run the missing jobs on the devices of this machine: in this process, or with several devices in one process each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from lpft.personalization.jobs import Job, PersonalTask
from lpft.personalization.worker import StackWorker
from lpft.runtime.heartbeat import Heartbeat
from lpft.runtime.processes import ending_children, leave_with_parent
from lpft.runtime.progress import Steps
from lpft.runtime.signals import Stopped, listen, note_progress, restore_default_handlers, stop_before, stop_requested
from lpft.runtime.slurm import requeue

FinishedJob = tuple[Job, Callable[[], str]]
"""A job with a function that returns a summary, or raises the error that ended it."""


def personalize(
    task: PersonalTask, shard: tuple[int, int] = (0, 1), on_stack: Callable[[int, str], None] | None = None
) -> list[str]:
    """Compute the missing results.

    A failing job does not stop the others.

    Args:
        task: the personalization.
        shard: ``(i, n)`` selects entries i, i + n, i + 2n, ... of the list of jobs.
        on_stack: called in this process with seed and method after the results of a stack were written.

    Returns:
        Error messages, one per failed job.

    Raises:
        Stopped: if a signal asked to stop; running jobs were finished.
    """
    task.data.setup()
    jobs = [job for job in task.jobs(shard) if task.missing(job)]
    failures: list[str] = []
    if jobs and stop_before():
        requeue()
        raise Stopped(failures)
    with Steps("personalize", len(jobs), "stack") as steps, closing(_run_jobs(task, jobs)) as finished:
        try:
            for job, outcome in finished:
                try:
                    summary = outcome()
                    task.failure(job).unlink(missing_ok=True)
                    succeeded = True
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    failures.append(_write_failure(task, job, error))
                    summary, succeeded = "FAILED", False
                note_progress()
                steps.advance(f"seed {job.seed} {job.method}: {summary}", len(job.clients))
                if on_stack is not None and succeeded:
                    on_stack(job.seed, job.method)
        except BrokenProcessPool as error:
            return [*failures, f"{error}; the results so far are kept."]
    if steps.done < len(jobs):
        requeue()
        raise Stopped(failures)
    return failures


def _run_jobs(task: PersonalTask, jobs: list[Job]) -> Generator[FinishedJob]:
    """Yield every job when it is finished. After a signal, no further job is started."""
    processes = min(task.devices.processes, len(jobs))
    yield from _run_here(task, jobs) if processes <= 1 else _run_in_pool(task, jobs, processes)


def _run_here(task: PersonalTask, jobs: list[Job]) -> Generator[FinishedJob]:
    worker = StackWorker(task, task.devices.device())
    with closing(Heartbeat(task.run)) as heartbeat:
        for job in jobs:
            heartbeat.set_work([job.work])
            yield job, lambda job=job: worker.do(job)  # type: ignore[misc]
            if stop_requested():
                return


def _run_in_pool(task: PersonalTask, jobs: list[Job], processes: int) -> Generator[FinishedJob]:
    """Closed before the end, as by Ctrl-C, it ends its processes at once."""
    context = multiprocessing.get_context(task.devices.start_method)
    numbers = context.SimpleQueue()
    for number in range(processes):
        numbers.put(number)
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(task, numbers, os.getpid()))
    heartbeat = Heartbeat(task.run)
    try:
        with ending_children():
            todo = iter(jobs)
            running: dict[Future[str], Job] = {pool.submit(_do, job): job for job in islice(todo, processes)}
            while running:
                heartbeat.set_work(job.work for job in running.values())
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), partial(_outcome, future, pool)
                    for job in islice(todo, 0 if stop_requested() else 1):
                        running[pool.submit(_do, job)] = job
    finally:
        heartbeat.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[str], pool: ProcessPoolExecutor) -> str:
    """Return the summary of a job, or raise its exception; if the worker died, the exception states how."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise BrokenProcessPool(_first_end(list((pool._processes or {}).values()))) from error


def _first_end(workers: list[BaseProcess]) -> str:
    """Describe how the first dead worker ended; the executor terminates the others."""
    codes = [code for worker in workers if (code := worker.exitcode) and code != -signal.SIGTERM]
    if not codes:
        return "A worker process has ended"
    if codes[0] > 0:
        return f"A worker process has ended with exit code {codes[0]}, for the reason given above"
    name = signal.Signals(-codes[0]).name
    return f"A worker process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


_worker: StackWorker | Exception
"""The worker of a child process, or what has kept it from starting."""


def _start_worker(task: PersonalTask, numbers: Any, parent: int) -> None:
    global _worker
    restore_default_handlers()
    leave_with_parent(parent)
    listen()
    torch.set_num_threads(1)
    try:
        task.data.setup()
        _worker = StackWorker(task, task.devices.device(numbers.get()))
    except Exception as error:  # raised here, it would end the pool without a reason
        _worker = error


def _do(job: Job) -> str:
    if isinstance(_worker, Exception):
        raise _worker
    return _worker.do(job)


def _write_failure(task: PersonalTask, job: Job, error: Exception) -> str:
    path = task.failure(job)
    try:
        text = "".join(traceback.format_exception(error))
        task.run.write_failure(path, job.seed, job.method, job.names, text)
    except OSError:  # a full disk: it would be the same with every other job
        raise error from None
    return f"{job}: {type(error).__name__}: {error} (details: {path})"
