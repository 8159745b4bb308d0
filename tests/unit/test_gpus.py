"""sinkstudy/run/gpus.py: which GPUs a workflow may use, and places on them. No GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unittest
from contextlib import ExitStack
from typing import Any
from unittest import mock

sys.dont_write_bytecode = True

from sinkstudy.run import gpus

# A second process: says where it is, and stays until its input ends.
OTHER = """\
import json, sys
from sinkstudy.run import gpus
with gpus.place(json.loads(sys.argv[1]), "cuda") as there:
    print(there["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


class Visible(unittest.TestCase):
    def visible(self, count: int, named: str | None) -> list[str]:
        environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
        with mock.patch.dict(os.environ, environment):
            if named is None:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            return gpus.visible(count)

    def test_names(self) -> None:
        self.assertEqual(self.visible(2, None), ["0", "1"])
        self.assertEqual(self.visible(2, "3,5,7"), ["3", "5"], "the first of those that this process may use")
        self.assertEqual(self.visible(1, "GPU-ab,GPU-cd"), ["GPU-ab"])


class Places(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="sinklab-gpus-")
        self.addCleanup(folder.cleanup)
        self.work: dict[str, Any] = {"store": folder.name, "gpus": ["0", "MIG-a/1"], "per_gpu": 2}

    def other(self, work: dict[str, Any]) -> subprocess.Popen[str]:
        p = subprocess.Popen([sys.executable, "-c", OTHER, json.dumps(work)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        assert p.stdin and p.stdout
        self.addCleanup(p.stdin.close)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        return p

    def where(self, p: subprocess.Popen[str]) -> str:
        assert p.stdout
        return p.stdout.readline().strip()

    def test_cpu(self) -> None:
        """A run of the CPU waits for nothing and gets nothing."""
        with gpus.place(self.work, "cpu") as there:
            self.assertEqual(there, {})
        with gpus.place({"store": self.work["store"]}, "cuda") as there:
            self.assertEqual(there, {}, "a workflow without GPUs leaves it to the program")
        self.assertEqual(os.listdir(self.work["store"]), [])

    def test_even(self) -> None:
        """Each GPU has one run before any has two; a place that is left is the next one's."""
        names = ["0", "MIG-a/1", "0", "MIG-a/1"]
        self.assertEqual([name for name, _ in gpus.places(self.work)], names)
        self.assertEqual(len({path for _, path in gpus.places(self.work)}), 4)
        with ExitStack() as stack:
            held = [stack.enter_context(gpus.place(self.work, "cuda")) for _ in range(3)]
            self.assertEqual(held, [{"CUDA_VISIBLE_DEVICES": name} for name in names[:3]])
            with gpus.place(self.work, "auto") as there:
                self.assertEqual(there, {"CUDA_VISIBLE_DEVICES": names[3]})
            with gpus.place(self.work, "cuda") as there:
                self.assertEqual(there, {"CUDA_VISIBLE_DEVICES": names[3]})
        with gpus.place(self.work, "cuda") as there:
            self.assertEqual(there, {"CUDA_VISIBLE_DEVICES": "0"})

    def test_waits(self) -> None:
        """While all places are held another process waits; then it has the one that was left."""
        work = self.work | {"per_gpu": 1}
        naps = 0
        with ExitStack() as stack:
            first = self.other(work)
            self.assertEqual(self.where(first), "0")
            second = stack.enter_context(gpus.place(work, "cuda"))
            self.assertEqual(second, {"CUDA_VISIBLE_DEVICES": "MIG-a/1"})

            def nap(seconds: float) -> None:
                """Of this process, which waits now: the first look found no place, and the other leaves."""
                nonlocal naps
                naps += 1
                if naps == 1:
                    assert first.stdin
                    first.stdin.close()
                    first.wait()
            with mock.patch.object(gpus.time, "sleep", nap), gpus.place(work, "cuda") as there:
                self.assertEqual(there, {"CUDA_VISIBLE_DEVICES": "0"})
        self.assertEqual(naps, 1)

    def test_killed(self) -> None:
        """The place of a process that was killed is free."""
        work = self.work | {"gpus": ["0"], "per_gpu": 1}
        p = self.other(work)
        self.assertEqual(self.where(p), "0")
        p.kill()
        p.wait()
        with gpus.place(work, "cuda") as there:
            self.assertEqual(there, {"CUDA_VISIBLE_DEVICES": "0"})


if __name__ == "__main__":
    unittest.main()
