"""The command, searching what students start from, with students that are handed the teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import load, search
from safetensors.torch import save_file

from harness import load_study
from harness.cost.table import CostTable
from lightning_modules.data.embedded import digits

SPACE = """
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import nn

from harness import SearchSpace
from search_spaces.digits import Digits


class Small(Digits):
    teacher_epochs = 2

    def teacher(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def student(self, *, width, teacher):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, teacher[3].out_features))


SPACE = SearchSpace(
    task=Small(),
    student={"width": CategoricalDistribution([8])},
    distillation={"temperature": FloatDistribution(1, 8), "alpha": FloatDistribution(0, 0.9)},
    initial={"start": CategoricalDistribution(["pruned", "scratch", "w.safetensors"])},
    epochs=1,
)
"""


@pytest.mark.slow
def test_a_student_that_was_handed_an_assistant_is_loaded_again(tmp_path: Path) -> None:
    space = SPACE.replace("nn.Linear(64, width)", "nn.Linear(64, teacher[1].out_features // 2)")
    space = space.replace("nn.Linear(width, ", "nn.Linear(teacher[1].out_features // 2, ")
    (tmp_path / "small.py").write_text(space.split("    initial=")[0] + "    epochs=1,\n)\n")
    flags = ("--space", "small.py", "--trials", "1", "--objectives", "accuracy,parameters", "--min", "none")
    for study, *teacher in (("first",), ("second", "--teacher", "mlruns/trials/first/0/student.safetensors")):
        search(tmp_path, *flags, "--study", study, "--controls", "none", *teacher)
    storage, runs = f"sqlite:///{tmp_path}/optuna.db", tmp_path / "mlruns"
    widths = {}
    for study in ("first", "second"):
        found = load_study(study, storage=storage, runs_dir=runs, space=tmp_path / "small.py")
        widths[study] = found.student(0)[1].out_features  # type: ignore[index]
    assert widths == {"first": 16, "second": 8}  # half of the teacher's 32, and half of the assistant's


@pytest.mark.slow
def test_what_students_start_from_is_searched_told_logged_and_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SPACE)
    save_file({"3.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    flags = ("--space", "small.py", "--trials", "4", "--sampler", "random", "--objectives", "accuracy,parameters")
    output = search(tmp_path, *flags, "--pruner", "none", "--no-controls", "--min", "none")
    assert output.count("start     pruned: of student(width=8) 610 of 610 parameters, 4 of 4 tensors") == 1
    assert output.count("start     w.safetensors: of student(width=8) 10 of 610 parameters, 1 of 4 tensors; ") == 1
    trials = load(tmp_path, "small").trials
    assert {trial.params["start"] for trial in trials} >= {"pruned", "scratch"}
    for trial in trials:
        spool = (tmp_path / "mlruns" / "trials" / "small" / str(trial.number) / "spool.jsonl").read_text()
        events = [json.loads(line) for line in spool.splitlines()]
        tags = [event["values"] for event in events if event["event"] == "tags"]
        begun = [each["kd.start"] for each in tags if "kd.start" in each]
        told = {"pruned": ["610 of 610 parameters, 4 of 4 tensors"], "scratch": []}
        assert begun == told.get(trial.params["start"], ["10 of 610 parameters, 1 of 4 tensors"])
    costs = CostTable.from_json(load(tmp_path, "small").user_attrs["kd.costs"])
    assert len(costs.students) == 1  # whatever it starts from
    result = load_study(
        "small", storage=f"sqlite:///{tmp_path}/optuna.db", runs_dir=tmp_path / "mlruns", space=tmp_path / "small.py"
    )
    val = digits(batch_size=64).splits["val"]
    for trial in trials[:2]:
        right = result.student(trial.number)(val.inputs).argmax(-1) == val.labels
        assert float(right.float().mean()) == pytest.approx(trial.user_attrs["metrics"]["accuracy"])
