"""The cost as work grows: one quantity of the model or the run varied at a time around a centre; table and cliffs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from measure import Figures, faster, new_row, speeds
from telling import best, markdown, median, ratio, shown

PRESET = "bench-10m"  # its layers and vocabulary
CENTRE = {"d": 384, "window": 256, "batch": 16, "threads": 2}
VALUES = {"d": (64, 128, 192, 256, 384, 512, 768, 1024), "window": (128, 256, 512, 1024, 2048),
          "batch": (1, 2, 4, 8, 16, 32, 64), "threads": (1, 2, 4, 8, 16)}
UNITS = {"d": "model width d", "window": "window, tokens", "batch": "batch, windows", "threads": "threads"}
HEAD = 64  # width of an attention head
CLIFF = 1.5

Point = tuple[float, float]  # value of the quantity, GFLOP/s


def quantity(text: str) -> str:
    if text not in VALUES:
        raise argparse.ArgumentTypeError(f"the grid varies {', '.join(VALUES)}, not {text!r}")
    return text


def overrides(at: dict[str, int]) -> list[str]:
    """Heads of 64, and a feed-forward of 8/3 d in units of 32, as in the presets."""
    ffn = math.ceil(8 * at["d"] / 3 / 32) * 32
    return [f"model.dim={at['d']}", f"model.heads={at['d'] // HEAD}", f"model.ffn={ffn}", f"model.seq={at['window']}",
            f"train.batch={at['batch']}"]


def rows(data: Figures, precision: str, quantities: Sequence[str]) -> list[Figures]:
    """A row for each point, the centre once; data["grid"] says which row is which point."""
    cores = data["machine"]["cores"]
    centre = {**CENTRE, "threads": min(CENTRE["threads"], cores)}
    found: list[Figures] = []
    curves: dict[str, list[dict[str, int]]] = {}
    for key in quantities or VALUES:
        curves[key] = []
        for value in VALUES[key]:
            if key == "threads" and value > cores:
                continue
            at = {**centre, key: value}
            places = [i for i, row in enumerate(found) if row["at"] == at]
            if not places:
                row = new_row(PRESET, precision, at["threads"])
                found.append({**row, "overrides": overrides(at), "at": at,
                              "point": "centre" if at == centre else f"{key} {value}"})
            curves[key].append({"value": value, "row": places[0] if places else len(found) - 1})
    data["grid"] = {"centre": centre, "precision": precision, "curves": curves}
    return found


# ---- telling


def sides(row: Figures) -> dict[str, list[float]]:
    """tokens/s of the rounds, by who reached them."""
    return {"sinklab": speeds(row, "sinklab"), "PyTorch": speeds(row, faster(row))}


def gflops(row: Figures, rate: float) -> float:
    """Both sides train the same model: a token has the operations that sinklab counts."""
    own = row["sinklab"]
    return rate * ratio(own[0]["gflops"], own[0]["tokens_per_s"]) if own else math.nan


def curve(data: Figures, key: str, side: str) -> list[tuple[float, Figures]]:
    """The points of a quantity that a side has measured."""
    points = [(point["value"], data["rows"][point["row"]]) for point in data["grid"]["curves"][key]]
    return [(value, row) for value, row in points if sides(row)[side]]


def expected(points: Sequence[Point], i: int) -> float:
    """What the neighbours of a point let expect: no less than the point before it, and where the curve rises on behind
    it, the straight line between its neighbours, both scales logarithmic. NaN of the first, which may be slow: there is
    little work."""
    if i == 0:
        return math.nan
    (x0, before), (x, _) = points[i - 1], points[i]
    if i + 1 == len(points):
        return before
    x1, after = points[i + 1]
    return max(before, before * (after / before) ** (math.log(x / x0) / math.log(x1 / x0)))


def cliffs(data: Figures) -> list[str]:
    """Points whose GFLOP/s are more than CLIFF times below what their neighbours let expect."""
    told = []
    for side in ("sinklab", "PyTorch"):
        for key in data["grid"]["curves"]:
            points = [(value, gflops(row, median(sides(row)[side]))) for value, row in curve(data, key, side)]
            for i, (value, here) in enumerate(points):
                hoped = expected(points, i)
                if hoped > CLIFF * here:
                    told.append(f"Cliff: {side}, {key} {value}: {here:,.0f} GFLOP/s where its neighbours let expect "
                                f"{hoped:,.0f}, {hoped / here:.1f} times as many")
    return told


def cells(row: Figures, with_peer: bool) -> list[str]:
    out, found = [], sides(row)
    for side in ("sinklab", "PyTorch")[:2 if with_peer else 1]:
        rates = found[side]
        out += [shown(median(rates), ",.0f"), shown(best(rates), ",.0f"), shown(gflops(row, median(rates)), ",.0f")]
    if with_peer:
        out += [shown(ratio(of(found["sinklab"]), of(found["PyTorch"])), ".2f") for of in (median, best)]
    return out


def table(data: Figures) -> str:
    with_peer = any(faster(row) for row in data["rows"])
    header = ["varied", "value", "sinklab, tokens/s", "best", "GFLOP/s"]
    if with_peer:
        header += ["PyTorch, tokens/s", "best", "GFLOP/s", "ratio", "ratio of the bests"]
    lines = []
    for key in data["grid"]["curves"]:
        for value, row in curve(data, key, "sinklab"):
            centre = " (centre)" if value == data["grid"]["centre"][key] else ""
            lines.append([UNITS[key], f"{value}{centre}", *cells(row, with_peer)])
    return markdown(header, lines)


def centre_text(data: Figures) -> str:
    at = data["grid"]["centre"]
    return (f"d {at['d']}, window {at['window']}, batch {at['batch']}, {at['threads']} "
            f"thread{'s' if at['threads'] > 1 else ''}, {data['grid']['precision']}")


def how(data: Figures) -> str:
    return (f"One quantity is varied at a time around {centre_text(data)}: the layers and the vocabulary of {PRESET}, "
            f"heads of {HEAD}, feed-forward of 8/3 d. GFLOP/s of both sides count what sinklab counts.")
