#!/usr/bin/env python3
"""Writes gguf/types.gguf, a tensor of each type that is read, as the gguf package writes it, with keys of every kind;
gguf/types.safetensors, what the package's own dequantize() makes of the tensors; and seeds for the fuzzer.

Needs gguf, numpy and safetensors; the tests need none of them. Bytes of blocks are random, their scales (binary16)
finite, some of them zero, negative or subnormal."""

import argparse
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

ROWS = 3
# Of each type in blocks the places of its binary16 numbers in one.
SCALES = {"F32": None, "F64": None, "F16": None, "BF16": None, "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,),
          "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "MXFP4": ()}
EDGES = np.array([0, -0.0, 1, -1, 2.0 ** -24, -(2.0 ** -24), 2.0 ** -14, 65504, -65504], np.float16)


def blocks(name, rng):
    kind = GGMLQuantizationType[name]
    values, size = GGML_QUANT_SIZES[kind]
    at = SCALES[name]
    if at is None:
        x = rng.normal(size=(ROWS, 40))
        x[0, :9] = EDGES
        if name == "BF16":
            return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return x.astype({"F32": np.float32, "F64": np.float64, "F16": np.float16}[name])
    count = 2 if values == 256 else 5
    raw = rng.integers(0, 256, (ROWS, count, size), dtype=np.uint8)
    if name == "MXFP4":
        raw[0, :, 0] = (0, 1, 2, 254, 255)  # exponents at the ends, of which the first two are subnormal
    scale = rng.normal(size=(ROWS * count, len(at))).astype(np.float16)
    edges = min(len(EDGES), ROWS * count - 2)
    scale[:edges, :1] = EDGES[:edges, None]
    for i, first in enumerate(at):
        raw[..., first:first + 2] = scale[:, i].copy().view(np.uint8).reshape(ROWS, count, 2)
    return raw.reshape(ROWS, count * size)


def floats(name, x):
    if name == "F64":
        return x.astype(np.float32)
    return dequantize(x.view(np.uint8) if name == "BF16" else x, GGMLQuantizationType[name])


def add_keys(w):
    w.add_uint8("key.u8", 200)
    w.add_int8("key.i8", -100)
    w.add_uint16("key.u16", 60000)
    w.add_int16("key.i16", -30000)
    w.add_uint32("key.u32", 4000000000)
    w.add_int32("key.i32", -2000000000)
    w.add_float32("key.f32", 0.1)
    w.add_bool("key.bool", True)
    w.add_string("key.string", "a\tb \u00e9")
    w.add_uint64("key.u64", 2 ** 64 - 1)
    w.add_int64("key.i64", -2 ** 63)
    w.add_float64("key.f64", 0.1)
    w.add_array("key.strings", ["one", "two", "\u2581three"])
    w.add_array("key.numbers", [-1, 2, 3])
    w.add_array("key.reals", [0.5, -1.5])
    w.add_array("key.bools", [True, False])


def write_parts(folder):
    """Two parts of a tensor each, for the fuzzer."""
    w = GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=1)
    for name in "xy":
        w.add_tensor(name, np.arange(8, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write(path, tensors, alignment):
    w = GGUFWriter(path, "llama")
    w.add_custom_alignment(alignment)
    add_keys(w)
    for name, x in tensors.items():
        raw = None if SCALES[name] is None and name != "BF16" else GGMLQuantizationType[name]
        w.add_tensor(name.lower(), x.view(np.uint8) if name == "BF16" else x, raw_dtype=raw)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_model(path, rng, experts):
    """A whole model of a layer, a llama or a qwen3moe, for the fuzzer."""
    w = GGUFWriter(path, "qwen3moe" if experts else "llama")
    w.add_block_count(1)
    w.add_context_length(64)
    w.add_embedding_length(32)
    w.add_feed_forward_length(32)
    w.add_head_count(2)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(1e4)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
        feed_forward = {"ffn_gate_inp": (experts, 32), "attn_q_norm": (16,), "attn_k_norm": (16,)} | {
            f"ffn_{which}_exps": (experts, 32, 32) for which in ("gate", "up", "down")}
    else:
        feed_forward = {f"ffn_{which}": (32, 32) for which in ("gate", "up", "down")}
    shapes = {"token_embd": (4, 32), "output_norm": (32,)} | {f"blk.0.{name}": shape for name, shape in {
        "attn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32),
        "ffn_norm": (32,), **feed_forward}.items()}
    for name, shape in shapes.items():
        x, kind = rng.normal(size=shape).astype(np.float32), GGMLQuantizationType.Q4_0
        matrix = len(shape) > 1
        w.add_tensor(f"{name}.weight", quantize(x, kind) if matrix else x, raw_dtype=kind if matrix else None)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description="Write the GGUF golden files (see the head of this file).")
    here = pathlib.Path(__file__).resolve().parent
    ap.add_argument("--out", type=pathlib.Path, default=here / "gguf", help="folder to write to")
    ap.add_argument("--seeds", type=pathlib.Path, default=here.parent / "fuzz/corpus/gguf", help="folder of seeds")
    args = ap.parse_args()
    rng = np.random.default_rng(1)
    tensors = {name: blocks(name, rng) for name in SCALES}
    write(args.out / "types.gguf", tensors, 64)
    save_file({name.lower(): np.ascontiguousarray(floats(name, x)) for name, x in tensors.items()},
              args.out / "types.safetensors")
    few = {name: tensors[name][:1] for name in ("F32", "Q4_1", "Q6_K")}
    write(args.seeds / "few.gguf", few, 32)
    write(args.seeds / "keys.gguf", {}, 32)
    write_parts(args.seeds.parent / "split")
    for name, experts in {"llama": 0, "qwen3moe": 3}.items():
        write_model(args.seeds.parent / f"foreign/{name}.gguf", rng, experts)


if __name__ == "__main__":
    main()
