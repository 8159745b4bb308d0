#!/usr/bin/env python3
"""Writes unicode_classes.inc: which characters GPT-2's word pattern takes for letters (\\p{L}), numbers (\\p{N}) and
white space (\\s).

The table is asked of the `tokenizers` library itself, so that pretokenizer.c cuts words exactly as the library does,
whatever version of Unicode a machine's own Python or C library has. Run it again only to follow a newer Unicode:

    pip install tokenizers && ./unicode_classes.py > unicode_classes.inc
"""
import sys

import tokenizers
from tokenizers import pre_tokenizers


def classify(split, char):
    """The class of a character, from whether it joins a neighbour of that class into one word."""
    for neighbour, name in (("a", "LETTER"), ("1", "NUMBER"), ("!", "OTHER")):
        if len(split(neighbour + char)) == 1:
            return name
    return "SPACE"


def main():
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    ranges: list[list] = []
    for code in range(0x80, 0x110000):
        name = "OTHER" if 0xD800 <= code < 0xE000 else classify(split, chr(code))
        if ranges and ranges[-1][2] == name:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, name])
    ranges = [r for r in ranges if r[2] != "OTHER"]
    out = sys.stdout
    out.write(f"/* Made by unicode_classes.py with tokenizers {tokenizers.__version__}; don't edit. Ranges of\n"
              " * characters from U+0080 on that aren't OTHER, ascending. */\n")
    line = ""
    for first, last, name in ranges:
        item = f"{{0x{first:X}, 0x{last:X}, {name}}},"
        if len(line) + 1 + len(item) > 100:
            out.write(line + "\n")
            line = item
        else:
            line = f"{line} {item}" if line else item
    out.write(line + "\n")


main()
