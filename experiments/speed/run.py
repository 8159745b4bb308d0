#!/usr/bin/env python3
"""sinklab's training speed beside PyTorch's: alternating runs, medians, ratios, one Markdown table.

    python3 experiments/speed/run.py --python PYTHON_WITH_TORCH --json speed.json
    python3 experiments/speed/run.py --rows bench-10m:bf16:2 bench-10m:bf16:2:gated_norm --rounds 5
    python3 experiments/speed/run.py --table speed.json        # the table again, from the raw figures

A row is PRESET:PRECISION:THREADS[:NORM]. Without PyTorch only sinklab's column is there. Python's own library only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROWS = ("bench-1m:fp32:2", "bench-1m:bf16:2", "bench-10m:fp32:2", "bench-10m:bf16:2", "bench-10m:bf16:2:gated_norm",
        "bench-100m:bf16:2", "bench-10m:bf16:16", "bench-100m:bf16:16")
PEER_NORMS = ("rmsnorm", "gated_norm")
SIDES = ("sinklab", "eager", "compiled")
LIMIT = 900  # seconds of one measurement

Figures = dict[str, Any]


class SpeedError(Exception):
    """What keeps the script from measuring; the message is one line."""


class BudgetSpent(Exception):
    """The time that was given is over."""


# ---- running the two


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def output(command: Sequence[str], limit: float) -> str:
    """Standard output. A program that goes beyond the limit ends with all that it started (compilers, workers)."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                   start_new_session=True)
    except OSError as error:
        raise SpeedError(f"{command[0]}: {error.strerror}") from None
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise SpeedError(f"{name} was stopped after {limit:.0f} s") from None
        raise
    if process.returncode:
        raise SpeedError(last_line(err) or f"{name} failed with exit code {process.returncode}")
    return out


def json_object(text: str, what: str, keys: Sequence[str]) -> Figures:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or any(key not in value for key in keys):
        raise SpeedError(f"{what} did not print a JSON object with {', '.join(keys)}")
    return value


def run_sinklab(options: argparse.Namespace, row: Figures, limit: float) -> Figures:
    command = [options.sinklab, "bench", row["preset"], "--json", "--steps", str(options.steps),
               f"threads={row['threads']}",
               f"precision={row['precision']}", f"model.norm={row['norm']}"]
    answer = json_object(output(command, limit), "sinklab bench", ("tokens_per_s", "params", "precision", "shape"))
    if answer["precision"] != row["precision"]:
        raise SpeedError(f"this machine has no unit for {row['precision']}: sinklab ran {answer['precision']}")
    return answer


def run_peer(options: argparse.Namespace, row: Figures, side: str, limit: float) -> Figures:
    """One run of the peer; `tokens_per_s` becomes the median over its steps, as in sinklab's answer."""
    own = row["sinklab"][0]
    command = [options.python, str(HERE / "peer.py"), json.dumps(own["shape"]), "--precision", row["precision"],
               "--threads", str(row["threads"]), "--steps", str(options.steps)]
    answer = json_object(output(command + ["--compile"] * (side == "compiled"), limit), "peer.py",
                         ("tokens_per_s", "params"))
    if answer["params"] != own["params"]:
        raise SpeedError(f"peer.py has {answer['params']} parameters and sinklab {own['params']}: not the same model")
    return {**answer, "steps": answer["tokens_per_s"], "tokens_per_s": statistics.median(answer["tokens_per_s"])}


def torch_version(options: argparse.Namespace) -> str:
    """"" where there is no PyTorch: an error only if the user named the interpreter."""
    try:
        return output([options.python, "-c", "import torch; print(torch.__version__)"], LIMIT).strip()
    except SpeedError as error:
        if options.python_given:
            raise SpeedError(f"--python {options.python} cannot import torch ({error})") from None
        return ""


def machine(options: argparse.Namespace) -> Figures:
    found = json_object(output([options.sinklab, "doctor", "--json"], LIMIT), "sinklab doctor",
                        ("cpu", "usable_cores", "tier"))
    version = last_line(output([options.sinklab, "--version"], LIMIT))
    try:
        version += f" ({output(['git', '-C', str(ROOT), 'describe', '--always', '--dirty'], LIMIT).strip()})"
    except SpeedError:
        pass  # a release without its history
    return {"cpu": found["cpu"], "tier": found["tier"], "cores": found["usable_cores"], "sinklab": version,
            "torch": torch_version(options), "load": os.getloadavg()[0], "doctor": found}


# ---- what is measured, in which order


def parse_row(text: str) -> Figures:
    parts = text.split(":")
    if (len(parts) not in (3, 4) or not all(parts) or parts[1] not in ("fp32", "bf16")
            or not parts[2].isdecimal() or int(parts[2]) < 1):
        raise argparse.ArgumentTypeError("a row is PRESET:PRECISION:THREADS[:NORM], such as bench-10m:bf16:2, not "
                                         f"{text!r}")
    norm = parts[3] if len(parts) == 4 else "rmsnorm"
    return {"preset": parts[0], "precision": parts[1], "threads": int(parts[2]), "norm": norm,
            **{side: [] for side in SIDES}, "failed": [], "notes": []}


def name(row: Figures) -> str:
    norm = "" if row["norm"] == "rmsnorm" else f" {row['norm']}"
    return f"{row['preset']} {row['precision']}{norm}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def speeds(row: Figures, side: str) -> list[float]:
    return [figures["tokens_per_s"] for figures in row[side]]


def faster(row: Figures) -> str:
    """The side of the peer that counts: decided after the first round, in which both ran; "" without a peer."""
    tried = [side for side in SIDES[1:] if row[side]]
    return max(tried, key=lambda side: row[side][0]["tokens_per_s"], default="")


class Bench:
    """Measures rows round by round, so that a slow minute of the machine meets all rows and both sides."""

    def __init__(self, options: argparse.Namespace, data: Figures) -> None:
        self.options, self.data = options, data
        self.end = time.monotonic() + options.budget if options.budget else math.inf
        self.have_torch = bool(data["machine"]["torch"])

    def measure(self, row: Figures, side: str) -> None:
        """One more run of a side; a failure becomes a note, and the side is not tried again."""
        limit = self.options.compile_limit if side == "compiled" else LIMIT
        left = self.end - time.monotonic()
        if left <= 0:
            raise BudgetSpent
        try:
            run = run_sinklab(self.options, row, min(limit, left)) if side == "sinklab" \
                else run_peer(self.options, row, side, min(limit, left))
        except SpeedError as error:
            if left < limit and time.monotonic() >= self.end:
                raise BudgetSpent from None
            row["failed"].append(side)
            row["notes"].append(f"{name(row)}: {side if side == 'sinklab' else f'PyTorch, {side}'}: {error}")
            return
        row[side].append(run)
        print(f"{name(row)}: {side} {run['tokens_per_s']:,.0f} tokens/s", file=sys.stderr, flush=True)

    def sides(self, row: Figures, at: int) -> list[str]:
        """What runs in a round, in order; the order turns round by round, and sinklab begins as it knows the shape."""
        peers = []
        if self.have_torch and row["norm"] in PEER_NORMS:
            peers = [faster(row)] if at else ["eager", *(["compiled"] if self.options.compile_limit else [])]
        sides = [side for side in ("sinklab", *peers) if side and side not in row["failed"]]
        return sides[::-1] if at % 2 else sides

    def round(self, at: int) -> None:
        for row in self.data["rows"]:
            for side in self.sides(row, at):
                if side == "sinklab" or row["sinklab"]:
                    self.measure(row, side)

    def run(self) -> None:
        for row in self.data["rows"]:
            if self.have_torch and row["norm"] not in PEER_NORMS:
                row["notes"].append(f"{name(row)}: the peer has no {row['norm']}")
        try:
            for at in range(self.options.rounds):
                self.round(at)
        except BudgetSpent:
            self.data["notes"].append(f"Stopped after the {self.options.budget:.0f} s that were given; "
                                      "rows have the rounds that were done.")
        except KeyboardInterrupt:
            self.data["notes"].append("Interrupted; rows have the rounds that were done.")


# ---- telling


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def field(row: Figures, side: str, key: str) -> float:
    """Median over rounds of a figure of one side; NaN where it is not there."""
    return median([figures[key] for figures in row.get(side, []) if isinstance(figures.get(key), (int, float))])


def round_ratios(row: Figures, side: str) -> list[float]:
    """sinklab over the peer, each within one round."""
    return [a / b for a, b in zip(speeds(row, "sinklab"), speeds(row, side)) if b > 0]


def span(values: Sequence[float], form: str) -> str:
    return "\N{EN DASH}".join(format(x, form) for x in (min(values), max(values))) if len(values) > 1 else ""


def shown(value: float, form: str, unit: str = "") -> str:
    return format(value, form) + unit if math.isfinite(value) else ""


HEADER = ("preset", "precision", "norm", "threads", "sinklab, tokens/s", "lowest\N{EN DASH}highest", "GFLOP/s",
          "of peak",
          "memory, GB")
PEER_HEADER = ("PyTorch, tokens/s", "memory, GB", "ratio", "ratio of the rounds")


def cells(row: Figures, with_peer: bool) -> list[str]:
    own = speeds(row, "sinklab")
    out = [row["preset"], row["precision"], row["norm"], str(row["threads"]), shown(median(own), ",.0f"),
           span(own, ",.0f"),
           shown(field(row, "sinklab", "gflops"), ",.0f"), shown(100 * field(row, "sinklab", "share_of_peak"), ".0f",
                                                                 " %"),
           shown(field(row, "sinklab", "peak_rss_bytes") / 1e9, ".2f")]
    if not with_peer:
        return out
    side = faster(row)
    if not side:
        return [*out, *[""] * len(PEER_HEADER)]
    peer = median(speeds(row, side))
    return [*out, shown(peer, ",.0f", f" {side}"), shown(field(row, side, "peak_rss_bytes") / 1e9, ".2f"),
            shown(median(own) / peer, ".2f"), span(round_ratios(row, side), ".2f")]


def table(data: Figures) -> str:
    with_peer = any(faster(row) for row in data["rows"])
    header = [*HEADER, *(PEER_HEADER if with_peer else ())]
    rows = [cells(row, with_peer) for row in data["rows"] if row["sinklab"]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def norm_costs(data: Figures) -> list[str]:
    """What a norm costs each side, where the same row with RMSNorm was measured."""
    out = []
    for row in data["rows"]:
        twin = [other for other in data["rows"] if other["norm"] == "rmsnorm" and row["norm"] != "rmsnorm"
                and all(other[key] == row[key] for key in ("preset", "precision", "threads"))]
        if not twin:
            continue
        change = {"sinklab": (speeds(row, "sinklab"), speeds(twin[0], "sinklab")),
                  "PyTorch": (speeds(row, faster(row) or "eager"), speeds(twin[0], faster(twin[0]) or "eager"))}
        told = [f"{who} {100 * (median(a) / median(b) - 1):+.0f} %" for who, (a, b) in change.items() if a and b]
        if told:
            out.append(f"{name(row)}, against rmsnorm: {', '.join(told)}")
    return out


def document(data: Figures) -> str:
    m = data["machine"]
    peer = f"PyTorch {m['torch']}" if m["torch"] else "no PyTorch here"
    rounds = max((len(row["sinklab"]) for row in data["rows"]), default=0)
    how = (f"Medians of up to {rounds} alternating round{'s' if rounds != 1 else ''}, {data['steps']} steps each. A "
           "step: forward, backward, clipping, AdamW. GFLOP/s and share of the measured peak are sinklab's.")
    if any(faster(row) for row in data["rows"]):
        how += " PyTorch: eager or compiled, whichever was faster in the first round. Ratio: of the medians."
    head = (f"{m['cpu']}, {m['cores']} cores, kernels {m['tier']}; {m['sinklab']}; {peer}; "
            f"load {m['load']:.1f} at the start.")
    notes = [*norm_costs(data), *data["notes"], *(note for row in data["rows"] for note in row["notes"])]
    return "\n".join([head, "", table(data), "", how, *(["", *(f"- {note}" for note in notes)] if notes else [])])


# ---- command line


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description="sinklab's training speed beside PyTorch's.")
    parser.add_argument("--rows", nargs="+", type=parse_row, metavar="ROW", help="PRESET:PRECISION:THREADS[:NORM]; "
                        f"default, as far as there are cores: {' '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=0, metavar="SECONDS",
                        help="stop then and print what is there; default: no end")
    parser.add_argument("--compile-limit", type=float, default=300, metavar="SECONDS",
                        help="for a compiled run of the peer; 0: don't try (default: %(default)s)")
    parser.add_argument("--python", help="interpreter that has torch (default: this one)")
    parser.add_argument("--sinklab", default=str(ROOT / "build/src/sinklab"), help="default: build/src/sinklab")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw figure")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the table of such a file")
    options = parser.parse_args(argv)
    if min(options.rounds, options.steps) < 1 or min(options.budget, options.compile_limit) < 0:
        parser.error("--rounds and --steps are at least 1, --budget and --compile-limit at least 0")
    options.python_given, options.python = options.python is not None, options.python or sys.executable
    return options


def rows_to_run(options: argparse.Namespace, data: Figures) -> list[Figures]:
    if options.rows:
        return options.rows
    cores = data["machine"]["cores"]
    rows = [parse_row(text) for text in ROWS]
    if any(row["threads"] > cores for row in rows):
        data["notes"].append(f"Rows of more than {cores} threads are left out: there are no more cores.")
    return [row for row in rows if row["threads"] <= cores]


def measured(options: argparse.Namespace) -> Figures:
    if not Path(options.sinklab).is_file():
        raise SpeedError(f"{options.sinklab}: no such program; build it (meson setup build && ninja -C build), "
                         "or give --sinklab")
    data: Figures = {"machine": machine(options), "rounds": options.rounds, "steps": options.steps, "notes": []}
    data["rows"] = rows_to_run(options, data)
    Bench(options, data).run()
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if not any(row["sinklab"] for row in data["rows"]):
        notes = [note for row in data["rows"] for note in row["notes"]]
        raise SpeedError(notes[0] if notes else "nothing was measured; give a larger --budget")
    return data


def read_raw(path: Path) -> Figures:
    return json_object(path.read_text(encoding="utf-8", errors="replace"), str(path),
                       ("machine", "rows", "notes", "steps"))


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        data = read_raw(options.table) if options.table else measured(options)
        print(document(data))
    except SpeedError as error:
        print(f"run.py: error: {str(error).removeprefix('sinklab: error: ')}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"run.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, AttributeError):
        if not options.table:
            raise
        print(f"run.py: error: {options.table}: not what --json wrote", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
