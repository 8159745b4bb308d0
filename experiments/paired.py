"""Statistics of paired runs: the same seeds in two arms, so that what a seed does to both falls out of the difference.

SciPy does the distributions. Where a figure cannot be told (too few values, no variance) it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 9999
BCA_FROM = 6       # values: below, the jackknife behind BCa's acceleration has too little to go by
MOST_SEEDS = 1000  # more than anybody will run
NODES = np.polynomial.legendre.leggauss(256)


@dataclass(frozen=True)
class Sample:
    """Mean, standard deviation (n - 1) and half-width of the 95 % t interval; NaN where n is too small."""

    n: int
    mean: float
    sd: float
    half_width: float


def sample(values: Sequence[float]) -> Sample:
    n = len(values)
    if n == 0:
        return Sample(0, math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return Sample(1, mean, math.nan, math.nan)
    # Of equal values the mean is rounded and the deviations with it: their sd is 0, not some 1e-17.
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if min(values) < max(values) else 0.0
    return Sample(n, mean, sd, float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n))


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


# ---- intervals and tests of a mean difference d


def bootstrap(d: Sequence[float]) -> tuple[float, float, str]:
    """95 % bootstrap interval of the mean, and its method; the same values give the same interval."""
    if len(d) < 2:
        return math.nan, math.nan, ""
    if min(d) == max(d):
        return d[0], d[0], "percentile"
    method = "BCa" if len(d) >= BCA_FROM else "percentile"
    found = stats.bootstrap((np.asarray(d),), np.mean, n_resamples=RESAMPLES, confidence_level=1 - LEVEL, method=method,
                            rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high), method


def t_below(d: Sequence[float], limit: float) -> float:
    """One-sided p against "the mean is `limit` or more"."""
    s = sample(d)
    if s.n < 2 or s.sd == 0:
        return math.nan
    return float(stats.t.cdf((s.mean - limit) / (s.sd / math.sqrt(s.n)), s.n - 1))


def t_test(d: Sequence[float]) -> float:
    """Two-sided p against "the mean is 0"."""
    below = t_below(d, 0)
    return 2 * min(below, 1 - below) if below < 0.5 else 2 * t_below([-x for x in d], 0)


def equivalence(d: Sequence[float], margin: float) -> float:
    """TOST: p against "the mean is `margin` or more away from 0"."""
    return max(t_below(d, margin), t_below([-x for x in d], margin))


def beyond(d: Sequence[float], margin: float) -> float:
    """p against "the mean is within `margin` of 0": the likelier side's, doubled."""
    return min(1.0, 2 * min(t_below(d, -margin), t_below([-x for x in d], -margin)))


def sign_test(d: Sequence[float]) -> float:
    """Two-sided p of the exact sign test; for differences without variance, about which t says nothing."""
    up, down = sum(x > 0 for x in d), sum(x < 0 for x in d)
    return float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for being one of len(p). NaN, a test not done, counts as one all the same and stays NaN."""
    order = sorted((x, i) for i, x in enumerate(p) if math.isfinite(x))
    out, so_far = [math.nan] * len(p), 0.0
    for rank, (x, i) in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - rank) * x))
        out[i] = so_far
    return out


# ---- shares of runs (diverged or not)


def shares(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """p of Fisher's exact test that two arms share a rate of ones, and Newcombe's 95 % interval of second - first."""
    a, b = int(sum(first)), int(sum(second))
    p = float(stats.fisher_exact([[a, len(first) - a], [b, len(second) - b]]).pvalue)
    one = stats.binomtest(a, len(first)).proportion_ci(1 - LEVEL, method="wilson")
    two = stats.binomtest(b, len(second)).proportion_ci(1 - LEVEL, method="wilson")
    pa, pb = a / len(first), b / len(second)
    return (p, pb - pa - math.hypot(pb - two.low, one.high - pa), pb - pa + math.hypot(two.high - pb, pa - one.low))


# ---- how many seeds it would take


def deviations(n: int) -> tuple[np.ndarray, np.ndarray]:
    """What the sd of n values comes out as, over the true one, at nodes of its distribution; and the nodes' weights.

    Powers are means over these: SciPy's noncentral t is NaN where an effect is large."""
    nodes, weights = NODES
    return np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1)), weights / 2


def t_power(n: int, effect: float, level: float) -> float:
    """Power of the two-sided test of n differences whose mean is `effect` standard deviations from 0."""
    sd, weights = deviations(n)
    limit, shift = stats.t.ppf(1 - level / 2, n - 1) * sd, effect * math.sqrt(n)
    return float(weights @ (stats.norm.cdf(shift - limit) + stats.norm.cdf(-shift - limit)))


def equivalence_power(n: int, margin: float, level: float) -> float:
    """Power of TOST where the true mean is 0; margin in standard deviations."""
    sd, weights = deviations(n)
    half = margin * math.sqrt(n) - stats.t.ppf(1 - level, n - 1) * sd
    return float(weights @ np.maximum(2 * stats.norm.cdf(half) - 1, 0))


def seeds_needed(margin: float, sd: float, same: bool = False, level: float = LEVEL) -> int | None:
    """The fewest pairs that give 80 % power at the margin for differences of this sd; MOST_SEEDS + 1: more than
    that."""
    if not (sd > 0 and margin > 0):
        return None
    power: Callable[[int, float, float], float] = equivalence_power if same else t_power
    low, high = 2, MOST_SEEDS + 1
    while low < high:  # power grows with n
        n = (low + high) // 2
        low, high = (low, n) if power(n, margin / sd, level) >= POWER else (n + 1, high)
    return low
