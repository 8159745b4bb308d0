"""Exported models: opened again they compute the same, whichever the file and the way there."""

import json
import os
import shutil
import struct
from pathlib import Path

import common

MODELS = Path(os.environ["SL_TESTS"], "golden", "transformers")
SHAPES = {
    "llama": ["model.heads=4", "model.kv_heads=2", "model.head_dim=16"],
    "qwen3": ["model.qk_norm=true", "model.tie_embeddings=true", "model.head_dim=24"],
}
# Relative rounding of a number: half of the last of 8, of 11 bits.
ROUNDING = {"bf16": 2**-9, "f16": 2**-12}


def values(file: Path) -> list[float]:
    """Those of an array of floats, behind its head."""
    data = file.read_bytes()
    body = data[10 + int.from_bytes(data[8:10], "little"):]
    return list(struct.unpack(f"<{len(body) // 4}f", body))


class Export(common.EndToEnd):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        common.npy("bytes.npy", [256, *b"the cat sat on a mat"])
        common.npy("golden.npy", [(7 * i + 3) % 64 for i in range(16)])

    def logits(self, model: object, tokens: str = "bytes.npy") -> list[float]:
        self.sinklab("logits", model, "--tokens", tokens, "--out", "logits.npy", "precision=fp32", "threads=1")
        return values(Path("logits.npy"))

    def export(self, model: object, out: str, *more: object) -> str:
        kind = "gguf" if out.endswith(".gguf") else "hf"
        self.sinklab("export", model, "--format", kind, "--out", out, *more)
        self.assertFalse(list(Path(out).parent.glob("*.tmp*")))
        return out

    def test_a_run_there_and_back(self) -> None:
        for name, shape in SHAPES.items():
            run = self.train(name, *shape)
            wanted = self.logits(run)
            self.assertEqual(self.logits(self.export(run, f"{name}-hf")), wanted)
            self.assertEqual(self.logits(self.export(run, f"{name}.gguf")), wanted)
            self.assertEqual(self.logits(self.export(f"{name}.gguf", f"{name}-back")), wanted)
            self.assertEqual(Path(f"{name}-back", "model.safetensors").read_bytes(),
                             Path(f"{name}-hf", "model.safetensors").read_bytes())
            Path(name, "again").mkdir()
            again = self.export(f"{name}-hf", f"{name}/again/{name}.gguf", "data.tokenizer=bytes")
            self.assertEqual(Path(again).read_bytes(), Path(f"{name}.gguf").read_bytes())

    def test_mamba2(self) -> None:
        """Whose tensors have our names in a run and those of transformers in a folder."""
        opts = "model.mamba2_opts."
        shape = ["model.mixer=mamba2", "model.ffn=0", opts + "head_dim=8", opts + "state=6", opts + "groups=2"]
        run = self.train("recurrent", *shape)
        self.assertEqual(self.logits(self.export(run, "recurrent-hf")), self.logits(run))
        self.export("recurrent-hf", "recurrent-again", "data.tokenizer=bytes")
        for file in ("config.json", "model.safetensors"):
            self.assertEqual(Path("recurrent-hf", file).read_bytes(), Path("recurrent-again", file).read_bytes())
        self.assertIn(b"backbone.layers.0.mixer.A_log", Path("recurrent-hf", "model.safetensors").read_bytes())
        said = self.error("export", run, "--format", "gguf", "--out", "recurrent.gguf", code=2)
        self.assertIn("model.mixer stands in the way", said)
        self.refused(["model.mixer=rwkv7", "model.rwkv7_opts.head_dim=8"], "model.mixer")
        self.refused(["model.ffn_shift=true"], "model.ffn_shift")
        both = self.train("both", *shape, "model.mixer=[mamba2, softmax]")
        said = self.error("export", both, "--format", "hf", "--out", "both-hf", code=2)
        self.assertIn("model.mixer stands in the way", said)

    def refused(self, shape: list[str], told: str) -> None:
        said = self.error("export", self.train("other", *shape), "--format", "hf", "--out", "other-hf", code=2)
        self.assertIn(f"{told} stands in the way", said)
        shutil.rmtree("other")

    def test_qwen3_next(self) -> None:
        """Whose tensors hold rows of several of ours; norms with and without their 1."""
        opts = "model.gdn_opts."
        shape = ["model.mixer=[gdn, softmax]", "model.qk_norm=true", "model.attention_opts.gate=elementwise",
                 opts + "heads=4", opts + "key_heads=2", opts + "key_dim=6", opts + "value_dim=5", "model.rope_dims=4"]
        experts = ["model.experts=5", "model.shared_experts=2", "model.expert_ffn=12", "model.shared_expert_gate=true"]
        for name, *keys in (("plain",), ("centred", "model.norm_opts.zero_centred=true"), ("moe", *experts),
                            ("one", *experts, "model.experts_per_token=1", "model.norm_opts.zero_centred=true")):
            run = self.train(f"next-{name}", *shape, *keys)
            wanted, got = self.logits(run), self.logits(self.export(run, f"{name}-next"))
            largest = max(map(abs, wanted))
            # A weight less its 1 is rounded as a number near 1: by 2**-25 at most, of a norm and its effect.
            error = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
            self.assertLessEqual(error, 64 * 2**-24 * largest)
            self.export(f"{name}-next", f"{name}-again", "data.tokenizer=bytes")
            for file in ("config.json", "model.safetensors"):
                self.assertEqual(Path(f"{name}-next", file).read_bytes(), Path(f"{name}-again", file).read_bytes())
        for key in ("model.attention_opts.gate=none", "model.gdn_opts.norm=false", "model.gdn_opts.conv=1",
                    "model.qk_norm=false"):
            self.refused([*shape, key], key.split("=")[0])
        for key, told in (("model.shared_expert_gate=false", "model.shared_expert_gate=false"),
                          ("model.router=sigmoid", "model.router"), ("model.router_bias=true", "model.router_bias"),
                          ("model.balance=bias", "model.balance"), ("model.ffn_bias=true", "model.ffn_bias")):
            self.refused([*shape, *experts, key], told)
        self.refused([*shape, "model.experts=5", "model.expert_ffn=12"], "model.shared_experts=0")
        self.refused([key for key in [*shape, *experts] if "mixer" not in key], "model.experts")
        self.assertIn(b"mlp.shared_expert.up_proj", Path("moe-next", "model.safetensors").read_bytes())
        self.assertFalse(Path("other-hf").exists())

    def test_rounded_matrices(self) -> None:
        """Each of the 16 matrices moves what goes through it by its rounding, at most, and norms keep the scale."""
        run = self.train("rounded", *SHAPES["llama"])
        wanted = self.logits(run)
        largest = max(map(abs, wanted))
        for kind, rounding in ROUNDING.items():
            got = self.logits(self.export(run, f"{kind}.gguf", "--type", kind))
            error = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
            self.assertGreater(error, 0)
            self.assertLess(error, 16 * rounding * largest, kind)
            # What is rounded once is not rounded again.
            self.export(f"{kind}.gguf", f"{kind}-full")
            self.assertEqual(self.logits(f"{kind}-full"), got)

    def test_the_text_is_the_same(self) -> None:
        """The byte tokenizer as BPE: the same loss of the same text, and the same tokens."""
        run = self.train("told")
        self.export(run, "told.gguf")
        for key in (b"bos_token_id", b"eos_token_id"):
            self.assertIn(key + struct.pack("<II", 4, 256), Path("told.gguf").read_bytes())
        options = ["data.corpus=corpus.txt", "data.val_fraction=0.5", "model.seq=32", "threads=1", "precision=fp32"]
        losses = [self.json("eval", m, *options, "--windows", 4, "--json")["loss"] for m in (run, "told.gguf")]
        self.assertEqual(losses[0], losses[1])
        for spec in ("bytes", "gguf:told.gguf"):
            self.sinklab("tokenize", "corpus.txt", "--tokenizer", spec, "--out", spec[:4] + ".bin")
        self.assertEqual(Path("byte.bin").read_bytes(), Path("gguf.bin").read_bytes())

    def test_bpe(self) -> None:
        """The same tokens, of a text with words, numbers, spaces and bytes that are no text."""
        tokenizer = Path(os.environ["SL_TESTS"], "unit", "tokenizer", "bpe500.json")
        odd = "He'll pay  12345 \u20ac,\n\n\tna\u00efve <|endoftext|> ".encode()
        Path("odd.txt").write_bytes(odd + bytes(range(256)))
        run = self.train("pairs", f"data.tokenizer=bpe:{tokenizer}")
        self.export(run, "pairs-hf")
        self.assertEqual(Path("pairs-hf", "tokenizer.json").read_bytes(), tokenizer.read_bytes())
        self.export(run, "pairs.gguf")
        self.export("pairs-hf", "pairs2.gguf")
        for i, spec in enumerate((f"bpe:{tokenizer}", "gguf:pairs.gguf", "gguf:pairs2.gguf")):
            self.sinklab("tokenize", "corpus.txt", "odd.txt", "--tokenizer", spec, "--out", f"{i}.bin")
        self.assertEqual(Path("0.bin").read_bytes(), Path("1.bin").read_bytes())
        self.assertEqual(Path("0.bin").read_bytes(), Path("2.bin").read_bytes())

    def test_windows_without_bos(self) -> None:
        run = self.train("plain", "data.bos=false")
        self.export(run, "plain.gguf")
        self.assertIsNone(self.json("probe", "plain.gguf", "--corpus", "corpus.txt", "--windows", 1, "--json")["bos"])

    def test_models_of_others(self) -> None:
        for name in ("llama.gguf", "qwen3"):
            wanted = self.logits(MODELS / name, "golden.npy")
            out = self.export(MODELS / name, "of-" + name.removesuffix(".gguf"))
            self.assertEqual(self.logits(out, "golden.npy"), wanted)
            self.assertIn('"bos_token_id": null', Path(out, "config.json").read_text())

    def test_the_context_is_the_file_s(self) -> None:
        """Not the 256 tokens of our windows."""
        shutil.copytree(MODELS / "qwen3", "long")
        config = Path("long", "config.json")
        text = config.read_text()
        key = text[text.index('"max_position_embeddings"'):].split(",")[0]
        config.write_text(text.replace(key, '"max_position_embeddings": 40960'))
        self.export("long", "long-hf")
        self.assertIn('"max_position_embeddings": 40960', Path("long-hf", "config.json").read_text())

    def test_another_activation(self) -> None:
        run = self.train("gelu", "model.ffn_kind=geglu")
        self.assertEqual(self.logits(self.export(run, "gelu-hf")), self.logits(run))

    def test_beyond_f16(self) -> None:
        """A weight that would be infinite: 65519 is rounded to the largest, 65520 is not."""
        self.export(self.train("huge"), "huge-hf")
        file = Path("huge-hf", "model.safetensors")
        data = bytearray(file.read_bytes())
        size = struct.unpack("<Q", data[:8])[0]
        at = 8 + size + json.loads(data[8:8 + size])["model.embed_tokens.weight"]["data_offsets"][0]
        arguments = ["huge-hf", "--format", "gguf", "--type", "f16", "data.tokenizer=bytes", "--out"]
        struct.pack_into("<f", data, at, 65519)
        file.write_bytes(data)
        self.sinklab("export", *arguments, "largest.gguf")
        struct.pack_into("<f", data, at, -65520)
        file.write_bytes(data)
        said = self.error("export", *arguments, "huge.gguf")
        self.assertIn("tensor model.embed_tokens.weight: -65520 is beyond f16", said)
        self.assertFalse(list(Path().glob("huge.gguf*")))

    def test_nothing_half_done(self) -> None:
        """A tokenizer that can't be written, found before the file is begun."""
        said = self.error("export", MODELS / "qwen3", "--format", "gguf", "--out", "none.gguf", "data.tokenizer=ids:64",
                          code=2)
        self.assertIn("data.tokenizer=ids:64 has no texts", said)
        self.assertFalse(list(Path().glob("none.gguf*")))


if __name__ == "__main__":
    common.main()
