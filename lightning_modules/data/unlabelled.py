"""Find the training samples that have no label, which the teacher alone teaches, and leave them out of other trainings.

What is trained on labels alone, a teacher or a control, is shown the samples that have one. A control takes as many
optimizer steps as the student that it is compared with, for the same schedule and the same computation: it is shown the
labelled samples again, in a new order and a new view each time. In as many epochs of fewer steps it would be trained
less, and the teacher would seem to help where more training does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from lightning_modules.data.loading import Sampling, epoch_order
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.outputs import Output

_Kind = TypeVar("_Kind", bound=Output)


def check_labels(splits: Mapping[str, Split], output: Output, *, folds: int = 1) -> None:
    """Check that the labels of splits are of an output's kind, and that samples without one are for training alone.

    Args:
        splits: The splits by name.
        output: The output kind.
        folds: Number of folds that training and validation samples are cut into; each is scored, so all have labels.

    Raises:
        ValueError: If they are not; the message names the split.
    """
    for name, split in splits.items():
        labels = split.labels
        known = output.is_labelled(labels)
        if count := int((~known).sum()):
            if folds > 1 and not output.may_be_blank:
                raise ValueError(
                    f"samples that are cut into folds must have a label each, for each fold is scored, but {count:,} "
                    f"of the {len(split):,} of {name} have none ({output.unlabelled_text}): leave folds= or these out."
                )
            if name == "train" and count < len(split):
                labels = labels[known]
            elif not output.may_be_blank:
                needed = "some samples" if name == "train" else "each sample"
                raise ValueError(
                    f"{name} must have a label for {needed}, but {count:,} of its {len(split):,} have none "
                    f"({output.unlabelled_text}): {_NEEDED[name]}."
                )
        if fault := output.labels_fault(labels):
            raise ValueError(f"labels of {name} must be {output.labels_text}, but got {fault}.")


_NEEDED = {
    "train": "controls are trained on labels alone",
    "val": "students are chosen by it, so only training samples may be left to the teacher",
    "test": "students are confirmed on it, so only training samples may be left to the teacher",
}


def labelled_positions(data: TensorDataModule, split: str = "train") -> Tensor | None:
    """Return the positions of a split's samples that have a label, shape (L,), on the CPU; ``None`` if all have.

    Those of other splits than ``train`` all do.
    """
    if split != "train" or data.is_labelled is None:
        return None
    known = data.is_labelled(data.splits["train"].labels)
    return None if bool(known.all()) else known.nonzero().flatten().cpu()


def unlabelled_count(data: TensorDataModule) -> int:
    """Return how many training samples have no label."""
    known = labelled_positions(data)
    return 0 if known is None else len(data.splits["train"]) - len(known)


def given_labels(data: TensorDataModule, split: str = "train") -> Tensor:
    """Return the labels of a split's samples that have one, first dimension L."""
    labels, known = data.splits[split].labels, labelled_positions(data, split)
    return labels if known is None else labels[known.to(labels.device)]


def spread_over_both(data: TensorDataModule, most: int, split: str = "train") -> Tensor:
    """Return the positions of some samples of a split, evenly spaced; half of them labelled, where not all are.

    Args:
        data: The data.
        most: Number of samples, or all where there are fewer.
        split: The split.
    """
    known, size = labelled_positions(data, split), len(data.splits[split])
    if known is None or most >= size:
        return torch.linspace(0, size - 1, min(most, size)).long()
    others = torch.ones(size, dtype=torch.bool).index_fill(0, known, False).nonzero().flatten()
    halves = (known, (most + 1) // 2), (others, most // 2)
    chosen = [one[torch.linspace(0, len(one) - 1, min(count, len(one))).long()] for one, count in halves]
    return torch.cat(chosen).sort().values


def output_for_training(output: _Kind, data: TensorDataModule, size: int) -> _Kind:
    """Return an output kind with what it takes from the labels that there are, as weights of the classes.

    Args:
        output: The output kind.
        data: The data.
        size: Number of classes C, labels or values.
    """
    found = output.for_training(given_labels(data), size)
    if unlabelled_count(data):
        found = copy.copy(found)
        found.has_unlabelled = True
    return found


class LabelledOrder:
    """Gives each epoch an order of the labelled samples alone.

    An epoch of more samples than are labelled shows them again: all once, in an order of (seed, epoch), then all in
    another one, and so on; a task's own sampler's choice of them is repeated as it is.

    Args:
        positions: Positions of the labelled samples, shape (L,).
        size: Samples in an epoch.
        sampler: The task's own; ``None`` shows all of them.
    """

    def __init__(self, positions: Tensor, size: int, sampler: Sampling | None = None) -> None:
        self.size = size
        self._positions, self._sampler = positions, sampler
        self._passes = -(-size // len(positions))

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return positions of samples, shape (``size``,), int64, on the CPU.

        Raises:
            ValueError: If the task's sampler shows no labelled sample in the epoch.
        """
        if self._sampler is not None:
            shown = self._sampler.order(seed, epoch)
            shown = shown[torch.isin(shown, self._positions)]
            if not len(shown):
                raise ValueError(
                    "sampler(split, seed, epoch) must show labelled samples in each epoch, for a control is trained on "
                    f"them alone, but shows none in epoch {epoch}."
                )
            return shown.repeat(-(-self.size // len(shown)))[: self.size]
        passes = range(epoch * self._passes, (epoch + 1) * self._passes)
        return torch.cat([self._positions[epoch_order(len(self._positions), seed, one)] for one in passes])[: self.size]

    def showings(self, epoch: int) -> Tensor:
        """Return how often each sample of an epoch was shown before it, in all epochs, shape (``size``,), int64."""
        return epoch * self._passes + torch.arange(self.size) // len(self._positions)


def labelled_alone(data: TensorDataModule, *, in_full: bool) -> TensorDataModule:
    """Return the data with epochs of the labelled samples alone, nothing copied; as they are, where all are labelled.

    Args:
        data: The data, which stay as they are.
        in_full: Whether an epoch has as many samples as before, and so takes as many optimizer steps; else it shows
            each labelled sample once. A task's own sampler says how many there are either way.
    """
    known = labelled_positions(data)
    if known is None:
        return data
    own = copy.copy(data)
    shown = len(data.splits["train"]) if data.sampler is None else data.sampler.size
    size = shown if in_full or data.sampler is not None else len(known)
    own.sampler = LabelledOrder(known, size, data.sampler)
    return own
