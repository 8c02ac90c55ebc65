"""Running the real command, and reading what it left."""

from __future__ import annotations

import atexit
import fcntl
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tests run beside one another: threads would wait for one another at each of a thousand small steps.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from forked import Forked

from harness.core.content import exclusive
from harness.metrics import METRICS
from harness.settings import Places, Settings, StudyPlaces
from harness.tracking.mirror import Mirror

if TYPE_CHECKING:  # imported where they are used: the process that starts pytest-xdist's workers needs none of them
    from harness.space import SearchSpace
    from harness.studies.claim import Claim
    from harness.studies.study import Study

# Each Trainer of Lightning (not imported yet) looks for callbacks in the metadata of all installed packages: 13 of
# the 15 ms of CPU that it takes. The doctor makes four. No test installs a package.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)

ROOT = Path(__file__).resolve().parent.parent

README = (ROOT / "README.md").read_text()
EXAMPLE = re.search(r"## Your own task.*?```python\n(.*?)```", README, re.DOTALL)[1]  # type: ignore[index]
"""The README's example of a task of one's own."""
_SAMPLER = """
    def sampler(self, split, seed, epoch):
        time.sleep(0.05)
        return torch.randperm(len(split), generator=torch.Generator().manual_seed((seed + epoch) % 2**63))

    def teacher(self):"""
LASTING = EXAMPLE.replace("import torch\n", "import time\n\nimport torch\n", 1).replace(
    "\n    def teacher(self):", _SAMPLER
)
"""The example with epochs of 50 ms, which wait for most of it: its trials last, and leave processors to other tests."""

PATIENCE_S = 600
"""How long a test waits for what must come, however busy the machine is. Only a failure takes it."""


TEACHER_COSTS: dict[str, float] = {
    "parameters": 1000,
    "trainable_parameters": 900,
    "macs": 5000,
    "size_mb": 0.5,
    "latency_p50_ms": 3.0,
    "latency_p95_ms": 4.0,
    "throughput_per_s": 10.0,
}
"""Costs of a teacher, in numbers that can be worked with by hand."""


def environment() -> dict[str, str]:
    """This process's environment, without what would move the files."""
    moved = {"KD_STORAGE", "KD_RUNS_DIR", "MLFLOW_TRACKING_URI"}
    kept = {name: value for name, value in os.environ.items() if name not in moved}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def typed(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ``python search.py`` in ``folder`` as a person does; its output goes to ``folder/output.txt``."""
    with open(folder / "output.txt", "w") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "search.py"), *one_worker(arguments)],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def start(folder: Path, *arguments: str) -> Forked:
    """Start ``search.py`` in ``folder``, its libraries imported; its output goes to ``folder/output.txt``."""
    return Forked(ROOT / "search.py", *one_worker(arguments), output=folder / "output.txt", env=environment())


def one_worker(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Arguments that ask for one worker, where none say how many: or the numbers depend on who is faster."""
    return arguments if "--workers" in arguments else ("--workers", "1", *arguments)


def search(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Run ``search.py`` in ``folder`` to its end; what it printed."""
    return ended(start(folder, *arguments), folder / "output.txt", expect=expect)


def engine(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Run ``python -m harness`` in ``folder``, its libraries imported; what it printed."""
    file = folder / "engine.txt"
    return ended(Forked("harness", *arguments, output=file, env=environment()), file, expect=expect)


def ended(process: Forked | subprocess.Popen[str], file: Path, *, expect: int = 0) -> str:
    """Wait for a command to end as expected; what it printed into ``file``."""
    try:
        code = process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    output = file.read_text()
    assert code == expect, output
    return output


def wait_for(condition: Callable[[], Any]) -> Any:
    """Poll until ``condition`` holds; what it gave."""
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def epochs_logged(folder: Path, study: str, number: int) -> int:
    """Epochs in the spool of a trial."""
    spool = folder / "mlruns" / "trials" / study / str(number) / "spool.jsonl"
    events = (
        [json.loads(line) for line in spool.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if (spool.exists())
        else []
    )
    return sum(event["event"] == "metrics" and event["step"] is not None for event in events)


def epochs_of_checkpoint(folder: Path, study: str, number: int) -> int:
    """After how many epochs a trial would go on."""
    from harness.training.checkpoint import epochs_kept

    return epochs_kept(folder / "mlruns" / "trials" / study / str(number))


@pytest.fixture
def kept_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after each epoch, however short, of what is trained in this process."""
    monkeypatch.setattr("harness.training.fit.CHECKPOINTS_APART_S", 0)


def load(folder: Path, study: str) -> Any:
    """The Optuna study in ``folder``."""
    import optuna

    return optuna.load_study(study_name=study, storage=f"sqlite:///{folder}/optuna.db")


def settings_in(folder: Path, *, trials: int) -> Settings:
    """Return the settings of a digits study ``s`` in a SQLite database that has Optuna's tables already."""
    database = folder / "optuna.db"
    if folder.is_dir() and not database.exists():
        shutil.copy(_empty_study_database(), database)
    return Settings(
        space_name="digits",
        space_file=Path("digits.py"),
        study="s",
        trials=trials,
        storage=f"sqlite:///{database}",
        runs_dir=folder / "mlruns",
    )


def places_of(settings: Settings) -> StudyPlaces:
    """What a command knows of a study that only reads it."""
    return StudyPlaces(**{field.name: getattr(settings, field.name) for field in fields(StudyPlaces)})


@dataclass(frozen=True, kw_only=True)
class Moving(Settings):
    """The settings of a study that is to be moved, and where to."""

    to: str


@functools.cache
def _empty_study_database() -> Path:
    from harness.storage.access import open_storage

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    file = folder / "optuna.db"
    open_storage(Places(storage=f"sqlite:///{file}", runs_dir=folder)).close_connections()
    return file


class Silent(Mirror):
    """No process: nothing is sent."""

    shares_files = False

    def __init__(self) -> None:
        pass

    def notify(self, folder: Path) -> None:
        pass


def is_free(lock: Path) -> bool:
    """Whether nobody holds a locked file."""
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def claimed(study: Study, space: SearchSpace) -> Claim | None:
    """A claim as a new process makes it, which has proposed nothing yet."""
    from harness.sampling.proposal import Proposer
    from harness.studies.claiming import TrialClaimer

    settings = study.settings
    proposer = Proposer(space, sampler=settings.sampler, seed=settings.seed, directions=study.directions)
    return TrialClaimer(study, proposer).claim()


def numbers(folder: Path, study: str) -> list[Any]:
    """What each trial tried and what it reached, less what is measured with a clock."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.params,
            untimed(trial.user_attrs.get("metrics", {})),
        )
        for trial in load(folder, study).trials
    ]


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are the same in every run of a trial: those in which no clock has a say."""
    return {name: value for name, value in metrics.items() if name not in METRICS or not METRICS[name].is_timed}


def opened(settings: Settings, space: SearchSpace | None = None) -> Study:
    """The study, as a new process finds it; of the digits, unless another space is given."""
    from harness.storage.access import open_storage
    from harness.studies.opening import open_study
    from search_spaces.digits import SPACE

    space = SPACE if space is None else space
    return open_study(settings, replace(space, epochs=settings.epochs or space.epochs), open_storage(settings))


def prepared_with_fresh_teacher(space_file: Path) -> Study:
    """Prepare a study of a space, in its file's folder, that is given the task's own teacher with fresh weights."""
    from safetensors.torch import save_file

    from harness.preparation.prepare import prepare
    from harness.screen.terminal import Terminal
    from harness.space import load_space

    folder, space = space_file.parent, load_space(space_file)
    checkpoint = folder / "teacher.safetensors"
    save_file(space.task.teacher().state_dict(), checkpoint)
    settings = Settings(
        space_name=space_file.stem,
        space_file=space_file,
        study="s",
        storage=f"sqlite:///{folder}/optuna.db",
        runs_dir=folder / "mlruns",
        teachers=(checkpoint,),
    )
    study = opened(settings, space)
    study.join()
    prepare(settings, space, study, Terminal(), Silent())
    study.lock.release()
    return study


def metrics(accuracy: float, cost: float) -> dict[str, float]:
    return {"accuracy": accuracy, **dict.fromkeys(METRICS, cost)}


_MEMORY, _NEEDED = Path("/dev/shm"), 4 << 30  # bytes; the fast tests leave far less


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of the fast tests in memory, where there is room: on a disk, SQLite waits at each commit.

    Slow tests stay on the disk, which is where searches are killed and go on.
    """
    fast = "not slow" in (config.getoption("markexpr") or "")
    if fast and _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _NEEDED:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a file is one worker's, and short ones at the end leave none of them idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch has two threads in this process, for a test of what becomes of them."""
    import torch

    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables in it, which take two seconds to make: one for all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "empty-store"
    file = folder / "mlflow.db"  # the name that a copy of it keeps
    with exclusive(folder / "lock"):
        if not file.exists():
            from mlflow import MlflowClient

            MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def example(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with the README's example in it, and MLflow's tables."""
    (tmp_path / "cancer.py").write_text(EXAMPLE)
    shutil.copy(empty_store, tmp_path)
    return tmp_path


@pytest.fixture
def lasting(example: Path) -> Path:
    """A folder with the example whose epochs last, and MLflow's tables."""
    (example / "cancer.py").write_text(LASTING)
    return example


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the README's example, searched to the end: 8 trials of study ``cancer``, none pruned."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "cancer.py").write_text(EXAMPLE)
    command = ("--space", "cancer.py", "--trials", "8", "--epochs", "6", "--pruner", "none")
    search(folder, *command)
    yield folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server (``servers.Postgres``) for tests that leave it running."""
    from servers import Postgres

    server = Postgres()
    yield server
    server.close()
