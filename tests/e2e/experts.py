"""Mixtures of experts in whole runs: loads in the metrics, biases that even them out and are resumed, decoding."""

import json
import struct
from pathlib import Path

import common
from common import UNIT

STEPS = 3 * UNIT
ARGS = ["model.experts=6", "model.expert_ffn=16", "model.router=sigmoid", f"train.steps={STEPS}",
        f"train.warmup={UNIT // 10}",
        f"train.eval_every={UNIT}", "train.probe_every=0", f"train.checkpoint_every={UNIT}"]
BIAS = ["model.balance=bias", "model.balance_rate=0.01", "model.shared_experts=1"]


def tensor(path: Path, name: str) -> tuple[float, ...]:
    """An fp32 tensor of a safetensors file."""
    data = path.read_bytes()
    n = struct.unpack_from("<Q", data)[0]
    begin, end = json.loads(data[8:8 + n])[name]["data_offsets"]
    return struct.unpack_from(f"<{(end - begin) // 4}f", data, 8 + n + begin)


class Experts(common.EndToEnd):
    def test_loads(self) -> None:
        """Shares add up; nothing is dropped without a capacity, and something is with a tight one."""
        for name, args in {"free": [], "tight": ["model.expert_capacity=0.5"]}.items():
            run = self.train(name, *ARGS, *args, f"train.steps={UNIT}")
            records = common.lines(run / "metrics.jsonl")
            loads = [r["expert_load"] for r in records if "expert_load" in r]
            self.assertEqual([len(layer) for layer in loads[-1]], [6, 6])
            for layer in loads[-1]:
                self.assertAlmostEqual(sum(layer), 1)
            self.assertAlmostEqual(records[-1]["expert_max_load"], 6 * max(map(max, loads[-1])))
            self.assertGreaterEqual(records[-1]["aux_loss"], 0.5)
            # 128 tokens make 256 choices; at half the even share 6 experts take at most ceil(256 / 12) = 22 each.
            for r in records:
                self.assertGreaterEqual(r["expert_dropped"], 1 - 6 * 22 / 256 if name == "tight" else 0)
                self.assertLessEqual(r["expert_dropped"], 1 if name == "tight" else 0)

    def test_bias_evens_loads(self) -> None:
        most = {}
        for balance in ("none", "bias"):
            run = self.train(balance, *ARGS, *BIAS, f"model.balance={balance}")
            last = common.lines(run / "metrics.jsonl")[-UNIT:]
            most[balance] = sum(r["expert_max_load"] for r in last) / len(last)
        self.assertLess(most["bias"] - 1, 0.7 * (most["none"] - 1), most)

    def test_resumed_bias(self) -> None:
        """A run killed between checkpoints ends with the bits of one that was not, biases included."""
        whole = self.train("whole", *ARGS, *BIAS)
        out = Path("killed")
        p = self.start(out, *ARGS, *BIAS)
        self.wait_for_steps(p, out, UNIT + UNIT // 2)
        p.kill()
        p.wait()
        self.train(out, *ARGS, *BIAS, "--resume")
        self.assert_same_run(whole, out)
        bias = [tensor(r / "checkpoints" / f"{STEPS:08d}" / "model.safetensors",
                       "model.layers.1.mlp.gate.e_score_correction_bias") for r in (whole, out)]
        self.assertEqual(bias[0], bias[1])
        self.assertTrue(any(bias[0]))

    def test_generate(self) -> None:
        run = self.train("generate", *ARGS, *BIAS)
        text = self.sinklab("generate", run, "--prompt", "the cat", "--tokens", 20, "--temperature", 0)
        self.assertTrue(text.stdout)


if __name__ == "__main__":
    common.main()
