"""The committed results of all studies as one folder of HTML pages that need nothing else: an index with every claim,
the ledger, and a page a study and profile. committed.py calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkstudy.judge.ledger import Found, ledger_rows
from sinkstudy.report import study_report
from sinkstudy.report.page import document, escape
from sinkstudy.report.study_results import Results


def ledger_page(found: Found, rows: Sequence[Mapping[str, Any]]) -> str:
    head, *body = ledger_rows(found, rows)
    table = study_report.html_table([escape(cell) for cell in head],
                                    [[escape(cell) for cell in cells] for cells in body], "words")
    return document("What the sources say, and what our runs show", [
        "<h1>What the sources say, and what our runs show</h1>",
        "<p>S: models of a million parameters; M: of ten million; L: of 65 million. n: pairs. "
        '<a href="index.html">All claims</a></p>', table], study_report.STYLE)


def write(folder: Path, of: Sequence[tuple[Results, Mapping[str, Any]]], found: Found,
          rows: Sequence[Mapping[str, Any]]) -> None:
    """of: results with what verdicts.json holds of them. index.html is last: with it everything is there."""
    shown = []
    for results, record in of:
        place = folder / f"{record['study']}-{record['profile']}"
        study_report.write_text(place / "report.html", study_report.page(results, record))
        shown.append((place, record))
    study_report.write_text(folder / "ledger.html", ledger_page(found, rows))
    index = folder / "index.html"
    study_report.write_text(index, study_report.overview_page(
        shown, (), index, '<p><a href="ledger.html">What the sources say, sentence by sentence</a></p>'))
