"""Studies: reading study.yaml with its errors, what it expands to, hashes of runs, figures of runs. Needs PyYAML,
SciPy."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import struct
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True

if any(importlib.util.find_spec(name) is None for name in ("yaml", "scipy")):
    print("PyYAML or SciPy is not installed: `. .ci/setup.sh; python_env study` makes .venv", file=sys.stderr)
    sys.exit(77)

from sinkstudy.judge import metrics
from sinkstudy.plan import expand
from sinkstudy.plan import study as studies
from sinkstudy.plan.study import StudyError, arms_of
from sinkstudy.run import run_studies
from sinkstudy.store import outcome, store

KEYS = {"model.layers": 6, "model.ffn": 64, "model.experts": 0, "model.norm": "rmsnorm", "model.clip": 0.0,
        "model.clip_baseline": 0.0,
        "model.match_params": False, "model.norm_opts.alpha_attn": 0.5, "model.norm_opts.alpha_ffn": 0.5,
        "model.seq": 32,
        "data.corpus": "treasury", "data.tokenizer": "bytes", "data.synthetic.text": "built-in", "train.lr": 1e-3,
        "train.guard": "stop",
        "train.steps": 100, "train.probe_every": 100, "train.eval_every": 100, "threads": 0, "seed": 1}
UNDECISIVE = ("threads", "train.eval_every", "train.probe_every")
STUDY = """\
title: T
question: Q?
base: {model.layers: 2, train.lr: 4e-3}
arms:
  baseline: {}
  ln: {model.norm: layernorm}
  clip: {set: {model.clip: 0.5}, baseline: {model.clip_baseline: max_all_training}, of: baseline}
  dyt:
    set: {model.norm: dyt}
    sweep: {train.lr: [5e-4, 1e-3], model.norm_opts.alpha_attn: [.5, 1]}
    tie: {model.norm_opts.alpha_ffn: model.norm_opts.alpha_attn}
profiles:
  quick: {seeds: [1, 2], set: {train.steps: 10}}
  two: {seeds: [3], arms: [ln, baseline]}
claims:
  - {id: ln_loss, text: t, metric: val_loss, arms: [baseline, ln], scale: difference, expect: same, margin: 0.1}
"""


class FakeEngine:
    """Answers `config` as the engine does, over a few keys."""

    keys = {key: key not in UNDECISIVE for key in KEYS}
    hash = "engine"

    def __call__(self, *args: str) -> str:
        pairs = dict(arg.split("=", 1) for arg in args[1:] if not arg.startswith("--"))
        if pairs.get("model.norm") == "bad":
            raise expand.EngineError('model.norm: unknown value "bad"', True)
        if "--params" in args:
            if pairs.get("model.norm") == "dyt":
                raise expand.EngineError("model.match_params: the nearest width is too far off", True)
            return json.dumps({"ffn": 63 if pairs.get("model.norm") == "layernorm" else 64})
        def typed(key: str, value: str) -> Any:
            kind: Any = type(KEYS[key])
            return value == "true" if kind is bool else kind(value)
        return json.dumps(KEYS | {key: typed(key, value) for key, value in pairs.items()})


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sinklab-study-"))
        self.addCleanup(lambda: __import__("shutil").rmtree(self.folder))
        self.corpus = self.folder / "corpus.txt"
        self.corpus.write_text("text")

    def load(self, text: str = STUDY) -> studies.Study:
        path = self.folder / "one" / "study.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return studies.load(path, list(KEYS))

    def expand(self, text: str = STUDY, profile: str = "quick", **changes: Any) -> expand.Expansion:
        pairs = {"data.corpus": str(self.corpus)} | changes.pop("set", {})
        options = expand.Options(profile, changes.get("seeds", ()), tuple(pairs.items()))
        return expand.expand(self.load(text), options, changes.get("engine", FakeEngine()), store.Data(),
                             self.folder / "runs")


class Reading(Folder):
    def test_yaml(self) -> None:
        study = self.load(STUDY.replace("base: {", "base: {train.guard: off, "))
        self.assertEqual(study.base, {"train.guard": "off", "model.layers": 2, "train.lr": 0.004})
        self.assertEqual(study.lines[("arms", "ln")], 6)
        self.assertEqual(study.lines[("arms", "dyt", "sweep", "train.lr")], 10)
        self.assertEqual(study.name, "one")

    def test_arms(self) -> None:
        arms = self.load().arms
        self.assertEqual(arms["ln"].set, {"model.norm": "layernorm"})
        self.assertEqual(arms["baseline"].points(), [{}])
        self.assertEqual([list(p.values()) for p in arms["dyt"].points()],
                         [[5e-4, .5, .5], [5e-4, 1, 1], [1e-3, .5, .5], [1e-3, 1, 1]])
        self.assertEqual((arms["clip"].baseline, arms["clip"].of), ({"model.clip_baseline": "max_all_training"},
                                                                    "baseline"))

    def test_grid(self) -> None:
        grid = ("grid:\n  norm: {rms: {}, ln: {model.norm: layernorm}}\n"
                "  clip: {free: {}, clipped: {set: {model.clip: 1}, baseline: {model.clip_baseline: peak.max}, of: "
                "free}}\nprofiles:")
        arms = self.load(STUDY.replace("profiles:", grid)).arms
        self.assertEqual(list(arms)[4:], ["rms-free", "rms-clipped", "ln-free", "ln-clipped"])
        self.assertEqual(arms["ln-clipped"].set, {"model.norm": "layernorm", "model.clip": 1})
        self.assertEqual(arms["ln-clipped"].of, "ln-free")

    TUNE = "tune: {train.lr: [1e-3, 2e-3], model.layers: [1, 2]}\narms:\n"

    def test_tune(self) -> None:
        """Of arms and those of a grid, but where one sets or sweeps the key itself."""
        text = STUDY.replace("arms:\n", "grid: {norm: {rms: {}, fast: {train.lr: 1}}}\n" + self.TUNE, 1)
        arms = self.load(text).arms
        self.assertEqual([name for name, arm in arms.items() if arm.tuned == ("train.lr", "model.layers")],
                         ["baseline", "ln", "clip", "rms"])
        self.assertEqual([name for name, arm in arms.items() if arm.tuned == ("model.layers",)], ["dyt", "fast"])
        self.assertEqual([list(point.values()) for point in arms["ln"].points()],
                         [[1e-3, 1], [1e-3, 2], [2e-3, 1], [2e-3, 2]])
        self.assertEqual(arms["fast"].points(), [{"model.layers": 1}, {"model.layers": 2}])
        self.assertEqual(len(arms["dyt"].points()), 8)
        two = self.load(text.replace("  two: {", "  two: {tune: false, ", 1))
        self.assertEqual([len(arm.points()) for arm in arms_of(two.profiles["two"], two.arms)], [1, 1])

    def test_best(self) -> None:
        """A profile's points of arms are points of their sweeps: the same runs as in the profile that has them all."""
        text = STUDY.replace("arms:\n", "tune: {train.lr: [1e-3, 2e-3]}\narms:\n", 1)
        best = "  two: {best: {ln: {train.lr: %s}}, "
        two = self.load(text.replace("  two: {", best % "2e-3", 1))
        baseline, ln = arms_of(two.profiles["two"], two.arms)
        self.assertEqual([baseline.points(), ln.points()], [[{"train.lr": 1e-3}, {"train.lr": 2e-3}],
                                                            [{"train.lr": 2e-3}]])
        self.load(text.replace("  two: {", best.replace("ln:", "baseline:") % "2e-3", 1))  # without clip, of it
        three = text.replace("arms: [ln, baseline]", "arms: [ln, baseline, clip]")
        three_best = self.load(three.replace("  two: {", best.replace("ln:", "clip:") % "2e-3", 1))  # baseline has all
        self.assertEqual([len(arm.points()) for arm in arms_of(three_best.profiles["two"], three_best.arms)], [2, 2, 1])
        for line, message in ((best % "3e-3", "profiles.two.best.ln.train.lr: unknown value of the sweep 0.003"),
                              (best.replace("train.lr", "model.clip") % "1", "unknown key of the arm's sweep"),
                              (best.replace("ln:", "lm:") % "1e-3", "profiles.two.best.lm: unknown arm lm"),
                              (best.replace("ln:", "baseline:") % "1e-3", "clip takes a metric of baseline at the"),
                              (best.replace("best:", "tune: false, best:") % "1e-3", "give one of both")):
            with self.subTest(line), self.assertRaisesRegex(StudyError, re.escape(message)):
                self.load(three.replace("  two: {", line, 1))

    def test_corpora_of_interventions(self) -> None:
        """What a finished model reads has to be prepared as well."""
        study = self.load(STUDY + "interventions: {other: {data.corpus: commentary}}\n")
        self.assertIn("commentary", expand.corpora(study, expand.Options("quick")))

    def test_profiles(self) -> None:
        profiles = self.load().profiles
        self.assertEqual(profiles["two"].arms, ["baseline", "ln"])
        self.assertEqual(profiles["quick"].arms, ["baseline", "ln", "clip", "dyt"])

    def test_errors(self) -> None:
        """(what is replaced, by what, line, message)"""
        for old, new, line, message in (
                ("question: Q?\n", "", 1, "question: one line of text is wanted"),
                ("title: T\n", "titel: T\n", 1, "titel: unknown key titel; did you mean title?"),
                ("model.layers: 2", "model.layer: 2", 3,
                 "base.model.layer: unknown key of the engine model.layer; did you mean model.layers?"),
                ("model.layers: 2", "model: {layers: 2}", 3, "base.model: unknown key of the engine model"),
                ("model.layers: 2", "seed: 2", 3, "base.seed: not a key of studies: seeds come from the profile or "
                                                  "--seeds"),
                ("ln: {model.norm", "ln: {model.nrm", 6, "arms.ln.model.nrm: unknown key of the engine model.nrm; did "
                                                         "you mean model.norm?"),
                ("ln: {model.norm: layernorm}", "ln: {model.norm: {a: 1}}", 6, "arms.ln.model.norm: a value is wanted; "
                 "keys are written with dots, like model.layers"),
                ("ln: {model.norm: layernorm}", "ln: [1]", 6, "arms.ln: keys with values are wanted, not [1]"),
                ("  ln:", "  baseline:", 6, "arms.baseline: a second time"),
                ("[.5, 1]", "[]", 10, "arms.dyt.sweep.model.norm_opts.alpha_attn: a list of at least one value is "
                                      "wanted"),
                ("[5e-4, 1e-3]", "[1e-3, 1e-3]", 10, "arms.dyt.sweep.train.lr: a value is there twice"),
                ("sweep: {train.lr", "sweeep: {train.lr", 10,
                 "arms.dyt.sweeep: unknown key sweeep; did you mean sweep?"),
                ("alpha_ffn: model.norm_opts.alpha_attn", "alpha_ffn: model.norm", 11,
                 "arms.dyt.tie.model.norm_opts.alpha_ffn: unknown key of the sweep model.norm; did you mean "
                 "model.norm_opts.alpha_attn?"),
                (", of: baseline", "", 7, "arms.clip: baseline (key: metric) and of (the arm it is taken from) go "
                                          "together"),
                ("of: baseline", "of: dyt", 7, "arms.clip.of: dyt has a sweep or a baseline of its own; name an arm "
                                               "without"),
                ("arms:\n  baseline: {}\n", "tune: {model.clip: [1, 2]}\narms:\n  baseline: {}\n", 8,
                 "arms.clip.of: baseline is tuned over model.clip, and clip has a value of its own"),
                ("arms:\n", "tune: {train.lr: 1e-3}\narms:\n", 4, "tune.train.lr: a list of at least one value is "
                                                                  "wanted"),
                ("arms:\n", "tune: {train.lrs: [1]}\narms:\n", 4, "tune.train.lrs: unknown key of the engine "
                                                                      "train.lrs; did you mean train.lr?"),
                ("of: baseline", "of: basline", 7, "arms.clip.of: unknown arm basline; did you mean baseline?"),
                ("max_all_training", "peak.maxx", 7, "arms.clip.baseline.model.clip_baseline: unknown metric "
                                                     "peak.maxx; nearest: peak.max"),
                ("max_all_training", "gates.elements", 7, "arms.clip.baseline.model.clip_baseline: gates.elements is "
                 "measured after training; take a metric of training, like peak.max"),
                ("seeds: [1, 2]", "seeds: []", 13, "profiles.quick.seeds: a list of different whole numbers is wanted, "
                                                   "like [1, 2, 3]"),
                ("seeds: [3], arms: [ln, baseline]", "seeds: [3], arms: [ln, base]", 14,
                 "profiles.two.arms.1: unknown arm base; did you mean baseline?"),
                ("arms: [ln, baseline]", "arms: [clip]", 14,
                 "profiles.two.arms.0: clip takes a metric of baseline, which the profile leaves out"),
                ("profiles:\n", "grid: {}\nprofiles:\n", 12, "grid: at least one axis is wanted"),
                ("profiles:\n", "grid: {a: {}}\nprofiles:\n", 12, "grid.a: at least one level is wanted"),
                ("profiles:\n", "grid: {a: {x: {train.lr: 1}}, b: {y: {train.lr: 2}}}\nprofiles:\n", 12,
                 "grid.b.y.train.lr: set by another axis of the grid too"),
                ("profiles:\n", "probe: {measures: [norm]}\nprofiles:\n", 12,
                 "probe.measures.0: unknown measure norm; did you mean norms?"),
                ("profiles:\n", "interventions: {peak: {model.clip: 1}}\nprofiles:\n", 12,
                 "interventions.peak: the name must be one "
                 "word, and none that metrics have (peak, onset, measures)"),
                ("profiles:\n", "cloze: 2\nprofiles:\n", 12, "cloze: true or false is wanted"),
                ("profiles:\n", "quantize: {schemes: [mxfp4]}\nprofiles:\n", 12,
                 "quantize.transformations: names with flags of `sinklab quantize` are wanted, like plain: {}"),
                ("profiles:\n", "quantize: {schemes: [mxfp4], transformations: {s: {smoth: 1}}}\nprofiles:\n", 12,
                 "quantize.transformations.s.smoth: unknown flag smoth; did you mean smooth?"),
                ("profiles:\n", "quantize: {schemes: [mxfp4], transformations: {s: {keep: true}}}\nprofiles:\n", 12,
                 "quantize.transformations.s.keep: kinds of layers with commas between are wanted, like "
                 "attn.gate_in,ffn.out"),
                ("profiles:\n", "quantize: {schemes: [], transformations: {s: {}}}\nprofiles:\n", 12,
                 "quantize.schemes: a list of names is wanted"),
                ("metric: val_loss", "metric: val_los", 16, "claim ln_loss: metric: 'val_los' is not known; nearest: "
                                                            "val_loss"),
                ("arms: [baseline, ln], scale", "arms: [baseline, l], scale", 16,
                 "claim ln_loss: arms: 'l' is not known; did you mean ln?"),
                ("base: {", "base: [", 3, None)):
            with self.subTest(new):
                self.assertIn(old, STUDY)
                with self.assertRaises(StudyError) as caught:
                    self.load(STUDY.replace(old, new, 1))
                place, _, said = str(caught.exception).partition(": ")
                self.assertTrue(place.endswith(f"study.yaml:{line}"), str(caught.exception))
                self.assertEqual(len(str(caught.exception).splitlines()), 1)
                if message:
                    self.assertTrue(said.startswith(message), said)

    def test_limits(self) -> None:
        """Refused before anything is made of it: each would otherwise fill memory or take hours."""
        keys = ["model.layers", "train.lr", "train.steps", "model.ffn", "model.seq", "model.experts", "model.clip",
                "threads", "seed"]
        twenty = "[" + ", ".join(map(str, range(1, 21))) + "]"
        sweep = ", ".join(f"{key}: {twenty}" for key in keys[:7])
        bomb = "a0: &a0 [" + ", ".join(["x"] * 10) + "]\n"
        bomb += "".join(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]\n" for i in range(1, 10))
        seeds = "[" + ", ".join(map(str, range(1, 100001))) + "]"
        half = "[" + ", ".join(map(str, range(1, 2001))) + "]"
        levels = ", ".join(f"l{i}: {{}}" for i in range(20))
        grid = "grid: {" + ", ".join(f"a{i}: {{{levels}}}" for i in range(9)) + "}\nprofiles:\n"
        for old, new, line, message in (
                ("profiles:\n", bomb + "profiles:\n", None, "more than 100,000 values, with those that aliases repeat"),
                ("profiles:\n", "x: &x [*x]\nprofiles:\n", None, ""),
                ("{train.lr: [5e-4, 1e-3], model.norm_opts.alpha_attn: [.5, 1]}", "{" + sweep
                 + ", model.norm_opts.alpha_attn: [.5, 1]}", 10,
                 "arms.dyt.sweep: 2,560,000,000 points; at most 10,000 runs are made of a study"),
                ("profiles:\n", grid, 12, "grid: 512,000,000,000 arms; at most 10,000"),
                ("seeds: [3]", f"seeds: {seeds}", None, ""),
                ("seeds: [1, 2]", f"seeds: {half}", 13, "profiles.quick: 14,000 runs (points of sweeps x seeds); at "
                 "most 10,000"),
                ("seeds: [3]", "seeds: [100000000000000000000]", 14,
                 "profiles.two.seeds: seed 100000000000000000000 is above 9007199254740991"),
                ("title: T", "title: " + "T" * (1 << 20), None, "more than 1 MiB")):
            with self.subTest(message or new[:40]):
                self.assertIn(old, STUDY)
                with self.assertRaises(StudyError) as caught:
                    self.load(STUDY.replace(old, new, 1))
                said = str(caught.exception)
                self.assertIn(message, said)
                self.assertEqual(len(said.splitlines()), 1)
                if line:
                    self.assertIn(f"study.yaml:{line}: ", said)

    def test_largest(self) -> None:
        """What the limits let pass is read and expanded."""
        seeds = list(range(1, 1001))
        study = self.load(STUDY.replace("seeds: [1, 2]", f"seeds: {seeds}"))
        self.assertEqual(studies.runs_of(study.arms.values(), study.profiles["quick"].seeds), 7000)

    def test_find(self) -> None:
        self.load()
        self.assertEqual(studies.find("one", self.folder), self.folder / "one" / "study.yaml")
        self.assertEqual(studies.find(str(self.folder / "one"), Path("elsewhere")), self.folder / "one" / "study.yaml")
        with self.assertRaisesRegex(StudyError, "no study on; did you mean one?"):
            studies.find("on", self.folder)


class Expanding(Folder):
    def by_arm(self, made: expand.Expansion) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for entry in made.plan["runs"]:
            found.setdefault(entry["arm"], []).append(entry["hash"])
        return found

    def test_runs(self) -> None:
        made = self.expand()
        rows = self.by_arm(made)
        self.assertEqual({arm: len(hashes) for arm, hashes in rows.items()},
                         {"baseline": 2, "ln": 2, "clip": 2, "dyt": 8})
        self.assertEqual(len(made.runs), 14)
        self.assertEqual(list(rows), ["baseline", "ln", "clip", "dyt"])

    def test_settings(self) -> None:
        """Base, profile, arm, point, command line: the later wins."""
        text = STUDY.replace("seeds: [1, 2], set: {train.steps: 10}",
                             "seeds: [1, 2], set: {train.steps: 10, train.lr: 1}")
        made = self.expand(text, set={"model.layers": "3"})
        last = made.plan["runs"][-1]
        self.assertEqual(last["settings"], {"model.layers": "3", "train.lr": "0.001", "train.steps": "10",
                                            "model.norm": "dyt",
                                            "model.norm_opts.alpha_attn": "1", "model.norm_opts.alpha_ffn": "1",
                                            "data.corpus": str(self.corpus)})
        self.assertEqual(last["point"], {"train.lr": 0.001, "model.norm_opts.alpha_attn": 1,
                                         "model.norm_opts.alpha_ffn": 1})
        self.assertEqual(made.runs[last["hash"]].config["seed"], 2)

    def test_baseline(self) -> None:
        """A key that takes a metric stands in the hash as that metric of the other run, seed by seed."""
        made = self.expand()
        rows = self.by_arm(made)
        for of, name in zip(rows["baseline"], rows["clip"]):
            self.assertEqual(made.runs[name].baseline, {"model.clip_baseline": ("peak.max", of)})
            self.assertEqual(made.runs[name].identity["config"]["model.clip_baseline"], f"peak.max of {of}")

    def test_tuned_arms_take_the_same_point(self) -> None:
        """A figure of another arm is that of its run with the same seed and learning rate."""
        made = self.expand(STUDY.replace("arms:\n", "tune: {train.lr: [1e-3, 2e-3]}\narms:\n", 1))
        rows = {(e["arm"], e["seed"], e["point"].get("train.lr")): e["hash"] for e in made.plan["runs"]}
        self.assertEqual(len({rows["baseline", seed, lr] for seed in (1, 2) for lr in (1e-3, 2e-3)}), 4)
        for seed, lr in ((1, 1e-3), (1, 2e-3), (2, 1e-3), (2, 2e-3)):
            run = made.runs[rows["clip", seed, lr]]
            self.assertEqual(run.config["train.lr"], lr)
            self.assertEqual(run.baseline, {"model.clip_baseline": ("peak.max", rows["baseline", seed, lr])})

    def test_hash(self) -> None:
        same = self.expand().runs.keys()
        self.assertEqual(self.expand(STUDY.replace("title: T", "title: U")).runs.keys(), same)
        self.assertEqual(self.expand(set={"train.eval_every": "7"}).runs.keys(), same)
        for what, changed in (("steps", self.expand(set={"train.steps": "7"})),
                              ("what is recorded", self.expand(set={"train.probe_every": "7"}))):
            self.assertFalse(changed.runs.keys() & same, what)
        engine = FakeEngine()
        engine.hash = "another"
        self.assertFalse(self.expand(engine=engine).runs.keys() & same)
        one = self.by_arm(self.expand(STUDY.replace("model.norm: layernorm", "model.norm: none")))
        self.assertEqual({arm for arm, hashes in self.by_arm(self.expand()).items() if hashes != one[arm]}, {"ln"})

    def test_data(self) -> None:
        """What is in the files counts, not where they are."""
        before = self.expand().runs.keys()
        moved = self.folder / "elsewhere" / "corpus.txt"
        moved.parent.mkdir()
        moved.write_text("text")
        self.assertEqual(self.expand(set={"data.corpus": str(moved)}).runs.keys(), before)
        self.corpus.write_text("other text")
        self.assertFalse(self.expand().runs.keys() & before)

    def test_corpora(self) -> None:
        """Found as the engine finds them."""
        os.environ["SINKLAB_DATA"] = str(self.folder / "corpora")
        self.addCleanup(os.environ.pop, "SINKLAB_DATA")
        prepared = self.folder / "corpora" / "named"
        prepared.mkdir(parents=True)
        for name in ("train.txt", "val.txt", "SOURCE.txt"):
            (prepared / name).write_text(name)
        self.assertEqual([p.name for p in store.corpus_files("named")], ["train.txt", "val.txt"])
        texts = self.folder / "texts"
        texts.mkdir()
        for name in ("b.txt", "a.txt", ".c.txt", "d.md"):
            (texts / name).write_text(name)
        self.assertEqual([p.name for p in store.corpus_files(str(texts))], ["a.txt", "b.txt"])
        for name in ("x_train.bin", "x_val.bin"):
            (self.folder / name).write_bytes(b"1")
        for name in ("x", "x_train.bin"):
            self.assertEqual([p.name for p in store.corpus_files(str(self.folder / name))],
                             ["x_train.bin", "x_val.bin"])
        self.assertEqual(store.corpus_files(str(self.folder / "nothing")), [])

    def test_measures_apart(self) -> None:
        """Other measures: the same runs, other outcomes."""
        first, second = self.expand(), self.expand(STUDY + "probe: {windows: 8}\n")
        self.assertEqual(first.runs.keys(), second.runs.keys())
        outcomes = [{entry["outcome"] for entry in made.plan["runs"]} for made in (first, second)]
        self.assertFalse(outcomes[0] & outcomes[1])

    def test_match(self) -> None:
        made = self.expand("match: true\n" + STUDY)
        rows = {entry["arm"]: entry for entry in made.plan["runs"]}
        matched = {arm: made.runs[row["hash"]].config["model.match_params"] for arm, row in rows.items()}
        self.assertEqual(matched, {"baseline": False, "ln": True, "clip": False, "dyt": False})
        self.assertIn("too far off", rows["dyt"]["unmatched"])
        self.assertEqual(self.by_arm(made)["baseline"], self.by_arm(self.expand())["baseline"],
                         "nothing to match: the same run")

    def test_bpe(self) -> None:
        text = STUDY.replace("base: {", "bpe: {corpus: treasury, vocab: 512}\nbase: {data.tokenizer: 'bpe:{bpe}', ")
        path = self.folder / "runs" / "tokenizers" / "treasury-512.json"
        before = self.expand(text)
        self.assertEqual(before.plan["runs"][0]["settings"]["data.tokenizer"], f"bpe:{path}")
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        self.assertFalse(before.runs.keys() & self.expand(text).runs.keys())

    def test_engine_errors(self) -> None:
        """The engine's own message, at the line of the key that it names."""
        with self.assertRaises(StudyError) as caught:
            self.expand(STUDY.replace("ln: {model.norm: layernorm}", "ln: {model.norm: bad}"))
        self.assertRegex(str(caught.exception), r'study.yaml:6: arms.ln.model.norm: arm ln: model.norm: unknown value '
                                                r'"bad"$')

    def test_profile_and_seeds(self) -> None:
        with self.assertRaisesRegex(StudyError, "no profile huge; there are quick, two"):
            self.expand(profile="huge")
        self.assertEqual(len(self.expand(profile="two", seeds=(7, 8, 9)).runs), 6)
        with self.assertRaisesRegex(StudyError, r"^--seeds: 10,002 runs \(points of sweeps x seeds\) of one; at most"):
            self.expand(profile="two", seeds=tuple(range(5001)))


class Store(Folder):
    def test_engine_hash(self) -> None:
        """Of a made-up ELF file: only what is loaded counts, and not the git version."""
        def program(text: bytes = b"code", git: bytes = b"abc", debug: bytes = b"debug") -> str:
            names = b"\0.text\0sinklab_git\0.debug\0"
            parts = [b"", text, git.ljust(64, b"\0"), debug, names]
            at, body, table = 64, b"", b""
            for part, (name, kind, flags) in zip(parts, ((0, 0, 0), (1, 1, 2), (7, 1, 2), (19, 1, 0), (0, 3, 0))):
                table += struct.pack("<IIQQQQ", name, kind, flags, 4096 + at, at, len(part)).ljust(64, b"\0")
                body, at = body + part, at + len(part)
            head = b"\x7fELF\x02\x01".ljust(0x28, b"\0") + struct.pack("<Q", at)
            head = head.ljust(0x3A, b"\0") + struct.pack("<HHH", 64, len(parts), 4)
            path = self.folder / "program"
            path.write_bytes(head.ljust(64, b"\0") + body + table)
            return store.engine_hash(path)
        same = program()
        self.assertEqual(program(git=b"v0.1-7-gdeadbeef-dirty", debug=b"other debugging"), same)
        self.assertNotEqual(program(text=b"kode"), same)

    def test_lock(self) -> None:
        fd = store.lock(self.folder / "s", "one")
        with self.assertRaisesRegex(store.StoreError, rf"s: one \(process {os.getpid()}\) is at work there; wait for "
                                                      rf"it"):
            store.lock(self.folder / "s", "two")
        os.close(fd)
        os.close(store.lock(self.folder / "s", "two"))

    def test_write_json(self) -> None:
        path = self.folder / "a" / "b.json"
        store.write_json(path, {"x": 1})
        with self.assertRaises(TypeError):
            store.write_json(path, {"x": {1}})
        self.assertEqual(store.read_json(path), {"x": 1})
        self.assertEqual([p.name for p in path.parent.iterdir()], ["b.json"])


class Figures(Folder):
    LAYERS = [{"norm_weight_attn": [1, -.5, 3], "norm_weight_ffn": [1, .75, 3], "channel_mean_abs": [1, 2, 3]},
              {"norm_weight_attn": [1, .625, 4], "norm_weight_ffn": [1, 2, 4], "channel_mean_abs": [2, 9, 4]},
              {"norm_weight_final": [0, 0, 0], "channel_mean_abs": [1, 1, 1]}]

    def run_folder(self, status: str = "finished") -> Path:
        probes = [{"step": 0, "max": 1, "m2": 1, "m2_dim": 0, "lambda_min": 1, "gate_mean": None},
                  {"step": 10, "max": 9, "m2": 6, "m2_dim": 1, "lambda_min": .75, "gate_mean": None},
                  {"step": 20, "max": 4, "m2": 5, "m2_layer": 1, "m2_dim": 1, "lambda_min": .5, "gate_mean": None,
                   "layers": self.LAYERS}]
        result = {"status": status, "val_loss": 2.5, "params": 100, "tokens": 640, "seconds": 1.5,
                  "probe": {"max": 4, "m2": 5, "m2_dim": 1, "att0": .5, "tokens": 7, "val_loss": 9}}
        (self.folder / "probe.jsonl").write_text("".join(json.dumps(p) + "\n" for p in probes) + '{"step": 30, "ma')
        (self.folder / "result.json").write_text(json.dumps(result))
        return self.folder

    def test_training(self) -> None:
        found = outcome.of_training(self.run_folder(), 4, False)
        expected = {"val_loss": 2.5, "params": 100, "tokens": 640, "seconds": 1.5, "diverged": 0, "peak.max": 9,
                    "peak.m2": 6,
                    "peak.lambda_min": 1, "onset.m2": 10, "max": 4, "m2": 5, "m2_dim": 1, "att0": .5, "lambda_min": .5,
                    "m2_layer": 1, "lambda_sink": .5, "lambda_other": 2, "median_channel": 4,
                    "att0_over_uniform": .5 / ((1 / 2 + 1 / 3 + 1 / 4) / 3)}
        self.assertEqual(found, expected)
        self.assertEqual([name for name in found if not metrics.known(name)], [])

    def test_spikes(self) -> None:
        """Of the steps that have enough before them; neither a loss that stands still nor one that falls."""
        noise = [2 + .1 * (-1) ** i for i in range(100)]
        for values, expected in ((noise, None), ([*noise, 2.5], 0), ([*noise, 2.8], 1000), ([*noise, 1], 0),
                                 ([*noise, 2.8, 2], 500), ([2] * 102, 0), ([], None)):
            (self.folder / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {x}}}\n'
                                                               for i, x in enumerate(values)) + '{"step": 3, "lo')
            found = outcome.of_training(self.run_folder(), 4, False).get("spikes")
            self.assertEqual(found, expected, values[100:])
        self.assertTrue(metrics.known("spikes"))

    def test_onset_lasts(self) -> None:
        """A first step that passes the limit for a moment is none, and there is none where M2 ends below."""
        for values, expected in (([6, 1, 5, 7], 20), ([6, 7, 5, 9], 0), ([1, 9, 9, 4], None), ([], None),
                                 ([6, math.nan, 5, 5], 20)):
            probes = [{"step": 10 * i, "m2": x} for i, x in enumerate(values)]
            self.assertEqual(outcome.of_steps(probes).get("onset.m2"), expected, values)

    def test_no_profiles_no_weights(self) -> None:
        for probe in ({}, {"m2_dim": 1}, {"m2_dim": 1, "m2_layer": 0, "layers": []},
                      {"m2_dim": 7, "m2_layer": 9, "layers": self.LAYERS}, {"m2_dim": None, "layers": self.LAYERS}):
            found = outcome.of_probe(probe, 4)
            self.assertEqual(found.keys() & {"lambda_sink", "lambda_other", "median_channel"}, set(), probe)

    def test_places(self) -> None:
        """M2 before the first block, between blocks and behind the last; and the largest of 1,500 channels, which are
        two, over what two of so many have."""
        layers = [{"m2": m2, "max": 5 * m2, "channel_mean_abs": [1] * 1500} for m2 in (2, 9, 7, 4)]
        found = outcome.of_probe({"m2": 9, "top1_permille": 4, "layers": layers}, 4)
        self.assertEqual([found.get(name) for name in ("m2_embeddings", "m2_blocks", "m2_last", "top1_over_uniform")],
                         [2, 9, 4, 3])
        self.assertEqual([found.get(f"max_{place}") for place in ("embeddings", "blocks", "last")], [10, 45, 20])
        self.assertNotIn("kurtosis_h_blocks", found)
        self.assertNotIn("m2_blocks", outcome.of_probe({"layers": layers[:2]}, 4))

    def test_diverged(self) -> None:
        found = outcome.of_training(self.run_folder("stopped"), 4, True)
        self.assertEqual(found, {"params": 100, "diverged": 1, "peak.max": 9, "peak.m2": 6, "peak.lambda_min": 1,
                                 "onset.m2": 10})

    def test_measures(self) -> None:
        measures = {
            "contribution": [{"head": [.25, .75], "projected": .5, "layer": 0},
                             {"head": [0, 1], "projected": 1, "layer": 1}],
            "norms": [{"attn": {"in": .5, "out": .25}, "ffn": None, "layer": 0},
                      {"attn": {"in": 1, "out": None}, "ffn": None, "layer": 1}],
            "dynamics":
            [{"dims": [{"dim": 3, "strength": 6, "constant_share": .5}, {"dim": 5, "strength": 8, "constant_share": 1}],
              "layer": 0}, {"dims": [], "layer": 1}],
            "singular": [{"token": {"position": 1, "norm": 2}, "down": {"sigma": 2, "converged": True}, "block": None,
                          "layer": 0}],
            "outliers": [{"q": {"max": 2, "channel": 7}, "down_input": None, "layer": 0}],
            "gates": [{"attn": {"elements": -.5, "bins": [[0, 1, 2]]}, "ffn": {"elements": -.25, "bins": []},
                       "layer": 0}],
            "depth": [{"residual": "attnres", "attn": {"weight": [1], "entropy": 0}, "ffn": None, "layer": 0,
                       "null_evidence": {"token0": .5, "others": .25}, "why": {}},
                      {"residual": "attnres", "ffn": None, "layer": 1, "null_evidence": None,
                       "attn": {"weight": [.25, .15, .6], "in": {"m2": 3, "m2_dim": 4}, "last": {"max": 8},
                                "entropy": .5, "null": None}}],
            "recurrence": [{"mixer": "gdn", "share": [.5, .25, .25, 0, 0], "uniform": .1,
                            "head": [{"att0": .5, "half_life": None}, {"att0": .25, "half_life": 3}],
                            "gate": {"closed": .5}, "norm_in": {"m2": 2, "m2_dim": 7}, "alignment": None,
                            "why": {"alignment": "a reason"}, "layer": 0},
                           {"mixer": "softmax", "share": [.75, .5, 0, 0, 0], "uniform": .1, "head": None, "gate": None,
                            "norm_in": None, "alignment": {"peaks_before": True, "spike": 9}, "layer": 1}],
            "anchors": [{"anchor": {"q": 1, "gate": None}, "own": {"q": .5, "gate": None}, "share": .75, "layer": 1,
                         "sink_logit": {"all": 4, "anchor": 3, "own": 1}, "why": {"gate": "a reason"}},
                        {"anchor": None, "own": None, "share": None, "sink_logit": None, "why": {}, "layer": 0}]}
        found = outcome.of_measures(measures)
        self.assertEqual(found, {
            "contribution.head": .5, "contribution.head.max": 1, "contribution.projected": .75,
            "contribution.projected.max": 1,
            "norms.attn_in": .75, "norms.attn_in.max": 1, "norms.attn_out": .25, "norms.attn_out.max": .25,
            "dynamics.strength": 7, "dynamics.strength.max": 8, "dynamics.constant_share": .75,
            "dynamics.constant_share.max": 1,
            "singular.down.sigma": 2, "singular.down.sigma.max": 2, "outliers.q.max": 2, "outliers.q.max.max": 2,
            "gates.elements": -.375, "gates.elements.max": -.25,
            "depth.in.m2": 3, "depth.in.m2.max": 3, "depth.last.max": 8, "depth.last.max.max": 8,
            "depth.entropy": .5, "depth.entropy.max": .5,
            "depth.weight_embedding": .25, "depth.weight_embedding.max": .25,
            "depth.weight_newest": .6, "depth.weight_newest.max": .6,
            "recurrence.state.share0": .5, "recurrence.state.share0.max": .5, "recurrence.state.share_next": .125,
            "recurrence.state.share_next.max": .125, "recurrence.att0": .375, "recurrence.att0.max": .5,
            "recurrence.half_life": 3, "recurrence.half_life.max": 3, "recurrence.gate.closed": .5,
            "recurrence.gate.closed.max": .5, "recurrence.norm_in.m2": 2, "recurrence.norm_in.m2.max": 2,
            "recurrence.attention.share0": .75, "recurrence.attention.share0.max": .75,
            "recurrence.attention.share_next": .125, "recurrence.attention.share_next.max": .125,
            "recurrence.alignment.peaks_before": 1, "recurrence.alignment.peaks_before.max": 1,
            "recurrence.alignment.spike": 9, "recurrence.alignment.spike.max": 9,
            "depth.null_evidence.token0": .5, "depth.null_evidence.token0.max": .5,
            "depth.null_evidence.others": .25, "depth.null_evidence.others.max": .25,
            "anchors.anchor.q": 1, "anchors.anchor.q.max": 1, "anchors.own.q": .5, "anchors.own.q.max": .5,
            "anchors.share": .75, "anchors.share.max": .75,
            "anchors.sink_logit.all": 4, "anchors.sink_logit.all.max": 4,
            "anchors.sink_logit.anchor": 3, "anchors.sink_logit.anchor.max": 3,
            "anchors.sink_logit.own": 1, "anchors.sink_logit.own.max": 1})
        self.assertEqual([name for name in found if not metrics.known(name)], [])

    def test_intervention(self) -> None:
        found = outcome.of_intervention("zero", {"loss": 3.0, "bits_per_byte": None}, {"m2": 2, "tokens": 5}, 4, 2.5)
        self.assertEqual(found, {"zero.val_loss": 3.0, "zero.loss_change": .5, "zero.m2": 2})
        found = outcome.of_intervention("copy", {"loss": 3.0, "loss_trigger": 2.5, "loss_other": 3.5, "accuracy": .25,
                                                 "cloze": .125}, {}, 4, 2.5)
        self.assertEqual((found["copy.in_context"], found["copy.accuracy"], found["copy.cloze"]), (1.0, .25, .125))
        self.assertTrue(all(metrics.known(name, ["copy"]) for name in found))


    def test_quantised(self) -> None:
        """The worst layer's error of each class; a loss that is not finite is no figure."""
        said = {"loss": {"value": 3.5, "change": 0.5}, "bits_per_byte": {"value": None}, "weights": {"relative": 0.1},
                "errors": [{"layer": 0, "tensor": "down_in", "relative": 0.2},
                           {"layer": 1, "tensor": "down_in", "relative": 0.3},
                           {"layer": 0, "tensor": "post_norm", "relative": None}]}
        found = outcome.of_quantised("quantize.mxfp4.plain", said)
        self.assertEqual(found, {f"quantize.mxfp4.plain.{name}": x for name, x in
                                 (("val_loss", 3.5), ("loss_change", .5), ("error_weights", .1),
                                  ("error_down_in", .3))})
        looks = metrics.looks({"quantize": {"schemes": ["mxfp4"], "transformations": {"plain": None}}})
        self.assertEqual([name for name in found if not metrics.known(name, looks)], [])
        self.assertFalse(metrics.known("quantize.mxfp4.plain.m2", looks))
        self.assertFalse(metrics.known("quantize.mxfp4.smooth.loss_change", looks))


class Sharing(unittest.TestCase):
    def test_threads(self) -> None:
        """(runs, cores, threads each)"""
        for runs, cores, threads in ((0, 8, 1), (1, 8, 8), (2, 8, 4), (8, 8, 1), (100, 8, 1), (3, 2, 2), (4, 2, 1),
                                     (5, 1, 1)):
            self.assertEqual(run_studies.share(runs, cores), threads, (runs, cores))


if __name__ == "__main__":
    unittest.main()
