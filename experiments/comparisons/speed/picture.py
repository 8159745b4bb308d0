"""The picture of --grid: tokens/s and GFLOP/s over each quantity, sinklab and PyTorch. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path
from typing import Any

import grid
from measure import Figures, SpeedError
from telling import median

KINDS = (".png", ".svg")


def check_packages() -> None:
    missing = [package for package in ("matplotlib", "numpy") if importlib.util.find_spec(package) is None]
    if missing:
        raise SpeedError(f"--picture needs the Python package {missing[0]}; pip install -r "
                         "experiments/requirements.txt, or run with .venv/bin/python, which ./quickstart makes")


def caption(data: Figures) -> str:
    counts = sorted({len(row["sinklab"]) for row in data["rows"] if row["sinklab"]})
    n = "\N{EN DASH}".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    m = data["machine"]
    peer = f", PyTorch {m['torch']}" if m["torch"] else ""
    return (f"Whole training steps. Markers: medians of n = {n} rounds of {data['steps']} steps; bars: lowest to "
            f"highest round. {grid.how(data)} Dotted: the centre. All scales are logarithmic. {m['cpu']}, "
            f"{m['cores']} cores, kernels {m['tier']}; {m['sinklab']}{peer}.")


def panel(axes: Any, data: Figures, key: str, unit: str, figures: Any) -> None:
    for i, side in enumerate(("sinklab", "PyTorch")):
        points = grid.curve(data, key, side)
        if not points:
            continue
        rates = [grid.sides(row)[side] for _, row in points]
        if unit == "GFLOP/s":
            rates = [[grid.gflops(row, rate) for rate in own] for own, (_, row) in zip(rates, points)]
        middle = [median(own) for own in rates]
        bars = [[m - min(own) for m, own in zip(middle, rates)], [max(own) - m for m, own in zip(middle, rates)]]
        axes.errorbar([value for value, _ in points], middle, yerr=bars, capsize=2, color=figures.colour(i),
                      marker=figures.MARKERS[i], linestyle=figures.LINES[i], label=side)
    axes.axvline(data["grid"]["centre"][key], color="#888888", linestyle=":", linewidth=0.9)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    values = [point["value"] for point in data["grid"]["curves"][key]]
    axes.set_xticks(values, labels=[str(value) for value in values], rotation=45 if max(values) > 999 else 0)
    axes.minorticks_off()
    axes.set_xlabel(grid.UNITS[key])
    axes.set_ylabel(unit)
    figures.plain(axes.yaxis)


def draw(data: Figures, path: Path) -> None:
    if "grid" not in data:
        raise SpeedError("--picture is of a grid, and these are rows; measure with --grid")
    check_packages()
    from matplotlib import pyplot as plt

    from sinkstudy.report import figures

    keys = list(data["grid"]["curves"])
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(2, len(keys), figsize=(max(3.6 * len(keys), 5.4), 6.8), layout="constrained",
                                    squeeze=False)
        for column, key in enumerate(keys):
            for line, unit in enumerate(("tokens/s", "GFLOP/s")):
                panel(axes[line][column], data, key, unit, figures)
        axes[0][0].legend()
        figure.supxlabel(textwrap.fill(caption(data), 44 * max(len(keys), 2)), fontsize=8.5, x=0.01, ha="left",
                         color="#444444")
        figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
        plt.close(figure)
