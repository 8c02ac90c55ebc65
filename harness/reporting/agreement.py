"""Teacher-student agreement: which of the teacher's right answers and mistakes a student shares, class by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.screen.formatting import printable
from harness.training.predictions import Predictions
from lightning_modules.outputs import Errors

_LONGEST_NAME = 60  # characters of a class's name in a sentence; tables have all of it
_NAMED = 3  # classes that a sentence names; if more lose equally, it gives only the count


class Comparison(Protocol):
    """A comparison of a student's answers with its teacher's."""

    @property
    def table(self) -> pd.DataFrame:
        """Return the table in ``transfer.csv``."""

    def sentence(self) -> str:
        """Return what is said of the student, as it follows on its name."""

    def mistakes(self) -> str:
        """Return further sentences; empty if there are none."""


@dataclass(frozen=True, eq=False)
class DescribedErrors:
    """A comparison in the words of an output kind that has no classes.

    Attributes:
        errors: What it says.
    """

    errors: Errors

    @property
    def table(self) -> pd.DataFrame:
        """Return the table that the output kind gives."""
        return pd.DataFrame(dict(self.errors.table))

    def sentence(self) -> str:
        """Return what the output kind says of the student."""
        return self.errors.sentence

    def mistakes(self) -> str:
        """Return its further sentences."""
        return self.errors.details


@dataclass(frozen=True, eq=False)
class TeacherAgreement:
    """A comparison of a student's answers with its teacher's.

    Attributes:
        answers: The answers of both on the validation samples.
        class_names: Names of the first classes, or of all; the others are named by their numbers.
    """

    answers: Predictions
    class_names: Sequence[str] = ()

    def name(self, label: int) -> str:
        """Return the name of a class for a sentence, with its number if another class has that name."""
        name = printable(self._names[label], _LONGEST_NAME)
        return f"{name} ({label})" if not name or self._shown_names[name] > 1 else name

    @cached_property
    def _shown_names(self) -> Counter[str]:
        """Return how many classes have each name, as it is shown."""
        return Counter(printable(name, _LONGEST_NAME) for name in self._names)

    @cached_property
    def _names(self) -> list[str]:
        """Return the name of each class; a network may have more logits than there are names."""
        return [*self.class_names, *map(str, range(len(self.class_names), self.answers.classes))]

    @cached_property
    def by_class(self) -> pd.DataFrame:
        """Return counts, shares and means, a row for each class in their order.

        - ``class``: its name; ``samples``, ``teacher_right``, ``student_right``: counts;
        - ``lost``: the teacher is right, the student wrong; ``won``: the reverse; ``lost_to``: the class that the
          student answers for most of the lost, ``lost_to_count`` times;
        - ``both_wrong``; ``same_mistake``: both give the same wrong answer; ``same_mistake_by_chance``: how often they
          would if, within the class, their errors were independent,
          both_wrong · Σ_k p(the teacher says k | it is wrong) · p(the student says k | it is wrong);
        - ``teacher_accuracy``, ``student_accuracy``, ``lost_share``, ``won_share``: shares of the samples;
        - ``teacher_kl`` (nats), ``rank_correlation`` (over ``Predictions.ranked`` classes): means over the samples that
          have one;
        - ``teacher_iou``, ``student_iou``: intersection over union, where the output kind compares classes by it.
        """
        labels, teacher, student = self._labels, self._teacher, self._student
        teacher_right, student_right = teacher == labels, student == labels
        both_wrong = ~teacher_right & ~student_right
        counted = {
            "samples": np.ones_like(teacher_right),
            "teacher_right": teacher_right,
            "student_right": student_right,
            "lost": teacher_right & ~student_right,
            "won": ~teacher_right & student_right,
            "both_wrong": both_wrong,
            "same_mistake": both_wrong & (teacher == student),
        }
        frame = pd.DataFrame({"class": self._names})
        for name, chosen in counted.items():
            frame[name] = np.bincount(labels[chosen], minlength=len(frame))
        frame["same_mistake_by_chance"] = self._same_mistake_by_chance(frame)
        taken_for = self.lost_as.groupby("label").first().reindex(frame.index)
        frame["lost_to"] = ["" if np.isnan(answer) else self._names[int(answer)] for answer in taken_for["answer"]]
        frame["lost_to_count"] = taken_for["lost"].fillna(0).astype(int)
        samples = frame["samples"].where(frame["samples"] > 0)  # a class may have none
        for who in ("teacher", "student"):
            frame[f"{who}_accuracy"] = frame[f"{who}_right"] / samples
        for what in ("lost", "won"):
            frame[f"{what}_share"] = frame[what] / samples
        for name in ("teacher_kl", "rank_correlation"):
            values = pd.Series(getattr(self.answers, name).double().numpy())
            frame[name] = values.groupby(labels).mean().reindex(frame.index)
        if self.answers.compares_overlap:
            for who, said in (("teacher", teacher), ("student", student)):
                right = frame[f"{who}_right"]
                union = frame["samples"] + np.bincount(said, minlength=len(frame)) - right
                frame[f"{who}_iou"] = right / union.where(union > 0)
        return frame

    @property
    def table(self) -> pd.DataFrame:
        """Return the counts by class, with the class's number as ``label``."""
        return self.by_class.rename_axis("label").reset_index()

    @cached_property
    def confusions(self) -> pd.DataFrame:
        """Return wrong answers: ``label``, ``answer``, counts of ``teacher`` and ``student``; most changed first."""
        given = {"teacher": self._pairs(self._teacher), "student": self._pairs(self._student)}
        pairs, places = np.unique(np.concatenate(list(given.values())), return_inverse=True)
        of_teacher, of_student = np.split(places, [len(given["teacher"])])
        teacher, student = (np.bincount(part, minlength=len(pairs)) for part in (of_teacher, of_student))
        change = student - teacher
        order = np.lexsort((pairs, -student, -abs(change)))
        labels, answers = np.divmod(pairs, self.answers.classes)
        columns = {"label": labels, "answer": answers, "teacher": teacher, "student": student, "change": change}
        return pd.DataFrame({name: values[order] for name, values in columns.items()})

    @cached_property
    def lost_as(self) -> pd.DataFrame:
        """Return the student's errors where the teacher is right: ``label``, ``answer``, ``lost``; the most first."""
        pairs, lost = np.unique(self._pairs(self._student, self._teacher == self._labels), return_counts=True)
        order = np.lexsort((pairs, -lost))
        labels, answers = np.divmod(pairs, self.answers.classes)
        return pd.DataFrame({"label": labels[order], "answer": answers[order], "lost": lost[order]})

    def sentence(self) -> str:
        """Return what the student keeps and loses; as counts, because a share of a small class means little."""
        return f"{self.balance()}{self._losses()}{self._overlap()}."

    def balance(self) -> str:
        """Return how many of the teacher's right answers the student keeps, and how many wrong ones it corrects."""
        total = self.by_class[["samples", "teacher_right", "lost", "won"]].sum()
        right, wrong = total["teacher_right"], total["samples"] - total["teacher_right"]
        kept = right - total["lost"]
        share = f" ({100 * kept / right:.1f} %)" if right else ""
        corrected = f" and corrects {total['won']:,} of its {wrong:,} wrong ones" if wrong else ""
        what = "answers" if self.answers.row_word == "sample" else self.rows
        return f"keeps {kept:,} of the teacher's {right:,} right {what}{share}{corrected}"

    @property
    def rows(self) -> str:
        """Return what rows are called."""
        return f"{self.answers.row_word}s"

    @property
    def groups(self) -> str:
        """Return what rows are counted by: their class, or, where each of several labels has classes, their label."""
        return "class" if self.answers.classes == self.answers.choices else "label"

    def mistakes(self) -> str:
        """Return sentences on the mistakes that student and teacher share, and on divergence and ranking."""
        total = self.by_class[["samples", "both_wrong", "same_mistake", "same_mistake_by_chance"]].sum()
        said = []
        if total["both_wrong"] and self.answers.choices > 2:
            said.append(
                f"Both are wrong on {total['both_wrong']:,.0f} of {total['samples']:,.0f} {self.rows} and give the "
                f"same wrong answer on {total['same_mistake']:,.0f}; by chance it would be "
                f"{total['same_mistake_by_chance']:,.1f}."
            )
        if (blocks := self.answers.classes // self.answers.choices) > 1:
            student, teacher = (
                (said == self._labels).reshape(-1, blocks).all(1) for said in (self._student, self._teacher)
            )
            said.append(
                f"It has all {blocks} labels right on {student.sum():,} of {len(student):,} samples, the teacher on "
                f"{teacher.sum():,}."
            )
        divergence = float(self.answers.teacher_kl.mean())
        stored = (
            ""
            if (k := self.answers.top_k) is None
            else f", estimated from its {k} likeliest classes and draws of the others"
        )
        said.append(f"Its KL from the teacher is {divergence:.3f} nats a {self.answers.row_word}{stored}.")
        correlation = float(self.answers.rank_correlation.nanmean())
        if not np.isnan(correlation):
            ranked = self.answers.ranked
            which = "" if ranked == self.answers.choices - 1 else f"{ranked} most likely "
            said.append(
                f"Its ranking of the {which}wrong classes follows the teacher's with Spearman's ρ = {correlation:.2f}."
            )
        return " ".join(said)

    def _losses(self) -> str:
        most = self.by_class["lost"].max()
        worst = self.by_class[self.by_class["lost"] == most]
        if most < 2 or len(worst) > _NAMED:
            return f"; no {self.groups} loses more than {most:,}" if most else ""
        named, taken_for = [], self.lost_as.groupby("label")["answer"].first()
        for label, row in worst.iterrows():
            count = row["lost_to_count"]
            is_told = count > 1 and self.groups == "class"  # a label is absent or present: it is the other one
            answer = f", {count:,} as {self.name(int(taken_for[label]))}" if is_told else ""
            named.append(f"{self.groups} {self.name(int(label))} ({most:,} of {row['samples']:,}{answer})")
        return f"; it loses most in {' and '.join(named)}"

    def _overlap(self) -> str:
        """Return the class whose intersection over union falls most, where classes are compared by it."""
        if not self.answers.compares_overlap:
            return ""
        fall = (self.by_class["teacher_iou"] - self.by_class["student_iou"]).dropna()
        if not len(fall) or fall.max() <= 0:
            return ""
        worst = int(fall.to_numpy().argmax())
        student, teacher = self.by_class.loc[worst, ["student_iou", "teacher_iou"]]
        return f"; its IoU falls most in class {self.name(worst)} ({student:.3f}, the teacher's {teacher:.3f})"

    def _same_mistake_by_chance(self, counts: pd.DataFrame) -> pd.Series:
        wrong = self.confusions
        alike = np.bincount(wrong["label"], wrong["teacher"] * wrong["student"], minlength=len(counts))
        pairs = (counts["samples"] - counts["teacher_right"]) * (counts["samples"] - counts["student_right"])
        # Without a pair, one of them is never wrong, and so both_wrong is 0.
        return counts["both_wrong"] * alike / pairs.clip(lower=1)

    def _pairs(self, answers: NDArray[np.int64], chosen: NDArray[np.bool_] | bool = True) -> NDArray[np.int64]:
        """Return label · C + answer for each wrong answer among the ``chosen`` samples."""
        wrong = (answers != self._labels) & chosen
        pairs: NDArray[np.int64] = self._labels[wrong] * self.answers.classes + answers[wrong]
        return pairs

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        return self.answers.labels.long().numpy()

    @cached_property
    def _teacher(self) -> NDArray[np.int64]:
        return self.answers.teacher.long().numpy()

    @cached_property
    def _student(self) -> NDArray[np.int64]:
        return self.answers.student.long().numpy()


def agreement_table(agreements: Mapping[int, Comparison], names: Mapping[int, str]) -> pd.DataFrame:
    """Return every trial's table below one another, with ``trial`` and ``pick`` before it.

    Args:
        agreements: By trial number; at least one.
        names: The picks of a trial, by its number; other trials have an empty ``pick``.
    """
    tables = []
    for number, agreement in agreements.items():
        table = agreement.table
        table.insert(0, "pick", names.get(number, ""))
        table.insert(0, "trial", number)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
