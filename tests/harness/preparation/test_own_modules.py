"""Students that train themselves are trained on few samples first, as they are, resumed, and as controls."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

from harness.core.errors import HarnessError, Unfit
from harness.networks.students import build_student
from harness.preparation.mixing import MODULE_REMEDY, REMEDY, remedy_of
from harness.preparation.own_modules import OwnTraining, check_own_training
from harness.preparation.sanity_warnings import training_warnings
from harness.space import SearchSpace
from harness.students.training import student_training
from harness.task import Task
from lightning_modules.batch import Batch
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views
from lightning_modules.initial import Origins
from lightning_modules.losses import distillation_loss
from lightning_modules.outputs import Classification


class Own(pl.LightningModule):
    def __init__(self, width: int, alpha: float, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.net(x))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        logits, alpha = self(batch.inputs), self.hparams["alpha"]
        if alpha == 1:
            return nn.functional.cross_entropy(logits, batch.target)
        return distillation_loss(logits, batch.teacher["logits"], batch.target, alpha=alpha, temperature=2.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Noise(Views):
    def of(self, inputs: Any, ids: Tensor, view: int) -> Tensor:
        return torch.as_tensor(inputs + 0.1 * view)


def some_data(views: Views | None = None) -> TensorDataModule:
    draw = torch.Generator().manual_seed(1)

    def split(size: int) -> Split:
        return Split(torch.randn(size, 4, generator=draw), torch.randint(3, (size,), generator=draw))

    return TensorDataModule(train=split(100), val=split(20), test=split(5), batch_size=16, views=views)


class OwnTask(Task):
    output = Classification(3)
    data: Callable[..., Any] = lambda self, data_dir: some_data()
    teacher: Callable[..., Any] = lambda self: nn.Linear(4, 3)

    def module(self, *, width: int, alpha: float, lr: float) -> pl.LightningModule:
        return Own(width, alpha, lr)


def a_space(form: Any = Own, task: type[Task] = OwnTask, highest: float = 1.0, **attributes: Any) -> SearchSpace:
    attributes = {"module": lambda self, *, width, alpha, lr: form(width, alpha, lr), **attributes}
    return SearchSpace(
        task=type("Mine", (task,), attributes)(),
        student={"width": IntDistribution(2, 6)},
        distillation={"alpha": FloatDistribution(0, highest)},
        training={"lr": FloatDistribution(0.01, 0.1)},
    )


@contextlib.contextmanager
def unattributed(what: str) -> Iterator[None]:
    yield


def found_of(space: SearchSpace, data: TensorDataModule | None = None) -> OwnTraining:
    data = some_data() if data is None else data
    return check_own_training(space, data, unattributed, classes=3, accelerator="cpu")


def test_a_module_that_can_be_trained_is_and_leaves_no_trace() -> None:
    data, state = some_data(), torch.get_rng_state()
    found = found_of(a_space(), data)
    assert found == OwnTraining("", ["SGD"], []) and not found.warnings
    assert str(found) == "by module() itself, with SGD"
    assert torch.equal(torch.get_rng_state(), state)
    assert not data.teacher_outputs and len(data.splits["train"]) == 100 and data.batch_size == 16


def test_views_are_trained_on_too() -> None:
    assert found_of(a_space(), some_data(Noise(count=2))).no_control == ""


def test_a_module_is_handed_the_teacher_and_starts_from_it() -> None:
    class Handed(OwnTask):
        teacher: Callable[..., Any] = lambda self: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))

    def module(self: Task, *, width: int, alpha: float, lr: float, teacher: nn.Module) -> pl.LightningModule:
        assert not teacher.training
        return Own(width, alpha, lr)

    space = replace(
        a_space(task=Handed, module=module), initial={"start": CategoricalDistribution(["pruned", "scratch"])}
    )
    data, teacher = some_data(), Handed().teacher()
    data.origins = Origins(teacher.eval())
    assert found_of(space, data).no_control == ""
    configuration = space.configuration(space.middle())
    training = student_training(configuration, space, data, classes=3, seed=0, order_seed=0)
    assert training.started is not None and training.started.unmatched == ()
    assert torch.equal(training.module.state_dict()["net.2.bias"], teacher.state_dict()["2.bias"])
    control = student_training(space.labels_alone(configuration), space, data, classes=3, seed=0, order_seed=0)
    assert all(torch.equal(v, control.module.state_dict()[k]) for k, v in training.module.state_dict().items())


class Reads(Own):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        theirs = batch.teacher["logits"]
        return super().training_step(batch, batch_idx) + 0 * theirs.sum()


class Asks(Reads):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return Own.training_step(self, batch, batch_idx) if batch.teacher.get("logits") is not None else None


class Late(Own):
    """Reads the teacher where it validates."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/teacher", batch.teacher["logits"].mean())


class Divides(Own):
    def __init__(self, width: int, alpha: float, lr: float) -> None:
        super().__init__(width, alpha, lr)
        self.share = alpha / (1 - alpha)


class Softens(Own):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) / (1 - self.hparams["alpha"])


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Reads, "module(alpha=1) reads batch.teacher['logits'] all the same"),
        (Asks, "module(alpha=1) reads batch.teacher.get('logits') all the same"),
        (Late, "module(alpha=1) reads batch.teacher['logits'] all the same"),
        (Divides, "module(alpha=1) fails: ZeroDivisionError: float division by zero"),
        (Softens, "module(alpha=1) can't be trained: train/loss is nan in epoch 0"),
    ],
)
def test_why_no_control_is_possible_is_known_beforehand(form: type[Own], reason: str) -> None:
    assert found_of(a_space(form, highest=0.9)).no_control == reason
    assert remedy_of(reason) == MODULE_REMEDY and remedy_of("the views mix samples") == REMEDY


def test_a_module_without_alpha_has_no_control() -> None:
    class Without(OwnTask):
        def module(self, *, width: int, lr: float) -> pl.LightningModule:  # type: ignore[override]
            return Own(width, 0.5, lr)

    space = SearchSpace(Without(), {"width": IntDistribution(2, 6)}, {}, {"lr": FloatDistribution(0.01, 0.1)})
    found = found_of(space)
    assert found.no_control == "module() takes no alpha, which is 1 in a control"


def test_parameters_that_no_optimizer_has_are_named() -> None:
    class Head(Own):
        def configure_optimizers(self) -> Any:
            self.net[0].bias.requires_grad_(False)
            return torch.optim.Adam(self.net[2].parameters())

    found = found_of(a_space(Head))
    assert found.optimizers == ["Adam"] and found.left_out == ["net.0.weight"]
    assert found.warnings == ["no optimizer of a student has net.0.weight, which training leaves as it is"]


class NoGraph(Own):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx).detach()


class NoScalar(Own):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self(batch.inputs)


class NotFinite(Own):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) / 0.0


class Nothing(Own):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)


class Counts(Own):
    """Keeps what decides on its loss in no checkpoint."""

    def __init__(self, width: int, alpha: float, lr: float) -> None:
        super().__init__(width, alpha, lr)
        self.steps = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.steps += 1
        return super().training_step(batch, batch_idx) / self.steps


class Stops(Own):
    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = True


class Unwritten(Own):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = object()


elsewhere = itertools.count()


class Draws(Own):
    """Draws from a source that nobody seeds."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + next(elsewhere) / 100)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (NoGraph, r"a loss of module\(\)'s training must be a finite number with a gradient, but has no gradient"),
        (NoScalar, r"must be a finite number with a gradient, but has the shape \[16, 3\]"),
        (NotFinite, r"must be a finite number with a gradient, but is inf"),
        (Nothing, r"module\(\)'s training_step must return a loss, but returns none; return it, or set automatic_opt"),
        (Counts, r"must train to the same student when it is resumed .*: its 'steps' changes in training and is in no"),
        (Draws, r"must train to the same student when it is resumed .*: something is lost; keep what changes"),
        (Stops, r"module\(\) can't be trained: the module must train for all 2 epochs.* but stopped after 1"),
        (Unwritten, r"module\(\) can't be trained: the state of the module, .* must be tensors"),
    ],
)
def test_a_module_that_can_not_be_trained_or_resumed_is_refused(form: type[Own], message: str) -> None:
    with pytest.raises(Unfit, match=message) as caught:
        found_of(a_space(form))
    assert "\n" not in str(caught.value)


def test_a_module_that_keeps_its_own_state_is_resumed() -> None:
    class Kept(Counts):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["steps"] = self.steps

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.steps = checkpoint["steps"]

    found_of(a_space(Kept))


class ByRate(Own):
    def __init__(self, width: int, alpha: float, lr: float) -> None:
        super().__init__(width, alpha, lr)
        self.more = nn.Linear(4, 1 + (lr > 0.08))


class Repeats(Own):
    """Calls a layer as often as alpha says: the state is the same, and the costs are not."""

    def forward(self, x: Tensor) -> Tensor:
        if self.hparams["alpha"] > 0.9:
            self.net[0](x)
        return super().forward(x)


@pytest.mark.parametrize(("form", "name"), [(ByRate, "lr=0.1"), (Repeats, "alpha=1.0")])
def test_what_is_costed_depends_on_the_architecture_alone(form: type[Own], name: str) -> None:
    with pytest.raises(
        Unfit, match=rf"must build the same network whatever .*, but builds another one with {name}; put .* the student"
    ):
        found_of(a_space(form))


def test_what_training_alone_needs_may_differ_where_deployed_leaves_it_out() -> None:
    found_of(a_space(ByRate, deployed=lambda self, student: student.net))


def test_an_error_of_the_module_passes() -> None:
    class Typo(Own):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return batch.labels  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="'Batch' object has no attribute 'labels'"):
        found_of(a_space(Typo))


def test_student_and_module_give_what_their_names_say() -> None:
    class ByMethod(Task):
        data = OwnTask.data
        teacher = OwnTask.teacher

        def student(self, *, width: int) -> nn.Module:
            return Own(width, 1.0, 0.1)

    loss = {"temperature": FloatDistribution(1, 2), "alpha": FloatDistribution(0, 1)}
    space = SearchSpace(ByMethod(), {"width": IntDistribution(2, 6)}, loss)
    with pytest.raises(
        Unfit, match=r"student\(width=3\) must give .*, but gives a LightningModule with a training_step.* call student"
    ):
        build_student(space, {"width": 3}, some_data())

    class Forward(pl.LightningModule):
        def __init__(self, *given: object) -> None:
            super().__init__()

    for form, said in ((Forward, "gives one without; define training_step"), (nn.Linear, "torch.nn.modules.linear.Li")):
        with pytest.raises(HarnessError, match=rf"must give a pytorch_lightning.LightningModule .*{said}"):
            build_student(a_space(lambda *given, form=form: form(2, 3)), {"width": 3}, some_data())


def test_hooks_of_a_module_that_are_not_called_are_named() -> None:
    class Tests(Own):
        def test_step(self, batch: Batch, batch_idx: int) -> None: ...

        def train_dataloader(self) -> Any: ...

        def on_train_epoch_end(self) -> None: ...

    (found,) = training_warnings(Tests(2, 0.5, 0.1), by_itself=True)
    assert found == "has test_step, train_dataloader, which will not be used: data and final scores are the task's"
    assert training_warnings(Own(2, 0.5, 0.1), by_itself=True) == []
