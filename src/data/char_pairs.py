#!/usr/bin/env python3
"""Writes char_pairs.inc: how often each character, and each pair of neighbours, stands in a text.

synthetic:backcopy draws from them by default. The counts are those of the 1,115,394
characters of tinyshakespeare (char-rnn's plays of Shakespeare; ../../data/README.md), which the task's authors use:

    ./char_pairs.py FILE... > char_pairs.inc
"""
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    text = b"".join(Path(p).read_bytes() for p in sys.argv[1:])
    items = [f"CHAR({a}, {n})" for a, n in sorted(Counter(text).items())]
    items += [f"PAIR({a}, {b}, {n})" for (a, b), n in sorted(Counter(zip(text, text[1:])).items())]
    print(f"/* Made by char_pairs.py of a text of {len(text)} bytes; don't edit. */")
    line = ""
    for item in items:
        if len(line) + 1 + len(item) > 110:
            print(line)
            line = ""
        line += " " * bool(line) + item
    print(line)


if __name__ == "__main__":
    main()
