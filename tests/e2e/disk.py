"""A disk that fills up: a message, exit code 1, nothing lost, and the run goes on when there is space again."""

import json
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import common
from common import UNIT

ARGS = [f"train.steps={6 * UNIT}", f"train.checkpoint_every={UNIT}", "train.eval_every=0", "train.probe_every=0"]


class Disk(common.EndToEnd):
    whole: ClassVar[Path]
    sizes: ClassVar[dict[str, int]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.whole = cls().train("whole", *ARGS)
        checkpoint = common.complete(cls.whole)[-1]
        cls.sizes = {p.name: p.stat().st_size for p in checkpoint.iterdir()}

    def first_part(self, out: Path) -> Path:
        """The run up to some step after the first checkpoint."""
        p = self.start(out, *ARGS)
        self.wait_for_steps(p, out, UNIT + UNIT // 2)
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(), 1)
        return out

    def assert_kept(self, out: Path, before: list[Path]) -> None:
        self.assertEqual(common.complete(out), before)
        self.assertEqual(sorted((out / "checkpoints").iterdir()), before, "an unfinished checkpoint was left")
        self.assertGreater(self.json("eval", out, "--json")["loss"], 0)

    def test_file_size_limit(self) -> None:
        """`ulimit -f`: no file may grow beyond the limit, first in the optimizer's file, then in the model's."""
        out = self.first_part(Path("limited"))
        before = common.complete(out)
        for name in ("optimizer.safetensors", "model.safetensors"):
            limits = self.sizes[name] - 1, self.sizes[name] - 1
            p = self.sinklab("train", "t.yaml", *ARGS, "--out", out, "--resume", code=1,
                             preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits))
            self.assertRegex(p.stderr.decode().splitlines()[-1],
                             rf"^sinklab: error: checkpoint of step \d+ not saved: cannot write .*{name}: File too "
                             rf"large$")
            self.assert_kept(out, before)
            result = json.loads((out / "result.json").read_text())
            self.assertEqual((result["status"], result["stopped_by"]), ("stopped", "failure"))
        self.train(out, *ARGS, "--resume")
        self.assert_same_run(self.whole, out)

    def test_other_outputs(self) -> None:
        """What does not fit is not left in half."""
        def few() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        self.sinklab("tokenize", "corpus.txt", "--out", "t.bin")
        self.assertIn("File too large", self.error("tokenize", "corpus.txt", "--out", "x.bin", preexec_fn=few))
        self.assertIn("File too large", self.error("tokenize", "--decode", "t.bin", "--out", "x.txt", preexec_fn=few))
        self.assertFalse([*Path(".").glob("x.*")])

    def test_full(self) -> None:
        """A file system of its own that is too small, where this may be mounted."""
        probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
        if probe.returncode != 0:
            self.skipTest(f"cannot mount a tmpfs: {probe.stderr.decode().strip()}")
        Path("small").mkdir()
        p = subprocess.run(["unshare", "-rm", sys.executable, __file__, common.SINKLAB, "Disk.inside_small_disk"],
                           capture_output=True, env={**os.environ, "SMALL": str(self.folder / "small"),
                                                     "SIZES": json.dumps(self.sizes)})
        self.assertEqual(p.returncode, 0, p.stderr.decode())

    def inside_small_disk(self) -> None:
        """Run by test_full in a mount namespace. Space is taken by a file of zeros and given back."""
        small = Path(os.environ["SMALL"])
        one = sum(json.loads(os.environ["SIZES"]).values()) + 6 * 4096
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={5 * one}", "none", small], check=True)
        out, filler = self.first_part(small / "run"), small / "filler"
        before = common.complete(out)
        for room in (0, 5000, one // 8, one // 2, one - 30000):
            disk = os.statvfs(small)
            filler.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - room)))
            p = self.sinklab("train", "t.yaml", *ARGS, "--out", out, "--resume", code=1)
            message = p.stderr.decode().splitlines()[-1]
            self.assertRegex(message, "^sinklab: error: .*No space left on device$")
            self.assert_kept(out, before)
            filler.unlink()
        self.train(out, *ARGS, "--resume")
        self.assert_same_run(self.whole, out)


if __name__ == "__main__":
    common.main()
