"""A picture of what was transferred: what each pick loses and wins by class, and which confusions it adds or sheds."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.transfer import Transfer

_LOST, _WON, _STUDENT = "#c0392b", "#1f5fa8", "#e08214"
_CLASSES, _CONFUSIONS = 20, 12  # rows that can be read; of more classes those are shown that changed most
_ROW_INCHES, _PANEL_INCHES, _MARGIN_INCHES = 0.24, 4.4, 1.7


def transfer_picture(transfers: dict[str, Transfer], path: Path, *, title: str) -> None:
    """Draw a column for each transfer, all with the same rows and scales, as a PNG.

    Above stand the classes: the samples that the teacher has right and the student has wrong to the left, the reverse
    to the right, as shares of the class, with their numbers beside them. Below stand the confusions whose numbers
    changed most from teacher to student.

    Args:
        transfers: By what stands above the column; at least one.
        path: The file.
        title: What stands above all.
    """
    classes = _classes(list(transfers.values()))
    confusions = _confusions(list(transfers.values()))
    heights = [len(classes), max(len(confusions), 1)]
    height = _ROW_INCHES * sum(heights) + 2 * _MARGIN_INCHES
    figure = Figure(figsize=(_PANEL_INCHES * len(transfers) + 1.6, height), dpi=120)
    figure.suptitle(title, y=1 - 0.18 / height)
    panels = figure.subplots(
        2, len(transfers), sharex="row", sharey="row", squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for column, (name, transfer) in enumerate(transfers.items()):
        _draw_classes(panels[0, column], transfer, classes)
        panels[0, column].set_title(f"{name}\n{textwrap.fill(transfer.balance(), 60)}", fontsize=9)
        _draw_confusions(panels[1, column], transfer, confusions)
    shown = next(iter(transfers.values()))
    samples = shown.by_class["samples"]
    panels[0, 0].set_yticks(range(len(classes)), [f"{shown.name(n)} ({samples[n]:,})" for n in classes], fontsize=8)
    pairs = [f"{shown.name(label)} → {shown.name(answer)}" for label, answer in confusions]
    panels[1, 0].set_yticks(range(len(pairs)), pairs, fontsize=8)
    some = "" if len(classes) == len(samples) else f": the {len(classes)} of {len(samples)} that changed most"
    panels[0, 0].set_ylabel(f"class (samples){some}", fontsize=8)
    panels[1, 0].set_ylabel("true class → wrong answer", fontsize=8)
    panels[1, -1].legend(loc="best", fontsize=8)
    longest = max(len(text.get_text()) for row in panels for text in row[0].get_yticklabels())
    left_inches, width = 0.065 * longest + 0.6, figure.get_figwidth()
    figure.subplots_adjust(
        left=left_inches / width,
        right=1 - 0.15 / width,
        top=1 - 1.0 / height,
        bottom=0.6 / height,
        wspace=0.06,
        hspace=1.6 / (_ROW_INCHES * sum(heights)),
    )
    figure.savefig(path, format="png")


def _classes(transfers: list[Transfer]) -> list[int]:
    """The classes that are drawn, in their order: all, or of many those that lose and win most."""
    moved = sum(transfer.by_class["lost"] + transfer.by_class["won"] for transfer in transfers)
    assert isinstance(moved, pd.Series)
    return sorted(int(label) for label in moved.sort_values(ascending=False, kind="stable").index[:_CLASSES])


def _confusions(transfers: list[Transfer]) -> list[tuple[int, int]]:
    """The confusions that are drawn: those whose number changes most in any of the transfers, the most first."""
    both = pd.concat([transfer.confusions for transfer in transfers])
    changes = both["change"].abs().groupby([both["label"], both["answer"]]).max()
    changes = changes[changes > 0].sort_values(ascending=False, kind="stable")
    return [(int(label), int(answer)) for label, answer in changes.index[:_CONFUSIONS]]


def _draw_classes(panel: Axes, transfer: Transfer, classes: list[int]) -> None:
    rows = transfer.by_class.loc[classes]
    for what, side, colour in (("lost", -1, _LOST), ("won", 1, _WON)):
        bars = panel.barh(range(len(rows)), side * 100 * rows[f"{what}_share"].fillna(0), color=colour, height=0.7)
        panel.bar_label(bars, [str(count) if count else "" for count in rows[what]], padding=2, fontsize=8)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.margins(x=0.12)
    panel.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    panel.set_xlabel("← lost: only the teacher is right       won: only the student is right →", fontsize=8)
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", alpha=0.25)


def _draw_confusions(panel: Axes, transfer: Transfer, confusions: list[tuple[int, int]]) -> None:
    columns = (transfer.confusions[name].tolist() for name in ("label", "answer", "teacher", "student"))
    known = {(label, answer): (teacher, student) for label, answer, teacher, student in zip(*columns, strict=True)}
    for row, pair in enumerate(confusions):
        teacher, student = known.get(pair, (0, 0))
        panel.plot([teacher, student], [row, row], color=_LOST if student > teacher else _WON, linewidth=2, alpha=0.6)
        panel.plot(teacher, row, "*", color="black", markersize=7, label="teacher" if row == 0 else None)
        panel.plot(
            student, row, "o", color=_STUDENT, fillstyle="none", markersize=11, label="student" if row == 0 else None
        )
    panel.set_ylim(max(len(confusions), 1) - 0.5, -0.5)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("samples", fontsize=8)
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", alpha=0.25)
