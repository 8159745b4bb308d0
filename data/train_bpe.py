#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer.json for `data.tokenizer: bpe:FILE`, with the `tokenizers` library.

The same texts and size give the same file. Id 0 is "<|endoftext|>", the document boundary and BOS, then come the 256
bytes and the merges; words are cut by GPT-2's pattern.
"""
import argparse
import os
import pathlib
import sys

BOUNDARY = "<|endoftext|>"


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vocab", type=int, required=True, metavar="N", help="size of the vocabulary, at least 257")
    p.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE", help="the tokenizer.json to write")
    p.add_argument("--min-frequency", type=int, default=2, metavar="N", help="pairs seen less often stay apart (2)")
    p.add_argument("text", nargs="+", type=pathlib.Path, metavar="TEXT", help="UTF-8 text files; give train.txt only")
    args = p.parse_args()
    if args.vocab < 257 or args.vocab > 1 << 21:
        p.error("--vocab must be 257..2097152")
    return args


def documents(paths):
    """The texts between boundary lines."""
    for path in paths:
        lines: list[str] = []
        with open(path, encoding="utf-8", newline="") as f:
            for line in f:
                if line.rstrip("\n") == BOUNDARY:
                    yield "".join(lines)
                    lines = []
                else:
                    lines.append(line)
        yield "".join(lines)


def main():
    args = parse_arguments()
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        print("train_bpe.py: needs the Python package tokenizers: pip install tokenizers", file=sys.stderr)
        return 1
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    # Sorted: the library's alphabet comes in the order of a hash table.
    trainer = trainers.BpeTrainer(vocab_size=args.vocab, min_frequency=args.min_frequency, special_tokens=[BOUNDARY],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=sys.stderr.isatty())
    try:
        tokenizer.train_from_iterator(documents(args.text), trainer)
        temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}.tmp")
        tokenizer.save(str(temporary))
        os.replace(temporary, args.out)
    except (OSError, UnicodeDecodeError) as e:
        print(f"train_bpe.py: {e}", file=sys.stderr)
        return 1
    except Exception as e:  # the library raises bare Exception when it can't write
        print(f"train_bpe.py: cannot write {args.out}: {e}", file=sys.stderr)
        return 1
    size = tokenizer.get_vocab_size()
    print(f"{args.out}: {size} tokens" + ("" if size == args.vocab else f" (the text gives no more than that of "
                                                                         f"{args.vocab})"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
