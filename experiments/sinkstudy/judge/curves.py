"""Effect against scale: what a change of the model does to its sinks at each size that was run, and how often the
small ablation names the sign and the order that a larger one has. Of committed runs; committed.py writes scale.md.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scipy import stats

from sinkstudy.judge import metrics, paired
from sinkstudy.judge.ledger import table
from sinkstudy.report.study_report import DASH, effect_text, interval_text
from sinkstudy.report.study_results import Results, number_of

Runs = Mapping[str, Results]  # of STUDY/PROFILE
Contrast = tuple[str, str]    # the second arm against the first
Point = Mapping[str, Any]     # of a sweep


@dataclass(frozen=True)
class Measure:
    name: str
    label: str
    ratio: bool = True  # effects are second / first, else second - first in the metric's unit

    def text(self, effect: Effect | None) -> str:
        """× 0.5 [0.4, 0.6]; the interval is missing of one pair."""
        if effect is None:
            return DASH
        v, of = {"scale": "ratio" if self.ratio else "difference"}, math.exp if self.ratio else float
        words = f"{effect_text(v, of(effect.mean))} {interval_text(v, [of(x) for x in effect.interval])}"
        return f"{words.strip()}, n {effect.n}"


@dataclass(frozen=True)
class Effect:
    """Mean of the paired differences, of ratios of their logarithms; of one pair the interval is NaN."""

    n: int
    mean: float
    interval: tuple[float, float]

    @property
    def sign(self) -> int:
        return (self.mean > 0) - (self.mean < 0)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Size:
    """Runs of one size. Two arms are compared within a folder: the first of these that has both with the metric."""

    name: str
    folders: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)  # what an arm is called there


@dataclass(frozen=True)
class Axis:
    """A property of S in which the study of sizes varies it alone."""

    name: str
    unit: str
    sizes: Mapping[float, str]  # by the property's value, as arms of the study end

    def at(self, x: float) -> Size:
        return Size(f"{x:g}", ("scale/standard",), {arm: f"{arm}-{self.sizes[x]}" for arm in GRID})


W4A4 = "quantize.w4a4-channel-token.plain.val_loss"
MEASURES = (*(Measure(name, metrics.TABLE[name].label) for name in ("m2", "m2_blocks", "m2_last")),
            Measure("max", "largest activation"),  # its label has bars, which end a cell
            *(Measure(name, metrics.TABLE[name].label) for name in ("lambda_sink", "att0_over_uniform")),
            Measure("val_loss", "validation loss, nats", ratio=False), Measure(W4A4, "loss at W4A4, nats", ratio=False))
SOFTMAX = {"baseline": "softmax", "gated_norm": "softmax_gated_norm"}
SIZES = (Size("S", ("norms/small",)), Size("Sw", ("architectures/standard",), SOFTMAX), Size("M", ("norms/medium",)),
         Size("L", ("norms/gpu",)))
ROUTES = [(SIZES[a], SIZES[b]) for a, b in ((0, 3), (0, 2), (1, 3), (1, 2), (2, 3))]  # small, large
CONTRASTS = (("baseline", "gated_norm"), ("baseline", "ga"), ("ga", "ga_gated_norm"), ("baseline", "preaffine"),
             ("ga", "ga_preaffine"))
# Sweeps of the rate, and what is compared there.
RATES = (Size("S", ("norms/small",)), Size("Sw", ("architectures/tuning",), SOFTMAX),
         Size("M", ("norms/medium_tuning",)), Size("L", ("norms/gpu_tuning",)),
         Size("Sw with QK-norm", ("anchors/tuning",)))
GRID = ("baseline", "ga", "gated_norm", "ga_gated_norm")  # norms of the study of sizes
AXES = (Axis("width", "width", {32: "width_32", 64: "width_64", 128: "small", 256: "width_256"}),
        Axis("depth", "layers", {1: "depth_1", 2: "depth_2", 4: "depth_4", 6: "small", 12: "depth_12"}),
        Axis("tokens", "million tokens", {.45: "tokens_quarter", .9: "tokens_half", 1.8: "small", 3.6: "tokens_twice"}))
BY_RATE = ("m2", "max", "lambda_sink", "val_loss")  # metrics that sizes_by_rate shows
# What one arm of another study does to the baseline alone.
ALONE = (("a quarter of the rate", "optimizer/standard", ("adamw", "lr_quarter")),
         ("twice the rate", "optimizer/standard", ("adamw", "lr_twice")))


# ---- effects


def figures(results: Results, arm: str, metric: str, point: Point | None) -> dict[int, float]:
    """By seed, of the runs that finished and have the metric."""
    rows = results.rows_of(arm) if point is None else [r for r in results.rows if r.arm == arm and r.point == point]
    return {row.seed: x for row in rows
            if row.status == "finished" and math.isfinite(x := row.metrics.get(metric, math.nan))}


def effect(results: Results, contrast: Contrast, of: Measure, point: Point | None = None) -> Effect | None:
    """None without a pair. A ratio leaves out pairs with a value that is not above 0."""
    a, b = (figures(results, arm, of.name, point) for arm in contrast)
    pairs = [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]
    d = [math.log(y / x) for x, y in pairs if min(x, y) > 0] if of.ratio else [y - x for x, y in pairs]
    return Effect(len(d), paired.sample(d).mean, paired.interval(d)) if d else None


def effect_at(runs: Runs, size: Size, contrast: Contrast, of: Measure, point: Point | None = None) -> Effect | None:
    first, second = (size.names.get(arm, arm) for arm in contrast)
    found = (effect(runs[folder], (first, second), of, point)
             for folder in size.folders if folder in runs)
    return next((one for one in found if one), None)


def arms_at(runs: Runs, size: Size) -> list[str]:
    ours = {theirs: arm for arm, theirs in size.names.items()}
    return list(dict.fromkeys(ours.get(arm, arm) for folder in size.folders if folder in runs
                              for arm in runs[folder].arms))


def baseline_mean(runs: Runs, size: Size, metric: str) -> float:
    """Of the first folder that has it; NaN where none has."""
    found = (figures(runs[folder], size.names.get("baseline", "baseline"), metric, None)
             for folder in size.folders if folder in runs)
    return next((statistics.fmean(one.values()) for one in found if one), math.nan)


def rates(runs: Runs, size: Size) -> list[float]:
    return sorted({row.point["train.lr"] for folder in size.folders if folder in runs
                   for row in runs[folder].rows if "train.lr" in row.point})


# ---- hits


@dataclass(frozen=True)
class Case:
    """An effect that both sizes have."""

    metric: str
    small: Effect
    large: Effect

    @property
    def hit(self) -> bool:
        return self.small.sign == self.large.sign != 0


def cases(runs: Runs, small: Size, large: Size, contrasts: Sequence[Contrast]) -> list[Case]:
    return [Case(of.name, a, b) for of in MEASURES for contrast in contrasts
            if (a := effect_at(runs, small, contrast, of)) and (b := effect_at(runs, large, contrast, of))]


def order(runs: Runs, small: Size, large: Size) -> list[Case]:
    """Every two arms that both sizes have: a hit where the small one puts them in the large one's order."""
    there = arms_at(runs, large)
    return cases(runs, small, large, list(itertools.combinations([a for a in arms_at(runs, small) if a in there], 2)))


def share(of: Sequence[Case]) -> str:
    """Hits of cases, with the exact (Clopper-Pearson) interval, as if the cases were independent."""
    hits = sum(case.hit for case in of)
    if not of:
        return DASH
    low, high = stats.binomtest(hits, len(of)).proportion_ci(1 - paired.LEVEL, method="exact")
    return f"{hits} of {len(of)} [{low:.2f}, {high:.2f}]"


def tau(of: Sequence[Case]) -> str:
    """Kendall's: pairs in order less those that are not, over all of them."""
    return f"{2 * sum(case.hit for case in of) / len(of) - 1:+.2f}" if of else DASH


# ---- text, in Markdown


def millions(x: float) -> str:
    return f"{x / 1e6:.{0 if x >= 1e7 else 1}f} M" if math.isfinite(x) else DASH


def settings(runs: Runs) -> str:
    rows: list[Sequence[str]] = [("", "layers x width", "parameters", "text", "tokens", "rate", "seeds",
                                  "baseline's M2", "runs")]
    for size in SIZES:
        there = [folder for folder in size.folders if folder in runs]
        if there:
            study, profile = runs[there[0]].study, there[0].partition("/")[2]
            row = study["profiles"][profile]
            keys = study["base"] | (row.get("set") or {})
            rate = "each arm's best" if rates(runs, size) else f"{number_of(keys['train.lr']):g}"
            text = f"{keys['data.corpus']}, {'words' if 'data.tokenizer' in keys else 'bytes'}"
            seeds = figures(runs[there[0]], size.names.get("baseline", "baseline"), "val_loss", None)
            parameters, tokens = (millions(baseline_mean(runs, size, name)) for name in ("params", "tokens"))
            links = ["[{}/{}](studies/{}/results/{}/runs.csv)".format(*folder.split("/") * 2) for folder in there]
            rows.append((size.name, f"{keys['model.layers']} x {keys['model.dim']}", parameters, text, tokens,
                         rate, str(len(seeds)),
                         f"{baseline_mean(runs, size, 'm2'):.3g}", ", ".join(links)))
    return table(rows)


def names_sign(runs: Runs, contrast: Contrast, of: Measure, small: Size, large: Size) -> str:
    a, b = (effect_at(runs, size, contrast, of) for size in (small, large))
    if not (a and b):
        return DASH
    return ("yes" if a.sign == b.sign != 0 else "no") + ("" if a.clear else ", unsure")


def effects(runs: Runs) -> str:
    small, *_, large, largest = SIZES
    rows: list[Sequence[str]] = [("arms", "metric", *(size.name for size in SIZES),
                                  *(f"{small.name} names {size.name}" for size in (large, largest)))]
    for first, second in CONTRASTS:
        for of in MEASURES:
            found = [effect_at(runs, size, (first, second), of) for size in SIZES]
            if any(found):
                rows.append((f"{second} against {first}", of.label, *map(of.text, found),
                             *(names_sign(runs, (first, second), of, small, size) for size in (large, largest))))
    return table(rows) + "\n\n" + absent(runs)


def absent(runs: Runs) -> str:
    """Which metrics no run of a size has."""
    words = []
    for size in SIZES:
        there = [runs[folder] for folder in size.folders if folder in runs]
        gone = [of.label.partition(",")[0] for of in MEASURES
                if not any(of.name in row.metrics for results in there for row in results.rows)]
        words += [f"{size.name}: {', '.join(gone)}"] if gone else []
    return f"Not recorded by these runs: {'; '.join(words) or 'nothing'}."


def hits(runs: Runs) -> str:
    rows: list[Sequence[str]] = [("", "signs", "where the small one is clear", "where both are", "two arms in order",
                                  "tau")]
    by_metric: list[Sequence[str]] = [("metric", *(f"{a.name} to {b.name}" for a, b in ROUTES))]
    found = {(a.name, b.name): (cases(runs, a, b, CONTRASTS), order(runs, a, b)) for a, b in ROUTES}
    for (a, b), (signs, arms) in found.items():
        clear = [case for case in signs if case.small.clear]
        rows.append((f"{a} to {b}", share(signs), share(clear), share([case for case in clear if case.large.clear]),
                     share(arms), tau(arms)))
    for of in MEASURES:
        cells = []
        for signs, arms in found.values():
            s, o = ([case.hit for case in part if case.metric == of.name] for part in (signs, arms))
            cells.append(f"{sum(s)} of {len(s)}, {sum(o)} of {len(o)}" if s else DASH)
        by_metric.append((of.label, *cells))
    return f"{table(rows)}\n\nBy metric, signs and then two arms in order:\n\n{table(by_metric)}"


def own(runs: Runs, size: Size, of: Measure, point: Point | None = None) -> str:
    """The baseline's own figure there, with the interval of its mean if there are several."""
    found = [x for folder in size.folders if folder in runs
             for x in figures(runs[folder], size.names["baseline"], of.name, point).values()]
    if not found:
        return DASH
    low, high = paired.interval(found)
    words = f" [{low:.3g}, {high:.3g}]" if len(found) > 1 else ""
    return f"{paired.sample(found).mean:.3g}{words}, n {len(found)}"


def axes(runs: Runs) -> str:
    """S with one property varied: the baseline's own figures there, and what the arms do to them."""
    texts = []
    for axis in AXES:
        sizes = [axis.at(x) for x in axis.sizes]
        rows: list[Sequence[str]] = [("arms", "metric", *(f"{axis.unit} {size.name}" for size in sizes))]
        rows += [("baseline", of.label, *(own(runs, size, of) for size in sizes)) for of in MEASURES]
        for contrast, of in itertools.product(CONTRASTS, MEASURES):
            found = [effect_at(runs, size, contrast, of) for size in sizes]
            if any(found):
                rows.append((f"{contrast[1]} against {contrast[0]}", of.label, *map(of.text, found)))
        texts.append(f"Over {axis.name}:\n\n{table(rows)}")
    return "\n\n".join(texts)


def sizes_by_rate(runs: Runs) -> str:
    """At each size of AXES with one rate for both arms: in how many of these the second arm has less; and the baseline
    and the first contrast there."""
    sizes = {size: replace(axis.at(x), folders=("scale/standard_tuning",)) for axis in AXES
             for x, size in axis.sizes.items()}
    columns = sorted({rate for size in sizes.values() for rate in rates(runs, size)})
    points = [{"train.lr": rate} for rate in columns]
    shown = [of for of in MEASURES if of.name in BY_RATE]
    less: list[Sequence[str]] = [("arms", *(f"less {of.label.partition(',')[0]}" for of in shown))]
    for contrast in CONTRASTS:
        found = [[e for size in sizes.values() for point in points
                  if (e := effect_at(runs, size, contrast, of, point))] for of in shown]
        if any(found):
            less.append((f"{contrast[1]} against {contrast[0]}",
                         *(f"{sum(e.sign < 0 for e in es)} of {len(es)}" for es in found)))
    rows: list[Sequence[str]] = [("size", "arms", "metric", *(f"rate {rate:g}" for rate in columns))]
    for name, of in itertools.product(sizes, shown):
        rows.append((name, "baseline", of.label, *(own(runs, sizes[name], of, point) for point in points)))
        there = [effect_at(runs, sizes[name], CONTRASTS[0], of, point) for point in points]
        if any(there):
            rows.append((name, "{1} against {0}".format(*CONTRASTS[0]), of.label, *map(of.text, there)))
    return f"{table(less)}\n\n{table(rows)}"


def best_rates(runs: Runs) -> str:
    """Which rate speaks for each arm that is compared."""
    words = []
    for size in RATES:
        ours = {theirs: arm for arm, theirs in size.names.items()}
        words += [f"{size.name}: " + ", ".join(
            f"{arm} {dict(choice.taken)['train.lr']}" for folder in size.folders if folder in runs
            for choice in runs[folder].swept
            if (arm := ours.get(choice.arm, choice.arm)) in itertools.chain(*CONTRASTS))]
    return f"Best by the mean validation loss, {'; '.join(words)}."


def sweeps(runs: Runs) -> str:
    """Over the rate, for each study that has several; and of the baseline alone."""
    columns = sorted({rate for size in RATES for rate in rates(runs, size)})
    rows: list[Sequence[str]] = [("study", "arms", "metric", *(f"rate {rate:g}" for rate in columns),
                                  "each arm's best rate")]
    for size in RATES:
        for contrast, of in itertools.product(CONTRASTS, MEASURES):
            found = [effect_at(runs, size, contrast, of, {"train.lr": rate}) for rate in columns]
            if any(found):
                rows.append((size.name, f"{contrast[1]} against {contrast[0]}", of.label, *map(of.text, found),
                             of.text(effect_at(runs, size, contrast, of))))
    alone: list[Sequence[str]] = [("the baseline with", "metric", "effect")]
    for words, folder, contrast in ALONE:
        for of in MEASURES if folder in runs else ():
            if one := effect(runs[folder], contrast, of):
                alone.append((words, of.label, of.text(one)))
    return f"{table(rows)}\n\n{best_rates(runs)}\n\nThe baseline alone, S:\n\n{table(alone)}"


def headline(runs: Runs) -> str:
    """A sentence for the README."""
    (small, largest), (_, large) = ROUTES[:2]
    words = []
    for other, what in (large, (" signs", " orders\nof two arms")), (largest, ("", "")):
        signs, arms = cases(runs, small, other, CONTRASTS), order(runs, small, other)
        shares = (f"{sum(case.hit for case in of)} of {len(of)}{word}" for of, word in zip((signs, arms), what))
        seeds = max((case.large.n for case in signs), default=0)
        words.append(f"{' and '.join(shares)} of {other.name} ({millions(baseline_mean(runs, other, 'params'))}, "
                     f"{seeds} seed{'s' * (seeds != 1)})")
    return (f"Effects by size, 95 % intervals. S ({millions(baseline_mean(runs, small, 'params'))}) names "
            f"{', '.join(words)}: [tables](experiments/scale.md).")


def parts(runs: Runs) -> Iterator[tuple[str, str]]:
    """Marks of scale.md and what stands between them."""
    for part in (settings, effects, hits, axes, sizes_by_rate, sweeps):
        yield part.__name__, part(runs)
