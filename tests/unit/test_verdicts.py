"""What verdicts are worth, by simulation: how often a wrong one is given, how often a right one, how often intervals
hold the truth. Seeds are fixed. A rate may miss its expectation by four standard errors of so many studies."""

from __future__ import annotations

import math
import sys
import unittest
from collections.abc import Callable
from typing import Any

sys.dont_write_bytecode = True

import numpy as np

from sinkstudy.judge import claims, paired

MARGIN, SD = 0.5, 1.0
STUDIES = 200


def four_errors(rate: float, studies: int) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / studies)


def study(effects: list[float], expect: str, primary: bool) -> tuple[list[claims.Gate], list[claims.Claim]]:
    """A claim for each effect, of arm c<i> against the baseline."""
    return claims.parse({"claims": [
        {"id": f"c{i}", "text": "t", "metric": "m2", "arms": ["baseline", f"c{i}"], "scale": "difference",
         "expect": expect, "margin": MARGIN, "primary": primary} for i in range(len(effects))]})


def simulate(effects: list[float], expect: str = "higher", primary: bool = True, pairs: int = 5, seed: int = 0,
             draw: Callable[..., np.ndarray] | None = None, studies: int = STUDIES) -> list[list[dict[str, Any]]]:
    """Judged claims of so many studies. The baseline's values are common to all claims of a study, as they are in ours:
    differences correlate by a half."""
    parsed = study(effects, expect, primary)
    rng = np.random.default_rng(seed)
    draw = draw or rng.standard_normal
    out = []
    for _ in range(studies):
        noise = SD / math.sqrt(2) * draw((len(effects) + 1, pairs))
        noise[1:] += np.array(effects)[:, None]
        arms = {name: {i: {"status": "finished", "metrics": {"m2": x}} for i, x in enumerate(row)}
                for name, row in zip(["baseline", *(f"c{i}" for i in range(len(effects)))], noise)}
        out.append(claims.judge(*parsed, arms)[1])
    return out


def share(judged: list[list[dict[str, Any]]], of: Callable[[list[dict[str, Any]]], float]) -> float:
    return sum(map(of, judged)) / len(judged)


def any_of(verdict: str) -> Callable[[list[dict[str, Any]]], float]:
    return lambda rows: float(any(row["verdict"] == verdict for row in rows))


class Simulated(unittest.TestCase):
    def at_most(self, rate: float, limit: float, studies: int = STUDIES) -> None:
        self.assertLessEqual(rate, limit + four_errors(limit, studies))

    def near(self, rate: float, expected: float, studies: int = STUDIES) -> None:
        self.assertAlmostEqual(rate, expected, delta=four_errors(expected, studies))


class Levels(Simulated):
    def test_at_the_margin(self) -> None:
        """An effect that just matters is what the test is against: the level of a side is half of .05."""
        judged = simulate([MARGIN])
        self.near(share(judged, any_of(claims.SHOWN)), paired.LEVEL / 2)
        self.near(share(simulate([-MARGIN]), any_of(claims.OPPOSITE)), paired.LEVEL / 2)

    def test_no_effect(self) -> None:
        judged = simulate([0.0])
        self.at_most(share(judged, any_of(claims.SHOWN)), paired.LEVEL / 4)
        self.at_most(share(judged, any_of(claims.OPPOSITE)), paired.LEVEL / 4)

    def test_same_at_the_margin(self) -> None:
        for effect in (MARGIN, -MARGIN):
            judged = simulate([effect], expect="same", pairs=20)
            self.near(share(judged, any_of(claims.SHOWN)), paired.LEVEL)
            self.near(share(judged, any_of(claims.OPPOSITE)), paired.LEVEL / 2)

    def test_primary_claims_together(self) -> None:
        """Any wrong one of five: at most .05, whatever the differences have in common; others may be right."""
        self.at_most(share(simulate([MARGIN] * 5), any_of(claims.SHOWN)), paired.LEVEL)
        self.at_most(share(simulate([MARGIN] * 5, expect="same", pairs=20), any_of(claims.SHOWN)), paired.LEVEL)
        judged = simulate([MARGIN, 9.0, MARGIN, 9.0, MARGIN])
        self.at_most(share(judged, lambda rows: float(any(rows[i]["verdict"] == claims.SHOWN for i in (0, 2, 4)))),
                     paired.LEVEL)

    def test_false_discoveries(self) -> None:
        """Of the exploratory claims that are shown at most .05 are wrong, in the mean."""
        effects = [MARGIN, MARGIN, MARGIN, 4.0, 4.0, 4.0]

        def wrong(rows: list[dict[str, Any]]) -> float:
            shown = [i for i, row in enumerate(rows) if row["verdict"] == claims.SHOWN]
            return sum(effects[i] == MARGIN for i in shown) / max(1, len(shown))
        self.at_most(share(simulate(effects, primary=False), wrong), paired.LEVEL)

    def test_without_a_normal_distribution(self) -> None:
        """Differences of uniform and of heavy-tailed values are symmetric: t stays near its level, flips exactly."""
        rng = np.random.default_rng(1)

        def uniform(size: tuple[int, int]) -> np.ndarray:
            return rng.uniform(-math.sqrt(3), math.sqrt(3), size)

        def heavy(size: tuple[int, int]) -> np.ndarray:
            return rng.standard_t(3, size) / math.sqrt(3)
        for draw in (uniform, heavy):
            judged = simulate([MARGIN], pairs=8, draw=draw)
            self.at_most(share(judged, any_of(claims.SHOWN)), 0.04)
            self.at_most(share(judged, lambda rows: float(rows[0]["p_flip"] < paired.LEVEL)), paired.LEVEL / 2)

    def test_flips_have_their_level(self) -> None:
        """Of eight pairs p is a multiple of 2/256; below .05 are 6 of them."""
        judged = simulate([MARGIN], pairs=8)
        self.near(share(judged, lambda rows: float(rows[0]["p_flip"] < paired.LEVEL)), 6 / 256)

    def test_looking_after_each_seed_would_mislead(self) -> None:
        """Why a claim waits for its last run: the first of twenty looks that suits comes far more often than .025."""
        rng, found = np.random.default_rng(2), 0
        for _ in range(150):
            d = list(rng.normal(MARGIN, SD, 22))
            found += any(paired.lower_by([-x for x in d[:n]], MARGIN) < paired.LEVEL for n in range(3, 23))
        self.assertGreater(found / 150, 0.08)
        whole = {i: {"status": "finished", "metrics": {"m2": 1.0}} for i in range(3)}
        row = claims.judge(*study([0], "higher", True), {"baseline": whole, "c0": whole | {2: {"status": "missing"}}})
        self.assertEqual(row[1][0]["verdict"], claims.NOT_RUN)

    def test_shares(self) -> None:
        parsed = claims.parse({"claims": [{"id": "d", "text": "t", "metric": "diverged", "arms": ["a", "b"],
                                           "scale": "difference", "expect": "higher", "margin": 0.5}]})
        rng, found = np.random.default_rng(3), 0
        for _ in range(STUDIES):
            arms = {arm: {i: {"status": "finished", "metrics": {"diverged": float(x)}}
                          for i, x in enumerate(rng.random(8) < 0.4)} for arm in "ab"}
            found += claims.judge(*parsed, arms)[1][0]["verdict"] == claims.SHOWN
        self.at_most(found / STUDIES, paired.LEVEL / 2)

    def test_gates(self) -> None:
        """A baseline that is just at the limit passes one time in twenty."""
        gates, _ = claims.parse({"gates": {"g": {"arm": "a", "all": [{"metric": "m2", "at_least": 5}]}}})
        rng, met = np.random.default_rng(4), 0
        for _ in range(STUDIES):
            arms = {"a": {i: {"status": "finished", "metrics": {"m2": x}} for i, x in enumerate(rng.normal(5, 1, 5))}}
            met += claims.judge_gates(gates, arms)["g"]["met"]
        self.near(met / STUDIES, paired.LEVEL)


class Intervals(Simulated):
    def test_coverage(self) -> None:
        for pairs in (3, 5, 8):
            judged = simulate([1.3], pairs=pairs)
            self.near(share(judged, lambda rows: float(rows[0]["interval"][0] < 1.3 < rows[0]["interval"][1])), 0.95)

    def test_they_say_what_the_verdict_says(self) -> None:
        """The corrected interval lies beyond the margin where the claim is shown, and nowhere else."""
        for primary in (True, False):
            for rows in simulate([MARGIN, 1.5, 2.5, 3.5], primary=primary, studies=60):
                for row in rows:
                    self.assertEqual(row["verdict"] == claims.SHOWN, row["interval_corrected"][0] > MARGIN)
            for rows in simulate([0.0, 0.2, MARGIN], expect="same", primary=primary, pairs=12, studies=60):
                for row in rows:
                    low, high = row["interval_corrected"]
                    self.assertEqual(row["verdict"] == claims.SHOWN, -MARGIN < low and high < MARGIN)


class Power(Simulated):
    def test_seeds_needed(self) -> None:
        """With the number of seeds that is told the claim is shown four times in five."""
        for effect, expect, level in ((1.7, "higher", 0.05), (1.7, "higher", 0.01), (0.1, "same", 0.05)):
            needed = paired.seeds_needed(MARGIN, effect, SD, expect == "same", level) or 0
            for n, low, high in ((needed, 0.8, 0.9), (needed - 1, 0.7, 0.8)):
                p = [row[0]["p"] for row in simulate([effect], expect=expect, pairs=n)]
                rate = sum(x < level for x in p) / STUDIES
                self.assertGreater(rate, low - four_errors(0.8, STUDIES))
                self.assertLess(rate, high + four_errors(0.8, STUDIES))

    def test_an_effect_of_the_margin_is_not_shown(self) -> None:
        """However many pairs there are: it takes an effect beyond it, and what is told says so."""
        judged = simulate([MARGIN], pairs=100, studies=100)
        self.at_most(share(judged, any_of(claims.SHOWN)), paired.LEVEL / 2, 100)

    def test_pairing(self) -> None:
        """Seeds that both arms share take variance away: as many pairs as are told do without pairs what these do."""
        rng = np.random.default_rng(5)
        common, own = rng.normal(0, 1, (2000, 6)), rng.normal(0, 0.5, (2, 2000, 6))
        first, second = common + own[0], common + own[1]
        with_pairs = (second - first).mean(1).var()
        without = (second - rng.permutation(first)).mean(1).var()
        gains = [paired.gain(list(a), list(b)) for a, b in zip(first, second)]
        self.assertAlmostEqual(float(np.median(gains)), without / with_pairs, delta=0.8)


if __name__ == "__main__":
    unittest.main()
