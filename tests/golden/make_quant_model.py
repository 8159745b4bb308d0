#!/usr/bin/env python3
"""Writes quant_model/<case>.yaml and .safetensors: whole models under every quantisation scheme, in PyTorch.

    make_quant_model.py [FOLDER]     needs torch, ml_dtypes, numpy, safetensors, PyYAML; the tests need none of them

The decoder is that of decoder.py in float64. Where it multiplies by a linear layer of its blocks (and what a case
adds), the input is rounded to float32 and then, as the matrix was, to the scheme's numbers; the product is float64
again. The schemes are written down here once more, from their names. Files hold
  w.<name>            F16   parameters
  <scheme>.tokens     I32   [batch, seq]
  <scheme>.logits     F32   [batch, seq, vocab]
  <scheme>.<label>    F32 [2]  range of static activations where the layer of this label reads
Tokens are drawn until no activation lies so near a tie of its rounding that float32 might go the other way.
"""

import pathlib
import re
import sys
import zlib

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file

import decoder
from make_quant import FLOAT, LARGEST, cast, grouped, ungrouped

SCHEMES = [f"w8a8-{w}-{a}" for w in ("tensor", "channel") for a in ("static", "affine", "window", "token")]
SCHEMES += [f"w4a16-{w}" for w in ("channel", "g128", "g64", "g32")]
SCHEMES += ["w4a8-channel-static"] + [f"w4a8-{w}-token" for w in ("channel", "g128", "g64", "g32")]
SCHEMES += ["w4a4-channel-static", "w4a4-channel-window"] + [f"w4a4-{w}-token"
                                                             for w in ("channel", "g128", "g64", "g32")]
SCHEMES += ["fp8-block-window", "fp8-block-token", "nvfp4-static", "nvfp4-window", "nvfp4-token", "mxfp4"]

MODEL = {"layers": 2, "dim": 36, "heads": 3, "ffn": 140, "norm": "rmsnorm", "ffn_kind": "swiglu", "rope_base": 100,
         "norm_opts": {"eps": 0.01}, "seq": 5}
TOKENWISE = [s for s in SCHEMES if not s.endswith("window")]  # what an expert reads is not a whole window
CASES = {
    "dense": ({}, set(), SCHEMES),
    "gated": ({"norm": "gated_norm", "norm_opts": {"eps": 0.01, "rank": 4}, "kv_heads": 1,
               "attention_opts": {"gate": "elementwise"}}, {"head", "embedding", "kv"}, SCHEMES),
    "experts": ({"experts": 4, "experts_per_token": 2, "expert_ffn": 19, "shared_experts": 1, "router": "softmax",
                 "balance": "aux", "balance_coef": 0.01}, set(), TOKENWISE),
    "gated_experts": ({"experts": 3, "experts_per_token": 2, "expert_ffn": 19, "shared_experts": 2,
                       "shared_expert_gate": True, "router": "softmax", "balance": "aux", "balance_coef": 0.01}, set(),
                      TOKENWISE),
}
VOCAB, BATCH = 23, 2

LABELS = [(r"self_attn.[qkv]_proj", "attn.qkv"), (r"self_attn.(v_)?gate_proj", "attn.gate_in"),
          (r"self_attn.o_proj", "attn.out"),
          (r"mlp.(gate|up)_proj", "ffn.in"), (r"mlp.down_proj", "ffn.out"),
          (r"mlp.experts.\d+.(gate|up)_proj", "ffn.experts.in"), (r"mlp.experts.\d+.down_proj", "ffn.experts.out"),
          (r"mlp.shared_experts.(gate|up)_proj", "ffn.shared.in"), (r"mlp.shared_experts.down_proj", "ffn.shared.out")]


def label_of(name):
    for pattern, label in LABELS:
        m = re.fullmatch(rf"model.layers.(\d+).{pattern}.weight", name)
        if m:
            return f"layers.{m[1]}.{label}"
    return {"lm_head.weight": "head"}.get(name)


class Near(Exception):
    """A number too near a tie."""


def numbers(fmt):
    if fmt.startswith("int"):
        return np.arange(-LARGEST[fmt], LARGEST[fmt] + 1)
    codes = np.arange(16 if fmt == "e2m1" else 256, dtype=np.uint8).view(FLOAT[fmt]).astype(np.float64)
    return np.unique(codes[np.isfinite(codes)])


def check_ties(v, grid):
    """v in units of the scale. Its float32 error is taken as 5e-7 of the largest; steps below 6e-5 of that matter to
    nobody. Exact ties are those of sums that either precision holds exactly: products of numbers with power-of-two
    scales."""
    most = np.abs(v).max()
    ties, steps = (grid[1:] + grid[:-1]) / 2, np.diff(grid)
    at = np.clip(np.searchsorted(ties, v), 1, len(ties) - 1)
    for i in (at - 1, at):
        distance = np.abs(v - ties[i])
        if np.any((distance > 0) & (distance < 5e-7 * most) & (steps[i] > 6e-5 * most)):
            raise Near


def rounded(fmt, x, scale, check):
    """x [..], scale broadcasts; float32 all along."""
    v = x / np.where(scale > 0, scale, np.float32(np.inf))
    if check:
        check_ties(np.clip(v, -LARGEST[fmt], LARGEST[fmt]).astype(np.float64), numbers(fmt))
    return (cast(fmt, v)[1] * scale).astype(np.float32)


def affine(fmt, x, lo, hi, check):
    lo, hi, top = np.float32(min(lo, 0)), np.float32(max(hi, 0)), 2 ** int(fmt[3:]) - 1
    scale = np.float32((hi - lo) / np.float32(top))
    zero = int(np.clip(np.rint(-lo / scale), 0, top))
    v = x / scale
    if check:
        check_ties(np.clip(v, -zero, top - zero).astype(np.float64), np.arange(-zero, top - zero + 1.0))
    return (np.clip(np.rint(v), -zero, top - zero).astype(np.float32) * scale).astype(np.float32)


def nvfp4(x, outer_amax, check):
    """outer_amax [rows] or [1]"""
    blocks = grouped(x, 16)
    outer = (outer_amax / np.float32(6 * 448)).astype(np.float32).reshape(-1, 1)
    ratio = np.abs(blocks).max(-1) / np.float32(6) / outer
    if check:
        ties = (numbers("e4m3")[1:] + numbers("e4m3")[:-1]) / 2
        if np.any(np.abs(np.log(ratio[ratio > 0].astype(np.float64)[:, None] / ties[ties > 0])) < 2e-6):
            raise Near
    scale = (cast("e4m3", ratio)[1] * outer)[..., None]
    return ungrouped(rounded("e2m1", blocks, scale, check), x.shape[1])


def mxfp4(x, check):
    blocks = grouped(x, 32)
    power = np.log2(np.abs(blocks).max(-1).astype(np.float64))
    if check and np.any(np.abs(power - np.rint(power)) < 2e-6):
        raise Near
    scale = np.exp2(np.floor(power) - 2).astype(np.float32)[..., None]
    return ungrouped(rounded("e2m1", blocks, scale, check), x.shape[1])


def amax_scale(fmt, amax):
    return (np.asarray(amax, np.float32) / np.float32(LARGEST[fmt])).astype(np.float32)


class Scheme:
    def __init__(self, name):
        m = re.fullmatch(r"w(\d)a(\d+)-(\w+?)(?:-(\w+))?", name)
        self.a_range = name.rsplit("-", 1)[1] if not name.endswith("p4") and not (m and m[2] == "16") else "none"
        if m:
            self.w, self.a, self.grain = f"int{m[1]}", f"int{m[2]}", m[3]
        elif name.startswith("fp8"):
            self.w = self.a = "e4m3"
            self.grain = "block"
        else:
            self.w = self.a = "e2m1"
            self.grain = name.split("-")[0]

    @property
    def rounds_activations(self):
        return self.a_range != "none" or self.grain == "mxfp4"

    def weights(self, w):
        if self.grain == "tensor":
            return rounded(self.w, w, amax_scale(self.w, np.abs(w).max()), False)
        if self.grain == "channel":
            return rounded(self.w, w, amax_scale(self.w, np.abs(w).max(1, keepdims=True)), False)
        if self.grain == "nvfp4":
            return nvfp4(w, np.abs(w).max().reshape(1), False)
        if self.grain == "mxfp4":
            return mxfp4(w, False)
        if self.grain == "block":
            y = np.empty_like(w)
            for i in range(0, w.shape[0], 128):
                for j in range(0, w.shape[1], 128):
                    at = np.s_[i : i + 128, j : j + 128]
                    y[at] = rounded(self.w, w[at], amax_scale(self.w, np.abs(w[at]).max()), False)
            return y
        blocks = grouped(w, int(self.grain[1:]))
        scale = amax_scale(self.w, np.abs(blocks).max(-1, keepdims=True))
        return ungrouped(rounded(self.w, blocks, scale, False), w.shape[1])

    def activations(self, x, seq, limits):
        """x [rows, d]; limits: (lo, hi) of static ranges."""
        if self.grain == "mxfp4":
            return mxfp4(x, True)
        if self.a_range == "affine":
            return affine(self.a, x, limits[0], limits[1], True)
        whole = np.float32(max(limits[1], -limits[0])) if limits else None
        rows = np.abs(x).max(1)
        amax = {"static": lambda: np.array([whole], np.float32), "token": lambda: rows,
                "window": lambda: np.repeat(rows.reshape(-1, seq).max(1), seq)}[self.a_range]()
        if self.grain == "nvfp4":
            return nvfp4(x, amax, True)
        return rounded(self.a, x, amax_scale(self.a, amax).reshape(-1, 1), True)

    def cached(self, x):
        """Keys or values [B, heads, T, head_dim]: a scale for each head and position, or the format's blocks in it."""
        rows = x.reshape(-1, x.shape[-1])
        amax = np.abs(rows).max(1)
        if self.grain == "mxfp4":
            return mxfp4(rows, True).reshape(x.shape)
        if self.grain == "nvfp4":
            return nvfp4(rows, amax, True).reshape(x.shape)
        return rounded(self.a, rows, amax_scale(self.a, amax)[:, None], True).reshape(x.shape)


class Layer:
    """Stands for a parameter: x @ layer.T rounds x, and multiplies by the rounded matrix."""

    def __init__(self, name, w, scheme, seq, seen):
        self.label, self.scheme, self.seq, self.seen = label_of(name), scheme, seq, seen
        w = w.numpy().astype(np.float32)
        self.w = torch.from_numpy((scheme.weights(w) if scheme else w).astype(np.float64))

    @property
    def T(self):
        return self

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert "matmul" in function.__name__, function
        return args[1].product(args[0])

    def product(self, x):
        rows = x.reshape(-1, x.shape[-1]).numpy().astype(np.float32)
        if not self.scheme:
            lo, hi = self.seen.get(self.label, (0.0, 0.0))
            if rows.size:
                self.seen[self.label] = (min(lo, float(rows.min())), max(hi, float(rows.max())))
        elif self.scheme.rounds_activations and rows.size:
            rows = self.scheme.activations(rows, self.seq, self.seen.get(self.label))
        return (torch.from_numpy(rows.astype(np.float64)) @ self.w.T).reshape(*x.shape[:-1], self.w.shape[0])


def is_layer(name, flags):
    label = label_of(name)
    return label is not None and (label != "head" or "head" in flags)


def parameters(c, case):
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    p = {}
    for name, shape in decoder.tensor_shapes(c, VOCAB).items():
        std = 0.5 if "embed" in name else 1.2 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.3
        x = rng.standard_normal(shape) * std + (1 if len(shape) == 1 else 0)
        p[name] = torch.from_numpy(x.astype(np.float16).astype(np.float64))
    return p


def logits(c, p, tokens, flags, scheme, seen):
    layers = {k: Layer(k, v, scheme, c["seq"], seen) if is_layer(k, flags) else v for k, v in p.items()}
    if scheme and "embedding" in flags:
        w = p["model.embed_tokens.weight"].numpy().astype(np.float32)
        layers["model.embed_tokens.weight"] = torch.from_numpy(scheme.weights(w).astype(np.float64))
    decoder.cached = lambda x: x
    if scheme and "kv" in flags and scheme.rounds_activations:
        decoder.cached = lambda x: torch.from_numpy(scheme.cached(x.numpy().astype(np.float32)).astype(np.float64))
    with torch.no_grad():
        return decoder.logits(c, layers, tokens)


def draw(c, p, case, name, flags):
    """Tokens, ranges and logits of a scheme."""
    for seed in range(1000):
        rng = np.random.default_rng([zlib.crc32(f"{case} {name}".encode()), seed])
        tokens = rng.integers(0, VOCAB, (BATCH, c["seq"]))
        seen: dict = {}
        logits(c, p, torch.from_numpy(tokens), flags, None, seen)
        # Ranges that clip a little, as calibration on other text would.
        seen = {k: tuple(np.float32(0.9) * np.float32(v) for v in limits) for k, limits in seen.items()}
        try:
            return tokens, seen, logits(c, p, torch.from_numpy(tokens), flags, Scheme(name), seen)
        except Near:
            pass
    raise SystemExit(f"{case} {name}: every draw has a number near a tie")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "quant_model")
    folder.mkdir(exist_ok=True)
    for case, (changes, flags, schemes) in CASES.items():
        c = MODEL | changes
        p = parameters(c, case)
        out = {f"w.{k}": v.numpy().astype(np.float16) for k, v in p.items()}
        for name in schemes:
            tokens, seen, lg = draw(c, p, case, name, flags)
            out[f"{name}.tokens"] = tokens.astype(np.int32)
            out[f"{name}.logits"] = lg.numpy().astype(np.float32)
            if name.endswith(("static", "affine")):
                out |= {f"{name}.{k}": np.array(v, np.float32) for k, v in seen.items()}
        save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, folder / f"{case}.safetensors")
        config = {"model": c, "train": {"batch": BATCH}, "precision": "fp32"}
        (folder / f"{case}.yaml").write_text(yaml.safe_dump(config, default_flow_style=None, width=120))
        print(case, len(schemes), "schemes")


if __name__ == "__main__":
    main()
