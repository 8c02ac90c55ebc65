"""The command line that ``ps`` shows: as it was typed, less what holds a password."""

from __future__ import annotations

import pytest

from harness.core.argv import without_passwords

SECRET = "postgresql+psycopg://me:s3cret@host/kd"


@pytest.mark.parametrize(
    ("typed", "kept", "addresses"),
    [
        (["search.py", "--storage", SECRET, "--seed", "1"], ["search.py", "--seed", "1"], {"KD_STORAGE": SECRET}),
        (["search.py", f"--storage={SECRET}?a=b"], ["search.py"], {"KD_STORAGE": f"{SECRET}?a=b"}),
        (
            ["-m", "harness", "move", "--to", SECRET, "--tracking-uri", "http://u:p@h", "--storage", "sqlite:///a.db"],
            ["-m", "harness", "move", "--storage", "sqlite:///a.db"],
            {"KD_TO": SECRET, "MLFLOW_TRACKING_URI": "http://u:p@h"},
        ),
        (["bin/kd-harness", "status", "--storage", SECRET], ["bin/kd-harness", "status"], {"KD_STORAGE": SECRET}),
        # The last one counts, whichever of them is secret.
        (["x", "--storage", SECRET, "--storage", "sqlite:///a.db"], ["x"], {"KD_STORAGE": "sqlite:///a.db"}),
        (["x", "--storage", "sqlite:///a.db", "--storage", SECRET], ["x"], {"KD_STORAGE": SECRET}),
        (["x", "--storage", "postgresql://me@host/kd"], ["x", "--storage", "postgresql://me@host/kd"], {}),
        (["x", "--storage"], ["x", "--storage"], {}),
        (["x"], ["x"], {}),
    ],
)
def test_a_password_moves_from_the_command_line_to_the_environment(
    typed: list[str], kept: list[str], addresses: dict[str, str]
) -> None:
    assert without_passwords(typed) == (kept, addresses)
    assert without_passwords(kept) == (kept, {})  # a program that starts itself anew does so once
