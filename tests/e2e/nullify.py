"""Sink channels replaced at the norms: in training, and on checkpoints that were trained without."""

import json
import signal
from pathlib import Path
from typing import ClassVar

import common
from common import UNIT

MODES = ("both", "output", "denominator")


class Nullify(common.EndToEnd):
    plain: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.plain = cls().train("plain", "train.steps=60")

    def loss(self, *args: object) -> tuple[float, str]:
        """Loss by eval, and what it said."""
        p = self.sinklab("eval", *args, "--json")
        return json.loads(p.stdout)["loss"], p.stderr.decode()

    def test_finished_checkpoint(self) -> None:
        """Each mode changes the loss its own way; means come from one pass over the training text, and any number of
        threads gives the same."""
        losses = {}
        for mode in MODES:
            args = [self.plain, "model.sink_nullify=4", f"model.sink_nullify_mode={mode}"]
            losses[mode], said = self.loss(*args)
            self.assertIn("holds no channel means; taken from 64 windows of the training text", said)
            self.assertEqual(losses[mode], self.loss(*args, "threads=3")[0])
            self.assertNotEqual(losses[mode], self.loss(*args, "model.sink_nullify_value=mean")[0])
        for mode, value in (("denominator", "rms"), ("output", "mean_output")):
            args = [self.plain, "model.sink_nullify=4", f"model.sink_nullify_mode={mode}",
                    f"model.sink_nullify_value={value}"]
            losses[value], said = self.loss(*args)
            self.assertIn("holds no channel means; taken from 64 windows of the training text", said)
            self.assertEqual(losses[value], self.loss(*args, "threads=3")[0])
        plain, said = self.loss(self.plain)
        self.assertEqual(said, "")
        self.assertEqual(len({plain, *losses.values()}), 6)
        self.assertGreater(losses["both"], plain)
        probe = self.json("probe", self.plain, "model.sink_nullify=4", "--json")
        validation = self.loss(self.plain, "model.sink_nullify=4", "--windows", 32)[0]
        self.assertAlmostEqual(probe["val_loss"], validation, places=4)  # sums of other batches

    def test_from_a_position_on(self) -> None:
        """The first positions keep their channels, in every verb and for any number of threads."""
        keys = [self.plain, "model.sink_nullify=4", "model.sink_nullify_from=2"]
        loss, said = self.loss(*keys)
        self.assertIn("holds no channel means; taken from 64 windows of the training text", said)
        self.assertEqual(loss, self.loss(*keys, "threads=3")[0])
        self.assertEqual(len({loss, self.loss(*keys[:2])[0], self.loss(self.plain)[0]}), 3)
        probe = self.json("probe", *keys, "--json")
        self.assertAlmostEqual(probe["val_loss"], self.loss(*keys, "--windows", 32)[0], places=4)
        quantised = self.json("quantize", *keys, "--scheme", "w8a8-channel-token", "--windows", 4, "--json")
        self.assertAlmostEqual(quantised["fp32"]["loss"], self.loss(*keys, "--windows", 4)[0], places=4)
        message = self.error("eval", *keys[:2], "model.sink_nullify_from=4096", code=2)
        self.assertIn("model.sink_nullify_from = 4096 leaves no position to edit in windows of model.seq", message)

    def test_text_of_a_changed_model(self) -> None:
        """generate measures the means as eval does, and writes another text; any number of threads the same one."""
        text = {}
        for keys in ((), ("model.sink_nullify=4",), ("model.sink_nullify=4", "threads=3"), ("model.clip=0.05",)):
            p = self.sinklab("generate", self.plain, "--prompt", "the ", "--tokens", 24, "--temperature", 0, *keys)
            text[keys] = p.stdout
            self.assertEqual("taken from 64 windows" in p.stderr.decode(), "model.sink_nullify=4" in keys)
        self.assertEqual(text["model.sink_nullify=4",], text["model.sink_nullify=4", "threads=3"])
        self.assertEqual(len(set(text.values())), 3)

    def test_random_channels(self) -> None:
        """A control: other channels with each seed."""
        keys = [self.plain, "model.sink_nullify=4"]
        largest, _ = self.loss(*keys)
        others = [self.loss(*keys, "model.sink_nullify_channels=random", f"seed={seed}")[0] for seed in (1, 1, 2)]
        self.assertEqual(others[0], others[1])
        self.assertEqual(len({largest, *others}), 3)

    def test_nothing_measures_elsewhere(self) -> None:
        common.npy("tokens.npy", [1, 2, 3])
        message = self.error("logits", self.plain, "--tokens", "tokens.npy", "--out", "l.npy", "model.sink_nullify=4")
        self.assertIn("holds no channel means; eval, probe and generate measure them", message)
        message = self.error("train", "t.yaml", "--out", "dyt", "model.norm=dyt", "model.sink_nullify=1",
                             "model.sink_nullify_mode=denominator", code=2)
        self.assertIn("model.sink_nullify_mode=denominator needs a norm that divides", message)
        self.assertFalse(Path("dyt").exists())
        message = self.error("eval", self.plain, "model.sink_nullify=40", code=2)
        self.assertEqual(message, "model.sink_nullify = 40 channels are more than model.dim = 32")

    def test_trained_with(self) -> None:
        """The means are in the checkpoint: nothing is measured, and the intervention can be changed or left out."""
        run = self.train("with", "model.sink_nullify=2", "model.sink_nullify_final=true", "train.steps=60")
        own, said = self.loss(run)
        self.assertEqual(said, "")
        for change in ("model.sink_nullify=0", "model.sink_nullify=5", "model.sink_nullify_mode=output",
                       "model.sink_nullify_final=false"):
            other, said = self.loss(run, change)
            self.assertEqual(said, "", change)
            self.assertNotEqual(own, other, change)
        other, said = self.loss(run, "model.sink_nullify_from=1")  # whose means are those of other positions
        self.assertIn("holds no channel means; taken from 64 windows of the training text", said)
        self.assertNotEqual(own, other)
        self.assertTrue(self.sinklab("generate", run, "--prompt", "the ", "--tokens", 8).stdout)

    def test_resume(self) -> None:
        args = [f"train.steps={6 * UNIT}", "model.sink_nullify=3", "model.sink_nullify_value=rms",
                "model.sink_nullify_from=1", "model.sink_nullify_mode=denominator", f"train.checkpoint_every={UNIT}"]
        whole, out = self.train("whole", *args), Path("parts")
        p = self.start(out, *args)
        self.wait_for_steps(p, out, UNIT // 2)
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(), 1)
        self.train(out, *args, "--resume")
        self.assert_same_run(whole, out)
        for keys in (("model.sink_nullify=0",), ("model.sink_nullify_from=0", "model.sink_nullify_value=zero")):
            self.loss(whole, *keys)  # its states are in nobody's way


if __name__ == "__main__":
    common.main()
