#!/usr/bin/env python3
"""Does bf16 change what is learned or what is measured? Trains one configuration in fp32 and in bf16 for several seeds.

    .venv/bin/python experiments/comparisons/precision/compare.py            # 3 seeds, 2,000 steps; goes on if stopped
    .venv/bin/python experiments/comparisons/precision/compare.py --quick    # seconds: shows that it works, no more

`--control isa=avx2` adds a third arm: fp32 that rounds otherwise.
The arms of a seed start from the same weights and see the same windows in the same order. Needs the packages of
experiments/requirements*.txt.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

try:
    from sinkstudy.judge.paired import differences, relative, sample
except ModuleNotFoundError as error:
    sys.exit(f"compare.py: error: needs the Python package {error.name}; run it with .venv/bin/python, which "
             "./quickstart makes")
from sinkstudy.store.runs import Record, Run, RunError, finite, number, numbers, parse_json, read_run

QUICK = ("model.layers=2", "model.dim=32", "model.heads=2", "model.ffn=64", "model.seq=64", "train.steps=40",
         "train.batch=2", "train.warmup=5", "train.eval_every=10", "train.eval_windows=8", "train.probe_every=20",
         "train.checkpoint_every=20")
# Figures of a probe that are compared. Those of the weights alone (lambda) don't depend on the arithmetic.
MEASURES = {
    "max": "max abs h", "max_no_token0": "max abs h, no token 0", "m2": "M2", "top1_permille": "top-1 per mille",
    "kurtosis_h": "kurtosis-H", "att0": "attention to token 0", "sink_rate": "sink rate",
    "attention_entropy": "attention entropy", "value_norm_ratio": "value-norm ratio",
    "token0_norm_ratio": "token-0 norm ratio", "val_loss": "validation loss"}
LAYER_MEASURES = ("max", "max_no_token0", "m2", "top1_permille", "kurtosis_h", "token0_norm_ratio", "value_norm_ratio",
                  "att0", "entropy")
BOUND = 0.02  # probes of one checkpoint shall agree so far
POOL = 2      # evaluations on either side
BLOCK = 50    # steps over which differences of training losses are averaged


# ---- running sinklab


def sinklab(options: argparse.Namespace, *args: object) -> str:
    """Standard output of a command; its own error line becomes ours."""
    try:
        done = subprocess.run([options.sinklab, *map(str, args)], capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise RunError(f"{options.sinklab}: no such program; build it (ninja -C build), or give --sinklab") from None
    except PermissionError:
        raise RunError(f"{options.sinklab}: not a program that may be run; give --sinklab") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"`sinklab {' '.join(map(str, args))}` failed: {said[-1].removeprefix('sinklab: error: ')}")
    return done.stdout


def need_bf16(options: argparse.Namespace) -> None:
    """Where there is no bf16 unit sinklab trains in fp32 whatever is asked: then both arms were the same."""
    answer = parse_json(sinklab(options, "bench", "bench-1m", "--steps", 1, "--json", "precision=bf16",
                                "train.batch=1"))
    if not isinstance(answer, dict) or answer.get("precision") != "bf16":
        tier = answer.get("tier", "?") if isinstance(answer, dict) else "?"
        raise RunError(f"this machine has no bf16 unit (kernel tier {tier}): there is nothing to compare with fp32")


def arms(options: argparse.Namespace) -> dict[str, list[str]]:
    """Names of the arms and what each sets."""
    table = {"fp32": ["precision=fp32"], "bf16": ["precision=bf16"]}
    return table | ({"control": ["precision=fp32", options.control]} if options.control else {})


def settings(options: argparse.Namespace, arm: str, seed: int) -> list[str]:
    quick = [*QUICK] if options.quick else []
    return [*quick, f"threads={options.threads}", *options.override, *arms(options)[arm], f"seed={seed}"]


def train(options: argparse.Namespace, arm: str, seed: int) -> Path:
    """Trains, goes on, or does nothing where a finished run of this configuration is there."""
    out = options.runs / f"{arm}-{seed}"
    keys = settings(options, arm, seed)
    wanted = sinklab(options, "config", options.config, "--dump", *keys)
    if out.exists():
        found = out / "config.yaml"
        if not found.is_file() or found.read_text(encoding="utf-8", errors="replace") != wanted:
            raise RunError(f"{out} is of another configuration; give another --runs, or remove it")
        result = parse_json((out / "result.json").read_text()) if (out / "result.json").is_file() else None
        if isinstance(result, dict) and result.get("status") == "finished":
            print(f"{out.name}: already trained", file=sys.stderr)
            return out
    resume = ["--resume"] if any(out.glob("checkpoints/*/DONE")) else []
    print(f"{out.name}: {'going on' if resume else 'training'}", file=sys.stderr, flush=True)
    start = time.monotonic()
    for leftover in ("config.yaml", "env.json", "metrics.jsonl", "probe.jsonl") if out.exists() and not resume else ():
        (out / leftover).unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
    sinklab(options, "train", options.config, *keys, "--out", out, *resume)
    print(f"{out.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return out


def probe(options: argparse.Namespace, run: Run, precision: str) -> Record:
    answer = parse_json(sinklab(options, "probe", run.path, "--windows", options.windows, "--json",
                                f"precision={precision}", f"threads={options.threads}"))
    if not isinstance(answer, dict):
        raise RunError(f"`sinklab probe {run.path} --json` did not print a JSON object")
    return answer


def train_all(options: argparse.Namespace) -> dict[str, list[Run]]:
    """The runs of each arm in the order of the seeds; those that are not finished are an error."""
    jobs = [(arm, seed) for seed in options.seeds for arm in arms(options)]
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            paths = list(pool.map(lambda job: train(options, *job), jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the first failure ends it, not the last run
            raise
    runs: dict[str, list[Run]] = {}
    for (arm, _), path in zip(jobs, paths):
        run = read_run(path)
        if run.result.get("status") != "finished":
            raise RunError(f"{path}: did not finish ({run.result.get('status', 'no result.json')})")
        runs.setdefault(arm, []).append(run)
    return runs


# ---- comparing


def curve(run: Run, key: str) -> dict[int, float]:
    return {int(r["step"]): number(r[key]) for r in run.metrics if key in r}


def block_means(run: Run) -> dict[int, float]:
    """Training loss, mean over blocks of BLOCK steps; by the last step of the block."""
    loss = curve(run, "loss")
    blocks: dict[int, list[float]] = {}
    for step, value in loss.items():
        blocks.setdefault(math.ceil(step / BLOCK) * BLOCK, []).append(value)
    return {min(end, max(loss)): math.fsum(v) / len(v) for end, v in blocks.items()}


def columns(curves: Sequence[dict[int, float]]) -> tuple[list[int], list[list[float]]]:
    """Steps that all curves have, and the values of each curve there."""
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    return steps, [[c[step] for step in steps] for c in curves]


def loss_curves(runs: dict[str, list[Run]], of: Any) -> dict[str, Any]:
    """Steps, the losses of each arm by seed, and sd of fp32 over seeds at each step."""
    steps, values = columns([of(run) for arm in runs.values() for run in arm])
    n = len(runs["fp32"])
    arm_values = {arm: values[i * n:(i + 1) * n] for i, arm in enumerate(runs)}
    sd = [sample([v[t] for v in arm_values["fp32"]]).sd for t in range(len(steps))]
    return {"steps": steps, **arm_values, "sd_fp32": sd, "noise": pooled(sd)}


def pooled(sd: Sequence[float]) -> list[float]:
    """Root mean square with the POOL steps on either side: the sd of three seeds alone is too rough to measure by."""
    near = [sd[max(0, t - POOL):t + POOL + 1] for t in range(len(sd))]
    return [math.sqrt(math.fsum(x * x for x in some) / len(some)) for some in near]


def paired(fp32: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    d = differences(fp32, other)
    s = sample(d)
    return {"differences": d, "mean": s.mean, "sd": s.sd, "half_width_95": s.half_width}


def mean_differences(curves: dict[str, Any], arm: str) -> list[float]:
    """arm - fp32 at each step, mean over seeds."""
    pairs = [differences(*seed) for seed in zip(curves["fp32"], curves[arm])]
    return [sample(at).mean for at in zip(*pairs)]


def within_noise(curves: dict[str, Any], arm: str) -> dict[str, Any]:
    """At how many evaluations the mean difference is no larger than fp32's deviation over seeds, and the largest
    ratio."""
    ratios = [abs(mean) / sd for mean, sd in zip(mean_differences(curves, arm), curves["noise"]) if sd > 0]
    return {"evaluations": len(ratios), "within": sum(r <= 1 for r in ratios), "largest": max(ratios, default=math.nan)}


def same_checkpoint(fp32: Record, bf16: Record) -> dict[str, Any]:
    """Relative differences of the probes of one checkpoint: of the whole model, and the worst over layers (heads)."""
    whole = {key: relative(number(fp32[key]), number(bf16[key])) for key in MEASURES
             if math.isfinite(number(fp32.get(key)))}
    layers = {}
    for key in LAYER_MEASURES:
        worst = [relative(x, y) for a, b in zip(fp32["layers"], bf16["layers"])
                 for x, y in zip(values(a.get(key)), values(b.get(key))) if math.isfinite(x)]
        if worst:
            layers[key] = max(worst)
    return {"whole": whole, "worst_layer": layers,
            "same_m2_channel": all(fp32.get(key) == bf16.get(key) for key in ("m2_layer", "m2_dim"))}


def values(x: Any) -> list[float]:
    return numbers(x) if isinstance(x, list) else [number(x)]


def separate_runs(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Final probes of separately trained models, each measured in its own arithmetic."""
    table = {}
    for key in MEASURES:
        if key == "val_loss":
            continue
        by_arm = {arm: [number(run.final_probe().get(key)) for run in arm_runs] for arm, arm_runs in runs.items()}
        if not all(math.isfinite(v) for v in by_arm["fp32"] + by_arm["bf16"]):
            continue
        s = sample(by_arm["fp32"])
        table[key] = {**by_arm, "mean_fp32": s.mean, "sd_fp32": s.sd,
                      **{f"{arm}_minus_fp32": paired(by_arm["fp32"], v) for arm, v in by_arm.items() if arm != "fp32"}}
    return table


def compare(options: argparse.Namespace, runs: dict[str, list[Run]]) -> dict[str, Any]:
    final = {arm: [number(run.result.get("val_loss")) for run in arm_runs] for arm, arm_runs in runs.items()}
    others = [arm for arm in runs if arm != "fp32"]
    validation = loss_curves(runs, lambda run: curve(run, "val_loss"))
    checkpoints = []
    for seed, run in zip(options.seeds, runs["fp32"]):
        both = {p: probe(options, run, p) for p in ("fp32", "bf16")}
        checkpoints.append({"seed": seed, **same_checkpoint(both["fp32"], both["bf16"]),
                            **{p: {k: v[k] for k in MEASURES if k in v} for p, v in both.items()}})
    envs = [parse_json((run.path / "env.json").read_text()) for arm in runs.values() for run in arm]
    return {
        "machine": envs[0], "tiers": sorted({str(e.get("tier")) for e in envs}), "config": runs["fp32"][0].config,
        "arms": arms(options), "seeds": options.seeds, "params": runs["fp32"][0].result.get("params"),
        "final_val_loss": {**final, "sd_fp32": sample(final["fp32"]).sd,
                           **{f"{arm}_minus_fp32": paired(final["fp32"], final[arm]) for arm in others}},
        "within_seed_noise": {arm: within_noise(validation, arm) for arm in others},
        "val_loss": validation, "train_loss": loss_curves(runs, block_means),
        "same_checkpoint": checkpoints, "separate_runs": separate_runs(runs)}


# ---- telling


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = "| {} |".format
    return "\n".join([line(" | ".join(header)), line(" | ".join("---" for _ in header)),
                      *(line(" | ".join(row)) for row in rows)])


def interval(p: dict[str, Any], digits: int = 4) -> str:
    half = f" \N{PLUS-MINUS SIGN} {p['half_width_95']:.{digits}f}" if math.isfinite(p["half_width_95"]) else ""
    return f"{p['mean']:+.{digits}f}{half}"


def percent(x: float) -> str:
    return f"{100 * x:{'.2g' if abs(x) < 0.995 else '.0f'}} %" if math.isfinite(x) else "\N{EN DASH}"


def loss_text(found: dict[str, Any]) -> str:
    final = found["final_val_loss"]
    others = [arm for arm in found["arms"] if arm != "fp32"]
    rows = [[str(seed), f"{final['fp32'][i]:.4f}",
             *(cell for arm in others for cell in
               (f"{final[arm][i]:.4f}", f"{final[f'{arm}_minus_fp32']['differences'][i]:+.4f}"))]
            for i, seed in enumerate(found["seeds"])]
    out = [table(["seed", "fp32", *(h for arm in others for h in (arm, "difference"))], rows), ""]
    out.append(f"Standard deviation of fp32 over seeds: {final['sd_fp32']:.4f} nats.")
    for arm in others:
        noise = found["within_seed_noise"][arm]
        out.append(f"{arm} - fp32, mean and 95 % t interval: {interval(final[f'{arm}_minus_fp32'])} nats; over "
                   f"training the mean is within the deviation of fp32 over seeds (pooled over {2 * POOL + 1} "
                   f"evaluations) at {noise['within']} of {noise['evaluations']} evaluations (largest: "
                   f"{noise['largest']:.2f} of it).")
    return "\n".join(out)


def probe_text(found: dict[str, Any]) -> str:
    rows = []
    for key, label in MEASURES.items():
        same = [c["whole"][key] for c in found["same_checkpoint"] if key in c["whole"]]
        apart = found["separate_runs"].get(key)
        if same and apart:
            d, mean = apart["bf16_minus_fp32"], abs(apart["mean_fp32"])
            shares = [x / mean if mean else math.nan for x in (d["mean"], d["half_width_95"], apart["sd_fp32"])]
            rows.append([label, f"{apart['mean_fp32']:.4g}", percent(max(same)), *map(percent, shares)])
        elif same:
            rows.append([label, f"{found['same_checkpoint'][0]['fp32'][key]:.4g}", percent(max(same)), "", "", ""])
    worst = max(x for c in found["same_checkpoint"] for x in c["whole"].values())
    layer, key = max((x, key) for c in found["same_checkpoint"] for key, x in c["worst_layer"].items())
    channels = sum(c["same_m2_channel"] for c in found["same_checkpoint"])
    head = ["probe", "fp32", "same checkpoint, worst", "trained apart: mean difference", "\N{PLUS-MINUS SIGN} 95 %",
            "sd of fp32 over seeds"]
    return "\n".join([
        table(head, rows), "",
        f"One checkpoint probed in both: the figures of the model agree within {percent(worst)} "
        f"({'within' if worst <= BOUND else 'NOT within'} the bound of {percent(BOUND)}), those of single layers and "
        f"heads within {percent(layer)} ({key}); layer and channel of M2 are the same in {channels} of "
        f"{len(found['same_checkpoint'])}."])


def picture(found: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    from sinkstudy.report import figures

    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4.1), layout="constrained")
        curves_panel(axes[0], found, figures)
        difference_panel(axes[1], found, figures)
        seeds = len(found["seeds"])
        figure.supxlabel(
            f"Left: validation loss of {seeds} seeds. Right: paired difference to fp32, same seed and windows; lines: "
            f"training loss, mean of {BLOCK} steps;\nmarkers: validation loss, mean over seeds; grey: "
            f"\N{PLUS-MINUS SIGN} standard deviation of fp32's validation loss over seeds, pooled over {2 * POOL + 1} "
            "evaluations.",
            fontsize=8.5, x=0.01, ha="left", color="#444444")
        figure.savefig(path, format="png", dpi=150, metadata={"Software": None})
        plt.close(figure)


def curves_panel(axes: Any, found: dict[str, Any], figures: Any) -> None:
    val = found["val_loss"]
    axes.set_title("Validation loss")
    for i, arm in enumerate(found["arms"]):
        for seed, losses in enumerate(val[arm]):
            axes.plot(val["steps"], losses, color=figures.colour(i), linestyle=figures.LINES[i % 4], linewidth=1.2,
                      label=None if seed else arm)
    axes.set_ylabel("nats per token")
    axes.set_yscale("log")
    figures.plain(axes.yaxis)
    figures.steps_axis(axes)
    axes.legend()


def difference_panel(axes: Any, found: dict[str, Any], figures: Any) -> None:
    val, training = found["val_loss"], found["train_loss"]
    axes.set_title("Difference to fp32")
    if all(math.isfinite(x) for x in val["noise"]):
        axes.fill_between(val["steps"], [-x for x in val["noise"]], val["noise"], color="#bbbbbb", alpha=0.5,
                          linewidth=0)
    axes.axhline(0, color="#555555", linewidth=0.8)
    for i, arm in enumerate(found["arms"]):
        if arm == "fp32":
            continue
        for seed in range(len(found["seeds"])):
            axes.plot(training["steps"], differences(training["fp32"][seed], training[arm][seed]),
                      color=figures.colour(i), alpha=0.45, linewidth=0.9)
        means = mean_differences(val, arm)
        axes.plot(val["steps"], means, linestyle="", color=figures.colour(i), marker=figures.MARKERS[i], markersize=4,
                  label=arm)
    axes.set_ylabel("nats per token")
    figures.steps_axis(axes)
    axes.legend()


# ---- command line


def seed_list(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare.py", description="fp32 and bf16 trained alike: losses and probes "
                                                                    "compared.")
    parser.add_argument("override", nargs="*", metavar="key=value", help="for all runs, e.g. train.batch=4")
    parser.add_argument("--sinklab", default="build/src/sinklab", help="the program (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml", help="default: the study's own")
    parser.add_argument("--runs", type=Path, help="folder of the runs; finished ones are not trained again "
                        "(default: runs/precision, runs/precision-quick)")
    parser.add_argument("--results", type=Path,
                        help="folder for results.json and difference.png (default: that of the runs)")
    parser.add_argument("--seeds", type=seed_list, default=[1, 2, 3], metavar="N,N", help="default: 1,2,3")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=64, help="windows of a probe (default: %(default)s)")
    parser.add_argument("--control", metavar="key=value",
                        help="a third arm: fp32 with this, e.g. isa=avx2, which rounds otherwise")
    parser.add_argument("--quick", action="store_true", help="a small model and 40 steps: a try, not a result")
    options = parser.parse_intermixed_args(argv)
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("--seeds: different ones")
    if options.jobs < 1:
        parser.error("--jobs: at least 1")
    if any("=" not in key for key in [*options.override, options.control or "="]):
        parser.error("settings are written key=value")
    options.runs = options.runs or Path("runs/precision-quick" if options.quick else "runs/precision")
    options.results = options.results or options.runs
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        need_bf16(options)
        options.runs.mkdir(parents=True, exist_ok=True)
        options.results.mkdir(parents=True, exist_ok=True)
        found = compare(options, train_all(options))
        path = options.results / "results.json"
        path.write_text(json.dumps(finite(found), indent=1) + "\n", encoding="utf-8")
        print(loss_text(found), probe_text(found), sep="\n\n")
        print(f"\nresults: {path}")
        picture(found, options.results / "difference.png")
        print(f"picture: {options.results / 'difference.png'}")
    except RunError as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"compare.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
