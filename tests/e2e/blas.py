"""gemm=blas: a CBLAS library that is loaded when asked for, and only then."""

import os
import resource
import subprocess
import unittest

import common
from common import UNIT

MODEL = ["model.layers=2", "model.dim=48", "model.heads=4", "model.ffn=70", "model.seq=50", "train.batch=3",
         f"train.steps={max(4, UNIT // 16)}", "train.warmup=1", "train.eval_every=2", "train.checkpoint_every=0"]
FAKE = {"SINKLAB_BLAS": os.environ["SINKLAB_FAKE_BLAS"]}


class Blas(common.EndToEnd):
    def losses(self, name: str, *args: object, env: dict[str, str]) -> list[float]:
        run = self.train(name, *MODEL, *args, env={**os.environ, **env})
        return [r["loss"] for r in common.lines(run / "metrics.jsonl") if "loss" in r]

    def assert_near(self, a: list[float], b: list[float]) -> None:
        self.assertEqual(len(a), len(b))
        for x, y in zip(a, b):
            self.assertAlmostEqual(x, y, delta=1e-4)

    def test_a_library_trains_the_same(self) -> None:
        own = self.losses("own", env={})
        self.assertGreater(len(own), 2)
        self.assert_near(self.losses("fake", "gemm=blas", "threads=2", env=FAKE), own)
        # It is the library that multiplies: when that begins to give zeros the losses are others.
        zeros = self.losses("zeros", "gemm=blas", "threads=2", "train.guard=off", env={**FAKE, "FAKE_BLAS": "later"})
        self.assertGreater(max(abs(x - y) for x, y in zip(zeros, own)), 1e-2)

    def test_an_installed_library_trains_the_same(self) -> None:
        env = {k: v for k, v in os.environ.items() if k != "SINKLAB_BLAS"}
        p = subprocess.run([common.SINKLAB, "train", "t.yaml", "--out", "installed", *MODEL, "gemm=blas", "threads=2"],
                           env=env, capture_output=True, text=True, timeout=300)
        if p.returncode == 1 and "no CBLAS library was found" in p.stderr:
            self.skipTest("no CBLAS library is installed")
        self.assertEqual(p.returncode, 0, p.stderr)
        ours = self.losses("ours", env={})
        self.assert_near(self.losses("installed", "--resume", "gemm=blas", "threads=2", env={}), ours)

    def test_it_is_a_setting_of_the_run(self) -> None:
        """A finished run is evaluated, and looked at again, either way."""
        run = self.train("setting", *MODEL)
        env = {**os.environ, **FAKE}
        self.sinklab("eval", run, "gemm=blas", env=env)
        self.sinklab("train", "t.yaml", "--out", run, "--resume", *MODEL, "gemm=blas", env=env)
        self.assertIn("seed", self.error("train", "t.yaml", "--out", run, "--resume", *MODEL, "seed=2"))

    def test_nothing_is_linked_or_loaded_without_need(self) -> None:
        linked = subprocess.run(["ldd", common.SINKLAB], capture_output=True, text=True, check=True).stdout.lower()
        self.assertIn("libyaml", linked)
        for name in ("blas", "blis", "mkl"):
            self.assertNotIn(name, linked)

    @unittest.skipIf("SINKLAB_SLOW" in os.environ, "sanitizers take all addresses there are")
    def test_help_in_little_memory(self) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20))

        p = subprocess.run([common.SINKLAB, "--help"], preexec_fn=limit, capture_output=True, text=True, timeout=300)
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn("Usage: sinklab VERB", p.stdout)


if __name__ == "__main__":
    common.main()
