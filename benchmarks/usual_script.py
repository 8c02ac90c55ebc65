"""The script that people write today: Optuna, Lightning, MLFlowLogger, DataLoader, the teacher in ``training_step``.

Run by ``benchmarks/against_usual_script.py`` and ``benchmarks/against_tuners.py``; nothing of the harness is in it but
the data, the networks and the loss. What other tuners run (``ray_script.py``, ``syne_script.py``) trains as it does.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.data.embedded import digits, fashion_mnist
from lightning_modules.networks import ConvNet

TRACKING_URI = "sqlite:///usual_mlflow.db"


class Student(pl.LightningModule):
    """A student that asks the teacher at every step."""

    def __init__(
        self, teacher: ConvNet, student: ConvNet, temperature: float, alpha: float, lr: float, steps: int
    ) -> None:
        super().__init__()
        self.teacher, self.student = teacher.eval().requires_grad_(False), student
        self.temperature, self.alpha, self.lr, self.steps = temperature, alpha, lr, steps

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, labels = batch
        with torch.no_grad():
            self.teacher.eval()
            target = self.teacher(inputs)
        logits = self.student(inputs)
        hard = F.cross_entropy(logits, labels)
        student_side = F.log_softmax(logits / self.temperature, -1)
        teacher_side = F.log_softmax(target / self.temperature, -1)
        soft = F.kl_div(student_side, teacher_side, reduction="batchmean", log_target=True) * self.temperature**2
        loss = self.alpha * hard + (1 - self.alpha) * soft
        self.log_dict(
            {"train/loss": loss, "train/hard_loss": hard, "train/soft_loss": soft}, on_step=False, on_epoch=True
        )
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        inputs, labels = batch
        logits = self.student(inputs)
        self.log("val/loss", F.cross_entropy(logits, labels))
        self.log("val/accuracy", (logits.argmax(-1) == labels).float().mean())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=self.lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EachEpoch(pl.Callback):
    """Tells a tuner of each epoch that ends, and writes a line when a student has been trained to its end.

    Args:
        results: File that gets the line: the time, the accuracy, the parameters.
        report: Takes ``accuracy``, ``parameters`` and ``epoch``, the number of epochs that have ended.
    """

    def __init__(self, results: Path, report: Callable[[dict[str, float]], object] = lambda metrics: None) -> None:
        self.results, self.report = results, report

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, Student)
        accuracy = float(trainer.callback_metrics["val/accuracy"])
        parameters = sum(p.numel() for p in pl_module.student.parameters())
        epoch = trainer.current_epoch + 1
        if epoch == trainer.max_epochs:  # before it is reported: a tuner may end the trial, and its process, at that
            line = {"time": time.time(), "accuracy": accuracy, "parameters": parameters}
            with open(self.results, "a") as file:
                file.write(json.dumps(line) + "\n")
        self.report({"accuracy": accuracy, "parameters": parameters, "epoch": epoch})


@functools.cache
def loaders(space: str) -> tuple[DataLoader, DataLoader]:
    """Training and validation batches."""
    data = digits(batch_size=64) if space == "digits" else fashion_mnist(None, batch_size=128)
    train, val = (
        DataLoader(
            TensorDataset(*data.splits[name].tensors().values()),
            batch_size=data.batch_size,
            shuffle=name == "train",
        )
        for name in ("train", "val")
    )
    return train, val


@functools.cache
def trained_teacher(space: str, file: Path) -> ConvNet:
    """Return the teacher, from its checkpoint."""
    teacher = ConvNet(64, size=8, dropout=0.3) if space == "digits" else ConvNet(32, size=28, dropout=0.3)
    teacher.load_state_dict(load_file(file))
    return teacher


def train_student(
    space: str,
    teacher: Path,
    params: Mapping[str, Any],
    *,
    epochs: int,
    callbacks: Sequence[pl.Callback],
    **trainer_options: Any,
) -> tuple[float, int]:
    """Validation accuracy after the last epoch, and parameters, of a student of this ``width``, trained.

    Args:
        space: ``digits`` or ``fashion-mnist``.
        teacher: The teacher's checkpoint.
        params: ``width``, ``temperature``, ``alpha`` (the weight of the true labels) and ``learning_rate``.
        epochs: Length of the training.
        callbacks: Lightning's.
        trainer_options: What else Lightning's Trainer is told.
    """
    train, val = loaders(space)
    student = ConvNet(params["width"], size=8) if space == "digits" else ConvNet(params["width"], size=28, strided=True)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=10**9, callbacks=list(callbacks), **trainer_options,
    )  # fmt: skip
    steps = epochs * len(train)
    module = Student(
        trained_teacher(space, teacher), student, params["temperature"], params["alpha"], params["learning_rate"], steps
    )
    trainer.fit(module, train, val)
    return float(trainer.callback_metrics["val/accuracy"]), sum(p.numel() for p in student.parameters())


def be_quiet() -> None:
    """Say only what went wrong."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def search_arguments() -> argparse.ArgumentParser:
    """Return what every one of these scripts is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("space", choices=["digits", "fashion-mnist"])
    parser.add_argument("teacher", type=Path, help="its checkpoint")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--results", type=Path, default=Path("results.jsonl"), help="gets a line for each student")
    parser.add_argument("--widths", type=int, nargs=2, default=(1, 32), help="the least and the most")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    return parser


def main() -> None:
    """Search with Optuna's TPE, or run the trials that a file lists, as an Optuna study."""
    parser = search_arguments()
    parser.add_argument("--configurations", type=Path, help="run these trials, and no others")
    asked = parser.parse_args()
    be_quiet()
    mlflow.set_tracking_uri(TRACKING_URI)
    study = optuna.create_study(
        storage="sqlite:///usual_optuna.db",
        directions=["maximize", "minimize"],
        study_name="usual",
        sampler=optuna.samplers.TPESampler(seed=asked.seed),
    )
    listed = json.loads(asked.configurations.read_text()) if asked.configurations else []
    for configuration in listed:
        study.enqueue_trial(configuration)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        trial.suggest_int("width", *asked.widths, log=True)
        trial.suggest_float("temperature", 1, 20, log=True)
        trial.suggest_float("alpha", 0, 1)
        trial.suggest_float("learning_rate", 1e-3, 3e-2, log=True)
        logger = MLFlowLogger("usual", tracking_uri=TRACKING_URI, run_name=f"trial-{trial.number}")
        logger.log_hyperparams(trial.params)
        return train_student(
            asked.space,
            asked.teacher,
            trial.params,
            epochs=asked.epochs,
            callbacks=[EachEpoch(asked.results)],
            logger=logger,
            default_root_dir="usual_checkpoints",
        )

    started = time.perf_counter()
    study.optimize(objective, n_trials=len(listed) or asked.trials)
    accuracies = [trial.values[0] for trial in study.trials]
    print(json.dumps({"search_s": time.perf_counter() - started, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
