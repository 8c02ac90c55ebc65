"""Stored views beside an online teacher: the same student, trained on moved images; accuracy, and time.

    python benchmarks/stored_views.py --seeds 3

The online teacher is asked at every step about images that are moved anew in every epoch. The stored one was asked once
about each of the space's views, and an epoch shows one of them. Time is that of the training alone; that of storing is
stated beside it, for it is paid once, not once a trial.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from learning_curves import prepared_for
from safetensors.torch import load_file
from torch import nn

from harness.preparation.prepared import Prepared
from harness.preparation.scoring import score
from harness.space import Configuration, SearchSpace
from harness.trials.trial import TrainingSpec, ordered_logits, train_student
from lightning_modules.batch import call
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.tensors import TensorDataModule

SPACE = "fashion-mnist-shifted"
CONFIGURATION = Configuration({"width": 8}, {"temperature": 4.0, "alpha": 0.3}, {"learning_rate": 0.01})


def with_online_teacher(stored: TensorDataModule, network: nn.Module) -> TensorDataModule:
    """Return the same samples, fresh in each epoch, with a teacher that is asked at every step."""
    assert stored.views is not None
    online = copy.copy(stored)
    online.views = replace(stored.views, count=1, fresh=True, seed=1)
    online.attach({"val": stored.teacher_outputs["val"]})
    online.live = LiveTeacher([network], average=lambda logits: logits[0])
    return online


def trained(space: SearchSpace, prepared: Prepared, seed: int) -> tuple[float, float]:
    """Validation accuracy of a student, and the seconds that its training took."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        student = train_student(
            TrainingSpec(configuration=CONFIGURATION, seed=seed, order_seed=seed),
            space,
            prepared,
            folder=Path(folder),
            accelerator="cpu",
        )
    seconds = time.perf_counter() - started
    logits = ordered_logits(student, prepared.data, "val")
    return score([logits], prepared.data, space, prepared.classes)["accuracy"], seconds


def main() -> None:
    """Train pairs and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    runs_dir = Path(tempfile.mkdtemp())
    space, stored = prepared_for(SPACE, runs_dir)
    (file,) = (runs_dir / "cache" / "teachers").glob("*/teacher.safetensors")
    network = space.task.teacher().eval().requires_grad_(False)
    network.load_state_dict(load_file(file))
    online = replace(stored, data=with_online_teacher(stored.data, network))
    views = stored.data.views
    assert views is not None
    started = time.perf_counter()
    with torch.no_grad():
        for item in stored.data.ordered("train"):
            for batch in item:
                call(network, batch.inputs)
    storing_s = views.count * (time.perf_counter() - started)
    pairs = []
    for seed in range(asked.seeds):
        if seed % 2 == 0:  # what comes second meets a machine that the first has warmed
            pairs.append((trained(space, stored, seed), trained(space, online, seed)))
        else:
            later = trained(space, online, seed)
            pairs.append((trained(space, stored, seed), later))
        (ours, ours_s), (theirs, theirs_s) = pairs[-1]
        print(f"stored {ours:.4f} in {ours_s:.1f} s, online {theirs:.4f} in {theirs_s:.1f} s", flush=True)
    gaps = [ours - theirs for (ours, _), (theirs, _) in pairs]
    ratios = [theirs_s / ours_s for (_, ours_s), (_, theirs_s) in pairs]
    print(
        f"{SPACE}, width {CONFIGURATION.student['width']}, {space.epochs} epochs, {views.count} views, "
        f"{torch.get_num_threads()} threads, {asked.seeds} pairs: stored less online {statistics.mean(gaps):+.4f} "
        f"(each {', '.join(f'{gap:+.4f}' for gap in gaps)}), online takes {statistics.median(ratios):.2f} x as long; "
        f"storing takes {storing_s:.1f} s, once, by one view that was timed"
    )


if __name__ == "__main__":
    main()
