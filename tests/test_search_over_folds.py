"""A search whose score is the mean over folds: a teacher for each, and nothing lost when it is killed between two."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest
from conftest import ROOT, epochs_logged, load, search, start, wait_for

pytestmark = pytest.mark.slow

EXAMPLE = (ROOT / "examples" / "k_fold.py").read_text()
FOLDS, EPOCHS = 5, 8
FLAGS = ("--trials", "2", "--controls", "none", "--min", "none", "--objectives", "parameters", "--epochs", str(EPOCHS))


def scores(folder: Path) -> list[dict[str, float]]:
    timed = ("latency", "throughput", "speedup")
    return [
        {name: value for name, value in trial.user_attrs["metrics"].items() if not name.startswith(timed)}
        for trial in load(folder, "space").trials
    ]


def test_a_score_is_the_mean_over_folds_and_a_killed_trial_goes_on_in_the_fold_that_it_was_in(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        (folder / "space.py").write_text(EXAMPLE)
    output = search(whole, "--space", "space.py", *FLAGS)
    teachers = load(whole, "space").user_attrs["kd.prepared"]["teacher"].removeprefix("folds of ")
    assert len({*teachers.split(", ")}) == FOLDS  # each trained on other samples
    for one in scores(whole):
        folds = [one[f"fold_{number}/accuracy"] for number in range(1, FOLDS + 1)]
        assert one["accuracy"] == pytest.approx(fmean(folds)) and one["fold_spread"] == pytest.approx(stdev(folds))
        assert one["accuracy"] > 0.5 and len({*folds}) > 1
    assert "in the first of 5 folds" in output and "Each fold has a teacher of its own" in output

    process = start(cut, "--space", "space.py", *FLAGS)
    second = cut / "mlruns" / "trials" / "space" / "0" / "fold-2"
    wait_for(lambda: epochs_logged(cut, "space", 0) >= EPOCHS and any(second.glob("checkpoint-*")))
    process.kill()
    process.wait()
    assert "it resumes after epoch" in search(cut, "--space", "space.py", *FLAGS)
    assert scores(cut) == scores(whole) and not second.exists()
