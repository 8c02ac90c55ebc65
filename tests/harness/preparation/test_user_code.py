"""An error in a task's own code: whose it is, where, and what to do about it, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import HarnessError, advising
from harness.preparation.user_code import user_code
from harness.settings import Settings

SETTINGS = Settings(space_name="mine", space_file=Path("mine.py"), study="mine")


def refusal(error: Exception, advice: str) -> str:
    with pytest.raises(HarnessError) as refused, user_code("the task's student(width=0)", SETTINGS), advising(advice):
        raise error
    return str(refused.value)


def test_advice_stands_between_an_error_and_where_to_look() -> None:
    advice = "begin the range of width at 1"
    said = refusal(ValueError("width must be positive."), advice)
    begun = "the task's student(width=0) fails: ValueError: width must be positive"
    assert said.startswith(f"{begun}; {advice}; look: ") and said.endswith("-m harness doctor --space mine.py")
    assert refusal(ValueError("width must be positive."), "").startswith(f"{begun}; look: ")
    assert advice not in refusal(TypeError("no such keyword"), advice)  # which no range mends
