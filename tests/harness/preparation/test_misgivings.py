"""What is doubtful of teachers and students at a glance, and who hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import EXAMPLE, Silent, opened
from safetensors.torch import save_file
from torch import Tensor

from harness.preparation.misgivings import misgivings
from harness.preparation.prepare import prepare
from harness.reporting.result import collect
from harness.reporting.sentences import notes
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space

LABELS = torch.tensor([0, 0, 0, 1, 2])


def sure_of(classes: Tensor) -> Tensor:
    """Logits that name these classes."""
    return 4 * torch.nn.functional.one_hot(classes, 3) - torch.tensor([1.0, 2.0, 0.5])


def test_a_teacher_that_knows_its_labels_raises_none() -> None:
    assert misgivings(sure_of(LABELS), LABELS) == []
    assert misgivings(sure_of(LABELS).abs(), LABELS) == []  # a ReLU is the doctor's to doubt


def test_a_teacher_that_knows_no_more_than_the_most_frequent_label_raises_one() -> None:
    (found,) = misgivings(sure_of(torch.tensor([0, 0, 1, 1, 1])), LABELS)
    assert found == "is right on 60% of the validation samples, and always the most frequent label on 60%"


def test_probabilities_raise_one() -> None:
    (found,) = misgivings(sure_of(LABELS).softmax(1), LABELS)
    assert found.startswith("gives probabilities where logits are wanted")
    assert misgivings(sure_of(LABELS).softmax(1)) == [found] and misgivings(sure_of(LABELS)) == []


@pytest.mark.parametrize(("network", "who"), [("perceptron(256)", "the teacher"), ("perceptron(width)", "a student")])
def test_a_search_says_it_of_either_at_its_start_and_beneath_its_result(
    network: str, who: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cancer.py"
    assert EXAMPLE.count(f"return {network}\n") == 1
    file.write_text(EXAMPLE.replace(f"return {network}\n", f"return nn.Sequential({network}, nn.Softmax(1))\n"))
    space, checkpoint = load_space(file), tmp_path / "teacher.safetensors"
    save_file(space.task.teacher().state_dict(), checkpoint)
    settings = Settings(
        space_name="cancer",
        space_file=file,
        study="s",
        storage=f"{tmp_path}/optuna.journal",
        runs_dir=tmp_path / "mlruns",
        teachers=(checkpoint,),
    )
    study = opened(settings, space)
    study.hold()
    prepare(settings, space, study, Terminal(), Silent())
    study.lease.release()
    said = f"{who} gives probabilities where logits are wanted: T and the losses soften them twice"
    look = f"python -m harness doctor --space {file} --runs-dir {settings.runs_dir} --teacher {checkpoint}"
    output = capsys.readouterr().out
    assert f"warning   {said}; look: " in output and f"{look}\n" in output
    assert f"Warning: {said}." in notes(collect(study))
