"""Another process that opens studies of the digits and claims their trials as it is told (``forked.Partner``)."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from harness.sampling.proposal import Proposer
from harness.settings import Settings
from harness.storage.access import open_storage
from harness.studies.claiming import TrialClaimer
from harness.studies.opening import open_study
from search_spaces.digits import SPACE


def claim_as_told(pipe: Connection) -> None:
    """Do what each word says: open a storage, make the study, claim one trial, or all that are left."""
    while True:
        word, folder, *rest = pipe.recv()
        if word == "open":
            settings = Settings(
                space_name="digits",
                space_file=Path("digits.py"),
                study="s",
                trials=rest[0],
                storage=f"sqlite:///{folder}/optuna.db",
                runs_dir=folder / "mlruns",
            )
            storage = open_storage(settings)
            pipe.send({"storage": True})
        elif word == "make":
            study = open_study(settings, SPACE, storage)
            claimer = TrialClaimer(study, Proposer(SPACE, sampler="tpe", seed=0, directions=study.directions))
            pipe.send({"id": study.id})
        elif word == "claim":
            claim = claimer.claim()
            assert claim is not None
            pipe.send({"number": claim.trial.number, "params": claim.configuration.params()})
        elif word == "claim all":
            claims = []
            while (claim := claimer.claim()) is not None:
                claims.append(claim)
            pipe.send({"numbers": [claim.trial.number for claim in claims]})
