"""Pictures of effect against scale: a panel a metric, a line a pair of arms, over the sizes, over the rate
or over one property of S."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sinkstudy.judge import curves
from sinkstudy.judge.curves import AXES, CONTRASTS, MEASURES, SIZES, Axis, Contrast, Effect, Measure, Runs
from sinkstudy.report.figures import MARKERS, STYLE, colour, no_data, plain

Lines = Mapping[Contrast, Sequence[tuple[float, Effect]]]  # at x
APART = 1.05  # lines beside each other, so that intervals do not hide one another
BEYOND = 3.0  # how far a panel reaches beyond its means; intervals may be cut there


def over_sizes(runs: Runs, of: Measure) -> Lines:
    at = [(curves.baseline_mean(runs, size, "params"), size) for size in SIZES]
    return {contrast: [(x, e) for x, size in at if (e := curves.effect_at(runs, size, contrast, of))]
            for contrast in CONTRASTS}


def over_rates(runs: Runs, of: Measure) -> Lines:
    size = curves.RATES[0]
    return {contrast: [(x, e) for x in curves.rates(runs, size)
                       if (e := curves.effect_at(runs, size, contrast, of, {"train.lr": x}))] for contrast in CONTRASTS}


def over_axis(runs: Runs, axis: Axis, of: Measure) -> Lines:
    return {contrast: [(x, e) for x in axis.sizes if (e := curves.effect_at(runs, axis.at(x), contrast, of))]
            for contrast in CONTRASTS}


def panel(axes: Axes, letter: str, of: Measure, lines: Lines, ticks: Mapping[float, str], unit: str,
          other: float) -> None:
    """Filled: with its 95 % interval; hollow: one pair, no interval. No line goes to the x of other text."""
    axes.set_title(f"{letter}  {of.label.partition(',')[0]}")
    shown = {contrast: points for contrast, points in lines.items() if points}
    if not shown:
        no_data(axes, "not recorded")
        return
    value = math.exp if of.ratio else float
    for i, contrast in enumerate(CONTRASTS):
        beside = APART ** (i - len(CONTRASTS) // 2)
        joined = [(x * beside, value(e.mean)) for x, e in lines[contrast] if x != other]
        axes.plot([x for x, _ in joined], [y for _, y in joined], color=colour(i), linewidth=1)
        for x, e in ((x * beside, e) for x, e in lines[contrast]):
            axes.plot([x, x], [value(bound) for bound in e.interval], color=colour(i), linewidth=1.6)
            axes.plot([x], [value(e.mean)], marker=MARKERS[i], color=colour(i), markersize=5.5,
                      markerfacecolor="white" if e.n == 1 else colour(i))
    axes.axhline(value(0), color="#555555", linewidth=0.9, linestyle=":")
    means = [e.mean for points in shown.values() for _, e in points] + [0.0]
    room = math.log(BEYOND) / 2 if of.ratio else 0.5 * (max(means) - min(means))
    axes.set_xscale("log")
    axes.set_yscale("log" if of.ratio else "linear")
    axes.set_ylim(value(min(means) - room), value(max(means) + room))
    if of.ratio:
        plain(axes.yaxis)
    axes.set_ylabel("ratio" if of.ratio else "difference, nats")
    axes.set_xlim(min(ticks) / 1.5, max(ticks) * 1.5)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel(unit)


def pairs(lines: Sequence[Lines], x: float) -> str:
    """n of the pairs at x, in a line below the tick; empty without any."""
    found = sorted({e.n for one in lines for points in one.values() for at, e in points if at == x})
    return f"\nn {'/'.join(map(str, found))}" if found else ""


def draw(lines: Sequence[Lines], words: Mapping[float, str], unit: str, path: Path, other: float = math.nan) -> None:
    ticks = {x: label + n for x, label in words.items() if (n := pairs(lines, x))}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, math.ceil(len(MEASURES) / 2), figsize=(12.5, 6.4), layout="constrained")
        for letter, at, of, one in zip("abcdefgh", axes.flat, MEASURES, lines):
            panel(at, letter, of, one, ticks, unit, other)
        drawn = [i for i, contrast in enumerate(CONTRASTS) if any(one[contrast] for one in lines)]
        figure.legend(handles=[Line2D([], [], color=colour(i), marker=MARKERS[i], linewidth=1,
                                      label="{1} against {0}".format(*CONTRASTS[i])) for i in drawn]
                      + [Line2D([], [], color="#555555", linewidth=0.9, linestyle=":", label="no effect")],
                      loc="outside lower center", ncols=len(drawn) + 1)
        figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)


def pictures(runs: Runs, folder: Path) -> None:
    """scale.png, scale_rate.png and one of each of AXES."""
    sizes = {curves.baseline_mean(runs, size, "params"): size.name for size in SIZES}
    words = {x: f"{name}\n{curves.millions(x).removesuffix(' M')}" for x, name in sizes.items() if math.isfinite(x)}
    draw([over_sizes(runs, of) for of in MEASURES], words, "model, million parameters, pairs", folder / "scale.png",
         curves.baseline_mean(runs, SIZES[0], "params"))
    rates = {x: f"{x:g}" for x in curves.rates(runs, curves.RATES[0])}
    draw([over_rates(runs, of) for of in MEASURES], rates, "learning rate, pairs", folder / "scale_rate.png")
    for axis in AXES:
        draw([over_axis(runs, axis, of) for of in MEASURES], {x: f"{x:g}" for x in axis.sizes}, f"{axis.unit}, pairs",
             folder / f"scale_{axis.name}.png")
