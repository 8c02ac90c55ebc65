"""A study as it grows: how long it takes to open, to propose the next trial, to report; teacher outputs at a hundredth.

    python benchmarks/growth.py --trials 10000
    python benchmarks/growth.py --teacher-outputs

The trials are the default space's, with values that a smooth function and some noise give. They stand in a SQLite
file as a search leaves them, each with its folder, its spool, its answers and a note of what is known to have been
sent. Opening and reporting are whole commands, start-up included: ``search.py`` on a study that has all its trials, and
``python -m harness report``.

The teacher outputs are those of ImageNet at a hundredth: 12,811 samples, 1,000 classes, float32, written as the
project writes them and gathered in random batches as a trial gathers them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from optuna.trial import TrialState, create_trial
from safetensors.torch import load_file, save_file

from harness.cli.search import parse_search
from harness.core.content import tensors_digest
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.reporting.parent import ParentRun
from harness.sampling.proposal import Proposer
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace, load_space
from harness.storage.access import open_storage
from harness.studies.claiming import TrialClaimer
from harness.studies.opening import open_study
from harness.studies.study import Study
from harness.tracking.mirror import Mirror
from harness.tracking.progress import STATE_FILE
from harness.tracking.spool import SPOOL, Spool
from harness.training.predictions import PREDICTIONS, compare_predictions, save_predictions
from harness.trials.forecasting import make_forecast

ROOT = Path(__file__).resolve().parent.parent
STUDY = "grown"
_PROPOSALS = 7
_IMAGENET, _CLASSES, _SHARE = 1_281_167, 1_000, 100


def fill(study: Study, space: SearchSpace, prepared: Prepared, trials: int, store: str) -> None:
    """Give the study so many complete trials, and each the folder that a search leaves."""
    rng = np.random.default_rng(0)
    val = prepared.data.splits["val"]
    teacher_logits = prepared.data.teacher_outputs["val"]["logits"]
    answers = compare_predictions(teacher_logits + torch.randn(teacher_logits.shape), teacher_logits, val.labels)
    widths = [architecture["width"] for architecture in space.architectures(limit=1000) or []]
    template = ""
    for n in range(trials):
        width = int(rng.choice(widths))
        params = {
            "width": width,
            "temperature": float(np.exp(rng.uniform(0, np.log(20)))),
            "alpha": float(rng.uniform()),
            "learning_rate": float(np.exp(rng.uniform(np.log(1e-3), np.log(3e-2)))),
        }
        costs = prepared.costs.metrics({"width": width})
        accuracy = 1 - 0.2 / width - 0.01 * abs(np.log(params["learning_rate"] / 0.01)) + 0.004 * float(rng.normal())
        metrics = {"accuracy": accuracy, "agreement": accuracy, "teacher_kl": 1 - accuracy, "ece": 0.05, **costs}
        trial = create_trial(
            state=TrialState.COMPLETE,
            params=params,
            distributions=space.distributions,
            values=[metrics[name] for name in study.objectives],
            user_attrs={"metrics": metrics},
        )
        study.add_trial(trial)
        folder = study.trial_folder(n)
        if not template:
            spool = Spool(folder)
            spool.begin(f"trial-{n:04d}", tags={"kd.run_key": f"{study.id}/{n}"}, params=params, parent=study.folder)
            names = ["train/loss", "train/hard_loss", "train/soft_loss", "val/loss", "val/accuracy", "val/agreement"]
            for epoch in range(20):
                spool.metrics(dict.fromkeys(names, 0.123456789 + epoch), step=epoch)
            spool.set_state("COMPLETE")
            spool.close()
            template = (folder / SPOOL).read_text()
        folder.mkdir(exist_ok=True)
        save_predictions(answers, folder / PREDICTIONS)
        (folder / SPOOL).write_text(template)
        sent = {"store": store, "run_id": "0", "offset": len(template.encode()), "state": "COMPLETE"}
        (folder / STATE_FILE).write_text(json.dumps(sent))
        if (n + 1) % 2000 == 0:
            print(f"{n + 1:,} trials are stored", flush=True)


def whole_command(*command: str) -> float:
    """Wall time of a command, seconds."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started


def a_study(settings: Settings, trials: int) -> tuple[SearchSpace, Study, Prepared]:
    """Return a study of so many trials."""
    space, terminal = load_space(settings.file_of_space, settings.epochs), Terminal()
    with Mirror(settings.tracking_uri) as mirror:
        mirror.connect(settings.experiment, settings.runs_dir, say=terminal.say)
        study = open_study(settings, space, open_storage(settings))
        with ParentRun(study, settings, mirror) as parent:
            prepared = prepare(settings, space, study, terminal, mirror)
            parent.start(prepared)
            fill(study, space, prepared, trials, mirror.store)
    return space, study, prepared


def grown(trials: int) -> None:
    """Measure a study of so many trials."""
    os.chdir(tempfile.mkdtemp())
    flags = ["--study", STUDY, "--trials", str(trials), "--accelerator", "cpu"]
    settings, _ = parse_search(flags)
    space, _, prepared = a_study(settings, trials)
    started = time.perf_counter()
    study = open_study(settings, space, open_storage(settings))
    found = study.trials()
    opened_s = time.perf_counter() - started
    assert len(found) == trials
    study.settings = replace(settings, trials=trials + _PROPOSALS)
    forecast = make_forecast(settings, space, study, prepared)
    proposer = Proposer(space, sampler=forecast or settings.sampler, seed=0, directions=study.directions)
    claimant = TrialClaimer(study, proposer)
    proposals_s, begun = [], []
    for _ in range(_PROPOSALS):
        started = time.perf_counter()
        claim = claimant.claim()
        assert claim is not None
        begun.append(claim)
        proposals_s.append(time.perf_counter() - started)
    for claim in begun:
        claim.fail("measured")
        claim.lease.release()
    finished_s = whole_command(str(ROOT / "search.py"), *flags, "--no-controls")
    report_s = whole_command("-m", "harness", "report", "--study", STUDY)
    empty_s = whole_command(
        "-c", "import harness.trials.worker_pool, harness.reporting.report, harness.reporting.parent"
    )
    print(
        f"{trials:,} trials: storage opened and read in {opened_s:.2f} s; the first proposal {proposals_s[0]:.3f} s, "
        f"the next {statistics.median(proposals_s[1:]):.3f} s; search.py on the finished study {finished_s:.1f} s and "
        f"the report {report_s:.1f} s, {empty_s:.1f} s of each being imports"
    )


def teacher_outputs() -> None:
    """Measure a hundredth of ImageNet's teacher outputs."""
    samples = _IMAGENET // _SHARE
    logits = torch.randn(samples, _CLASSES, generator=torch.Generator().manual_seed(0))
    file = Path(tempfile.mkdtemp()) / "outputs.safetensors"
    started = time.perf_counter()
    save_file({"train.logits": logits}, file)
    written_s = time.perf_counter() - started
    started = time.perf_counter()
    kept = load_file(file)
    mapped_s = time.perf_counter() - started
    started = time.perf_counter()
    tensors_digest(kept)
    checked_s = time.perf_counter() - started
    order = torch.randperm(samples)
    started = time.perf_counter()
    for ids in order.split(256):
        kept["train.logits"][ids]
    gathered_s = time.perf_counter() - started
    size = file.stat().st_size
    print(
        f"{samples:,} x {_CLASSES:,} float32: {size / 1e6:.1f} MB, {size / samples:.0f} bytes a sample; written in "
        f"{written_s:.2f} s, mapped in {mapped_s:.3f} s, checked in {checked_s:.2f} s, an epoch gathered in "
        f"{gathered_s:.3f} s. A hundred times as much: {_SHARE * size / 1e9:.1f} GB (half in float16), checked in "
        f"{_SHARE * checked_s:.0f} s, an epoch gathered in {_SHARE * gathered_s:.0f} s."
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--teacher-outputs", action="store_true")
    asked = parser.parse_args()
    if asked.teacher_outputs:
        teacher_outputs()
    else:
        grown(asked.trials)


if __name__ == "__main__":
    main()
