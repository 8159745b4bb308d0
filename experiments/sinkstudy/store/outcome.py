"""The figures of a run as one flat dict, name -> number, from the files of `sinklab train` and the JSON of its verbs.

judge/metrics.py has what each name means. What is missing or not a number is left out. Python's own library only.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sinkstudy.store import store
from sinkstudy.store.runs import Record, is_records, number, numbers, parse_json

FROM_RESULT = ("val_loss", "val_loss_trigger", "val_loss_other", "bits_per_byte", "params", "baseline_params", "ffn",
               "tokens",
               "tokens_per_s", "seconds")
OF_DIVERGED = ("params", "baseline_params", "ffn")
NOT_FIGURES = ("step", "tokens", "windows", "val_loss")  # of a probe's object
PLACES = ("m2_layer", "m2_dim")                          # numbers that have no largest
SINK = 5  # M2 from which we call it a residual sink
SPIKE, BEFORE = 7, 100

Metrics = dict[str, float]


def finite(pairs: Iterable[tuple[str, float]]) -> Metrics:
    return {name: value for name, value in pairs if math.isfinite(value)}


def read_lines(path: Path, key: str) -> list[Record]:
    """The objects of a .jsonl that have a number under key, in order; none without the file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    records = [parse_json(line) for line in text.splitlines()]
    return [r for r in records if isinstance(r, dict) and math.isfinite(number(r.get(key)))]


def of_training(folder: Path, seq: int, diverged: bool) -> Metrics:
    """All that a training run says of itself."""
    result, probes = store.read_json(folder / "result.json"), read_lines(folder / "probe.jsonl", "step")
    losses = [number(r["loss"]) for r in read_lines(folder / "metrics.jsonl", "loss")]
    names = OF_DIVERGED if diverged else FROM_RESULT
    found = finite((name, number(result.get(name))) for name in names) | {"diverged": float(diverged)} | of_steps(
        probes) | finite([("spikes", spikes(losses))])
    if not diverged:
        final = result.get("probe")
        found |= of_probe(final if isinstance(final, dict) else {}, seq)
        found |= of_probe(probes[-1], seq) if probes and "layers" in probes[-1] else {}
    return found


def spikes(losses: list[float]) -> float:
    """Per mille of the steps whose loss stands more than SPIKE standard deviations above the mean of the BEFORE steps
    before, as the spike score of arXiv 2501.00656, which has 1,000 steps before and counts falls too; NaN of a run
    that is no longer than those."""
    high = sum(losses[at] - statistics.fmean(last := losses[at - BEFORE:at]) > SPIKE * statistics.pstdev(last)
               for at in range(BEFORE, len(losses)))
    return 1000 * high / (len(losses) - BEFORE) if len(losses) > BEFORE else math.nan


def of_steps(probes: list[Record]) -> Metrics:
    """Peaks over training, and where the residual sink sets in."""
    names = dict.fromkeys(name for probe in probes for name, value in probe.items()
                          if isinstance(value, (int, float)) and name not in (*NOT_FIGURES, *PLACES))
    found: Metrics = {}
    for name in names:
        values = [value for probe in probes if math.isfinite(value := number(probe.get(name)))]
        found |= {f"peak.{name}": max(values)} if values else {}
    return found | finite([("onset.m2", onset(probes))])


def onset(probes: list[Record]) -> float:
    """First probed step from which on M2 stays at SINK or more; NaN if it ends below. A model's first steps may pass
    it for a moment."""
    lasting = itertools.takewhile(lambda probe: number(probe.get("m2")) >= SINK, reversed(probes))
    return next((number(probe["step"]) for probe in reversed(list(lasting))), math.nan)


def of_probe(probe: Record, seq: int) -> Metrics:
    """The scalars of a probe, and what follows from them."""
    found = finite((name, number(value)) for name, value in probe.items() if name not in NOT_FIGURES)
    if "att0" in found and seq > 1:
        uniform = math.fsum(1 / (q + 1) for q in range(1, seq)) / (seq - 1)
        found["att0_over_uniform"] = found["att0"] / uniform
    return found | finite([*of_lambdas(probe).items(), *of_places(probe).items(),
                           ("median_channel", median_channel(probe)), ("top1_over_uniform", top1_over_uniform(probe))])


def of_places(probe: Record) -> Metrics:
    """Figures by where the stream is read: the probe's own is the largest of these, and behind the last block stands
    only the final norm, which most variants leave as it is. Of mid-block the probe tells them itself."""
    layers = probe.get("layers")
    found: Metrics = {}
    for name in ("max", "m2", "kurtosis_h"):
        values = [number(layer.get(name)) for layer in layers] if is_records(layers) else []
        if len(values) < 2:
            continue
        found |= {f"{name}_embeddings": values[0], f"{name}_last": values[-1]}
        found |= {f"{name}_blocks": max(values[1:-1])} if len(values) > 2 else {}
    return found


def top1_over_uniform(probe: Record) -> float:
    """top1_permille over the share of its channels, which are ceil(dim/1000); NaN without profiles."""
    layers = probe.get("layers")
    dim = len(numbers(layers[0].get("channel_mean_abs"))) if is_records(layers) and layers else 0
    return number(probe.get("top1_permille")) * dim / (1000 * math.ceil(dim / 1000)) if dim else math.nan


def of_lambdas(probe: Record) -> Metrics:
    """Smallest |weight| of the block norms at the channel of M2, and the mean of the same at each other channel; empty
    without profiles."""
    channel, layers = number(probe.get("m2_dim")), probe.get("layers")
    if not math.isfinite(channel) or not is_records(layers):
        return {}
    rows = [numbers(layer.get(f"norm_weight_{part}")) for layer in layers for part in ("attn", "ffn")]
    least = [min((abs(w) for w in weights if math.isfinite(w)), default=math.nan)
             for weights in zip(*filter(None, rows))]
    if not 0 <= int(channel) < len(least):
        return {}
    sink = least.pop(int(channel))
    return {"lambda_sink": sink} | ({"lambda_other": math.fsum(least) / len(least)} if least else {})


def median_channel(probe: Record) -> float:
    """mean |h| of the median channel at the layer of M2; NaN without profiles."""
    at, layers = number(probe.get("m2_layer")), probe.get("layers")
    if not math.isfinite(at) or not is_records(layers) or not 0 <= int(at) < len(layers):
        return math.nan
    means = numbers(layers[int(at)].get("channel_mean_abs"))
    return statistics.median(means) if means and all(map(math.isfinite, means)) else math.nan


# ---- `sinklab probe --measures`


def leaves(measure: str, layer: Record) -> Iterator[tuple[str, float]]:
    """Names and numbers of one layer's object of a measure: as it is nested, but for parts that belong together."""
    if measure in OWN_LEAVES:
        yield from OWN_LEAVES[measure](layer)
        return
    for name, value in layer.items():
        if name in ("layer", "token"):
            continue
        if measure == "dynamics":  # a list with an object a sink dimension
            for row in value if is_records(value) else ():
                yield from ((f"{measure}.{key}", number(x)) for key, x in row.items() if key not in ("dim",))
        elif isinstance(value, list):  # of heads
            yield from ((f"{measure}.{name}", x) for x in numbers(value))
        elif isinstance(value, dict):
            yield from ((joined(measure, name, key), number(x)) for key, x in value.items() if key != "channel")
        else:
            yield f"{measure}.{name}", number(value)


def of_recurrence(layer: Record) -> Iterator[tuple[str, float]]:
    """Shares of tokens apart by whether the layer is attention; figures of heads, gate and norm."""
    kind = "attention" if layer.get("mixer") == "softmax" else "state"
    share, heads = layer.get("share"), layer.get("head")
    tokens = list(numbers(share)) if isinstance(share, list) else []
    if tokens:
        yield f"recurrence.{kind}.share0", tokens[0]
        yield f"recurrence.{kind}.share_next", math.fsum(tokens[1:]) / len(tokens[1:])
    for head in heads if is_records(heads) else ():
        yield from ((f"recurrence.{key}", number(x)) for key, x in head.items())
    for part in ("gate", "norm_in", "alignment"):
        found = layer.get(part)
        for key, x in found.items() if isinstance(found, dict) else ():
            if key != "m2_dim":
                yield f"recurrence.{part}.{key}", float(x) if isinstance(x, bool) else number(x)


def of_depth(layer: Record) -> Iterator[tuple[str, float]]:
    """Of each half's mixture: the stream that it makes, its newest source, and the ends of its weights; and what the
    softmax1 of attention leaves unused."""
    unused = layer.get("null_evidence")
    for key, x in unused.items() if isinstance(unused, dict) else ():
        yield f"depth.null_evidence.{key}", number(x)
    for part in ("attn", "ffn"):
        mixture = layer.get(part)
        if not isinstance(mixture, dict) or len(weight := numbers(mixture.get("weight"))) < 2:
            continue
        yield from ((f"depth.{stream}.{key}", number(x)) for stream in ("in", "last")
                    for key, x in mixture.get(stream, {}).items() if key in ("max", "m2", "kurtosis_h"))
        yield from ((f"depth.{key}", number(mixture.get(key)))
                    for key in ("entropy", "top1", "null", "constant_share"))
        yield from (("depth.weight_embedding", weight[0]), ("depth.weight_newest", weight[-1]))


OWN_LEAVES = {"recurrence": of_recurrence, "depth": of_depth}


def joined(measure: str, part: str, key: str) -> str:
    if measure == "norms":
        return f"norms.{part}_{key}"
    return f"gates.{key}" if measure == "gates" else f"{measure}.{part}.{key}"


def of_measures(measures: Mapping[str, Any]) -> Metrics:
    """Means over layers (and heads, sink dimensions, the two norms), and the largest as NAME.max."""
    values: dict[str, list[float]] = {}
    for measure, layers in measures.items():
        for layer in layers if is_records(layers) else ():
            for name, x in leaves(measure, layer):
                if math.isfinite(x):
                    values.setdefault(name, []).append(x)
    found: Metrics = {}
    for name, row in values.items():
        found |= {name: math.fsum(row) / len(row), f"{name}.max": max(row)}
    return found


def of_intervention(name: str, loss: Record, probe: Record, seq: int, before: float) -> Metrics:
    """Of `sinklab eval` and `probe` on a changed model; before: the loss of the unchanged one on the same windows."""
    after = number(loss.get("loss"))
    second, first = number(loss.get("loss_trigger")), number(loss.get("loss_other"))  # of synthetic tasks
    rows = [("val_loss", after), ("loss_change", after - before), ("bits_per_byte", number(loss.get("bits_per_byte"))),
            ("val_loss_trigger", second), ("val_loss_other", first), ("in_context", first - second),
            ("accuracy", number(loss.get("accuracy"))), ("cloze", number(loss.get("cloze")))]
    return finite((f"{name}.{key}", value) for key, value in [*rows, *of_probe(probe, seq).items()])


def of_quantised(name: str, said: Record) -> Metrics:
    """Of `sinklab quantize` with one scheme: loss and its change from fp32, errors of the worst layer by class of
    tensor."""
    loss, bits = said.get("loss", {}), said.get("bits_per_byte", {})
    rows = [("val_loss", number(loss.get("value"))), ("loss_change", number(loss.get("change"))),
            ("bits_per_byte", number(bits.get("value"))),
            ("error_weights", number(said.get("weights", {}).get("relative")))]
    errors = said.get("errors")
    worst: dict[str, float] = {}
    for row in errors if is_records(errors) else ():
        tensor, error = f"error_{row.get('tensor')}", number(row.get("relative"))
        if math.isfinite(error):
            worst[tensor] = max(worst.get(tensor, 0.0), error)
    return finite((f"{name}.{key}", value) for key, value in [*rows, *worst.items()])


def parse(text: str) -> Record:
    """What a verb printed with --json."""
    value = json.loads(text)
    return value if isinstance(value, dict) else {}
