"""Check the teacher: it loads, is deterministic, and its stored outputs are its own."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from harness.doctor.black_box import ASKED_ONCE, NO_NETWORK, ask_black_box, load_black_box
from harness.doctor.check import Check, CheckFailed, CheckNotApplicable, CheckWarning
from harness.doctor.context import SAMPLES, STEPS, CheckContext, train_steps
from harness.doctor.network_checks import check_deterministic, check_raw_logits
from harness.networks.consistency import ASKED, TOLERANCE, distance, logits_of
from harness.networks.digest import answers_of, network_digest, samples_of
from harness.networks.handed_teacher import frozen
from harness.preparation.fingerprint import fingerprint
from harness.preparation.method_checks import teacher_layers
from harness.preparation.origins import find_origins
from harness.preparation.teacher_checks import check_outputs
from harness.task import make_metrics, teacher_outputs_dtype, teacher_training
from harness.teachers.asking import AUTO, asks_live, check_can_be_asked
from harness.teachers.black_box import BlackBoxTeacher
from harness.teachers.make import AS_IT_IS, find_teacher
from harness.teachers.outputs import SEARCHED, find_teacher_outputs, run_teacher
from harness.teachers.untrained import learns
from lightning_modules.classifier import TeacherModule
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.tensors import Split
from lightning_modules.data.unlabelled import output_for_training

_PARTS_SHOWN = 3


def check_teacher_loads(context: CheckContext) -> str:
    """Check that the teacher can be built, and loaded from ``--teacher`` or the cache if they have one."""
    context.dataset = fingerprint(context.data)
    context.sample.origins = find_origins(context.space, context.data, context.settings)
    check_can_be_asked(AUTO, context.data, context.space.task.output)
    network, file = find_teacher(context.space, context.data, context.dataset, context.settings)
    if context.sample.origins.teacher is not None and isinstance(network, nn.Module):
        context.sample.origins = replace(context.sample.origins, teacher=frozen(copy.deepcopy(network)))
    if isinstance(network, BlackBoxTeacher):
        return load_black_box(network, context)
    is_fresh = file is None and learns(network)
    context.teacher, context.teacher_is_trained = network.to(context.device), not is_fresh
    weights = "fresh weights, for none are stored" if is_fresh else AS_IT_IS if file is None else f"weights of {file}"
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{f'{count:,}' if count else 'no'} parameters; {weights}"


def check_teacher_logits(context: CheckContext) -> str:
    """Check that the teacher returns raw logits, or what else the output kind has, for a batch."""
    if context.black_box is not None:
        return ask_black_box(context.black_box, context)
    labels, output = context.sample.splits["val"].labels[:ASKED], context.space.task.output
    shape = check_raw_logits("the teacher", context.teacher, context.inputs(ASKED), labels, output)
    return f"raw and finite, shape {shape}"


def check_teacher_learns(context: CheckContext) -> str:
    """Check that a teacher without weights can be trained: its loss stays finite for some steps."""
    task = context.space.task
    if context.black_box is not None:
        raise CheckNotApplicable(NO_NETWORK)
    if context.teacher_is_trained:
        return "it is trained already" if context.settings.teachers or learns(context.teacher) else AS_IT_IS
    module = TeacherModule(
        context.teacher,
        output=output_for_training(task.output, context.sample, context.classes),
        metrics=make_metrics(task, context.classes),
        total_steps=STEPS,
        settings=teacher_training(task),
    )
    module.to(context.device).train()
    losses = [float(loss) for loss in train_steps(module, context.batches())]
    if not all(map(math.isfinite, losses)):
        raise CheckFailed(
            f"its loss goes {' '.join(f'{loss:.3g}' for loss in losses)} at the learning rate of its recipe"
        )
    return f"a finite loss for {len(losses)} steps; a search trains it, once"


def check_teacher_in_eval_mode(context: CheckContext) -> str:
    """Check that no submodule of the teacher is in train mode while its outputs are computed."""
    if context.black_box is not None:
        raise CheckNotApplicable(NO_NETWORK)
    training: dict[str, None] = {}

    def note(name: str, part: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return part.register_forward_pre_hook(
            lambda module, inputs: training.update({name: None}) if module.training else None
        )

    context.teacher.eval().requires_grad_(False)
    hooks = [note(name or "the whole", part) for name, part in context.teacher.named_modules()]
    try:
        sample = context.sample
        is_live = asks_live(sample)
        splits = ("val",) if is_live else SEARCHED
        outputs = run_teacher(context.teacher, sample, layers=teacher_layers(context.space), splits=splits)
        check_outputs("the teacher", outputs, context.space.task.output)
        sample.attach(outputs)
        if is_live:
            sample.live = LiveTeacher([context.teacher], average=lambda logits: logits[0])
    finally:
        for hook in hooks:
            hook.remove()
    if training:
        shown = ", ".join(list(training)[:_PARTS_SHOWN])
        raise CheckFailed(f"{len(training)} of its parts in train mode while its outputs are computed: {shown}")
    return "all its parts, while its outputs are computed"


def check_teacher_is_deterministic(context: CheckContext) -> str:
    """Check that a sample has the same teacher logits in two calls, and alone as in a batch."""
    if context.has_only_answers:
        raise CheckNotApplicable(ASKED_ONCE)
    check_deterministic(context.teacher, context.inputs(ASKED), context.sample.forms_of_a_sample())
    return "the same logits twice, and of a sample alone"


def check_stored_outputs(context: CheckContext) -> str:
    """Check that stored outputs equal the live teacher's on the very inputs that a student sees, shuffled."""
    if context.has_only_answers:
        raise CheckNotApplicable(ASKED_ONCE)
    sample, loader = context.sample, context.sample.train_dataloader()
    if context.black_box is not None:  # what it says of training samples may be out of fold
        val = sample.splits["val"]
        _compare(sample.teacher_outputs["val"]["logits"], logits_of(context.teacher, val.inputs), "validation samples")
        return f"those that it gives again, of {len(val)} validation samples"
    if sample.live is not None:
        raise CheckNotApplicable(f"none: {sample.views}, about which it is asked live")
    views = range(1) if sample.views is None else sample.views.examples
    for view in views:
        loader.set_epoch(view)
        for batch in (batch for item in loader for batch in item):
            _compare(batch.teacher["logits"], logits_of(context.teacher, batch.inputs), "shuffled training samples")
    shown = f"live ones, of {len(sample.splits['train'])} shuffled samples" + (
        f", {sample.views}" if sample.views else ""
    )
    return shown + _compare_cached(context)


def _compare_cached(context: CheckContext) -> str:
    """Compare cached outputs of some samples with the live teacher's, and return what to add to the finding."""
    data = context.data
    digest = network_digest(context.teacher, answers_of(context.teacher, samples_of(data, context.device)))
    try:
        cached = find_teacher_outputs(
            digest,
            data,
            context.dataset,
            cache_dir=context.settings.cache_dir,
            dtype=teacher_outputs_dtype(context.space.task),
        )
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckWarning(f"those kept are damaged ({error})", "nothing: a search computes them again") from error
    if cached is None:
        return ""
    for name, outputs in cached.items():
        split = data.splits[name]
        ids = torch.linspace(0, len(split) - 1, min(SAMPLES, len(split))).long()
        shown, stored = split.at(ids), outputs["logits"][ids].float()
        if name == "train" and data.views is not None:
            inputs, _ = data.shown(ids, 0)
            shown, stored = Split(inputs, shown.labels), stored[:, 0]
        _compare(stored, logits_of(context.teacher, shown.to(context.device).inputs), f"samples of {name} in the cache")
    return ", and those kept in the cache"


def _compare(stored: Tensor, live: Tensor, what: str) -> None:
    apart = [distance(*rows) for rows in zip(stored, live.to(stored), strict=True)]
    wrong = sum(share > TOLERANCE for share in apart)
    if wrong:
        raise CheckFailed(f"{wrong} of {len(apart)} {what} have other logits stored than live, {max(apart):.0%} apart")


CHECKS = (
    Check(
        "teacher",
        check_teacher_loads,
        "let teacher() return a network without asking for anything, and pass --teacher a checkpoint that fits it",
        needs=("views",),
    ),
    Check(
        "teacher's logits",
        check_teacher_logits,
        "let the teacher take a batch of the inputs that data() gives: one tensor, or keywords for a dict",
        needs=("teacher",),
    ),
)
"""Checks before there are students."""

TRAINED_CHECKS = (
    Check(
        "teacher learns",
        check_teacher_learns,
        "look for a logarithm or a root of 0 in it, scale its inputs, or lower teacher_learning_rate",
        needs=("controls", "metric"),
    ),
    Check(
        "teacher in eval",
        check_teacher_in_eval_mode,
        "let train(False) reach every part, and call train() nowhere in a forward",
        needs=("teacher learns",),
    ),
    Check(
        "teacher steady",
        check_teacher_is_deterministic,
        "let the teacher take a batch of any size, one sample too",
        needs=("teacher in eval",),
    ),
    Check(
        "stored outputs",
        check_stored_outputs,
        "join by id, and draw augmentation as Views, not in a loader: what is stored must be of what is shown",
        needs=("teacher steady",),
    ),
)
"""Checks after ``labels``, which every training needs."""
