"""Check the labels against the logits, the teacher's accuracy and the metric."""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor

from harness.doctor.check import Check, CheckFailed, CheckSkipped, CheckWarning
from harness.doctor.context import CheckContext
from harness.networks.consistency import logits_of
from harness.networks.logits import check_covers_labels
from harness.preparation.chance import check_metrics
from harness.preparation.mixing import REMEDY, mixes_targets, no_control_reason
from harness.preparation.sanity_warnings import no_better_than_chance
from harness.preparation.scoring import scores_of
from harness.preparation.steps import check_class_names
from harness.preparation.teacher_checks import check_pair
from harness.preparation.teacher_scale import check_scale, mapped, training_answers
from harness.region import check_name, check_reach, region_of
from harness.task import make_metrics, primary_metric
from harness.teachers.outputs import run_teacher

_MAX_TEACHER_S = 5.0  # for the teacher on the whole validation split; else a sample of it is used


def check_labels_within_logits(context: CheckContext) -> str:
    """Check that teacher and students have the same number of logits, and one for each label."""
    if context.has_only_answers:
        check_covers_labels("the teacher", context.kinds.classes, context.data, context.space.task.output)
    else:
        check_pair(context.teacher, context.space, context.sample, context.kinds)
    labelled, context.classes = context.classes, context.kinds.classes
    check_class_names(context.space.task, labelled, context.classes, context.data.class_names)
    if labelled < context.classes:
        return f"0 to {labelled - 1} of {context.classes} logits in teacher and student"
    return f"0 to {labelled - 1}, a logit for each in teacher and student"


def check_controls_are_fair(context: CheckContext) -> str:
    """Check that controls on labels alone are fair: samples are not mixed, or their targets are mixed too."""
    output = context.space.task.output
    mixed = mixes_targets(context.data, context.classes, output)
    if why := no_control_reason(context.data, context.classes, output):
        raise CheckWarning(f"no control possible: {why}", REMEDY)
    if context.space.trains_itself:
        return "samples are not seen to be mixed; 'methods' tells whether module() has a control"
    return (
        "labels alone, on the same mixed or soft targets" if mixed else "labels alone; samples are not seen to be mixed"
    )


def check_teacher_beats_chance(context: CheckContext) -> str:
    """Check that a trained teacher's primary metric is better than that of a constant prediction."""
    scale = _map_outputs(context)
    if not context.teacher_is_trained:
        raise CheckSkipped("there is no trained teacher yet: start a search, which trains it first, and repeat")
    labels, output = context.sample.splits["val"].labels, context.space.task.output
    logits = context.sample.teacher_outputs["val"]["logits"]
    check_scale("the teacher", logits, labels, output)
    scores = scores_of(context.space.task, context.sample, context.classes)
    reached = _measured(context, logits, labels)
    found = f"{scores.metric} {reached:.4f} on {len(labels)} validation samples"
    if no_better_than_chance(scores, reached):
        hint = _permutation_hint(*output.rows_of(logits, labels)) if output.has_one_row else ""
        raise CheckFailed(f"{found}, no better than a constant answer, which has {scores.chance:.4f}{hint}")
    return f"{found}; a constant answer has {scores.chance:.4f}{scale}"


def _permutation_hint(logits: Tensor, labels: Tensor) -> str:
    """Return how often the logits would be right if each class meant the label that it coincides with most often."""
    predicted = logits.argmax(1)
    matches = [torch.bincount(labels[predicted == each]).max() for each in predicted.unique()]
    renamed, frequent = int(torch.stack(matches).sum()), int(torch.bincount(labels).max())
    is_hint = renamed > max(2 * frequent, int((predicted == labels).sum()))
    return f"; right on {renamed / len(labels):.0%} if its classes had other numbers" if is_hint else ""


def check_metric_direction(context: CheckContext) -> str:
    """Check that the metric takes logits and labels, and improves in the direction that the task declares."""
    task, labels = context.space.task, context.sample.splits["val"].labels
    check_metrics(task, labels, context.classes)
    name, declared = primary_metric(task).name, primary_metric(task).direction
    output = task.output
    perfect = _measured(context, output.perfect(labels, context.classes), labels)
    wrong = _measured(context, output.wrong(labels, context.classes), labels)
    if not (math.isfinite(perfect) and math.isfinite(wrong)):
        raise CheckFailed(f"{name} must be finite, but is {perfect:g} for perfect answers, {wrong:g} for wrong ones")
    direction = "maximize" if perfect > wrong else "minimize"
    if perfect == wrong or direction != declared:
        raise CheckFailed(
            f"{name} is {perfect:g} for perfect answers and {wrong:g} for wrong ones, which does not fit "
            f"metric_direction {declared!r}"
        )
    return f"{name}: {perfect:g} for perfect answers, {wrong:g} for wrong ones; to {direction}"


def check_region_reachable(context: CheckContext) -> str:
    """Check that the bound on the primary metric is valid, and that the teacher itself is within it."""
    bound, task = context.settings.bound, context.space.task
    check_name(bound, task)
    scores = scores_of(task, context.data, context.classes)
    check_reach(bound, scores)
    if not context.teacher_is_trained:
        return f"{bound or 'by default'}; what it comes to is known once there is a trained teacher"
    logits, labels = _validated(context)
    teacher = _measured(context, logits, labels)
    region = region_of(bound, scores, teacher)
    asked = f"; the teacher on {len(labels)} of {scores.samples:,} samples" if len(labels) < scores.samples else ""
    if not region.holds(teacher):
        raise CheckWarning(f"the teacher itself is not in it, with {scores.metric} {teacher:.4g}: {region}{asked}")
    return f"{region}{asked}"


def _map_outputs(context: CheckContext) -> str:
    """Map the sample's outputs where the teacher has a scale of its own, for the checks after this; return the map."""
    sample = context.sample
    if sample.live is not None:  # refused where there is a map (``harness.preparation.teacher_scale``)
        return ""
    answers, labels = training_answers(sample.teacher_outputs, sample)
    context.teacher_map = context.space.task.output.teacher_map(answers, labels)
    if context.teacher_map is None:
        return ""
    sample.attach(mapped(sample.teacher_outputs, context.teacher_map))
    return f"; a target is taken to be {context.teacher_map}"


def _validated(context: CheckContext) -> tuple[Tensor, Tensor]:
    """Return the teacher's logits and the labels of the validation split, or of its sample if that is too slow."""
    few, whole = context.sample.splits["val"], context.data.splits["val"]
    if context.has_only_answers:
        return context.sample.teacher_outputs["val"]["logits"], few.labels
    started = time.perf_counter()
    logits = logits_of(context.teacher, few.inputs)
    expected_s = (time.perf_counter() - started) * len(whole) / len(few)
    if len(whole) == len(few) or expected_s > _MAX_TEACHER_S:
        return _as_given(context, logits.float()), few.labels
    data = copy.copy(context.data)
    data.splits = {"val": whole}
    data.move_to(context.device)
    logits = run_teacher(context.teacher, data, splits=("val",))["val"]["logits"]
    return _as_given(context, logits.to(context.device)), data.splits["val"].labels


def _as_given(context: CheckContext, answers: Tensor) -> Tensor:
    """Return the teacher's answers as students are to give them."""
    return answers if context.teacher_map is None else context.teacher_map(answers)


def _measured(context: CheckContext, logits: Tensor, labels: Tensor) -> float:
    task = context.space.task
    metric = next(iter(make_metrics(task, context.classes).values())).to(context.device)
    metric.update(*task.output.metric_inputs(logits, labels))
    return float(metric.compute())


TARGET_CHECKS = (
    Check(
        "labels",
        check_labels_within_logits,
        "give teacher and student one logit for each class, and count classes from 0",
        needs=("teacher's logits", "student's logits"),
    ),
    Check("controls", check_controls_are_fair, REMEDY, needs=("labels",)),
    Check(
        "metric",
        check_metric_direction,
        "let metric(classes) give a torchmetrics metric of logits (B, C) and labels (B,), and say which way is better",
        needs=("student's logits",),
    ),
)
"""Checks before a teacher is trained."""

CHECKS = (
    Check(
        "teacher knows",
        check_teacher_beats_chance,
        "bring the classes into the order that it was trained with, and scale inputs as it knows them",
        needs=("stored outputs", "metric"),
    ),
    Check(
        "region",
        check_region_reachable,
        "name the primary metric by --min where it is maximised, by --max where it is minimised, and ask for less",
        needs=("stored outputs", "metric"),
    ),
)
