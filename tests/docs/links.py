"""Holds that links between the pages of this repository, their anchors and the paths that they name exist, that each
page of docs/ is in its index, that prose has at most 120 columns there, and that the README has at most 9 KB.

Usage: links.py [ROOT]; one line for each fault, exit code 1 if there is any.
"""
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pages

ROOT = Path(__file__).resolve().parents[2]
README_BYTES = 9000
COLUMNS = 120
# What commands make, and what is no file here.
MADE = ("data/corpora", "data/models", "runs", "build", "experiments/studies/small")
# A word that stands for a name of the reader's own: NAME, STEP, name, <norm>, *.
OPEN = re.compile(r"[A-Z]{3,}|\bname\b|_name\b|[<>*]|\.\.\.")


def listed(root: Path) -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"], cwd=root,
                           capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(root / name for name in names if name and (root / name).is_file())


def faults_of_links(root: Path, page: Path, text: str) -> list[str]:
    name, faults = page.relative_to(root).as_posix(), []
    for line, target in pages.links(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            faults.append(f"{name}:{line}: {target}: there is no {path}")
        elif anchor and (there.suffix != ".md" or anchor not in pages.anchors(there.read_text(encoding="utf-8"))):
            faults.append(f"{name}:{line}: {target}: no heading there gives #{anchor}")
    return faults


def braces(word: str) -> list[str]:
    """a{b,c} as ab and ac."""
    parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^{}]*\})", word)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def faults_of_paths(root: Path, page: Path, text: str, tops: set[str]) -> list[str]:
    """Words in backticks that begin with a folder of the repository, or with ./, from the page's or the top folder."""
    name, faults = page.relative_to(root).as_posix(), []
    for line, code in pages.code_words(text):
        word = code.split()[0]
        top = word.removeprefix("./").partition("/")[0]
        if "/" not in word or not (word.startswith("./") or top in tops) or OPEN.search(word):
            continue
        for path in braces(word):
            path = path.removeprefix("./")
            made = any(path == place or path.startswith(place + "/") for place in MADE)
            if not made and not (root / path).exists() and not (page.parent / path).exists():
                faults.append(f"{name}:{line}: `{word}`: there is no {path}")
    return faults


def faults_of_form(root: Path, page: Path, text: str) -> list[str]:
    """Prose of the README and of docs; a table's row and a picture's text cannot be broken."""
    name = page.relative_to(root).as_posix()
    if name not in ("README.md", "CONTRIBUTING.md", "SECURITY.md") and not name.startswith("docs/"):
        return []
    return [f"{name}:{number}: {len(line)} columns, at most {COLUMNS}" for number, line in pages.prose(text)
            if len(line) > COLUMNS and not line.startswith(("|", "!["))]


def faults_of_index(root: Path) -> list[str]:
    index = root / "docs" / "README.md"
    known = {(index.parent / target.partition("#")[0]).resolve()
             for _, target in pages.links(index.read_text(encoding="utf-8"))}
    return [f"docs/README.md: {page.relative_to(root).as_posix()} is not in the index"
            for page in sorted(index.parent.rglob("*.md")) if page != index and page.resolve() not in known]


def check(root: Path, paths: list[Path]) -> list[str]:
    faults = faults_of_index(root)
    size = (root / "README.md").stat().st_size
    if size > README_BYTES:
        faults.append(f"README.md: {size} bytes, at most {README_BYTES}; what is more belongs into docs/")
    tops = {path.name for path in root.iterdir() if path.is_dir()}
    for page in paths:
        text = page.read_text(encoding="utf-8")
        faults += faults_of_links(root, page, text) + faults_of_paths(root, page, text, tops)
        faults += faults_of_form(root, page, text)
    return faults


def main() -> int:
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    faults = check(root, listed(root))
    print("\n".join(faults) or "links and paths of all pages exist")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
