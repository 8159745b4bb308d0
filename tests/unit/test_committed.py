"""What is committed of the studies' results follows from their committed runs, by the code as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
import sys
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path

sys.dont_write_bytecode = True

from sinkstudy.judge import claims, committed, curves, ledger, pages
from sinkstudy.places import EXPERIMENTS
from sinkstudy.report import curve_figures, page
from sinkstudy.report.study_results import Results, Row


class Following(unittest.TestCase):
    def test_every_file_follows_from_the_runs(self) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = committed.main(["--check"])
        self.assertEqual((code, said.getvalue()), (0, ""), "./experiments/run --committed writes them anew")

    def test_pictures_that_readmes_show_are_there(self) -> None:
        """And no others lie about."""
        for one in committed.all_committed():
            shown = (one.folder.parents[1] / "README.md").read_text(encoding="utf-8")
            for path in one.folder.glob("*.png"):
                self.assertIn(f"results/{one.profile}/{path.name}", shown)


class Ledger(unittest.TestCase):
    def test_errors(self) -> None:
        good = "{id: a, source: s, text: t, claims: [norms.ga_max]}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "ledger.yaml")
            for text, words in ((f"- {good}\n- {good}", "a: it takes an id of its own"),
                                ("- {id: a, source: s, text: t}", "claims or because"),
                                (f"- {good[:-1]}, because: x}}", "claims or because"),
                                ("- {id: a, text: t, because: x}", "see source"),
                                ("- {id: a, source: s, text: t, why: x, because: x}", "see why"),
                                (f"- {good.replace('ga_max', 'ga')}", "no study has the claim norms.ga")):
                path.write_text(text)
                with self.assertRaises(ledger.LedgerError) as raised:
                    ledger.read_ledger(path, {"norms.ga_max"})
                self.assertIn(words, str(raised.exception))

    def test_verdicts_are_those_of_the_profiles(self) -> None:
        found = committed.all_committed()
        text = ledger.ledger_text(committed.with_costs(found), [
            {"source": "s", "text": "t", "claims": ["norms.ga_max", "norms.clip_6_loss"]},
            {"source": "s", "text": "u", "because": "no"}])
        by_profile = {one.profile: {v["id"]: v for v in one.record["claims"]} for one in found if one.study == "norms"}
        cells = (f"{v['verdict']} (n {v['n']})" for v in
                 (by_profile[name]["ga_max"] for name in ("small", "medium", "gpu")))
        self.assertIn(f"| {' | '.join(cells)} | S: 48 runs, 8 seeds, ", text)
        self.assertIn("[norms.clip_6_loss](studies/norms/README.md) | shown (n 8) | not run | not run | "
                      "S: 32 runs, 8 seeds, ", text)
        self.assertIn("| s | u | not testable here: no |  |  |  | - |", text)

    def test_pages(self) -> None:
        """Each link of the index leads to a page, and every claim that was judged is on it."""
        one = next(one for one in committed.all_committed() if (one.study, one.profile) == ("moe", "standard"))
        with tempfile.TemporaryDirectory() as folder:
            pages.write(Path(folder), [(one.results, one.record)], committed.with_costs([one]), [
                {"source": "s", "text": "t", "claims": ["moe.gated_norm_m2"]},
                {"source": "s", "text": "u", "because": "<"}])
            index = (Path(folder) / "index.html").read_text(encoding="utf-8")
            links = re.findall('href="([^"#]*)"', index)
            self.assertEqual(sorted(links), ["ledger.html", "moe-standard/report.html"])
            for link in links:
                self.assertTrue((Path(folder) / link).is_file(), link)
            for v in one.record["claims"]:
                self.assertIn(page.escape(v["text"]), index)
            self.assertIn("not testable here: &lt;", (Path(folder) / "ledger.html").read_text(encoding="utf-8"))

    def test_costs(self) -> None:
        """Of made-up runs: those of other arms and those that wait cost nothing; minutes are known of all or of
        none."""
        def cost(*runs: tuple[str, int, str, float], study: str = "norms") -> str:
            rows = [Row(arm, seed, {}, "", {}, status=status, seconds=seconds) for arm, seed, status, seconds in runs]
            return committed.cost(committed.Committed(study, "quick", Path(), Results({}, {}, rows), {}, 2),
                                  ["a", "b"])

        runs = (("a", 1, "finished", 30.0), ("b", 1, "diverged", 60.0), ("a", 2, "finished", 900.0))
        self.assertEqual(cost(*runs), "3 runs, 2 seeds, 16 min")
        self.assertEqual(cost(*runs[:2], ("c", 3, "finished", 90.0), ("b", 2, "missing", math.nan)),
                         "2 runs, 1 seed, 1.5 min")
        self.assertEqual(cost(*runs, ("b", 2, "finished", math.nan)), "4 runs, 2 seeds, -")
        self.assertEqual(cost(*runs[:1], study="pretrained"), "1 run, 1 block, 0.5 min")


class Text(unittest.TestCase):
    def test_between(self) -> None:
        text = "a\n<!-- tally -->\nold\n<!-- end -->\nb\n<!-- other -->\nold\n<!-- end -->\n"
        self.assertEqual(committed.between(text, "tally", "new \\1"),
                         "a\n<!-- tally -->\n\nnew \\1\n\n<!-- end -->\nb\n<!-- other -->\nold\n<!-- end -->\n")
        self.assertEqual(committed.between("nothing", "tally", "new"), "nothing")

    def test_tally_counts_each_finding_once(self) -> None:
        found = committed.counted(committed.all_committed())
        names = [f"{one.study}.{v['id']}" for one in found for v in one.record["claims"]]
        self.assertEqual(sorted(names), sorted(committed.all_claims()))  # of norms some of one profile, some of another
        judged = [v for one in found for v in one.record["claims"] if v["verdict"] != claims.NOT_RUN]
        self.assertEqual(self.total(found), len(judged) - len(self.same(found)))
        primary = [v["verdict"] for one in found for v in one.record["claims"] if v["family"] == claims.PRIMARY
                   and v["verdict"] != claims.NOT_RUN and (one.study, v["id"]) not in self.same(found)]
        self.assertIn(f"Of {len(primary)} primary claims {primary.count(claims.SHOWN)} are shown, "
                      f"{primary.count(claims.OPPOSITE)} opposite; ", committed.tally_line(found, self.same(found)))
        twin = next(one for one in found if any(v["n"] for v in one.record["claims"]))
        twice = [*found, dataclasses.replace(twin, study="twin", record=twin.record | {"study": "twin"})]
        self.assertGreater(len(self.same(twice)), len(self.same(found)))
        self.assertEqual(self.total(twice), self.total(found))

    @staticmethod
    def same(found: Sequence[committed.Committed]) -> dict[tuple[str, str], str]:
        return committed.study_report.repeated([one.record for one in found])

    def total(self, found: Sequence[committed.Committed]) -> int:
        rows = committed.tally(found, self.same(found)).splitlines()
        return sum(int(cell) for line in rows if line.startswith("| all ") for cell in line.split("|")[3:-1])


def made(figures: dict[str, dict[str, list[float]]], point: dict[str, float] | None = None,
         status: str = "finished") -> Results:
    """Runs of a study: arm, metric, its values by seed 1, 2 and so on."""
    rows = [Row(arm, seed, point or {}, "", {}, status=status, metrics={
                metric: values[seed - 1] for metric, values in of.items() if seed <= len(values)})
            for arm, of in figures.items() for seed in range(1, 1 + max(map(len, of.values())))]
    base = {"model.layers": 1, "model.dim": 8, "data.corpus": "treasury", "train.lr": "4e-3"}
    return Results({"base": base, "profiles": {name: {} for name in ("small", "medium", "gpu", "standard")}}, {}, rows)


MAX, LOSS = (next(of for of in curves.MEASURES if of.name == name) for name in ("max", "val_loss"))


class Effects(unittest.TestCase):
    def test_pairs(self) -> None:
        """By seed: a ratio's mean is that of logarithms, and its interval; a difference's in its unit."""
        runs = made({"a": {"max": [10, 20, 40], "val_loss": [3, 3]}, "b": {"max": [20, 40], "val_loss": [2.5, 2.7]}})
        found = curves.effect(runs, ("a", "b"), MAX)
        self.assertEqual((found and found.n, MAX.text(found)), (2, "\N{MULTIPLICATION SIGN} 2 [2, 2], n 2"))
        found = curves.effect(runs, ("a", "b"), LOSS)
        assert found
        self.assertAlmostEqual(found.mean, -0.4)
        self.assertAlmostEqual(found.interval[0], -0.4 - 12.706 * 0.1, 3)
        self.assertEqual((found.sign, found.clear), (-1, False))
        back = curves.effect(runs, ("b", "a"), MAX)
        self.assertEqual((back and back.sign, back and back.clear), (-1, True))

    def test_one_pair_has_no_interval(self) -> None:
        found = curves.effect(made({"a": {"max": [10]}, "b": {"max": [5, 7]}}), ("a", "b"), MAX)
        assert found
        self.assertEqual((found.n, found.sign, found.clear, MAX.text(found)),
                         (1, -1, False, "\N{MULTIPLICATION SIGN} 0.5, n 1"))

    def test_what_is_not_there(self) -> None:
        """A metric that a CSV lacks, an arm, a run that did not finish, a ratio to 0."""
        figures = {"a": {"max": [0.0]}, "b": {"max": [1.0]}}
        self.assertIsNone(curves.effect(made(figures), ("a", "b"), LOSS))
        self.assertIsNone(curves.effect(made(figures), ("a", "c"), MAX))
        self.assertIsNone(curves.effect(made(figures), ("a", "b"), MAX))
        self.assertIsNone(curves.effect(made({"a": {"max": [1.0]}, "b": {"max": [1.0]}}, status="diverged"),
                                        ("a", "b"), MAX))

    def test_folders_names_and_points(self) -> None:
        """The first folder that has both arms; arms by their names there, at a point or at each arm's best."""
        of = {"base": {"max": [4.0]}, "b": {"max": [8.0]}}
        runs = {"one/quick": made({"base": {"max": [1.0]}}), "two/quick": made(of),
                "swept/quick": made(of, {"train.lr": 0.004})}
        names = {"a": "base"}
        for folders, point, want in ((("none/quick", "one/quick", "two/quick"), None, 2.0),
                                     (("one/quick",), None, math.nan),
                                     (("swept/quick",), {"train.lr": 0.004}, 2.0),
                                     (("swept/quick",), {"train.lr": 0.002}, math.nan)):
            found = curves.effect_at(runs, curves.Size("S", folders, names), ("a", "b"), MAX, point)
            self.assertEqual(found is not None, want == want)
            if found:
                self.assertAlmostEqual(math.exp(found.mean), want)


class Hits(unittest.TestCase):
    # Signs against the baseline: of max right, wrong; of the loss right, and M2 is in one size only. Order of the
    # three arms: S ga, gated_norm, baseline; L gated_norm, baseline, ga of max (1 of 3); the same of the loss (3 of 3).
    RUNS = {
        "norms/small": made({"baseline": {"max": [8, 8], "val_loss": [3, 3], "m2": [2, 2], "params": [1e6, 1e6]},
                             "gated_norm": {"max": [4, 5], "val_loss": [2.9, 2.8]},
                             "ga": {"max": [2, 2], "val_loss": [2.5, 3.4]}}),
        "norms/gpu": made({"baseline": {"max": [8], "val_loss": [2], "params": [6.5e7]},
                           "gated_norm": {"max": [1], "val_loss": [1.9]}, "ga": {"max": [16], "val_loss": [1.8]}})}

    def test_signs_and_order(self) -> None:
        small, large = curves.ROUTES[0]
        signs = curves.cases(self.RUNS, small, large, curves.CONTRASTS)
        self.assertEqual([(case.metric, case.hit, case.small.clear) for case in signs],
                         [("max", True, False), ("max", False, True), ("val_loss", True, False),
                          ("val_loss", True, False)])
        order = curves.order(self.RUNS, small, large)
        self.assertEqual([case.hit for case in order], [True, False, False, True, True, False])

    def test_shares(self) -> None:
        case = {hit: curves.Case("max", curves.Effect(1, 1.0, (math.nan, math.nan)),
                                 curves.Effect(1, 1.0 if hit else -1.0, (math.nan, math.nan))) for hit in (True, False)}
        self.assertEqual(curves.share([case[True]] * 3 + [case[False]]), "3 of 4 [0.19, 0.99]")
        self.assertEqual((curves.tau([case[True]] * 3 + [case[False]]), curves.share([]), curves.tau([])),
                         ("+0.50", "\N{EN DASH}", "\N{EN DASH}"))
        none = curves.Effect(1, 0.0, (math.nan, math.nan))
        self.assertFalse(curves.Case("max", none, none).hit)

    def test_text(self) -> None:
        text = dict(curves.parts(self.RUNS))
        self.assertIn("| S to L | 3 of 4 [0.19, 0.99] | 0 of 1 [0.00, 0.97] | \N{EN DASH} | 3 of 6", text["hits"])
        self.assertIn("| S to M | \N{EN DASH} |", text["hits"])
        self.assertIn("S: M2 between blocks, M2 behind the last block, \N{GREEK SMALL LETTER LAMDA} at the sink",
                      text["effects"])
        self.assertIn("L: M2, M2 between blocks", text["effects"])
        self.assertIn("3 of 4 and 3 of 6 of L (65 M, 1 seed)", curves.headline(self.RUNS))
        self.assertIn("0 of 0", curves.headline({}))

    def test_axes(self) -> None:
        """One property of S varied: each size's own arms, at their best rates and at one rate."""
        swept = {"baseline-width_64": {"max": [8.0]}, "gated_norm-width_64": {"max": [2.0]}}
        runs = {"scale/standard": made({"baseline-small": {"max": [4, 6]}, "gated_norm-small": {"max": [8, 12]},
                                        "baseline-width_64": {"max": [3.0]}}),
                "scale/standard_tuning": made(swept, {"train.lr": 0.002})}
        text = dict(curves.parts(runs))
        self.assertIn("| baseline | largest activation | \N{EN DASH} | 3, n 1 | 5 [-7.71, 17.7], n 2 | \N{EN DASH} |",
                      text["axes"])
        self.assertIn("| gated_norm against baseline | largest activation | \N{EN DASH} | \N{EN DASH} "
                      "| \N{MULTIPLICATION SIGN} 2 [2, 2], n 2 | \N{EN DASH} |", text["axes"])
        self.assertIn("| gated_norm against baseline | 0 of 0 | 1 of 1 |", text["sizes_by_rate"])
        self.assertIn("| width_64 | gated_norm against baseline | largest activation "
                      "| \N{MULTIPLICATION SIGN} 0.25, n 1 |", text["sizes_by_rate"])

    def test_pictures(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            curve_figures.pictures(self.RUNS, Path(folder))
            self.assertEqual({path.name for path in Path(folder).iterdir()},
                             {"scale.png", "scale_rate.png", "scale_width.png", "scale_depth.png", "scale_tokens.png"})

    def test_the_page_has_every_part(self) -> None:
        page = (EXPERIMENTS / "scale.md").read_text(encoding="utf-8")
        for mark, inside in curves.parts(committed.by_name(committed.all_committed())):
            self.assertIn(f"<!-- {mark} -->\n\n{inside}\n\n<!-- end -->", page)
        self.assertIn("<!-- scale -->\n\nEffects by size", (EXPERIMENTS.parent / "README.md").read_text())


if __name__ == "__main__":
    unittest.main()
