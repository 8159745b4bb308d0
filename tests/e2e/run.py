"""A run from end to end, and what the other verbs make of its checkpoints."""

import ast
import json
import math
import re
import struct
from pathlib import Path
from typing import ClassVar

import common

PROBE_FIGURES = {"max", "max_no_token0", "m2", "top1_permille", "kurtosis_h", "lambda_min", "att0", "sink_rate",
                 "value_norm_ratio", "layers"}


def write_tokens(path: str, windows: list[list[int]]) -> None:
    head = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({len(windows)}, {len(windows[0])}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    body = b"".join(struct.pack(f"<{len(w)}i", *w) for w in windows)
    Path(path).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body)


def read_floats(path: str) -> tuple[tuple[int, ...], list[float]]:
    data = Path(path).read_bytes()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    return ast.literal_eval(data[10:start].decode())["shape"], list(struct.unpack(f"<{(len(data) - start) // 4}f",
                                                                                  data[start:]))


def entropy(text: bytes) -> float:
    """Of single bytes, in nats: what a model that knows only their frequencies reaches."""
    counts = [text.count(bytes([b])) / len(text) for b in set(text)]
    return -sum(p * math.log(p) for p in counts)


class Run(common.EndToEnd):
    run_dir: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.run_dir = Path("run")
        cls().train(cls.run_dir, "train.steps=60")

    def test_files(self) -> None:
        self.assertEqual({p.name for p in self.run_dir.iterdir()},
                         {"config.yaml", "env.json", "metrics.jsonl", "probe.jsonl", "result.json", "checkpoints"})
        metrics = common.lines(self.run_dir / "metrics.jsonl")
        self.assertEqual([m["step"] for m in metrics], list(range(1, 61)))
        for m in metrics:
            self.assertLessEqual({"loss", "lr", "grad_norm", "tokens_per_s", "gflops", "seconds"}, set(m))
            self.assertEqual("val_loss" in m, m["step"] % 10 == 0)
        probes = common.lines(self.run_dir / "probe.jsonl")
        self.assertEqual([p["step"] for p in probes], list(range(0, 61, 10)))
        for p in probes:
            self.assertLessEqual(PROBE_FIGURES, set(p))
            self.assertEqual(len(p["layers"]), 3)
        env = json.loads((self.run_dir / "env.json").read_text())
        self.assertEqual(env["threads"], 1)
        result = json.loads((self.run_dir / "result.json").read_text())
        self.assertEqual((result["status"], result["stopped_by"], result["step"], result["tokens"]),
                         ("finished", None, 60, 60 * 4 * 32))
        self.assertAlmostEqual(result["val_loss"], metrics[-1]["val_loss"], places=7)  # nine digits
        self.assertLess(result["val_loss"], entropy(common.corpus_text().encode()) + 0.5)

    def test_checkpoints(self) -> None:
        names = [p.name for p in common.complete(self.run_dir)]
        self.assertEqual(names, ["00000050", "00000060"])  # train.keep_checkpoints is 2
        for p in common.complete(self.run_dir):
            self.assertEqual({f.name for f in p.iterdir()},
                             {"DONE", "config.json", "config.yaml", "model.safetensors", "optimizer.safetensors",
                              "state.json"})

    def test_eval(self) -> None:
        result = json.loads((self.run_dir / "result.json").read_text())
        few = self.json("eval", self.run_dir, "--windows", 8, "--json")
        self.assertAlmostEqual(few["loss"], result["val_loss"], places=8)  # as many digits as result.json has
        self.assertAlmostEqual(few["bits_per_byte"], few["loss"] / math.log(2), delta=1e-9)  # a byte a token
        self.assertEqual((few["windows"], few["tokens"]), (8, 256))
        every = self.json("eval", self.run_dir, "--json")
        self.assertEqual(every["windows"], len(common.corpus_text()) // 20 // 32)
        # Windows do not see each other: the batch only decides how sums are cut.
        for batch in (1, 3):
            other = self.json("eval", self.run_dir, "--json", f"train.batch={batch}")
            self.assertAlmostEqual(other["loss"], every["loss"], delta=1e-5)
        older = self.json("eval", common.complete(self.run_dir)[0], "--json")
        self.assertNotEqual(older["loss"], every["loss"])

    def test_checkpoints_lose_what_was_logged(self) -> None:
        """The same passes over the same weights: the same bits, with whatever a model keeps beside its parameters."""
        kinds: list[tuple[str, ...]] = [
            ("precision=bf16",), ("threads=2", "train.batch=3"), ("model.norm=gated_norm", "model.tie_embeddings=true"),
            ("precision=bf16", "model.experts=4", "model.balance=bias", "model.expert_capacity=1"),
            ("model.experts=4", "model.ffn_bias=true", "model.router_bias=true"),
            ("model.norm=layernorm", "model.sink_nullify=2", "model.sink_nullify_value=mean")]
        for i, keys in enumerate(kinds):
            run = self.train(f"kind{i}", "train.steps=20", *keys)
            logged = {m["step"]: m["val_loss"] for m in common.lines(run / "metrics.jsonl") if "val_loss" in m}
            for checkpoint in common.complete(run):
                loss = self.json("eval", checkpoint, "--windows", 8, "--json")["loss"]
                self.assertEqual(loss, float(f"{logged.pop(int(checkpoint.name)):.12g}"), keys)
            self.assertEqual(logged, {}, keys)

    def test_probes_on_a_log_scale(self) -> None:
        run = self.train("log", "train.steps=30", "train.probe_every=0", "train.probe_log=3")
        self.assertEqual([p["step"] for p in common.lines(run / "probe.jsonl")], [0, 1, 3, 5, 10, 22, 30])

    def test_probe(self) -> None:
        p = self.json("probe", self.run_dir, "--json")
        self.assertLessEqual(PROBE_FIGURES, set(p))
        self.assertEqual(len(p["layers"]), 3)
        for layer in p["layers"][:2]:
            self.assertEqual(len(layer["att0"]), 2)
            self.assertLessEqual({"max", "max_no_token0", "m2", "top1_permille", "kurtosis_h", "token0_norm_ratio",
                                  "lambda_min", "value_norm_ratio"}, set(layer))
        self.assertGreaterEqual(p["max"], p["max_no_token0"])
        self.assertGreaterEqual(p["m2"], 1)
        self.assertTrue(0 <= p["att0"] <= 1 and 0 <= p["sink_rate"] <= 1)
        self.assertTrue(1 <= p["kurtosis_h"] <= 32)
        profile = self.json("probe", self.run_dir, "--json", "--profile", "--windows", 4)
        self.assertEqual(len(profile["layers"][0]["channel_mean_abs"]), 32)

    def test_logits_and_loss_agree(self) -> None:
        """The loss of eval is the cross-entropy of the logits on the same windows."""
        text = common.corpus_text().encode()
        val = text[len(text) - int(len(text) * 0.05):]
        windows = [list(val[i * 32:(i + 1) * 32]) for i in range(8)]
        write_tokens("in.npy", [[256] + w[:-1] for w in windows])
        self.sinklab("logits", self.run_dir, "--tokens", "in.npy", "--out", "out.npy")
        shape, logits = read_floats("out.npy")
        self.assertEqual(shape, (8, 32, 257))
        loss, right = 0.0, []
        for i, target in enumerate(t for w in windows for t in w):
            row = logits[i * 257:(i + 1) * 257]
            top = max(row)
            loss += math.log(sum(math.exp(x - top) for x in row)) + top - row[target]
            right.append(row.index(top) == target)
        # Logits are float32 of magnitude below 16: each off by 2^-21 or so.
        said = self.json("eval", self.run_dir, "--windows", 8, "--skip", 0, "--cloze", "--json")
        self.assertAlmostEqual(loss / 256, said["loss"], delta=1e-5)
        words = [all(right[32 * i + a] for a in range(*word.span())) for i, w in enumerate(windows)
                 for word in re.finditer(rb"(?<=\s)[A-Za-z\x80-\xff]+(?![A-Za-z\x80-\xff]|$)", bytes(w))
                 if word.start() >= 16]
        self.assertEqual((said["accuracy"], said["words"]), (sum(right) / 256, len(words)))
        self.assertGreater(len(words), 5)
        self.assertAlmostEqual(said["cloze"], sum(words) / len(words), places=11)

    def test_generate(self) -> None:
        def text(*args: object) -> bytes:
            return self.sinklab("generate", self.run_dir, "--prompt", "the ", "--tokens", 20, *args).stdout
        self.assertEqual(text("--seed", 7), text("--seed", 7))
        self.assertEqual(text("--seed", 7), text("--seed", 7, "threads=3"))
        self.assertEqual(len({text("--seed", s) for s in range(4)}), 4)
        self.assertEqual(len(text()), len("the ") + 20 + 1)
        self.assertEqual(text("--temperature", 0), text("--top-k", 1))
        self.assertEqual(text("--temperature", 0), text("--temperature", 0, "--seed", 9))

    def test_greedy_is_argmax_of_logits(self) -> None:
        """Decoding with the cache picks what the whole model, run over the prefix, finds likeliest.
        Large initial weights make every position depend on all before it."""
        run = self.train("sharp", "train.steps=0", "train.warmup=0", "model.init_std=0.4", "model.kv_heads=1")
        out = self.sinklab("generate", run, "--prompt", "a cat", "--tokens", 26, "--temperature", 0).stdout
        tokens = [256]
        for document in out[:-1].split(b"\n<|endoftext|>\n"):  # how BOS is shown
            tokens += [*document, 256]
        tokens.pop()
        self.assertEqual(len(tokens), 32)
        write_tokens("greedy.npy", [tokens])
        self.sinklab("logits", run, "--tokens", "greedy.npy", "--out", "greedy_out.npy")
        _, logits = read_floats("greedy_out.npy")
        for at in range(5, 31):
            row = logits[at * 257:(at + 1) * 257]
            # Both are float32 sums in different orders; a near tie may fall either way.
            self.assertGreaterEqual(row[tokens[at + 1]], max(row) - 1e-4, f"position {at}")

    def test_dump_gives_the_same_run(self) -> None:
        dump = self.sinklab("config", "t.yaml", "train.steps=20", "model.norm=gated_norm", "--dump").stdout
        Path("dump.yaml").write_bytes(dump)
        a = self.train("direct", "train.steps=20", "model.norm=gated_norm")
        self.sinklab("train", "dump.yaml", "--out", "dumped")
        self.assert_same_run(a, Path("dumped"))
        self.sinklab("train", a / "config.yaml", "--out", "again")
        self.assert_same_run(a, Path("again"))

    def test_seed_decides(self) -> None:
        a, b = self.train("seed1", "train.steps=10", "train.warmup=1"), self.train("seed2", "train.steps=10",
                                                                                   "train.warmup=1", "seed=2")
        self.assertNotEqual(common.lines(a / "metrics.jsonl")[0]["loss"], common.lines(b / "metrics.jsonl")[0]["loss"])

    def test_dry_run(self) -> None:
        before = sorted(Path(".").rglob("*"))
        out = self.sinklab("train", "t.yaml", "--dry-run").stdout.decode()
        names = [line.split()[0] for line in out.splitlines()]
        self.assertEqual(names, ["parameters", "tokens", "memory", "work", "speed", "time"])
        # Embedding and head 2 V d, three norms a block pair less one: (2 layers + 1/2) 2 d, blocks 4 d^2 + 3 d ffn.
        self.assertEqual(int(out.split()[1]), 2 * 257 * 32 + 5 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64))
        self.assertIn(str(40 * 4 * 32), out.splitlines()[1])
        self.assertEqual(before, sorted(Path(".").rglob("*")))

    def test_default_folder(self) -> None:
        """Without --out: a folder for each distinct configuration."""
        for norm in ("rmsnorm", "layernorm"):
            self.sinklab("train", "t.yaml", "train.steps=5", f"model.norm={norm}")
        self.assertEqual(len(list(Path("runs").glob("t-*/result.json"))), 2)
        self.assertIn("already holds a run", self.error("train", "t.yaml", "train.steps=5", "threads=2"))

    def test_other_corpora(self) -> None:
        """A folder of texts and a bin of the same text train to the same bits as the file."""
        folder = Path("texts")
        folder.mkdir()
        (folder / "one.txt").write_text(common.corpus_text())
        self.sinklab("tokenize", "corpus.txt", "--out", "corpus.bin")
        runs = [self.train(f"from_{i}", "train.steps=5", f"data.corpus={c}")
                for i, c in enumerate(("corpus.txt", "texts", "corpus.bin", "./corpus.txt"))]
        for r in runs[1:]:
            self.assert_same_weights(runs[0], r)

    def test_foreign_bin(self) -> None:
        """Ids without a tokenizer: trains and evaluates; text cannot be made of them."""
        ids = [i * i % 97 for i in range(4000)]
        Path("ids.bin").write_bytes(struct.pack("<4000H", *ids))
        r = self.train("ids", "data.corpus=ids.bin", "data.tokenizer=ids:100:99")
        self.assertIsNone(self.json("eval", r, "--json")["bits_per_byte"])
        self.assertIn("cannot encode text", self.error("generate", r, code=2))

    def test_larger_than_any_machine(self) -> None:
        for args in (["--out", "huge"], ["--dry-run"]):
            message = self.error("train", "t.yaml", "model.layers=1024", "model.dim=65536", "model.ffn=1048576", *args)
            self.assertRegex(message, r"^out of memory: \d+ bytes for .*; use a smaller model, batch or window$")
        self.assertFalse(Path("huge").exists())

    def test_weights_that_are_not_numbers(self) -> None:
        """A model without DONE, as from elsewhere, with a NaN in it: said, not printed as a loss."""
        source, nan = common.complete(self.run_dir)[-1], Path("nan")
        nan.mkdir()
        (nan / "config.json").write_bytes((source / "config.json").read_bytes())
        data = bytearray((source / "model.safetensors").read_bytes())
        data[-4:] = struct.pack("<f", math.nan)
        (nan / "model.safetensors").write_bytes(data)
        self.assertIn("not a number", self.error("eval", nan, "data.corpus=corpus.txt", "model.seq=32", "--json"))
        self.assertIn("not a number", self.error("eval", nan, "data.corpus=corpus.txt", "model.seq=32"))


class Bench(common.EndToEnd):
    """It times the very step that `train` runs."""

    def loss(self, *keys: str) -> float:
        """After a few steps of a tiny model on random tokens."""
        out = self.sinklab("bench", "bench-1m", "--steps", "2", "--json", "model.layers=1", "train.batch=1",
                           "model.seq=16", "train.warmup=0", "threads=1", *keys)
        found = json.loads(out.stdout)
        return (found[0] if isinstance(found, list) else found)["loss"]

    def test_no_clipping_is_no_scaling_to_zero(self) -> None:
        self.assertEqual(self.loss("train.clip_norm=0"), self.loss("train.clip_norm=1e9"))
        self.assertNotEqual(self.loss("train.clip_norm=0"), self.loss("train.clip_norm=0", "train.lr=1e-30"))

    def test_the_kernel_alone_has_operands_between_l1_and_l2(self) -> None:
        caches = json.loads(self.sinklab("doctor", "--json").stdout)["caches"]
        for precision, width in ("fp32", 4), ("bf16", 2):
            found = json.loads(self.sinklab("bench", "kernel", "--json", "threads=2", f"precision={precision}").stdout)
            m, n, k = (found[key] for key in "mnk")
            if found["precision"] == precision:  # bf16: where there is a unit
                self.assertGreaterEqual(found["bytes"], width * (m + n) * k + 4 * m * n)
            self.assertLess(found["bytes"], caches["l2_bytes"] or 1 << 19)
            self.assertGreater(found["bytes"], caches["l1d_bytes"] or 1 << 15)
            self.assertTrue(0 < found["gflops"] <= found["best_gflops"], found)
            self.assertEqual(found["threads"], 2)


if __name__ == "__main__":
    common.main()
