"""Output kinds: rows, losses, metrics and refusals, against numbers worked by hand and torch's own losses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.batch import Batch
from lightning_modules.losses import hard_label_loss, soft_target_loss
from lightning_modules.methods import METHODS, DistillationCriterion, make_criterion
from lightning_modules.outputs import Classification, MultiLabel, Output, Regression, Segmentation, Tokens
from lightning_modules.outputs.base import smoothed_targets

IGNORED = 255
MASKS = torch.tensor([[[0, 1, IGNORED], [2, 2, 1]], [[IGNORED, 0, 0], [1, 1, 2]]])
TAGS = torch.tensor([[0, 1, -100, -100], [2, 1, 0, -100]])
TRAITS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
NUMBERS = torch.tensor([[1.0, 2.0], [3.0, 5.0], [2.0, -1.0], [0.0, 4.0]])
KINDS: dict[str, tuple[Output, Tensor, int]] = {
    "classification": (Classification(), torch.tensor([0, 2, 1, 2]), 3),
    "multilabel": (MultiLabel(), TRAITS, 3),
    "regression": (Regression(), NUMBERS, 2),
    "segmentation": (Segmentation(ignore_index=IGNORED), MASKS, 3),
    "tokens": (Tokens(), TAGS, 3),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(target: Tensor, teacher: Tensor | None = None) -> Batch:
    count = len(target)
    return Batch(torch.arange(count), torch.zeros(count, 1), target, {} if teacher is None else {"logits": teacher})


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_a_kind_are_right_and_have_its_size(kind: str) -> None:
    output, labels, size = KINDS[kind]
    assert output.labels_fault(labels) is None and output.size_of(labels) == size
    assert tuple(output.perfect(labels, size).shape) == output.output_shape(labels, size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_answer_has_the_best_score_and_a_wrong_one_a_worse(kind: str) -> None:
    output, labels, size = KINDS[kind]
    for name, (metric, direction) in output.metrics(size).items():
        assert output.metric_directions[name] == direction
        right = float(metric(*output.metric_inputs(output.perfect(labels, size), labels)))
        metric.reset()
        wrong = float(metric(*output.metric_inputs(output.wrong(labels, size), labels)))
        assert right > wrong if direction == "maximize" else right < wrong
        best = {"mae": 0.0, "perplexity": 1.0}.get(name, 1.0)
        assert right == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_answers_have_the_shape_of_one_sample(kind: str) -> None:
    output, labels, size = KINDS[kind]
    for constant in output.constants(labels, size):
        assert tuple(constant.shape) == output.output_shape(labels, size)[1:]


def test_the_hard_loss_of_segmentation_is_the_cross_entropy_of_labelled_pixels() -> None:
    logits, output = draw(2, 3, 2, 3), Segmentation(3, ignore_index=IGNORED)
    rows, of_rows = output.as_rows(logits, batch_of(MASKS))
    expected = F.cross_entropy(logits, MASKS, ignore_index=IGNORED)
    torch.testing.assert_close(output.hard_loss(rows, of_rows.target), expected)
    assert len(rows) == 10


def test_the_hard_loss_of_tokens_is_the_cross_entropy_of_labelled_tokens() -> None:
    logits, output = draw(2, 4, 3), Tokens(3)
    rows, of_rows = output.as_rows(logits, batch_of(TAGS))
    expected = F.cross_entropy(logits.mT, TAGS, ignore_index=-100)
    torch.testing.assert_close(output.hard_loss(rows, of_rows.target), expected)


def test_the_hard_loss_of_several_labels_is_the_binary_cross_entropy() -> None:
    logits, output = draw(4, 3), MultiLabel(3)
    rows, of_rows = output.as_rows(logits, batch_of(TRAITS))
    expected = F.binary_cross_entropy_with_logits(logits, TRAITS)
    torch.testing.assert_close(output.hard_loss(rows, of_rows.target), expected)
    whole = output.as_rows(logits, batch_of(TRAITS.long()))
    torch.testing.assert_close(output.hard_loss(whole[0], whole[1].target), expected)
    soft = torch.full((4, 3), 0.3)
    rows, of_rows = output.as_rows(logits, batch_of(soft))
    torch.testing.assert_close(output.hard_loss(rows, of_rows.target), F.binary_cross_entropy_with_logits(logits, soft))


def test_the_soft_targets_of_several_labels_are_binary_divergences_times_the_squared_temperature() -> None:
    ours, theirs, temperature = draw(4, 3), draw(4, 3, seed=1), 3.0
    rows, of_rows = MultiLabel(3).as_rows(ours, batch_of(TRAITS, theirs))
    p, q = (theirs / temperature).sigmoid(), (ours / temperature).sigmoid()
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    found = soft_target_loss(rows, of_rows.teacher["logits"], temperature=temperature)
    torch.testing.assert_close(found, temperature**2 * divergence.mean())


def test_the_soft_targets_of_tokens_leave_padding_out() -> None:
    ours, theirs = draw(2, 4, 3), draw(2, 4, 3, seed=1)
    rows, of_rows = Tokens(3).as_rows(ours, batch_of(TAGS, theirs))
    valid = TAGS != -100
    p, q = (theirs / 2).softmax(-1)[valid], (ours / 2).softmax(-1)[valid]
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(soft_target_loss(rows, of_rows.teacher["logits"], temperature=2), expected)
    changed = theirs.clone()
    changed[~valid] = 1000.0
    again, of_again = Tokens(3).as_rows(ours, batch_of(TAGS, changed))
    torch.testing.assert_close(soft_target_loss(again, of_again.teacher["logits"], temperature=2), expected)


@pytest.mark.parametrize(("kind", "shape"), [("segmentation", (2, 3, 2, 3)), ("tokens", (2, 4, 3))])
def test_a_batch_without_a_label_gives_a_finite_loss_and_no_gradient(kind: str, shape: tuple[int, ...]) -> None:
    output, labels, _ = KINDS[kind]
    assert isinstance(output, Segmentation | Tokens)
    logits = draw(*shape).requires_grad_()
    nothing = torch.full_like(labels, output.ignore_index)
    rows, of_rows = output.as_rows(logits, batch_of(nothing, draw(*shape, seed=1)))
    criterion = DistillationCriterion(temperature=2.0, alpha=0.5)
    criterion.output = output
    terms = criterion(rows, of_rows)
    loss = sum(term.weight * term.value for term in terms.values())
    assert isinstance(loss, Tensor) and math.isfinite(float(loss.detach()))
    loss.backward()
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("method", [m for m, one in METHODS.items() if one.needs_classes and not one.needs_one_row])
@pytest.mark.parametrize("kind", ["segmentation", "tokens"])
def test_every_method_of_logits_has_a_gradient_on_labelled_places_alone(kind: str, method: str) -> None:
    output, labels, size = KINDS[kind]
    shape = output.output_shape(labels, size)
    values = {
        "soft_target": {"temperature": 2.0, "alpha": 0.5},
        "reverse_kl": {"temperature": 2.0, "alpha": 0.5},
        "jsd": {"beta": 0.5, "temperature": 2.0, "alpha": 0.5},
        "skewed_kl": {"skew": 0.1, "temperature": 2.0, "alpha": 0.5},
        "standardized": {"temperature": 2.0, "alpha": 0.5},
        "decoupled": {"temperature": 2.0, "target_weight": 1.0, "non_target_weight": 2.0},
        "correlation": {"temperature": 2.0, "inter_weight": 1.0, "intra_weight": 1.0},
        "label_smoothing": {"smoothing": 0.1},
    }[method]
    criterion = make_criterion(method, **values)
    criterion.output = output
    logits = draw(*shape).requires_grad_()
    rows, of_rows = output.as_rows(logits, batch_of(labels, draw(*shape, seed=1)))
    sum(term.weight * term.value for term in criterion(rows, of_rows).values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert isinstance(output, Segmentation | Tokens)
    moved = logits.grad.movedim(output.size_axis, -1).abs().sum(-1) > 0
    assert torch.equal(moved, labels != output.ignore_index)


def test_balanced_weights_give_each_class_the_same_share_of_the_loss() -> None:
    labels, logits = torch.tensor([0, 0, 0, 1]), torch.zeros(4, 2)
    output = Classification(2, class_weights="balanced").for_training(labels, 2)
    # Three samples of weight 2/3 and one of weight 2: both classes add half of the loss, log 2 in all.
    losses = [float(output.hard_loss(logits[labels == c], labels[labels == c])) for c in (0, 1)]
    assert losses == pytest.approx([2 / 3 * math.log(2), 2 * math.log(2)])
    assert float(output.hard_loss(logits, labels)) == pytest.approx(math.log(2))


def test_given_weights_are_scaled_to_a_mean_of_one_and_work_on_soft_targets() -> None:
    labels, logits = torch.tensor([0, 1, 1, 1]), draw(4, 2)
    output = Classification(2, class_weights=(4.0, 2.0)).for_training(labels, 2)
    weights = torch.tensor([1.6, 0.8])  # of a mean of (4 + 3 * 2) / 4 = 2.5
    expected = (weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()
    torch.testing.assert_close(output.hard_loss(logits, labels), expected)
    torch.testing.assert_close(output.hard_loss(logits, F.one_hot(labels).float()), expected)


def test_weights_of_labels_are_those_of_torch() -> None:
    logits = draw(4, 3)
    output = MultiLabel(3, class_weights="balanced").for_training(TRAITS, 3)
    positive = torch.tensor([1.0, 1.0, 1 / 3])  # absent by present: 2/2, 2/2, 1/3
    rows, of_rows = output.as_rows(logits, batch_of(TRAITS))
    expected = F.binary_cross_entropy_with_logits(logits, TRAITS, pos_weight=positive)
    torch.testing.assert_close(output.hard_loss(rows, of_rows.target), expected)


def test_without_weights_the_loss_of_a_classifier_is_the_cross_entropy() -> None:
    logits, labels = draw(4, 3), torch.tensor([0, 2, 1, 2])
    assert torch.equal(Classification().hard_loss(logits, labels), hard_label_loss(logits, labels))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weights", [None, (2.0, 1.0, 0.5)])
def test_label_smoothing_is_pytorchs_of_labels_of_mixed_targets_and_with_weights(
    soft: bool, weights: tuple[float, ...] | None
) -> None:
    labels, logits = torch.tensor([2, 0, 1, 2]), draw(4, 3)
    target = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]) if soft else labels
    output = Classification(3, class_weights=weights).for_training(labels, 3)
    q = 0.7 * (target if soft else F.one_hot(labels, 3).float()) + 0.1
    scaled = torch.tensor(weights or (1.0, 1.0, 1.0))
    scaled = scaled / scaled[labels].mean()
    expected = -(q * scaled * logits.log_softmax(1)).sum() / 4
    torch.testing.assert_close(output.hard_loss(logits, target, smoothing=0.3), expected)
    if weights is None:
        torch.testing.assert_close(expected, F.cross_entropy(logits, target, label_smoothing=0.3))


def test_label_smoothing_gives_a_masked_class_no_share() -> None:
    logits = draw(4, 3)
    logits[0, 1] = -math.inf
    labels = torch.tensor([2, 0, 1, 2])
    found = smoothed_targets(logits, labels, 0.3)
    assert found[0].tolist() == pytest.approx([0.15, 0.0, 0.85]) and found[1].tolist() == pytest.approx([0.8, 0.1, 0.1])
    weighted = Classification(3, class_weights=(1.0, 2.0, 3.0)).for_training(labels, 3)
    assert weighted.hard_loss(logits, labels, smoothing=0.3).isfinite()


def test_label_smoothing_of_several_labels_is_that_of_each() -> None:
    logits = draw(4, 3)
    rows, of_rows = MultiLabel(3).as_rows(logits, batch_of(TRAITS))
    expected = F.binary_cross_entropy_with_logits(logits, 0.8 * TRAITS + 0.1)
    torch.testing.assert_close(MultiLabel(3).hard_loss(rows, of_rows.target, smoothing=0.2), expected)


def test_a_batch_without_a_label_counts_for_nothing() -> None:
    output = Tokens(3)
    nothing, logits = torch.full((2, 4), -100), draw(2, 4, 3)
    rows, _ = output.as_rows(logits, batch_of(nothing))
    assert len(rows) == 1 and output.count_rows(nothing, rows) == 0
    rows, _ = output.as_rows(logits, batch_of(TAGS))
    assert output.count_rows(TAGS, rows) == len(rows) == 5
    one = torch.full((2, 4), -100)
    one[0, 0] = 1
    rows, _ = output.as_rows(logits, batch_of(one))
    assert output.count_rows(one, rows) == len(rows) == 1


def test_bits_per_byte_are_those_of_the_valid_tokens_and_of_the_bytes_they_stand_for() -> None:
    # By hand: probabilities 1/2, 1/4 and 1/8 of the labels are 1 + 2 + 3 bits, of 1, 3 and 0 bytes.
    logits = torch.tensor([[[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]], [[0.125, 0.75, 0.125], [1.0, 1.0, 1.0]]]).log()
    labels = torch.tensor([[0, 1], [2, -100]])
    output = Tokens(3, class_bytes=[1, 3, 0])
    assert list(output.metric_directions) == list(output.metrics(3)) == ["accuracy", "perplexity", "bits_per_byte"]
    metric, direction = output.metrics(3)["bits_per_byte"]
    for place in range(2):  # in two batches
        metric.update(*output.metric_inputs(logits[place : place + 1], labels[place : place + 1]))
    assert direction == "minimize" and float(metric.compute()) == pytest.approx(6 / 4)
    assert math.isnan(float(output.metrics(3)["bits_per_byte"][0](logits[1, :1], labels[1, :1])))  # of no byte at all
    assert list(Tokens(3).metrics(3)) == list(Tokens(3).metric_directions) == ["accuracy", "perplexity"]


def test_bytes_of_classes_that_are_no_numbers_of_them_are_refused() -> None:
    for bad in ([], [1, -1], [0, 0], [1, 1.5]):
        with pytest.raises(ValueError, match="class_bytes must be whole numbers of at least 0, and not all 0"):
            Tokens(class_bytes=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class_bytes must hold a number for each of the 3 classes, but hold 2"):
        Tokens(3, class_bytes=[1, 2])
    with pytest.raises(ValueError, match="class_bytes must hold a number for each of the 4 classes, but hold 2"):
        Tokens(class_bytes=[1, 2]).metrics(4)


def test_perplexity_stays_a_number_however_wrong_a_token_is() -> None:
    metric, _ = Tokens(3).metrics(3)["perplexity"]
    logits = torch.tensor([[[5.0, 0.0, 0.0], [200.0, 0.0, 0.0]]])
    found = float(metric(*Tokens(3).metric_inputs(logits, torch.tensor([[0, 1]]))))
    expected = F.cross_entropy(logits[0].double(), torch.tensor([0, 1])).exp()
    assert found == pytest.approx(float(expected), rel=1e-5) and math.isfinite(found)


def test_targets_of_views_of_several_labels_are_probabilities_of_each() -> None:
    output, labels = MultiLabel(3), TRAITS.long()
    assert output.view_targets_fault(0.5 * TRAITS, labels, 3) is None and output.are_mixed(0.5 * TRAITS)
    assert output.view_targets_fault(TRAITS, labels, 3) is None and not output.are_mixed(TRAITS)
    assert "from 0 to 1, but got" in str(output.view_targets_fault(5 * TRAITS, labels, 3))
    assert Classification(3).are_mixed(torch.eye(3)) and not Segmentation(3).are_mixed(MASKS)


def test_labels_have_two_names_each() -> None:
    assert MultiLabel(2).names_of_classes(("a", "not a")) == ("a: no", "a: yes", "not a: no", "not a: yes")


def test_methods_know_which_outputs_they_need() -> None:
    needs = {name: (one.needs_classes, one.needs_values, one.needs_one_row) for name, one in METHODS.items()}
    assert needs["soft_target"] == needs["decoupled"] == (True, False, False)
    assert needs["contrastive"] == needs["self_distillation"] == (True, False, True)
    assert needs["teacher_values"] == needs["bounded_regression"] == (False, True, False)
    assert needs["hint"] == needs["relation"] == (False, False, False)  # they compare layers


@pytest.mark.parametrize(
    ("output", "labels", "told"),
    [
        (MultiLabel(), torch.tensor([1, 0]), "one column a label"),
        (MultiLabel(3), torch.zeros(2, 4), "but 3 labels were declared"),
        (MultiLabel(), torch.tensor([[0.5, 1.0]]), "0.5 among them"),
        (MultiLabel(), torch.zeros(2, 4, dtype=torch.float64), "call .float()"),
        (Regression(), torch.zeros(3), ".unsqueeze(1)"),
        (Regression(), torch.zeros(3, 1, dtype=torch.int64), "call .float()"),
        (Regression(2), torch.zeros(3, 1), "but 2 values were declared"),
        (Segmentation(3), torch.zeros(2, 4, 4), "call .long()"),
        (Segmentation(3), torch.full((2, 4, 4), 7), "7, but there are 3 classes"),
        (Segmentation(3), torch.full((2, 4, 4), 255), "nothing but 255"),
        (Segmentation(3), torch.full((2, 4, 4), -1), "-1; what has no label must be 255"),
        (Segmentation(3), torch.zeros(2, dtype=torch.int64), "shape (2,)"),
        (Tokens(), torch.full((2, 3), -1), "-1; what has no label must be -100"),
        (Classification(), torch.tensor([0, -100]), "the smallest -100: count classes from 0"),
        (Classification(), torch.zeros(2, 1, dtype=torch.long), "shape (2, 1) and torch.int64: .flatten() drops"),
        (Classification(3), torch.tensor([0, 3]), "3, but there are 3 classes, counted from 0"),
        (Classification(), torch.eye(2), "argmax(1) makes some"),
        (Classification(), torch.tensor([0.0, 1.0]), "float32: .long() makes some"),
        (Classification(), torch.tensor([0.0, float("nan")]), "not whole numbers"),
        (Classification(), torch.tensor([True, False]), "bool: .long()"),
        (Classification(), torch.zeros(3, dtype=torch.int32), "int32: .long()"),
    ],
)
def test_labels_of_another_kind_are_refused_with_what_to_do(output: Output, labels: Tensor, told: str) -> None:
    fault = output.labels_fault(labels)
    assert fault is not None and told in fault


@pytest.mark.parametrize(
    "make",
    [
        lambda: Classification(1),
        lambda: Classification(True),
        lambda: Classification(3, class_weights=(1.0, 2.0)),
        lambda: Classification(2, class_weights=(-1.0, 2.0)),
        lambda: Classification(2, class_weights="even"),  # type: ignore[arg-type]
        lambda: MultiLabel(0),
        lambda: MultiLabel(2, class_weights=(0.0, 1.0)),
        lambda: MultiLabel(2, class_weights="even"),  # type: ignore[arg-type]
        lambda: Regression(0),
    ],
)
def test_arguments_out_of_their_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must"):
        make()  # type: ignore[operator]


def test_the_mean_of_several_networks_of_labels_is_the_logit_of_the_mean_probability() -> None:
    members = [torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, -40.0]])]
    mean = torch.stack([member.sigmoid() for member in members]).mean(0)
    torch.testing.assert_close(MultiLabel().ensemble_logits(members, "probabilities"), mean.logit())
    numbers = Regression().ensemble_logits([torch.tensor([[1.0]]), torch.tensor([[2.0]])], "probabilities")
    assert numbers.tolist() == [[1.5]]


def test_the_mean_of_several_networks_of_masks_is_taken_over_their_classes() -> None:
    members = [draw(2, 3, 4, 4, seed=seed) for seed in (0, 1)]
    found = Segmentation(3).ensemble_logits(members, "probabilities").softmax(1)
    torch.testing.assert_close(found, torch.stack([member.softmax(1) for member in members]).mean(0))


def test_probabilities_in_place_of_logits_are_seen_by_kind() -> None:
    assert Classification().looks_softmaxed(draw(5, 3).softmax(1)) and not Classification().looks_softmaxed(draw(5, 3))
    assert Segmentation(3).looks_softmaxed(draw(2, 3, 4, 4).softmax(1))
    assert MultiLabel().looks_softmaxed(draw(5, 3).sigmoid()) and not MultiLabel().looks_softmaxed(draw(5, 3))
    assert not Regression().looks_softmaxed(torch.rand(5, 1))
