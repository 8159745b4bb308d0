#!/usr/bin/env python3
"""Makes tests/unit/tokenizer/{bpe500.json,golden.json}: a small tokenizer and the ids that the `tokenizers` library
gives for texts chosen to be tricky. Running the tests needs neither this script nor the library.

    ./data/prepare.py treasury && tests/unit/make_tokenizer_golden.py data/corpora/treasury/val.txt
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent / "tokenizer"
MERGES = 500

TRICKY = [
    "", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t", "\r\n", "a", " a", "  a", "   a", "a ", "a  ", "a   ",
    "The Lord is my shepherd; I shall not want.", "the  Lord\n\n\nthe   Lord \n", "\n\nthe", "the\n the\n  the",
    "I'm don't we've they'll he'd you're it's", "'s't're've'm'll'd", "''s", "' s", "'S 'T", "don'tt", "'lll",
    "'r 'v 'l",
    "123 4567890 1,000.50 3rd x86_64", "a1b2c3", "\u00b2\u00b3\u00bd \u2167\u216f 7\u0663", "...!!! ?!", " ...",
    "_a_ __", "=====  =====",
    "\u00e9t\u00e9 na\u00efve \u00dcber stra\u00dfe", "\u4e2d\u6587 \u65e5\u672c\u8a9e",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u03ba\u03cc\u03c3\u03bc\u03b5 \u0645\u0631\u062d\u0628\u0627",
    "e\u0301 o\u0308 \u0915\u094d\u0937", "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 "
                                          "\U0001f1e9\U0001f1ea\u2764\ufe0f",
    "\u00a0a\u2003b\u3000\u3000c\u202fd\u0085e\u2028f\u1680", "\u200b \ufeff \u180e \u2060", "\x00", "a\x00b \x00\x00",
    "\x01\x1c\x1f\x7f\x80\x9f",
    "\u1c89 \U000105c0 \U000323af \U000e0001 \U0010ffff", "\ud7ff \ue000 \ufffd \uffff",
    "a<|endoftext|>b", "<|endoftext|><|endoftext|>", "x <|endoftext|> y", "<|endoftext|", "<<|endoftext|>>",
    "blessed " * 40, "a" * 100, "the" * 30, " " * 40 + "x", "\n" * 40, "-" * 70,
    "Blessed is the man that walketh not in the counsel of the ungodly,\nnor "
    "standeth in the way of sinners, nor sitteth in the seat of the scornful.",
]


def train(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=257 + MERGES, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet,
                                  show_progress=False)
    tokenizer.train_from_iterator(text.split("<|endoftext|>\n"), trainer)
    return tokenizer


def mixtures(seed, count):
    """Texts of tricky pieces in a random order."""
    rng = random.Random(seed)
    pieces = [t for t in TRICKY if 0 < len(t) < 40] + ["the", " and", " of", "LORD", " 12", ".", ",", "\n", " "] * 3
    return ["".join(rng.choice(pieces) for _ in range(rng.randrange(5, 60))) for _ in range(count)]


def variants(base):
    """name -> (tokenizer, what the test changes in bpe500.json to get it)."""
    plain, prefix = (json.loads(base.to_str()) for _ in range(2))
    plain["pre_tokenizer"]["use_regex"] = False
    prefix["pre_tokenizer"]["add_prefix_space"] = True
    added = Tokenizer.from_str(base.to_str())
    added.add_special_tokens(["<|x|>"])
    added.add_tokens([AddedToken(t, normalized=n) for t, n in
                      (("don't", True), ("===", True), ("=====", True), ("t|>b", False), ("a<|", True),
                       ("\u4e2d", True))])
    return {"base": base, "no_regex": Tokenizer.from_str(json.dumps(plain)),
            "prefix_space": Tokenizer.from_str(json.dumps(prefix)), "added": added}


def main():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    base = train(text)
    OUT.mkdir(exist_ok=True)
    base.save(str(OUT / "bpe500.json"), pretty=False)
    golden = {}
    for seed, (name, tokenizer) in enumerate(variants(base).items()):
        texts = TRICKY + mixtures(seed, 20) + ([text[20000:24000]] if name == "base" else [])
        golden[name] = [[t.encode().hex(), tokenizer.encode(t, add_special_tokens=False).ids] for t in texts]
        if name == "added":
            golden["added_tokens"] = json.loads(tokenizer.to_str())["added_tokens"]
    (OUT / "golden.json").write_text(json.dumps(golden, separators=(",", ":")).replace("],[\"", "],\n[\"") + "\n")


main()
