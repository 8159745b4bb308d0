"""The figures of the report: one function a panel, each drawn on an Axes of its own.

Panels are small (a phone shows one in its width, a desk several side by side) and tell runs apart by colour, marker
and line style, so that they survive colour blindness and a grey print.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sinkstudy.store.runs import Record, Run, number, numbers

# Okabe & Ito's palette without its yellow, which vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
SINK = 0.3  # Sink^.3
LEGEND_RUNS = 7
WITHOUT_TOKEN0 = Line2D([], [], color="#555555", linestyle=":", linewidth=1.4, label="without token 0")
STYLE = {
    "figure.figsize": (4.8, 3.3),
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "sinklab",
}
Panel = Callable[[Axes, Sequence[Run]], None]


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def look(i: int) -> dict[str, Any]:
    """Line of run number i; the style changes when the colours begin again."""
    return {"color": colour(i), "linestyle": LINES[i // len(COLOURS) % len(LINES)]}


def svg(panel: Callable[[Axes, Any], None], runs: Any, size: tuple[float, float] | None = None) -> bytes:
    """Draws one panel of runs, or of whatever it is a panel of; the same runs give the same bytes."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        panel(axes, runs)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return buffer.getvalue()


def summary_png(runs: Sequence[Run], path: Path) -> None:
    """One picture: the residual sink over training and the channel profile at its end; of a model that was only probed
    both sinks, attention to token 0 and the largest activations."""
    panels: Sequence[Panel] = m2_over_steps, channel_profile
    if not any(run.trained for run in runs):
        panels = attention_heat(runs[0], heat_top(runs)), max_over_layers, channel_profile
    with plt.rc_context(STYLE):
        figure: Figure
        figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), layout="constrained")
        for panel, at in zip(panels, axes, strict=True):
            panel(at, runs)
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
        plt.close(figure)


def series(records: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a key where it is recorded; null becomes NaN, a gap in the line."""
    pairs = [(number(r["step"]), number(r[key])) for r in records if key in r]
    steps, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return steps, values


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential mean over a fiftieth of the records, forwards and backwards so that it does not lag."""
    keep = math.exp(-1 / max(1.0, len(values) / 50))
    return (running_mean(values, keep) + running_mean(values[::-1], keep)[::-1]) / 2


def running_mean(values: np.ndarray, keep: float) -> np.ndarray:
    """Exponential mean corrected for its start; NaN stays where it is."""
    mean, weight = 0.0, 0.0
    out = np.full(len(values), math.nan)
    for i, value in enumerate(values):
        if math.isfinite(value):
            mean = keep * mean + (1 - keep) * value
            weight = keep * weight + (1 - keep)
            out[i] = mean / weight
    return out


def thin(x: np.ndarray, y: np.ndarray, most: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` points, the last one included: a picture has no more columns."""
    stride = max(1, math.ceil(len(x) / most))
    pick = np.unique(np.append(np.arange(0, len(x), stride), max(len(x) - 1, 0)))[: len(x)]
    return x[pick], y[pick]


def no_data(axes: Axes, what: str) -> None:
    axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def plain(axis: Any) -> None:
    """1, 10, 100 on a logarithmic axis instead of powers; 1, 2, 5, 10 where it spans little."""
    low, high = axis.get_view_interval()
    few = low > 0 and high / low < 200
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def steps_axis(axes: Axes) -> None:
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlim(left=0)


def legend(axes: Axes, runs: Sequence[Run], drawn: Sequence[int], extra: Sequence[Line2D] = ()) -> None:
    """Names the runs that this panel shows; with many of them the page's own key does."""
    handles = [Line2D([], [], **look(i), marker=MARKERS[i % len(MARKERS)], label=runs[i].name) for i in drawn]
    if len(handles) <= LEGEND_RUNS:
        axes.legend(handles=[*handles, *extra], loc="best")


# ---- over training


def loss(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Loss")
    ceiling, floor, drawn = -math.inf, math.inf, []
    for i, run in enumerate(runs):
        steps, values = series(run.metrics, "loss")
        if len(steps):
            line = smooth(values)
            axes.plot(*thin(steps, values), color=colour(i), alpha=0.22, linewidth=0.6)
            axes.plot(*thin(steps, line), **look(i))
            settled = line[steps >= steps[0] + 0.04 * (steps[-1] - steps[0])]
            ceiling = max(ceiling, float(np.nanmax(settled, initial=-math.inf)))
        at, checked = series(run.metrics, "val_loss")
        axes.plot(at, checked, linestyle="", marker=MARKERS[i % len(MARKERS)], markersize=5.5, color=colour(i),
                  markeredgecolor="white", markeredgewidth=0.6)
        lowest = min(float(np.nanmin(part, initial=math.inf)) for part in (values, checked))
        floor = min(floor, lowest)
        drawn += [i] if math.isfinite(lowest) else []
    if not drawn:
        no_data(axes, "no loss recorded")
        return
    if ceiling > floor:
        axes.set_ylim(floor - 0.05 * (ceiling - floor), ceiling + 0.05 * (ceiling - floor))
    axes.set_ylabel("nats per token")
    steps_axis(axes)
    legend(axes, runs, drawn)


def over_steps(axes: Axes, runs: Sequence[Run], key: str, log: bool = True) -> list[int]:
    """A probe figure of every run over the steps; returns the runs that have it."""
    drawn = []
    for i, run in enumerate(runs):
        steps, values = series(run.probes, key)
        if np.isfinite(values).any():
            many = len(steps) > 40
            axes.plot(steps, values, **look(i), marker="" if many else MARKERS[i % len(MARKERS)])
            drawn.append(i)
    if not drawn:
        no_data(axes, "not measured")
        return []
    if log:
        axes.set_yscale("log")
        plain(axes.yaxis)
    steps_axis(axes)
    return drawn


def m2_over_steps(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Residual sink: M2")
    drawn = over_steps(axes, runs, "m2")
    if not drawn:
        return
    axes.axhline(5, color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1), max(high, 6.5))
    plain(axes.yaxis)
    axes.set_ylabel("max / median channel")
    legend(axes, runs, drawn)


def max_over_steps(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Largest activation: max |h|")
    drawn = over_steps(axes, runs, "max")
    for i in drawn:
        axes.plot(*series(runs[i].probes, "max_no_token0"), color=colour(i), linestyle=":", linewidth=1.4)
    if drawn:
        plain(axes.yaxis)
        axes.set_ylabel("|h|")
        legend(axes, runs, drawn, [WITHOUT_TOKEN0])


def lambda_over_steps(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Smallest norm weight")
    drawn = over_steps(axes, runs, "lambda_min", log=False)
    if drawn:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("min |\N{GREEK SMALL LETTER LAMDA}|")
        legend(axes, runs, drawn)


def att0_over_steps(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Attention sink: attention to token 0")
    drawn = over_steps(axes, runs, "att0", log=False)
    if drawn:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean over heads")
        legend(axes, runs, drawn)


# ---- by layer, at the end


def over_layers(axes: Axes, runs: Sequence[Run], key: str) -> list[int]:
    drawn = []
    for i, run in enumerate(runs):
        values = np.array([number(layer.get(key)) for layer in run.layers()])
        if np.isfinite(values).any():
            axes.plot(np.arange(len(values)), values, **look(i), marker=MARKERS[i % len(MARKERS)])
            drawn.append(i)
    if not drawn:
        no_data(axes, "not measured")
        return []
    axes.set_yscale("log")
    axes.set_xlabel("blocks passed (0 = embeddings)")
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return drawn


def m2_over_layers(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("M2 by layer")
    drawn = over_layers(axes, runs, "m2")
    if drawn:
        plain(axes.yaxis)
        axes.set_ylabel("max / median channel")
        legend(axes, runs, drawn)


def max_over_layers(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("max |h| by layer")
    drawn = over_layers(axes, runs, "max")
    for i in drawn:
        values = [number(layer.get("max_no_token0")) for layer in runs[i].layers()]
        axes.plot(range(len(values)), values, color=colour(i), linestyle=":", linewidth=1.4)
    if drawn:
        plain(axes.yaxis)
        axes.set_ylabel("|h|")
        legend(axes, runs, drawn, [WITHOUT_TOKEN0])


# ---- channels and norm weights


def relative_profile(layer: Record) -> np.ndarray:
    """Mean |h| per channel over the median channel; empty if the layer has no profile."""
    profile = np.array(numbers(layer.get("channel_mean_abs")))
    median = float(np.median(profile)) if profile.size else math.nan
    return profile / median if median > 0 else np.array([])


def sink_layer(layers: Sequence[Record], key: str = "channel_mean_abs") -> int:
    """The layer of largest M2 among those that have `key`; -1 if there is none."""
    found = [(number(layer.get("m2")), -i) for i, layer in enumerate(layers) if key in layer]
    found = [pair for pair in found if math.isfinite(pair[0])]
    return -max(found)[1] if found else -1


def channel_profile(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Channels of the residual stream")
    drawn = []
    for i, run in enumerate(runs):
        layers = run.layers()
        at = sink_layer(layers)
        profile = relative_profile(layers[at]) if at >= 0 else np.array([])
        if profile.size:
            axes.plot(np.arange(1, profile.size + 1), np.sort(profile)[::-1], **look(i),
                      marker=MARKERS[i % len(MARKERS)], markevery=list(range(min(5, profile.size))))
            drawn.append(i)
    if not drawn:
        no_data(axes, "no channel profile recorded")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain(axes.yaxis)
    plain(axes.xaxis)
    axes.set_xlabel("channels, largest first")
    axes.set_ylabel("mean |h| / median channel")
    legend(axes, runs, drawn)


def block_norms(layers: Sequence[Record]) -> np.ndarray:
    """Sorted |weights|, a row for each block norm; 0 x 0 if there are none."""
    found = [numbers(layer.get(key)) for layer in layers for key in ("norm_weight_attn", "norm_weight_ffn")]
    rows = [np.sort(np.abs(row)) for row in found if row]
    return np.array(rows) if rows and len({row.size for row in rows}) == 1 else np.zeros((0, 0))


def sorted_norm_weights(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Norm weights, sorted")
    drawn = []
    for i, run in enumerate(runs):
        rows = block_norms(run.layers())
        if np.isfinite(rows).any():
            rank = np.arange(1, rows.shape[1] + 1)
            axes.fill_between(rank, rows.min(axis=0), rows.max(axis=0), color=colour(i), alpha=0.18, linewidth=0)
            axes.plot(rank, np.median(rows, axis=0), **look(i), marker=MARKERS[i % len(MARKERS)],
                      markevery=list(range(min(5, rank.size))))
            drawn.append(i)
    if not drawn:
        no_data(axes, "no norm weights recorded")
        return
    axes.set_xscale("log")
    plain(axes.xaxis)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("channels, smallest weight first")
    axes.set_ylabel("|\N{GREEK SMALL LETTER LAMDA}|")
    legend(axes, runs, drawn)


def weight_against_size(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_title("Norm weight where channels are large")
    drawn = []
    for i, run in enumerate(runs):
        layers = run.layers()
        at = sink_layer(layers, "norm_weight_attn")
        size = relative_profile(layers[at]) if at >= 0 else np.array([])
        weights = np.abs(numbers(layers[at].get("norm_weight_attn"))) if at >= 0 else np.array([])
        if size.size and size.size == weights.size:
            axes.scatter(size, weights, s=16, marker=MARKERS[i % len(MARKERS)], color=colour(i), alpha=0.55,
                         linewidths=0)
            drawn.append(i)
    if not drawn:
        no_data(axes, "no norm weights recorded")
        return
    axes.set_xscale("log")
    plain(axes.xaxis)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("mean |h| / median channel")
    axes.set_ylabel("|\N{GREEK SMALL LETTER LAMDA}| of the same channel")
    legend(axes, runs, drawn)


# ---- attention


def heat(run: Run) -> np.ndarray:
    """Attention to token 0, blocks x heads; 0 x 0 if it is not there."""
    rows = [numbers(layer.get("att0")) for layer in run.layers() if layer.get("att0")]
    if not rows or len({len(row) for row in rows}) > 1:
        return np.zeros((0, 0))
    return np.array(rows)


def heat_top(runs: Sequence[Run]) -> float:
    """Upper end of the colour scale, common to all runs."""
    tops = [float(np.nanmax(heat(run), initial=0)) for run in runs]
    return min(1.0, max([SINK, *tops]))


def attention_heat(run: Run, top: float) -> Panel:
    """A panel of its own for each run: blocks from the bottom up, as the stream goes."""
    def draw(axes: Axes, runs: Sequence[Run]) -> None:
        del runs
        axes.set_title(run.name)
        values = heat(run)
        if not np.isfinite(values).any():
            no_data(axes, "no attention recorded")
            return
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=top, aspect="auto", origin="lower",
                            interpolation="nearest")
        axes.grid(False)
        axes.set_xlabel("head")
        axes.set_ylabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.figure.colorbar(image, ax=axes, label="mean attention to token 0", pad=0.02)
        annotate(axes, values, top)
    return draw


def annotate(axes: Axes, values: np.ndarray, top: float) -> None:
    """Writes the numbers into the cells where they fit, and frames the sinks."""
    rows, columns = values.shape
    for y, x in np.ndindex(rows, columns):
        value = values[y, x]
        if columns <= 8 and rows <= 16 and math.isfinite(value):
            dark = value < 0.55 * top
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        if value > SINK:
            axes.add_patch(plt.Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00",
                                         linewidth=1.6))
