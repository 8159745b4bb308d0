"""Bigram-Backcopy (arXiv 2410.13835) at reduced size: what a query that has nothing to look for attends to.

One layer and one head. At a trigger it has to copy the character before; elsewhere the bigram decides, and softmax,
which must attend to something, attends to BOS. Attention that can be nothing has no need to."""

import common

CONFIG = ["model.layers=1", "model.dim=64", "model.heads=1", "model.ffn=128", "model.seq=64",
          "data.corpus=synthetic:backcopy", "train.batch=32", "train.steps=800", "train.lr=2e-2", "train.warmup=50",
          "train.weight_decay=0", "train.eval_every=400", "train.probe_every=0", "train.checkpoint_every=0",
          "threads=2"]


class Backcopy(common.EndToEnd):
    def learn(self, attention: str, *args: str) -> dict:
        """The probe of a model that has learnt the task: about 0 nats at triggers and, with 2.22 the best, little more
        elsewhere."""
        run = self.train(attention, *CONFIG, f"model.attention={attention}", *args)
        last = [m for m in common.lines(run / "metrics.jsonl") if "val_loss" in m][-1]
        self.assertLess(last["val_loss_trigger"], 0.1)
        self.assertLess(last["val_loss_other"], 2.4)
        self.assertGreater(last["val_loss_other"], 2.15)
        share = (last["val_loss_other"] - last["val_loss"]) / (last["val_loss_other"] - last["val_loss_trigger"])
        self.assertAlmostEqual(share, 0.25, delta=0.02)  # of the positions are triggers
        self.assertIsNotNone(common.lines(run / "probe.jsonl")[-1]["att0_other"])
        return self.json("probe", run, "--windows", 64, "--json")

    def test_softmax(self) -> None:
        """Other seeds, other numbers of threads and bf16 gave .9 and more; the task's authors find about .9."""
        probe = self.learn("softmax")
        self.assertGreater(probe["att0_other"], 0.6)
        self.assertLess(probe["att0_trigger"], 0.2)

    def test_relu(self) -> None:
        kinds = [c["value"] for c in self.json("config", "model.attention", "--json")[0]["choices"]]
        if "relu" not in kinds:
            self.skipTest("this build knows no model.attention=relu")
        probe = self.learn("relu")
        self.assertLess(probe["att0_other"], 0.3)


if __name__ == "__main__":
    common.main()
