"""A step of the workflow of studies; Snakefile calls it, here or on a node of a cluster.

    python -m sinkstudy.run.job WORKFLOW train HASH       trains a run or goes on with it: HASH/trained.json
    job.py WORKFLOW measure OUTCOME  probe, interventions and quantisation of it: the outcome's file
    job.py WORKFLOW report STUDY     the page, tables and verdicts of a study
    job.py WORKFLOW overview         one page about all studies of the workflow

Paths in the workflow's file are absolute. A step that was done is done again only if its file is gone. Exit code 1: it
failed, and the file, if any, says why; 130: interrupted.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from sinkstudy.places import ROOT
from sinkstudy.run import gpus
from sinkstudy.store import outcome, store
from sinkstudy.store.runs import number, parse_json

TRAINING_PROBE_WINDOWS = 16  # as in src/train/run.c


class JobError(Exception):
    """The step failed; the message is one line."""


class Refused(JobError):
    """The engine says that what is asked for can't be (exit code 2)."""


class Interrupted(Exception):
    """A signal asked for the end."""


def on_signal(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def run_engine(work: dict[str, Any], log: Path, *args: str, device: str = "cpu") -> str:
    """Standard output of a verb; its messages go to the log. A signal is passed on and waited for: training then
    saves. On a GPU it has a place of its own."""
    args = (*args, f"device={device}")
    with open(log, "a", encoding="utf-8") as errors, gpus.place(work, device) as there:
        errors.write(f"$ sinklab {' '.join(args)}\n")
        errors.flush()
        start = errors.tell()
        process = subprocess.Popen([work["sinklab"], *args], stdout=subprocess.PIPE, stderr=errors, text=True,
                                   cwd=ROOT, env=os.environ | there)
        try:
            out, _ = process.communicate()
        except Interrupted:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode:
        said = [line for line in tail(log, start) if line.startswith("sinklab: error: ")]
        message = said[-1].removeprefix("sinklab: error: ") if said else died(process.returncode)
        raise (Refused if process.returncode == 2 else JobError)(message)
    return out


def tail(log: Path, start: int) -> list[str]:
    with open(log, "rb") as f:
        f.seek(start)
        return f.read().decode(errors="replace").splitlines()


def died(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit code {code} without a message"


# ---- training


def nested(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections; JSON is YAML to the engine."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        *sections, last = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return found


def taken(work: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """Keys that take a figure of another run, which has been trained."""
    found = []
    for key, (metric, of) in run["baseline"].items():
        value = store.read_json(Path(work["store"], of, "trained.json")).get("metrics", {}).get(metric)
        if value is None:
            raise JobError(f"{key} takes {metric} of run {of}, which has none: it diverged, or doesn't measure that")
        found.append(f"{key}={value!r}")
    return found


def seconds_before(folder: Path) -> float:
    """What earlier attempts at the run spent on training, as far as its log goes."""
    try:
        last = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1:]
    except OSError:
        return 0.0
    record = parse_json(last[0]) if last else None
    seconds = number(record.get("seconds")) if isinstance(record, dict) else 0.0
    return seconds if math.isfinite(seconds) else 0.0


def train(work: dict[str, Any], name: str) -> dict[str, Any]:
    """What goes into trained.json."""
    run, folder = work["runs"][name], Path(work["store"], name)
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder / "identity.json", run["identity"])
    store.write_json(folder / "settings.yaml", nested(run["config"]))
    command = ["train", str(folder / "settings.yaml"), *taken(work, run), f"threads={work['threads']}",
               "train.keep_checkpoints=1", "--out", str(folder)]
    resume = ["--resume"] if (folder / "config.yaml").exists() else []
    status, message, before = store.FINISHED, "", seconds_before(folder)
    result = folder / "result.json"
    if store.read_json(result).get("status") != "finished":
        result.unlink(missing_ok=True)  # so that what is there afterwards is of this attempt
        try:
            run_engine(work, folder / "train.log", *command, *resume, device=run["config"]["device"])
        except JobError as error:
            if store.read_json(result).get("stopped_by") != "guard":
                raise
            status, message = store.DIVERGED, str(error)
    figures = outcome.of_training(folder, run["config"]["model.seq"], status == store.DIVERGED)
    return {"status": status, "message": message, "metrics": figures, "seconds": before, "threads": work["threads"]}


# ---- measuring what was trained


def measure(work: dict[str, Any], path: str) -> dict[str, Any]:
    """An outcome: the training's figures, then those of the study's probe, interventions and quantised models."""
    wanted = work["outcomes"][path]
    folder = Path(work["store"], wanted["run"])
    config = work["runs"][wanted["run"]]["config"]
    found = store.read_json(folder / "trained.json")
    notes: list[str] = []
    if found["status"] == store.FINISHED:
        if "probe" in wanted["measures"]:
            found["metrics"] |= probe(work, folder, config, wanted["measures"]["probe"])
        cloze = ["--cloze"] if wanted["measures"].get("cloze") else []
        for name, keys in wanted["measures"].get("interventions", {}).items():
            try:
                found["metrics"] |= intervene(work, folder, config, name, [f"{k}={v}" for k, v in keys.items()], cloze,
                                              found["metrics"].get("val_loss", float("nan")))
            except Refused as error:  # by this kind of model: no figures, and no failure
                notes.append(f"{name}: {error}")
        for name, flags in wanted["measures"].get("quantize", {}).get("transformations", {}).items():
            try:
                found["metrics"] |= quantise(work, folder, config["device"], wanted["measures"]["quantize"], name,
                                             flags or {})
            except Refused as error:
                notes.append(f"quantize, {name}: {error}")
    return found | {"notes": notes}


def probe(work: dict[str, Any], folder: Path, config: dict[str, Any], wanted: dict[str, Any]) -> outcome.Metrics:
    measures = ["--measures", ",".join(wanted["measures"])] if "measures" in wanted else []
    said = outcome.parse(run_engine(work, folder / "measure.log", "probe", str(folder), "--json", "--profile",
                                    "--windows",
                                    str(wanted.get("windows", TRAINING_PROBE_WINDOWS)), *measures,
                                    f"threads={work['threads']}", device=config["device"]))
    return outcome.of_probe(said, config["model.seq"]) | outcome.of_measures(said.get("measures", {}))


def intervene(work: dict[str, Any], folder: Path, config: dict[str, Any], name: str, keys: list[str],
              flags: list[str], before: float) -> outcome.Metrics:
    """On the windows of the run's own validation loss and of its probes. flags: of `eval`."""
    log, keys = folder / "measure.log", [*keys, f"threads={work['threads']}"]
    loss = run_engine(work, log, "eval", str(folder), *keys, *flags, "--json",
                      "--windows", str(config["train.eval_windows"]), device=config["device"])
    seen = run_engine(work, log, "probe", str(folder), *keys, "--json", "--profile", "--windows",
                      str(TRAINING_PROBE_WINDOWS), device=config["device"])
    return outcome.of_intervention(name, outcome.parse(loss), outcome.parse(seen), config["model.seq"], before)


def quantise(work: dict[str, Any], folder: Path, device: str, wanted: dict[str, Any], name: str,
             flags: dict[str, Any]) -> outcome.Metrics:
    """All schemes of the study behind one transformation, where the run was trained."""
    options = [part for flag, value in flags.items() for part in ([f"--{flag}"] if value is True
                                                                  else [f"--{flag}", str(value)])]
    options += [part for key in ("windows", "calibration") if key in wanted for part in (f"--{key}", str(wanted[key]))]
    said = outcome.parse(run_engine(work, folder / "measure.log", "quantize", str(folder),
                                    f"threads={work['threads']}", "--scheme", ",".join(wanted["schemes"]), *options,
                                    "--json", device=device))
    found: outcome.Metrics = {}
    for row in said.get("grid", [said]):
        found |= outcome.of_quantised(f"quantize.{row['scheme']}.{name}", row)
    return found


# ---- the steps


def keep(path: Path, make: Any, *args: Any) -> None:
    """Writes what a step made, with the seconds that it and those before it took; of a failure its message."""
    start = time.monotonic()
    try:
        made = make(*args)
    except JobError as error:
        store.write_json(path, {"status": store.FAILED, "message": str(error), "metrics": {},
                                "seconds": time.monotonic() - start})
        raise
    store.write_json(path, made | {"seconds": made.get("seconds", 0.0) + time.monotonic() - start})


def report(work: dict[str, Any], name: str) -> None:
    from sinkstudy.plan import study
    from sinkstudy.report import study_report  # late: matplotlib

    row = work["studies"][name]
    data, _ = study.read_yaml(Path(row["file"]))
    out = Path(row["out"])
    study_report.report(data, store.read_json(out / "plan.json"), Path(work["store"]), out)


def overview(work: dict[str, Any]) -> None:
    from sinkstudy.report import study_report

    study_report.overview([Path(row["out"]) for row in work["studies"].values()], Path(work["overview"]))


def step(argv: Sequence[str]) -> None:
    work = store.read_json(Path(argv[0]))
    verb, *rest = argv[1:]
    if verb == "train":
        keep(Path(work["store"], rest[0], "trained.json"), train, work, rest[0])
    elif verb == "measure":
        keep(Path(work["store"], rest[0]), measure, work, rest[0])
    elif verb == "report":
        report(work, rest[0])
    else:
        overview(work)


def main(argv: Sequence[str]) -> int:
    for number_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_, on_signal)
    os.environ.setdefault("GOMP_SPINCOUNT",
                          "1000")  # runs side by side: threads that spin would take each other's cores
    try:
        step(argv)
    except Interrupted:
        return 130
    except JobError as error:
        print(f"job.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"job.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
