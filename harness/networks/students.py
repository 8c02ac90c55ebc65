"""Students of every kind, built and asked once before anything trains: what can't be trained is refused in one line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from harness.core.content import digest, tensors_digest
from harness.core.errors import Unfit, advising, if_memory_suffices, one_line
from harness.networks.logits import check_covers_labels, check_logits, check_true_classes
from harness.networks.sharing import check_apart
from harness.networks.state import check_state
from harness.space import SearchSpace, listed
from harness.training.fit import seed_draws
from harness.training.tensor_file import cpu_state
from lightning_modules.batch import Inputs, call, evaluating, initialize_lazy_layers, select
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import probed

PROBED_SAMPLES = 16
"""Samples that a student is asked about."""
_MOST_VALUES, _MOST_CORNERS, _MOST_ARCHITECTURES = 32, 32, 64
_MOST_NUMBERS = 50_000_000  # of their weights together: of large students, fewer architectures are looked at
_LEAST_NUMBERS = 250_000  # that are counted for each: so many are drawn in the time that a small one takes besides

_NEEDED = 3  # the first corners: the middle, all lowest, all highest

UserCodeContext = Callable[[str], AbstractContextManager[None]]
"""Says of an error in a task's own code what was asked when it came up."""


@dataclass(eq=False)
class Students:
    """What students of every kind have in common, as far as they were looked at.

    Attributes:
        classes: Number of their logits C.
        shapes: By layer, what it gives for a sample, and the first student that gives so.
        missing: By layer, what is wrong with it in the first student that can't give it.
        without_effect: Names of architecture parameters with which nothing of a student changes.
        unseeded: The first student that begins with the same weights whatever the seed, if one does.
        empty_layer: The first student that has a layer without units, if one has: what is wrong, and what to do.
        looked_at: How many architectures were.
    """

    classes: int = 0
    shapes: dict[str, dict[tuple[int, ...], str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    without_effect: list[str] = field(default_factory=list)
    unseeded: str | None = None
    empty_layer: Unfit | None = None
    looked_at: int = 0


def build_student(space: SearchSpace, architecture: Mapping[str, Any], data: TensorDataModule) -> nn.Module:
    """Build a student on the CPU. Lazy layers learn their sizes from a sample of the data.

    Args:
        space: Its task builds it.
        architecture: A value for each parameter of the space's ``student`` group.
        data: The data, on any device.

    Raises:
        Unfit: If what the task gives is no network.
    """
    network = space.build_student(architecture)
    if not isinstance(network, nn.Module):
        raise Unfit(
            f"{named(architecture)} must give a torch.nn.Module, but gives {type(network).__name__}",
            "return the network from student()",
        )
    places = {value.device.type for value in (*network.parameters(), *network.buffers())}
    if not places <= {"cpu", "meta"}:  # a frozen backbone that students share is where the last one was run
        network.to(torch.device("cpu"))
    return initialize_lazy_layers(network, data.splits["val"].few(1).to(torch.device("cpu")).inputs)


def middle_architecture(space: SearchSpace) -> dict[str, Any]:
    """Return the architecture in the middle of the space's ranges."""
    return {name: value for name, value in space.middle().items() if name in space.student}


def named(architecture: Mapping[str, Any]) -> str:
    """Return a student's name, as in ``student(width=8)``."""
    return f"student({', '.join(f'{name}={value!r}' for name, value in architecture.items())})"


def find_empty_layer(network: nn.Module, architecture: Mapping[str, Any]) -> Unfit | None:
    """Find a layer of no units, whose weight is a matrix without an element; ``None`` if there is none.

    A single empty vector is none: modules keep one to know the device they are on.

    Args:
        network: A student.
        architecture: Its own: whole numbers below 1 in it are what to mend.
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
    """Return advice on the ranges that an architecture has whole numbers below 1 from; empty if there are none."""
    low = [name for name, value in architecture.items() if type(value) is int and value < 1]
    if not low:
        return ""
    return f"begin the range{'s' if len(low) > 1 else ''} of {' and '.join(low)} at 1"


def check_students(
    space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext, *, layers: Sequence[str] = ()
) -> Students:
    """Check that students of every kind can be trained, before a teacher is made and a trial is begun.

    The middle of the space is looked at, its corners, every value of each parameter, and all others of a space of few;
    of students of many weights, so many of these, in this order, as have few enough together; the first three always.

    Args:
        space: Its task builds them.
        data: The data, on the device that students are run on.
        user_code: Says of an error in the task's own code what was asked.
        layers: Names of the layers that its methods compare.

    Returns:
        What they have in common.

    Raises:
        Unfit: If a student is none, can't be trained or kept, shares what is trained with another one, answers with
            anything but logits, or has other classes than the others.
    """
    found, look = Students(), _Look(space, data, user_code, layers)
    corners, axes = list(_corners(space)), _axes(space)
    every = space.architectures(limit=_MOST_ARCHITECTURES) or []
    for place, architecture in enumerate([*corners, *itertools.chain(*axes.values()), *every]):
        look(architecture, found, twice=place < len(corners), is_needed=place < _NEEDED)
    found.looked_at = len(look.characters)
    look.numbers = 0  # as many again may show what a parameter changes beside others than the middle
    found.without_effect = [
        name for name, line in axes.items() if len(line) > 1 and look.has_no_effect(name, line, found)
    ]
    return found


class LayerCheck:
    """Tells whether students have some layers: of a large space, not every architecture was looked at beforehand.

    Args:
        space: Its task builds the students.
        data: The data, on the device that students are run on.
        layers: Names of the layers.
    """

    def __init__(self, space: SearchSpace, data: TensorDataModule, layers: Sequence[str]) -> None:
        self._space, self._data, self._layers = space, data, layers
        self._found: dict[str, bool] = {}

    def __call__(self, architecture: Mapping[str, Any]) -> bool:
        """Return whether the student of an architecture has all of them.

        One that memory does not suffice for is taken to have them: its trial fails by its own doing.
        """
        if not self._layers:
            return True
        name = named(architecture)
        if name not in self._found:
            seen = Students()
            with if_memory_suffices():
                network = build_student(self._space, architecture, self._data).to(self._data.device)
                _note_layers(name, network, probe_samples(self._data), self._layers, seen)
            self._found[name] = not seen.missing
        return self._found[name]


class _Look:
    """Looks at one architecture after the other, each once, until they have too many weights together.

    Args:
        space: Its task builds them.
        data: The data, on the device that students are run on.
        user_code: Says of an error in the task's own code what was asked.
        layers: Names of the layers that its methods compare.

    Attributes:
        characters: A digest of what tells each from others, by its name.
        numbers: How many weights those had together that were looked at.
    """

    def __init__(
        self, space: SearchSpace, data: TensorDataModule, user_code: UserCodeContext, layers: Sequence[str]
    ) -> None:
        self._space, self._data, self._user_code, self._layers = space, data, user_code, layers
        self._split = probe_samples(data)
        self._seen: dict[str, dict[str, Any]] = {}
        self.characters: dict[str, str] = {}
        self.numbers = 0

    def __call__(
        self, architecture: Mapping[str, Any], found: Students, *, twice: bool = False, is_needed: bool = False
    ) -> str | None:
        """Return what tells an architecture from others, and note what it gives; ``None`` where there are too many."""
        name = named(architecture)
        if name not in self.characters and (is_needed or self.numbers < _MOST_NUMBERS):
            with self._user_code(name), advising(range_advice(architecture)):
                self.characters[name] = f"out of memory: {name}"  # if so, its trials fail by their own doing
                with if_memory_suffices():
                    network, self.characters[name] = _look_at(
                        name, architecture, self._space, self._data, self._split, self._layers, found, twice=twice
                    )
                    self._seen[name] = dict(architecture)
                    self.numbers += max(_LEAST_NUMBERS, sum(value.numel() for value in network.parameters()))
        return self.characters.get(name)

    def has_no_effect(self, parameter: str, line: Sequence[Mapping[str, Any]], found: Students) -> bool:
        """Whether nothing changes with a parameter, beside the middle of the others and beside whatever was seen."""
        ends = [line[place][parameter] for place in (0, -1)]
        if not _are_alike(self.characters.get(named(one)) for one in line):
            return False
        pairs = [[one | {parameter: value} for value in ends] for one in self._seen.values()]
        return all(_are_alike(self(one, found) for one in pair) for pair in pairs)


def _are_alike(characters: Iterable[str | None]) -> bool:
    """Return whether architectures are the same; one that was not looked at is like no other."""
    found = set(characters)
    return len(found) == 1 and None not in found


def _look_at(
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
    """Look at one architecture, note what it gives, and return it with a digest of what tells it from others."""
    seed_draws(0, torch.device("cpu"))
    network = build_student(space, architecture, data)
    check_trainable(name, network)
    hollow = find_empty_layer(network, architecture)
    found.empty_layer = found.empty_layer or hollow
    if twice and _check_anew(name, network, architecture, space, data, split) and hollow is None:
        found.unseeded = found.unseeded or name
    network.to(data.device)
    with torch.no_grad(), evaluating(network):
        logits = call(network, split.inputs)
    classes = check_logits(name, logits, split.labels)
    check_covers_labels(name, classes, data)
    check_true_classes(name, logits, split.labels)
    found.classes = found.classes or classes
    if classes != found.classes:
        raise Unfit(
            f"students must have the same classes, but {name} has {classes} logits and others {found.classes}",
            "give teacher and students one logit for each class",
        )
    _note_layers(name, network, split, layers, found)
    _check_smallest_batch(name, network, data)
    return network, _character(network, split.inputs, logits)


def _check_anew(
    name: str,
    network: nn.Module,
    architecture: Mapping[str, Any],
    space: SearchSpace,
    data: TensorDataModule,
    split: Split,
) -> bool:
    """See that a student that was just built is another one under another seed; return whether their weights are alike.

    They are alike by right where all are loaded from a file.
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


def check_trainable(name: str, network: nn.Module) -> None:
    """Check that a network has parameters to be trained, and a state of tensors that can be kept.

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


def _note_layers(name: str, network: nn.Module, split: Split, layers: Sequence[str], found: Students) -> None:
    """Note the shapes of what the layers give for a sample, or that there are none."""
    for layer in layers:
        try:
            _, features = probed(network, split.inputs, [layer])
        except ValueError as error:
            found.missing.setdefault(layer, f"{name}: {one_line(error).rstrip('.')}")
        else:
            found.shapes.setdefault(layer, {}).setdefault(tuple(features[layer].shape[1:]), name)


def _check_smallest_batch(name: str, network: nn.Module, data: TensorDataModule) -> None:
    """Check that a student can be trained on a batch of one, where there are such."""
    if min(data.batch_size, len(data.splits["train"])) > 1:
        return
    try:
        with torch.no_grad():
            call(network, data.splits["train"].few(1).inputs)
    except ValueError as error:
        raise Unfit(
            f"{name} can't be trained on batches of one sample: {one_line(error)}",
            "choose a batch_size above 1: BatchNorm can't be trained on one",
        ) from error


def _character(network: nn.Module, inputs: Inputs, logits: Tensor) -> str:
    """Return what tells an architecture from others under the same seed: layers, weights, answers in either mode."""
    before = repr(network), tensors_digest(cpu_state(network))
    seed_draws(0, inputs.device if isinstance(inputs, Tensor) else next(iter(inputs.values())).device)
    with torch.no_grad():
        answers = call(network, inputs)
    return digest(*before, tensors_digest({"eval": logits, "train": answers}))


def probe_samples(data: TensorDataModule) -> Split:
    """Return some validation samples, repeated where there are too few."""
    split = data.splits["val"]
    ids = torch.arange(PROBED_SAMPLES, device=split.labels.device) % len(split)
    return Split(select(split.inputs, ids), split.labels[ids])


def _axes(space: SearchSpace) -> dict[str, list[dict[str, Any]]]:
    """By parameter, architectures that have its values, others being in the middle of their ranges."""
    middle = middle_architecture(space)
    return {
        name: [middle | {name: value} for value in _values(distribution, middle[name])]
        for name, distribution in space.student.items()
    }


def _values(distribution: BaseDistribution, middle: Any) -> list[Any]:
    """Return every value of a distribution, or of many the ends and the middle."""
    values = listed(distribution, _MOST_VALUES)
    return values if values is not None else sorted({*_ends(distribution), middle})


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return [distribution.choices[0], distribution.choices[-1]]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def _corners(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield the middle, all lowest, all highest, and the other corners as far as they are few."""
    yield middle_architecture(space)
    ends = [_ends(distribution) for distribution in space.student.values()]
    for side in (0, -1):
        yield dict(zip(space.student, (pair[side] for pair in ends), strict=True))
    for corner in itertools.islice(itertools.product(*ends), _MOST_CORNERS):
        yield dict(zip(space.student, corner, strict=True))
