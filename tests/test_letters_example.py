"""The example of trees that teach perceptrons to read letters: its table, its views and its students."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from conftest import ROOT
from torch import Tensor

from harness.networks.students import build_student
from harness.space import load_space
from harness.task import load_data
from lightning_modules.data.munge import MungedViews


def test_letters_have_views_between_rows_of_the_same_letter_and_students_of_their_form(tmp_path: Path) -> None:
    draw, letters = np.random.default_rng(0), [chr(ord("A") + place % 26) for place in range(26 * 10)]
    numbers = pd.DataFrame(draw.integers(0, 16, (len(letters), 16)), columns=[f"x{place}" for place in range(16)])
    numbers.assign(lettr=letters).to_csv(tmp_path / "letters.csv", index=False)
    space = load_space(ROOT / "examples" / "letters.py", None)
    data = load_data(space.task, tmp_path)
    train, views = data.splits["train"], data.views
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 156, "val": 52, "test": 52}
    assert isinstance(views, MungedViews) and views.count == 4 and not views.mixes  # so controls are fair
    assert torch.equal(train.labels[views.neighbours], train.labels)
    shown, targets = data.shown(torch.arange(156), 1)
    assert (
        targets is None
        and cast(Tensor, shown).shape == (156, 16)
        and not torch.equal(cast(Tensor, shown), train.inputs)
    )
    student = build_student(space, space.architecture_of(space.middle()), data)
    assert student(shown).shape == (156, 26)
