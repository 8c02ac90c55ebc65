"""Preparation of a study: data, teacher, its outputs and the cost table are made once, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cost import budgets as budget
from harness.networks.logits import label_classes
from harness.preparation.cache_format import check_cache
from harness.preparation.cost_table import cost_table, too_large
from harness.preparation.fingerprint import cache_key
from harness.preparation.method_checks import check_teachers
from harness.preparation.new_data import attach_new
from harness.preparation.own_methods import check_own_methods
from harness.preparation.prepared import Prepared
from harness.preparation.scoring import scores_of
from harness.preparation.steps import (
    INDENT,
    PreparationSteps,
    attach_outputs,
    check_class_names,
    describe_network,
    teacher_metrics,
)
from harness.region import check_reach
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.task import primary_metric
from harness.teachers.ensemble import averaged, bind_teachers, number_of_teachers
from harness.teachers.outputs import SEARCHED
from harness.tracking.mirror import Mirror
from harness.training.allocator import raise_malloc_thresholds


def prepare(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    terminal: Terminal,
    mirror: Mirror,
    *,
    splits: Sequence[str] = SEARCHED,
    on: Path | None = None,
) -> Prepared:
    """Make or find all that a trial needs, and bind the study to it.

    Args:
        settings: Name data, teacher and device.
        space: What varies.
        study: The study.
        terminal: Shows what is made.
        mirror: Notified of the teacher's new log entries.
        splits: Splits for which the teacher's outputs are needed.
        on: Folder or file of new data that is prepared too.

    Raises:
        HarnessError: If the data, the teacher's checkpoint or the device can't be had, the study was begun with others,
            or a method of the space does not fit the task.
    """
    check_teachers(space, number_of_teachers(settings))
    check_cache(settings.cache_dir, lambda text: terminal.say_wrapped(text, indent=INDENT))
    raise_malloc_thresholds()
    run = PreparationSteps(settings, space, study, terminal, mirror)
    data, dataset = run.load_data()
    new = None if on is None else run.load_new(on, data)
    kept_under = cache_key(data, dataset, space.code)
    students = run.check_students(data)
    run.check_trainings(data, students.classes)
    no_control, unrepeatable = run.check_views(data, students.classes)
    scored = scores_of(space.task, data, students.classes)
    bound = settings.bound or study.bound
    check_reach(bound, scored)
    labelled = label_classes(data, space.task.output)
    names = check_class_names(space.task, labelled, students.classes, data.class_names)
    named_classes = space.task.output.names_of_classes(names)
    student_warnings = run.student_warnings(data)  # before a teacher is made: memory must suffice for a student
    run.collect_warnings(students)
    run.check_asking(data)
    teachers = run.make_teachers(data, kept_under, students)
    teacher_digest = bind_teachers(study, [teacher.start for teacher in teachers], settings.average)
    live = run.ask_live(teachers, data)
    run.begin_work(no_control, scored, named_classes)
    stored = splits if live is None else [split for split in splits if split != "train"]
    outputs = run.make_outputs(teachers, data, kept_under, stored, new)
    if new is not None:
        outputs = attach_new(new, outputs, settings.average, space.task.output)
    scores = [attach_outputs(one, data, space, students.classes) for one in outputs]
    ensemble = attach_outputs(averaged(outputs, settings.average, space.task.output), data, space, students.classes)
    data.live = live
    check_own_methods(space, data, run.task_code)
    costs = cost_table(settings, space, study, teachers, data, terminal)
    run.show_warnings([too_large(space, costs), unrepeatable])
    run.report_teachers(teachers, outputs, scores, costs, scored, data)
    if len(teachers) > 1:
        terminal.say(f"ensemble  {describe_network(space, ensemble, costs.teacher)}, mean of the {teacher_digest}")
    run.report_students(student_warnings, costs)
    study.teacher = teacher_metrics(ensemble, costs.teacher)
    budget.check_counted(costs.uncounted, settings.budgets, study.objectives)
    run.set_region(bound, scored, ensemble[primary_metric(space.task).name])
    budget.within(space, settings.budgets, costs)  # raises now, if no student is
    return Prepared(
        data=data, classes=students.classes, dataset=dataset, teacher_digest=teacher_digest, costs=costs, new=new
    )
