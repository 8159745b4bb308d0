"""`sinklab quantize`: the grid, calibration, the int8 unit, and exported models, which are read here as documented."""

import json
import math
import struct
from pathlib import Path
from typing import ClassVar

import common

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def e4m3(code: int) -> float:
    exponent, fraction = code >> 3 & 15, code & 7
    value = math.ldexp(8 + fraction, exponent - 10) if exponent else math.ldexp(fraction, -9)
    return -value if code & 128 else value


class File:
    """A safetensors file: metadata, and tensors as (dtype, shape, bytes)."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        self.metadata = header.pop("__metadata__", {})
        self.tensors = {}
        for name, t in header.items():
            begin, end = (8 + size + offset for offset in t["data_offsets"])
            self.tensors[name] = (t["dtype"], t["shape"], data[begin:end])

    def floats(self, name: str) -> list[float]:
        dtype, _, data = self.tensors[name]
        if dtype == "F32":
            return list(struct.unpack(f"<{len(data) // 4}f", data))
        return [e4m3(b) if dtype == "F8_E4M3" else math.ldexp(1, b - 127) for b in data]

    def codes(self, name: str, cols: int, scheme: str) -> list[list[float]]:
        dtype, shape, data = self.tensors[name]
        rows = [data[i * shape[1] : (i + 1) * shape[1]] for i in range(shape[0])]
        if dtype == "I8":
            return [[b - 256 if b > 127 else b for b in row] for row in rows]
        if dtype == "F8_E4M3":
            return [[e4m3(b) for b in row] for row in rows]
        nibbles = [[n for b in row for n in (b & 15, b >> 4)][:cols] for row in rows]
        if "fp4" in scheme:
            return [[-E2M1[n & 7] if n & 8 else E2M1[n & 7] for n in row] for row in nibbles]
        return [[n - 16 if n > 7 else n for n in row] for row in nibbles]

    def matrix(self, name: str, cols: int, scheme: str) -> tuple[list[list[float]], list[list[float]]]:
        """Values of a rounded matrix, and the scale of each."""
        codes = self.codes(name + ".weight_packed", cols, scheme)
        scales, (down, across) = self.floats(name + ".weight_scale"), self.tensors[name + ".weight_scale"][1]
        outer = self.floats(name + ".weight_global_scale")[0] if name + ".weight_global_scale" in self.tensors else 1
        height = 128 if scheme.startswith("fp8") else len(codes) if down == 1 else 1
        width = {"nvfp4": 16, "mxfp4": 32, "fp8": 128}.get(scheme.split("-")[0], cols)
        if "-g" in scheme:
            width = int(scheme.split("-g")[1].split("-")[0])
        at = [[scales[i // height * across + j // width] * outer for j in range(cols)] for i in range(len(codes))]
        return [[c * s for c, s in zip(*rows)] for rows in zip(codes, at)], at


def figures(result: dict) -> dict:
    """What must be the same bits however it was computed."""
    return {k: result[k] for k in ("loss", "perplexity", "bits_per_byte", "errors")}


class Quantize(common.EndToEnd):
    plain: ClassVar[Path]
    gated: ClassVar[Path]
    experts: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        test = cls()
        cls.plain = test.train("plain", "train.steps=60")
        cls.gated = test.train("gated", "train.steps=60", "model.norm=gated_norm", "model.norm_opts.rank=4",
                               "model.attention_opts.gate=elementwise")
        cls.experts = test.train("experts", "train.steps=20", "model.experts=4", "model.norm=dyt",
                                 "model.embed_scale=true")

    def quantize(self, *args: object) -> dict:
        return self.json("quantize", *args, "--windows", 8, "--calibration", 8, "--json")

    def test_grid(self) -> None:
        names = [line.split()[0] for line in self.sinklab("quantize", "--list").stdout.decode().splitlines()]
        for run in (self.plain, self.experts):
            grid = self.quantize(run, "--grid")
            self.assertEqual([x["scheme"] for x in grid["grid"]], names)
            loss = self.json("eval", run, "--windows", 8, "--json", "precision=fp32")["loss"]
            self.assertAlmostEqual(grid["fp32"]["loss"], loss, places=8)
            for x in grid["grid"]:
                change = x["loss"]
                self.assertAlmostEqual(change["value"] - change["change"], loss, places=7)
                self.assertTrue(change["low"] <= change["change"] <= change["high"])
                eight = x["scheme"].startswith(("w8a8", "fp8"))
                self.assertLess(abs(change["change"]), 0.02 if eight else 0.5, x["scheme"])
                self.assertEqual(len(x["errors"]), 0 if "a16" in x["scheme"] else 6)  # 2 layers, 3 classes
        one = self.quantize(self.plain, "--scheme", "w4a4-channel-static")
        grid = {x["scheme"]: figures(x) for x in self.quantize(self.plain, "--grid")["grid"]}
        self.assertEqual(figures(one), grid["w4a4-channel-static"])
        some = self.quantize(self.plain, "--scheme", "mxfp4,w4a4-channel-static")["grid"]
        self.assertEqual({x["scheme"]: figures(x) for x in some},
                         {x: grid[x] for x in ("w4a4-channel-static", "mxfp4")})
        text = self.sinklab("quantize", self.plain, "--grid", "--windows", 2, "--calibration", 2).stdout.decode()
        self.assertIn("Change of the loss by the range of activations:", text)

    def test_threads_batches_real(self) -> None:
        for scheme, *flags in (("w8a8-channel-token", "--real"), ("w8a8-tensor-affine", "--real"),
                               ("w4a4-channel-window", "--real", "--rotate", "--kv"),
                               ("nvfp4-token", "--smooth", "0.5"),
                               ("w8a8-tensor-static", "--clip", "mse"), ("w4a4-channel-static", "--clip", "token")):
            plain = [f for f in flags if f != "--real"]
            for run in (self.gated, self.experts):
                one = figures(self.quantize(run, "--scheme", scheme, *plain))
                self.assertEqual(one, figures(self.quantize(run, "--scheme", scheme, *flags, "threads=3")), scheme)

    def test_kept_layers(self) -> None:
        """What is kept in fp32 adds no error, and with all of it nothing is lost."""
        whole = self.quantize(self.gated, "--scheme", "w4a4-channel-token")
        less = self.quantize(self.gated, "--scheme", "w4a4-channel-token", "--keep", "ffn.out", "--real")
        self.assertEqual({e["tensor"] for e in whole["errors"]} - {e["tensor"] for e in less["errors"]},
                         {"down_in"})
        self.assertNotEqual(whole["loss"]["value"], less["loss"]["value"])
        none = self.quantize(self.gated, "--scheme", "w4a4-channel-token", "--keep", "all")
        self.assertEqual((none["loss"]["change"], none["errors"]), (0, []))

    def test_clipping(self) -> None:
        """Less squared error on the calibration text's like, and a range from the named part of what was seen."""
        def error(*args: object) -> float:
            result = self.quantize(self.plain, "--scheme", "w4a4-channel-static", *args)
            return sum(e["relative"] ** 2 for e in result["errors"])

        whole = error()
        self.assertLess(error("--clip", "mse"), whole)
        self.assertLess(error("--clip", "percentile", "--percentile", 99), whole)
        self.assertAlmostEqual(error("--clip", "percentile", "--percentile", 100), whole, delta=0.03 * whole)
        token = self.quantize(self.plain, "--scheme", "w4a4-channel-static", "--clip", "token")
        self.assertTrue(0.1 < token["clip_ratio"] <= 1)
        self.assertEqual(token["calibration"], {"windows": 8, "clip": "token"})

    def test_calibration_never_sees_validation(self) -> None:
        """Another validation text changes no scale; another training text does."""
        words = Path("corpus.txt").read_text()
        scales = []
        for name, train, val in (("a", words[:9000], words[9000:14000]), ("b", words[:9000], "Z!{" * 2000),
                                 ("c", "Q#" * 300 + words[:9000], words[9000:14000])):
            Path(name).mkdir()
            Path(name, "train.txt").write_text(train)
            Path(name, "val.txt").write_text(val)
            self.quantize(self.gated, "--scheme", "w8a8-tensor-static", "--smooth", "0.5", "--corpus", name,
                          "--export", name + ".q")
            f = File(Path(name + ".q", "quantised.safetensors"))
            scales.append({k: v for k, v in f.tensors.items() if "input_scale" in k or "norm" in k})
        self.assertEqual(scales[0], scales[1])
        self.assertNotEqual(scales[0], scales[2])

    def test_export(self) -> None:
        """Reading it back is the same to the bit, and the documented tensors say what the weights are."""
        weights = File(common.complete(self.gated)[-1] / "model.safetensors")
        for i, (scheme, *flags) in enumerate((
                ("w8a8-tensor-affine",), ("w8a8-channel-static", "--kv"), ("w4a4-g32-token", "--head"),
                ("w4a16-channel", "--embedding"), ("fp8-block-token", "--kv"), ("nvfp4-static",), ("mxfp4", "--kv"),
                ("nvfp4-token", "--rotate", "--kv", "--head"),
                ("w8a8-channel-static", "--keep", "attn.gate_in,ffn.out", "--rotate"))):
            out = Path(f"out{i}")
            result = self.quantize(self.gated, "--scheme", scheme, *flags, "--export", out)
            again = self.json("quantize", out, "--windows", 8, "--json")
            for key in ("loss", "perplexity", "bits_per_byte"):
                self.assertEqual(result[key]["value"], again[key]["value"], scheme)
            self.assertEqual(result["errors"], again["errors"], scheme)
            f = File(out / "quantised.safetensors")
            self.assertEqual(json.loads(f.metadata["quantization"])["scheme"], scheme)
            self.assertEqual("lm_head.weight" in f.tensors, "--head" not in flags)
            self.assertEqual("model.layers.1.mlp.down_proj.weight" in f.tensors, "--keep" in flags)
            self.assertEqual(result["keep"], ["attn.gate_in", "ffn.out"] if "--keep" in flags else [])
            if "--rotate" in flags:
                signs = f.tensors["model.layers.1.mlp.down_proj.input_rotation"]
                self.assertEqual((signs[0], signs[1], set(signs[2])), ("I8", [64], {1, 255}))
                self.assertEqual("--kv" in flags, "model.layers.0.self_attn.kv_rotation" in f.tensors)
                if "--kv" in flags:
                    self.assertEqual(f.tensors["model.layers.0.self_attn.kv_rotation"][1], [16])
                continue
            self.check_matrix(f, weights, "model.layers.1.mlp.down_proj", scheme)
            self.check_matrix(f, weights, "model.layers.0.self_attn.gate_proj", scheme)

    def check_matrix(self, f: File, weights: File, name: str, scheme: str) -> None:
        """Each value is the nearest of its format, so within half a step of the weight."""
        rows, cols = weights.tensors[name + ".weight"][1]
        w = weights.floats(name + ".weight")
        values, scales = f.matrix(name, cols, scheme)
        self.assertEqual((len(values), len(values[0])), (rows, cols))
        for i in range(rows):
            for j in range(cols):
                x, y, s = w[i * cols + j], values[i][j], scales[i][j]
                code = abs(x) / s if s else 0
                binade = 2.0 ** math.floor(math.log2(max(code, 1e-9)))
                step = 1 if scheme[0] == "w" else max(binade, 1) / 2 if "fp4" in scheme else max(binade, 2**-6) / 8
                slack = 2 if scheme == "mxfp4" and code > 6 else 1  # saturates where the block's largest is 6 to 8
                self.assertLessEqual(abs(x - y), step * s / 2 * slack * 1.001 + 1e-12, (scheme, i, j))


if __name__ == "__main__":
    common.main()
