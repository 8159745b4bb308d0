"""Run directories of `sinklab train`: reading them as they are, finished, killed or damaged; and models that were only
probed, as `sinklab probe --json --profile` prints them.

A run directory holds config.yaml (effective configuration), env.json (machine and build), metrics.jsonl (a line a
logged step), probe.jsonl (a line a probe; the last one with channel profiles) and result.json (final figures).
Whatever is missing or damaged becomes one line in `Run.notes`; only a folder with nothing to show is an error.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

MAX_BYTES = 1 << 30  # a metrics file of a real run is some megabytes

Record = dict[str, Any]


class RunError(Exception):
    """A run that cannot be reported on; the message is one line."""


@dataclass
class Run:
    """What one run directory holds. Lists of records are sorted by step, the last of equal steps kept."""

    name: str
    path: Path
    config_text: str = ""
    config: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    metrics: list[Record] = field(default_factory=list)
    probes: list[Record] = field(default_factory=list)
    result: Record = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def trained(self) -> bool:
        """Is there a training to show, or figures of a model alone?"""
        return bool(self.config or self.metrics or self.probes)

    @property
    def finished(self) -> bool:
        return bool(self.result)

    @property
    def last_step(self) -> int:
        steps = [int(r["step"]) for r in self.metrics[-1:] + self.probes[-1:]]
        return max(steps, default=0)

    def final_probe(self) -> Record:
        """Figures of the finished model, else of the last probe."""
        probe = self.result.get("probe")
        return probe if isinstance(probe, dict) else (self.probes[-1] if self.probes else {})

    def layers(self) -> list[Record]:
        """Per-layer objects of the newest probe that has channel profiles, else of the newest with any."""
        candidates = [self.final_probe(), *reversed(self.probes)]
        found = [p["layers"] for p in candidates if is_records(p.get("layers"))]
        for layers in found:
            if "channel_mean_abs" in layers[0]:
                return layers
        return found[0] if found else []

    def last_metric(self, key: str) -> float:
        """The last recorded value of a metric; NaN if there is none."""
        for record in reversed(self.metrics):
            if key in record:
                return number(record[key])
        return math.nan


def is_records(value: Any) -> TypeGuard[list[Record]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def number(value: Any) -> float:
    """A JSON value as a float; NaN for null and whatever is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def numbers(value: Any) -> list[float]:
    return [number(v) for v in value] if isinstance(value, list) else []


def finite(x: Any) -> Any:
    """NaN and infinity as null, floats to seven digits: JSON that any reader takes."""
    if isinstance(x, float):
        return float(f"{x:.7g}") if math.isfinite(x) else None
    if isinstance(x, dict):
        return {key: finite(value) for key, value in x.items()}
    return [finite(value) for value in x] if isinstance(x, list) else x


def read_runs(paths: list[Path]) -> list[Run]:
    """Reads run directories; names are the folders' names, with the parent's where two are equal."""
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = f"{run.path.resolve().parent.name}/{run.name}"
    return runs


def read_probe(path: Path) -> Run:
    """What `sinklab probe --json` printed, as a run without a training."""
    run = Run(name=path.stem, path=path)
    probe = parse_json(read_text(run, ""))
    if not isinstance(probe, dict) or not is_records(probe.get("layers")):
        raise RunError(f"{path}: not the object that `sinklab probe --json` prints")
    run.result = {"status": "probed", "probe": probe, "val_loss": probe.get("loss")}
    return run


def read_run(path: Path) -> Run:
    if path.is_file():
        return read_probe(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory")
    run = Run(name=path.resolve().name, path=path)
    run.config_text = read_text(run, "config.yaml")
    run.config = flatten_yaml(run.config_text)
    run.env = flatten(read_object(run, "env.json"))
    run.metrics = read_lines(run, "metrics.jsonl")
    run.probes = read_lines(run, "probe.jsonl")
    run.result = read_object(run, "result.json")
    if not (run.metrics or run.probes or run.result):
        raise RunError(f"{path}: no metrics.jsonl, probe.jsonl or result.json that can be read; "
                       "is it the folder that `sinklab train --out` wrote?")
    if not run.finished:
        run.notes.append(f"unfinished: no result.json, last record at step {run.last_step}; "
                         "its figures are the last recorded ones")
    if run.probes and not any("channel_mean_abs" in layer for layer in run.layers()):
        run.notes.append("no probe with channel profiles and norm weights (the last one of a finished run has them)")
    return run


def read_text(run: Run, name: str) -> str:
    path = run.path / name if name else run.path
    try:
        if path.stat().st_size > MAX_BYTES:
            run.notes.append(f"{name}: over 1 GiB, left out")
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if name != "result.json":  # said once, as "unfinished"
            run.notes.append(f"{name} is missing")
    except OSError as error:
        run.notes.append(f"{name}: {error.strerror}")
    return ""


def parse_json(text: str) -> Any:
    """None for whatever is not JSON (a half-written line, nesting to exhaust the stack)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_object(run: Run, name: str) -> Record:
    text = read_text(run, name)
    value = parse_json(text) if text else {}
    if not isinstance(value, dict):
        run.notes.append(f"{name} is damaged, left out")
        return {}
    return value


def read_lines(run: Run, name: str) -> list[Record]:
    """Objects with a step, one a line. A run that went on from a checkpoint repeats steps: the last counts."""
    by_step: dict[int, Record] = {}
    damaged = []
    for at, line in enumerate(read_text(run, name).splitlines(), start=1):
        if not line.strip():
            continue
        record = parse_json(line)
        step = number(record.get("step")) if isinstance(record, dict) else math.nan
        if math.isfinite(step):
            by_step[int(step)] = record
        else:
            damaged.append(at)
    if damaged:
        lines = f"line {damaged[0]}" if len(damaged) == 1 else f"{len(damaged)} lines, the first {damaged[0]},"
        run.notes.append(f"{name}: {lines} cut off or damaged, left out")
    return [by_step[step] for step in sorted(by_step)]


def flatten(value: Record, prefix: str = "") -> dict[str, str]:
    """Nested objects as dotted keys with printable values."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            flat.update(flatten(item, f"{name}."))
        else:
            flat[name] = item if isinstance(item, str) else json.dumps(item)
    return flat


def flatten_yaml(text: str) -> dict[str, str]:
    """Dotted keys of the effective configuration, which is plain nested `key: value` lines."""
    flat: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        if not colon or key.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        while parents and parents[-1][0] >= indent:
            parents.pop()
        if value.strip():
            flat[".".join([p for _, p in parents] + [key])] = value.strip()
        else:
            parents.append((indent, key))
    return flat


def differing(tables: list[dict[str, str]]) -> list[str]:
    """Keys, in order of first appearance, whose values are not the same in all tables."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({table.get(key) for table in tables}) > 1]
