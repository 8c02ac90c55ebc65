"""The picture of what was transferred: what stands in it, for few classes and for many."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_transfer import NAMES, WORKED, answers, drawn

from harness import transfer_picture
from harness.transfer import Transfer

RED, BLUE = np.array([192, 57, 43]) / 255, np.array([31, 95, 168]) / 255


def drawn_of(path: Path, colour: np.ndarray) -> int:
    """How many dots of a picture have a colour."""
    return int((np.abs(matplotlib.image.imread(path)[..., :3] - colour) < 0.02).all(axis=-1).sum())


def test_what_is_lost_and_won_is_drawn_in_the_picture(tmp_path: Path) -> None:
    right = [0, 0, 1, 1, 2, 2]
    lost, won = answers(right, right, [0, 1, 1, 1, 2, 2]), answers(right, [0, 1, 1, 1, 2, 2], right)
    for name, found, shown, absent in (("lost", lost, RED, BLUE), ("won", won, BLUE, RED)):
        transfer_picture.transfer_picture({name: Transfer(found, NAMES)}, tmp_path / name, title="s")
        assert drawn_of(tmp_path / name, shown) > 1000 and drawn_of(tmp_path / name, absent) == 0


def test_where_nothing_changed_the_picture_is_drawn_without_a_bar(tmp_path: Path) -> None:
    same = Transfer(answers([0, 1, 2, 2], [0, 1, 2, 0], [0, 1, 2, 0]))
    transfer_picture.transfer_picture({"accurate": same}, tmp_path / "same", title="s")
    assert drawn_of(tmp_path / "same", RED) == drawn_of(tmp_path / "same", BLUE) == 0


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_three_picks_are_drawn_as_high_as_can_be_read(tmp_path: Path, classes: int) -> None:
    picks = {name: Transfer(drawn(3000, classes, seed)) for seed, name in enumerate(("accurate", "balanced", "small"))}
    transfer_picture.transfer_picture(picks, tmp_path / "picture", title="s")
    height, width, _ = matplotlib.image.imread(tmp_path / "picture").shape
    assert 400 < height < 1600 and 1500 < width < 2000


def test_of_many_classes_and_confusions_those_are_shown_that_changed_most() -> None:
    picks = [Transfer(drawn(5000, 100, seed)) for seed in range(2)]
    shown = transfer_picture._classes(picks)
    moved = sum((pick.by_class["lost"] + pick.by_class["won"]).to_numpy() for pick in picks)
    assert len(shown) == len(set(shown)) == 20
    assert [moved[label] for label in shown] == sorted(moved, reverse=True)[:20]
    changes: dict[tuple[int, int], int] = {}
    for pick in picks:
        for row in pick.confusions.itertuples():
            changes[row.label, row.answer] = max(changes.get((row.label, row.answer), 0), abs(row.change))
    confusions = transfer_picture._confusions(picks)
    assert [changes[pair] for pair in confusions] == sorted(changes.values(), reverse=True)[:12]


def test_few_classes_are_all_shown_in_their_order() -> None:
    assert transfer_picture._classes([Transfer(WORKED)]) == [0, 1, 2]
    assert transfer_picture._confusions([Transfer(WORKED)]) == [(0, 1)]  # the others are as often as before
