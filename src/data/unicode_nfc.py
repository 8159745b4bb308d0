#!/usr/bin/env python3
"""Writes unicode_nfc.inc: canonical decompositions, compositions and combining classes, for nfc.c.

As with unicode_classes.py the `tokenizers` library says what counts: its NFC is of an older Unicode than its patterns
are, and of a newer one than some libraries of distributions; ids must be those that models were trained with. Pairs
and classes come from Python's unicodedata, for the characters whose normal forms the library knows; what they make is
compared with the library for every character.

    pip install tokenizers && ./unicode_nfc.py > unicode_nfc.inc
"""
import sys
import unicodedata
from typing import TextIO

import tokenizers
from tokenizers import normalizers

NFC = normalizers.NFC().normalize_str
NFD = normalizers.NFD().normalize_str
IOTA = "\u0345"  # the only character of class 240, the highest
HANGUL = range(0xAC00, 0xD7A4)  # by arithmetic


def known_class(char: str) -> int:
    """Its combining class, 0 if the library does not move it."""
    c = unicodedata.combining(char)
    return c if char == IOTA or (c and NFD("q" + IOTA + char) == "q" + char + IOTA) else 0


def known_pair(char: str) -> list[int]:
    """What it is decomposed to in one step: one or two characters, none if the library leaves it."""
    parts = unicodedata.decomposition(char).split()
    return [int(p, 16) for p in parts] if parts and not parts[0].startswith("<") and NFD(char) != char else []


JAMO = [range(0x1161, 0x1176), range(0x11A8, 0x11C3)]  # vowels and tails


def unstable_starters(pairs: list[tuple[int, int, int]], composing: list[int]) -> set[int]:
    """Characters without a class that normalization may take away: to be composed with the one before, or always."""
    seconds = {pairs[i][2] for i in composing}
    wholes = {pairs[i][0] for i in composing}
    return {c for r in JAMO for c in r} | seconds | {p[0] for p in pairs if p[0] not in wholes}


def ranges(classes: dict[int, int]) -> list[list[int]]:
    out: list[list[int]] = []
    for code, c in sorted(classes.items()):
        if out and out[-1][1:] == [code - 1, c]:
            out[-1][1] = code
        else:
            out.append([code, code, c])
    return out


def write(out: TextIO, items: list[str]) -> None:
    line = ""
    for item in items:
        if len(line) + len(item) > 118:
            out.write(line.rstrip() + "\n")
            line = ""
        line += item + " "
    out.write(line.rstrip() + "\n")


def main() -> None:
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    classes: dict[int, int] = {}
    pairs: list[tuple[int, int, int]] = []
    for char in chars:
        code, c = ord(char), known_class(char)
        if c:
            classes[code] = c
        pair = known_pair(char)
        if pair and code not in HANGUL:
            pairs.append((code, pair[0], pair[1] if len(pair) == 2 else 0))
        if NFC(char) not in (char, unicodedata.normalize("NFC", char)) or NFD(char) not in (
                char, unicodedata.normalize("NFD", char)):
            sys.exit(f"U+{code:04X} has another normal form in unicodedata than in tokenizers")
    composing = [i for i, (whole, first, second) in enumerate(pairs)
                 if second and NFC(chr(first) + chr(second)) == chr(whole)]
    composing.sort(key=lambda i: pairs[i][1:])
    for code in unstable_starters(pairs, composing):
        classes.setdefault(code, 0)
    out = sys.stdout
    out.write(f"/* Made by unicode_nfc.py with tokenizers {tokenizers.__version__}; don't edit. */\n"
              "#ifdef COMBINING_CLASSES /* first, last, class; of characters that normalizing may move or replace */\n")
    write(out, [f"{{0x{a:X}, 0x{b:X}, {c}}}," for a, b, c in ranges(classes)])
    out.write("#endif\n#ifdef DECOMPOSITIONS /* character, what it is decomposed to; ascending */\n")
    write(out, [f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}," if c else f"{{0x{a:X}, 0x{b:X}, 0}}," for a, b, c in pairs])
    out.write("#endif\n#ifdef COMPOSITIONS /* those that are composed again, in the order of what they consist of */\n")
    write(out, [f"{i}," for i in composing])
    out.write("#endif\n")


main()
