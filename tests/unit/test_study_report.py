"""The report of a study and the overview, on made-up studies: complete, partial, empty, hostile."""

from __future__ import annotations

import copy
import csv
import json
import math
import re
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True

import fake_study
from test_report import Tags

from sinkstudy.judge import claims
from sinkstudy.report import study_report
from sinkstudy.report.study_results import COLUMNS, Results, from_csv, from_store
from sinkstudy.run import run_studies

FILES = ("arms.png", "claims.png", "report.html", "runs.csv", "training.png", "verdicts.json")
FINISHED = {"status": "finished", "message": "", "seconds": 3600}


class StudyTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.out = self.root / "studies" / "made_up" / "quick"

    def report(self, study: dict[str, Any] = fake_study.STUDY, **options: Any) -> tuple[dict[str, Any], str]:
        """verdicts.json and the page, which is well-formed and needs nothing from outside."""
        study_report.report(study, *fake_study.make(self.root, study, **options), self.out)
        text = (self.out / "report.html").read_text(encoding="utf-8")
        tags = Tags()
        tags.feed(text)
        self.assertEqual((tags.open, tags.outside), ([], []))
        self.assertEqual(list(self.root.glob("**/.*.part")), [])
        return json.loads((self.out / "verdicts.json").read_text()), text

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "runs.csv").open(newline="") as lines:
            return list(csv.DictReader(lines))

    def results(self, study: dict[str, Any] = fake_study.STUDY, **options: Any) -> Results:
        return from_store(study, *fake_study.make(self.root, study, **options))


class Complete(StudyTest):
    def test_report(self) -> None:
        record, text = self.report(runs=True)
        self.assertEqual(sorted(path.name for path in self.out.iterdir()), sorted(FILES))
        for name in FILES:
            if name.endswith(".png"):
                self.assertTrue((self.out / name).read_bytes().startswith(b"\x89PNG"), name)
        self.check_verdicts(record, text)
        self.check_record(record)
        self.check_csv()
        for title in ("Claims", "Arms", "Seeds", "Over training", "Sweeps", "Interventions on the finished models",
                      "Rounded to 8 and 4 bits", "Gates",
                      "Failed, diverged and missing runs", "Configuration", "Environment and cost", "How to read this"):
            self.assertIn(f"<h2>{title}</h2>", text)
        for figure in ("0.4321", "0.1234"):  # of quantised models
            self.assertIn(figure, text)
        self.assertNotIn("Partial.", text)
        self.assertEqual(text.count("<figcaption>"), text.count("<img "))
        again = text
        study_report.report(fake_study.STUDY, *fake_study.make(self.root), self.out)
        self.assertEqual((self.out / "report.html").read_text(encoding="utf-8"),
                         again)  # the same results, the same page

    def check_verdicts(self, record: dict[str, Any], text: str) -> None:
        found = {v["id"]: v["verdict"] for v in record["claims"]}
        self.assertEqual(found, {
            "gated_norm_m2": claims.SHOWN, "gated_norm_loss": claims.NOT_SHOWN, "gated_norm_att0": claims.GATE_FAILED,
            "dyt_loss": claims.SHOWN, "dyt_max": claims.OPPOSITE, "clip_diverges": claims.SHOWN,
            "clip_loss": claims.NO_PAIRS,
            "sink_carries": claims.SHOWN})
        for v in record["claims"]:
            row = re.search(rf"<tr><th scope=\"row\">{re.escape(v['text'])}.*?</tr>", text)
            assert row is not None, v["id"]
            self.assertIn(f">{v['verdict']}</span>", row[0])
        self.assertIn("sink_rate &gt; 0.5: 0, at least 0 or att0_over_uniform \u2265 3: 0.9, at least 0.9", text)

    def check_record(self, record: dict[str, Any]) -> None:
        self.assertEqual((record["format"], record["study"], record["profile"], record["sha256"]),
                         (2, "made_up", "quick", "12ab"))
        self.assertEqual(record["runs"], {"finished": 20, "diverged": 5, "failed": 0, "missing": 0})
        self.assertEqual(record["machines"],
                         [{k: fake_study.MACHINE[k] for k in ("cpu", "tier", "precision", "version", "git",
                                                            "compiler")} | {"runs": 25}])
        self.assertAlmostEqual(record["core_hours"], 2 * (20 * 130 + 5 * 20) / 3600, places=5)
        v = record["claims"][0]
        ratios = [math.log(p["second"] / p["first"]) for p in v["pairs"]]
        self.assertEqual(v["n"], len(ratios))
        self.assertAlmostEqual(v["mean"], sum(ratios) / 5, places=6)
        self.assertAlmostEqual(v["effect"], math.exp(v["mean"]), places=6)
        for low, high in (v["interval"], v["interval_corrected"]):
            self.assertTrue(low < v["mean"] < high)
        self.assertIsNone(record["claims"][6]["p"])  # no NaN in JSON

    def check_csv(self) -> None:
        rows = self.rows()
        self.assertEqual(list(rows[0])[:len(COLUMNS)], list(COLUMNS))
        self.assertEqual(len(rows), 25)
        dyt = [row for row in rows if row["arm"] == "dyt"]
        self.assertEqual({(json.loads(row["point"])["train.lr"], row["taken"]) for row in dyt},
                         {("5e-4", "0"), ("1e-3", "1")})
        first = rows[0]
        self.assertEqual((first["arm"], first["seed"], first["hash"], first["status"], first["tier"], first["threads"]),
                         ("baseline", "1", "baseline-1", "finished", "avx2", "2"))
        self.assertAlmostEqual(float(first["m2"]), fake_study.figures("baseline", 1, {})["m2"], places=6)
        clip = next(row for row in rows if row["arm"] == "clip")
        self.assertEqual((clip["status"], clip["diverged"], clip["val_loss"]), ("diverged", "1", ""))

    def test_grid(self) -> None:
        study = {"title": "Depth", "grid": {
            "attention": {"softmax": None, "relu": {"model.attention": "relu"}},
            "layers": {"l1": {"model.layers": 1}, "l2": {"set": {"model.layers": "2"}}}}}

        def of(arm: str, seed: int, point: dict[str, Any]) -> dict[str, Any]:
            return FINISHED | {"metrics": {"val_loss": 2 + 0.1 * seed, "m2": len(arm)}}
        arms = ["softmax-l1", "softmax-l2", "relu-l1"]  # a profile may leave some out
        _, text = self.report(study, seeds=2, of=of, arms=arms)
        self.assertIn("<h2>Over the grid</h2>", text)
        self.assertIn("M2 against layers (model.layers)", text)
        self.assertIn("The study makes no claims.", text)
        results = self.results(study, seeds=1, of=of, arms=arms)
        self.assertEqual(results.grid_axes(), [("attention", ["softmax", "relu"], None),
                                               ("layers (model.layers)", ["l1", "l2"], [1.0, 2.0])])
        self.assertEqual(list(results.grid_arms().values()), arms)


    def test_runs_csv_is_read_back(self) -> None:
        """The verdicts of what it holds are those of the runs."""
        record, _ = self.report()
        plan = {"study": "made_up", "profile": "quick", "file": record["file"], "sha256": record["sha256"]}
        again = study_report.judged(from_csv(fake_study.STUDY, plan, self.out / "runs.csv"))
        for old, new in zip(record["claims"], again["claims"], strict=True):
            self.assertEqual((old["verdict"], old["why"]), (new["verdict"], new["why"]))
            self.assertEqual([p["seed"] for p in old["pairs"]], [p["seed"] for p in new["pairs"]])
        self.assertEqual((again["runs"], again["machines"]), (record["runs"], record["machines"]))
        self.assertEqual([c["taken"] for c in again["sweeps"]], [c["taken"] for c in record["sweeps"]])


class Sweeps(StudyTest):
    def choice(self, figures: dict[str, list[Any]], **arm: Any) -> Any:
        """Figures of each learning rate by seed: a number is val_loss, a word a status."""
        study = {"arms": {"a": {"sweep": {"train.lr": list(figures)}} | arm}}

        def of(arm: str, seed: int, point: dict[str, Any]) -> dict[str, Any] | None:
            x = figures[point["train.lr"]][seed - 1]
            if isinstance(x, str):
                return None if x == "missing" else {"status": x, "metrics": {"diverged": 1}}
            return FINISHED | {"metrics": {"val_loss": x, "att0": x}}
        results = self.results(study, seeds=2, of=of)
        return results.choices["a"], results

    def test_the_best_mean_speaks(self) -> None:
        choice, results = self.choice({"1e-3": [1.5, 1.7], "2e-3": [1.4, 1.6], "4e-3": [1.0, 2.1]})
        self.assertEqual(choice.taken, (("train.lr", "2e-3"),))
        self.assertEqual(results.values("a", "val_loss"), [1.4, 1.6])
        self.assertEqual([round(point["mean"], 9) for point in choice.points], [1.6, 1.5, 1.55])

    def test_claims_take_each_arm_at_its_best(self) -> None:
        """As of a study whose arms are all tuned: a's best rate is not b's."""
        figures = {("a", "1e-3"): 1.5, ("a", "2e-3"): 1.6, ("b", "1e-3"): 1.9, ("b", "2e-3"): 1.2}
        sweep = {"sweep": {"train.lr": ["1e-3", "2e-3"]}}
        study = {"arms": {"a": sweep, "b": sweep}, "claims": [
            {"id": "c", "text": "t", "metric": "val_loss", "arms": ["a", "b"], "scale": "difference",
             "expect": "lower", "margin": 0.1}]}
        results = self.results(study, seeds=2, of=lambda arm, seed, point: FINISHED | {
            "metrics": {"val_loss": figures[arm, point["train.lr"]] + seed / 100}})
        pairs = study_report.judged(results)["claims"][0]["pairs"]
        self.assertEqual([(p["first"], p["second"]) for p in pairs], [(1.51, 1.21), (1.52, 1.22)])

    def test_diverged_is_worst(self) -> None:
        self.assertEqual(self.choice({"1e-3": [1.9, 1.9], "2e-3": [1.0, "diverged"]})[0].taken, (("train.lr", "1e-3"),))
        choice, results = self.choice({"1e-3": ["diverged", "diverged"], "2e-3": ["diverged", "diverged"]})
        self.assertEqual([row.status for row in results.rows_of("a")], ["diverged", "diverged"])
        self.assertEqual(choice.points[0]["diverged"], 2)

    def test_unfinished_points(self) -> None:
        self.assertEqual(self.choice({"1e-3": ["missing", "missing"], "2e-3": [1.9, "missing"]})[0].taken,
                         (("train.lr", "2e-3"),))

    def test_selecting_by_another_metric(self) -> None:
        choice, _ = self.choice({"1e-3": [1.5, 1.7], "2e-3": [1.4, 1.6]}, select="tokens_per_s")
        self.assertEqual((choice.select, choice.points[0]["n"]), ("tokens_per_s", 0))
        self.assertEqual(self.choice({"1e-3": [0.5, 0.7], "2e-3": [0.4, 0.6]}, select="att0")[0].taken,
                         (("train.lr", "2e-3"),))


class Partial(StudyTest):
    def some(self, arm: str, seed: int, point: dict[str, Any]) -> dict[str, Any] | None:
        """Two seeds of the baseline, one of gated_norm, one failure, the rest not yet."""
        if (arm, seed) == ("gated_norm", 2):
            return {"status": "failed", "message": "<no> space left on device", "metrics": {}, "seconds": 3}
        return fake_study.outcome(arm, seed, point) if seed <= {"baseline": 2, "gated_norm": 1}.get(arm, 0) else None

    def test_report(self) -> None:
        record, text = self.report(of=self.some)
        self.assertEqual(record["runs"], {"finished": 3, "diverged": 0, "failed": 1, "missing": 21})
        self.assertIn("<strong>Partial.</strong> 3 of 25 runs are here, 1 failed, 21 are not run yet", text)
        self.assertIn("&lt;no&gt; space left on device", text)
        found = {v["id"]: (v["verdict"], v["n"]) for v in record["claims"]}
        self.assertEqual(found["gated_norm_m2"], (claims.NOT_RUN, 1))
        self.assertEqual(found["dyt_loss"], (claims.NOT_RUN, 0))
        self.assertIn("6 of 10 runs wait", text)
        self.assertEqual(record["claims"][0]["lost"][0]["why"], "gated_norm: failed")

    def test_nothing_run(self) -> None:
        record, text = self.report(of=lambda *args: None)
        self.assertEqual({v["verdict"] for v in record["claims"]}, {claims.NOT_RUN})
        self.assertIn("0 of 25 runs are here", text)
        self.assertEqual({row["status"] for row in self.rows()}, {"missing"})

    def test_hostile_words(self) -> None:
        study = copy.deepcopy(fake_study.STUDY)
        study["title"] = study["question"] = "<script>alert(1)</script>"
        study["claims"][0] |= {"text": "<script>", "id": "\"><script>", "source": "<script>"}
        _, text = self.report(study, seeds=1)
        self.assertIsNone(re.search("<script", text))

    def test_damaged_and_half_done_runs(self) -> None:
        plan, store = fake_study.make(self.root, seeds=5, of=lambda *args: None)
        first = [row["hash"] for row in plan["runs"][:5]]
        for name, file, text in ((first[0], "outcome.json", '{"status": "fini'), (first[1], "outcome.json", "[1]"),
                                 (first[2], "trained.json", '{"status": "failed", "message": "no memory"}'),
                                 (first[3], "trained.json", '{"status": "finished", "metrics": {"m2": 5}}'),
                                 (first[4], "outcome.json", '{"status": "finished", "metrics": {"m2": "x", "max": '
                                                            '1e999}}')):
            (store / name).mkdir(parents=True)
            (store / name / file).write_text(text)
        rows = from_store(fake_study.STUDY, plan, store).rows[:5]
        self.assertEqual([(row.status, row.message) for row in rows], [
            ("missing", "its outcome is damaged"), ("missing", "its outcome is damaged"), ("failed", "no memory"),
            ("missing", "trained, not measured yet"), ("finished", "")])
        self.assertFalse(any(math.isfinite(x) for x in rows[4].metrics.values()))

    def test_notes_of_runs(self) -> None:
        plan, store = fake_study.make(self.root, seeds=1, of=lambda *args: FINISHED | {"metrics": {}, "threads": 4,
                                                                                      "notes":
                                                                                       ["zero: no norm to change"]})
        for row in plan["runs"]:
            row |= {"unmatched": "no width comes within 0.1 %", "outcome": f"{row['hash']}/outcome.json"}
        study_report.report(fake_study.STUDY, plan, store, self.out)
        text = (self.out / "report.html").read_text(encoding="utf-8")
        self.assertIn("<li>baseline: zero: no norm to change</li>", text)
        self.assertIn("<li>baseline: parameters not matched: no width comes within 0.1 %</li>", text)
        self.assertEqual(self.rows()[0]["core_hours"], "4")  # the outcome's threads, not the machine file's

    def test_several_machines(self) -> None:
        plan, store = fake_study.make(self.root, seeds=2)
        (store / "baseline-1" / "env.json").write_text(json.dumps(fake_study.MACHINE | {"tier": "avx512"}))
        results = from_store(fake_study.STUDY, plan, store)
        self.assertEqual(sorted(m["runs"] for m in results.machines()), [1, 9])
        self.assertIn("different kernel tiers", study_report.environment_section(results))

    def test_shared_runs_count_once(self) -> None:
        plan, store = fake_study.make(self.root, seeds=1)
        plan["runs"].append(plan["runs"][0] | {"arm": "twin"})
        results = from_store(fake_study.STUDY, plan, store)
        self.assertEqual((len(results.rows), len(results.distinct())), (6, 5))
        self.assertEqual(results.values("twin", "m2"), results.values("baseline", "m2"))


class Overview(StudyTest):
    def test_overview(self) -> None:
        record, _ = self.report(of=lambda arm, seed, point: fake_study.outcome(arm, seed, point) if arm != "dyt"
                                else None)
        path = self.root / "studies" / "overview.html"
        rows = study_report.overview([self.out, self.root / "nowhere"], path)
        text = path.read_text(encoding="utf-8")
        tags = Tags()
        tags.feed(text)
        self.assertEqual(tags.open, [])
        self.assertEqual(tags.outside, ["made_up/quick/report.html"])
        self.assertTrue((path.parent / tags.outside[0]).is_file())
        self.assertIn("nowhere: no verdicts.json of this version", text)
        for v in record["claims"]:
            self.assertIn(v["text"], text)
        self.assertEqual([row["verdict"] for row in rows], [v["verdict"] for v in record["claims"]])
        self.check_files(path, rows)

    def test_the_same_figures_count_once(self) -> None:
        """In two studies, whatever the claims are called."""
        record, _ = self.report()
        twin = self.root / "studies" / "twin" / "quick"
        twin.mkdir(parents=True)
        (twin / "verdicts.json").write_text(json.dumps(record | {"study": "twin"}))
        rows = study_report.overview([self.out, twin], self.root / "studies" / "overview.html")
        judged = [v["id"] for v in record["claims"] if v["n"]]
        self.assertEqual([row["same_as"] for row in rows if row["study"] == "made_up"], [""] * len(record["claims"]))
        self.assertEqual([row["same_as"] for row in rows if row["study"] == "twin" and row["n"]],
                         [f"made_up.{name}" for name in judged])
        text = (self.root / "studies" / "overview.html").read_text(encoding="utf-8")
        shown = sum(v["verdict"] == claims.SHOWN for v in record["claims"])
        self.assertIn(f'<li><span class="verdict shown">{shown}</span> shown, exploratory</li>', text)

    def check_files(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.assertEqual(json.loads(path.with_suffix(".json").read_text())["claims"], rows)
        with path.with_suffix(".csv").open(newline="") as lines:
            table = list(csv.DictReader(lines))
        self.assertEqual(len(table), len(rows))
        self.assertEqual(list(table[0]), list(study_report.OVERVIEW_COLUMNS))
        first = table[0]
        self.assertEqual((first["study"], first["profile"], first["machine"], first["version"], first["page"]),
                         ("made_up", "quick", "A CPU, avx2", "0.1.0", "made_up/quick/report.html"))
        self.assertEqual(json.loads(first["effect_interval"]), rows[0]["effect_interval"])
        self.assertEqual(next(row for row in table if row["id"] == "dyt_loss")["effect"], "")

    def test_lines_for_the_terminal(self) -> None:
        plan, store = fake_study.make(self.root)
        made = study_report.report(fake_study.STUDY, plan, store, self.out)
        lines = study_report.verdict_lines(json.loads((self.out / "verdicts.json").read_text()))
        self.assertEqual(lines, study_report.verdict_lines(made))
        self.assertRegex(lines[0], r"^gated_norm_m2 +shown: m2 of gated_norm against baseline: \u00d7 0\.\d+ \[0\.\d+, "
                                   r"0\.\d+\] \(n 5, FDR p .*\); lower by more than the margin$")

    def test_a_sweep_ends_with_its_best(self) -> None:
        """As the command prints it, of the file."""
        plan, store = fake_study.make(self.root)
        record = study_report.report(fake_study.STUDY, plan, store, self.out)
        lines = run_studies.terminal_lines(self.out / "verdicts.json")
        (best,) = (json.loads(line.removeprefix("best: ")) for line in lines if line.startswith("best: "))
        self.assertEqual(best, {sweep["arm"]: sweep["taken"] for sweep in record["sweeps"]})
        self.assertIn("train.lr", best["dyt"])

    def test_lines_of_sweeps(self) -> None:
        """As a profile takes them; ends are of numbers, and of more than two."""
        def sweep(arm: str, key: str, taken: Any, *values: Any) -> dict[str, Any]:
            return {"arm": arm, "taken": {key: taken}, "points": [{"point": {key: x}} for x in values]}
        rate = "train.lr"
        found = study_report.sweep_lines({"sweeps": [
            sweep("a", rate, .001, .001, .002, .004), sweep("b", rate, .002, .001, .002, .004),
            sweep("c", rate, .004, .002, .004), sweep("d", "model.norm", "rms", "dyt", "rms", "none"),
            sweep("e", rate, .004, .001, .004, .002), sweep("f", "match", True, True, False, True)]})
        self.assertEqual(found[0], 'best: {"a": {"train.lr": 0.001}, "b": {"train.lr": 0.002}, "c": {"train.lr": 0.004}'
                                   ', "d": {"model.norm": "rms"}, "e": {"train.lr": 0.004}, "f": {"match": true}}')
        self.assertEqual(found[1:], ["best at an end of what was tried: a train.lr 0.001, e train.lr 0.004"])
        self.assertEqual(study_report.sweep_lines({"sweeps": []}), [])

    def test_results_of_another_version(self) -> None:
        self.out.mkdir(parents=True)
        for text in ('{"format": 0}', "[", "{}"):
            (self.out / "verdicts.json").write_text(text)
            self.assertEqual(study_report.overview([self.out], self.root / "overview.html"), [])


if __name__ == "__main__":
    unittest.main()
