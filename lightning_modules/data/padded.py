"""Serve sequences that are padded in memory: training batches of alike length, each batch cut to its longest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.batch import Batch, Inputs
from lightning_modules.data.loading import EpochLoader, GivenOrder, epoch_order
from lightning_modules.data.tensors import Split, TensorDataModule, TensorLoader

MASK = "attention_mask"
_POOL = 50  # batches whose samples are sorted by length together: the order stays random beyond


class PaddedLoader(TensorLoader):
    """Iterates over sequences in batches that are cut to their longest.

    A shuffled epoch has batches of alike length: samples are sorted by length within pools of 50 batches, and the
    batches are shuffled, so that the order is still a function of (seed, epoch). A sampler's order stays as it is.
    Cut is whatever has L positions in its second dimension.

    Args:
        split: Sequences whose inputs are a dict with ``attention_mask`` (N, L).
        labels_by_token: Whether labels have shape (N, L) too.
        whole: Whether no batch is cut.
        how: As of ``TensorLoader``.
    """

    def __init__(self, split: Split, *, labels_by_token: bool, whole: bool, **how: Any) -> None:
        super().__init__(split, **how)
        self._by_token, self._whole = labels_by_token, whole
        mask = mask_of(split)
        self._size, self._lengths = mask.shape[1], mask.sum(1).cpu()

    def _order(self) -> Tensor:
        order = super()._order()
        if self.shuffle_seed is None or self._sampler is not None:  # a sampler's order is what its user wants
            return order
        return by_length(order, self._lengths, self._starts(), self.shuffle_seed, self.epoch)

    def _completed(self, batch: Batch, number: int) -> Batch:
        size = self._size
        longest = size if self._whole else int(self._lengths[batch.ids.cpu()].max())
        assert isinstance(batch.inputs, dict)
        cut = replace(
            batch,
            inputs={name: _cut(value, size, longest) for name, value in batch.inputs.items()},
            target=_cut(batch.target, size, longest) if self._by_token else batch.target,
            teacher={name: _cut_answers(value, size, longest) for name, value in batch.teacher.items()},
        )
        assert isinstance(cut.inputs, dict)
        return super()._completed(replace(cut, mask=cut.inputs[MASK].bool()), number)


class PaddedDataModule(TensorDataModule):
    """Data module of sequences in memory, padded on the right: tokens of texts, above all.

    Args:
        train: Samples to train on, whose inputs are a dict with ``attention_mask`` (N, L): 1 at valid positions.
        val: Samples to choose students by.
        test: Samples that the search never sees.
        labels_by_token: Whether labels have shape (N, L): a class for each token, and none at padding.
        measured_length: Length at which costs are measured; ``None`` takes the median of the validation samples.
        how: ``batch_size``, ``eval_batch_size``, ``folds`` and ``groups``, as of ``TensorDataModule``.

    Raises:
        ValueError: If inputs are of another form, or ``measured_length`` is longer than they are.
    """

    def __init__(
        self,
        *,
        train: Split,
        val: Split,
        test: Split,
        labels_by_token: bool = False,
        measured_length: int | None = None,
        **how: Any,
    ) -> None:
        for name, split in (("train", train), ("val", val), ("test", test)):
            mask = split.inputs.get(MASK) if isinstance(split.inputs, dict) else None
            if mask is None or mask.ndim != 2 or not bool((mask.bool().sum(1) > 0).all()):
                raise ValueError(
                    f"inputs of {name} must be a dict with {MASK} (N, L), 1 at valid positions and one at least in "
                    "each sample: build it from the lengths of the samples."
                )
        super().__init__(train=train, val=val, test=test, **how)
        size = mask_of(val).shape[1]
        if measured_length is not None and not 1 <= measured_length <= size:
            raise ValueError(
                f"measured_length must be 1 to {size}, the length of padded samples, but got {measured_length}."
            )
        self._by_token, self._is_stated = labels_by_token, measured_length is not None
        self.measured_length = measured_length or int(mask_of(val).sum(1).median())
        what = "as stated" if self._is_stated else "the median of validation samples"
        self.notes = (f"costs are measured at a length of {self.measured_length:,}, {what}",)

    def ordered(self, split: str, places: Tensor | None = None, *, whole: bool = False) -> EpochLoader:
        """Return batches of ``split`` in the order of its samples, cut to their longest.

        Args:
            split: The split.
            places: Positions of the samples to be shown, in their order, on the CPU; ``None`` for all.
            whole: Whether none is cut, as outputs for each position need it that are put side by side.
        """
        sampler = None if places is None else GivenOrder(places)
        return self._loader(split, batch_size=self.eval_batch_size, sampler=sampler, whole=whole or self._by_token)

    def example_inputs(self, size: int) -> Inputs:
        """Return the inputs of a batch of ``size`` for measuring: validation samples of about the measured length.

        All have that length: of a longer sample the rest is left out, a shorter one begins anew.
        """
        split, length = self.splits["val"], self.measured_length
        lengths = mask_of(split).sum(1)
        nearest = (lengths - length).abs().argsort(stable=True)
        ids = nearest[torch.arange(size, device=nearest.device) % len(nearest)]
        places = torch.arange(length, device=ids.device) % lengths[ids, None]
        assert isinstance(split.inputs, dict)
        whole = split.inputs[MASK].shape
        return {
            name: value[ids[:, None], places] if value.shape[:2] == whole else value[ids]
            for name, value in split.inputs.items()
        }

    def forms_of_a_sample(self) -> tuple[Inputs, Inputs] | None:
        """Return the inputs of the shortest validation sample, without padding and with all of it."""
        split = self.splits["val"]
        mask = mask_of(split)
        lengths, size = mask.sum(1), mask.shape[1]
        shortest, inputs = int(lengths.min()), split.at(lengths.argmin()[None]).inputs
        if shortest == size:
            return None
        assert isinstance(inputs, dict)
        return {name: _cut(value, size, shortest) for name, value in inputs.items()}, inputs

    def mask_of(self, split: str) -> Tensor:
        """Return where the samples of a split are valid, shape (N, L), bool."""
        return mask_of(self.splits[split])

    def _loader(self, split: str, *, whole: bool = False, **how: Any) -> EpochLoader:
        return PaddedLoader(
            self.splits[split],
            teacher=self._batch_outputs(split),
            labels_by_token=self._by_token,
            whole=whole,
            **how,
        )


def mask_of(split: Split) -> Tensor:
    """Return where padded samples are valid, shape (N, L), bool."""
    assert isinstance(split.inputs, dict)
    return split.inputs[MASK].bool()


def by_length(order: Tensor, lengths: Tensor, starts: Sequence[int], seed: int, epoch: int) -> Tensor:
    """Return the order of an epoch's samples in batches of alike length.

    Args:
        order: Positions of the samples in a random order, shape (N,), int64.
        lengths: Length of the sample at each position.
        starts: Where each batch begins.
        seed: Seed of the order of the batches, with the epoch.
        epoch: The epoch.
    """
    pool = _POOL * (starts[1] if len(starts) > 1 else len(order))
    ranked = torch.cat([part[lengths[part].argsort(stable=True)] for part in order.split(pool)])
    *batches, last = (ranked[one:other] for one, other in itertools.pairwise([*starts, len(order)]))
    # The last batch is of another size, and stays where it is.
    return torch.cat([*(batches[place] for place in epoch_order(len(batches), seed, epoch).tolist()), last])


def _cut(values: Tensor, size: int, longest: int) -> Tensor:
    """Return values of the first positions, of those that have all positions in their second dimension."""
    if longest == size or values.ndim < 2 or values.shape[1] != size:
        return values
    return values[:, :longest].contiguous()


def _cut_answers(values: Any, size: int, longest: int) -> Any:
    """Return a teacher's answers, a tensor or ``TopKLogits``, for the first positions, where it answers for each."""
    if longest == size or len(values.shape) < 3 or values.shape[1] != size:
        return values
    cut = values[:, :longest]
    return cut.contiguous() if isinstance(cut, Tensor) else cut
