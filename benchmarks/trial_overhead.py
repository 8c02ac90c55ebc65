"""What a trial costs beside a bare PyTorch loop: the same steps on the same stored logits, paired, medians.

    python benchmarks/trial_overhead.py digits --pairs 15
    python benchmarks/trial_overhead.py fashion-mnist --pairs 5 --epochs 2

A trial's time runs from the claim (Optuna's sampling included) to the moment it is told, logged and cleaned up: its
epoch-wise checkpoints, validation, final scores and spool are in it. MLflow is written by the mirror's process
meanwhile, on the same cores: a pair is a block of several trials, so that what is logged of one falls into the next.
The bare loop trains with the same AdamW, schedule, batches and validation, and keeps nothing. Beside it, what the
mirror's process takes a trial.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace

import psutil
import torch
import torch.nn.functional as F

from harness.cli.search import parse_search
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.reporting.parent import ParentRun
from harness.sampling import forecast
from harness.screen.terminal import Terminal
from harness.space import SearchSpace, load_space
from harness.storage.access import open_storage
from harness.studies.opening import open_study
from harness.tracking.mirror import Mirror
from harness.trials import pruning
from harness.trials.context import TrialContext
from harness.trials.worker import run_trials

CONFIGURATION = {"width": "8", "temperature": "4.0", "learning_rate": "0.01"}
ALPHA = 0.5  # of the bare loop; the trials draw theirs, for no study tries a configuration twice


def bare_loop(space: SearchSpace, prepared: Prepared, seed: int) -> float:
    """Train a student with nothing but PyTorch; its last validation accuracy."""
    data = prepared.data
    train, val = data.splits["train"], data.splits["val"]
    logits, val_logits = data.teacher_outputs["train"]["logits"], data.teacher_outputs["val"]["logits"]
    temperature, alpha = float(CONFIGURATION["temperature"]), ALPHA
    peak = float(CONFIGURATION["learning_rate"])
    torch.manual_seed(seed)
    student = space.task.student(width=int(CONFIGURATION["width"]))
    optimizer = torch.optim.AdamW(student.parameters(), lr=peak, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=space.epochs * data.steps_per_epoch)

    def loss_of(z: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hard = F.cross_entropy(z, labels)
        student_side, teacher_side = F.log_softmax(z / temperature, -1), F.log_softmax(target / temperature, -1)
        soft = F.kl_div(student_side, teacher_side, reduction="batchmean", log_target=True) * temperature**2
        return hard, soft

    accuracy = 0.0
    for epoch in range(space.epochs):
        student.train()
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        hard_sum, soft_sum = torch.zeros(()), torch.zeros(())
        for ids in order.split(data.batch_size):
            hard, soft = loss_of(student(train.inputs[ids]), logits[ids], train.labels[ids])
            optimizer.zero_grad()
            (alpha * hard + (1 - alpha) * soft).backward()
            optimizer.step()
            schedule.step()
            hard_sum += hard.detach()
            soft_sum += soft.detach()
        student.eval()
        with torch.inference_mode():
            correct = 0
            for ids in torch.arange(len(val)).split(data.eval_batch_size):
                z = student(val.inputs[ids])
                loss_of(z, val_logits[ids], val.labels[ids])
                correct += int((z.argmax(-1) == val.labels[ids]).sum())
            accuracy = correct / len(val)
    return accuracy


class _Silent:
    """A display that shows nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *args, **kwargs: None


def main() -> None:
    """Measure pairs and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=["digits", "fashion-mnist"])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--block", type=int, default=5, help="trials of a pair, one after the other")
    parser.add_argument("--epochs", type=int, default=None, help="of a trial (default: the space's)")
    parser.add_argument("--threads", type=int, default=1, help="of both; 1 is a worker's share where each core has one")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    forecast._WORTH_WHILE = 0.0  # each trial is marked and judged, and none is stopped
    pruning.shortfall = lambda *asked, **more: None  # by which the last of a budget is judged
    os.chdir(tempfile.mkdtemp())
    fixed = [f"--fix={name}={value}" for name, value in CONFIGURATION.items()]
    given = [f"--space={asked.space}", "--study=bench", "--accelerator=cpu", "--trials=1", *fixed]
    settings, _ = parse_search([*given, *([] if asked.epochs is None else [f"--epochs={asked.epochs}"])])
    whole = load_space(settings.file_of_space, settings.epochs)
    space = whole.fixed(settings.fixed)
    terminal, ratios, bare_s, trial_s, mirror_s = Terminal(), [], [], [], []
    with Mirror(settings.tracking_uri) as mirror:
        mirror.connect(settings.experiment, settings.runs_dir, say=terminal.say)
        study = open_study(settings, whole, open_storage(settings))
        with ParentRun(study, settings, mirror) as parent:
            prepared = prepare(settings, space, study, terminal, mirror)
            parent.start(prepared)
            for pair in range(asked.pairs + 1):
                started = time.perf_counter()
                accuracies = [bare_loop(space, prepared, seed=1000 * pair + i) for i in range(asked.block)]
                between, mirrored_s = time.perf_counter(), _mirror_cpu_s()
                settings = study.settings = replace(settings, trials=asked.block * (pair + 1))
                context = TrialContext(settings=settings, space=space, study=study, prepared=prepared, mirror=mirror)
                run_trials(context, _Silent())  # type: ignore[arg-type]
                ended = time.perf_counter()
                time.sleep(4)  # the mirror's last words must not fall into the next bare loops
                if pair:  # the first pair warms up
                    mirror_s.append((_mirror_cpu_s() - mirrored_s) / asked.block)
                    bare_s.append((between - started) / asked.block)
                    trial_s.append((ended - between) / asked.block)
                    ratios.append(trial_s[-1] / bare_s[-1])
                    block = study.trials()[-asked.block :]
                    reached = statistics.mean(trial.user_attrs["metrics"]["accuracy"] for trial in block)
                    accuracy = statistics.mean(accuracies)
                    print(
                        f"bare {bare_s[-1]:.3f} s (accuracy {accuracy:.4f}), trial {trial_s[-1]:.3f} s "
                        f"({reached:.4f}), ratio {ratios[-1]:.3f}",
                        flush=True,
                    )
        started = time.perf_counter()
    print(f"the mirror's last word took {time.perf_counter() - started:.1f} s")
    quartiles = statistics.quantiles(ratios, n=4)
    print(
        f"{asked.space}, {space.epochs} epochs of {prepared.data.steps_per_epoch} steps, "
        f"{torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {prepared.costs.conditions.device}: medians of {asked.pairs} pairs: "
        f"bare {statistics.median(bare_s):.3f} s, trial {statistics.median(trial_s):.3f} s, "
        f"ratio {statistics.median(ratios):.3f} (quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}); the mirror "
        f"{1000 * statistics.median(mirror_s):.0f} ms of CPU a trial, "
        f"{statistics.median(mirror_s) / statistics.median(trial_s):.1%} of its time"
    )


def _mirror_cpu_s() -> float:
    """CPU seconds of the process that writes to MLflow, so far."""
    (mirror,) = psutil.Process().children()
    times = mirror.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
