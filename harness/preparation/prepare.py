"""Preparation of a study: data, teacher, its outputs and the cost table are made once, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cost import budgets as budget
from harness.networks.logits import label_classes
from harness.preparation.cache_format import check_cache
from harness.preparation.cost_table import cost_table, too_large
from harness.preparation.fingerprint import cache_key, fingerprint_of_folds
from harness.preparation.method_checks import check_teachers
from harness.preparation.origins import trained_origins
from harness.preparation.own_methods import check_own_methods
from harness.preparation.prepared import Prepared
from harness.preparation.scoring import mean_of_folds, scores_of
from harness.preparation.steps import PreparationSteps, check_class_names
from harness.preparation.teacher_steps import TeacherSteps, teacher_metrics
from harness.preparation.warning_list import INDENT, WarningList
from harness.region import check_reach
from harness.screen.terminal import Terminal
from harness.settings import FOLDS, Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.task import primary_metric
from harness.teachers.ensemble import bind_teachers, number_of_teachers
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
    warnings = WarningList(settings, terminal)
    run = PreparationSteps(settings, space, study, terminal, warnings)
    teaching = TeacherSteps(settings, space, study, terminal, mirror, warnings)
    data, fingerprints = run.load_data()
    new = None if on is None else run.load_new(on, data)
    folds, dataset = data.folds, fingerprint_of_folds(fingerprints)
    kept_under = [cache_key(fold, one, space.code) for fold, one in zip(folds, fingerprints, strict=True)]
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
    teaching.check_asking(data, students.classes)
    made = teaching.make(data, kept_under, students)
    for fold, teachers in zip(folds, made, strict=True):
        fold.origins = trained_origins(fold.origins, teachers[0])
    every = {teacher.digest: teacher.start for teachers in made for teacher in teachers}
    teacher_digest = bind_teachers(
        study, list(every.values()), settings.average if len(every) == len(made[0]) else FOLDS
    )
    live = teaching.ask_live(made, data, students.classes)
    run.begin_work(no_control, scored, named_classes)
    stored = splits if live[0] is None else [split for split in splits if split != "train"]
    taught = [
        teaching.attach_answers(teachers, fold, key, stored, students.classes, new)
        for teachers, fold, key in zip(made, folds, kept_under, strict=True)
    ]
    for fold, teacher in zip(folds, live, strict=True):
        fold.live = teacher
    check_own_methods(space, data, run.task_code, classes=students.classes)
    costs = cost_table(settings, space, study, made[0], data, terminal)
    warnings.add(too_large(space, costs), unrepeatable)
    warnings.show()
    for each in taught:
        teaching.report(each, costs, scored, teacher_digest)
    ensemble = mean_of_folds([each.scores for each in taught])
    teaching.report_mean([each.scores for each in taught])
    run.report_students(student_warnings, costs)
    study.teacher = teacher_metrics(ensemble, costs.teacher)
    budget.check_counted(costs.uncounted, settings.budgets, study.objectives)
    run.set_region(bound, scored, ensemble[primary_metric(space.task).name])
    budget.within(space, settings.budgets, costs)  # raises now, if no student is
    return Prepared(
        data=data, classes=students.classes, dataset=dataset, teacher_digest=teacher_digest, costs=costs, new=new
    )
