"""studies/pretrained/run.py on a tiny model: every claim is judged, a second run says the same of what is kept, and
its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import common

RUN = Path(__file__).resolve().parents[2] / "experiments" / "studies" / "pretrained" / "run.py"


class Pretrained(common.EndToEnd):
    def study(self, *args: object, code: int = 0) -> subprocess.CompletedProcess:
        p = subprocess.run([sys.executable, RUN, "--sinklab", common.SINKLAB, "--corpus",
                            Path("corpus.txt").resolve(), "--cores", "2", "--out", Path("out").resolve(),
                            *map(str, args)], capture_output=True, text=True,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.assertEqual(p.returncode, code, p.stderr)
        return p

    def test_tiny_model(self) -> None:
        run = self.train("plain", "train.steps=40", "data.val_fraction=0.3")
        first = self.study(run.resolve())
        folder = Path("out", "plain", "quick")
        record = json.loads((folder / "verdicts.json").read_text())
        self.assertEqual(record["runs"]["finished"], 12 * 25)
        claims = {claim["id"]: claim for claim in record["claims"]}
        self.assertEqual(len(claims), 20)
        for claim in claims.values():
            # Two figures are of the other blocks against the first one.
            self.assertIn(claim["n"], (11, 12), claim["id"])
        page = (folder / "report.html").read_text()
        self.assertIn("what it calls a seed is a block of text", page)
        self.assertNotIn("Over training", page)
        loss = self.json("eval", run, "--windows", 24, "--skip", 0, "--json")["loss"]
        self.assertIn(f"base: loss {loss:.4f}", first.stdout)
        said = {path.name: path.stat().st_mtime_ns for path in (folder / "said").iterdir()}
        self.assertEqual(self.study(run.resolve()).stdout, first.stdout)
        self.assertEqual({path.name: path.stat().st_mtime_ns for path in (folder / "said").iterdir()}, said)

    def test_errors(self) -> None:
        for args, message in ((["missing.gguf"], "no such model; ./data/fetch_model.py smollm2-135m fetches that one"),
                              (["corpus.txt", "--profile", "long"], "--profile long: there are quick, standard")):
            p = self.study(*args, code=2)
            self.assertEqual(p.stderr.count("\n"), 1)
            self.assertIn(message, p.stderr)


if __name__ == "__main__":
    common.main()
