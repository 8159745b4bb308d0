#!/usr/bin/env python3
"""sinklab's training speed beside PyTorch's: alternating runs, medians and bests, ratios, Markdown tables.

    python3 experiments/comparisons/speed/run.py --python PYTHON_WITH_TORCH --json speed.json
    python3 experiments/comparisons/speed/run.py --rows bench-10m:bf16:2 bench-10m:bf16:2:gated_norm --rounds 5
    python3 experiments/comparisons/speed/run.py --grid --precision bf16 --json grid.json --picture grid.png
    python3 experiments/comparisons/speed/run.py --rows bench-1m:bf16:2 --studies
    python3 experiments/comparisons/speed/run.py --table speed.json        # the tables again, from the raw figures

A row is PRESET:PRECISION:THREADS[:NORM]. Without PyTorch only sinklab's columns are there. Only --picture needs more
than Python's own library.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import grid
import picture
from measure import (LIMIT, ROOT, SHARE, Bench, Figures, SpeedError, faster, json_object, machine, name, new_row,
                     run_kernel, speeds)
from telling import best, markdown, median, ratio, shown, span

ROWS = ("bench-1m:fp32:2", "bench-1m:bf16:2", "bench-10m:fp32:2", "bench-10m:bf16:2", "bench-10m:bf16:2:gated_norm",
        "bench-100m:bf16:2", "bench-10m:bf16:16", "bench-100m:bf16:16")


def parse_row(text: str) -> Figures:
    parts = text.split(":")
    if (len(parts) not in (3, 4) or not all(parts) or parts[1] not in ("fp32", "bf16")
            or not parts[2].isdecimal() or int(parts[2]) < 1):
        raise argparse.ArgumentTypeError("a row is PRESET:PRECISION:THREADS[:NORM], such as bench-10m:bf16:2, not "
                                         f"{text!r}")
    return new_row(parts[0], parts[1], int(parts[2]), *parts[3:])


# ---- telling


def field(row: Figures, side: str, key: str) -> float:
    """Median over rounds of a figure of one side; NaN where it is not there."""
    return median([figures[key] for figures in row.get(side, []) if isinstance(figures.get(key), (int, float))])


def round_ratios(row: Figures, side: str) -> list[float]:
    """sinklab over the peer, each within one round."""
    return [a / b for a, b in zip(speeds(row, "sinklab"), speeds(row, side)) if b > 0]


HEADER = ("preset", "precision", "norm", "threads", "sinklab, tokens/s", "best", "lowest", "GFLOP/s", "of peak",
          "memory, GB")
PEER_HEADER = ("PyTorch, tokens/s", "best", "memory, GB", "ratio", "ratio of the bests", "ratio of the rounds")
SHARE_HEADER = ("preset", "precision", "norm", "threads", "linear layers, GFLOP/s", "best", "kernel, GFLOP/s", "best",
                "share", "share of the bests")


def of_row(row: Figures) -> list[str]:
    return [row["preset"], row["precision"], row["norm"], str(row["threads"])]


def cells(row: Figures, with_peer: bool) -> list[str]:
    own = speeds(row, "sinklab")
    out = [*of_row(row), shown(median(own), ",.0f"), shown(best(own), ",.0f"), shown(min(own), ",.0f"),
           shown(field(row, "sinklab", "gflops"), ",.0f"),
           shown(100 * field(row, "sinklab", "share_of_peak"), ".0f", " %"),
           shown(field(row, "sinklab", "peak_rss_bytes") / 1e9, ".2f")]
    if not with_peer:
        return out
    side = faster(row)
    if not side:
        return [*out, *[""] * len(PEER_HEADER)]
    peer = speeds(row, side)
    return [*out, shown(median(peer), ",.0f", f" {side}"), shown(best(peer), ",.0f"),
            shown(field(row, side, "peak_rss_bytes") / 1e9, ".2f"), shown(ratio(median(own), median(peer)), ".2f"),
            shown(ratio(best(own), best(peer)), ".2f"), span(round_ratios(row, side), ".2f")]


def table(data: Figures) -> str:
    with_peer = any(faster(row) for row in data["rows"])
    return markdown([*HEADER, *(PEER_HEADER if with_peer else ())],
                    [cells(row, with_peer) for row in data["rows"] if row["sinklab"]])


def share_table(data: Figures) -> str:
    """Linear layers within a step beside the kernel of their products alone; "" where that was not measured."""
    rows = []
    for row in data["rows"]:
        linear, kernel = ([run["gflops"] for run in row.get(side, [])] for side in SHARE)
        if linear and kernel:
            shares = [shown(100 * ratio(of(linear), of(kernel)), ".0f", " %") for of in (median, best)]
            figures = [shown(of(values), ",.0f") for values in (linear, kernel) for of in (median, best)]
            rows.append([*of_row(row), *figures, *shares])
    return markdown(SHARE_HEADER, rows) if rows else ""


SHARE_HOW = ("Linear layers: forward and backward in a whole step (`sinklab bench --profile`). Kernel: that of their "
             "products alone, each thread on operands of its own in L2 (`sinklab bench kernel`), measured in turn with "
             "them.")


def norm_costs(data: Figures) -> list[str]:
    """What a norm costs each side, where the same row with RMSNorm was measured."""
    out = []
    for row in data["rows"]:
        twin = [other for other in data["rows"] if other["norm"] == "rmsnorm" and row["norm"] != "rmsnorm"
                and all(other[key] == row[key] for key in ("preset", "precision", "threads"))]
        if not twin:
            continue
        change = {"sinklab": (speeds(row, "sinklab"), speeds(twin[0], "sinklab")),
                  "PyTorch": (speeds(row, faster(row) or "eager"), speeds(twin[0], faster(twin[0]) or "eager"))}
        told = [f"{who} {100 * (median(a) / median(b) - 1):+.0f} %" for who, (a, b) in change.items() if a and b]
        if told:
            out.append(f"{name(row)}, against rmsnorm: {', '.join(told)}")
    return out


def studies_note(data: Figures) -> list[str]:
    """What many runs at once do together, against one run with all threads."""
    studies = data.get("studies")
    if not studies or not studies["rounds"]:
        return []
    one, many = ([found[kind] for found in studies["rounds"]] for kind in ("one", "many"))
    rounds = span([ratio(a, b) for a, b in zip(many, one)], ".2f")
    return [f"{studies['runs']} runs at once of 1 thread each ({studies['preset']} {studies['precision']}, not "
            f"pinned): {median(many):,.0f} tokens/s together, {ratio(median(many), median(one)):.2f} times those of "
            f"one run with {studies['runs']} threads ({median(one):,.0f}); of the best rounds "
            f"{ratio(best(many), best(one)):.2f} times" + (f"; single rounds {rounds}" if rounds else "")]


def how(data: Figures) -> str:
    rounds = max((len(row["sinklab"]) for row in data["rows"]), default=0)
    told = (f"Medians of up to {rounds} alternating round{'s' if rounds != 1 else ''}, {data['steps']} steps each, and "
            "the best round beside them. A step: forward, backward, clipping, AdamW.")
    if "grid" not in data:
        told += " GFLOP/s and share of the measured peak are sinklab's."
    sides = {faster(row) for row in data["rows"]} - {""}
    if sides:
        tried = "eager or compiled, whichever was faster in the first round" if data.get("compiled", True) else "eager"
        told += f" PyTorch: {tried}. Ratio: of the medians."
    return told


def document(data: Figures) -> str:
    m = data["machine"]
    peer = f"PyTorch {m['torch']}" if m["torch"] else "no PyTorch here"
    head = (f"{m['cpu']}, {m['cores']} cores, kernels {m['tier']}; {m['sinklab']}; {peer}; "
            f"load {m['load']:.1f} at the start.")
    notes = [*(grid.cliffs(data) if "grid" in data else norm_costs(data)), *studies_note(data), *data["notes"],
             *(note for row in data["rows"] for note in row["notes"])]
    shares = "" if "grid" in data else share_table(data)
    parts = [head, grid.table(data) if "grid" in data else table(data), how(data)]
    parts += [grid.how(data)] if "grid" in data else []
    parts += [shares, SHARE_HOW] if shares else []
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts)


# ---- command line


def picture_path(text: str) -> Path:
    if Path(text).suffix not in picture.KINDS:
        raise argparse.ArgumentTypeError(f"a picture's name ends with {' or '.join(picture.KINDS)}, unlike {text!r}")
    return Path(text)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description="sinklab's training speed beside PyTorch's.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rows", nargs="+", type=parse_row, metavar="ROW", help="PRESET:PRECISION:THREADS[:NORM]; "
                      f"default, as far as there are cores: {' '.join(ROWS)}")
    what.add_argument("--grid", nargs="*", type=grid.quantity, metavar="QUANTITY",
                      help=f"instead of rows: vary one quantity at a time, of {', '.join(grid.VALUES)} (default: all)")
    what.add_argument("--table", type=Path, metavar="FILE", help="only print the tables of what --json wrote")
    parser.add_argument("--studies", nargs="?", const="bench-10m", metavar="PRESET", help="also: as many runs at once "
                        "of one thread as there are cores, against one run with all threads (default: %(const)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16",
                        help="of --grid and --studies (default: %(default)s)")
    parser.add_argument("--share", action=argparse.BooleanOptionalAction, default=True,
                        help="of rows: linear layers as a share of their kernel's own rate")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=0, metavar="SECONDS",
                        help="stop then and print what is there; default: no end")
    parser.add_argument("--compile-limit", type=float, metavar="SECONDS",
                        help="for a compiled run of the peer; 0: don't try (default: 300, with --grid 0)")
    parser.add_argument("--python", help="interpreter that has torch (default: this one)")
    parser.add_argument("--sinklab", default=str(ROOT / "build/src/sinklab"), help="default: build/src/sinklab")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw figure")
    parser.add_argument("--picture", type=picture_path, metavar="FILE",
                        help="of --grid, or of a --table that is one: .png or .svg; needs matplotlib")
    options = parser.parse_args(argv)
    if options.compile_limit is None:
        options.compile_limit = 300 if options.grid is None else 0
    if min(options.rounds, options.steps) < 1 or min(options.budget, options.compile_limit) < 0:
        parser.error("--rounds and --steps are at least 1, --budget and --compile-limit at least 0")
    if options.picture and options.grid is None and not options.table:
        parser.error("--picture is of --grid")
    options.share = options.share and options.grid is None
    options.python_given, options.python = options.python is not None, options.python or sys.executable
    return options


def rows_to_run(options: argparse.Namespace, data: Figures) -> list[Figures]:
    if options.grid is not None:
        return grid.rows(data, options.precision, options.grid)
    if options.rows:
        return options.rows
    cores = data["machine"]["cores"]
    rows = [parse_row(text) for text in ROWS]
    if any(row["threads"] > cores for row in rows):
        data["notes"].append(f"Rows of more than {cores} threads are left out: there are no more cores.")
    return [row for row in rows if row["threads"] <= cores]


def studies_to_run(options: argparse.Namespace, data: Figures) -> Figures | None:
    cores = data["machine"]["cores"]
    if options.studies and cores < 2:
        data["notes"].append("Runs at once are left out: there is one core.")
    elif options.studies:
        return {"preset": options.studies, "precision": options.precision, "runs": cores, "rounds": [], "failed": False}
    return None


def measured(options: argparse.Namespace) -> Figures:
    if not Path(options.sinklab).is_file():
        raise SpeedError(f"{options.sinklab}: no such program; build it (meson setup build && ninja -C build), "
                         "or give --sinklab")
    data: Figures = {"machine": machine(options), "rounds": options.rounds, "steps": options.steps,
                     "compiled": options.compile_limit > 0, "notes": []}
    data["rows"] = rows_to_run(options, data)
    data["studies"] = studies_to_run(options, data)
    if options.grid is not None:  # a unit that is not there is told before every point of the grid fails
        run_kernel(options, data["rows"][0], LIMIT)
    Bench(options, data).run()
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if not any(row["sinklab"] for row in data["rows"]):
        notes = [note for row in data["rows"] for note in row["notes"]]
        raise SpeedError(notes[0] if notes else "nothing was measured; give a larger --budget")
    return data


def read_raw(path: Path) -> Figures:
    return json_object(path.read_text(encoding="utf-8", errors="replace"), str(path),
                       ("machine", "rows", "notes", "steps"))


def told(options: argparse.Namespace) -> None:
    if options.picture:
        picture.check_packages()  # before the time of measuring is lost
    data = read_raw(options.table) if options.table else measured(options)
    print(document(data))
    if options.picture:
        picture.draw(data, options.picture)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        told(options)
    except SpeedError as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"run.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, AttributeError):
        if not options.table:
            raise
        print(f"run.py: error: {options.table}: not what --json wrote", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
