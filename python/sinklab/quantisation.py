"""Quantised models."""
from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from ._lib import ffi, lib, locked, path_bytes, take_json
from .config import options
from .model import Bos, bos_text

__all__ = ["quantize"]


def quantize(path: str | os.PathLike[str], scheme: str | None = None, *, grid: bool = False,
             smooth: float | None = None, migrate: bool = False, rotate: bool = False, rotation_seed: int = 1,
             head: bool = False, embedding: bool = False, kv: bool = False, real: bool = False,
             keep: str | None = None, clip: str | None = None, percentile: float | None = None,
             calibration: int = 64, windows: int = 128, skip: int | None = None,
             export: str | os.PathLike[str] | None = None, corpus: str | os.PathLike[str] | None = None,
             bos: Bos = None, keys: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Loss of a checkpoint with weights and activations rounded as a scheme says, as `sinklab quantize --json` prints
    it.

    `sinklab quantize --help` says what each of these does. grid: all schemes. keep: kinds of layers that stay fp32,
    like "attn.gate_in,ffn.out". skip: so many windows in front are left out; None: windows are spread over
    the text. export: a new folder for the rounded model, which this function takes as a path too, then without a
    scheme.
    """
    texts = {"scheme": scheme, "keep": keep, "clip": clip, "export_to": export, "corpus": corpus}
    kept = {k: ffi.new("char[]", path_bytes(v)) for k, v in texts.items() if v is not None}
    q = ffi.new("sl_quantize_options *", {
        "grid": grid, "smooth": -1.0 if smooth is None else smooth, "migrate": migrate, "rotate": rotate, "head": head,
        "embedding": embedding, "kv": kv, "real": real, "rotation_seed": rotation_seed,
        "percentile": math.nan if percentile is None else percentile, "calibration": calibration, "windows": windows,
        "skip": -1 if skip is None else skip,
        **kept})
    o, pointed = options({**(keys or {}), **({"data.bos": True} if bos is True else {})}, bos_text(bos))
    with locked():
        figures: dict[str, Any] = take_json(lib.sl_quantize_json(path_bytes(path), q, o))
    del pointed
    return figures
