"""Teachers that no gradient trains: an estimator behind a module, and a network whose weights are all frozen."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EXAMPLE, Silent, opened
from rich.console import Console
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from harness.core.errors import HarnessError
from harness.doctor import diagnose
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.reporting.result import collect
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space
from harness.studies.study import Study
from harness.tracking.spool import SPOOL, read_events
from lightning_modules.data import stratified_splits

AS_IT_IS = "nothing of it is trained by gradients: taken as it is"
FOREST = """
from sklearn.ensemble import RandomForestClassifier


class Forest(nn.Module):
    def __init__(self, random_state):
        super().__init__()
        inputs, labels = load_breast_cancer(return_X_y=True)
        train = stratified_splits(torch.from_numpy(inputs).float(), torch.from_numpy(labels))["train"]
        self.forest = RandomForestClassifier(20, random_state=random_state)
        self.forest.fit(train.inputs.numpy(), train.labels.numpy())

    def forward(self, inputs):
        shares = torch.from_numpy(self.forest.predict_proba(inputs.cpu().numpy()))
        return (shares + 1e-3).log().float()


class BreastCancer(Task):
"""
OWN = "return perceptron(256)"


def file_of(folder: Path, teacher: str) -> Path:
    """The README's example with another teacher."""
    assert EXAMPLE.count(OWN) == EXAMPLE.count("\nclass BreastCancer(Task):\n") == 1
    file = folder / "cancer.py"
    file.write_text(EXAMPLE.replace("\nclass BreastCancer(Task):\n", FOREST).replace(OWN, f"return {teacher}"))
    return file


def settings_of(folder: Path, file: Path, study: str = "s") -> Settings:
    storage = f"sqlite:///{folder}/optuna.db"
    return Settings(
        space_name="cancer",
        space_file=file,
        study=study,
        storage=storage,
        runs_dir=folder / "mlruns",
        accelerator="cpu",
    )


def prepared(settings: Settings) -> tuple[Prepared, Study]:
    """A study that is prepared as a search prepares it."""
    space = load_space(settings.file_of_space)
    study = opened(settings, space)
    study.join()
    try:
        return prepare(settings, space, study, Terminal(), Silent()), study
    finally:
        study.lock.release()


def test_a_forest_is_taken_as_it_is_scored_and_compared_with_nothing_that_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, study = prepared(settings_of(tmp_path, file_of(tmp_path, "Forest(0)")))
    output = capsys.readouterr().out
    assert output.count(f"teacher   {AS_IT_IS}\n") == 1 and "epochs" not in output and "warning" not in output

    # What scikit-learn itself says of the same samples is what is stored, and how it scores.
    inputs, labels = load_breast_cancer(return_X_y=True)
    splits = stratified_splits(torch.from_numpy(inputs).float(), torch.from_numpy(labels))
    forest = RandomForestClassifier(20, random_state=0)
    forest.fit(splits["train"].inputs.numpy(), splits["train"].labels.numpy())
    stored = found.data.teacher_outputs["val"]["logits"]
    shares = torch.from_numpy(forest.predict_proba(splits["val"].inputs.numpy())).float()
    torch.testing.assert_close(stored, (shares + 1e-3).log())
    accuracy = forest.score(splits["val"].inputs.numpy(), splits["val"].labels.numpy())
    assert study.attrs["kd.teacher"]["accuracy"] == pytest.approx(accuracy)
    assert f"teacher   accuracy {accuracy:.4f} (validation), no parameters, " in output

    counts = {"parameters", "trainable_parameters", "macs", "size_mb", "compression"}
    assert not counts & set(study.attrs["kd.teacher"]) and study.attrs["kd.teacher"]["speedup"] == 1
    metrics = found.costs.metrics({"width": 4})
    assert "compression" not in metrics and metrics["speedup"] > 0 and metrics["parameters"] == 60 + 31 * 4 + 5 * 2
    assert "compression" not in collect(study).columns and "speedup" in collect(study).columns
    (spool,) = (tmp_path / "mlruns" / "cache" / "teachers").glob(f"*/{SPOOL}")
    (begun,) = (event["params"] for event in read_events(spool) if event.get("params"))
    assert begun["source"] == "as it is"


def test_a_forest_is_found_again_and_told_from_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(tmp_path, file_of(tmp_path, "Forest(0)"))
    first, _ = prepared(settings)
    again, _ = prepared(settings)
    assert first.teacher_digest == again.teacher_digest
    torch.testing.assert_close(first.data.teacher_outputs, again.data.teacher_outputs, rtol=0, atol=0)
    other, _ = prepared(settings_of(tmp_path, file_of(tmp_path, "Forest(1)"), study="other"))
    assert other.teacher_digest != first.teacher_digest
    assert not torch.equal(other.data.teacher_outputs["val"]["logits"], first.data.teacher_outputs["val"]["logits"])
    with pytest.raises(HarnessError, match="two of them are"):
        prepared(replace(settings, study="three", trained_teachers=2))


def test_a_frozen_network_is_not_trained_and_has_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(tmp_path, file_of(tmp_path, "perceptron(256).eval().requires_grad_(False)"))
    found, study = prepared(settings)
    output = capsys.readouterr().out
    assert f"teacher   {AS_IT_IS}\n" in output and "epochs" not in output
    assert "the teacher is given in eval mode, and is trained so" not in output
    parameters = 60 + 31 * 256 + 257 * 2
    assert study.attrs["kd.teacher"]["parameters"] == parameters
    assert study.attrs["kd.teacher"]["trainable_parameters"] == 0
    assert found.costs.metrics({"width": 4})["compression"] == pytest.approx(parameters / (60 + 31 * 4 + 5 * 2))


def test_how_much_smaller_than_nothing_is_no_objective(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, file_of(tmp_path, "Forest(0)"))
    with pytest.raises(HarnessError) as refused:
        prepared(replace(settings, objectives=("accuracy", "compression")))
    assert str(refused.value) == (
        "--objectives must ask for costs that are known, but there is no compression of a teacher that has no "
        "parameters; ask for parameters or size_mb instead."
    )


@pytest.mark.parametrize(
    ("teacher", "size"), [("Forest(0)", "no"), ("perceptron(256).eval().requires_grad_(False)", "8,510")]
)
def test_the_doctor_says_so_and_examines_what_it_knows(tmp_path: Path, teacher: str, size: str) -> None:
    settings = settings_of(tmp_path, file_of(tmp_path, teacher))
    findings = {one.name: one for one in diagnose(settings, Terminal(Console(file=io.StringIO())))}
    assert findings["teacher"].found == f"{size} parameters; {AS_IT_IS}"
    assert (findings["teacher learns"].state, findings["teacher learns"].found) == ("ok", AS_IT_IS)
    assert findings["students"].state == findings["ignored"].state == "ok"
    assert findings["teacher knows"].state == ("ok" if size == "no" else "FAILED")  # the frozen one has learnt nothing
