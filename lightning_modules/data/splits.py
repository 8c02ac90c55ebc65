"""Split samples into training, validation and test splits, stratified by class, always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from lightning_modules.batch import UNLABELLED, Inputs, select
from lightning_modules.data.tensors import Split, sample_ids

NAMES = ("train", "val", "test")

_MIN_SAMPLES = 5  # of a class: one for each part of 20 %
_SPLIT_SEED = 0  # splits are part of the dataset: no flag moves them


class Splits(TypedDict):
    """The three parts of a dataset."""

    train: Split
    val: Split
    test: Split


def stratified_splits(inputs: Inputs, labels: Tensor, ids: Sequence[int | str] | None = None) -> Splits:
    """Return stratified splits ``train``, ``val`` and ``test`` of 60, 20 and 20 %, always with the same samples.

    Args:
        inputs: A tensor, or a dict of tensors, of first dimension N.
        labels: Class indices, shape (N,); samples with ``UNLABELLED`` are in ``train``, beside the 60 %.
        ids: Names of the samples, for teachers whose outputs come from a file; ``None`` for none.

    Raises:
        TypeError: If the labels are not a tensor.
        ValueError: If a class has fewer than 5 samples, of which 20 % are one.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels of stratified_splits must be a tensor, but got {type(labels).__name__}: torch.from_numpy makes "
            "one of an array, torch.tensor of a list."
        )
    is_none = labels == UNLABELLED if labels.ndim == 1 else torch.zeros(len(labels), dtype=torch.bool)
    known = (~is_none).nonzero().flatten()
    given = labels[known]
    try:
        rest, test = stratified(given, share=0.2)
        train, val = stratified(given[rest], share=0.25)
    except ValueError as error:
        if labels.ndim != 1 or labels.is_floating_point():
            raise
        classes, counts = given.unique(return_counts=True)
        raise ValueError(
            f"stratified_splits must have at least {_MIN_SAMPLES} samples of each class, but class "
            f"{int(classes[counts.argmin()])} has {int(counts.min())}."
        ) from error

    names = None if ids is None else sample_ids(ids)
    if names is not None and len(names) != len(labels):
        raise ValueError(f"ids must name each of the {len(labels)} samples, but there are {len(names)}.")

    def part(chosen: Tensor) -> Split:
        named = None if names is None else [names[place] for place in chosen.tolist()]
        return Split(select(inputs, chosen), labels[chosen], named)

    to_train = torch.cat([known[rest[train]], is_none.nonzero().flatten()]).sort().values
    return Splits(train=part(to_train), val=part(known[rest[val]]), test=part(known[test]))


def stratified(labels: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    """Return positions of two disjoint parts with the same class proportions, always the same ones.

    Args:
        labels: Class indices, shape (N,).
        share: Fraction of the samples in the second part, in (0, 1).

    Returns:
        Positions of the first and of the second part, sorted, int64.
    """
    first, second = train_test_split(
        np.arange(len(labels)), test_size=share, stratify=labels.numpy(), random_state=_SPLIT_SEED
    )
    return torch.from_numpy(np.sort(first)), torch.from_numpy(np.sort(second))


def split_by_content(keys: Sequence[str], classes: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the split of each sample, ``train``, ``val`` or ``test``, of 60, 20 and 20 % of each class.

    Samples of one key are in one split, which depends on the keys alone and not on the order of the samples. Those of a
    class are put in the order of their keys, and the first 60 % train.

    Args:
        keys: Hashes of what the samples hold, or of the groups that they belong to; N texts.
        classes: Class of each sample, shape (N,); a key with several classes counts for the lowest.
    """
    middle, total = _ranks(keys, classes)
    found: NDArray[np.str_] = np.array(NAMES)[(5 * middle >= 6 * total).astype(int) + (5 * middle >= 8 * total)]
    return found


def folds_by_content(keys: Sequence[str], classes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Return the fold that validates each sample, from 0, shape (N,), of about equal size in each class.

    Samples of one key are in one fold, which depends on the keys alone, as of ``split_by_content``.

    Args:
        keys: As of ``split_by_content``.
        classes: As of ``split_by_content``.
        folds: Number of folds.
    """
    middle, total = _ranks(keys, classes)
    found: NDArray[np.int64] = middle * folds // (2 * total)
    return found


def _ranks(keys: Sequence[str], classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return twice the rank of the middle sample of each sample's key in its class, and the size of that class.

    Whole numbers are compared alike on every machine.
    """
    known, places, counts = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
    class_of = np.full(len(known), np.iinfo(np.int64).max)
    np.minimum.at(class_of, places, classes)
    middle, total = np.empty(len(known), dtype=np.int64), np.empty(len(known), dtype=np.int64)
    for one in np.unique(class_of):
        here = np.flatnonzero(class_of == one)
        middle[here], total[here] = 2 * counts[here].cumsum() - counts[here], counts[here].sum()
    return middle[places], total[places]
