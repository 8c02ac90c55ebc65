"""Transforms of single samples: the same bits for (seed, sample, view), the same from memory and from disk; mixing."""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_modules.batch import Batch, Inputs
from lightning_modules.data import Augment, CutMix, DatasetDataModule, Mix, MixUp, Split, TensorDataModule
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.views import ShiftedViews, Views
from lightning_modules.outputs import Classification, MultiLabel, Regression, Segmentation

SIZE = 20


def noisy(sample: Tensor) -> Tensor:
    """Draw from every generator that transforms draw from."""
    return sample + torch.rand(()) + 10 * np.random.rand() + 100 * random.random()


def split_of(size: int, seed: int = 0) -> Split:
    draw = torch.Generator().manual_seed(seed)
    return Split(torch.rand(size, 1, 4, 6, generator=draw), torch.arange(size) % 3)


class Rows(Dataset[Any]):
    """The samples of a split, one by one."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        assert isinstance(self.split.inputs, Tensor)
        return self.split.inputs[place], self.split.labels[place]


def held(augment: Augment | None = None, **sizes: int) -> TensorDataModule:
    return TensorDataModule(train=split_of(SIZE), val=split_of(4, 1), test=split_of(4, 2), augment=augment, **sizes)


def read(augment: Augment, *, workers: int = 0, **sizes: int) -> DatasetDataModule:
    rows = [Rows(split_of(*one)) for one in ((SIZE, 0), (4, 1), (4, 2))]
    train, val, test = rows
    return DatasetDataModule(train=train, val=val, test=test, augment=augment, workers=workers, **sizes)


def batches(data: TensorDataModule, epoch: int) -> list[Batch]:
    data.soft_targets = lambda target: Classification().soft_targets(target, 3)
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return [batch for item in loader for batch in item]


def inputs_by_id(data: TensorDataModule, epoch: int) -> Tensor:
    found = batches(data, epoch)
    ids, inputs = torch.cat([batch.ids for batch in found]), torch.cat([tensor(batch.inputs) for batch in found])
    return inputs[ids.argsort()]


def tensor(inputs: Inputs) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs


def test_a_view_depends_on_seed_sample_and_view_alone_and_leaves_the_generators_as_they_were() -> None:
    augment, given, ids = Augment(noisy, views=3, seed=4), tensor(split_of(SIZE).inputs), torch.arange(SIZE)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    unasked = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    whole = [tensor(augment.of(given, ids, view)) for view in range(3)]
    after = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(after[0], unasked[0]) and (after[1] == unasked[1]).all() and after[2] == unasked[2]
    backwards = ids.flip(0)
    for view in (2, 0, 1):
        assert torch.equal(tensor(augment.of(given[backwards], backwards, view)).flip(0), whole[view])
    moved = torch.stack([(one - given).mean((1, 2, 3)) for one in whole])
    assert len(moved.flatten().unique()) == 3 * SIZE  # each (sample, view) has draws of its own
    for scale in (1, 10, 100):  # of torch, numpy and random
        assert float((moved / scale).std()) > 0.2
    assert not torch.equal(tensor(Augment(noisy, views=3, seed=5).of(given, ids, 0)), whole[0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("views", [2, "fresh"])
def test_samples_from_disk_are_augmented_as_those_in_memory(workers: int, views: Any) -> None:
    one = held(Augment(noisy, views=views), batch_size=6)
    other = read(Augment(noisy, views=views), workers=workers, batch_size=6)
    for epoch in (0, 3):
        for ours, theirs in zip(batches(one, epoch), batches(other, epoch), strict=True):
            assert torch.equal(tensor(ours.inputs), tensor(theirs.inputs)) and torch.equal(ours.target, theirs.target)
    assert torch.equal(one.shown(torch.tensor([5, 2]), 1)[0], other.shown(torch.tensor([5, 2]), 1)[0])  # type: ignore[arg-type]


def test_epochs_show_stored_views_in_turn_and_fresh_ones_never_again() -> None:
    stored, fresh = held(Augment(noisy, views=2)), held(Augment(noisy, views="fresh"))
    shown = [inputs_by_id(stored, epoch) for epoch in range(4)]
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3]) and not torch.equal(shown[0], shown[1])
    anew = [inputs_by_id(fresh, epoch) for epoch in range(4)]
    assert all(not torch.equal(anew[a], anew[b]) for a in range(4) for b in range(a))
    assert torch.equal(inputs_by_id(held(Augment(noisy, views="fresh")), 3), anew[3])  # a resumed training sees it too


def test_validation_samples_are_shown_as_they_are() -> None:
    data = read(Augment(noisy, views="fresh", mix=MixUp()))
    (batch,) = (batch for item in data.ordered("val") for batch in item)
    assert torch.equal(tensor(batch.inputs), tensor(split_of(4, 1).inputs))


def test_mixup_sums_each_sample_with_the_next_one_and_their_targets_alike() -> None:
    inputs, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.eye(3)
    mixed, soft = MixUp(0.4)(inputs, targets, (1, 2, 3))
    share = np.random.default_rng((1, 2, 3)).beta(0.4, 0.4)
    for row, (one, other) in enumerate(((0, 1), (1, 2), (2, 0))):
        torch.testing.assert_close(tensor(mixed)[row], share * inputs[one] + (1 - share) * inputs[other])
        assert soft[row, one] == pytest.approx(share) and soft[row, other] == pytest.approx(1 - share)
    named, _ = MixUp(0.4)({"x": inputs, "y": 2 * inputs}, targets, (1, 2, 3))
    assert isinstance(named, dict)
    torch.testing.assert_close(named["y"], 2 * tensor(mixed))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_replaces_a_rectangle_and_counts_its_pixels_in_the_targets(seed: int) -> None:
    inputs = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 8, 10).clone()  # the pixels of sample i are i
    mixed, soft = CutMix(1.0)(inputs, torch.eye(3), (seed,))
    for row in range(3):
        other = (row + 1) % 3
        replaced = tensor(mixed)[row] == other
        assert torch.equal(replaced[0], replaced[1]) and set(tensor(mixed)[row].unique().tolist()) <= {row, other}
        assert float(soft[row, other]) == pytest.approx(float(replaced.float().mean()), abs=1e-6)
        where = replaced[0].nonzero()
        if len(where):  # a rectangle: as many as between its corners
            (top, left), (bottom, right) = where.min(0).values, where.max(0).values
            assert len(where) == (bottom - top + 1) * (right - left + 1)


def test_batches_are_mixed_by_seed_epoch_and_batch_and_targets_stay_probabilities() -> None:
    plain, mixed = held(batch_size=5), held(Augment(mix=MixUp(1.0)), batch_size=5)
    shares = []
    for epoch in (0, 1):
        for before, after in zip(batches(plain, epoch), batches(mixed, epoch), strict=True):
            hot = nn.functional.one_hot(before.target, 3).float()
            differs = (hot != hot.roll(-1, 0)).any(1)
            row = int(differs.nonzero()[0])
            share = float(after.target[row, before.target[row]])
            torch.testing.assert_close(after.target, share * hot + (1 - share) * hot.roll(-1, 0))
            given = tensor(before.inputs)
            torch.testing.assert_close(tensor(after.inputs), share * given + (1 - share) * given.roll(-1, 0))
            shares.append(round(share, 6))
    assert len(set(shares)) == len(shares) == 8
    again = [batch.target for batch in batches(held(Augment(mix=MixUp(1.0)), batch_size=5), 1)]
    assert all(torch.equal(a, b.target) for a, b in zip(again, batches(mixed, 1), strict=True))
    mixed.seed = 1
    assert not all(torch.equal(a, b.target) for a, b in zip(again, batches(mixed, 1), strict=True))


def test_a_live_teacher_answers_what_the_student_is_shown() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).eval()
    for data in (
        held(Augment(noisy, views="fresh", mix=MixUp()), batch_size=6),
        read(Augment(noisy, views="fresh", mix=CutMix()), workers=1, batch_size=6),
    ):
        data.live, data.teacher_layers = LiveTeacher([network], average=lambda logits: logits[0]), ("0",)
        for batch in batches(data, 2):
            with torch.no_grad():
                torch.testing.assert_close(batch.teacher["logits"], network(tensor(batch.inputs)))
            torch.testing.assert_close(batch.teacher["0"], tensor(batch.inputs).flatten(1))
            assert not batch.teacher["logits"].is_inference() and not batch.teacher["logits"].requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_live_ensemble_gives_its_average() -> None:
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).eval() for _ in range(2)]
    live = LiveTeacher(networks, average=lambda logits: torch.stack([*logits]).mean(0))
    inputs = torch.rand(5, 1, 4, 6)
    with torch.no_grad():
        expected = (networks[0](inputs) + networks[1](inputs)) / 2
    torch.testing.assert_close(live(inputs)["logits"], expected)


class WakesUp(nn.Module):
    """Puts its dropout in train mode when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        self.drop.train()
        return self.last(self.drop(inputs))


def test_a_live_teacher_in_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="must be in eval mode, but it is in train mode"):
        LiveTeacher([nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))], average=lambda logits: logits[0])
    live = LiveTeacher([WakesUp().eval()], average=lambda logits: logits[0])
    with pytest.raises(ValueError, match="its part 'drop' is in train mode"):
        live(torch.rand(4, 3))


def test_a_joint_transform_moves_the_mask_with_the_image() -> None:
    def flipped(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return (image.flip(-1), mask.flip(-1)) if random.random() < 0.5 else (image, mask)

    images = torch.rand(12, 1, 4, 6)
    masks = (images[:, 0] * 3).long()
    splits = [Split(images, masks) for _ in range(3)]
    augment = Augment(flipped, views="fresh", joint=True)
    in_memory = TensorDataModule(train=splits[0], val=splits[1], test=splits[2], augment=augment, batch_size=5)
    train, val, test = map(Rows, splits)
    on_disk = DatasetDataModule(train=train, val=val, test=test, augment=augment, batch_size=5)
    shown = 0
    for data in (in_memory, on_disk):
        for batch in batches(data, 1):
            assert torch.equal(batch.target, (tensor(batch.inputs)[:, 0] * 3).long())
            shown += int((batch.target != masks[batch.ids]).flatten(1).any(1).sum())
    assert 4 < shown < 20  # of 24: about half of them are turned


def test_an_item_of_large_batches_holds_fewer_of_them() -> None:
    rows = Split(torch.zeros(64, 2**19), torch.zeros(64, dtype=torch.int64))  # 2 MiB a sample, 16 MiB a batch
    data = TensorDataModule(train=rows, val=rows, test=rows, batch_size=8)
    assert [len(item) for item in data.train_dataloader()] == [3, 3, 2]  # 64 MiB at most, labels included


def test_what_can_not_be_augmented_or_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match="a transform or a mix, but has neither"):
        Augment()
    with pytest.raises(ValueError, match="views must be \"fresh\" or a whole number of at least 1, but got 'new'"):
        Augment(noisy, views="new")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 view"):
        Augment(noisy, views=0)
    with pytest.raises(TypeError, match="transform must be called with a sample's input"):
        Augment("flip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mix must be MixUp\(\.\.\)"):
        Augment(mix=0.2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha of MixUp must be a finite number above 0, but got 0"):
        MixUp(0)
    with pytest.raises(ValueError, match=r"needs a transform of \(input, target\)"):
        Augment(mix=MixUp(), joint=True)
    with pytest.raises(ValueError, match=r"the inputs are torch\.int64"):
        MixUp()(torch.ones(2, 3, dtype=torch.int64), torch.eye(2), (0,))
    with pytest.raises(ValueError, match=r"input 'token' are torch\.int64"):
        MixUp()({"token": torch.ones(2, 3, dtype=torch.int64)}, torch.eye(2), (0,))
    with pytest.raises(ValueError, match=r"must have images \(B, C, H, W\), but got inputs of shape \(2, 3\)"):
        CutMix()(torch.ones(2, 3), torch.eye(2), (0,))
    splits = {"train": split_of(4), "val": split_of(4), "test": split_of(4)}
    with pytest.raises(TypeError, match="it belongs in augment="):
        TensorDataModule(**splits, views=Augment(noisy))
    with pytest.raises(TypeError, match="it belongs in views="):
        TensorDataModule(**splits, augment=ShiftedViews())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="but both are given"):
        TensorDataModule(**splits, views=ShiftedViews(), augment=Augment(noisy))
    with pytest.raises(ValueError, match="must return tensors, but returned str"):
        Augment(lambda sample: "text").of(torch.ones(2, 3), torch.arange(2), 0)
    with pytest.raises(ValueError, match=r"one shape, but gave \(1,\) and \(2,\)"):
        Augment(lambda sample: sample[: int(sample[0])]).of(torch.tensor([[1.0, 1, 1], [2, 2, 2]]), torch.arange(2), 0)


def test_a_transform_that_works_in_place_does_not_reach_the_sample() -> None:
    for data in (held(Augment(lambda x: x.add_(1.0), views=2)), read(Augment(lambda x: x.add_(1.0), views=2))):
        shown = [inputs_by_id(data, epoch) for epoch in range(3)]
        assert all(torch.equal(one, shown[0]) for one in shown)
        torch.testing.assert_close(shown[0], tensor(split_of(SIZE).inputs) + 1)


def test_what_networks_can_not_take_is_refused_where_it_is_made() -> None:
    for data in (held(Augment(lambda x: x.double())), read(Augment(lambda x: x.double()))):
        with pytest.raises(ValueError, match=r"must return float32, as networks are, but returned float64"):
            batches(data, 0)
    with pytest.raises(ValueError, match="a finite number above 0, but got inf"):
        MixUp(float("inf"))
    with pytest.raises(ValueError, match=r"a whole number, but got self.seed=1\.5"):
        Augment(noisy, seed=1.5)  # type: ignore[arg-type]

    @dataclass(frozen=True)
    class Own(Views):
        mix: float = 0.3  # type: ignore[assignment]

        def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
            return inputs

    with pytest.raises(ValueError, match=r"mix of views must mix .* but got 0\.3; call a parameter of"):
        Own()


def test_names_of_a_dict_of_inputs_stay_the_same() -> None:
    def odd(sample: Any) -> Any:
        return sample if sample["x"] > 1 else {"x": sample["x"], "y": sample["x"]}

    with pytest.raises(ValueError, match="must give all samples the same names, x, y, in one order"):
        Augment(odd).of({"x": torch.tensor([1.0, 2.0])}, torch.arange(2), 0)


def test_a_joint_transform_may_leave_the_label_of_a_class_as_it_is() -> None:
    augment = Augment(lambda x, y: (x + 1, y), views="fresh", joint=True)
    labels = split_of(SIZE).labels
    for data in (held(augment), read(augment)):
        for batch in batches(data, 1):
            assert torch.equal(batch.target, labels[batch.ids]) and batch.target.dtype == torch.int64
        targets = data.shown(torch.arange(4), 0)[1]
        assert targets is not None and Classification().view_targets_fault(targets, labels[:4], 3) is None
        assert not Classification().are_mixed(targets)


def test_targets_are_softened_by_the_kind_of_output() -> None:
    assert Classification().soft_targets(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert MultiLabel(2).soft_targets(torch.tensor([[1, 0]]), 2).tolist() == [[1.0, 0.0]]
    assert Regression(1).soft_targets(torch.tensor([[2.5]]), 1).tolist() == [[2.5]]
    with pytest.raises(ValueError, match=r"can't be mixed where the output is Segmentation\(3\): leave out mix="):
        Segmentation(3).soft_targets(torch.zeros(1, 2, 2, dtype=torch.int64), 3)


class Swap(Mix):
    """A mix of one's own: each sample becomes the next one."""

    def _mixed(self, inputs: Any, targets: Tensor, share: float, drawn: Any) -> tuple[Any, Tensor]:
        return inputs.roll(-1, 0), targets.roll(-1, 0)


def test_a_mix_of_ones_own_is_used() -> None:
    data, plain = held(Augment(mix=Swap(1.0))), held()
    for after, before in zip(batches(data, 0), batches(plain, 0), strict=True):
        assert torch.equal(tensor(after.inputs), tensor(before.inputs).roll(-1, 0))
        assert torch.equal(after.target.argmax(1), before.target.roll(-1, 0))


def test_an_augmentation_travels_to_other_processes() -> None:
    augment = pickle.loads(pickle.dumps(Augment(noisy, views="fresh", mix=MixUp(0.3), seed=2)))  # nosec
    assert repr(augment).endswith('views="fresh", mix=MixUp(0.3), joint=False, seed=2)') and augment.fresh
    assert replace(ShiftedViews(count=3), fresh=True).view_of(7) == 7


class TestPictures:
    """Pictures of a folder, which a transform sees before they are cut and normalised."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        image = pytest.importorskip("PIL.Image", reason="pip install 'kd-harness[vision]'")
        pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")
        draw = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            for place in range(10):
                image.fromarray(draw.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(
                    tmp_path / name / f"{place}.png"
                )
        return tmp_path

    def test_a_transform_is_given_the_pixels_of_the_file(self, folder: Path) -> None:
        from lightning_modules.data import ImageFolders

        seen = []

        def note(pixels: Tensor) -> Tensor:
            seen.append((tuple(pixels.shape), pixels.dtype))
            return pixels

        plain = ImageFolders(folder, size=8, batch_size=4)
        data = ImageFolders(folder, size=8, batch_size=4, augment=Augment(note, views="fresh"))
        for ours, theirs in zip(batches(data, 0), batches(plain, 0), strict=True):
            assert torch.equal(tensor(ours.inputs), tensor(theirs.inputs))  # scaled, cut and normalised alike
        assert set(seen) == {((3, 8, 12), torch.uint8)}

    @pytest.mark.parametrize("workers", [0, 1])
    def test_transforms_of_torchvision_give_the_same_bits_each_time(self, folder: Path, workers: int) -> None:
        from torchvision.transforms import v2

        from lightning_modules.data import ImageFolders

        crop = v2.Compose([v2.RandomResizedCrop(8, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)])
        data = ImageFolders(folder, size=8, batch_size=4, workers=workers, augment=Augment(crop, views="fresh"))
        first = inputs_by_id(data, 1)
        torch.manual_seed(3)
        assert torch.equal(inputs_by_id(data, 1), first) and not torch.equal(inputs_by_id(data, 2), first)

    def test_a_transform_that_normalises_is_refused(self, folder: Path) -> None:
        from lightning_modules.data import ImageFolders

        data = ImageFolders(folder, size=8, augment=Augment(lambda pixels: pixels.float() / 128 - 1, views="fresh"))
        with pytest.raises(ValueError, match="leave normalising to mean= and std= of the folder"):
            batches(data, 0)
        whole = ImageFolders(folder, size=8, augment=Augment(lambda pixels: pixels.int(), views="fresh"))
        with pytest.raises(ValueError, match=r"floats in \[0, 1\], but got torch\.int32; \.to\(torch\.uint8\) does"):
            batches(whole, 0)
        odd = ImageFolders(folder, size=8, augment=Augment(lambda pixels: pixels[0], views="fresh"))
        with pytest.raises(ValueError, match=r"must return pixels \(3, H, W\), but returned \(8, 12\)"):
            batches(odd, 0)
