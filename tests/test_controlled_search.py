"""Controls of a real search: trained once the trials are over, resumable, and seen in MLflow and the report."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import load, numbers, search, start, untimed, wait_for
from mlflow import MlflowClient
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

CANCER = ("--space", "cancer.py", "--trials", "3", "--epochs", "60")


def kept(folder: Path) -> dict[str, Any]:
    """What the study keeps of its controls, plain and tuned, less what is measured with a clock."""
    prefix = "kd.retrained."
    return {
        name.removeprefix(prefix): untimed(result["metrics"])
        for name, result in load(folder, "cancer").user_attrs.items()
        if name.startswith(prefix)
    }


def epochs_of_controls(folder: Path) -> list[int]:
    """Epochs in the spool of each control."""
    spools = sorted((folder / "mlruns" / "trials" / "cancer" / "controls").glob("*/spool.jsonl"))
    lines = [[line for line in spool.read_text().splitlines(keepends=True) if line.endswith("\n")] for spool in spools]
    return [sum(json.loads(line).get("step") is not None for line in each) for each in lines]


def test_every_student_on_the_front_has_a_control_with_the_names_of_a_trial(finished: Path) -> None:
    csv = pd.read_csv(finished / "mlruns" / "trials" / "cancer" / "report" / "trials.csv")
    front = csv[csv["front"]].set_index("number")
    controls = kept(finished)
    tries = [name for name in controls if name.startswith("tuned/")]
    assert controls.keys() - set(tries) == {f"controls/{number}" for number in front.index} and tries
    for number, row in front.iterrows():
        control = controls[f"controls/{number}"]
        assert control["parameters"] == row["parameters"] and control["accuracy"] == row["control"]
        over = {"plain": "control", "tuned": "tuned_control"}[row["gain_over"]]
        assert row["gain"] == row["accuracy"] - row[over]
        assert pd.isna(row["pick"]) or row["gain_over"] == "tuned"
    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    of_controls = client.search_runs(["1"], "tags.kd.role = 'control'")
    runs = {run.data.tags["kd.control_of"]: run for run in of_controls if run.data.tags["kd.control"] == "plain"}
    assert sorted(run.info.status for run in of_controls) == ["FINISHED"] * len(controls)
    trials = {run.data.tags["kd.trial"]: run for run in client.search_runs(["1"], "tags.kd.role = 'trial'")}
    (study,) = client.search_runs(["1"], "tags.kd.role = 'study'")
    assert set(runs) == {str(number) for number in front.index}
    for number, run in runs.items():
        trial = trials[number]
        assert run.info.status == "FINISHED" and run.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert run.data.metrics.keys() == trial.data.metrics.keys()
        assert trial.data.tags["kd.gain"] == f"{front.loc[int(number), 'gain']:+.4f}"
        assert run.data.params.keys() == trial.data.params.keys()
        assert run.data.params["alpha"] == "1.0" and run.data.params["width"] == trial.data.params["width"]
        folder = finished / "mlruns" / "trials" / "cancer"
        theirs, ours = (load_file(folder / place / "student.safetensors") for place in (f"controls/{number}", number))
        assert {name: value.shape for name, value in theirs.items()} == {
            name: value.shape for name, value in ours.items()
        }


def test_controls_that_are_killed_go_on_to_the_numbers_of_those_that_are_not(example: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "cancer.py").write_text((example / "cancer.py").read_text())
    # No latency among the objectives: it is measured anew in each study, and decides who is on the front.
    command = (*CANCER, "--objectives", "accuracy,parameters")
    search(whole, *command)
    process = start(example, *command)
    wait_for(lambda: any(0 < done < 60 for done in epochs_of_controls(example)))
    process.kill()
    process.wait()
    assert len(kept(example)) < len(kept(whole))
    output = search(example, *command)
    assert "resumes after epoch" in output or "0/" in output
    assert kept(example) == kept(whole) and numbers(example, "cancer") == numbers(whole, "cancer")
    again = search(example, *command)
    assert "is finished: 3 trials" in again and "controls" not in again.split("is finished")[0]
    client = MlflowClient(f"sqlite:///{example}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'control'")
    assert len(runs) == len(kept(whole)) and {run.info.status for run in runs} == {"FINISHED"}


def test_controls_are_left_out_where_they_are_not_wanted_and_made_later(example: Path) -> None:
    command = ("--space", "cancer.py", "--trials", "2", "--epochs", "1", "--min", "none")
    assert "controls  " not in search(example, *command, "--no-controls") and kept(example) == {}
    assert "controls  0/" in search(example, *command) and kept(example)


def states_of_controls(folder: Path) -> set[tuple[str, str]]:
    """Status and state of the runs of controls, as MLflow has them."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs(["1"], "tags.kd.role = 'control'")
    return {(run.info.status, run.data.tags.get("kd.state", "")) for run in runs}


def test_controls_that_are_stopped_are_said_to_be_left_and_wait(example: Path) -> None:
    long = (*CANCER[:4], "--epochs", "600")
    process = start(example, *long)
    wait_for(lambda: any(0 < done < 600 for done in epochs_of_controls(example)))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    output = (example / "output.txt").read_text()
    (all_of_them,) = re.findall(r"(\d+) trainings on labels alone", output)
    left = int(all_of_them) - len(kept(example))
    assert f"stopped with all 3 trials finished and {left} controls left; the same command trains them" in output
    again = next(line for line in output.splitlines() if line.startswith("  go on "))
    assert again.endswith("--trials 3 --epochs 600")
    assert (
        ("SCHEDULED", "WAITING")
        in states_of_controls(example)
        <= {
            ("SCHEDULED", "WAITING"),
            ("FINISHED", "COMPLETE"),
        }
    )


def test_controls_that_were_killed_and_are_not_wanted_any_more_do_not_say_that_they_run(example: Path) -> None:
    process = start(example, *CANCER)
    wait_for(lambda: any(0 < done < 60 for done in epochs_of_controls(example)))
    process.send_signal(signal.SIGSTOP)  # or the control may be over before MLflow was told that it runs
    wait_for(lambda: ("RUNNING", "RUNNING") in states_of_controls(example))
    mirror = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*map(int, mirror), process.pid):  # as where the machine is lost: nobody is left to say it
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert ("RUNNING", "RUNNING") in states_of_controls(example)
    search(example, *CANCER, "--no-controls")
    assert (
        ("SCHEDULED", "WAITING")
        in states_of_controls(example)
        <= {
            ("SCHEDULED", "WAITING"),
            ("FINISHED", "COMPLETE"),
        }
    )


MIXED = """
import os

import torch
import torch.nn.functional as F

from lightning_modules.data.views import Views, uniforms


class Mixed(Views):
    def __init__(self, split):
        super().__init__(count=2)
        object.__setattr__(self, "split", split)

    def of(self, inputs, ids, view):
        drawn = torch.from_numpy(uniforms(self.seed, ids, view, draws=2)).float()
        others, share = (drawn[:, 0] * len(self.split)).long(), 0.5 + drawn[:, 1:] / 2
        mixed = share * inputs + (1 - share) * self.split.inputs[others]
        own, theirs = (F.one_hot(self.split.labels[of], 2) for of in (ids, others))
        return (mixed, share * own + (1 - share) * theirs) if os.path.exists("fair") else mixed


def mixing(data):
    data.views = Mixed(data.splits["train"])
    return data
"""


def test_views_that_mix_samples_have_no_control_unless_their_targets_are_mixed_too(example: Path) -> None:
    code = (example / "cancer.py").read_text().replace("return TensorDataModule(**splits, batch_size=32)", "DATA")
    code = code.replace("DATA", "return mixing(TensorDataModule(**splits, batch_size=32))")
    (example / "cancer.py").write_text(code.replace("class BreastCancer", f"{MIXED}\n\nclass BreastCancer"))
    command = ("--space", "cancer.py", "--trials", "2", "--epochs", "3", "--pruner", "none", "--min", "none")
    output = " ".join(search(example, *command).split())
    assert "no control possible: the views mix samples (view 0 of training sample" in output
    assert "let Views.of return (inputs, targets)" in output and "Gain:" not in output and kept(example) == {}
    report = example / "mlruns" / "trials" / "cancer" / "report"
    assert pd.read_csv(report / "trials.csv")[["control", "tuned_control", "gain"]].isna().all(axis=None)
    (study,) = MlflowClient(f"sqlite:///{example}/mlflow.db").search_runs(["1"], "tags.kd.role = 'study'")
    assert study.data.tags["kd.no_control"].startswith("the views mix samples")
    (example / "fair").touch()
    output = " ".join(search(example, *command, "--study", "fair").split())
    assert "no control possible" not in output and "Gain: improvement in accuracy over the tuned control" in output
