"""A method of distillation that a space file brings: searched, controlled and checked like the others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EXAMPLE, engine, load, search
from optuna.distributions import CategoricalDistribution, IntDistribution

from harness.core.errors import HarnessError
from harness.preparation.method_checks import student_layers, teacher_layers
from harness.space import Method, load_space
from lightning_modules.methods import Criterion
from search_spaces.digits import SPACE

FLAT = 'distillation={"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)},'
OWN = '''
from torch import nn
from harness.space import Method
from lightning_modules.methods import Criterion, Term


class Squared(Criterion):
    """Squared difference of the logits, beside the true labels."""

    def __init__(self, *, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, logits, batch, features=None):
        hard = nn.functional.cross_entropy(logits, batch.target)
        return {"hard_loss": Term(1.0, hard), "squared": Term(self.weight, TERM)}


'''
TERM = '((logits - batch.teacher["logits"]) ** 2).mean()'
BOTH = """distillation={
        "squared": Method(Squared, {"weight": FloatDistribution(0.1, 10, log=True)}),
        "soft_target": {"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)},
    },"""


def written(folder: Path, *, distillation: str = BOTH, term: str = TERM) -> None:
    assert EXAMPLE.count(FLAT) == 1
    before, marker, after = EXAMPLE.partition("class ")
    text = before + OWN.replace("TERM", term) + marker + after
    (folder / "cancer.py").write_text(text.replace(FLAT, distillation))


@pytest.mark.slow
def test_a_method_of_one_s_own_is_searched_beside_others_and_has_controls(example: Path) -> None:
    written(example)
    flags = ("--space", "cancer.py", "--epochs", "3", "--pruner", "none", "--fix", "method=squared", "--trials")
    output = search(example, *flags, "4")
    assert "4/4 done" in output and "controls" in output
    own = load(example, "cancer").trials
    assert {trial.state.name for trial in own} == {"COMPLETE"}
    assert all(trial.params.keys() >= {"weight"} and "temperature" not in trial.params for trial in own)
    spool = (example / "mlruns" / "trials" / "cancer" / "0" / "spool.jsonl").read_text()
    assert '"train/squared"' in spool and '"val/squared"' in spool
    assert "5/5 done" in search(example, *flags, "5")


@pytest.mark.slow
def test_the_doctor_checks_a_method_of_one_s_own(example: Path) -> None:
    written(example)
    told = engine(example, "doctor", "--space", "cancer.py")
    assert re.search(r"ok +methods +squared, soft_target$", told, re.MULTILINE), told
    written(example, term='batch.teacher["logits"].mean() + 0 * logits.mean()')
    told = engine(example, "doctor", "--space", "cancer.py", expect=1)
    assert "the student's gradient does not change with weight of squared" in told


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("3.0", "the value of 'squared' is float"),
        ('(logits - batch.teacher["logits"]) ** 2', "the value of 'squared' is [360, 2]"),
        ("(logits.detach() * 0 + float('nan')).mean()", "'squared' is nan with weight"),
        ("undefined_name", "NameError: name 'undefined_name' is not defined"),
    ],
)
@pytest.mark.slow
def test_a_method_that_gives_no_loss_is_refused_before_a_trial_trains(example: Path, term: str, said: str) -> None:
    written(example, term=term)
    output = search(example, "--space", "cancer.py", "--trials", "2", "--epochs", "1", expect=2)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "method 'squared'" in error and said.split("[")[0] in error
    assert not load(example, "cancer").trials


@pytest.mark.slow
def test_a_method_that_label_smoothing_does_not_reach_is_refused(example: Path) -> None:
    written(example)
    file, flags = example / "cancer.py", ("--space", "cancer.py", "--trials", "1", "--epochs", "1", "--no-controls")
    smooth = 'training={"label_smoothing": FloatDistribution(0, 0.2), '
    file.write_text(file.read_text().replace("training={", smooth))
    output = search(example, *flags, expect=2)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "method 'squared' ignores the label_smoothing of the training: take its loss from the labels from" in error
    file.write_text(
        file.read_text().replace("nn.functional.cross_entropy(logits, batch.target)", "self.hard_loss(logits, batch)")
    )
    assert "1/1 done" in search(example, *flags, "--study", "other")


GROWS = """
        if not hasattr(self, "layer"):
            self.layer = nn.Linear(2, 2)
"""
COUNTS = """
        self.steps = getattr(self, "steps", 0) + 1
"""


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (GROWS, "'layer.bias' is made by its first call, and no optimizer trains it; make it in __init__() or setup()"),
        (COUNTS, "its attribute 'steps' changes in training and is in no checkpoint; make it a buffer"),
    ],
)
@pytest.mark.slow
def test_a_method_that_a_checkpoint_does_not_hold_is_refused(example: Path, first: str, said: str) -> None:
    written(example)
    file, begins = example / "cancer.py", "    def forward(self, logits, batch, features=None):\n        hard"
    assert file.read_text().count(begins) == 1
    file.write_text(file.read_text().replace(begins, begins.removesuffix("        hard") + first + "        hard"))
    output = search(example, "--space", "cancer.py", "--trials", "2", "--epochs", "1", expect=2)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "method 'squared' can't be resumed: " in error and said in error


@pytest.mark.slow
def test_methods_with_generators_helpers_and_functions_are_not_refused(example: Path) -> None:
    written(example)
    file, begins = example / "cancer.py", "        self.weight = weight\n"
    assert file.read_text().count(begins) == 1
    kept = """
        import functools, torch
        self.draws = torch.Generator().manual_seed(0)
        self.helper = type("Helper", (), {})()
        self.mean = functools.partial(torch.mean, dim=0)
        self.own = self.forward
"""
    used = "        torch = __import__('torch'); torch.rand(1, generator=self.draws)\n        hard"
    file.write_text(file.read_text().replace(begins, begins + kept).replace("        hard", used, 1))
    flags = ("--space", "cancer.py", "--trials", "2", "--epochs", "1", "--no-controls", "--fix", "method=squared")
    assert "2/2 done" in search(example, *flags)


def test_layers_that_several_parameters_name_together_are_all_known() -> None:
    class Deep(Criterion):
        def __init__(self, *, stage: str, depth: int) -> None:
            super().__init__()
            self.student_layers = self.teacher_layers = (f"{stage}.{depth}",)

    parameters = {"stage": CategoricalDistribution(["a", "b"]), "depth": IntDistribution(0, 2)}
    space = replace(SPACE, distillation={"deep": Method(Deep, parameters)})
    named = {f"{stage}.{depth}" for stage in "ab" for depth in range(3)}
    assert set(student_layers(space)) == set(teacher_layers(space)) == named


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ('{"squared": Method(Squared, {})}', "'weight' is missing"),
        ('{"squared": Method(Squared, {"wieght": FloatDistribution(0, 1)})}', "'wieght', which would reach nothing"),
        ('{"squared": Method(nn.Linear, {})}', "must have a class of Criterion"),
        ('{"hint": Method(Squared, {"weight": FloatDistribution(0, 1)})}', "must have another name than those of"),
        ('{"squared": {"weight": FloatDistribution(0, 1)}}', "or give a Method(criterion, parameters)"),
    ],
)
def test_a_declaration_that_reaches_nothing_is_refused(tmp_path: Path, declared: str, said: str) -> None:
    written(tmp_path, distillation=f"distillation={declared},")
    file = tmp_path / "cancer.py"
    with pytest.raises(HarnessError, match=f"^space file {file}, line .*{re.escape(said)}"):
        load_space(file)


LAYERS = """    student_layers, teacher_layers = ("{}",), ("{}",)

    def __init__"""


@pytest.mark.slow
def test_a_method_of_one_s_own_is_given_the_layers_that_its_class_names(example: Path) -> None:
    term = '(features["0"].mean() - batch.teacher["0"].mean()) ** 2'
    flags = ("--space", "cancer.py", "--epochs", "1", "--fix", "method=squared", "--no-controls", "--trials", "1")
    for student, said in (("0", "1/1 done"), ("nowhere", "method 'squared' can't be searched with")):
        written(example, term=term)
        named = LAYERS.format(student, "0") + "(self, *, weight"
        file = example / "cancer.py"
        file.write_text(file.read_text().replace("    def __init__(self, *, weight", named))
        assert said in search(example, *flags, "--study", f"s{student}", expect=0 if said == "1/1 done" else 2)
