"""Runs of `sinklab bench` and of peer.py, in rounds: what run.py measures, and in which order."""

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PEER_NORMS = ("rmsnorm", "gated_norm")
PEERS = ("eager", "compiled")
SHARE = ("linear", "kernel")  # linear layers in a step, and the kernel of their products alone
SIDES = ("sinklab", *PEERS, *SHARE)
LIMIT = 900  # seconds of one measurement

Figures = dict[str, Any]


class SpeedError(Exception):
    """What keeps the script from measuring; the message is one line."""


class BudgetSpent(Exception):
    """The time that was given is over."""


# ---- programs


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                start_new_session=True)
    except OSError as error:
        raise SpeedError(f"{command[0]}: {error.strerror}") from None


def outputs(commands: Sequence[Sequence[str]], limit: float) -> list[str]:
    """Standard outputs of programs that run at once. Beyond the limit they end with all that they started (compilers,
    workers)."""
    name = Path(commands[0][0]).name
    end = time.monotonic() + limit
    processes: list[subprocess.Popen[str]] = []
    try:
        processes.extend(started(command) for command in commands)
        done = [process.communicate(timeout=max(end - time.monotonic(), 0)) for process in processes]
    except BaseException as error:
        for process in processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise SpeedError(f"{name} was stopped after {limit:.0f} s") from None
        raise
    for process, (_, err) in zip(processes, done):
        if process.returncode:
            raise SpeedError(last_line(err).removeprefix("sinklab: error: ")
                             or f"{name} failed with exit code {process.returncode}")
    return [out for out, _ in done]


def output(command: Sequence[str], limit: float) -> str:
    return outputs([command], limit)[0]


def json_object(text: str, what: str, keys: Sequence[str]) -> Figures:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or any(key not in value for key in keys):
        raise SpeedError(f"{what} did not print a JSON object with {', '.join(keys)}")
    return value


# ---- one run


def bench_command(options: argparse.Namespace, row: Figures) -> list[str]:
    return [options.sinklab, "bench", row["preset"], "--json", "--steps", str(options.steps),
            f"threads={row['threads']}", f"precision={row['precision']}", f"model.norm={row['norm']}",
            *row.get("overrides", [])]


def with_precision(answer: Figures, wanted: str) -> Figures:
    if answer["precision"] != wanted:
        raise SpeedError(f"this machine has no unit for {wanted}: sinklab ran {answer['precision']}; choose "
                         f"{answer['precision']}")
    return answer


def bench_answer(text: str, row: Figures) -> Figures:
    answer = json_object(text, "sinklab bench", ("tokens_per_s", "params", "precision", "shape"))
    return with_precision(answer, row["precision"])


def run_sinklab(options: argparse.Namespace, row: Figures, limit: float) -> Figures:
    return bench_answer(output(bench_command(options, row), limit), row)


def run_linear(options: argparse.Namespace, row: Figures, limit: float) -> Figures:
    """What the linear layers of a whole step reach: the rows of the profile that are theirs, in all directions."""
    answer = bench_answer(output([*bench_command(options, row), "--profile"], limit), row)
    try:
        theirs = [line for line in answer["profile"] if line["operation"].split()[0] == "linear"]
        ms, work = sum(line["ms"] for line in theirs), sum(line["ms"] * line["gflops"] for line in theirs)
    except (KeyError, TypeError, AttributeError, IndexError):
        ms = work = 0
    if not ms:
        raise SpeedError("sinklab bench --profile did not print the time of linear layers")
    return {"gflops": work / ms, "ms": ms, "ms_per_step": answer.get("ms_per_step"), "profile": answer["profile"]}


def run_kernel(options: argparse.Namespace, row: Figures, limit: float) -> Figures:
    """The rate of their kernel alone: operands in L2, and as many threads at once."""
    command = [options.sinklab, "bench", "kernel", "--json", f"threads={row['threads']}",
               f"precision={row['precision']}"]
    answer = json_object(output(command, limit), "sinklab bench kernel", ("gflops", "precision"))
    return with_precision(answer, row["precision"])


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


# ---- rows


def new_row(preset: str, precision: str, threads: int, norm: str = "rmsnorm") -> Figures:
    return {"preset": preset, "precision": precision, "threads": threads, "norm": norm, **{side: [] for side in SIDES},
            "failed": [], "notes": []}


def name(row: Figures) -> str:
    norm = "" if row["norm"] == "rmsnorm" else f" {row['norm']}"
    what = row.get("point", row["preset"])
    return f"{what} {row['precision']}{norm}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def speeds(row: Figures, side: str) -> list[float]:
    return [figures["tokens_per_s"] for figures in row.get(side, [])]


def faster(row: Figures) -> str:
    """The side of the peer that counts: decided after the first round, in which both ran; "" without a peer."""
    tried = [side for side in PEERS if row[side]]
    return max(tried, key=lambda side: row[side][0]["tokens_per_s"], default="")


# ---- in rounds


class Bench:
    """Measures rows round by round, so that a slow minute of the machine meets all rows and both sides."""

    def __init__(self, options: argparse.Namespace, data: Figures) -> None:
        self.options, self.data = options, data
        self.end = time.monotonic() + options.budget if options.budget else math.inf
        self.have_torch = bool(data["machine"]["torch"])

    def in_time(self, limit: float, run: Callable[[float], Figures]) -> Figures:
        left = self.end - time.monotonic()
        if left <= 0:
            raise BudgetSpent
        try:
            return run(min(limit, left))
        except SpeedError:
            if left < limit and time.monotonic() >= self.end:
                raise BudgetSpent from None
            raise

    def run_side(self, row: Figures, side: str, limit: float) -> Figures:
        if side in PEERS:
            return run_peer(self.options, row, side, limit)
        own = {"sinklab": run_sinklab, "linear": run_linear, "kernel": run_kernel}
        return own[side](self.options, row, limit)

    def measure(self, row: Figures, side: str) -> None:
        """One more run of a side; a failure becomes a note, and the side is not tried again."""
        limit = self.options.compile_limit if side == "compiled" else LIMIT
        try:
            run = self.in_time(limit, lambda seconds: self.run_side(row, side, seconds))
        except SpeedError as error:
            row["failed"].append(side)
            row["notes"].append(f"{name(row)}: {f'PyTorch, {side}' if side in PEERS else side}: {error}")
            return
        row[side].append(run)
        told = f"{run['gflops']:,.0f} GFLOP/s" if side in SHARE else f"{run['tokens_per_s']:,.0f} tokens/s"
        print(f"{name(row)}: {side} {told}", file=sys.stderr, flush=True)

    def sides(self, row: Figures, at: int) -> list[str]:
        """What runs in a round, in order; the order turns round by round, and sinklab begins as it knows the shape."""
        peers: Sequence[str] = ()
        if self.have_torch and row["norm"] in PEER_NORMS:
            peers = [faster(row)] if at else [side for side in PEERS if side == "eager" or self.options.compile_limit]
        share = SHARE if self.options.share else ()
        sides = [side for side in ("sinklab", *peers, *share) if side and side not in row["failed"]]
        return sides[::-1] if at % 2 else sides

    def many_at_once(self, at: int) -> None:
        """As many runs of one thread as there are cores, and one run with as many threads; the order turns."""
        studies = self.data["studies"]

        def runs(count: int, threads: int) -> float:
            row = new_row(studies["preset"], studies["precision"], threads)
            answers = self.in_time(LIMIT, lambda limit: {"all": [
                bench_answer(text, row) for text in outputs([bench_command(self.options, row)] * count, limit)]})
            return sum(answer["tokens_per_s"] for answer in answers["all"])

        kinds = {"one": (1, studies["runs"]), "many": (studies["runs"], 1)}
        found = {kind: runs(*kinds[kind]) for kind in (list(kinds)[::-1] if at % 2 else kinds)}
        studies["rounds"].append(found)
        print(f"{studies['runs']} runs at once: {found['many']:,.0f} tokens/s, one run {found['one']:,.0f}",
              file=sys.stderr, flush=True)

    def round(self, at: int) -> None:
        for row in self.data["rows"]:
            for side in self.sides(row, at):
                if side == "sinklab" or row["sinklab"]:
                    self.measure(row, side)
        studies = self.data.get("studies")
        if not studies or studies["failed"]:
            return
        try:
            self.many_at_once(at)
        except SpeedError as error:
            studies["failed"] = True
            self.data["notes"].append(f"{studies['runs']} runs at once: {error}")

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
