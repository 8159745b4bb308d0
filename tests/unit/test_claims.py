"""Statistics of paired runs against SciPy and textbooks; metrics; claims and gates: parsing and every verdict. What
verdicts are worth is simulated in test_verdicts.py."""

from __future__ import annotations

import copy
import math
import sys
import unittest
from typing import Any

sys.dont_write_bytecode = True

import numpy as np
from scipy import stats

from sinkstudy.judge import claims, metrics, paired

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]  # Student 1908: differences of two drugs, in hours


class Statistics(unittest.TestCase):
    def test_students_sleep_data(self) -> None:
        s = paired.sample(SLEEP)
        self.assertAlmostEqual(s.mean, 1.58)
        self.assertAlmostEqual(s.sd, 1.229995, places=6)
        self.assertAlmostEqual(s.mean - s.half_width, 0.7001142, places=6)
        self.assertAlmostEqual(s.mean + s.half_width, 2.4598858, places=6)
        self.assertAlmostEqual(paired.lower_by([-x for x in SLEEP], 0), 0.002832890, places=8)
        np.testing.assert_allclose(paired.interval(SLEEP), [0.7001142, 2.4598858], rtol=1e-6)

    def test_tests_against_scipy(self) -> None:
        rng = np.random.default_rng(3)
        for n, shift in ((2, 0.1), (3, -2.0), (5, 0.4), (8, 30.0), (5, -30.0)):
            d = list(rng.normal(shift, 1, n))
            one_sided = [float(stats.ttest_1samp(d, at, alternative=side).pvalue)
                         for at, side in ((-0.5, "greater"), (0.5, "less"), (-0.5, "less"), (0.5, "greater"))]
            np.testing.assert_allclose(paired.lower_by(d, 0.5), min(1, 2 * one_sided[2]), rtol=1e-9)
            np.testing.assert_allclose(paired.equivalence(d, 0.5), max(one_sided[:2]), rtol=1e-9)
            np.testing.assert_allclose(paired.beyond(d, 0.5), min(1, 2 * min(one_sided[2:])), rtol=1e-9)

    def test_too_few_values(self) -> None:
        for p in (paired.lower_by([1.0], 0), paired.equivalence([], 1), paired.beyond([2.0], 1), paired.sample([]).mean,
                  paired.sample([1.0]).half_width, paired.interval([1.0])[0], paired.flip_lower_by([1.0], 0),
                  paired.correlation([1.0, 2.0], [1.0, 3.0]), paired.correlation([1.0] * 3, [1.0, 2.0, 3.0])):
            self.assertTrue(math.isnan(p))
        self.assertEqual(paired.sample([0.1, 0.1, 0.1]).sd, 0)  # their mean is not quite .1

    def test_holm_by_hand(self) -> None:
        """Sorted .005 .01 .03 .04, times 4 3 2 1, never less than the one before."""
        np.testing.assert_allclose(paired.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
        np.testing.assert_allclose(paired.holm([0.01, math.nan, 0.3]), [0.03, math.nan, 0.6])
        self.assertEqual(paired.holm([0.9, 0.8]), [1.0, 1.0])
        self.assertEqual(paired.holm([]), [])

    def test_benjamini_hochberg_by_hand(self) -> None:
        """Sorted .005 .01 .03 .04, times 4/1 4/2 4/3 4/4, never more than the one after; and SciPy's."""
        np.testing.assert_allclose(paired.benjamini_hochberg([0.01, 0.04, 0.03, 0.005]), [0.02, 0.04, 0.04, 0.02])
        p = [0.001, 0.2, 0.03, 0.04, 0.6, 0.011]
        np.testing.assert_allclose(paired.benjamini_hochberg(p), stats.false_discovery_control(p))
        np.testing.assert_allclose(paired.benjamini_hochberg([0.01, math.nan]), [0.02, math.nan])
        self.assertEqual(paired.benjamini_hochberg([]), [])

    def test_levels_of_the_corrections(self) -> None:
        """Holm tests .005 at 1/4 of the level and .02 at 1/3, where it stops; FDR finds two of five."""
        np.testing.assert_allclose(paired.holm_levels([0.03, 0.02, 0.9, 0.005]), [0.05 / 3] * 3 + [0.05 / 4])
        np.testing.assert_allclose(paired.holm_levels([0.001, 0.001]), [0.025, 0.05])
        np.testing.assert_allclose(paired.fdr_levels([0.001, 0.015, 0.5, 0.6, 0.7]), [0.02] * 5)
        np.testing.assert_allclose(paired.fdr_levels([0.5, 0.6]), [0.025] * 2)

    def test_levels_and_corrected_p_agree(self) -> None:
        rng = np.random.default_rng(11)
        for _ in range(200):
            p = list(rng.beta(0.3, 1, rng.integers(1, 8)))
            for adjust, levels in ((paired.holm, paired.holm_levels),
                                   (paired.benjamini_hochberg, paired.fdr_levels)):
                self.assertEqual([x < 0.05 for x in adjust(p)], [x < at for x, at in zip(p, levels(p))])

    def test_equal_differences_by_hand(self) -> None:
        self.assertAlmostEqual(paired.lower_by([-1] * 5, 0.5), 2 / 32)
        self.assertEqual(paired.lower_by([-1] * 5, 1.5), 1)
        self.assertAlmostEqual(paired.equivalence([0.5] * 4, 1), 1 / 16)
        self.assertEqual(paired.equivalence([1.5] * 4, 1), 1)

    def test_flips_by_hand(self) -> None:
        """Of -3, -2, 1 two of the eight ways, (-3, -2, -1) and (-3, -2, 1), have so small a sum."""
        self.assertAlmostEqual(paired.flip_below([-3, -2, 1], 0), 2 / 8)
        self.assertAlmostEqual(paired.flip_below([-2, -1, 2], 1), 2 / 8)
        self.assertAlmostEqual(paired.flip_lower_by([-3, -2, -1, -4, -5], 0.5), 2 / 32)
        self.assertAlmostEqual(paired.flip_equivalence([0.1, -0.1, 0.2], 5), 1 / 8)
        many = list(np.random.default_rng(2).normal(-0.5, 1, 40))
        self.assertAlmostEqual(paired.flip_below(many, 0), float(stats.ttest_1samp(many, 0, alternative="less").pvalue),
                               delta=0.01)
        self.assertEqual(paired.flip_below(many, 0), paired.flip_below(many, 0))

    def test_flips_against_scipy(self) -> None:
        rng = np.random.default_rng(4)
        for n in (2, 5, 8):
            x, y = rng.normal(-0.4, 1, n), np.zeros(n)
            expected = stats.permutation_test((x, y), lambda a, b: np.mean(a - b), permutation_type="samples",
                                              alternative="less", n_resamples=np.inf).pvalue
            self.assertAlmostEqual(paired.flip_below(list(x), 0), float(expected))

    def test_what_pairing_buys(self) -> None:
        """Of equal variances 1/(1 - r)."""
        first, own = np.random.default_rng(6).normal(0, 1, (2, 40000))
        second = 0.6 * first + 0.8 * own
        self.assertAlmostEqual(paired.correlation(first, second), 0.6, delta=0.01)
        self.assertAlmostEqual(paired.gain(list(first), list(second)), 1 / 0.4, delta=0.05)

    def test_shares(self) -> None:
        """Fisher: 2 of 10 over 5 tables; Newcombe (Statistics in Medicine 17, 1998), example (a) of method 10."""
        self.assertAlmostEqual(paired.shares([0] * 5, [1] * 5)[0], 2 / 252)
        _, low, high = paired.shares([1] * 48 + [0] * 32, [1] * 56 + [0] * 14)
        self.assertAlmostEqual(low, 0.0524, places=4)
        self.assertAlmostEqual(high, 0.3339, places=4)

    def test_power_against_noncentral_t(self) -> None:
        for n, effect in ((2, 1.0), (5, 0.5), (5, 2.0), (20, 0.7)):
            expected = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * math.sqrt(n))
            self.assertAlmostEqual(paired.t_power(n, effect, 0.05), expected, places=5)

    def test_seeds_needed(self) -> None:
        """Cohen's tables for a paired t-test, two-sided 5 %, 80 % power: d = .2, .5, .8, 1 beyond the margin."""
        for d, n in ((0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)):
            self.assertEqual(paired.seeds_needed(3, 3 + d, 1), n)
        self.assertEqual(paired.seeds_needed(0.5, 0, 1, same=True), 36)
        self.assertGreater(paired.seeds_needed(0.5, 0.2, 1, same=True) or 0, 36)
        self.assertEqual(paired.seeds_needed(0.1, 1000, 1), 2)
        self.assertEqual(paired.seeds_needed(1, 1.001, 1), paired.MOST_SEEDS + 1)
        self.assertGreater(paired.seeds_needed(1, 1.5, 1, level=0.01) or 0, 34)

    def test_no_number_of_seeds_would_do(self) -> None:
        for margin, mean, sd, same in ((1, 1, 1, False), (1, -5, 1, False), (1, 1, 1, True), (1, -1.5, 1, True),
                                       (1, 2, 0, False), (1, 2, math.nan, False)):
            self.assertIsNone(paired.seeds_needed(margin, mean, sd, same), (margin, mean, sd, same))


class Metrics(unittest.TestCase):
    def test_names(self) -> None:
        for name in ("val_loss", "m2", "peak.max", "onset.m2", "lambda_sink", "norms.attn_in", "norms.ffn_out.max",
                     "outliers.down_input.max_over_median", "gates.elements", "dynamics.across_sequences",
                     "contribution.projected",
                     "singular.chain.cos_update.max", "lambda_other", "median_channel"):
            self.assertTrue(metrics.known(name), name)
        for name in ("M2", "peak.val_loss", "norms", "zero.m2", "norms.{attn,ffn}_in", "peak.m2_dim"):
            self.assertFalse(metrics.known(name), name)

    def test_interventions(self) -> None:
        self.assertTrue(metrics.known("zero.m2", ["zero"]))
        self.assertFalse(metrics.known("zero.params", ["zero"]))
        self.assertEqual(getattr(metrics.find("zero.loss_change", ["zero"]), "label", None), "loss change, zero")
        self.assertIn("zero.loss_change", metrics.nearest("zero.losschange", ["zero"]))

    def test_nearest(self) -> None:
        self.assertEqual(metrics.nearest("M2")[0], "m2")
        self.assertEqual(metrics.nearest("sinkrate")[0], "sink_rate")
        self.assertEqual(metrics.nearest("%%%"), [])

    def test_every_row_says_what_it_is(self) -> None:
        for row in metrics.TABLE.values():
            self.assertTrue(row.label and row.better in ("lower", "higher", "none"), row)
            self.assertNotRegex(row.name + row.label, r"[{}]")


CLAIM = {"id": "c", "text": "b has less", "metric": "m2", "arms": ["a", "b"], "scale": "ratio", "expect": "lower",
         "margin": 0.2}
STUDY: dict[str, Any] = {"interventions": {"zero": {"k": 1}}, "claims": [CLAIM],
                         "gates": {"g": {"arm": "a", "all": [{"metric": "m2", "at_least": 5}]}}}


def changed(**keys: Any) -> dict[str, Any]:
    """The study with its claim changed; None takes a key away."""
    study = copy.deepcopy(STUDY)
    study["claims"][0] = {k: v for k, v in (study["claims"][0] | keys).items() if v is not None}
    return study


class Parsing(unittest.TestCase):
    def test_a_claim(self) -> None:
        gates, rows = claims.parse(changed(gate="g", source="a paper", margin="1e-1"), ["a", "b"])
        self.assertEqual(gates, [claims.Gate("g", "a", "all", (claims.Condition("m2", "at_least", 5.0),))])
        self.assertEqual((rows[0].gate, rows[0].arms, rows[0].margin, rows[0].binary), (("g",), ["a", "b"], 0.1, False))
        self.assertEqual([rows[0].family, claims.parse(changed(primary=True))[1][0].family],
                         [claims.EXPLORATORY, claims.PRIMARY])
        self.assertEqual(claims.parse({}), ([], []))

    def test_errors_of_claims(self) -> None:
        for study, words in (
                (changed(metric="m3"), "claim c: metric: 'm3' is not known; nearest: m2"),
                (changed(metric="one.m2"), "claim c: metric"),
                (changed(arms=["a", "c"]), "claim c: arms: 'c' is not known; there are a, b"),
                (changed(arms=["a", "a"]), "claim c: arms: two different ones"),
                (changed(arms="a"), "claim c: arms: two different ones"),
                (changed(scale="log"), "claim c: scale: 'log' is not known; there are ratio, difference"),
                (changed(expect="lowre"), "claim c: expect: 'lowre' is not known; did you mean lower?"),
                (changed(margin=None), "claim c: margin: missing"),
                (changed(margin="much"), "claim c: margin: a number is wanted"),
                (changed(margin=True), "claim c: margin: a number is wanted"),
                (changed(margin=math.inf), "claim c: margin: a number is wanted"),
                (changed(margin=-1), "claim c: margin: above 0"),
                (changed(gate=["h"]), "claim c: gate: 'h' is not known"),
                (changed(marign=1), "claim c: key: 'marign' is not known; did you mean margin?"),
                (changed(id=None), "claim 1: id: missing"),
                (changed(primary="yes"), "claim c: primary: true or false is wanted, not 'yes'"),
                (changed(metric=["m2", "max", "m2"]), "claim c: metric: one is wanted, or two"),
                (changed(metric=["m2", "diverged"]), "claim c: metric: m2 and diverged can't be compared"),
                (changed(against=1), "claim c: against: a number is compared with one metric of one arm"),
                (changed(against=1, arms=["c"]), "claim c: arms: 'c' is not known"),
                (changed(against="much", arms=["a"]), "claim c: against: a number is wanted"),
                (changed(against=1, arms=["a"], metric="diverged", scale="difference"),
                 "claim c: against: diverged is 0 or 1"),
                (changed(metric="diverged"), "claim c: diverged is 0 or 1"),
                (changed(metric="diverged", scale="difference", expect="same"), "claim c: diverged is 0 or 1"),
                ({"claims": [CLAIM, CLAIM]}, "claim c: id: two claims have it"),
                ({"claims": ["c"]}, "claim 1: keys with values are wanted"),
                ({"claims": {"c": CLAIM}}, "claims: a list is wanted")):
            self.check(study, words)

    def test_errors_of_gates(self) -> None:
        condition = {"metric": "m2", "at_least": 5}
        for gate, words in (
                ({"arm": "c", "all": [condition]}, "gate g: arm: 'c' is not known"),
                ({"arm": "a"}, "gate g: one list of conditions"),
                ({"arm": "a", "all": [condition], "any": [condition]}, "gate g: one list of conditions"),
                ({"arm": "a", "all": condition}, "gate g: all: a list of conditions"),
                ({"arm": "a", "all": []}, "gate g: all: a list of conditions"),
                ({"arm": "a", "all": [{"metric": "m2"}]}, "gate g: a condition takes metric and one of at_least"),
                ({"arm": "a", "all": [{"metric": "m2", "above": "x"}]}, "gate g: above: a number is wanted"),
                ({"arm": "a", "all": [condition | {"metric": "m"}]}, "gate g: metric: 'm' is not known"),
                ({"arm": "a", "all": ["g"]}, "gate g: all: 'g' is no gate above this one"),
                ([condition], "gate g: keys with values are wanted")):
            self.check({"gates": {"g": gate}}, words)

    def check(self, study: dict[str, Any], words: str) -> None:
        with self.assertRaises(claims.ClaimError) as raised:
            claims.parse(study, ["a", "b"])
        self.assertIn(words, str(raised.exception))
        self.assertNotIn("\n", str(raised.exception))


def runs(values: list[Any], metric: str = "m2") -> dict[int, dict[str, Any]]:
    """Seeds 1, 2, ...: a number is a finished run with that metric, a word the status of one without."""
    return {seed: {"status": "finished", "metrics": {metric: v}} if not isinstance(v, str)
            else {"status": v, "metrics": {}}
            for seed, v in enumerate(values, start=1)}


def judge(first: list[Any], second: list[Any], more: int = 0, **keys: Any) -> dict[str, Any]:
    """The judged claim, with `more` claims beside it that fail."""
    study = changed(**keys)
    study["claims"] += [CLAIM | {"id": f"more {i}", "arms": ["x", "y"], "primary": study["claims"][0].get("primary",
                                                                                                       False)}
                        for i in range(more)]
    metric = study["claims"][0]["metric"]
    return claims.judge(*claims.parse(study), {"a": runs(first, metric), "b": runs(second, metric),
                                               "x": runs([5.0, 5.1, 4.9]), "y": runs([5.1, 4.9, 5.0])})[1][0]


class Verdicts(unittest.TestCase):
    def check(self, row: dict[str, Any], verdict: str, why: str = "", take: str = "") -> None:
        self.assertEqual(row["verdict"], verdict, row)
        self.assertIn(why, row["why"])
        self.assertIn(take, row["take"])
        self.assertEqual(bool(row["take"]), verdict not in (claims.SHOWN, claims.OPPOSITE))

    def test_shown_as_a_ratio(self) -> None:
        row = judge([8.0, 10.0, 9.0], [4.0, 5.2, 4.4])
        self.check(row, claims.SHOWN, "lower by more than the margin")
        logs = np.log([0.5, 0.52, 4.4 / 9])
        self.assertAlmostEqual(row["effect"], math.exp(logs.mean()))
        interval = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
        np.testing.assert_allclose(row["effect_interval"], np.exp(interval))
        np.testing.assert_allclose(row["p"], 2 * stats.ttest_1samp(logs, -math.log(1.2), alternative="less").pvalue)
        self.assertEqual((row["p_corrected"], row["correction"]), (row["p"], "FDR"))
        np.testing.assert_allclose(row["interval_corrected"], interval)
        self.assertAlmostEqual(row["first_sd"], 1.0)
        self.assertEqual([p["seed"] for p in row["pairs"]], [1, 2, 3])

    def test_shown_as_a_difference(self) -> None:
        row = judge([1.50, 1.52, 1.51], [1.60, 1.621, 1.612], metric="val_loss", scale="difference", expect="higher",
                    margin=0.05)
        self.check(row, claims.SHOWN, "higher by more than the margin")
        self.assertAlmostEqual(row["effect"], (0.1 + 0.101 + 0.102) / 3)
        self.assertEqual((row["unit"], row["test"]), ("nats per token", "t"))

    def test_opposite(self) -> None:
        self.check(judge([4.0, 5.2, 4.4], [8.0, 10.0, 9.0]), claims.OPPOSITE, "not lower")

    def test_not_shown(self) -> None:
        row = judge([8.0, 9.0, 7.0, 8.0], [4.0, 9.0, 4.0, 8.5])
        self.check(row, claims.NOT_SHOWN, "it may be less than the margin: FDR p", "seeds, for 80 % power")
        self.assertEqual(row["seeds_needed"], paired.seeds_needed(math.log(1.2), -row["mean"], row["sd"]))
        self.assertTrue(row["effect_interval"][0] < 1 < row["effect_interval"][1])

    def test_within_the_margin(self) -> None:
        """However sure it is that there is a difference."""
        for second in ([7.6, 8.56, 9.5], [8.4, 9.46, 10.5]):
            self.check(judge([8.0, 9.0, 10.0], second), claims.NOT_SHOWN, "the mean is within the margin",
                       "a larger effect")
        self.check(judge([8.0, 9.0, 10.0], [16.0, 9.0, 25.0]), claims.NOT_SHOWN, "the mean is on the other side")

    def test_beyond_the_margin_and_not_surely(self) -> None:
        """p against no difference is .002 here; the interval reaches into the margin."""
        first, second = [10.0, 10.0, 10.0, 10.0], [7.9, 8.0, 8.3, 7.8]
        self.assertLess(paired.lower_by(list(np.log(second) - np.log(first)), 0), 0.003)
        row = judge(first, second)
        self.check(row, claims.NOT_SHOWN, "may be less than the margin")
        self.assertGreater(row["interval"][1], -row["limit"])

    def test_only_what_is_judged_counts(self) -> None:
        """Not claims whose arms the profile leaves out, whose runs wait or whose gate failed."""
        of = {"a": runs([8.0, 10.0, 9.0]), "b": runs([4.0, 5.2, 4.4]), "x": runs([1.0, 1.0]),
              "w": runs([4.0, 5.2, "missing"])}
        study = changed()
        study["claims"] += [CLAIM | {"id": "absent", "arms": ["a", "z"]}, CLAIM | {"id": "gated", "gate": ["low"]},
                            CLAIM | {"id": "waits", "arms": ["a", "w"]}, CLAIM | {"id": "new", "metric": "att0"}]
        study["gates"] = {"low": {"arm": "x", "all": [{"metric": "m2", "at_least": 5}]}}
        rows = claims.judge(*claims.parse(study), of)[1]
        self.assertEqual([row["verdict"] for row in rows],
                         [claims.SHOWN, claims.NOT_RUN, claims.GATE_FAILED, claims.NOT_RUN, claims.NOT_RUN])
        self.assertEqual(rows[0]["p_corrected"], rows[0]["p"])
        self.assertTrue(all(math.isnan(row["p_corrected"]) and not row["correction"] for row in rows[1:]))
        self.assertEqual(rows[4]["why"], "no run has att0: they are of a build that did not measure it")

    def test_a_claim_waits_for_its_last_run(self) -> None:
        row = judge([8.0, 10.0, 9.0, 8.5], [4.0, 5.2, 4.4, "missing"])
        self.check(row, claims.NOT_RUN, "1 of 8 runs wait", "runs of a and b")
        self.assertEqual(row["n"], 3)

    def test_primary_claims_are_a_family(self) -> None:
        values = [8.0, 10.0, 9.0], [4.0, 6.0, 4.4]
        alone, beside = judge(*values, primary=True), judge(*values, more=9, primary=True)
        self.check(alone, claims.SHOWN)
        self.check(beside, claims.NOT_SHOWN, "Holm p")
        self.assertAlmostEqual(beside["p_corrected"], 10 * alone["p"])
        self.assertGreater(beside["seeds_needed"], alone["seeds_needed"])
        low, high = beside["interval_corrected"]
        np.testing.assert_allclose([low, high], paired.interval([p["difference"] for p in beside["pairs"]], 0.005))
        study = changed(primary=True)
        study["claims"] += [CLAIM | {"id": "explored"}]
        rows = claims.judge(*claims.parse(study), {"a": runs(values[0]), "b": runs(values[1])})[1]
        self.assertEqual([row["correction"] for row in rows], ["Holm", "FDR"])
        self.assertEqual([row["p_corrected"] for row in rows], [alone["p"]] * 2)

    def test_the_same_comparison(self) -> None:
        study = changed()
        study["claims"] += [CLAIM | {"id": "twin", "text": "the same in other words", "margin": 0.3},
                            CLAIM | {"id": "other", "expect": "same"}]
        of = {"a": runs([8.0, 10.0, 9.0]), "b": runs([4.0, 6.0, 4.4])}
        one, twin, other = map(claims.comparison, claims.judge(*claims.parse(study), of)[1])
        self.assertEqual(one, twin)
        self.assertNotEqual(one, other)

    def test_gate_failed(self) -> None:
        row = judge([4.0, 4.2], [2.0, 2.1], gate=["g"])
        self.check(row, claims.GATE_FAILED, "g in a: m2 \u2265 5: 4.1, at least 3.47", "a baseline in which")
        self.check(judge([6.0, 6.2, 6.1], [2.0, 2.1, 2.05], gate=["g"]), claims.SHOWN)

    def test_one_pair(self) -> None:
        row = judge([8.0], [4.0])
        self.check(row, claims.NOT_SHOWN, "one pair", "two seeds")
        self.assertEqual((row["effect"], row["n"]), (0.5, 1))
        self.assertTrue(math.isnan(row["p"]))

    def test_lost_pairs(self) -> None:
        row = judge([8.0, "failed", 9.0, 8.5], [4.0, 5.0, "diverged", 4.2])
        self.assertEqual((row["n"], row["verdict"]), (2, claims.SHOWN))
        self.assertEqual([lost["why"] for lost in row["lost"]], ["a: failed", "b: diverged"])
        self.assertEqual((row["first_n"], row["second_n"]), (3, 3))

    def test_all_diverged(self) -> None:
        self.check(judge([8.0, 9.0], ["diverged", "diverged"]), claims.NO_PAIRS, "b: diverged", "runs of a and b")

    def test_missing_metric(self) -> None:
        row = claims.judge(*claims.parse(STUDY), {"a": runs([8.0, 9.0]), "b": runs([1.0, 2.0], "max")})[1][0]
        self.check(row, claims.NO_PAIRS, "b: no m2 recorded")

    def test_arm_that_the_profile_leaves_out(self) -> None:
        row = claims.judge(*claims.parse(STUDY), {"a": runs([8.0, 9.0])})[1][0]
        self.check(row, claims.NOT_RUN, "it leaves out b", "runs of a and b")

    def test_two_metrics(self) -> None:
        """Of one arm: the second's against the first's of the same run."""
        of = {"a": {seed: {"status": "finished", "metrics": {"zero.loss_change": 0.1 * seed, "val_loss": 0.1 * seed
                                                             + x}}
                    for seed, x in ((1, 0.5), (2, 0.51), (3, 0.49))}}
        keys = {"metric": ["zero.loss_change", "val_loss"], "arms": ["a", "a"], "scale": "difference",
                "expect": "higher"}
        row = claims.judge(*claims.parse(changed(**keys)), of)[1][0]
        self.check(row, claims.SHOWN)
        self.assertAlmostEqual(row["effect"], 0.5)
        self.assertEqual((row["metrics"], row["arms"]), (["zero.loss_change", "val_loss"], ["a"]))
        self.assertEqual(row["compared"], "val_loss against zero.loss_change of a")

    def test_against_a_number(self) -> None:
        keys = {"arms": ["a"], "against": 7, "scale": "difference", "expect": "higher", "margin": 0.5}
        row = claims.judge(*claims.parse(changed(**keys)), {"a": runs([8.0, 8.2, 7.9])})[1][0]
        self.check(row, claims.SHOWN)
        self.assertAlmostEqual(row["effect"], (1 + 1.2 + 0.9) / 3)
        self.assertEqual((row["first_mean"], row["first_n"], row["second_n"]), (7.0, 0, 3))
        self.assertEqual(row["compared"], "m2 of a against 7")
        np.testing.assert_allclose(row["p"], stats.ttest_1samp([8.0, 8.2, 7.9], 7.5).pvalue)

    def test_equal_differences(self) -> None:
        """No variance: the sign test, which needs 6 pairs."""
        keys: dict[str, Any] = {"metric": "sink_rate", "scale": "difference", "margin": 0.1}
        five, six = judge([0.5] * 5, [0.25] * 5, **keys), judge([0.5] * 6, [0.25] * 6, **keys)
        self.check(five, claims.NOT_SHOWN, "FDR p", "more seeds")
        self.assertEqual((five["test"], five["sd"], five["p"]), ("sign", 0, 0.0625))
        self.check(six, claims.SHOWN)

    def test_equal_arms(self) -> None:
        self.check(judge([8.0, 9.0, 7.0], [8.0, 9.0, 7.0]), claims.NOT_SHOWN, "FDR p 1")
        self.check(judge([8.0] * 5, [8.0] * 5, expect="same"), claims.SHOWN, "within the margin")
        self.check(judge([8.0] * 4, [8.0] * 4, expect="same"), claims.NOT_SHOWN)

    def test_same(self) -> None:
        first = [8.0, 9.0, 7.0, 8.0]
        self.check(judge(first, [8.1, 8.9, 7.05, 8.05], expect="same"), claims.SHOWN, "within the margin")
        self.check(judge(first, [4.1, 4.4, 3.55, 4.05], expect="same"), claims.OPPOSITE, "more than the margin")
        row = judge(first, [9.5, 7.8, 8.3, 6.8], expect="same")
        self.check(row, claims.NOT_SHOWN, "may differ by more", "80 % power")
        self.assertEqual(row["test"], "TOST")
        self.check(judge(first, [10.9, 11.0, 7.5, 12.0], expect="same"), claims.NOT_SHOWN, "may differ by more")

    def test_no_ratio(self) -> None:
        row = judge([0.25, 0.0, 0.5], [0.1, 0.0, 0.2], metric="sink_rate")
        self.check(row, claims.NOT_SHOWN, "would mislead: a: a ratio wants", "scale: difference")
        self.assertEqual((row["n"], row["lost"][0]["why"]), (2, "a: a ratio wants values above 0, this is 0"))

    def test_figures_that_some_runs_have_no(self) -> None:
        """No onset means never: the seeds in which both arms have one are the alike ones."""
        row = judge([100, 200, 300], [200, 401, math.nan], metric="onset.m2", expect="higher")
        self.check(row, claims.NOT_SHOWN, "would mislead: b: no onset.m2 recorded", "a metric that all runs have")
        self.assertLess(row["p_corrected"], 0.05)

    def test_diverging(self) -> None:
        keys: dict[str, Any] = {"metric": "diverged", "scale": "difference", "expect": "higher", "margin": 0.5}
        row = judge([0] * 5, [1] * 5, **keys)
        self.check(row, claims.SHOWN)
        self.assertEqual((row["test"], row["interval_method"], row["effect"]), ("Fisher", "Newcombe", 1))
        self.assertTrue(0 < row["interval"][0] < row["interval"][1] == 1)
        self.check(judge([0] * 3, [1] * 3, **keys), claims.NOT_SHOWN)
        self.check(judge([1] * 5, [0] * 5, **keys), claims.OPPOSITE)

    def test_not_a_number(self) -> None:
        self.check(judge([8.0, math.nan], [math.inf, 4.0]), claims.NO_PAIRS, "no m2 recorded")


class Gates(unittest.TestCase):
    VALUES = [5.0, 6.5, 7.0, 5.5, 6.0]

    def gates(self, **rows: Any) -> dict[str, dict[str, Any]]:
        parsed, _ = claims.parse({"gates": {name: {"arm": "a"} | row for name, row in rows.items()}})
        return claims.judge_gates(parsed, {"a": {seed: {"status": "finished", "metrics": {"m2": x}}
                                                 for seed, x in enumerate(self.VALUES)}})

    def test_bounds(self) -> None:
        """A gate takes the end of the interval that its condition is hardest for; the mean is 6."""
        half = stats.t.ppf(0.95, 4) * stats.sem(self.VALUES)
        for test, bound, inside in (("at_least", 6 - half, -1e-6), ("above", 6 - half, -1e-6),
                                    ("at_most", 6 + half, 1e-6), ("below", 6 + half, 1e-6)):
            for limit, met in ((bound + inside, True), (bound - inside, False)):
                self.assertEqual(self.gates(g={"all": [{"metric": "m2", test: limit}]})["g"]["met"], met, (test, limit))

    def test_any_all_and_nested(self) -> None:
        yes, no = {"metric": "m2", "above": 5}, {"metric": "m2", "below": 5}
        found = self.gates(yes={"any": [no, yes]}, no={"all": [yes, no]}, both={"any": ["yes", "no"]},
                           neither={"all": ["yes", "no"]})
        self.assertEqual([gate["met"] for gate in found.values()], [True, False, True, False])
        self.assertEqual(claims.gate_text(found["neither"]), "neither in a: yes (met), no (failed)")

    def test_one_run_has_no_bound(self) -> None:
        parsed, _ = claims.parse({"gates": {"g": {"arm": "a", "all": [{"metric": "m2", "at_least": 5}]}}})
        gate = claims.judge_gates(parsed, {"a": runs([50.0])})["g"]
        self.assertFalse(gate["met"])
        self.assertIn("50, of one run", claims.gate_text(gate))

    def test_what_is_not_measured_is_not_met(self) -> None:
        gate = self.gates(g={"all": [{"metric": "sink_rate", "at_most": 1}]})["g"]
        self.assertFalse(gate["met"])
        self.assertIn("not measured", claims.gate_text(gate))


if __name__ == "__main__":
    unittest.main()
