"""What a running workflow says on the terminal: a line for each run that ended."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import store

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
    """Looks at the outcomes that are to come."""

    def __init__(self, work: Mapping[str, Any], made: Sequence[Any], slots: int) -> None:
        self.store = Path(work["store"])
        self.waiting: dict[str, tuple[str, str]] = {}  # outcome -> run's hash, name
        several = len(made) > 1
        for expansion in made:
            for e in expansion.plan["runs"]:
                name = f"{expansion.study.name + ': ' if several else ''}{label(e['arm'], e['point'])} seed {e['seed']}"
                self.waiting.setdefault(e["outcome"], (e["hash"], name))
        self.all = len(self.waiting)
        for path in [path for path in self.waiting if (self.store / path).exists()]:
            del self.waiting[path]
        self.there = self.all - len(self.waiting)
        self.start = time.monotonic()
        if self.there:
            print(f"{self.there} of {self.all} runs are there already", flush=True)
        if self.waiting:
            print(f"{len(self.waiting)} runs, {slots} side by side, {threads(work['threads'])} each", flush=True)

    def look(self) -> None:
        for path, (run, name) in list(self.waiting.items()):
            found = store.read_json(self.store / path)
            if not found:
                trained = store.read_json(self.store / run / "trained.json")
                found = trained if trained.get("status") == store.FAILED else {}
            if found:
                del self.waiting[path]
                print(self.line(name, found), flush=True)

    def line(self, name: str, found: Mapping[str, Any]) -> str:
        ended = self.all - len(self.waiting)
        metrics = found.get("metrics", {})
        figures = " ".join(f"{word} {metrics[key]:.4g}" for key, word in FIGURES if key in metrics)
        if found["status"] != store.FINISHED:
            figures = f"{found['status']}: {found.get('message', '')}"
        took = number(found.get("seconds"))
        per_run = (time.monotonic() - self.start) / (ended - self.there)
        eta = f", about {duration(per_run * len(self.waiting))} left" if self.waiting else ""
        return f"[{ended}/{self.all}] {name}: {figures}" + (f", {duration(took)}" if math.isfinite(took) else "") + eta


def number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
