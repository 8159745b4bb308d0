"""The ledger: what the sources say, statement by statement, and the verdicts of the claims about it.

committed.py makes ledger.md of ledger.yaml, which says what its rows are, and of the committed runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sinkstudy.judge.claims import NOT_RUN

# Study, profile -> id of a claim -> its verdict, with what its runs cost in words ("cost").
Found = Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]

# Columns of the ledger: small models, middle ones, large ones; the profiles of that size, the best tuned first.
SCALES = {"S": ("small", "variants", "standard", "quick"), "M": ("medium", "full"), "L": ("gpu",)}
LEDGER_ROW = ("id", "source", "text", "claims", "because")


class LedgerError(Exception):
    """A row of ledger.yaml that says nothing, or names a claim that there isn't; the message is one line."""


def read_ledger(path: Path, known: Collection[str]) -> list[dict[str, Any]]:
    """Rows of the file. known: the claims of all studies, as STUDY.ID."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    seen: set[str] = set()
    for row in rows:
        name = str(row.get("id"))
        odd = [key for key in row if key not in LEDGER_ROW] + [key for key in LEDGER_ROW[:3] if not row.get(key)]
        unknown = [claim for claim in row.get("claims", ()) if claim not in known]
        if odd or name in seen or ("claims" in row) == ("because" in row):
            raise LedgerError(f"{path.name}: {name}: it takes an id of its own, source, text, and claims or because"
                              + (f"; see {', '.join(odd)}" if odd else ""))
        if unknown:
            raise LedgerError(f"{path.name}: {name}: no study has the claim {', '.join(unknown)}")
        seen.add(name)
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body))


def verdict_at(found: Found, claim: str, profiles: Sequence[str]) -> Mapping[str, Any] | None:
    """Of the first of the profiles in which the claim was judged; None: it was in none of them."""
    study, _, name = claim.partition(".")
    rows = [found[study, profile].get(name) for profile in profiles if (study, profile) in found]
    return next((row for row in rows if row and row["verdict"] != NOT_RUN), None)


def verdict_cells(found: Found, claim: str) -> list[str]:
    """Verdicts, with their pairs, by scale; and what the runs behind them cost."""
    verdicts = {scale: verdict_at(found, claim, profiles) for scale, profiles in SCALES.items()}
    costs = [f"{scale}: {v['cost']}" for scale, v in verdicts.items() if v]
    return [f"{v['verdict']} (n {v['n']})" if v else NOT_RUN for v in verdicts.values()] + ["; ".join(costs) or "-"]


def ledger_rows(found: Found, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table, its head first."""
    body = [["source", "what it says", "claim", *SCALES, "cost"]]
    for row in rows:
        body += [[row["source"], row["text"], claim, *verdict_cells(found, claim)] for claim in row.get("claims", ())]
        if "because" in row:
            body.append([row["source"], row["text"], f"not testable here: {row['because']}", *[""] * len(SCALES), "-"])
    return body


def linked(claim: str) -> str:
    """A cell of the table that is STUDY.ID, with its study's page."""
    study, dot, _ = claim.partition(".")
    return f"[{claim}](studies/{study}/README.md)" if dot and " " not in claim else claim


def ledger_text(found: Found, rows: Sequence[Mapping[str, Any]]) -> str:
    body = [[*cells[:2], linked(cells[2]), *cells[3:]] for cells in ledger_rows(found, rows)]
    return ("# What the sources say, and what our runs show\n\n"
            "Made by `./experiments/run --committed` of [ledger.yaml](ledger.yaml) and the committed runs. S: models "
            "of a million\nparameters (profiles small, variants, standard and quick, the first that has the claim; of "
            "pretrained: one real model, over\nblocks of text). M: of ten million (medium and full). L: of 65 "
            "million (gpu). n: pairs.\n[Verdicts](README.md#verdicts) says what the words mean. Cost: the runs of "
            "the claim's arms, all points of their sweeps,\nand their minutes as if one went after the other; claims "
            "that share runs have them each.\n\n" + table(body) + "\n")
