"""The commands that are printed after a search. Imports nothing heavy."""

from __future__ import annotations

import re

from harness.cli.program import command_line_here
from harness.core.addresses import has_password, redact
from harness.core.argv import VARIABLES
from harness.hints import confirm_command, report_command
from harness.outcome import Outcome


def next_steps(outcome: Outcome) -> str:
    """Return the exact commands for looking at the runs and for going on."""
    settings = outcome.settings
    lines = ["next:", *outcome.places_to_look(), f"  report   {report_command(settings)}"]
    if outcome.is_over and outcome.has_picks:
        lines.append(f"  confirm  {confirm_command(settings)}")
    again = redact(command_line_here()).replace(" --accept-changes", "")  # the study has noted what was accepted
    if not outcome.is_over:
        lines.append(f"  go on    {again}")
    elif not outcome.is_exhausted:
        lines.append(f"  go on    {re.sub(r' --trials[ =][0-9]+', '', again)} --trials {2 * outcome.finished}")
    addresses = {VARIABLES["--storage"]: settings.storage, VARIABLES["--tracking-uri"]: settings.tracking_uri}
    secret = [variable for variable, address in addresses.items() if has_password(address)]
    if secret:
        lines.append(f"           with the address, whose password is not shown, in {' and in '.join(secret)}")
    return "\n".join(lines)
