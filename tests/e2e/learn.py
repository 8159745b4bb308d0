"""Training does its work: the loss at the start, one batch learnt by heart, schedules, and the guard."""

import json
import math
from pathlib import Path

import common

# Nothing can be made of numbers like these.
ABSURD = ["train.lr=100", "train.clip_norm=0", "train.warmup=0", "train.steps=200", "train.checkpoint_every=1",
          "train.eval_every=0", "train.probe_every=0"]


# Embeddings of .02 through tanh(x/2) are a plateau at this width: what does not normalise must start larger.
STARTS = {norm: ["model.embed_scale=true", "model.init_std=0.1", "model.norm_opts.alpha_attn=10",
                 "model.norm_opts.alpha_ffn=10", "model.norm_opts.alpha_final=10"] for norm in ("dyt", "derf")}


class Learn(common.EndToEnd):
    def norms(self) -> list[str]:
        table = self.json("config", "model.norm", "--json")
        return [choice["value"] for choice in table[0]["choices"]]

    def test_start(self) -> None:
        """At init logits are normal with variance s^2 = 0.02^2 d (rows of the head times a vector of length sqrt(d)):
        the loss is ln V + s^2/2, less the mean logit of the targets, which are some twenty letters: s/sqrt(20)."""
        s = 0.02 * math.sqrt(32)
        for norm in self.norms():
            with self.subTest(norm):
                run = self.train(f"start-{norm}", "train.steps=0", "train.warmup=0", f"model.norm={norm}")
                loss = self.json("eval", run, "--json")["loss"]
                self.assertLess(abs(loss - math.log(257)), s * s / 2 + 4 * s / math.sqrt(20))
                self.assertGreater(abs(loss - math.log(257)), 1e-6, "all logits are equal")

    def test_one_batch(self) -> None:
        for norm in self.norms():
            with self.subTest(norm):
                run = self.train(f"overfit-{norm}", "train.overfit_one_batch=true", "train.steps=300", "train.lr=1e-2",
                                 "train.weight_decay=0", "train.eval_every=0", "train.probe_every=0",
                                 "train.checkpoint_every=0", f"model.norm={norm}", *STARTS.get(norm, []))
                self.assertLess(common.lines(run / "metrics.jsonl")[-1]["loss"], 0.1)

    def test_optimizers(self) -> None:
        """Each learns one batch by heart with a rate of its own kind."""
        rates = {"adamw": 1e-2, "sgd": 0.3, "muon": 1e-2}
        for choice in self.json("config", "train.optimizer", "--json")[0]["choices"]:
            with self.subTest(choice["value"]):
                run = self.train(f"by-{choice['value']}", "train.overfit_one_batch=true", "train.steps=300",
                                 f"train.lr={rates[choice['value']]}", "train.weight_decay=0", "train.eval_every=0",
                                 "train.probe_every=0", "train.checkpoint_every=0",
                                 f"train.optimizer={choice['value']}")
                self.assertLess(common.lines(run / "metrics.jsonl")[-1]["loss"], 0.1)

    def test_accumulation(self) -> None:
        """Two passes of half the batch are one step of the whole, up to the order of sums."""
        args = ["train.steps=3", "train.warmup=1", "train.checkpoint_every=0", "train.eval_every=0",
                "train.probe_every=0"]
        a = self.train("whole", *args, "train.batch=8")
        b = self.train("parts", *args, "train.batch=4", "train.accumulate=2")
        for x, y in zip(common.lines(a / "metrics.jsonl"), common.lines(b / "metrics.jsonl"), strict=True):
            self.assertAlmostEqual(x["loss"], y["loss"], delta=1e-5)
            self.assertAlmostEqual(x["grad_norm"], y["grad_norm"], delta=1e-4)

    def test_schedules(self) -> None:
        rates = {}
        for schedule in ("cosine", "wsd", "constant"):
            run = self.train(schedule, f"train.schedule={schedule}", "train.checkpoint_every=0", "train.eval_every=0",
                             "train.probe_every=0")
            rates[schedule] = [m["lr"] for m in common.lines(run / "metrics.jsonl")]
        for schedule, lr in rates.items():
            self.assertAlmostEqual(lr[0], 4e-3 / 5, msg=schedule)
            self.assertAlmostEqual(max(lr), 4e-3, msg=schedule)
        self.assertEqual(rates["constant"][5:], [4e-3] * 35)
        self.assertEqual(rates["wsd"][5:32], [4e-3] * 27)
        self.assertTrue(all(x > y for x, y in zip(rates["wsd"][32:], rates["wsd"][33:])))
        self.assertTrue(all(x > y for x, y in zip(rates["cosine"][5:], rates["cosine"][6:])))
        self.assertAlmostEqual(rates["cosine"][22], 4e-3 * 0.55, delta=2e-4)  # half way from 1 to min_lr_ratio

    def test_guard_stops(self) -> None:
        run = Path("stop")
        message = self.error("train", "t.yaml", "--out", run, *ABSURD)
        self.assertRegex(message, r"^training stopped at step \d+: .*; the checkpoint of step \d+ is kept; ")
        step = int(message.split()[4].rstrip(":"))
        result = json.loads((run / "result.json").read_text())
        self.assertEqual((result["status"], result["stopped_by"]), ("stopped", "guard"))
        self.assertEqual(int(common.complete(run)[-1].name), step)
        self.assertEqual(common.lines(run / "metrics.jsonl")[-1]["step"], step)
        # The checkpoints that are left are of steps that were good: they load, and the loss is a number.
        for p in common.complete(run):
            self.assertGreater(self.json("eval", p, "--json")["loss"], 0)
        self.assertRegex(self.error("train", "t.yaml", "--out", run, *ABSURD, "--resume"), rf"stopped at step {step}:")

    def test_guard_before_a_checkpoint(self) -> None:
        message = self.error("train", "t.yaml", "--out", "never", *ABSURD, "train.checkpoint_every=0")
        self.assertIn("there is no checkpoint yet", message)

    def test_guard_skips(self) -> None:
        """Says each step that it leaves out; gives up when nothing but such steps come."""
        p = self.sinklab("train", "t.yaml", "--out", "skip", *ABSURD, "train.guard=skip", code=1)
        said = [line for line in p.stderr.decode().splitlines() if line.startswith("warning: step ")]
        skipped = [m for m in common.lines(Path("skip/metrics.jsonl")) if m.get("skipped")]
        self.assertGreater(len(said), 10)
        self.assertEqual(len(said), len(skipped))
        self.assertEqual(json.loads(Path("skip/result.json").read_text())["skipped"], len(skipped) + 1)

    def test_guard_spike(self) -> None:
        """Hardly anything is learnt, so that the noise of batches passes a small margin now and then: those steps are
        left out, weights and moments stay as they were."""
        self.train("spike", "train.guard=skip", "train.guard_spike=0.01", "train.steps=80", "train.batch=1",
                   "train.lr=1e-5", "train.checkpoint_every=1", "train.keep_checkpoints=100")
        run = Path("spike")
        skipped = [m["step"] for m in common.lines(run / "metrics.jsonl") if m.get("skipped")]
        self.assertGreater(len(skipped), 1)
        self.assertLess(len(skipped), 50)
        for step in skipped:
            before, after = (run / "checkpoints" / f"{s:08}" for s in (step - 1, step))
            for name in ("model.safetensors", "optimizer.safetensors"):
                self.assertEqual((before / name).read_bytes(), (after / name).read_bytes())
        self.assertEqual(json.loads((run / "result.json").read_text())["skipped"], len(skipped))


if __name__ == "__main__":
    common.main()
