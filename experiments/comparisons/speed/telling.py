"""Figures of rounds as cells of Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def best(values: Sequence[float]) -> float:
    return max(values, default=math.nan)


def ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def span(values: Sequence[float], form: str) -> str:
    return "\N{EN DASH}".join(format(x, form) for x in (min(values), max(values))) if len(values) > 1 else ""


def shown(value: float, form: str, unit: str = "") -> str:
    return format(value, form) + unit if math.isfinite(value) else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])
