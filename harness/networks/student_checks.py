"""Checks of students of every kind before anything trains: what can't be trained is refused in one line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from harness.core.content import digest, tensors_digest
from harness.core.errors import Unfit, advising, if_memory_suffices, one_line
from harness.networks.architectures import axes_of, corners
from harness.networks.logits import check_covers_labels, check_logits, check_true_classes
from harness.networks.sharing import check_apart
from harness.networks.state import check_state
from harness.networks.students import UserCodeContext, build_student, named, probe_samples
from harness.space import SearchSpace
from harness.space_training import batch_sizes
from harness.training.fit import seed_draws
from harness.training.tensor_file import cpu_state
from lightning_modules.batch import Inputs, call, evaluating, first_of
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import Names, probe_features

_MOST_ARCHITECTURES = 64
_MOST_NUMBERS = 50_000_000  # of their weights together: of large students, fewer architectures are checked
_LEAST_NUMBERS = 250_000  # that are counted for each: so many are drawn in the time that a small one takes besides
_NEEDED = 3  # the first corners of each family: the middle, all lowest, all highest


@dataclass(eq=False)
class Students:
    """What students of every kind have in common, as far as they were checked.

    Attributes:
        classes: Number of their logits C.
        shapes: By layer, the shapes that it outputs for a sample, and the first student that has each.
        missing: By layer, what is wrong with it in the first student that lacks it.
        without_effect: Architecture parameters that change nothing of a student.
        unseeded: The first student that has the same start weights whatever the seed, if one has.
        empty_layer: The first empty layer of a student, if there is one: what is wrong, and what to do.
        checked: How many architectures were checked.
    """

    classes: int = 0
    shapes: dict[str, dict[tuple[int, ...], str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    without_effect: list[str] = field(default_factory=list)
    unseeded: str | None = None
    empty_layer: Unfit | None = None
    checked: int = 0


def check_students(
    space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext, *, layers: Sequence[str] = ()
) -> Students:
    """Check that students of every kind can be trained, before a teacher is made and a trial is begun.

    Checked are, in this order, the middle of the space, its corners, every value of each parameter, and all other
    architectures of a small space: as many as have no more than 50 million weights together, but at least three of
    each family.

    Args:
        space: Its task builds them.
        data: The data, on the device that students are run on.
        user_code: Attributes errors in the task's own code.
        layers: Names of the layers that its methods compare.

    Returns:
        What they have in common.

    Raises:
        Unfit: If a student is no network, can't be trained or saved, shares trained tensors with another one, does not
            return logits, or has other classes than the others.
    """
    found, checker = Students(), _StudentChecker(space, data, user_code, layers)
    first, axes = list(corners(space)), axes_of(space)
    every, needed = space.architectures(limit=_MOST_ARCHITECTURES) or [], _NEEDED * len(space.student_groups)
    for place, architecture in enumerate([*first, *itertools.chain(*axes.values()), *every]):
        checker(architecture, found, twice=place < len(first), is_needed=place < needed)
    found.checked = len(checker.fingerprints)
    checker.numbers = 0  # as many again may show what a parameter changes beside others than the middle
    found.without_effect = [
        name for name, line in axes.items() if len(line) > 1 and checker.has_no_effect(name, line, found)
    ]
    return found


class LayerCheck:
    """Tells whether students have some layers: of a large space, not every architecture was checked beforehand.

    Args:
        space: Its task builds the students.
        data: The data, on the device that students are run on.
        layers: Names of the layers.
    """

    def __init__(self, space: SearchSpace, data: TensorDataModule, layers: Sequence[str]) -> None:
        self._space, self._data, self._layers = space, data, layers
        self._found: dict[str, bool] = {}

    def __call__(self, architecture: Mapping[str, Any]) -> bool:
        """Return whether the student of an architecture has all layers.

        A student that memory does not suffice for counts as having them: its trial fails with that reason.
        """
        if not self._layers:
            return True
        name = named(architecture)
        if name not in self._found:
            seen = Students()
            with if_memory_suffices():
                network = build_student(self._space, architecture, self._data).to(self._data.device)
                names = self._space.layer_names(architecture)
                _note_layers(name, network, probe_samples(self._data), self._layers, names, seen)
            self._found[name] = not seen.missing
        return self._found[name]


class _StudentChecker:
    """Checks one architecture after the other, each once, until they have too many weights together.

    Args:
        space: Its task builds them.
        data: The data, on the device that students are run on.
        user_code: Attributes errors in the task's own code.
        layers: Names of the layers that its methods compare.

    Attributes:
        fingerprints: A digest of what tells each from others, by its name.
        numbers: Weights of all checked students together.
    """

    def __init__(
        self, space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext, layers: Sequence[str]
    ) -> None:
        self._space, self._data, self._user_code, self._layers = space, data, user_code, layers
        self._split = probe_samples(data)
        self._seen: dict[str, dict[str, Any]] = {}
        self.fingerprints: dict[str, str] = {}
        self.numbers = 0

    def __call__(
        self, architecture: Mapping[str, Any], found: Students, *, twice: bool = False, is_needed: bool = False
    ) -> str | None:
        """Return an architecture's fingerprint, and note what it has in ``found``; ``None`` if there were too many."""
        name = named(architecture)
        if name not in self.fingerprints and (is_needed or self.numbers < _MOST_NUMBERS):
            with self._user_code(name), advising(range_advice(architecture)):
                self.fingerprints[name] = f"out of memory: {name}"  # if so, its trials fail with that reason
                with if_memory_suffices():
                    network, self.fingerprints[name] = _check_architecture(
                        name, architecture, self._space, self._data, self._split, self._layers, found, twice=twice
                    )
                    self._seen[name] = dict(architecture)
                    self.numbers += max(_LEAST_NUMBERS, sum(value.numel() for value in network.parameters()))
        return self.fingerprints.get(name)

    def has_no_effect(self, parameter: str, line: Sequence[Mapping[str, Any]], found: Students) -> bool:
        """Return whether a parameter changes nothing, neither in the middle of the space nor at what was checked."""
        ends = [line[place][parameter] for place in (0, -1)]
        if not _are_alike(self.fingerprints.get(named(one)) for one in line):
            return False
        pairs = [[one | {parameter: value} for value in ends] for one in self._seen.values()]
        return all(_are_alike(self(one, found) for one in pair) for pair in pairs)


def _are_alike(fingerprints: Iterable[str | None]) -> bool:
    """Return whether architectures have the same fingerprint; ``None``, of one not checked, equals no other."""
    found = set(fingerprints)
    return len(found) == 1 and None not in found


def _check_architecture(
    name: str,
    architecture: Mapping[str, Any],
    space: SearchSpace,
    data: TensorDataModule,
    split: Split,
    layers: Sequence[str],
    found: Students,
    *,
    twice: bool,
) -> tuple[nn.Module, str]:
    """Check one architecture, note what it has in ``found``, and return the student with its fingerprint."""
    seed_draws(0, torch.device("cpu"))
    network = build_student(space, architecture, data)
    check_trainable(name, network)
    hollow = find_empty_layer(network, architecture)
    found.empty_layer = found.empty_layer or hollow
    if twice and _check_seeding(name, network, architecture, space, data, split) and hollow is None:
        found.unseeded = found.unseeded or name
    network.to(data.device)
    with torch.no_grad(), evaluating(network):
        logits = call(network, split.inputs)
    output = space.task.output
    classes = check_logits(name, logits, split.labels, output)
    check_covers_labels(name, classes, data, output)
    check_true_classes(name, logits, split.labels, output)
    found.classes = found.classes or classes
    if classes != found.classes:
        raise Unfit(
            f"students must have the same classes, but {name} has {classes} logits and others {found.classes}",
            "give teacher and students one logit for each class",
        )
    _note_layers(name, network, split, layers, space.layer_names(architecture), found)
    _check_smallest_batch(name, network, space, data)
    return network, _fingerprint(network, split.inputs, logits)


def _check_seeding(
    name: str,
    network: nn.Module,
    architecture: Mapping[str, Any],
    space: SearchSpace,
    data: TensorDataModule,
    split: Split,
) -> bool:
    """Build a student again under another seed, and return whether it has the same weights.

    Weights that are loaded from a file may be the same; a seed that ``student()`` sets itself is refused.
    """
    state = torch.get_rng_state()
    seed_draws(1, torch.device("cpu"))
    second = build_student(space, architecture, data)
    if torch.equal(state, torch.get_rng_state()):
        raise Unfit(
            f"{name} must draw from the generator that a trial seeds, but sets a seed of its own: all begin alike",
            "call no torch.manual_seed or seed_everything in student(): a trial seeds what it draws",
        )
    check_apart(name, network, second, split.inputs)
    return all(map(torch.equal, network.state_dict().values(), second.state_dict().values()))


def find_empty_layer(network: nn.Module, architecture: Mapping[str, Any]) -> Unfit | None:
    """Find an empty layer, whose weight is a matrix without an element; ``None`` if there is none.

    An empty vector does not count: modules keep one to know the device they are on.

    Args:
        network: A student.
        architecture: Its architecture: whole numbers below 1 in it are the likely cause.
    """
    weights = [(key, list(value.shape)) for key, value in network.named_parameters() if not is_lazy(value)]
    hollow = [f"its {key} is {shape}" for key, shape in weights if len(shape) > 1 and 0 in shape]
    if not hollow:
        return None
    return Unfit(
        f"{named(architecture)} has an empty layer: {hollow[0]}",
        range_advice(architecture) or "give each layer a unit at least, or leave it out of such a student",
    )


def range_advice(architecture: Mapping[str, Any]) -> str:
    """Return the advice to begin ranges at 1 whose value in an architecture is below 1; empty if there are none."""
    low = [name for name, value in architecture.items() if type(value) is int and value < 1]
    if not low:
        return ""
    return f"begin the range{'s' if len(low) > 1 else ''} of {' and '.join(low)} at 1"


def check_trainable(name: str, network: nn.Module) -> None:
    """Check that a network has parameters to train, and a state of tensors that can be saved.

    Raises:
        Unfit: If it has not.
    """
    check_state(name, network)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        frozen = sum(1 for _ in network.parameters())
        raise Unfit(
            f"{name} must have a parameter that can be trained, but "
            + (f"all its {frozen} are frozen" if frozen else "has none"),
            "let student() return a network with parameters, and freeze only some of them",
        )


def _note_layers(
    name: str, network: nn.Module, split: Split, layers: Sequence[str], names: Names, found: Students
) -> None:
    """Note the shapes that the layers output for a sample, or that a layer is missing."""
    for layer in layers:
        try:
            _, features = probe_features(network, split.inputs, [layer], names)
        except ValueError as error:
            found.missing.setdefault(layer, f"{name}: {one_line(error).rstrip('.')}")
        else:
            found.shapes.setdefault(layer, {}).setdefault(tuple(features[layer].shape[1:]), name)


def _check_smallest_batch(name: str, network: nn.Module, space: SearchSpace, data: TensorDataModule) -> None:
    """Check that a student can be trained on a batch of one, where there are such."""
    smallest = batch_sizes(space.task.training, space.varied_training, data.batch_size)[0]
    if min(smallest, len(data.splits["train"])) > 1:
        return
    try:
        with torch.no_grad():
            call(network, data.splits["train"].few(1).inputs)
    except ValueError as error:
        raise Unfit(
            f"{name} can't be trained on batches of one sample: {one_line(error)}",
            "choose a batch_size above 1: BatchNorm can't be trained on one",
        ) from error


def _fingerprint(network: nn.Module, inputs: Inputs, logits: Tensor) -> str:
    """Return a digest of a student under a fixed seed: its layers, weights, and answers in eval and train mode."""
    before = repr(network), tensors_digest(cpu_state(network))
    seed_draws(0, first_of(inputs).device)
    with torch.no_grad():
        answers = call(network, inputs)
    return digest(*before, tensors_digest({"eval": logits, "train": answers}))
