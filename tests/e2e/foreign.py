"""Models of others: measured, rounded, trained on, from a GGUF file, one file and several."""

import json
import os
import random
import shutil
import struct
from pathlib import Path

import common

MODELS = Path(os.environ["SL_TESTS"], "golden", "transformers")
# Tokens of the golden models.
TOKENS = ["data.corpus=tokens.bin", "data.tokenizer=ids:64:1", "data.val_fraction=0.5", "model.seq=16", "threads=1",
          "precision=fp32"]
TUNE = "train: {steps: 20, batch: 4, lr: 4e-3, warmup: 5, eval_windows: 4, probe_every: 10}\nprecision: fp32\n"
NAMES = ["llama.gguf", "qwen2", "qwen3", "qwen3_moe.gguf", "gemma2", "gemma2.gguf", "gemma3", "gemma3.gguf", "olmo2",
         "smollm3", "smollm3-00001-of-00002.gguf", "gpt2", "gpt2.gguf", "gpt_neox", "gpt_neox.gguf", "opt", "phi",
         "gpt_oss_mxfp4", "gpt_oss.gguf", "mamba2", "qwen3_next", "qwen3_next_moe"]


class Foreign(common.EndToEnd):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        rng = random.Random(1)
        Path("tune.yaml").write_text(TUNE)
        Path("tokens.bin").write_bytes(struct.pack("<2000H", *(rng.randrange(64) for _ in range(2000))))

    def test_every_verb_opens_them(self) -> None:
        for name in NAMES:
            path = MODELS / name
            probe = self.json("probe", path, *TOKENS, "--windows", 4, "--json")
            loss = self.json("eval", path, *TOKENS, "--windows", 4, "--json")["loss"]
            self.assertAlmostEqual(probe["loss"], loss, places=4)  # sums of other batches
            self.assertEqual(probe["loss"], probe["val_loss"])
            self.assertEqual(probe["checkpoint"], str(path))
            rounded = self.json("quantize", path, "--scheme", "w8a8-tensor-token", *TOKENS, "--windows", 4,
                                "--json")
            self.assertAlmostEqual(rounded["fp32"]["loss"], loss, places=4)
            self.assertIn("cannot encode text", self.error("generate", path, *TOKENS, code=2))

    def test_all_of_a_text_is_measured(self) -> None:
        """From its beginning: of a text that nothing was trained on no part need be kept."""
        tokens = [key for key in TOKENS if "val_fraction" not in key and "corpus" not in key]
        start = Path("tokens.bin").read_bytes()
        Path("longer.bin").write_bytes(start + struct.pack("<2000H", *[7] * 2000))
        path, told = MODELS / "llama.gguf", {}
        for corpus in ("tokens.bin", "longer.bin"):
            keys = [f"data.corpus={corpus}", *tokens]
            told[corpus] = self.json("probe", path, *keys, "--windows", 100, "--skip", 0, "--json")
            self.json("eval", path, *keys, "model.sink_nullify=2", "--windows", 4, "--json")
        self.assertEqual(told["tokens.bin"], told["longer.bin"])
        self.assertEqual(told["tokens.bin"]["windows"], 100)
        keys = ["data.corpus=tokens.bin", *tokens]
        smooth = ("quantize", path, "--scheme", "w8a8-tensor-static", "--calibration", 8, "--smooth", 0.5)
        self.json(*smooth, *keys, "--windows", 4, "--json")
        for what, *verb in (("calibrate", *smooth), ("train", "train", "tune.yaml", "--out", "none")):
            said = self.error(*verb, *keys, "data.val_fraction=1", code=2)
            self.assertIn(f"data.val_fraction=1 leaves nothing to {what} on", said)

    def test_bos(self) -> None:
        losses = {}
        for bos, identifier in {"1": 1, "3": 3, "none": None}.items():
            told = self.json("probe", MODELS / "llama.gguf", *TOKENS, "--windows", 4, "--bos", bos, "--json")
            self.assertEqual(told["bos"], identifier)
            losses[bos] = told["loss"]
        self.assertEqual(len(set(losses.values())), 3)
        said = self.sinklab("probe", MODELS / "llama.gguf", *TOKENS, "--windows", 1, "--bos", 3).stdout.decode()
        self.assertIn("BOS: id 3 in front of every window\n", said)
        said = self.sinklab("probe", MODELS / "llama.gguf", *TOKENS, "--windows", 1, "--bos", "none").stdout.decode()
        self.assertIn("BOS: none\n", said)

    def test_first_token(self) -> None:
        """Another token at position 0: seen by the probe, with its loss; targets stay, so that the loss of a window
        moves; the token that stands there anyway changes nothing."""
        path = MODELS / "llama.gguf"
        own = self.json("eval", path, *TOKENS, "--windows", 4, "--json", "--each-window")
        self.assertAlmostEqual(sum(own["window_loss"]) / 4, own["loss"], places=6)
        probe = self.json("probe", path, *TOKENS, "--windows", 4, "--json")
        first = {row["window"]: row["token"] for row in probe["top_tokens"]["first"]}
        self.assertEqual(len(first), 4)
        for token in ("5", "9"):
            keys = [*TOKENS, f"data.first_token={token}"]
            other = self.json("probe", path, *keys, "--windows", 4, "--json")
            self.assertEqual({row["token"] for row in other["top_tokens"]["first"]}, {int(token)})
            loss = self.json("eval", path, *keys, "--windows", 4, "--json", "--each-window")
            self.assertAlmostEqual(other["loss"], loss["loss"], places=4)
            for i, window in enumerate(sorted(first)):
                same = loss["window_loss"][i] == own["window_loss"][i]
                self.assertEqual(same, int(token) == first[window])
        said = self.error("eval", path, *TOKENS, "data.first_token=64", code=2)
        self.assertIn('data.first_token: the tokenizer has no token "64"; give one of its tokens, or an id below', said)

    def test_windows_in_front_are_left_out(self) -> None:
        """Two halves are the whole."""
        path = MODELS / "llama.gguf"
        whole = self.json("probe", path, *TOKENS, "--windows", 4, "--skip", 0, "--json")
        halves = [self.json("probe", path, *TOKENS, "--windows", 2, "--skip", skip, "--json") for skip in (0, 2)]
        # Each has seven digits: rounded by 5e-7 at most, as is the mean of two.
        self.assertAlmostEqual(sum(half["loss"] for half in halves) / 2, whole["loss"], delta=1.01e-6)
        self.assertEqual([half["skipped"] for half in halves], [0, 2])
        self.assertEqual({row["window"] for row in halves[1]["top_tokens"]["first"]}, {2, 3})
        for verb in (["probe"], ["eval"], ["quantize", "--scheme", "w8a8-channel-token"]):
            said = self.error(*verb, path, *TOKENS, "--skip", 5000, code=2)
            self.assertIn("5000 windows left out leave none of the", said)

    def test_windows_are_spread(self) -> None:
        """Over the text: of two the second begins in its middle. All verbs take the same ones."""
        path = MODELS / "llama.gguf"
        two = self.json("probe", path, *TOKENS, "--windows", 2, "--json")
        self.assertIsNone(two["skipped"])
        second = max(row["window"] for row in two["top_tokens"]["first"])
        have = self.json("eval", path, *TOKENS, "--json")["windows"]
        self.assertEqual(second, have // 2)
        for skip, loss in zip((0, second), self.json("eval", path, *TOKENS, "--windows", 2, "--each-window",
                                                     "--json")["window_loss"]):
            alone = self.json("eval", path, *TOKENS, "--windows", 1, "--skip", skip, "--json")
            self.assertAlmostEqual(alone["loss"], loss, delta=1e-5)
        rounded = self.json("quantize", path, *TOKENS, "--scheme", "w8a8-channel-token", "--windows", 1, "--skip",
                            second, "--json")
        self.assertAlmostEqual(rounded["fp32"]["loss"], alone["loss"], delta=1e-5)

    def test_training_goes_on_from_them(self) -> None:
        """The first loss is the model's own; the run knows its model and needs the file no more."""
        shutil.copytree(MODELS / "qwen2", "model")
        self.sinklab("train", "tune.yaml", "--init", "model", *TOKENS, "--out", "tuned")
        run = Path("tuned")
        loss = self.json("eval", MODELS / "qwen2", *TOKENS, "--windows", 4, "--json")["loss"]
        first = json.loads((run / "probe.jsonl").read_text().splitlines()[0])
        self.assertEqual(first["step"], 0)
        last = self.json("eval", run, "--windows", 4, "--json")["loss"]
        self.assertLess(last, loss)
        self.assertIn("  init: model\n", (run / "config.yaml").read_text())
        self.assertEqual(self.json("config", run / "config.yaml", "model.attention_bias", "--json"),
                         {"model.attention_bias": "qkv"})

    def test_old_gpt2_files(self) -> None:
        """Names without their prefix, and masks among the tensors."""
        shutil.copytree(MODELS / "gpt2", "old")
        file = Path("old", "model.safetensors")
        data = file.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        head, rest = json.loads(data[8:8 + size]), data[8 + size:] + bytes(4)
        head = {name.removeprefix("transformer."): entry for name, entry in head.items()}
        head["h.0.attn.bias"] = {"dtype": "F32", "shape": [1, 1], "data_offsets": [len(rest) - 4, len(rest)]}
        text = json.dumps(head).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + rest)
        new = self.json("eval", MODELS / "gpt2", *TOKENS, "--windows", 4, "--json")["loss"]
        self.assertEqual(self.json("eval", "old", *TOKENS, "--windows", 4, "--json")["loss"], new)

    def test_keys_of_a_mixture(self) -> None:
        """Those that say another mixture than the tensors do, or one that is not computed here."""
        data = (MODELS / "qwen3_moe.gguf").read_bytes()
        for key, value, message in (
                ("expert_count", 4, "tensor blk.0.ffn_gate_inp.weight has shape [5, 64] where [4, 64] is needed"),
                ("expert_count", 0, "some experts are needed"), ("expert_used_count", 1, "more than one for a token"),
                ("expert_used_count", 6, "model.experts_per_token = 6 is more than model.experts = 5"),
                ("expert_feed_forward_length", 16, "tensor blk.0.ffn_gate_exps.weight has shape [5, 32, 64] where")):
            at = data.index(b"qwen3moe." + key.encode()) + len("qwen3moe." + key) + 4
            Path("moe.gguf").write_bytes(data[:at] + struct.pack("<I", value) + data[at + 4:])
            said = self.error("eval", "moe.gguf", *TOKENS, code=2 if value == 6 else 1)
            self.assertIn("moe.gguf: ", said)
            self.assertIn(message, said)

    def test_another_model_is_refused(self) -> None:
        said = self.error("train", "tune.yaml", "--init", MODELS / "qwen2", *TOKENS, "model.rope_base=7", "--out",
                          "other", code=2)
        self.assertIn("is another model, model.rope_base", said)
        said = self.error("train", "t.yaml", "train.init=" + str(MODELS / "qwen2"), *TOKENS, "--out", "other", code=2)
        self.assertIn("is another model", said)
        said = self.error("train", "tune.yaml", "--init", MODELS / "qwen2", *TOKENS, "data.tokenizer=ids:65", "--out",
                          "other", code=2)
        self.assertIn("has 64 tokens, data.tokenizer=ids:65 has 65", said)

    def test_another_file_is_refused(self) -> None:
        shutil.copytree(MODELS / "qwen2", "broken")
        index = Path("broken", "model.safetensors.index.json")
        told = json.loads(index.read_text())
        told["weight_map"]["lm_head.weight"] = "../lm_head.safetensors"
        index.write_text(json.dumps(told))
        said = self.error("eval", "broken", *TOKENS)
        self.assertIn('weight_map: tensor "lm_head.weight": what it has is not the name of a file in the folder', said)
        data = (MODELS / "llama.gguf").read_bytes()
        Path("cut.gguf").write_bytes(data[:-100])
        self.assertIn("truncated?", self.error("probe", "cut.gguf", *TOKENS))


if __name__ == "__main__":
    common.main()
