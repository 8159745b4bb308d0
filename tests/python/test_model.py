"""The Python package: passes, what they leave, figures, text, edits, errors."""
import gc
import os
import random
import struct
import sys
import threading
import unittest
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(os.environ["SL_TESTS"], "e2e")))
import common
import sinklab

GOLDEN = Path(os.environ["SL_TESTS"], "golden", "transformers")
KEYS = {"data.corpus": "tokens.bin", "data.tokenizer": "ids:64:1", "model.seq": 16, "precision": "fp32", "threads": 1}
ARGS = [f"{key}={value}" for key, value in KEYS.items()]
TINY = "model: {layers: 2, dim: 32, heads: 2, ffn: 64, seq: 32}\nprecision: fp32\nthreads: 1\n"


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Model(common.EndToEnd):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        rng = random.Random(1)
        Path("tokens.bin").write_bytes(struct.pack("<2000H", *(rng.randrange(64) for _ in range(2000))))
        cls.enterClassContext(warnings.catch_warnings())
        warnings.simplefilter("error")

    def open(self, name: str = "qwen3", **keys: object) -> sinklab.Model:
        return sinklab.open(GOLDEN / name, keys=KEYS | keys)

    def raises(self, message: str) -> "unittest.case._AssertRaisesContext[sinklab.Error]":
        return self.assertRaisesRegex(sinklab.Error, message)

    def assert_close(self, a: object, b: object) -> None:
        """The same but for the digits that the verb prints."""
        if isinstance(a, dict) and isinstance(b, dict):
            self.assertEqual(a.keys(), b.keys())
            for key in a:
                self.assert_close(a[key], b[key])
        elif isinstance(a, list) and isinstance(b, list):
            self.assertEqual(len(a), len(b))
            for x, y in zip(a, b):
                self.assert_close(x, y)
        elif isinstance(a, float) and isinstance(b, float):
            self.assertAlmostEqual(a, b, delta=1e-6 * abs(b))
        else:
            self.assertEqual(a, b)

    def test_info(self) -> None:
        told = sinklab.info()
        self.assertEqual(told["version"], sinklab.__version__)
        self.assertIn(told["tier"], self.json("doctor", "--json")["tier"])

    def test_shapes(self) -> None:
        m = self.open()
        s = m.shape
        self.assertEqual((s.layers, s.dim, s.heads, s.kv_heads, s.head_dim, s.vocab), (2, 32, 4, 2, 12, 64))
        p = m.forward(np.arange(24).reshape(2, 12))
        self.assertEqual(p.token_loss.shape, (2, 12))
        self.assertEqual(m.residual(2).shape, (2, 12, 32))
        self.assertEqual(m.qkv(1).k.shape, (2, 12, 2, 12))
        self.assertEqual(m.attention(1, 3).shape, (2, 12, 12))
        self.assertEqual(m.norm_output(2).shape, (2, 12, 32))
        self.assertIsNone(m.norm_gate(0, 1))
        self.assertEqual(m.logits(range(5)).shape, (1, 5, 64))
        self.assertEqual(m.shape.seq, 5)

    def test_losses_are_those_of_the_logits(self) -> None:
        m = self.open("gpt2")
        tokens = np.random.default_rng(2).integers(0, 64, (3, 10))
        p = np.log(softmax(m.logits(tokens).astype(np.float64)))
        expected = -np.take_along_axis(p[:, :-1], tokens[:, 1:, None], 2)[..., 0]
        got = m.forward(tokens)
        np.testing.assert_allclose(got.token_loss[:, :-1], expected, rtol=1e-5, atol=1e-6)
        self.assertTrue((got.token_loss[:, -1] == 0).all())
        self.assertAlmostEqual(got.loss, expected.mean(), places=5)
        one = m.forward(tokens, np.where(np.arange(10) == 4, 7, -1) * np.ones((3, 1), int))
        np.testing.assert_allclose(one.token_loss[:, 4], -p[:, 4, 7], rtol=1e-5)
        self.assertEqual(np.count_nonzero(one.token_loss), 3)

    def test_attention_is_softmax_of_its_queries_and_keys(self) -> None:
        m = self.open()
        m.forward(np.arange(22).reshape(2, 11))
        for layer in range(2):
            tap = m.qkv(layer)
            for head in range(4):
                scores = np.einsum("btd,bsd->bts", tap.q[:, :, head], tap.k[:, :, head // 2]) * tap.scale
                expected = softmax(np.where(np.tril(np.ones((11, 11))) > 0, scores, -np.inf))
                np.testing.assert_allclose(m.attention(layer, head), expected, atol=2e-6)

    def test_sink_logits_take_a_share(self) -> None:
        m = sinklab.create(TINY, keys={"model.attention": "sink_logit"})
        m.forward([[1, 2, 3, 4]])
        sums = m.attention(0, 0).sum(-1)
        self.assertTrue((sums > 0.1).all() and (sums < 0.99).all(), sums)

    def test_norms(self) -> None:
        m = sinklab.create(TINY, keys={"model.norm": "gated_norm"})
        m.forward([[1, 2, 3]])
        gate = m.norm_gate(0, 1)
        assert gate is not None
        self.assertTrue(((gate > 0) & (gate < 1)).all())
        weight = m.norm_weight(2)
        assert weight is not None
        h = m.residual(2)
        x = h / np.sqrt((h * h).mean(-1, keepdims=True) + m.config["model.norm_opts.eps"]) * weight
        final = m.norm_gate(2)
        np.testing.assert_allclose(m.norm_output(2), x if final is None else x * final, rtol=1e-4, atol=1e-6)

    def test_arrays_are_the_callers(self) -> None:
        """Later passes, other shapes and the model's end leave them as they were."""
        m = self.open()
        m.forward([[1, 2, 3, 4]])
        kept = [m.residual(1), m.qkv(0).q, m.norm_output(1, 1), m.attention(0, 0)]
        copies = [a.copy() for a in kept]
        m.forward([[9, 8, 7, 6]])
        self.assertTrue((m.residual(1) != kept[0]).any())
        m.forward(np.zeros((4, 16), int))
        del m
        gc.collect()
        for a, b in zip(kept, copies):
            np.testing.assert_array_equal(a, b)

    def test_taps_of_no_pass_raise(self) -> None:
        m = self.open()
        for tap in (lambda: m.residual(0), lambda: m.qkv(0), lambda: m.attention(0, 0), lambda: m.norm_output(0),
                    lambda: m.norm_gate(0)):
            with self.raises("none since its last step"):
                tap()
        self.assertEqual(m.norm_weight(0).shape, (32,))  # type: ignore[union-attr]

    def test_probe_is_the_verbs(self) -> None:
        for windows, more in ((5, []), (8, ["--profile"]), (4, ["--measures", "norms,dynamics"])):
            m = self.open()
            figures = m.probe(windows=windows, profile="--profile" in more,
                              measures="norms,dynamics" if "--measures" in more else None)
            verb = self.json("probe", GOLDEN / "qwen3", *ARGS, "--windows", windows, "--json", *more)
            self.assert_close(figures, verb)
        frame = figures.frame()
        self.assertEqual(list(frame.index), [0, 1, 2])
        self.assertEqual(frame.loc[1, "max"], figures["layers"][1]["max"])
        self.assertAlmostEqual(frame.loc[0, "att0"], np.mean(figures["layers"][0]["att0"]))
        self.assertEqual(figures.heads().shape, (2, 4))
        self.assertIn("m2", repr(figures))

    def test_probe_of_text_and_tokens(self) -> None:
        m = sinklab.create(TINY)
        text = common.corpus_text()[:400]
        ids = m.tokenizer.encode(text)
        self.assertEqual(m.probe(text), m.probe(tokens=ids))
        self.assertEqual(m.probe(text)["windows"], 12)
        self.assertEqual(m.probe(text, windows=3)["tokens"], 96)
        rows = [[256, *ids[:31]], [256, *ids[192:223]]]  # the first, and that in the middle
        batch = m.probe(tokens=rows)
        self.assertAlmostEqual(batch["m2"], m.probe(text, windows=2)["m2"], places=7)
        self.assertEqual(batch["bos"], None)
        short = m.probe("sink")
        self.assertEqual((short["tokens"], short["windows"]), (4, 1))
        self.assertAlmostEqual(short["loss"], m.forward([[256, *b"sin"]], [list(b"sink")]).loss)
        self.assertEqual(m.probe(tokens=[[1, 2]])["loss"], m.forward([[1, 2]]).loss)
        words = m.eval("." * 16 + " and so on", cloze=True)  # of one window; "on" may go on
        self.assertEqual((words["words"], words["windows"]), (2, 1))
        with self.raises("no two tokens"):
            m.edit(bos=False).probe("s")
        with self.raises("give one of"):
            m.probe("text", tokens=[1])
        with self.raises("did you mean norms"):
            m.probe(text, measures="nomrs")

    def test_eval_is_the_verbs(self) -> None:
        verb = self.json("eval", GOLDEN / "llama.gguf", *ARGS, "--windows", 7, "--json")
        m = self.open("llama.gguf")
        figures = m.eval(windows=7)
        self.assertEqual(figures.keys(), verb.keys())
        for name, value in figures.items():
            self.assertEqual(None if value is None else float(f"{value:.12g}"), verb[name], name)
        self.assertAlmostEqual(m.eval(tokens=range(49), windows=1)["loss"], m.forward([1, *range(15)], range(16)).loss)

    def test_cloze(self) -> None:
        """Accuracy is what the logits say; words are the tokenizer's text's (their rule: tests/unit/cloze.c)."""
        verb = self.json("eval", GOLDEN / "llama.gguf", *ARGS, "--windows", 7, "--cloze", "--json")
        m = self.open("llama.gguf")
        figures = m.eval(windows=7, cloze=True)
        self.assertEqual([figures["words"], f"{figures['accuracy']:.12g}"], [verb["words"], f"{verb['accuracy']:.12g}"])
        tokens = range(3, 51)  # three windows of 16; the first begins with BOS, and BOS is before each
        right = [m.logits([[m.bos, *tokens[at:at + 15]]])[0].argmax(-1) == tokens[at:at + 16] for at in (0, 16, 32)]
        self.assertEqual(m.eval(tokens=tokens, cloze=True)["accuracy"], sum(map(sum, right)) / 48)

    def test_edits(self) -> None:
        m = self.open("llama.gguf")
        whole = m.eval(windows=4)["loss"]
        edits: dict[str, tuple[dict, list]] = {
            "clip": ({"clip": 0.5}, ["model.clip=0.5"]), "nullify": ({"nullify": 2}, ["model.sink_nullify=2"]),
            "denominator": ({"nullify": 2, "nullify_mode": "denominator"},
                            ["model.sink_nullify=2", "model.sink_nullify_mode=denominator"]),
            "bos": ({"bos": 3}, ["--bos", 3])}
        for name, (keys, args) in edits.items():
            verb = self.json("eval", GOLDEN / "llama.gguf", *ARGS, *args, "--windows", 4, "--json")["loss"]
            edited = m.edit(**keys)
            with self.subTest(name):
                self.assertEqual(float(f"{edited.eval(windows=4)['loss']:.12g}"), verb)
                self.assertNotEqual(verb, whole)
        self.assertEqual(m.eval(windows=4)["loss"], whole)
        self.assertEqual(m.edit(first_token=5).bos, 5)
        self.assertIsNone(m.edit(bos=False).bos)
        lacking = m.edit(nullify=1)
        with self.raises("holds no channel means"):
            lacking.forward([[1, 2]])
        lacking.eval(windows=4)
        self.assertNotEqual(lacking.forward([[1, 2]]).loss, m.forward([[1, 2]]).loss)
        back = lacking.edit(nullify=0)
        self.assertEqual(back.forward([[1, 2]]).loss, m.forward([[1, 2]]).loss)
        with self.raises("another model, model.layers"):
            m.edit(keys={"model.layers": 3})

    def test_generation_is_the_verbs(self) -> None:
        m = sinklab.create(TINY, seed=3)
        m.save("saved")
        for how in ({"temperature": 0.0}, {"temperature": 0.7, "seed": 5}, {"top_k": 20, "top_p": 0.9}):
            flags = [x for k, v in how.items() for x in (f"--{k.replace('_', '-')}", v)]
            verb = self.sinklab("generate", "saved", "--prompt", "the", "--tokens", 9, *flags).stdout
            got = m.generate("the", 9, **how)  # type: ignore[arg-type]
            self.assertEqual(verb.decode(errors="replace"), got + "\n")
        self.assertEqual(len(list(m.stream("the"))), 28)
        self.assertEqual(sinklab.open("saved").generate("the", 9), m.generate("the", 9))
        for message, call in {"pass the model's window": lambda: m.generate("the", 30),
                              "temperature": lambda: m.generate("the", 2, temperature=-1),
                              "cannot encode text": lambda: self.open().generate("the")}.items():
            with self.raises(message):
                call()

    def test_quantize_is_the_verbs(self) -> None:
        path = GOLDEN / "qwen2"
        got = sinklab.quantize(path, "w8a8-channel-static", clip="mse", calibration=4, windows=4, keys=KEYS)
        verb = self.json("quantize", path, "--scheme", "w8a8-channel-static", "--clip", "mse", "--calibration", 4,
                         "--windows", 4, "--json", *ARGS)
        self.assertEqual(set(got), set(verb))
        self.assertAlmostEqual(got["loss"]["value"], verb["loss"]["value"], places=8)
        sinklab.quantize(path, "w8a8-tensor-token", windows=4, export="rounded", keys=KEYS)
        self.assertEqual(sinklab.quantize("rounded", windows=4, keys=KEYS)["scheme"], "w8a8-tensor-token")
        for message, keys in {"percentile from 50": {"scheme": "w4a4-channel-static", "percentile": 5},
                              "--grid": {}, "unknown scheme": {"scheme": "w3"}}.items():
            with self.raises(message):
                sinklab.quantize(path, keys=KEYS, **keys)  # type: ignore[arg-type]

    def test_config(self) -> None:
        c = sinklab.Config({"model": {"norm": "layernorm", "dim": 64}, "train.lr": 1e-3}, **{"model.heads": 4})
        self.assertEqual((c["model.norm"], c["model.dim"], c["train.lr"], c["model.heads"]), ("layernorm", 64, 1e-3, 4))
        self.assertEqual(dict(sinklab.Config(c.yaml)), dict(c))
        Path("c.yaml").write_text(c.yaml)
        self.assertEqual(dict(sinklab.Config("c.yaml")), dict(c))
        self.assertEqual(dict(sinklab.Config(dict(c))), dict(c))
        self.assertEqual(c.replace(seed=7)["seed"], 7)
        self.assertEqual({row["key"] for row in sinklab.Config.keys_help()}, set(c))
        odd = {"data.corpus": 'a "b": c.txt', "model.mixer": ["softmax"], "model.match_params": True}
        self.assertEqual(sinklab.Config(odd)["data.corpus"], 'a "b": c.txt')
        wrong: dict[str, dict | str] = {
            "did you mean model.norm": {"model.nrom": "x"},
            "no.yaml": "no.yaml", "the configuration:1": "model: {dim: many}",
            "model.heads": {"model.dim": 65}}
        for message, source in wrong.items():
            with self.raises(message):
                sinklab.Config(source)

    def test_tokenizers(self) -> None:
        t = sinklab.Tokenizer("bytes")
        text = "a\nb\n<|endoftext|>\nc £"
        self.assertEqual(t.decode(t.encode(text)), text)
        self.assertEqual(t.encode("").size, 0)
        self.assertEqual(t.encode(b"\xff\x00").tolist(), [255, 0])
        self.assertEqual((sinklab.Tokenizer("ids:10:3").bos, sinklab.Tokenizer("bytes", bos=65).bos), (3, 65))
        for message, spec in {"no such|cannot open": "bpe:none.json", "must be bytes": "words"}.items():
            with self.raises(message):
                sinklab.Tokenizer(spec)
        with self.raises("isn't in the vocabulary"):
            t.decode([999])
        with self.raises("cannot encode"):
            sinklab.Tokenizer("ids:10").encode("x")

    def test_errors(self) -> None:
        m = self.open()
        m.forward([[1, 2]])
        for message, call in {
                "cannot open checkpoint": lambda: sinklab.open("nowhere"),
                "no checkpoint there": lambda: sinklab.open("."),
                "unknown key": lambda: self.open(nokey=1),
                "zero bytes": lambda: sinklab.open("a\0b"),
                "token 64 at place 0": lambda: m.forward([[64, 1]]),
                "target 64 at place 0": lambda: m.forward([[1, 2]], [[64, 1]]),
                "expected whole numbers": lambda: m.forward([[1.5]]),
                "got int64 .2, 2, 2": lambda: m.forward(np.ones((2, 2, 2), int)),
                "got float64 .0": lambda: m.forward([]),
                "is no token": lambda: m.forward([[1 << 40]]),
                "expected .1, 2.*got .1, 3": lambda: m.forward([[1, 2]], [[1, 2, 3]]),
                "layer 3, of 3": lambda: m.residual(3),
                "layer -1": lambda: m.residual(-1),
                "layer 2, of 2": lambda: m.qkv(2),
                "no head 4": lambda: m.attention(0, 4),
                "no norm 2": lambda: m.norm_weight(0, 2),
                "no norm 1 of layer 2": lambda: m.norm_output(2, 1),
                "another model": lambda: sinklab.open(GOLDEN / "qwen3", keys={"model.layers": 3}),
                "nothing.txt": lambda: m.probe(corpus="nothing.txt"),
                "windows: at least 1": lambda: m.probe(windows=0),
                "cannot measure -1": lambda: m.eval(windows=-1)}.items():
            with self.subTest(message), self.raises(message):
                call()
        self.assertEqual(m.forward([[1, 2]]).token_loss.shape, (1, 2))

    def test_warnings_are_pythons(self) -> None:
        with self.assertWarnsRegex(UserWarning, "threads=500"):
            self.open(threads=500)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with self.assertRaisesRegex(UserWarning, "threads=500"):
                self.open(threads=500)
        self.open().forward([[1, 2]])

    def test_models_of_other_threads(self) -> None:
        """Each runs with those it was made for, to the same bits."""
        one, two = self.open(threads=1), self.open(threads=2)
        tokens = np.arange(32).reshape(2, 16)
        self.assertEqual(one.forward(tokens).loss, two.forward(tokens).loss)
        self.assertEqual(one.forward(tokens).loss, two.forward(tokens).loss)

    def test_a_forked_child_is_told(self) -> None:
        """It would wait for threads that it has not."""
        m = self.open(threads=2)
        m.forward([[1, 2]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python: the process has threads
            child = os.fork()
        if child == 0:
            try:
                m.forward([[1, 2]])
            except sinklab.Error as e:
                os._exit(7 if "spawn" in str(e) else 8)
            os._exit(9)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)

    def test_python_threads_take_turns(self) -> None:
        m = self.open()
        batches = [np.random.default_rng(i).integers(0, 64, (4, 16)) for i in range(8)]
        expected = [m.forward(b).loss for b in batches]
        got: list[float] = [0.0] * 8

        def work(i: int) -> None:
            for _ in range(20):
                got[i] = m.forward(batches[i]).loss

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(got, expected)

    def test_passes_let_other_threads_run(self) -> None:
        """The interpreter gives its lock away only where it is asked to, and passes do."""
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e6)
        m = self.open()
        real, inside, seen = sinklab.model.lib, threading.Event(), threading.Event()

        class Watched:
            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            def sl_model_forward(self, *args: object) -> object:
                inside.set()
                rc = real.sl_model_forward(*args)
                inside.clear()
                return rc

        sinklab.model.lib = Watched()
        self.addCleanup(setattr, sinklab.model, "lib", real)

        def work() -> None:
            for _ in range(10000):
                if seen.is_set():
                    break
                m.forward(np.zeros((16, 16), int))

        t = threading.Thread(target=work)
        t.start()
        while t.is_alive() and not seen.is_set():
            if inside.wait(0.001) and inside.is_set():
                seen.set()
        t.join()
        self.assertTrue(seen.is_set())


if __name__ == "__main__":
    common.main()
