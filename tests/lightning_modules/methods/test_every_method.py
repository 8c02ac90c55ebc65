"""What holds for every method: each parameter moves the student's gradient, and what is learned comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.batch import Batch
from lightning_modules.classifier import StudentModule, weighted_sum
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import capture_features
from lightning_modules.methods import METHODS, Criterion, make_criterion
from lightning_modules.networks import ConvNet
from lightning_modules.outputs import Regression
from lightning_modules.training import Training

LAYERS = {"student_layer": "block1", "teacher_layer": "block1"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "soft_target": {"temperature": 3.0, "alpha": 0.3},
    "reverse_kl": {"temperature": 3.0, "alpha": 0.3},
    "jsd": {"beta": 0.7, "temperature": 3.0, "alpha": 0.3},
    "skewed_kl": {"skew": 0.2, "temperature": 3.0, "alpha": 0.3},
    "standardized": {"temperature": 3.0, "alpha": 0.3},
    "decoupled": {"temperature": 3.0, "target_weight": 1.5, "non_target_weight": 4.0},
    "correlation": {"temperature": 3.0, "inter_weight": 2.0, "intra_weight": 0.5},
    "hint": {"hint_weight": 3.0, **LAYERS},
    "attention_transfer": {"attention_weight": 50.0, **LAYERS},
    "relation": {"distance_weight": 25.0, "angle_weight": 50.0, **LAYERS},
    "similarity_preserving": {"similarity_weight": 500.0, **LAYERS},
    "probabilistic_transfer": {"probabilistic_weight": 3000.0, **LAYERS},
    "contrastive": {"contrastive_weight": 0.5, "contrastive_temperature": 0.2, **LAYERS},
    "self_distillation": {"trust": 0.8},
    "label_smoothing": {"smoothing": 0.1},
    "teacher_values": {"alpha": 0.3},
    "bounded_regression": {"bounded_weight": 0.5, "margin": 12.0},
}
OF_NUMBERS = [name for name, method in METHODS.items() if method.needs_values]
EACH = [(method, name) for method, given in PARAMETERS.items() for name in given]
BATCH, CLASSES = 6, 4


def some_data(method: str = "soft_target") -> TensorDataModule:
    """12 training samples of 8x8 pixels, and what a teacher's two blocks and logits gave for each."""
    draw = torch.Generator().manual_seed(3)

    def split(size: int) -> Split:
        labels = torch.arange(size) % CLASSES
        numbers = nn.functional.one_hot(labels, CLASSES).float()
        return Split(torch.rand(size, 1, 8, 8, generator=draw), numbers if method in OF_NUMBERS else labels)

    def outputs(size: int) -> dict[str, Tensor]:
        return {
            "logits": 4 * torch.randn(size, CLASSES, generator=draw),
            "block1": torch.rand(size, 5, 4, 4, generator=draw),
            "block2": torch.rand(size, 10, 2, 2, generator=draw),
        }

    data = TensorDataModule(train=split(12), val=split(8), test=split(4), batch_size=BATCH)
    data.attach({"train": outputs(12), "val": outputs(8)})
    return data


def a_student(seed: int = 0) -> ConvNet:
    torch.manual_seed(seed)
    return ConvNet(3, size=8, classes=CLASSES)


def set_up(method: str, student: nn.Module, data: TensorDataModule, **changed: Any) -> Criterion:
    criterion = make_criterion(method, **{**PARAMETERS[method], **changed})
    if method in OF_NUMBERS:
        criterion.output = Regression()
    criterion.setup(student, data, epochs=2)
    data.teacher_layers = criterion.teacher_layers
    return criterion


def batches(data: TensorDataModule) -> Iterator[Batch]:
    return (batch for item in data.train_dataloader() for batch in item)


def loss_of(criterion: Criterion, student: nn.Module, batch: Batch) -> Tensor:
    with capture_features(student, criterion.student_layers) as features:
        logits = student(batch.inputs)
    return weighted_sum(criterion(logits, batch, features))


def gradient(method: str, **changed: Any) -> Tensor:
    """Of the student's first weights in the second epoch, what is random drawn alike."""
    data, student = some_data(method), a_student()
    criterion = set_up(method, student, data, **changed)
    for batch in batches(data):
        loss_of(criterion, student, batch)
    criterion.end_epoch()
    torch.manual_seed(1)
    loss_of(criterion, student, next(batches(data))).backward()
    found = student.block1[0].weight.grad
    assert found is not None
    return found


def test_every_method_is_tested_here() -> None:
    assert set(PARAMETERS) == set(METHODS)


@pytest.mark.parametrize(("method", "name"), EACH)
def test_every_parameter_of_a_method_changes_the_gradient(method: str, name: str) -> None:
    value = PARAMETERS[method][name]
    other = "block2" if isinstance(value, str) else 0.5 * value
    assert float((gradient(method) - gradient(method, **{name: other})).abs().max()) > 1e-3


@pytest.mark.parametrize("method", [method for method in METHODS if method not in OF_NUMBERS])
def test_label_smoothing_reaches_the_loss_of_every_method_in_training_alone(method: str) -> None:
    def loss(smoothing: float, *, training: bool) -> Tensor:
        data, student = some_data(), a_student()
        module = StudentModule(
            student,
            set_up(method, student, data),
            metrics={"accuracy": MulticlassAccuracy(num_classes=CLASSES)},
            total_steps=1,
            settings=Training(label_smoothing=smoothing),
        ).train(training)
        module.criterion.begin_epoch(0)
        batch = next(batches(data) if training else iter(next(iter(data.ordered("val")))))
        return weighted_sum(module.terms(batch)).detach()

    assert float((loss(0.0, training=True) - loss(0.2, training=True)).abs()) > 1e-3
    assert torch.equal(loss(0.0, training=False), loss(0.2, training=False))


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, n in EACH if not n.endswith("_layer")])
def test_a_method_parameter_out_of_its_range_is_refused(method: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must .* but got {name}=-1"):
        make_criterion(method, **{**PARAMETERS[method], name: -1.0})


@pytest.mark.parametrize("method", METHODS)
def test_a_student_starts_with_the_same_weights_and_modes_for_every_method(method: str) -> None:
    data, student = some_data(), a_student()
    student.block2.eval()
    modes = [module.training for module in student.modules()]
    set_up(method, student, data)
    assert [module.training for module in student.modules()] == modes
    fresh = a_student().state_dict()
    assert student.state_dict().keys() == fresh.keys()
    assert all(torch.equal(value, fresh[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_parameters_are_drawn_from_the_seed_and_get_a_gradient(method: str) -> None:
    data, student = some_data(method), a_student()
    learned = [set_up(method, a_student(seed), data).state_dict() for seed in (0, 0, 1)]
    criterion = set_up(method, student, data)
    assert bool(list(criterion.parameters())) == (method in ("hint", "contrastive"))
    for name, _ in criterion.named_parameters():
        assert torch.equal(learned[0][name], learned[1][name]) and not torch.equal(learned[0][name], learned[2][name])
    loss_of(criterion, student, next(batches(data))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in criterion.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_method_does_not_draw_from_the_global_generator(method: str) -> None:
    data, student = some_data(method), a_student().eval()  # without dropout, what is drawn is the criterion's
    criterion = set_up(method, student, data)
    criterion.begin_epoch(0)
    before = torch.get_rng_state()
    for batch in data.ordered("val"):
        loss_of(criterion, student, batch[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", METHODS)
def test_terms_are_named_alike_and_hard_loss_is_that_of_the_labels(method: str) -> None:
    data, student = some_data(method), a_student().eval()
    criterion, batch = set_up(method, student, data), next(batches(data))
    with capture_features(student, criterion.student_layers) as features:
        logits = student(batch.inputs)
    terms = criterion(logits, batch, features)
    assert set(terms) == {"hard_loss", "soft_loss"}
    hard_loss = nn.functional.mse_loss if method in OF_NUMBERS else nn.functional.cross_entropy
    torch.testing.assert_close(terms["hard_loss"].value.detach(), hard_loss(logits, batch.target))


@pytest.mark.parametrize("method", METHODS)
def test_batches_hold_only_the_outputs_that_the_method_needs(method: str) -> None:
    data, student = some_data(), a_student()
    layers = {"block1"} if "teacher_layer" in PARAMETERS[method] else set()
    set_up(method, student, data)
    for loader in (data.train_dataloader(), data.ordered("val")):
        assert all(set(batch.teacher) == {"logits"} | layers for item in loader for batch in item)


@pytest.mark.parametrize("method", [m for m, given in PARAMETERS.items() if "student_layer" in given])
def test_a_layer_that_a_student_lacks_is_reported_with_the_existing_ones(method: str) -> None:
    known = "block1, block1.0, block1.1, block1.2, block1.3, block2, .*, flatten, dropout, classifier"
    with pytest.raises(ValueError, match=f"^a layer must be one of {known}, but got 'block3'.$"):
        set_up(method, a_student(), some_data(), student_layer="block3")
