#!/usr/bin/env python3
"""Writes quant.safetensors: what PyTorch and ml_dtypes make of numbers in the formats of simd/quant.inc.

    make_quant.py [FILE]     needs torch, ml_dtypes, numpy, safetensors; the tests need none of them

Rounding of single numbers, scale 1 (bits of binary32 as I32, codes as U8):
  <format>.x, .y, .code   inputs; the number each becomes, the code of that number
                          e4m3: every code, every point half-way between neighbours and its two neighbours in binary32,
                          every sign and exponent of binary32 with mantissas about the ties; saturated to 448
  e4m3.values, e2m1.values, e8m0.values   F32, what each code means (NaN too)
Matrices:
  x                       normal numbers with outliers, a block of zeros, one of subnormals, a tiny row; the
                          following are of its first rows but for e4m3_block
  int8_row, int4_row      scale [rows], y: SmoothQuant's fake quantisation, absmax / qmax, round, times scale
  int8_tensor             the same with one scale
  int4_g32                groups of 32 of a row
  uint8_static            asymmetric: torch.fake_quantize_per_tensor_affine; scale [1], zero [1]
  e4m3_block              128 x 128 blocks
  nvfp4_tensor, nvfp4_row blocks of 16: outer, code of the scale, code of the element, y
  mxfp4                   blocks of 32: code of the scale, code of the element, y
"""

import pathlib
import sys

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file

FLOAT = {"e4m3": ml_dtypes.float8_e4m3fn, "e2m1": ml_dtypes.float4_e2m1fn, "e8m0": ml_dtypes.float8_e8m0fnu}
LARGEST = {"e4m3": 448.0, "e2m1": 6.0, "int8": 127.0, "int4": 7.0}
ROWS = 24


def bits(x):
    return np.asarray(x, np.float32).view(np.int32)


def meanings(name):
    codes = np.arange(16 if name == "e2m1" else 256, dtype=np.uint8)
    return codes.view(FLOAT[name]).astype(np.float32)


def cast(name, x):
    """Code and number of x, saturated first: both libraries turn what is too large into NaN, or have no NaN."""
    x = np.clip(np.asarray(x, np.float32), -LARGEST[name], LARGEST[name])
    if name.startswith("int"):
        y = torch.round(torch.from_numpy(np.ascontiguousarray(x))).numpy() + np.float32(0)
        return y.astype(np.int8).view(np.uint8), y
    code = x.astype(FLOAT[name])
    if name == "e4m3":  # two libraries, one answer
        other = torch.from_numpy(np.ascontiguousarray(x)).to(torch.float8_e4m3fn)
        assert np.array_equal(other.view(torch.uint8).numpy(), code.view(np.uint8))
    return code.view(np.uint8), code.astype(np.float32)


def points(name):
    """Numbers at which the rounding of a format turns."""
    if name.startswith("int"):
        numbers = np.arange(LARGEST[name] + 1, dtype=np.float32)
    else:
        numbers = np.unique(np.abs(meanings(name)[np.isfinite(meanings(name))]))
    ties = (numbers[:-1] + numbers[1:]) / 2
    near = np.concatenate([numbers, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))])
    exponent = np.arange(255, dtype=np.uint32)[:, None] << 23
    mantissa = np.array([0, 1, 0x3fffff, 0x400000, 0x400001, 0x7fffff], np.uint32)[None, :]
    everywhere = (exponent | mantissa).astype(np.uint32).view(np.float32).ravel()
    x = np.concatenate([near.astype(np.float32), everywhere])
    return np.concatenate([x, -x])


def singles():
    out: dict[str, list] = {}
    for name in LARGEST:
        x = points(name)
        code, y = cast(name, x)
        out |= {f"{name}.x": bits(x), f"{name}.y": bits(y), f"{name}.code": code}
    return out | {f"{name}.values": meanings(name) for name in FLOAT}


def matrix():
    g = np.random.default_rng(7)
    x = g.standard_normal((130, 133)).astype(np.float32)
    x[3, 17], x[129, 0], x[40, 132] = 4000, -900, 77
    x[5, 32:64] = 0
    x[6, 64:96] *= np.float32(1e-41)
    x[7] *= np.float32(1e-9)
    x[8] = 0
    return x


def integers(name, x, amax):
    scale = (torch.from_numpy(amax.astype(np.float32)) / LARGEST[name]).numpy()
    divisor = np.where(scale > 0, scale, np.float32(np.inf))
    _, q = cast(name, x / divisor)
    return scale, q * scale


def grouped(x, group):
    """[rows, groups, group], the last group filled with zeros."""
    pad = -x.shape[1] % group
    return np.pad(x, ((0, 0), (0, pad))).reshape(x.shape[0], -1, group)


def ungrouped(x, d):
    return np.ascontiguousarray(x.reshape(x.shape[0], -1)[:, :d])


def nvfp4(x, outer_amax):
    """Two levels: outer = amax / (6 * 448); a block's scale is E4M3(amax / 6 / outer), in E4M3's range by then."""
    blocks = grouped(x, 16)
    outer = (outer_amax / np.float32(6 * 448)).astype(np.float32)
    over = np.where(outer > 0, outer, np.float32(np.inf)).reshape(-1, 1)
    code, of_block = cast("e4m3", np.abs(blocks).max(-1) / np.float32(6) / over)
    scale = (of_block * outer.reshape(-1, 1))[..., None]
    element, q = cast("e2m1", blocks / np.where(scale > 0, scale, np.float32(np.inf)))
    d = x.shape[1]
    return {"outer": outer.ravel(), "scale": code, "code": ungrouped(element, d), "y": ungrouped(q * scale, d)}


def mxfp4(x):
    """OCP MX 1.0, 6.3: the largest power of two in the block over the largest of E2M1, 4."""
    blocks = grouped(x, 32)
    amax = np.abs(blocks).max(-1).astype(np.float64)
    exponent = np.floor(np.log2(np.where(amax > 0, amax, 2.0**-140))) - 2
    scale64 = np.exp2(np.clip(exponent, -127, 127))
    code = scale64.astype(FLOAT["e8m0"])
    assert np.array_equal(code.astype(np.float64), scale64)
    scale = scale64.astype(np.float32)[..., None]
    element, q = cast("e2m1", blocks / scale)
    d = x.shape[1]
    return {"scale": code.view(np.uint8), "code": ungrouped(element, d), "y": ungrouped(q * scale, d)}


def tensors():
    whole = matrix()
    x = whole[:ROWS]
    rows, d = x.shape
    out = {"x": whole}
    amax = {"row": np.abs(x).max(1, keepdims=True), "tensor": np.abs(x).max(keepdims=True)}
    for name, kind in ("int8", "row"), ("int4", "row"), ("int8", "tensor"):
        scale, y = integers(name, x, amax[kind])
        out |= {f"{name}_{kind}.scale": scale.ravel(), f"{name}_{kind}.y": y}
    scale, y = integers("int4", grouped(x, 32), np.abs(grouped(x, 32)).max(-1, keepdims=True))
    out |= {"int4_g32.scale": scale.reshape(rows, -1), "int4_g32.y": ungrouped(y, d)}

    t = torch.from_numpy(x).clamp(-3, 5)
    observer = torch.ao.quantization.MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine, eps=0)
    observer(t)
    step, zero = observer.calculate_qparams()
    y = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), step, zero.to(torch.int32), 0, 255)
    out |= {"uint8_static.scale": step.numpy().astype(np.float32).ravel(),
            "uint8_static.zero": zero.numpy().astype(np.int32).ravel(), "uint8_static.y": y.numpy() + np.float32(0)}

    y = np.empty_like(whole)
    scales = np.empty((2, 2), np.float32)
    for i in range(2):
        for j in range(2):
            at = np.s_[128 * i:128 * i + 128, 128 * j:128 * j + 128]
            scales[i, j] = np.abs(whole[at]).max() / np.float32(448)
            y[at] = cast("e4m3", whole[at] / scales[i, j])[1] * scales[i, j]
    out |= {"e4m3_block.scale": scales, "e4m3_block.y": y}
    for kind in "tensor", "row":
        out |= {f"nvfp4_{kind}.{k}": v for k, v in nvfp4(x, amax[kind].ravel()).items()}
    return out | {f"mxfp4.{k}": v for k, v in mxfp4(x).items()}


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "quant.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in (singles() | tensors()).items()}, path)


if __name__ == "__main__":
    main()
