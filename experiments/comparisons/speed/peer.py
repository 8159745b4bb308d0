#!/usr/bin/env python3
"""The model of `sinklab bench` in PyTorch, timed on the CPU: one JSON line with the tokens/s of each step.

    sinklab bench bench-1m --json | python peer.py - --precision bf16 --threads 2

The shape is the "shape" object of `sinklab bench --json`. A step is what sinklab times: forward, backward, clipping of
the gradient's norm, AdamW. Where PyTorch leaves a choice, the faster one is taken: one matrix for queries, keys and
values and one for gate and up, PyTorch's own attention and norm, fused AdamW.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError:
    sys.exit("peer.py: error: PyTorch is not installed for this Python; pip install torch")

NORMS = ("rmsnorm", "gated_norm")
EPS = 1e-6
ROPE_BASE = 10000.0
WARMUP = 3  # compiling falls into the first


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        return F.rms_norm(h, self.scale.shape, self.scale, EPS)


class GatedNorm(RmsNorm):
    """u * sigmoid(up(silu(down(u)))) of u = RMSNorm(h), low rank (arXiv 2601.22966)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__(width)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        u = super().forward(h)
        return u * torch.sigmoid(self.up(F.silu(self.down(u))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, u: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        windows, positions, width = u.shape
        split = self.project(u).view(windows, positions, 3 * self.heads, -1).transpose(1, 2)
        query, key = rotate(split[:, :2 * self.heads], turn).tensor_split(2, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, split[:, 2 * self.heads:], is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(windows, positions, width))


def rotation(positions: int, head: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE, [positions, head / 2]."""
    rates = ROPE_BASE ** (torch.arange(0, head, 2, dtype=torch.float64) / -head)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), rates)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Half-split RoPE: element i of the first half turns with element i of the second."""
    (cos, sin), (first, second) = turn, x.tensor_split(2, dim=-1)
    return torch.cat([torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)],
                     dim=-1)


class SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_and_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        gate, up = self.gate_and_up(u).tensor_split(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """Token ids and their successors, [windows, positions], to the mean loss."""

    def __init__(self, shape: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, gated = shape["dim"], shape["norm"] == "gated_norm"

        def block_norm() -> RmsNorm:
            return GatedNorm(width, shape["rank"]) if gated else RmsNorm(width)

        self.embed = nn.Embedding(shape["vocab"], width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm1": block_norm(), "attention": Attention(width, shape["heads"]),
                           "norm2": block_norm(), "ffn": SwiGlu(width, shape["ffn"])}) for _ in range(shape["layers"]))
        self.final_norm = RmsNorm(width)
        self.head = nn.Linear(width, shape["vocab"], bias=False)
        cos, sin = rotation(shape["seq"], width // shape["heads"], dtype)
        for matrix in (p for p in self.parameters() if p.dim() > 1):
            nn.init.normal_(matrix, std=0.02)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor, successors: Tensor) -> Tensor:
        h = self.embed(tokens)
        for block in self.blocks:
            h = h + block["attention"](block["norm1"](h), (self.cos, self.sin))
            h = h + block["ffn"](block["norm2"](h))
        logits = self.head(self.final_norm(h))
        return F.cross_entropy(logits.flatten(0, 1).float(), successors.flatten())


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Matrices decay, norm weights don't, as in sinklab."""
    parameters = list(model.parameters())
    return torch.optim.AdamW([{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
                              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}],
                             lr=1e-3, betas=(0.9, 0.95), fused=True)


def time_steps(shape: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    bf16 = options.precision == "bf16"
    model = Decoder(shape, torch.bfloat16 if bf16 else torch.float32)
    update = optimizer(model)
    loss_of = torch.compile(model) if options.compile else model
    tokens, successors = torch.randint(shape["vocab"], (2, shape["batch"], shape["seq"]))
    rates = []
    for step in range(WARMUP + options.steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(tokens, successors)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
        update.zero_grad(set_to_none=True)
        if step >= WARMUP:
            rates.append(tokens.numel() / (time.perf_counter() - start))
    return {"tokens_per_s": rates, "params": sum(p.numel() for p in model.parameters()), "loss": loss.item(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "compiled": options.compile, "precision": options.precision, "threads": torch.get_num_threads(),
            "torch": torch.__version__, "python": platform.python_version()}


def read_shape(text: str) -> dict[str, Any]:
    try:
        shape = json.loads(sys.stdin.read() if text == "-" else text)
        shape = shape.get("shape", shape)
        sizes = {key: int(shape[key]) for key in ("layers", "dim", "heads", "ffn", "vocab", "seq", "batch", "rank")}
    except (ValueError, TypeError, KeyError, AttributeError):
        sys.exit("peer.py: error: the shape is not what `sinklab bench --json` prints")
    if shape.get("norm") not in NORMS:
        sys.exit(f"peer.py: error: no norm {shape.get('norm')!r} here; there are {', '.join(NORMS)}")
    return {**sizes, "norm": shape["norm"]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="peer.py", description="Times sinklab's bench models in PyTorch.")
    parser.add_argument("shape", help="JSON of `sinklab bench --json`, or - to read it from the standard input")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8, help=f"timed steps, after {WARMUP} of warm-up; default: "
                                                             "%(default)s")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    options = parser.parse_args(argv)
    if options.threads < 1 or options.steps < 1:
        parser.error("--threads and --steps: at least 1")
    if not hasattr(F, "rms_norm"):
        sys.exit(f"peer.py: error: needs PyTorch 2.4 or newer, this is {torch.__version__}")
    print(json.dumps(time_steps(read_shape(options.shape), options)))


if __name__ == "__main__":
    main()
