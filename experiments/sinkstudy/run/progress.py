"""What a running workflow says on the terminal: a line for each run that ended."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkstudy.store import store
from sinkstudy.store.runs import number

FIGURES = (("val_loss", "loss"), ("m2", "M2"), ("max", "max"), ("att0", "att0"))


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def label(arm: str, point: Mapping[str, Any]) -> str:
    return arm + (f" ({', '.join(f'{key}={value}' for key, value in point.items())})" if point else "")


class Watch:
    """Looks at the outcomes that are to come. On a terminal the last line says how far the running ones are."""

    def __init__(self, work: Mapping[str, Any], made: Sequence[Any], slots: int) -> None:
        self.store, self.work = Path(work["store"]), work
        self.waiting: dict[str, tuple[str, str]] = {}  # outcome -> run's hash, name
        several = len(made) > 1
        for expansion in made:
            for e in expansion.plan["runs"]:
                name = f"{expansion.study.name + ': ' if several else ''}{label(e['arm'], e['point'])} seed {e['seed']}"
                self.waiting.setdefault(e["outcome"], (e["hash"], name))
        self.all = len(self.waiting)
        self.waiting = {path: row for path, row in self.waiting.items() if not (self.store / path).exists()}
        self.start, self.shown = time.monotonic(), 0.0
        self.at_start = self.progress()
        if len(self.waiting) < self.all:
            self.say(f"{self.all - len(self.waiting)} of {self.all} runs are there already")
        if self.waiting:
            self.say(f"{len(self.waiting)} runs, {slots} side by side, {threads(work['threads'])} each")

    def say(self, text: str, end: str = "\n") -> None:
        wipe = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{wipe}{text}", end=end, flush=True)

    def look(self) -> None:
        for path, (run, name) in list(self.waiting.items()):
            found = store.read_json(self.store / path)
            if not found:
                trained = store.read_json(self.store / run / "trained.json")
                found = trained if trained.get("status") == store.FAILED else {}
            if found:
                del self.waiting[path]
                self.say(self.line(name, found))
        if sys.stdout.isatty() and self.waiting and time.monotonic() > self.shown + 2:
            self.shown = time.monotonic()
            self.say(self.state(), end="")

    # ---- how far it is, in runs

    def share(self, run: str) -> float:
        """Of a run's training, by the last step in its log."""
        try:
            with open(self.store / run / "metrics.jsonl", "rb") as f:
                f.seek(max(0, f.seek(0, 2) - 4096))
                lines = f.read().split(b"\n")
            return json.loads(lines[-2])["step"] / max(1, self.work["runs"][run]["config"]["train.steps"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0.0

    def progress(self) -> float:
        return self.all - len(self.waiting) + sum(self.share(run) for run, _ in self.waiting.values())

    def left(self) -> str:
        """The rest at the pace so far."""
        progress = self.progress()
        gained = progress - self.at_start
        if gained <= 0:
            return ""
        return f"about {duration((time.monotonic() - self.start) / gained * (self.all - progress))} left"

    def state(self) -> str:
        shares = [share for run, _ in self.waiting.values() if (share := self.share(run))]
        most = ", ".join(f"{share:.0%}" for share in sorted(shares, reverse=True)[:8])
        running = f", running: {most}" if shares else ""
        return f"{self.all - len(self.waiting)}/{self.all} done{running}" + (f", {left}" if (left := self.left())
                                                                             else "")

    def line(self, name: str, found: Mapping[str, Any]) -> str:
        metrics = found.get("metrics", {})
        figures = " ".join(f"{word} {metrics[key]:.4g}" for key, word in FIGURES if key in metrics)
        if found["status"] != store.FINISHED:
            figures = f"{found['status']}: {found.get('message', '')}"
        took = number(found.get("seconds"))
        parts = [f"[{self.all - len(self.waiting)}/{self.all}] {name}: {figures}", duration(took) if math.isfinite(took)
                 else "",
                 self.left() if self.waiting else ""]
        return ", ".join(part for part in parts if part)
