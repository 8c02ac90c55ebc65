"""Workers as tasks of a Ray cluster; one that is lost with its node is started again on another."""

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

_RETRIES = 100  # of a worker that is lost with its node, or dies; a trial that kills whoever takes it up ends it
_NAMESPACE = "kd-harness"


def submit(settings: Settings, placement: Placement, next_steps: Callable[[Outcome], str]) -> Tasks:
    """Submit the workers.

    Raises:
        HarnessError: If Ray is missing, or its cluster can't be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise HarnessError("--launcher ray needs Ray: pip install ray") from error
    address = placement.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if ":" in address and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection(tuple(address.rsplit(":", 1)), timeout=10).close()  # type: ignore[arg-type]
        ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # each way to reach a cluster fails by errors of its own
        raise HarnessError(
            f"--ray-address must be a Ray cluster that runs, but {redact(address)} is none: {one_line(error)}"
        ) from error
    name = f"kd-{settings.study}-{uuid.uuid4().hex[:6]}"
    folder = settings.runs_dir.resolve() / "ray" / name
    folder.mkdir(parents=True)
    keeper = ray.remote(_Keeper).options(name=name, lifetime="detached", num_cpus=0, max_restarts=-1)
    workers: Any = keeper.remote(job_spec(settings, placement.workers, next_steps), placement, folder)
    ray.get(workers.__ray_ready__.remote())  # until it lives, it ends with whoever asked for it, detached or not
    return Tasks(name, workers, placement, folder)


class Tasks:
    """The workers that were submitted together, known by the name of the actor that keeps them."""

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
        """Return whether none of them waits or runs any more."""
        import ray

        try:
            return bool(ray.get(self._keeper.over.remote(), timeout=10))
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            return False  # the actor's node was lost, and it is started again
        except ray.exceptions.RayActorError:
            return True  # it has ended itself

    def cancel(self) -> bool:
        """Let Ray end them; each stops in good order. Whether they are known to be told, or over."""
        import ray

        try:
            ray.get(self._keeper.cancel.remote())
        except ray.exceptions.ActorUnavailableError:
            return False
        except ray.exceptions.RayActorError:
            pass  # it has ended itself
        return True


class _Keeper:
    """An actor that owns the workers, so that who asked for them may go. Where its node is lost, it begins anew."""

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
    """A task. Ray starts one again whose process has died, and no other."""
    with (
        open(log, "a", buffering=1, encoding="utf-8", errors="replace") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        stopped_by = job_spec.run([signal.SIGINT, signal.SIGTERM], log)
    if stopped_by == signal.SIGTERM:  # its node is taken away; a task that is cancelled has SIGINT
        os._exit(1)
