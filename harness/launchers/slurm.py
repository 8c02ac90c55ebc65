"""Run workers as a job array of Slurm, submitted by submitit; a preempted job is requeued and resumes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.launchers.passwords import hidden
from harness.launchers.placement import Placement
from harness.launchers.remote import JobSpec, job_spec
from harness.outcome import Outcome
from harness.settings import Settings

_REQUEUES = 10**6  # without limit: each run of a job trains some epochs more
_WARNING_S = 90  # before the time limit, at which Slurm sends a signal; shorter if the limit itself is short


def submit(settings: Settings, placement: Placement, next_steps: Callable[[Outcome], str]) -> Array:
    """Submit the workers.

    Args:
        settings: What each worker does.
        placement: Where they run.
        next_steps: Returns what is printed at the end of each worker's log.

    Raises:
        HarnessError: If submitit or Slurm is missing, or Slurm refuses the jobs.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError, environment_variables
    except ImportError as error:
        raise HarnessError("--launcher slurm needs submitit: pip install submitit") from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise HarnessError("--launcher slurm must be started where Slurm is, but there is no sbatch and srun here.")
    folder = settings.runs_dir.resolve() / "slurm" / settings.study
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
    executor.update_parameters(
        job_name=f"kd-{settings.study}",
        partition=placement.partition,
        time=placement.minutes,
        nodes=1,
        ntasks_per_node=1,
        cpus_per_task=placement.cpus,
        gpus_per_node=placement.gpus or None,
        signal_delay_s=min(_WARNING_S, placement.minutes * 10),
        array_parallelism=placement.workers,
        setup=[f"export OMP_NUM_THREADS={placement.cpus}"],
        srun_args=[f"--cpus-per-task={placement.cpus}"],  # srun does not inherit it from sbatch
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, **placement.sbatch},
    )
    shown, environment = hidden(settings)
    try:
        with environment_variables(**environment), redirect_stderr(StringIO()):  # submitit prints the output of sbatch
            jobs = executor.submit_array([_Worker(job_spec(shown, placement.workers, next_steps))] * placement.workers)
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines()]
        raise HarnessError(f"Slurm refuses the jobs: {'; '.join(filter(None, lines))}") from error
    return Array(jobs[0].job_id.split("_")[0], placement.workers, folder)


class Array:
    """A job array of workers.

    Args:
        number: Slurm's number of the array.
        workers: Number of workers.
        folder: Folder of their logs.
    """

    def __init__(self, number: str, workers: int, folder: Path) -> None:
        self.title = f"job {number}, an array of {workers}" if workers > 1 else f"job {number}"
        self.folder = folder
        self.logs = f"{number}_*_log.out"
        self.queue_command = f"squeue -j {number}"
        self.cancel_command = f"scancel {number}"

    def over(self) -> bool:
        """Return whether no worker is queued or running any more."""
        # Not sacct, which many clusters lack. Slurm forgets the numbers of jobs that have ended.
        asked = subprocess.run([*self.queue_command.split(), "-h"], capture_output=True, text=True)
        return not asked.stdout.strip() if asked.returncode == 0 else "Invalid job id" in asked.stderr

    def cancel(self) -> bool:
        """Cancel the jobs, which stop in good order; return whether Slurm accepted it, which prints why if not."""
        return subprocess.run(self.cancel_command.split(), check=False).returncode == 0


class _Worker:
    """A job. submitit pickles it, and calls it again after each requeue."""

    def __init__(self, job_spec: JobSpec) -> None:
        self.job_spec = job_spec

    def __call__(self) -> None:
        import submitit

        warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        requeue: Any = signal.getsignal(warning)  # submitit's handler, which ends the process: for after our own end
        stopped_by = self.job_spec.run([warning, signal.SIGTERM], submitit.JobEnvironment().paths.stdout)
        if stopped_by == warning or (stopped_by is not None and _is_running()):
            requeue(stopped_by, None)
        elif stopped_by is not None:  # cancelled, or already requeued
            sys.exit(128 + stopped_by)

    def checkpoint(self) -> Any:
        """Return what submitit calls after a requeue: this same job, for the study knows how far each trial is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _is_running() -> bool:
    """Return whether Slurm still counts this job as running: then SIGTERM means preemption, with time left."""
    command = ["squeue", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%T"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() == "RUNNING"
