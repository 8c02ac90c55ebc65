"""The cost table of a study: found in the study or in the cache, or measured by one worker for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from harness.core.content import exclusive
from harness.core.errors import if_memory_suffices
from harness.cost.base import BackendConditions, CostBackend, backends
from harness.cost.counting import VERSION, Counts, count_costs, uncounted_of
from harness.cost.kept import KeptCosts, kept_costs_file, kept_costs_key
from harness.cost.latency import expected_steps_s, time_limit_s
from harness.cost.rounds import FEWEST_ROUNDS, ROUNDS, Rounds
from harness.cost.table import MOST_ARCHITECTURES, CostTable, key_of, total_costs
from harness.metrics import METRICS
from harness.networks.students import middle_architecture, named
from harness.preparation.concurrency import workers_together
from harness.preparation.user_code import Deployed, deployed_of, middle_student, middle_student_code, user_code
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace
from harness.studies.study import Study
from harness.teachers.black_box import BlackBoxTeacher
from harness.teachers.ensemble import labels
from harness.teachers.make import Teacher
from harness.training.batches import with_batches_of
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule

_SHARE_APART = 0.25  # of the time for costs, added for teachers that are measured by themselves
_NAMED = 3  # students that are named, of those that memory does not suffice for


def cost_table(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    teachers: Sequence[Teacher],
    data: TensorDataModule,
    terminal: Terminal,
) -> CostTable:
    """Return the study's cost table. Where it has none, one worker makes it for all."""
    table = _table_of(study)
    if table is None:

        def wait() -> None:
            terminal.say("another worker measures the costs; waiting for it")

        with study.exclusive("costs", on_wait=wait):
            table = _table_of(study)
            if table is None:
                table = _found_or_measured(settings, space, teachers, data, terminal)
                study.costs = table.to_json()
                measured = "1 architecture" if len(table.students) == 1 else f"{len(table.students)} architectures"
                and_teacher = " and the teacher" if any(teacher.network for teacher in teachers) else ""
                terminal.say(f"costs     {measured}{and_teacher} on {table.conditions}")
    return table


def _table_of(study: Study) -> CostTable | None:
    """Return the study's own table; ``None`` if it has none, of other networks, or without a backend that is listed."""
    if study.costs is None or study.costs_are_outdated:
        return None
    table = CostTable.from_json(study.costs)
    return table if table.is_of_all_backends else None


def _found_or_measured(
    settings: Settings, space: SearchSpace, teachers: Sequence[Teacher], data: TensorDataModule, terminal: Terminal
) -> CostTable:
    """Return a table of the teachers and of all students, from the cache as far as it is there."""
    with middle_student_code(space, settings):  # before all others take their memory
        limit_s = limit_s_of(settings, space, data, middle_student(space, data, settings))
    students = _measurable(space, data, settings)
    members = dict(zip(labels(len(teachers)), teachers, strict=True))
    networks = {name: one for name, one in members.items() if one.black_box is None}
    measuring = _Measuring.of(settings, space, data, terminal, {**networks, **students})
    found = backends()
    with exclusive(measuring.lock):
        counted = measuring.counted(students)
        measured = {one.name: measuring.measured(one, limit_s / len(found)) for one in found}
    conditions = BackendConditions({name: one.conditions for name, one in measured.items() if one.conditions})
    uncounted = counted.uncounted
    if not students:  # more architectures than are measured beforehand: the middle one stands for their layers
        for name, one in conditions.items():
            of_teacher = f"teacher: {one.precision}; " if one.precision else ""
            precision = f"{of_teacher}students: p50 of at least {FEWEST_ROUNDS} rounds"
            conditions[name] = replace(one, precision=precision, spread=None)
        with middle_student_code(space, settings):
            middle = deployed_of(space, middle_architecture(space), data, settings).network.eval()
            uncounted = uncounted_of([middle], data.example_inputs(1))
    costs = {name: dict(of_one) for name, of_one in counted.costs.items()}
    for by_backend in measured.values():
        for name, of_one in by_backend.costs.items():
            costs[name] |= of_one
    others = {name: one for name, one in members.items() if one.black_box is not None}
    costs |= _of_black_boxes(others, _Measuring.of(settings, space, data, terminal, others), limit_s)
    each = [costs.pop(name) for name in members]
    return CostTable(conditions, total_costs(each), costs, each if len(each) > 1 else (), uncounted)


def _of_black_boxes(
    teachers: Mapping[str, Teacher], measuring: _Measuring, limit_s: float
) -> dict[str, dict[str, float]]:
    """Return the costs of teachers that are no PyTorch network, as far as they have any.

    They are measured apart from the students: another library's jitter is not theirs, and what it is said to be decides
    which students count as equally fast.
    """
    costs = {name: dict(one.black_box.costs()) for name, one in teachers.items() if one.black_box is not None}
    if measuring.networks:
        found = backends()
        with exclusive(measuring.lock):
            for backend in found:
                for name, one in measuring.measured(backend, _SHARE_APART * limit_s / len(found)).costs.items():
                    costs[name] |= one
    return costs


def known_costs(teacher: nn.Module | BlackBoxTeacher) -> dict[str, float]:
    """Return which costs of a teacher will be known: each is 1, or 0 for parameters that it has not.

    Args:
        teacher: The network; or what is asked in its place, prepared.
    """
    timed = {name: 1.0 for name, one in METRICS.items() if one.is_measured and name not in Counts._fields}
    if isinstance(teacher, BlackBoxTeacher):
        return {**(timed if teacher.is_costed else {}), **dict.fromkeys(teacher.costs(), 1.0)}
    return {**timed, "parameters": float(any(True for _ in teacher.parameters()))}


@dataclass(frozen=True)
class _Measuring:
    """Counts and measures networks beside one another, and keeps what comes of it in the cache.

    Attributes:
        settings: Name the cache.
        data: Gives the samples that networks are called with.
        terminal: Shows the progress.
        networks: The networks, by name.
        trainable: How many parameters the training of each changes.
        key: Tells the networks from others.
    """

    settings: Settings
    data: TensorDataModule
    terminal: Terminal
    networks: Mapping[str, nn.Module]
    trainable: Mapping[str, int]
    key: str

    @classmethod
    def of(
        cls,
        settings: Settings,
        space: SearchSpace,
        data: TensorDataModule,
        terminal: Terminal,
        each: Mapping[str, Teacher | Deployed],
    ) -> _Measuring:
        """Return the measuring of teachers and students."""
        networks = {name: one.network for name, one in each.items() if one.network is not None}
        trainable = {name: one.trainable_parameters for name, one in each.items()}
        key = kept_costs_key(networks, data.example_inputs(1), trainable, space.code.key)
        return cls(settings, data, terminal, networks, trainable, key)

    @property
    def lock(self) -> Path:
        """Return the file that is locked meanwhile: other processes' measuring would disturb it."""
        return self._counts_file.with_suffix(".lock")

    @property
    def _counts_file(self) -> Path:
        return kept_costs_file(self.settings.cache_dir, self.key, "counting", VERSION)

    def counted(self, students: Iterable[str]) -> KeptCosts:
        """Return the counted costs, and what could not be counted of the students, which are given by name."""
        file, example = self._counts_file, self.data.example_inputs(1)
        kept = self._kept(file)
        if kept is None:
            with user_code("a network of the task", self.settings):
                counts = {
                    name: count_costs(network.eval(), example, self.trainable[name])
                    for name, network in self.networks.items()
                }
                unknown = [self.networks[name] for name in students if counts[name].macs is None]
                uncounted = uncounted_of(unknown, example)
            kept = KeptCosts({name: one.known() for name, one in counts.items()}, uncounted=uncounted)
            kept.save(file)
        return kept

    def measured(self, backend: CostBackend, limit_s: float) -> KeptCosts:
        """Return what a backend measures; kept costs are measured further where there is time for more rounds."""
        conditions, names = backend.conditions(self.data.device), list(self.networks)
        if not names:  # students are measured one by one, under these conditions
            return KeptCosts({}, conditions)
        file = kept_costs_file(self.settings.cache_dir, self.key, backend.name, backend.version, conditions)
        rounds, most = Rounds(file.with_suffix(".rounds")), conditions.throughput_batch
        kept = self._kept_with(rounds, file)
        if kept is not None and kept.conditions is not None:
            if rounds.done(names) >= ROUNDS and rounds.throughput_batch == most:
                return kept
            if not (rounds.could_go_on(names, limit_s) or rounds.could_take_more(names, limit_s, most=most)):
                return kept
            self.terminal.say(f"the kept cost table is {kept.conditions.precision}; there is time to measure on")
        kept = self._measured_further(backend, rounds, limit_s)
        kept.save(file)
        return kept

    def _measured_further(self, backend: CostBackend, rounds: Rounds, limit_s: float) -> KeptCosts:
        inputs = self.data.example_inputs
        bar = self.terminal.progress_bar("costs", ROUNDS, "rounds")
        try:
            with user_code("a network of the task", self.settings):
                conditions = backend.fit_conditions(
                    backend.conditions(self.data.device), self.networks, inputs, rounds=rounds, limit_s=limit_s
                )
                costs = backend.measure(
                    self.networks,
                    inputs,
                    conditions=conditions,
                    rounds=rounds,
                    limit_s=limit_s,
                    on_round=bar.advance,
                    least=1,
                )
        finally:
            bar.close()
        return KeptCosts(costs, replace(conditions, precision=str(rounds), spread=rounds.spread))

    def _kept_with(self, rounds: Rounds, file: Path) -> KeptCosts | None:
        """Return the costs in a file, if it is whole, and made of these rounds."""
        kept = self._kept(file)
        if kept is None or kept.conditions is None:
            return None
        if not rounds.calls:
            self.terminal.say(f"the kept cost table {file} lacks the rounds that it was made of; measuring again")
            return None
        # Rounds that were added before an interruption are not in the costs yet.
        is_of_them = kept.conditions.throughput_batch == rounds.throughput_batch
        return kept if is_of_them and str(rounds) in kept.conditions.precision else None

    def _kept(self, file: Path) -> KeptCosts | None:
        if not file.exists():
            return None
        try:
            return KeptCosts.load(file)
        except ValueError as error:
            self.terminal.say(f"the kept cost table {file} is damaged ({error}); measuring again")
            return None


def _measurable(space: SearchSpace, data: TensorDataModule, settings: Settings) -> dict[str, Deployed]:
    """Build what is deployed of each architecture, by its key, without those that memory does not suffice for.

    Of a space of too many to be measured beforehand, none.
    """
    found, example = {}, data.example_inputs(1)
    for architecture in space.architectures(limit=MOST_ARCHITECTURES) or []:
        with if_memory_suffices():
            one = deployed_of(space, architecture, data, settings)
            with user_code(f"the task's {named(architecture)}", settings, but_memory=True):
                with torch.compiler.set_stance("force_eager"), torch.no_grad():
                    call(one.network.eval(), example)
            found[key_of(architecture)] = one
    return found


def too_large(space: SearchSpace, costs: CostTable) -> str:
    """Return a warning that names architectures without costs, for which memory did not suffice; empty if none."""
    every = space.architectures(limit=MOST_ARCHITECTURES) or []
    left_out = [named(one) for one in every if key_of(one) not in costs.students]
    if not left_out:
        return ""
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return (
        f"memory did not suffice to measure {len(left_out)} of {len(every)} architectures, whose trials may fail for "
        f"it: {', '.join(left_out[:_NAMED])}{more}"
    )


def limit_s_of(settings: Settings, space: SearchSpace, data: TensorDataModule, network: nn.Module) -> float:
    """Return how many seconds costs may be measured, by how long a study of students like this one would train."""
    usual = with_batches_of(data, space.training_of(space.configuration(space.middle())))
    training_s = expected_steps_s(
        network,
        data.example_inputs,
        batch_size=usual.batch_size,
        threads=1,
        steps=settings.trials * space.epochs * usual.steps_per_epoch,
    )
    workers = workers_together(settings, space, data.device)
    return time_limit_s(training_s / min(workers, settings.trials))


def used_conditions(study: Study) -> BackendConditions:
    """Return the conditions that the study's costs were measured under."""
    assert study.costs is not None
    return CostTable.from_json(study.costs).conditions
