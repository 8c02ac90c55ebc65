"""What is kept of a student beside its teacher, against hand-worked examples and SciPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import rel_entr, softmax
from scipy.stats import spearmanr
from torch import Tensor

from harness.reporting.agreement import TeacherAgreement
from harness.training.predictions import (
    Comparer,
    Predictions,
    compare_predictions,
    load_errors,
    load_predictions,
    save_errors,
    save_predictions,
)
from lightning_modules.losses import soft_target_loss
from lightning_modules.outputs import Errors
from lightning_modules.top_k import TopK, TopKLogits


def some_logits(samples: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and labels, in no relation."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, samples, classes, generator=draw)
    return student, teacher, torch.randint(0, classes, (samples,), generator=draw)


def equal(one: Predictions, other: Predictions) -> bool:
    return one.classes == other.classes and all(
        torch.equal(value, getattr(other, name)) for name, value in vars(one).items() if isinstance(value, Tensor)
    )


def test_predictions_are_the_classes_of_the_highest_logits() -> None:
    student = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    teacher = torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 0.1]])
    found = compare_predictions(student, teacher, torch.tensor([1, 2]))
    assert (found.labels.tolist(), found.teacher.tolist(), found.student.tolist()) == ([1, 2], [1, 2], [0, 2])
    assert found.classes == 3


def test_divergence_is_scipys_of_each_sample_and_its_mean_the_loss_at_temperature_one() -> None:
    student, teacher, labels = some_logits(50, 7)
    found = compare_predictions(student, teacher, labels).teacher_kl
    p, q = (softmax(logits.double().numpy(), axis=1) for logits in (teacher, student))
    np.testing.assert_allclose(found, rel_entr(p, q).sum(axis=1), rtol=1e-4)
    assert float(found.mean()) == pytest.approx(float(soft_target_loss(student, teacher, temperature=1)), rel=1e-5)


def test_the_divergence_of_two_classes_is_worked_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2).
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.zeros(1, 2)
    found = compare_predictions(student, teacher, torch.tensor([0]))
    assert found.teacher_kl.tolist() == pytest.approx([0.75 * np.log(1.5) + 0.25 * np.log(0.5)])
    assert found.rank_correlation.isnan().all()  # one wrong class has no order


def test_classes_with_a_teacher_logit_of_minus_infinity_are_left_out() -> None:
    student, teacher, labels = some_logits(300, 7)
    possible = torch.rand(teacher.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    possible |= torch.nn.functional.one_hot(labels, 7).bool()
    teacher = teacher.masked_fill(~possible, -torch.inf)
    found = compare_predictions(student, teacher, labels)
    p, q = (softmax(logits.double().numpy(), axis=1) for logits in (teacher, student))
    np.testing.assert_allclose(found.teacher_kl, rel_entr(p, q).sum(axis=1), rtol=1e-4)
    ranked = possible & ~torch.nn.functional.one_hot(labels, 7).bool()
    rows = zip(student, teacher, ranked, strict=True)
    expected = [spearmanr(s[row], t[row]).statistic if row.sum() > 1 else np.nan for s, t, row in rows]
    np.testing.assert_allclose(found.rank_correlation, expected, atol=1e-6)
    assert 0 < np.isnan(expected).sum() < 300


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys_over_the_classes_that_are_not_the_true_one(ties: bool) -> None:
    student, teacher, labels = some_logits(5000, 6)  # more than are ranked at a time
    if ties:
        student, teacher = student.round(), teacher.round()
    expected = [
        spearmanr(np.delete(s, label), np.delete(t, label)).statistic if np.ptp(np.delete(s, label)) > 0 else 0
        for s, t, label in zip(student[-900:].numpy(), teacher[-900:].numpy(), labels[-900:].tolist(), strict=True)
    ]
    found = compare_predictions(student, teacher, labels).rank_correlation[-900:]
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-6)


@pytest.mark.parametrize("true_class", ["among the likely", "the most likely", "far from it", "just behind"])
def test_of_many_classes_the_teachers_100_most_likely_wrong_ones_are_ranked(true_class: str) -> None:
    student, teacher, _ = some_logits(1, 500)
    order = teacher[0].argsort(descending=True)
    place = {"among the likely": 50, "the most likely": 0, "far from it": 400, "just behind": 100}[true_class]
    label = order[[place]]
    wrong = order[order != label][:100]
    found = compare_predictions(student, teacher, label)
    expected = spearmanr(student[0, wrong], teacher[0, wrong]).statistic
    assert float(found.rank_correlation) == pytest.approx(expected, abs=1e-6)
    assert found.ranked == 100


@pytest.mark.parametrize("classes", [101, 102])
def test_up_to_101_classes_all_wrong_ones_are_ranked(classes: int) -> None:
    student, teacher, labels = some_logits(40, classes)
    found = compare_predictions(student, teacher, labels)
    rows = zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True)
    expected = [spearmanr(np.delete(s, label), np.delete(t, label)).statistic for s, t, label in rows]
    assert np.allclose(found.rank_correlation, expected, atol=1e-6) == (classes == 101)
    assert found.ranked == 100


def test_samples_are_compared_in_chunks_to_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = some_logits(50, 7)
    whole = compare_predictions(*logits)
    monkeypatch.setattr("harness.training.predictions._CHUNK", 3 * 7 + 1)  # three samples at a time
    softened: list[int] = []
    log_softmax = Tensor.log_softmax

    def noting(part: Tensor, dim: int) -> Tensor:
        softened.append(len(part))
        return log_softmax(part, dim)

    monkeypatch.setattr(Tensor, "log_softmax", noting)
    assert equal(compare_predictions(*logits), whole) and max(softened) == 3


def test_the_rank_correlation_ignores_temperature_and_the_true_class() -> None:
    teacher = torch.tensor([[9.0, 3.0, 2.0, 1.0]])
    label = torch.tensor([0])
    for student, expected in (
        ([-5.0, 0.3, 0.2, 0.1], 1.0),  # the same order, ten times as soft
        ([9.0, 1.0, 2.0, 3.0], -1.0),
        ([9.0, 2.0, 3.0, 1.0], 0.5),  # 1 - 6 · (1 + 1 + 0) / (3 · 8)
        ([9.0, 4.0, 4.0, 4.0], 0.0),  # tells none apart
    ):
        found = compare_predictions(torch.tensor([student]), teacher, label).rank_correlation
        assert found.tolist() == pytest.approx([expected])


def test_predictions_load_as_saved(tmp_path: Path) -> None:
    answers = compare_predictions(*some_logits(20, 4))
    save_predictions(answers, tmp_path / "answers")
    found = load_predictions(tmp_path / "answers")
    assert found is not None and equal(found, answers)


def test_equal_predictions_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    answers = compare_predictions(*some_logits(20, 4))
    written = set()
    for _ in range(20):  # entries of metadata, were they several, would change places
        save_predictions(answers, tmp_path / "answers")
        written.add((tmp_path / "answers").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all", "cut"])
def test_missing_or_damaged_predictions_load_as_none(tmp_path: Path, content: bytes | str | None) -> None:
    file = tmp_path / "answers"
    if content == "cut":
        save_predictions(compare_predictions(*some_logits(20, 4)), file)
        content = file.read_bytes()[:-9]
    if isinstance(content, bytes):
        file.write_bytes(content)
    assert load_predictions(file) is None


def test_a_file_of_other_tensors_loads_as_none(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(2)}, tmp_path / "student")
    assert load_predictions(tmp_path / "student") is None


@pytest.mark.parametrize("blocks", [1, 20])
def test_of_very_many_rows_an_even_choice_of_whole_samples_is_compared(
    blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.training.predictions.MOST_ROWS", 100)
    samples = 5_000 // blocks
    labels = torch.arange(samples)[:, None].expand(-1, blocks).flatten() % 2  # equal within a sample
    logits = torch.nn.functional.one_hot(labels, 2).float()
    found = compare_predictions(logits, logits, labels, blocks=blocks)
    assert 100 <= len(found.labels) <= 200 and len(found.labels) % blocks == 0
    assert torch.equal(found.labels // 2, torch.arange(len(found.labels), dtype=torch.int32) % blocks)
    assert torch.equal(found.labels, found.teacher)
    assert len({*(found.labels.view(-1, blocks) % 2).float().mean(1).tolist()} - {0.0, 1.0}) == 0


@pytest.mark.parametrize("words", [{}, {"row_word": "pixel", "compares_overlap": True}])
def test_predictions_keep_what_their_rows_are_called(tmp_path: Path, words: dict[str, Any]) -> None:
    save_predictions(compare_predictions(*some_logits(20, 4), **words), tmp_path / "answers")
    found = load_predictions(tmp_path / "answers")
    assert found is not None
    assert (found.row_word, found.compares_overlap) == (("pixel", True) if words else ("sample", False))


def test_errors_load_as_saved_and_are_no_predictions(tmp_path: Path) -> None:
    table = {"value": [0, 1], "correlation": [0.5, math.nan]}
    told = Errors(answers={"labels": torch.ones(2, 1)}, sentence="errs.", details="Much.", table=table)
    written = set()
    for _ in range(20):
        save_errors(told, tmp_path / "answers")
        written.add((tmp_path / "answers").read_bytes())
    found = load_errors(tmp_path / "answers")
    assert found is not None and len(written) == 1
    assert (found.sentence, found.details, found.answers["labels"].tolist()) == ("errs.", "Much.", [[1.0], [1.0]])
    assert found.table["value"] == [0, 1] and math.isnan(found.table["correlation"][1])  # type: ignore[arg-type]
    assert load_predictions(tmp_path / "answers") is None


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_missing_or_damaged_errors_load_as_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "answers").write_bytes(content)
    assert load_errors(tmp_path / "answers") is None


def test_predictions_are_no_errors(tmp_path: Path) -> None:
    save_predictions(compare_predictions(*some_logits(20, 4)), tmp_path / "answers")
    assert load_errors(tmp_path / "answers") is None


def test_of_the_largest_logits_the_same_is_told_as_far_as_they_are_known() -> None:
    student, teacher, labels = some_logits(300, 60)
    form = TopK(40, draws=20)
    found = compare_predictions(student, TopKLogits(form.pack(teacher), form, 60), labels)
    whole = compare_predictions(student, teacher, labels)
    assert torch.equal(found.teacher, whole.teacher) and torch.equal(found.student, whole.student)
    assert float(found.teacher_kl.mean()) == pytest.approx(float(whole.teacher_kl.mean()), rel=0.02)
    assert (found.ranked, whole.ranked) == (19, 59)
    for row in range(3):
        likely = teacher[row].topk(20).indices
        wrong = likely[likely != labels[row]][:19]
        expected = spearmanr(student[row, wrong], teacher[row, wrong]).statistic
        assert float(found.rank_correlation[row]) == pytest.approx(expected, abs=0.02)  # float16 makes ties
    told = TeacherAgreement(found).mistakes()
    assert "nats a sample, estimated from its 20 likeliest classes and draws of the others." in told
    assert "estimated" not in TeacherAgreement(whole).mistakes()


def test_rows_that_are_compared_in_parts_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, labels = some_logits(103, 7)
    for most in (1_000, 20):  # all, and an even choice of them
        monkeypatch.setattr("harness.training.predictions.MOST_ROWS", most)
        comparer = Comparer(103)
        for part in torch.arange(103).tensor_split([10, 11, 60]):
            comparer.add(student[part], teacher[part], labels[part])
        assert equal(comparer.result(), compare_predictions(student, teacher, labels))
