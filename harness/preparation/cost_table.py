"""The cost table of a study: found, measured, measured on; and what is refused for its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.core.content import exclusive
from harness.core.errors import TrialFailed, if_memory_suffices
from harness.cost import budgets as budget
from harness.cost.latency import (
    FEWEST_ROUNDS,
    ROUNDS,
    Rounds,
    expected_steps_s,
    fitting_batch,
    is_compiled,
    time_limit_s,
)
from harness.cost.macs import macs_of
from harness.cost.measure import (
    MOST_ARCHITECTURES,
    Conditions,
    CostTable,
    conditions_of,
    cost_cache_file,
    count_costs,
    key_of,
    measure_costs,
    save_cost_table,
    state_shapes,
    total_cost,
    uncounted_of,
)
from harness.metrics import unknown_for_some
from harness.networks.students import middle_architecture, named
from harness.preparation.concurrency import workers_together
from harness.preparation.prepared import Prepared
from harness.preparation.user_code import Deployed, asking, asking_the_middle, deployed_of, middle_student
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.teachers.ensemble import labels
from harness.teachers.make import Teacher
from lightning_modules.batch import Inputs, call, select
from lightning_modules.data.tensors import TensorDataModule

_OVER, _TOO_LARGE = "over --max", "that memory does not suffice for"
_NAMED = 3  # students that are named, of those that memory does not suffice for


def cost_table(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    teachers: Sequence[Teacher],
    data: TensorDataModule,
    terminal: Terminal,
) -> CostTable:
    """The study's own cost table if it has one, else one from the cache, else a new one: one for all its workers."""
    kept = None if study.costs_are_outdated else study.costs
    if kept is None:

        def wait() -> None:
            terminal.say("another worker measures the costs; waiting for it")

        with study.exclusive("costs", on_wait=wait):
            kept = None if study.costs_are_outdated else study.costs
            if kept is None:
                table = _found_or_measured(settings, space, teachers, data, terminal)
                kept = table.to_json()
                study.costs = kept
                measured = "1 architecture" if len(table.students) == 1 else f"{len(table.students)} architectures"
                terminal.say(f"costs     {measured} and the teacher on {table.conditions}")
    return CostTable.from_json(kept)


def _found_or_measured(
    settings: Settings, space: SearchSpace, teachers: Sequence[Teacher], data: TensorDataModule, terminal: Terminal
) -> CostTable:
    conditions = conditions_of(data.device)
    with asking_the_middle(space, settings):  # before all others take their memory
        limit_s = limit_s_of(settings, space, data, middle_student(space, data, settings))
    students = _measurable(space, data, settings)
    members = dict(zip(labels(len(teachers)), teachers, strict=True))
    networks = {name: one.network for name, one in (members | students).items()}
    trainable = {name: one.trainable_parameters for name, one in (members | students).items()}
    example = example_inputs(data, 1)
    file = cost_cache_file(settings.cache_dir, networks, example, conditions, trainable, space.code.key)
    with exclusive(file.with_suffix(".lock")):
        rounds, names, most = Rounds(file.with_suffix(".rounds")), list(networks), conditions.throughput_batch
        table = _kept_table(file, rounds, terminal)
        if table is not None and rounds.done(names) >= ROUNDS and rounds.throughput_batch == most:
            return table
        has_time = rounds.could_go_on(names, limit_s) or rounds.could_take_more(names, limit_s, most=most)
        if table is not None and not has_time:
            return table
        if table is not None:
            terminal.say(f"the kept cost table is {table.conditions.precision}; there is time to measure on")
        table = _measured(settings, space, networks, trainable, list(members), data, terminal, rounds, limit_s)
        save_cost_table(table, file)
    return table


def _kept_table(file: Path, rounds: Rounds, terminal: Terminal) -> CostTable | None:
    """Return the table in a file, if there is one, it is whole, and made of these rounds."""
    if not file.exists():
        return None
    try:
        table = CostTable.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        terminal.say(f"the kept cost table {file} is damaged ({error}); measuring again")
        return None
    if not rounds.calls:
        terminal.say(f"the kept cost table {file} lacks the rounds that it was made of; measuring again")
        return None
    # Rounds of a measuring that was cut when it went on are of no table yet.
    is_of_them = table.conditions.throughput_batch == rounds.throughput_batch
    return table if is_of_them and str(rounds) in table.conditions.precision else None


def _measurable(space: SearchSpace, data: TensorDataModule, settings: Settings) -> dict[str, Deployed]:
    """What is deployed of each architecture by its key, less those that memory does not suffice for beside the others.

    Of a space of too many to be measured beforehand, none.
    """
    found, example = {}, example_inputs(data, 1)
    for architecture in space.architectures(limit=MOST_ARCHITECTURES) or []:
        with if_memory_suffices():
            one = deployed_of(space, architecture, data, settings)
            with asking(f"the task's {named(architecture)}", settings, but_memory=True):
                with torch.compiler.set_stance("force_eager"), torch.no_grad():
                    call(one.network.eval(), example)
            found[key_of(architecture)] = one
    return found


def too_large(space: SearchSpace, costs: CostTable) -> str:
    """Say which architectures have no costs because memory did not suffice for them; empty if none."""
    every = space.architectures(limit=MOST_ARCHITECTURES) or []
    left_out = [named(one) for one in every if key_of(one) not in costs.students]
    if not left_out:
        return ""
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return (
        f"memory did not suffice to measure {len(left_out)} of {len(every)} architectures, whose trials may fail for "
        f"it: {', '.join(left_out[:_NAMED])}{more}"
    )


def _measured(
    settings: Settings,
    space: SearchSpace,
    networks: Mapping[str, nn.Module],
    trainable: Mapping[str, int],
    members: Sequence[str],
    data: TensorDataModule,
    terminal: Terminal,
    rounds: Rounds,
    limit_s: float,
) -> CostTable:
    """Return a new table of teachers and students, measured from the rounds on that there are."""
    conditions, example = conditions_of(data.device), example_inputs(data, 1)
    inputs = partial(example_inputs, data)
    bar = terminal.bar("costs", ROUNDS, "rounds")
    try:
        with asking("a network of the task", settings):
            batch, most = rounds.throughput_batch, conditions.throughput_batch
            if batch is None or rounds.could_take_more(list(networks), limit_s, most=most):
                fitting = fitting_batch(
                    list(networks.values()),
                    inputs,
                    most=most,
                    threads=conditions.threads,
                    limit_s=limit_s - rounds.spent_s,
                )
                batch = max(batch or 1, fitting)
            conditions = replace(conditions, throughput_batch=batch)
            costs = measure_costs(
                networks,
                inputs,
                conditions=conditions,
                trainable=trainable,
                rounds=rounds,
                limit_s=limit_s,
                on_round=bar.advance,
            )
            compiled = [name for name, network in networks.items() if is_compiled(network, example)]
    finally:
        bar.close()
    runtime = "compiled" if len(compiled) == len(networks) else "eager or compiled, as built" if compiled else "eager"
    each, precision, spread = [costs.pop(name) for name in members], str(rounds), rounds.spread
    uncounted = uncounted_of(networks, costs, example)
    if not costs:  # more architectures than are measured beforehand: the middle one speaks for their layers
        precision, spread = f"teacher: {rounds}; students: p50 of at least {FEWEST_ROUNDS} rounds", None
        with asking_the_middle(space, settings):
            middle = deployed_of(space, middle_architecture(space), data, settings).network.eval()
            uncounted = macs_of(middle, example).uncounted
    return CostTable(
        replace(conditions, runtime=runtime, precision=precision, spread=spread),
        total_cost(each),
        costs,
        each if len(each) > 1 else (),
        uncounted,
    )


def limit_s_of(settings: Settings, space: SearchSpace, data: TensorDataModule, network: nn.Module) -> float:
    """Return how long costs may be measured, by how long a study of students like this one would take."""
    training_s = expected_steps_s(
        network,
        partial(example_inputs, data),
        batch_size=data.batch_size,
        threads=1,
        steps=settings.trials * space.epochs * data.steps_per_epoch,
    )
    workers = workers_together(settings, space, data.device)
    return time_limit_s(training_s / min(workers, settings.trials))


def costs_of(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> dict[str, float]:
    """Costs of one architecture by metric name; measured now if the space was too large to measure before.

    Raises:
        TrialFailed: If the study needs one that can't be counted, as MACs.
    """
    costs = _known_or_measured(architecture, space, study, prepared)
    if unknown := [name for name in _must_be_known(study) if name not in costs]:
        told = f"{' and '.join(unknown)} are asked for, and can't be counted of this student"
        raise TrialFailed(f"{told}: something has no formula")
    return costs


def _known_or_measured(
    architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared
) -> dict[str, float]:
    key, table = key_of(architecture), prepared.costs
    if key not in table.students:
        # Another worker may have measured it, and the study keeps one table.
        with study.exclusive("costs"):
            assert study.costs is not None
            table.add(CostTable.from_json(study.costs))
            if key not in table.students:
                one, rounds = deployed_of(space, architecture, prepared.data, study.settings), Rounds()
                measured = measure_costs(
                    {key: one.network},
                    lambda size: example_inputs(prepared.data, size),
                    conditions=table.conditions,
                    trainable={key: one.trainable_parameters},
                    rounds=rounds,
                    limit_s=limit_s_of(study.settings, space, prepared.data, one.network) / study.settings.trials,
                    least=FEWEST_ROUNDS,
                )
                table.add(CostTable(replace(table.conditions, spread=rounds.spread), table.teacher, measured))
                study.costs = table.to_json()
    return table.metrics(architecture)


def check_as_costed(
    network: nn.Module, architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared
) -> None:
    """Check that what is deployed of a trained student is what was costed, and fits where it will be loaded.

    Raises:
        TrialFailed: If its state has other names, shapes or types than that of what is deployed of a fresh student.
    """
    key = key_of(architecture)
    if key not in prepared.states:
        prepared.states[key] = state_shapes(deployed_of(space, architecture, prepared.data, study.settings).network)
    trained, fresh = state_shapes(network), prepared.states[key]
    for name in fresh | trained:
        if trained.get(name) != fresh.get(name):
            was, now = (" ".join(map(str, of[name])) if name in of else "missing" for of in (fresh, trained))
            raise TrialFailed(
                f"deployed({named(architecture)}) must have the state of a fresh one, which was costed and into which "
                f"it is loaded, but its {name!r} is {now} after training and {was} before; keep names, shapes and "
                "types, as by zeros in place of what is removed"
            )


def refusal(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> str | None:
    """Say of students of an architecture why none is trained, as in ``3 over --max``; ``None`` if it may be.

    What can be counted is counted before a clock is asked. Where costs are asked for, as budgets or as an objective
    that may be unknown, memory must suffice for the student, and what is asked for must be known.
    """
    budgets, needed = study.settings.budgets, _must_be_known(study)
    if not budgets and not needed:
        return None

    def say() -> None:
        study.retry.notifier(f"students that memory does not suffice for are not tried ({named(architecture)})")

    with if_memory_suffices(otherwise=say):
        if key_of(architecture) not in prepared.costs.students:
            one = deployed_of(space, architecture, prepared.data, study.settings)
            example = example_inputs(prepared.data, 1)
            counted = count_costs(one.network.eval(), example, one.trainable_parameters)._asdict()
            if unknown := [name for name in needed if name in counted and counted[name] is None]:
                _say_uncounted(unknown, macs_of(one.network, example).uncounted, study, prepared.costs)
                return _uncounted(unknown)
            if budget.over(counted, {name: most for name, most in budgets.items() if name in counted}):
                return _OVER
            if {*budgets, *needed} <= counted.keys():
                return None
        costs = _known_or_measured(architecture, space, study, prepared)
        if unknown := [name for name in needed if name not in costs]:
            return _uncounted(unknown)
        return _OVER if budget.over(costs, budgets) else None
    return _TOO_LARGE


def _must_be_known(study: Study) -> list[str]:
    """Return what a study asks for that may be unknown: a student without it is of no use."""
    return unknown_for_some([*study.settings.budgets, *study.objectives])


def _uncounted(metrics: Sequence[str]) -> str:
    return f"whose {' and '.join(metrics)} can't be counted"


def _say_uncounted(metrics: Sequence[str], names: Sequence[str], study: Study, costs: CostTable) -> None:
    """Say, once for a name, that students are passed over for it."""
    new = [name for name in names if name not in costs.uncounted]
    costs.uncounted += tuple(new)
    if new:
        study.retry.notifier(f"students {_uncounted(metrics)} are not tried: no formula for {', '.join(new)}")


def example_inputs(data: TensorDataModule, size: int) -> Inputs:
    """Inputs of a batch of ``size``, for measuring: validation samples, repeated where there are too few."""
    split = data.splits["val"]
    return select(split.inputs, torch.arange(size, device=data.device) % len(split))


def used_conditions(study: Study) -> Conditions:
    """Return what the study's latencies hold for."""
    assert study.costs is not None
    return CostTable.from_json(study.costs).conditions
