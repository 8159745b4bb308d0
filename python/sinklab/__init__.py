"""Attention sinks and residual sinks of small transformers, measured and trained on CPUs.

    m = sinklab.open("smollm2-135m.gguf")
    m.probe(text).frame()                   # figures, one row a layer
    m.forward(m.encode("The Lord is"))
    m.attention(layer=3, head=0)            # [batch, seq, seq]
    m.edit(clip=100).eval(text)             # the same weights, one key changed
    for step in sinklab.train("tiny.yaml"): print(step.step, step.loss)

Errors are sinklab.Error, one line that says what, where and how to mend it.
"""
from __future__ import annotations

from typing import Any

from ._lib import Error, ffi, lib, locked
from .config import Config
from .model import QKV, Model, Pass, Shape, create, open
from .probe import Probe
from .quantisation import quantize
from .tokenizer import Tokenizer
from .training import Run, Step, train

__all__ = ["Config", "Error", "Model", "Pass", "Probe", "QKV", "Run", "Shape", "Step", "Tokenizer", "create", "info",
           "open", "quantize", "train"]

__version__: str = ffi.string(lib.sl_version()).decode()


def info() -> dict[str, Any]:
    """Version, the kernels' instruction set, the GPU (None without one that can be used), threads in force.

    >>> sorted(info())
    ['cuda', 'threads', 'tier', 'version']
    """
    with locked():
        cuda = lib.sl_cuda()
        return {"version": __version__, "tier": ffi.string(lib.sl_tier()).decode(),
                "cuda": None if cuda == ffi.NULL else ffi.string(cuda).decode(), "threads": int(lib.sl_threads())}
