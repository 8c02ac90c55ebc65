"""A claimed trial on real storages, compared with what Optuna's own ``tell`` stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import claimed, metrics, opened, settings_in
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import LeaseLost
from harness.settings import Settings
from search_spaces.digits import SPACE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=3)


def test_a_complete_trial_s_values_are_stored_in_the_order_of_the_objectives(settings: Settings) -> None:
    study = opened(replace(settings, objectives=("macs", "accuracy")))
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.complete(metrics(0.75, 1.0) | {"macs": 1234})
    claim.lease.release()
    (trial,) = [t for t in opened(study.settings).trials() if t.state.name == "COMPLETE"]
    assert repr(trial.values) == "[1234.0, 0.75]"  # floats: as Optuna stores them
    assert trial.user_attrs["metrics"]["accuracy"] == 0.75


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs")])
def test_a_pruned_trial_is_stored_as_optuna_s_tell_stores_it(settings: Settings, objectives: tuple[str, ...]) -> None:
    study = opened(replace(settings, objectives=objectives))
    by_optuna = optuna.create_study(directions=study.directions)  # type: ignore[arg-type]
    theirs = by_optuna.ask(SPACE.distributions)
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.report_intermediate(2, 0.25)
    claim.lease.release()
    heir = claimed(opened(study.settings), SPACE)  # intermediate values of the worker before count too
    assert heir is not None and heir.resumed
    heir.report_intermediate(1, 0.75)
    heir.prune({"macs": 5.0}, "hopeless")
    for epochs, value in ((2, 0.25), (1, 0.75)):
        by_optuna._storage.set_trial_intermediate_value(theirs._trial_id, epochs, value)
    by_optuna.tell(theirs, state=TrialState.PRUNED)

    def end(trial: FrozenTrial) -> object:
        return trial.state, trial.values, trial.intermediate_values

    (stored,), (expected,) = opened(study.settings).trials(), by_optuna.trials
    assert end(stored) == end(expected) and stored.datetime_complete is not None
    assert stored.user_attrs == {"recipe": "repdistiller", "metrics": {"macs": 5.0}, "reason": "hopeless"}


def test_an_intermediate_value_that_could_not_be_stored_is_stored_with_the_trial_s_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(settings)
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.report_intermediate(1, 0.5)

    def away(*arguments: Any) -> None:
        raise StorageInternalError("away")

    with monkeypatch.context() as patched:
        patched.setattr(study.storage.optuna, "set_trial_intermediate_value", away)
        with pytest.raises(StorageInternalError):
            claim.report_intermediate(2, 0.25)
    claim.complete(metrics(0.75, 1.0))
    claim.lease.release()
    (trial,) = opened(study.settings).trials()
    assert trial.state == TrialState.COMPLETE and trial.intermediate_values == {1: 0.5, 2: 0.25}


def test_a_trial_ends_once(settings: Settings) -> None:
    study = opened(settings)
    claim = claimed(study, SPACE)
    assert claim is not None
    claim.complete(metrics(0.5, 1.0))
    for once_more in (lambda: claim.fail("nan"), lambda: claim.report_intermediate(3, 0.5)):
        with pytest.raises(LeaseLost, match="0 was finished by another worker meanwhile"):
            once_more()
    (trial,) = opened(settings).trials()
    assert trial.state == TrialState.COMPLETE and "reason" not in trial.user_attrs
