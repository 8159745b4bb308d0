"""What is committed of the studies' results follows from their committed runs, by the code as it is."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

from sinkstudy.judge import claims, committed, ledger
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
            {"source": "s", "text": "t", "claims": ["norms.ga_max", "norms.glu_max"]},
            {"source": "s", "text": "u", "because": "no"}])
        by_profile = {one.profile: {v["id"]: v for v in one.record["claims"]} for one in found if one.study == "norms"}
        cells = (f"{v['verdict']} (n {v['n']})" for v in
                 (by_profile[name]["ga_max"] for name in ("quick", "medium", "gpu")))
        self.assertIn(f"| {' | '.join(cells)} | S: 10 runs, 5 seeds, ", text)
        self.assertIn("[norms.glu_max](studies/norms/README.md) | not run | not run | baseline gate failed (n 1) | "
                      "L: 2 runs, 1 seed, ", text)
        self.assertIn("| s | u | not testable here: no |  |  |  | - |", text)

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
        found = [one for one in committed.all_committed() if one.counts]
        same = committed.study_report.repeated([one.record for one in found])
        last = committed.tally(found, same).splitlines()
        total = sum(int(cell) for line in last if line.startswith("| all ") for cell in line.split("|")[3:-1])
        judged = [v for one in found for v in one.record["claims"] if v["verdict"] != claims.NOT_RUN]
        self.assertEqual(total, len(judged) - len(same))
        self.assertTrue(same)


if __name__ == "__main__":
    unittest.main()
