"""How a search stands when it ends, as data, and where its runs can be looked at. Imports nothing heavy."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from harness.core.addresses import has_password, redact
from harness.core.argv import VARIABLES
from harness.core.errors import Interrupted
from harness.core.executables import executable
from harness.core.names import logged_name
from harness.settings import DEFAULT_TRACKING_URI, Settings

_LOCAL_SERVER = "http://127.0.0.1:5000"  # where `mlflow ui` listens


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search stands when it ends.

    Attributes:
        settings: What was asked for.
        experiment_id: MLflow's number of the study's experiment.
        primary: Name of the primary metric.
        finished: Number of finished trials.
        is_over: Whether the same search would do nothing more.
        is_exhausted: Whether the space has no further trial.
        has_picks: Whether there are picks to confirm.
    """

    settings: Settings
    experiment_id: str
    primary: str
    finished: int
    is_over: bool
    is_exhausted: bool
    has_picks: bool

    def places_to_look(self) -> list[str]:
        """Return a line each for MLflow's page of the trials and for the picture of the front, where there is one."""
        address = redact(self.settings.tracking_uri)
        command = [] if address.startswith("http") else [f"  compare  {self._mlflow_command(address)}"]
        picture = self.settings.study_dir / "report" / "front.html"
        return [*command, f"           {self._page(address)}", *([f"  look at  {picture}"] if picture.exists() else [])]

    def _page(self, address: str) -> str:
        # A browser asks for name and password by itself.
        server = re.sub("(?<=://)[^/@]*@", "", address) if address.startswith("http") else _LOCAL_SERVER
        query = {
            # Without it, the page opens on traces of language models; sorted, MLflow shows the trials side by side.
            "workflowType": "machine_learning",
            "compareRunsMode": "CHART",
            "searchFilter": f"tags.kd.study = '{self.settings.study}' and tags.kd.role = 'trial'",
            "orderByKey": f"metrics.`{logged_name(self.primary)}`",
            "orderByAsc": "false",
        }
        return f"{server.rstrip('/')}/#/experiments/{self.experiment_id}/runs?{urlencode(query, quote_via=quote)}"

    def _mlflow_command(self, address: str) -> str:
        command = f"{executable('mlflow')} ui"
        if has_password(self.settings.tracking_uri):
            return f'MLFLOW_BACKEND_STORE_URI="${VARIABLES["--tracking-uri"]}" {command}'
        return command if address == DEFAULT_TRACKING_URI else f"{command} --backend-store-uri {shlex.quote(address)}"


class SearchInterrupted(Interrupted):
    """A search that a signal stopped in good order.

    Attributes:
        outcome: How it stands.
    """

    def __init__(self, signal_number: int, outcome: Outcome) -> None:
        super().__init__(signal_number)
        self.outcome = outcome
