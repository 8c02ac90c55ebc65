"""How a configuration's student is built and trained: by its method, or by its own code, of the same seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.core.errors import TrialFailed
from harness.space import Configuration, SearchSpace
from harness.students.training import MethodTraining, ModuleTraining, StudentTraining, student_training
from harness.task import Task
from lightning_modules.batch import Batch
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.losses import distillation_loss
from lightning_modules.outputs import Classification

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`:UserWarning")


def some_data() -> TensorDataModule:
    draw = torch.Generator().manual_seed(1)

    def split(size: int) -> Split:
        return Split(torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw))

    data = TensorDataModule(train=split(24), val=split(7), test=split(2), batch_size=8)
    data.attach({name: {"logits": torch.randn(n, 3, generator=draw)} for name, n in (("train", 24), ("val", 7))})
    return data


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 3))


class Own(pl.LightningModule):
    """Distils as the default method does, by plain SGD."""

    def __init__(self, width: int, temperature: float, alpha: float) -> None:
        super().__init__()
        self.net, self.loss = network(width), {"temperature": temperature, "alpha": alpha}

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.net(x))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.log("accuracy", 0.25)
        self.log("agreement", 0.5)
        return distillation_loss(self(batch.inputs), batch.teacher["logits"], batch.target, **self.loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Base(Task):
    output = Classification(3)
    data: Callable[..., Any] = lambda self, data_dir: some_data()
    teacher: Callable[..., Any] = lambda self: nn.Linear(4, 3)


class ByMethod(Base):
    def student(self, *, width: int) -> nn.Module:
        return network(width)


class ByItself(Base):
    def module(self, *, width: int, temperature: float, alpha: float) -> pl.LightningModule:
        return Own(width, temperature, alpha)


CONFIGURATION = Configuration({"width": 5}, {"temperature": 4.0, "alpha": 0.3}, {})


def a_training(
    task: Task,
    *,
    seed: int = 1,
    order_seed: int = 2,
    is_taught: bool = True,
    alpha: float = 0.3,
    data: TensorDataModule | None = None,
) -> StudentTraining:
    space = SearchSpace(
        task=task,
        student={"width": IntDistribution(2, 8)},
        distillation={"temperature": FloatDistribution(1, 9), "alpha": FloatDistribution(0, 1)},
        epochs=2,
    )
    values = {**CONFIGURATION.distillation, "alpha": alpha}
    configuration = replace(CONFIGURATION, distillation=values)
    if not is_taught:
        configuration = space.labels_alone(configuration)
    data = some_data() if data is None else data
    return student_training(configuration, space, data, classes=3, seed=seed, order_seed=order_seed)


@pytest.mark.parametrize(("task", "kind"), [(ByMethod(), MethodTraining), (ByItself(), ModuleTraining)])
def test_a_student_is_trained_as_its_task_says_from_its_seeds_alone(task: Task, kind: type, tmp_path: Path) -> None:
    assert isinstance(a_training(task), kind)

    def digest(place: str, **seeds: int) -> str:
        (tmp_path / place).mkdir()
        return tensors_digest(a_training(task, **seeds).run(tmp_path / place, "cpu").state_dict())

    first = digest("first")
    torch.rand(3)
    assert digest("again") == first and len({first, digest("seed", seed=3), digest("order", order_seed=3)}) == 3


def test_a_module_is_built_of_all_parameters_and_logs_beside_the_names_of_a_runs_metrics(tmp_path: Path) -> None:
    found: dict[int, dict[str, float]] = {}
    training = a_training(ByItself())
    assert isinstance(training.module, Own) and training.module.loss == {"temperature": 4.0, "alpha": 0.3}
    student = training.run(tmp_path, "cpu", [found.__setitem__])
    assert student is training.module and list(found) == [0, 1]
    assert found[1]["own/accuracy"] == 0.25 and found[1]["own/agreement"] == 0.5
    assert {"train/loss", "val/accuracy", "val/agreement", "own/accuracy", "own/agreement"} == found[1].keys()


def test_a_control_of_a_module_has_no_teacher_at_hand(tmp_path: Path) -> None:
    training = a_training(ByItself(), is_taught=False)
    assert isinstance(training.module, Own) and training.module.loss == {"temperature": 4.0, "alpha": 1.0}
    with pytest.raises(TrialFailed, match="no control is possible"):
        training.run(tmp_path, "cpu")


@pytest.mark.parametrize("task", [ByMethod(), ByItself()])
@pytest.mark.parametrize(("alpha", "is_taught"), [(0.3, True), (1.0, True), (0.3, False)])
def test_what_learns_from_labels_alone_is_shown_the_labelled_samples_in_as_many_steps(
    task: Task, alpha: float, is_taught: bool
) -> None:
    data = some_data()
    train = data.splits["train"]
    labels = train.labels.where(torch.arange(24) % 4 == 0, -100)
    data.splits["train"] = Split(train.inputs, labels)
    data.is_labelled = task.output.is_labelled
    own = a_training(task, alpha=alpha, is_taught=is_taught, data=data)._data  # type: ignore[attr-defined]
    shown = torch.cat([batch.ids for item in own.train_dataloader() for batch in item])
    from_labels_alone = alpha == 1 or not is_taught
    assert len(shown) == 24 and own.steps_per_epoch == 3
    assert sorted(set(shown.tolist())) == (list(range(0, 24, 4)) if from_labels_alone else list(range(24)))
    assert (shown.bincount()[::4] == (4 if from_labels_alone else 1)).all()
