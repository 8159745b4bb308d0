"""kill -9 at random moments, again and again: every checkpoint that is left is right, and the end has the same bits."""

import os
import random
import time
from pathlib import Path

import common
from common import UNIT

ARGS = [f"train.steps={4 * UNIT}", f"train.checkpoint_every={UNIT // 20}", f"train.eval_every={UNIT // 2}",
        f"train.probe_every={UNIT // 5}"]
KILLS = 20


class Crash(common.EndToEnd):
    @staticmethod
    def arguments(out: Path) -> list[str]:
        """A kill may have come before there was a run to go on with."""
        return [*ARGS, "--resume"] if (out / "config.yaml").exists() else ARGS

    def check(self, out: Path, whole: Path) -> None:
        """Whatever claims to be whole has the bits that the uninterrupted run had at that step."""
        for p in common.complete(out):
            for name in ("model.safetensors", "optimizer.safetensors"):
                same = (p / name).read_bytes() == (whole / "checkpoints" / p.name / name).read_bytes()
                self.assertTrue(same, f"{p}/{name} is not that of the uninterrupted run")

    def test_kill(self) -> None:
        seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
        print(f"SEED={seed}", flush=True)  # the same delays again; not the same moments
        rng = random.Random(seed)
        begin = time.monotonic()
        whole = self.train("whole", *ARGS, "train.keep_checkpoints=1000")
        duration = time.monotonic() - begin
        self.assertEqual(len(common.complete(whole)), 80)
        kills, reach = 0, duration / 4
        landed: set[str] = set()
        finished: list[Path] = []
        out = Path("run0")
        while kills < KILLS:
            p = self.start(out, *self.arguments(out))
            time.sleep(rng.uniform(0, reach))
            ended = p.poll()
            p.kill()
            p.wait()
            if ended is None:
                kills += 1
                newest = common.complete(out)[-1:]
                place = newest[0].name if newest else "none"
                if place in landed:  # a busy machine: wait longer, or the run never gets on
                    reach *= 1.25
                landed.add(place)
            else:  # nothing was left to do: this one goes to the comparison, and another begins
                self.assertEqual(ended, 0, common.stream(p.stderr).read().decode())
                finished.append(out)
                out = Path(f"run{len(finished)}")
            self.check(out, whole)
        self.train(out, *self.arguments(out))
        for run in [*finished, out]:
            self.assert_same_run(whole, run)
            self.assertFalse(list((run / "checkpoints").glob("*.*")), "leftovers of a crash")
        print(f"{kills} kills over {len(finished) + 1} runs, newest checkpoints then: {sorted(landed)}")
        self.assertGreater(len(landed), 3, "the kills did not spread over the run")


if __name__ == "__main__":
    common.main()
