"""Check a teacher that is no PyTorch network: it is prepared, and asked about the sample."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.doctor.check import CheckWarning
from harness.doctor.context import CheckContext, sampled_rows
from harness.networks.consistency import logits_of
from harness.networks.students import middle_architecture
from harness.preparation.method_checks import check_no_layers, teacher_layers
from harness.preparation.teacher_checks import check_outputs
from harness.task import class_names
from harness.teachers.asking import AUTO, asks_live, check_can_be_asked
from harness.teachers.black_box import AskedNetwork, BlackBoxTeacher, Ground, Query
from harness.teachers.outputs import SEARCHED
from lightning_modules.data.live import LiveTeacher

NO_NETWORK = "the teacher is no PyTorch network: it is asked, and never trained by gradients"
ASKED_ONCE = "all that is known of the teacher are its answers: it is not asked again"


def load_black_box(teacher: BlackBoxTeacher, context: CheckContext) -> str:
    """Prepare a teacher; one that must be fitted is fitted to the sample, in memory.

    Raises:
        HarnessError: If it can't teach this task.
        CheckWarning: If something about it may not be intended.
    """
    check_can_be_asked(AUTO, context.data, context.space.task.output, teacher)
    notes: list[str] = []
    data = context.sample if teacher.learns else context.data
    names = class_names(context.space.task, context.data.class_names)
    context.black_box, context.teacher = teacher, AskedNetwork(teacher).eval()
    context.teacher_is_trained = not teacher.learns
    numbers_of = context.space.task.output.numbers_of
    teacher.prepare(
        Ground(
            data,
            context.dataset,
            _classes(context),
            names,
            context.settings.seed,
            notes.append,
            numbers_of=numbers_of,
        )
    )
    told = f"a {type(teacher).__name__}, no PyTorch network{''.join(f'; {note}' for note in notes)}"
    if teacher.warnings:
        raise CheckWarning(
            f"{told}; it {'; it '.join(teacher.warnings)}", "see README, A teacher that is no PyTorch network"
        )
    return f"{told}; a search fits it to all training samples" if teacher.learns else told


def ask_black_box(teacher: BlackBoxTeacher, context: CheckContext) -> str:
    """Ask a teacher about the sample, and join its answers to it.

    Raises:
        HarnessError: If its answers can't be stored, or the space wants its layers.
    """
    check_no_layers(type(teacher).__name__, teacher_layers(context.space))
    is_live = asks_live(context.sample)
    splits = ("val",) if is_live else SEARCHED
    outputs = {split: {"logits": _answers(teacher, context, split)} for split in splits}
    check_outputs("the teacher", outputs, context.space.task.output)
    context.sample.attach(outputs)
    if is_live:
        context.sample.live = LiveTeacher([teacher.live_network()], average=lambda logits: logits[0])
    classes = outputs["val"]["logits"].shape[-1]
    return f"one row of {classes} numbers for each of {sum(len(context.sample.splits[s]) for s in splits)} samples"


def _answers(teacher: BlackBoxTeacher, context: CheckContext, split: str) -> Tensor:
    """Return the answers to the sample of a split, shape (N, C), or (N, V, C) with V views."""
    loader = context.sample.ordered(split)
    # A teacher that was fitted to the sample knows its rows by their place there, and others by that in all data.
    rows = torch.arange(len(loader.split)) if teacher.learns else sampled_rows(context.data, split)
    views = []
    for view in range(1 if loader.views is None else loader.views.count):
        loader.set_epoch(view)
        batches = [batch for item in loader for batch in item]
        asked = [teacher.ask(Query(split, rows[batch.ids.cpu()], view, batch.inputs)) for batch in batches]
        views.append(torch.cat(asked))
    return views[0] if loader.views is None else torch.stack(views, dim=1)


def _classes(context: CheckContext) -> int:
    """Return how many logits students have; by the labels, where none can be built yet."""
    try:
        network = context.student(middle_architecture(context.space))
        return int(logits_of(network, context.inputs(1)).shape[1])
    except Exception:  # the checks of students say what is wrong
        return context.classes
