"""Several teachers: each made by itself, averaged, and what a study then stands on. Against NumPy and live networks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from conftest import EXAMPLE, Silent, opened, settings_in
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.cost.table import CostTable
from harness.preparation.prepare import prepare
from harness.preparation.prepared import Prepared
from harness.screen.terminal import Terminal
from harness.settings import Settings
from harness.space import SearchSpace, load_space
from harness.studies.start import Start
from harness.studies.study import Study
from harness.teachers.cache import ArtifactCache, null_lock
from harness.teachers.ensemble import averaged, bind_teachers, ensemble_name, make_teachers
from harness.teachers.make import Teacher
from harness.teachers.untrained import build_teacher
from harness.tracking.spool import SPOOL, read_events
from lightning_modules.outputs import Classification
from lightning_modules.training import Training

AVERAGES: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
    "probabilities": lambda logits: np.log(np.mean([softmax(one, axis=-1) for one in logits], axis=0)),
    "logits": lambda logits: np.mean([one - one.mean(-1, keepdims=True) for one in logits], axis=0),
}


@dataclass
class Place:
    """A folder with the README's example in it, and settings of a study there."""

    folder: Path
    space: SearchSpace
    settings: Settings

    def checkpoint(self, seed: int) -> Path:
        """A file of a teacher that nobody trained."""
        torch.manual_seed(seed)
        file = self.folder / f"{seed}.safetensors"
        save_file(self.space.task.teacher().state_dict(), file)
        return file

    def network(self, file: Path) -> nn.Module:
        network = self.space.task.teacher().eval()
        network.load_state_dict(load_file(file))
        return network

    def prepared(self, *files: Path, study: str = "s", average: str = "probabilities") -> tuple[Study, Prepared]:
        settings = replace(self.settings, teachers=files, study=study, average=average)
        made = opened(settings, self.space)
        made.join()
        try:
            return made, prepare(settings, self.space, made, Terminal(), Silent())
        finally:
            made.lock.release()

    def teachers(self, **settings: object) -> list[Teacher]:
        data = self.space.task.data(None)
        return make_teachers(
            self.space, data, "its fingerprint", classes=2, settings=replace(self.settings, **settings),  # type: ignore[arg-type]
            artifacts=ArtifactCache(null_lock, Silent(), print), terminal=Terminal(), mirror=Silent(),
            bind_start=lambda name, start: start,
        )  # fmt: skip


def test_workers_that_find_other_last_bits_at_the_same_time_stand_on_the_same_teachers(tmp_path: Path) -> None:
    studies = [opened(settings_in(tmp_path, trials=1)) for _ in range(8)]
    studies[0].optuna.ask()  # from now on nothing is bound anew

    def bound(worker: int) -> str:
        starts = [Start("weights", (1.0, 2.0 + worker * 1e-7), f"{worker} of {teacher}") for teacher in range(2)]
        return bind_teachers(studies[worker], starts, "logits")

    with ThreadPoolExecutor(8) as workers:
        names = set(workers.map(bound, range(8)))
    assert len(names) == 1


def digests_of(teachers: list[Teacher]) -> list[str]:
    return [teacher.digest for teacher in teachers]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "cancer.py").write_text(EXAMPLE)
    space = load_space(tmp_path / "cancer.py")
    space.task.teacher_epochs = 2  # type: ignore[misc]
    settings = Settings(
        space_name="cancer",
        space_file=tmp_path / "cancer.py",
        study="s",
        storage=f"sqlite:///{tmp_path}/optuna.db",
        runs_dir=tmp_path / "mlruns",
    )
    return Place(tmp_path, space, settings)


def outputs(*values: float) -> dict[str, dict[str, Tensor]]:
    return {split: {"logits": torch.tensor([values])} for split in ("train", "val")}


def test_teachers_that_are_trained_differ_and_the_first_is_the_one_that_is_trained_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (alone,) = place.teachers()
    capsys.readouterr()
    three = place.teachers(trained_teachers=3)
    assert len({teacher.digest for teacher in three}) == 3
    assert alone.digest in [teacher.digest for teacher in three]
    output = capsys.readouterr().out
    assert "teacher 1" not in output  # it was kept
    assert "teacher 2 trained in" in output and "teacher 3 trained in" in output
    kept = list((place.settings.cache_dir / "teachers").glob("*/teacher.safetensors"))
    assert len(kept) == 3
    seeds = {event["params"]["seed"] for file in kept for event in read_events(file.parent / SPOOL)[:1]}
    assert len(seeds) == 3 and "0" in seeds
    again = place.teachers(trained_teachers=3)
    assert [teacher.digest for teacher in again] == [teacher.digest for teacher in three]
    assert capsys.readouterr().out == ""
    other = place.teachers(trained_teachers=2, seed=1)  # another study's ensemble shares nobody with it
    assert not {teacher.digest for teacher in other} & {teacher.digest for teacher in three}


def test_the_same_teachers_are_the_same_ensemble_however_they_are_named(place: Place) -> None:
    first, second = place.checkpoint(1), place.checkpoint(2)
    names = {
        ensemble_name(digests_of(place.teachers(teachers=files)), "logits")
        for files in ((first, second), (second, first))
    }
    (name,) = names
    digests = sorted(place.teachers(teachers=(file,))[0].digest for file in (first, second))
    assert name == f"logits of {digests[0]}, {digests[1]}"
    assert ensemble_name(digests_of(place.teachers(teachers=(first,))), "logits") in digests


def test_a_teacher_that_is_given_twice_is_refused(place: Place) -> None:
    first = place.checkpoint(1)
    copy = place.folder / "copy.safetensors"
    copy.write_bytes(first.read_bytes())
    with pytest.raises(
        HarnessError, match=r"--teacher must name teachers that differ, but two of them are [0-9a-f]{16}"
    ):
        place.teachers(teachers=(first, place.checkpoint(2), copy))


def test_one_teacher_s_outputs_stay_as_they_are_and_several_are_averaged() -> None:
    one = outputs(1.0, 3.0)
    assert averaged([one], "logits", Classification()) is one
    both = averaged([one, outputs(-4.0, 0.0)], "logits", Classification())
    assert torch.equal(both["val"]["logits"], torch.tensor([[-1.5, 1.5]])) and set(both) == {"train", "val"}


@pytest.mark.parametrize("average", AVERAGES)
def test_students_see_the_mean_of_what_the_live_teachers_say(place: Place, average: str) -> None:
    files = [place.checkpoint(seed) for seed in (1, 2, 3)]
    _, prepared = place.prepared(*files, average=average)
    for split in ("train", "val"):
        inputs = prepared.data.splits[split].inputs
        assert isinstance(inputs, Tensor)
        with torch.no_grad():
            live = [place.network(file)(inputs).double().numpy() for file in files]
        stored = prepared.data.teacher_outputs[split]["logits"].numpy()
        np.testing.assert_allclose(stored, AVERAGES[average](live), atol=1e-5)
    kept = list((place.settings.cache_dir / "teacher_outputs").glob("*.safetensors"))
    assert len(kept) == 3  # each under its own key


def test_a_study_stands_on_all_its_teachers_and_on_the_kind_of_average(place: Place) -> None:
    first, second, third = (place.checkpoint(seed) for seed in (1, 2, 3))
    study, prepared = place.prepared(first, second)
    assert study.attrs["kd.prepared"]["teacher"] == prepared.teacher_digest == study.ensemble
    assert prepared.teacher_digest.startswith("probabilities of ") and prepared.teacher_digest.count(", ") == 1
    failed = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    study.optuna.add_trial(failed)  # what has begun is not made anew
    place.prepared(second, first)
    for files, average in (((first,), "probabilities"), ((first, third), "probabilities"), ((first, second), "logits")):
        with pytest.raises(
            HarnessError, match=r"study 's' was begun with other teacher \(probabilities of .*use --study"
        ):
            place.prepared(*files, average=average)
    alone, prepared = place.prepared(first, study="alone")
    assert alone.ensemble == "" and len(prepared.teacher_digest) == 16


def test_an_ensemble_costs_what_its_members_cost_and_each_has_a_run_of_its_own(place: Place) -> None:
    study, prepared = place.prepared(place.checkpoint(1), place.checkpoint(2))
    assert study.costs is not None
    table, metrics = CostTable.from_json(study.costs), study.attrs["kd.teacher"]
    # A perceptron of 256: 60 of its normalization, 30 x 256 and 256 weights, 256 x 2 and 2.
    assert [cost["parameters"] for cost in table.members] == [8510, 8510]
    assert [cost["macs"] for cost in table.members] == [30 * 256 + 512] * 2
    assert metrics["parameters"] == 17020 and metrics["macs"] == 16384
    for name in ("latency_p50_ms", "latency_p95_ms", "size_mb"):
        assert metrics[name] == pytest.approx(sum(cost[name] for cost in table.members))
    assert 1 / metrics["throughput_per_s"] == pytest.approx(sum(1 / cost["throughput_per_s"] for cost in table.members))
    assert (metrics["agreement"], metrics["compression"], metrics["speedup"]) == (1, 1, 1)
    logged = {}
    for folder in (place.settings.cache_dir / "teachers").iterdir():
        events = read_events(folder / SPOOL)
        assert events[-1]["state"] == "COMPLETE"
        (tag,) = (event["values"]["kd.teacher"] for event in events if event["event"] == "tags")
        logged[tag] = next(event["values"] for event in events if event["event"] == "metrics")
    assert prepared.teacher_digest == f"probabilities of {', '.join(sorted(logged))}"
    for member, cost in zip(sorted(logged), table.members, strict=True):
        assert {name: logged[member][name] for name in cost} == cost
        assert logged[member]["agreement"] == 1  # with itself, in whatever ensemble it is
    labels = prepared.data.splits["val"].labels
    accuracy = (prepared.data.teacher_outputs["val"]["logits"].argmax(-1) == labels).float().mean()
    assert metrics["accuracy"] == pytest.approx(float(accuracy))


def test_a_teacher_is_trained_as_its_task_says(place: Place) -> None:
    def made(training: Training) -> tuple[str, dict[str, Tensor], int]:
        place.space.task.teacher_training = training  # type: ignore[misc]
        (teacher,) = place.teachers()
        assert teacher.network is not None
        losses = [event for event in read_events(teacher.spool.folder / SPOOL) if event["event"] == "metrics"]
        return teacher.digest, dict(teacher.network.named_parameters()), len(losses)

    before = dict(fresh(place).named_parameters())
    _, still, epochs = made(Training(optimizer="sgd", learning_rate=1e-30))
    assert epochs == 2 and all(torch.allclose(still[name], value) for name, value in before.items())
    digest, moved, _ = made(Training(optimizer="sgd", learning_rate=0.1, groups={"0.*": {"frozen": 0.99}}))
    first = [name for name in before if name.startswith("0.")]
    assert first and all(torch.equal(moved[name], before[name]) for name in first)  # frozen for 11.88 of 12 steps
    assert not any(torch.allclose(moved[name], before[name]) for name in before if name not in first)
    assert digest == made(Training(optimizer="sgd", learning_rate=0.1, groups={"0.*": {"frozen": 0.99}}))[0]


def fresh(place: Place) -> nn.Module:
    """The teacher as it begins: with the weights that the study's seed gives."""
    network = build_teacher(place.space, place.space.task.data(None), place.settings)
    assert isinstance(network, nn.Module)
    return network
