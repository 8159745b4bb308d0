"""The Python package: training runs, what stops them, and schemas of what they write."""
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(os.environ["SL_TESTS"], "e2e")))
import common
import sinklab
from sinklab import _lib


@contextlib.contextmanager
def signals_between_batches(at: set[int]) -> Iterator[set[int]]:
    """Ctrl-C comes while the library asks for the N-th time whether to stop; gives those that are still to be sent."""
    def stand_in(stop: Callable[[Any], bool]) -> None:
        _lib.ffi.def_extern(name="sl_python_stop", onerror=_lib._keep, error=True)(stop)

    asked = 0

    def stop(ctx: Any) -> bool:
        nonlocal asked
        asked += 1
        if asked in at:
            at.remove(asked)
            os.kill(os.getpid(), signal.SIGINT)
        return _lib._stop(ctx)

    stand_in(stop)
    try:
        yield at
    finally:
        stand_in(_lib._stop)



class Training(common.EndToEnd):
    def steps(self, run: sinklab.Run) -> list[dict]:
        return common.untimed([dict(step) for step in run])

    def test_runs_are_those_of_the_verb(self) -> None:
        verb = self.train("verb")
        run = sinklab.train("t.yaml", out="python")
        steps = self.steps(run)
        self.assertEqual(steps, common.untimed(common.lines(verb / "metrics.jsonl")))
        assert run.result is not None
        self.assertEqual(run.result["status"], "finished")
        run.stop()
        self.assert_same_run(verb, Path("python"))
        self.assertEqual({p.name for p in verb.iterdir()}, {p.name for p in Path("python").iterdir()})
        self.assertEqual(steps, self.steps(sinklab.train("t.yaml")))  # without a folder

    def test_stopped_and_resumed(self) -> None:
        whole = self.train("whole")
        run = sinklab.train("t.yaml", out="parts")
        for step in run:
            if step.step == 13:
                self.assertAlmostEqual(run.probe()["tokens"], 16 * 32)
                break
        self.assertEqual((run.step, len(run)), (13, 40))
        self.assertIn("another process", self.error("train", "t.yaml", "--out", "parts", "--resume"))
        run.stop()
        with self.assertRaisesRegex(sinklab.Error, "closed"):
            next(iter(run))
        self.assertEqual(len(self.steps(run.resume())), 27)
        run.stop()
        self.assert_same_run(whole, Path("parts"))

    def test_a_pause_changes_nothing(self) -> None:
        run, more = sinklab.train("t.yaml"), sinklab.train("t.yaml", seed=2)
        for _, _ in zip(run, more):
            break
        steps = self.steps(run)
        self.assertEqual(steps, self.steps(sinklab.train("t.yaml"))[1:])

    def test_an_interrupt_in_an_evaluation(self) -> None:
        """Ctrl-C is raised between two batches, and training goes on to the same bits."""
        keys = {"train.eval_every": 1, "train.eval_windows": 1000, "train.probe_every": 0, "train.checkpoint_every": 0,
                "train.steps": 8}
        expected = self.steps(sinklab.train("t.yaml", keys=keys))
        run, got, broken = sinklab.train("t.yaml", keys=keys), [], 0
        with signals_between_batches({2, 3, 9}) as sent:
            while run.step < 8 or run.result is None:
                try:
                    for step in run:
                        got.append(dict(step))
                except KeyboardInterrupt:
                    broken += 1
        self.assertEqual(broken, 3)
        self.assertFalse(sent)
        told: dict[int, dict] = {step["step"]: step for step in common.untimed(got)}
        self.assertLessEqual(set(told), set(range(1, 9)))
        for at, figures in told.items():
            self.assertEqual(figures, expected[at - 1])
        assert run.result is not None
        self.assertEqual(run.result["val_loss"], expected[-1]["val_loss"])

    def test_models_of_a_run(self) -> None:
        run = sinklab.train("t.yaml", out="model")
        early = None
        for step in run:
            if step.step == 5:
                early = run.model()
        assert early is not None
        late = run.model()
        run.stop()
        self.assertNotEqual(early.eval()["loss"], late.eval()["loss"])
        self.assertEqual(late.eval(), sinklab.open("model").eval())
        keys = {"data.corpus": "corpus.txt", "model.seq": 32, "precision": "fp32", "train": {"steps": 1, "warmup": 0}}
        begun = sinklab.train(keys, init="model")
        self.assertEqual(begun.config["model.dim"], 32)
        self.assertEqual(begun.model().eval(windows=8)["loss"], late.eval(windows=8)["loss"])
        with sinklab.train("t.yaml", out="with") as run:
            next(iter(run))
        self.assertEqual(sinklab.open("with").path, "with/checkpoints/00000001")

    def test_progress(self) -> None:
        """A bar where it is wanted; none is in the way of a program whose output goes to a file."""
        for progress, shown in ((True, "40/40"), (None, "")):
            with contextlib.redirect_stderr(io.StringIO()) as said:
                for _ in sinklab.train("t.yaml", progress=progress):
                    pass
            self.assertIn(shown, said.getvalue())
            self.assertEqual(bool(shown), bool(said.getvalue()))

    def test_errors(self) -> None:
        self.train("there")
        for message, call in {
                "already holds a run": lambda: sinklab.train("t.yaml", out="there"),
                "holds no run": lambda: sinklab.train("t.yaml", out="none", resume=True),
                "without a folder": lambda: sinklab.train("t.yaml", resume=True),
                "another configuration": lambda: sinklab.train("t.yaml", out="there", resume=True, seed=2),
                "cannot open checkpoint": lambda: sinklab.train("t.yaml", init="nothing"),
                "no folder to save to": lambda: sinklab.train("t.yaml").save()}.items():
            with self.subTest(message), self.assertRaisesRegex(sinklab.Error, message):
                call()
        run = sinklab.train("t.yaml", out="wild", keys={"train.lr": 100, "train.warmup": 0, "train.clip_norm": 0})
        with self.assertRaisesRegex(sinklab.Error, "training stopped at step"):
            self.steps(run)
        with self.assertRaisesRegex(sinklab.Error, "ended at step"):
            self.steps(run)
        self.assertEqual(json.loads(Path("wild/result.json").read_text())["status"], "stopped")
        step = next(iter(sinklab.train("t.yaml")))
        with self.assertRaisesRegex(AttributeError, "has no val_loss; it has step, loss"):
            step.val_loss  # noqa: B018


if __name__ == "__main__":
    common.main()
