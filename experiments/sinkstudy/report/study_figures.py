"""The figures of a study's report: claims, arms over seeds, curves and profiles by arm, sweeps of scale.

Panels as in figures.py, of a study's results instead of runs. An arm keeps its colour on the whole page.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sinkstudy.judge import metrics, paired
from sinkstudy.judge.claims import GATE_FAILED, NO_PAIRS, NOT_RUN, NOT_SHOWN, OPPOSITE, PRIMARY, SHOWN, Condition, parse
from sinkstudy.report.figures import (LEGEND_RUNS, MARKERS, STYLE, colour, look, no_data, plain, relative_profile,
                                      series, sink_layer, smooth, steps_axis, thin)
from sinkstudy.report.study_results import Results, Row
from sinkstudy.store.runs import Run

Curve = tuple[np.ndarray, np.ndarray]
StudyPanel = Callable[..., None]  # of axes and results
WIDTH = 4.8
VERDICT_LOOK = {SHOWN: ("#00795a", "o"), OPPOSITE: ("#b34700", "X"), NOT_SHOWN: ("#5f6b76", "s"),
                GATE_FAILED: ("#a86b00", "D"), NO_PAIRS: ("#8a8a8a", "v"), NOT_RUN: ("#8a8a8a", "v")}
UP, DOWN, SAME = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}", "="
ARROWS = {"lower": DOWN, "higher": UP, "same": SAME}


def draw(panels: Sequence[Callable[[Axes], None]], path: Path, size: tuple[float, float]) -> None:
    """Panels side by side as a PNG."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
        for letter, panel, at in zip("abcdefgh", panels, axes[0]):
            panel(at)
            if len(panels) > 1:
                at.set_title(f"{letter}  {at.get_title(loc='left')}", loc="left")
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
        plt.close(figure)


# ---- claims

FOREST_CAPTION = (
    "Effect of each claim over its margin. Thick: 95 % interval; thin: the interval at the level at which the claim's "
    "correction (Holm for primary claims, bold; FDR for exploratory ones) tests it, which is what the verdict follows. "
    "Grey band: within the margin, too small to matter. Left: lower in the second arm; right: higher. Arrows: what is "
    "claimed (= no change). n: pairs. Colour and marker: the verdict. Linear within 1, logarithmic beyond.")
WORDS = 58  # letters of a claim's text in a line of the picture


def drawn(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Claims that have something to show."""
    return [v for v in verdicts if v["verdict"] != NOT_RUN and v["n"]]


def rows_size(rows: int, longest: int) -> tuple[float, float]:
    """Of a figure with a row an arm and their names at its left."""
    return (WIDTH + min(2.2, 0.05 * max(0, longest - 12)), 1.15 + 0.3 * max(rows, 2))


def claim_label(v: Mapping[str, Any]) -> str:
    """A claim's words, what is claimed, and its pairs."""
    return "\n".join(textwrap.wrap(f"{v['text']} {ARROWS[v['expect']]} n {v['n']}", WORDS))


def forest_size(verdicts: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    return WIDTH + 4.4, 1.5 + sum(0.17 + 0.17 * (1 + claim_label(v).count("\n")) for v in verdicts)


def forest(axes: Axes, verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Effects with their intervals in units of each claim's margin, so that all go on one axis."""
    axes.set_title("Claims: effect in margins")
    axes.axvspan(-1, 1, color="#ececec", linewidth=0)
    axes.axvline(0, color="#777777", linewidth=0.8)
    furthest = 2.0
    for y, v in enumerate(verdicts):
        tint, marker = VERDICT_LOOK[v["verdict"]]
        for name, width in (("interval_corrected", 0.9), ("interval", 2.4)):
            low, high = (x / v["limit"] for x in v[name])
            if math.isfinite(low):
                axes.plot([low, high], [y, y], color=tint, linewidth=width, solid_capstyle="butt")
                furthest = max(furthest, 1.15 * abs(low), 1.15 * abs(high))
        at = v["mean"] / v["limit"]
        axes.plot([at], [y], marker=marker, color=tint, markersize=8, markeredgecolor="white", linestyle="")
        furthest = max(furthest, 1.15 * abs(at))
    axes.set_xscale("symlog", linthresh=1, linscale=0.8)
    axes.set_xlim(-furthest, furthest)
    ticks = [t for t in (1, 3, 10, 30, 100, 1000, 10000) if t <= furthest]
    ticks = [*(-t for t in reversed(ticks)), 0, *ticks]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_yticks(range(len(verdicts)), [claim_label(v) for v in verdicts], fontsize=8)
    for label, v in zip(axes.get_yticklabels(), verdicts):
        label.set_fontweight("bold" if v["family"] == PRIMARY else "normal")
    axes.set_ylim(len(verdicts) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("effect / margin; grey: within the margin\nthick: 95 % interval, thin: corrected; bold: primary")
    there = [name for name in VERDICT_LOOK if any(v["verdict"] == name for v in verdicts)]
    axes.legend(handles=[Line2D([], [], color=VERDICT_LOOK[name][0], marker=VERDICT_LOOK[name][1], linestyle="",
                                label=name) for name in there], loc="lower center", bbox_to_anchor=(0.5, 1.08),
                ncols=len(there), fontsize=8)


# ---- arms


def arm_look(results: Results, arm: str) -> dict[str, Any]:
    return look(results.arms.index(arm))


DOTS_CAPTION = ("A dot a seed, n of them; the line their mean, the bar its 95 % interval. Dotted: what a gate of the "
                "study asks for.")


def thresholds(results: Results, metric: str) -> list[float]:
    """What the study's gates ask of a metric."""
    conditions = [condition for gate in parse(results.study)[0] for condition in gate.conditions]
    return [c.limit for c in conditions if isinstance(c, Condition) and c.metric == metric]


def dots(metric: str) -> StudyPanel:
    """A dot a seed, a line the mean with its interval, a row an arm."""
    def panel(axes: Axes, results: Results) -> None:
        row = metrics.find(metric, results.looks) or metrics.Metric(metric, metric)
        axes.set_title(row.label)
        found = [results.values(arm, metric) for arm in results.arms]
        for y, (arm, values) in enumerate(zip(results.arms, found)):
            tint = colour(y)
            axes.scatter(values, np.full(len(values), y) + spread(len(values)), s=22, color=tint, alpha=0.75,
                         linewidths=0,
                         marker=MARKERS[y % len(MARKERS)], zorder=3)
            if values:
                axes.plot([np.mean(values)] * 2, [y - 0.36, y + 0.36], color=tint, linewidth=2.2)
                axes.plot(paired.interval(values), [y - 0.36] * 2, color=tint, linewidth=1)
            note(axes, y, results.rows_of(arm), len(values))
        for limit in thresholds(results, metric):
            axes.axvline(limit, color="#555555", linestyle=":", linewidth=1)
        positive = [x for values in found for x in values]
        if positive and min(positive) > 0 and max(positive) > 12 * min(positive):
            axes.set_xscale("log")
            plain(axes.xaxis)
        axes.margins(x=0.08)
        axes.set_yticks(range(len(results.arms)), [f"{arm}, n {len(values)}"
                                                   for arm, values in zip(results.arms, found)])
        axes.set_ylim(len(results.arms) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel(row.unit or row.label)
    return panel


def spread(n: int) -> np.ndarray:
    """Seeds a little apart, so that equal ones are all seen."""
    return np.linspace(-0.16, 0.16, n) if n > 1 else np.zeros(n)


def note(axes: Axes, y: int, rows: Sequence[Row], shown: int) -> None:
    """Beyond the right end: seeds without a dot."""
    words = [f"{n} {status}" for status in ("diverged", "failed", "missing")
             if (n := sum(r.status == status for r in rows))]
    if shown < len(rows) and words:
        axes.text(1.01, y, "\n".join(words), transform=axes.get_yaxis_transform(), ha="left", va="center", fontsize=8,
                  color="#7a3b00")


# ---- over training


def probe_curve(key: str) -> Callable[[Run], Curve]:
    return lambda run: series(run.probes, key)


def loss_curve(run: Run) -> Curve:
    steps, values = series(run.metrics, "loss")
    return thin(steps, smooth(values), 300)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over seeds at the steps that all of them have."""
    tables = [dict(zip(steps, values)) for steps, values in curves]
    steps = sorted(set(tables[0]).intersection(*tables[1:])) if tables else []
    return np.array(steps), np.array([np.mean([t[step] for t in tables]) for step in steps])


def over_training(title: str, unit: str, of: Callable[[Run], Curve], scale: str) -> StudyPanel:
    """Seeds faint, their mean a line; diverged runs only faint."""
    def panel(axes: Axes, results: Results) -> None:
        axes.set_title(title)
        drawn = []
        for arm in results.arms:
            style, whole, before = arm_look(results, arm), [], len(axes.lines)
            for row in results.rows_of(arm):
                curve = of(row.run) if row.run else (np.zeros(0), np.zeros(0))
                if np.isfinite(curve[1]).any():
                    axes.plot(*curve, color=style["color"], alpha=0.28, linewidth=0.8)
                    whole += [curve] if row.status != "diverged" else []
            if whole:
                axes.plot(*mean_curve(whole), **style, linewidth=2)
            drawn += [arm] if len(axes.lines) > before else []
        if not drawn:
            no_data(axes, "not recorded")
            return
        frame(axes, scale)
        axes.set_ylabel(unit)
        steps_axis(axes)
        arm_legend(axes, results, drawn)
    return panel


def frame(axes: Axes, scale: str) -> None:
    """The y axis of curves: log, from zero, or of losses, whose first 4 % of the steps may lie above it."""
    if scale == "log":
        axes.set_yscale("log")
        plain(axes.yaxis)
    elif scale == "zero":
        axes.set_ylim(bottom=0)
    else:
        curves = [(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in axes.lines]
        floor = min(np.nanmin(y, initial=math.inf) for _, y in curves)
        ceiling = max(np.nanmax(y[x >= x[0] + 0.04 * (x[-1] - x[0])], initial=floor) for x, y in curves)
        if ceiling > floor:
            axes.set_ylim(floor - 0.05 * (ceiling - floor), ceiling + 0.05 * (ceiling - floor))


def arm_legend(axes: Axes, results: Results, drawn: Sequence[str]) -> None:
    """With many arms the page's key names them."""
    if len(drawn) <= LEGEND_RUNS:
        axes.legend(handles=[Line2D([], [], **arm_look(results, arm), label=arm) for arm in drawn], loc="best")


m2_over_training = over_training("Residual sink: M2", "max / median channel", probe_curve("m2"), "log")
max_over_training = over_training("Largest activation: max |h|", "|h|", probe_curve("max"), "log")
att0_over_training = over_training("Attention sink: attention to token 0", "mean over heads", probe_curve("att0"),
                                   "zero")
loss_over_training = over_training("Training loss", "nats per token", loss_curve, "loss")


# ---- channels


def profile(run: Run | None) -> np.ndarray:
    """Channels of the layer of largest M2 over the median one, largest first."""
    layers = run.layers() if run else []
    at = sink_layer(layers)
    return np.sort(relative_profile(layers[at]))[::-1] if at >= 0 else np.zeros(0)


def profiles(axes: Axes, results: Results) -> None:
    axes.set_title("Channels of the residual stream")
    drawn = []
    for arm in results.arms:
        found = [p for row in results.rows_of(arm) if row.status == "finished" and (p := profile(row.run)).size]
        for p in found:
            axes.plot(np.arange(1, p.size + 1), p, color=arm_look(results, arm)["color"], alpha=0.28, linewidth=0.8)
        if found and len({p.size for p in found}) == 1:
            axes.plot(np.arange(1, found[0].size + 1), np.exp(np.mean(np.log(np.maximum(found, 1e-30)), axis=0)),
                      **arm_look(results, arm), linewidth=2)
            drawn.append(arm)
    if not drawn:
        no_data(axes, "no channel profile recorded")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.1)
    plain(axes.xaxis)
    plain(axes.yaxis)
    axes.set_xlabel("channels, largest first")
    axes.set_ylabel("mean |h| / median channel")
    arm_legend(axes, results, drawn)


# ---- grid


def scale_axes(results: Results) -> list[int]:
    """Which axes of the grid a metric is drawn against: those of numbers, else the one with most levels."""
    axes = results.grid_axes()
    numeric = [i for i, (_, levels, numbers) in enumerate(axes) if numbers and len(levels) > 1]
    return numeric or ([max(range(len(axes)), key=lambda i: len(axes[i][1]))] if axes else [])


def against(metric: str, axis: int) -> StudyPanel:
    """A metric against an axis of the grid: a line for each combination of the others' levels, seeds as faint dots."""
    def panel(axes: Axes, results: Results) -> None:
        row = metrics.find(metric, results.looks) or metrics.Metric(metric, metric)
        name, levels, numbers = results.grid_axes()[axis]
        x_of = dict(zip(levels, numbers or range(len(levels))))
        lines: dict[str, list[tuple[float, list[float]]]] = {}
        for at, arm in results.grid_arms().items():
            values = results.values(arm, metric)
            others = "-".join(at[:axis] + at[axis + 1:])
            if values:
                lines.setdefault(others, []).append((x_of[at[axis]], values))
        axes.set_title(row.label)
        for i, points in enumerate(lines.values()):
            points.sort(key=lambda p: p[0])
            axes.plot([x for x, _ in points], [np.mean(v) for _, v in points], **look(i),
                      marker=MARKERS[i % len(MARKERS)])
            for x, values in points:
                axes.scatter([x] * len(values), values, s=14, color=colour(i), alpha=0.4, linewidths=0)
        if not lines:
            no_data(axes, "not measured")
            return
        scale_axis(axes, [v for points in lines.values() for _, values in points for v in values], levels, numbers)
        axes.set_xlabel(name)
        axes.set_ylabel(row.unit or row.label)
        if len(lines) <= LEGEND_RUNS and any(lines):
            axes.legend(handles=[Line2D([], [], **look(i), marker=MARKERS[i % len(MARKERS)], label=other)
                                 for i, other in enumerate(lines)], loc="best")
    return panel


def scale_axis(axes: Axes, values: Sequence[float], levels: Sequence[str], numbers: Sequence[float] | None) -> None:
    if min(values) > 0 and max(values) > 12 * min(values):
        axes.set_yscale("log")
        plain(axes.yaxis)
    if not numbers:
        axes.set_xticks(range(len(levels)), levels)
        return
    if min(numbers) > 0 and max(numbers) >= 4 * min(numbers):
        axes.set_xscale("log")
    axes.set_xticks(sorted(numbers), [f"{x:g}" for x in sorted(numbers)])
    axes.minorticks_off()
