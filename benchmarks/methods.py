"""Every method of distillation at an equal budget, beside labels alone: what is each worth on one pair of networks?

    python benchmarks/methods.py --runs-dir mlruns

Fashion-MNIST, its convolutional teacher and a student of width 8, 6 epochs. The teacher was trained on all 50,000
training samples; students and controls see 10,000 of them, so what it gives is partly what it knows of the others.
Each method gets the same number of configurations, drawn evenly from its ranges in the space, learning rate included,
and is judged by the validation split; so are labels alone, of which only the learning rate varies. The best of each is
then trained with fresh seeds, and scored once on the test split; so is its control, the same student, learning rate,
schedule and seeds on labels alone, over which its gain is counted. Seeds are the same for all. A run that is done is
not trained again.

The table goes to ``benchmarks/results/methods-fashion-mnist.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from learning_curves import prepared_for, thin_out
from optuna.samplers import RandomSampler

from harness.core.content import derived_seed
from harness.preparation.concurrency import usable_cores
from harness.preparation.prepared import Prepared
from harness.space import LABELS_ALONE, METHOD, Configuration, SearchSpace
from harness.trials.confirm import interval
from harness.trials.controls import control_configuration
from harness.trials.trial import TrainingSpec, ordered_logits, train_student

SPACE, WIDTH, EPOCHS, SEEDS = "fashion-mnist-methods", 8, 6, 3
LABELS = "labels alone"
RESULTS = Path(__file__).parent / "results" / "methods-fashion-mnist.md"

_space: SearchSpace
_prepared: Prepared


def configurations(space: SearchSpace, method: str, count: int) -> list[Configuration]:
    """Configurations of a method, drawn evenly from its ranges, the same ones at each call."""
    held = space.fixed({"width": str(WIDTH)} | ({} if method == LABELS else {METHOD: method}))
    study = optuna.create_study(sampler=RandomSampler(derived_seed("methods", method)))
    drawn = [held.suggest(study.ask()) for _ in range(count)]
    if method == LABELS:
        return [Configuration(one.student, dict(LABELS_ALONE), one.training) for one in drawn]
    return drawn


def run(job: tuple[str, Configuration, int, str]) -> dict[str, Any]:
    """Train one student to the end and score it on a split."""
    method, configuration, seed, split = job
    with tempfile.TemporaryDirectory() as folder:
        student = train_student(
            TrainingSpec(configuration=configuration, seed=seed, order_seed=seed),
            replace(_space, epochs=EPOCHS),
            _prepared,
            folder=Path(folder),
            accelerator="cpu",
        )
    labels = _prepared.data.splits[split].labels
    right = ordered_logits(student, _prepared.data, split).argmax(-1) == labels
    return {**_key(method, configuration, seed, split), "accuracy": float(right.float().mean())}


def _key(method: str, configuration: Configuration, seed: int, split: str) -> dict[str, Any]:
    return {"method": method, "params": configuration.params(), "seed": seed, "split": split}


class Runs:
    """Runs that are kept in a file, each trained once.

    Args:
        file: Where they are kept, a line each.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._accuracies = {self._text(known): known["accuracy"] for known in map(json.loads, lines)}

    @staticmethod
    def _text(known: Mapping[str, Any]) -> str:
        return json.dumps({name: known[name] for name in ("method", "params", "seed", "split")}, sort_keys=True)

    def of(self, jobs: list[tuple[str, Configuration, int, str]]) -> list[float]:
        """Return the accuracy of each; what is not known yet is trained, on every core."""
        missing = [job for job in jobs if self._text(_key(*job)) not in self._accuracies]
        context = multiprocessing.get_context("fork")
        with context.Pool(usable_cores(), torch.set_num_threads, (1,)) as pool, open(self._file, "a", 1) as out:
            for count, done in enumerate(pool.imap_unordered(run, missing), start=1):
                out.write(json.dumps(done) + "\n")
                self._accuracies[self._text(done)] = done["accuracy"]
                if count % 10 == 0 or count == len(missing):
                    print(f"{count}/{len(missing)} on {done['split']}", flush=True)
        return [self._accuracies[self._text(_key(*job))] for job in jobs]


def table(
    best: Mapping[str, Configuration], tested: Mapping[str, list[float]], controls: Mapping[str, list[float]]
) -> list[str]:
    """Return each method's accuracy, its own control's, and the gain, paired by seed, in points, as Markdown.

    Args:
        best: The configuration of each method.
        tested: What it reached, seed by seed; labels alone have a row of their own.
        controls: What the control of each method but labels alone reached, seed by seed.
    """
    lines = ["| method | test accuracy | its control | gain, points | | parameters |", "|---|---:|---:|---:|---|---|"]

    def gains(method: str) -> list[float]:
        pairs = zip(tested[method], controls.get(method, tested[method]), strict=True)
        return [100 * (ours - theirs) for ours, theirs in pairs]

    for method in sorted(tested, key=lambda method: -interval(gains(method)).mean):
        shown = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in best[method].params().items()
            if name not in ("width", METHOD) and not (method == LABELS and name in LABELS_ALONE)
        )
        beside = "| | | "
        if method != LABELS:
            points = interval(gains(method))
            verdict = "gain" if points.low > 0 else "loss" if points.high < 0 else "no gain"
            gain = f"{points.mean:+.2f} [{points.low:+.2f}, {points.high:+.2f}]"
            beside = f"| {_shown(controls[method])} | {gain} | {verdict} "
        name = method if method == LABELS else f"`{method}`"
        lines.append(f"| {name} | {_shown(tested[method])} {beside}| {shown} |")
    return lines


def _shown(accuracies: list[float]) -> str:
    found = interval(accuracies)
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def main() -> None:
    """Choose a configuration of each method, test it, and write the table."""
    global _space, _prepared
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=Path("mlruns"))
    parser.add_argument("--configurations", type=int, default=6, help="of each method (default: 6)")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # what is forked below must not have started threads
    _space, _prepared = prepared_for(SPACE, asked.runs_dir)
    thin_out(_prepared)
    file = asked.runs_dir / "curves" / "methods.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    runs, best = Runs(file), {}
    methods = [LABELS, *_space.methods]
    drawn = {method: configurations(_space, method, asked.configurations) for method in methods}
    jobs = [(method, one, derived_seed("chosen by"), "val") for method in methods for one in drawn[method]]
    accuracies = iter(runs.of(jobs))
    for method in methods:
        judged = [(next(accuracies), place) for place in range(asked.configurations)]
        best[method] = drawn[method][max(judged)[1]]
    arms = [(method, best[method]) for method in methods]
    arms += [(LABELS, control_configuration(best[method].params(), _space)) for method in _space.methods]
    jobs = [(name, one, derived_seed("tested by", k), "test") for name, one in arms for k in range(SEEDS)]
    accuracies = iter(runs.of(jobs))
    found = [[next(accuracies) for _ in range(SEEDS)] for _ in arms]
    tested = dict(zip(methods, found[: len(methods)], strict=True))
    controls = dict(zip(_space.methods, found[len(methods) :], strict=True))
    head = [
        "# Every method at an equal budget, Fashion-MNIST",
        "",
        f"A student of width {WIDTH}, {EPOCHS} epochs. The teacher was trained on all 50,000 training samples; "
        "students and controls see 10,000 of them, so a gain holds for such a teacher, and not for one that knows no "
        f"more samples than its student. {asked.configurations} configurations of each method, the best by validation; "
        f"then {SEEDS} fresh seeds, the same for all, on the test split. Means with 95 % intervals (Student's t). A "
        "control is the same student, learning rate, schedule and seeds on labels alone; the gain is over it, paired "
        "by seed. The row of labels alone is the best of as many learning rates. No correction for "
        f"{len(methods) - 1} comparisons.",
        "",
    ]
    RESULTS.write_text("\n".join([*head, *table(best, tested, controls)]) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
