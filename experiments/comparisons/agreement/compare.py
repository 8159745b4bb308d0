#!/usr/bin/env python3
"""Do sinklab and the PyTorch implementation of peer.py find the same? Holds the runs of a study against those of
peer.py.

    .venv/bin/python experiments/comparisons/agreement/compare.py runs/studies/norms/quick \
        --results experiments/comparisons/agreement

The runs are not paired: the seeds of the two draw other weights and another order of windows. Needs the packages of
experiments/requirements*.txt.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from scipy import stats

    from sinkstudy.judge.paired import LEVEL, holm
except ModuleNotFoundError as error:
    sys.exit(f"compare.py: error: needs the Python package {error.name}; run it with .venv/bin/python, which "
             "./quickstart makes")
from sinkstudy.store.runs import finite

# metric -> title, and whether its ratio counts (else the difference)
METRICS = {"val_loss": ("validation loss, nats", False), "m2": ("M2", True), "max": ("max abs h", True),
           "max_no_token0": ("max abs h, no token 0", True), "att0": ("attention to token 0", True),
           "value_norm_ratio": ("value-norm ratio", True), "token0_norm_ratio": ("token-0 norm ratio", True)}

Values = dict[str, dict[str, list[float]]]  # arm -> metric -> a value a run


class CompareError(Exception):
    """The message is one line."""


def add(values: Values, arm: str, metrics: dict[str, Any]) -> None:
    for metric in METRICS:
        try:
            values.setdefault(arm, {}).setdefault(metric, []).append(float(metrics[metric]))
        except (KeyError, TypeError, ValueError):
            raise CompareError(f"arm {arm}: a run without {metric}") from None


def of_sinklab(folder: Path) -> Values:
    values: Values = {}
    with open(folder / "runs.csv", newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            if row.get("status") == "finished" and row.get("taken") == "1":
                add(values, row["arm"], row)
    return values


def of_peer(folder: Path) -> Values:
    values: Values = {}
    for path in sorted(folder.glob("*.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if run["status"] == "finished":
                add(values, run["arm"], run["metrics"])
        except (ValueError, KeyError, TypeError):
            raise CompareError(f"{path}: not a result of peer.py") from None
    if not values:
        raise CompareError(f"{folder}: no results; peer.py makes them")
    return values


def unpaired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Mean of second - first, half-width of its 95 % interval, p; Student's test, which takes one variance for both
    groups and so has an answer for one run on a side. NaN where there are fewer than three runs."""
    n, m = len(first), len(second)
    mean = math.fsum(second) / m - math.fsum(first) / n
    if n + m < 3:
        return mean, math.nan, math.nan
    squares = math.fsum((x - math.fsum(g) / len(g)) ** 2 for g in (first, second) for x in g)
    error = math.sqrt(squares / (n + m - 2) * (1 / n + 1 / m))
    return (mean, float(stats.t.ppf(1 - LEVEL / 2, n + m - 2)) * error,
            float(2 * stats.t.sf(abs(mean) / error, n + m - 2)) if error else math.nan)


def compare(ours: Values, theirs: Values) -> dict[str, Any]:
    arms = [arm for arm in ours if arm in theirs]
    if not arms:
        raise CompareError("no arm has runs of both")
    cells: list[dict[str, Any]] = []
    for arm in arms:
        for metric, (_, ratio) in METRICS.items():
            scale = math.log if ratio else float
            groups = [list(map(scale, side[arm][metric])) for side in (theirs, ours)]
            mean, half, p = unpaired(*groups)
            back = math.exp if ratio else float
            cells.append({"arm": arm, "metric": metric, "ratio": ratio, "sinklab": ours[arm][metric],
                          "pytorch": theirs[arm][metric], "effect": back(mean),
                          "interval": [back(mean - half), back(mean + half)],
                          "p": p})
    for cell, corrected in zip(cells, holm([cell["p"] for cell in cells])):
        cell["p_holm"] = corrected
    return {"arms": arms, "cells": cells}


def text(found: dict[str, Any]) -> str:
    """One row an arm; sinklab against PyTorch, with the 95 % interval."""
    def cell(c: dict[str, Any]) -> str:
        low, high = c["interval"]
        form = "\N{MULTIPLICATION SIGN} {:.2f} ({:.2f} to {:.2f})" if c["ratio"] else "{:+.4f} ({:+.4f} to {:+.4f})"
        return form.format(c["effect"], low, high) + (" *" if c["p_holm"] < LEVEL else "")
    lines = ["| arm | runs | " + " | ".join(title for title, _ in METRICS.values()) + " |", "| --- |"
             + " --- |" * (len(METRICS) + 1)]
    for arm in found["arms"]:
        row = [c for c in found["cells"] if c["arm"] == arm]
        lines.append(f"| {arm} | {len(row[0]['sinklab'])}, {len(row[0]['pytorch'])} | " + " | ".join(map(cell, row))
                     + " |")
    worst = min(found["cells"], key=lambda c: c["p_holm"])
    inside = sum(c["p"] >= LEVEL for c in found["cells"])
    return "\n".join([*lines, "", f"{inside} of {len(found['cells'])} 95 % intervals hold no difference; the smallest "
                      f"p after Holm's correction is {worst['p_holm']:.2g} ({worst['metric']} of {worst['arm']}). A "
                      f"star marks one below {LEVEL}."])


def picture(found: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    from sinkstudy.report import figures

    with plt.rc_context(figures.STYLE):
        grid, axes = plt.subplots(2, 4, figsize=(12, 5.6), layout="constrained")
        for ax, (metric, (title, ratio)) in zip(axes.flat, METRICS.items()):
            for at, cell in enumerate(c for c in found["cells"] if c["metric"] == metric):
                for i, side in enumerate(("sinklab", "pytorch")):
                    ax.plot([at - 0.15 + 0.3 * i] * len(cell[side]), cell[side], figures.MARKERS[i],
                            color=figures.colour(i),
                            alpha=0.75, label={"sinklab": "sinklab", "pytorch": "PyTorch"}[side] if at == 0 else None)
            ax.set_title(title)
            ax.set_xticks(range(len(found["arms"])), found["arms"], rotation=30, ha="right", fontsize=8)
            if ratio:
                ax.set_yscale("log")
                figures.plain(ax.yaxis)
        for ax in axes.flat[len(METRICS):]:
            ax.axis("off")
        axes.flat[0].legend()
        grid.supxlabel("A marker is a run (a seed). The seeds of the two implementations have nothing in common; what "
                       "is compared is where the markers of an arm lie.", fontsize=8.5, x=0.01, ha="left",
                       color="#444444")
        grid.savefig(path, format="png", dpi=130, metadata={"Software": None})
        plt.close(grid)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare.py", description="Runs of sinklab against those of peer.py.")
    parser.add_argument("study", type=Path, help="folder of a study's results, with runs.csv")
    parser.add_argument("--peer", type=Path, help="what peer.py wrote (default: peer in that of the study)")
    parser.add_argument("--results", type=Path, help="folder for results.json and agreement.png (default: that of the "
                                                     "study)")
    options = parser.parse_args(argv)
    results = options.results or options.study
    try:
        found = compare(of_sinklab(options.study), of_peer(options.peer or options.study / "peer"))
        (results / "results.json").write_text(json.dumps(finite(found), indent=1) + "\n", encoding="utf-8")
        picture(found, results / "agreement.png")
    except CompareError as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"compare.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(text(found), f"results: {results / 'results.json'}, {results / 'agreement.png'}", sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
