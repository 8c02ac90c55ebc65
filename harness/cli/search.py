"""The command line of a search: ``python search.py`` and ``kd-harness search``. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

import click

from harness.cli.options import (
    ACCELERATOR,
    ACCEPT_CHANGES,
    DATA_DIR,
    MIN,
    MIN_SHARE,
    PLACES,
    SOURCES,
    controls_option,
    max_option,
    places,
    space_option,
    teacher_option,
)
from harness.cli.parsing import Command, examples, option, parse, switch
from harness.cli.program import program
from harness.launchers.placement import DEFAULT_MINUTES, LAUNCHERS, Placement, placement_of
from harness.metrics import DEFAULT_OBJECTIVES, METRICS
from harness.options.commands import NO_RECIPE, search_settings, space_of
from harness.options.given import Given
from harness.options.written_space import DEFAULT_IMAGE_SIZE, DEFAULT_STUDENTS, DEFAULT_TEACHER
from harness.recipes import DEFAULT_RECIPES, RECIPES
from harness.settings import AVERAGES, CONTROLS, PRUNERS, SAMPLERS, TEACHER_OUTPUTS, Settings

_ABOUT = """\
Search the students of a teacher: trains small students by knowledge
distillation and finds the trade-off between accuracy, latency and size, with
the temperature, the weight alpha and the width that reach it. The same command
resumes the study."""

_LOSS = """
loss = alpha * cross-entropy + (1 - alpha) * T^2 * KL
alpha weighs the true labels (other projects mean the opposite).
"""

_SEARCHED = "What is searched"
_WORKERS = "Where workers run"


def parse_search(arguments: Sequence[str] | None = None) -> tuple[Settings, Placement]:
    """Return what ``search.py``'s command line asks for: what is searched, and where the workers run."""
    settings, placement = parse(search_command("python search.py"), "search.py", arguments)
    return settings, placement


def search_command(typed: str) -> Command:
    """Return the command of a search, whose result is ``(settings, placement)``.

    Args:
        typed: What a person types to start it, for the examples.
    """
    return Command(
        "search",
        groups={
            _SEARCHED: _searched(),
            SOURCES: [
                teacher_option(
                    "; if repeated, all teach as one (default: train one, and keep it). With --data, a pretrained "
                    "network: timm:NAME or torchvision:NAME of pictures, with @FILE.safetensors for weights of a file "
                    f"(default: {DEFAULT_TEACHER}); hf:FOLDER or hf:NAME of texts"
                ),
                DATA_DIR,
                option(
                    "--data",
                    "FOLDER|TABLE",
                    "search without a Python file: pictures or texts in a folder for each class, or a table (.csv .tsv "
                    ".parquet, .jsonl of texts); the space file that it stands for is written here, to be edited",
                ),
                option("--label", "COLUMN", "of --data TABLE: the column of the classes"),
                option("--text", "COLUMN", "of --data TABLE: the column of texts, which a language model teaches"),
                option(
                    "--students",
                    "timm:A,B,..|bert",
                    f"of --data: the networks that are searched (default: {DEFAULT_STUDENTS}, and of texts bert: small "
                    "ones of searched size)",
                ),
                option(
                    "--image-size",
                    "PIXELS",
                    f"of --data FOLDER: side of what networks are shown (default: {DEFAULT_IMAGE_SIZE})",
                ),
                ACCELERATOR,
                option("--teachers", "N", "train this many teachers, with different seeds, that teach as one"),
                option(
                    "--ensemble",
                    "|".join(AVERAGES),
                    "what is averaged of several teachers: their probabilities, or their centred logits (default: "
                    f"{AVERAGES[0]})",
                ),
                option(
                    "--teacher-outputs",
                    "|".join(TEACHER_OUTPUTS),
                    "stored: the teacher is asked once about each training sample, and its outputs are kept; live: it "
                    "is asked about each batch, as it is trained on; auto: what is cheaper, and live where views are "
                    f"fresh or samples mixed (default: {TEACHER_OUTPUTS[0]})",
                ),
            ],
            _WORKERS: _workers(),
            PLACES: places("name of the study (default: the space's; my_space.py makes my-space)"),
        },
        read=_read,
        about=_ABOUT,
        short="train students of a teacher, and find which are worth having",
        examples=_examples(typed),
    )


def _read(given: Given) -> tuple[Settings, Placement]:
    placement = placement_of(given)
    return search_settings(given, *space_of(given)), placement


def _examples(search: str) -> str:
    shown = examples(
        (f"{search} --trials 50", "digits; again: it resumes"),
        (f"{search} --space fashion-mnist --trials 30", "Fashion-MNIST"),
        (f"{search} --space my_space.py --teacher best.ckpt", "your own task"),
        (f"{search} --data photos --teacher timm:resnet18", "no Python file"),
        (f"{search} --data table.csv --label class", "rows of a table"),
        (f"{search} --data tweets.csv --text text --label mood --teacher hf:FOLDER", "texts"),
        (f"{search} --fix alpha=0.5 --study half", "hold a parameter"),
        (f"{search} --recipe hinton", "published settings"),
        (f"{search} --max parameters=2000 --study tiny", "none over a budget"),
        (f"{search} --min accuracy=0.95 --study good", "none below counts"),
        (f"{search} --launcher slurm --nodes 2 --workers 4", "on a cluster"),
        (f"{search} --objectives accuracy,macs --study macs", "another trade-off"),
        ("mlflow ui", "compare the trials"),
        (f"{program()} report --study digits", "the result again"),
    )
    return shown + _LOSS


def _searched() -> list[click.Option]:
    objectives = ",".join(("accuracy", *DEFAULT_OBJECTIVES))
    others = ", ".join(name for name in METRICS if name not in DEFAULT_OBJECTIVES)
    return [
        space_option(),
        option(
            "--trials",
            "N",
            f"trials of the whole study, those of earlier runs included (default: {Settings.trials})",
        ),
        option("--epochs", "N", "epochs of a trial (default: the space's)"),
        option("--objectives", "A,B,..", f"what spans the front (default: {objectives}; also {others})"),
        option("--fix", "NAME=VALUE", "hold a parameter at a value; may be repeated", repeated=True),
        max_option("train no student that costs more"),
        MIN,
        MIN_SHARE,
        option(
            "--recipe",
            "NAME",
            "published settings to try first, before those that are tried by default "
            f"({', '.join(DEFAULT_RECIPES)}); may be repeated ({', '.join(RECIPES)}; {NO_RECIPE}: try none at all)",
            repeated=True,
        ),
        option(
            "--sampler",
            "|".join(SAMPLERS),
            "what proposes students: front, a model of learning curves that knows each student's costs beforehand; or "
            f"one of Optuna's (default: {SAMPLERS[0]})",
        ),
        option(
            "--pruner",
            "|".join(PRUNERS),
            "pareto: stop students that have no chance of the front; none: train all to the end (default: "
            f"{PRUNERS[0]})",
        ),
        controls_option("after the search", CONTROLS),
        click.Option(["--no-controls", "controls"], flag_value="none", help="short for --controls none"),
        option("--seed", "N", "decides every draw, those of the teacher's training too (default: 0)"),
        option(
            "--timeout",
            "SECONDS",
            "start no further trial after this time of searching (for a worker that a scheduler restarts, since its "
            "first start); running trials are trained to the end",
        ),
        ACCEPT_CHANGES,
    ]


def _workers() -> list[click.Option]:
    return [
        option(
            "--launcher",
            "|".join(LAUNCHERS),
            "local: processes on this machine; slurm: a job array; ray: tasks on a Ray cluster. All workers that share "
            f"--storage and --runs-dir work on one study (default: {LAUNCHERS[0]})",
        ),
        option("--workers", "N", "trials at a time (default: here the cores, or 1 on a GPU; 1 elsewhere)"),
        option(
            "--nodes",
            "N",
            "Slurm: nodes' worth of workers, an array of --nodes x --workers jobs. A job is one worker, so that Slurm "
            "places, preempts and requeues each by itself, wherever there is room (default: 1)",
        ),
        option("--cpus-per-worker", "N", "Slurm, Ray: cores of a worker (default: 1)"),
        option("--gpus-per-worker", "N", "Slurm, Ray: GPUs of a worker (default: none)"),
        option("--partition", "NAME", "Slurm: the partition (default: the cluster's)"),
        option(
            "--time",
            "LIMIT",
            "Slurm: a job's time limit, MINUTES or HH:MM:SS; a worker that reaches it, or is preempted, is requeued "
            f"and resumes (default: {DEFAULT_MINUTES})",
        ),
        option(
            "--slurm",
            "NAME[=VALUE]",
            "Slurm: another option of sbatch, such as account=lab, qos=high, mem=8G; may be repeated",
            repeated=True,
        ),
        option("--ray-address", "ADDRESS", "Ray: the cluster (default: $RAY_ADDRESS, or the one of this machine)"),
        switch("--detach", "Slurm, Ray: submit and return; the workers go on"),
    ]
