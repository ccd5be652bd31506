from pathlib import Path

from lpft.reporting.job_errors import job_errors
from lpft.storage.run import Run

KILLED = """\
federate seed 0: round 3/6  train loss 0.4  val accuracy 90.00%  9.9 clients/s  0:01 left
srun: error: lpft-n2: task 1: Killed
srun: Terminating StepId=1.0
slurmstepd: error: *** STEP 1.0 ON lpft-n1 CANCELLED AT 2025-01-01T00:00:00 ***
srun: error: lpft-n1: task 0: Terminated
"""
REQUEUED = """\
lpft: stopped by a signal.
lpft: job 2_0 continues later
lpft: finished results are kept. Run the same command again to continue.
slurmstepd: error: *** STEP 2.0 ON lpft-n1 CANCELLED AT 2025-01-01T00:00:00 DUE TO JOB REQUEUE ***
"""
REFUSED = """\
lpft personalize: The global model seed_0 does not exist. HINT: train it first.
For all settings: lpft personalize --help
srun: error: lpft-n1: task 0: Exited with exit code 2
"""
CRASHED = """\
  File "lpft/data/cache.py", line 9, in read
    raise error
KeyError: 'a'

During handling of the above exception, another exception occurred:

  File "lpft/data/cache.py", line 11, in read
ImportError: libcudart.so.12: no such file
srun: error: lpft-n1: task 0: Exited with exit code 1
"""
FAILED = """\
lpft: failed: seed 0, ft, clients c0: RuntimeError: broken (details: failed_seed_0_ft_0.txt)
lpft: finished results are kept. Run the same command again to continue.
"""


def write(run: Run, **logs: str) -> None:
    run.logs.mkdir()
    for name, text in logs.items():
        (run.logs / f"lpft-{name.replace('__', '-')}.log").write_text(text)


def test_last_words_of_jobs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(
        run,
        federate__1=KILLED,
        personalize__2_0=REQUEUED,
        personalize__2_1=REFUSED,
        personalize__2_2=FAILED,
        personalize__2_3=CRASHED,
    )
    found = {mishap.where: mishap.error for mishap in job_errors(run, ["RuntimeError: broken"])}
    assert found == {
        "lpft-federate-1": KILLED.splitlines()[1],
        "lpft-personalize-2_1": REFUSED.splitlines()[0],
        "lpft-personalize-2_3": "ImportError: libcudart.so.12: no such file",
    }
    assert "lpft-personalize-2_2" in {mishap.where for mishap in job_errors(run)}


def test_only_the_last_life_of_a_job_counts(tmp_path: Path) -> None:
    """After a requeue Slurm tells how it has ended the tasks; the job goes on in the same log."""
    run = Run(tmp_path)
    first = f"lpft: life 1 of job 1\n{REQUEUED}srun: error: lpft-n1: task 0: Terminated\n"
    write(
        run, federate__1=f"{first}lpft: life 2 of job 1\n{KILLED}", personalize__2_0=f"{first}lpft: life 2 of job 2\n"
    )
    assert [mishap.error for mishap in job_errors(run)] == ["srun: error: lpft-n2: task 1: Killed"]


def test_only_the_last_job_of_a_stage_counts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, federate__9=KILLED, federate__10="fine\n", personalize__11_1=REFUSED, other=KILLED)
    assert [mishap.where for mishap in job_errors(run)] == ["lpft-personalize-11_1"]


def test_what_came_before_a_stage_was_done_again_does_not_count(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, federate__9="fine\n", personalize__10_1=REFUSED, report__8=KILLED)
    assert [mishap.where for mishap in job_errors(run)] == ["lpft-personalize-10_1"]


def test_errors_that_a_report_quotes_are_not_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, report__1=f"error    lpft-personalize-1: {KILLED.splitlines()[1]}\n")
    assert job_errors(run) == []


def test_a_log_that_begins_with_the_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, federate__1="error: no space left\n")
    assert [mishap.error for mishap in job_errors(run)] == ["error: no space left"]


def test_what_was_overcome_is_not_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, federate__1=KILLED + "federate seed 0: round 4/6\n" * 10)
    assert job_errors(run) == []


def test_the_first_line_of_a_command_is_not_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.logs.mkdir()
    (run.logs / "lpft-personalize-3_0.log").write_text("lpft personalize: reading configs/error.yaml\n")
    assert job_errors(run) == []


def test_there_are_no_logs_outside_of_slurm(tmp_path: Path) -> None:
    assert job_errors(Run(tmp_path)) == []
