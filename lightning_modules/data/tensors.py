"""Serve datasets that fit in memory: batches are sliced from whole tensors, without fetching single samples."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.batch import Batch, Inputs, moved_to, select
from lightning_modules.data.augment import Augment
from lightning_modules.data.content import HASHED_AT_ONCE, samples_digest
from lightning_modules.data.folds import check_folds, fold_numbers
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.loading import Asked, EpochLoader, GivenOrder, Mixing, Sampling, batch_starts
from lightning_modules.data.stored_top_k import StoredTopK
from lightning_modules.data.views import Views, shown_each
from lightning_modules.initial import Origins

_ITEM_BYTES = 2**26  # of inputs that are gathered at once


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a dataset whose samples are identified by their fixed position.

    Attributes:
        inputs: Inputs of a network, first dimension N: a tensor, or a dict of tensors. Any mapping is converted to a
            dict; a tensor with a graph is detached, and an inference tensor is copied to a normal one.
        labels: What is right for each sample, first dimension N, as the output kind of the task wants it: class indices
            (N,), int64, for a classifier (``lightning_modules.outputs``).
        ids: Names of the samples, N different whole numbers or texts; outputs of a teacher that come from a file are
            joined by them. ``None`` where samples are known by their position alone.

    Raises:
        TypeError: If inputs or labels are not tensors, or ids are neither whole numbers nor texts.
        ValueError: If it is empty, inputs and labels differ in length, or inputs are float64 (networks are float32),
            bool outside of a dict, or not dense.
    """

    inputs: Inputs
    labels: Tensor
    ids: Sequence[int | str] | None = None

    is_read: ClassVar[bool] = False
    """Whether samples are read one by one, and need not fit in memory."""

    def __post_init__(self) -> None:
        inputs = self.inputs
        plain = {name: _plain(name, value) for name, value in inputs.items()} if isinstance(inputs, Mapping) else None
        object.__setattr__(self, "inputs", _plain("inputs", inputs) if plain is None else plain)
        object.__setattr__(self, "labels", _plain("labels", self.labels))
        if plain == {}:
            raise ValueError("inputs of a split must hold a tensor, but got an empty dict.")
        for name, value in self.tensors().items():
            if value.dtype == torch.float64 and value is not self.labels:
                raise ValueError(f"{name} of a split must be float32, as networks are, but got float64: call .float().")
            if value.dtype == torch.bool and name == "inputs":  # in a dict, it may be a mask
                raise ValueError(f"{name} of a split must be float32 or whole numbers, but are bool: call .float().")
            if not value.ndim:
                raise ValueError(f"{name} of a split must have a first dimension, of the samples, but is one number.")
        lengths = {len(value) for value in self.tensors().values()}
        if lengths != {len(self.labels)} or not len(self.labels):
            raise ValueError(
                "inputs and labels of a split must have the same length, at least 1, but got "
                f"{ {name: tuple(value.shape) for name, value in self.tensors().items()} }."
            )
        if self.ids is not None:
            object.__setattr__(self, "ids", sample_ids(self.ids))
            check_ids({"this split": self})

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name, labels included; ``x`` of a dict is ``inputs.x``, for ``x`` may be "labels"."""
        inputs = self.inputs
        named = {f"inputs.{k}": v for k, v in inputs.items()} if isinstance(inputs, dict) else {"inputs": inputs}
        return {**named, "labels": self.labels}

    @property
    def fingerprint(self) -> str:
        """Return a hash that stands for all samples and labels: the same for samples that are read one by one."""
        parts = (slice(first, first + HASHED_AT_ONCE) for first in range(0, len(self), HASHED_AT_ONCE))
        return samples_digest((select(self.inputs, part), self.labels[part]) for part in parts)

    def all_inputs(self) -> Iterator[Inputs]:
        """Yield the inputs of all samples in order, some at a time."""
        yield self.inputs

    def at(self, ids: Tensor) -> Split:
        """Return the samples at some positions, without their ids if a position occurs twice."""
        places = ids.tolist()
        names = None if self.ids is None or len(set(places)) < len(places) else [self.ids[place] for place in places]
        return Split(select(self.inputs, ids), self.labels[ids], names)

    def part(self, ids: Tensor) -> Split:
        """Return the samples at some positions as a split of their own, of which views can be shown."""
        return self.at(ids)

    def selection(self, ids: Tensor) -> Split:
        """Return the samples at some positions as a split to train on, or to score."""
        return self.at(ids)

    def joined_with(self, other: Split) -> Split:
        """Return these samples and those of another split after them."""
        if self.inputs_form != other.inputs_form:
            raise ValueError(
                f"samples of one form are needed to be cut into folds, but got {self.inputs_form} and "
                f"{other.inputs_form}."
            )
        both = zip(self.tensors().items(), other.tensors().values(), strict=True)
        joined = {name: torch.cat([own, its]) for (name, own), its in both}
        labels = joined.pop("labels")
        named = {name.removeprefix("inputs."): value for name, value in joined.items()}
        inputs = named if isinstance(self.inputs, dict) else joined["inputs"]
        names = None if self.ids is None or other.ids is None else [*self.ids, *other.ids]
        return Split(inputs, labels, names)

    @property
    def inputs_form(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of a sample's inputs and label by name."""
        return {name: tuple(value.shape[1:]) for name, value in self.tensors().items()}

    def few(self, count: int) -> Split:
        """Return the first ``count`` samples, or all if there are fewer."""
        return Split(select(self.inputs, slice(count)), self.labels[:count], self.ids and self.ids[:count])

    def to(self, device: torch.device) -> Split:
        """Return the same samples on ``device``."""
        return Split(moved_to(device, self.inputs), self.labels.to(device), self.ids)


def sample_ids(given: Any) -> tuple[int | str, ...]:
    """Return names of samples, from any sequence, as whole numbers and texts.

    Raises:
        TypeError: If one is neither.
    """
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise TypeError(f"ids of samples must be whole numbers or texts, but got {one!r} ({type(one).__name__}).")
    return tuple(values)


def check_ids(splits: Mapping[str, Split]) -> None:
    """Check that ids name one sample each, over all splits.

    Raises:
        ValueError: If there is not one for each sample, or two are the same.
    """
    seen: dict[int | str, str] = {}
    for name, part in splits.items():
        if part.ids is not None and len(part.ids) != len(part):
            raise ValueError(
                f"ids must name each of the {len(part)} samples of a split, but there are {len(part.ids)}."
            )
        for one in part.ids or ():
            if one in seen:
                where = name if seen[one] == name else f"{seen[one]} and {name}"
                raise ValueError(f"ids must name one sample each, but {one!r} names two of {where}.")
            seen[one] = name


def not_finite(values: Tensor) -> list[int]:
    """Return the positions along the first dimension of samples that contain NaN or infinity."""
    if not values.is_floating_point():
        return []
    finite: Tensor = torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else torch.isfinite(values)
    return (~finite).nonzero().flatten().tolist()


def _plain(name: str, value: Any) -> Tensor:
    """Return ``value`` detached and as a normal tensor, for it is trained on.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If it is not dense.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} of a split must be a tensor, but got {type(value).__name__}: {_how_to_convert(value)}."
        )
    if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
        kind, how = "sparse", ".to_dense()"
        if value.is_quantized:
            kind, how = "quantized", ".dequantize()"
        elif value.is_nested:
            kind, how = "nested", "torch.nested.to_padded_tensor(.., 0)"
        elif value.is_meta:
            kind, how = "on the meta device, which holds no values", "torch.empty_like(.., device='cpu'), and fill it"
        raise ValueError(f"{name} of a split must be a dense tensor, but got one that is {kind}: call {how}.")
    with torch.inference_mode(False):
        return value.clone() if value.is_inference() else value.detach()


def _how_to_convert(value: Any) -> str:
    """Describe how to convert a value to tensors."""
    if isinstance(value, tuple | list) and any(isinstance(one, Tensor) for one in value):
        fields = "x._asdict()" if hasattr(value, "_asdict") else "dict(name=..)"
        return f"a network is called with one tensor, or with keywords from a dict of tensors; {fields} makes a dict"
    if dataclasses.is_dataclass(value):
        return "a network is called with one tensor, or with keywords from a dict of tensors; vars(x) makes a dict"
    return "torch.from_numpy makes one of an array, torch.tensor of a list"


class TensorLoader(EpochLoader):
    """Iterates over a split in groups of batches, in an order that depends on (seed, epoch) alone.

    Lightning spends a third of a millisecond around each ``training_step``, as much as a small network's whole step.
    So an item is a *list* of batches, and the module takes one optimizer step for each (what Keras calls
    ``steps_per_execution``).

    Args:
        split: The samples.
        batches_per_item: Batches in one item, at most; fewer where they are large.
        how: As of ``EpochLoader``.
    """

    split: Split

    def __init__(self, split: Split, *, batches_per_item: int = 32, **how: Any) -> None:
        super().__init__(split, **how)
        one = sum(value.nbytes for value in split.tensors().values()) / len(split) * self.batch_size
        self.batches_per_item = max(1, min(batches_per_item, int(_ITEM_BYTES / max(one, 1))))

    def __len__(self) -> int:
        return -(-self.batches // self.batches_per_item)

    def __iter__(self) -> Iterator[list[Batch]]:
        # An item is gathered at once and its batches are slices of it: a quarter of the time of gathering each batch.
        order, starts, views = self._order().to(self.split.labels.device), self._starts(), self._views()
        for first in range(0, len(starts), self.batches_per_item):
            edges = [*starts[first : first + self.batches_per_item + 1], len(order)][: self.batches_per_item + 1]
            ids = order[edges[0] : edges[-1]]
            view = self.view if views is None else views[edges[0] : edges[-1]].to(ids.device)
            inputs, target, teacher = select(self.split.inputs, ids), self.split.labels[ids], self._stored(ids, view)
            if self.views is not None:
                inputs, given = shown_each(self.views, inputs, target, ids, view)
                target = target if given is None else given
            parts = (slice(one - edges[0], other - edges[0]) for one, other in itertools.pairwise(edges))
            yield [
                self._completed(
                    Batch(
                        ids=ids[part],
                        inputs=select(inputs, part),
                        target=target[part],
                        teacher={name: values[part] for name, values in teacher.items()},
                    ),
                    first + place,
                )
                for place, part in enumerate(parts)
            ]


class TensorDataModule(pl.LightningDataModule):
    """Data module of fixed train, validation and test splits in memory.

    Args:
        train: Samples to train on.
        val: Samples to choose students by.
        test: Samples that the search never sees.
        batch_size: Samples in a training batch.
        eval_batch_size: Samples in an evaluation batch.
        views: Views of the training samples for teacher and students, computed for whole batches; ``None`` for none.
        augment: The same by a transform of single samples, and mixing.
        folds: Number of folds, for cross-validation: the samples of ``train`` and ``val`` are cut into as many parts,
            each of which validates what the others train. A trial then trains a student for each, and its score is
            their mean. This module is that of the first fold. ``None`` keeps the two splits as they are.
        groups: The group of each sample, as a patient, those of ``train`` and then of ``val``: samples of one group are
            in one fold.

    Attributes:
        origins: What students may start from.
        live: The teacher, where it is asked about each training batch; ``None`` where its outputs are stored.
        soft_targets: Returns targets of a batch as floats, by the output kind of the task; samples are mixed with them.
        is_labelled: Returns which labels say something, by the output kind; the teacher alone labels the other training
            samples (``lightning_modules.data.unlabelled``). ``None`` where all do.

    Raises:
        TypeError: If a split is not a ``Split``, ``views`` no ``Views`` or ``augment`` no ``Augment``.
        ValueError: If a batch size is not a whole number of at least 1, both views and a transform are given, or
            samples can't be cut into folds.
    """

    def __init__(
        self,
        *,
        train: Split,
        val: Split,
        test: Split,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        views: Views | None = None,
        augment: Augment | None = None,
        folds: int | None = None,
        groups: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        for size in (batch_size, eval_batch_size):
            if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
                raise ValueError(
                    f"batch sizes must be whole numbers, at least 1, but got {batch_size=} and {eval_batch_size=}."
                )
        if views is not None and (not isinstance(views, Views) or isinstance(views, Augment)):
            where = "; it belongs in augment=" if isinstance(views, Augment) else ""
            raise TypeError(
                f"views must be an instance of lightning_modules.data.views.Views, but got {views!r}{where}."
            )
        if augment is not None and not isinstance(augment, Augment):
            where = "; it belongs in views=" if isinstance(augment, Views) else ""
            raise TypeError(f"augment must be Augment(..) of lightning_modules.data, but got {augment!r}{where}.")
        if views is not None and augment is not None:
            raise ValueError("samples must be augmented by views= or by augment=, but both are given.")
        self.splits = {"train": train, "val": val, "test": test}
        for name, part in self.splits.items():
            if not isinstance(part, Split):
                raise TypeError(
                    f"{name} must be a Split(inputs, labels) of lightning_modules.data, but got {type(part).__name__}."
                )
        check_ids(self.splits)
        self.batch_size = int(batch_size)  # NumPy's integers can't be written to JSON
        self.eval_batch_size = int(eval_batch_size)
        self.views: Views | None = augment if views is None else views
        self.class_names: tuple[str, ...] = ()  # of a kind of data that knows them, as folders
        self.notes: tuple[str, ...] = ()  # what a person should know of how the data were taken, a phrase each
        self.sampler: Sampling | None = None  # of a task that says which samples an epoch shows
        self.seed = 0
        self.device = torch.device("cpu")
        self.teacher_outputs: dict[str, dict[str, Any]] = {}
        self.teacher_layers: tuple[str, ...] = ()  # the teacher's layers whose outputs batches hold beside its logits
        self.origins = Origins()
        self.live: LiveTeacher | None = None
        self.soft_targets: Callable[[Tensor], Tensor] | None = None
        self.is_labelled: Callable[[Tensor], Tensor] | None = None
        self._other_folds: tuple[TensorDataModule, ...] = ()
        self._splits_of_others: list[dict[str, Split]] = []  # the splits of each further fold
        if folds is not None:
            self.splits, *self._splits_of_others = _cut(self.splits, check_folds(folds), groups)
        elif groups is not None:
            raise ValueError("groups are those of folds, but no folds are asked for: give folds=, or leave it out.")

    @property
    def folds(self) -> tuple[TensorDataModule, ...]:
        """Return the data of each fold, this module first; it alone where samples are not cut into folds."""
        if len(self._other_folds) < len(self._splits_of_others):
            others = [copy.copy(self) for _ in self._splits_of_others]
            for other, splits in zip(others, self._splits_of_others, strict=True):
                other.splits, other._splits_of_others = splits, []
            self._other_folds = tuple(others)
        return (self, *self._other_folds)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps in an epoch."""
        shown = len(self.splits["train"]) if self.sampler is None else self.sampler.size
        return len(batch_starts(shown, self.batch_size))

    def attach(self, teacher_outputs: dict[str, dict[str, Any]]) -> None:
        """Attach the teacher's stored outputs to the samples, by split and name, each of first dimension N.

        They are tensors, or a ``StoredTopK``, which stays on the disk. If the training samples have views, the outputs
        of ``train`` have shape (N, V, …).

        Raises:
            ValueError: If their number differs from that of the samples or the views.
        """
        for split, outputs in teacher_outputs.items():
            for name, values in outputs.items():
                if (
                    split == "train"
                    and self.views is not None
                    and (len(values.shape) < 3 or values.shape[1] != self.views.count)
                ):
                    raise ValueError(
                        f"the teacher's {name} must hold {self.views.count} views of each sample of {split}, shape "
                        f"(N, {self.views.count}, ...), but got {tuple(values.shape)}."
                    )
                if len(values) != len(self.splits[split]):
                    raise ValueError(
                        f"the teacher's {name} must hold one row for each of the {len(self.splits[split])} samples "
                        f"of {split}, but got {len(values)}."
                    )
        self.teacher_outputs = {
            split: {
                name: values if isinstance(values, StoredTopK) else values.to(self.device)
                for name, values in outputs.items()
            }
            for split, outputs in teacher_outputs.items()
        }

    def move_to(self, device: torch.device) -> None:
        """Move splits and outputs to ``device`` once, instead of batch by batch."""
        self.device = device
        self.splits = {name: split.to(device) for name, split in self.splits.items()}
        self.attach(self.teacher_outputs)

    def shown(self, ids: Tensor, view: int) -> tuple[Inputs, Tensor | None]:
        """Return one view of some training samples, and its targets, if it has any.

        Args:
            ids: Positions of the samples, shape (B,), int64.
            view: Index of the view.
        """
        assert self.views is not None
        train = self.splits["train"]
        return self.views.shown(select(train.inputs, ids), train.labels[ids], ids, view)

    def readers_kept(self) -> AbstractContextManager[None]:
        """Return a context of a training, in which processes that read samples ahead may be kept over its epochs."""
        return nullcontext()

    def train_dataloader(self) -> EpochLoader:
        """Return training batches, in an order by (``seed``, epoch), mixed, with the teacher's outputs."""
        mixing = None
        if self.views is not None and self.views.mix is not None:
            assert self.soft_targets is not None  # before anything trains
            mixing = Mixing(self.views.mix, self.soft_targets, self.views.seed)
        return self._loader(
            "train",
            batch_size=self.batch_size,
            shuffle_seed=self.seed,
            sampler=self.sampler,
            mixing=mixing,
            asked=None if self.live is None else Asked(self.live, self.teacher_layers),
        )

    def new_samples(self, path: Path) -> Split | None:
        """Return samples of the same form from elsewhere, to score networks on that are trained on these.

        A kind of data that is read from a folder or a file knows how: what is fitted to training samples stays. For
        others, this is ``None``, and ``Task.data(path)`` is asked.

        Args:
            path: The folder or the file.
        """
        return None

    def one_sample(self) -> Inputs:
        """Return the inputs of one validation sample, on the CPU, with which networks are called before they train."""
        return self.splits["val"].few(1).to(torch.device("cpu")).inputs

    def example_inputs(self, size: int) -> Inputs:
        """Return the inputs of a batch for measuring: validation samples, repeated where there are too few.

        Args:
            size: Number of samples.
        """
        split = self.splits["val"]
        return split.at(torch.arange(size, device=self.device) % len(split)).inputs

    def forms_of_a_sample(self) -> tuple[Inputs, Inputs] | None:
        """Return the inputs of one sample in two forms, as batches may show it: as short as it is, and padded.

        ``None`` where samples have one form.
        """
        return None

    def mask_of(self, split: str) -> Tensor | None:
        """Return where the samples of a split are valid, as ``Batch.mask`` of all of them; ``None`` if none is padded.

        Args:
            split: The split.
        """
        return None

    def network_fault(self, network: nn.Module) -> tuple[str, str] | None:
        """Return what a network must be for these samples and is not, and what to do; ``None`` if nothing is known.

        Args:
            network: A teacher or a student.
        """
        return None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch unchanged: it is sliced on the device already (see ``move_to``)."""
        return batch

    def ordered(self, split: str, places: Tensor | None = None, *, whole: bool = False) -> EpochLoader:
        """Return batches of ``split`` in the order of its samples; for ``train``, ``set_epoch`` selects the view.

        Args:
            split: Name of the split.
            places: Positions of the samples to be shown, in their order, on the CPU; ``None`` for all.
            whole: Whether samples of all batches must have one shape, where batches are cut to their longest.
        """
        sampler = None if places is None else GivenOrder(places)
        return self._loader(split, batch_size=self.eval_batch_size, sampler=sampler)

    def _loader(self, split: str, **how: Any) -> EpochLoader:
        """Return batches of a split, with the teacher's stored outputs, as far as there are some."""
        views = self.views if split == "train" else None
        return TensorLoader(self.splits[split], teacher=self._batch_outputs(split), views=views, **how)

    def _batch_outputs(self, split: str) -> dict[str, Any]:
        """Return the teacher's outputs that batches hold: gathering unused ones would take most of a step."""
        outputs = self.teacher_outputs.get(split, {})
        return {name: values for name, values in outputs.items() if name == "logits" or name in self.teacher_layers}


def _cut(splits: Mapping[str, Split], folds: int, groups: Sequence[Any] | None) -> list[dict[str, Split]]:
    """Return the splits of each fold."""
    samples = splits["train"].joined_with(splits["val"])
    numbers = torch.from_numpy(fold_numbers(samples.labels, folds, groups))
    return [
        {
            "train": samples.selection((numbers != fold).nonzero().flatten()),
            "val": samples.selection((numbers == fold).nonzero().flatten()),
            "test": splits["test"],
        }
        for fold in range(folds)
    ]
