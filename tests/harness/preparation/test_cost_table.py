"""The cost table of a study: which students are in it, how long it was measured, and when it is measured further."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EXAMPLE, Silent, opened, settings_in
from optuna.distributions import IntDistribution
from safetensors.torch import save_file
from torch import nn

from harness.core.errors import HarnessError
from harness.cost.base import Conditions
from harness.cost.rounds import Rounds
from harness.cost.table import CostTable
from harness.preparation.cost_table import limit_s_of
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import load_space
from harness.studies.study import Study
from search_spaces.digits import SPACE

Prepare = Callable[..., tuple[Study, Prepared]]

LARGE = """\
        if width >= BUILT:
            torch.empty(2**60)
        return nn.Sequential(perceptron(width), Large()) if width >= ASKED else perceptron(width)


class Large(nn.Module):
    def forward(self, logits):
        return logits + torch.empty(2**60)
"""


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    """Prepares a study of a variant of the README's example, whose teacher is given."""

    def prepare_one(text: str = EXAMPLE, study: str = "s", **more: object) -> tuple[Study, Prepared]:
        file, checkpoint = tmp_path / "cancer.py", tmp_path / "teacher.safetensors"
        file.write_text(text)
        space = load_space(file)
        if not checkpoint.exists():
            save_file(space.task.teacher().state_dict(), checkpoint)
        settings = Settings(
            space_name="cancer",
            space_file=file,
            study=study,
            storage=f"sqlite:///{tmp_path}/optuna.db",
            runs_dir=tmp_path / "mlruns",
            teachers=(checkpoint,),
            **more,  # type: ignore[arg-type]
        )
        found = opened(settings, space)
        found.join()
        ready = prepare(settings, space, found, Terminal(), Silent())
        found.lock.release()
        return found, ready

    return prepare_one


@pytest.mark.parametrize(
    ("asked", "widths", "workers"),
    [
        ({"workers": 1, "processes": 12}, 32, 12),  # as a launcher starts them
        ({"workers": 1, "processes": 99}, 32, 50),  # no more than there are trials
        ({"workers": 3}, 32, 3),
        ({}, 32, 7),  # cores that this process may use
        ({}, 1000, 1),  # costs that are measured meanwhile are measured with nothing beside
    ],
)
def test_measuring_may_take_a_share_of_the_time_that_the_real_number_of_workers_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, int], widths: int, workers: int
) -> None:
    monkeypatch.setattr("harness.preparation.concurrency.usable_cores", lambda: 7)
    monkeypatch.setattr("harness.preparation.cost_table.expected_steps_s", lambda *_, **__: 100_000.0)
    space = replace(SPACE, student={"width": IntDistribution(1, widths)})
    settings = replace(settings_in(tmp_path, trials=50), **asked)  # type: ignore[arg-type]
    assert limit_s_of(settings, space, space.task.data(None), nn.Flatten()) == pytest.approx(100_000 / 20 / workers)


def large(most: int, *, asked: int, built: int) -> str:
    """The example with students of width 1 to ``most``, of which those from some widths on can't be asked, or built."""
    assert "IntDistribution(1, 16, log=True)" in EXAMPLE and EXAMPLE.count("        return perceptron(width)\n") == 1
    text = EXAMPLE.replace("        return perceptron(width)\n", LARGE)
    return f"ASKED, BUILT = {asked}, {built}\n" + text.replace("(1, 16, log=True)", f"(1, {most})")


def test_students_that_memory_does_not_suffice_for_are_left_out_and_it_is_said(
    prepared: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    study, ready = prepared(large(30, asked=26, built=29))
    assert ready.costs.students.keys() == {f'{{"width": {width}}}' for width in range(1, 26)}
    assert "student(width=28)" in study.starts() and "student(width=29)" not in study.starts()
    said = (
        "memory did not suffice to measure 5 of 30 architectures, whose trials may fail for it: student(width=26), "
        "student(width=27), student(width=28) and 2 more"
    )
    assert f"warning   {said}; look: " in capsys.readouterr().out and said in study.sanity_warnings


@pytest.mark.parametrize("built", [10, 99])
def test_memory_must_suffice_for_the_student_in_the_middle(prepared: Prepare, built: int) -> None:
    words = r"^the task's student\(width=15\), in the middle of the space, fails.* memory"
    with pytest.raises(HarnessError, match=words):
        prepared(large(30, asked=10, built=built))


def eager(table: CostTable) -> Conditions:
    return table.conditions["torch_eager"]


def test_a_cost_table_of_a_tiny_study_is_measured_on_by_a_larger_one(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def table(study: str, limit_s: float) -> CostTable:
        monkeypatch.setattr("harness.preparation.cost_table.limit_s_of", lambda *_: limit_s)
        return prepared(study=study)[1].costs

    def rounds() -> Rounds:
        (file,) = tmp_path.glob("mlruns/cache/costs/*.rounds")
        return Rounds(file)

    tiny, one = table("tiny", 0), rounds()
    assert eager(tiny).throughput_batch == 1 and eager(tiny).precision == "p50 of 1 round"
    again = table("again", 0)  # there is no time for more
    assert again.to_json() == tiny.to_json() and rounds().calls == one.calls
    assert "there is time to measure on" not in capsys.readouterr().out
    large, all_rounds = table("large", math.inf), rounds()
    assert eager(large).throughput_batch == 64 and eager(large).precision.startswith("p50 of 30 rounds")
    assert "the kept cost table is p50 of 1 round; there is time to measure on" in capsys.readouterr().out
    assert all(calls[:1] == one.calls[name] for name, calls in all_rounds.calls.items())
    monkeypatch.setattr("harness.cost.latency.measure_rounds", None)  # nothing is measured any more
    for name in ("tiny", "again"):
        assert table(name, math.inf).to_json() == tiny.to_json()  # a study keeps its own
    assert table("late", 0).to_json() == table("later", math.inf).to_json() == large.to_json()


def test_a_large_space_is_prepared_where_memory_does_not_suffice_for_its_ends(prepared: Prepare) -> None:
    study, ready = prepared(large(1000, asked=900, built=1000))
    assert ready.costs.students == {} and study.starts().keys() >= {"student(width=1)"}
    assert "student(width=1000)" not in study.starts()
