"""What a study is made of: arms x points of their sweeps x seeds, each run with the hash that names it in the store."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkstudy.places import ROOT
from sinkstudy.plan.study import ALL_TRAINING, MOST_RUNS, Arm, Profile, Study, StudyError, arms_of, runs_of
from sinkstudy.store import store

MATCH = "model.match_params"


class EngineError(Exception):
    """What `sinklab` said when it refused; usage: what was asked for can't be (exit code 2)."""

    def __init__(self, message: str, usage: bool) -> None:
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True)
class Engine:
    """The program that trains."""

    program: Path
    hash: str
    keys: dict[str, bool]  # each key of the configuration: whether it decides the result

    def __call__(self, *args: object) -> str:
        """Standard output of a verb."""
        done = subprocess.run([self.program, *map(str, args)], capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise EngineError(said[-1].removeprefix("sinklab: error: "), done.returncode == 2)
        return done.stdout


def engine(program: Path) -> Engine:
    try:
        listed = json.loads(subprocess.run([program, "config", "--json"], capture_output=True, text=True,
                                           check=True).stdout)
        return Engine(program, store.engine_hash(program), {row["key"]: row["decides_result"] for row in listed})
    except OSError as error:
        raise StudyError(f"{program}: {error.strerror}; build it (ninja -C build), or give --sinklab") from None
    except (subprocess.CalledProcessError, ValueError, KeyError):
        raise StudyError(
            f"{program}: `config --json` doesn't list the keys; is this sinklab, and of this version?") from None


@dataclass(frozen=True)
class Options:
    """What the command line changes in every study."""

    profile: str
    seeds: tuple[int, ...] = ()
    set: tuple[tuple[str, str], ...] = ()


@dataclass
class Run:
    """One folder of the store: what is to be trained there."""

    hash: str
    config: dict[str, Any]               # effective, all keys
    identity: dict[str, Any]
    baseline: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> metric, hash of the run it is of


@dataclass
class Expansion:
    study: Study
    profile: Profile
    seeds: list[int]
    plan: dict[str, Any]
    runs: dict[str, Run]


# ---- settings


def text(value: Any) -> str:
    """A value as the engine's key=value has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    return str(value)


def tokenizer_path(profile: Profile, runs: Path) -> Path | None:
    bpe = profile.bpe
    return runs / "tokenizers" / f"{bpe['corpus']}-{bpe['vocab']}.json" if bpe else None


def settings_of(study: Study, profile: Profile, arm: Arm, point: Mapping[str, Any], options: Options,
                bpe: Path | None) -> dict[str, str]:
    """The keys that an arm's runs set, the later of equal ones: base, profile, arm, point of its sweep, command
    line."""
    settings = study.base | profile.set | arm.set | dict(point) | dict(options.set)
    return {key: text(value).replace("{bpe}", str(bpe or "{bpe}")) for key, value in settings.items()}


def effective(engine: Engine, study: Study, arm: Arm, settings: Mapping[str, str], match: bool) -> tuple[dict[str, Any],
                                                                                                         str]:
    """The engine's whole configuration; and why parameters are not matched, if they should be and can't."""
    keys, unmatched = [f"{key}={value}" for key, value in settings.items()], ""
    try:
        config = json.loads(engine("config", *keys, "--dump", "--json"))
        if match and MATCH not in settings:
            try:
                counts = json.loads(engine("config", *keys, f"{MATCH}=true", "--params", "--json"))
                # Where nothing changes it stays out, so that the run is the same as one of a study without it.
                config[MATCH] = bool(config["model.experts"]) or counts["ffn"] != config["model.ffn"]
            except EngineError as error:
                if not error.usage or MATCH not in str(error):
                    raise
                unmatched = str(error)
    except EngineError as error:
        raise study.fail(place_of(study, arm, str(error)), f"arm {arm.name}: {error}") from None
    return config, unmatched


def place_of(study: Study, arm: Arm, message: str) -> tuple[str, ...]:
    """Where the key stands that an error of the engine is about."""
    for where in ((*arm.where, "set"), arm.where, (*arm.where, "sweep"), ("tune",), ("base",)):
        at = next((w for w in study.lines if w[:-1] == where and w[-1] in message), None)
        if at:
            return at
    return arm.where


# ---- expansion


def chosen(study: Study, options: Options) -> tuple[Profile, list[int]]:
    profile = study.profiles.get(options.profile)
    if profile is None:
        raise StudyError(f"{study.path}: no profile {options.profile}; there are {', '.join(study.profiles)}")
    seeds = list(options.seeds or profile.seeds)
    count = runs_of(arms_of(profile, study.arms), seeds)
    if count > MOST_RUNS:
        raise StudyError(f"--seeds: {count:,} runs (points of sweeps x seeds) of {study.name}; at most {MOST_RUNS:,}")
    return profile, seeds


def corpora(study: Study, options: Options) -> list[str]:
    """Corpora of the manifest that must be prepared: those that keys, interventions or the tokenizer name."""
    profile, _ = chosen(study, options)
    manifest = store.read_json(ROOT / "data" / "manifest.json")
    rows = [settings_of(study, profile, arm, point, options, None)
            for arm in arms_of(profile, study.arms) for point in arm.points()]
    rows += [{"data.corpus": "", **row} for row in (study.data.get("interventions") or {}).values()]
    named = {row.get(key, default) for row in rows
             for key, default in (("data.corpus", "treasury"), ("data.synthetic.text", ""))}
    named |= {profile.bpe["corpus"]} if profile.bpe else set()
    return sorted(name for name in named if name in manifest)


def expand(study: Study, options: Options, engine: Engine, data: store.Data, runs: Path,
           ready: bool = True) -> Expansion:
    """Runs of a study under a profile. ready: corpora and tokenizer are there; else the hashes are provisional, and
    parameters not matched."""
    profile, seeds = chosen(study, options)
    bpe = tokenizer_path(profile, runs)
    rows = [(arm, point) for arm in arms_of(profile, study.arms) for point in arm.points()]
    settings = [settings_of(study, profile, arm, point, options, bpe) for arm, point in rows]
    match = ready and bool(study.data.get("match"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        configs = list(pool.map(lambda row: effective(engine, study, row[0][0], row[1], match), zip(rows, settings)))
    check_schemes(study, engine)
    made = Expansion(study, profile, seeds, {}, {})
    order = sorted(range(len(rows)), key=lambda i: bool(rows[i][0].of))  # those that take a metric come last
    entries: list[dict[str, Any]] = []
    for i in order:
        arm, point = rows[i]
        config, unmatched = configs[i]
        for seed in seeds:
            run = make_run(config | {"seed": seed}, arm, point, seed, entries, engine, data)
            made.runs[run.hash] = run
            taken = {key: f"{metric} of {of}" for key, (metric, of) in run.baseline.items()}
            entries.append({"arm": arm.name, "seed": seed, "point": dict(point), "hash": run.hash,
                            "settings": settings[i] | taken, "unmatched": unmatched})
    entries.sort(key=lambda entry: profile.arms.index(entry["arm"]))
    measure = measures(study)
    for entry in entries:
        entry["outcome"] = outcome_path(entry["hash"], measure)
    made.plan = {"study": study.name, "file": f"{study.name}/{study.path.name}",
                 "sha256": store.sha256_file(study.path), "profile": profile.name,
                 "seeds": seeds, "set": dict(options.set), "measures": measure, "engine": engine.hash, "runs": entries}
    return made


def make_run(config: dict[str, Any], arm: Arm, point: Mapping[str, Any], seed: int,
             entries: Sequence[Mapping[str, Any]], engine: Engine, data: store.Data) -> Run:
    baseline = {}
    for key, metric in arm.baseline.items():
        of = next(e["hash"] for e in entries if e["arm"] == arm.of and e["seed"] == seed
                  and e["point"].items() <= point.items())  # its sweep is what both are tuned over
        baseline[key] = ("peak.max" if metric == ALL_TRAINING else metric, of)
    identity = store.identity(config, engine.keys, data, engine.hash)
    identity["config"] |= {key: f"{metric} of {of}" for key, (metric, of) in baseline.items()}
    return Run(store.digest(identity), config, identity, baseline)


def check_schemes(study: Study, engine: Engine) -> None:
    wanted = (study.data.get("quantize") or {}).get("schemes", ())
    known = [line.split()[0] for line in engine("quantize", "--list").splitlines() if line.strip()] if wanted else []
    for at, name in enumerate(wanted):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise study.fail(("quantize", "schemes", str(at)), f"unknown scheme {name}; "
                             + (f"did you mean {near[0]}?" if near else "`sinklab quantize --list` has them"))


def measures(study: Study) -> dict[str, Any]:
    """What is measured on each finished run; has a hash apart from the run's."""
    found = {key: study.data[key] for key in ("probe", "interventions", "cloze", "quantize") if study.data.get(key)}
    if "interventions" in found:
        found["interventions"] = {name: {key: text(value) for key, value in row.items()}
                                  for name, row in found["interventions"].items()}
    return found


def outcome_path(run: str, measure: Mapping[str, Any]) -> str:
    """Within the store. The figures of one run under different measures stand side by side."""
    return f"{run}/outcome-{store.digest(measure)[:8]}.json" if measure else f"{run}/outcome.json"


def needed(expansions: Iterable[Expansion]) -> dict[str, Run]:
    return {run.hash: run for expansion in expansions for run in expansion.runs.values()}
