#!/usr/bin/env python3
"""The study of models that others trained: edits of a finished model, judged over blocks of text.

    .venv/bin/python experiments/studies/pretrained/run.py                    # SmolLM2-135M; profile quick
    .venv/bin/python experiments/studies/pretrained/run.py MODEL.gguf FOLDER  # these instead

Nothing is trained: an arm of claims.yaml is what `sinklab eval`, `quantize` and `probe` say of the model with some keys
set, a block some windows of the text, and claims compare arms block by block as other studies do seed by seed. What a
command said is kept by a hash of it, the program, the model and the text; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sinkstudy.judge import claims
from sinkstudy.places import ROOT
from sinkstudy.plan import expand, study
from sinkstudy.plan.expand import Engine, EngineError, text
from sinkstudy.plan.study import StudyError
from sinkstudy.report import study_report
from sinkstudy.store import outcome, store
from sinkstudy.store.runs import Record, is_records, number, numbers

HERE = Path(__file__).resolve().parent
PREFIX = "pretrained"
SHIPPED = ROOT / "data" / "models" / "smollm2-135m.gguf"
CORPUS = "treasury"
BATCH = 4  # windows at a time: logits of a large vocabulary take most of the memory


class Model:
    """A model under the commands of this study, with what they have said."""

    def __init__(self, engine: Engine, path: Path, corpus: str, folder: Path, windows: int) -> None:
        self.engine, self.path, self.corpus, self.folder, self.windows = engine, path, corpus, folder, windows
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        parts = [store.sha256_file(file) for file in [*files, *store.corpus_files(corpus)] if file.is_file()]
        self.identity = [engine.hash, *parts]

    def says(self, verb: str, *args: object) -> Record:
        """The JSON of a verb on the model, with the seconds that it took."""
        words = [verb, str(self.path), *map(text, args), f"data.corpus={self.corpus}", "threads=1", "--json"]
        path = self.folder / "said" / f"{store.digest([*self.identity, *words[2:], verb])}.json"
        found = store.read_json(path)
        if not found:
            start = time.monotonic()
            found = outcome.parse(self.engine(*words)) | {"seconds": time.monotonic() - start}
            store.write_json(path, found)
        return found

    def probe(self, keys: Sequence[str], block: int) -> Record:
        return self.says("probe", *keys, "--profile", "--windows", self.windows, "--skip", block * self.windows)

    def losses(self, arm: Mapping[str, Any], keys: Sequence[str], blocks: int) -> tuple[list[float], float]:
        """Mean loss of each block, and the seconds that they took."""
        verb = ["quantize", *arm["quantize"]] if "quantize" in arm else ["eval", f"train.batch={BATCH}"]
        said = self.says(*verb, *keys, "--each-window", "--windows", blocks * self.windows, "--skip", 0)
        of_windows = numbers(said.get("window_loss"))
        if len(of_windows) < blocks * self.windows:
            raise StudyError(f"{self.corpus}: {len(of_windows)} windows of text; {blocks} blocks of {self.windows} are "
                             "wanted, give a longer --corpus")
        return [statistics.fmean(of_windows[b * self.windows:(b + 1) * self.windows]) for b in range(blocks)], \
            said["seconds"]


# ---- figures of a block


def sink_channels(probe: Record) -> set[int]:
    """Channels at least outcome.SINK times the median one, at the layer of M2."""
    layer = probe["layers"][int(probe["m2_layer"])]
    mean = numbers(layer["channel_mean_abs"])
    limit = outcome.SINK * statistics.median(mean)
    return {channel for channel, x in enumerate(mean) if x >= limit}


def relative_weight(probe: Record) -> float:
    """Median over the block norms of |weight| at the channel of M2 over the norm's median |weight|."""
    channel, found = int(number(probe["m2_dim"])), []
    for layer in probe["layers"] if is_records(probe["layers"]) else ():
        for part in ("attn", "ffn"):
            weights = [abs(w) for w in numbers(layer.get(f"norm_weight_{part}"))]
            if weights and statistics.median(weights) > 0:
                found.append(weights[channel] / statistics.median(weights))
    return statistics.median(found) if found else math.nan


def of_probe(probe: Record, seq: int, reference: set[int] | None) -> outcome.Metrics:
    channels = sink_channels(probe)
    shared = math.nan if reference is None else len(channels & reference) / max(1, len(channels | reference))
    return outcome.of_probe(probe, seq) | outcome.finite(
        [("sink_channels_shared", shared), ("lambda_sink_relative", relative_weight(probe))])


# ---- arms


def machine(engine: Engine) -> dict[str, str]:
    """What the page tells of it, as a run's env.json does."""
    said = json.loads(engine("doctor", "--json"))
    return {"cpu": said["cpu"], "tier": said["tier"], "precision": "auto", "version": engine("--version").split()[-1]}


def keys_of(arm: Mapping[str, Any], largest: float) -> list[str]:
    clip = [f"model.clip={arm['clip'] * largest:.6g}"] if "clip" in arm else []
    return [f"{key}={text(value)}" for key, value in arm.get("set", {}).items()] + clip


def measure_arm(model: Model, arm: Mapping[str, Any], keys: Sequence[str],
                blocks: int) -> tuple[list[outcome.Metrics], float]:
    """Figures of each block, and seconds. Channels are compared with those of the first block."""
    losses, seconds = model.losses(arm, keys, blocks)
    found: list[outcome.Metrics] = [{"val_loss": loss} for loss in losses]
    reference = None
    for block in range(blocks) if arm.get("probe") else ():
        probe = model.probe(keys, block)
        seconds += probe["seconds"]
        seq = round(number(probe["tokens"]) / number(probe["windows"]))
        found[block] |= of_probe(probe, seq, reference)
        reference = reference or sink_channels(probe)
    return found, seconds


def measure(model: Model, data: Mapping[str, Any], profile: Mapping[str, Any], cores: int) -> list[dict[str, Any]]:
    """The plan's rows, with an outcome of each block written. Arms go side by side, those that need base's first."""
    blocks, env = profile["blocks"], machine(model.engine)
    base, seconds = measure_arm(model, data["arms"]["base"], [], blocks)
    largest = max(block["max"] for block in base)
    keys = {name: keys_of(arm, largest) for name, arm in data["arms"].items()}

    def one(name: str) -> tuple[list[outcome.Metrics], float]:
        return (base, seconds) if name == "base" else measure_arm(model, data["arms"][name], keys[name], blocks)

    figures = {}
    with ThreadPoolExecutor(cores) as pool:
        for name, made in zip(keys, pool.map(one, keys)):
            figures[name] = made
            print(f"  {name}: loss {statistics.fmean(block['val_loss'] for block in made[0]):.4f}", flush=True)
    rows = []
    for name, arm in data["arms"].items():
        store.write_json(model.folder / name / "env.json", env)
        for block, metrics in enumerate(figures[name][0], start=1):
            path = Path(name) / f"block-{block}.json"
            store.write_json(model.folder / path, {"status": store.FINISHED, "metrics": metrics, "threads": 1,
                                                   "seconds": figures[name][1] / blocks})
            settings = dict(key.split("=", 1) for key in keys[name])
            if "quantize" in arm:
                settings["quantize"] = " ".join(map(text, arm["quantize"]))
            rows.append({"arm": name, "seed": block, "hash": name, "outcome": str(path), "settings": settings})
    return rows


# ---- command line


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PREFIX, description="Edits of models that others trained, judged over blocks "
                                     "of text. Exit codes: 0 done, 1 something failed, 2 wrong usage.")
    parser.add_argument("model", nargs="*", type=Path, help="GGUF files, Hugging Face folders (default: "
                        "data/models/smollm2-135m.gguf, which data/fetch_model.py fetches)")
    parser.add_argument("--profile", default="quick", metavar="P", help="quick or standard (default: %(default)s)")
    parser.add_argument("--corpus", default=CORPUS, metavar="C", help="text (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="arms side by side (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "pretrained", metavar="DIR",
                        help="DIR/MODEL/PROFILE gets the page (default: runs/pretrained)")
    parser.add_argument("--sinklab", type=Path, default=ROOT / "build" / "src" / "sinklab", metavar="PROGRAM",
                        help="default: build/src/sinklab")
    return parser.parse_args(argv)


def run(options: argparse.Namespace, models: Sequence[Path]) -> None:
    path = HERE / "claims.yaml"
    data, _ = study.read_yaml(path)
    if options.profile not in data["profiles"]:
        raise StudyError(f"--profile {options.profile}: there are {', '.join(data['profiles'])}")
    profile = data["profiles"][options.profile]
    engine = expand.engine(options.sinklab)
    for one in models:
        if not one.exists():
            raise StudyError(f"{one}: no such model; ./data/fetch_model.py smollm2-135m fetches that one")
        out = options.out / one.stem / options.profile
        print(f"{one.stem}, {profile['blocks']} blocks of {profile['windows']} windows", flush=True)
        rows = measure(Model(engine, one, options.corpus, out, profile["windows"]), data, profile,
                       max(1, options.cores))
        plan = {"study": PREFIX, "profile": options.profile, "file": f"{PREFIX}/{path.name}",
                "sha256": store.sha256_file(path), "of_blocks": True, "runs": rows}
        record = study_report.report(data | {"title": f"{data['title']}: {one.stem}"}, plan, out, out)
        print("\n".join(f"  {line}" for line in study_report.verdict_lines(record)))
        print(f"{out / 'report.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    models = [path.resolve() for path in options.model or [SHIPPED]]
    options.out, options.sinklab = options.out.resolve(), options.sinklab.resolve()
    os.chdir(ROOT)
    try:
        run(options, models)
    except (StudyError, claims.ClaimError) as error:
        print(f"{PREFIX}: error: {error}", file=sys.stderr)
        return 2
    except EngineError as error:
        print(f"{PREFIX}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{PREFIX}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
