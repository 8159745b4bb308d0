"""Claims of a study and the gates of its baseline: reading them, and judging them by the runs.

A claim compares a metric of two arms with the same seeds, two metrics (of one arm or of two), or a metric of one arm
with a number. It is judged by a t-test over the paired differences (TOST for `expect: same`, Fisher's exact test for
metrics that are 0 or 1), Holm-corrected over all claims that are judged: whose arms the profile has, and whose gates
are met. `scale: ratio` does its statistics on ln(second/first) with a margin of ln(1 + margin), up or down.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import metrics
import paired

SHOWN, OPPOSITE, NOT_SHOWN, GATE_FAILED, NO_PAIRS, NOT_RUN = (
    "shown", "shown, opposite", "not shown at this scale", "baseline gate failed", "no pairs", "not in this profile")
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
                     + (f"nearest: {', '.join(near)}" if near else "experiments/metrics.py has the names"))


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
    check_keys(what, row, ("id", "text", "metric", "arms", "scale", "expect", "margin"), ("source", "gate", "against"))
    first, second, metric = parse_sides(what, row, arms, looks)
    gate = [row["gate"]] if isinstance(row.get("gate"), str) else row.get("gate") or []
    claim = Claim(str(row["id"]), str(row["text"]), str(row.get("source") or ""), first, second,
                  one_of(what, "scale", row["scale"], ("ratio", "difference")),
                  one_of(what, "expect", row["expect"], ("lower", "higher", "same")),
                  check_number(what, "margin", row["margin"]), tuple(one_of(what, "gate", name, gates)
                                                                     for name in gate),
                  metric.unit, metric.binary)
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


# ---- gates


def judge_gates(gates: Sequence[Gate], arms: Arms) -> dict[str, dict[str, Any]]:
    """By name: whether each is met, with the figures that decide it (means over seeds)."""
    judged: dict[str, dict[str, Any]] = {}
    for gate in gates:
        rows = [judge_condition(gate, condition, arms, judged) for condition in gate.conditions]
        met = any(r["met"] for r in rows) if gate.mode == "any" else all(r["met"] for r in rows)
        judged[gate.name] = {"name": gate.name, "arm": gate.arm, "mode": gate.mode, "met": met, "conditions": rows}
    return judged


def judge_condition(gate: Gate, condition: Condition | str, arms: Arms, judged: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(condition, str):
        return {"gate": condition, "met": judged[condition]["met"]}
    s = paired.sample(list(values(arms, gate.arm, condition.metric).values()))
    met = s.n > 0 and TESTS[condition.test][1](s.mean, condition.limit)
    return {"metric": condition.metric, "test": condition.test, "limit": condition.limit, "mean": s.mean, "sd": s.sd,
            "n": s.n, "met": met}


def gate_text(gate: Mapping[str, Any]) -> str:
    """A judged gate in words: what it wants and what there was."""
    words = [f"{c['gate']} ({'met' if c['met'] else 'failed'})" if "gate" in c else
             f"{c['metric']} {TESTS[c['test']][0]} {c['limit']:g}: "
             + (f"{c['mean']:.3g}" if c["n"] else "not measured")
             for c in gate["conditions"]]
    return f"{gate['name']} in {gate['arm']}: {' or '.join(words) if gate['mode'] == 'any' else ', '.join(words)}"


# ---- verdicts


def judge(gates: Sequence[Gate], claims: Sequence[Claim], arms: Arms) -> tuple[list[dict], list[dict]]:
    """Judged gates and claims with every number behind them."""
    judged = judge_gates(gates, arms)
    absent = [[arm for arm in claim.arms if arm not in arms] for claim in claims]
    failed = [[gate_text(judged[name]) for name in claim.gate if not judged[name]["met"]] for claim in claims]
    counted = [not (a or f) for a, f in zip(absent, failed)]
    rows = [measure(claim, arms, paired.LEVEL / max(1, sum(counted))) for claim in claims]
    for key in ("p", "p_beyond"):
        holm = iter(paired.holm([row[key] for row, counts in zip(rows, counted) if counts]))
        for row, counts in zip(rows, counted):
            row[f"{key}_holm"] = next(holm) if counts else NAN
    for claim, row, a, f in zip(claims, rows, absent, failed):
        row["verdict"], row["why"] = (NOT_RUN, f"it leaves out {', '.join(a)}") if a else decide(claim, row, f)
        row["take"] = what_it_takes(claim, row)
    return list(judged.values()), rows


def measure(claim: Claim, arms: Arms, level: float) -> dict[str, Any]:
    """Everything about a claim that the other claims have no say in. level: of Holm's first step."""
    pairs, lost = pair(claim, arms)
    d = [p["difference"] for p in pairs]
    s = paired.sample(d)
    low, high, method = (NAN, NAN, "") if claim.binary else paired.bootstrap(d)
    p, p_beyond, test, interval = test_of(claim, d, pairs)
    row = {"id": claim.id, "text": claim.text, "source": claim.source, "unit": claim.unit,
           "metrics": list(dict.fromkeys(side.metric for side in claim.sides)), "arms": claim.arms,
           "compared": in_words(claim), "scale": claim.scale, "expect": claim.expect, "margin": claim.margin,
           "gates": list(claim.gate),
           "pairs": pairs, "lost": lost, "n": s.n, "mean": s.mean, "sd": s.sd, "interval": interval,
           "interval_method": "Newcombe" if claim.binary else "t", "bootstrap": [low, high], "bootstrap_method": method,
           "limit": claim.limit, "test": test, "p": p, "p_beyond": p_beyond, "level": level,
           "seeds_needed": None if claim.binary else paired.seeds_needed(claim.limit, s.sd, claim.expect == "same",
                                                                         level)}
    for name, side in (("first", claim.first), ("second", claim.second)):
        of = paired.sample(list(values(arms, side.arm, side.metric).values()))
        row |= {f"{name}_n": of.n, f"{name}_mean": side.number if side.constant else of.mean, f"{name}_sd": of.sd}
    out = math.exp if claim.scale == "ratio" else float
    return row | {"effect": out(s.mean), "effect_interval": list(map(out, interval)),
                  "effect_bootstrap": [out(low), out(high)]}


def in_words(claim: Claim) -> str:
    """What is compared with what."""
    first, second = claim.first, claim.second
    if first.constant:
        return f"{second.metric} of {second.arm} against {first.number:g}"
    if first.metric == second.metric:
        return f"{second.metric} of {second.arm} against {first.arm}"
    of = f" of {second.arm}" if first.arm != second.arm else ""
    return f"{second.metric}{of} against {first.metric} of {first.arm}"


def test_of(claim: Claim, d: Sequence[float], pairs: Sequence[Mapping[str, float]]) -> tuple[float, float, str,
                                                                                             list[float]]:
    """p of the claim, p of the opposite of `same` (else NaN), the test's name and the 95 % interval."""
    s = paired.sample(d)
    if s.n < 2:
        return NAN, NAN, "", [NAN, NAN]
    if claim.binary:
        p, low, high = paired.shares([x["first"] for x in pairs], [x["second"] for x in pairs])
        return p, NAN, "Fisher", [low, high]
    interval = [s.mean - s.half_width, s.mean + s.half_width]
    if s.sd == 0:  # t says nothing about equal differences
        inside, outside = 0.5**s.n, paired.sign_test(d)
        if claim.expect != "same":
            return outside, NAN, "sign", interval
        return (inside, 1.0, "sign", interval) if abs(s.mean) < claim.limit else (1.0, outside, "sign", interval)
    if claim.expect == "same":
        return paired.equivalence(d, claim.limit), paired.beyond(d, claim.limit), "TOST", interval
    return paired.t_test(d), NAN, "t", interval


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
    mean, significant = row["mean"], row["p_holm"] < paired.LEVEL
    if claim.expect == "same":
        if significant:
            return SHOWN, "equivalent within the margin"
        return (OPPOSITE, "they differ by more than the margin") if row["p_beyond_holm"] < paired.LEVEL else (
            NOT_SHOWN, f"they may differ by more than the margin: Holm p {row['p_holm']:.2g}")
    if significant and abs(mean) >= row["limit"]:
        claimed = mean < 0 if claim.expect == "lower" else mean > 0
        return (SHOWN, f"{claim.expect}, as claimed") if claimed else (OPPOSITE, f"not {claim.expect}: the other way")
    if significant:
        return NOT_SHOWN, "a difference, but smaller than the margin"
    return NOT_SHOWN, f"Holm p {row['p_holm']:.2g}, {paired.LEVEL:g} is the limit"


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
    if claim.expect != "same" and row["p_holm"] < paired.LEVEL:
        return "an effect as large as the margin"
    needed = row["seeds_needed"]
    if needed is None:
        return "more seeds"
    if needed <= row["n"]:
        return f"a larger effect: {needed} seeds have 80 % power at the margin, there were {row['n']}"
    many = f"more than {paired.MOST_SEEDS:,}" if needed > paired.MOST_SEEDS else f"{needed:,}"
    return f"{many} seeds, for 80 % power at the margin with this sd"
