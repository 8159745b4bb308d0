"""Holds that no line of a source is longer than 120 columns.

Usage: lines.py [FILE ...]; without files all that git knows. Names each that is longer; then the exit code is 1.
"""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLUMNS = 120
NAMES = {"meson.build", "meson_options.txt", "Snakefile", "check", "quickstart", ".ci/run", "experiments/run"}
SUFFIXES = {".c", ".h", ".inc", ".py", ".sh"}
# Path: why its lines are as long as they are.
EXCEPTIONS: dict[str, str] = {}


def sources() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for path in listed if path and (ROOT / path).is_file()]


def is_source(path: str) -> bool:
    return (path in NAMES or pathlib.Path(path).name in NAMES or pathlib.Path(path).suffix in SUFFIXES) \
        and path not in EXCEPTIONS


def check(root: pathlib.Path, paths: list[str]) -> list[str]:
    return [f"{path}:{number}: {len(line)} columns, at most {COLUMNS}"
            for path in paths if is_source(path)
            for number, line in enumerate((root / path).read_text(encoding="utf-8").splitlines(), start=1)
            if len(line) > COLUMNS]


def main() -> int:
    faults = check(ROOT, sys.argv[1:] or sources())
    print("\n".join(faults) or f"no line is longer than {COLUMNS} columns")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
