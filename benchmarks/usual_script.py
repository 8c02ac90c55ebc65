"""The script that people write today: Optuna, Lightning, MLFlowLogger, DataLoader, the teacher in ``training_step``.

Run by ``benchmarks/against_usual_script.py``; nothing of the harness is in it but the data, the networks and the loss.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings

import mlflow
import optuna
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.datasets import digits, fashion_mnist
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


def main() -> None:
    """Run the trials that a file lists, as an Optuna study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("space", choices=["digits", "fashion-mnist"])
    parser.add_argument("configurations")
    parser.add_argument("teacher")
    parser.add_argument("--epochs", type=int, required=True)
    asked = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    small = asked.space == "digits"
    data = digits(batch_size=64) if small else fashion_mnist(None, batch_size=128)
    size, teacher_width = (8, 64) if small else (28, 32)
    train, val = (
        DataLoader(
            TensorDataset(*data.splits[name].tensors().values()),
            batch_size=data.batch_size,
            shuffle=name == "train",
        )
        for name in ("train", "val")
    )
    teacher = ConvNet(teacher_width, size=size, dropout=0.3)
    teacher.load_state_dict(load_file(asked.teacher))
    mlflow.set_tracking_uri(TRACKING_URI)
    with open(asked.configurations) as file:
        configurations = json.load(file)
    study = optuna.create_study(
        storage="sqlite:///usual_optuna.db", directions=["maximize", "minimize"], study_name="usual"
    )
    for configuration in configurations:
        study.enqueue_trial(configuration)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        width = trial.suggest_int("width", 1, 32, log=True)
        temperature = trial.suggest_float("temperature", 1, 20, log=True)
        alpha = trial.suggest_float("alpha", 0, 1)
        lr = trial.suggest_float("learning_rate", 1e-3, 3e-2, log=True)
        student = ConvNet(width, size=size, strided=not small)
        logger = MLFlowLogger("usual", tracking_uri=TRACKING_URI, run_name=f"trial-{trial.number}")
        logger.log_hyperparams(trial.params)
        trainer = pl.Trainer(
            max_epochs=asked.epochs, accelerator="cpu", logger=logger, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir="usual_checkpoints", log_every_n_steps=10**9,
        )  # fmt: skip
        trainer.fit(Student(teacher, student, temperature, alpha, lr, asked.epochs * len(train)), train, val)
        return float(trainer.callback_metrics["val/accuracy"]), sum(p.numel() for p in student.parameters())

    started = time.perf_counter()
    study.optimize(objective, n_trials=len(configurations))
    accuracies = [trial.values[0] for trial in study.trials]
    print(json.dumps({"search_s": time.perf_counter() - started, "accuracies": accuracies}))


if __name__ == "__main__":
    main()
