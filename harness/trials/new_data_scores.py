"""Score confirmed students on new data beside the test split: does a student generalise worse than its teacher?

Nothing is trained: the students and controls that a confirmation trained are loaded and scored, and the teacher is
asked once. A drop is the test score minus the score on the new data, so positive where the network is worse there,
whatever the metric's direction. A student's drop is compared with its teacher's, seed by seed, and with its control's,
paired by seed; intervals are those of a confirmation, over its seeds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from harness.preparation.new_data import NEW
from harness.preparation.scoring import score, teacher_scores
from harness.preparation.user_code import deployed_of
from harness.space import is_own_control
from harness.studies.study import Study
from harness.tracking.spool import SPOOL, Spool, last_state
from harness.training.tensor_file import load_state
from harness.trials.confirm import CONTROL, STUDENT, Interval, arm_of, interval, name_of, results_by_trial
from harness.trials.context import TrialContext
from harness.trials.controls import PLAIN, TUNED, tuned_controls
from harness.trials.retraining import Retraining
from harness.trials.trial import STUDENT as FILE
from harness.trials.trial import parts_of_answers
from lightning_modules.data.tensors import TensorDataModule

_PREFIX = "on"  # of metrics at the tracker


def score_on(
    path: Path,
    new: TensorDataModule,
    trained: Sequence[Retraining],
    context: TrialContext,
    spool: Spool,
    say: Callable[[str], None],
) -> None:
    """Score the teacher and confirmed students on new data, and store what they score with the study.

    What was scored on the same samples before is known. A student whose file is missing or damaged is left out.

    Args:
        path: Where the new data is.
        new: The new data, with the teacher's outputs.
        trained: The confirmations that may have a result.
        context: What every training needs.
        spool: The log of the study's run; scores are logged to the runs of the students.
        say: Called with a line of text about what was left out.
    """
    study, prepared = context.study, context.prepared
    fingerprint = new.splits[NEW].fingerprint
    scores: dict[str, Any] = dict(study.new_data_scores().get(fingerprint, {}).get("scores", {}))
    results, absent = study.retrained(), []
    for one in trained:
        if one.name in scores or "metrics" not in results.get(one.name, {}):
            continue
        try:
            network = _network(study.folder / one.name / FILE, one, context)
        except (OSError, SafetensorError, RuntimeError):
            absent.append(one)
            continue
        scores[one.name] = score(parts_of_answers(network, new, NEW), new, context.space, prepared.classes, split=NEW)
        _log(scores[one.name], study.folder / one.name, path, fingerprint, spool)
    teacher = teacher_scores(new, context.space, prepared.classes, split=NEW)
    found = {"path": str(path), "samples": len(new.splits[NEW]), "teacher": teacher, "scores": scores}
    study.store_new_data_scores(fingerprint, found)
    if absent:
        file = study.folder / absent[0].name / FILE
        say(
            f"not scored on {path}: {len(absent)} students whose files are missing or can't be read, as {file}; "
            "confirm with more --seeds trains others."
        )


def _network(file: Path, one: Retraining, context: TrialContext) -> nn.Module:
    """Return the deployed network of a confirmed student, on the device of the data."""
    space, data = context.space, context.prepared.data
    state = load_file(file)
    network = deployed_of(space, space.building(one.spec.configuration.params()), data, context.settings).network
    load_state(network, state)
    return network


def _log(scores: Mapping[str, float], folder: Path, path: Path, fingerprint: str, spool: Spool) -> None:
    """Log what a student scored to its run, if the log of that is in the study's folder."""
    if last_state(folder / SPOOL) != "COMPLETE":
        return
    with contextlib.closing(spool.beside(folder)) as log:
        log.metrics({f"{_PREFIX}/{name}": value for name, value in scores.items()})
        log.tags({"kd.on": str(path), "kd.on_dataset": fingerprint})


@dataclass(frozen=True, kw_only=True)
class Drop:
    """How much worse than on the test split the networks of one arm are on new data.

    Attributes:
        arm: ``"student"``, ``"control"`` or ``"tuned control"``.
        seeds: Number of seeds.
        test: Primary metric on the test split.
        new: Primary metric on the new data.
        drop: How much worse it is there, paired by seed; negative if it is better.
        beyond_teacher: The drop minus that of the teacher.
    """

    arm: str
    seeds: int
    test: Interval
    new: Interval
    drop: Interval
    beyond_teacher: Interval


@dataclass(frozen=True, kw_only=True)
class Generalisation:
    """Drops of a pick and its controls.

    Attributes:
        number: The trial's number.
        pick: Name of the pick when it was confirmed.
        drops: Of the student, and of its controls.
        beyond_control: The student's drop minus that of the control that its gain is measured over, paired by seed;
            ``None`` if it has none.
        control: Name of that control, ``"plain"`` or ``"tuned"``.
        failed: Number of failed seeds of the student.
    """

    number: int
    pick: str
    drops: tuple[Drop, ...]
    beyond_control: Interval | None
    control: str
    failed: int

    @property
    def student(self) -> Drop:
        """Return the student's drop."""
        return self.drops[0]

    @property
    def verdict(self) -> str:
        """Return ``loses more``, ``loses less``, ``as the teacher`` if the interval contains zero, or ``unproven``.

        As in a confirmation, nothing is claimed where seeds of the student failed.
        """
        if self.failed:
            return "unproven"
        if self.student.beyond_teacher.low > 0:
            return "loses more"
        return "loses less" if self.student.beyond_teacher.high < 0 else "as the teacher"


@dataclass(frozen=True, kw_only=True)
class NewDataResult:
    """What came out on one set of new data.

    Attributes:
        path: Where it was.
        fingerprint: Hash of its samples.
        samples: Number of samples.
        teacher_test: The teacher's primary metric on the test split.
        teacher_new: And on the new data.
        teacher_drop: How much worse it is there.
        picks: Each trial that was confirmed and scored with at least two seeds.
    """

    path: str
    fingerprint: str
    samples: int
    teacher_test: float
    teacher_new: float
    teacher_drop: float
    picks: tuple[Generalisation, ...]


def new_data_results(study: Study) -> list[NewDataResult]:
    """Return what confirmed students scored on each set of new data, in the order of their first scores."""
    on_test = study.tested_teacher
    if on_test is None:
        return []
    results, best, trials = results_by_trial(study), tuned_controls(study), study.trials()
    alone = {trial.number: is_own_control(trial.params) or bool(study.no_control) for trial in trials}
    found = []
    for fingerprint, kept in study.new_data_scores().items():
        test, new = on_test[study.primary], kept["teacher"][study.primary]
        drop = study.primary_sign * (test - new)
        picks = []
        for number, result in sorted(results.items()):
            arms = {STUDENT: STUDENT}
            if not alone[number]:
                arms |= {PLAIN: CONTROL}
                tuned = arm_of(best.get(number), result.scores)
                arms |= {} if tuned in (None, CONTROL) else {TUNED: str(tuned)}
            pairs = {name: _pairs(number, arm, result.scores.get(arm, {}), kept, study) for name, arm in arms.items()}
            if len(pairs[STUDENT]) >= 2:
                failed = len(result.reasons.get(STUDENT, ()))
                picks.append(_generalisation(number, result.pick, pairs, drop, failed, study.primary_sign))
        found.append(
            NewDataResult(
                path=kept["path"],
                fingerprint=fingerprint,
                samples=kept["samples"],
                teacher_test=test,
                teacher_new=new,
                teacher_drop=drop,
                picks=tuple(picks),
            )
        )
    return found


_Pairs = dict[int, tuple[float, float]]
"""Scores on the test split and on new data, by seed."""


def _pairs(number: int, arm: str, on_test: Mapping[int, float], kept: Mapping[str, Any], study: Study) -> _Pairs:
    named, scores = {index: name_of(number, arm, index) for index in on_test}, kept["scores"]
    return {index: (on_test[index], scores[name][study.primary]) for index, name in named.items() if name in scores}


def _generalisation(
    number: int, pick: str, pairs: Mapping[str, _Pairs], teacher_drop: float, failed: int, sign: int
) -> Generalisation:
    drops, by_seed = [], {name: {i: sign * (a - b) for i, (a, b) in each.items()} for name, each in pairs.items()}
    titles = {STUDENT: STUDENT, PLAIN: "control", TUNED: "tuned control"}
    for name, each in pairs.items():
        if len(each) < 2:
            continue
        lost = list(by_seed[name].values())
        drops.append(
            Drop(
                arm=titles[name],
                seeds=len(each),
                test=interval([test for test, _ in each.values()]),
                new=interval([new for _, new in each.values()]),
                drop=interval(lost),
                beyond_teacher=interval([one - teacher_drop for one in lost]),
            )
        )
    over = next((name for name in (TUNED, PLAIN) if len(pairs.get(name, {})) >= 2), "")
    shared = sorted(by_seed[STUDENT].keys() & by_seed.get(over, {}).keys())
    beyond = [by_seed[STUDENT][index] - by_seed[over][index] for index in shared]
    is_paired = len(beyond) >= 2
    return Generalisation(
        number=number,
        pick=pick,
        drops=tuple(drops),
        beyond_control=interval(beyond) if is_paired else None,
        control=over if is_paired else "",
        failed=failed,
    )


def new_data_table(results: Sequence[NewDataResult], picked: Mapping[int, str]) -> pd.DataFrame:
    """Return a table with a row for each arm of each pick on each set of new data, and one for the teacher.

    Columns: ``on`` (the path), ``dataset`` (its fingerprint), ``samples``, ``trial``, ``pick`` (when it was confirmed),
    ``picked`` (currently), ``arm``, ``seeds``, ``test``, ``new``, ``drop``, ``beyond_teacher`` and ``beyond_control``
    (means, with ``_low`` and ``_high``), ``control`` (which one) and ``verdict``.

    Args:
        results: The results.
        picked: Name of each current pick by the trial's number.
    """
    rows: list[dict[str, Any]] = []
    for result in results:
        data = {"on": result.path, "dataset": result.fingerprint, "samples": result.samples}
        for pick in result.picks:
            names = {"trial": pick.number, "pick": pick.pick, "picked": picked.get(pick.number, "")}
            for drop in pick.drops:
                row = {**data, **names, "arm": drop.arm, "seeds": drop.seeds}
                for name in ("test", "new", "drop", "beyond_teacher"):
                    row |= _columns(name, getattr(drop, name))
                if drop is pick.student:
                    row |= _columns("beyond_control", pick.beyond_control)
                    row |= {"control": pick.control, "verdict": pick.verdict}
                rows.append(row)
        scores = {"test": result.teacher_test, "new": result.teacher_new, "drop": result.teacher_drop}
        rows.append({**data, "arm": "teacher", **scores})
    frame = pd.DataFrame(rows)
    return frame.astype({"trial": "Int64", "seeds": "Int64"}) if len(frame) else frame


def _columns(name: str, found: Interval | None) -> dict[str, float]:
    return {} if found is None else {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
