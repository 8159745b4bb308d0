"""Statistics of paired runs: the same seeds in two arms, so that what a seed does to both falls out of the difference.

SciPy does the distributions. Where a figure cannot be told (too few values, no variance) it is NaN.
tests/unit/test_verdicts.py simulates levels, coverage and power of what is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.05
POWER = 0.8
MOST_FLIPPED = 12  # differences whose signs are all flipped in every way; of more a sample of the ways is taken
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


def interval(d: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean that misses it with probability `level`."""
    s = sample(d)
    if s.n < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(1 - level / 2, s.n - 1)) * s.sd / math.sqrt(s.n)
    return s.mean - half, s.mean + half


def t_below(d: Sequence[float], limit: float) -> float:
    """One-sided p against "the mean is `limit` or more"."""
    s = sample(d)
    if s.n < 2 or s.sd == 0:
        return math.nan
    return float(stats.t.cdf((s.mean - limit) / (s.sd / math.sqrt(s.n)), s.n - 1))


def lower_by(d: Sequence[float], margin: float) -> float:
    """p against "the mean is above -margin": two-sided, so that it is below a level where the interval of that level
    lies wholly below -margin."""
    return min(1.0, 2 * t_below(d, -margin)) if len(d) > 1 and min(d) < max(d) else equal_beyond(d, -margin)


def equal_beyond(d: Sequence[float], limit: float) -> float:
    """lower_by of differences that are all the same, about which t says nothing: signs of their distances from the
    limit, half of which would be above it by chance."""
    if len(d) < 2:
        return math.nan
    return min(1.0, 2 * 0.5 ** len(d)) if d[0] < limit else 1.0


def equivalence(d: Sequence[float], margin: float) -> float:
    """TOST: p against "the mean is `margin` or more away from 0"."""
    if len(d) > 1 and min(d) == max(d):
        return 0.5 ** len(d) if abs(d[0]) < margin else 1.0
    return max(t_below(d, margin), t_below([-x for x in d], margin))


def beyond(d: Sequence[float], margin: float) -> float:
    """p against "the mean is within `margin` of 0"."""
    p = [lower_by(d, margin), lower_by([-x for x in d], margin)]
    return math.nan if any(map(math.isnan, p)) else min(p)


@lru_cache(maxsize=16)
def flips(n: int) -> np.ndarray:
    """Ways to flip the signs of n differences, one a row: all, or a sample in which the first flips nothing."""
    if n <= MOST_FLIPPED:
        return 1.0 - 2 * (np.arange(1 << n)[:, None] >> np.arange(n) & 1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (1 << MOST_FLIPPED, n))
    signs[0] = 1  # what was seen is one of the ways
    return signs


def flip_below(d: Sequence[float], limit: float) -> float:
    """One-sided p of the sign-flip test against "the mean is `limit` or more". It supposes that the differences lie
    symmetrically around their mean, and nothing else about how they are distributed; of n it can't be below 1/2^n."""
    n = len(d)
    if n < 2:
        return math.nan
    x = np.asarray(d) - limit
    rounding = 1e-12 * np.abs(x).sum()  # equal sums in another order
    return float(np.mean(flips(n) @ x <= x.sum() + rounding))


def flip_lower_by(d: Sequence[float], margin: float) -> float:
    """lower_by, of the sign-flip test."""
    return min(1.0, 2 * flip_below(d, -margin)) if len(d) > 1 else math.nan


def flip_equivalence(d: Sequence[float], margin: float) -> float:
    """equivalence, of the sign-flip test."""
    return max(flip_below(d, margin), flip_below([-x for x in d], margin))


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's, of the two values of each pair."""
    if len(first) < 3 or min(first) == max(first) or min(second) == max(second):
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def gain(first: Sequence[float], second: Sequence[float]) -> float:
    """What pairing buys: variance of the difference of two means without pairs, over that with them. So many times the
    seeds would do without pairs what these do with them; below 1 pairs cost."""
    apart = [sample(x).sd ** 2 for x in (first, second)]
    paired = sample(differences(first, second)).sd ** 2
    return sum(apart) / paired if paired > 0 else math.nan


# ---- many tests


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for being one of len(p). NaN, a test not done, counts as one all the same and stays NaN."""
    order = sorted((x, i) for i, x in enumerate(p) if math.isfinite(x))
    out, so_far = [math.nan] * len(p), 0.0
    for rank, (x, i) in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - rank) * x))
        out[i] = so_far
    return out


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """p corrected so that of those below a level at most that share are false, in the mean. NaN as in holm()."""
    order = sorted((x, i) for i, x in enumerate(p) if math.isfinite(x))
    out, so_far = [math.nan] * len(p), 1.0
    for rank, (x, i) in reversed(list(enumerate(order, start=1))):
        so_far = min(so_far, len(p) / rank * x)
        out[i] = so_far
    return out


def holm_levels(p: Sequence[float], level: float = LEVEL) -> list[float]:
    """The level at which Holm's procedure tests each: LEVEL over what is left when its turn comes; after the first
    that isn't below its own, that one's. With intervals of these levels an interval excludes what its test rejects."""
    order = sorted((x, i) for i, x in enumerate(p) if math.isfinite(x))
    out, left = [level / max(1, len(p))] * len(p), len(p)
    for x, i in order:
        out[i] = level / left
        left -= left > 1 and x < out[i]
    return out


def fdr_levels(p: Sequence[float], level: float = LEVEL) -> list[float]:
    """The same of benjamini_hochberg(): the level times the share that is below it (Benjamini and Yekutieli 2005)."""
    found = sum(x < level for x in benjamini_hochberg(p))
    return [level * max(1, found) / max(1, len(p))] * len(p)


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


@lru_cache(maxsize=256)
def deviations(n: int) -> tuple[np.ndarray, np.ndarray]:
    """What the sd of n values comes out as, over the true one, at nodes of its distribution; and the nodes' weights.

    Powers are means over these: SciPy's noncentral t is NaN where an effect is large."""
    nodes, weights = NODES
    return np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1)), weights / 2


def t_power(n: int, beyond: float, level: float) -> float:
    """Power of lower_by() where the true mean lies `beyond` standard deviations beyond the margin."""
    sd, weights = deviations(n)
    return float(weights @ stats.norm.cdf(beyond * math.sqrt(n) - stats.t.ppf(1 - level / 2, n - 1) * sd))


def equivalence_power(n: int, margin: float, mean: float, level: float) -> float:
    """Power of TOST; margin and true mean in standard deviations."""
    sd, weights = deviations(n)
    room = stats.t.ppf(1 - level, n - 1) * sd
    low, high = (mean - margin) * math.sqrt(n) + room, (mean + margin) * math.sqrt(n) - room
    return float(weights @ np.maximum(stats.norm.cdf(high) - stats.norm.cdf(low), 0))


def seeds_needed(margin: float, mean: float, sd: float, same: bool = False, level: float = LEVEL) -> int | None:
    """The fewest pairs with 80 % power if mean and sd are those seen, the mean on the claimed side being positive;
    MOST_SEEDS + 1: more than that. None where no number of seeds would do: the mean is within the margin, or, of
    `same`, outside."""
    if not (sd > 0 and margin > 0) or (abs(mean) >= margin if same else mean <= margin):
        return None

    def power(n: int) -> float:
        return equivalence_power(n, margin / sd, mean / sd, level) if same else t_power(n, (mean - margin) / sd, level)

    low, high = 2, MOST_SEEDS + 1
    while low < high:  # power grows with n
        n = (low + high) // 2
        low, high = (low, n) if power(n) >= POWER else (n + 1, high)
    return low
