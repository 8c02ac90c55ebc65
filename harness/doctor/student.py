"""Check the students: they can be built, are deterministic, differ, and fit a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import optuna
import torch
from optuna.samplers import RandomSampler
from torch import nn

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError, advising
from harness.core.metric import Costs
from harness.cost import budgets as budget
from harness.cost import conditions_of, measure_costs
from harness.cost.counting import count_costs
from harness.cost.macs import macs_of
from harness.cost.table import key_of
from harness.doctor.check import Check, CheckFailed, CheckWarning, attributing_errors
from harness.doctor.context import CheckContext, format_values
from harness.doctor.network_checks import check_deterministic, check_raw_logits
from harness.metrics import METRICS, unknown_for_some
from harness.networks.architectures import outer_architectures
from harness.networks.consistency import ASKED, TOLERANCE, distance
from harness.networks.deployment import check_deployed
from harness.networks.student_checks import check_students, find_empty_layer, range_advice
from harness.preparation.method_checks import student_layers
from harness.preparation.origins import check_starts
from harness.preparation.sanity_warnings import SAME_WEIGHTS, task_warnings, training_warnings
from harness.space import SearchSpace
from harness.space_ranges import ends
from harness.task import Task
from harness.teachers.untrained import learns
from harness.training.fit import seed_draws
from harness.training.tensor_file import cpu_state
from lightning_modules.batch import call, initialize_lazy_layers

_MEASURE_S = 5.0  # for latencies
_MAX_BUILT = 64  # architectures; a larger space is sampled


def check_students_build(context: CheckContext) -> str:
    """Check that every architecture of the space can be built, or a sample of them."""
    space, built = context.space, []
    every = space.architectures(limit=_MAX_BUILT)
    for architecture in every if every is not None else _sample_architectures(context):
        with (
            attributing_errors(f"student({format_values(architecture)})", context),
            advising(range_advice(architecture)),
        ):
            network = context.deployed(architecture)
            if hollow := find_empty_layer(network, architecture):
                raise hollow
        built.append((architecture, sum(parameter.numel() for parameter in network.parameters())))
    context.students = sorted(built, key=lambda pair: pair[1])
    smallest, largest = context.students[0][1], context.students[-1][1]
    teacher = sum(parameter.numel() for parameter in context.teacher.parameters())
    shown = f"{len(built)} {'architectures' if every is not None else 'of the architectures'}"
    if 0 < teacher <= smallest:
        raise CheckWarning(
            f"the smallest has {smallest:,} parameters, and its teacher {teacher:,}",
            "let the ranges begin at students that are smaller than their teacher",
        )
    return f"{shown}, {smallest:,} to {largest:,} parameters"


def _sample_architectures(context: CheckContext) -> list[dict[str, Any]]:
    """Return the architectures at the low and the high ends of all ranges, and a uniform sample."""
    space = context.space
    found = outer_architectures(space)
    study = optuna.create_study(sampler=RandomSampler(0))
    while len(found) < _MAX_BUILT:
        found.append(space.suggest(study.ask()).student)
    return found


def check_student_logits(context: CheckContext) -> str:
    """Check that students of every kind share no state, and return raw logits of the same number of classes."""
    sample = context.sample

    def of_own(what: str) -> AbstractContextManager[None]:
        return attributing_errors(what, context)

    context.kinds = check_students(context.space, sample, of_own, layers=student_layers(context.space))
    check_deployed(context.space, sample, of_own, classes=context.kinds.classes)
    labels, output = sample.splits["val"].labels[:ASKED], context.space.task.output
    for name, architecture in context.extremes().items():
        with attributing_errors(f"student({name})", context):
            check_raw_logits(f"student({name})", context.student(architecture), context.inputs(ASKED), labels, output)
            deployed = context.deployed(architecture)
            shape = check_raw_logits(f"deployed(student({name}))", deployed, context.inputs(ASKED), labels, output)
    starts = "".join(f"; start {line}" for line in check_starts(context.space, sample))
    return f"raw and finite, shape {shape}; the teacher's inputs{starts}"


def check_nothing_ignored(context: CheckContext) -> str:
    """Check that task, teacher and students define no method or attribute that a training ignores."""
    student = context.student(context.students[0][0])
    found = [f"the task {one}" for one in task_warnings(context.space.task, Task)]
    by_itself = context.space.trains_itself
    found += [f"a student {one}" for one in training_warnings(student, by_itself=by_itself)]
    if not context.settings.teachers and context.black_box is None and learns(teacher := _network_of(context)):
        found += [f"the teacher {one}" for one in training_warnings(teacher)]
    if found:
        raise CheckWarning("; ".join(found))
    return "no method or name of the task, its teacher and its students"


def _network_of(context: CheckContext) -> nn.Module:
    """Return the task's teacher as it is given, which was seen to be a network; lazy layers have their sizes."""
    teacher = context.space.task.teacher()
    assert isinstance(teacher, nn.Module)
    return initialize_lazy_layers(teacher, context.data.splits["val"].few(1).inputs)


def check_students_are_deterministic(context: CheckContext) -> str:
    """Check that in eval mode a sample has the same student logits in two calls, and alone as in a batch."""
    for name, architecture in context.extremes().items():
        with attributing_errors(f"student({name})", context):
            network, forms = context.deployed(architecture), context.sample.forms_of_a_sample()
            check_deterministic(network, context.inputs(ASKED), forms)
    return "the same logits twice, and of a sample alone"


def check_student_seed(context: CheckContext) -> str:
    """Check that the same seed gives the same student, and the same logits in train mode."""
    for name, architecture in context.extremes().items():
        digests, answers = set(), []
        for _ in range(2):
            network = context.student(architecture).train()
            digests.add(tensors_digest(cpu_state(network)))
            seed_draws(0, context.device)
            with torch.no_grad():
                answers.append(call(network, context.inputs(ASKED)))
        if len(digests) > 1:
            raise CheckFailed(f"student({name}) has other weights when it is built again under the same seed")
        if distance(*answers) > TOLERANCE:
            raise CheckFailed(f"student({name}) has other logits in train mode under the same seed")
    if context.kinds.unseeded is not None:
        raise CheckWarning(f"{context.kinds.unseeded} {SAME_WEIGHTS}")
    return "gives the same weights, and draws in training"


def check_architecture_parameters(context: CheckContext) -> str:
    """Check that each architecture parameter changes the student: its parameters, its MACs, or at least its logits."""
    space, inert, told = context.space, [], []
    for name, values, architectures in _varied(space):
        counts, answers = zip(*(_profile(context, one) for one in architectures), strict=True)
        if len(set(counts)) > 1:
            fewest, most = min(count[0] for count in counts), max(count[0] for count in counts)
            told.append(f"{name} ({fewest:,} to {most:,} parameters)")
        elif len(set(answers)) > 1:
            told.append(f"{name} (what is computed, not how much)")
        else:
            inert.append(f"{name} = {' or '.join(map(str, values))}")
    if inert:
        raise CheckFailed(f"nothing changes with {', '.join(inert)}: neither parameters, nor MACs, nor logits")
    return ", ".join(told) if told else "no parameter of the student varies"


def _varied(space: SearchSpace) -> Iterator[tuple[str, Sequence[Any], list[dict[str, Any]]]]:
    """Yield each parameter that varies, its ends, and a student with each, the rest in the middle of their ranges.

    A parameter is varied in the first family that has it, and the choice of a family among their middles.
    """
    if space.chooser and len(space.families) > 1:
        middles = [space.architecture_of(space.middle(family=family)) for family in space.families]
        yield space.chooser, list(space.families), middles
    seen = {space.chooser}
    for family, group in space.student_groups.items():
        middle = space.architecture_of(space.middle(family=family))
        for name, distribution in group.items():
            values = ends(distribution)
            if name not in seen and len(values) > 1:
                yield name, values, [middle | {name: value} for value in values]
            seen.add(name)


def _profile(context: CheckContext, architecture: Mapping[str, Any]) -> tuple[tuple[int, int | None], str]:
    """Return parameters and MACs of a fresh student, and a digest of its logits in train mode."""
    with attributing_errors(f"student({format_values(architecture)})", context):
        counts = count_costs(context.deployed(architecture).eval(), context.inputs(1))
        network = context.student(architecture).train()
        seed_draws(0, context.device)
        with torch.no_grad():
            answers = call(network, context.inputs(ASKED))
    return (counts.parameters, counts.macs), tensors_digest({"answers": answers})


def check_macs_counted(context: CheckContext) -> str:
    """Check that all operations of the smallest and the largest student have a formula for MACs."""
    if found := uncounted_operations(context):
        raise CheckWarning(f"can't be counted of students, and are left out: no formula for {', '.join(found)}")
    return "of students, all counted"


def uncounted_operations(context: CheckContext) -> list[str]:
    """Return the operations without a formula in the smallest and the largest student."""
    networks = [context.deployed(architecture).eval() for architecture in context.extremes().values()]
    return sorted({name for network in networks for name in macs_of(network, context.inputs(1)).uncounted})


def check_budget(context: CheckContext) -> str:
    """Check that some student costs no more than ``--max`` allows."""
    budgets = context.settings.budgets
    if not budgets:
        return "no --max is given"
    try:
        budget.check_counted(uncounted_operations(context), budgets)
    except HarnessError as error:
        raise CheckFailed(str(error), f"leave {', '.join(unknown_for_some(budgets))} out of --max") from error
    costs = _costs(context)
    within = [name for name, cost in costs.items() if not budget.over(cost, budgets)]
    requested = ", ".join(f"{name}={most:g}" for name, most in budgets.items())
    if not within:
        cheapest = min(costs, key=lambda name: max(costs[name][cost] / most for cost, most in budgets.items()))
        has = ", ".join(f"{cost} {costs[cheapest][cost]:.4g}" for cost in budgets)
        raise CheckFailed(
            f"none of {len(costs)} architectures is within {requested}; the cheapest, {cheapest}, has {has}"
        )
    return f"{len(within)} of {len(costs)} architectures are within {requested}"


def _costs(context: CheckContext) -> dict[str, Costs]:
    """Return costs by architecture; latencies are measured only if a budget needs them."""
    networks = {key_of(architecture): context.deployed(architecture).eval() for architecture, _ in context.students}
    names = {key_of(architecture): format_values(architecture) for architecture, _ in context.students}
    costs: Mapping[str, Costs] = {
        key: count_costs(network, context.inputs(1)).known() for key, network in networks.items()
    }
    if any(METRICS[name].is_timed for name in context.settings.budgets):
        costs = measure_costs(
            networks,
            context.sample.example_inputs,
            conditions=conditions_of(context.device),
            limit_s=_MEASURE_S,
        )
    return {names[key]: of_one for key, of_one in costs.items()}


CHECKS = (
    Check(
        "students",
        check_students_build,
        "let student() take every value of the space's student group by name",
        needs=("teacher",),
    ),
    Check(
        "student's logits",
        check_student_logits,
        "let students take what the teacher takes: the inputs that data() gives",
        needs=("students",),
    ),
)
"""Checks before anything is trained."""

DETAILED_CHECKS = (
    Check(
        "ignored",
        check_nothing_ignored,
        "rename what is misspelt; what a training step does belongs into forward, or into a method of the space",
        needs=("student's logits",),
    ),
    Check(
        "student steady",
        check_students_are_deterministic,
        "let the student take a batch of any size in eval mode, one sample too",
        needs=("student's logits",),
    ),
    Check(
        "student's seed",
        check_student_seed,
        "draw with torch alone, whose generator a trial seeds: not with numpy, random, or a generator of your own",
        needs=("student's logits",),
    ),
    Check(
        "architecture",
        check_architecture_parameters,
        "pass it on to a layer in student(), or take it out of the space",
        needs=("student's logits",),
    ),
    Check(
        "MACs",
        check_macs_counted,
        f"ask for {budget.always_known()} in place of macs, or build students of torch's own operations",
        needs=("student's logits",),
    ),
    Check(
        "budget",
        check_budget,
        "raise --max, or let the space reach smaller students",
        needs=("student's logits",),
    ),
)
