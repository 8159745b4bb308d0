"""What is committed of the studies' results follows from their committed runs, by the code as it is."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

from sinkstudy.judge import claims, committed


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
                with self.assertRaises(committed.LedgerError) as raised:
                    committed.read_ledger(path, {"norms.ga_max"})
                self.assertIn(words, str(raised.exception))

    def test_verdicts_are_those_of_the_profiles(self) -> None:
        found = committed.all_committed()
        text = committed.ledger_text(found, [{"source": "s", "text": "t", "claims": ["norms.ga_max", "norms.glu_max"]},
                                             {"source": "s", "text": "u", "because": "no"}])
        by_profile = {one.profile: {v["id"]: v for v in one.record["claims"]} for one in found if one.study == "norms"}
        cells = (f"{v['verdict']} (n {v['n']})" for v in
                 (by_profile[name]["ga_max"] for name in ("quick", "medium", "gpu")))
        self.assertIn(f"| {' | '.join(cells)} |", text)
        self.assertIn("[norms.glu_max](studies/norms/README.md) | not run | not run |", text)
        self.assertIn("| s | u | not testable here: no |  |  |  |", text)


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
