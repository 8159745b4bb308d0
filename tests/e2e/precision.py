"""comparisons/precision/compare.py --quick: what it finds, that it goes on where it was stopped, and its errors."""

import json
import math
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import common

COMPARISON = Path(__file__).resolve().parents[2] / "experiments" / "comparisons" / "precision"
sys.path.insert(0, str(COMPARISON))

import compare

from sinkstudy.judge import paired


class Paired(unittest.TestCase):
    def test_interval(self) -> None:
        s = paired.sample([1.0, 2.0, 3.0])
        self.assertEqual((s.n, s.mean, s.sd), (3, 2.0, 1.0))
        self.assertAlmostEqual(s.half_width, 4.3027 / math.sqrt(3), places=4)  # t of 2 degrees of freedom
        self.assertTrue(math.isnan(paired.sample([1.0]).half_width))

    def test_differences(self) -> None:
        self.assertEqual(paired.differences([1, 2], [4, 1]), [3, -1])
        with self.assertRaises(ValueError):
            paired.differences([1], [1, 2])

    def test_relative(self) -> None:
        self.assertEqual([paired.relative(*p) for p in ((2, 3), (-2, -1), (0, 0), (0, 1))], [0.5, 0.5, 0.0, math.inf])


class Noise(unittest.TestCase):
    def test_within_noise(self) -> None:
        """Two seeds, three steps: fp32's sd is 1 everywhere, the mean differences are 1.5, 0 (3 and -3) and -0.5."""
        root2 = math.sqrt(2)
        curves = {"fp32": [[0, 0, 0], [root2] * 3], "bf16": [[1.5, 3, -0.5], [root2 + 1.5, root2 - 3, root2 - 0.5]],
                  "noise": compare.pooled([1.0, 1.0, 1.0])}
        found = compare.within_noise(curves, "bf16")
        self.assertEqual((found["evaluations"], found["within"]), (3, 2))
        self.assertAlmostEqual(found["largest"], 1.5)

    def test_pooling_is_local(self) -> None:
        self.assertEqual(compare.pooled([3.0, 0, 0, 0]), [math.sqrt(3), 1.5, 1.5, 0])  # of 3, 4, 4 and 3 values


class Compare(common.EndToEnd):
    def compare(self, *args: object, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run([sys.executable, COMPARISON / "compare.py", "--sinklab", common.SINKLAB,
                               "--quick", "data.corpus=corpus.txt", *map(str, args)], capture_output=True, text=True)
        if "has no bf16 unit" in done.stderr:
            self.skipTest("no bf16 unit here")
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def test_study(self) -> None:
        runs = Path("study")
        first = self.compare("--runs", runs, "--seeds", "1,2", "--control", "isa=scalar")
        found = json.loads((runs / "results.json").read_text())
        self.check_losses(found, runs)
        self.check_probes(found)
        self.assertIn("bf16 - fp32, mean and 95 % t interval", first.stdout)
        self.assertTrue((runs / "difference.png").read_bytes().startswith(b"\x89PNG"))
        self.check_restart(runs, first.stdout)

    def check_losses(self, found: dict, runs: Path) -> None:
        final = found["final_val_loss"]
        for arm in ("fp32", "bf16", "control"):
            of_runs = [json.loads((runs / f"{arm}-{seed}" / "result.json").read_text())["val_loss"] for seed in (1, 2)]
            for value, expected in zip(final[arm], of_runs):
                self.assertAlmostEqual(value, expected, places=5)
        for at, d in enumerate(final["bf16_minus_fp32"]["differences"]):
            self.assertAlmostEqual(d, final["bf16"][at] - final["fp32"][at], places=5)
            # The same data in the same order: arms of a seed are far closer than seeds are (.03 nats here).
            self.assertTrue(0 < abs(d) < 0.01, d)
        self.assertEqual(found["val_loss"]["steps"], [10, 20, 30, 40])
        self.assertEqual(found["train_loss"]["steps"], [40])
        mean = sum(line["loss"] for line in common.lines(runs / "fp32-1" / "metrics.jsonl")) / 40
        self.assertAlmostEqual(found["train_loss"]["fp32"][0][0], mean, places=5)

    def check_probes(self, found: dict) -> None:
        for checkpoint in found["same_checkpoint"]:
            # Inputs of products have 8 bits in bf16, a relative error of 2^-9 each; two blocks don't make it
            # twentyfold.
            self.assertLess(max(checkpoint["whole"].values()), 20 * 2**-9)
            self.assertGreater(max(checkpoint["whole"].values()), 0)  # else both were probed in the same arithmetic
            self.assertNotEqual(checkpoint["fp32"]["m2"], checkpoint["bf16"]["m2"])
        self.assertLessEqual({"fp32", "bf16", "control"}, set(found["separate_runs"]["m2"]))

    def check_restart(self, runs: Path, printed: str) -> None:
        """One run lost, one stopped at its middle checkpoint: the others stay, and all figures come out the same."""
        shutil.rmtree(runs / "bf16-1")
        (runs / "fp32-2" / "result.json").unlink()
        shutil.rmtree(common.complete(runs / "fp32-2")[-1])
        again = self.compare("--runs", runs, "--seeds", "1,2", "--control", "isa=scalar")
        for told in ("fp32-1: already trained", "bf16-1: training", "fp32-2: going on", "bf16-2: already trained"):
            self.assertIn(told, again.stderr)
        self.assertEqual(again.stdout, printed)

    def test_runs_of_another_configuration(self) -> None:
        self.compare("--runs", "other", "--seeds", 1)
        done = self.compare("--runs", "other", "--seeds", 1, "train.lr=1e-3", code=1)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn("fp32-1 is of another configuration", done.stderr)

    def test_errors(self) -> None:
        for args, code, word in ((["model.heads=3"], 1, "model.dim = 32 is not a multiple"),
                                 (["nonsense"], 2, "key=value"),
                                 (["--seeds", "1,1"], 2, "different"), (["--seeds", "x"], 2, "--seeds"),
                                 (["--sinklab", "nowhere"], 1, "no such program")):
            done = self.compare("--runs", "errors", *args, code=code)
            self.assertIn(word, done.stderr)
            self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    common.main()
