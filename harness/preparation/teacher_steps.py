"""The steps of a preparation that concern teachers: made for each fold, asked, and told of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

from harness.core.content import digest
from harness.core.errors import HarnessError
from harness.core.metric import Costs
from harness.cost import budgets as budget
from harness.cost.counting import Counts
from harness.cost.table import CostTable
from harness.metrics import cost_metrics, timed_text
from harness.networks.consistency import ASKED, find_inconsistency
from harness.networks.student_checks import Students
from harness.preparation.concurrency import number_of_workers
from harness.preparation.cost_table import known_costs
from harness.preparation.method_checks import (
    check_live,
    check_no_layers,
    teacher_layers,
)
from harness.preparation.new_data import NEW, attach_new
from harness.preparation.sanity_warnings import network_warnings, training_warnings
from harness.preparation.scoring import teacher_scores
from harness.preparation.teacher_checks import check_outputs, check_teacher
from harness.preparation.teacher_scale import on_scale
from harness.preparation.top_k_checks import check_top_k, temperature_ends
from harness.preparation.user_code import user_code
from harness.preparation.warning_list import INDENT, WarningList
from harness.region import Scores
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.changes import pin_starts
from harness.studies.study import Study
from harness.task import primary_metric, teacher_outputs_dtype
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
from harness.teachers.outputs import LOGITS, Outputs, make_teacher_outputs
from harness.teachers.top_k_error import error_text, top_k_error
from harness.teachers.top_k_outputs import make_top_k_outputs
from harness.teachers.untrained import learns
from harness.tracking.mirror import Mirror
from lightning_modules.batch import call
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.stored_top_k import StoredTopK
from lightning_modules.data.tensors import TensorDataModule

_LOOKED_AT = 16  # samples, where the logits of all can't be held


class TeacherSteps:
    """The steps of one preparation that concern teachers.

    Args:
        settings: Name teachers, cache and device.
        space: What varies.
        study: The study.
        terminal: Shows what is made.
        mirror: Notified of the teachers' new log entries.
        warnings: Takes the sanity warnings.
    """

    def __init__(
        self,
        settings: Settings,
        space: SearchSpace,
        study: Study,
        terminal: Terminal,
        mirror: Mirror,
        warnings: WarningList,
    ) -> None:
        self._settings, self._space, self._study = settings, space, study
        self._terminal, self._mirror, self._warnings = terminal, mirror, warnings
        self._finished: set[Path] = set()  # folders of the teachers' runs

    def make(self, data: TensorDataModule, datasets: Sequence[str], students: Students) -> list[list[Teacher]]:
        """Train, find or load the teachers of each fold: one that has seen a fold's validation samples tells of them.

        Args:
            data: The data.
            datasets: What stands for the data of each fold in keys.
            students: What is known of students.
        """
        made: list[list[Teacher]] = []
        for fold, dataset in zip(data.folds, datasets, strict=True):
            name = f" of fold {len(made) + 1} of {len(datasets)}" if len(datasets) > 1 else ""
            made.append(self._make(fold, dataset, students, name))
        first, *others = made
        known = {teacher.digest: teacher for teacher in first}
        for teachers in others:
            for place, teacher in enumerate(teachers):
                if (same := known.get(teacher.digest)) is None:
                    continue
                teacher.spool.close()  # its run is that of the first fold's
                teachers[place] = replace(teacher, spool=same.spool) if teacher.black_box else same
        if others and any(teacher.digest in known for teacher in others[0]):
            self._warnings.add(
                "the teacher is the same in all folds: if it has seen these samples, it tells students of those that "
                "validate them; one that is trained here is trained for each fold"
            )
        return made

    def _make(self, data: TensorDataModule, dataset: str, students: Students, fold: str) -> list[Teacher]:

        def check(network: nn.Module | BlackBoxTeacher) -> None:
            budget.check_compared(known_costs(network), self._study.objectives)
            if isinstance(network, BlackBoxTeacher):
                return
            check_teacher(network, self._space, data, students)
            if not self._settings.teachers and learns(network):
                self._warnings.add(*(f"the teacher {one}" for one in training_warnings(network)))

        def check_kind(teacher: BlackBoxTeacher) -> None:
            check_no_layers(type(teacher).__name__, teacher_layers(self._space))
            check_can_be_asked(self._settings.teacher_outputs, data, self._space.task.output, teacher)

        if fold and not self._settings.teachers:
            self._terminal.say(f"teacher   {fold.removeprefix(' of ')}")
        with user_code("the task's teacher", self._settings):
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
                check_kind=check_kind,
                bind_start=lambda name, start: pin_starts(self._study, {f"{name}{fold}": start})[f"{name}{fold}"],
            )

    @cached_property
    def _artifacts(self) -> ArtifactCache:
        lock = self._study.exclusive if self._study.is_shared else null_lock
        return ArtifactCache(lock, self._mirror, self._terminal.say)

    def check_asking(self, data: TensorDataModule, classes: int) -> None:
        """Check that teachers can be asked as a person wants, as far as that is known before they are made."""
        check_top_k(self._space, data, classes, self._settings)
        check_can_be_asked(self._settings.teacher_outputs, data, self._space.task.output)
        if asks_live(data) or self._settings.teacher_outputs == LIVE:
            check_live(self._space)

    def ask_live(
        self, made: Sequence[Sequence[Teacher]], data: TensorDataModule, classes: int
    ) -> Sequence[LiveTeacher | None]:
        """Return the teachers of each fold as they are asked live; ``None`` where their outputs are stored."""
        first = self._ask_live(made[0], data, classes)
        if first is None:
            return [None] * len(made)
        with user_code("the teacher", self._settings):
            others = [
                live_teacher(teachers, self._space, self._settings.average, fold.example_inputs(ASKED))
                for teachers, fold in zip(made[1:], data.folds[1:], strict=True)
            ]
        return [first, *others]

    def _ask_live(self, teachers: Sequence[Teacher], data: TensorDataModule, classes: int) -> LiveTeacher | None:
        """Choose how the teachers are asked, tell what either way takes, and return them if they are asked live."""
        space, settings, study = self._space, self._settings, self._study
        is_live = asks_live(data) or settings.teacher_outputs == LIVE
        if not is_live and any(one.black_box is not None for one in teachers):  # such answers are stored if they can be
            study.pin_inputs(teacher_outputs=STORED)
            return None
        networks = [one.live_network() for one in teachers]
        before = None if study.is_unused() else study.how_teachers_are_asked
        if space.task.teacher_outputs is not None:
            before = STORED
        with user_code("the teacher", settings):
            workers = number_of_workers(settings, space, data.device)
            costs = asking_costs(networks, data, space, settings, layers=teacher_layers(space), workers=workers)
            stored_alone = [space.task.output.maps_teacher, *(one.needs_stored for one in space.criteria.values())]
            way = how_to_ask(settings.teacher_outputs, before, data, costs, may_be_live=not any(stored_alone))
            live = None
            if way == LIVE:
                try:
                    live = live_teacher(teachers, space, settings.average, data.example_inputs(ASKED))
                except HarnessError:
                    if settings.teacher_outputs != AUTO or before == LIVE or asks_live(data):
                        raise
                    way = STORED  # of a teacher that answers differently each time
            study.pin_inputs(teacher_outputs=way)
            self._terminal.say_wrapped(f"outputs   {told(way, costs)}", indent=INDENT)
            if (form := space.task.teacher_outputs) is not None:
                low, high = temperature_ends(space)  # and between them, where the tail is interpolated
                errors = top_k_error(networks[0], data, space.task.output, form, (low, math.sqrt(low * high), high))
                line = error_text(errors, form, classes, space.task.output.row_word)
                self._terminal.say_wrapped(f"outputs   {line}", indent=INDENT)
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
        outputs = self._make_outputs(teachers, data, dataset, splits, classes, new)
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
        classes: int,
        new: TensorDataModule | None,
    ) -> list[Outputs]:
        """Compute or find each teacher's outputs, check that they are numbers, and bring them to the labels' scale.

        Args:
            teachers: The teachers.
            data: The data.
            dataset: What stands for it in keys.
            splits: Names of its splits.
            classes: Number of classes C, labels or values of the output.
            new: New data, whose outputs are those of the split ``NEW``; ``None`` for none.
        """
        make = partial(self._stored, classes=classes)
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

    def _stored(
        self,
        teacher: Teacher,
        data: TensorDataModule,
        dataset: str,
        *,
        splits: Sequence[str],
        classes: int,
        layers: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Outputs:
        """Find or compute a teacher's outputs, its logits in the form that the task wants."""
        task, cache_dir, artifacts = self._space.task, self._settings.cache_dir, self._artifacts
        make = partial(
            make_teacher_outputs, teacher, data, dataset,
            splits=splits, layers=layers, dtype=dtype, cache_dir=cache_dir, artifacts=artifacts,
        )  # fmt: skip
        if (form := task.teacher_outputs) is None:
            return make()
        logits = make_top_k_outputs(
            teacher, data, dataset, form=form, output=task.output, classes=classes, splits=splits,
            cache_dir=cache_dir, artifacts=artifacts,
        )  # fmt: skip
        others: Outputs = make(has_logits=False) if layers else {split: {} for split in splits}
        return {split: {LOGITS: stored, **others[split]} for split, stored in logits.items()}

    def report(self, told: Answers, costs: CostTable, scored: Scores, together: str) -> None:
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
            logits = _logits_of(teacher, answered["val"][LOGITS], data)
            for warning in network_warnings(logits, self._space.task.output, scored, reached[scored.metric]):
                self._warnings.warn(f"{name} {warning}", file)
            if teacher.black_box is not None:
                self._warn_of_black_box(name, teacher.black_box, file)
            if teacher.network is not None:
                with user_code("the teacher", self._settings):
                    fault = find_inconsistency(teacher.network, data.example_inputs(ASKED), data.forms_of_a_sample())
                if fault is not None:
                    self._warnings.warn(f"{name} answers inconsistently: {fault.found}", file)
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
            self._warnings.warn(f"{name} {warning}", file)
        if teacher.is_costed:
            self._warnings.tell(
                f"the latency of {name} is that of {teacher.runtime} as Python calls it, and students' that of eager "
                "PyTorch: speedup compares the two"
            )


@torch.no_grad()
def _logits_of(teacher: Teacher, stored: Tensor | StoredTopK, data: TensorDataModule) -> Tensor:
    """Return a teacher's raw logits of validation samples: of some, where those of all can't be held."""
    if isinstance(stored, Tensor):
        return stored.float()
    if teacher.network is None:
        return stored[:_LOOKED_AT].dense()
    return call(teacher.network, data.example_inputs(_LOOKED_AT)).float()


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
    return teacher_scores(data, space, classes)


def describe_network(space: SearchSpace, scores: Mapping[str, float], cost: Costs) -> str:
    """Return a teacher's primary metric and its costs, as a line of text shows them."""
    name = primary_metric(space.task).name
    told = [f"{name} {scores[name]:.4f} (validation)"]
    if "parameters" in cost:
        told.append(f"{cost['parameters']:,.0f} parameters" if cost["parameters"] else "no parameters")
    return ", ".join([*told, timed_text(cost) or "its costs are not known"])


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
