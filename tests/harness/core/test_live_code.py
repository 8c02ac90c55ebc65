"""The code of what was declared in a script, in a notebook or at Python's prompt: told apart by what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import environment

from harness.core.live_code import code_of_classes

TYPED = """
from torch import nn
SCALE = 2

def widened(width):
    return width * SCALE

class Net(nn.Module):
    depth = 1
    def forward(self, x):
        return x + 1

class Base:
    def data(self, folder):
        return folder

class Mine(Base):
    def student(self, *, width):
        return Net(widened(width))
"""


def key_of(source: str) -> str:
    """The key of what somebody typed at the prompt: Python has no source of it."""
    typed: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<typed>", "exec"), typed)
    return code_of_classes([typed["Mine"]]).key


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("width * SCALE", "width + SCALE"),  # a helper
        ("SCALE = 2", "SCALE = 3"),  # a constant that only the helper uses
        ("x + 1", "x + 2"),  # a network that the task builds
        ("depth = 1", "depth = 2"),  # an attribute of its class
        ("return folder", "return None"),  # a base class
        ("class Mine(Base)", "class Mine"),
    ],
)
def test_any_code_that_a_task_reaches_tells_it_from_another(was: str, now: str) -> None:
    assert TYPED.count(was) == 1
    assert key_of(TYPED) == key_of(TYPED)
    assert key_of(TYPED.replace(was, now)) != key_of(TYPED)


SCRIPT = """
import sys
import helpers
from harness.core.live_code import code_of_classes

class Mine:
    def student(self, *, width):
        return helpers.net(width)

code = code_of_classes([Mine])
print(code.key, *sorted(code.files))
print(sys.argv[0])  # what else a script does is no part of it
"""


def test_a_script_counts_as_far_as_the_task_reaches_and_modules_of_its_own_whole(tmp_path: Path) -> None:
    def told(script: str, helpers: str) -> str:
        (tmp_path / "script.py").write_text(script)
        (tmp_path / "helpers.py").write_text(helpers)
        run = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        )
        return run.stdout.splitlines()[0]

    first = told(SCRIPT, "def net(width):\n    return width\n")
    assert first.endswith("__main__.Mine helpers.py")
    assert told(SCRIPT.replace("sys.argv[0]", "50"), "def net(width):\n    # said\n    return width\n") == first
    assert told(SCRIPT.replace("net(width)", "net(2 * width)"), "def net(width):\n    return width\n") != first
    assert told(SCRIPT, "def net(width):\n    return 2 * width\n") != first
