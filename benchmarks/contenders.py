"""The contenders of ``benchmarks/against_tuners.py``: their commands, and the students that they have trained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import optuna
from optuna.trial import TrialState
from races import End, Race

from harness.preparation.concurrency import usable_cores

ROOT = Path(__file__).resolve().parent.parent
STUDY = "beside"

_SPACE_FILE = """\
from dataclasses import replace

from optuna.distributions import IntDistribution

from search_spaces.{module} import SPACE as WHOLE

SPACE = replace(WHOLE, student={{"width": IntDistribution({least}, {most}, log=True)}})
"""

CONTENDERS = {
    "harness": "harness",
    "script": "usual script, Optuna's TPE",
    "ray": "Ray Tune, OptunaSearch",
    "ray-asha": "Ray Tune, OptunaSearch, ASHA",
    "moasha": "Syne Tune, MO-ASHA, ranks mended",
}


def command_of(contender: str, race: Race, teacher: Path, folder: Path, *, trials: int, seed: int) -> list[str]:
    """Return the command line of a contender, to be run in ``folder``."""
    common = ["--epochs", str(race.epochs), "--trials", str(trials), "--seed", str(seed)]
    if contender == "harness":
        least, most = race.widths
        space = folder / f"{STUDY}.py"
        space.write_text(_SPACE_FILE.format(module=race.space.replace("-", "_"), least=least, most=most))
        objectives = ["--objectives", "accuracy,parameters"]
        return [str(ROOT / "search.py"), "--space", str(space), "--teacher", str(teacher), *objectives, *common]
    workers = ["--workers", str(usable_cores())]
    script, more = {
        "script": ("usual_script.py", []),
        "ray": ("ray_script.py", workers),
        "ray-asha": ("ray_script.py", [*workers, "--asha"]),
        "moasha": ("syne_script.py", workers),
    }[contender]
    widths = ["--widths", *map(str, race.widths)]
    return [str(ROOT / "benchmarks" / script), race.space, str(teacher), *widths, *common, *more]


class Ends:
    """The students that a contender has trained to the end so far, by their lines or, for the harness, its study."""

    def __init__(self, contender: str, folder: Path) -> None:
        self._is_harness, self._folder = contender == "harness", folder
        self._study: optuna.Study | None = None

    def read(self) -> list[End]:
        """Return all of them, in the order of their ends."""
        return sorted(self._of_study() if self._is_harness else self._of_lines(), key=lambda end: end.time)

    def _of_lines(self) -> list[End]:
        file = self._folder / "results.jsonl"
        # A line that is being written has no end yet.
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [End(**json.loads(line)) for line in lines if line.endswith("\n")]

    def _of_study(self) -> list[End]:
        if self._study is None:
            if not any(self._folder.glob(f"mlruns/trials/{STUDY}/*/student.safetensors")):
                return []  # it is not to be opened while the harness makes it
            self._study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{self._folder}/optuna.db")
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [End(t.datetime_complete.timestamp(), *t.values) for t in complete if t.datetime_complete]


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of a command, which keeps all of its files in ``folder``."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else it keeps a token in the home folder
        "RAY_TMPDIR": str(folder),
        "SYNETUNE_FOLDER": str(folder / "syne"),
    }
