"""Runs ruff or mypy (pyproject.toml) over the Python that git knows.

Usage: lint.py ruff | lint.py mypy; exit code 0 clean, 1 findings, 77 if .venv lacks the tool (./check installs it). The
programs here are scripts in folders, and some share a name; mypy takes one module of a name at a time, so it sees these
folders one after the other.
"""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
# Folders (or files) checked apart from the rest, each with those beside experiments/ that it imports from.
APART = {"experiments/agreement": ["tests/golden"], "experiments/precision": [], "experiments/speed": [],
         "tests/golden": [], "tests/e2e": ["experiments/precision"],
         "tests/unit/test_agreement.py": ["experiments/agreement", "tests/golden"],
         "tests/unit/test_speed.py": ["experiments/speed"]}


def sources() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split()
    return [path for path in listed if (ROOT / path).is_file()]


def groups(paths: list[str]) -> list[tuple[list[str], list[str]]]:
    """Files that mypy sees together, and where else their imports are."""
    found = [([p for p in paths if p == place or p.rpartition("/")[0] == place], beside)
             for place, beside in APART.items()]
    apart = {path for group, _ in found for path in group}
    return [([p for p in paths if p not in apart], []), *found]


def mypy(paths: list[str]) -> int:
    code = 0
    for group, beside in groups(paths):
        search = ["experiments", *dict.fromkeys(path.rpartition("/")[0] for path in group), *beside]
        code |= subprocess.run([PYTHON, "-m", "mypy", "--no-error-summary", *group], cwd=ROOT,
                               env=os.environ | {"MYPYPATH": os.pathsep.join(search)}).returncode
    return code


def main() -> int:
    tool = sys.argv[1]
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", f"import {tool}"], stderr=subprocess.DEVNULL).returncode:
        print(f"{tool} is not installed in .venv; ./check installs it", file=sys.stderr)
        return 77
    if tool == "mypy":
        return mypy(sources())
    return subprocess.run([PYTHON, "-m", "ruff", "check", "--quiet", "--output-format", "concise", *sources()],
                          cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
