"""What the pages have in common: figures as text, tables, pictures, style, and writing them whole."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

STYLE = """
:root { color-scheme: light; --rule: #d9d9d9; --soft: #5a5a5a; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #1b1b1b;
  background: #fff; margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 1180px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .3rem 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
p { max-width: 46rem; margin: .5rem 0; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0; padding: 0; list-style: none; }
.key b { display: inline-block; width: 1.5em; height: .3em; margin-right: .45em; vertical-align: .2em; }
.key small { color: var(--soft); }
.notes { background: #fff6df; border-left: 4px solid #e69f00; padding: .5rem .9rem; margin: 1rem 0; }
.notes ul { margin: .2rem 0; padding-left: 1.1rem; }
.gallery { display: grid; gap: 1.4rem 1.6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
figure { margin: 0; max-width: 520px; }
figure img { display: block; width: 100%; height: auto; }
figcaption { font-size: .84rem; line-height: 1.4; color: var(--soft); margin-top: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .94rem; }
th, td { text-align: right; padding: .3rem .75rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
tbody th, thead th:first-child { text-align: left; font-weight: 600; padding-left: 0; }
td { white-space: nowrap; }
.meaning { display: block; font-weight: 400; font-size: .8rem; line-height: 1.3; color: var(--soft);
  min-width: 11rem; max-width: 26rem; }
.settings { font-size: .84rem; }
.settings td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
.settings thead th { text-align: left; }
.settings th code { font-size: .95em; font-weight: 400; }
.differs th, .differs td { background: #e8f2f9; }
details { margin: .6rem 0; } summary { cursor: pointer; }
footer { margin-top: 2.5rem; font-size: .84rem; color: var(--soft); }
@media (max-width: 600px) { body { padding: .8rem .7rem 2rem; } th, td { padding: .3rem .45rem; } }
@media print { body { max-width: none; font-size: 10.5pt; padding: 0; } h2 { break-after: avoid; }
  figure, tr, .notes { break-inside: avoid; } .gallery { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def show(value: float) -> str:
    """Four significant digits; large whole numbers with thousands separators."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if abs(value) >= 10000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def picture(image: bytes, alt: str, caption: str) -> str:
    data = base64.b64encode(image).decode("ascii")
    return (f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}">'
            f"<figcaption>{caption}</figcaption></figure>")


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """A page that needs nothing from outside; style: added to the common one."""
    return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>\n"
            + "\n".join(body) + "\n</body></html>\n")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the target and renames, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
