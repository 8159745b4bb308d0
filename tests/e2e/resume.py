"""Interrupted and resumed is uninterrupted, bit for bit; what must not be resumed is refused."""

import shutil
import signal
from pathlib import Path
from typing import ClassVar

import common
from common import UNIT

STEPS = 12 * UNIT
ARGS = [f"train.steps={STEPS}", f"train.eval_every={UNIT}", f"train.probe_every={UNIT}",
        f"train.checkpoint_every={3 * UNIT}", "model.norm=gated_norm"]


class Resume(common.EndToEnd):
    whole: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.whole = cls().train("whole", *ARGS)

    def interrupt(self, out: Path, number: int, steps: int, *args: object) -> str:
        """Starts, or goes on with, a run and sends a signal after so many steps; the last line it says."""
        p = self.start(out, *ARGS, *args)
        self.wait_for_steps(p, out, steps)
        p.send_signal(number)
        self.assertEqual(p.wait(), 1)
        return common.stream(p.stderr).read().decode().splitlines()[-1]

    def test_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number.name):
                out = Path(number.name)
                message = self.interrupt(out, number, UNIT // 2)
                self.assertRegex(message, r"error: interrupted at step \d+; a checkpoint was saved")
                step = common.lines(out / "metrics.jsonl")[-1]["step"]
                self.assertEqual(int(common.complete(out)[-1].name), step)
                self.assertIn(f"at step {step};", message)
                self.assertLess(step, STEPS)
                self.assertFalse((out / "result.json").exists())
                while step < 8 * UNIT:
                    self.interrupt(out, number, step + UNIT, "--resume")
                    step = common.lines(out / "metrics.jsonl")[-1]["step"]
                self.train(out, *ARGS, "--resume")
                self.assert_same_run(self.whole, out)

    def test_what_reads_across_layers(self) -> None:
        for name, args in (("anchors", ["model.anchors=external", "model.anchors_opts.dynamic=true"]),
                           ("oasis", ["model.residual=oasis", "model.attention=softmax1",
                                      "model.residual_opts.form=states"])):
            with self.subTest(name):
                whole, out = self.train(f"{name}-whole", *ARGS, *args), Path(name)
                self.interrupt(out, signal.SIGTERM, UNIT // 2, *args)
                self.train(out, *ARGS, *args, "--resume")
                self.assert_same_run(whole, out)

    def test_killed_between_checkpoints(self) -> None:
        """Steps after the checkpoint are done again; a line cut in half by the end is no harm."""
        out = Path("between")
        p = self.start(out, *ARGS)
        self.wait_for_steps(p, out, 3 * UNIT + UNIT // 10)
        p.kill()
        p.wait()
        for name in ("metrics.jsonl", "probe.jsonl"):
            with open(out / name, "a") as f:
                f.write('{"step":99')
        self.train(out, *ARGS, "--resume")
        self.assert_same_run(self.whole, out)

    def test_optimizers_and_tasks(self) -> None:
        """Each optimizer's state is in the checkpoint, and a task's place needs no state; to go on with another
        optimizer is refused."""
        table = self.json("config", "train.optimizer", "--json")[0]["choices"]
        tasks = ["synthetic:backcopy", "synthetic:mean", "corpus.txt"]
        for i, optimizer in enumerate(choice["value"] for choice in table):
            with self.subTest(optimizer):
                args = [f"train.steps={6 * UNIT}", f"train.optimizer={optimizer}", f"data.corpus={tasks[i % 3]}",
                        "data.bos_place=random"]
                whole, out = self.train(f"o-{optimizer}", *ARGS, *args), Path(f"i-{optimizer}")
                self.interrupt(out, signal.SIGTERM, UNIT // 2, *args)
                self.train(out, *ARGS, *args, "--resume")
                self.assert_same_run(whole, out)
                other = table[i - 1]["value"]
                message = self.error("train", "t.yaml", "--out", out, *ARGS, *args, f"train.optimizer={other}",
                                     "--resume")
                self.assertIn(f"train.optimizer: {optimizer} and {other}", message)

    def test_no_checkpoint_yet(self) -> None:
        """A run that died before its first checkpoint starts anew."""
        out = Path("early")
        p = self.start(out, *ARGS)
        self.wait_for_steps(p, out, 1)
        p.kill()
        p.wait()
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        self.assertIn("already holds a run", self.error("train", "t.yaml", *ARGS, "--out", out))
        self.assertIn("another configuration: seed", self.error("train", "t.yaml", *ARGS, "--out", out, "--resume",
                                                                "seed=3"))
        self.train(out, *ARGS, "--resume")
        self.assert_same_run(self.whole, out)

    def test_damaged_newest(self) -> None:
        """A damaged checkpoint is passed over with a warning for the one before."""
        out = Path("damaged")
        shutil.copytree(self.whole, out)
        newest = common.complete(out)[-1] / "optimizer.safetensors"
        data = bytearray(newest.read_bytes())
        data[-1] ^= 1
        newest.write_bytes(data)
        for verb in ("eval", "probe", "generate"):
            p = self.sinklab(verb, out)
            self.assertRegex(p.stderr.decode(), rf"^warning: .*{STEPS:08}: damaged checkpoint: .*; reading "
                                                rf".*{9 * UNIT:08} instead\n$")
        p = self.sinklab("train", "t.yaml", *ARGS, "--out", out, "--resume")
        self.assertRegex(p.stderr.decode(), f"warning: .*{STEPS:08}: damaged checkpoint: .*; going on from "
                                            f".*{9 * UNIT:08}")
        self.assert_same_run(self.whole, out)

    def test_finished(self) -> None:
        """Nothing is left to do, and nothing changes."""
        out = Path("finished")
        shutil.copytree(self.whole, out)
        self.train(out, *ARGS, "--resume")
        self.assert_same_run(self.whole, out)

    def test_finished_cleans(self) -> None:
        """Killed while an old checkpoint was being removed after the last step: nothing is left to save, but to
        sweep."""
        out = Path("swept")
        shutil.copytree(self.whole, out)
        newest = common.complete(out)[-1]
        shutil.copytree(newest, out / "checkpoints" / "00000001.tmp")
        (out / "result.json").unlink()
        self.train(out, *ARGS, "--resume")
        self.assertEqual(list((out / "checkpoints").glob("*.tmp")), [])
        self.assertTrue((newest / "DONE").exists())

    def test_other_threads_and_cadence(self) -> None:
        out = Path("cadence")
        self.interrupt(out, signal.SIGTERM, UNIT // 2)
        self.train(out, *ARGS, "--resume", "threads=2", "train.checkpoint_every=0", "train.eval_every=0",
                   "train.probe_every=0")
        self.assert_same_weights(self.whole, out)

    def test_more_steps_is_another_run(self) -> None:
        """The learning rate is a function of train.steps, so the steps done would have been others."""
        out = Path("more")
        shutil.copytree(self.whole, out)
        before = sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
        message = self.error("train", "t.yaml", *ARGS, f"train.steps={13 * UNIT}", "--out", out, "--resume")
        self.assertIn(f"another configuration: train.steps: {STEPS} and {13 * UNIT}", message)
        self.assertEqual(before, sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*")))

    def test_second_process(self) -> None:
        """While a run is on, another one cannot write into its folder."""
        out = Path("busy")
        p = self.start(out, *ARGS)
        self.wait_for_steps(p, out, UNIT // 10)
        p.send_signal(signal.SIGSTOP)
        try:
            self.assertIn("another process is training there",
                          self.error("train", "t.yaml", *ARGS, "--out", out, "--resume"))
        finally:
            p.send_signal(signal.SIGCONT)
        self.assertEqual(p.wait(120), 0)
        self.assert_same_run(self.whole, out)


if __name__ == "__main__":
    common.main()
