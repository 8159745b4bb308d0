#!/usr/bin/env python3
"""One self-contained HTML page about one or several runs of `sinklab train`, and the table on the terminal.

    python experiments/report.py runs/baseline runs/gated_norm --out report.html --png report.png
    sinklab probe model.gguf --corpus text.txt --json --profile >model.json
    python experiments/report.py model.json --out model.html

Finished, killed and damaged runs are all reported; what is missing is said on the page. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sinkstudy.judge.metrics import TABLE
from sinkstudy.report.page import document, escape, picture, show, write_whole
from sinkstudy.store.runs import Record, Run, RunError, differing, is_records, number, read_runs

MANY_RUNS = 24


@dataclass(frozen=True)
class Figure:
    """A row of the table of final figures."""

    key: str
    label: str
    meaning: str
    value: Callable[[Run], float]
    change: str = "ratio"  # how two runs are compared: ratio, difference or nothing


def probe_figure(key: str, change: str = "ratio") -> Figure:
    row = TABLE[key]
    return Figure(key, row.label, row.meaning, lambda run: number(run.final_probe().get(key)), change)


def result_figure(key: str, change: str = "", metric: str = "") -> Figure:
    """From result.json; of an unfinished run the last recorded value of a metric."""
    def value(run: Run) -> float:
        if key in run.result:
            return number(run.result[key])
        return run.last_metric(metric) if metric else math.nan
    row = TABLE[key]
    return Figure(key, row.label, row.meaning or row.unit, value, change)


FIGURES = (
    result_figure("val_loss", "difference", "val_loss"),
    result_figure("bits_per_byte", "difference", "val_bits_per_byte"),
    *map(probe_figure, ("max", "max_no_token0", "m2", "top1_permille", "kurtosis_h")),
    probe_figure("lambda_min", "difference"),
    *map(probe_figure, ("att0", "sink_rate", "value_norm_ratio")), result_figure("params"), result_figure("tokens"),
    result_figure("tokens_per_s", "ratio", "tokens_per_s"), result_figure("seconds", "", "seconds"),
)


def show_change(figure: Figure, first: float, second: float) -> str:
    if not (math.isfinite(first) and math.isfinite(second)):
        return ""
    if figure.change == "difference":
        return f"{second - first:+.4f}"
    if figure.change == "ratio" and first > 0:
        return f"\N{MULTIPLICATION SIGN} {second / first:.3g}"
    return ""


def table_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Cells of the table of final figures: header row, then a row a figure."""
    compare = len(runs) == 2
    rows = [["", *(run.name + ("" if run.finished else " \N{DAGGER}") for run in runs),
             *(["change"] if compare else [])]]
    for figure in FIGURES:
        values = [figure.value(run) for run in runs]
        cells = [figure.label, *map(show, values)]
        rows.append(cells + ([show_change(figure, *values)] if compare else []))
    return rows


def text_table(runs: Sequence[Run]) -> str:
    """The table for a terminal."""
    rows = table_rows(runs)
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) if c else cell.ljust(width)
                       for c, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    if any(not run.finished for run in runs):
        lines.append("\N{DAGGER} unfinished: last recorded figures")
    return "\n".join(line.rstrip() for line in lines)


# ---- HTML


def html_table(runs: Sequence[Run]) -> str:
    header, *rows = table_rows(runs)
    out = ['<div class="scroll"><table><thead><tr>',
           *(f'<th scope="col">{escape(cell)}</th>' for cell in header), "</tr></thead><tbody>"]
    for figure, row in zip(FIGURES, rows, strict=True):
        meaning = f'<span class="meaning">{escape(figure.meaning)}</span>' if figure.meaning else ""
        out.append(f'<tr><th scope="row">{escape(row[0])}{meaning}</th>'
                   + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>")
    return "".join([*out, "</tbody></table></div>"])


def settings_table(runs: Sequence[Run], tables: Sequence[dict[str, str]], keys: Iterable[str]) -> str:
    """Keys x runs; rows whose values differ are marked."""
    differ = set(differing(list(tables)))
    out = ['<div class="scroll"><table class="settings"><thead><tr><th></th>',
           *(f'<th scope="col">{escape(run.name)}</th>' for run in runs), "</tr></thead><tbody>"]
    for key in keys:
        mark = ' class="differs"' if key in differ else ""
        cells = "".join(f"<td>{escape(table.get(key, chr(0x2013)))}</td>" for table in tables)
        out.append(f'<tr{mark}><th scope="row"><code>{escape(key)}</code></th>{cells}</tr>')
    return "".join([*out, "</tbody></table></div>"])


def settings(title: str, runs: Sequence[Run], tables: Sequence[dict[str, str]]) -> str:
    """A section on configuration or environment: what differs in the open, everything behind a click."""
    keys = list(dict.fromkeys(key for table in tables for key in table))
    if not keys:
        return f"<h2>{title}</h2><p>Not recorded.</p>"
    differ = differing(list(tables))
    out = [f"<h2>{title}</h2>"]
    if len(runs) > 1:
        out.append(settings_table(runs, tables, differ) if differ else "<p>The same in all runs.</p>")
    out.append(f"<details{' open' if len(runs) == 1 else ''}><summary>All {len(keys)} values</summary>"
               f"{settings_table(runs, tables, keys)}</details>")
    return "".join(out)


def gallery(runs: Sequence[Run], panels: Sequence[tuple[str, str]]) -> str:
    """Panels by their function's name in figures.py, each with its caption."""
    from sinkstudy.report import figures  # late: --help and errors in the arguments need no matplotlib

    pictures = [picture(figures.svg(getattr(figures, name), runs), name.replace("_", " "), caption)
                for name, caption in panels]
    return f'<div class="gallery">{"".join(pictures)}</div>'


def heat_maps(runs: Sequence[Run]) -> str:
    from sinkstudy.report import figures

    top = figures.heat_top(runs)
    out = []
    for run in runs:
        blocks = len(figures.heat(run))
        size = (4.8, min(8.0, max(2.6, 1.2 + 0.36 * blocks)))
        image = figures.svg(figures.attention_heat(run, top), [run], size)
        out.append(picture(image, f"attention to token 0 in {run.name}", f"{escape(run.name)}: mean attention of "
                           "all queries but the first to token 0, one cell a head; framed: sinks, above .3. One "
                           "colour scale for all runs."))
    return f'<div class="gallery">{"".join(out)}</div>'


def top_tokens(runs: Sequence[Run]) -> str:
    """Of models that were probed: the tokens of largest norm."""
    found = [(run, run.final_probe().get("top_tokens")) for run in runs]
    return "".join(token_table(run, top) for run, top in found if isinstance(top, dict))


def token_table(run: Run, top: Record) -> str:
    mean = number(top.get("mean_norm"))
    out = [f"<h2>Tokens of largest norm in {escape(run.name)}</h2><p>At layer {escape(top.get('layer'))}, the one of "
           f"the largest norm. Tokens there that are not the first of their window have a mean norm of {show(mean)}; "
           'first ones are ranked apart.</p><div class="gallery">']
    for key, title in (("first", "first of a window"), ("others", "all others")):
        found = top.get(key)
        rows = found if is_records(found) else []
        cells = "".join(
            f'<tr><th scope="row"><code>{escape(token_text(row))}</code></th><td>{show(number(row.get("norm")))}</td>'
            f'<td>{show(number(row.get("norm")) / mean) if mean else ""}</td><td>{escape(row.get("window"))}</td>'
            f'<td>{escape(row.get("position"))}</td></tr>' for row in rows)
        out.append(f'<div class="scroll"><table><thead><tr><th scope="col">{title}</th><th scope="col">norm</th>'
                   '<th scope="col">over the mean</th><th scope="col">window</th><th scope="col">position</th></tr>'
                   f"</thead><tbody>{cells}</tbody></table></div>")
    return "".join([*out, "</div>"])


def token_text(row: Record) -> str:
    """In quotes, with line ends as \\n; of a token without text its number."""
    text = row.get("text")
    return json.dumps(text, ensure_ascii=False) if isinstance(text, str) else f"token {row.get('token')}"


GROWTH = (
    ("loss", "Training loss (faint: each logged step; line: exponential mean over a fiftieth of them) and validation "
     "loss (markers), nats per token. The first 4\N{NO-BREAK SPACE}% of the steps may lie above the frame."),
    ("m2_over_steps", "M2 over training: mean |h| of the largest channel over that of the median channel, token 0 "
     "left out, largest layer. 1 is flat; dashed: 5, from which we call it a residual sink. Logarithmic."),
    ("max_over_steps", "Largest |h| of the residual stream over layers, tokens and channels; dotted: without token 0, "
     "so that the gap between the two lines is the first token's massive activation. Logarithmic."),
    ("lambda_over_steps", "Smallest |weight| of the block norms, which start at 1. At a residual sink the norm "
     "suppresses the channel: its weight goes towards 0."),
    ("att0_over_steps", "Attention to token 0, mean over layers, heads and all queries but the first. Attention spread "
     "evenly would give the mean of 1/(q+1) over queries q = 1, 2, ...: about .02 for windows of 256."),
)
LAYERS = (
    ("channel_profile", "Mean |h| of each channel over that of the median channel, sorted, at the layer of largest M2 "
     "(last probe, token 0 left out). The left end of the line is M2. Both axes logarithmic."),
    ("m2_over_layers", "M2 of each layer of the residual stream at the last probe. Logarithmic."),
    ("max_over_layers", "Largest |h| of each layer at the last probe; dotted: without token 0. Logarithmic."),
    ("weight_against_size", "One marker a channel, at the block input of largest M2: how large the channel is against "
     "the weight that the attention norm gives it. A residual sink is far to the right and at the bottom."),
    ("sorted_norm_weights", "|Norm weight| of the channels of each block norm, sorted: median over the norms, and "
     "band from the least to the greatest."),
)
def run_key(runs: Sequence[Run]) -> str:
    from sinkstudy.report import figures

    items = []
    for i, run in enumerate(runs):
        status = run.result.get("status", "finished") if run.finished else "unfinished \N{DAGGER}"
        when = f"step {run.last_step:,}, " if run.trained else ""
        items.append(f'<li><b style="background:{figures.colour(i)}"></b>{escape(run.name)} '
                     f"<small>{when}{escape(status)}</small></li>")
    return f'<ul class="key">{"".join(items)}</ul>'


def notes(runs: Sequence[Run]) -> str:
    items = [f"<li>{escape(run.name)}: {escape(note)}</li>" for run in runs for note in run.notes]
    if not items:
        return ""
    return f'<div class="notes"><strong>Gaps in these runs</strong><ul>{"".join(items)}</ul></div>'


def page(runs: Sequence[Run], title: str) -> str:
    trained = [run for run in runs if run.trained]
    body = [
        f"<h1>{escape(title)}</h1>", run_key(runs), notes(runs),
        "<h2>Final figures</h2>", html_table(runs),
        "<p>\N{EN DASH}: not measured. \N{DAGGER}: unfinished run, last recorded figures. Change: second run "
        "minus the first (with a sign) or over it (\N{MULTIPLICATION SIGN}).</p>" if len(runs) == 2 else
        "<p>\N{EN DASH}: not measured. \N{DAGGER}: unfinished run, last recorded figures.</p>",
        *(["<h2>Over training</h2>", gallery(trained, GROWTH)] if trained else []),
        "<h2>Channels and norm weights at the end</h2>", gallery(runs, LAYERS),
        "<h2>Attention to token 0 at the end</h2>", heat_maps(runs), top_tokens(runs),
        *([settings("Configuration", trained, [run.config for run in trained]),
           settings("Environment", trained, [run.env for run in trained])] if trained else []),
        "<footer>h: residual stream, fp32, on validation windows; token 0: position 0 of a window, the BOS token "
        "unless data.bos is false. Single runs differ by their seed: compare several before you conclude. "
        "Made by sinklab.</footer>",
    ]
    return document(title, body)


# ---- command line


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="report.py", description="One HTML page about runs of `sinklab train`.")
    parser.add_argument("run", nargs="+", type=Path, help="run directory, or what `sinklab probe --json` printed")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (default: %(default)s)")
    parser.add_argument("--png", type=Path, help="also one picture: M2 over the steps and the "
                        "channel profile; of probed models attention to token 0 and the largest activations")
    parser.add_argument("--title", help="default: the names of the runs")
    return parser.parse_args(argv)


def report(options: argparse.Namespace) -> None:
    if len(options.run) > MANY_RUNS:
        raise RunError(f"{len(options.run)} runs; a page shows at most {MANY_RUNS}")
    runs = read_runs(options.run)
    title = options.title or "sinklab: " + ", ".join(run.name for run in runs)
    text = page(runs, title)
    write_whole(options.out, lambda path: path.write_text(text, encoding="utf-8"))
    if options.png:
        from sinkstudy.report import figures

        write_whole(options.png, lambda path: figures.summary_png(runs, path))
    print(text_table(runs))
    print(f"\nreport: {options.out}")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        report(options)
    except ModuleNotFoundError as error:
        print(f"report.py: error: needs the Python package {error.name}; "
              "pip install -r experiments/requirements.txt", file=sys.stderr)
        return 1
    except RunError as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"report.py: error: {error.filename or options.out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
