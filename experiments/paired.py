"""Statistics of paired runs: the same seeds in two arms, so that what a seed does to both falls out of the difference.

Python's own library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t, two-sided 95 %, for 1 .. 15 degrees of freedom.
T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
       2.1448, 2.1314)
MOST = len(T95) + 1  # seeds


@dataclass(frozen=True)
class Sample:
    """Mean, standard deviation (n - 1) and half-width of the 95 % t interval; NaN where n is too small."""

    n: int
    mean: float
    sd: float
    half_width: float


def sample(values: Sequence[float]) -> Sample:
    n = len(values)
    if n > MOST:
        raise ValueError(f"{n} values; the table of t ends at {MOST}")
    if n == 0:
        return Sample(0, math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return Sample(1, mean, math.nan, math.nan)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Sample(n, mean, sd, T95[n - 2] * sd / math.sqrt(n))


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """second - first, pair by pair."""
    if len(first) != len(second):
        raise ValueError(f"pairs of {len(first)} and {len(second)} values")
    return [b - a for a, b in zip(first, second)]


def relative(a: float, b: float) -> float:
    """|b - a| / |a|; 0 where both are equal, zeros included."""
    if a == b:
        return 0.0
    return abs(b - a) / abs(a) if a else math.inf
