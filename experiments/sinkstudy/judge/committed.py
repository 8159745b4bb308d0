"""Judges the committed runs of all studies again, by the claims and statistics as they are now. Trains nothing.

    ./experiments/run --committed                          # writes what follows from studies/*/results/*/runs.csv
    .venv/bin/python -m sinkstudy.judge.committed --check  # names what does not follow, and then exits with 1

Of each results folder: verdicts.json, claims.png and arms.png if the README shows them, and in it the table between
`<!-- verdicts PROFILE -->` and `<!-- end -->`. Of all: verdicts.csv, ledger.md (what the sources of ledger.yaml say and
our runs show), and the table between `<!-- tally -->` and
`<!-- end -->` in experiments/README.md. Pictures are not compared: their bytes hang on the version of matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sinkstudy.judge import claims
from sinkstudy.places import EXPERIMENTS, ROOT, STUDIES
from sinkstudy.plan import study as studies
from sinkstudy.report import study_report
from sinkstudy.report.study_report import TIMES, effect_text, interval_text, p_text
from sinkstudy.report.study_results import Results, from_csv, table_of
from sinkstudy.store import store
from sinkstudy.store.runs import finite

HEADLINE = {"quantization": "standard"}  # the profile whose verdicts count in the tally, where it isn't quick
TEXT_BLOCKS = ("pretrained",)            # studies whose "seeds" are blocks of text
COLUMNS = ("study", "id", "family", "text", "source", "compared", "expect", "scale", "margin", "verdict", "same_as",
           "effect", "effect_interval", "n", "p", "p_flip", "p_corrected", "pairing_gain", "machine", "version")


@dataclass(frozen=True)
class Committed:
    """Results that are in git, judged."""

    study: str
    profile: str
    folder: Path
    results: Results
    record: dict[str, Any]
    asked: int  # seeds that the profile asks for now

    @property
    def counts(self) -> bool:
        return self.profile == HEADLINE.get(self.study, "quick")

    @property
    def seeds(self) -> int:
        return len({row.seed for row in self.results.rows})


def study_file(folder: Path) -> Path:
    return next(path for name in ("study.yaml", "claims.yaml") if (path := folder / name).is_file())


def judged(path: Path) -> Committed:
    """path: of a runs.csv."""
    folder = path.parents[2]
    file, profile = study_file(folder), path.parent.name
    data, _ = studies.read_yaml(file)
    plan = {"study": folder.name, "profile": profile, "file": f"{folder.name}/{file.name}",
            "sha256": store.sha256_file(file), "of_blocks": folder.name in TEXT_BLOCKS}
    results = from_csv(data, plan, path)
    row = data["profiles"][profile]
    return Committed(folder.name, profile, path.parent, results, study_report.judged(results),
                     row["blocks"] if "blocks" in row else len(row["seeds"]))


def all_committed() -> list[Committed]:
    return [judged(path) for path in sorted(STUDIES.glob("*/results/*/runs.csv"))]


# ---- text


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body))


def claim_row(v: Mapping[str, Any]) -> list[str]:
    effect = f"{effect_text(v, v['effect'])} {interval_text(v, v['effect_interval'])}".strip() if v["n"] else ""
    return [v["text"], v["family"], v["compared"], effect, p_text(v["p_corrected"]), v["verdict"]]


def verdicts_table(of: Committed) -> str:
    """The claims that were judged, and how many were not."""
    rows = [claim_row(v) for v in of.record["claims"] if v["verdict"] != claims.NOT_RUN]
    waiting = [v["id"] for v in of.record["claims"] if v["verdict"] == claims.NOT_RUN]
    unit = "blocks of text" if of.study in TEXT_BLOCKS else "seeds" if of.seeds > 1 else "seed"
    lines = [f"{of.seeds} {unit}; {pairing_words(of.record['claims'])}".rstrip("; ") + "."]
    if of.asked != of.seeds:
        lines[0] += f" The profile asks for {of.asked} now, of a new build: these runs wait."
    if rows:
        lines += ["", table([("claim", "", "compared", "effect, 95 % interval", "corrected p", "verdict"), *rows])]
    if waiting:
        lines += ["", f"Not run: {', '.join(waiting)}."]
    return "\n".join(lines)


def pairing_words(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """What pairing bought, over the claims that compare two arms."""
    of = [v for v in verdicts if len(v["arms"]) == 2 and v["pairing_gain"] == v["pairing_gain"]]
    if not of:
        return ""
    r, gain = (statistics.median(v[key] for v in of) for key in ("pair_correlation", "pairing_gain"))
    return f"the pairs' correlation is {r:.2f} in the median, so that pairing is worth {TIMES} {gain:.2f} the seeds"


def tally(of: Sequence[Committed], same: Mapping[tuple[str, str], str]) -> str:
    """A row a study and family; a comparison that a study above has too counts there only."""
    names = [name for name in claims.VERDICTS if name != claims.NOT_RUN]
    rows, sums = [], {family: [0] * len(names) for family in claims.CORRECTIONS}
    for one in of:
        for family, sum_ in sums.items():
            found = [v["verdict"] for v in one.record["claims"]
                     if v["family"] == family and (one.study, v["id"]) not in same]
            counts = [found.count(name) for name in names]
            sums[family] = [a + b for a, b in zip(sum_, counts)]
            if any(counts):
                rows.append([f"[{one.study}](studies/{one.study}/README.md)", family, *map(str, counts)])
    rows += [["all", family, *map(str, sum_)] for family, sum_ in sums.items()]
    waiting = sum(v["verdict"] == claims.NOT_RUN for one in of for v in one.record["claims"])
    twice = "; ".join(f"{study}.{name} is {first}" for (study, name), first in same.items())
    return table([("study", "claims", *names), *rows]) + (
        f"\n\nNot run, and counted nowhere: {waiting} claims. Counted once, as they compare the same figures: "
        f"{twice or 'none'}.")


def csv_text(of: Sequence[Committed], same: Mapping[tuple[str, str], str]) -> str:
    rows = []
    for one in of:
        about = {"study": one.study, "machine": study_report.machine_text(one.record),
                 "version": ", ".join(dict.fromkeys(m["version"] for m in one.record["machines"]))}
        rows += [about | v | {"same_as": same.get((one.study, v["id"]), "")} for v in one.record["claims"]
                 if v["verdict"] != claims.NOT_RUN]
    out = io.StringIO()
    table_of(finite(rows), COLUMNS, out)
    return out.getvalue()


def between(text: str, mark: str, inside: str) -> str:
    """The text with what stands between <!-- mark --> and the next <!-- end --> replaced; unchanged without them."""
    return re.sub(rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- end -->)",
                  lambda found: f"{found[1]}\n{inside}\n\n{found[2]}", text, flags=re.S)


# ---- the ledger

# Columns of the ledger: small models, middle ones, large ones; the profiles that are of that size, the likeliest first.
SCALES = {"S": ("quick", "standard"), "M": ("medium", "full"), "L": ("gpu",)}
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


def all_claims() -> set[str]:
    """STUDY.ID of every claim that a study makes, run or not."""
    files = [*STUDIES.glob("*/study.yaml"), *(STUDIES / name / "claims.yaml" for name in TEXT_BLOCKS)]
    return {f"{path.parent.name}.{row['id']}" for path in files for row in studies.read_yaml(path)[0].get("claims", ())}


def verdict_at(found: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]], claim: str,
               profiles: Sequence[str]) -> str:
    """Of the first of the profiles in which the claim was judged, with its pairs."""
    study, _, name = claim.partition(".")
    rows = [found[study, profile][name] for profile in profiles if (study, profile) in found
            and name in found[study, profile]]
    judged = [row for row in rows if row["verdict"] != claims.NOT_RUN]
    return f"{judged[0]['verdict']} (n {judged[0]['n']})" if judged else claims.NOT_RUN


def ledger_text(of: Sequence[Committed], rows: Sequence[Mapping[str, Any]]) -> str:
    found = {(one.study, one.profile): {v["id"]: v for v in one.record["claims"]} for one in of}
    body = [["source", "what it says", "claim", *SCALES]]
    for row in rows:
        for claim in row.get("claims", ()):
            study = claim.partition(".")[0]
            body.append([row["source"], row["text"], f"[{claim}](studies/{study}/README.md)",
                         *(verdict_at(found, claim, profiles) for profiles in SCALES.values())])
        if "because" in row:
            body.append([row["source"], row["text"], f"not testable here: {row['because']}", *[""] * len(SCALES)])
    return ("# What the sources say, and what our runs show\n\n"
            "Made by `./experiments/run --committed` of [ledger.yaml](ledger.yaml) and the committed runs. S: models "
            "of a million\nparameters (profiles quick and standard; of pretrained: one real model, over blocks of "
            "text). M: of ten million (medium\nand full). L: of 65 million (gpu). n: pairs. "
            "[Verdicts](README.md#verdicts) says what the words mean.\n\n" + table(body) + "\n")


# ---- files


def texts() -> Iterator[tuple[Path, str]]:
    """Every file that follows from the committed runs, with what it should hold."""
    found = all_committed()
    counted = [one for one in found if one.counts]
    same = study_report.repeated([one.record for one in counted])
    readmes: dict[Path, str] = {}
    for one in found:
        yield one.folder / "verdicts.json", json.dumps(finite(one.record), indent=1, ensure_ascii=False) + "\n"
        readme = STUDIES / one.study / "README.md"
        old = readmes.get(readme) or readme.read_text(encoding="utf-8")
        readmes[readme] = between(old, f"verdicts {one.profile}", verdicts_table(one))
    yield from readmes.items()
    yield EXPERIMENTS / "verdicts.csv", csv_text(counted, same)
    yield EXPERIMENTS / "ledger.md", ledger_text(found, read_ledger(EXPERIMENTS / "ledger.yaml", all_claims()))
    overview = EXPERIMENTS / "README.md"
    yield overview, between(overview.read_text(encoding="utf-8"), "tally", tally(counted, same))


def draw(one: Committed) -> None:
    """The pictures that the study's README shows."""
    shown = (STUDIES / one.study / "README.md").read_text(encoding="utf-8")
    if f"(results/{one.profile}/claims.png)" in shown:
        study_report.claims_picture(one.record, one.folder)
    if f"(results/{one.profile}/arms.png)" in shown:
        study_report.arms_picture(one.results, one.record, one.folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="committed", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, name the files that are not as they would "
                        "be written; exit code 1 if there are any")
    options = parser.parse_args(argv)
    try:
        stale = [(path, text) for path, text in texts()
                 if not path.is_file() or path.read_text(encoding="utf-8") != text]
    except (LedgerError, claims.ClaimError, studies.StudyError) as error:
        print(f"committed: error: {error}", file=sys.stderr)
        return 2
    for path, text in stale:
        if not options.check:
            study_report.write_text(path, text)
        print(f"{path.relative_to(ROOT)}: {'not as the committed runs give it' if options.check else 'written'}")
    if not options.check:
        for one in all_committed():
            draw(one)
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
