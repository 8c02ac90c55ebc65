"""Training students and teachers under a real Trainer, beside a bare loop and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.batch import Batch
from lightning_modules.classifier import ClassifierModule, StudentModule, TeacherModule
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.features import Features
from lightning_modules.methods import Criterion, DistillationCriterion, Term
from lightning_modules.networks import ConvNet
from lightning_modules.training import Training

# Lightning's, of a choice that is meant: batches are cut on their device, so the module moves none.
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning")

TRAIN, VAL, FEATURES, CLASSES, BATCH = 10, 7, 4, 3, 4
ALPHA, TEMPERATURE, LEARNING_RATE, WEIGHT_DECAY = 0.3, 4.0, 0.05, 0.01


def some_data(*, teacher: bool = True) -> TensorDataModule:
    """10 training samples in batches of 4, 4 and 2; 7 validation samples in batches of 5 and 2."""
    draw = torch.Generator().manual_seed(1)

    def split(size: int) -> Split:
        return Split(torch.randn(size, FEATURES, generator=draw), torch.randint(CLASSES, (size,), generator=draw))

    data = TensorDataModule(train=split(TRAIN), val=split(VAL), test=split(2), batch_size=BATCH, eval_batch_size=5)
    if teacher:
        data.attach(
            {
                "train": {"logits": 3 * torch.randn(TRAIN, CLASSES, generator=draw)},
                "val": {"logits": 3 * torch.randn(VAL, CLASSES, generator=draw)},
            }
        )
    return data


def settings(total_steps: int) -> dict[str, object]:
    return {
        "metrics": {"accuracy": MulticlassAccuracy(num_classes=CLASSES, average="micro")},
        "total_steps": total_steps,
        "settings": Training(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
    }


def a_student(network: nn.Module, total_steps: int) -> StudentModule:
    criterion = DistillationCriterion(temperature=TEMPERATURE, alpha=ALPHA)
    return StudentModule(network, criterion, **settings(total_steps))  # type: ignore[arg-type]


def linear(*, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(FEATURES, CLASSES)


def fit(module: ClassifierModule, data: TensorDataModule, *, epochs: int = 1) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def terms_by_scipy(logits: Tensor, labels: Tensor, teacher: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hard and soft loss of each sample, in float64."""
    student, target = logits.detach().double().numpy(), teacher.double().numpy()
    hard = -log_softmax(student, axis=1)[np.arange(len(labels)), labels.numpy()]
    soft = rel_entr(softmax(target / TEMPERATURE, axis=1), softmax(student / TEMPERATURE, axis=1)).sum(axis=1)
    return hard, TEMPERATURE**2 * soft


def trained_by_a_bare_loop(network: nn.Linear, data: TensorDataModule, epochs: int) -> float:
    """Train; the hard loss of the last epoch, a mean over its samples."""
    split, teacher = data.splits["train"], data.teacher_outputs["train"]["logits"]
    parts = [batch.ids for item in data.train_dataloader() for batch in item]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * len(parts))
    hard_losses = []
    for ids in parts * epochs:
        logits = network(split.inputs[ids])  # type: ignore[index]
        target = torch.softmax(teacher[ids] / TEMPERATURE, dim=1)
        hard = -torch.log_softmax(logits, dim=1)[torch.arange(len(ids)), split.labels[ids]].mean()
        soft = (target * (target.log() - torch.log_softmax(logits / TEMPERATURE, dim=1))).sum(dim=1).mean()
        optimizer.zero_grad()
        (ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * soft).backward()
        optimizer.step()
        schedule.step()
        hard_losses.append(float(hard.detach()) * len(ids))
    return sum(hard_losses[-len(parts) :]) / len(split)


def test_a_student_ends_with_the_weights_and_the_loss_of_a_bare_loop() -> None:
    data, epochs = some_data(), 2
    module, bare = a_student(linear(), total_steps=6), linear()
    fit(module, data, epochs=epochs)
    hard_loss = trained_by_a_bare_loop(bare, data, epochs)
    trained = module.network
    assert isinstance(trained, nn.Linear)
    assert (trained.weight - linear().weight).abs().max() > 0.01
    torch.testing.assert_close(trained.weight, bare.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trained.bias, bare.bias, rtol=1e-5, atol=1e-6)
    assert module.epoch_metrics["train/hard_loss"] == pytest.approx(hard_loss, rel=1e-5)  # of the last epoch alone


@pytest.mark.parametrize("epochs", [1, 3])
def test_each_batch_is_one_optimizer_step_and_one_step_of_the_schedule(epochs: int) -> None:
    steps = 3 * epochs  # 10 samples in batches of 4
    trainer = fit(a_student(linear(), total_steps=steps), some_data(), epochs=epochs)
    (optimizer,) = trainer.optimizers
    assert {int(state["step"]) for state in optimizer.state.values()} == {steps}
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == steps


@pytest.mark.parametrize(
    ("total_steps", "rates"),
    # cos(pi k / n): a training that is too short to warm up begins at its rate
    [(1, [1.0]), (2, [1.0, 0.5]), (3, [1.0, 0.75, 0.25])],
)
def test_a_training_of_few_steps_takes_them_at_its_learning_rate(total_steps: int, rates: list[float]) -> None:
    configured = a_student(linear(), total_steps=total_steps).configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[index, call-overload]
    seen = []
    for _ in range(total_steps):
        seen.append(optimizer.param_groups[0]["lr"] / LEARNING_RATE)
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates)


def test_a_training_of_many_steps_reaches_its_learning_rate_after_a_warm_up() -> None:
    configured = a_student(linear(), total_steps=11).configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[index, call-overload]
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(LEARNING_RATE / 25) and rates[2] < max(rates)
    assert max(rates) == pytest.approx(LEARNING_RATE, rel=0.05) and rates[-1] < 1e-3 * LEARNING_RATE


def test_the_logged_loss_is_the_weighted_sum_of_the_logged_terms() -> None:
    module = a_student(linear(), total_steps=3)
    fit(module, some_data())
    logged = module.epoch_metrics
    for part in ("train", "val"):
        expected = ALPHA * logged[f"{part}/hard_loss"] + (1 - ALPHA) * logged[f"{part}/soft_loss"]
        assert logged[f"{part}/loss"] == pytest.approx(expected, rel=1e-6)
    assert logged["train/hard_loss"] != pytest.approx(logged["train/soft_loss"], rel=1e-2)


def test_training_terms_are_means_over_the_samples_though_the_last_batch_is_small() -> None:
    data, module = some_data(), a_student(linear(), total_steps=3)
    module.settings = Training(learning_rate=1e-12)  # the weights stay: the whole epoch can be worked out at once
    fit(module, data)
    split = data.splits["train"]
    hard, soft = terms_by_scipy(linear()(split.inputs), split.labels, data.teacher_outputs["train"]["logits"])
    assert module.epoch_metrics["train/hard_loss"] == pytest.approx(hard.mean(), rel=1e-5)
    assert module.epoch_metrics["train/soft_loss"] == pytest.approx(soft.mean(), rel=1e-5)


def test_validation_uses_the_last_weights_and_every_sample_once() -> None:
    data, logged = some_data(), []
    for epochs in (1, 2):
        module = a_student(linear(seed=5), total_steps=6)
        module.settings = Training(learning_rate=0.3)
        fit(module, data, epochs=epochs)
        logged.append(module.epoch_metrics)
    split, teacher = data.splits["val"], data.teacher_outputs["val"]["logits"]
    logits = module.network(split.inputs)
    hard, soft = terms_by_scipy(logits, split.labels, teacher)
    guesses = logits.detach().numpy().argmax(axis=1)
    expected = {
        "val/hard_loss": hard.mean(),
        "val/soft_loss": soft.mean(),
        "val/accuracy": (guesses == split.labels.numpy()).mean(),
        "val/agreement": (guesses == teacher.numpy().argmax(axis=1)).mean(),
    }
    assert {name: logged[1][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert all(logged[0][name] != logged[1][name] for name in expected)  # or the first epoch's could hide in them


def test_a_students_state_holds_its_network_and_no_teacher() -> None:
    network = nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Upsample(scale_factor=2), ConvNet(2, size=4, classes=CLASSES)
    )
    module = a_student(network, total_steps=3)
    trainer = fit(module, some_data())
    assert set(module.state_dict()) == {f"network.{name}" for name in network.state_dict()}
    trained = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in network.parameters()}


def test_batch_norm_learns_from_training_batches_and_not_from_validation() -> None:
    norm = nn.BatchNorm1d(FEATURES, momentum=None)  # a plain mean over the batches that it has seen in train mode
    module, data = a_student(nn.Sequential(norm, linear()), total_steps=3), some_data()
    fit(module, data)
    batches = [batch.inputs for item in data.train_dataloader() for batch in item]
    expected = np.mean([inputs.numpy().mean(axis=0) for inputs in batches if isinstance(inputs, Tensor)], axis=0)
    assert norm.running_mean is not None and int(norm.num_batches_tracked or 0) == 3
    np.testing.assert_allclose(norm.running_mean.numpy(), expected, atol=1e-6)


def test_a_teacher_is_trained_without_teacher_outputs() -> None:
    module = TeacherModule(linear(), **settings(3))
    fit(module, some_data(teacher=False))
    assert set(module.epoch_metrics) == {
        "train/loss", "train/hard_loss", "val/loss", "val/hard_loss", "val/accuracy",
    }  # fmt: skip
    assert module.epoch_metrics["train/loss"] == module.epoch_metrics["train/hard_loss"]


class Warming(Criterion):
    """A term whose weight is another one at each step."""

    def __init__(self, names: tuple[str, ...] = ("cost",)) -> None:
        super().__init__()
        self.names, self.steps = names, 0

    def forward(self, logits: Tensor, batch: Batch, features: Features | None = None) -> dict[str, Term]:
        self.steps += 1
        name = self.names[min(self.steps, len(self.names)) - 1]
        return {name: Term(float(self.steps), 0 * logits.sum() + 2.0)}


def test_the_logged_loss_is_what_was_optimised_where_weights_change_within_an_epoch() -> None:
    module = StudentModule(linear(), Warming(), **settings(3))  # type: ignore[arg-type]
    module.on_train_epoch_start()
    for batch in (batch for item in some_data().train_dataloader() for batch in item):
        module._training.add(module.terms(batch), len(batch.ids))
    logged = module._training.compute()
    # Batches of 4, 4 and 2 samples with weights 1, 2 and 3 of a term that is 2.
    assert logged == {"loss": pytest.approx((4 * 1 * 2 + 4 * 2 * 2 + 2 * 3 * 2) / 10), "cost": pytest.approx(2.0)}


def test_terms_that_come_and_go_within_an_epoch_are_refused() -> None:
    module = StudentModule(linear(), Warming(("cost", "other")), **settings(3))  # type: ignore[arg-type]
    module.on_train_epoch_start()
    with pytest.raises(ValueError, match="must give the same terms for each batch, but gave cost, and then other"):
        for batch in (batch for item in some_data().train_dataloader() for batch in item):
            module._training.add(module.terms(batch), len(batch.ids))
