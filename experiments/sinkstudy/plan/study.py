"""Studies: reading and checking study.yaml (experiments/README.md has the format).

Whatever is wrong in one is a StudyError: one line with file, line and key.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sinkstudy.judge import claims, metrics

Where = tuple[str, ...]  # keys from the top of the file down
Keys = Collection[str]   # the engine's configuration keys

STUDY = ("title", "question", "source", "base", "bpe", "arms", "grid", "tune", "match", "probe", "interventions",
         "cloze", "quantize", "profiles", "gates", "claims")
ARM = ("set", "sweep", "tie", "select", "baseline", "of")
QUANTIZE = ("schemes", "transformations", "windows", "calibration")
TRANSFORMATIONS = ("smooth", "migrate", "rotate", "rotation-seed", "keep")
PROFILE = ("seeds", "set", "arms", "tune", "best", "bpe", "minutes")
RUNNER_KEYS = {"seed": "seeds come from the profile or --seeds",
               "threads": "the runner shares out the cores, or --threads",
               "train.keep_checkpoints": "the runner keeps one"}
MEASURES = sorted({row.name.partition(".")[0] for row in metrics.MEASURES})
ALL_TRAINING = "max_all_training"  # another name of peak.max
MOST_BYTES = 1 << 20     # of a file
MOST_VALUES = 100_000    # of a file, those that aliases repeat counted each time
MOST_RUNS = 10_000       # of a profile: points of the sweeps of its arms x seeds
MOST_SEED = 2**53 - 1    # the engine's


class StudyError(Exception):
    """A study that cannot be run; the message is one line."""


@dataclass(frozen=True)
class Arm:
    """A row of arms, a level of a grid's axis, or the product of one level of each axis."""

    name: str
    where: Where
    set: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    tie: dict[str, str] = field(default_factory=dict)
    select: str = "val_loss"
    baseline: dict[str, str] = field(default_factory=dict)  # key -> metric of the same seed's run of arm `of`
    of: str = ""
    tuned: tuple[str, ...] = ()  # keys of the sweep that are the study's tune

    @property
    def size(self) -> int:
        """How many points there are."""
        return math.prod(map(len, self.sweep.values()))

    def points(self) -> list[dict[str, Any]]:
        """Settings of the sweep's points, tied keys included; one empty point without a sweep."""
        points = [dict(zip(self.sweep, values)) for values in itertools.product(*self.sweep.values())]
        return [point | {key: point[other] for key, other in self.tie.items()} for point in points]

    def untuned(self) -> Arm:
        """Without the study's tune."""
        return replace(self, sweep={key: self.sweep[key] for key in self.sweep if key not in self.tuned}, tuned=())

    def at(self, point: Mapping[str, Any]) -> Arm:
        """With one value for each of these keys of the sweep."""
        return replace(self, sweep=self.sweep | {key: [value] for key, value in point.items()})


@dataclass(frozen=True)
class Profile:
    name: str
    seeds: list[int]
    set: dict[str, Any]
    arms: list[str]
    bpe: Mapping[str, Any]  # corpus and vocab of the tokenizer that {bpe} stands for; empty: none
    minutes: float | None
    tune: bool = True       # does the study's hold here?
    best: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # arm -> its point, which another profile found


@dataclass(frozen=True)
class Study:
    name: str
    path: Path
    data: dict[str, Any]
    lines: dict[Where, int]
    arms: dict[str, Arm]
    profiles: dict[str, Profile]

    def fail(self, where: Where, message: str) -> StudyError:
        return failure(self.path, self.lines, where, message)

    @property
    def base(self) -> dict[str, Any]:
        return self.data.get("base") or {}


# ---- YAML with line numbers


class Loader(yaml.SafeLoader):
    """Plain scalars as in YAML 1.2 and in the engine: `off` and `no` are words, 1e-3 is a number."""


Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (("null", r"~|null|", ["~", "n", ""]), ("bool", "true|false", list("tf")),
                               ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
                               ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
                                list("-+.0123456789"))):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def place(path: Path, lines: Mapping[Where, int], where: Where) -> str:
    """File and line of a key, or of the nearest one above it that the file has."""
    while where and where not in lines:
        where = where[:-1]
    return f"{path}:{lines[where]}" if where in lines else str(path)


def failure(path: Path, lines: Mapping[Where, int], where: Where, message: str) -> StudyError:
    return StudyError(f"{place(path, lines, where)}: {'.'.join(where)}{': ' if where else ''}{message}")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Where, int]]:
    """The file as plain values, and the line of each key and list item. Keys are always strings."""
    lines: dict[Where, int] = {}
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise StudyError(f"{path}: more than {MOST_BYTES >> 20} MiB; a study is a page or two")
        loader = Loader(data.decode("utf-8"))
        node = loader.get_single_node()
        value = build(loader, node, (), lines, path) if node else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise StudyError(f"{path}{f':{mark.line + 1}' if mark else ''}: {what}") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise StudyError(f"{path}: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}") from None
    if not isinstance(value, dict):
        raise StudyError(f"{path}:1: keys with values are wanted")
    return value, lines


def build(loader: Loader, node: yaml.Node, at: Where, lines: dict[Where, int], path: Path) -> Any:
    lines.setdefault(at, node.start_mark.line + 1)
    if len(lines) > MOST_VALUES:
        raise StudyError(f"{path}:{node.start_mark.line + 1}: more than {MOST_VALUES:,} values, with those that "
                         "aliases repeat; write out what is meant")
    if isinstance(node, yaml.SequenceNode):
        return [build(loader, item, (*at, str(i)), lines, path) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    value: dict[str, Any] = {}
    for key_node, item in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in value:
            raise StudyError(f"{path}:{line}: {'.'.join((*at, key))}: a second time")
        lines[(*at, key)] = line
        value[key] = build(loader, item, (*at, key), lines, path)
    return value


# ---- checking


@dataclass(frozen=True)
class Checker:
    """What the checks of one file need to know."""

    path: Path
    lines: Mapping[Where, int]
    keys: Keys

    def fail(self, where: Where, message: str) -> StudyError:
        return failure(self.path, self.lines, where, message)

    def one_of(self, where: Where, value: Any, allowed: Iterable[str], what: str) -> str:
        allowed = list(allowed)
        if value in allowed:
            return str(value)
        near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed) or 'none'}"
        raise self.fail(where, f"unknown {what} {value}; {hint}")

    def mapping(self, where: Where, value: Any, allowed: Iterable[str] | None = None, what: str = "key") -> dict[str,
                                                                                                                 Any]:
        """Keys with values; `{}` may be left empty."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail(where, f"keys with values are wanted, not {value!r}")
        for key in value if allowed is not None else ():
            self.one_of((*where, key), key, allowed or (), what)
        return value

    def strings(self, where: Where, value: Any) -> list[str]:
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self.fail(where, "a list of names is wanted")
        return value

    def settings(self, where: Where, value: Any) -> dict[str, Any]:
        """Keys of the engine with a value each. Values are the engine's to judge."""
        found = self.mapping(where, value)
        for key, item in found.items():
            self.engine_key((*where, key), key)
            if isinstance(item, dict) or item is None:
                raise self.fail((*where, key), "a value is wanted; keys are written with dots, like model.layers")
        return found

    def engine_key(self, where: Where, key: str) -> None:
        if key in RUNNER_KEYS:
            raise self.fail(where, f"not a key of studies: {RUNNER_KEYS[key]}")
        if key not in self.keys:
            near = difflib.get_close_matches(key, list(self.keys), n=1, cutoff=0.5)
            raise self.fail(where, f"unknown key of the engine {key}; "
                                   + (f"did you mean {near[0]}?" if near else "`sinklab config` lists them"))

    def metric(self, where: Where, name: Any) -> str:
        if isinstance(name, str) and metrics.known(name):
            return name
        near = ", ".join(metrics.nearest(str(name)))
        raise self.fail(where, f"unknown metric {name}; " + (f"nearest: {near}" if near
                                                             else "sinkstudy/judge/metrics.py has them"))


def load(path: Path, keys: Keys) -> Study:
    """Reads and checks a study.yaml. keys: those of the engine (`sinklab config --json`)."""
    data, lines = read_yaml(path)
    check = Checker(path, lines, keys)
    check.mapping((), data, STUDY)
    for key in ("title", "question"):
        if not isinstance(data.get(key), str):
            raise check.fail((key,), "one line of text is wanted")
    check.settings(("base",), data.get("base"))
    check_inputs(check, data)
    check_looks(check, data)
    arms = read_arms(check, data)
    profiles = read_profiles(check, data, arms)
    check_claims(check, data, arms)
    return Study(path.resolve().parent.name, path, data, lines, arms, profiles)


def check_inputs(check: Checker, data: Mapping[str, Any]) -> None:
    if not isinstance(data.get("match", False), bool):
        raise check.fail(("match",), "true or false is wanted")
    read_bpe(check, ("bpe",), data)


def read_bpe(check: Checker, where: Where, row: Mapping[str, Any]) -> dict[str, Any]:
    bpe = check.mapping(where, row.get("bpe"), ("corpus", "vocab"))
    if "bpe" in row and (not isinstance(bpe.get("corpus"), str) or type(bpe.get("vocab")) is not int):
        raise check.fail(where, "corpus: a name, and vocab: a whole number are wanted")
    return bpe


def check_looks(check: Checker, data: Mapping[str, Any]) -> None:
    """What is measured on finished runs."""
    probe = check.mapping(("probe",), data.get("probe"), ("windows", "measures"))
    if not whole(probe.get("windows", 1), 1):
        raise check.fail(("probe", "windows"), "a whole number from 1 on is wanted")
    for at, name in enumerate(check.strings(("probe", "measures"), probe["measures"]) if "measures" in probe else ()):
        check.one_of(("probe", "measures", str(at)), name, MEASURES, "measure")
    for name, row in check.mapping(("interventions",), data.get("interventions")).items():
        where = ("interventions", name)
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in (*MEASURES, "peak", "onset"):
            raise check.fail(where, "the name must be one word, and none that metrics have (peak, onset, measures)")
        if not check.settings(where, row):
            raise check.fail(where, "at least one key is wanted")
    if not isinstance(data.get("cloze", False), bool):
        raise check.fail(("cloze",), "true or false is wanted: with accuracy and cloze of the interventions?")
    if "quantize" in data:
        check_quantize(check, ("quantize",), check.mapping(("quantize",), data["quantize"], QUANTIZE))


def check_quantize(check: Checker, where: Where, row: Mapping[str, Any]) -> None:
    """Schemes are the engine's to judge."""
    check.strings((*where, "schemes"), row.get("schemes"))
    if not check.mapping((*where, "transformations"), row.get("transformations")):
        raise check.fail((*where, "transformations"), "names with flags of `sinklab quantize` are wanted, like plain: "
                                                      "{}")
    for name, flags in row["transformations"].items():
        for flag, value in check.mapping((*where, "transformations", name), flags, TRANSFORMATIONS, "flag").items():
            if flag == "keep":
                check_keep(check, (*where, "transformations", name, flag), value)
            elif value is not True and isinstance(value, bool) or not isinstance(value, (bool, int, float)):
                raise check.fail((*where, "transformations", name, flag), "true or a number is wanted")
    for key in ("windows", "calibration"):
        if not whole(row.get(key, 1), 1):
            raise check.fail((*where, key), "a whole number from 1 on is wanted")


def check_keep(check: Checker, where: Where, value: Any) -> None:
    """The engine knows the names."""
    if not isinstance(value, str) or not value:
        raise check.fail(where, "kinds of layers with commas between are wanted, like attn.gate_in,ffn.out")


def whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


# ---- arms


def read_arms(check: Checker, data: Mapping[str, Any]) -> dict[str, Arm]:
    arms = {name: read_arm(check, ("arms", name), row)
            for name, row in check.mapping(("arms",), data.get("arms")).items()}
    for arm in read_grid(check, data):
        if arm.name in arms:
            raise check.fail(arm.where, f"arms has an arm {arm.name} too; give one of them another name")
        arms[arm.name] = arm
    if not arms:
        raise check.fail(("arms",), "no arms: give arms, a grid or both")
    tune = read_sweep(check, ("tune",), data.get("tune"))
    arms = {name: tuned(check, arm, tune) for name, arm in arms.items()}
    for arm in arms.values():
        check_baseline(check, arm, arms)
    return arms


def read_arm(check: Checker, where: Where, row: Any) -> Arm:
    """A row is keys of the engine, or has the sections of ARM."""
    row = check.mapping(where, row)
    if not any(key in ARM for key in row):
        return Arm(where[-1], where, set=check.settings(where, row))
    check.mapping(where, row, ARM)
    arm = Arm(where[-1], where, set=check.settings((*where, "set"), row.get("set")),
              sweep=read_sweep(check, (*where, "sweep"), row.get("sweep")),
              tie=check.settings((*where, "tie"), row.get("tie")),
              select=check.metric((*where, "select"), row.get("select", "val_loss")),
              baseline=check.settings((*where, "baseline"), row.get("baseline")), of=str(row.get("of") or ""))
    for key, other in arm.tie.items():
        check.one_of((*where, "tie", key), other, arm.sweep, "key of the sweep")
    for part in ("sweep", "tie", "baseline"):
        for key in getattr(arm, part):
            if key in arm.set or (part != "sweep" and key in arm.sweep):
                raise check.fail((*where, part, key), "set by another part of the arm too")
    if bool(arm.baseline) != bool(arm.of):
        raise check.fail(where, "baseline (key: metric) and of (the arm it is taken from) go together")
    return arm


def tuned(check: Checker, arm: Arm, tune: Mapping[str, list[Any]]) -> Arm:
    """With the study's tune in its sweep, but for keys that the arm has itself."""
    own = {*arm.set, *arm.sweep, *arm.tie, *arm.baseline}
    more = {key: values for key, values in tune.items() if key not in own}
    made = replace(arm, sweep=arm.sweep | more, tuned=tuple(more))
    check_size(check, arm.where, made.size, "points")
    return made


def read_sweep(check: Checker, where: Where, value: Any) -> dict[str, list[Any]]:
    sweep = check.settings(where, value)
    for key, values in sweep.items():
        if not isinstance(values, list) or not values or any(isinstance(v, dict) or v is None for v in values):
            raise check.fail((*where, key), "a list of at least one value is wanted")
        if len({str(v) for v in values}) < len(values):
            raise check.fail((*where, key), "a value is there twice")
    check_size(check, where, math.prod(map(len, sweep.values())), "points")
    return sweep


def check_size(check: Checker, where: Where, count: int, what: str) -> None:
    """Before anything is made of so many."""
    if count > MOST_RUNS:
        raise check.fail(where, f"{count:,} {what}; at most {MOST_RUNS:,} runs are made of a study")


def arms_of(profile: Profile, arms: Mapping[str, Arm]) -> list[Arm]:
    """Of a profile, as it runs them."""
    return [(arms[name] if profile.tune else arms[name].untuned()).at(profile.best.get(name, {}))
            for name in profile.arms]


def runs_of(arms: Iterable[Arm], seeds: Collection[int]) -> int:
    return sum(arm.size for arm in arms) * len(seeds)


def read_grid(check: Checker, data: Mapping[str, Any]) -> list[Arm]:
    """Every combination of one level of each axis. A level's `of` may name another level of its axis."""
    grid = check.mapping(("grid",), data.get("grid"))
    axes: list[list[Arm]] = []
    for axis, levels in grid.items():
        axes.append([read_arm(check, ("grid", axis, level), row)
                     for level, row in check.mapping(("grid", axis), levels).items()])
        if not axes[-1]:
            raise check.fail(("grid", axis), "at least one level is wanted")
    if "grid" in data and not axes:
        raise check.fail(("grid",), "at least one axis is wanted")
    check_size(check, ("grid",), math.prod(map(len, axes)), "arms")
    return [join_levels(check, axes, levels) for levels in itertools.product(*axes)] if axes else []


def join_levels(check: Checker, axes: Sequence[Sequence[Arm]], levels: Sequence[Arm]) -> Arm:
    parts: dict[str, Any] = {"set": {}, "sweep": {}, "tie": {}, "baseline": {}}
    of, select = "", "val_loss"
    for axis, level in zip(axes, levels):
        for part, found in parts.items():
            for key, value in getattr(level, part).items():
                if any(key in other for other in parts.values()):
                    raise check.fail((*level.where, key), "set by another axis of the grid too")
                found[key] = value
        if level.of and of:
            raise check.fail(level.where, "two axes of the grid have a baseline; one is wanted")
        if level.of:
            names = [level.of if other is level else other.name for other in levels]
            of = "-".join(names) if level.of in [other.name for other in axis] else level.of
        select = level.select if level.select != "val_loss" else select
    return Arm("-".join(level.name for level in levels), levels[-1].where, of=of, select=select, **parts)


def check_baseline(check: Checker, arm: Arm, arms: Mapping[str, Arm]) -> None:
    """A key that takes a metric of another arm's run needs one run a seed and tuned point there, and a metric of
    training."""
    if not arm.of:
        return
    other = arms[check.one_of((*arm.where, "of"), arm.of, arms, "arm")]
    if other.sweep.keys() - other.tuned or other.baseline:
        raise check.fail((*arm.where, "of"), f"{arm.of} has a sweep or a baseline of its own; name an arm without")
    for key in other.tuned:
        if key not in arm.tuned:
            raise check.fail((*arm.where, "of"), f"{arm.of} is tuned over {key}, and {arm.name} has a value of its own")
    for key, name in arm.baseline.items():
        where = (*arm.where, "baseline", key)
        if name == ALL_TRAINING:
            continue
        check.metric(where, name)
        if name.partition(".")[0] in MEASURES:
            raise check.fail(where, f"{name} is measured after training; take a metric of training, like peak.max")


# ---- profiles, claims


def read_profiles(check: Checker, data: Mapping[str, Any], arms: Mapping[str, Arm]) -> dict[str, Profile]:
    profiles = {}
    for name, row in check.mapping(("profiles",), data.get("profiles")).items():
        where = ("profiles", name)
        row = check.mapping(where, row, PROFILE)
        names = read_choice(check, (*where, "arms"), row.get("arms"), arms)
        profiles[name] = Profile(name, read_seeds(check, (*where, "seeds"), row.get("seeds")),
                                 check.settings((*where, "set"), row.get("set")), names,
                                 read_bpe(check, (*where, "bpe"), row) or data.get("bpe") or {}, row.get("minutes"),
                                 row.get("tune", True),
                                 read_best(check, (*where, "best"), row.get("best"), {n: arms[n] for n in names}))
        if not isinstance(profiles[name].tune, bool):
            raise check.fail((*where, "tune"), "true or false is wanted: does the study's tune hold here?")
        if profiles[name].best and not profiles[name].tune:
            raise check.fail((*where, "best"), "points of a sweep, which tune: false leaves out; give one of both")
        minutes = row.get("minutes", 1)
        count = runs_of(arms_of(profiles[name], arms), profiles[name].seeds)
        check_size(check, where, count, "runs (points of sweeps x seeds)")
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or minutes <= 0:
            raise check.fail((*where, "minutes"), "a number above 0 is wanted: what the profile takes on 2 cores")
    if not profiles:
        raise check.fail(("profiles",), "at least one profile is wanted, with its seeds")
    return profiles


def read_seeds(check: Checker, where: Where, value: Any) -> list[int]:
    if not isinstance(value, list) or not value or not all(whole(v, 0) for v in value) or len(set(value)) < len(value):
        raise check.fail(where, "a list of different whole numbers is wanted, like [1, 2, 3]")
    if max(value) > MOST_SEED:
        raise check.fail(where, f"seed {max(value)} is above {MOST_SEED}")
    check_size(check, where, len(value), "seeds")
    return value


def read_choice(check: Checker, where: Where, value: Any, arms: Mapping[str, Arm]) -> list[str]:
    """The arms of a profile, in the order of the study; those that they take a metric from must be among them."""
    if value is None:
        return list(arms)
    names = check.strings(where, value)
    for at, name in enumerate(names):
        check.one_of((*where, str(at)), name, arms, "arm")
        if arms[name].of and arms[name].of not in names:
            raise check.fail((*where, str(at)), f"{name} takes a metric of {arms[name].of}, which the profile leaves "
                                                "out")
    return [name for name in arms if name in names]


def read_best(check: Checker, where: Where, value: Any, arms: Mapping[str, Arm]) -> dict[str, dict[str, Any]]:
    """Points of the profile's arms, each value one of their sweeps: so that its runs are those of the profile that
    found it."""
    best = check.mapping(where, value, arms, "arm")
    for name, point in best.items():
        for key, chosen in check.settings((*where, name), point).items():
            check.one_of((*where, name, key), key, arms[name].sweep, "key of the arm's sweep")
            check.one_of((*where, name, key), str(chosen), map(str, arms[name].sweep[key]), "value of the sweep")
    for name, arm in arms.items():
        if arm.of in best and best.get(name) != best[arm.of]:
            raise check.fail((*where, name if name in best else arm.of), f"{name} takes a metric of {arm.of} at the "
                                                                         "same point; give both the same, or leave "
                                                                         f"{arm.of} all of its sweep")
    return best


def check_claims(check: Checker, data: Mapping[str, Any], arms: Mapping[str, Arm]) -> None:
    try:
        claims.parse(data, arms)
    except claims.ClaimError as error:
        where = claim_place(data, str(error))
        raise StudyError(f"{place(check.path, check.lines, where)}: {error}") from None


def claim_place(data: Mapping[str, Any], message: str) -> Where:
    """Where in the file a claim or gate is that a message starts with, as in `claim ID: key: ...`; without its
    words."""
    found = re.match(r"(claim|gate) ([^:]+)(?:: (\w+))?", message)
    if found is None:
        return ()
    kind, name, key = found.groups()
    if kind == "gate":
        return ("gates", name, key or "")
    rows = data["claims"]
    at = next((i for i, row in enumerate(rows) if isinstance(row, dict) and str(row.get("id")) == name), None)
    return ("claims", str(at if at is not None else int(name) - 1 if name.isdigit() else 0), key or "")


# ---- the studies there are


def find(name: str, folder: Path) -> Path:
    """A study by its name in the folder of studies, or by its path."""
    for path in (folder / name / "study.yaml", Path(name) / "study.yaml", Path(name)):
        if path.is_file():
            return path
    names = [path.parent.name for path in paths(folder)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise StudyError(f"no study {name}; " + (f"did you mean {near[0]}?" if near else
                                             f"there are {', '.join(names)}" if names else f"{folder} holds none"))


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/study.yaml"))
