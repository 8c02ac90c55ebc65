"""Plots of a result: the front (PNG and an interactive page) and the learning curves."""

from __future__ import annotations

import html
import math
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from plotly.subplots import make_subplots

from harness.metrics import metric_named, metrics_in_every_table
from harness.reporting.picture_text import text_of
from harness.reporting.result import Result
from harness.screen.formatting import printable

_GREY, _DARK_GREY, _BLUE, _ORANGE, _GREEN, _RED = "#b8b8b8", "#6b6b6b", "#1f5fa8", "#e08214", "#2a8c4a", "#c0392b"
_CONTROL_LABEL = "control: labels alone (tuned for picks)"
_PICK_COLOURS = {"accurate": _BLUE, "balanced": _ORANGE, "small": _GREEN}
_OUTSIDE = "outside the region"
_CONFIG = {
    "showSendToCloud": False,  # a button that uploads the chart
    "displaylogo": False,  # a link to its maker
}
"""Configuration of the page, which links to no host."""


def _axes(result: Result) -> list[str]:
    """Return the names for the x axes: each objective but the primary metric."""
    return [name for name in result.objectives if name != result.primary] or ["parameters"]


def front_picture(result: Result, path: Path) -> None:
    """Draw the primary metric against each other objective, with front, picks, controls and teacher, as a PNG."""
    axes_names = _axes(result)
    figure = Figure(figsize=(6.4 * len(axes_names), 4.8), layout="constrained", dpi=120)
    figure.suptitle(f"{result.study}: {len(result.front)} of {len(result.trials)} trials on the Pareto front")
    low, high, remark = _visible_range(result)
    # The x axes fit the trials that are visible.
    complete = result.complete[result.complete[result.primary].between(low, high)]
    panels = figure.subplots(1, len(axes_names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, axes_names, strict=True):
        others = complete[~complete["front"]]
        panel.scatter(others[name], others[result.primary], s=18, color=_GREY, label="dominated")
        front = result.front.sort_values(name)
        panel.scatter(front[name], front[result.primary], s=26, color=_RED, label="front", zorder=3)
        _draw_gains(panel, result, name)
        panel.scatter(
            result.teacher.get(name, math.nan),
            result.teacher[result.primary],
            s=140,
            marker="*",
            color="black",
            label="teacher",
        )
        _ring_picks(panel, result, name)
        if result.region.floor is not None:
            panel.axhline(result.region.floor, color=_DARK_GREY, lw=0.8, ls="--", zorder=0)
        if (complete[name] > 0).all():
            panel.set_xscale("log")
            if metric_named(name).unit == "ms":  # durations rarely span a decade: "0.07" reads better than "7 x 10^-2"
                panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                panel.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        panel.set_xlabel(text_of(metric_named(name).axis_label))
        panel.grid(alpha=0.25)
    panels[0].set_ylim(low, high)
    panels[0].set_title(remark, fontsize=8, loc="left")
    panels[0].set_ylabel(f"{text_of(result.primary)} (validation)")
    panels[0].legend(loc="lower right", fontsize=8, labelspacing=1)
    figure.supxlabel(f"latency measured on {result.conditions}", fontsize=7, color="#666666")
    figure.savefig(path, format="png")


def _draw_gains(panel: Axes, result: Result, name: str) -> None:
    """Draw the control of each student at its own cost, joined to the student by a line as long as the gain."""
    front = result.compared
    if not len(front):
        return
    costs = zip(front["number"], front[name], strict=True)
    places = [result.controls.get(int(number), {}).get(name, cost) for number, cost in costs]
    panel.vlines(front[name], front["over"], front[result.primary], color=_DARK_GREY, lw=0.8, zorder=1)
    panel.scatter(
        places,
        front["over"],
        s=64,  # seen around a student that scores alike
        facecolors="white",
        edgecolors=_DARK_GREY,
        label=_CONTROL_LABEL,
        zorder=2,
    )


def _visible_range(result: Result) -> tuple[float, float, str]:
    """Return the limits of the primary metric's axis, and a remark on what is outside them.

    The front takes at least half of the axis, which ends near the bound of the region of interest: one hopeless trial
    must not squeeze the front to a line.
    """
    shown = [*result.front[result.primary], *result.compared["over"], result.teacher[result.primary]]
    values = result.trials[result.primary].dropna()
    low, high = min(shown), max(shown)
    span = max(high - low, 0.01 * abs(high), 1e-3)
    bottom, top = low - 0.9 * span, high + 0.9 * span
    bottom, top = max(bottom, min(values.min(), low) - 0.1 * span), min(top, max(values.max(), high) + 0.1 * span)
    floor, is_least = result.region.floor, result.primary_is_maximized
    if floor is not None and is_least:
        bottom = max(bottom, min(floor, low) - 0.1 * span)
    elif floor is not None:
        top = min(top, max(floor, high) + 0.1 * span)
    hidden = int(((values < bottom) | (values > top)).sum())
    remarks = ["dashed: bound of the region of interest"] if floor is not None and bottom <= floor <= top else []
    remarks += [f"{hidden} of {len(values)} trials are outside the plot"] if hidden else []
    return bottom, top, "; ".join(remarks)


def _ring_picks(panel: Axes, result: Result, name: str) -> None:
    """Draw a ring around each pick; the legend names it, as text would cover other dots. Rings of one trial nest."""
    rings: Counter[int] = Counter()
    for pick, row in result.picks.items():
        rings[row["number"]] += 1
        panel.scatter(
            row[name],
            row[result.primary],
            s=(7 + 5 * rings[row["number"]]) ** 2,
            facecolors="none",
            edgecolors=_PICK_COLOURS[pick],
            linewidths=2,
            label=f"{pick} (trial {row['number']})",
        )


def curves_picture(result: Result, path: Path) -> None:
    """Draw the learning curves of the trials on the front, as a PNG."""
    curves_figure(result).savefig(path, format="png")


def curves_figure(result: Result) -> Figure:
    """Draw hard loss (training, validation) and primary metric by epoch for the trials on the front.

    The total loss is not comparable between trials, for T² and alpha scale it.
    """
    names = ["train/hard_loss", "val/hard_loss", f"val/{result.primary}"]
    figure = Figure(figsize=(5 * len(names), 4.2), layout="constrained", dpi=120)
    size = len(result.front)
    figure.suptitle(f"{result.study}: learning curves of the {size} trial{'s' * (size != 1)} on the front")
    sizes = result.front["parameters"]
    colours = matplotlib.colormaps["viridis"]
    low = max(sizes.min(), 1) if len(sizes) else 1
    norm = matplotlib.colors.LogNorm(low, max(sizes.max(), low + 1)) if len(sizes) else None
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        for _, row in result.front.iterrows():
            curve = result.curves[int(row["number"])].get(name, {})
            assert norm is not None
            panel.plot(
                [epoch + 1 for epoch in curve], list(curve.values()), color=colours(norm(row["parameters"])), lw=1.2
            )
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(text_of(name), fontsize=10)
        panel.grid(alpha=0.25)
        if name.endswith("loss"):
            panel.set_yscale("log")
    if norm is not None and sizes.nunique() > 1:
        figure.colorbar(matplotlib.cm.ScalarMappable(norm, colours), ax=panels, label="parameters")
    return figure


def front_page(result: Result, path: Path) -> None:
    """Write an interactive page of the front that needs no network; the pointer shows the parameters of each trial."""
    names = _axes(result)
    figure = make_subplots(rows=1, cols=len(names), shared_yaxes=True, horizontal_spacing=0.04)
    complete, outside = result.complete, result.outside_region
    others = complete[~complete["front"] & ~complete["number"].isin(outside["number"])]
    groups: list[tuple[str, Any, dict[str, Any]]] = [
        ("dominated", others, {"color": _GREY, "size": 7}),
        ("front", result.front, {"color": _RED, "size": 9}),
    ]
    if len(outside):
        groups.append((_OUTSIDE, outside, {"color": _GREY, "size": 5, "opacity": 0.5}))
    for pick, row in result.picks.items():
        rows = result.trials[result.trials["number"] == row["number"]]
        marker = {
            "color": _PICK_COLOURS[pick],
            "size": {"accurate": 17, "balanced": 14, "small": 11}[pick],
            "symbol": "diamond",
        }
        groups.append((pick, rows, marker))
    texts = [[_hover(result, row) for _, row in rows.iterrows()] for _, rows, _ in groups]
    for column, name in enumerate(names, start=1):
        figure.add_traces(_gain_traces(result, name, shown=column == 1), rows=1, cols=column)  # below the students
        for (label, rows, marker), text in zip(groups, texts, strict=True):
            figure.add_trace(
                go.Scatter(
                    x=rows[name],
                    y=rows[result.primary],
                    mode="markers",
                    name=label,
                    legendgroup=label,
                    showlegend=column == 1,
                    visible="legendonly" if label == _OUTSIDE else True,  # then the axes fit the others
                    marker=marker,
                    hovertemplate="%{text}<extra></extra>",
                    text=text,
                ),
                row=1,
                col=column,
            )
        figure.add_trace(
            go.Scatter(
                x=[result.teacher.get(name, math.nan)],
                y=[result.teacher[result.primary]],
                mode="markers",
                name="teacher",
                legendgroup="teacher",
                showlegend=column == 1,
                marker={"color": "black", "size": 15, "symbol": "star"},
                hovertemplate="%{text}<extra></extra>",
                text=[f"teacher<br>{_html(result.primary)} {result.teacher[result.primary]:.4f}"],
            ),
            row=1,
            col=column,
        )
        logarithmic = len(complete) and (complete[name] > 0).all()
        figure.update_xaxes(
            title=_html(metric_named(name).axis_label), type="log" if logarithmic else "linear", row=1, col=column
        )
    *limits, remark = _visible_range(result)
    figure.update_yaxes(range=limits)
    if result.region.floor is not None:
        figure.add_hline(result.region.floor, line={"color": _DARK_GREY, "width": 1, "dash": "dash"})
    figure.update_yaxes(title=f"{_html(result.primary)} (validation)", row=1, col=1)
    figure.update_layout(
        title=f"{result.study}: {len(result.front)} of {len(result.trials)} trials on the Pareto front"
        f"<br><sup>{_html(str(result.conditions))}{remark and f'; {remark} at first'}</sup>",
        template="plotly_white",
        height=560,
        legend={"orientation": "h", "y": -0.2},
    )
    figure.write_html(path, include_plotlyjs=True, config=_CONFIG)


def _gain_traces(result: Result, name: str, *, shown: bool) -> list[Any]:
    """Return the control of each student at its own cost, and the line between them, as long as the gain."""
    front = result.compared
    xs, ys, marks = [], [], []
    for _, row in front.iterrows():
        xs += [row[name], row[name], None]
        ys += [row[result.primary], row["over"], None]
        marks.append(result.controls.get(int(row["number"]), {}).get(name, row[name]))
    label = _CONTROL_LABEL
    texts = [
        f"{kind} control of trial {n}<br>{_html(result.primary)} {c:.4g}<br>gain {g:+.4g}"
        for n, c, g, kind in zip(front["number"], front["over"], front["gain"], front["gain_over"], strict=True)
    ]
    line = go.Scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"color": _DARK_GREY, "width": 1},
        legendgroup=label,
        showlegend=False,
        hoverinfo="skip",
    )
    dots = go.Scatter(
        x=marks,
        y=front["over"],
        mode="markers",
        name=label,
        legendgroup=label,
        showlegend=shown,
        marker={"color": "white", "size": 13, "line": {"color": _DARK_GREY, "width": 1.5}},
        hovertemplate="%{text}<extra></extra>",
        text=texts,
    )
    return [line, dots] if len(front) else []


def _html(text: str) -> str:
    """Return a name escaped for Plotly, which interprets HTML in texts."""
    return html.escape(printable(text), quote=False)


def _hover(result: Result, row: Any) -> str:
    shown = [f"<b>trial {row['number']}</b> {_html(row['recipe'])}"]
    others = [metric.name for metric in metrics_in_every_table()]
    for name in dict.fromkeys([result.primary, *result.objectives, *result.parameters, *others]):
        value = row[name]
        if isinstance(value, float) and math.isnan(value):
            continue  # another method's parameter
        if isinstance(value, float) and name != "parameters":
            shown.append(f"{_html(name)} {value:.4g}")
        else:
            text = f"{value:,}" if isinstance(value, int | float) else _html(str(value))
            shown.append(f"{_html(name)} {text}")
    return "<br>".join(shown)
