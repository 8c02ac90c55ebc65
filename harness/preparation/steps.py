"""The steps of a preparation: what is checked before a trial trains, and what a person is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch

from harness.core.errors import HarnessError, Unfit
from harness.cost.table import CostTable
from harness.metrics import METRICS, unknown_for_some
from harness.networks.consistency import ASKED, find_inconsistency
from harness.networks.deployment import check_deployed
from harness.networks.student_checks import Students, check_students
from harness.preparation.fingerprint import fingerprint, fingerprint_of_folds
from harness.preparation.method_checks import (
    check_classes,
    check_student_layers,
    check_targets,
    check_unlabelled,
    student_layers,
)
from harness.preparation.mixing import find_unrepeatable_view, mixes_targets, no_control_reason, remedy_of
from harness.preparation.new_data import NEW, load_new_data
from harness.preparation.origins import check_starts, file_starts, find_origins
from harness.preparation.own_modules import check_own_training
from harness.preparation.sanity_warnings import SAME_WEIGHTS, network_warnings, task_warnings, training_warnings
from harness.preparation.student_identity import student_starts, students_digest
from harness.preparation.training_checks import check_trainings, training_line, training_surprises
from harness.preparation.user_code import middle_student, middle_student_code, user_code
from harness.preparation.warning_list import INDENT, WarningList
from harness.region import Scores, region_of
from harness.screen.terminal import Terminal
from harness.settings import Bound, Settings
from harness.space import SearchSpace
from harness.studies.changes import pin_starts
from harness.studies.study import Study
from harness.task import Task, class_names, deployed_network, load_data
from harness.teachers.asking import (
    asks_live,
)
from harness.training.fit import device_of
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import output_for_training, unlabelled_count

_PROBED_SAMPLES = 16  # by which it is seen whether a student gives logits


class PreparationSteps:
    """The steps of one preparation. Each checks or makes one thing, and stores with the study what it found.

    Args:
        settings: Name data, teacher and device.
        space: What varies.
        study: The study.
        terminal: Shows what is made.
        warnings: Takes the sanity warnings.
    """

    def __init__(
        self, settings: Settings, space: SearchSpace, study: Study, terminal: Terminal, warnings: WarningList
    ) -> None:
        self._settings, self._space, self._study = settings, space, study
        self._terminal, self._warnings = terminal, warnings
        self._own_control = ""  # why students that train themselves have no control
        self._unlabelled = 0

    def task_code(self, what: str) -> AbstractContextManager[None]:
        """Attribute errors within the context to a part of the task."""
        return user_code(f"the task's {what}", self._settings)

    def load_data(self) -> tuple[TensorDataModule, list[str]]:
        """Return the data, moved to the device, and the fingerprint of each fold; the study is bound to them."""
        device = device_of(self._settings.accelerator)
        with self.task_code("data"):
            data = load_data(self._space.task, self._settings.data_dir)
        with self.task_code("views"):
            each = [fingerprint(fold) for fold in data.folds]
        dataset = fingerprint_of_folds(each)
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
        views = "" if data.views is None else f", {data.views} to train on"
        folds = "" if len(each) == 1 else f" in the first of {len(each)} folds"
        self._terminal.say(f"data      {sizes} samples{folds}{views}, {dataset}")
        self._unlabelled = unlabelled_count(data)
        if told := unlabelled_text(self._unlabelled, len(data.splits["train"])):
            self._terminal.say_wrapped(f"data      {told}", indent=INDENT)
        for note in data.notes:
            self._terminal.say_wrapped(f"data      {note}", indent=INDENT)
        with self.task_code("teacher"):
            origins = find_origins(self._space, data, self._settings)
        for fold in data.folds:
            fold.origins = origins
            fold.move_to(device)
        self._study.pin_inputs(dataset=dataset, students=students_digest(self._space, data, self._settings))
        return data, each

    def load_new(self, path: Path, data: TensorDataModule) -> TensorDataModule:
        """Return new data of the form of the study's, and tell what it is."""
        if len(data.folds) > 1:
            raise HarnessError(
                "--on needs a study whose samples are not cut into folds: a score on test is the mean over students of "
                "all folds, and the first alone is kept."
            )
        with self.task_code(f"data of --on {path}"):
            new = load_new_data(self._space.task, path, data)
            split = new.splits[NEW]
            self._terminal.say(f"new data  {len(split):,} samples of {path}, {split.fingerprint}")
        return new

    def check_students(self, data: TensorDataModule) -> Students:
        """Check students of every kind, and bind the study to their start weights."""
        space = self._space
        students = check_students(space, data, self.task_code, layers=student_layers(space))
        for fold in data.folds:
            fold.soft_targets = partial(space.task.output.soft_targets, size=students.classes)
            with self.task_code("output"):  # its weights, one for each class
                output_for_training(space.task.output, fold, students.classes)
        check_deployed(space, data, self.task_code, classes=students.classes)
        pin_starts(self._study, student_starts(space, data, self._settings) | file_starts(data.origins))
        for line in check_starts(space, data):
            self._terminal.say_wrapped(f"start     {line}", indent=INDENT)
        check_classes(space, students.classes)
        check_student_layers(space, students)
        check_unlabelled(space, self._unlabelled)
        return students

    def check_views(self, data: TensorDataModule, classes: int) -> tuple[str, str]:
        """Return why no control is fair, empty where one is, and a warning of views that are not repeatable."""
        with self.task_code("views"):
            check_targets(self._space, mixes_targets(data, classes, self._space.task.output))
            no_control = no_control_reason(data, classes, self._space.task.output) or self._own_control
            fault = find_unrepeatable_view(data)
        if no_control:
            self._terminal.say_wrapped(
                f"controls  no control possible: {no_control}; {remedy_of(no_control)}", indent=INDENT
            )
        lost = "students are not shown what the teacher was asked about"
        if asks_live(data):
            lost = "a trial that is cut is not resumed to the same bits"
        return no_control, fault and f"{fault}: {lost}"

    def student_warnings(self, data: TensorDataModule) -> list[str]:
        """Return sanity warnings about the middle student before it is trained, a phrase each."""
        space = self._space
        network = middle_student(space, data, self._settings)
        found = training_warnings(network, by_itself=space.trains_itself)
        network.eval()
        with middle_student_code(space, self._settings), torch.no_grad():
            found += network_warnings(call(network, data.example_inputs(_PROBED_SAMPLES)).float(), space.task.output)
            deployed = deployed_network(space.task, network).to(data.device)
            fault = find_inconsistency(deployed, data.example_inputs(ASKED), data.forms_of_a_sample())
        return found if fault is None else [*found, f"answers inconsistently: {fault.found}"]

    def check_trainings(self, data: TensorDataModule, classes: int) -> None:
        """Check how students are trained, and tell it where it is not the default."""
        if self._space.trains_itself:
            found = check_own_training(
                self._space, data, self.task_code, classes=classes, accelerator=self._settings.accelerator
            )
            self._own_control = found.no_control
            self._warnings.add(*found.warnings)
            self._terminal.say_wrapped(f"training  {found}", indent=INDENT)
            return
        with self.task_code("training"):
            check_trainings(self._space, data)
        if line := training_line(self._space, data.device):
            self._terminal.say_wrapped(f"training  {line}", indent=INDENT)
        self._warnings.add(*training_surprises(self._space, data))

    def collect_warnings(self, students: Students) -> None:
        """Collect sanity warnings about the task and what its students have in common."""
        self._warnings.add(*(f"the task {one}" for one in task_warnings(self._space.task, Task)))
        self._warnings.add(*(f"nothing of a student changes with its {name}" for name in students.without_effect))
        if students.empty_layer is not None:
            self._warnings.add(str(students.empty_layer).rstrip("."))
        if students.unseeded is not None:
            self._warnings.add(f"{students.unseeded} {SAME_WEIGHTS}")

    def begin_work(self, no_control: str, scored: Scores, names: tuple[str, ...]) -> None:
        """Begin to store what was found, which no other start may overtake from here on."""
        study = self._study
        study.begin_work()
        study.no_control = no_control
        study.unlabelled = self._unlabelled
        study.primary_bounds = scored.bounds
        study.class_names = names

    def report_students(self, student_warnings: Sequence[str], costs: CostTable) -> None:
        """Show the warnings about students, and store all so far with the study."""
        file = next(iter(self._settings.teachers), None)
        for warning in student_warnings:
            self._warnings.warn(f"a student {warning}", file)
        if costs.uncounted:
            unknown = ", ".join(unknown_for_some(METRICS))
            self._warnings.tell(f"{unknown} are not known of students: no formula for {', '.join(costs.uncounted)}")
        self._study.sanity_warnings = self._warnings.texts

    def set_region(self, bound: Bound | None, scored: Scores, teacher: float) -> None:
        """Store the region of interest with the study, and show it."""
        study = self._study
        region = region_of(bound, scored, teacher)
        before = f"; before: {study.region.bound}" if bound != study.bound and study.trials() else ""
        study.region = region
        study.bound = bound
        self._terminal.say_wrapped(f"region    {region}{before}", indent=INDENT)
        if not region.holds(teacher):
            self._warnings.tell(f"the teacher itself is not in the region ({region}), so few students may be")
            study.sanity_warnings = self._warnings.texts


def unlabelled_text(unlabelled: int, samples: int) -> str:
    """Return how training samples without a label are used, in one line; empty where all have one."""
    if not unlabelled:
        return ""
    return (
        f"{unlabelled:,} of {samples:,} training samples are unlabelled: the teacher alone teaches them; controls, and "
        f"a teacher that is trained here, see the {samples - unlabelled:,} labelled ones"
    )


def check_class_names(task: Task, labelled: int, classes: int, from_data: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the names of the classes. Logits beyond the labels of the data need no names.

    Args:
        task: Names the classes.
        from_data: The names that the data give, for a task that gives none.
        labelled: Number of classes that the labels have.
        classes: Number of logits C.

    Raises:
        Unfit: If there are fewer names than labelled classes, or more than logits.
    """
    names = class_names(task, from_data)
    if names and not task.output.has_classes:
        raise Unfit(f"the task has class_names, but its output, {task.output}, has no classes", "leave class_names out")
    if names and not labelled <= len(names) <= classes:
        raise Unfit(
            f"the task's class_names must name each of its {labelled} classes, but name {len(names)}",
            "give each a name, in their order, or leave class_names out",
        )
    return names
