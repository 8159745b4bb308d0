#!/usr/bin/env python3
"""Makes tests/unit/tokenizer/kinds.json: a tiny tokenizer of each kind that is supported, and the ids that the
`tokenizers` library gives for nasty texts, with special tokens taken as such and (where that differs) literally.
Running the tests needs neither this script nor the library. `gguf` says which keys make the same tokenizer of a GGUF.

    tests/unit/make_tokenizer_kinds.py
"""
import json
import pathlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).resolve().parent / "tokenizer" / "kinds.json"
MARK = "\u2581"
PIECES = [
    "'s", "'S", "'\u017f", "'\u017fand", "'LL", "'Re", "'vE", "'d", "'", " ", "  ", "   ", "\n", "\r\n", "\n \n",
    "\t", "\u00a0", "\u3000", "\u0085", "1", "  1", "23", "4567", "\u0663", "\u00bd", "\u2167", "a", "the", " the",
    "and", "Hello", "WORLD", "\u00e9", "e\u0301", "A\u030a", "\u1e9b\u0323", "\uac00\u11a8", "\u1100\u1161\u11a8",
    "\u212b", "\u0958", "\U0001d15e", "x\u0345\u0334", "\u1acb\u0334", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u2764\ufe0f", MARK, MARK + MARK, "_", "...", "!?", "//", "<s>", "</s>", "<|end|>", "<0x41>", "<|x",
    "\u4e2d\u6587", "\u041f\u0440", "\u05e9", "\x00", "\x04", "\x04\x04", "\x7f", "\ufeff", "\u1c89", "don't", "==",
]
TEXT = ("the cat and the hat sat on the mat; don't say that they'll eat 1234 of 56 things, and then 7.\n\n"
        "  the  end\tof a  tale: h\u00e9llo, na\u00efve \u4e2d\u6587 \u041f\u0440\u0438\u0432\u0435\u0442!\n"
        "      in     " * 2 + "\u017fand\n\u017fat\n" * 3) * 3
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|end|>", "<s>"]


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def level(regex: bool, prefix: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def words(pattern: str) -> Any:
    return pre_tokenizers.Sequence([split(pattern), level(False)])


def of_bytes(pre: Any, normalizer: Any = None, alphabet: Iterable[str] = (), **model: Any) -> Tokenizer:
    """Byte-level BPE with 100 merges."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    letters = sorted(alphabet or pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=len(letters) + 100, initial_alphabet=letters,
                                                      show_progress=False))
    trained = json.loads(t.to_str())["model"]
    for whole in ("?!", "WORLD"):  # tokens that no merge makes
        trained["vocab"][whole] = len(trained["vocab"])
    t.model = models.BPE(trained["vocab"], [tuple(m) for m in trained["merges"]], **model)
    if normalizer:
        t.normalizer = normalizer
    return t


def of_chars(normalizer: Any = None, pre: Any = None) -> Tokenizer:
    """SentencePiece's: the earlier a token the higher its score; every pair that makes a token is a merge, the best
    first."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=110, show_progress=False))
    learnt = sorted(trained.get_vocab(), key=trained.token_to_id) + [MARK * 2, MARK * 4]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{c:02X}>" for c in range(256)] + learnt
    vocab = {name: i for i, name in enumerate(names)}
    merges = [(n[:k], n[k:]) for n in learnt for k in range(1, len(n)) if n[:k] in learnt and n[k:] in learnt]
    t = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.decoder = decoders.Fuse()
    t.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names[:3]])
    return t


def with_template(t: Tokenizer, token: str, before: Iterable[Any] = ()) -> Tokenizer:
    template = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, t.token_to_id(token))])
    t.post_processor = processors.Sequence([*before, template]) if before else template
    return t


def with_special(t: Tokenizer) -> Tokenizer:
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    t.add_tokens([AddedToken("==", normalized=False)])
    return t


def with_stripping(t: Tokenizer) -> Tokenizer:
    t.add_special_tokens([AddedToken("<|end|>", lstrip=True, normalized=False),
                          AddedToken("</s>", rstrip=True, normalized=False)])
    t.add_tokens([AddedToken("the", normalized=True, lstrip=True), AddedToken("\u00e9", normalized=True, rstrip=True),
                  AddedToken("==", normalized=False, lstrip=True, rstrip=True), AddedToken("  ", normalized=True)])
    return t


def kinds() -> Iterator[tuple[str, Tokenizer, dict | None]]:
    replace = normalizers.Replace(" ", MARK)
    legacy = normalizers.Sequence([normalizers.Prepend(MARK), replace])
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)])
    nfc = normalizers.NFC()
    few = set(pre_tokenizers.ByteLevel.alphabet()) - {"\u0104", "\u00c0", "\u00ff"}  # bytes 0x04, 0xC0, 0xFF
    llama3 = with_special(of_bytes(words(CL100K % r"\p{N}{1,3}"), ignore_merges=True))
    yield "gpt2", with_special(of_bytes(words(GPT2))), {"pre": "gpt-2"}
    yield "smollm", with_special(of_bytes(digits)), {"pre": "smollm"}
    yield "olmo", with_special(of_bytes(level(True), nfc)), {"pre": "olmo"}
    yield "qwen2", with_special(of_bytes(words(CL100K % r"\p{N}"), nfc)), {"pre": "qwen2"}
    yield "llama3", with_template(llama3, "<|end|>", [processors.ByteLevel()]), {"pre": "llama-bpe", "bos": "<|end|>"}
    yield "stripping", with_stripping(of_bytes(words(CL100K % r"\p{N}"), nfc)), None
    yield "prefix", with_special(of_bytes(level(False, True))), None
    yield "few bytes", of_bytes(level(True), alphabet=few), None
    yield "unknown", of_bytes(level(True), alphabet=few, unk_token="?!"), None
    yield "unknown, fused", of_bytes(level(True), alphabet=few, unk_token="?!", fuse_unk=True), None
    yield "llama2", with_template(of_chars(legacy), "<s>"), {"front": True, "bos": "<s>"}
    yield "gemma", of_chars(replace, pre_tokenizers.Split(" ", "merged_with_previous")), {"front": False}
    for scheme in ("first", "always", "never"):
        yield "metaspace " + scheme, of_chars(None, pre_tokenizers.Metaspace(MARK, scheme, split=False)), None
    yield "metaspace split", of_chars(None, pre_tokenizers.Metaspace(MARK, "always", split=True)), None
    yield "stripping chars", with_stripping(of_chars(legacy)), None
    first = pre_tokenizers.Metaspace(MARK, "first", split=False)
    yield "stripping metaspace", with_stripping(of_chars(None, first)), None


def texts(seed: int) -> list[str]:
    rng = random.Random(seed)
    mixed = ["".join(rng.choice(PIECES) for _ in range(rng.randrange(2, 24))) for _ in range(30)]
    return ["", *PIECES, " " * 9 + "a", " " * 9 + "1", "12345678", *mixed]


def main() -> None:
    out = []
    for seed, (name, t, gguf) in enumerate(kinds()):
        cases = []
        for text in texts(seed):
            t.encode_special_tokens = False
            case = [text.encode().hex(), t.encode(text, add_special_tokens=False).ids]
            t.encode_special_tokens = True
            literal = t.encode(text, add_special_tokens=False).ids
            cases.append(case + [literal] * (literal != case[1]))
        t.encode_special_tokens = False
        out.append({"name": name, "gguf": gguf, "tokenizer": json.loads(t.to_str()), "cases": cases})
    text = json.dumps(out, separators=(",", ":"))
    OUT.write_text(text.replace(',["', ',\n["').replace('{"name"', '\n{"name"') + "\n")


main()
