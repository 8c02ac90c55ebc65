"""``python -m harness doctor`` before a search, ``report`` at any time after it began."""

from __future__ import annotations

import sys

from harness.cli import parse_command, run
from harness.settings import Settings


def main() -> None:
    """Parse, and do what is asked."""
    command, settings = parse_command()
    {"doctor": doctor, "report": report}[command](settings)


def doctor(settings: Settings) -> None:
    """Check a task and its space; exit with code 1 if a check fails."""
    from harness.doctor import diagnose
    from harness.terminal import Terminal

    if any(finding.state == "FAILED" for finding in diagnose(settings, Terminal())):
        sys.exit(1)


def report(settings: Settings) -> None:
    """Read the study, report."""
    from harness.mirror import Mirror

    with Mirror() as mirror:
        from harness.errors import HarnessError
        from harness.opening import find_study
        from harness.report import report
        from harness.spool import Spool
        from harness.terminal import Terminal

        terminal = Terminal()
        study = find_study(settings)
        try:
            mirror.connect(settings.tracking_uri, f"kd-{study.space_name}", settings.runs_dir, say=terminal.say)
        except HarnessError as error:
            terminal.say(f"the report is not logged to MLflow: {error}")
            report(study, terminal)
        else:
            spool = Spool(study.folder, mirror.notify) if study.owns_folder() else None
            report(study, terminal, spool if spool is not None and spool.begun else None)
            if spool is not None:
                spool.close()


if __name__ == "__main__":
    run(main)
