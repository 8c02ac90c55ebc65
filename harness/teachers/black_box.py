"""Teachers of which only the answers can be had, not the gradients: black-box distillation.

A teacher may be an estimator of scikit-learn, a model of another framework, a function that asks a server, or nothing
but a file of what it said. The engine asks it once for every sample and stores the answers, as it does with a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from harness.core.content import digest
from harness.core.errors import HarnessError, Unfit
from harness.core.plugins import modules_of
from harness.networks.digest import answers_of, rounded_answers, sampled_answers, samples_of
from harness.studies.start import Start
from harness.teachers.answers import OF_CLASSES, Logits
from lightning_modules.batch import Inputs, first_of
from lightning_modules.data.tensors import TensorDataModule

Prepare = Callable[[Any], Any]
"""Maps the inputs of a batch, a tensor (B, …) or a dict of them, to what a teacher takes; the keyword ``inputs``."""


class Keep(Protocol):
    """Loads what a teacher keeps in a file of the cache, or has one worker make it for all."""

    def __call__(self, key: str, name: str, load: Callable[[Path], None], make: Callable[[Path], None]) -> None:
        """Load a file, or make and then load it.

        Args:
            key: Content key of what is kept.
            name: Name of the file.
            load: Reads the file; raises ``ValueError`` or ``OSError`` if it is damaged.
            make: Writes the file.
        """


@dataclass(frozen=True)
class Ground:
    """What a teacher stands on when it is prepared.

    Attributes:
        data: The samples that it will be asked about.
        dataset: Fingerprint of the data.
        classes: Number of classes C of the students.
        names: Names of the classes in their order; empty where the task names none.
        seed: Decides every draw.
        note: Called with a line of text about the teacher.
        keep: Keeps what is learnt; ``None`` where nothing is to be written.
        numbers_of: What the C numbers of a sample are of: classes, labels, or values.
    """

    data: TensorDataModule
    dataset: str
    classes: int
    names: tuple[str, ...] = ()
    seed: int = 0
    note: Callable[[str], None] = lambda text: None
    keep: Keep | None = None
    numbers_of: str = OF_CLASSES

    def named(self, place: int) -> str:
        """Return the name of a class in messages."""
        return repr(self.names[place]) if place < len(self.names) else str(place)


@dataclass(frozen=True)
class Query:
    """Samples that a teacher is asked about.

    Attributes:
        split: Name of their split.
        rows: Their positions in the split, shape (B,), int64.
        view: Which view of them is shown; 0 where there are none.
        inputs: What is shown.
    """

    split: str
    rows: Tensor
    view: int
    inputs: Inputs


def _as_they_are(inputs: Inputs) -> Inputs:
    return inputs


class BlackBoxTeacher(ABC):
    """A teacher that is asked, and never trained by gradients.

    Args:
        inputs: Maps the inputs of a batch to what the teacher takes; ``None`` takes ``default``.
        default: What the kind takes by default.

    Attributes:
        who: What it is, in messages.
        is_costed: Whether what it answers is computed here, so that its latency can be measured.
        answers_live: Whether it may be asked in any worker about inputs of no known sample, and so about each batch.
        runtime: What computes its answers, where it is costed: its latency is compared with that of eager PyTorch.
        warnings: Sanity warnings that its preparation found, a phrase each.
        floored: How many of the probabilities that it gave so far were floored (``harness.teachers.answers.FLOOR``).
    """

    who: ClassVar[str]
    is_costed: ClassVar[bool] = True
    answers_live: ClassVar[bool] = False
    runtime: ClassVar[str] = "another library"

    def __init__(self, inputs: Prepare | None = None, default: Prepare = _as_they_are) -> None:
        self._inputs = default if inputs is None else inputs
        self._has_inputs = inputs is not None
        self.warnings: list[str] = []
        self.floored = 0
        self._classes, self._names, self._numbers_of = 0, tuple[str, ...](), OF_CLASSES

    def prepare(self, ground: Ground) -> None:
        """Fit, load or join what the teacher needs to answer; called before it is asked.

        Raises:
            HarnessError: If it can't teach on this ground.
        """
        self.warnings = []
        self._classes, self._names, self._numbers_of = ground.classes, ground.names, ground.numbers_of
        self._prepare(ground)

    def take(self, inputs: Prepare) -> None:
        """Let a function of the task map the inputs of a batch to what the teacher takes.

        Raises:
            HarnessError: If the teacher was given another one.
        """
        if self._has_inputs:
            raise HarnessError(
                f"the task must say once what its teacher takes, but has teacher_inputs() and a {type(self).__name__} "
                "with inputs=; leave one of them out."
            )
        self._inputs = inputs

    @property
    def learns(self) -> bool:
        """Return whether its preparation fits it to the training samples."""
        return False

    @property
    @abstractmethod
    def content(self) -> str:
        """Return a digest of what the teacher is or says; known once it is prepared."""

    @abstractmethod
    def _prepare(self, ground: Ground) -> None:
        """Prepare the teacher; see ``prepare``."""

    @abstractmethod
    def _ask(self, query: Query) -> Tensor:
        """Return logits, shape (B, C), float32."""

    def _call(self, inputs: Inputs) -> Tensor:
        """Return logits of inputs whose sample is not known, for teachers that are costed or answer live."""
        raise NotImplementedError

    def ask(self, query: Query) -> Tensor:
        """Return the teacher's logits of some samples, shape (B, C), on the CPU.

        Raises:
            Unfit: If it does not answer with a row of C numbers for each of them.
        """
        return self._checked(self._ask(query), len(query.rows))

    def costs(self) -> dict[str, float]:
        """Return what is known of its size beside what is measured, by metric name."""
        return {}

    def network(self) -> nn.Module | None:
        """Return the teacher as a module without tensors, which can be timed; ``None`` if it is not costed."""
        return AskedNetwork(self) if self.is_costed else None

    def live_network(self) -> nn.Module:
        """Return the teacher as a module that is asked about each batch, for teachers that answer live."""
        assert self.answers_live
        return AskedNetwork(self).eval()

    def start(self, data: TensorDataModule) -> Start:
        """Return what identifies the teacher, which is prepared: its content, and where it is asked here its answers.

        Args:
            data: Samples that it is asked about, for teachers that are costed.
        """
        kind = type(self).__name__
        network = self.network()
        if network is None:
            name = digest(kind, self.content)
            return Start(name, (), name)
        answers = answers_of(network, samples_of(data))
        name = digest(kind, self.content, rounded_answers(answers))
        return Start(digest(kind, self.content), sampled_answers(answers), name)

    def _count_floored(self, logits: Logits) -> Tensor:
        """Return logits, and count how many of the probabilities behind them were floored."""
        self.floored += logits.floored
        return logits.values

    def _checked(self, logits: Tensor, samples: int) -> Tensor:
        if logits.shape != (samples, self._classes):
            raise Unfit(
                f"{self.who} must give {samples} samples one row of {self._classes} numbers each, as the students have "
                f"{self._numbers_of}, but gives shape {tuple(logits.shape)}",
                f"give teacher and students the same {self._numbers_of} in the same order",
            )
        return logits


class AskedNetwork(nn.Module):
    """A black-box teacher as a module without tensors, for what calls networks.

    Args:
        teacher: The teacher; it can be called only if it is costed or answers live.
    """

    def __init__(self, teacher: BlackBoxTeacher) -> None:
        super().__init__()
        self._asked = [teacher]

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        inputs: Inputs = named if named else args[0]
        first = first_of(inputs)
        teacher = self._asked[0]
        return teacher._checked(teacher._call(inputs), len(first)).to(first.device)

    def extra_repr(self) -> str:
        teacher = self._asked[0]
        return f"{type(teacher).__name__}, {teacher.content}"


def teacher_in(path: Path, names: Sequence[str]) -> BlackBoxTeacher | None:
    """Return the black-box teacher that a file or folder holds; ``None`` if it is of no such kind.

    Args:
        path: The value of ``--teacher``.
        names: Names of the classes in their order; empty where the task names none.

    Raises:
        HarnessError: If it is of a kind, but can't be used.
    """
    kinds = [module for module in _kinds_in_files() if module.recognizes(path)]
    teacher: BlackBoxTeacher | None = kinds[0].load(path, tuple(names)) if kinds else None
    return teacher


def is_black_box(path: Path) -> bool:
    """Return whether ``--teacher`` names a teacher that is no PyTorch network."""
    return any(module.recognizes(path) for module in _kinds_in_files())


def _kinds_in_files() -> list[ModuleType]:
    return [module for module in modules_of("harness.teachers.kinds") if hasattr(module, "recognizes")]


def numpy_inputs(inputs: Inputs) -> Any:
    """Return the inputs of a batch as NumPy arrays: one, or a dict of them."""
    if isinstance(inputs, dict):
        return {name: value.detach().cpu().numpy() for name, value in inputs.items()}
    return inputs.detach().cpu().numpy()


def flat_inputs(inputs: Inputs) -> np.ndarray:
    """Return the inputs of a batch as one array (B, features); those of a dict beside one another in its order."""
    arrays = numpy_inputs(inputs)
    parts = list(arrays.values()) if isinstance(arrays, dict) else [arrays]
    rows = [part.reshape(len(part), -1) for part in parts]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


def missing_extra(library: str, extra: str, what: str) -> HarnessError:
    """Return the error that a library is missing which an extra of this package installs."""
    return HarnessError(
        f"{what} needs {library}, which is not installed; pip install {library} (kd-harness[{extra}] has all it needs)."
    )
