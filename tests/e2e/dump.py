"""What `probe --dump` writes against itself and against the figures of the probe, and what it does when it cannot."""

import ast
import json
import math
import resource
import signal
import struct
from pathlib import Path

import common

SEQ, HEADS, DIM, WINDOWS, LAYERS = 32, 2, 32, 6, 2


def load(path: Path) -> tuple[list[int], tuple]:
    """Shape and values of a .npy file."""
    data = path.read_bytes()
    size = 10 + struct.unpack("<H", data[8:10])[0]
    head = ast.literal_eval(data[10:size].decode())
    code = {"<f4": "f", "<i4": "i", "<f8": "d"}[head["descr"]]
    count = math.prod(head["shape"])
    return list(head["shape"]), struct.unpack(f"<{count}{code}", data[size:])


class Dump(common.EndToEnd):
    def setUp(self) -> None:
        if not Path("plain").exists():
            self.train("plain")
            self.train("gated", "model.norm=gated_norm", "precision=bf16", "train.steps=10")

    def arrays(self, folder: str) -> dict[str, tuple]:
        """All arrays by file; each as the manifest says."""
        manifest, found = json.loads(Path(folder, "manifest.json").read_text()), {}
        for a in manifest["arrays"]:
            shape, values = load(Path(folder, a["file"]))
            self.assertEqual(shape, a["shape"])
            self.assertEqual(len(a["axes"]), len(shape))
            found[a["file"].removesuffix(".npy")] = values
        names = {p.name for p in Path(folder).iterdir()} - {"manifest.json", "statistics.json"}
        self.assertEqual(names, {a["file"] for a in manifest["arrays"]})
        return found

    def test_arrays_agree_with_the_figures(self) -> None:
        o = self.json("probe", "plain", "--windows", WINDOWS, "--dump", "d", "--what", "all", "--measures",
                      "contribution", "--json")
        self.assertNotIn("channel_mean_abs", o["layers"][0])
        a = self.arrays("d")
        for i in range(LAYERS):
            att = a[f"attention.{i:03}"]
            for w in range(WINDOWS):
                for head in range(HEADS):
                    rows = [att[((w * HEADS + head) * SEQ + t) * SEQ:][:SEQ] for t in range(SEQ)]
                    for t, shares in enumerate(rows):
                        self.assertAlmostEqual(sum(shares), 1, delta=1e-5)
                        self.assertEqual(sum(shares[t + 1:]), 0)
            for head in range(HEADS):
                att0 = [att[((w * HEADS + head) * SEQ + t) * SEQ] for w in range(WINDOWS) for t in range(1, SEQ)]
                self.assertAlmostEqual(sum(att0) / len(att0), o["layers"][i]["att0"][head], delta=1e-6)
                self.assertAlmostEqual(a["att0"][i * HEADS + head], o["layers"][i]["att0"][head], delta=1e-6)
                self.assertAlmostEqual(a["contribution"][i * HEADS + head],
                                       o["measures"]["contribution"][i]["head"][head], delta=1e-6)
            # fp32 sums of DIM squares: 1e-5 of values that are at most some ten
            stream, normed = a[f"residual.{i:03}"], a[f"norm_attn.{i:03}"]
            weight = a["norm_weight_attn"][i * DIM:][:DIM]
            for row in range(WINDOWS * SEQ):
                x = stream[row * DIM:][:DIM]
                rms = math.sqrt(sum(v * v for v in x) / DIM + 1e-6)
                for j in range(DIM):
                    self.assertAlmostEqual(normed[row * DIM + j], x[j] / rms * weight[j], delta=1e-5)
        mean = [0.0] * DIM
        for row in range(WINDOWS * SEQ):
            for j in range(DIM) if row % SEQ else ():
                mean[j] += abs(a[f"residual.{LAYERS:03}"][row * DIM + j]) / (WINDOWS * (SEQ - 1))
        for got, want in zip(a["channel_mean_abs"][LAYERS * DIM:], mean):
            self.assertAlmostEqual(got, want, delta=1e-6 * want)
        self.assertTrue(all(0 <= t < 257 for t in a["tokens"]))
        self.assertEqual(set(a["tokens"][::SEQ]), {256})

    def test_threads_do_not_change_a_byte(self) -> None:
        for n in (1, 3):
            self.sinklab("probe", "gated", "--windows", WINDOWS, "--dump", f"t{n}", "--what", "all", f"threads={n}")
        one, three = self.arrays("t1"), self.arrays("t3")
        self.assertEqual(one, three)
        self.assertIn("gate_ffn.001", one)
        self.assertTrue(all(0 < g < 1 for g in one["gate_attn.000"]))

    def test_layers_and_heads(self) -> None:
        self.sinklab("probe", "plain", "--windows", 2, "--dump", "few", "--what", "attention,residual", "--layers",
                     "1-2", "--heads", 1)
        a = self.arrays("few")
        self.assertEqual(set(a), {"tokens", "attention.001", "residual.001", "residual.002"})
        self.assertEqual(len(a["attention.001"]), 2 * SEQ * SEQ)

    def test_nothing_is_left_after_a_failure(self) -> None:
        Path("there").mkdir()
        self.assertIn("there is already there", self.error("probe", "plain", "--dump", "there"))

        def small_files() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        def few_files() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (70, 70))

        full = self.error("probe", "plain", "--dump", "full", preexec_fn=small_files)
        self.assertRegex(full, "^cannot write full/.*: File too large$")
        self.assertIn("may be open at once", self.error("probe", "plain", "--dump", "many", preexec_fn=few_files))
        self.assertIn("has room for", self.error("probe", "plain", "--dump", "/proc/dump"))
        self.assertFalse(Path("full").exists() or Path("many").exists())


if __name__ == "__main__":
    common.main()
