"""What is counted of answers, by hand and against scikit-learn's confusion matrix."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.classification import MulticlassJaccardIndex

from harness.reporting.agreement import DescribedErrors, TeacherAgreement, agreement_table
from harness.training.predictions import Predictions
from lightning_modules.outputs import Errors

NAMES = ("cat", "dog", "owl")


def answers(labels: list[int], teacher: list[int], student: list[int], classes: int = 3) -> Predictions:
    """These answers, with a divergence that is the sample's position, and ρ a tenth of it."""
    positions = torch.arange(len(labels), dtype=torch.float32)
    return Predictions(
        labels=torch.tensor(labels, dtype=torch.int32),
        teacher=torch.tensor(teacher, dtype=torch.int32),
        student=torch.tensor(student, dtype=torch.int32),
        teacher_kl=positions,
        rank_correlation=positions / 10,
        classes=classes,
        choices=classes,
    )


def drawn(samples: int, classes: int, seed: int = 0) -> Predictions:
    """A teacher that is right of three in four, and a student that often follows it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    teacher = np.where(rng.random(samples) < 0.75, labels, rng.integers(classes, size=samples))
    student = np.where(rng.random(samples) < 0.7, teacher, rng.integers(classes, size=samples))
    return answers(labels.tolist(), teacher.tolist(), student.tolist(), classes)


WORKED = answers(
    labels=[0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
    teacher=[0, 0, 0, 1, 1, 2, 1, 1, 0, 2],
    student=[0, 1, 1, 1, 2, 0, 1, 2, 0, 1],
)
"""Class 0: the teacher has 3 of 6, of which the student loses two, both to 1; it wins the last. Both err on two,
and once alike. The teacher's three errors are 1, 1, 2, the student's four 1, 1, 1, 2: two errors that are drawn from
each are alike with probability (2 · 3 + 1 · 1) / (3 · 4) = 7/12.

Class 1: the teacher has 2 of 4, of which the student loses one, to 2; it wins the last. Both err on one, alike. The
teacher's errors are 0 and 2, the student's 2 and 0: alike with probability 2/4. Class 2 has no sample.
"""


def test_what_is_lost_and_won_is_counted_by_class() -> None:
    table = TeacherAgreement(WORKED, NAMES).by_class
    assert table["class"].tolist() == ["cat", "dog", "owl"]
    assert table["samples"].tolist() == [6, 4, 0]
    assert table["teacher_right"].tolist() == [3, 2, 0] and table["student_right"].tolist() == [2, 2, 0]
    assert table["lost"].tolist() == [2, 1, 0] and table["won"].tolist() == [1, 1, 0]
    assert table["lost_to"].tolist() == ["dog", "owl", ""] and table["lost_to_count"].tolist() == [2, 1, 0]
    for name, expected in {
        "teacher_accuracy": [3 / 6, 2 / 4],
        "student_accuracy": [2 / 6, 2 / 4],
        "lost_share": [2 / 6, 1 / 4],
        "won_share": [1 / 6, 1 / 4],
        "teacher_kl": [(0 + 1 + 2 + 3 + 4 + 5) / 6, (6 + 7 + 8 + 9) / 4],
        "rank_correlation": [0.25, 0.75],
    }.items():
        assert table[name].tolist() == pytest.approx([*expected, math.nan], nan_ok=True), name


def test_a_sample_without_a_ranking_leaves_those_of_the_others() -> None:
    partial = WORKED.rank_correlation.clone()
    partial[0] = math.nan
    found = TeacherAgreement(Predictions(**vars(WORKED) | {"rank_correlation": partial}), NAMES)
    assert found.by_class["rank_correlation"][0] == pytest.approx(0.3)  # of 0.1 to 0.5
    assert found.mistakes().endswith("Spearman's ρ = 0.50.")  # of 0.1 to 0.9


def test_shared_mistakes_stand_beside_what_chance_would_give() -> None:
    table = TeacherAgreement(WORKED).by_class
    assert table["both_wrong"].tolist() == [2, 1, 0]
    assert table["same_mistake"].tolist() == [1, 1, 0]
    assert table["same_mistake_by_chance"].tolist() == pytest.approx([2 * 7 / 12, 1 * 2 / 4, 0])


def test_students_that_err_independently_share_as_many_mistakes_as_chance_gives() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=40_000)
    habits = ([1, 1, 1, 2], [1, 2, 3, 3])  # how many classes further on a wrong answer is
    teacher, student = (
        (labels + np.where(rng.random(labels.size) < 0.5, rng.choice(steps, labels.size), 0)) % 4 for steps in habits
    )
    table = TeacherAgreement(answers(labels.tolist(), teacher.tolist(), student.tolist(), 4)).by_class
    # Alike: 3/4 · 1/4 + 1/4 · 1/4, of the quarter that both have wrong.
    assert table["same_mistake_by_chance"].sum() == pytest.approx(40_000 / 4 / 4, rel=0.03)
    assert table["same_mistake"].sum() == pytest.approx(table["same_mistake_by_chance"].sum(), rel=0.05)


@pytest.mark.parametrize(("samples", "classes"), [(300, 2), (500, 10), (4000, 100)])
def test_counts_are_those_of_scikit_learns_confusion_matrices(samples: int, classes: int) -> None:
    found = drawn(samples, classes)
    agreement = TeacherAgreement(found)
    table, labels = agreement.by_class, range(classes)
    matrices = {
        who: confusion_matrix(found.labels, getattr(found, who), labels=labels) for who in ("teacher", "student")
    }
    for who, matrix in matrices.items():
        assert table["samples"].tolist() == matrix.sum(axis=1).tolist()
        assert table[f"{who}_right"].tolist() == np.diag(matrix).tolist()
        rebuilt = np.diag(np.diag(matrix))
        rebuilt[agreement.confusions["label"], agreement.confusions["answer"]] = agreement.confusions[who]
        assert (rebuilt == matrix).all()
    kept = (found.teacher == found.labels).numpy()
    lost = confusion_matrix(found.labels[kept], found.student[kept], labels=labels)
    assert table["lost"].tolist() == (lost.sum(axis=1) - np.diag(lost)).tolist()
    assert (table["student_right"] - table["teacher_right"]).tolist() == (table["won"] - table["lost"]).tolist()
    # Of what both have wrong, the diagonal of teacher against student.
    for label in labels:
        both = ((found.labels == label) & (found.teacher != label) & (found.student != label)).numpy()
        assert table["both_wrong"][label] == both.sum()
        if both.any():
            alike = confusion_matrix(found.teacher[both], found.student[both], labels=labels)
            assert table["same_mistake"][label] == np.trace(alike)


def test_confusions_stand_in_the_order_of_their_change() -> None:
    found = TeacherAgreement(WORKED).confusions
    assert found.to_dict("list") == {
        "label": [0, 0, 1, 1],
        "answer": [1, 2, 0, 2],
        "teacher": [2, 1, 1, 1],
        "student": [3, 1, 1, 1],
        "change": [1, 0, 0, 0],
    }


def test_a_sentence_gives_counts_and_where_most_is_lost() -> None:
    assert TeacherAgreement(WORKED, NAMES).sentence() == (
        "keeps 2 of the teacher's 5 right answers (40.0 %) and corrects 2 of its 5 wrong ones; it loses most in class "
        "cat (2 of 6, 2 as dog)."
    )


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], "right answers (100.0 %)."),
        ([0, 0, 1, 1, 1, 1, 2, 2, 2], "right answers (88.9 %); no class loses more than 1."),
        ([0, 2, 1, 1, 2, 0, 2, 2, 2], "; it loses most in class 0 (2 of 3) and class 1 (2 of 3)."),
        ([0, 1, 1, 1, 1, 1, 2, 2, 0], "; it loses most in class 0 (2 of 3, 2 as 1)."),
    ],
)
def test_a_sentence_names_no_class_for_one_sample_and_each_that_loses_most(student: list[int], told: str) -> None:
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert TeacherAgreement(answers(labels, labels, student)).sentence().endswith(told)


def test_of_many_classes_that_lose_alike_none_is_named() -> None:
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    assert TeacherAgreement(answers(labels, labels, [1, 1, 2, 2, 3, 3, 0, 0], classes=4)).sentence() == (
        "keeps 0 of the teacher's 8 right answers (0.0 %); no class loses more than 2."
    )


def test_mistakes_are_told_beside_chance() -> None:
    assert TeacherAgreement(WORKED).mistakes() == (
        "Both are wrong on 3 of 10 samples and give the same wrong answer on 2; by chance it would be 1.7. Its KL from "
        "the teacher is 4.500 nats a sample. Its ranking of the wrong classes follows the teacher's with Spearman's "
        "ρ = 0.45."
    )


def test_of_two_classes_no_shared_mistake_is_told_for_there_is_no_other() -> None:
    found = answers([0, 0, 1], [1, 0, 1], [1, 0, 0], classes=2)
    found = Predictions(**vars(found) | {"rank_correlation": torch.full((3,), math.nan)})
    assert TeacherAgreement(found).mistakes() == "Its KL from the teacher is 1.000 nats a sample."


def test_a_teacher_that_is_always_wrong_has_nothing_to_keep() -> None:
    told = TeacherAgreement(answers([0, 1], [1, 0], [0, 0])).sentence()
    assert told == "keeps 0 of the teacher's 0 right answers and corrects 1 of its 2 wrong ones."


def test_the_table_has_a_row_for_each_trial_and_class() -> None:
    table = agreement_table({4: TeacherAgreement(WORKED), 2: TeacherAgreement(WORKED)}, {2: "accurate, small"})
    assert table["trial"].tolist() == [4] * 3 + [2] * 3
    assert table["pick"].tolist() == [""] * 3 + ["accurate, small"] * 3
    assert table["label"].tolist() == [0, 1, 2] * 2 and table["lost"].tolist() == [2, 1, 0] * 2
    assert not any(pd.isna(table[name]).all() for name in table)


def test_of_many_classes_it_is_said_how_many_are_ranked() -> None:
    found = TeacherAgreement(answers([0, 1], [0, 1], [0, 2], classes=30_000)).mistakes()
    assert "Its ranking of the 100 most likely wrong classes follows the teacher's" in found


PIXELS = Predictions(**vars(WORKED) | {"row_word": "pixel", "compares_overlap": True})
"""Intersection over union. Teacher, class 0: 3 right, 6 labelled, 4 said: 3 / 7; class 1: 2 / (4 + 4 - 2) = 1 / 3;
class 2: 0 / (0 + 2). Student, class 0: 2 / (6 + 3 - 2) = 2 / 7; class 1: 2 / (4 + 5 - 2) = 2 / 7; class 2: 0 / 2.
"""


def test_classes_of_pixels_are_compared_by_intersection_over_union_and_called_pixels() -> None:
    found = TeacherAgreement(PIXELS, NAMES)
    assert found.by_class["teacher_iou"].tolist() == pytest.approx([3 / 7, 1 / 3, 0])
    assert found.by_class["student_iou"].tolist() == pytest.approx([2 / 7, 2 / 7, 0])
    assert "teacher_iou" not in TeacherAgreement(WORKED, NAMES).by_class
    assert found.sentence() == (
        "keeps 2 of the teacher's 5 right pixels (40.0 %) and corrects 2 of its 5 wrong ones; it loses most in class "
        "cat (2 of 6, 2 as dog); its IoU falls most in class cat (0.286, the teacher's 0.429)."
    )
    assert "Both are wrong on 3 of 10 pixels and give the same wrong answer on 2;" in found.mistakes()
    assert "nats a pixel." in found.mistakes()


def test_intersection_over_union_is_that_of_torchmetrics() -> None:
    drawn_ones = Predictions(**vars(drawn(500, 7)) | {"compares_overlap": True})
    table = TeacherAgreement(drawn_ones).by_class
    metric = MulticlassJaccardIndex(7, average="none")
    assert table["student_iou"].tolist() == pytest.approx(metric(drawn_ones.student, drawn_ones.labels).tolist())


def test_a_class_that_nobody_has_seen_has_no_intersection_over_union_and_an_equal_student_loses_none() -> None:
    alike = Predictions(**vars(answers([0, 1], [0, 1], [0, 1])) | {"compares_overlap": True})
    found = TeacherAgreement(alike, NAMES)
    assert math.isnan(found.by_class["student_iou"][2])
    assert found.sentence() == "keeps 2 of the teacher's 2 right answers (100.0 %)."


def test_labels_are_compared_each_in_its_own_name() -> None:
    """Four samples of the labels "big" (classes 0 and 1) and "red" (2 and 3).

    The teacher has all right but one, and so three samples whole; the student adds "big" twice, and misses "red" once.
    """
    names = ("big: no", "big: yes", "red: no", "red: yes")
    given = answers([0, 2, 0, 3, 1, 3, 1, 2], [0, 2, 0, 3, 1, 3, 0, 2], [1, 2, 1, 2, 1, 3, 1, 2], 4)
    found = TeacherAgreement(Predictions(**vars(given) | {"choices": 2, "row_word": "label"}), names)
    assert found.sentence() == (
        "keeps 4 of the teacher's 7 right labels (57.1 %) and corrects 1 of its 1 wrong ones; it loses most in label "
        "big: no (2 of 2)."
    )
    assert "It has all 2 labels right on 2 of 4 samples, the teacher on 3." in found.mistakes()
    assert "nats a label." in found.mistakes()


def test_the_errors_of_an_output_without_classes_are_told_in_its_own_words() -> None:
    told = Errors(answers={}, sentence="errs.", details="Much.", table={"value": [0], "student_mae": [2.5]})
    found = DescribedErrors(told)
    assert (found.sentence(), found.mistakes()) == ("errs.", "Much.")
    table = agreement_table({3: found, 5: found}, {5: "small"})
    assert table.to_dict("list") == {
        "trial": [3, 5],
        "pick": ["", "small"],
        "value": [0, 0],
        "student_mae": [2.5, 2.5],
    }
