"""Made-up studies for tests: a plan and a store with run directories as training, probe and interventions leave
them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_report import write_run

Study = dict[str, Any]
MACHINE = {"cpu": "A CPU", "tier": "avx2", "precision": "fp32", "threads": 2, "version": "0.1.0", "git": "abc1234",
           "compiler": "gcc 12"}

STUDY: Study = {
    "title": "GatedNorm and the residual sink", "question": "Does a gate behind the norm weaken the residual sink?",
    "source": "arXiv 2601.22966", "base": {"model.layers": 6, "data.corpus": "treasury"},
    "arms": {
        "baseline": {}, "gated_norm": {"model.norm": "gated_norm"},
        "dyt": {"set": {"model.norm": "dyt"}, "sweep": {"train.lr": ["5e-4", "1e-3"]}},
        "clip": {"set": {"model.clip": 1}}},
    "interventions": {"zero": {"model.sink_nullify": 1, "model.sink_nullify_mode": "both"}},
    "quantize": {"schemes": ["mxfp4"], "transformations": {"plain": {}, "smooth": {"smooth": 0.5}}},
    "gates": {"residual_sink": {"arm": "baseline", "all": [{"metric": "m2", "at_least": 5}]},
              "attention_sink": {"arm": "baseline", "any": [{"metric": "sink_rate", "above": 0.5},
                                                            {"metric": "att0_over_uniform", "at_least": 3}]}},
    "claims": [
        {"id": "gated_norm_m2", "text": "GatedNorm weakens the residual sink", "source": "arXiv 2601.22966, Table 1",
         "metric": "m2", "arms": ["baseline", "gated_norm"], "scale": "ratio", "expect": "lower", "margin": 0.2,
         "gate": ["residual_sink"]},
        {"id": "gated_norm_loss", "text": "GatedNorm costs no loss", "metric": "val_loss",
         "arms": ["baseline", "gated_norm"],
         "scale": "difference", "expect": "same", "margin": 0.02},
        {"id": "gated_norm_att0", "text": "GatedNorm leaves the attention sink", "metric": "att0",
         "arms": ["baseline", "gated_norm"], "scale": "ratio", "expect": "same", "margin": 0.2,
         "gate": ["attention_sink"]},
        {"id": "dyt_loss", "text": "DyT trains worse", "metric": "val_loss", "arms": ["baseline", "dyt"],
         "scale": "difference", "expect": "higher", "margin": 0.02},
        {"id": "dyt_max", "text": "DyT has larger activations", "metric": "max", "arms": ["baseline", "dyt"],
         "scale": "ratio", "expect": "higher", "margin": 0.5},
        {"id": "clip_diverges", "text": "Clipping makes training diverge", "metric": "diverged",
         "arms": ["baseline", "clip"],
         "scale": "difference", "expect": "higher", "margin": 0.5},
        {"id": "clip_loss", "text": "Clipping costs loss", "metric": "val_loss", "arms": ["baseline", "clip"],
         "scale": "difference", "expect": "higher", "margin": 0.01},
        {"id": "sink_carries", "text": "Without its sink channel GatedNorm loses less", "metric": "zero.loss_change",
         "arms": ["baseline", "gated_norm"], "scale": "difference", "expect": "lower", "margin": 0.05}]}

# Of each arm: mean M2, validation loss, its spread over seeds, loss change without the sink channel.
ARMS = {"baseline": (8.6, 1.45, 0.006, 0.31), "gated_norm": (4.9, 1.44, 0.006, 0.04), "dyt": (2.1, 1.70, 0.01, 0.01)}


def figures(arm: str, seed: int, point: dict[str, Any]) -> dict[str, float]:
    """Metrics of a finished run; what the seed does to all arms alike is most of it."""
    m2, loss, spread, change = ARMS[arm]
    common, own = random.Random(seed), random.Random(f"{arm} {seed} {point}")
    m2 *= 1 + 0.08 * common.gauss(0, 1) + 0.03 * own.gauss(0, 1)
    loss += 0.02 * common.gauss(0, 1) + spread * own.gauss(0, 1) + (0.08 if point.get("train.lr") == "5e-4" else 0)
    return {"val_loss": loss, "bits_per_byte": loss * 1.443, "params": 1271680 + (50000 if arm == "gated_norm" else 0),
            "tokens": 1792000, "tokens_per_s": 14000, "seconds": 120, "diverged": 0,
            "m2": m2, "max": 45 * m2, "lambda_min": 0.8 / m2**3, "peak.m2": 1.1 * m2,
            "att0": 0.02 + 0.002 * own.gauss(0, 1), "att0_over_uniform": 0.9, "sink_rate": 0,
            "quantize.mxfp4.plain.loss_change": 0.4321, "quantize.mxfp4.plain.error_down_in": 0.1234,
            "zero.val_loss": loss + change, "zero.loss_change": change + 0.02 * own.gauss(0, 1)}


def outcome(arm: str, seed: int, point: dict[str, Any]) -> dict[str, Any]:
    if arm == "clip":
        return {"status": "diverged", "message": "loss is not finite at step 212", "seconds": 20,
                "metrics": {"diverged": 1, "params": 1271680, "peak.m2": 30.0}}
    return {"status": "finished", "message": "", "seconds": 130, "metrics": figures(arm, seed, point)}


def make(root: Path, study: Study = STUDY, seeds: int = 5, of: Callable[..., dict[str, Any] | None] = outcome,
         runs: bool = False, arms: list[str] | None = None) -> tuple[dict[str, Any], Path]:
    """Plan and store; `of` gives the outcome of a run, None: not run yet. runs: with curves and profiles."""
    planned = []
    for arm in arms or study["arms"]:
        spec = study["arms"].get(arm, {}) if arms is None else {}
        sweep = [{"train.lr": lr} for lr in spec.get("sweep", {}).get("train.lr", [])] or [{}]
        for point in sweep:
            for seed in range(1, seeds + 1):
                name = "-".join([arm, *map(str, point.values()), str(seed)])
                settings = study.get("base", {}) | spec.get("set", spec if "sweep" not in spec
                                                            else {}) | point | {"seed": seed}
                planned.append({"arm": arm, "seed": seed, "point": point, "hash": name, "settings": settings})
                found = of(arm, seed, point)
                if found is not None:
                    write_outcome(root / "store" / name, found, runs)
    plan = {"study": "made_up", "file": "experiments/made_up/study.yaml", "sha256": "12ab", "profile": "quick",
            "runs": planned}
    return plan, root / "store"


def write_outcome(folder: Path, found: dict[str, Any], run: bool) -> None:
    if run:
        sink = found["metrics"].get("m2", 10.0)
        write_run(folder, sink=sink, steps=200, finished=found["status"] == "finished")
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("env.json").write_text(json.dumps(MACHINE))
    folder.joinpath("outcome.json").write_text(json.dumps(found))
