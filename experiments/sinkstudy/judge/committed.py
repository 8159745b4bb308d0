"""Judges the committed runs of all studies again, by the claims and statistics as they are now. Trains nothing.

    ./experiments/run --committed                          # writes what follows from studies/*/results/*/runs.csv
    ./experiments/run --committed --pages FOLDER           # the same as HTML pages, and nothing else
    .venv/bin/python -m sinkstudy.judge.committed --check  # names what does not follow, and then exits with 1

Of each results folder: verdicts.json, claims.png and arms.png if the README shows them, and in it the table between
`<!-- verdicts PROFILE -->` and `<!-- end -->`. Of all: verdicts.csv, ledger.md (what the sources of ledger.yaml say and
our runs show), the table between `<!-- tally -->` and `<!-- end -->` in experiments/README.md, and effect against
scale: the tables of scale.md, its pictures, and the sentences in the README. Pictures are not compared: their bytes
hang on the version of matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import statistics
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sinkstudy.judge import claims, curves, pages
from sinkstudy.judge.ledger import Found, LedgerError, ledger_text, read_ledger, table
from sinkstudy.places import EXPERIMENTS, ROOT, STUDIES
from sinkstudy.plan import study as studies
from sinkstudy.report import study_report
from sinkstudy.report.study_report import TIMES, effect_text, interval_text, p_text
from sinkstudy.report.study_results import Results, from_csv, table_of
from sinkstudy.store import store
from sinkstudy.store.runs import finite

# The profiles whose verdicts count in the tally, where it isn't quick: those of the first that judged the claim.
HEADLINE = {"norms": ("medium", "variants")} | dict.fromkeys(
    ("abilities", "anchors", "architectures", "backcopy", "depth", "first_three", "gates", "moe", "optimizer",
     "quantization", "scale", "stability"), ("standard",))
JUDGED = [name for name in claims.VERDICTS if name != claims.NOT_RUN]
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


def counted(found: Sequence[Committed]) -> list[Committed]:
    """Those of HEADLINE, each with the claims that none before it of its study judged; what none did, with the last."""
    out = []
    for study in dict.fromkeys(one.study for one in found):
        ones = [one for profile in HEADLINE.get(study, ("quick",)) for one in found
                if (one.study, one.profile) == (study, profile)]
        judged: set[str] = set()
        for one in ones:
            rows = [v for v in one.record["claims"] if v["id"] not in judged
                    and (v["verdict"] != claims.NOT_RUN or one is ones[-1])]
            judged |= {v["id"] for v in rows}
            out.append(replace(one, record=one.record | {"claims": rows}))
    return out


# ---- text


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
    of = [v for v in verdicts if len(v["arms"]) == 2
          and all(v[key] == v[key] for key in ("pair_correlation", "pairing_gain"))]
    if not of:
        return ""
    r, gain = (statistics.median(v[key] for v in of) for key in ("pair_correlation", "pairing_gain"))
    return f"the pairs' correlation is {r:.2f} in the median, so that pairing is worth {TIMES} {gain:.2f} the seeds"


def counts(of: Committed, family: str, same: Mapping[tuple[str, str], str]) -> list[int]:
    """Claims by verdict; a comparison that a study above has too counts there only."""
    found = [v["verdict"] for v in of.record["claims"] if v["family"] == family and (of.study, v["id"]) not in same]
    return [found.count(name) for name in JUDGED]


def sums(of: Sequence[Committed], same: Mapping[tuple[str, str], str]) -> dict[str, list[int]]:
    return {family: [sum(column) for column in zip(*(counts(one, family, same) for one in of))]
            for family in claims.CORRECTIONS}


def tally(of: Sequence[Committed], same: Mapping[tuple[str, str], str]) -> str:
    """A row a study and family."""
    rows = [[f"[{one.study}](studies/{one.study}/README.md), {one.profile}", family, *map(str, row)]
            for one in of for family in claims.CORRECTIONS if any(row := counts(one, family, same))]
    rows += [["all", family, *map(str, sum_)] for family, sum_ in sums(of, same).items()]
    waiting = sum(v["verdict"] == claims.NOT_RUN for one in of for v in one.record["claims"])
    twice = "; ".join(f"{study}.{name} is {first}" for (study, name), first in same.items())
    return table([("study", "claims", *JUDGED), *rows]) + (
        f"\n\nNot run, and counted nowhere: {waiting} claims. Counted once, as they compare the same figures: "
        f"{twice or 'none'}.")


def tally_line(of: Sequence[Committed], same: Mapping[tuple[str, str], str]) -> str:
    """A sentence for the README."""
    primary, others = sums(of, same).values()
    shown, opposite = (JUDGED.index(name) for name in (claims.SHOWN, claims.OPPOSITE))
    return (f"Of {sum(primary)} primary claims {primary[shown]} are shown, {primary[opposite]} opposite; "
            f"of {sum(others)} others {others[shown]} and {others[opposite]}: [ledger](experiments/ledger.md).")


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


def all_claims() -> set[str]:
    """STUDY.ID of every claim that a study makes, run or not."""
    files = [*STUDIES.glob("*/study.yaml"), *(STUDIES / name / "claims.yaml" for name in TEXT_BLOCKS)]
    return {f"{path.parent.name}.{row['id']}" for path in files for row in studies.read_yaml(path)[0].get("claims", ())}


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def cost(of: Committed, arms: Collection[str]) -> str:
    """Of the runs that were made of these arms, in words; minutes are those of runs.csv, if it has them of all."""
    rows = [row for row in of.results.rows if row.arm in arms and row.status in (store.FINISHED, store.DIVERGED)]
    unit = "block" if of.study in TEXT_BLOCKS else "seed"
    minutes = math.fsum(row.seconds for row in rows) / 60
    took = f"{minutes:.{0 if minutes >= 10 else 1}f} min" if math.isfinite(minutes) else "-"
    return f"{plural(len(rows), 'run')}, {plural(len({row.seed for row in rows}), unit)}, {took}"


def with_costs(of: Sequence[Committed]) -> Found:
    return {(one.study, one.profile): {v["id"]: v | {"cost": cost(one, v["arms"])} for v in one.record["claims"]}
            for one in of}


# ---- files


def texts() -> Iterator[tuple[Path, str]]:
    """Every file that follows from the committed runs, with what it should hold."""
    found = all_committed()
    count = counted(found)
    same = study_report.repeated([one.record for one in count])
    readmes: dict[Path, str] = {}
    for one in found:
        yield one.folder / "verdicts.json", json.dumps(finite(one.record), indent=1, ensure_ascii=False) + "\n"
        readme = STUDIES / one.study / "README.md"
        old = readmes.get(readme) or readme.read_text(encoding="utf-8")
        readmes[readme] = between(old, f"verdicts {one.profile}", verdicts_table(one))
    yield from readmes.items()
    yield EXPERIMENTS / "verdicts.csv", csv_text(count, same)
    rows = read_ledger(EXPERIMENTS / "ledger.yaml", all_claims())
    yield EXPERIMENTS / "ledger.md", ledger_text(with_costs(found), rows)
    overview = EXPERIMENTS / "README.md"
    yield overview, between(overview.read_text(encoding="utf-8"), "tally", tally(count, same))
    page, runs = EXPERIMENTS / "scale.md", by_name(found)
    text = page.read_text(encoding="utf-8")
    for mark, inside in curves.parts(runs):
        text = between(text, mark, inside)
    yield page, text
    front = ROOT / "README.md"
    yield front, between(front.read_text(encoding="utf-8"), "scale",
                         f"{curves.headline(runs)}\n{tally_line(count, same)}")


def by_name(of: Sequence[Committed]) -> dict[str, Results]:
    return {f"{one.study}/{one.profile}": one.results for one in of}


def draw(one: Committed) -> None:
    """The pictures that the study's README shows."""
    shown = (STUDIES / one.study / "README.md").read_text(encoding="utf-8")
    if f"(results/{one.profile}/claims.png)" in shown:
        study_report.claims_picture(one.record, one.folder)
    if f"(results/{one.profile}/arms.png)" in shown:
        study_report.arms_picture(one.results, one.record, one.folder)


def draw_all(of: Sequence[Committed]) -> None:
    from sinkstudy.report import curve_figures

    for one in of:
        draw(one)
    curve_figures.pictures(by_name(of), EXPERIMENTS)


def write_pages(folder: Path) -> None:
    found = all_committed()
    pages.write(folder, [(one.results, one.record) for one in found], with_costs(found),
                read_ledger(EXPERIMENTS / "ledger.yaml", all_claims()))
    print(f"{folder / 'index.html'}: written, with {len(found)} pages of studies")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="committed", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, name the files that are not as they would "
                        "be written; exit code 1 if there are any")
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="write HTML pages of them there, and nothing else")
    options = parser.parse_args(argv)
    try:
        if options.pages:
            write_pages(options.pages)
            return 0
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
        draw_all(all_committed())
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
