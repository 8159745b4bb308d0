"""Claims of a study and the gates of its baseline: reading them, and judging them by the runs.

A claim compares a metric of two arms with the same seeds, two metrics (of one arm or of two), or a metric of one arm
with a number. What is tested is the margin: a claim of `lower` is shown where the interval of the paired differences
lies wholly below -margin, one of `same` where it lies wholly within the margin (TOST). A metric that is 0 or 1 has
Fisher's exact test, and the difference seen must reach the margin. `scale: ratio` does its statistics on
ln(second/first) with a margin of ln(1 + margin), up or down.

The study's file says before the runs which claims are primary: Holm's correction is over these. The others are
exploratory, and corrected to a false discovery rate (Benjamini, Hochberg). Both count only what is judged: claims whose
arms the profile has, whose runs are all there, and whose gates are met. As long as a run waits its claims have no
verdict: to judge after each seed and to stop when it suits would give a verdict sooner or later.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sinkstudy.judge import metrics, paired

SHOWN, OPPOSITE, NOT_SHOWN, GATE_FAILED, NO_PAIRS, NOT_RUN = (
    "shown", "shown, opposite", "not shown at this scale", "baseline gate failed", "no pairs", "not run")
PRIMARY, EXPLORATORY = "primary", "exploratory"
CORRECTIONS = {PRIMARY: ("Holm", paired.holm, paired.holm_levels),
               EXPLORATORY: ("FDR", paired.benjamini_hochberg, paired.fdr_levels)}
VERDICTS = (SHOWN, OPPOSITE, NOT_SHOWN, GATE_FAILED, NO_PAIRS, NOT_RUN)
TESTS = {"at_least": ("\N{GREATER-THAN OR EQUAL TO}", float.__ge__), "above": (">", float.__gt__),
         "at_most": ("\N{LESS-THAN OR EQUAL TO}", float.__le__), "below": ("<", float.__lt__)}
NAN = math.nan

# Arm -> seed -> {"status": finished, diverged, failed or missing, "metrics": {name: number}}: all runs that the plan
# has.
Arms = Mapping[str, Mapping[int, Mapping[str, Any]]]


class ClaimError(Exception):
    """A claim or gate that cannot be used; the message is one line without the file's name."""


@dataclass(frozen=True)
class Side:
    """What is compared: a metric of an arm, or a number."""

    metric: str
    arm: str
    number: float = NAN

    @property
    def constant(self) -> bool:
        return math.isfinite(self.number)


@dataclass(frozen=True)
class Claim:
    id: str
    text: str
    source: str
    first: Side
    second: Side
    scale: str
    expect: str
    margin: float
    gate: tuple[str, ...]
    unit: str
    binary: bool
    primary: bool

    @property
    def family(self) -> str:
        return PRIMARY if self.primary else EXPLORATORY

    @property
    def limit(self) -> float:
        """The margin on the scale of the statistics."""
        return math.log1p(self.margin) if self.scale == "ratio" else self.margin

    @property
    def sides(self) -> list[Side]:
        """Those that runs give a figure for."""
        return [side for side in (self.first, self.second) if not side.constant]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(side.arm for side in self.sides))


@dataclass(frozen=True)
class Condition:
    metric: str
    test: str
    limit: float


@dataclass(frozen=True)
class Gate:
    name: str
    arm: str
    mode: str  # any or all
    conditions: tuple[Condition | str, ...]  # a string is another gate's name


# ---- reading


def parse(study: Mapping[str, Any], arms: Collection[str] | None = None) -> tuple[list[Gate], list[Claim]]:
    """Gates and claims of a study.yaml; arms: the names there are (None: not checked)."""
    looks = metrics.looks(study)
    gates = [parse_gate(str(name), row, arms, looks) for name, row in mapping("gates", study.get("gates")).items()]
    check_nesting(gates)
    rows = study.get("claims") or []
    if not isinstance(rows, list):
        raise ClaimError("claims: a list is wanted, one item a claim")
    claims = [parse_claim(at, row, arms, looks, [gate.name for gate in gates]) for at, row in enumerate(rows, start=1)]
    ids = [claim.id for claim in claims]
    for one in ids:
        if ids.count(one) > 1:
            raise ClaimError(f"claim {one}: id: two claims have it; give each its own")
    return gates, claims


def mapping(what: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ClaimError(f"{what}: keys with values are wanted, not {value!r}")
    return value


def check_keys(what: str, row: Mapping[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    for key in row:
        one_of(what, "key", key, [*required, *optional])
    for key in required:
        if row.get(key) in (None, ""):
            raise ClaimError(f"{what}: {key}: missing; it needs {', '.join(required)}")


def one_of(what: str, key: str, value: Any, allowed: Collection[str]) -> str:
    if value in allowed:
        return str(value)
    near = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.5)
    raise ClaimError(f"{what}: {key}: {value!r} is not known; "
                     + (f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed) or 'none'}"))


def check_metric(what: str, name: Any, looks: Sequence[str]) -> metrics.Metric:
    found = metrics.find(str(name), looks)
    if found:
        return found
    near = metrics.nearest(str(name), looks)
    raise ClaimError(f"{what}: metric: {name!r} is not known; "
                     + (f"nearest: {', '.join(near)}" if near else "sinkstudy/judge/metrics.py has the names"))


def check_number(what: str, key: str, value: Any) -> float:
    try:
        number = float(value if isinstance(value, (str, float, int)) and not isinstance(value, bool) else NAN)
    except (ValueError, OverflowError):
        number = NAN
    if not math.isfinite(number):
        raise ClaimError(f"{what}: {key}: a number is wanted, not {value!r}")
    return number  # YAML reads 1e-3 as a string


def parse_claim(at: int, row: Any, arms: Collection[str] | None, looks: Sequence[str],
                gates: Sequence[str]) -> Claim:
    row = mapping(f"claim {at}", row)
    what = f"claim {row.get('id') or at}"
    check_keys(what, row, ("id", "text", "metric", "arms", "scale", "expect", "margin"), ("source", "gate", "against",
                                                                                           "primary"))
    first, second, metric = parse_sides(what, row, arms, looks)
    gate = [row["gate"]] if isinstance(row.get("gate"), str) else row.get("gate") or []
    claim = Claim(str(row["id"]), str(row["text"]), str(row.get("source") or ""), first, second,
                  one_of(what, "scale", row["scale"], ("ratio", "difference")),
                  one_of(what, "expect", row["expect"], ("lower", "higher", "same")),
                  check_number(what, "margin", row["margin"]), tuple(one_of(what, "gate", name, gates)
                                                                     for name in gate),
                  metric.unit, metric.binary, row.get("primary", False))
    if not isinstance(claim.primary, bool):
        raise ClaimError(f"{what}: primary: true or false is wanted, not {claim.primary!r}")
    if claim.margin <= 0:
        raise ClaimError(f"{what}: margin: above 0 is wanted, the smallest difference that matters")
    if claim.binary and (claim.scale, claim.expect == "same") != ("difference", False):
        raise ClaimError(f"{what}: {metric.name} is 0 or 1: it takes scale: difference and expect: lower or higher")
    return claim


def parse_sides(what: str, row: Mapping[str, Any], arms: Collection[str] | None,
                looks: Sequence[str]) -> tuple[Side, Side, metrics.Metric]:
    """What is compared with what; and the second's metric, whose unit the effect has."""
    names = row["metric"] if isinstance(row["metric"], list) else [row["metric"]] * 2
    of = row["arms"] if isinstance(row["arms"], list) else []
    for arm in of if arms is not None else ():
        one_of(what, "arms", arm, arms or ())
    if "against" in row:
        if len(of) != 1 or isinstance(row["metric"], list):
            raise ClaimError(f"{what}: against: a number is compared with one metric of one arm, arms: [ARM]")
        metric = check_metric(what, row["metric"], looks)
        if metric.binary:
            raise ClaimError(f"{what}: against: {metric.name} is 0 or 1: compare two arms")
        return Side("", "", check_number(what, "against", row["against"])), Side(metric.name, str(of[0])), metric
    if len(names) != 2:
        raise ClaimError(f"{what}: metric: one is wanted, or two in a list")
    if len(of) != 2 or (of[0] == of[1] and names[0] == names[1]):
        raise ClaimError(f"{what}: arms: two different ones are wanted, the first is what the second is compared with")
    first, second = (check_metric(what, name, looks) for name in names)
    if first.binary != second.binary:
        raise ClaimError(f"{what}: metric: {first.name} and {second.name} can't be compared: one of them is 0 or 1")
    return Side(first.name, str(of[0])), Side(second.name, str(of[1])), second


def parse_gate(name: str, row: Any, arms: Collection[str] | None, looks: Sequence[str]) -> Gate:
    what, row = f"gate {name}", mapping(f"gate {name}", row)
    modes = [mode for mode in ("any", "all") if mode in row]
    if len(modes) != 1:
        raise ClaimError(f"{what}: one list of conditions is wanted, all: or any:")
    check_keys(what, row, ("arm", modes[0]))
    if arms is not None:
        one_of(what, "arm", row["arm"], arms)
    if not isinstance(row[modes[0]], list) or not row[modes[0]]:
        raise ClaimError(f"{what}: {modes[0]}: a list of conditions is wanted")
    return Gate(name, str(row["arm"]), modes[0], tuple(parse_condition(what, c, looks) for c in row[modes[0]]))


def parse_condition(what: str, row: Any, looks: Sequence[str]) -> Condition | str:
    if isinstance(row, str):
        return row
    row = mapping(f"{what}: condition", row)
    tests = [key for key in row if key in TESTS]
    if len(tests) != 1:
        raise ClaimError(f"{what}: a condition takes metric and one of {', '.join(TESTS)}, or it is another gate's "
                         "name")
    check_keys(what, row, ("metric", tests[0]))
    return Condition(check_metric(what, row["metric"], looks).name, tests[0],
                     check_number(what, tests[0], row[tests[0]]))


def check_nesting(gates: Sequence[Gate]) -> None:
    """A gate may name those above it: that way there are no circles."""
    above: list[str] = []
    for gate in gates:
        for condition in gate.conditions:
            if isinstance(condition, str) and condition not in above:
                raise ClaimError(f"gate {gate.name}: {gate.mode}: {condition!r} is no gate above this one")
        above.append(gate.name)


# ---- values of the runs


def value(run: Mapping[str, Any], metric: str) -> float:
    found = run.get("metrics", {}).get(metric)
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else NAN


def values(arms: Arms, arm: str, metric: str) -> dict[int, float]:
    """By seed, of the runs that have the metric."""
    found = {seed: value(run, metric) for seed, run in arms.get(arm, {}).items()}
    return {seed: x for seed, x in sorted(found.items()) if math.isfinite(x)}


def pair(claim: Claim, arms: Arms) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pairs with their differences on the scale of the statistics; and the pairs lost, each with its first reason."""
    pairs, lost = [], []
    for seed in sorted(set().union(*(arms.get(arm, {}) for arm in claim.arms))):
        first, second = (side.number if side.constant else value(arms.get(side.arm, {}).get(seed, {}), side.metric)
                         for side in (claim.first, claim.second))
        losses = [loss for side, x in ((claim.first, first), (claim.second, second))
                  if (loss := loss_of(claim, arms, side, seed, x))]
        if losses:
            lost.append({"seed": seed} | losses[0])
        else:
            d = math.log(second / first) if claim.scale == "ratio" else second - first
            pairs.append({"seed": seed, "first": first, "second": second, "difference": d})
    return pairs, lost


def loss_of(claim: Claim, arms: Arms, side: Side, seed: int, x: float) -> dict[str, Any] | None:
    """Why a run gives no figure. `selects`: because of what the figure is, so that the pairs left are no fair
    sample."""
    arm = side.arm
    run = arms.get(arm, {}).get(seed)
    if math.isfinite(x):
        bad = claim.scale == "ratio" and x <= 0
        return {"why": f"{arm or 'against'}: a ratio wants values above 0, this is {x:g}",
                "selects": True} if bad else None
    if run is None:
        return {"why": f"{arm}: not run with this seed", "selects": False}
    status = run.get("status", "missing")
    words = {"finished": f"no {side.metric} recorded", "missing": "not run yet"}.get(status, status)
    return {"why": f"{arm}: {words}", "selects": status == "finished"}


def waiting(claim: Claim, arms: Arms) -> str:
    """What must be run before the claim is judged; "" if all is there."""
    absent = [arm for arm in claim.arms if arm not in arms]
    if absent:
        return f"it leaves out {', '.join(absent)}"
    planned = [run.get("status", "missing") for arm in claim.arms for run in arms[arm].values()]
    left = planned.count("missing")
    if left:
        return f"{left} of {len(planned)} runs wait; before the last one a verdict would be a look"
    runs = [run for arm in arms.values() for run in arm.values() if run.get("status") == "finished"]
    for side in claim.sides:
        if runs and not any(side.metric in run.get("metrics", {}) for run in runs):
            return f"no run has {side.metric}: they are of a build that did not measure it"
    return ""


# ---- gates


def judge_gates(gates: Sequence[Gate], arms: Arms) -> dict[str, dict[str, Any]]:
    """By name: whether each is met, with the figures that decide it (bounds of means over seeds)."""
    judged: dict[str, dict[str, Any]] = {}
    for gate in gates:
        rows = [judge_condition(gate, condition, arms, judged) for condition in gate.conditions]
        met = any(r["met"] for r in rows) if gate.mode == "any" else all(r["met"] for r in rows)
        judged[gate.name] = {"name": gate.name, "arm": gate.arm, "mode": gate.mode, "met": met, "conditions": rows}
    return judged


def judge_condition(gate: Gate, condition: Condition | str, arms: Arms, judged: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(condition, str):
        return {"gate": condition, "met": judged[condition]["met"]}
    found = list(values(arms, gate.arm, condition.metric).values())
    s, rising = paired.sample(found), condition.test in ("at_least", "above")
    bound = paired.interval(found, 2 * paired.LEVEL)[0 if rising else 1]  # missed by the mean with LEVEL on this side
    met = math.isfinite(bound) and TESTS[condition.test][1](bound, condition.limit)
    return {"metric": condition.metric, "test": condition.test, "limit": condition.limit, "mean": s.mean, "sd": s.sd,
            "bound": bound, "n": s.n, "met": met}


def gate_text(gate: Mapping[str, Any]) -> str:
    """A judged gate in words: what it wants and what there was."""
    words = [f"{c['gate']} ({'met' if c['met'] else 'failed'})" if "gate" in c else
             f"{c['metric']} {TESTS[c['test']][0]} {c['limit']:g}: {bound_text(c)}" for c in gate["conditions"]]
    return f"{gate['name']} in {gate['arm']}: {' or '.join(words) if gate['mode'] == 'any' else ', '.join(words)}"


def bound_text(c: Mapping[str, Any]) -> str:
    """Mean and bound of a judged condition."""
    if not math.isfinite(c["bound"]):
        return f"{c['mean']:.3g}, of one run" if c["n"] else "not measured"
    return f"{c['mean']:.3g}, {'at least' if c['test'] in ('at_least', 'above') else 'at most'} {c['bound']:.3g}"


# ---- verdicts


def judge(gates: Sequence[Gate], claims: Sequence[Claim], arms: Arms) -> tuple[list[dict], list[dict]]:
    """Judged gates and claims with every number behind them."""
    judged = judge_gates(gates, arms)
    absent = [waiting(claim, arms) for claim in claims]
    failed = [[gate_text(judged[name]) for name in claim.gate if not judged[name]["met"]] for claim in claims]
    counted = [not (a or f) for a, f in zip(absent, failed)]
    sizes = {family: sum(c.family == family and counts for c, counts in zip(claims, counted)) for family in CORRECTIONS}
    rows = [measure(claim, arms, paired.LEVEL / max(1, sizes[claim.family])) for claim in claims]
    for family in CORRECTIONS:
        correct(family, [row for row, counts in zip(rows, counted) if counts and row["family"] == family])
    for claim, row, a, f in zip(claims, rows, absent, failed):
        row["verdict"], row["why"] = (NOT_RUN, a) if a else decide(claim, row, f)
        row["take"] = what_it_takes(claim, row)
    return list(judged.values()), rows


def correct(family: str, rows: Sequence[dict[str, Any]]) -> None:
    """Corrects the p of the claims of a family that count, and gives them intervals of the level that they were tested
    at."""
    name, adjust, levels = CORRECTIONS[family]
    for key in ("p", "p_opposite"):
        for row, p in zip(rows, adjust([row[key] for row in rows])):
            row[f"{key}_corrected"] = p
    for row, level in zip(rows, levels([row["p"] for row in rows])):
        row["correction"], row["tested_at"] = name, level
        if row["interval_method"] == "t":
            d = [pair["difference"] for pair in row["pairs"]]
            row["interval_corrected"] = list(paired.interval(d, (1 + (row["expect"] == "same")) * level))


def measure(claim: Claim, arms: Arms, level: float) -> dict[str, Any]:
    """Everything about a claim that the other claims have no say in. level: of the first step of its correction."""
    pairs, lost = pair(claim, arms)
    d = [p["difference"] for p in pairs]
    s, out = paired.sample(d), math.exp if claim.scale == "ratio" else float
    interval = newcombe(pairs) if claim.binary else list(paired.interval(d))
    row = {"id": claim.id, "text": claim.text, "source": claim.source, "unit": claim.unit, "family": claim.family,
           "metrics": list(dict.fromkeys(side.metric for side in claim.sides)), "arms": claim.arms,
           "compared": in_words(claim), "scale": claim.scale, "expect": claim.expect, "margin": claim.margin,
           "gates": list(claim.gate),
           "pairs": pairs, "lost": lost, "n": s.n, "mean": s.mean, "sd": s.sd, "interval": interval,
           "interval_method": "Newcombe" if claim.binary else "t", "interval_corrected": interval,
           "limit": claim.limit, "level": level, "correction": "", "tested_at": NAN, "p_corrected": NAN,
           "p_opposite_corrected": NAN} | tests_of(claim, d, pairs) | pairing(claim, pairs)
    row["seeds_needed"] = None if claim.binary else paired.seeds_needed(
        claim.limit, -s.mean if claim.expect == "lower" else s.mean, s.sd, claim.expect == "same", level)
    for name, side in (("first", claim.first), ("second", claim.second)):
        of = paired.sample(list(values(arms, side.arm, side.metric).values()))
        row |= {f"{name}_n": of.n, f"{name}_mean": side.number if side.constant else of.mean, f"{name}_sd": of.sd}
    return row | {"effect": out(s.mean), "effect_interval": list(map(out, interval))}


def newcombe(pairs: Sequence[Mapping[str, float]]) -> list[float]:
    return list(paired.shares(*shares_of(pairs))[1:]) if pairs else [NAN, NAN]


def shares_of(pairs: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    return [x["first"] for x in pairs], [x["second"] for x in pairs]


def pairing(claim: Claim, pairs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Correlation of the two values of a pair on the scale of the statistics, and what it buys (paired.gain)."""
    first, second = shares_of(pairs)
    if claim.first.constant or claim.binary or len(pairs) < 2:
        return {"pair_correlation": NAN, "pairing_gain": NAN}
    if claim.scale == "ratio":
        first, second = [math.log(x) for x in first], [math.log(x) for x in second]
    return {"pair_correlation": paired.correlation(first, second), "pairing_gain": paired.gain(first, second)}


def in_words(claim: Claim) -> str:
    """What is compared with what."""
    first, second = claim.first, claim.second
    if first.constant:
        return f"{second.metric} of {second.arm} against {first.number:g}"
    if first.metric == second.metric:
        return f"{second.metric} of {second.arm} against {first.arm}"
    of = f" of {second.arm}" if first.arm != second.arm else ""
    return f"{second.metric}{of} against {first.metric} of {first.arm}"


def tests_of(claim: Claim, d: Sequence[float], pairs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """p of the claim and of its opposite (of `same`: that the difference is beyond the margin), the test's name, and p
    of the sign-flip test beside it."""
    if len(d) < 2:
        return {"test": "", "p": NAN, "p_opposite": NAN, "p_flip": NAN}
    if claim.binary:
        p, mean = paired.shares(*shares_of(pairs))[0], paired.sample(d).mean
        claimed = (mean <= -claim.limit) if claim.expect == "lower" else (mean >= claim.limit)
        reached = abs(mean) >= claim.limit
        return {"test": "Fisher", "p": p if claimed else 1.0, "p_opposite": p if reached and not claimed else 1.0,
                "p_flip": NAN}
    test = "sign" if min(d) == max(d) else "t"
    if claim.expect == "same":
        return {"test": "TOST" if test == "t" else test, "p": paired.equivalence(d, claim.limit),
                "p_opposite": paired.beyond(d, claim.limit), "p_flip": paired.flip_equivalence(d, claim.limit)}
    down, up = list(d), [-x for x in d]
    towards, away = (down, up) if claim.expect == "lower" else (up, down)
    return {"test": test, "p": paired.lower_by(towards, claim.limit), "p_opposite": paired.lower_by(away, claim.limit),
            "p_flip": paired.flip_lower_by(towards, claim.limit)}


def decide(claim: Claim, row: Mapping[str, Any], failed: Sequence[str]) -> tuple[str, str]:
    """The verdict and why, in words."""
    if not row["n"]:
        return NO_PAIRS, "; ".join(dict.fromkeys(lost["why"] for lost in row["lost"])) or "no runs of these arms"
    if failed:
        return GATE_FAILED, "; ".join(failed)
    if row["n"] == 1:
        return NOT_SHOWN, "one pair has no interval"
    selected = [lost["why"] for lost in row["lost"] if lost["selects"]]
    if selected:
        return NOT_SHOWN, f"the other pairs alone would mislead: {selected[0]}"
    if row["p_corrected"] < paired.LEVEL:
        return SHOWN, "within the margin" if claim.expect == "same" else f"{claim.expect} by more than the margin"
    if row["p_opposite_corrected"] < paired.LEVEL:
        return OPPOSITE, ("they differ by more than the margin" if claim.expect == "same" else
                          f"not {claim.expect}: the other way by more than the margin")
    return NOT_SHOWN, (f"{where_it_lies(claim, row['mean'])}: {row['correction']} p {row['p_corrected']:.2g}, "
                       f"{paired.LEVEL:g} is the limit")


def where_it_lies(claim: Claim, mean: float) -> str:
    """What speaks against a claim that is not shown."""
    if claim.expect == "same":
        return "they may differ by more than the margin"
    if abs(mean) < claim.limit:
        return "the mean is within the margin"
    claimed = mean < 0 if claim.expect == "lower" else mean > 0
    return "it may be less than the margin" if claimed else "the mean is on the other side"


def what_it_takes(claim: Claim, row: Mapping[str, Any]) -> str:
    """For a claim that is not shown: what would show it."""
    if row["verdict"] in (NO_PAIRS, NOT_RUN):
        return "runs of " + (" and ".join(claim.arms)) + (" with the same seed" if len(claim.arms) > 1 else "")
    if row["verdict"] == GATE_FAILED:
        return "a baseline in which the effect's cause is there: longer, larger or at a higher rate"
    if row["verdict"] != NOT_SHOWN:
        return ""
    if row["n"] == 1:
        return "two seeds or more"
    if any(lost["selects"] for lost in row["lost"]):
        return "a metric that all runs have" + (", or scale: difference" if claim.scale == "ratio" else "")
    needed = row["seeds_needed"]
    if needed is None:
        if row["sd"] == 0 or claim.binary:
            return "more seeds"
        return "a smaller effect than the one seen" if claim.expect == "same" else "a larger effect than the one seen"
    many = f"more than {paired.MOST_SEEDS:,}" if needed > paired.MOST_SEEDS else f"{needed:,}"
    return f"{many} new seeds, for 80 % power if effect and sd are those seen"


def comparison(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a judged claim compares, whatever study it is of: the same figures of the same runs are one finding."""
    return (*row["metrics"], row["expect"], *((p["first"], p["second"]) for p in row["pairs"]))
