"""The runs of a study as its report sees them: the plan's rows with what the store has of each.

plan: {"study", "file", "sha256", "profile", "runs": [{"arm", "seed", "point", "hash", "settings", "outcome",
"unmatched"}]}; the run directory of a row is store/HASH, its figures are in store/OUTCOME (default: HASH/outcome.json):
{"status", "message", "metrics", "seconds", "threads", "notes"}. A run that is not there yet has the status "missing".
from_store() reads these; from_csv() what write_csv() wrote of a study whose run directories are elsewhere.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from sinkstudy.judge import metrics, paired
from sinkstudy.store.runs import Run, RunError, number, parse_json, read_run

MAIN = ("val_loss", "m2", "max", "lambda_min", "att0", "sink_rate")  # shown of every study that has them
STATUSES = ("finished", "diverged", "failed", "missing")
MACHINE = ("cpu", "tier", "precision", "version", "git", "compiler")  # of env.json
Point = tuple[tuple[str, str], ...]  # settings of a sweep, hashable


@dataclass
class Row:
    """One planned run."""

    arm: str
    seed: int
    point: dict[str, Any]
    hash: str
    settings: dict[str, Any]
    unmatched: str = ""  # why its parameters are not those of the baseline, if they should be
    status: str = "missing"
    message: str = ""
    notes: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = math.nan
    threads: float = math.nan
    env: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def key(self) -> Point:
        return tuple((k, str(v)) for k, v in sorted(self.point.items()))

    @property
    def core_hours(self) -> float:
        return self.seconds * self.threads / 3600

    @cached_property
    def run(self) -> Run | None:
        """Its curves and profiles, if there are any."""
        try:
            return read_run(self.folder)
        except RunError:
            return None


def read_object(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}
    return value if isinstance(value, dict) else {}


def read_row(planned: Mapping[str, Any], store: Path) -> Row:
    name = str(planned["hash"])
    row = Row(str(planned["arm"]), int(planned["seed"]), dict(planned.get("point") or {}), name,
              dict(planned.get("settings") or {}), str(planned.get("unmatched") or ""), folder=store / name)
    row.env = read_object(row.folder / "env.json")
    path = store / str(planned.get("outcome") or f"{name}/outcome.json")
    outcome = read_object(path)
    if outcome.get("status") not in STATUSES:
        trained = read_object(row.folder / "trained.json")
        outcome = trained if trained.get("status") == "failed" else {}  # then it is not measured
        row.message = "its outcome is damaged" if path.exists() else "trained, not measured yet" if trained else ""
    if outcome:
        row.status, row.message = outcome["status"], str(outcome.get("message") or "")
    found, notes = outcome.get("metrics"), outcome.get("notes")
    row.metrics = {str(k): number(v) for k, v in found.items()} if isinstance(found, dict) else {}
    row.notes = list(map(str, notes)) if isinstance(notes, list) else []
    row.seconds, row.threads = number(outcome.get("seconds")), number(outcome.get("threads", row.env.get("threads")))
    return row


@dataclass
class Choice:
    """Which point of a sweep speaks for its arm: `select`, its mean over the seeds that finished, and the others'."""

    arm: str
    select: str
    taken: Point
    points: list[dict[str, Any]]


class Results:
    def __init__(self, study: Mapping[str, Any], plan: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self.study, self.plan = study, plan
        self.rows = list(rows)
        self.arms = list(dict.fromkeys(row.arm for row in self.rows))
        self.grid: dict[str, dict[str, Any]] = {str(axis): {str(k): v or {} for k, v in levels.items()}
                                                for axis, levels in (study.get("grid") or {}).items()}
        self.levels = {"-".join(at): at for at in itertools.product(*self.grid.values())} if self.grid else {}
        self.interventions = [str(name) for name in study.get("interventions") or {}]
        self.looks = metrics.looks(study)
        self.of_blocks = bool(plan.get("of_blocks"))  # a row is a block of text, and nothing was trained
        self.choices = {arm: self.choose(arm) for arm in self.arms}

    # ---- arms and their points

    def select_of(self, arm: str) -> str:
        """The metric by which a sweep's point is chosen: the arm's own, or that of a level of the grid."""
        specs = [(self.study.get("arms") or {}).get(arm)]
        specs += [levels.get(level) for (levels, level) in zip(self.grid.values(), self.levels.get(arm, ()))]
        return next((str(spec["select"]) for spec in specs if isinstance(spec, dict) and "select" in spec), "val_loss")

    def choose(self, arm: str) -> Choice:
        select = self.select_of(arm)
        found = metrics.find(select, self.looks)
        sign = -1 if found and found.better == "higher" else 1
        points: list[dict[str, Any]] = []
        for key in dict.fromkeys(row.key for row in self.rows if row.arm == arm):
            rows = [row for row in self.rows if row.arm == arm and row.key == key]
            s = paired.sample(finite(row.metrics.get(select, math.nan) for row in rows if row.status == "finished"))
            bad = sum(row.status == "diverged" for row in rows)
            points.append({"key": key, "point": rows[0].point, "mean": s.mean, "sd": s.sd, "n": s.n,
                           "planned": len(rows), "diverged": bad})

        def rank(point: Mapping[str, Any]) -> tuple[bool, int, float]:
            """A diverged seed is worse than any mean."""
            mean = sign * point["mean"]
            return (point["n"] == 0, point["diverged"], mean if math.isfinite(mean) else math.inf)
        return Choice(arm, select, min(points, key=rank)["key"], points)

    def rows_of(self, arm: str) -> list[Row]:
        """The runs that speak for an arm, by seed."""
        return sorted((row for row in self.rows if row.arm == arm and self.taken(row)), key=lambda row: row.seed)

    def taken(self, row: Row) -> bool:
        return self.choices[row.arm].taken == row.key

    @property
    def swept(self) -> list[Choice]:
        return [choice for choice in self.choices.values() if len(choice.points) > 1]

    def by_seed(self) -> dict[str, dict[int, dict[str, Any]]]:
        """What claims are judged by. As long as a point of a sweep waits the arm's run of that seed does."""
        left = {(row.arm, row.seed) for row in self.rows if row.status == "missing"}
        return {arm: {row.seed: {"status": "missing" if (arm, row.seed) in left else row.status, "metrics": row.metrics}
                      for row in self.rows_of(arm)} for arm in self.arms}

    def values(self, arm: str, metric: str) -> list[float]:
        return finite(row.metrics.get(metric, math.nan) for row in self.rows_of(arm))

    # ---- what there is

    def counts(self) -> dict[str, int]:
        return {status: sum(row.status == status for row in self.rows) for status in STATUSES}

    def main_metrics(self, first: Iterable[str]) -> list[str]:
        """`first` and those of MAIN, as far as any run has them."""
        return [name for name in dict.fromkeys([*first, *MAIN])
                if any(math.isfinite(row.metrics.get(name, math.nan)) for row in self.rows)]

    def of_looks(self, name: str) -> bool:
        """Whether it is a figure of an intervention or of a quantised model: these have sections of their own."""
        return name.rpartition(".")[0] in self.looks

    def distinct(self) -> list[Row]:
        """One row a run: arms may share them."""
        return list({row.hash: row for row in self.rows}.values())

    def machines(self) -> list[dict[str, Any]]:
        """Different machines and builds, with how many runs each made."""
        found: dict[tuple[str, ...], int] = {}
        for row in self.distinct():
            if row.env:
                key = tuple(str(row.env.get(k, "")) for k in MACHINE)
                found[key] = found.get(key, 0) + 1
        return [dict(zip(MACHINE, key)) | {"runs": n} for key, n in found.items()]

    def cost(self) -> tuple[float, float]:
        """Seconds and core-hours of all runs that have them."""
        rows = self.distinct()
        return math.fsum(finite(row.seconds for row in rows)), math.fsum(finite(row.core_hours for row in rows))

    # ---- grid

    def grid_axes(self) -> list[tuple[str, list[str], list[float] | None]]:
        """Axes of the grid with their levels and, where each sets the same one key to a number, those numbers."""
        out = []
        for name, levels in self.grid.items():
            settings = [level.get("set") or {} if "set" in level else level for level in levels.values()]
            keys = {key for level in settings for key in level}
            numbers = [number_of(next(iter(level.values()), None)) for level in settings]
            numeric = len(keys) == 1 and all(map(math.isfinite, numbers))
            out.append((f"{name} ({next(iter(keys))})" if numeric else name, list(levels), numbers if numeric
                        else None))
        return out

    def grid_arms(self) -> dict[tuple[str, ...], str]:
        """Levels, one of each axis, to the arm of that name."""
        return {at: arm for arm, at in self.levels.items() if arm in self.arms}


def from_store(study: Mapping[str, Any], plan: Mapping[str, Any], store: Path) -> Results:
    return Results(study, plan, [read_row(planned, store) for planned in plan["runs"]])


def finite(values: Iterable[float]) -> list[float]:
    return [x for x in values if math.isfinite(x)]


def number_of(value: Any) -> float:
    """Of YAML, which reads 5e-4 as a string."""
    try:
        return number(float(value)) if not isinstance(value, (bool, dict, list)) and value is not None else math.nan
    except (ValueError, OverflowError):
        return math.nan


# ---- runs.csv

COLUMNS = ("study", "profile", "arm", "seed", "point", "taken", "hash", "status", "message", "wall_seconds", "threads",
           "core_hours", *MACHINE)


def write_csv(results: Results, out: TextIO) -> None:
    """Every planned run with all its metrics; what is not there is empty."""
    names = sorted({name for row in results.rows for name in row.metrics})
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *names])
    for row in results.rows:
        point = json.dumps(row.point, sort_keys=True) if row.point else ""
        head = [results.plan["study"], results.plan["profile"], row.arm, row.seed, point, int(results.taken(row)),
                row.hash,
                row.status, row.message, plain(row.seconds), plain(row.threads), plain(row.core_hours),
                *(row.env.get(key, "") for key in MACHINE)]
        writer.writerow([*head, *(plain(row.metrics.get(name, math.nan)) for name in names)])


def from_csv(study: Mapping[str, Any], plan: Mapping[str, Any], path: Path) -> Results:
    """The results that a runs.csv holds; plan: without its runs. There are no curves and no settings."""
    with path.open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    rows = [Row(of["arm"], int(of["seed"]), json.loads(of["point"] or "{}"), of["hash"], {}, status=of["status"],
                message=of["message"], seconds=number_of(of["wall_seconds"]), threads=number_of(of["threads"]),
                metrics={name: x for name in of if name not in COLUMNS and math.isfinite(x := number_of(of[name]))},
                env={key: of[key] for key in MACHINE if of[key]}, folder=path.parent / "no run directory")
            for of in table]
    return Results(study, plan, rows)


def plain(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else ""


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], out: TextIO) -> None:
    """Dicts as CSV; lists are JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if (x := row.get(key)) is None else json.dumps(x) if isinstance(x, (list, dict)) else x
                         for key in columns])
