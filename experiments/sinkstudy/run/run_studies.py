"""Runs studies: trains their runs, measures them and writes a page with verdicts. ./experiments/run starts it.

Finished runs are kept in a store by a hash of what decides them, and never trained twice; whatever stopped before (a
kill, a full disk, a failed run), the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkstudy.places import ROOT, STUDIES
from sinkstudy.plan import expand
from sinkstudy.plan import study as studies
from sinkstudy.plan.expand import Engine, Expansion, Options
from sinkstudy.plan.study import Study, StudyError
from sinkstudy.run import gpus, progress, snakemaking
from sinkstudy.store import store

PREFIX = "experiments/run"
OVERVIEW = "overview"  # beside the studies' folders of results


class RunnerError(Exception):
    """Something that is not the user's doing failed; the message is one line."""


def say(text: str) -> None:
    print(text, flush=True)


# ---- command line


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PREFIX, description=__doc__.split("./experiments")[0].strip()
        + " Finished runs are kept and never trained twice: "
        "whatever stopped before, the same command goes on from there.",
        epilog="A study is a folder of experiments/studies with README.md and study.yaml; experiments/README.md has "
        "the format. Exit codes: 0 done, 1 something failed, 2 wrong usage or a mistake in a study.yaml.")
    parser.add_argument("study", nargs="*", metavar="STUDY", help="name of a study (--list), or a path to one")
    parser.add_argument("--all", action="store_true", help="all studies; several get an overview page")
    parser.add_argument("--list", action="store_true", help="list the studies with their questions and minutes")
    parser.add_argument("--committed", action="store_true", help="train nothing: judge the runs that are in git again, "
                        "and write the verdicts, tables and the ledger that follow from them")
    parser.add_argument("--pages", type=Path, metavar="FOLDER",
                        help="with --committed: write HTML pages of all studies there, and nothing else")
    parser.add_argument("--profile", default="quick", metavar="P",
                        help="quick, standard, full or another one of the study "
                        "(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, what is there already, how "
                        "large the models are and about how long it takes; write nothing")
    parser.add_argument("--report", action="store_true", help="train nothing: make the pages of what is there")
    parser.add_argument("--cores", type=int, default=0, metavar="N",
                        help="default: all that this process may use (sinklab doctor)")
    parser.add_argument("--threads", type=int, default=0, metavar="N",
                        help="of each run; default: so that the cores are used "
                        "well (figures are the same for any number)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N",
                        help="GPUs for runs with device=cuda (--set, or a profile of the study), each on one; default: "
                        "the first one, for one run after the other")
    parser.add_argument("--per-gpu", type=int, default=1, metavar="K",
                        help="so many runs share a GPU (default: %(default)s; small models leave most of one idle)")
    parser.add_argument("--seeds", metavar="LIST", help="in place of the profile's, like 1,2,3")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="a key of the engine for all runs, like "
                        "data.corpus=mine; again for more")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", metavar="DIR",
                        help="DIR/store gets the runs, DIR/studies the results (default: runs)")
    parser.add_argument("--slurm", action="store_true", help="run on a cluster, as experiments/profiles/slurm says")
    parser.add_argument("--sinklab", type=Path, default=ROOT / "build" / "src" / "sinklab", metavar="PROGRAM",
                        help="default: build/src/sinklab")
    options = parser.parse_intermixed_args(argv)
    if not (options.study or options.all or options.list or options.committed):
        parser.error("give a STUDY, --all, --list or --committed")
    if options.study and options.all:
        parser.error("give either STUDY or --all")
    if options.pages and not options.committed:
        parser.error("--pages goes with --committed")
    if options.cores < 0 or options.threads < 0 or options.gpus < 0 or options.per_gpu < 1:
        parser.error("--cores, --threads, --gpus and --per-gpu are whole numbers from 1 on")
    # From here on paths are as the engine sees them, from the repository's folder.
    options.runs, options.sinklab = options.runs.resolve(), options.sinklab.resolve()
    options.pages = options.pages and options.pages.resolve()
    options.study = [name if "/" not in name and not Path(name).is_dir() or (STUDIES / name).is_dir()
                     else str(Path(name).resolve())
                     for name in options.study]
    os.chdir(ROOT)
    return options


def changes(options: argparse.Namespace, engine: Engine) -> Options:
    """--profile, --seeds and --set, checked."""
    seeds = options.seeds.split(",") if options.seeds is not None else []
    if not all(re.fullmatch(r"\d{1,9}", seed) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise StudyError(f"--seeds {options.seeds}: different whole numbers with commas between are wanted, like 1,2,3")
    pairs = [item.partition("=") for item in options.set]
    check = studies.Checker(Path("--set"), {}, engine.keys)
    for key, equals, _ in pairs:
        if not equals:
            raise StudyError(f"--set {key}: KEY=VALUE is wanted")
        check.engine_key((), key)
    return Options(options.profile, tuple(map(int, seeds)), tuple((key, value) for key, _, value in pairs))


def load(options: argparse.Namespace, keys: studies.Keys) -> list[Study]:
    found = studies.paths(STUDIES) if options.all else [studies.find(name, STUDIES) for name in options.study]
    if not found:
        raise StudyError(f"{STUDIES} holds no studies")
    loaded = [studies.load(path, keys) for path in dict.fromkeys(found)]
    names = [study.name for study in loaded]
    if len(set(names)) < len(names) or OVERVIEW in names:
        raise StudyError(f"studies need names of their own, other than {OVERVIEW}, for the folders of their results")
    return loaded


def list_studies(keys: studies.Keys) -> None:
    for path in studies.paths(STUDIES):
        study = studies.load(path, keys)
        minutes = ", ".join(f"{p.name}" + (f" {p.minutes:g} min" if p.minutes else "") for p in study.profiles.values())
        say(f"{study.name}\n    {study.data['question']}\n    {minutes}")


# ---- planning


def share(runs: int, cores: int) -> int:
    """Threads a run that end soonest: side by side wastes nothing, more threads than one lose a tenth at each
    doubling."""
    def time_of(threads: int) -> float:
        rounds = -(-runs // (cores // threads))
        return rounds / threads**0.85
    return min(range(1, cores + 1), key=time_of) if runs else 1


def results_folder(runs: Path, name: str, change: Options) -> Path:
    """Changes from the command line get a folder of their own beside the profile's."""
    changed = {"seeds": change.seeds, "set": change.set}
    suffix = f"-{store.digest(changed)[:6]}" if any(changed.values()) else ""
    return runs / "studies" / name / (change.profile + suffix)


def workflow(options: argparse.Namespace, change: Options, made: Sequence[Expansion],
             loaded: Sequence[Study]) -> dict[str, Any]:
    """What Snakefile and job.py read."""
    work: dict[str, Any] = {
        "sinklab": str(options.sinklab), "store": str(options.runs / "store"), "threads": 1,
        "gpus": gpus.visible(max(1, options.gpus)), "per_gpu": options.per_gpu,
        "corpora_folder": str(store.corpora_folder()), "corpora": [], "tokenizers": {}, "runs": {}, "outcomes": {},
        "studies": {}, "overview": None}
    for study in loaded:
        work["corpora"] = sorted({*work["corpora"], *expand.corpora(study, change)})
        profile, _ = expand.chosen(study, change)
        path, bpe = expand.tokenizer_path(profile, options.runs), profile.bpe
        if path:
            work["tokenizers"][str(path)] = {"vocab": bpe["vocab"],
                                             "corpus": str(store.corpora_folder() / bpe["corpus"])}
    for expansion in made:
        out = results_folder(options.runs, expansion.study.name, change)
        entries = expansion.plan["runs"]
        work["runs"] |= {run.hash: {"config": run.config, "identity": run.identity, "baseline": run.baseline}
                         for run in expansion.runs.values()}
        work["outcomes"] |= {e["outcome"]: {"run": e["hash"], "measures": expansion.plan["measures"]} for e in entries}
        work["studies"][expansion.study.name] = {"file": str(expansion.study.path.resolve()), "out": str(out),
                                                 "outcomes": sorted({e["outcome"] for e in entries})}
    if len(made) > 1:
        work["overview"] = str(results_folder(options.runs, OVERVIEW, change) / "overview.html")
    return work


def missing_inputs(work: dict[str, Any]) -> list[str]:
    """Corpora and tokenizers that must be made before runs have hashes."""
    folder = Path(work["corpora_folder"])
    return [name for name in work["corpora"] if not (folder / name / "SOURCE.txt").is_file()] + \
           [path for path in work["tokenizers"] if not Path(path).is_file()]


def prepare_inputs(options: argparse.Namespace, work: dict[str, Any], missing: Sequence[str]) -> None:
    say(f"preparing {', '.join(Path(name).name for name in missing)}")
    path, log = options.runs / "store" / "inputs.json", options.runs / "store" / "inputs.log"
    store.write_json(path, work)
    code = snakemaking.Maker(path, options.runs / "store", log, 1).run("inputs")
    if code == snakemaking.INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        raise RunnerError(f"{snakemaking.reason(log)}; all it said: {log}")


# ---- what is there


def done(work: dict[str, Any], path: str) -> bool:
    return store.read_json(Path(work["store"], path)).get("status") in (store.FINISHED, store.DIVERGED)


def of_other_engines(work: dict[str, Any]) -> int:
    """How many of the runs that are missing were trained by another build of sinklab, as far as the settings that it
    knew tell. Their figures may differ from this one's, so a page never mixes them."""
    missing = [row["identity"] for name, row in work["runs"].items() if not done(work, f"{name}/trained.json")]
    there = [store.read_json(path) for path in sorted(Path(work["store"]).glob("*/identity.json"))
             if done(work, f"{path.parent.name}/trained.json")] if missing else []

    def same(old: dict[str, Any], wanted: dict[str, Any]) -> bool:
        shared = old["config"].keys() & wanted["config"].keys()
        return old["engine"] != wanted["engine"] and all(old["config"][key] == wanted["config"][key] for key in shared)

    whole = [old for old in there if isinstance(old.get("config"), dict) and isinstance(old.get("engine"), str)]
    return sum(any(same(old, wanted) for old in whole) for wanted in missing)


def forget_failures(work: dict[str, Any]) -> None:
    """Failed runs are tried again."""
    for path in (*work["outcomes"], *(f"{name}/trained.json" for name in work["runs"])):
        file = Path(work["store"], path)
        if file.exists() and not done(work, path):
            file.unlink()


def tell_failures(work: dict[str, Any]) -> list[tuple[str, str]]:
    """Outcomes that don't come, with the reason, "" if there is none; a failed training's outcome is written here."""
    failed = []
    for path, row in work["outcomes"].items():
        if done(work, path):
            continue
        trained = store.read_json(Path(work["store"], row["run"], "trained.json"))
        found = store.read_json(Path(work["store"], path)) or (trained if trained.get("status") == store.FAILED else {})
        if found:
            store.write_json(Path(work["store"], path), found)
        failed.append((path, found.get("message", "")))
    return failed


# ---- dry run


class Estimates:
    """What a run will take, by a few steps of each different model. Takes no account of evaluations and probes."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine, self.threads = engine, threads
        self.known: dict[str, tuple[str, float]] = {}

    def of(self, run: expand.Run) -> tuple[str, float]:
        """The model's size in words, or why it can't be trained; and seconds."""
        config = {key: value for key, value in run.config.items() if key not in studies.RUNNER_KEYS}
        key = store.digest(config)
        if key not in self.known:
            keys = [f"{key}={expand.text(value)}" for key, value in config.items()]
            try:
                said = self.engine("train", "/dev/null", *keys, f"threads={self.threads}", "--dry-run")
                found = {line.split()[0]: line.split()[1] for line in said.splitlines()}
                seconds = float(found["tokens"]) / float(found["speed"])
                self.known[key] = f"{int(found['parameters']):,} parameters", seconds
            except expand.EngineError as error:
                self.known[key] = f"can't be trained: {error}", 0.0
        return self.known[key]


def dry_run(options: argparse.Namespace, engine: Engine, made: Sequence[Expansion], work: dict[str, Any]) -> None:
    missing = missing_inputs(work)
    estimates = Estimates(engine, work["threads"])
    left: dict[str, float] = {}  # seconds, of each run that is to be trained
    for expansion in made:
        say(f"{expansion.study.name}, profile {expansion.profile.name}: {expansion.study.data['title']}")
        groups: dict[str, list[dict[str, Any]]] = {}
        for entry in expansion.plan["runs"]:
            groups.setdefault(label(entry), []).append(entry)
        for name, entries in groups.items():
            todo = {e["hash"] for e in entries if not done(work, f"{e['hash']}/trained.json")}
            unknown = "size unknown", float("nan")
            size, seconds = unknown if missing else estimates.of(expansion.runs[entries[0]["hash"]])
            left |= dict.fromkeys(todo, seconds)
            each = f" ({progress.duration(seconds)} each)" if todo else ""
            say(f"  {name}: {size}, seeds {', '.join(str(e['seed']) for e in entries)}: {len(entries) - len(todo)} "
                f"trained, {len(todo)} to train{each}")
    slots = max(1, options.cores // work["threads"])
    if missing:
        say(f"to be prepared first: {', '.join(missing)}; then --dry-run also tells sizes and times, and what is there "
            "already")
    say(f"{len(left)} runs to train, {slots} side by side, {progress.threads(work['threads'])} each: "
        f"about {progress.duration(sum(left.values()) / slots)}, without evaluations and probes")


def label(entry: dict[str, Any]) -> str:
    """An arm, with the point of its sweep."""
    return progress.label(entry["arm"], entry["point"])


# ---- running


def run(options: argparse.Namespace) -> int:
    engine = expand.engine(options.sinklab)
    if options.list:
        list_studies(engine.keys)
        return 0
    change = changes(options, engine)
    loaded = load(options, engine.keys)
    for study in loaded:
        expand.chosen(study, change)
    if options.gpus > 0 or not options.cores:
        machine = json.loads(engine("doctor", "--json"))
        options.cores = options.cores or machine["usable_cores"]
        if options.gpus > len(machine["devices"]):
            raise StudyError(f"--gpus {options.gpus}: there are {len(machine['devices'])}"
                             + (f"; {machine['no_device']}" if "no_device" in machine else ""))
    made, work = plan(options, change, engine, loaded)
    if options.dry_run:
        dry_run(options, engine, made, work)
        return 0
    held = store.lock(options.runs / "store", f"{PREFIX} {' '.join(s.name for s in loaded)}")
    try:
        missing = missing_inputs(work)
        if missing:
            prepare_inputs(options, work, missing)
            made, work = plan(options, change, engine, loaded)
        return make(options, made, work, held)
    finally:
        os.close(held)


def plan(options: argparse.Namespace, change: Options, engine: Engine,
         loaded: Sequence[Study]) -> tuple[list[Expansion], dict[str, Any]]:
    """Final only if no inputs are missing."""
    data, ready = store.Data(), not missing_inputs(workflow(options, change, [], loaded))
    made = [expand.expand(study, change, engine, data, options.runs, ready) for study in loaded]
    work = workflow(options, change, made, loaded)
    pending = sum(not done(work, f"{name}/trained.json") for name in work["runs"])
    places = len(gpus.places(work))  # side by side there are as many runs as have a place, each with its share of cores
    on_gpu = any(run["config"]["device"] != "cpu" for run in work["runs"].values())
    work["threads"] = options.threads or (1 if options.slurm else max(1, options.cores // places) if on_gpu else
                                          share(pending, options.cores))
    return made, work


def make(options: argparse.Namespace, made: Sequence[Expansion], work: dict[str, Any], held: int) -> int:
    start = time.time()
    if not options.report:
        forget_failures(work)
    for expansion in made:
        store.write_json(Path(work["studies"][expansion.study.name]["out"], "plan.json"), expansion.plan)
        for arm, why in {entry["arm"]: entry["unmatched"] for entry in expansion.plan["runs"]
                         if entry["unmatched"]}.items():
            say(f"note: {expansion.study.name}, {arm}: parameters are not matched: "
                f"{why.removeprefix(expand.MATCH + ': ')}")
    path = options.runs / "store" / "workflow.json"
    store.write_json(path, work)
    log = options.runs / "store" / "workflow.log"
    maker = snakemaking.Maker(path, options.runs / "store", log, options.cores, options.slurm, held)
    code = 0
    others = of_other_engines(work) if options.report else 0
    if others:
        say(f"note: {others} of {len(work['runs'])} runs are there from another build of sinklab, whose figures may "
            "differ: this page has only those of this one; --sinklab PROGRAM makes that build's page, and without "
            "--report they are trained anew")
    if not options.report:
        watch = progress.Watch(work, made, max(1, options.cores // work["threads"]))
        code = maker.run("all", watch)
    failed = tell_failures(work)
    if code == snakemaking.INTERRUPTED:
        say(f"interrupted with {len(failed)} of {len(work['outcomes'])} runs left; the same command goes on, and with "
            "--report it makes the page of what is there")
        return 130
    bad = make_pages(options, work, path, start) if code or options.report else []
    return conclude(options, work, failed, bad, code, log)


def make_pages(options: argparse.Namespace, work: dict[str, Any], path: Path, since: float) -> list[str]:
    """Those that are older than `since`: the workflow did not come to them, as runs are missing. Returns what
    failed."""
    bad = []
    wanted = [("report", name, Path(row["out"], "report.html")) for name, row in work["studies"].items()]
    if work["overview"]:
        wanted.append(("overview", "", Path(work["overview"])))
    for verb, name, page in wanted:
        if page.exists() and page.stat().st_mtime >= since:
            continue
        log = options.runs / "store" / f"{verb}{'-' * bool(name)}{name}.log"
        if snakemaking.job(path, log, verb, *([name] if name else [])) != 0:
            bad.append(f"{verb} {name}: {snakemaking.last_line(log)}; all it said: {log}")
    return bad


def conclude(options: argparse.Namespace, work: dict[str, Any], failed: list[tuple[str, str]], bad: list[str],
             code: int,
             log: Path) -> int:
    for name, row in work["studies"].items():
        for line in terminal_lines(Path(row["out"], "verdicts.json")):
            say(f"  {line}")
        say(f"{name}: {Path(row['out'], 'report.html')}")
    if work["overview"]:
        say(f"overview: {work['overview']}")
    if options.all:
        say("ledger.md and the verdicts in git follow from the runs.csv of studies/STUDY/results/PROFILE: copy those "
            "that shall count there, then ./experiments/run --committed")
    if shutil.disk_usage(options.runs).free < 1 << 20:
        bad.append(f"no space is left where {options.runs} is; make some, then the same command goes on")
    if failed and not options.report:
        bad.append(failure(work, failed, log))
    if code and not bad:
        bad.append(f"{snakemaking.reason(log)}; all it said: {log}")
    for line in bad:
        print(f"{PREFIX}: error: {line}", file=sys.stderr)
    return 1 if bad else 0


def failure(work: dict[str, Any], failed: list[tuple[str, str]], log: Path) -> str:
    """One line about all: the first that says why, and its log."""
    path, message = next((row for row in failed if row[1]), failed[0])
    if not message:
        count = f"{len(failed)} of {len(work['outcomes'])} runs"
        return f"{count} were not made: {snakemaking.reason(log)}; all it said: {log}"
    folder = Path(work["store"], path).parent
    trained = store.read_json(folder / "trained.json").get("status") == store.FINISHED
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return (f"{len(failed)} of {len(work['outcomes'])} runs failed: {named(work, path)}: {message}{more}; its log: "
            f"{folder / ('measure.log' if trained else 'train.log')}")


def named(work: dict[str, Any], path: str) -> str:
    for name, row in work["studies"].items():
        for entry in store.read_json(Path(row["out"], "plan.json")).get("runs", ()):
            if entry["outcome"] == path:
                return f"{name}, {label(entry)}, seed {entry['seed']}"
    return path


def terminal_lines(path: Path) -> list[str]:
    from sinkstudy.report import study_report  # late: --help and --list need no SciPy

    record = store.read_json(path)
    return study_report.verdict_lines(record) + study_report.sweep_lines(record) if record else []


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        if options.committed:
            from sinkstudy.judge import committed  # late, as above

            return committed.main(["--pages", str(options.pages)] if options.pages else [])
        return run(options)
    except StudyError as error:
        print(f"{PREFIX}: error: {error}", file=sys.stderr)
        return 2
    except (RunnerError, store.StoreError, expand.EngineError) as error:
        print(f"{PREFIX}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{PREFIX}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PREFIX}: interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
