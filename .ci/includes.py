"""Holds that includes in src/ go down: a folder may include its own files, those below it, and src/sinklab.h.

Usage: includes.py [ROOT]; one line for each include that goes up, exit code 1 if there is any.
"""
import pathlib
import re
import sys

# From the ground up. A folder of src/ that is not here is an error; one of these need not be there.
FLOORS = ["simd", "base", "io", "config", "data", "program", "formats", "ops", "cuda", "model", "families",
          "checkpoint", "eval", "probe", "train", "quant", "session", "cli"]
# Lists of rows that any folder may include; they include nothing.
TABLES = "tables"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.M)


def folder_of(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def target(root: pathlib.Path, file: pathlib.Path, name: str) -> str:
    """The folder that an include means: "simd/x.h", "ops/x.h", or a file beside the one that includes it."""
    if (file.parent / name).is_file():
        found = (file.parent / name).resolve().relative_to((root / "src").resolve())
        return folder_of(found.as_posix())
    return folder_of(name)


def check(root: pathlib.Path) -> list[str]:
    faults = []
    order = {name: at for at, name in enumerate(FLOORS)}
    for file in sorted(p for p in (root / "src").rglob("*") if p.suffix in (".c", ".h", ".inc")):
        here = folder_of(file.relative_to(root / "src").as_posix())
        place = file.relative_to(root).as_posix()
        if not here:
            continue
        if here not in order and here != TABLES:
            faults.append(f"{place}: no floor for src/{here}; give it one in .ci/includes.py")
            continue
        text = file.read_text(encoding="utf-8")
        for found in INCLUDE.finditer(text):
            there = target(root, file, found[1])
            line = text.count("\n", 0, found.start()) + 1
            if not there or there == here or there == TABLES:
                continue
            if here == TABLES:
                faults.append(f'{place}:{line}: "{found[1]}": tables include nothing')
            elif there not in order:
                faults.append(f'{place}:{line}: "{found[1]}": no floor for {there}; give it one in .ci/includes.py')
            elif order[there] > order[here]:
                faults.append(f'{place}:{line}: "{found[1]}" goes up: {there} is above {here}')
    return faults


def main() -> int:
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1]
    faults = check(root)
    print("\n".join(faults) or "all includes go down")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
