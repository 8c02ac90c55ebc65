"""A picture of teacher-student agreement: correct answers lost and won by class, and confusions that changed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len

from harness.reporting.agreement import TeacherAgreement
from harness.reporting.picture_text import text_of

_LOST, _WON, _STUDENT = "#c0392b", "#1f5fa8", "#e08214"
_CLASSES, _CONFUSIONS = 20, 12  # rows that can be read; of more, those are shown that changed most
_FEWEST_CHANGED = 3  # samples; one or two may be chance, as a training with another seed would show
_FEWEST_ROWS = 3  # of the height of a panel
_ROW_INCHES, _PANEL_INCHES = 0.25, 4.4
_TOP_INCHES, _GAP_INCHES, _BOTTOM_INCHES, _LEFT_INCHES, _RIGHT_INCHES = 1.0, 0.85, 0.55, 1.4, 0.2


def draw_agreement(agreements: Mapping[str, TeacherAgreement], path: Path, *, title: str) -> None:
    """Draw a column for each student, all with the same rows and scales, as a PNG.

    The upper panel has the classes: to the left the samples that the teacher has right and the student has wrong, to
    the right the reverse, as shares of the class, with their counts; a bar of one or two samples is pale. The lower
    panel has the confusions whose counts changed most from teacher to student, and by more than two.

    Args:
        agreements: Comparisons by the title of the column; at least one.
        path: The file to write.
        title: Title of the picture.
    """
    classes = _classes(list(agreements.values()))
    confusions, left_out = _confusions(list(agreements.values()))
    figure, panels = _grid(len(agreements), [len(classes), len(confusions)])
    figure.suptitle(title, y=1 - 0.18 / figure.get_figheight())
    for (name, agreement), (above, below) in zip(agreements.items(), panels, strict=True):
        _draw_classes(above, agreement, classes)
        above.set_title(f"{name}\n{textwrap.fill(agreement.balance(), 60)}", fontsize=9)
        _draw_confusions(below, agreement, confusions)
    one, (above, below) = next(iter(agreements.values())), panels[0]
    samples = one.by_class["samples"]
    above.set_yticks(range(len(classes)), [f"{_class_text(one, n)} ({samples[n]:,})" for n in classes])
    is_whole = len(classes) == len(samples)
    above.set_ylabel(f"class ({one.rows})" if is_whole else f"classes that changed most ({one.rows})")
    pairs = [f"{_class_text(one, label)} → {_class_text(one, answer)}" for label, answer in confusions]
    below.set_yticks(range(len(pairs)), pairs)
    few = f" ({left_out} that changed by one or two {one.rows} are left out)" if left_out else ""
    below.set_title(f"true class → wrong answer{few}", loc="left", fontsize=8)
    _scale_classes(above, list(agreements.values()))
    if confusions:
        panels[-1][1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    longest = max(cell_len(label.get_text()) for panel in (above, below) for label in panel.get_yticklabels())
    left = 0.6 + 0.065 * longest
    width = figure.get_figwidth() + max(0, left - _LEFT_INCHES)  # long names widen the picture, and leave its panels
    figure.set_figwidth(width)
    figure.subplots_adjust(left=left / width, right=1 - _RIGHT_INCHES / width)
    figure.savefig(path, format="png")


def _class_text(agreement: TeacherAgreement, label: int) -> str:
    return text_of(agreement.name(label), otherwise=f"class {label}")


def _grid(columns: int, rows: Sequence[int]) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Return a figure, and the upper and the lower panel of each column, which have so many rows."""
    rows = [max(count, _FEWEST_ROWS) for count in rows]
    height = _ROW_INCHES * sum(rows) + _TOP_INCHES + _GAP_INCHES + _BOTTOM_INCHES
    width = _PANEL_INCHES * columns + _LEFT_INCHES + _RIGHT_INCHES
    figure = Figure(figsize=(width, height), dpi=120)  # constrained layout would draw everything several times
    figure.subplots_adjust(
        right=1 - _RIGHT_INCHES / width,
        top=1 - _TOP_INCHES / height,
        bottom=_BOTTOM_INCHES / height,
        wspace=0.06,
        hspace=2 * _GAP_INCHES / (_ROW_INCHES * sum(rows)),
    )
    above, below = figure.subplots(
        2, columns, sharex="row", sharey="row", squeeze=False, gridspec_kw={"height_ratios": rows}
    )
    for panel in (*above, *below):
        panel.tick_params(labelsize=8)
        panel.xaxis.label.set_size(8)
        panel.yaxis.label.set_size(8)
        panel.grid(axis="x", alpha=0.25)
        panel.axvline(0, color="black", linewidth=0.8)
    return figure, list(zip(above, below, strict=True))


def _classes(agreements: Sequence[TeacherAgreement]) -> list[int]:
    """Return the classes to draw: all in their order; of many, those that changed most, the most first."""
    counts = pd.concat([agreement.by_class[["lost", "won"]] for agreement in agreements])
    moved = counts.sum(axis=1).groupby(level=0).sum()
    if len(moved) > _CLASSES:
        moved = moved.sort_values(ascending=False, kind="stable")[:_CLASSES]
    return moved.index.tolist()


def _confusions(agreements: Sequence[TeacherAgreement]) -> tuple[list[tuple[int, int]], int]:
    """Return the confusions to draw: those that changed most in any comparison, the most first.

    The second value counts the confusions that changed too little to mean anything.
    """
    both = pd.concat([agreement.confusions for agreement in agreements])
    changes = both["change"].abs().groupby([both["label"], both["answer"]]).max()
    large = changes[changes >= _FEWEST_CHANGED].sort_values(ascending=False, kind="stable")
    drawn = [(int(label), int(answer)) for label, answer in large.index[:_CONFUSIONS]]
    return drawn, int(changes.between(1, _FEWEST_CHANGED - 1).sum())


def _draw_classes(panel: Axes, agreement: TeacherAgreement, classes: list[int]) -> None:
    rows = agreement.by_class.loc[classes]
    for what, side, colour in (("lost", -1, _LOST), ("won", 1, _WON)):
        colours = [(colour, 1.0 if count >= _FEWEST_CHANGED else 0.3) for count in rows[what]]
        bars = panel.barh(range(len(rows)), side * 100 * rows[f"{what}_share"].fillna(0), color=colours, height=0.7)
        panel.bar_label(bars, [str(count) if count else "" for count in rows[what]], padding=2, fontsize=8)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    few = rows[["lost", "won"]].to_numpy()
    pale = (
        f"\npale: one or two {agreement.rows}, which may be chance"
        if ((few > 0) & (few < _FEWEST_CHANGED)).any()
        else ""
    )
    panel.set_xlabel(f"← lost: only the teacher is right       won: only the student is right →{pale}")


def _scale_classes(panel: Axes, agreements: Sequence[TeacherAgreement]) -> None:
    """Leave room for the counts at the ends of the bars, on both sides."""
    shares = pd.concat([agreement.by_class[["lost_share", "won_share"]] for agreement in agreements])
    lost, won = 100 * shares.max()
    room = 0.15 * max(lost + won, 5)
    panel.set_xlim(-lost - room, won + room)


def _draw_confusions(panel: Axes, agreement: TeacherAgreement, confusions: Sequence[tuple[int, int]]) -> None:
    columns = (agreement.confusions[name].tolist() for name in ("label", "answer", "teacher", "student"))
    known = {(label, answer): (teacher, student) for label, answer, teacher, student in zip(*columns, strict=True)}
    for row, pair in enumerate(confusions):
        teacher, student = known.get(pair, (0, 0))
        panel.plot([teacher, student], [row, row], color=_LOST if student > teacher else _WON, linewidth=2, alpha=0.6)
        panel.plot(teacher, row, "*", color="black", markersize=7, label="" if row else "teacher")
        # A ring, so that a star at the same place shows in it.
        panel.plot(student, row, "o", color=_STUDENT, fillstyle="none", markersize=11, label="" if row else "student")
    if not confusions:
        nothing = f"no confusion changed by {_FEWEST_CHANGED} {agreement.rows} or more"
        panel.text(0.5, 0.5, nothing, ha="center", va="center", transform=panel.transAxes, fontsize=8)
    panel.set_ylim(max(len(confusions), 1) - 0.5, -0.5)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel(agreement.rows)
