"""Teacher, teacher outputs, cost table: each made once, kept, and checked when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from harness.cli.search import doctor_command
from harness.core.content import derived_seed, digest
from harness.core.errors import Unfit, if_memory_suffices
from harness.cost import budgets as budget
from harness.cost.measure import MOST_ARCHITECTURES, Counts, shape_of
from harness.metrics import METRICS, Cost, unknown_for_some
from harness.networks.deployment import check_deployed
from harness.networks.digest import start_of
from harness.networks.logits import label_classes
from harness.networks.steadiness import ASKED, unsteadiness
from harness.networks.students import check_students, middle_architecture, named
from harness.preparation.cache_format import check_cache
from harness.preparation.cost_table import cost_table, example_inputs, too_large
from harness.preparation.fingerprint import fingerprint
from harness.preparation.method_checks import (
    check_classes,
    check_own_methods,
    check_student_layers,
    check_targets,
    check_teachers,
    student_layers,
    teacher_layers,
)
from harness.preparation.mixing import REMEDY, mixes_targets, unrepeatable, why_no_control
from harness.preparation.prepared import Prepared
from harness.preparation.sanity_warnings import ALIKE, misgivings, of_task, of_training
from harness.preparation.scoring import score, scores_of
from harness.preparation.teacher_checks import check_outputs, check_teacher
from harness.preparation.user_code import asking, asking_the_middle, middle_student, student_of
from harness.region import check_reach, region_of
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace, ends
from harness.studies.changes import pin_starts
from harness.studies.start import Start
from harness.studies.study import Study
from harness.task import Task, class_names, deployed_network
from harness.teachers.cache import ArtifactCache, nobody_else
from harness.teachers.ensemble import averaged, bind_teachers, labels, make_teachers, number_of_teachers
from harness.teachers.make import Teacher, learns
from harness.teachers.outputs import SEARCHED, Outputs, make_teacher_outputs
from harness.tracking.mirror import Mirror
from harness.training.allocator import keep_freed_memory
from harness.training.fit import device_of, seed_draws
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule

_HASHED_NUMBERS = 20_000_000  # of students' fresh weights, at most, by which a start is known: half a second
_GLANCED_AT = 16  # samples, by which it is seen whether a student gives logits


def prepare(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    terminal: Terminal,
    mirror: Mirror,
    *,
    splits: Sequence[str] = SEARCHED,
) -> Prepared:
    """Make, or find, all that a trial needs, and tie the study to it.

    Args:
        settings: Name data, teacher and device.
        space: What varies.
        study: The study.
        terminal: Shows what is made.
        mirror: Told of the teacher's news.
        splits: Of which the teacher's outputs are wanted.

    Raises:
        HarnessError: If the data, the teacher's checkpoint or the device can't be had, the study stands on others, or a
            method of the space does not fit the task.
    """
    check_teachers(space, number_of_teachers(settings))
    check_cache(settings.cache_dir, lambda text: terminal.tell(text, indent=" " * 10))
    keep_freed_memory()
    device = device_of(settings.accelerator)
    with asking("the task's data", settings):
        data = space.task.data(settings.data_dir)
    with asking("the task's views", settings):
        dataset = fingerprint(data)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    views = "" if data.views is None else f", {data.views.count} views of each to train on"
    terminal.say(f"data      {sizes} samples{views}, {dataset}")
    data.move_to(device)
    study.pin_inputs(dataset=dataset, students=_students_digest(space, data, settings))

    def asking_task(what: str) -> AbstractContextManager[None]:
        return asking(f"the task's {what}", settings)

    students = check_students(space, data, asking_task, layers=student_layers(space))
    classes = students.classes
    check_deployed(space, data, asking_task, classes=classes)
    pin_starts(study, _student_starts(space, data, settings))
    check_classes(space, classes)
    check_student_layers(space, students)
    with asking("the task's views", settings):
        check_targets(space, mixes_targets(data, classes))
        no_control = why_no_control(data, classes)
        unsteady = unrepeatable(data)
    if no_control:
        terminal.tell(f"controls  no control possible: {no_control}; {REMEDY}", indent=" " * 10)
    scored = scores_of(space.task, data, classes)
    bound = settings.bound or study.bound
    check_reach(bound, scored)
    called = check_class_names(space.task, label_classes(data), classes)
    student_misgivings = _student_misgivings(space, data, settings)  # before a teacher: memory must suffice for it
    keeper = ArtifactCache(study.exclusive if study.is_shared else nobody_else, mirror, terminal.say)
    doubts = [f"the task {one}" for one in of_task(space.task, Task)]
    doubts += [f"nothing of a student changes with its {name}" for name in students.inert]
    if students.unitless is not None:
        doubts.append(str(students.unitless).rstrip("."))
    if students.alike is not None:
        doubts.append(f"{students.alike} {ALIKE}")

    def check(network: nn.Module) -> None:
        check_teacher(network, space, data, students)
        budget.check_compared(network, study.objectives)
        if not settings.teachers and learns(network):
            doubts.extend(f"the teacher {one}" for one in of_training(network) if f"the teacher {one}" not in doubts)

    with asking("the task's teacher", settings):
        teachers = make_teachers(
            space,
            data,
            dataset,
            classes=classes,
            settings=settings,
            keeper=keeper,
            terminal=terminal,
            mirror=mirror,
            check=check,
            bind_start=lambda name, start: pin_starts(study, {name: start})[name],
        )
    name = bind_teachers(study, [teacher.start for teacher in teachers], settings.average)
    study.begin_work()  # from here on it is written what was found, which no other start may overtake
    study.no_control = no_control
    study.primary_bounds = scored.bounds
    study.class_names = called
    layers = teacher_layers(space)
    with asking("the teacher", settings):
        outputs = [
            make_teacher_outputs(
                teacher, data, dataset, splits=splits, layers=layers, cache_dir=settings.cache_dir, keeper=keeper
            )
            for teacher in teachers
        ]
    for who, one in zip(labels(len(teachers)), outputs, strict=True):
        check_outputs(f"the {who}", one)
    scores = [_attach(one, data, space, classes) for one in outputs]
    together = _attach(averaged(outputs, settings.average), data, space, classes)
    check_own_methods(space, data, asking_task)
    costs = cost_table(settings, space, study, teachers, data, terminal)
    if left_out := too_large(space, costs):
        doubts.append(left_out)
    files, its_costs = settings.teachers or [None] * len(teachers), costs.members or [costs.teacher]
    names = labels(len(teachers)) if len(teachers) > 1 else ["the teacher"]

    def warn(doubt: str, file: Path | None = None) -> None:
        terminal.tell(f"warning   {doubt}; look: {doctor_command(settings, file)}", indent=" " * 10)

    if unsteady:
        doubts.append(f"{unsteady}: students are not shown what the teacher was asked about")
    for doubt in doubts:
        warn(doubt)
    for who, teacher, file, said, its_scores, cost in zip(
        names, teachers, files, outputs, scores, its_costs, strict=True
    ):
        terminal.say(f"teacher   {_described(space, its_scores, cost)}, {teacher.digest}")
        reached = its_scores[space.task.metric_name]
        for misgiving in misgivings(said["val"]["logits"].float(), scored, reached):
            doubts.append(f"{who} {misgiving}")
            warn(doubts[-1], file)
        with asking("the teacher", settings):
            fault = unsteadiness(teacher.network, example_inputs(data, ASKED))
        if fault is not None:
            doubts.append(f"{who} is not steady: {fault.found}")
            warn(doubts[-1], file)
        _finish_teacher(teacher, its_scores, cost)
        mirror.notify(teacher.spool.folder)  # a kept teacher may be new to this tracking store
    if len(teachers) > 1:
        terminal.say(f"ensemble  {_described(space, together, costs.teacher)}, mean of the {name}")
    for misgiving in student_misgivings:
        doubts.append(f"a student {misgiving}")
        warn(doubts[-1], files[0])
    if costs.uncounted:
        unknown = ", ".join(unknown_for_some(METRICS))
        doubts.append(f"{unknown} are not known of students: no formula for {', '.join(costs.uncounted)}")
        terminal.tell(f"warning   {doubts[-1]}", indent=" " * 10)
    study.sanity_warnings = tuple(doubts)
    study.teacher = _teacher_metrics(together, costs.teacher)
    budget.check_counted(costs.uncounted, settings.budgets, study.objectives)
    region = region_of(bound, scored, together[space.task.metric_name])
    before = f"; before: {study.region.bound}" if bound != study.bound and study.trials() else ""
    study.region = region
    study.bound = bound
    terminal.tell(f"region    {region}{before}", indent=" " * 10)
    if not region.holds(together[space.task.metric_name]):
        doubts = [*doubts, f"the teacher itself is not in the region ({region}), so few students may be"]
        terminal.tell(f"warning   {doubts[-1]}", indent=" " * 10)
        study.sanity_warnings = tuple(doubts)
    budget.within(space, settings.budgets, costs)  # says so now, if no student is
    return Prepared(data=data, classes=classes, dataset=dataset, teacher_digest=name, costs=costs)


def _attach(outputs: Outputs, data: TensorDataModule, space: SearchSpace, classes: int) -> dict[str, float]:
    """Join a teacher's outputs to the data; its scores."""
    data.attach(outputs)
    return score(data.teacher_outputs["val"]["logits"], data, space, classes)


def _described(space: SearchSpace, scores: Mapping[str, float], cost: Cost) -> str:
    parameters = f"{cost.parameters:,}" if cost.parameters else "no"
    return (
        f"{space.task.metric_name} {scores[space.task.metric_name]:.4f} (validation), {parameters} parameters, "
        f"{cost.latency_p50_ms:.3f} ms"
    )


def _students_digest(space: SearchSpace, data: TensorDataModule, settings: Settings) -> str:
    """What the task makes of an architecture, told by the middle one: costs that are kept hold for no other network."""
    student = middle_student(space, data, settings)
    with asking("the task's deployed(student)", settings):
        return digest("student", shape_of(student), shape_of(deployed_network(space.task, student)))


def _student_starts(space: SearchSpace, data: TensorDataModule, settings: Settings) -> dict[str, Start]:
    """Return what students start from under one seed: all, where they are few and small, or the middle and the ends."""
    middle = middle_architecture(space)
    size = sum(value.numel() for value in middle_student(space, data, settings).state_dict().values())
    architectures = space.architectures(limit=MOST_ARCHITECTURES)
    if architectures is None or size * len(architectures) > _HASHED_NUMBERS:
        outer = [(name, value) for name, distribution in space.student.items() for value in ends(distribution)]
        architectures = [middle] if size * len(outer) > _HASHED_NUMBERS else [middle | {n: v} for n, v in outer]
    starts = {}
    for architecture in architectures:
        seed_draws(derived_seed("start"), torch.device("cpu"))
        with if_memory_suffices():
            starts[named(architecture)] = start_of(student_of(space, architecture, data, settings))
    return starts


def _student_misgivings(space: SearchSpace, data: TensorDataModule, settings: Settings) -> list[str]:
    """Return what is doubtful of the middle student before it has learnt anything."""
    network = middle_student(space, data, settings)
    doubts = of_training(network)
    network.eval()
    with asking_the_middle(space, settings), torch.no_grad():
        doubts += misgivings(call(network, example_inputs(data, _GLANCED_AT)).float())
        fault = unsteadiness(deployed_network(space.task, network).to(data.device), example_inputs(data, ASKED))
    return doubts if fault is None else [*doubts, f"is not steady: {fault.found}"]


def check_class_names(task: Task, labelled: int, classes: int) -> tuple[str, ...]:
    """Return the names of the classes; of a network of more logits than labels, those beyond have none.

    Raises:
        Unfit: If they are not as many as the classes.
    """
    names = class_names(task)
    if names and not labelled <= len(names) <= classes:
        raise Unfit(
            f"the task's class_names must name each of its {labelled} classes, but name {len(names)}",
            "give each a name, in their order, or leave class_names out",
        )
    return names


def _finish_teacher(teacher: Teacher, scores: Mapping[str, float], cost: Cost) -> None:
    if teacher.spool.state != "COMPLETE":
        teacher.spool.tags({"kd.teacher": teacher.digest})
        teacher.spool.metrics(_teacher_metrics(scores, cost))
        teacher.spool.set_state("COMPLETE")
    teacher.spool.close()


def _teacher_metrics(scores: Mapping[str, float], cost: Cost) -> dict[str, float]:
    """Return a teacher's metrics; counts of tensors say nothing of one that has no parameters, and are left out."""
    metrics = {**scores, **cost.metrics(teacher=cost)}
    uncounted = () if cost.parameters else Counts._fields
    return {name: value for name, value in metrics.items() if name not in uncounted}
