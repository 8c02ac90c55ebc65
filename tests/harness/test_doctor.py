"""The doctor: each check fails on the task that breaks it, with its remedy, and no other check does."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EXAMPLE, environment
from rich.console import Console
from safetensors.torch import load_file, save_file

from harness.cli import SPACES_DIR
from harness.doctor import CHECKS, diagnose
from harness.doctor.check import Finding
from harness.fit import seed_draws
from harness.prepare import fingerprint
from harness.settings import Settings
from harness.space import load_space
from harness.spool import Spool
from harness.teacher import Teacher, network_digest
from harness.teacher_outputs import make_teacher_outputs
from harness.terminal import Terminal
from lightning_modules.datasets import DEBIAN_FASHION_MNIST

HEALTHY = """\
import numpy as np
import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassHingeLoss

from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.tensors import Split, TensorDataModule
from lightning_modules.views import Views, uniforms


def points(samples, seed):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    inputs = torch.randn(samples, 8, generator=draws) + 2 * labels[:, None]
    return Split(inputs, labels)


class Noise(Views):
    def of(self, inputs, ids, view):
        return inputs + 0.1 * torch.from_numpy(uniforms(self.seed, ids, view, draws=8)).float()


class Net(nn.Module):
    def __init__(self, width, depth=1, classes=3):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.norm = nn.BatchNorm1d(width)
        self.hidden = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs):
        return self.head(self.drop(F.leaky_relu(self.hidden(self.norm(self.stem(inputs))))))


class Points(Task):
    def data(self, data_dir):
        train, val, test = points(200, 1), points(60, 2), points(50, 3)
        return TensorDataModule(train=train, val=val, test=test, batch_size=32, views=Noise(count=2))

    def teacher(self):
        return Net(32)

    def student(self, *, width, depth):
        return Net(width, depth)


TEMPERATURE = FloatDistribution(1, 10, log=True)
SPACE = SearchSpace(
    task=Points(),
    student={"width": IntDistribution(2, 6), "depth": IntDistribution(1, 2)},
    distillation={
        "soft_target": {"temperature": TEMPERATURE, "alpha": FloatDistribution(0, 1)},
        "label_smoothing": {"smoothing": FloatDistribution(0.01, 0.4)},
    },
    training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},
)
"""
TEACHER, STUDENT, DATA = "return Net(32)", "return Net(width, depth)", "return TensorDataModule("
Edit = tuple[str, str]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these wait for one another on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings_of(folder: Path, *edits: Edit, more: str = "") -> Settings:
    """Settings of the healthy task, less what the edits take from it."""
    text = HEALTHY
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "points.py"
    file.write_text(text.replace("\nclass Points(", f"\n{more}\n\nclass Points("))
    return Settings(space_name="points", space_file=file, study="points", runs_dir=folder / "mlruns", accelerator="cpu")


def findings_of(settings: Settings) -> dict[str, Finding]:
    """What the doctor finds, by check."""
    findings = diagnose(settings, Terminal(Console(file=io.StringIO())))
    assert [finding.name for finding in findings] == [check.name for check in CHECKS]
    for finding in findings:
        assert "\n" not in finding.found + finding.remedy and "Traceback" not in finding.found
        assert bool(finding.remedy) == (finding.state in ("FAILED", "warning"))
        # A check that stands on nothing that failed is made.
        assert finding.state != "skipped" or finding.found.startswith("not checked, for ")
    return {finding.name: finding for finding in findings}


def names(findings: dict[str, Finding], state: str) -> list[str]:
    return [finding.name for finding in findings.values() if finding.state == state]


def saved_teacher(folder: Path, settings: Settings) -> Settings:
    """The settings with a checkpoint of a teacher that knows the training samples."""
    space = load_space(settings.space_file)
    seed_draws(0, torch.device("cpu"))
    teacher, train = space.task.teacher(), space.task.data(None).splits["train"]
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(teacher(train.inputs), train.labels).backward()
        optimizer.step()
    save_file(teacher.state_dict(), folder / "teacher.safetensors")
    return replace(settings, teacher=folder / "teacher.safetensors")


def test_a_healthy_task_passes_all_checks_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    findings = findings_of(settings)
    assert names(findings, "skipped") == ["teacher knows"]  # it would take a trained one
    assert set(names(findings, "ok")) == set(findings) - {"teacher knows"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "points.py"]


def test_a_given_teacher_is_examined_too(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    findings = findings_of(settings)
    assert set(names(findings, "ok")) == set(findings)
    assert str(settings.teacher) in findings["teacher"].found
    assert findings["teacher knows"].found.startswith("right on 9") or "100%" in findings["teacher knows"].found


BROKEN: dict[str, tuple[str, list[Edit], str, str, str]] = {
    # What is wrong: the check that finds it, the edits that break the task, what is added to it, what is found, remedy.
    "a name that is not there": (
        "space file",
        [("IntDistribution(1, 2)", "IntDistribution(1, DEEPEST)")],
        "",
        "points.py, line 56: NameError: name 'DEEPEST' is not defined",
        "mend the line that is named",
    ),
    "a file of data that is missing": (
        "data",
        [("train, val, test = points(200, 1)", "torch.load('none.pt')\n        train, val, test = points(200, 1)")],
        "",
        "FileNotFoundError: [Errno 2] No such file or directory: 'none.pt' (",
        "--data-dir says where",
    ),
    "labels that are no class indices": (
        "data",
        [("labels = torch.arange(samples) % 3", "labels = (torch.arange(samples) % 3).float()")],
        "",
        "ValueError: labels must be class indices from 0 of shape (N,) and dtype int64",
        "three Splits",
    ),
    "a value that is missing": (
        "data",
        [("    return Split(inputs, labels)", "    inputs[5, 2] = float('nan')\n    return Split(inputs, labels)")],
        "",
        "inputs of train hold NaN or infinity in 1 of 200 samples (5)",
        "fill or drop what is missing",
    ),
    "data in another form": (
        "data",
        [(DATA, "return dict(")],
        "",
        "data() must give a TensorDataModule, but gave dict",
        "TensorDataModule of three Splits",
    ),
    "splits drawn anew at each call": (
        "data again",
        [(".manual_seed(seed)", ".manual_seed(torch.seed())")],
        "",
        "a second call of data() gives other samples, or another order, in train",
        "split with a fixed seed",
    ),
    "the same samples in two splits": (
        "splits",
        [("points(60, 2)", "points(60, 1)")],
        "",
        "train and val share 60 samples (train 0 is val 0, train 1 is val 1, train 2 is val 2, ..)",
        "drop copies before you split",
    ),
    "views drawn at random": (
        "views",
        [("torch.from_numpy(uniforms(self.seed, ids, view, draws=8)).float()", "torch.rand_like(inputs)")],
        "",
        "view 0 of a sample is another one when it is gathered again",
        "(seed, sample, view) alone",
    ),
    "a teacher that can't be built": (
        "teacher",
        [(TEACHER, "return Net(32, classes=None)")],
        "",
        "(points.py, line 33)",
        "let teacher() return a network without asking for anything",
    ),
    "a teacher that ends in a softmax": (
        "teacher's logits",
        [(TEACHER, "return nn.Sequential(Net(32), nn.Softmax(1))")],
        "",
        "logits are probabilities",
        "drop the softmax",
    ),
    "a teacher that returns more than logits": (
        "teacher's logits",
        [(TEACHER, "return Pair(32)")],
        "class Pair(Net):\n    def forward(self, inputs):\n        return super().forward(inputs), inputs",
        "must be a tensor, but is a tuple",
        "let forward return .logits alone",
    ),
    "a teacher of one logit": (
        "teacher's logits",
        [(TEACHER, "return Net(32, classes=1)")],
        "",
        "(16, C), C at least 2, but have (16, 1)",
        "two for two classes too",
    ),
    "a student that can't be built": (
        "students",
        [(STUDENT, "assert width != 5 or depth != 2, 'too big'\n        return Net(width, depth)")],
        "",
        "student(width=5, depth=2): AssertionError: too big (points.py, line 50)",
        "let student() take every value",
    ),
    "a student of other inputs": (
        "student's logits",
        [(STUDENT, "return nn.Sequential(nn.Linear(9, 8), Net(width, depth))")],
        "",
        "student(width=2, depth=1): RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x8 and 9x8)",
        "let students take what the teacher takes",
    ),
    "a student that gives NaN": (
        "student's logits",
        [(STUDENT, "return Log(width, depth)")],
        "class Log(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).log()",
        "have NaN or infinity in their logits",
        "a root of 0",
    ),
    "a student that gives classes": (
        "student's logits",
        [(STUDENT, "return Classes(width, depth)")],
        "class Classes(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).argsort(1)",
        "student(width=2, depth=1): logits must be floating-point, but are torch.int64",
        "return scores, not classes",
    ),
    "labels beyond the logits": (
        "labels",
        [("classes=3)", "classes=2)")],
        "",
        "labels go up to 2, but logits have too few classes: the teacher 2, student(width=2, depth=1) 2",
        "one logit for each class",
    ),
    "a student with more classes than its teacher": (
        "labels",
        [(STUDENT, "return Net(width, depth, classes=4)")],
        "",
        "teacher and students must have the same classes, but have: the teacher 3, student(width=2, depth=1) 4",
        "one logit for each class",
    ),
    "a teacher's learning rate that is far too high": (
        "teacher learns",
        [("    def teacher(self):", "    teacher_learning_rate = 1e30\n\n    def teacher(self):")],
        "",
        "nan at the learning rate of its recipe",
        "lower teacher_learning_rate",
    ),
    "a teacher with dropout that can't be switched off": (
        "teacher in eval",
        [(TEACHER, "teacher = Net(32)\n        teacher.drop = Always(0.2)\n        return teacher")],
        "class Always(nn.Dropout):\n    def train(self, mode=True):\n        return super().train(True)",
        "1 of its parts in train mode while it is asked: drop",
        "let train(False) reach every part",
    ),
    "a teacher with a function's dropout": (
        "teacher steady",
        [(TEACHER, "return Dropping(32)")],
        "class Dropping(Net):\n    def forward(self, inputs):\n        return super().forward(F.dropout(inputs, 0.2))",
        "the same batch asked twice has logits",
        "F.dropout(x, p, self.training)",
    ),
    "a teacher that mixes the samples of a batch": (
        "teacher steady",
        [(TEACHER, "return Mixing(32)")],
        "class Mixing(Net):\n    def forward(self, inputs):\n        return super().forward(inputs - inputs.mean(0))",
        "apart from its own in a batch of 16",
        "let no step mix samples",
    ),
    "augmentation in the loader": (
        "stored outputs",
        [(DATA, "return Mirrored(")],
        """
class Mirrored(TensorDataModule):
    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.split = Split(loader.split.inputs.flip(1), loader.split.labels)
        return loader
""",
        "shuffled training samples have other logits stored than live",
        "draw augmentation as Views",
    ),
    "outputs joined to other samples": (
        "stored outputs",
        [(DATA, "return Misaligned(")],
        """
class Misaligned(TensorDataModule):
    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.teacher = {name: values.roll(1, 0) for name, values in loader.teacher.items()}
        return loader
""",
        "32 of 32 shuffled training samples have other logits stored than live",
        "join by id",
    ),
    "a metric that goes the other way": (
        "metric",
        [
            (
                "    def teacher(self):",
                "    def metric(self, classes):\n        return MulticlassHingeLoss(classes)\n\n    def teacher(self):",
            )
        ],
        "",
        "for wrong ones, which does not fit metric_direction 'maximize'",
        "say which way is better",
    ),
    "a direction that is none": (
        "metric",
        [("    def teacher(self):", "    metric_direction = 'up'\n\n    def teacher(self):")],
        "",
        "metric_direction must be 'maximize' or 'minimize', but is 'up'",
        "say which way is better",
    ),
    "a metric with a cost's name": (
        "metric",
        [("    def teacher(self):", "    metric_name = 'macs'\n\n    def teacher(self):")],
        "",
        "metric_name must be a name of its own, but 'macs' has another meaning",
        "torchmetrics metric",
    ),
    "a student that normalizes by its batch": (
        "student steady",
        [(STUDENT, "return Mixing(width, depth)")],
        "class Mixing(Net):\n    def forward(self, inputs):\n        return super().forward(inputs - inputs.mean(0))",
        "student(width=2, depth=1): a sample alone has logits",
        "a BatchNorm kept in train mode does",
    ),
    "a student that squeezes": (
        "student steady",
        [(STUDENT, "return Squeezed(width, depth)")],
        "class Squeezed(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).squeeze()",
        "student(width=2, depth=1): 16 samples asked one by one have logits of shape (48,), not (16, 3)",
        "name the dimension that squeeze() drops",
    ),
    "weights drawn by numpy": (
        "student's seed",
        [(STUDENT, "return Drawn(width, depth)")],
        """
class Drawn(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.head.weight.data = torch.from_numpy(np.random.randn(*self.head.weight.shape)).float()
""",
        "student(width=2, depth=1) has other weights when it is built again under the same seed",
        "draw with torch alone",
    ),
    "an architecture parameter that goes nowhere": (
        "architecture",
        [(STUDENT, "return Net(width)")],
        "",
        "nothing changes with depth = 1 or 2: neither parameters, nor MACs, nor answers",
        "pass it on to a layer",
    ),
    "a part that is detached": (
        "gradients",
        [(STUDENT, "return Detached(width, depth)")],
        """
class Detached(Net):
    def forward(self, inputs):
        return self.head(self.hidden(self.norm(self.stem(inputs)).detach()))
""",
        "soft_target: 4 of 8 parameters of student(width=2, depth=1) have none: stem.weight, stem.bias, norm.weight, ..",
        "look for detach()",
    ),
    "a student without any gradient": (
        "gradients",
        [(STUDENT, "return Detached(width, depth)")],
        "class Detached(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).detach()",
        "soft_target, student(width=2, depth=1): RuntimeError: element 0 of tensors does not require grad",
        "look for detach()",
    ),
    "a temperature that has no say": (
        "distillation",
        [('"alpha": FloatDistribution(0, 1)', '"alpha": FloatDistribution(1, 1)')],
        "",
        "the student's gradient does not change with temperature of soft_target",
        "take it out of the space",
    ),
    "a learning rate that is far too high": (
        "losses",
        [("FloatDistribution(1e-3, 1e-1, log=True)", "FloatDistribution(1e-3, 1e30, log=True)")],
        "",
        "corners it is not finite: nan after ",
        "narrow the range whose end is named",
    ),
    "a last batch of one sample": (
        "last batch",
        [("points(200, 1)", "points(193, 1)")],
        "",
        "a batch of 1: ValueError: Expected more than 1 value per channel when training",
        "leaves no single sample over",
    ),
    "a student that asks the teacher in train mode": (
        "teacher unchanged",
        [(TEACHER, "return SHARED"), (STUDENT, "return Asking(width, depth)")],
        """
SHARED = Net(32)


class Asking(Net):
    def forward(self, inputs):
        with torch.no_grad():
            SHARED.train(self.training)(inputs)
        return super().forward(inputs)
""",
        "3 of its 11 tensors changed in a student's training: norm.running_mean, norm.running_var",
        "share no module between teacher() and student()",
    ),
    "a student with its teacher in it": (
        "teacher apart",
        [(STUDENT, "return WithTeacher(width, depth)")],
        """
class WithTeacher(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.guide = Net(32).requires_grad_(False)
""",
        "a whole teacher in the student, at 'guide', and in the checkpoint",
        "a batch brings what it said",
    ),
    "a student with a layer of its teacher": (
        "teacher apart",
        [(TEACHER, "return SHARED"), (STUDENT, "return Borrowing(width, depth)")],
        """
SHARED = Net(32)


class Borrowing(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.borrowed = SHARED.stem
""",
        "2 of its tensors in the student's optimizer; 2 of its tensors in the student's state_dict",
        "keep the teacher out of the student",
    ),
    "a value that is drawn and not kept": (
        "student kept",
        [(STUDENT, "return Scaled(width, depth)")],
        """
class Scaled(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.scale = 1 + torch.rand(())

    def forward(self, inputs):
        return self.scale * super().forward(inputs)
""",
        "loaded into a fresh student, its state gives logits",
        "register_buffer",
    ),
}


@pytest.mark.parametrize("flaw", BROKEN)
def test_a_flaw_is_found_by_its_check_alone(flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check, edits, more, found, remedy = BROKEN[flaw]
    findings = findings_of(settings_of(tmp_path, *edits, more=more))
    assert names(findings, "FAILED") == [check], findings
    assert found in findings[check].found and remedy in findings[check].remedy


def test_each_check_has_a_task_that_breaks_it() -> None:
    elsewhere = {"budget", "teacher knows", "classes"}  # a budget, a trained teacher; a warning
    assert {check.name for check in CHECKS} == {broken[0] for broken in BROKEN.values()} | elsewhere


@pytest.mark.parametrize(
    ("check", "edits", "found"),
    [
        ("classes", [("points(50, 3)", "points(2, 3)")], "test has no sample of class 2"),
        ("views", [("0.1 * torch.from", "0 * torch.from")], "all 2 views of a sample are the same"),
        (
            "students",
            [("IntDistribution(2, 6)", "IntDistribution(40, 41)")],
            "the smallest has 2,203 parameters, and its teacher 1,507",
        ),
        ("teacher's logits", [(TEACHER, "return nn.Sequential(Net(32), nn.ReLU())")], "no logit of 16 samples is neg"),
        ("labels", [("classes=3)", "classes=5)")], "labels go up to 2, but teacher and students have 5 logits"),
    ],
)
def test_what_may_be_meant_so_is_a_warning_that_stops_no_other_check(
    check: str, edits: list[Edit], found: str, tmp_path: Path
) -> None:
    findings = findings_of(settings_of(tmp_path, *edits))
    assert (names(findings, "warning"), names(findings, "FAILED")) == ([check], [])
    assert found in findings[check].found and names(findings, "skipped") == ["teacher knows"]


def test_a_check_whose_ground_is_missing_says_which_and_is_not_made(tmp_path: Path) -> None:
    findings = findings_of(settings_of(tmp_path, (DATA, "return dict(")))
    assert names(findings, "ok") == ["space file"]
    assert {finding.found for finding in findings.values() if finding.state == "skipped"} == {
        "not checked, for 'data' failed"
    }


def test_two_classes_leave_parameters_of_some_methods_inert_and_each_is_named(tmp_path: Path) -> None:
    # Of two standardized logits only the order is left, so their teacher says nothing: T moves nothing, alpha the rest.
    edits = [
        ("% 3", "% 2"),
        ("classes=3)", "classes=2)"),
        (
            '"soft_target": {',
            '"standardized": {"temperature": TEMPERATURE, "alpha": FloatDistribution(0, 1)},\n        "soft_target": {',
        ),
    ]
    findings = findings_of(settings_of(tmp_path, *edits))
    assert names(findings, "FAILED") == ["distillation"]
    assert findings["distillation"].found.endswith("does not change with temperature of standardized")


def test_a_method_that_is_not_defined_for_two_classes_is_named(tmp_path: Path) -> None:
    weights = '"target_weight": FloatDistribution(1, 2), "non_target_weight": FloatDistribution(1, 2)'
    decoupled = f'"decoupled": {{"temperature": TEMPERATURE, {weights}}},\n        "soft_target": {{'
    findings = findings_of(
        settings_of(tmp_path, ("% 3", "% 2"), ("classes=3)", "classes=2)"), ('"soft_target": {', decoupled))
    )
    assert names(findings, "FAILED") == ["gradients"]
    assert "decoupled, student(width=2, depth=1): ValueError" in findings["gradients"].found
    assert "at least 3 classes" in findings["gradients"].found


def test_a_choice_that_changes_what_is_computed_is_not_inert(tmp_path: Path) -> None:
    edits = [
        ('"depth": IntDistribution(1, 2)', '"act": CategoricalDistribution(["relu", "tanh"])'),
        ("def student(self, *, width, depth):", "def student(self, *, width, act):"),
        (
            STUDENT,
            "student = Net(width)\n        student.drop = nn.ReLU() if act == 'relu' else nn.Tanh()\n        return student",
        ),
    ]
    findings = findings_of(settings_of(tmp_path, *edits))
    assert not names(findings, "FAILED") and "act (what is computed, not how much)" in findings["architecture"].found


def test_a_budget_is_told_how_many_students_it_leaves(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    # Width w and depth d have 8w + w + 2w + d(w² + w) + 3w + 3 parameters: 37 at 2 and 1; 43 at 2 and 2; 57 at 3 and 1.
    found = findings_of(replace(settings, budgets={"parameters": 43}))
    assert not names(found, "FAILED") and found["budget"].found == "2 of 10 architectures are within parameters=43"
    found = findings_of(replace(settings, budgets={"parameters": 30, "macs": 1000}))
    assert names(found, "FAILED") == ["budget"]
    assert found["budget"].found == (
        "none of 10 architectures is within parameters=30, macs=1000; the cheapest, width=2, depth=1, has "
        "parameters 37, macs 26"
    )
    assert found["budget"].remedy.startswith("raise --max")


def test_a_latency_is_measured_where_a_budget_asks_for_it(tmp_path: Path) -> None:
    found = findings_of(replace(settings_of(tmp_path), budgets={"latency_p50_ms": 1e-6}))
    assert names(found, "FAILED") == ["budget"] and "latency_p50_ms 0." in found["budget"].found


def test_a_teacher_whose_classes_are_numbered_otherwise_is_found(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    assert settings.teacher is not None
    state = load_file(settings.teacher)
    save_file(state | {name: state[name].roll(1, 0) for name in ("head.weight", "head.bias")}, settings.teacher)
    findings = findings_of(settings)
    assert names(findings, "FAILED") == ["teacher knows"]
    assert "as good as chance; " in findings["teacher knows"].found
    assert "if its classes had other numbers" in findings["teacher knows"].found
    assert "bring the classes into the order" in findings["teacher knows"].remedy


def test_a_checkpoint_that_does_not_fit_is_found(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    findings = findings_of(replace(settings_of(tmp_path), teacher=tmp_path / "other.safetensors"))
    assert names(findings, "FAILED") == ["teacher"]
    assert "must fit the task's teacher, whose 'stem.weight' has shape (32, 8)" in findings["teacher"].found


def keep_outputs(folder: Path, settings: Settings) -> Path:
    """Store what the teacher says, as a search does; the file."""
    space = load_space(settings.space_file)
    data, network = space.task.data(None), space.task.teacher().eval()
    assert settings.teacher is not None
    network.load_state_dict(load_file(settings.teacher))
    teacher = Teacher(network, network_digest(network), Spool(folder / "spool", lambda folder: None))
    make_teacher_outputs(teacher, data, fingerprint(data), cache_dir=settings.cache_dir, say=print)
    (file,) = settings.cache_dir.rglob("*.safetensors")
    return file


def test_what_a_search_has_stored_is_compared_with_what_the_teacher_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    keep_outputs(tmp_path, settings)
    findings = findings_of(settings)
    assert findings["stored outputs"].found == (
        "live ones, of 128 shuffled samples, 2 views of each, and those kept in the cache"
    )


def test_damaged_outputs_are_a_warning_for_a_search_computes_them_again(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    file = keep_outputs(tmp_path, settings)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    findings = findings_of(settings)
    assert (names(findings, "warning"), names(findings, "FAILED")) == (["stored outputs"], [])
    assert "their content does not match their hash" in findings["stored outputs"].found


def doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_the_readme_s_example_passes_and_a_broken_one_ends_with_code_1(example: Path) -> None:
    ended = doctor(example, "--space", "cancer.py")
    assert ended.returncode == 0 and ended.stderr == "", ended
    assert ended.stdout.endswith("28 checks: 27 ok, 1 skipped\n")
    (example / "cancer.py").write_text(EXAMPLE.replace("return perceptron(width)", "return perceptron(None)"))
    ended = doctor(example, "--space", "cancer.py")
    assert ended.returncode == 1 and ended.stderr == "" and "Traceback" not in ended.stdout
    assert "FAILED  students          student(width=1): TypeError: " in ended.stdout
    assert sorted(path.name for path in example.iterdir()) == ["cancer.py"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--space", "none.py"), ("--max", "speed=1"), ("--accelerator", "gpu2")])
def test_a_command_that_cannot_be_run_ends_with_code_2_and_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = doctor(tmp_path, *arguments)
    assert ended.returncode == 2 and ended.stdout == "" and list(tmp_path.iterdir()) == []
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


def test_on_a_terminal_lines_are_folded_into_their_column(tmp_path: Path) -> None:
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=True, color_system=None, highlight=False)
    diagnose(settings_of(tmp_path, (STUDENT, "return Net(width)")), Terminal(console))
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    at = next(i for i, line in enumerate(lines) if line.startswith("FAILED  architecture"))
    assert lines[at + 1].startswith(" " * 26) and lines[at + 2].startswith(" " * 26 + "→ pass it on")


EMBEDDED = [
    "digits",
    "digits_methods",
    *(
        pytest.param(
            name,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs dataset-fashion-mnist"),
            ],
        )
        for name in ("fashion_mnist", "fashion_mnist_methods", "fashion_mnist_shifted")
    ),
]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_spaces_pass(name: str, tmp_path: Path) -> None:
    space_file = SPACES_DIR / f"{name}.py"
    settings = Settings(space_name=name, space_file=space_file, study=name, runs_dir=tmp_path, accelerator="cpu")
    findings = findings_of(settings)
    assert names(findings, "skipped") == ["teacher knows"] and len(names(findings, "ok")) == len(findings) - 1
    assert list(tmp_path.iterdir()) == []


def test_all_embedded_spaces_are_looked_over() -> None:
    looked_over = {name if isinstance(name, str) else name.values[0] for name in EMBEDDED}
    assert looked_over == {path.stem for path in SPACES_DIR.glob("[!_]*.py")}
