"""The report of a study (one self-contained HTML page, runs.csv, verdicts.json, pictures for READMEs) and the overview
of all studies' claims.

    report(study, plan, store, out)   study: the parsed study.yaml; plan, store: see study_results.py; out: a folder
    overview(folders, path)           folders: such `out`s, of any studies and profiles; path: the page, with .json and
                                      .csv beside it

Runs that are not there yet, failed or diverged are said and counted; what can be judged without them is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sinkstudy.judge import claims, metrics, paired
from sinkstudy.report.page import document, escape, picture, show, write_whole
from sinkstudy.report.study_results import MACHINE, Choice, Results, from_store, table_of, write_csv
from sinkstudy.store.runs import finite, parse_json

FORMAT = 2  # of verdicts.json
PLUS_MINUS, TIMES, DASH = "\N{PLUS-MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
CLASSES = {claims.SHOWN: "shown", claims.OPPOSITE: "opposite", claims.NOT_SHOWN: "not-shown",
           claims.GATE_FAILED: "gate-failed", claims.NO_PAIRS: "no-pairs", claims.NOT_RUN: "no-pairs"}
STYLE = """
h1 + p { font-size: 1.08rem; }
.verdict { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: #fff; font-weight: 600;
  font-size: .86rem;
  white-space: nowrap; }
.shown { background: #00795a; } .opposite { background: #b34700; } .not-shown { background: #5f6b76; }
.gate-failed { background: #a86b00; } .no-pairs { background: #8a8a8a; }
td small, th small { display: block; font-weight: 400; font-size: .8rem; line-height: 1.35; color: var(--soft); }
.claims { width: 100%; } .claims th, .claims td { white-space: normal; text-align: left; }
.claims td.number { text-align: right; white-space: nowrap; } .claims .verdict + small { margin-top: .2rem; }
.claims tbody th { min-width: 11rem; } .claims td { min-width: 4rem; } .claims td.judged { min-width: 14rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
.tally { display: flex; flex-wrap: wrap; gap: .4rem .9rem; padding: 0; margin: .8rem 0; list-style: none; }
.arms tbody th { white-space: nowrap; } .words td { white-space: normal; text-align: left; }
.words thead th { text-align: left; }
.taken th, .taken td { background: #e8f2f9; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1rem; max-width: 46rem; }
@media (max-width: 760px) { .claims thead { display: none; }
  .claims, .claims tbody, .claims tr, .claims th, .claims td { display: block; min-width: 0; max-width: none;
    width: 100%; }
  .claims tr { border-bottom: 2px solid var(--rule); padding: .7rem 0; }
  .claims th, .claims td { border: 0; padding: .15rem 0; }
  .claims td.number { text-align: left; white-space: normal; }
  .claims td.number small { display: inline; margin-left: .5em; }
  .claims td:not(.judged)::before { content: attr(data-label) ": "; color: var(--soft); font-size: .84rem; } }
"""
OF_BLOCKS = ("Nothing was trained for this study: what it calls a seed is a block of text, and its intervals are over "
             "blocks. They say how far the text decides a figure, not how far another model would differ.")
HOW_TO_READ = (
    ("Effect", "Second arm against the first, over pairs of runs with the same seed, hence the same order of the data. "
     f"A factor ({TIMES}) is the geometric mean of the pairs' ratios; else it is a difference in the metric's unit. In "
     "brackets the 95 % interval by Student's t, not corrected for there being many claims. For metrics that are 0 or "
     "1 the interval is Newcombe's."),
    ("sd over seeds", "How much the first arm's own runs differ, with nothing changed but the seed. Below the pairs: "
     "what pairing buys, the seeds that would do as much without pairs over those that there are. 1 is nothing, which "
     "is what runs whose seeds have little in common get."),
    ("Margin", "The smallest effect that matters, fixed in the study's file before the runs. For ratios a margin of .2 "
     "is a factor of 1.2 up or down."),
    ("Primary, exploratory", "A study's file names its primary claims before the runs: Holm's correction over these "
     "lets a wrong one be shown in one study of twenty. The others are exploratory, corrected so that of those shown "
     "one in twenty is wrong in the mean (FDR; Benjamini, Hochberg)."),
    ("Corrected p", "Against an effect that is no larger than the margin, by Student's t over the pairs; where the "
     "claim is that nothing changes, against one that is no smaller (TOST); for 0 or 1 Fisher's exact test of no "
     "difference; the sign test where all pairs differ by the same. Below it the p before correction, and that of the "
     "sign-flip test, which supposes no normal distribution but can't be below 1/16 with five pairs, .0078 with "
     "eight."),
    ("Verdict", "Shown: corrected p below .05, so that the interval at the level of its test lies beyond the margin. "
     "Shown, opposite: the same the other way. Not shown at this scale: anything else; it does not say that there is "
     "no effect. Baseline gate failed: the bound of its 95 % interval does not say that the baseline has what the "
     "claim is about. No pairs: nothing to compare. Not run: some planned runs wait; it has no verdict and counts "
     "nowhere."),
    ("What it would take", "Seeds for 80 % power if effect and sd are those seen, at the level of the correction's "
     "first step. They are seeds of another study: these have been looked at. From few pairs sd and effect are rough, "
     "and so is the number."),
)


# ---- verdicts as text


def effect_text(v: Mapping[str, Any], effect: float) -> str:
    if not math.isfinite(effect):
        return DASH
    return f"{TIMES} {effect:.3g}" if v["scale"] == "ratio" else f"{effect:+.3g}"


def interval_text(v: Mapping[str, Any], interval: Sequence[float]) -> str:
    if not all(map(math.isfinite, interval)):
        return ""
    return "[{}, {}]".format(*(f"{x:.3g}" if v["scale"] == "ratio" else f"{x:+.3g}" for x in interval))


def margin_text(v: Mapping[str, Any]) -> str:
    return f"{TIMES} {1 + v['margin']:.3g}" if v["scale"] == "ratio" else f"{v['margin']:.3g}"


def p_text(p: float) -> str:
    if not math.isfinite(p):
        return DASH
    return f"{p:.2g}" if p >= 0.0001 else "< .0001"


def corrected_text(v: Mapping[str, Any]) -> str:
    return f", {v['correction']} p {p_text(v['p_corrected'])}" if v["correction"] else ""


def verdict_lines(record: Mapping[str, Any]) -> list[str]:
    """One line a claim, for the terminal."""
    width = max((len(v["id"]) for v in record["claims"]), default=0)
    return [f"{v['id']:{width}}  {v['verdict']}: {v['compared']}: {effect_text(v, v['effect'])} "
            f"{interval_text(v, v['effect_interval'])} (n {v['n']}{corrected_text(v)}); {v['why']}"
            for v in restored(record)["claims"]]


def sweep_lines(record: Mapping[str, Any]) -> list[str]:
    """For the terminal: the points that speak for their arms, as a profile's `best` takes them, and those that are the
    least or the largest value of their sweep, so that a better one may lie beyond."""
    best = {sweep["arm"]: sweep["taken"] for sweep in record["sweeps"]}
    ends = [f"{sweep['arm']} {key} {x:g}" for sweep in record["sweeps"] for key, x in sweep["taken"].items()
            if is_end(x, [point["point"][key] for point in sweep["points"]])]
    return ([f"best: {json.dumps(best)}"] if best else []) + (
        [f"best at an end of what was tried: {', '.join(ends)}"] if ends else [])


def is_end(x: Any, of: Sequence[Any]) -> bool:
    """Words and switches have no ends, and of two values each is one."""
    numbers = not any(isinstance(y, bool) or not isinstance(y, (int, float)) for y in of)
    return numbers and len(set(of)) > 2 and x in (min(of), max(of))


# ---- pieces of pages


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", marked: Iterable[int] = ()) -> str:
    """Cells are HTML already; the first of a row is its head."""
    marks = set(marked)
    out = [f'<div class="scroll"><table class="{kind}"><thead><tr>',
           *(f'<th scope="col">{cell}</th>' for cell in header),
           "</tr></thead><tbody>"]
    for i, (head, *cells) in enumerate(rows):
        out.append(f'<tr{" class=taken" if i in marks else ""}><th scope="row">{head}</th>'
                   + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join([*out, "</tbody></table></div>"])


def small(*lines: str) -> str:
    return "".join(f"<small>{escape(line)}</small>" for line in lines if line)


def plus_minus(mean: float, sd: float) -> str:
    return show(mean) + (f" {PLUS_MINUS} {sd:.2g}" if math.isfinite(sd) else "")


def mean_sd(values: Sequence[float]) -> str:
    s = paired.sample(values)
    return plus_minus(s.mean, s.sd)


CLAIM_COLUMNS = ("claim", "verdict", "compared", "effect, 95 % interval", "sd over seeds", "pairs", "corrected p")


def claim_cells(v: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Class, label (where the page is narrow) and content of each cell after the claim itself."""
    constant = len(v["arms"]) == 1 and len(v["metrics"]) == 1
    of, spread = ("second", v["arms"][-1]) if constant else ("first",
                                                             v["arms"][0])  # whose deviation stands beside the effect
    expected = {"lower": "lower", "higher": "higher", "same": "no change"}[v["expect"]]
    sd, mean = v[f"{of}_sd"], v[f"{of}_mean"]
    share = abs(sd / mean) if mean else math.nan
    unit = v["unit"] if v["scale"] == "difference" and v["n"] else ""
    return [
        ("judged", "", f'<span class="verdict {CLASSES[v["verdict"]]}">{escape(v["verdict"])}</span>'
         + small(v["why"], f"It would take {v['take']}." if v["take"] else "")),
        ("", "compared", escape(v["compared"]) + small(f"claimed: {expected}; margin {margin_text(v)}")),
        ("number", "effect", escape(f"{effect_text(v, v['effect'])} {interval_text(v, v['effect_interval'])}")
         + small(unit, f"{show(v['first_mean'])} \N{RIGHTWARDS ARROW} {show(v['second_mean'])}" if v["n"] else "")),
        ("number", f"sd of {spread} over seeds", escape(f"{sd:.2g}" if math.isfinite(sd) else DASH)
         + small(f"{100 * share:.2g} % of its mean" if v["scale"] == "ratio" and math.isfinite(share) else "")),
        ("number", "pairs", str(v["n"]) + small(
            f"{len(v['lost'])} lost" if v["lost"] else "",
            f"r {v['pair_correlation']:.2f}, {TIMES} {v['pairing_gain']:.2g}"
            if math.isfinite(v["pair_correlation"]) else "")),
        ("number", "corrected p", escape(p_text(v["p_corrected"])) + small(
            v["correction"], f"{v['test']}: {p_text(v['p'])}" if v["test"] else "",
            f"flips: {p_text(v['p_flip'])}" if math.isfinite(v["p_flip"]) else "")),
    ]


def claims_table(verdicts: Sequence[Mapping[str, Any]]) -> str:
    if not verdicts:
        return "<p>The study makes no claims.</p>"
    out = ['<table class="claims"><thead><tr>', *(f'<th scope="col">{name}</th>' for name in CLAIM_COLUMNS),
           "</tr></thead><tbody>"]
    for v in verdicts:
        cells = "".join(f'<td class="{kind}" data-label="{escape(label)}">{cell}</td>'
                        for kind, label, cell in claim_cells(v))
        about = small(v["source"], v["id"], v["family"])
        out.append(f'<tr><th scope="row">{escape(v["text"])}{about}</th>{cells}</tr>')
    return "".join([*out, "</tbody></table>"])


def tally(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many there are of each verdict, primary claims apart; those not run count nowhere."""
    items = []
    for family in claims.CORRECTIONS:
        items += [f'<li><span class="verdict {CLASSES[name]}">{n}</span> {name}, {family}</li>'
                  for name in claims.VERDICTS if name != claims.NOT_RUN
                  and (n := sum(v["verdict"] == name and v["family"] == family for v in verdicts))]
    return f'<ul class="tally">{"".join(items)}</ul>'


def arm_key(results: Results) -> str:
    from sinkstudy.report import figures

    items = []
    for i, arm in enumerate(results.arms):
        rows = results.rows_of(arm)
        items.append(f'<li><b style="background:{figures.colour(i)}"></b>{escape(arm)} '
                     f"<small>{sum(row.status == 'finished' for row in rows)} of {len(rows)} seeds</small></li>")
    return f'<ul class="key">{"".join(items)}</ul>'


def arms_table(results: Results, names: Sequence[str]) -> str:
    header = ["arm", "seeds", "diverged", "parameters",
              *(escape(label_of(results, name)) + small(metrics_unit(results, name)) for name in names), "seconds",
              "core-hours"]
    base = paired.sample(results.values(results.arms[0], "params")).mean
    rows = []
    for arm in results.arms:
        runs = results.rows_of(arm)
        params = paired.sample(results.values(arm, "params")).mean
        more = f"{TIMES} {params / base:.4g}" if params != base and math.isfinite(params / base) else ""
        seconds = [row.seconds for row in runs if row.status == "finished" and math.isfinite(row.seconds)]
        hours = [row.core_hours for row in runs if math.isfinite(row.core_hours)]
        rows.append([escape(arm), f"{sum(row.status == 'finished' for row in runs)} of {len(runs)}",
                     str(sum(row.status == "diverged" for row in runs) or DASH), show(params) + small(more),
                     *(mean_sd(results.values(arm, name)) for name in names), mean_sd(seconds),
                     show(math.fsum(hours)) if hours else DASH])
    return html_table(header, rows, "arms")


def label_of(results: Results, name: str) -> str:
    row = metrics.find(name, results.looks)
    return row.label if row else name


def metrics_unit(results: Results, name: str) -> str:
    row = metrics.find(name, results.looks)
    return row.unit if row else ""


# ---- sections


def claims_section(verdicts: Sequence[Mapping[str, Any]]) -> str:
    from sinkstudy.report import figures, study_figures

    out = ["<h2>Claims</h2>", tally(verdicts), claims_table(verdicts)]
    drawn = study_figures.drawn(verdicts)
    if drawn:
        out.append(picture(figures.svg(study_figures.forest, drawn, study_figures.forest_size(drawn)),
                           "effects of the claims",
                           study_figures.FOREST_CAPTION))
    return "".join(out)


def dots_section(title: str, results: Results, names: Sequence[str], about: str = "") -> str:
    from sinkstudy.report import figures, study_figures

    if not names:
        return ""
    size = study_figures.rows_size(len(results.arms), max(map(len, results.arms)))
    pictures = []
    for name in names:
        row = metrics.find(name, results.looks)
        words = f"{row.label}: {row.meaning}" if row and row.meaning else label_of(results, name)
        unit = f", {row.unit}" if row and row.unit else ""
        pictures.append(picture(figures.svg(study_figures.dots(name), results, size), f"{name} of each arm",
                                f"{escape(words + unit)}. {study_figures.DOTS_CAPTION}"))
    return f'<h2>{title}</h2>{about}<div class="gallery">{"".join(pictures)}</div>'


TRAINING = (
    ("m2_over_training",
     "M2 over training: largest over median channel of mean |h|, token 0 left out, largest layer. "),
    ("max_over_training", "Largest |h| of the residual stream. "),
    ("att0_over_training", "Attention to token 0, mean over layers, heads and all queries but the first. "),
    ("loss_over_training", "Training loss, exponential mean over a fiftieth of the steps, nats per token. The first "
     "4\N{NO-BREAK SPACE}% of the steps may lie above the frame. "),
    ("profiles", "Mean |h| of each channel over that of the median channel, sorted, at the layer of largest M2 of the "
     "finished model; the left end is M2. The mean is geometric. "),
)


def training_section(results: Results) -> str:
    if results.of_blocks or not any(row.run for row in results.rows):
        return ""
    from sinkstudy.report import figures, study_figures

    pictures = [picture(figures.svg(getattr(study_figures, name), results), name.replace("_", " "),
                        f"{caption}Line: mean over seeds; faint: each seed.") for name, caption in TRAINING]
    return f'<h2>Over training</h2>{arm_key(results)}<div class="gallery">{"".join(pictures)}</div>'


def scale_section(results: Results, names: Sequence[str]) -> str:
    from sinkstudy.report import figures, study_figures

    pictures = [picture(figures.svg(study_figures.against(name, axis), results), f"{name} over the grid",
                        f"{escape(label_of(results, name))} against {escape(results.grid_axes()[axis][0])}; dots: "
                        "seeds, line: their mean.")
                for axis in study_figures.scale_axes(results) for name in names]
    return f'<h2>Over the grid</h2><div class="gallery">{"".join(pictures)}</div>' if pictures else ""


def sweep_section(results: Results) -> str:
    return "".join(["<h2>Sweeps</h2>", *(sweep_table(results, choice)
                                         for choice in results.swept)]) if results.swept else ""


def sweep_table(results: Results, choice: Choice) -> str:
    keys = list(dict.fromkeys(key for point in choice.points for key in point["point"]))
    rows = [[str(at), *(f"<code>{escape(point['point'].get(key, DASH))}</code>" for key in keys),
             plus_minus(point["mean"], point["sd"]), f"{point['n']} of {point['planned']}",
             str(point["diverged"] or DASH),
             "speaks for the arm" if point["key"] == choice.taken else ""]
            for at, point in enumerate(choice.points, start=1)]
    best = [at for at, point in enumerate(choice.points) if point["key"] == choice.taken]
    return (f"<h3>{escape(choice.arm)}</h3>" + html_table(
        ["point", *(f"<code>{escape(key)}</code>" for key in keys), escape(label_of(results, choice.select)), "seeds",
         "diverged",
         ""], rows, "", best)
        + f"<p>The point with the best mean of <code>{escape(choice.select)}</code> over seeds speaks for the arm; one "
        "with a diverged seed is worse than any without. Chosen on the same seeds that it is compared by.</p>")


def interventions_section(results: Results) -> str:
    names = [f"{of}.loss_change" for of in results.interventions
             if any(results.values(arm, f"{of}.loss_change") for arm in results.arms)]
    if not names:
        return "<h2>Interventions</h2><p>No figures yet.</p>" if results.interventions else ""
    settings = "; ".join(f"{of}: "
                         + ", ".join(f"{k} {v}" for k, v in (results.study["interventions"][of] or {}).items())
                         for of in results.interventions)
    table = html_table(["arm", *(escape(name.removesuffix(".loss_change")) for name in names)],
                       [[escape(arm), *(mean_sd(results.values(arm, name)) for name in names)] for arm in results.arms])
    return dots_section("Interventions on the finished models", results, names,
                        f"<p>Validation loss with the intervention minus without, nats per token, mean {PLUS_MINUS} sd "
                        f"over seeds; nothing is trained again. <code>{escape(settings)}</code></p>{table}")


def quantisation_section(results: Results) -> str:
    """A table of loss changes, arms x schemes, for each transformation; then the errors by class of tensor."""
    wanted = results.study.get("quantize")
    if not wanted:
        return ""
    out = ["<h2>Rounded to 8 and 4 bits</h2>", "<p>Validation loss of the rounded model minus that in fp32, nats per "
           f"token, mean {PLUS_MINUS} sd over seeds. <code>sinklab quantize --list</code> has the schemes in "
           "words.</p>"]
    for name, options in wanted["transformations"].items():
        flags = ", ".join(f"{key} {value}" for key, value in (options or {}).items())
        out += [f"<h3>{escape(name)}{small(flags)}</h3>", quantised_table(results, name, "loss_change")]
    first = next(iter(wanted["transformations"]))
    for row in metrics.QUANTISED:
        if row.name.startswith("error_"):
            out += [f"<h3>{escape(row.label)}{small(row.meaning, first)}</h3>",
                    quantised_table(results, first, row.name)]
    return "".join(out)


def quantised_table(results: Results, transformation: str, figure: str) -> str:
    schemes = results.study["quantize"]["schemes"]
    return html_table(["arm", *map(escape, schemes)], [
        [escape(arm), *(mean_sd(results.values(arm, f"quantize.{scheme}.{transformation}.{figure}"))
                        for scheme in schemes)]
        for arm in results.arms])


def gates_section(gates: Sequence[Mapping[str, Any]]) -> str:
    if not gates:
        return ""
    rows = []
    for gate in gates:
        for c in gate["conditions"]:
            wants = f"gate {c['gate']}" if "gate" in c else f"{c['metric']} {claims.TESTS[c['test']][0]} {c['limit']:g}"
            there = "" if "gate" in c else escape(claims.bound_text(c))
            met = "met" if gate["met"] else "failed"
            rows.append([escape(gate["name"]), escape(gate["arm"]), escape(wants), there, "yes" if c["met"] else "no",
                         f'<span class="verdict {"shown" if gate["met"] else "gate-failed"}">{met}</span>'
                         + small(f"{gate['mode']} of its conditions")])
    return ("<h2>Gates</h2><p>Whether the baseline has what the claims are about: the bound of the mean over seeds, "
            "which it is beyond with 95 %, must fulfil it.</p>"
            + html_table(["gate", "arm", "wants", "there is", "fulfilled", "gate"], rows, "words"))


def losses_section(results: Results) -> str:
    rows = [[escape(row.arm), str(row.seed), escape(", ".join(f"{k} {v}" for k, v in row.point.items())) or DASH,
             escape({"missing": "not run yet"}.get(row.status, row.status)), escape(row.message) or DASH,
             f"<code>{escape(row.hash[:12])}</code>"] for row in results.rows if row.status != "finished"]
    table = html_table(["arm", "seed", "point", "status", "message", "run"], rows, "words") if rows else (
        f"<p>None: all {len(results.rows)} runs finished.</p>")
    said = dict.fromkeys(f"{row.arm}: {text}" for row in results.rows
                         for text in [*row.notes, f"parameters not matched: {row.unmatched}" if row.unmatched else ""]
                         if text)
    notes = f'<ul>{"".join(f"<li>{escape(text)}</li>" for text in said)}</ul>' if said else ""
    return f"<h2>Failed, diverged and missing runs</h2>{table}{notes}"


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def configuration_section(results: Results) -> str:
    if not any(row.settings for row in results.rows):
        return f"<h2>Configuration</h2><p>That of {escape(results.plan['file'])}.</p>"
    tables = {arm: {k: text_of(v) for k, v in rows[0].settings.items() if k != "seed"}
              for arm in results.arms if (rows := results.rows_of(arm))}
    keys = list(dict.fromkeys(key for table in tables.values() for key in table))
    common = [key for key in keys if len({table.get(key) for table in tables.values()}) == 1]
    first = next(iter(tables.values()), {})
    base = html_table(["key", "value"], [[f"<code>{escape(key)}</code>", f"<code>{escape(first[key])}</code>"]
                                         for key in common],
                      "settings")
    arms = html_table(["arm", "sets"], [[escape(arm), ", ".join(
        f"<code>{escape(key)}: {escape(table[key])}</code>" for key in keys if key in table and key not in common)
                                         or DASH]
        for arm, table in tables.items()], "settings")
    seeds = sorted({row.seed for row in results.rows})
    return (f"<h2>Configuration</h2><p>Seeds {escape(', '.join(map(str, seeds)))}. What arms set apart from each "
            f"other:</p>{arms}<details><summary>The same in all arms: {len(common)} keys</summary>{base}</details>")


def environment_section(results: Results) -> str:
    machines = results.machines()
    seconds, hours = results.cost()
    rows = [[escape(m["cpu"]), *(escape(m[key]) or DASH for key in MACHINE[1:]), str(m["runs"])] for m in machines]
    out = ["<h2>Environment and cost</h2>", html_table([*MACHINE, "runs"], rows, "words") if rows
           else "<p>Not recorded.</p>"]
    if len({(m["tier"], m["precision"], m["version"]) for m in machines}) > 1:
        out.append('<div class="notes">These runs come of different kernel tiers, precisions or versions, which round '
                   "differently; a comparison within a pair is clean only where both sides have the same.</div>")
    out.append(f"<p>All {len(results.distinct())} runs together: {show(seconds / 3600)} hours of runs, {show(hours)} "
               "core-hours. Runs that other studies share are counted here too.</p>")
    return "".join(out)


def state_notes(results: Results) -> str:
    counts = results.counts()
    if not (counts["missing"] or counts["failed"]):
        return ""
    total = len(results.rows)
    return (f'<div class="notes"><strong>Partial.</strong> {counts["finished"] + counts["diverged"]} of {total} runs '
            'are here'
            + (f", {counts['failed']} failed" if counts["failed"] else "")
            + (f", {counts['missing']} are not run yet" if counts["missing"] else "")
            + ". A claim has its verdict when all its runs are here.</div>")


def page(results: Results, record: Mapping[str, Any]) -> str:
    names = metric_names(results, record)
    how = "".join(f"<dt>{term}</dt><dd>{words}</dd>" for term, words in HOW_TO_READ)
    return document(record["title"], [
        f"<h1>{escape(record['title'])}</h1>", f"<p>{escape(record['question'])}</p>" if record["question"] else "",
        f"<p><small>Study {escape(record['study'])}, profile {escape(record['profile'])}"
        + (f"; {escape(record['source'])}" if record["source"] else "") + "</small></p>", state_notes(results),
        f"<p>{OF_BLOCKS}</p>" if results.of_blocks else "",
        claims_section(record["claims"]), "<h2>Arms</h2>", arms_table(results, names),
        f"<p>Mean {PLUS_MINUS} sd over seeds. Parameters: below them over the first arm's.</p>",
        dots_section("Seeds", results, names), training_section(results), sweep_section(results),
        interventions_section(results),
        quantisation_section(results),
        scale_section(results, names), gates_section(record["gates"]), losses_section(results),
        configuration_section(results),
        environment_section(results), f"<h2>How to read this</h2><dl>{how}</dl>",
        "<footer>h: residual stream, fp32, on validation windows; token 0: position 0 of a window. All runs with all "
        "metrics: runs.csv; all numbers behind the verdicts: verdicts.json. Made by sinklab.</footer>"], STYLE)


def metric_names(results: Results, record: Mapping[str, Any]) -> list[str]:
    """What tables and dots show: metrics of claims and gates first; those of looks have sections of their own."""
    named = [*(name for v in record["claims"] for name in v["metrics"]),
             *(c["metric"] for gate in record["gates"] for c in gate["conditions"] if "metric" in c)]
    return [name for name in results.main_metrics(named) if not results.of_looks(name) and name != "diverged"]


# ---- writing


def judged(results: Results) -> dict[str, Any]:
    """What verdicts.json holds."""
    gates, rows = claims.judge(*claims.parse(results.study), results.by_seed())
    seconds, hours = results.cost()
    return {"format": FORMAT, "study": results.plan["study"],
            "title": str(results.study.get("title") or results.plan["study"]),
            "question": str(results.study.get("question") or ""), "source": str(results.study.get("source") or ""),
            "profile": results.plan["profile"], "file": results.plan.get("file", ""),
            "sha256": results.plan.get("sha256", ""), "machines": results.machines(), "runs": results.counts(),
            "seconds": seconds, "core_hours": hours,
            "sweeps": [{"arm": c.arm, "select": c.select,
                        "taken": next(point["point"] for point in c.points if point["key"] == c.taken),
                        "points": [{k: v for k, v in point.items() if k != "key"} for point in c.points]}
                       for c in results.swept],
            "gates": gates, "claims": rows}


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_rows(path: Path, write: Any) -> None:
    def whole(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as out:
            write(out)
    write_whole(path, whole)


def report(study: Mapping[str, Any], plan: Mapping[str, Any], store: Path, out: Path) -> dict[str, Any]:
    """Writes report.html, runs.csv, verdicts.json and pictures into `out`; returns what verdicts.json holds."""
    results = from_store(study, plan, store)
    record = judged(results)
    write_text(out / "verdicts.json", json.dumps(finite(record), indent=1, ensure_ascii=False) + "\n")
    write_rows(out / "runs.csv", partial(write_csv, results))
    pictures(results, record, out)
    write_text(out / "report.html", page(results, record))  # last: with it everything is there
    return record


def pictures(results: Results, record: Mapping[str, Any], out: Path) -> None:
    """claims.png, arms.png (up to three metrics), training.png (not of a study over text blocks): for READMEs."""
    from sinkstudy.report import study_figures as figures

    claims_picture(record, out)
    arms_picture(results, record, out)
    if results.of_blocks:
        return
    curves = [partial(panel, results=results) for panel in (figures.m2_over_training, figures.max_over_training,
                                                            figures.loss_over_training)]
    write_whole(out / "training.png", lambda path: figures.draw(curves, path, (3 * figures.WIDTH, 3.6)))


def claims_picture(record: Mapping[str, Any], out: Path) -> None:
    from sinkstudy.report import study_figures as figures

    verdicts = figures.drawn(record["claims"])
    if verdicts:
        panel = partial(figures.forest, verdicts=verdicts)
        write_whole(out / "claims.png", lambda path: figures.draw([panel], path, figures.forest_size(verdicts)))


def arms_picture(results: Results, record: Mapping[str, Any], out: Path) -> None:
    from sinkstudy.report import study_figures as figures

    names = metric_names(results, record)[:3]
    if names:
        width, height = figures.rows_size(len(results.arms), max(map(len, results.arms)))
        panels = [partial(figures.dots(name), results=results) for name in names]
        write_whole(out / "arms.png", lambda path: figures.draw(panels, path, (width * len(names), height)))


# ---- all studies


OVERVIEW_COLUMNS = ("study", "profile", "machine", "version", "id", "family", "text", "source", "metrics", "arms",
                    "compared", "scale", "expect", "margin", "verdict", "same_as", "why", "take", "effect",
                    "effect_interval", "interval_method", "n", "p", "p_corrected", "correction", "p_flip", "test",
                    "first_mean", "first_sd", "second_mean", "second_sd", "pair_correlation", "pairing_gain",
                    "seeds_needed", "page")


def restored(value: Any) -> Any:
    """verdicts.json as it was made: null of a figure is NaN again."""
    numbers = ("effect", "mean", "sd", "bound", "p", "p_corrected", "p_flip", "first_mean", "first_sd", "second_mean",
               "second_sd", "pair_correlation", "pairing_gain")
    if isinstance(value, dict):
        return {k: math.nan if v is None and k in numbers else restored(v) for k, v in value.items()}
    return [math.nan if x is None else restored(x) for x in value] if isinstance(value, list) else value


def machine_text(record: Mapping[str, Any]) -> str:
    return "; ".join(dict.fromkeys(f"{m['cpu']}, {m['tier']}" for m in record["machines"])) or "no machine recorded"


def read_records(folders: Iterable[Path]) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """Records with their folders; and a note for each folder without a readable one."""
    found, notes = [], []
    for folder in folders:
        path = folder / "verdicts.json"
        record = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else None
        if isinstance(record, dict) and record.get("format") == FORMAT:
            found.append((folder, restored(record)))
        else:
            notes.append(f"{folder}: no verdicts.json of this version; run the study again")
    return found, notes


def repeated(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Study and id of claims that compare what a claim of a study above compares, with that one's name."""
    first: dict[tuple[Any, ...], str] = {}
    out: dict[tuple[str, str], str] = {}
    for record in records:
        for v in record["claims"]:
            if v["n"]:
                name = first.setdefault(claims.comparison(v), f"{record['study']}.{v['id']}")
                out |= {(record["study"], v["id"]): name} if name != f"{record['study']}.{v['id']}" else {}
    return out


def overview(folders: Iterable[Path], path: Path) -> list[dict[str, Any]]:
    """Writes the page, and .json and .csv beside it: every claim of every study; returns the rows."""
    found, notes = read_records(folders)
    same = repeated([record for _, record in found])
    rows = []
    for folder, record in found:
        about = {"study": record["study"], "profile": record["profile"], "machine": machine_text(record),
                 "version": ", ".join(dict.fromkeys(m["version"] for m in record["machines"])),
                 "page": link(folder, path)}
        rows += [{key: (about | v | {"same_as": same.get((record["study"], v["id"]), "")}).get(key)
                  for key in OVERVIEW_COLUMNS} for v in record["claims"]]
    rows = finite(rows)
    write_text(path.with_suffix(".json"), json.dumps({"format": FORMAT, "claims": rows}, indent=1, ensure_ascii=False)
               + "\n")
    write_rows(path.with_suffix(".csv"), partial(table_of, rows, OVERVIEW_COLUMNS))
    write_text(path, overview_page(found, notes, path))
    return rows


def link(folder: Path, path: Path) -> str:
    """The report in a folder, as the page at `path` refers to it."""
    return Path(os.path.relpath(folder / "report.html", path.parent)).as_posix()


def overview_page(found: Sequence[tuple[Path, Mapping[str, Any]]], notes: Sequence[str], path: Path,
                  more: str = "") -> str:
    """more: HTML below the tally."""
    same = repeated([record for _, record in found])
    once = [v for _, record in found for v in record["claims"] if (record["study"], v["id"]) not in same]
    body = ["<h1>Claims of all studies</h1>", tally(once), more]
    if same:
        body.append("<p>Counted once, as they compare the same figures: "
                    + escape("; ".join(f"{of}.{name} is {first}" for (of, name), first in same.items())) + ".</p>")
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        body.append(f'<div class="notes"><strong>Without results</strong><ul>{items}</ul></div>')
    for folder, record in found:
        runs = record["runs"]
        state = ", ".join(f"{n} {name}" for name, n in runs.items() if n)
        body += [f'<h2><a href="{escape(link(folder, path))}">{escape(record["title"])}</a></h2>',
                 f"<p>{escape(record['question'])}</p>",
                 f"<p><small>Study {escape(record['study'])}, profile {escape(record['profile'])}; runs: {state}; "
                 f"{escape(machine_text(record))}; {show(record['core_hours'])} core-hours</small></p>",
                 claims_table(record["claims"])]
    how = "".join(f"<dt>{term}</dt><dd>{words}</dd>" for term, words in HOW_TO_READ)
    return document("Claims of all studies", [*body, f"<h2>How to read this</h2><dl>{how}</dl>",
                                              "<footer>Made by sinklab.</footer>"], STYLE)
