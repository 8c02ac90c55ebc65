"""Checks of a teacher before it is trained, and of its stored outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from harness.core.errors import HarnessError, Unfit, one_line
from harness.networks.logits import SOURCES_OF_NAN, check_covers_labels, check_logits, numbers_fault
from harness.networks.sharing import check_apart_from_teacher
from harness.networks.state import check_same_state
from harness.networks.student_checks import Students
from harness.networks.students import build_student, middle_architecture, named, probe_samples
from harness.preparation.method_checks import check_layers, teacher_layers
from harness.space import SearchSpace
from harness.teachers.outputs import Outputs, run_teacher
from lightning_modules.batch import call, evaluating
from lightning_modules.data.stored_top_k import StoredTopK
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.unlabelled import labelled_positions
from lightning_modules.outputs import Output


def check_teacher(network: nn.Module, space: SearchSpace, data: TensorDataModule, students: Students) -> None:
    """Check that a teacher fits its students, before it is trained.

    Args:
        network: The teacher, with fresh weights or given ones; moved to the data's device.
        space: Its methods name its layers, and its task builds students.
        data: The data.
        students: What students of every kind have in common.

    Raises:
        HarnessError: If it has other logits than the students, shares what is trained with them, or lacks a layer.
    """
    check_pair(network, space, data, students)
    layers = teacher_layers(space)
    if not layers:
        return
    sample = few_samples(data)
    try:
        with evaluating(network):
            sample.attach(run_teacher(network, sample, layers=layers))
    except ValueError as error:
        raise HarnessError(f"the teacher must have the layers that the space names: {one_line(error)}") from error
    check_layers(space, students, sample)


def check_pair(network: nn.Module, space: SearchSpace, data: TensorDataModule, students: Students) -> None:
    """Check that teacher and students have the same classes, share no trained tensor, and keep their states.

    Args:
        network: The teacher; moved to the data's device.
        space: Its task builds students.
        data: The data.
        students: What students of every kind have in common.

    Raises:
        Unfit: If not.
    """
    who, split, architecture = "the teacher", probe_samples(data), middle_architecture(space)
    student = build_student(space, architecture, data)
    check_apart_from_teacher(named(architecture), student, network)
    network.to(data.device)
    student.to(data.device)
    before = list(student.state_dict())
    with torch.no_grad(), evaluating(network), evaluating(student):
        logits, answers = call(network, split.inputs), call(student, split.inputs)
    check_same_state(named(architecture), before, student)
    output = space.task.output
    classes = check_logits(who, logits, split.labels, output)
    check_covers_labels(who, classes, data, output)
    if classes != students.classes:
        raise Unfit(
            f"teacher and students must have the same classes, but {who} has {classes} logits, and students have "
            f"{students.classes}",
            "give teacher and student one logit for each class",
        )
    if output.has_classes:
        _check_masks(named(architecture), *(output.rows_of(one, split.labels)[0] for one in (answers, logits)))


def check_outputs(who: str, outputs: Outputs, output: Output) -> None:
    """Check that a teacher's stored outputs are numbers.

    Args:
        who: The teacher's name in messages.
        outputs: Its outputs for every sample, by split and name.
        output: The kind of its output.

    Raises:
        Unfit: If there is NaN or infinity in them. A logit of -inf, for a class that is impossible, is accepted.
    """
    for split, named_outputs in outputs.items():
        for name, values in named_outputs.items():
            if isinstance(values, StoredTopK):  # checked as they were made
                continue
            is_logits = name == "logits"
            what = "logits" if is_logits else f"outputs of its layer {name!r}"
            rows = values.movedim(output.size_axis, -1).flatten(0, -2) if is_logits else values  # each view is a row
            if fault := numbers_fault(rows):
                raise Unfit(f"{who} has {fault} of {split} in its {what}", SOURCES_OF_NAN)


def few_samples(data: TensorDataModule) -> TensorDataModule:
    """Return a data module of two samples of each split, with different labels where there are any."""
    sample = copy.copy(data)
    sample.splits = {name: sample_of(data, name, _few(data, name)) for name in data.splits}
    sample.teacher_outputs = {}
    sample.sampler = None  # which knows the positions of all samples
    return sample


def sample_of(data: TensorDataModule, split: str, ids: Tensor) -> Split:
    """Return some samples of a split; in memory, but where views of them are to be shown.

    Args:
        data: The data.
        split: Name of the split.
        ids: Positions of the samples.
    """
    part = data.splits[split]
    return part.part(ids) if split == "train" and data.views is not None else part.at(ids)


def _few(data: TensorDataModule, name: str) -> Tensor:
    """Return the positions of two samples of a split, with labels where it has some."""
    labels, known = data.splits[name].labels, labelled_positions(data, name)
    places = torch.arange(len(labels), device=labels.device) if known is None else known.to(labels.device)
    is_other = (labels[places] != labels[places[0]]).reshape(len(places), -1).any(1)
    others = places[is_other][:1]
    return torch.cat([places[:1], others if len(others) else places[-1:]])


def _check_masks(name: str, student: Tensor, teacher: Tensor) -> None:
    """Check that a student has a logit of -inf only where the teacher has: its loss would be infinite."""
    rows = ((student == -torch.inf) & (teacher > -torch.inf)).any(1)
    if count := int(rows.sum()):
        raise Unfit(
            f"{name} holds a class impossible, with a logit of -inf, that the teacher does not, for {count} of "
            f"{len(rows)} samples",
            "mask the same classes in both",
        )
