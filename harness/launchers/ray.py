"""Run workers as tasks of a Ray cluster; a task that is lost with its node is started again on another."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.addresses import redact
from harness.core.errors import HarnessError, one_line
from harness.launchers.placement import Placement
from harness.launchers.remote import JobSpec, job_spec
from harness.outcome import Outcome
from harness.settings import Settings

_RETRIES = 100  # of a worker that dies or is lost with its node; not without limit, for a trial may kill each
_NAMESPACE = "kd-harness"


def submit(settings: Settings, placement: Placement, next_steps: Callable[[Outcome], str]) -> Tasks:
    """Submit the workers.

    Args:
        settings: What each worker does.
        placement: Where they run.
        next_steps: Returns what is printed at the end of each worker's log.

    Raises:
        HarnessError: If Ray is missing, or its cluster can't be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise HarnessError("--launcher ray needs Ray: pip install ray") from error
    address = placement.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if ":" in address and "://" not in address:  # Ray itself would retry for minutes
            socket.create_connection(tuple(address.rsplit(":", 1)), timeout=10).close()  # type: ignore[arg-type]
        if ray.is_initialized():  # by an earlier search of this process, or by the user's own program
            connected = ray.get_runtime_context().gcs_address
            if placement.ray_address not in (None, "", "auto", connected):
                raise HarnessError(f"this process is connected to {redact(connected)}; call ray.shutdown() first")
        else:
            ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # each kind of address fails with errors of its own
        raise HarnessError(
            f"--ray-address must be a Ray cluster that runs, but {redact(address)} is none: {one_line(error)}"
        ) from error
    name = f"kd-{settings.study}-{uuid.uuid4().hex[:6]}"
    folder = settings.runs_dir.resolve() / "ray" / name
    folder.mkdir(parents=True)
    keeper = ray.remote(_Keeper).options(
        name=name, namespace=_NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1
    )
    workers: Any = keeper.remote(job_spec(settings, placement.workers, next_steps), placement, folder)
    ray.get(workers.__ray_ready__.remote())  # until it runs, even a detached actor ends with this process
    return Tasks(name, workers, placement, folder)


class Tasks:
    """The tasks of workers, addressed through the named actor that owns them."""

    def __init__(self, name: str, keeper: Any, placement: Placement, folder: Path) -> None:
        self.title = f"{name}, tasks of {placement.workers} workers" if placement.workers > 1 else f"{name}, a task"
        self.folder = folder
        self.logs = "worker-*.log"
        address = redact(placement.ray_address or "auto")
        actor = f"ray.init('{address}', namespace='{_NAMESPACE}'); ray.get(ray.get_actor('{name}').cancel.remote())"
        self.queue_command = "ray status"
        self.cancel_command = f'python -c "import ray; {actor}"'
        self._keeper = keeper

    def over(self) -> bool:
        """Return whether no worker is queued or running any more."""
        import ray

        try:
            return bool(ray.get(self._keeper.over.remote(), timeout=10))
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            return False  # the actor's node was lost, and Ray restarts the actor
        except ray.exceptions.RayActorError:
            return True  # it ends itself after its last task

    def cancel(self) -> bool:
        """Cancel the tasks, which stop in good order; return whether the actor got the message, or has ended."""
        import ray

        try:
            ray.get(self._keeper.cancel.remote())
        except ray.exceptions.ActorUnavailableError:
            return False
        except ray.exceptions.RayActorError:
            pass  # it ends itself after its last task
        return True


class _Keeper:
    """An actor that owns the tasks, so that the submitting process may end. Ray restarts it if its node is lost."""

    def __init__(self, job_spec: JobSpec, placement: Placement, folder: Path) -> None:
        import ray

        worker = ray.remote(_work).options(num_cpus=placement.cpus, num_gpus=placement.gpus, max_retries=_RETRIES)
        self.tasks = [worker.remote(job_spec, folder / f"worker-{n}.log") for n in range(placement.workers)]
        threading.Thread(target=self._end, daemon=True).start()

    def over(self) -> bool:
        import ray

        return len(ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)[0]) == len(self.tasks)

    def cancel(self) -> None:
        import ray

        for task in self.tasks:
            ray.cancel(task)

    def _end(self) -> None:
        import ray

        ray.wait(self.tasks, num_returns=len(self.tasks))
        ray.kill(ray.get_runtime_context().current_actor)


def _work(job_spec: JobSpec, log: Path) -> None:
    """Run a worker as a task. Ray restarts it only if its process has died."""
    with (
        open(log, "a", buffering=1, encoding="utf-8", errors="replace") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        stopped_by = job_spec.run([signal.SIGINT, signal.SIGTERM], log)
    if stopped_by == signal.SIGTERM:  # its node is taken away; to cancel a task, Ray sends SIGINT
        os._exit(1)
