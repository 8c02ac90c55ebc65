"""The doctor: each check fails on the task that breaks it, with its remedy, and no other check does."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from conftest import EXAMPLE, Silent, engine
from doctor_tasks import BROKEN, DATA, HEALTHY, LAST_METHOD, STUDENT, TEACHER, Edit
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_models import write_tweets

import harness.doctor
from harness.core.content import tensors_digest
from harness.doctor import CHECKS, diagnose
from harness.doctor.check import CheckWarning, Finding
from harness.doctor.context import CheckContext
from harness.doctor.data import check_classes_in_splits
from harness.networks.digest import answers_of, network_digest, samples_of
from harness.options.spaces import SPACES_DIR
from harness.preparation.fingerprint import fingerprint
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space
from harness.studies.start import Start
from harness.teachers.cache import ArtifactCache, null_lock
from harness.teachers.make import Teacher
from harness.teachers.outputs import make_teacher_outputs
from harness.tracking.spool import Spool
from harness.training.fit import seed_draws
from lightning_modules.batch import Batch
from lightning_modules.classifier import ClassifierModule, StudentModule
from lightning_modules.data.embedded import DEBIAN_FASHION_MNIST
from lightning_modules.data.tensors import Split
from lightning_modules.methods import Term
from search_spaces.digits import SPACE as DIGITS


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
    return replace(settings, teachers=(folder / "teacher.safetensors",))


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


def test_what_students_start_from_is_told_as_in_a_search(tmp_path: Path) -> None:
    shaped = (STUDENT, "return Net(width, depth, classes=teacher.head.out_features)")
    handed = ("def student(self, *, width, depth):", "def student(self, *, width, depth, teacher):")
    group = '    initial={"start": CategoricalDistribution(["scratch", "pruned"])},'
    findings = findings_of(settings_of(tmp_path, shaped, handed, ("\n    training={", f"\n{group}\n    training={{")))
    assert not names(findings, "FAILED")
    told = findings["student's logits"].found  # 8 * 4 + 4, 2 * 4, 4 * 4 + 4 and 4 * 3 + 3 numbers
    assert told.endswith("; start pruned: of student(width=4, depth=1) 79 of 79 parameters, 11 of 11 tensors")


def test_a_given_teacher_is_checked(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    findings = findings_of(settings)
    assert set(names(findings, "ok")) == set(findings)
    assert str(settings.teacher) in findings["teacher"].found
    assert findings["teacher knows"].found.startswith(("accuracy 0.9", "accuracy 1."))


def test_the_region_is_computed_from_the_whole_validation_split_like_in_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path, ("points(60, 2)", "points(300, 2)")))
    task = load_space(settings.space_file).task
    teacher, val = task.teacher().eval(), task.data(None).splits["val"]
    assert settings.teacher is not None
    teacher.load_state_dict(load_file(settings.teacher))
    error = 1 - float((teacher(val.inputs).argmax(1) == val.labels).float().mean())
    floor = 1 - (max(error, 2 / 3 / 600) * 2 / 3) ** 0.5  # a constant answer is wrong on two of three
    found = findings_of(settings)["region"].found
    assert found.startswith(f"accuracy at least {floor:.4g}, by default") and "samples" not in found
    monkeypatch.setattr("harness.doctor.labels._MAX_TEACHER_S", 0.0)
    assert findings_of(settings)["region"].found.endswith("; the teacher on 128 of 300 samples")


@pytest.mark.parametrize("flaw", BROKEN)
def test_each_fault_is_found_by_its_own_check_only(flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = BROKEN[flaw]
    findings = findings_of(settings_of(tmp_path, *broken.edits, more=broken.more))
    assert names(findings, "FAILED") == [broken.check], findings
    finding = findings[broken.check]
    assert broken.found in finding.found and broken.remedy in finding.remedy


@pytest.mark.usefixtures("two_threads")
def test_checks_run_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def examined(*given: object) -> list[Finding]:
        used.append(torch.get_num_threads())
        return []

    monkeypatch.setattr(harness.doctor, "run_checks", examined)
    diagnose(settings_of(tmp_path), Terminal(Console(file=io.StringIO())))
    assert used == [1] and torch.get_num_threads() == 2


TWO_CLASSES: tuple[Edit, ...] = (("torch.arange(samples) % 3", "torch.arange(samples) % 2"), ("classes=3", "classes=2"))
DECOUPLED = """
        "decoupled": {
            "temperature": TEMPERATURE,
            "target_weight": FloatDistribution(1, 2),
            "non_target_weight": FloatDistribution(1, 2),
        },"""


INVERTED: Edit = ("return self.head(self.drop(", "return torch.linalg.inv(torch.eye(3)).sum() * self.head(self.drop(")


def test_a_method_that_needs_more_classes_is_named_and_the_others_are_checked(tmp_path: Path) -> None:
    findings = findings_of(settings_of(tmp_path, *TWO_CLASSES, (LAST_METHOD, LAST_METHOD + DECOUPLED)))
    assert names(findings, "FAILED") == ["methods"] and names(findings, "skipped") == ["teacher knows"]
    finding = findings["methods"]
    assert finding.found.startswith(
        "method 'decoupled' can't be searched: it needs 3 classes or more, but the task has"
    )
    assert "--fix method=soft_target" in finding.remedy


def test_if_no_method_fits_nothing_is_trained(tmp_path: Path) -> None:
    soft_target = '"soft_target": {"temperature": TEMPERATURE, "alpha": FloatDistribution(0, 1)},'
    findings = findings_of(settings_of(tmp_path, *TWO_CLASSES, (soft_target, ""), (LAST_METHOD, DECOUPLED)))
    assert names(findings, "FAILED") == ["methods"]
    assert findings["student kept"].found == findings["losses"].found == "not checked, for no method fits the task"


def test_each_check_has_a_task_that_breaks_it() -> None:
    elsewhere = {
        "budget",
        "teacher knows",
        "classes",
        "MACs",
        "ignored",
        "controls",
        "region",
        "training",
    }  # a budget, a trained teacher; warnings; bounds of the command line
    assert {check.name for check in CHECKS} == {broken.check for broken in BROKEN.values()} | elsewhere


def test_each_parameter_of_a_training_is_seen_to_change_it(tmp_path: Path) -> None:
    several = """training={
        "optimizer": CategoricalDistribution(["adamw", "sgd"]), "momentum": FloatDistribution(0, 0.9),
        "batch_size": IntDistribution(10, 60), "label_smoothing": FloatDistribution(0, 0.2),
        "ema_decay": FloatDistribution(0.5, 0.9), "accumulate": IntDistribution(1, 4), """
    findings = findings_of(settings_of(tmp_path, ("training={", several)))
    assert (names(findings, "warning"), names(findings, "FAILED")) == (["training"], [])
    assert findings["training"].found.startswith("momentum is searched in all trials, but momentum has no effect with")
    batches = "10 samples: the last of 200 in batches of 10; 20 samples: the last of 200 in batches of 60"
    assert findings["last batch"].found == batches


@pytest.mark.parametrize(
    ("check", "edits", "found"),
    [
        (
            "ignored",
            [("    def teacher(self):", "    teacher_epoch = 3\n\n    def teacher(self):")],
            "did you mean 'teacher_epochs'?",
        ),
        ("classes", [("points(50, 3)", "points(2, 3)")], "test has no sample of class 2"),
        ("views", [("0.1 * torch.from", "0 * torch.from")], "all 2 views of a sample are the same"),
        (
            "students",
            [("IntDistribution(2, 6)", "IntDistribution(40, 41)")],
            "the smallest has 2,203 parameters, and its teacher 1,507",
        ),
        ("teacher's logits", [(TEACHER, "return nn.Sequential(Net(32), nn.ReLU())")], "no logit of 16 samples is neg"),
        (
            "training",
            [("training={", 'training={"clip_norm": FloatDistribution(1e6, 1e7), ')],
            "a student trained for 2 epochs on few samples is the same with clip_norm",
        ),
        (
            "training",
            [("training={", 'training={"batch_size": CategoricalDistribution([16, 500]), ')],
            "a batch_size of 500 is that of all 200 training samples in one batch",
        ),
        (
            "MACs",
            [INVERTED],
            "can't be counted of students, and are left out: no formula for aten.linalg_inv_ex",
        ),
    ],
)
def test_a_warning_does_not_stop_other_checks(check: str, edits: list[Edit], found: str, tmp_path: Path) -> None:
    findings = findings_of(settings_of(tmp_path, *edits))
    assert (names(findings, "warning"), names(findings, "FAILED")) == ([check], [])
    assert found in findings[check].found and names(findings, "skipped") == ["teacher knows"]


def test_a_single_remaining_sample_joins_the_last_batch_as_in_a_search(tmp_path: Path) -> None:
    findings = findings_of(settings_of(tmp_path, ("points(200, 1)", "points(193, 1)")))
    assert findings["last batch"].state == "ok"
    assert findings["last batch"].found == "33 samples: the last of 193 in batches of 32"


def test_the_last_batch_holds_the_targets_of_its_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "return inputs + 0.1 * torch.from_numpy(uniforms(self.seed, ids, view, draws=8)).float()"
    soft = "return inputs + 0.01 * view, torch.full((len(ids), 3), 1 / 3)"
    seen = list[bool]()

    def terms(module: StudentModule, batch: Batch) -> dict[str, Term]:
        if len(batch.ids) == 8:  # what 200 samples leave
            seen.append(batch.target.is_floating_point())
        return ClassifierModule.terms(module, batch)

    monkeypatch.setattr(StudentModule, "terms", terms)
    assert findings_of(settings_of(tmp_path, (shown, soft)))["last batch"].state == "ok"
    assert seen and all(seen)


def test_a_budget_on_uncounted_macs_fails(tmp_path: Path) -> None:
    findings = findings_of(replace(settings_of(tmp_path, INVERTED), budgets={"macs": 1e9}))
    assert (names(findings, "warning"), names(findings, "FAILED")) == (["MACs"], ["budget"])
    assert findings["budget"].found.startswith(
        "--max must ask for costs that are known, but macs can't be counted of students: no formula for aten.linalg_inv"
    )
    assert findings["budget"].remedy == "leave macs out of --max"


def test_checks_that_need_a_failed_one_are_skipped_with_the_reason(tmp_path: Path) -> None:
    findings = findings_of(settings_of(tmp_path, (DATA, "return dict(")))
    assert names(findings, "ok") == ["space file"]
    assert {finding.found for finding in findings.values() if finding.state == "skipped"} == {
        "not checked, for 'data' failed"
    }


def test_skipped_checks_are_printed_as_one_line_for_each_reason(tmp_path: Path) -> None:
    written = io.StringIO()
    findings = diagnose(settings_of(tmp_path, (DATA, "return dict(")), Terminal(Console(file=written, width=10_000)))
    skipped = [finding.name for finding in findings if finding.state == "skipped"]
    (line,) = (line for line in written.getvalue().splitlines() if line.startswith("skipped"))
    assert " ".join(line.split()) == (
        f"skipped {len(skipped)} checks not checked, for 'data' failed: {', '.join(skipped)}"
    )
    assert written.getvalue().splitlines()[-2] == line


@pytest.mark.parametrize(
    ("edit", "check", "method"),
    [
        (("def student(self, *, width, depth)", "def student(self, *, widht, depth)"), "students", "student"),
        (("def teacher(self)", "def teacher(self, size)"), "teacher", "teacher"),
    ],
)
def test_a_task_method_with_wrong_arguments_is_named_with_its_line(
    edit: Edit, check: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    findings = findings_of(settings_of(tmp_path, edit))
    lines = (tmp_path / "points.py").read_text().splitlines()
    (line,) = (n for n, text in enumerate(lines, 1) if f"def {method}(" in text)
    assert findings[check].state == "FAILED"
    assert findings[check].found.endswith(f"(Points.{method}, points.py, line {line})")


def test_the_standardized_method_needs_more_than_two_classes(tmp_path: Path) -> None:
    standardized = '"standardized": {"temperature": TEMPERATURE, "alpha": FloatDistribution(0, 1)},\n        '
    findings = findings_of(settings_of(tmp_path, *TWO_CLASSES, ('"soft_target": {', standardized + '"soft_target": {')))
    assert names(findings, "FAILED") == ["methods"] and "'standardized' can't" in findings["methods"].found


def test_a_choice_that_changes_what_is_computed_is_not_inert(tmp_path: Path) -> None:
    edits = [
        ('"depth": IntDistribution(1, 2)', '"act": CategoricalDistribution(["relu", "tanh"])'),
        ("def student(self, *, width, depth):", "def student(self, *, width, act):"),
        (
            STUDENT,
            "net = Net(width)\n        net.drop = nn.ReLU() if act == 'relu' else nn.Tanh()\n        return net",
        ),
    ]
    findings = findings_of(settings_of(tmp_path, *edits))
    assert not names(findings, "FAILED") and "act (what is computed, not how much)" in findings["architecture"].found


def test_a_budget_reports_how_many_architectures_it_allows(tmp_path: Path) -> None:
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


def test_a_latency_is_measured_if_a_budget_needs_it(tmp_path: Path) -> None:
    found = findings_of(replace(settings_of(tmp_path), budgets={"latency_p50_ms": 1e-6}))
    assert names(found, "FAILED") == ["budget"] and "latency_p50_ms 0." in found["budget"].found


def test_a_teacher_with_permuted_classes_is_found(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    assert settings.teacher is not None
    state = load_file(settings.teacher)
    save_file(state | {name: state[name].roll(1, 0) for name in ("head.weight", "head.bias")}, settings.teacher)
    findings = findings_of(settings)
    assert names(findings, "FAILED") == ["teacher knows"]
    assert "no better than a constant answer, which has 0." in findings["teacher knows"].found
    assert "if its classes had other numbers" in findings["teacher knows"].found
    assert "bring the classes into the order" in findings["teacher knows"].remedy


def test_a_checkpoint_that_does_not_fit_is_found(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    findings = findings_of(replace(settings_of(tmp_path), teachers=(tmp_path / "other.safetensors",)))
    assert names(findings, "FAILED") == ["teacher"]
    assert "must fit the task's teacher, whose 'stem.weight' has shape (32, 8)" in findings["teacher"].found


def test_a_checkpoint_is_read_under_the_usual_keys(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    assert settings.teacher is not None
    state = load_file(settings.teacher)
    for content in (state, *({key: state, "epoch": 3} for key in ("state_dict", "model_state_dict", "model"))):
        torch.save(content, tmp_path / "teacher.pt")
        findings = findings_of(replace(settings, teachers=(tmp_path / "teacher.pt",)))
        assert findings["teacher"].state == "ok", findings["teacher"]


def test_a_checkpoint_without_weights_is_reported_with_its_content(tmp_path: Path) -> None:
    settings, file = settings_of(tmp_path), tmp_path / "teacher.pt"
    torch.save({"net": {"weight": torch.zeros(2)}, "epoch": 3}, file)
    found = findings_of(replace(settings, teachers=(file,)))["teacher"].found
    assert "by itself or as one of state_dict, model_state_dict, model, but holds a dict of 'net', 'epoch';" in found
    assert found.endswith(f"torch.save(torch.load('{file}', weights_only=True)['net'], FILE) makes one.")


def keep_outputs(folder: Path, settings: Settings) -> Path:
    """Store what the teacher says, as a search does; the file."""
    space = load_space(settings.space_file)
    data, network = space.task.data(None), space.task.teacher().eval()
    assert settings.teacher is not None
    network.load_state_dict(load_file(settings.teacher))
    start = Start("", (), network_digest(network, answers_of(network, samples_of(data))))
    teacher = Teacher(network, start, Spool(folder / "spool", lambda folder: None), "its run", 0)
    artifacts = ArtifactCache(null_lock, Silent(), print)
    make_teacher_outputs(teacher, data, fingerprint(data), cache_dir=settings.cache_dir, artifacts=artifacts)
    (file,) = settings.cache_dir.rglob("*.safetensors")
    return file


def test_cached_outputs_are_compared_with_the_live_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    keep_outputs(tmp_path, settings)
    findings = findings_of(settings)
    assert findings["stored outputs"].found == (
        "live ones, of 128 shuffled samples, 2 views of each, and those kept in the cache"
    )


def test_cached_outputs_in_another_order_are_found(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    file = keep_outputs(tmp_path, settings)
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata()
    turned = {name: values.roll(1, 0) for name, values in load_file(file).items()}
    save_file(turned, file, metadata=metadata | {"digest": tensors_digest(turned)})
    findings = findings_of(settings)
    assert names(findings, "FAILED") == ["stored outputs"]
    assert "128 samples of train in the cache have other logits stored than live" in findings["stored outputs"].found


@pytest.mark.slow
def test_a_searchs_cache_is_checked_and_left_unchanged(finished: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    file, runs_dir = finished / "cancer.py", finished / "mlruns"
    settings = Settings(space_name="cancer", space_file=file, study="c", runs_dir=runs_dir, accelerator="cpu")
    findings = findings_of(settings)
    assert set(names(findings, "ok")) == set(findings)
    assert f"weights of {runs_dir / 'cache' / 'teachers'}" in findings["teacher"].found
    assert findings["stored outputs"].found.endswith(", and those kept in the cache")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == kept


def test_damaged_cached_outputs_are_a_warning(tmp_path: Path) -> None:
    settings = saved_teacher(tmp_path, settings_of(tmp_path))
    file = keep_outputs(tmp_path, settings)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    findings = findings_of(settings)
    assert (names(findings, "warning"), names(findings, "FAILED")) == (["stored outputs"], [])
    assert "their content does not match their hash" in findings["stored outputs"].found


@pytest.mark.slow
def test_the_readme_s_example_passes_and_a_broken_one_ends_with_code_1(example: Path) -> None:
    assert engine(example, "doctor", "--space", "cancer.py").endswith("34 checks: 33 ok, 1 skipped\n")
    (example / "cancer.py").write_text(EXAMPLE.replace("return perceptron(width)", "return perceptron(None)"))
    told = engine(example, "doctor", "--space", "cancer.py", expect=1)
    assert "Traceback" not in told and "FAILED  students          student(width=1): TypeError: " in told
    assert sorted(path.name for path in example.iterdir()) == ["cancer.py", "engine.txt", "mlflow.db"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--space", "none.py"), ("--max", "macs=0"), ("--accelerator", "gpu2")])
def test_a_command_that_cannot_be_run_ends_with_code_2_and_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    told = engine(tmp_path, "doctor", *arguments, expect=2)
    assert told.startswith("error: ") and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["engine.txt"]


def test_on_a_terminal_lines_are_wrapped_within_their_column(tmp_path: Path) -> None:
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
    "diabetes",
    "digit_traits",
    "digit_masks",
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


@pytest.mark.slow
def test_the_space_of_tweets_passes(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")
    settings = Settings(
        space_name="tweets",
        space_file=SPACES_DIR / "tweets.py",
        study="tweets",
        data_dir=write_tweets(tmp_path / "packages"),
        runs_dir=tmp_path / "runs",
        accelerator="cpu",
    )
    findings = findings_of(settings)
    assert names(findings, "skipped") == ["teacher knows"] and len(names(findings, "ok")) == len(findings) - 1


def test_every_embedded_space_is_checked() -> None:
    looked_over = {name if isinstance(name, str) else name.values[0] for name in (*EMBEDDED, "tweets")}
    assert looked_over == {path.stem for path in SPACES_DIR.glob("[!_]*.py")}


def test_of_thousands_of_classes_without_samples_ten_are_listed() -> None:
    splits = {"val": Split(torch.zeros(3, 2), torch.tensor([0, 1, 29_999]))}
    context = SimpleNamespace(data=SimpleNamespace(splits=splits), classes=30_000, space=DIGITS)
    with pytest.raises(CheckWarning) as raised:
        check_classes_in_splits(cast(CheckContext, context))
    assert str(raised.value) == "val has no sample of class 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 29,987 more"
