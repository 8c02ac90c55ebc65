"""The region of interest: which bound is asked for, what it comes to, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import settings_in
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from harness.cli.commands import parse_command
from harness.cli.search import parse_search
from harness.core.errors import HarnessError
from harness.preparation.chance import chance_level
from harness.region import Region, Scores, check_name, check_reach, region_of
from harness.settings import Bound, bound_in
from harness.storage.access import open_storage
from harness.studies.opening import open_study
from lightning_modules.outputs import Classification
from search_spaces.digits import SPACE, Digits

ACCURACY = Scores(metric="accuracy", sign=1, bounds=(0.0, 1.0), chance=0.19, samples=100)
MAE = Scores(metric="mae", sign=-1, bounds=(0.0, None), chance=4.0, samples=100)


class Mae(Digits):
    metric_name: ClassVar[str] = "mae"
    metric_direction: ClassVar[str] = "minimize"


def asked(*arguments: str) -> Bound | None:
    return parse_search(["--runs-dir", "/tmp", *arguments])[0].bound


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        asked(*arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("arguments", "bound"),
    [
        ((), None),
        (("--min", "accuracy=0.95"), Bound("--min", "accuracy", 0.95)),
        (("--min", "log-likelihood=-3.5"), Bound("--min", "log-likelihood", -3.5)),
        (("--min", "a=b=2"), Bound("--min", "a=b", 2.0)),
        (("--min", "none"), Bound("--min")),
        (("--max", "mae=3"), Bound("--max", "mae", 3.0)),
        (("--max", "mae=3", "--max", "parameters=100"), Bound("--max", "mae", 3.0)),
        (("--min-share", "0.98"), Bound("--min-share", value=0.98)),
    ],
)
def test_a_bound_is_asked_for_by_one_flag(arguments: tuple[str, ...], bound: Bound | None) -> None:
    assert asked(*arguments) == bound
    assert bound_in(bound and str(bound)) == bound


def test_the_doctor_takes_the_same_flags_and_a_budget_of_costs_stays_one() -> None:
    _, (settings,) = parse_command(["doctor", "--max", "mae=3", "--max", "parameters=100"])
    assert settings.bound == Bound("--max", "mae", 3.0) and settings.budgets == {"parameters": 100.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--min", "accuracy"), "must be METRIC=VALUE with a finite number, or none, but got 'accuracy'"),
        (("--min", "accuracy=nan"), "must be METRIC=VALUE with a finite number, or none, but got 'accuracy=nan'"),
        (("--min", "=0.9"), "must be METRIC=VALUE"),
        (("--max", "mae=high"), "must give mae a finite number, but got 'mae=high'"),
        (("--max", "parameters=-1"), "must give parameters a positive number"),
        (("--min-share", "98"), "must be a share above 0 and at most 1, as 0.98, but got '98'"),
        (("--min-share", "0"), "must be a share above 0"),
        (("--min", "accuracy=0.9", "--min-share", "0.9"), "--min accuracy=0.9 and --min-share 0.9"),
        (("--min", "accuracy=0.9", "--min", "none"), "one bound of the primary metric must do"),
    ],
)
def test_what_is_no_bound_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, *arguments)


def test_a_bound_names_the_primary_metric_on_its_worse_side() -> None:
    for bound in (None, Bound("--min"), Bound("--min-share", value=0.9), Bound("--min", "accuracy", 0.9)):
        check_name(bound, Digits())
    check_name(Bound("--max", "mae", 3.0), Mae())
    for task, bound, said in [
        (Digits(), Bound("--max", "accuracy", 0.9), r"better the higher it is.* use --min accuracy=0.9"),
        (Mae(), Bound("--min", "mae", 3.0), r"better the lower it is.* use --max mae=3"),
        (Digits(), Bound("--min", "acuracy", 0.9), r"but got 'acuracy'; did you mean --min accuracy=0.9\?"),
        (Digits(), Bound("--max", "latency", 2.0), r"--max must name a cost \(par.*'latency'; did you mean latency_p"),
        (Digits(), Bound("--max", "speed", 2.0), r"--max must name a cost \(parameters, .*\), but got 'speed'\.$"),
        (Mae(), Bound("--max", "speed", 2.0), r"--max must name mae, the primary metric or a cost \(.*got 'speed'\.$"),
        (Digits(), Bound("--min", "agreement", 0.9), r"--min must name accuracy, the primary metric, but got 'agreem"),
        (
            Mae(),
            Bound("--min", "speed", 3.0),
            "--min must name a metric that is better the higher it is, unlike mae, but",
        ),
    ]:
        with pytest.raises(HarnessError, match=said):
            check_name(bound, task)


def test_a_bound_that_no_student_can_reach_is_refused() -> None:
    check_reach(Bound("--min", "accuracy", 1.0), ACCURACY)
    check_reach(Bound("--max", "mae", 9.0), MAE)
    with pytest.raises(HarnessError, match="--min accuracy=95 can't be reached: accuracy is never above 1"):
        check_reach(Bound("--min", "accuracy", 95.0), ACCURACY)
    with pytest.raises(HarnessError, match="--max mae=-1 can't be reached: mae is never below 0"):
        check_reach(Bound("--max", "mae", -1.0), MAE)


def test_a_share_is_of_the_teacher_s_score_whichever_way_the_metric_goes() -> None:
    share = Bound("--min-share", value=0.5)
    assert region_of(share, ACCURACY, 0.9).floor == pytest.approx(0.45)  # student / teacher
    assert region_of(share, MAE, 2.0).floor == pytest.approx(4.0)  # teacher / student


@pytest.mark.parametrize(
    ("scores", "teacher", "said"),
    [
        (replace(ACCURACY, bounds=(-1.0, 1.0)), 0.9, "accuracy can be -1"),
        (replace(ACCURACY, bounds=(None, 0.0), chance=-2.3), -0.2, "a constant answer scores -2.3"),
        (replace(ACCURACY, bounds=(None, None), chance=math.nan), 0.9, "a constant answer scores nan"),
        (ACCURACY, 0.0, "the teacher scores 0"),
        (MAE, 0.0, "the teacher scores 0"),
    ],
)
def test_a_share_of_scores_that_may_be_zero_or_below_is_refused(scores: Scores, teacher: float, said: str) -> None:
    share = Bound("--min-share", value=0.98)
    with pytest.raises(HarnessError, match=rf"must be of scores above zero, but {said}; name a value: --m\w\w "):
        check_reach(share, scores)
        region_of(share, scores, teacher)


def test_by_default_the_error_may_be_the_geometric_mean_of_the_teacher_s_and_of_chance_s() -> None:
    assert region_of(None, ACCURACY, 0.99).floor == pytest.approx(1 - (0.01 * 0.81) ** 0.5)  # 0.91
    assert region_of(None, MAE, 1.0).floor == pytest.approx(2.0)
    # A teacher without an error: half a sample's worth of chance's 0.81 is 0.00405.
    assert region_of(None, ACCURACY, 1.0).floor == pytest.approx(1 - (0.81 * 0.00405) ** 0.5)
    assert "--min none lifts it" in str(region_of(None, ACCURACY, 0.99))


@pytest.mark.parametrize(
    ("scores", "teacher", "why"),
    [
        (replace(ACCURACY, bounds=(0.0, None)), 0.9, "the best that accuracy can be is not known"),
        (replace(ACCURACY, chance=math.nan), 0.9, "accuracy of a constant answer is not a number"),
        (ACCURACY, 0.19, "the teacher's 0.19 is no better than a constant answer's 0.19"),
        (replace(ACCURACY, chance=1.0), 1.0, "no better"),
        (MAE, 5.0, "no better"),
    ],
)
def test_where_no_bound_has_a_meaning_all_students_count_and_that_is_said(
    scores: Scores, teacher: float, why: str
) -> None:
    region = region_of(None, scores, teacher)
    assert region.floor is None and region.holds(-1e9)
    flag = "--min accuracy=VALUE" if scores.sign > 0 else "--max mae=VALUE"
    assert str(region).startswith("all students count, for") and why in str(region) and flag in str(region)


def test_none_lifts_the_bound_and_a_value_is_taken_as_it_is() -> None:
    assert region_of(Bound("--min"), ACCURACY, 0.99) == Region("accuracy", 1, None, "--min none")
    assert region_of(Bound("--min", "accuracy", 0.95), ACCURACY, 0.9).floor == 0.95
    assert region_of(Bound("--max", "mae", 3.0), MAE, 1.0).floor == 3.0


def test_the_bound_itself_is_within_also_in_single_precision() -> None:
    at_least = Region("accuracy", 1, 0.95)
    assert at_least.holds(float(torch.tensor(342 / 360))) and at_least.holds(0.95) and not at_least.holds(0.9499)
    at_most = Region("mae", -1, 3.0)
    assert at_most.holds(3.0) and at_most.holds(-1.0) and not at_most.holds(3.1) and not at_most.holds(math.nan)


class LogLoss(Metric):
    """Minus the mean log-likelihood in nats."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))
        self.add_state("count", torch.tensor(0))

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


class Fussy(LogLoss):
    def compute(self) -> Tensor:
        raise ValueError("all answers are the same")


LABELS = torch.tensor([0, 0, 1, 0, 2, 0])


@pytest.mark.parametrize(
    ("metric", "sign", "chance"),
    [
        (MulticlassAccuracy(3, average="micro"), 1, 4 / 6),
        (MulticlassAccuracy(3, average="micro", top_k=2), 1, 5 / 6),
        (MulticlassF1Score(3, average="macro"), 1, 0.8 / 3),  # of class 0: 2 * (2/3) / (2/3 + 1)
        (MulticlassAUROC(3), 1, 0.5),
        (LogLoss(), -1, -(4 * math.log(4 / 6) + 2 * math.log(1 / 6)) / 6),  # the entropy of the labels
        (Fussy(), -1, math.nan),
    ],
)
def test_chance_is_the_better_of_the_most_frequent_class_and_all_as_frequent_as_they_are(
    metric: Any, sign: int, chance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chance_level(metric, Classification(), LABELS, 3, sign=sign) == pytest.approx(chance, nan_ok=True, abs=1e-5)
    monkeypatch.setattr("harness.preparation.chance._VALUES", 12)  # four samples of three classes at once
    assert chance_level(metric, Classification(), LABELS, 3, sign=sign) == pytest.approx(chance, nan_ok=True, abs=1e-5)


def test_a_study_keeps_its_bound_until_another_is_asked_for(tmp_path: Path) -> None:
    settings = replace(settings_in(tmp_path, trials=3), bound=Bound("--min", "accuracy", 0.95))
    study = open_study(settings, SPACE, open_storage(settings))
    assert study.region == Region("accuracy", 1)  # nothing is known of the teacher yet
    study.region = region_of(settings.bound, ACCURACY, 0.99)
    study.optuna.add_trial(_any_trial())
    again = open_study(settings, SPACE, open_storage(settings))
    assert again.region == Region("accuracy", 1, 0.95, "--min accuracy=0.95")
    assert open_study(replace(settings, bound=None), SPACE, open_storage(settings)).bound == settings.bound
    other = Bound("--min", "accuracy", 0.9)
    again = open_study(replace(settings, bound=other), SPACE, open_storage(settings))
    assert again.bound == settings.bound  # until it was seen to be one that can be reached
    again.bound = other
    assert open_study(replace(settings, bound=None), SPACE, open_storage(settings)).bound == other


def _any_trial() -> Any:
    from optuna.trial import create_trial

    params = SPACE.middle()
    return create_trial(params=params, distributions=SPACE.distributions, values=[0.5, 1.0, 1.0])
