"""Check the labels against the logits, the teacher's accuracy and the metric."""

from __future__ import annotations

import copy
import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.doctor.check import Check, CheckFailed, CheckSkipped, CheckWarning
from harness.doctor.context import CheckContext
from harness.networks.consistency import logits_of
from harness.networks.logits import check_covers_labels
from harness.preparation.chance import check_metric
from harness.preparation.mixing import REMEDY, mixes_targets, no_control_reason
from harness.preparation.sanity_warnings import no_better_than_chance
from harness.preparation.scoring import scores_of
from harness.preparation.steps import check_class_names
from harness.preparation.teacher_checks import check_pair
from harness.region import check_name, check_reach, region_of
from harness.teachers.outputs import run_teacher

_MAX_TEACHER_S = 5.0  # for the teacher on the whole validation split; else a sample of it is used


def check_labels_within_logits(context: CheckContext) -> str:
    """Check that teacher and students have the same number of logits, and one for each label."""
    if context.has_only_answers:
        check_covers_labels("the teacher", context.kinds.classes, context.data)
    else:
        check_pair(context.teacher, context.space, context.sample, context.kinds)
    labelled, context.classes = context.classes, context.kinds.classes
    check_class_names(context.space.task, labelled, context.classes)
    if labelled < context.classes:
        return f"0 to {labelled - 1} of {context.classes} logits in teacher and student"
    return f"0 to {labelled - 1}, a logit for each in teacher and student"


def check_controls_are_fair(context: CheckContext) -> str:
    """Check that controls on labels alone are fair: samples are not mixed, or their targets are mixed too."""
    mixed = mixes_targets(context.data, context.classes)
    if why := no_control_reason(context.data, context.classes):
        raise CheckWarning(f"no control possible: {why}", REMEDY)
    return (
        "labels alone, on the same mixed or soft targets" if mixed else "labels alone; samples are not seen to be mixed"
    )


def check_teacher_beats_chance(context: CheckContext) -> str:
    """Check that a trained teacher's primary metric is better than that of a constant prediction."""
    if not context.teacher_is_trained:
        raise CheckSkipped("there is no trained teacher yet: start a search, which trains it first, and repeat")
    labels = context.sample.splits["val"].labels
    logits = context.sample.teacher_outputs["val"]["logits"]
    scores = scores_of(context.space.task, context.sample, context.classes)
    reached = _measured(context, logits, labels)
    found = f"{scores.metric} {reached:.4f} on {len(labels)} validation samples"
    if no_better_than_chance(scores, reached):
        predicted = logits.argmax(1)
        # Correct predictions if each predicted class meant the label that it coincides with most often.
        matches = [torch.bincount(labels[predicted == each]).max() for each in predicted.unique()]
        renamed, frequent = int(torch.stack(matches).sum()), int(torch.bincount(labels).max())
        is_hint = renamed > max(2 * frequent, int((predicted == labels).sum()))
        hint = f"; right on {renamed / len(labels):.0%} if its classes had other numbers" if is_hint else ""
        raise CheckFailed(f"{found}, no better than a constant answer, which has {scores.chance:.4f}{hint}")
    return f"{found}; a constant answer has {scores.chance:.4f}"


def check_metric_direction(context: CheckContext) -> str:
    """Check that the metric takes logits and labels, and improves in the direction that the task declares."""
    task, labels = context.space.task, context.sample.splits["val"].labels
    check_metric(task, labels, context.classes)
    right = 10 * F.one_hot(labels, context.classes).float()
    perfect, wrong = _measured(context, right, labels), _measured(context, right.roll(1, dims=1), labels)
    if not (math.isfinite(perfect) and math.isfinite(wrong)):
        raise CheckFailed(
            f"{task.metric_name} must be finite, but is {perfect:g} for perfect logits, {wrong:g} for wrong ones"
        )
    direction = "maximize" if perfect > wrong else "minimize"
    if perfect == wrong or direction != task.metric_direction:
        raise CheckFailed(
            f"{task.metric_name} is {perfect:g} for perfect logits and {wrong:g} for wrong ones, which does not fit "
            f"metric_direction {task.metric_direction!r}"
        )
    return f"{task.metric_name}: {perfect:g} for perfect logits, {wrong:g} for wrong ones; to {direction}"


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
        raise CheckWarning(f"the teacher itself is not in it, with {task.metric_name} {teacher:.4g}: {region}{asked}")
    return f"{region}{asked}"


def _validated(context: CheckContext) -> tuple[Tensor, Tensor]:
    """Return the teacher's logits and the labels of the validation split, or of its sample if that is too slow."""
    few, whole = context.sample.splits["val"], context.data.splits["val"]
    if context.has_only_answers:
        return context.sample.teacher_outputs["val"]["logits"], few.labels
    started = time.perf_counter()
    logits = logits_of(context.teacher, few.inputs)
    expected_s = (time.perf_counter() - started) * len(whole) / len(few)
    if len(whole) == len(few) or expected_s > _MAX_TEACHER_S:
        return logits.float(), few.labels
    data = copy.copy(context.data)
    data.splits = {"val": whole}
    data.move_to(context.device)
    logits = run_teacher(context.teacher, data, splits=("val",))["val"]["logits"]
    return logits.to(context.device), data.splits["val"].labels


def _measured(context: CheckContext, logits: Tensor, labels: Tensor) -> float:
    metric = context.space.task.metric(context.classes).to(context.device)
    metric.update(logits, labels)
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
