"""How teachers are asked: what is possible, what is cheaper, and what a person is told."""

from __future__ import annotations

import time
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from grounds import ground
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.studies.start import Start
from harness.teachers.asking import AskingCosts, asking_costs, check_can_be_asked, how_to_ask, live_teacher, told
from harness.teachers.black_box import BlackBoxTeacher
from harness.teachers.kinds.function import FunctionTeacher
from harness.teachers.kinds.onnx import OnnxTeacher
from harness.teachers.kinds.sklearn import SklearnTeacher
from harness.teachers.make import Teacher
from lightning_modules.data import Augment, MixUp, Split, TensorDataModule
from lightning_modules.data.live import LiveTeacher
from lightning_modules.data.views import ShiftedViews, Views
from lightning_modules.outputs import Classification, Regression

COSTS = AskingCosts(
    samples=1000,
    views=4,
    sample_s=0.002,
    live_sample_s=0.003,
    sample_bytes=40,
    epochs=10,
    trials=50,
    free_bytes=10_000_000,
)
CLASSES = Classification(3)


def data_with(views: Views | None) -> Any:
    return SimpleNamespace(views=views)


def way(
    asked: str, views: Views | None = None, *, before: str | None = None, may_be_live: bool = True, **costs: Any
) -> str:
    return how_to_ask(asked, before, data_with(views), replace(COSTS, **costs), may_be_live=may_be_live)


def test_costs_of_either_way_are_multiples_of_what_a_sample_takes() -> None:
    assert COSTS.stored_bytes == 160_000 and COSTS.stored_s == 8.0 and COSTS.trial_s == 30.0


def test_what_a_person_asks_for_is_done() -> None:
    assert way("stored") == "stored" and way("live") == "live" and way("live", ShiftedViews()) == "live"


def test_outputs_are_stored_where_that_is_cheaper_and_there_is_room() -> None:
    assert way("auto") == "stored"  # 4 views once, not 10 epochs of 50 trials
    assert way("auto", trials=1, epochs=3) == "live"  # 4 views, of which 3 are shown
    assert way("auto", trials=1, epochs=4) == "stored"
    assert way("auto", free_bytes=239_000) == "live"  # 160,000 bytes, and half as many left
    assert way("auto", free_bytes=241_000) == "stored"


def test_a_study_goes_on_as_it_began() -> None:
    assert way("auto", before="live") == "live" and way("auto", before="stored", trials=1, epochs=1) == "stored"


@pytest.mark.parametrize(
    ("views", "what"),
    [(Augment(abs, views="fresh"), "epochs show fresh views"), (Augment(mix=MixUp()), "samples are mixed")],
)
def test_fresh_and_mixed_samples_are_asked_about_live(views: Views, what: str) -> None:
    assert way("auto", views) == way("live", views) == "live"
    with pytest.raises(HarnessError, match=f"--teacher-outputs stored is impossible where {what}"):
        check_can_be_asked("stored", data_with(views), CLASSES)
    check_can_be_asked("auto", data_with(views), CLASSES)


def test_a_teacher_whose_answers_are_of_known_samples_is_asked_once() -> None:
    trees = SklearnTeacher(HistGradientBoostingClassifier())
    check_can_be_asked("auto", data_with(None), CLASSES, trees)
    check_can_be_asked("stored", data_with(ShiftedViews()), CLASSES, trees)
    with pytest.raises(HarnessError, match=r"--teacher-outputs live needs a teacher that .* but this is a SklearnTea"):
        check_can_be_asked("live", data_with(None), CLASSES, trees)
    with pytest.raises(HarnessError, match="fresh views need a teacher that can be asked about each batch"):
        check_can_be_asked("auto", data_with(Augment(abs, views="fresh")), CLASSES, trees)


def test_a_function_and_an_onnx_model_are_asked_live_where_they_have_to_be() -> None:
    for teacher in (FunctionTeacher(doubled, digest="x"), OnnxTeacher("model.onnx")):
        check_can_be_asked("auto", data_with(Augment(abs, views="fresh")), CLASSES, teacher)
        check_can_be_asked("live", data_with(None), CLASSES, teacher)


def test_a_teacher_with_a_scale_of_its_own_is_asked_once() -> None:
    own = Regression(1, teacher_scale="own")
    check_can_be_asked("auto", data_with(None), own)
    with pytest.raises(HarnessError, match="--teacher-outputs live needs a teacher that answers in the units of the"):
        check_can_be_asked("live", data_with(None), own)
    with pytest.raises(HarnessError, match="fresh views need a teacher that answers in the units of the targets"):
        check_can_be_asked("auto", data_with(Augment(abs, views="fresh")), own)
    check_can_be_asked("live", data_with(None), Regression(1))


def live(teacher: BlackBoxTeacher) -> LiveTeacher:
    teacher.prepare(ground())
    space: Any = SimpleNamespace(task=SimpleNamespace(output=CLASSES))
    made = Teacher(None, Start("", (), ""), None, "", 0, teacher)  # type: ignore[arg-type]
    return live_teacher([made], space, "probabilities", torch.rand(16, 4))


def test_a_function_is_asked_about_what_a_student_sees_here_and_in_a_worker() -> None:
    asked = live(FunctionTeacher(doubled, digest="x"))
    for one in (asked, ForkingPickler.loads(ForkingPickler.dumps(asked))):
        found = one(torch.arange(8.0).reshape(2, 4))
        torch.testing.assert_close(found["logits"], torch.tensor([[0.0, 2.0, 4.0], [8.0, 10.0, 12.0]]))
        assert found["logits"].dtype == torch.float32 and not found["logits"].is_inference()


def test_a_function_that_workers_can_not_import_is_refused_where_it_is_asked_live() -> None:
    with pytest.raises(HarnessError, match=r"a FunctionTeacher that is asked live must .*; define its functions"):
        live(FunctionTeacher(lambda inputs: inputs[:, :3], digest="x"))


def doubled(inputs: Tensor) -> Tensor:
    return 2 * inputs[:, :3]


def test_outputs_are_stored_where_methods_or_teacher_are_not_fit_for_a_live_one() -> None:
    assert way("auto", trials=1, epochs=3, may_be_live=False) == "stored"


def test_both_ways_are_told_with_bytes_and_times() -> None:
    assert told("stored", COSTS) == (
        "stored: 4 views of 1,000 samples, 0.2 MB, about 8 s once; a live teacher would take about 30 s of each full "
        "trial"
    )
    assert told("live", replace(COSTS, views=1, samples=2_000_000, sample_bytes=4000)) == (
        "asked live about each batch: about 1,000 min of each full trial; to store would take 2,000,000 samples, "
        "8.0 GB, about 67 min once"
    )
    assert told("live", replace(COSTS, views=0, live_sample_s=1e-6)) == (
        "asked live about each batch: about 0.01 s of each full trial"
    )


class Drops(nn.Module):
    """Has a dropout that no mode turns off."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(inputs, 0.5))


def test_a_live_teacher_whose_dropout_is_on_is_refused() -> None:
    space: Any = SimpleNamespace(task=SimpleNamespace(output=None))
    teacher: Any = Teacher(Drops().eval(), Start("", (), ""), None, "", 0)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=r"must answer alike each time, but the same batch asked twice has logits"):
        live_teacher([teacher], space, "probabilities", torch.rand(16, 4))


def asked_for() -> Any:
    """The data, the space and the settings that costs are asked for with."""
    rows = Split(torch.rand(100, 5), torch.arange(100) % 5)
    data = TensorDataModule(train=rows, val=rows, test=rows, views=None)
    space: Any = SimpleNamespace(epochs=7, task=SimpleNamespace(teacher_outputs_dtype="float32", teacher_outputs=None))
    return data, space, SimpleNamespace(trials=3, cache_dir=Path("nowhere"))


def test_times_of_a_batch_give_the_time_of_a_sample() -> None:
    class Sleeps(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            time.sleep(len(inputs) / 1000)
            return inputs

    data, space, settings = asked_for()
    found = asking_costs([Sleeps(), Sleeps()], data, space, settings, layers=(), workers=1)
    assert 0.002 <= found.sample_s == found.live_sample_s < 0.004  # both
    assert (found.samples, found.views, found.sample_bytes, found.epochs, found.trials) == (100, 1, 20, 7, 3)
    space.task.teacher_outputs_dtype = "float16"
    assert asking_costs([Sleeps()], data, space, settings, layers=(), workers=1).sample_bytes == 10
    assert found.free_bytes > 0


def test_a_live_teacher_is_timed_with_a_workers_share_of_the_threads() -> None:
    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.threads: list[int] = []

        def forward(self, inputs: Tensor) -> Tensor:
            self.threads.append(torch.get_num_threads())
            time.sleep(0.1 if torch.get_num_threads() == 1 else 0.01)
            return inputs

    data, space, settings = asked_for()
    notes, before = Notes(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = asking_costs([notes], data, space, settings, layers=(), workers=2)
        assert set(notes.threads) == {1, 2} and torch.get_num_threads() == 2
        assert found.sample_s < found.live_sample_s
    finally:
        torch.set_num_threads(before)


def test_a_call_that_another_process_is_in_the_way_of_does_not_count() -> None:
    class Stumbles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            time.sleep(0.5 if self.calls % 3 == 0 else 0.02)
            return inputs

    data, space, settings = asked_for()
    found = asking_costs([Stumbles()], data, space, settings, layers=(), workers=1)
    assert found.sample_s < 0.02
