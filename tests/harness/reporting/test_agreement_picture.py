"""The picture of teacher-student agreement: what it shows for few classes and for many."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_agreement import NAMES, WORKED, answers, drawn

from harness.reporting import agreement_picture
from harness.reporting.agreement import TeacherAgreement

RED, BLUE = np.array([192, 57, 43]) / 255, np.array([31, 95, 168]) / 255


def drawn_of(path: Path, colour: np.ndarray) -> int:
    """How many dots of a picture have a colour."""
    return int((np.abs(matplotlib.image.imread(path)[..., :3] - colour) < 0.02).all(axis=-1).sum())


def test_what_is_lost_and_won_is_drawn_in_the_picture(tmp_path: Path) -> None:
    right, wrong = [0] * 6 + [1, 1, 2, 2], [0] * 3 + [1] * 5 + [2, 2]
    lost, won = answers(right, right, wrong), answers(right, wrong, right)
    for name, found, shown, absent in (("lost", lost, RED, BLUE), ("won", won, BLUE, RED)):
        agreement_picture.draw_agreement({name: TeacherAgreement(found, NAMES)}, tmp_path / name, title="s")
        assert drawn_of(tmp_path / name, shown) > 1000 and drawn_of(tmp_path / name, absent) == 0


def test_one_or_two_samples_are_pale_and_make_no_confusion(tmp_path: Path) -> None:
    right, two_wrong = [0] * 6 + [1, 1, 2, 2], [0] * 4 + [1] * 4 + [2, 2]
    few = TeacherAgreement(answers(right, right, two_wrong))
    agreement_picture.draw_agreement({"few": few}, tmp_path / "few", title="s")
    pale = 0.3 * RED + 0.7
    assert drawn_of(tmp_path / "few", RED) == 0 and drawn_of(tmp_path / "few", pale) > 1000
    assert agreement_picture._confusions([few]) == ([], 1)
    three_wrong = [0] * 3 + [1] * 5 + [2, 2]
    assert agreement_picture._confusions([few, TeacherAgreement(answers(right, right, three_wrong))]) == ([(0, 1)], 0)


def test_where_nothing_changed_the_picture_is_drawn_without_a_bar(tmp_path: Path) -> None:
    same = TeacherAgreement(answers([0, 1, 2, 2], [0, 1, 2, 0], [0, 1, 2, 0]))
    agreement_picture.draw_agreement({"accurate": same}, tmp_path / "same", title="s")
    assert drawn_of(tmp_path / "same", RED) == drawn_of(tmp_path / "same", BLUE) == 0


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_three_picks_are_drawn_as_high_as_can_be_read(tmp_path: Path, classes: int) -> None:
    picks = {
        name: TeacherAgreement(drawn(3000, classes, seed))
        for seed, name in enumerate(("accurate", "balanced", "small"))
    }
    agreement_picture.draw_agreement(picks, tmp_path / "picture", title="s")
    height, width, _ = matplotlib.image.imread(tmp_path / "picture").shape
    assert 400 < height < 1600 and 1500 < width < 2000


def test_of_many_classes_and_confusions_those_are_shown_that_changed_most() -> None:
    picks = [TeacherAgreement(drawn(20_000, 100, seed)) for seed in range(2)]
    shown = agreement_picture._classes(picks)
    moved = sum((pick.by_class["lost"] + pick.by_class["won"]).to_numpy() for pick in picks)
    assert len(shown) == len(set(shown)) == 20
    assert [moved[label] for label in shown] == sorted(moved, reverse=True)[:20]
    changes: dict[tuple[int, int], int] = {}
    for pick in picks:
        for row in pick.confusions.itertuples():
            changes[row.label, row.answer] = max(changes.get((row.label, row.answer), 0), abs(row.change))
    confusions, left_out = agreement_picture._confusions(picks)
    assert left_out == sum(0 < change < 3 for change in changes.values())
    assert [changes[pair] for pair in confusions] == [n for n in sorted(changes.values(), reverse=True) if n >= 3][:12]
    assert confusions


def test_few_classes_are_all_shown_in_their_order() -> None:
    assert agreement_picture._classes([TeacherAgreement(WORKED)]) == [0, 1, 2]
    assert agreement_picture._confusions([TeacherAgreement(WORKED)]) == ([], 1)  # the others are as often as before
