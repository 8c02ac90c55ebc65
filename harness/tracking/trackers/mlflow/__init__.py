"""MLflow, the tracker that ships: a local database, an MLflow server, or a database of a server."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from harness.core.addresses import has_password, redact, sqlite_path
from harness.core.argv import VARIABLES
from harness.tracking.base import RunStore, Tracker, check_slashes, refuse_scheme

_UI_DEFAULT = "sqlite:///mlflow.db"  # what `mlflow ui` shows unless it is told of another store


class MlflowTracker(Tracker):
    """MLflow, at any address that it takes: those of its plugins too, and a folder."""

    name = "MLflow"
    schemes = ()

    @property
    def shares_files(self) -> bool:
        """Return whether the store is an MLflow server, which keeps artifacts for all that reach it."""
        return self.address.startswith(("http://", "https://"))

    @classmethod
    def preload(cls) -> None:
        """Import MLflow, which takes seconds."""
        from harness.tracking.trackers.mlflow import database, store  # noqa: F401

    def open(self, experiment: str, artifact_root: Path, *, say: Callable[[str], None]) -> RunStore:
        """Open the store, a local database with the tables of this MLflow version."""
        from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

        from harness.tracking.trackers.mlflow.database import check_answers, prepare_database
        from harness.tracking.trackers.mlflow.store import MlflowStore

        if re.match(r"(sqlite|postgresql|mysql|mssql)\b|https?:", self.address):
            check_slashes(self.address)
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        if (path := sqlite_path(self.address)) is not None:
            prepare_database(path, say)
        elif self.address.startswith(("postgresql", "mysql", "mssql")):
            check_answers(self.address)
        try:
            return MlflowStore(self.address, experiment, artifact_root, on_refused=say)
        except UnsupportedModelRegistryStoreURIException as error:  # which MLflow raises for tracking stores too
            refuse_scheme(self.address, error.supported_uri_schemes)

    def ui_command(self, executable: Callable[[str], str]) -> str | None:
        """Return the command that starts MLflow's page; ``None`` for a server, which has one."""
        if self.address.startswith("http"):
            return None
        command, address = f"{executable('mlflow')} ui", redact(self.address)
        if has_password(self.address):
            return f'MLFLOW_BACKEND_STORE_URI="${VARIABLES["--tracking-uri"]}" {command}'
        return command if address == _UI_DEFAULT else f"{command} --backend-store-uri {shlex.quote(address)}"

    def runs_page(self, experiment_id: str, *, study: str, metric: str) -> str:
        """Return MLflow's page of a study's trials, the best first."""
        server = "http://127.0.0.1:5000"
        if self.address.startswith("http"):  # a browser asks for name and password by itself
            server = re.sub("(?<=://)[^/@]*@", "", redact(self.address))
        query = {
            # Without it, the page opens on traces of language models; sorted, MLflow shows the trials side by side.
            "workflowType": "machine_learning",
            "compareRunsMode": "CHART",
            "searchFilter": f"tags.kd.study = '{study}' and tags.kd.role = 'trial'",
            "orderByKey": f"metrics.`{metric}`",
            "orderByAsc": "false",
        }
        return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"
