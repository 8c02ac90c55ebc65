"""``python -m harness report --study NAME``: look at a study at any time."""

from __future__ import annotations

from harness.cli import parse_report, run


def main() -> None:
    """Parse, read the study, report."""
    settings = parse_report()
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
