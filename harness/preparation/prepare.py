"""Teacher, teacher outputs, cost table: each made once, kept, and checked when it is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from harness import budget
from harness.cli import doctor_command
from harness.concurrency import workers_together
from harness.content import TensorHasher, derived_seed, digest, exclusive
from harness.cost import (
    MOST_ARCHITECTURES,
    Conditions,
    Cost,
    CostTable,
    conditions_of,
    cost_cache_file,
    count_costs,
    key_of,
    measure_costs,
    save_cost_table,
    shape_of,
    state_shapes,
    total_cost,
    trainable_parameters,
    uncounted_of,
)
from harness.errors import HarnessError, TrialFailed, Unfit, if_memory_suffices, is_out_of_memory, one_line
from harness.latency import FEWEST_ROUNDS, ROUNDS, Rounds, expected_steps_s, fitting_batch, is_compiled, time_limit_s
from harness.macs import macs_of
from harness.preparation.cache_format import check_cache
from harness.preparation.chance import chance_level, check_metric
from harness.preparation.deployment import check_deployed
from harness.preparation.ensemble import averaged, bind_teachers, labels, make_teachers, number_of_teachers
from harness.preparation.keeping import Keeper, nobody_else
from harness.preparation.limits import limits_of
from harness.preparation.logits import label_classes
from harness.preparation.methods import (
    check_classes,
    check_student_layers,
    check_targets,
    check_teachers,
    student_layers,
    teacher_layers,
)
from harness.preparation.misgivings import ALIKE, misgivings, of_task, of_training
from harness.preparation.mixing import REMEDY, mixes_targets, unrepeatable, why_no_control
from harness.preparation.network_digest import start_of
from harness.preparation.students import build_student, check_students, middle_architecture, named
from harness.preparation.teacher import Teacher
from harness.preparation.teacher_checks import check_outputs, check_teacher
from harness.preparation.teacher_outputs import SEARCHED, Outputs, make_teacher_outputs
from harness.region import Scores, check_reach, region_of, sign_of
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace, ends, line_of
from harness.studies.changes import bind_starts
from harness.studies.start import Start
from harness.studies.study import Study
from harness.task import Task, class_names, deployed_network
from harness.tracking.mirror import Mirror
from harness.training.allocator import keep_freed_memory
from harness.training.fit import device_of, seed_draws
from lightning_modules.batch import Inputs, call, select
from lightning_modules.losses import soft_target_loss
from lightning_modules.tensors import TensorDataModule
from lightning_modules.views import show

_HASHED_NUMBERS = 20_000_000  # of students' fresh weights, at most, by which a start is known: half a second
_HASHED_AT_ONCE, _HASHED_BYTES = 4096, 2**26  # samples, and bytes of them: views need not fit in memory
_GLANCED_AT = 16  # samples, by which it is seen whether a student gives logits
_OVER, _TOO_LARGE, _UNCOUNTED = "over --max", "that memory does not suffice for", "whose macs can't be counted"
_NAMED = 3  # students that are named, of those that memory does not suffice for


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What every trial of a study stands on.

    Attributes:
        data: The data, on the device, with the teacher's outputs attached.
        classes: Number of classes C.
        dataset: Fingerprint of the data.
        teacher_digest: Content hash of the teacher's weights; of several, the kind of their average and each one's.
        costs: Costs of the teacher and of every architecture that the space can reach.
        states: Shapes and types of the state of what is deployed of a fresh student, by architecture, as far as they
            were asked for.
    """

    data: TensorDataModule
    classes: int
    dataset: str
    teacher_digest: str
    costs: CostTable
    states: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


def prepare(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    terminal: Terminal,
    mirror: Mirror,
    *,
    splits: Sequence[str] = SEARCHED,
) -> Prepared:
    """Make, or find, all that a trial needs, and tie the study to it.

    Args:
        settings: Name data, teacher and device.
        space: What varies.
        study: The study.
        terminal: Shows what is made.
        mirror: Told of the teacher's news.
        splits: Of which the teacher's outputs are wanted.

    Raises:
        HarnessError: If the data, the teacher's checkpoint or the device can't be had, the study stands on others, or a
            method of the space does not fit the task.
    """
    check_teachers(space, number_of_teachers(settings))
    check_cache(settings.cache_dir, lambda text: terminal.tell(text, indent=" " * 10))
    keep_freed_memory()
    device = device_of(settings.accelerator)
    with _asking("the task's data", settings):
        data = space.task.data(settings.data_dir)
    with _asking("the task's views", settings):
        dataset = fingerprint(data)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    views = "" if data.views is None else f", {data.views.count} views of each to train on"
    terminal.say(f"data      {sizes} samples{views}, {dataset}")
    data.move_to(device)
    study.bind(dataset=dataset, students=_students_digest(space, data, settings))

    def asking(what: str) -> AbstractContextManager[None]:
        return _asking(f"the task's {what}", settings)

    students = check_students(space, data, asking, layers=student_layers(space))
    classes = students.classes
    check_deployed(space, data, asking, classes=classes)
    bind_starts(study, _student_starts(space, data, settings))
    check_classes(space, classes)
    check_student_layers(space, students)
    with _asking("the task's views", settings):
        check_targets(space, mixes_targets(data, classes))
        _say_if_no_control(study, data, classes, terminal)
        unsteady = unrepeatable(data)
    scored = scores_of(space.task, data, classes)
    bound = settings.bound or study.bound
    check_reach(bound, scored)
    _keep_class_names(study, check_class_names(space.task, label_classes(data), classes))
    study.keep_primary_bounds(*scored.bounds)
    student_misgivings = _student_misgivings(
        space, data, settings
    )  # before a teacher: memory must suffice for this one
    keeper = Keeper(study.alone if study.is_shared else nobody_else, mirror, terminal.say)
    doubts = [f"the task {one}" for one in of_task(space.task, Task)]
    doubts += [f"nothing of a student changes with its {name}" for name in students.inert]
    if students.alike is not None:
        doubts.append(f"{students.alike} {ALIKE}")

    def check(network: nn.Module) -> None:
        check_teacher(network, space, data, students)
        if not settings.teachers:
            doubts.extend(f"the teacher {one}" for one in of_training(network) if f"the teacher {one}" not in doubts)

    with _asking("the task's teacher", settings):
        teachers = make_teachers(
            space,
            data,
            dataset,
            classes=classes,
            settings=settings,
            keeper=keeper,
            terminal=terminal,
            mirror=mirror,
            check=check,
            bind_start=lambda name, start: bind_starts(study, {name: start})[name],
        )
    name = bind_teachers(study, [teacher.start for teacher in teachers], settings.average)
    layers = teacher_layers(space)
    with _asking("the teacher", settings):
        outputs = [
            make_teacher_outputs(
                teacher, data, dataset, splits=splits, layers=layers, cache_dir=settings.cache_dir, keeper=keeper
            )
            for teacher in teachers
        ]
    for who, one in zip(labels(len(teachers)), outputs, strict=True):
        check_outputs(f"the {who}", one)
    scores = [_attach(one, data, space, classes) for one in outputs]
    together = _attach(averaged(outputs, settings.average), data, space, classes)
    costs = _costs(settings, space, study, teachers, data, terminal)
    if too_large := _too_large(space, costs):
        doubts.append(too_large)
    files, its_costs = settings.teachers or [None] * len(teachers), costs.members or [costs.teacher]
    names = labels(len(teachers)) if len(teachers) > 1 else ["the teacher"]

    def warn(doubt: str, file: Path | None = None) -> None:
        terminal.tell(f"warning   {doubt}; look: {doctor_command(settings, file)}", indent=" " * 10)

    if unsteady:
        doubts.append(f"{unsteady}: students are not shown what the teacher was asked about")
    for doubt in doubts:
        warn(doubt)
    for who, teacher, file, said, its_scores, cost in zip(
        names, teachers, files, outputs, scores, its_costs, strict=True
    ):
        terminal.say(f"teacher   {_described(space, its_scores, cost)}, {teacher.digest}")
        reached = its_scores[space.task.metric_name]
        for misgiving in misgivings(said["val"]["logits"].float(), scored, reached):
            doubts.append(f"{who} {misgiving}")
            warn(doubts[-1], file)
        _finish_teacher(teacher, its_scores, cost)
        mirror.notify(teacher.spool.folder)  # a kept teacher may be new to this tracking store
    if len(teachers) > 1:
        terminal.say(f"ensemble  {_described(space, together, costs.teacher)}, mean of the {name}")
    for misgiving in student_misgivings:
        doubts.append(f"a student {misgiving}")
        warn(doubts[-1], files[0])
    if costs.uncounted:
        doubts.append(f"macs are not known of students: no formula for {', '.join(costs.uncounted)}")
        terminal.tell(f"warning   {doubts[-1]}", indent=" " * 10)
    study.keep_misgivings(doubts)
    study.keep_teacher(_teacher_metrics(together, costs.teacher))
    budget.check_counted(costs.uncounted, settings.budgets, study.objectives)
    region = region_of(bound, scored, together[space.task.metric_name])
    before = f"; before: {study.region.bound}" if bound != study.bound and study.trials() else ""
    study.keep_region(region)
    study.keep_bound(bound)
    terminal.tell(f"region    {region}{before}", indent=" " * 10)
    if not region.holds(together[space.task.metric_name]):
        doubts = [*doubts, f"the teacher itself is not in the region ({region}), so few students may be"]
        terminal.tell(f"warning   {doubts[-1]}", indent=" " * 10)
        study.keep_misgivings(doubts)
    budget.within(space, settings.budgets, costs)  # says so now, if no student is
    study.begin_work()
    return Prepared(data=data, classes=classes, dataset=dataset, teacher_digest=name, costs=costs)


def scores_of(task: Task, data: TensorDataModule, classes: int) -> Scores:
    """Return what is known of the primary metric on the validation split before any network has answered.

    Raises:
        Unfit: If the metric gives no number for a perfect answer.
    """
    sign, labels = sign_of(task), data.splits["val"].labels
    metric = check_metric(task, labels, classes)
    return Scores(
        metric=task.metric_name,
        sign=sign,
        bounds=limits_of(metric, labels, classes),
        chance=chance_level(metric, labels, classes, sign=sign),
        samples=len(labels),
    )


def _attach(outputs: Outputs, data: TensorDataModule, space: SearchSpace, classes: int) -> dict[str, float]:
    """Join a teacher's outputs to the data; its scores."""
    data.attach(outputs)
    return score(data.teacher_outputs["val"]["logits"], data, space, classes)


def _described(space: SearchSpace, scores: Mapping[str, float], cost: Cost) -> str:
    return (
        f"{space.task.metric_name} {scores[space.task.metric_name]:.4f} (validation), {cost.parameters:,} parameters, "
        f"{cost.latency_p50_ms:.3f} ms"
    )


def score(
    logits: Tensor, data: TensorDataModule, space: SearchSpace, classes: int, *, split: str = "val"
) -> dict[str, float]:
    """Primary metric, agreement with the teacher, divergence from it, and calibration on a split.

    Args:
        logits: Of every sample of the split in order, shape (N, C).
        data: The data, with the teacher's outputs.
        space: Knows the primary metric.
        classes: Number of classes C.
        split: The split.
    """
    labels = data.splits[split].labels
    metric = space.task.metric(classes).to(logits.device)
    # Expected calibration error over 15 bins: Guo et al. (2017), arXiv:1706.04599.
    calibration = MulticlassCalibrationError(num_classes=classes, n_bins=15, validate_args=False).to(logits.device)
    teacher_logits = data.teacher_outputs[split]["logits"]
    agreement = (logits.argmax(-1) == teacher_logits.argmax(-1)).float().mean()
    return {
        space.task.metric_name: float(metric(logits, labels)),
        "agreement": float(agreement),
        "teacher_kl": float(soft_target_loss(logits, teacher_logits, temperature=1)),  # nats a sample
        "ece": float(calibration(logits.softmax(-1), labels)),
    }


def _costs(
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

        with study.alone("costs", on_wait=wait):
            kept = None if study.costs_are_outdated else study.costs
            if kept is None:
                table = _found_or_measured(settings, space, teachers, data, terminal)
                kept = table.to_json()
                study.keep_costs(kept)
                measured = "1 architecture" if len(table.students) == 1 else f"{len(table.students)} architectures"
                terminal.say(f"costs     {measured} and the teacher on {table.conditions}")
    return CostTable.from_json(kept)


def _found_or_measured(
    settings: Settings, space: SearchSpace, teachers: Sequence[Teacher], data: TensorDataModule, terminal: Terminal
) -> CostTable:
    conditions = conditions_of(data.device)
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
        with _asking_the_middle(space, settings):
            limit_s = _limit_s(settings, space, data, _middle_student(space, data, settings))
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


def _measurable(space: SearchSpace, data: TensorDataModule, settings: Settings) -> dict[str, _Deployed]:
    """What is deployed of each architecture by its key, less those that memory does not suffice for beside the others.

    Of a space of too many to be measured beforehand, none.
    """
    found, example = {}, example_inputs(data, 1)
    for architecture in space.architectures(limit=MOST_ARCHITECTURES) or []:
        with if_memory_suffices():
            one = _deployed(space, architecture, data, settings)
            with _asking(f"the task's {named(architecture)}", settings, but_memory=True):
                with torch.compiler.set_stance("force_eager"), torch.no_grad():
                    call(one.network.eval(), example)
            found[key_of(architecture)] = one
    return found


def _too_large(space: SearchSpace, costs: CostTable) -> str:
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
    """A new table of teachers and students, measured from the rounds on that there are."""
    conditions, example = conditions_of(data.device), example_inputs(data, 1)
    inputs = partial(example_inputs, data)
    bar = terminal.bar("costs", ROUNDS, "rounds")
    try:
        with _asking("a network of the task", settings):
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
    each, precision = [costs.pop(name) for name in members], str(rounds)
    uncounted = uncounted_of(networks, costs, example)
    if not costs:  # more architectures than are measured beforehand: the middle one speaks for their layers
        precision = f"teacher: {rounds}; students: p50 of at least {FEWEST_ROUNDS} rounds"
        with _asking_the_middle(space, settings):
            middle = _deployed(space, middle_architecture(space), data, settings).network.eval()
            uncounted = macs_of(middle, example).uncounted
    return CostTable(
        replace(conditions, runtime=runtime, precision=precision),
        total_cost(each),
        costs,
        each if len(each) > 1 else (),
        uncounted,
    )


def _limit_s(settings: Settings, space: SearchSpace, data: TensorDataModule, network: nn.Module) -> float:
    """How long costs may be measured, by how long a study of students like this one would take."""
    epochs = settings.epochs or space.epochs
    training_s = expected_steps_s(
        network,
        partial(example_inputs, data),
        batch_size=data.batch_size,
        threads=1,
        steps=settings.trials * epochs * data.steps_per_epoch,
    )
    workers = workers_together(settings, space, data.device)
    return time_limit_s(training_s / min(workers, settings.trials))


def costs_of(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> dict[str, float]:
    """Costs of one architecture by metric name; measured now if the space was too large to measure before.

    Raises:
        TrialFailed: If the study needs its MACs, and they can't be counted.
    """
    key, table = key_of(architecture), prepared.costs
    if key not in table.students:
        # Another worker may have measured it, and the study keeps one table.
        with study.alone("costs"):
            assert study.costs is not None
            table.students |= CostTable.from_json(study.costs).students
            if key not in table.students:
                one = _deployed(space, architecture, prepared.data, study.settings)
                table.students |= measure_costs(
                    {key: one.network},
                    lambda size: example_inputs(prepared.data, size),
                    conditions=table.conditions,
                    trainable={key: one.trainable_parameters},
                    limit_s=_limit_s(study.settings, space, prepared.data, one.network) / study.settings.trials,
                    least=FEWEST_ROUNDS,
                )
                study.keep_costs(table.to_json())
    if _needs_macs(study) and table.students[key].macs is None:
        raise TrialFailed("macs are asked for, and can't be counted of this student: something has no formula")
    return table.metrics(architecture)


def check_as_costed(
    network: nn.Module, architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared
) -> None:
    """See that what is deployed of a trained student is what was costed, and fits where it will be loaded.

    Raises:
        TrialFailed: If its state has other names, shapes or types than that of what is deployed of a fresh student.
    """
    key = key_of(architecture)
    if key not in prepared.states:
        prepared.states[key] = state_shapes(_deployed(space, architecture, prepared.data, study.settings).network)
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

    What can be counted is counted before a clock is asked. Where costs are asked for, as budgets or as an objective of
    MACs, memory must suffice for the student, and its MACs must be known if they are asked for.
    """
    budgets = study.settings.budgets
    if not budgets and not _needs_macs(study):
        return None

    def say() -> None:
        study.patience.word(f"students that memory does not suffice for are not tried ({named(architecture)})")

    with if_memory_suffices(otherwise=say):
        known = prepared.costs.students.get(key_of(architecture))
        if known is None:
            one = _deployed(space, architecture, prepared.data, study.settings)
            example = example_inputs(prepared.data, 1)
            counted = count_costs(one.network.eval(), example, one.trainable_parameters)._asdict()
            if _needs_macs(study) and counted["macs"] is None:
                _say_uncounted(macs_of(one.network, example).uncounted, study, prepared.costs)
                return _UNCOUNTED
            if budget.over(counted, {name: most for name, most in budgets.items() if name in counted}):
                return _OVER
            if budgets.keys() <= counted.keys():
                return None
        elif _needs_macs(study) and known.macs is None:
            return _UNCOUNTED
        return _OVER if budget.over(costs_of(architecture, space, study, prepared), budgets) else None
    return _TOO_LARGE


def _needs_macs(study: Study) -> bool:
    """Whether a student whose MACs can't be counted is of no use to a study."""
    return "macs" in study.settings.budgets or "macs" in study.objectives


def _say_uncounted(names: Sequence[str], study: Study, costs: CostTable) -> None:
    """Say, once for a name, that students are passed over for it."""
    new = [name for name in names if name not in costs.uncounted]
    costs.uncounted += tuple(new)
    if new:
        study.patience.word(f"students whose macs can't be counted are not tried: no formula for {', '.join(new)}")


def example_inputs(data: TensorDataModule, size: int) -> Inputs:
    """Inputs of a batch of ``size``, for measuring: validation samples, repeated where there are too few."""
    split = data.splits["val"]
    return select(split.inputs, torch.arange(size, device=data.device) % len(split))


def fingerprint(data: TensorDataModule) -> str:
    """Content hash of every sample, and of every view of each."""
    hasher = TensorHasher()
    for split, part in data.splits.items():
        _add(hasher, split, part.inputs)
        hasher.add(f"{split} labels", part.labels)
    if data.views is not None:
        train = data.splits["train"]
        size = max(1, min(_HASHED_AT_ONCE, _HASHED_BYTES // max(1, _bytes_of(train.few(1).inputs))))
        for view in range(data.views.count):
            for ids in torch.arange(len(train)).split(size):
                inputs, targets = show(data.views, select(train.inputs, ids), ids, view)
                _add(hasher, f"view {view} of train", inputs)
                if targets is not None:
                    hasher.add(f"view {view} of train: targets", targets)
    return hasher.key()


def _bytes_of(inputs: Inputs) -> int:
    return sum(one.nbytes for one in (inputs.values() if isinstance(inputs, dict) else [inputs]))


def _add(hasher: TensorHasher, what: str, inputs: Inputs) -> None:
    """Hash inputs; whatever one of a dict is called, it is taken for no other tensor."""
    if isinstance(inputs, Tensor):
        hasher.add(f"{what} inputs", inputs)
    else:
        for name in sorted(inputs):
            hasher.add(f"{what} inputs {name!r}", inputs[name])


def _students_digest(space: SearchSpace, data: TensorDataModule, settings: Settings) -> str:
    """What the task makes of an architecture, told by the middle one: costs that are kept hold for no other network."""
    student = _middle_student(space, data, settings)
    with _asking("the task's deployed(student)", settings):
        return digest("student", shape_of(student), shape_of(deployed_network(space.task, student)))


def _student_starts(space: SearchSpace, data: TensorDataModule, settings: Settings) -> dict[str, Start]:
    """What students start from under one seed: all, where they are few and small, or the middle and the ends."""
    middle = middle_architecture(space)
    size = sum(value.numel() for value in _middle_student(space, data, settings).state_dict().values())
    architectures = space.architectures(limit=MOST_ARCHITECTURES)
    if architectures is None or size * len(architectures) > _HASHED_NUMBERS:
        outer = [(name, value) for name, distribution in space.student.items() for value in ends(distribution)]
        architectures = [middle] if size * len(outer) > _HASHED_NUMBERS else [middle | {n: v} for n, v in outer]
    starts = {}
    for architecture in architectures:
        seed_draws(derived_seed("start"), torch.device("cpu"))
        with if_memory_suffices():
            starts[named(architecture)] = start_of(_student(space, architecture, data, settings))
    return starts


def _student_misgivings(space: SearchSpace, data: TensorDataModule, settings: Settings) -> list[str]:
    """What is doubtful of the middle student before it has learnt anything."""
    network = _middle_student(space, data, settings)
    doubts = of_training(network)
    network.eval()
    with _asking_the_middle(space, settings), torch.no_grad():
        return [*doubts, *misgivings(call(network, example_inputs(data, _GLANCED_AT)).float())]


def _middle_student(space: SearchSpace, data: TensorDataModule, settings: Settings) -> nn.Module:
    """The student that stands for all where one is asked: memory must suffice for it."""
    with _asking_the_middle(space, settings):
        return _student(space, middle_architecture(space), data, settings)


def _asking_the_middle(space: SearchSpace, settings: Settings) -> AbstractContextManager[None]:
    return _asking(f"the task's {named(middle_architecture(space))}, in the middle of the space,", settings)


def _student(
    space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule, settings: Settings
) -> nn.Module:
    with _asking(f"the task's {named(architecture)}", settings, but_memory=True):
        return build_student(space, architecture, data).to(data.device)


class _Deployed(NamedTuple):
    """What is deployed of a student, and how many parameters its training changes."""

    network: nn.Module
    trainable_parameters: int


def _deployed(
    space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule, settings: Settings
) -> _Deployed:
    student = _student(space, architecture, data, settings)
    trainable = trainable_parameters(student)
    with _asking("the task's deployed(student)", settings, but_memory=True):
        return _Deployed(deployed_network(space.task, student).to(data.device), trainable)


@contextlib.contextmanager
def _asking(what: str, settings: Settings, *, but_memory: bool = False) -> Iterator[None]:
    """Say of any error in a task's own code whose it is and where, in one line.

    Args:
        what: What was asked.
        settings: Name the space file.
        but_memory: Whether an error for want of memory is passed on as it is, to a caller that can do without.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        if but_memory and is_out_of_memory(error):
            raise
        line = line_of(error, settings.space_file)
        place = f" in {settings.space_file}{line}" if line else ""
        raise HarnessError(
            f"{what} fails{place}: {type(error).__name__}: {one_line(error)}; look: "
            f"{doctor_command(settings, next(iter(settings.teachers), None))}"
        ) from error


def _say_if_no_control(study: Study, data: TensorDataModule, classes: int, terminal: Terminal) -> None:
    """Find out whether labels alone can be a fair control of a student, and say so where they can't."""
    study.keep_no_control(why_no_control(data, classes))
    if study.no_control:
        terminal.tell(f"controls  no control possible: {study.no_control}; {REMEDY}", indent=" " * 10)


def check_class_names(task: Task, labelled: int, classes: int) -> tuple[str, ...]:
    """Return the names of the classes; of a network of more logits than labels, those beyond have none.

    Raises:
        Unfit: If they are not as many as the classes.
    """
    names = class_names(task)
    if names and not labelled <= len(names) <= classes:
        raise Unfit(
            f"the task's class_names must name each of its {labelled} classes, but name {len(names)}",
            "give each a name, in their order, or leave class_names out",
        )
    return names


def _keep_class_names(study: Study, names: tuple[str, ...]) -> None:
    if names != study.class_names:
        study.keep_class_names(names)


def _finish_teacher(teacher: Teacher, scores: Mapping[str, float], cost: Cost) -> None:
    if teacher.spool.state != "COMPLETE":
        teacher.spool.tags({"kd.teacher": teacher.digest})
        teacher.spool.metrics(_teacher_metrics(scores, cost))
        teacher.spool.set_state("COMPLETE")
    teacher.spool.close()


def _teacher_metrics(scores: Mapping[str, float], cost: Cost) -> dict[str, float]:
    return {**scores, **cost.metrics(), "compression": 1.0, "speedup": 1.0}


def used_conditions(study: Study) -> Conditions:
    """What the study's latencies hold for."""
    assert study.costs is not None
    return CostTable.from_json(study.costs).conditions
