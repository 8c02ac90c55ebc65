"""A file that is given as a teacher and is none: what it was found to be, and how to come by one that is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save
from torch import nn

from harness.core.errors import HarnessError
from harness.settings import Settings
from harness.space import load_space
from harness.teachers.make import find_teacher

SPACE = ROOT / "search_spaces" / "digits.py"
STATE = nn.Linear(2, 2).state_dict()
MAKES_ONE = "torch.save(network.state_dict(), FILE) makes one."


def saved(content: Any) -> bytes:
    """What ``torch.save`` writes of it."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("empty.ckpt", b"", "is empty"),
        ("empty.safetensors", b"", "is empty"),
        ("text.pt", b"hello, world\nand more\n", "can't be read as either"),
        ("cut.pt", saved(STATE)[:-100], "is damaged or was cut short"),
        ("cut.safetensors", save(STATE)[:-4], "is damaged or was cut short"),
        ("torch.safetensors", saved(STATE), "can't be read as either"),
        ("module.pt", saved(nn.Linear(2, 2)), "holds a torch.nn.modules.linear.Linear, which is code, and none is run"),
    ],
)
def test_a_file_of_no_weights_is_told_for_what_it_is(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name) == (
        f"--teacher {tmp_path / name} must be a .safetensors file or a checkpoint of plain tensors, but {found}; "
        f"{MAKES_ONE}"
    )


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2]])
def test_a_checkpoint_without_weights_says_what_makes_one(tmp_path: Path, content: Any) -> None:
    (tmp_path / "teacher.pt").write_bytes(saved(content))
    assert refusal(tmp_path / "teacher.pt").endswith(f"; {MAKES_ONE}")


def refusal(file: Path) -> str:
    """Why a file can't be the teacher of the digits."""
    space = load_space(SPACE)
    settings = Settings(space_name="digits", space_file=SPACE, study="digits", teachers=(file,))
    with pytest.raises(HarnessError) as refused:
        find_teacher(space, space.task.data(None), "dataset", settings)
    return str(refused.value)
