"""The options that commands share, with their help. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

import click

from harness.cli.parsing import option, switch
from harness.metrics import budget_names
from harness.options.commands import DEFAULT_SPACE
from harness.options.spaces import space_names
from harness.settings import DEFAULT_RUNS_DIR, DEFAULT_STORAGE, DEFAULT_TRACKING_URI

SOURCES = "Teacher and data"
PLACES = "Where things are kept"

DATA_DIR = option("--data-dir", "DIR", "where the data is (default: where the task finds it by itself)")
ACCELERATOR = option("--accelerator", "NAME", "Lightning's accelerator: auto, cpu, gpu, mps, .. (default: auto)")
ACCEPT_CHANGES = switch(
    "--accept-changes",
    "resume a study although its space file, the modules that it imports, start weights or teacher have changed; the "
    "change, and before which trial, is noted in the study and at the tracker",
)
STORAGE = option(
    "--storage",
    "ADDRESS",
    "the study's database: sqlite:///FILE for one machine, postgresql+psycopg://.. for many (default: $KD_STORAGE or "
    f"{DEFAULT_STORAGE})",
)
MIN = option(
    "--min",
    "METRIC=VALUE",
    "the least of the primary metric that counts: students below are on no front and draw no trials; none counts all "
    "(default: half of the way from a constant answer to the teacher, by the logarithm of the error)",
    repeated=True,  # to say that one must do
)
MIN_SHARE = option(
    "--min-share",
    "SHARE",
    "the same as a share of the teacher's score, such as 0.98 (of a minimised metric: teacher's / student's)",
)


def space_option() -> click.Option:
    """Return ``--space``."""
    return option(
        "--space",
        "NAME|FILE",
        f"a space ({', '.join(space_names())}) or a Python file that sets SPACE (default: {DEFAULT_SPACE})",
    )


def controls_option(when: str, choices: Sequence[str]) -> click.Option:
    """Return ``--controls``.

    Args:
        when: When the controls are trained.
        choices: The values that it may have, the default first.
    """
    meanings = {
        "none": "no controls",
        "plain": "the same students again, on labels alone",
        "tuned": "for the picks also the best of several, with training settings of their own, as many as their "
        "architecture had trials",
    }
    meant = "; ".join(f"{name}: {meanings[name]}" for name in reversed(choices))
    text = (
        f"controls that the gain of distillation is measured against, trained {when}. {meant} (default: {choices[0]})"
    )
    return option("--controls", "|".join(choices), text)


def max_option(effect: str) -> click.Option:
    """Return ``--max``.

    Args:
        effect: What it does.
    """
    return option(
        "--max",
        "COST=VALUE",
        f"{effect}; may be repeated ({', '.join(budget_names())}; or the primary metric, if it is minimised: see "
        "--min)",
        repeated=True,
    )


def teacher_option(default: str) -> click.Option:
    """Return ``--teacher``.

    Args:
        default: What is said of several, and of none.
    """
    return option(
        "--teacher",
        "FILE",
        "checkpoint of the teacher: safetensors, state_dict or Lightning, or a student of an earlier study of the "
        "space; or a teacher that is no PyTorch network: what it said (.parquet .csv .jsonl .npz .safetensors), "
        f".onnx, .keras, the folder of a SavedModel, or .skops{default}",
        repeated=True,
    )


def runs_dir_option(content: str) -> click.Option:
    """Return ``--runs-dir``.

    Args:
        content: What the folder holds.
    """
    return option("--runs-dir", "DIR", f"{content} (default: $KD_RUNS_DIR or {DEFAULT_RUNS_DIR})")


def places(study: str) -> list[click.Option]:
    """Return the options of the study's name and of where things are kept.

    Args:
        study: Help of ``--study``.
    """
    return [
        option("--study", "NAME", study),
        STORAGE,
        option(
            "--tracking-uri",
            "ADDRESS",
            "where runs are logged: MLflow's store or server, or another tracker's address (default: "
            f"$MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})",
        ),
        runs_dir_option("caches, checkpoints and artifacts"),
    ]
