"""A small student taught by labels alone, by the teacher, and by an assistant between the two (Mirzadeh et al. 2020).

    python benchmarks/teacher_assistant.py digits --seeds 3

The teacher teaches the assistant, with the same recipe as both teach the students. Of one seed, the three students of
a width begin with the same weights and see the data in the same order. Accuracy is the last epoch's, on the validation
split. Prints what stands in ``benchmarks/results/teacher-assistant.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from learning_curves import prepared_for
from torch import Tensor, nn

from harness.preparation.prepared import Prepared
from harness.space import Configuration, SearchSpace
from harness.trials.trial import TrainingSpec, train_student
from lightning_modules.batch import call
from lightning_modules.data.tensors import TensorDataModule

ASSISTANT = 8  # its width; teachers have 64 (digits) and 32 (Fashion-MNIST)
STUDENTS = {"digits": (1, 2, 3), "fashion-mnist": (2, 4)}
TAUGHT = {"temperature": 4.0, "alpha": 0.1}  # RepDistiller's recipe
LABELS_ALONE = {"temperature": 4.0, "alpha": 1.0}
LEARNING_RATE = 0.01
ARMS = ("labels", "teacher", "assistant")


def trained(
    width: int, distillation: dict[str, float], space: SearchSpace, prepared: Prepared, seed: int
) -> tuple[nn.Module, float]:
    """Return a student and its validation accuracy."""
    accuracy: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        student = train_student(
            TrainingSpec(
                configuration=Configuration({"width": width}, dict(distillation), {"learning_rate": LEARNING_RATE}),
                seed=seed,
                order_seed=seed,
            ),
            space,
            prepared,
            folder=Path(folder),
            accelerator="cpu",
            listeners=[lambda epoch, metrics: accuracy.append(metrics["val/accuracy"])],
        )
    return student, accuracy[-1]


@torch.no_grad()
def outputs_of(network: nn.Module, data: TensorDataModule) -> dict[str, dict[str, Tensor]]:
    """Return what a network says of every sample, as a teacher's outputs are stored."""
    network.eval()
    return {
        split: {"logits": torch.cat([call(network, batch.inputs) for item in data.ordered(split) for batch in item])}
        for split in ("train", "val")
    }


def accuracies_of(seed: int, space: SearchSpace, prepared: Prepared, widths: tuple[int, ...]) -> dict[str, list[float]]:
    """Accuracies by arm, one for each width; the assistant's own under ``"itself"``."""
    data = prepared.data
    teacher = data.teacher_outputs
    found: dict[str, list[float]] = {}
    for arm in ("labels", "teacher"):
        distillation = LABELS_ALONE if arm == "labels" else TAUGHT
        found[arm] = [trained(width, distillation, space, prepared, seed)[1] for width in widths]
    assistant, accuracy = trained(ASSISTANT, TAUGHT, space, prepared, seed)
    found["itself"] = [accuracy]
    data.attach(outputs_of(assistant, data))
    found["assistant"] = [trained(width, TAUGHT, space, prepared, seed)[1] for width in widths]
    data.attach(teacher)
    return found


def main() -> None:
    """Train all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=STUDENTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs-dir", type=Path, default=Path("mlruns"))
    asked = parser.parse_args()
    widths = STUDENTS[asked.space]
    space, prepared = prepared_for(asked.space, asked.runs_dir)
    labels = prepared.data.splits["val"].labels
    teacher = (prepared.data.teacher_outputs["val"]["logits"].argmax(-1) == labels).float().mean()
    started = time.process_time()
    runs = [accuracies_of(seed, space, prepared, widths) for seed in range(asked.seeds)]
    own = ", ".join(f"{run['itself'][0]:.4f}" for run in runs)
    print(
        f"## {asked.space}: {asked.seeds} seeds, {space.epochs} epochs, T = 4, alpha = 0.1, {len(labels):,} samples\n"
    )
    print(
        f"Teacher {teacher:.4f}; assistants of width {ASSISTANT} {own}. {time.process_time() - started:.0f} s of CPU.\n"
    )
    print("| width | labels alone | by the teacher | by the assistant | assistant less teacher, points |")
    print("|---:|---|---|---|---|")
    for place, width in enumerate(widths):
        arms = {arm: [run[arm][place] for run in runs] for arm in ARMS}
        told = [f"{statistics.mean(values):.4f} ({', '.join(f'{v:.4f}' for v in values)})" for values in arms.values()]
        gaps = [100 * (a - t) for a, t in zip(arms["assistant"], arms["teacher"], strict=True)]
        each = ", ".join(f"{gap:+.2f}" for gap in gaps)
        print(f"| {width} | {' | '.join(told)} | {statistics.mean(gaps):+.2f} ({each}) |")


if __name__ == "__main__":
    main()
