"""Runs ruff or mypy (pyproject.toml) over the Python that git knows, hadolint over the Containerfile, or checks what a
forge reads.

Usage: lint.py ruff | mypy | hadolint | forge; exit code 0 clean, 1 findings, 77 if .venv lacks the tool (./check
installs it). The programs here are scripts in folders, and some share a name; mypy takes one module of a name at a
time, so it sees these folders one after the other.
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
# Folders (or files) checked apart from the rest, each with those beside experiments/ that it imports from.
AGREEMENT, PRECISION, SPEED = (f"experiments/comparisons/{name}" for name in ("agreement", "precision", "speed"))
APART = {AGREEMENT: ["tests/golden"], PRECISION: [], SPEED: [], "experiments/studies/pretrained": [],
         "tests/golden": [], "tests/e2e": [PRECISION], "tests/python": ["tests/e2e", "python"],
         "tests/unit/test_agreement.py": [AGREEMENT, "tests/golden"], "tests/unit/test_speed.py": [SPEED]}
# Files of the forge and of citation, each with the schema that check-jsonschema has of it.
SCHEMAS = {"github-workflows": ".github/workflows/*.yml", "github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
           "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml", "citation-file-format": "CITATION.cff"}
YAMLLINT = "{extends: default, rules: {line-length: {max: 120}, document-start: disable, truthy: {check-keys: false}}}"


# The package, which alone is held to everything that mypy knows.
PACKAGE = "python/sinklab"
SINKSTUDY = "experiments/sinkstudy"  # a package too, found from the folder that it is in


def sources() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split()
    return [path for path in listed if (ROOT / path).is_file()]


def groups(paths: list[str]) -> list[tuple[list[str], list[str]]]:
    """Files that mypy sees together, and where else their imports are."""
    found = [([p for p in paths if p == place or p.rpartition("/")[0] == place], beside)
             for place, beside in APART.items()]
    apart = {path for group, _ in found for path in group} | {path for path in paths if path.startswith(PACKAGE)}
    return [([p for p in paths if p not in apart], []), *found]


def mypy(paths: list[str]) -> int:
    code = subprocess.run([PYTHON, "-m", "mypy", "--no-error-summary", "--strict", PACKAGE], cwd=ROOT,
                          env=os.environ | {"MYPYPATH": PACKAGE.rpartition("/")[0]}).returncode
    for group, beside in groups(paths):
        folders = dict.fromkeys(path.rpartition("/")[0] for path in group if not path.startswith(SINKSTUDY))
        search = ["experiments", *folders, *beside]
        code |= subprocess.run([PYTHON, "-m", "mypy", "--no-error-summary", *group], cwd=ROOT,
                               env=os.environ | {"MYPYPATH": os.pathsep.join(search)}).returncode
    return code


def ruff(paths: list[str]) -> int:
    return subprocess.run([PYTHON, "-m", "ruff", "check", "--quiet", "--output-format", "concise", *paths],
                          cwd=ROOT).returncode


def hadolint(_: list[str]) -> int:
    return subprocess.run([PYTHON.with_name("hadolint"), "Containerfile"], cwd=ROOT).returncode


def forge(_: list[str]) -> int:
    paths = [path for pattern in SCHEMAS.values() for path in sorted(ROOT.glob(pattern))]
    code = subprocess.run([PYTHON, "-m", "yamllint", "--strict", "-d", YAMLLINT, *paths], cwd=ROOT).returncode
    for schema, pattern in SCHEMAS.items():
        code |= subprocess.run([PYTHON, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}",
                                *sorted(ROOT.glob(pattern))], cwd=ROOT).returncode
    versions = [re.search(r"^ *version: '?([^',\n]+)", (ROOT / name).read_text(encoding="utf-8"), re.M)
                for name in ("meson.build", "CITATION.cff")]
    if len({match and match[1] for match in versions}) > 1:
        print("CITATION.cff: another version than that of meson.build")
        code = 1
    return code


# What each runs, and the programs that it needs beside .venv's python.
TOOLS = {"ruff": (ruff, ["ruff"]), "mypy": (mypy, ["mypy"]), "hadolint": (hadolint, ["hadolint"]),
         "forge": (forge, ["yamllint", "check-jsonschema"])}


def main() -> int:
    tool = sys.argv[1]
    run, needed = TOOLS[tool]
    if not all(PYTHON.with_name(name).exists() for name in needed):
        print(f"{', '.join(needed)}: not installed in .venv; ./check installs it", file=sys.stderr)
        return 77
    return run(sources())


if __name__ == "__main__":
    sys.exit(main())
