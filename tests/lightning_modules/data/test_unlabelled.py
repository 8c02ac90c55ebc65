"""Training samples without a label: taught by the teacher alone, in every kind of output and of data."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from harness.core.errors import TrialFailed
from harness.doctor.check import CheckWarning
from harness.doctor.context import subsample
from harness.doctor.data import check_classes_in_splits
from harness.preparation.steps import unlabelled_text
from harness.preparation.teacher_checks import few_samples
from harness.training.fit import check_losses
from lightning_modules.batch import UNLABELLED, Batch, Inputs
from lightning_modules.classifier import StudentModule, TeacherModule, weighted_sum
from lightning_modules.data import Augment, DatasetDataModule, MixUp, Split, TensorDataModule
from lightning_modules.data.unlabelled import (
    LabelledOrder,
    check_labels,
    given_labels,
    labelled_alone,
    labelled_positions,
    output_for_training,
    spread_over_both,
    unlabelled_count,
)
from lightning_modules.data.views import Views
from lightning_modules.methods import DistillationCriterion, make_criterion
from lightning_modules.outputs import Classification, MultiLabel, Output, Regression, Segmentation, Tokens

NAN = math.nan
NONE = UNLABELLED
LABELS = torch.tensor([0, NONE, 2, NONE, NONE, 1, NONE, NONE])
KNOWN = [0, 2, 5]
INPUTS = torch.arange(8.0)[:, None]
MASKS = torch.tensor([[[0, 1], [255, 1]], [[255, 255], [255, 255]]])
MARKED: dict[str, tuple[Output, Tensor, list[bool]]] = {
    "classification": (Classification(), torch.tensor([1, NONE, 0]), [True, False, True]),
    "probabilities": (Classification(), torch.tensor([[0.5, 0.5], [NAN, NAN]]), [True, False]),
    "multilabel, -1": (MultiLabel(), torch.tensor([[0, 1], [-1, -1]]), [True, False]),
    "multilabel, NaN": (MultiLabel(), torch.tensor([[NAN, NAN], [0.0, 1.0]]), [False, True]),
    "regression": (Regression(), torch.tensor([[NAN, NAN], [1.0, 2.0]]), [False, True]),
    "segmentation": (Segmentation(), MASKS, [True, False]),
    "tokens": (Tokens(), torch.tensor([[-100, -100], [3, -100]]), [False, True]),
}


def data_of(labels: Tensor = LABELS, output: Output | None = None, **how: Any) -> TensorDataModule:
    kind = Classification() if output is None else output
    val = Split(INPUTS[:3], labels[kind.is_labelled(labels)][:3])
    data = TensorDataModule(train=Split(INPUTS[: len(labels)], labels), val=val, test=val, **how)
    data.is_labelled = kind.is_labelled
    return data


def ids_of(data: TensorDataModule, epoch: int = 0) -> list[int]:
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return [int(one) for item in loader for batch in item for one in batch.ids]


@pytest.mark.parametrize("kind", MARKED)
def test_each_kind_of_output_says_which_samples_have_no_label(kind: str) -> None:
    output, labels, known = MARKED[kind]
    assert output.is_labelled(labels).tolist() == known


@pytest.mark.parametrize("kind", [name for name in MARKED if name not in ("segmentation", "tokens", "probabilities")])
def test_only_training_samples_may_have_no_label_and_others_are_counted(kind: str) -> None:
    output, labels, known = MARKED[kind]
    part, whole = Split(INPUTS[: len(labels)], labels), Split(INPUTS[:1], labels[torch.tensor(known)][:1])
    check_labels({"train": part, "val": whole, "test": whole}, output)
    for name in ("val", "test"):
        with pytest.raises(
            ValueError, match=rf"{name} must have a label for each sample, but 1 of its {len(labels)} have"
        ):
            check_labels({name: part}, output)
    none = Split(INPUTS[:1], labels[~torch.tensor(known)][:1])
    with pytest.raises(ValueError, match="train must have a label for some samples, but 1 of its 1 have none"):
        check_labels({"train": none}, output)


def test_samples_that_are_cut_into_folds_need_labels() -> None:
    with pytest.raises(
        ValueError, match=r"cut into folds must have a label each, .* but 5 of the 8 of train have none"
    ):
        check_labels({"train": Split(INPUTS, LABELS)}, Classification(), folds=2)


def test_samples_that_are_ignored_everywhere_may_be_evaluated_and_count_in_nothing() -> None:
    check_labels({"val": Split(INPUTS[:2], MASKS)}, Segmentation())
    with pytest.raises(ValueError, match="nothing but 255"):
        check_labels({"train": Split(INPUTS[:1], MASKS[1:])}, Segmentation())


@pytest.mark.parametrize(
    ("output", "labels", "told"),
    [
        (Regression(), torch.tensor([[1.0, NAN], [NAN, NAN]]), "NaN for some values of 1 samples"),
        (MultiLabel(), torch.tensor([[1, -1], [-1, -1]]), "-1 for some labels of a sample"),
        (MultiLabel(), torch.tensor([[1.0, NAN], [NAN, NAN]]), "nan for some labels of a sample"),
        (Classification(), torch.tensor([0, -1]), "the smallest -1: count classes from 0, and give -100"),
    ],
)
def test_a_label_that_is_half_there_is_refused(output: Output, labels: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_labels({"train": Split(INPUTS[:2], labels)}, output)


def test_the_loss_of_labels_is_the_mean_of_the_labelled_rows_and_that_of_the_teacher_of_all() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    batch = Batch(torch.arange(3), INPUTS[:3], torch.tensor([0, NONE, 1]), {"logits": teacher})
    criterion = DistillationCriterion(temperature=2.0, alpha=0.25)
    criterion.output = output_for_training(Classification(), data_of(), 3)
    terms = criterion(logits, batch)
    # -log softmax of the true class: log(e^2 + 2) - 2, and log(e^3 + 2) - 0; the second row has none.
    hard = ((math.log(math.exp(2) + 2) - 2) + math.log(math.exp(3) + 2)) / 2
    assert float(terms["hard_loss"].value.detach()) == pytest.approx(hard, rel=1e-6)
    soft = 4 * F.kl_div((logits / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none").sum(1)
    assert float(terms["soft_loss"].value.detach()) == pytest.approx(float(soft.mean().detach()), rel=1e-6)
    weighted_sum(terms).backward()
    assert logits.grad is not None
    # The unlabelled row has the teacher's gradient alone: (1 - alpha) * T * (student - teacher) / rows.
    expected = 0.75 * 2 * ((logits / 2).softmax(1) - (teacher / 2).softmax(1))[1] / 3
    torch.testing.assert_close(logits.grad[1], expected.detach())


@pytest.mark.parametrize("kind", MARKED)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_without_any_label_has_a_loss_of_zero_with_a_gradient(kind: str, smoothing: float) -> None:
    output, labels, known = MARKED[kind]
    alone = labels[~torch.tensor(known)]
    size = 2 if alone.ndim < 3 else 3
    logits = torch.randn(output.output_shape(alone, size)).requires_grad_()
    rows, of_rows = output.taught_rows(logits, Batch(torch.arange(1), INPUTS[:1], alone, {"logits": logits.detach()}))
    assert len(rows) == len(of_rows.teacher["logits"]) == len(of_rows.target) > 0
    loss = output.labelled_loss(rows, of_rows.target, smoothing=0.0 if kind == "regression" else smoothing)
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and float(logits.grad.abs().sum()) == 0


def test_every_pixel_of_a_sample_without_a_label_is_taught_by_the_teacher_and_no_ignored_one_of_another() -> None:
    logits = torch.arange(16.0).reshape(2, 2, 2, 2)
    rows, batch = Segmentation().taught_rows(logits, Batch(torch.arange(2), INPUTS[:2], MASKS, {"logits": logits + 1}))
    assert batch.target.tolist() == [0, 1, 1, NONE, NONE, NONE, NONE]
    assert rows.tolist() == [[0, 4], [1, 5], [3, 7], [8, 12], [9, 13], [10, 14], [11, 15]]
    assert torch.equal(batch.teacher["logits"], rows + 1)


def test_padding_of_a_text_without_a_label_is_not_taught() -> None:
    inputs: Inputs = {"ids": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    target = torch.tensor([[NONE, NONE, NONE], [4, NONE, NONE]])
    logits = torch.arange(12.0).reshape(2, 3, 2)
    rows, batch = Tokens().taught_rows(logits, Batch(torch.arange(2), inputs, target))
    assert batch.target.tolist() == [NONE, NONE, 4] and rows.tolist() == [[0, 1], [2, 3], [6, 7]]


def test_a_mix_with_a_sample_without_a_label_has_none() -> None:
    for output, labels in (
        (Classification(), torch.tensor([1, NONE, 0, 1])),
        (MultiLabel(), torch.tensor([[0, 1], [-1, -1], [1, 1], [0, 0]])),
        (Regression(), torch.tensor([[1.0, 0.0], [NAN, NAN], [2.0, 1.0], [0.0, 0.0]])),
    ):
        _, mixed = MixUp(0.4)(INPUTS[:4], output.soft_targets(labels, 2), (1,))
        # Each is mixed with the next one, and the last with the first.
        assert mixed.isnan().all(1).tolist() == [True, True, False, False]


def test_labelled_samples_are_found_counted_and_sampled_beside_the_others() -> None:
    data = data_of()
    known = labelled_positions(data)
    assert known is not None and known.tolist() == KNOWN
    assert unlabelled_count(data) == 5 and given_labels(data).tolist() == [0, 2, 1]
    assert spread_over_both(data, 4).tolist() == [0, 1, 5, 7]
    assert spread_over_both(data, 100).tolist() == list(range(8))
    whole = data_of(torch.tensor([0, 1, 2, 0]))
    assert labelled_positions(whole) is None and labelled_alone(whole, in_full=True) is whole


def test_a_control_is_shown_each_labelled_sample_in_turn_in_as_many_steps() -> None:
    data = data_of(batch_size=2)
    own = labelled_alone(data, in_full=True)
    assert own.steps_per_epoch == data.steps_per_epoch == 4 and data.sampler is None
    orders = [ids_of(own, epoch) for epoch in range(40)]
    for order in orders:  # 8 places: all three, all three, and two of them
        assert sorted(order[:3]) == sorted(order[3:6]) == KNOWN and len({*order[6:]}) == 2
    assert orders[0] != orders[1] and orders == [ids_of(own, epoch) for epoch in range(40)]
    assert {tuple(order[3:6]) for order in orders} == {tuple(order[:3]) for order in orders}  # all six orders of three
    own.seed = 1
    assert [ids_of(own, epoch) for epoch in range(5)] != orders[:5]


def test_a_teacher_is_shown_each_labelled_sample_once_an_epoch() -> None:
    own = labelled_alone(data_of(batch_size=2), in_full=False)
    assert sorted(ids_of(own)) == KNOWN and own.steps_per_epoch == 1  # a single sample joins the batch before it


def test_a_task_s_own_sampler_is_followed_as_far_as_samples_are_labelled() -> None:
    class Backwards:
        size = 5

        def order(self, seed: int, epoch: int) -> Tensor:
            return torch.tensor([7, 5, 4, 2, 6]) if epoch < 3 else torch.tensor([7, 6, 4, 3, 1])

        def showings(self, epoch: int) -> None:
            pass

    order = LabelledOrder(torch.tensor(KNOWN), 5, Backwards())
    assert order.order(0, 0).tolist() == [5, 2, 5, 2, 5]
    with pytest.raises(ValueError, match=r"must show labelled samples in each epoch, .* none in epoch 3"):
        order.order(0, 3)


class Numbered(Views):
    """Samples with their view added."""

    def of(self, inputs: Inputs, ids: Tensor, view: int) -> Inputs:
        assert isinstance(inputs, Tensor)
        return inputs + 100 * view


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_sample_that_is_shown_again_in_an_epoch_is_shown_in_its_next_view(read: bool, fresh: bool) -> None:
    def numbered(sample: Tensor) -> Tensor:
        return sample + 100 * VIEW[0]

    VIEW = [0]
    stored = torch.arange(8)[:, None, None] + 100 * torch.arange(4)[None, :, None]
    if read:
        rows = TensorDataset(INPUTS, LABELS)
        whole = TensorDataset(INPUTS[KNOWN], LABELS[KNOWN])

        class Counted(Augment):
            def _called(self, *sample: Any, place: int, view: int) -> Any:
                VIEW[0] = view
                return super()._called(*sample, place=place, view=view)

        data: TensorDataModule = DatasetDataModule(
            train=rows, val=whole, test=whole, batch_size=3, augment=Counted(numbered, views="fresh" if fresh else 4)
        )
        data.is_labelled = Classification().is_labelled
    else:
        data = data_of(batch_size=3, views=Numbered(count=1 if fresh else 4, fresh=fresh))
    if not fresh:
        data.attach({"train": {"logits": stored}})
    loader = labelled_alone(data, in_full=True).train_dataloader()
    loader.set_epoch(1)  # the epoch before it had showings 0, 1 and 2
    batches = [batch for item in loader for batch in item]
    ids = torch.cat([batch.ids for batch in batches])
    inputs = torch.cat([batch.inputs for batch in batches if isinstance(batch.inputs, Tensor)])[:, 0]
    views = torch.tensor([3, 3, 3, 4, 4, 4, 5, 5]) % (100 if fresh else 4)
    assert inputs.tolist() == (ids + 100 * views).tolist()
    if not fresh:
        told = torch.cat([batch.teacher["logits"] for batch in batches])[:, 0]
        assert told.tolist() == inputs.tolist()


def test_labels_that_are_read_from_disk_may_be_none() -> None:
    targets = torch.tensor([[1.0], [NAN], [2.0]])

    class Listed(TensorDataset):
        fingerprint = "listed"

        @property
        def targets(self) -> Tensor:
            return targets

    rows = Listed(INPUTS[:3], targets)
    data = DatasetDataModule(train=rows, val=rows, test=rows, batch_size=3)
    (batch,) = next(iter(data.ordered("train")))  # NaN is compared with NaN
    assert batch.target.isnan().flatten().tolist() == [False, True, False]


def test_class_weights_are_taken_from_the_labelled_samples() -> None:
    data = data_of(torch.tensor([0, 0, 0, 1, NONE, NONE, NONE, NONE]))
    found = output_for_training(Classification(2, class_weights="balanced"), data, 2)
    # 4 labelled samples of 2 classes: 4 / (2 * 3) and 4 / (2 * 1).
    assert found._weights is not None and found._weights.tolist() == pytest.approx([2 / 3, 2])
    assert found.has_unlabelled and not output_for_training(Classification(), data_of(LABELS[KNOWN]), 3).has_unlabelled


@pytest.mark.parametrize("method", ["label_smoothing", "self_distillation"])
def test_baselines_without_a_teacher_leave_rows_without_a_label_out(method: str) -> None:
    values = {"label_smoothing": {"smoothing": 0.2}, "self_distillation": {"trust": 0.5}}[method]
    criterion = make_criterion(method, **values)
    data, network = data_of(), nn.Linear(1, 3)
    criterion.output = output_for_training(Classification(), data, 3)
    criterion.setup(network, data, epochs=2)
    logits = network(INPUTS)
    whole, part = Batch(torch.arange(8), INPUTS, LABELS), torch.tensor(KNOWN)
    few = Batch(part, INPUTS[part], LABELS[part])
    for _ in range(2):
        found, expected = criterion(logits, whole), criterion(logits[part], few)
        for name, term in expected.items():
            assert float(found[name].value.detach()) == pytest.approx(float(term.value.detach()), rel=1e-6)
        criterion.end_epoch()


def module_of(output: Output, criterion: Any, network: nn.Module) -> StudentModule:
    criterion.output = output
    return StudentModule(network, criterion, output=output, metrics={}, total_steps=4)


def test_the_curve_of_the_labels_loss_is_the_mean_over_labelled_samples_of_the_epoch() -> None:
    data = data_of(batch_size=4)
    data.attach({"train": {"logits": torch.zeros(8, 3)}})
    network = nn.Linear(1, 3)
    module = module_of(
        output_for_training(Classification(), data, 3), DistillationCriterion(temperature=1, alpha=0.5), network
    )
    with torch.no_grad():
        losses = F.cross_entropy(network(INPUTS[KNOWN]), LABELS[KNOWN])
        for batch in (batch for item in data.ordered("train") for batch in item):
            evaluated = module._evaluate(batch)
            module._training.add(evaluated.terms, evaluated.count, evaluated.labelled)
    assert module._training.compute()["hard_loss"] == pytest.approx(float(losses), rel=1e-5)


def test_a_teacher_module_ignores_rows_without_a_label() -> None:
    network, data = nn.Linear(1, 3), data_of()
    module = TeacherModule(network, output=output_for_training(Classification(), data, 3), metrics={}, total_steps=1)
    (term,) = module.terms(Batch(torch.arange(8), INPUTS, LABELS)).values()
    expected = F.cross_entropy(network(INPUTS), LABELS, ignore_index=NONE)
    assert float(term.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_samples_that_checks_look_at_hold_labelled_ones_and_finite_numbers_are_asked_of_those_alone() -> None:
    labels = torch.full((400, 1), NAN)
    labels[300:303] = torch.tensor([[1.0], [1.0], [2.0]])
    split = Split(torch.zeros(400, 2), labels)
    data = TensorDataModule(
        train=split, val=Split(torch.zeros(2, 2), labels[301:303]), test=split.at(torch.tensor([300]))
    )
    data.is_labelled = Regression().is_labelled
    few = few_samples(data).splits["train"]
    assert few.labels.flatten().tolist() == [1, 2]
    sample = subsample(data, torch.device("cpu"), 8)
    assert given_labels(sample).flatten().tolist() == [1, 1, 2] and unlabelled_count(sample) == 64
    with pytest.raises(TrialFailed, match=r"^train/loss is nan in epoch 0$"):
        check_losses(0, {"train/loss": NAN}, data)


def test_a_dataset_s_samples_without_a_label_are_said() -> None:
    assert unlabelled_text(0, 9) == ""
    assert unlabelled_text(1000, 1437).startswith(
        "1,000 of 1,437 training samples are unlabelled: the teacher alone teaches"
    )


def test_the_doctor_counts_classes_in_labelled_samples_alone() -> None:
    data = data_of(torch.tensor([0, NONE, 1, 1]))
    space = SimpleNamespace(task=SimpleNamespace(output=Classification()))
    context: Any = SimpleNamespace(data=data, classes=2, space=space)
    assert check_classes_in_splits(context) == "all 2 in each split"
    labels = torch.tensor([[NAN, NAN], [1.0, 2.0], [1.0, 3.0]])
    known = Split(INPUTS[1:3], labels[1:])
    context.data = TensorDataModule(train=Split(INPUTS[:3], labels), val=known, test=known)
    context.data.is_labelled = Regression().is_labelled
    context.space.task.output = Regression()
    with pytest.raises(CheckWarning, match="column 0 of the labels of train has one value"):
        check_classes_in_splits(context)
