"""The report on made-up run directories: complete, killed, damaged, hostile. Needs matplotlib, else it is skipped."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import random
import re
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sinkstudy.report import report
from sinkstudy.store import runs as run_reading

HAVE_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
VOID = {"meta", "img", "br"}


def layer(at: int, layers: int, dim: int, heads: int, sink: float, rng: random.Random) -> dict[str, Any]:
    """A layer's object as probe.jsonl has it, with a sink of the given strength in channel 3."""
    grown = 1 + (sink - 1) * math.sin(math.pi * min(1.0, (at + 0.6) / layers) * 0.75)
    channels = [math.exp(rng.gauss(0, 0.35)) for _ in range(dim)]
    channels[3], channels[7] = grown * 1.0, max(1.0, grown * 0.6)
    record: dict[str, Any] = {"layer": at, "max": 30 * grown, "max_no_token0": 22 * grown, "m2": grown, "m2_dim": 3,
                              "top1_permille": 4 * grown, "kurtosis_h": 1 + grown, "token0_norm_ratio": 2.0,
                              "channel_mean_abs": channels}
    if at == layers:
        return record
    weights = [max(0.0, 1 - 0.9 * math.log(max(c, 1.0))) + abs(rng.gauss(0, 0.05)) for c in channels]
    record |= {"att0": [min(0.95, abs(rng.gauss(0.05, 0.14)) * sink / 4) for _ in range(heads)],
               "entropy": [rng.uniform(1, 4) for _ in range(heads)], "value_norm_ratio": 0.5,
               "lambda_min": min(weights), "norm_weight_attn": weights,
               "norm_weight_ffn": [min(1.3, w + 0.2) for w in weights], "gate_mean": None, "gate_std": None}
    return record


def probe(step: int, steps: int, sink: float, profile: bool = False) -> dict[str, Any]:
    strength = 1 + (sink - 1) / (1 + math.exp(-8 * (step / steps - 0.45)))
    record: dict[str, Any] = {
        "max": 8 + 30 * (strength - 1) ** 1.4, "max_no_token0": 8 + 20 * (strength - 1) ** 1.4, "m2": strength,
        "m2_layer": 4, "m2_dim": 3, "top1_permille": 4 * strength, "kurtosis_h": strength,
        "lambda_min": 1 / strength**2,
        "att0": 0.02 + 0.01 * strength, "sink_rate": 0.125, "value_norm_ratio": 0.5, "tokens": 8192}
    if profile:
        rng = random.Random(step + sink)
        record["layers"] = [layer(i, 6, 192, 6, strength, rng) for i in range(7)]
    return record


def write_run(folder: Path, sink: float = 10.0, steps: int = 600, finished: bool = True) -> Path:
    """A run directory as `sinklab train` leaves it; finished=False: as after a kill."""
    folder.mkdir(parents=True)
    rng = random.Random(sink)
    norm = "rmsnorm" if sink > 5 else "gated_norm"
    folder.joinpath("config.yaml").write_text(
        f"model:\n  layers: 6\n  norm: {norm}\n  norm_opts:\n    rank: 16\ntrain:\n  steps: {steps}\nseed: 1\n")
    folder.joinpath("env.json").write_text(json.dumps({"cpu": "A CPU", "threads": 2, "blas": {"core": "Zen"}}))
    with folder.joinpath("metrics.jsonl").open("w") as out:
        for step in range(1, steps + 1):
            loss = 1.4 + 4.1 * math.exp(-step / 60) + rng.gauss(0, 0.05)
            line: dict[str, Any] = {"step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 9000.0,
                                    "gflops": 100.0, "seconds": step * 0.4}
            if step % 100 == 0:
                line |= {"val_loss": loss + 0.05, "val_bits_per_byte": loss / math.log(2)}
            out.write(json.dumps(line) + "\n")
    with folder.joinpath("probe.jsonl").open("w") as out:
        for step in range(0, steps + 1, 50):
            last = step == steps
            out.write(json.dumps({"step": step} | probe(step, steps, sink, profile=last and finished)) + "\n")
    if finished:
        folder.joinpath("result.json").write_text(json.dumps(
            {"val_loss": 1.45, "bits_per_byte": 2.09, "params": 2345678, "tokens": 4915200, "seconds": 240.0,
             "tokens_per_s": 20480.0, "probe": probe(steps, steps, sink), "config_hash": "ab12", "status": "done"}))
    return folder


class Tags(HTMLParser):
    """Checks that tags are closed in order; collects images and outside references."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if (value or "").startswith("data:image/") else self.outside).append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


class ReportTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def run_report(self, *args: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = report.main([str(a) for a in args])
        return code, out.getvalue(), err.getvalue()

    def assert_one_line_error(self, outcome: tuple[int, str, str], *words: str) -> None:
        code, out, err = outcome
        self.assertNotEqual(code, 0)
        self.assertEqual(out, "")
        self.assertEqual(err.count("\n"), 1, err)
        for word in ("report.py: error:", *words):
            self.assertIn(word, err)


class Reading(ReportTest):
    def test_missing_run(self) -> None:
        self.assert_one_line_error(self.run_report(self.root / "nowhere"), "nowhere", "no such run directory")

    def test_folder_that_is_no_run(self) -> None:
        self.assert_one_line_error(self.run_report(self.root), "sinklab train")

    def test_file_instead_of_folder(self) -> None:
        path = self.root / "file"
        path.write_text("x")
        for text in ("x", "{}", '{"layers": []}', "[" * 100000):
            path.write_text(text)
            self.assert_one_line_error(self.run_report(path), "file", "sinklab probe --json")

    def test_too_many_runs(self) -> None:
        run = write_run(self.root / "a", steps=2)
        self.assert_one_line_error(self.run_report(*[run] * 25), "at most 24")

    def test_resumed_steps_count_once_and_last(self) -> None:
        path = write_run(self.root / "a", steps=10)
        with path.joinpath("metrics.jsonl").open("a") as out:
            out.write('{"step": 4, "loss": 77}\n')
        run = run_reading.read_run(path)
        self.assertEqual([r["step"] for r in run.metrics], list(range(1, 11)))
        self.assertEqual(run.metrics[3]["loss"], 77)

    def test_damage_becomes_a_note(self) -> None:
        path = write_run(self.root / "a", steps=10)
        with path.joinpath("metrics.jsonl").open("a") as out:
            out.write('[1]\n{"step": null}\n{"step": 11, "lo')
        path.joinpath("env.json").write_text("[" * 100000)
        path.joinpath("config.yaml").unlink()
        run = run_reading.read_run(path)
        self.assertEqual(run.last_step, 10)
        self.assertIn("metrics.jsonl: 3 lines, the first 11, cut off or damaged, left out", run.notes)
        self.assertIn("env.json is damaged, left out", run.notes)
        self.assertIn("config.yaml is missing", run.notes)

    def test_numbers(self) -> None:
        for value in (None, "3", [1], True, 10**400):
            self.assertTrue(math.isnan(run_reading.number(value)), value)
        self.assertEqual(run_reading.number(3), 3)

    def test_yaml_is_flattened(self) -> None:
        text = "a:\n  b: 1\n  c:\n    d: x: y\n  e: [1, 2]\n# note: no\nf: true\n"
        self.assertEqual(run_reading.flatten_yaml(text),
                         {"a.b": "1", "a.c.d": "x: y", "a.e": "[1, 2]", "f": "true"})

    def test_differing_keys(self) -> None:
        self.assertEqual(run_reading.differing([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]), ["b", "c"])

    def test_table_of_two_runs(self) -> None:
        runs = run_reading.read_runs([write_run(self.root / "base"), write_run(self.root / "gate", sink=2.0)])
        rows = {row[0]: row[1:] for row in report.table_rows(runs)}
        self.assertEqual(rows[""], ["base", "gate", "change"])
        self.assertEqual(rows["validation loss"], ["1.45", "1.45", "+0.0000"])
        self.assertEqual(rows["parameters"], ["2,345,678", "2,345,678", ""])
        first, second = (run.result["probe"]["m2"] for run in runs)
        self.assertEqual(rows["M2"], [f"{first:.4g}", f"{second:.4g}", f"\u00d7 {second / first:.3g}"])

    def test_killed_run_shows_its_last_figures(self) -> None:
        run = run_reading.read_run(write_run(self.root / "a", finished=False))
        rows = {row[0]: row[1] for row in report.table_rows([run])}
        self.assertEqual(rows[""], "a \u2020")
        self.assertEqual(rows["M2"], f"{run.probes[-1]['m2']:.4g}")
        self.assertEqual(rows["validation loss"], f"{run.metrics[-1]['val_loss']:.4g}")
        self.assertEqual(rows["parameters"], "\u2013")

    def test_equal_names_take_the_parents(self) -> None:
        paths = [write_run(self.root / parent / "a", steps=3) for parent in ("x", "y")]
        runs = run_reading.read_runs(paths)
        self.assertEqual([run.name for run in runs], ["x/a", "y/a"])


@unittest.skipUnless(HAVE_MATPLOTLIB, "needs matplotlib")
class Page(ReportTest):
    def make(self, *args: object) -> tuple[str, Tags]:
        out = self.root / "out" / "report.html"
        code, _, err = self.run_report(*args, "--out", out)
        self.assertEqual(code, 0, err)
        text = out.read_text(encoding="utf-8")
        tags = Tags()
        tags.feed(text)
        self.assertEqual(tags.open, [])
        self.assertEqual(tags.outside, [])
        return text, tags

    def test_two_runs(self) -> None:
        a, b = write_run(self.root / "baseline"), write_run(self.root / "gated", sink=2.0)
        picture = self.root / "report.png"
        text, tags = self.make(a, b, "--png", picture)
        self.assertEqual(len(tags.images), 12)  # 5 + 5 panels, a heat map a run
        self.assertNotIn("Gaps in these runs", text)
        self.assertRegex(text, r'<tr class="differs"><th scope="row"><code>model.norm</code></th>'
                               r"<td>rmsnorm</td><td>gated_norm</td>")
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
        self.assertEqual(list(self.root.glob("**/.*.part")), [])

    def test_probed_model(self) -> None:
        model, picture = self.root / "model.json", self.root / "model.png"
        model.write_text(json.dumps(probe(1, 1, 20.0, profile=True) | {"loss": 3.25, "bos": None}))
        text, tags = self.make(model, "--png", picture)
        self.assertEqual(len(tags.images), 6)
        self.assertIn("probed", text)
        self.assertIn("<td>3.25</td>", text)
        for absent in ("Over training", "Configuration", "Gaps in these runs"):
            self.assertNotIn(absent, text)
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
        _, tags = self.make(model, write_run(self.root / "run", steps=20))
        self.assertEqual(len(tags.images), 12)

    def test_tokens_of_largest_norm(self) -> None:
        row = {"norm": 800.0, "window": 3, "position": 0, "token": 7, "text": None}
        others = [row | {"norm": 30.0, "position": 5, "text": "<b>\n\"\ufffd"}]
        record = probe(1, 1, 20.0, profile=True) | {"loss": 3.25}
        model = self.root / "model.json"
        model.write_text(json.dumps(record | {"top_tokens": {"layer": 4, "mean_norm": 10.0, "first": [row],
                                                             "others": others}}))
        text, _ = self.make(model)
        self.assertIn("Tokens of largest norm in model", text)
        self.assertIn("<code>token 7</code></th><td>800</td><td>80</td><td>3</td><td>0</td>", text)
        self.assertIn("&lt;b&gt;\\n\\&quot;\ufffd&quot;</code></th><td>30</td><td>3</td><td>3</td><td>5</td>", text)
        broken: tuple[Any, ...] = ({}, {"first": 5, "others": [1]}, {"layer": None, "mean_norm": 0, "first": [{}]}, [])
        for damaged in broken:
            model.write_text(json.dumps(record | {"top_tokens": damaged}))
            self.make(model)

    def test_the_same_runs_give_the_same_page(self) -> None:
        run = write_run(self.root / "a", steps=20)
        self.assertEqual(self.make(run)[0], self.make(run)[0])

    def test_killed_run(self) -> None:
        run = write_run(self.root / "killed", finished=False)
        text, _ = self.make(run)
        self.assertIn("unfinished: no result.json, last record at step 600", text)
        self.assertIn("no probe with channel profiles", text)

    def test_only_a_result(self) -> None:
        run = write_run(self.root / "a")
        for name in ("config.yaml", "env.json", "metrics.jsonl", "probe.jsonl"):
            run.joinpath(name).unlink()
        text, _ = self.make(run)
        for name in ("config.yaml", "env.json", "metrics.jsonl", "probe.jsonl"):
            self.assertIn(f"{name} is missing", text)

    def test_diverged_run(self) -> None:
        run = write_run(self.root / "a", steps=100)
        with run.joinpath("metrics.jsonl").open("a") as out:
            for step in range(101, 150):
                out.write(f'{{"step": {step}, "loss": null, "val_loss": NaN}}\n')
        with run.joinpath("probe.jsonl").open("a") as out:
            out.write('{"step": 149, "m2": null, "max": 1e400, "layers": [{"layer": 0, "att0": [null, null], '
                      '"m2": null, "channel_mean_abs": [null, 1]}, {"att0": [1], "norm_weight_attn": "x"}]}\n')
        run.joinpath("result.json").unlink()
        self.make(run)

    def test_hostile_names_and_values_are_text(self) -> None:
        run = write_run(self.root / "<script>alert(1)<")
        run.joinpath("env.json").write_text(json.dumps({"<b>": "\"><script>"}))
        text, _ = self.make(run, "--title", "<script>&\"")
        self.assertIsNone(re.search("<script", text))

    def test_values_of_a_wrong_type(self) -> None:
        run = write_run(self.root / "a", steps=5)
        run.joinpath("result.json").write_text(
            '{"val_loss": "x", "params": [1], "probe": [], "status": {"a": 1}, "tokens": 1e999}')
        run.joinpath("probe.jsonl").write_text(
            '{"step": 1, "m2": "x", "layers": {"a": 1}}\n{"step": 2, "layers": [1]}\n')
        self.make(run)

    def test_unwritable_out(self) -> None:
        run = write_run(self.root / "a", steps=5)
        self.assert_one_line_error(self.run_report(run, "--out", run / "env.json" / "report.html"))


if __name__ == "__main__":
    unittest.main()
