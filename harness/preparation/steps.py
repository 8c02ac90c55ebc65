"""The steps of a preparation: what is checked and made before a trial trains, and what a person is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

from harness.core.content import digest
from harness.core.errors import HarnessError, Unfit
from harness.core.metric import Costs
from harness.cost import budgets as budget
from harness.cost.counting import Counts
from harness.cost.table import CostTable
from harness.hints import doctor_command
from harness.metrics import METRICS, cost_metrics, timed_text, unknown_for_some
from harness.networks.consistency import ASKED, find_inconsistency
from harness.networks.deployment import check_deployed
from harness.networks.student_checks import Students, check_students
from harness.preparation.cost_table import example_inputs, known_costs
from harness.preparation.fingerprint import fingerprint, fingerprint_of_folds
from harness.preparation.method_checks import (
    check_classes,
    check_live,
    check_no_layers,
    check_student_layers,
    check_targets,
    check_unlabelled,
    student_layers,
    teacher_layers,
)
from harness.preparation.mixing import find_unrepeatable_view, mixes_targets, no_control_reason, remedy_of
from harness.preparation.new_data import NEW, attach_new, load_new_data
from harness.preparation.origins import check_starts, file_starts, find_origins
from harness.preparation.own_modules import check_own_training
from harness.preparation.sanity_warnings import SAME_WEIGHTS, network_warnings, task_warnings, training_warnings
from harness.preparation.scoring import score
from harness.preparation.student_identity import student_starts, students_digest
from harness.preparation.teacher_checks import check_outputs, check_teacher
from harness.preparation.teacher_scale import on_scale
from harness.preparation.training_checks import check_trainings, training_line, training_surprises
from harness.preparation.user_code import middle_student, middle_student_code, user_code
from harness.region import Scores, region_of
from harness.screen.terminal import Terminal
from harness.settings import Bound, Settings
from harness.space import SearchSpace
from harness.studies.changes import pin_starts
from harness.studies.study import Study
from harness.task import Task, class_names, deployed_network, load_data, primary_metric, teacher_outputs_dtype
from harness.teachers.asking import (
    AUTO,
    LIVE,
    STORED,
    asking_costs,
    asks_live,
    check_can_be_asked,
    how_to_ask,
    live_teacher,
    told,
)
from harness.teachers.black_box import BlackBoxTeacher
from harness.teachers.cache import ArtifactCache, null_lock
from harness.teachers.ensemble import averaged, labels, make_teachers
from harness.teachers.make import Teacher
from harness.teachers.outputs import Outputs, make_teacher_outputs
from harness.teachers.untrained import learns
from harness.tracking.mirror import Mirror
from harness.training.fit import device_of
from lightning_modules.batch import call
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.tensors import TensorDataModule
from lightning_modules.data.unlabelled import output_for_training, unlabelled_count

_PROBED_SAMPLES = 16  # by which it is seen whether a student gives logits
INDENT = " " * 10  # of what continues a line


class PreparationSteps:
    """The steps of one preparation. Each checks or makes one thing, and stores with the study what it found.

    Args:
        settings: Name data, teacher and device.
        space: What varies.
        study: The study.
        terminal: Shows what is made.
        mirror: Notified of the teacher's new log entries.

    Attributes:
        warnings: Sanity warnings so far, a sentence each.
    """

    def __init__(
        self, settings: Settings, space: SearchSpace, study: Study, terminal: Terminal, mirror: Mirror
    ) -> None:
        self._settings, self._space, self._study = settings, space, study
        self._terminal, self._mirror = terminal, mirror
        self.warnings: list[str] = []
        self._finished: set[Path] = set()  # folders of the teachers' runs
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
            found += network_warnings(call(network, example_inputs(data, _PROBED_SAMPLES)).float(), space.task.output)
            deployed = deployed_network(space.task, network).to(data.device)
            fault = find_inconsistency(deployed, example_inputs(data, ASKED))
        return found if fault is None else [*found, f"answers inconsistently: {fault.found}"]

    def check_trainings(self, data: TensorDataModule, classes: int) -> None:
        """Check how students are trained, and tell it where it is not the default."""
        if self._space.trains_itself:
            found = check_own_training(
                self._space, data, self.task_code, classes=classes, accelerator=self._settings.accelerator
            )
            self._own_control = found.no_control
            self.warnings += found.warnings
            self._terminal.say_wrapped(f"training  {found}", indent=INDENT)
            return
        with self.task_code("training"):
            check_trainings(self._space, data)
        if line := training_line(self._space, data.device):
            self._terminal.say_wrapped(f"training  {line}", indent=INDENT)
        self.warnings += training_surprises(self._space, data)

    def collect_warnings(self, students: Students) -> None:
        """Collect sanity warnings about the task and what its students have in common."""
        self.warnings += [f"the task {one}" for one in task_warnings(self._space.task, Task)]
        self.warnings += [f"nothing of a student changes with its {name}" for name in students.without_effect]
        if students.empty_layer is not None:
            self.warnings.append(str(students.empty_layer).rstrip("."))
        if students.unseeded is not None:
            self.warnings.append(f"{students.unseeded} {SAME_WEIGHTS}")

    def make_teachers(self, data: TensorDataModule, datasets: Sequence[str], students: Students) -> list[list[Teacher]]:
        """Train, find or load the teachers of each fold: one that has seen a fold's validation samples tells of them.

        Args:
            data: The data.
            datasets: What stands for the data of each fold in keys.
            students: What is known of students.
        """
        made: list[list[Teacher]] = []
        for fold, dataset in zip(data.folds, datasets, strict=True):
            name = f" of fold {len(made) + 1} of {len(datasets)}" if len(datasets) > 1 else ""
            made.append(self._make_teachers(fold, dataset, students, name))
        first, *others = made
        known = {teacher.digest: teacher for teacher in first}
        for teachers in others:
            for place, teacher in enumerate(teachers):
                if (same := known.get(teacher.digest)) is None:
                    continue
                teacher.spool.close()  # its run is that of the first fold's
                teachers[place] = replace(teacher, spool=same.spool) if teacher.black_box else same
        if others and any(teacher.digest in known for teacher in others[0]):
            self.warnings.append(
                "the teacher is the same in all folds: if it has seen these samples, it tells students of those that "
                "validate them; one that is trained here is trained for each fold"
            )
        return made

    def _make_teachers(self, data: TensorDataModule, dataset: str, students: Students, fold: str) -> list[Teacher]:

        def check(network: nn.Module | BlackBoxTeacher) -> None:
            budget.check_compared(known_costs(network), self._study.objectives)
            if isinstance(network, BlackBoxTeacher):
                check_no_layers(type(network).__name__, teacher_layers(self._space))
                check_can_be_asked(self._settings.teacher_outputs, data, network)
                return
            check_teacher(network, self._space, data, students)
            if not self._settings.teachers and learns(network):
                found = [f"the teacher {one}" for one in training_warnings(network)]
                self.warnings.extend(one for one in found if one not in self.warnings)

        if fold and not self._settings.teachers:
            self._terminal.say(f"teacher   {fold.removeprefix(' of ')}")
        with self.task_code("teacher"):
            return make_teachers(
                self._space,
                data,
                dataset,
                classes=students.classes,
                settings=self._settings,
                artifacts=self._artifacts,
                terminal=self._terminal,
                mirror=self._mirror,
                check=check,
                bind_start=lambda name, start: pin_starts(self._study, {f"{name}{fold}": start})[f"{name}{fold}"],
            )

    @cached_property
    def _artifacts(self) -> ArtifactCache:
        lock = self._study.exclusive if self._study.is_shared else null_lock
        return ArtifactCache(lock, self._mirror, self._terminal.say)

    def begin_work(self, no_control: str, scored: Scores, names: tuple[str, ...]) -> None:
        """Begin to store what was found, which no other start may overtake from here on."""
        study = self._study
        study.begin_work()
        study.no_control = no_control
        study.unlabelled = self._unlabelled
        study.primary_bounds = scored.bounds
        study.class_names = names

    def check_asking(self, data: TensorDataModule) -> None:
        """Check that teachers can be asked as a person wants, as far as that is known before they are made."""
        check_can_be_asked(self._settings.teacher_outputs, data)
        if asks_live(data) or self._settings.teacher_outputs == LIVE:
            check_live(self._space)

    def ask_live(self, made: Sequence[Sequence[Teacher]], data: TensorDataModule) -> Sequence[LiveTeacher | None]:
        """Return the teachers of each fold as they are asked live; ``None`` where their outputs are stored."""
        first = self._ask_live(made[0], data)
        if first is None:
            return [None] * len(made)
        with user_code("the teacher", self._settings):
            others = [
                live_teacher(teachers, self._space, self._settings.average, example_inputs(fold, ASKED))
                for teachers, fold in zip(made[1:], data.folds[1:], strict=True)
            ]
        return [first, *others]

    def _ask_live(self, teachers: Sequence[Teacher], data: TensorDataModule) -> LiveTeacher | None:
        """Choose how the teachers are asked, tell what either way takes, and return them if they are asked live."""
        space, settings, study = self._space, self._settings, self._study
        networks = [one.network for one in teachers if one.network is not None and one.black_box is None]
        if len(networks) < len(teachers):  # answers of what is no PyTorch network are stored
            study.pin_inputs(teacher_outputs=STORED)
            return None
        before = None if study.is_unused() else study.how_teachers_are_asked
        with user_code("the teacher", settings):
            costs = asking_costs(networks, data, space, settings, teacher_layers(space))
            may_be_live = not any(one.needs_stored for one in space.criteria.values())
            way = how_to_ask(settings.teacher_outputs, before, data, costs, may_be_live=may_be_live)
            live = None
            if way == LIVE:
                try:
                    live = live_teacher(teachers, space, settings.average, example_inputs(data, ASKED))
                except HarnessError:
                    if settings.teacher_outputs != AUTO or before == LIVE or asks_live(data):
                        raise
                    way = STORED  # of a teacher that answers differently each time
            study.pin_inputs(teacher_outputs=way)
            self._terminal.say_wrapped(f"outputs   {told(way, costs)}", indent=INDENT)
        return live

    def attach_answers(
        self,
        teachers: Sequence[Teacher],
        data: TensorDataModule,
        dataset: str,
        splits: Sequence[str],
        classes: int,
        new: TensorDataModule | None = None,
    ) -> Answers:
        """Join the teachers' answers, computed or found, to the samples of one fold, averaged if there are several.

        Args:
            teachers: The teachers of that fold.
            data: Its data.
            dataset: What stands for them in keys.
            splits: Splits for which answers are stored.
            classes: Number of classes C.
            new: New data, to which the answers are joined too; ``None`` for none.
        """
        outputs = self._make_outputs(teachers, data, dataset, splits, new)
        if new is not None:
            outputs = attach_new(new, outputs, self._settings.average, self._space.task.output)
        each = [attach_outputs(one, data, self._space, classes) for one in outputs]
        together = averaged(outputs, self._settings.average, self._space.task.output)
        scores = attach_outputs(together, data, self._space, classes)
        return Answers(teachers=teachers, outputs=outputs, each=each, scores=scores, data=data)

    def _make_outputs(
        self,
        teachers: Sequence[Teacher],
        data: TensorDataModule,
        dataset: str,
        splits: Sequence[str],
        new: TensorDataModule | None,
    ) -> list[Outputs]:
        """Compute or find each teacher's outputs, check that they are numbers, and bring them to the labels' scale.

        Args:
            teachers: The teachers.
            data: The data.
            dataset: What stands for it in keys.
            splits: Names of its splits.
            new: New data, whose outputs are those of the split ``NEW``; ``None`` for none.
        """
        make = partial(make_teacher_outputs, cache_dir=self._settings.cache_dir, artifacts=self._artifacts)
        layers, dtype = teacher_layers(self._space), teacher_outputs_dtype(self._space.task)
        with user_code("the teacher", self._settings):
            outputs = [make(one, data, dataset, splits=splits, layers=layers, dtype=dtype) for one in teachers]
            if new is not None:
                key = digest("new data", dataset, new.splits[NEW].fingerprint)
                outputs = [
                    {**known, **make(one, new, key, splits=(NEW,))}
                    for known, one in zip(outputs, teachers, strict=True)
                ]
        scaled = []
        for name, one in zip(labels(len(teachers)), outputs, strict=True):
            check_outputs(f"the {name}", one, self._space.task.output)

            def note(text: str, name: str = name) -> None:
                self._terminal.say_wrapped(f"{name:<9} {text}", indent=INDENT)

            scaled.append(on_scale(f"the {name}", one, data, self._space.task.output, note))
        return scaled

    def show_warnings(self, more: Sequence[str]) -> None:
        """Show the warnings that were collected, and ``more``; empty ones are none."""
        self.warnings += filter(None, more)
        for warning in self.warnings:
            self._show(warning)

    def _warn(self, warning: str, file: Path | None = None) -> None:
        self.warnings.append(warning)
        self._show(warning, file)

    def _show(self, warning: str, file: Path | None = None) -> None:
        look = doctor_command(self._settings, file)
        self._terminal.say_wrapped(f"warning   {warning}; look: {look}", indent=INDENT)

    def report_teachers(self, told: Answers, costs: CostTable, scored: Scores, together: str) -> None:
        """Show each teacher of a fold with its sanity warnings, and finish its run.

        Args:
            told: What the teachers answered.
            costs: Costs of the teachers.
            scored: What is known of the primary metric.
            together: The common name of the teachers.
        """
        teachers, data = told.teachers, told.data
        names = labels(len(teachers)) if len(teachers) > 1 else ["the teacher"]
        files, members = self._settings.teachers or [None] * len(teachers), costs.members or [costs.teacher]
        for name, teacher, file, answered, reached, cost in zip(
            names, teachers, files, told.outputs, told.each, members, strict=True
        ):
            self._terminal.say(f"teacher   {describe_network(self._space, reached, cost)}, {teacher.digest}")
            is_finished = teacher.spool.folder in self._finished
            self._finished.add(teacher.spool.folder)
            if is_finished:
                continue
            logits = answered["val"]["logits"].float()
            for warning in network_warnings(logits, self._space.task.output, scored, reached[scored.metric]):
                self._warn(f"{name} {warning}", file)
            if teacher.black_box is not None:
                self._warn_of_black_box(name, teacher.black_box, file)
            if teacher.network is not None:
                with user_code("the teacher", self._settings):
                    fault = find_inconsistency(teacher.network, example_inputs(data, ASKED))
                if fault is not None:
                    self._warn(f"{name} answers inconsistently: {fault.found}", file)
            _finish_teacher(teacher, reached, cost)
            self._mirror.notify(teacher.spool.folder)  # a kept teacher may be new to this tracking store
        if len(teachers) > 1:
            described = describe_network(self._space, told.scores, costs.teacher)
            self._terminal.say(f"ensemble  {described}, mean of the {together}")

    def report_mean(self, scores: Sequence[Mapping[str, float]]) -> None:
        """Show the mean of the teachers' primary metric over folds, where there are several."""
        if len(scores) > 1:
            name = primary_metric(self._space.task).name
            values = [one[name] for one in scores]
            told = f"{name} {fmean(values):.4f} ± {stdev(values):.4f}"
            self._terminal.say(f"folds     {told}, the mean and the deviation over {len(values)} teachers")

    def _warn_of_black_box(self, name: str, teacher: BlackBoxTeacher, file: Path | None) -> None:
        for warning in teacher.warnings:
            self._warn(f"{name} {warning}", file)
        if teacher.is_costed:
            self.warnings.append(
                f"the latency of {name} is that of {teacher.runtime} as Python calls it, and students' that of eager "
                "PyTorch: speedup compares the two"
            )
            self._terminal.say_wrapped(f"warning   {self.warnings[-1]}", indent=INDENT)

    def report_students(self, student_warnings: Sequence[str], costs: CostTable) -> None:
        """Show the warnings about students, and store all so far with the study."""
        file = next(iter(self._settings.teachers), None)
        for warning in student_warnings:
            self._warn(f"a student {warning}", file)
        if costs.uncounted:
            unknown = ", ".join(unknown_for_some(METRICS))
            self.warnings.append(f"{unknown} are not known of students: no formula for {', '.join(costs.uncounted)}")
            self._terminal.say_wrapped(f"warning   {self.warnings[-1]}", indent=INDENT)
        self._study.sanity_warnings = tuple(self.warnings)

    def set_region(self, bound: Bound | None, scored: Scores, teacher: float) -> None:
        """Store the region of interest with the study, and show it."""
        study = self._study
        region = region_of(bound, scored, teacher)
        before = f"; before: {study.region.bound}" if bound != study.bound and study.trials() else ""
        study.region = region
        study.bound = bound
        self._terminal.say_wrapped(f"region    {region}{before}", indent=INDENT)
        if not region.holds(teacher):
            self.warnings.append(f"the teacher itself is not in the region ({region}), so few students may be")
            self._terminal.say_wrapped(f"warning   {self.warnings[-1]}", indent=INDENT)
            study.sanity_warnings = tuple(self.warnings)


def unlabelled_text(unlabelled: int, samples: int) -> str:
    """Return how training samples without a label are used, in one line; empty where all have one."""
    if not unlabelled:
        return ""
    return (
        f"{unlabelled:,} of {samples:,} training samples are unlabelled: the teacher alone teaches them; controls, and "
        f"a teacher that is trained here, see the {samples - unlabelled:,} labelled ones"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What the teachers of one fold answered.

    Attributes:
        teachers: The teachers.
        outputs: The outputs of each.
        each: The scores of each on the validation split.
        scores: Those of their average.
        data: The data of that fold.
    """

    teachers: Sequence[Teacher]
    outputs: Sequence[Outputs]
    each: Sequence[Mapping[str, float]]
    scores: Mapping[str, float]
    data: TensorDataModule


def attach_outputs(outputs: Outputs, data: TensorDataModule, space: SearchSpace, classes: int) -> dict[str, float]:
    """Join a teacher's outputs to the data, and return its scores."""
    data.attach(outputs)
    return score(data.teacher_outputs["val"]["logits"], data, space, classes)


def describe_network(space: SearchSpace, scores: Mapping[str, float], cost: Costs) -> str:
    """Return a teacher's primary metric and its costs, as a line of text shows them."""
    name = primary_metric(space.task).name
    told = [f"{name} {scores[name]:.4f} (validation)"]
    if "parameters" in cost:
        told.append(f"{cost['parameters']:,.0f} parameters" if cost["parameters"] else "no parameters")
    return ", ".join([*told, timed_text(cost) or "its costs are not known"])


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


def _finish_teacher(teacher: Teacher, scores: Mapping[str, float], cost: Costs) -> None:
    if teacher.spool.state != "COMPLETE":
        teacher.spool.tags({"kd.teacher": teacher.digest})
        teacher.spool.metrics(teacher_metrics(scores, cost))
        teacher.spool.set_state("COMPLETE")
    teacher.spool.close()


def teacher_metrics(scores: Mapping[str, float], cost: Costs) -> dict[str, float]:
    """Return a teacher's metrics; counts of tensors say nothing of one that has no parameters, and are left out."""
    metrics = {**scores, **cost_metrics(cost, cost)}
    uncounted = () if cost.get("parameters") else Counts._fields
    return {name: value for name, value in metrics.items() if name not in uncounted}
