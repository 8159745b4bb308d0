"""comparisons/agreement: the comparison with made-up runs; and, where PyTorch is, the peer on a miniature."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.dont_write_bytecode = True

import compare
import numpy as np
from scipy import stats

BASE = {"val_loss": 1.4, "m2": 8.0, "max": 400.0, "max_no_token0": 390.0, "att0": 0.01, "value_norm_ratio": 0.7,
        "token0_norm_ratio": 1.2}


def runs_of(seed: int, **factor: float) -> list[dict[str, float]]:
    """Five runs whose figures scatter by a hundredth."""
    rng = np.random.default_rng(seed)
    return [{k: v * factor.get(k, 1) * float(np.exp(rng.normal(0, 0.01))) for k, v in BASE.items()} for _ in range(5)]


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "peer").mkdir()

    def write(self, ours: dict[str, list[dict[str, Any]]], theirs: dict[str, list[dict[str, Any]]]) -> None:
        with open(self.root / "runs.csv", "w", newline="", encoding="utf-8") as f:
            out = csv.DictWriter(f, ["arm", "seed", "status", "taken", *BASE], restval="")
            out.writeheader()
            for arm, runs in ours.items():
                for seed, run in enumerate(runs, 1):
                    out.writerow({"arm": arm, "seed": seed, "status": "finished", "taken": 1, **run})
            out.writerow({"arm": "a", "seed": 9, "status": "diverged", "taken": 1})
            out.writerow({"arm": "a", "seed": 9, "status": "finished", "taken": 0,
                          **{k: 99 * v for k, v in BASE.items()}})
        for arm, runs in theirs.items():
            for seed, run in enumerate(runs, 1):
                text = json.dumps({"arm": arm, "seed": seed, "status": "finished", "metrics": run})
                (self.root / "peer" / f"{arm}-{seed}.json").write_text(text)

    def call(self, main: Any, *args: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(self.root), *args])
        return code, out.getvalue(), err.getvalue()


class Compare(Folder):
    def test_students_test(self) -> None:
        a, b = [1.0, 2.0, 4.0], [3.0, 5.0, 4.5, 6.0]
        mean, half, p = compare.unpaired(a, b)
        want = stats.ttest_ind(b, a)
        self.assertAlmostEqual(p, want.pvalue, places=12)
        self.assertAlmostEqual(mean - half, want.confidence_interval().low, places=12)
        mean, half, _ = compare.unpaired(a, [5.0])  # one run: the prediction interval of the others
        self.assertAlmostEqual(half, stats.t.ppf(0.975, 2) * np.std(a, ddof=1) * np.sqrt(4 / 3), places=12)

    def test_difference_is_found_where_it_is(self) -> None:
        self.write({"a": runs_of(1), "b": runs_of(2, m2=2.0)}, {"a": runs_of(3), "b": runs_of(4), "c": runs_of(5)})
        code, out, err = self.call(compare.main)
        self.assertEqual((code, err), (0, ""))
        starred = [(line.split("|")[1].strip(), i) for line in out.splitlines()
                   for i, cell in enumerate(line.split("|"))
                   if cell.rstrip().endswith("*")]
        self.assertEqual(starred, [("b", 4)])  # M2 of arm b
        found = json.loads((self.root / "results.json").read_text())
        self.assertEqual(found["arms"], ["a", "b"])
        cell = next(c for c in found["cells"] if c["arm"] == "b" and c["metric"] == "m2")
        self.assertTrue(1.95 < cell["interval"][0] < 2 < cell["interval"][1] < 2.05, cell)
        self.assertEqual({len(c[side]) for c in found["cells"] for side in ("sinklab", "pytorch")}, {5})
        self.assertGreater((self.root / "agreement.png").stat().st_size, 10000)

    def test_errors(self) -> None:
        self.write({"a": runs_of(1)}, {})
        self.assertRegex(self.call(compare.main)[2], r"^compare.py: error: .*peer: no results; peer.py makes them\n$")
        self.write({"a": runs_of(1)}, {"b": runs_of(1)})
        self.assertEqual(self.call(compare.main)[2], "compare.py: error: no arm has runs of both\n")
        (self.root / "peer" / "b-1.json").write_text('{"arm": "b", "status": "finished", "metrics": {"m2": 1}}')
        self.assertEqual(self.call(compare.main)[2], "compare.py: error: arm b: a run without val_loss\n")
        (self.root / "peer" / "b-1.json").write_text("[]")
        self.assertRegex(self.call(compare.main)[2], r"b-1.json: not a result of peer.py\n$")
        (self.root / "runs.csv").unlink()
        code, _, err = self.call(compare.main)
        self.assertEqual(code, 1)
        self.assertRegex(err, r"runs.csv: No such file or directory\n$")


@unittest.skipUnless(importlib.util.find_spec("torch"), "needs PyTorch")
class Peer(Folder):
    SETTINGS = {"model.layers": "2", "model.dim": "16", "model.heads": "2", "model.ffn": "24", "model.seq": "16",
                "data.corpus": "mine", "train.steps": "30", "train.batch": "2", "train.lr": "1e-2", "train.warmup": "3"}

    def plan(self, **arms: dict[str, str]) -> None:
        corpus = self.root / "mine"
        corpus.mkdir()
        for part in ("train", "val"):
            (corpus / f"{part}.txt").write_text("To be, or not to be, that is the question.\n" * 60)
        self.enterContext(mock.patch.dict(os.environ, {"SINKLAB_DATA": str(self.root)}))
        self.plan_of(**arms)

    def plan_of(self, **arms: dict[str, str]) -> None:
        runs = [{"arm": arm, "seed": 1, "hash": arm, "settings": self.SETTINGS | more} for arm, more in arms.items()]
        (self.root / "plan.json").write_text(json.dumps({"runs": runs}))
        (self.root / "runs.csv").write_text("arm,seed,hash,status,taken,ffn,precision\n" + "".join(
            f"{arm},1,{arm},finished,1,24,fp32\n" for arm in arms))

    def test_trains_what_was_planned(self) -> None:
        import peer

        gated = {"model.norm": "gated_norm", "model.norm_opts.rank": "4", "model.attention_opts.gate": "elementwise"}
        self.plan(base={}, gated=gated, pre={"model.norm_opts.preaffine": "true"},
                  none={"model.norm": "none", "train.guard": "off"})
        code, out, err = self.call(peer.main, "--device", "cpu", "--threads", "1")
        self.assertEqual((code, len(out.splitlines())), (0, 4), err)
        base, more = (json.loads((self.root / "peer" / f"{arm}-1.json").read_text()) for arm in ("base", "gated"))
        d, f, layers = 16, 24, 2
        self.assertEqual(base["metrics"]["params"], 2 * 257 * d + layers * (4 * d * d + 3 * d * f + 2 * d) + d)
        self.assertEqual(more["metrics"]["params"] - base["metrics"]["params"], layers * (d * d + 2 * 2 * 4 * d))
        self.assertLess(base["metrics"]["val_loss"], 5)  # log 257 is 5.55
        self.assertEqual(self.call(peer.main, "--device", "cpu")[1], "")  # finished: nothing is trained again
        (self.root / "peer" / "base-1.json").write_text("{")
        self.assertRegex(self.call(peer.main, "--device", "cpu")[1], r"^\S*base-1.json \{.*\}\n$")

    def test_its_model_is_that_of_the_golden_values(self) -> None:
        """Against tests/golden/decoder.py, which the engine's golden values come from: a third way to write it down."""
        import decoder
        import peer
        import torch

        gate, rank = {"model.attention_opts.gate": "elementwise"}, {"model.norm_opts.rank": "4"}
        pre, final = {"model.norm_opts.preaffine": "true"}, {"model.norm_opts.gate_final": "true"}
        gated = {"model.norm": "gated_norm", **rank}
        for arm in ({}, gate, pre, {"model.norm": "none"}, {**gated, **gate}, {**gated, **pre, **final}):
            s = peer.settings_of("a", self.SETTINGS | arm, "24", "fp32")
            c = {"layers": 2, "dim": 16, "heads": 2, "ffn": 24, "seq": 16, "rope_base": 10000.0, "ffn_kind": "swiglu",
                 "norm": s["model.norm"], "attention_opts": {"gate": s["model.attention_opts.gate"]},
                 "norm_opts": {k: s[f"model.norm_opts.{k}"] for k in ("rank", "eps", "preaffine", "gate_final")}}
            torch.manual_seed(1)
            weights = {name: torch.randn(shape) * 0.3 for name, shape in decoder.tensor_shapes(c, 40).items()}
            tokens, targets = torch.randint(40, (2, 3, 16))
            model = peer.Decoder(s, 40)
            model.load_state_dict(peer.renamed(weights, model))
            want = decoder.mean_loss(decoder.logits(c, {k: v.double() for k, v in weights.items()}, tokens), targets)
            self.assertAlmostEqual(float(model.loss(tokens, targets).detach() / want), 1, delta=1e-5, msg=str(arm))

    def test_what_it_does_not_have(self) -> None:
        import peer

        self.plan(a={"model.clip": "3"})
        self.assertEqual(self.call(peer.main)[2], "peer.py: error: arm a: model.clip: this model does not have it; "
                         "leave the arm out with --arms\n")
        self.plan_of(a={"train.guard": "skip"})  # sinklab may have left steps out
        self.assertEqual(self.call(peer.main)[2], "peer.py: error: arm a: train.guard: skip: not here; there are stop, "
                                                  "off\n")
        self.assertRegex(self.call(peer.main, "--arms", "b")[2], r"no finished run of arm b; there are a\n$")

        self.plan_of(a={})
        self.assertRegex(self.call(peer.main, "--checkpoints", str(self.root))[2],
                         r"^peer.py: error: \S+/a: no checkpoint\n$")

    def test_tokenizer_that_is_not_there(self) -> None:
        import peer

        self.plan(a={"data.tokenizer": "bpe:nowhere.json"})
        self.assertRegex(self.call(peer.main)[2], r"^peer.py: error: data.tokenizer: nowhere.json: .*\n$")


if __name__ == "__main__":
    unittest.main()
