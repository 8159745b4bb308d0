"""What the end-to-end tests share: a corpus, a small configuration, running `sinklab`, comparing runs.

A test program is `python3 NAME.py SINKLAB [unittest arguments]`; only Python's own library is needed.
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import IO, Any, ClassVar

SINKLAB = ""  # set by main()
# The length of runs is counted in this many steps: long enough to be met in the middle, fewer where each is slow.
UNIT = 20 if os.environ.get("SINKLAB_SLOW") else 100

CONFIG = """
model: {layers: 2, dim: 32, heads: 2, ffn: 64, seq: 32}
data: {corpus: corpus.txt}
train: {steps: 40, batch: 4, lr: 4e-3, warmup: 5, eval_every: 10, eval_windows: 8, probe_every: 10,
  checkpoint_every: 10}
precision: fp32
threads: 1
"""
TIMINGS = {"seconds", "tokens_per_s", "gflops"}


def corpus_text() -> str:
    """Sentences of a few words in random order: there is something to learn, and some noise stays."""
    rng = random.Random(1)
    words = "the cat sat on a mat and saw an old dog run far away from its house by the sea".split()
    return "".join(" ".join(rng.choices(words, k=9)) + ".\n" for _ in range(800))


def npy(name: str, tokens: list[int]) -> None:
    """A file of int32 tokens."""
    head = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({len(tokens)},), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    Path(name).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()
                           + struct.pack(f"<{len(tokens)}i", *tokens))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in records]


def complete(run: Path) -> list[Path]:
    """The checkpoints of a run that claim to be whole, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("????????") if (p / "DONE").exists())


def stream(of: IO | None) -> IO:
    """A stream that Popen was asked for."""
    assert of is not None
    return of


class EndToEnd(unittest.TestCase):
    """Tests run in a folder of their class, which goes away in the end."""

    maxDiff = 2000
    folder: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="sinklab-e2e-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(os.chdir, os.getcwd())
        os.chdir(cls.folder)
        Path("corpus.txt").write_text(corpus_text())
        Path("t.yaml").write_text(CONFIG)

    def sinklab(self, *args: object, code: int = 0, **kwargs: Any) -> subprocess.CompletedProcess:
        p = subprocess.run([SINKLAB, *map(str, args)], capture_output=True, **kwargs)
        self.assertEqual(p.returncode, code, f"sinklab {args}: {p.stderr.decode(errors='replace')}")
        return p

    def train(self, out: str | Path, *args: object, **kwargs: Any) -> Path:
        self.sinklab("train", "t.yaml", "--out", out, *args, **kwargs)
        return Path(out)

    def error(self, *args: object, code: int = 1, **kwargs: Any) -> str:
        """The message of a command that must fail."""
        last = self.sinklab(*args, code=code, **kwargs).stderr.decode().splitlines()[-1]
        self.assertTrue(last.startswith("sinklab: error: "), last)
        return last.removeprefix("sinklab: error: ")

    def json(self, *args: object) -> dict:
        return json.loads(self.sinklab(*args).stdout)

    def assert_same_weights(self, a: Path, b: Path) -> None:
        """The same bits in the newest checkpoints of two runs, moments included."""
        a, b = complete(a)[-1], complete(b)[-1]
        self.assertEqual(a.name, b.name)
        for name in ("model.safetensors", "optimizer.safetensors"):
            self.assertTrue((a / name).read_bytes() == (b / name).read_bytes(), f"{a} and {b} differ in {name}")

    def assert_same_run(self, a: Path, b: Path) -> None:
        """The same bits in all but the timings."""
        self.assert_same_weights(a, b)
        self.assertEqual(untimed(lines(a / "metrics.jsonl")), untimed(lines(b / "metrics.jsonl")))
        self.assertEqual((a / "probe.jsonl").read_bytes(), (b / "probe.jsonl").read_bytes())
        results = [untimed([json.loads((r / "result.json").read_text())]) for r in (a, b)]
        self.assertEqual(*results)
        states = [json.loads((complete(r)[-1] / "state.json").read_text()) for r in (a, b)]
        for s in states:
            del s["train_seconds"]
        self.assertEqual(*states)

    def start(self, out: object, *args: object, **kwargs: Any) -> subprocess.Popen:
        p = subprocess.Popen([SINKLAB, "train", "t.yaml", "--out", str(out), *map(str, args)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **kwargs)
        self.addCleanup(stream(p.stderr).close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        return p

    def wait_for_steps(self, p: subprocess.Popen, out: Path, steps: int) -> None:
        """Until the run has trained so many steps; it must not end before."""
        path = out / "metrics.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < steps:
            self.assertIsNone(p.poll(), "the run ended before it could be stopped")
            time.sleep(0.005)


def main() -> None:
    global SINKLAB
    SINKLAB = str(Path(sys.argv.pop(1)).resolve())
    os.environ["OMP_WAIT_POLICY"] = "passive"  # tests share few cores
    unittest.main(module="__main__", verbosity=2)
