"""Teacher, teacher outputs, cost table: each made once, kept, and checked when it is loaded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from harness import budget
from harness.content import digest, exclusive, tensors_digest
from harness.cost import (
    COSTS,
    ROUNDS,
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
)
from harness.errors import HarnessError, one_line
from harness.fit import device_of
from harness.mirror import Mirror
from harness.settings import Settings
from harness.space import SearchSpace
from harness.study import Study
from harness.teacher import Teacher, TeacherListener, make_teacher
from harness.teacher_outputs import make_teacher_outputs
from harness.terminal import Bar, Terminal
from lightning_modules.batch import Inputs, select
from lightning_modules.tensors import Split, TensorDataModule

_TEACHER = "teacher"
_FINGERPRINTED = 256  # samples, by whose views a kind of augmentation is known
MOST_ARCHITECTURES = 256  # a space of more is measured architecture by architecture, when a trial asks for it


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What every trial of a study stands on.

    Attributes:
        data: The data, on the device, with the teacher's outputs attached.
        classes: Number of classes C.
        dataset: Fingerprint of the data.
        teacher_digest: Content hash of the teacher's weights.
        costs: Costs of the teacher and of every architecture that the space can reach.
    """

    data: TensorDataModule
    classes: int
    dataset: str
    teacher_digest: str
    costs: CostTable


def prepare(settings: Settings, space: SearchSpace, study: Study, terminal: Terminal, mirror: Mirror) -> Prepared:
    """Make, or find, all that a trial needs, and tie the study to it.

    Raises:
        HarnessError: If the data, the teacher's checkpoint or the device can't be had, or the study stands on others.
    """
    device = device_of(settings.accelerator)
    with _asking("the task's data"):
        data = space.task.data(settings.data_dir)
    with _asking("the task's views"):
        dataset = fingerprint(data)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    views = "" if data.views is None else f", {data.views.count} views of each to train on"
    terminal.say(f"data      {sizes} samples{views}, {dataset}")
    data.move_to(device)
    study.bind(dataset=dataset, students=_students_digest(space))
    classes = 1 + max(int(part.labels.max()) for part in data.splits.values())
    teacher = _teacher(settings, space, data, dataset, classes, terminal, mirror)
    study.bind(teacher=teacher.digest)
    data.attach(make_teacher_outputs(teacher, data, dataset, cache_dir=settings.cache_dir, say=terminal.say))
    scores = score(data.teacher_outputs["val"]["logits"], data, space, classes)
    costs = _costs(settings, space, study, teacher.network, data, terminal)
    terminal.say(
        f"teacher   {space.task.metric_name} {scores[space.task.metric_name]:.4f} (validation), "
        f"{costs.teacher.parameters:,} parameters, {costs.teacher.latency_p50_ms:.3f} ms, {teacher.digest}"
    )
    _finish_teacher(teacher, study, costs.teacher, scores)
    mirror.notify(teacher.spool.folder)  # a kept teacher may be new to this tracking store
    budget.within(space, settings.budgets, costs)  # says so now, if no student is
    return Prepared(data=data, classes=classes, dataset=dataset, teacher_digest=teacher.digest, costs=costs)


def score(logits: Tensor, data: TensorDataModule, space: SearchSpace, classes: int) -> dict[str, float]:
    """Primary metric, agreement with the teacher, and calibration on the validation split.

    Args:
        logits: Of every validation sample in order, shape (N, C).
        data: The data, with the teacher's outputs.
        space: Knows the primary metric.
        classes: Number of classes C.
    """
    labels = data.splits["val"].labels
    metric = space.task.metric(classes).to(logits.device)
    # Expected calibration error over 15 bins: Guo et al. (2017), arXiv:1706.04599.
    calibration = MulticlassCalibrationError(num_classes=classes, n_bins=15, validate_args=False).to(logits.device)
    agreement = (logits.argmax(-1) == data.teacher_outputs["val"]["logits"].argmax(-1)).float().mean()
    return {
        space.task.metric_name: float(metric(logits, labels)),
        "agreement": float(agreement),
        "ece": float(calibration(logits.softmax(-1), labels)),
    }


def _teacher(
    settings: Settings,
    space: SearchSpace,
    data: TensorDataModule,
    dataset: str,
    classes: int,
    terminal: Terminal,
    mirror: Mirror,
) -> Teacher:
    started = time.perf_counter()
    bar: list[Bar] = []

    def on_start(epochs: int, done: int) -> None:
        if done:
            terminal.say(f"teacher   its training was cut; it goes on after epoch {done} of {epochs}")
        bar.append(terminal.bar("teacher", epochs, "epochs"))
        bar[0].advance(done)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        name = f"val/{space.task.metric_name}"
        bar[0].advance(note=f"epoch {epoch + 1}, {name} {metrics[name]:.4f}")

    listener = TeacherListener(
        on_start=on_start,
        on_epoch=on_epoch,
        on_progress=lambda done: bar[0].within(done),
        say=terminal.say,
        on_append=mirror.notify,
    )
    try:
        with _asking("the task's teacher"):
            teacher = make_teacher(space.task, data, dataset, classes=classes, settings=settings, listener=listener)
    finally:
        for shown in bar:
            shown.close()
    if bar:
        terminal.say(f"teacher   trained in {time.perf_counter() - started:.1f} s")
    return teacher


def _costs(
    settings: Settings,
    space: SearchSpace,
    study: Study,
    teacher: nn.Module,
    data: TensorDataModule,
    terminal: Terminal,
) -> CostTable:
    """The study's own cost table if it has one, else one from the cache, else a new one."""
    if study.costs is not None:
        return CostTable.from_json(study.costs)
    conditions = conditions_of(data.device)
    architectures = space.architectures(limit=MOST_ARCHITECTURES) or []
    networks = {key_of(architecture): _student(space, architecture, data.device) for architecture in architectures}
    networks = {_TEACHER: teacher, **networks}
    file = cost_cache_file(settings.cache_dir, networks, example_inputs(data, 1), conditions)
    with exclusive(file.with_suffix(".lock")):
        table = None
        if file.exists():
            try:
                table = CostTable.from_json(file.read_text())
            except ValueError as error:
                terminal.say(f"the kept cost table {file} is damaged ({error}); measuring again")
        if table is None:
            bar = terminal.bar("costs", ROUNDS, "rounds")
            try:
                with _asking("a network of the task"):
                    costs = measure_costs(
                        networks,
                        lambda size: example_inputs(data, size),
                        conditions=conditions,
                        on_round=bar.advance,
                    )
            finally:
                bar.close()
            table = CostTable(conditions, costs.pop(_TEACHER), costs)
            save_cost_table(table, file)
    study.keep_costs(table.to_json())
    terminal.say(f"costs     {len(table.students)} architectures and the teacher on {conditions}")
    return table


def costs_of(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> dict[str, float]:
    """Costs of one architecture by metric name; measured now if the space was too large to measure before."""
    key, table = key_of(architecture), prepared.costs
    if key not in table.students:
        # Another worker may have measured it, and the study keeps one table.
        with exclusive(study.folder / "costs.lock"):
            assert study.costs is not None
            table.students |= CostTable.from_json(study.costs).students
            if key not in table.students:
                network = _student(space, architecture, prepared.data.device)
                table.students |= measure_costs(
                    {key: network}, lambda size: example_inputs(prepared.data, size), conditions=table.conditions
                )
                study.keep_costs(table.to_json())
    return table.metrics(architecture)


def is_affordable(architecture: Mapping[str, Any], space: SearchSpace, study: Study, prepared: Prepared) -> bool:
    """Whether an architecture is within the study's budgets. What can be counted is counted before a clock is asked.

    One that can't be built for want of memory is not.
    """
    budgets = study.settings.budgets
    if not budgets:
        return True
    known = prepared.costs.students.get(key_of(architecture))
    if known is None:
        try:
            network = _student(space, architecture, prepared.data.device).eval()
            counted = count_costs(network, example_inputs(prepared.data, 1))._asdict()
        except (MemoryError, torch.OutOfMemoryError):
            return False
        if budget.over(counted, {name: most for name, most in budgets.items() if name in counted}):
            return False
        if budgets.keys() <= counted.keys():
            return True
    return not budget.over(costs_of(architecture, space, study, prepared), budgets)


def example_inputs(data: TensorDataModule, size: int) -> Inputs:
    """Inputs of a batch of ``size``, for measuring: validation samples, repeated where there are too few."""
    split = data.splits["val"]
    return select(split.inputs, torch.arange(size, device=data.device) % len(split))


def fingerprint(data: TensorDataModule) -> str:
    """Content hash of every sample, and of what views make of some of them."""
    named = {f"{split}.{name}": value for split, part in data.splits.items() for name, value in part.tensors().items()}
    if data.views is not None:
        train = data.splits["train"]
        ids = torch.linspace(0, len(train) - 1, _FINGERPRINTED).long()
        for view in range(data.views.count):
            seen = Split(data.views.of(select(train.inputs, ids), ids, view), train.labels[ids])
            named |= {f"view {view}.{name}": value for name, value in seen.tensors().items()}
    return tensors_digest(named)


def _students_digest(space: SearchSpace) -> str:
    """What the task makes of an architecture, told by the middle one: costs that are kept hold for no other network."""
    middle = {name: value for name, value in space.middle().items() if name in space.student}
    return digest("student", shape_of(_student(space, middle, torch.device("cpu"))))


def _student(space: SearchSpace, architecture: Mapping[str, Any], device: torch.device) -> nn.Module:
    with _asking(f"the task's student({', '.join(f'{k}={v!r}' for k, v in architecture.items())})"):
        return space.task.student(**architecture).to(device)


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Say of any error in a task's own code whose it is, in one line."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(f"{what} fails: {type(error).__name__}: {one_line(error)}") from error


def _finish_teacher(teacher: Teacher, study: Study, cost: Cost, scores: dict[str, float]) -> None:
    metrics = {**scores, **{name: getattr(cost, name) for name in COSTS}, "compression": 1.0, "speedup": 1.0}
    study.keep_teacher(metrics)
    if teacher.spool.state != "COMPLETE":
        teacher.spool.tags({"kd.teacher": teacher.digest})
        teacher.spool.metrics(metrics)
        teacher.spool.set_state("COMPLETE")
    teacher.spool.close()


def used_conditions(study: Study) -> Conditions:
    """What the study's latencies hold for."""
    assert study.costs is not None
    return CostTable.from_json(study.costs).conditions
