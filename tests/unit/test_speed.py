"""comparisons/speed/run.py with made-up programs: medians, ratios, the choice of the peer's side, what goes wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import stat
import sys
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.dont_write_bytecode = True

import grid
import run as speed

HAVE_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
SHAPE = {"layers": 1, "dim": 8, "heads": 2, "ffn": 16, "vocab": 256, "seq": 8, "batch": 2, "norm": "rmsnorm", "rank": 4}
# A program that answers from a list in a file, one answer a call: a JSON value, or a string that is its error. `bench
# kernel` and --profile have lists of their own. --version, doctor and -c don't count. It logs its arguments and when it
# ran beside.
PROGRAM = """#!{python}
import fcntl, json, sys, time
args = sys.argv[1:]
if args[0] == "--version":
    print("sinklab 9.9")
elif args[0] == "doctor":
    print(json.dumps({{"cpu": "A CPU", "usable_cores": {cores}, "tier": "t1"}}))
elif args[0] == "-c":
    {torch}
else:
    start = time.monotonic()
    kind = "kernel" if "kernel" in args else "profile" if "--profile" in args else "plain"
    with open({answers!r}, "r+") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        answers = json.load(f)
        first, *rest = answers[kind]
        answers[kind] = rest or [first]
        f.seek(0), f.truncate()
        json.dump(answers, f)
        with open({log!r}, "a") as log:
            log.write(json.dumps([{name!r}, *args]) + "\\n")
    if isinstance(first, str):
        sys.exit(first)
    time.sleep(first.pop("sleep", 0))
    with open({log!r} + ".times", "a") as log:
        log.write(json.dumps([start, time.monotonic()]) + "\\n")
    print(json.dumps(first))
"""


def own(rate: float, **more: Any) -> dict[str, Any]:
    return {"tokens_per_s": rate, "gflops": rate / 100, "share_of_peak": 0.25, "peak_rss_bytes": 2e9, "params": 100,
            "precision": "fp32", "shape": SHAPE, **more}


def peer(*rates: float, **more: Any) -> dict[str, Any]:
    return {"tokens_per_s": list(rates), "params": 100, "peak_rss_bytes": 3e9, **more}


def profiled(forward: float, backward: float, **more: Any) -> dict[str, Any]:
    """Linear layers that do so many GFLOP/s, the backward pass in twice the time; and what is none."""
    lines = [("linear forward", 10, forward), ("linear backward", 20, backward), ("linear_int8 forward", 30, 9999),
             ("adamw", 40, 0)]
    return own(1, profile=[{"operation": operation, "ms": ms, "gflops": gflops} for operation, ms, gflops in lines],
               **more)


def kernel(gflops: float, **more: Any) -> dict[str, Any]:
    return {"gflops": gflops, "best_gflops": gflops + 1, "precision": "fp32", **more}


class SpeedTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def program(self, name: str, answers: list[Any], torch: bool = True, kernel: Sequence[Any] = (),
                profile: Sequence[Any] = (), cores: int = 4) -> Path:
        path, file = self.root / name, self.root / f"{name}.json"
        file.write_text(json.dumps({"plain": answers, "kernel": kernel, "profile": profile}))
        path.write_text(PROGRAM.format(python=sys.executable, name=name, log=str(self.root / "log"), answers=str(file),
                                       cores=cores,
                                       torch='print("2.99")' if torch else 'sys.exit("No module named torch")'))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def sinklab_without_torch(self, answers: list[Any], **more: Any) -> Path:
        """The program; the interpreter that runs the script has no torch from now on."""
        sinklab = self.program("sinklab", answers, **more)
        self.addCleanup(setattr, sys, "executable", sys.executable)
        sys.executable = str(self.program("python", [], torch=False))
        return sinklab

    def run_speed(self, *args: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = speed.main([str(a) for a in args])
            except SystemExit as end:
                code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.root / "log").read_text().splitlines()]

    def table(self, text: str, number: int = 0) -> list[dict[str, str]]:
        """Rows of a Markdown table of a document; a second column of one name gets an apostrophe."""
        part = [part for part in text.split("\n\n") if part.startswith("|")][number]
        lines = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines()]
        header: list[str] = []
        for cell in lines[0]:
            header.append(cell + "'" if cell in header else cell)
        for line in lines:
            self.assertEqual(len(line), len(header), line)
        return [dict(zip(header, line)) for line in lines[2:]]

    def assert_one_line_error(self, outcome: tuple[int, str, str], *words: str) -> None:
        code, out, err = outcome
        self.assertEqual((code, out, err.count("\n")), (1, "", 1), err)
        for word in ("run.py: error:", *words):
            self.assertIn(word, err)


class WithPeer(SpeedTest):
    def measure(self, own_answers: list[Any], peer_answers: list[Any], *args: object) -> str:
        code, out, err = self.run_speed("--sinklab", self.program("sinklab", own_answers), "--python",
                                        self.program("python", peer_answers), "--json", self.root / "raw.json",
                                        "--no-share", *args)
        self.assertEqual(code, 0, err)
        return out

    def test_medians_and_ratios(self) -> None:
        # Median over steps of each run of the peer: 100, 90 (compiled, slower: not taken), then 110, 130.
        out = self.measure([own(300), own(500), own(200)],
                           [peer(1, 100, 999), peer(90), peer(110), peer(130)], "--rows", "p:fp32:2")
        row, = self.table(out)
        self.assertEqual(row["sinklab, tokens/s"], "300")
        self.assertEqual((row["best"], row["lowest"]), ("500", "200"))
        self.assertEqual((row["PyTorch, tokens/s"], row["best'"]), ("110 eager", "130"))
        self.assertEqual(row["ratio"], "2.73")  # 300 / 110
        self.assertEqual(row["ratio of the bests"], "3.85")  # 500 / 130
        self.assertEqual(row["ratio of the rounds"], "1.54\u20134.55")  # 200/130, 300/100, 500/110
        self.assertEqual((row["GFLOP/s"], row["of peak"], row["memory, GB"], row["memory, GB'"]),
                         ("3", "25 %", "2.00", "3.00"))
        self.assertIn("A CPU, 4 cores, kernels t1; sinklab 9.9", out)
        self.assertIn("PyTorch 2.99", out)
        code, again, _ = self.run_speed("--table", self.root / "raw.json")
        self.assertEqual((code, again), (0, out))

    def test_figures_of_an_older_script(self) -> None:
        old = {"preset": "p", "precision": "fp32", "threads": 2, "norm": "rmsnorm", "sinklab": [own(300), own(200)],
               "eager": [own(100), own(160)], "compiled": [], "failed": [], "notes": ["said then"]}
        machine = {"cpu": "A CPU", "tier": "t1", "cores": 4, "sinklab": "9.8", "torch": "2.99", "load": 0}
        (self.root / "raw.json").write_text(json.dumps({"machine": machine, "rounds": 2, "steps": 8, "notes": [],
                                                        "rows": [old]}))
        code, out, err = self.run_speed("--table", self.root / "raw.json")
        self.assertEqual(code, 0, err)
        row, = self.table(out)
        self.assertEqual((row["best"], row["best'"], row["ratio of the bests"]), ("300", "160", "1.88"))
        self.assertIn("said then", out)
        self.assertNotIn("linear layers", out)

    def test_alternates_and_takes_the_faster_side(self) -> None:
        self.measure([own(300)], [peer(100), peer(150)], "--rows", "p:fp32:2:gated_norm", "--rounds", 3)
        calls = self.calls()
        self.assertEqual([call[0] for call in calls], ["sinklab", "python", "python", "python", "sinklab", "sinklab",
                                                       "python"])
        self.assertEqual(["--compile" in call for call in calls if call[0] == "python"], [False, True, True, True])
        self.assertEqual(calls[0][1:], ["bench", "p", "--json", "--steps", "8", "threads=2", "precision=fp32",
                                        "model.norm=gated_norm"])
        self.assertEqual(json.loads(calls[1][2]), SHAPE)

    def test_what_does_not_compile_is_told(self) -> None:
        out = self.measure([own(300)], [peer(100), "no C++ compiler", peer(120)], "--rows", "p:fp32:1", "--rounds", 2)
        self.assertEqual(self.table(out)[0]["PyTorch, tokens/s"], "110 eager")
        self.assertIn("p fp32, 1 thread: PyTorch, compiled: no C++ compiler", out)
        self.assertEqual(sum("--compile" in call for call in self.calls()), 1)

    def test_compiling_has_a_limit(self) -> None:
        out = self.measure([own(300)], [peer(100), peer(900, sleep=60)], "--rows", "p:fp32:1", "--rounds", 1,
                           "--compile-limit", 1)
        self.assertEqual(self.table(out)[0]["PyTorch, tokens/s"], "100 eager")
        self.assertIn("was stopped after 1 s", out)

    def test_another_model_is_no_peer(self) -> None:
        out = self.measure([own(300)], [peer(100, params=99)], "--rows", "p:fp32:1")
        self.assertNotIn("ratio of the rounds", out)
        self.assertIn("99 parameters and sinklab 100: not the same model", out)

    def test_cost_of_a_norm(self) -> None:
        out = self.measure([own(200), own(190)], [peer(100), peer(72)], "--compile-limit", 0, "--rounds", 1,
                           "--rows", "p:fp32:1", "p:fp32:1:gated_norm", "q:fp32:1:layernorm")
        self.assertIn("p fp32 gated_norm, 1 thread, against rmsnorm: sinklab -5 %, PyTorch -28 %", out)
        self.assertIn("the peer has no layernorm", out)
        self.assertEqual(self.table(out)[2]["ratio"], "")

    def test_a_failing_row_leaves_the_others(self) -> None:
        out = self.measure(["sinklab: error: unknown preset", own(200)], [peer(100)], "--rows", "p:fp32:1", "q:fp32:1",
                           "--rounds", 1)
        self.assertEqual([row["preset"] for row in self.table(out)], ["q"])
        self.assertIn("unknown preset", out)

    def test_precision_that_the_machine_lacks(self) -> None:
        out = self.measure([own(200), own(100)], [peer(100)], "--rows", "p:bf16:1", "p:fp32:1", "--rounds", 1)
        self.assertEqual([row["precision"] for row in self.table(out)], ["fp32"])
        self.assertIn("no unit for bf16", out)

    def test_budget(self) -> None:
        out = self.measure([own(300), own(300, sleep=60)], [peer(100)], "--rows", "p:fp32:1", "--compile-limit", 0,
                           "--budget", 6)
        self.assertEqual(self.table(out)[0]["ratio"], "3.00")
        self.assertIn("Stopped after the 6 s", out)
        raw = json.loads((self.root / "raw.json").read_text())
        self.assertEqual(len(raw["rows"][0]["sinklab"]), 1)


class WithoutPeer(SpeedTest):
    def test_no_torch_prints_one_column_and_says_so(self) -> None:
        sinklab = self.sinklab_without_torch([own(300), own(100), own(200)])
        code, out, err = self.run_speed("--sinklab", sinklab, "--rows", "p:fp32:2", "--no-share")
        self.assertEqual(code, 0, err)
        row, = self.table(out)
        self.assertEqual(row["sinklab, tokens/s"], "200")
        self.assertNotIn("ratio", row)
        self.assertIn("no PyTorch here", out)
        self.assertEqual({call[0] for call in self.calls()}, {"sinklab"})

    def test_python_that_was_named_must_have_torch(self) -> None:
        self.assert_one_line_error(self.run_speed("--sinklab", self.program("sinklab", [own(1)]), "--python",
                                                  self.program("python", [], torch=False)), "cannot import torch",
                                   "No module named torch")

    def test_not_built(self) -> None:
        self.assert_one_line_error(self.run_speed("--sinklab", self.root / "none"), "none", "ninja -C build")

    def test_sinklab_fails(self) -> None:
        outcome = self.run_speed("--sinklab", self.program("sinklab", ["sinklab: error: out of memory"]), "--rows",
                                 "p:fp32:1")
        self.assert_one_line_error(outcome, "out of memory")

    def test_default_rows_fit_the_cores(self) -> None:
        code, out, _ = self.run_speed("--sinklab", self.program("sinklab", [own(300, precision="bf16")]), "--python",
                                      self.program("python", [peer(1)]), "--rounds", 1, "--compile-limit", 0,
                                      "--no-share")
        self.assertEqual(code, 0)
        self.assertIn("Rows of more than 4 threads are left out", out)
        self.assertTrue(all(call[6] == "threads=2" for call in self.calls() if call[0] == "sinklab"))

    def test_rows_are_checked(self) -> None:
        for row in ("p", "p:fp32", "p:fp16:2", "p:fp32:0", "p:fp32:x", "p:fp32:2:", "p:fp32:2:n:m"):
            code, _, err = self.run_speed("--rows", row)
            self.assertEqual(code, 2)
            self.assertIn("a row is PRESET:PRECISION:THREADS", err)

    def test_damaged_raw_figures(self) -> None:
        path = self.root / "raw.json"
        for text in ("", "[]", '{"machine": {}, "rows": [], "notes": []}',
                     '{"machine": {}, "rows": [1], "notes": [], "steps": 1}'):
            path.write_text(text)
            self.assert_one_line_error(self.run_speed("--table", path), "raw.json")


class Share(SpeedTest):
    """Linear layers of a step beside their kernel alone."""

    def measure(self, profile: list[Any], kernels: list[Any], *args: object) -> str:
        sinklab = self.program("sinklab", [own(300)], profile=profile, kernel=kernels)
        code, out, err = self.run_speed("--sinklab", sinklab, "--python", self.program("python", [peer(100)]),
                                        "--compile-limit", 0, "--rows", "p:fp32:2", "--json", self.root / "raw.json",
                                        *args)
        self.assertEqual(code, 0, err)
        return out

    def test_share_of_the_kernels_rate(self) -> None:
        # A round's linear layers: (10 ms x 90 + 20 ms x 60) / 30 ms = 70; then 100 and 40.
        out = self.measure([profiled(90, 60), profiled(100, 100), profiled(40, 40)],
                           [kernel(140), kernel(100), kernel(125)])
        row = self.table(out, 1)[0]
        self.assertEqual((row["linear layers, GFLOP/s"], row["best"]), ("70", "100"))
        self.assertEqual((row["kernel, GFLOP/s"], row["best'"]), ("125", "140"))
        self.assertEqual((row["share"], row["share of the bests"]), ("56 %", "71 %"))
        self.assertEqual(self.run_speed("--table", self.root / "raw.json")[1], out)

    def test_they_alternate_with_the_same_threads_and_precision(self) -> None:
        self.measure([profiled(1, 1)], [kernel(1)], "--rounds", 2)
        calls = self.calls()
        kinds = ["kernel" if "kernel" in call else "profile" if "--profile" in call else call[0] for call in calls]
        self.assertEqual(kinds, ["sinklab", "python", "profile", "kernel", "kernel", "profile", "python", "sinklab"])
        self.assertEqual(calls[3][1:], ["bench", "kernel", "--json", "threads=2", "precision=fp32"])
        self.assertEqual(calls[2][1:], [*calls[0][1:], "--profile"])

    def test_a_program_without_it_leaves_the_speeds(self) -> None:
        out = self.measure([own(1)], ["sinklab: error: unknown preset"])
        self.assertEqual(self.table(out)[0]["ratio"], "3.00")
        self.assertNotIn("linear layers, GFLOP/s", out)
        self.assertIn("linear: sinklab bench --profile did not print the time of linear layers", out)
        self.assertIn("kernel: unknown preset", out)

    def test_kernel_of_another_precision(self) -> None:
        out = self.measure([profiled(1, 1)], [kernel(1, precision="bf16")])
        self.assertIn("kernel: this machine has no unit for fp32: sinklab ran bf16", out)


class Studies(SpeedTest):
    def measure(self, answers: list[Any], *args: object, cores: int = 4) -> str:
        sinklab = self.sinklab_without_torch(answers, cores=cores)
        code, out, err = self.run_speed("--sinklab", sinklab, "--no-share", "--rows", "p:fp32:2", "--precision", "fp32",
                                        "--json", self.root / "raw.json", *args)
        self.assertEqual(code, 0, err)
        return out

    def test_runs_at_once_against_one(self) -> None:
        # A round: the row, one run and three at once; the next in turn; then as the first.
        out = self.measure([own(1), own(100), own(50), own(60), own(70), own(1), own(80), own(80), own(80), own(120),
                            own(1), own(110), own(70), own(70), own(70)], "--studies", "q", cores=3)
        self.assertIn("3 runs at once of 1 thread each (q fp32, not pinned): 210 tokens/s together, 1.91 times those "
                      "of one run with 3 threads (110); of the best rounds 2.00 times; single rounds 1.80\u20132.00",
                      out)
        self.assertEqual([call[6] for call in self.calls() if call[2] == "q"],
                         ["threads=3", *["threads=1"] * 6, "threads=3", "threads=3", *["threads=1"] * 3])
        self.assertEqual(self.run_speed("--table", self.root / "raw.json")[1], out)

    def test_they_run_at_once(self) -> None:
        self.measure([own(1), own(2), *[own(3, sleep=1.5)] * 4], "--studies", "--rounds", 1)
        times = [json.loads(line) for line in (self.root / "log.times").read_text().splitlines()]
        starts, ends = zip(*times[2:])
        self.assertEqual(len(starts), 4)
        self.assertLess(max(starts), min(ends))
        self.assertLessEqual(times[1][1], min(starts))

    def test_a_failing_one_is_told_and_not_tried_again(self) -> None:
        out = self.measure([own(1), own(2), "sinklab: error: out of memory", own(3)], "--studies", "--rounds", 2)
        self.assertIn("4 runs at once: out of memory", out)
        self.assertNotIn("tokens/s together", out)
        self.assertEqual(sum(call[2] == "bench-10m" for call in self.calls()), 5)

    def test_one_core_has_none(self) -> None:
        self.assertIn("left out: there is one core", self.measure([own(1)], "--studies", cores=1))


class Grid(SpeedTest):
    def measure(self, answers: list[Any], peers: list[Any] | None, *args: object) -> str:
        more: dict[str, Any] = {"kernel": [kernel(1, precision="bf16")]}
        if peers is None:
            programs: list[object] = ["--sinklab", self.sinklab_without_torch(answers, **more)]
        else:
            programs = ["--sinklab", self.program("sinklab", answers, **more), "--python",
                        self.program("python", peers)]
        code, out, err = self.run_speed(*programs, "--json", self.root / "raw.json", *args)
        self.assertEqual(code, 0, err)
        return out

    def test_one_quantity_at_a_time(self) -> None:
        out = self.measure([own(300, precision="bf16")], [peer(200)], "--grid", "--rounds", 1)
        calls = [call for call in self.calls() if call[0] == "sinklab" and "kernel" not in call]
        centre = {"threads": "2", "precision": "bf16", "model.norm": "rmsnorm", "model.dim": "384", "model.heads": "6",
                  "model.ffn": "1024", "model.seq": "256", "train.batch": "16"}
        found = [dict(word.split("=") for word in call if "=" in word) for call in calls]
        self.assertEqual(sum(keys == centre for keys in found), 1)
        self.assertEqual([(keys["model.heads"], keys["model.ffn"]) for keys in found
                          if keys["model.dim"] in ("64", "1024")], [("1", "192"), ("16", "2752")])
        for keys in found:
            varied = {key for key in keys if keys[key] != centre[key]} - {"model.heads", "model.ffn"}
            self.assertLessEqual(len(varied), 1, keys)
        for key, values in {"model.dim": (64, 1024), "model.seq": (128, 2048), "train.batch": (1, 64),
                            "threads": (1, 4)}.items():
            numbers = [int(keys[key]) for keys in found]
            self.assertEqual((min(numbers), max(numbers)), values)
        self.assertFalse(any("--compile" in call for call in self.calls()))
        rows = self.table(out)
        self.assertEqual(sum("(centre)" in row["value"] for row in rows), 4)
        self.assertEqual((rows[0]["ratio"], rows[0]["GFLOP/s"], rows[0]["GFLOP/s'"]), ("1.50", "3", "2"))
        self.assertEqual(self.run_speed("--table", self.root / "raw.json")[1], out)

    def test_medians_and_bests(self) -> None:
        # Points in order: the centre is the third of five windows. All answers alike but those of the first point.
        rest = [own(100, precision="bf16")] * 4
        out = self.measure([own(300, precision="bf16"), *rest, own(500, precision="bf16"), *rest,
                            own(200, precision="bf16"), *rest], None, "--grid", "window")
        row = self.table(out)[0]
        self.assertEqual((row["varied"], row["value"]), ("window, tokens", "128"))
        self.assertEqual((row["sinklab, tokens/s"], row["best"], row["GFLOP/s"]), ("300", "500", "3"))
        self.assertNotIn("ratio", row)
        self.assertIn("no PyTorch here", out)

    def test_cliffs_are_named(self) -> None:
        rates = [100, 300, 180, 500, 1000]
        out = self.measure([own(1000, gflops=rate, precision="bf16") for rate in rates], None, "--grid", "window",
                           "--rounds", 1)
        self.assertEqual([line for line in out.splitlines() if "Cliff" in line],
                         ["- Cliff: sinklab, window 512: 180 GFLOP/s where its neighbours let expect 387, 2.2 times as "
                          "many"])

    def test_what_neighbours_let_expect(self) -> None:
        for name, values, cliffs in (
                ("saturates", [10, 20, 35, 40, 40], []), ("falls and stays", [100, 100, 60, 60], [2]),
                ("falls at the end", [100, 110, 60], [2]), ("slow where there is little work", [5, 50, 100], []),
                ("rises late", [10, 12, 100], [1]), ("falls slowly", [100, 80, 60, 45], [])):
            points = [(2.0 ** i, float(value)) for i, value in enumerate(values)]
            found = [i for i, (_, value) in enumerate(points) if grid.expected(points, i) > 1.5 * value]
            self.assertEqual(found, cliffs, name)

    def test_a_point_that_fails_leaves_the_others(self) -> None:
        out = self.measure([own(1, precision="bf16"), "sinklab: error: out of memory", own(1, precision="bf16")], None,
                           "--grid", "threads", "--rounds", 1)
        self.assertEqual([row["value"] for row in self.table(out)], ["1", "4"])
        self.assertIn("centre bf16, 2 threads: sinklab: out of memory", out)

    def test_precision_that_the_machine_lacks_is_told_at_once(self) -> None:
        sinklab = self.sinklab_without_torch([own(1)], kernel=[kernel(1)])
        self.assert_one_line_error(self.run_speed("--sinklab", sinklab, "--grid"), "no unit for bf16", "choose fp32")
        self.assertEqual(len(self.calls()), 1)

    def test_budget(self) -> None:
        bf16 = own(300, precision="bf16")
        out = self.measure([bf16, {**bf16, "sleep": 60}], None, "--grid", "batch", "--budget", 3)
        self.assertEqual([row["value"] for row in self.table(out)], ["1"])
        self.assertIn("Stopped after the 3 s", out)

    def test_arguments(self) -> None:
        for args, words in ((["--grid", "depth"], "the grid varies d, window, batch, threads, not 'depth'"),
                            (["--grid", "--picture", "x.gif"], "ends with .png or .svg"),
                            (["--picture", "x.png"], "--picture is of --grid"),
                            (["--grid", "--rows", "p:fp32:1"], "not allowed with")):
            code, _, err = self.run_speed(*args)
            self.assertEqual(code, 2)
            self.assertIn(words, err)

    def test_without_matplotlib_nothing_is_measured(self) -> None:
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            outcome = self.run_speed("--sinklab", self.program("sinklab", [own(1)]), "--grid", "--picture", "x.png")
        self.assert_one_line_error(outcome, "needs the Python package matplotlib; pip install -r")
        self.assertFalse((self.root / "log").exists())

    @unittest.skipUnless(HAVE_MATPLOTLIB, "needs matplotlib")
    def test_picture_again_from_the_figures(self) -> None:
        rates = [own(100 + i, precision="bf16") for i in range(10)]
        first, again = self.root / "first.svg", self.root / "again.svg"
        self.measure(rates, [peer(90)], "--grid", "window", "batch", "--rounds", 2, "--picture", first)
        code, _, err = self.run_speed("--table", self.root / "raw.json", "--picture", again)
        self.assertEqual(code, 0, err)
        self.assertEqual(first.read_bytes(), again.read_bytes())
        texts: list[str] = []
        with mock.patch("matplotlib.figure.Figure.supxlabel", lambda _, text, **more: texts.append(text)):
            self.run_speed("--table", self.root / "raw.json", "--picture", self.root / "p.png")
        self.assertIn("n = 2 rounds of 8 steps", " ".join(texts[0].split()))
        self.assertEqual((self.root / "p.png").read_bytes()[:4], b"\x89PNG")

    def test_rows_have_no_picture(self) -> None:
        (self.root / "raw.json").write_text('{"machine": {"cpu": "", "cores": 1, "tier": "", "sinklab": "", "torch": '
                                            '"", "load": 0}, "rows": [], "notes": [], "steps": 1}')
        code, _, err = self.run_speed("--table", self.root / "raw.json", "--picture", self.root / "p.png")
        self.assertEqual(code, 1)
        self.assertIn("measure with --grid" if HAVE_MATPLOTLIB else "matplotlib", err)


if __name__ == "__main__":
    unittest.main()
