"""Studies from the command line: whole, again, changed, killed, interrupted, diverging, failing, on a full disk.

As the other programs here, but run with .venv's python: python3 tests/e2e/studies.py build/src/sinklab [-v]
[Study.test_whole].
"""

import importlib.util
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common

REPOSITORY = Path(__file__).resolve().parents[2]
MINIATURE = REPOSITORY / "tests" / "study" / "study.yaml"
LONG = ("train.steps=4000", "train.checkpoint_every=50", "train.eval_every=0", "train.probe_every=1000")  # seconds


class Study(common.EndToEnd):
    def setUp(self) -> None:
        self.runs = self.folder / self._testMethodName
        self.runs.mkdir()
        self.study = self.runs / "mini" / "study.yaml"
        self.study.parent.mkdir()
        shutil.copyfile(MINIATURE, self.study)

    def command(self, *args: str, sinklab: object = None) -> list[str]:
        return [sys.executable, "-B", "-m", "sinkstudy.run.run_studies", str(self.study.parent),
                "--runs", str(self.runs), "--sinklab", str(sinklab or common.SINKLAB), "--set",
                f"data.corpus={self.folder / 'corpus.txt'}", "--cores", "2", *args]

    def run_study(self, *args: str, code: int = 0, **kwargs: Any) -> str:
        p = subprocess.run(self.command(*args, sinklab=kwargs.pop("sinklab", None)), capture_output=True, text=True,
                           **kwargs)
        self.assertEqual(p.returncode, code, p.stdout + p.stderr + self.log())
        self.assertNotIn("Traceback", p.stderr)
        self.said = p.stderr
        return p.stdout

    def log(self) -> str:
        path = self.runs / "store" / "workflow.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def start_study(self, *args: str, **kwargs: Any) -> subprocess.Popen:
        """In a process group of its own."""
        p = subprocess.Popen(self.command(*args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True, **kwargs)
        self.addCleanup(common.stream(p.stdout).close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        return p

    def plan(self, profile: str = "quick") -> dict:
        (path,) = (self.runs / "studies" / "mini").glob(f"{profile}-*/plan.json")
        return json.loads(path.read_text())

    def results(self, profile: str = "quick") -> dict[tuple[str, int], dict]:
        """Outcomes by arm and seed."""
        return {(e["arm"], e["seed"]): json.loads((self.runs / "store" / e["outcome"]).read_text())
                for e in self.plan(profile)["runs"] if (self.runs / "store" / e["outcome"]).exists()}

    def trained(self) -> dict[str, int]:
        """Of each run how often training was started, by its log."""
        return {path.parent.name: path.read_text().count("$ sinklab train ")
                for path in (self.runs / "store").glob("*/train.log")}

    def checkpoints(self) -> set[Path]:
        return {*(self.runs / "store").glob("*/checkpoints/*/DONE")}

    def edit(self, old: str, new: str) -> None:
        text = self.study.read_text()
        self.assertIn(old, text)
        self.study.write_text(text.replace(old, new))

    def test_whole(self) -> None:
        """Two arms, two seeds; again, by a program of another git version: nothing; an arm changed: that one; other
        measures: no training."""
        out = self.run_study()
        for arm, seed in (("baseline", 1), ("baseline", 2), ("layernorm", 1), ("layernorm", 2)):
            self.assertRegex(out, rf"\[\d/4\] {arm} seed {seed}: loss \d")
        self.assertRegex(out, r"same_loss +(not )?shown")
        found = self.results()
        self.assertEqual({r["status"] for r in found.values()}, {"finished"})
        for name in ("val_loss", "m2", "peak.max", "lambda_sink", "contribution.projected", "norms.attn_in",
                     "zero.loss_change", "zero.m2", "zero.accuracy", "zero.cloze",
                     "quantize.w8a8-channel-token.plain.loss_change",
                     "quantize.w4a4-channel-window.smooth.error_down_in"):
            self.assertTrue(all(name in r["metrics"] for r in found.values()), name)
        self.assertEqual(len({r["metrics"]["val_loss"] for r in found.values()}), 4, "seeds and arms must differ")
        (folder,) = (self.runs / "studies" / "mini").glob("quick-*")
        self.assertTrue(all((folder / name).is_file() for name in ("report.html", "runs.csv", "verdicts.json",
                                                                   "plan.json")))
        before = {path: path.stat().st_mtime_ns for path in (self.runs / "store").glob("*/*.json")}
        self.assertIn("4 of 4 runs are there already", self.run_study(sinklab=self.other_version()))
        self.assertEqual({path: path.stat().st_mtime_ns for path in before}, before)
        self.edit("model.norm: layernorm", "model.norm: none")
        self.run_study()
        self.assertEqual(sorted(self.trained().values()), [1] * 6, "the changed arm's two runs, and no other")
        self.edit("{windows: 8", "{windows: 4")
        self.run_study()
        self.assertEqual(sorted(self.trained().values()), [1] * 6, "measured otherwise, not trained again")
        build = self.runs / "build"
        build.write_text(f'#!/bin/sh\nexec {common.SINKLAB} "$@"\n')
        build.chmod(0o755)
        self.assertIn("note: 4 of 4 runs are there from another build of sinklab",
                      self.run_study("--report", sinklab=build))

    def other_version(self) -> Path:
        """The program as it is at another commit of equal code."""
        git = json.loads(next((self.runs / "store").glob("*/env.json")).read_text())["git"].encode()
        code, other = Path(common.SINKLAB).read_bytes(), self.runs / "sinklab"
        self.assertIn(git.ljust(64, b"\0"), code)
        other.write_bytes(code.replace(git.ljust(64, b"\0"), b"another".ljust(64, b"\0")))
        other.chmod(0o755)
        return other

    def test_dry_run(self) -> None:
        out = self.run_study("--dry-run", "--seeds", "1,2,3")
        self.assertRegex(out, r"layernorm: 3\d,\d{3} parameters, seeds 1, 2, 3: 0 trained, 3 to train")
        self.assertRegex(out, r"6 runs to train, 2 side by side, 1 thread each: about \d.* (s|min), ")
        self.assertEqual([path.name for path in self.runs.iterdir()], ["mini"], "a dry run writes nothing")

    def test_baseline(self) -> None:
        """Clipping at a share of the largest value that the same seed's baseline had in all its training."""
        self.run_study("--profile", "clipped")
        entries, found = self.plan("clipped")["runs"], self.results("clipped")
        for entry in (e for e in entries if e["arm"] == "clip"):
            config = (self.runs / "store" / entry["hash"] / "config.yaml").read_text()
            peak = found["baseline", entry["seed"]]["metrics"]["peak.max"]
            self.assertIn(f"clip_baseline: {peak:.9g}\n", config)
            self.assertLess(found["clip", entry["seed"]]["metrics"]["max"], .51 * peak)
        self.assertEqual(len({found["baseline", seed]["metrics"]["peak.max"] for seed in (1, 2)}), 2)

    def test_shared(self) -> None:
        """The same run in two studies is trained once, and there is an overview. Then, as far as it goes without a
        cluster, the profile for Slurm."""
        other = self.runs / "other" / "study.yaml"
        other.parent.mkdir()
        other.write_text(self.study.read_text().replace("layernorm", "second").replace("norm: second", "norm: none"))
        out = self.run_study(str(other))
        self.assertIn("6 runs, 2 side by side", out)
        self.assertRegex(out, r"\[\d/6\] other: second seed 1: ")
        self.assertEqual(sorted(self.trained().values()), [1] * 6)
        (overview,) = (self.runs / "studies" / "overview").glob("quick-*/overview.html")
        self.assertEqual(overview.read_text().count("same_loss") > 0, True)
        self.plan_for_slurm()

    def plan_for_slurm(self) -> None:
        """Snakemake plans a job for each run whose files are gone, the page notwithstanding."""
        from sinkstudy.run import snakemaking

        for path in (self.runs / "store").glob("*/[ot]*.json"):
            if path.name.startswith(("outcome", "trained")):
                path.unlink()
        maker = snakemaking.Maker(self.runs / "store" / "workflow.json", self.runs / "store", Path("unused"), 2,
                                  slurm=True)
        p = subprocess.run([*maker.command("all"), "--dry-run"], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertRegex(p.stdout, r"(?m)^train +6$")
        self.assertRegex(p.stdout, r"(?m)^measure +6$")
        self.assertIn("slurm_partition=", p.stdout + p.stderr)

    def test_killed(self) -> None:
        """kill -9 of the whole process group: the same command goes on from the checkpoints, to the same bits."""
        sets = [word for key in LONG for word in ("--set", key)] + ["--seeds", "1"]
        p = self.start_study(*sets)
        while len(self.checkpoints()) < 2:
            self.assertIsNone(p.poll(), "it ended before it could be killed")
            time.sleep(.02)
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        self.assertFalse([*(self.runs / "store").glob("*/trained.json")], "it was too late for a test")
        self.run_study(*sets)
        resumed = [path for path in (self.runs / "store").glob("*/train.log") if "--resume" in path.read_text()]
        self.assertGreaterEqual(len(resumed), 1)
        whole = self.runs / "whole"
        self.sinklab("train", resumed[0].parent / "settings.yaml", "threads=1", "--out", whole)
        self.assertEqual((whole / "probe.jsonl").read_bytes(), (resumed[0].parent / "probe.jsonl").read_bytes())
        self.assert_same_weights(whole, resumed[0].parent)

    def wait_for_end(self, group: int) -> None:
        """The last processes of a group may need a moment more than their runner, on a busy machine."""
        with self.assertRaises(ProcessLookupError):
            while True:
                os.killpg(group, 0)
                time.sleep(.05)

    def test_interrupted(self) -> None:
        """SIGTERM to the runner alone, SIGINT to all: it ends with every process below it, and goes on later."""
        sets = [word for key in LONG for word in ("--set", key)] + ["--seeds", "1"]
        for kill, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)):
            before = self.checkpoints()
            p = self.start_study(*sets)
            while not self.checkpoints() - before:
                self.assertIsNone(p.poll(), "it ended before it could be interrupted")
                time.sleep(.02)
            kill(p.pid, number)
            out, _ = p.communicate()
            self.assertEqual(p.returncode, 130, out)
            self.assertIn("interrupted with 2 of 2 runs left; the same command goes on", out)
            self.assertNotIn("Traceback", out)
            self.wait_for_end(p.pid)
            self.assertFalse([*(self.runs / "store").glob("*/outcome*.json")], "an interruption is not an outcome")
        self.run_study(*sets)
        self.assertEqual({r["status"] for r in self.results().values()}, {"finished"})

    def test_failing(self) -> None:
        """A run that fails: the others are made, the page too; it is named, and tried again the next time. A run that
        the guard stops is a result: not a failure, and not tried again."""
        self.edit("  clip: {set", "  wild: {train.lr: 100}\n  clip: {set")
        self.edit("arms: [baseline, layernorm], minutes", "arms: [baseline, layernorm, wild], minutes")
        program = self.runs / "sinklab"
        program.write_text(f"#!/bin/sh\nif [ -e {self.runs}/bad ] && [ $1 = train ] && grep -q layernorm $2; then\n"
                           f"echo 'sinklab: error: it is bad here' >&2; exit 1; fi\nexec {common.SINKLAB} \"$@\"\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (self.runs / "bad").touch()
        out = self.run_study(code=1, sinklab=program)
        self.assertRegex(out, r"layernorm seed 2: failed: it is bad here")
        self.assertRegex(out, r"wild seed 1: diverged: training stopped at step \d+: ")
        self.assertRegex(self.said, r"^experiments/run: error: 2 of 6 runs failed: mini, layernorm, seed 1: it is bad "
                                    r"here \(and 1 more\); "
                         r"its log: \S+/train.log\n$")
        log = Path(self.said.rsplit(": ", 1)[1].strip())
        self.assertIn("it is bad here", log.read_text())
        found = self.results()
        self.assertEqual({arm: found[arm, 2]["status"] for arm in ("baseline", "layernorm", "wild")},
                         {"baseline": "finished", "layernorm": "failed", "wild": "diverged"})
        self.assertEqual((found["wild", 1]["metrics"]["diverged"], found["baseline", 1]["metrics"]["diverged"]), (1, 0))
        self.assertNotIn("val_loss", found["wild", 1]["metrics"])
        (page,) = (self.runs / "studies" / "mini").glob("quick-*/report.html")
        self.assertIn("it is bad here", page.read_text())
        (self.runs / "bad").unlink()
        self.run_study(sinklab=program)
        self.assertEqual({arm: self.results()[arm, 2]["status"] for arm in ("layernorm", "wild")},
                         {"layernorm": "finished", "wild": "diverged"})
        times = {e["arm"]: self.trained()[e["hash"]] for e in self.plan()["runs"]}
        self.assertEqual(times, {"baseline": 1, "layernorm": 2, "wild": 1})
        self.assertNotIn("it is bad here", page.read_text())

    def test_two_runners(self) -> None:
        from sinkstudy.store import store

        fd = store.lock(self.runs / "store", "a first one")
        self.addCleanup(os.close, fd)
        self.run_study(code=1)
        self.assertRegex(self.said, r"^experiments/run: error: \S+store: a first one \(process \d+\) is at work there; "
                                    r"wait for it, or "
                         "give another --runs\n$")

    def test_file_size_limit(self) -> None:
        """`ulimit -f`: said in a line. (test_full goes on.)"""
        def few() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        self.run_study("--seeds", "1", code=1, preexec_fn=few)
        self.assertRegex(self.said, r"2 of 2 runs failed: mini, baseline, seed 1: .*File too large")

    def test_full(self) -> None:
        """A file system of its own that is too small, where this may be mounted."""
        probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
        if probe.returncode != 0:
            self.skipTest(f"cannot mount a tmpfs: {probe.stderr.decode().strip()}")
        p = subprocess.run(["unshare", "-rm", sys.executable, "-B", __file__, common.SINKLAB,
                            "Study.inside_small_disk"],
                           capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stderr)

    def inside_small_disk(self) -> None:
        """Run by test_full in a mount namespace: no room from the start, then room for a part, then for all."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", self.runs], check=True)
        self.study.parent.mkdir()
        shutil.copyfile(MINIATURE, self.study)
        filler = self.runs / "filler"
        for room in (0, 300_000):
            disk = os.statvfs(self.runs)
            filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))
            self.run_study(code=1)
            self.assertRegex(self.said.splitlines()[0], "^experiments/run: error: .*[Nn]o space")
            filler.unlink()
        self.run_study()
        self.assertEqual(len(self.results()), 4)

    def test_mistakes(self) -> None:
        """One line with exit code 2, before anything is made."""
        for args, message in ((("--profile", "huge"), "study.yaml: no profile huge; there are quick, clipped"),
                              (("--set", "model.dimm=3"), "--set: unknown key of the engine model.dimm; did you mean "
                                                          "model.dim?"),
                              (("--set", "model.dim=33"), "arm baseline: model.dim = 33 is not a multiple of "
                                                          "model.heads"),
                              (("--set", "threads=3"), "--set: not a key of studies: the runner shares out the cores"),
                              (("--seeds", "1,x"), "--seeds 1,x: different whole numbers with commas between are "
                                                   "wanted")):
            with self.subTest(args):
                self.run_study(*args, code=2)
                self.assertRegex(self.said, "^experiments/run: error: "
                                            f".*{message.replace('?', '[?]').replace('.', '[.]')}")
                self.assertEqual(self.said.count("\n"), 1)
                self.assertFalse((self.runs / "studies").exists())
        self.edit("w4a4-channel-window", "w4a4-chanel-window")
        self.run_study(code=2)
        self.assertRegex(self.said, r"study.yaml:\d+: quantize.schemes.1: unknown scheme w4a4-chanel-window; did you "
                                    r"mean w4a4-channel-window[?]")
        self.edit("w4a4-chanel-window", "w4a4-channel-window")
        self.edit("metric: val_loss, arms", "metric: val_los, arms")
        self.run_study(code=2)
        self.assertRegex(self.said, r"study.yaml:\d+: claim same_loss: metric: 'val_los' is not known; nearest: "
                                    r"val_loss")

    def test_studies_of_the_repository(self) -> None:
        """Each is read and expanded by this engine, in every profile; each arm of its gates and claims is run by
        standard and full."""
        from sinkstudy.places import STUDIES
        from sinkstudy.plan import expand, study
        from sinkstudy.store import store

        engine = expand.engine(Path(common.SINKLAB).resolve())
        paths = study.paths(STUDIES)
        self.assertGreaterEqual(len(paths), 9)
        for path in paths:
            loaded = study.load(path, engine.keys)
            self.assertLessEqual({"quick", "standard", "full"}, set(loaded.profiles), path)
            named = {gate["arm"] for gate in loaded.data.get("gates", {}).values()}
            named = named.union(*(claim["arms"] for claim in loaded.data["claims"]))
            for profile, least in (("quick", 2), ("standard", 3), ("full", 3)):
                with self.subTest(path.parent.name, profile=profile):
                    made = expand.expand(loaded, expand.Options(profile), engine, store.Data(), self.runs, ready=False)
                    self.assertGreaterEqual(len(made.seeds), least)
                    if profile != "quick":
                        self.assertLessEqual(named, {e["arm"] for e in made.plan["runs"]})
            self.assertTrue((path.parent / "README.md").is_file(), path)


if __name__ == "__main__":
    missing = [name for name in ("yaml", "snakemake", "scipy", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} not installed: `. .ci/setup.sh; python_env study` makes .venv", file=sys.stderr)
        sys.exit(77)
    common.main()
