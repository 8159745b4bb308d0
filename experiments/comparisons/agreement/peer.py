#!/usr/bin/env python3
"""Trains the runs of a study in PyTorch, by an implementation of its own, and measures them as `sinklab probe` does.

    ./experiments/run norms                                                      # sinklab's runs, and their plan
    python experiments/comparisons/agreement/peer.py runs/studies/norms/quick    # the same arms and seeds here
    .venv/bin/python experiments/comparisons/agreement/compare.py runs/studies/norms/quick

With `--checkpoints runs/store` peer.py measures sinklab's models instead.

Needs PyTorch 2.4, `tokenizers` where a run has a BPE tokenizer, and `safetensors` for --checkpoints. A seed here has
nothing in common with that seed of sinklab but its number: weights and the order of windows are drawn by PyTorch. What
a run sets and this model does not have is an error. Runs with a result are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError:
    sys.exit("peer.py: error: PyTorch is not installed for this Python; pip install torch")

BOUNDARY = "<|endoftext|>\n"
PROBE_WINDOWS = 16  # rounded up to whole batches, as sinklab does at the end of a run
# What may be set, with sinklab's defaults; the type is that of the default.
KEYS: dict[str, Any] = {
    "model.layers": 6, "model.dim": 384, "model.heads": 6, "model.ffn": 1024, "model.seq": 256,
    "model.rope_base": 10000.0,
    "model.init_std": 0.02, "model.norm": "rmsnorm", "model.norm_opts.rank": 16, "model.norm_opts.eps": 1e-6,
    "model.norm_opts.init": "half", "model.norm_opts.gate_final": False, "model.norm_opts.preaffine": False,
    "model.attention_opts.gate": "none", "data.corpus": "treasury", "data.tokenizer": "bytes", "train.steps": 1000,
    "train.batch": 16, "train.lr": 1e-3, "train.schedule": "cosine", "train.warmup": 100, "train.min_lr_ratio": 0.1,
    "train.decay_fraction": 0.2, "train.weight_decay": 0.1, "train.betas": "[0.9, 0.95]", "train.eps": 1e-8,
    "train.clip_norm": 1.0, "train.guard": "stop", "train.eval_windows": 256}
CHOICES = {"model.norm": ("rmsnorm", "gated_norm", "none"), "model.norm_opts.init": ("half",),
           "model.attention_opts.gate": ("none", "elementwise"), "train.schedule": ("cosine", "wsd", "constant"),
           "train.guard": ("stop", "off")}  # a run that either lets finish has taken every step
# Of no consequence for the result, or seen in what the run of sinklab had: its width, its precision.
IGNORED = {"model.match_params", "precision", "train.eval_every", "train.probe_every", "train.probe_log",
           "train.checkpoint_every",
           "train.keep_checkpoints", "train.tensorboard", "train.guard_spike", "threads", "isa"}

Settings = dict[str, Any]


class PeerError(Exception):
    """The message is one line."""


# ---- what to train


def settings_of(arm: str, settings: dict[str, str], ffn: str, precision: str) -> Settings:
    """A plan's settings of a run over the defaults, in their types."""
    s = dict(KEYS)
    for key, text in settings.items():
        if key in IGNORED:
            continue
        if key not in KEYS:
            raise PeerError(f"arm {arm}: {key}: this model does not have it; leave the arm out with --arms")
        kind = type(KEYS[key])
        try:
            s[key] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise PeerError(f"arm {arm}: {key}: not a {kind.__name__}: {text!r}") from None
        if s[key] not in CHOICES.get(key, (s[key],)):
            raise PeerError(f"arm {arm}: {key}: {text}: not here; there are {', '.join(CHOICES[key])}")
    return s | {"model.ffn": int(ffn), "precision": precision}


def finished(folder: Path, arms: list[str] | None,
             seeds: list[int] | None) -> Iterator[tuple[dict[str, str], Settings]]:
    """Rows and settings of the runs that speak for their arms, seed by seed, so that whatever is stopped early has all
    arms. Width of the feed-forward and precision are those of sinklab's run: model.match_params and `precision: auto`
    leave them to it."""
    try:
        plan = {run["hash"]: run["settings"]
                for run in json.loads((folder / "plan.json").read_text(encoding="utf-8"))["runs"]}
        with open(folder / "runs.csv", newline="", encoding="utf-8") as f:
            rows = [row for row in csv.DictReader(f) if row["status"] == "finished" and row["taken"] == "1"]
        rows.sort(key=lambda row: (int(row["seed"]), row["arm"]))
        runs = [(row, plan[row["hash"]]) for row in rows]
    except (ValueError, KeyError, TypeError):
        raise PeerError(f"{folder}: plan.json and runs.csv are not those of a study") from None
    there = {row["arm"] for row in rows}
    if unknown := set(arms or ()) - there:
        raise PeerError(f"{folder}: no finished run of arm {min(unknown)}; there are {', '.join(sorted(there))}")
    for row, settings in runs:
        if (arms is None or row["arm"] in arms) and (seeds is None or int(row["seed"]) in seeds):
            yield row, settings_of(row["arm"], settings, row["ffn"], row["precision"])


# ---- text


def byte_ids(documents: list[str]) -> list[Tensor]:
    return [torch.frombuffer(bytearray(d.encode()), dtype=torch.uint8).int() for d in documents]


def bpe(name: str) -> tuple[Callable[[list[str]], list[Tensor]], int, int]:
    """Encoder, size of the vocabulary and BOS of data.tokenizer bpe:FILE."""
    kind, _, path = name.partition(":")
    if kind != "bpe":
        raise PeerError(f"data.tokenizer: {name}: not here; there are bytes and bpe:FILE")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise PeerError("data.tokenizer: needs the package tokenizers; pip install tokenizers") from None
    try:
        t = Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing narrower
        raise PeerError(f"data.tokenizer: {path}: {error}") from None
    return (lambda documents: [torch.tensor(e.ids, dtype=torch.int32) for e in t.encode_batch(documents)],
            t.get_vocab_size(),
            t.token_to_id(BOUNDARY.strip()))


class Windows:
    """Windows of `seq` inputs, BOS before the text, over each part of a corpus; a part is its tokens on the device."""

    def __init__(self, s: Settings, device: str) -> None:
        root = Path(os.environ.get("SINKLAB_DATA", "data/corpora"))
        folder = next((f for f in (root / s["data.corpus"], Path(s["data.corpus"])) if (f / "train.txt").is_file()),
                      None)
        if not folder or not (folder / "val.txt").is_file():
            raise PeerError(f"data.corpus: {s['data.corpus']}: no folder with train.txt and val.txt; data/prepare.py "
                            "makes it")
        self.seq = s["model.seq"]
        parts = {part: [d for d in (folder / f"{part}.txt").read_text(encoding="utf-8").split(BOUNDARY) if d]
                 for part in ("train", "val")}
        name = s["data.tokenizer"]
        encode, self.vocab, self.bos = (byte_ids, 257, 256) if name == "bytes" else bpe(name)
        self.part = {part: self.joined(encode(documents)).to(device) for part, documents in parts.items()}
        self.step = torch.arange(self.seq, device=device)

    def joined(self, documents: list[Tensor]) -> Tensor:
        """One BOS between documents."""
        bos = torch.tensor([self.bos], dtype=torch.int32)
        return torch.cat([piece for document in documents for piece in (bos, document)][1:])

    def count(self, part: str) -> int:
        return len(self.part[part]) // self.seq

    def batch(self, part: str, which: Tensor) -> tuple[Tensor, Tensor]:
        targets = self.part[part][which[:, None] * self.seq + self.step].long()
        return torch.cat([torch.full_like(targets[:, :1], self.bos), targets[:, :-1]], 1), targets


# ---- the model


class Norm(nn.Module):
    """weight x / rms(x), or weight x (none), of pre x (PreAffine), and behind it u sigmoid(up(silu(down(u))))
    (GatedNorm, arXiv 2601.22966)."""

    def __init__(self, s: Settings, gated: bool) -> None:
        super().__init__()
        d, rank = s["model.dim"], s["model.norm_opts.rank"]
        self.none, self.eps = s["model.norm"] == "none", s["model.norm_opts.eps"]
        self.weight = nn.Parameter(torch.ones(d))
        self.pre = nn.Parameter(torch.ones(d)) if s["model.norm_opts.preaffine"] else None
        self.down = nn.Linear(d, rank, bias=False) if gated else None
        self.up = nn.Linear(rank, d, bias=False) if gated else None

    def forward(self, h: Tensor) -> Tensor:
        h = h if self.pre is None else self.pre * h
        u = self.weight * h if self.none else F.rms_norm(h, self.weight.shape, self.weight, self.eps)
        return u if self.up is None or self.down is None else u * torch.sigmoid(self.up(F.silu(self.down(u))))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split RoPE."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, s: Settings) -> None:
        super().__init__()
        d, f, gated = s["model.dim"], s["model.ffn"], s["model.norm"] == "gated_norm"
        self.heads = s["model.heads"]
        self.norm1, self.norm2 = Norm(s, gated), Norm(s, gated)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate = nn.Linear(d, d, bias=False) if s["model.attention_opts.gate"] == "elementwise" else None
        self.gate_up, self.down = nn.Linear(d, 2 * f, bias=False), nn.Linear(f, d, bias=False)

    def split(self, u: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(u).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        u = self.norm1(h)
        mixed = F.scaled_dot_product_attention(*self.split(u, cos, sin), is_causal=True).transpose(1, 2).flatten(2)
        h = h + self.out(mixed if self.gate is None else mixed * torch.sigmoid(self.gate(u)))
        gate, up = self.gate_up(self.norm2(h)).chunk(2, -1)
        return h + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, s: Settings, vocab: int) -> None:
        super().__init__()
        d, layers, head = s["model.dim"], s["model.layers"], s["model.dim"] // s["model.heads"]
        self.embed, self.head = nn.Embedding(vocab, d), nn.Linear(d, vocab, bias=False)
        self.blocks = nn.ModuleList(Block(s) for _ in range(layers))
        self.norm = Norm(s, s["model.norm"] == "gated_norm" and s["model.norm_opts.gate_final"])
        angle = torch.outer(torch.arange(s["model.seq"]).double(),
                            s["model.rope_base"] ** (-torch.arange(0, head, 2).double() / head))
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                writes = name.endswith((".out.weight", ".down.weight")) and "norm" not in name  # to the stream
                nn.init.normal_(p, std=s["model.init_std"] / (math.sqrt(2 * layers) if writes else 1))

    def stream(self, tokens: Tensor) -> Iterator[Tensor]:
        """h_0 .. h_L."""
        h = self.embed(tokens)
        yield h
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
            yield h

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        *_, h = self.stream(tokens)
        return F.cross_entropy(self.head(self.norm(h)).float().flatten(0, 1), targets.flatten())


# ---- what is measured: the definitions of src/probe/measures.h, from their text


def over_median(x: Tensor) -> float:
    return float(x.max() / x.double().quantile(0.5))


def attention_figures(block: Block, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Of each head: mean attention of queries 1.. to token 0, and |v| of token 0 over the mean |v| of the others."""
    q, k, v = (x.float() for x in block.split(block.norm1(h), cos, sin))
    with torch.autocast(h.device.type, enabled=False):
        score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    seen = torch.ones(score.shape[-2:], dtype=torch.bool, device=h.device).tril()
    size = v.norm(dim=-1)
    return (score.masked_fill(~seen, -math.inf).softmax(-1)[:, :, 1:, 0].mean((0, 2)),
            size[..., 0].mean(0) / size[..., 1:].mean((0, 2)))


@torch.no_grad()
def measure(model: Decoder, windows: Windows, s: Settings, bf16: bool) -> dict[str, float]:
    device = model.cos.device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        probed = -(-PROBE_WINDOWS // s["train.batch"]) * s["train.batch"]
        tokens, _ = windows.batch("val", torch.arange(min(probed, windows.count("val")), device=device))
        stream = list(model.stream(tokens))
        heads = [attention_figures(block, h, model.cos, model.sin) for block, h in zip(model.blocks, stream)]
        which = torch.arange(min(s["train.eval_windows"], windows.count("val")), device=device).split(32)
        loss = sum(float(model.loss(*windows.batch("val", some))) * len(some) for some in which) / sum(map(len, which))
    size = [h.abs() for h in stream]
    att0, value = (torch.stack(x) for x in zip(*heads))
    norms = [norm.weight.abs().min() for block in model.blocks for norm in (block.norm1, block.norm2)]
    token0 = [h.norm(dim=-1) for h in stream]
    return {"val_loss": loss, "max": float(max(a.max() for a in size)),
            "max_no_token0": float(max(a[:, 1:].max() for a in size)),
            "m2": max(over_median(a[:, 1:].mean((0, 1))) for a in size), "lambda_min": float(min(norms)),
            "att0": float(att0.mean()), "sink_rate": float((att0 > 0.3).float().mean()),
            "value_norm_ratio": float(value.mean()),
            "token0_norm_ratio": float(max(n[:, 0].mean() / n[:, 1:].mean() for n in token0))}


# ---- training


def rate(s: Settings, step: int) -> float:
    """Linear warm-up, then the schedule, which ends at min_lr_ratio of the peak."""
    peak, warmup, steps = s["train.lr"], s["train.warmup"], s["train.steps"]
    low = peak * s["train.min_lr_ratio"]
    if step < warmup:
        return peak * (step + 1) / warmup
    if s["train.schedule"] == "cosine":
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    decay = steps * s["train.decay_fraction"] if s["train.schedule"] == "wsd" else 0
    return low + (peak - low) * (steps - step) / decay if steps - step < decay else peak


class Step:
    """One optimizer step on the windows `which`; on a GPU recorded once and replayed, since small models are all
    launches."""

    def __init__(self, model: Decoder, windows: Windows, s: Settings, bf16: bool) -> None:
        self.model, self.windows, self.bf16, self.clip = model, windows, bf16, s["train.clip_norm"]
        self.device = model.cos.device
        self.which = torch.zeros(s["train.batch"], dtype=torch.long, device=self.device)
        self.rate = torch.tensor(0.0, device=self.device)
        self.loss_sum = torch.zeros((), device=self.device)
        betas = tuple(json.loads(s["train.betas"]))
        groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": s["train.weight_decay"]},
                  {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}]
        self.update = torch.optim.AdamW(groups, lr=self.rate, betas=betas, eps=s["train.eps"], fused=True,
                                        capturable=self.device.type == "cuda")
        self.graph = self.record() if self.device.type == "cuda" else None

    def once(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            loss = self.model.loss(*self.windows.batch("train", self.which))
        self.update.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.update.step()
        self.loss_sum += loss.detach()

    def record(self) -> torch.cuda.CUDAGraph:
        """Recording takes some steps first; weights and optimizer are put back."""
        start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.once()
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(start[name])
                for value in self.update.state[p].values():
                    value.zero_()
            self.loss_sum.zero_()
        return graph

    def __call__(self, which: Tensor, lr: Tensor) -> None:
        self.which.copy_(which)
        self.rate.copy_(lr)
        self.graph.replay() if self.graph else self.once()


def train(s: Settings, seed: int, windows: Windows, device: str, say: str) -> dict[str, Any]:
    torch.manual_seed(seed)
    bf16, steps, batch = s["precision"] == "bf16", s["train.steps"], s["train.batch"]
    have = windows.count("train")
    passes = [torch.randperm(have) for _ in range(math.ceil(steps * batch / have))]  # each window once in a pass
    order = torch.cat(passes)[:steps * batch].view(steps, batch).to(device)
    rates = torch.tensor([rate(s, i) for i in range(steps)], device=device)
    model = Decoder(s, windows.vocab).to(device)
    step, start, curve = Step(model, windows, s, bf16), time.monotonic(), {}
    for i in range(steps):
        step(order[i], rates[i])
        if (i + 1) % max(1, steps // 10) == 0:
            curve[i + 1] = float(step.loss_sum) / max(1, steps // 10)
            step.loss_sum.zero_()
            spent = time.monotonic() - start
            print(f"{say} step {i + 1}: loss {curve[i + 1]:.4f}, {spent:.0f} s, {spent * (steps / (i + 1) - 1):.0f} s "
                  "to go",
                  file=sys.stderr, flush=True)
            if not math.isfinite(curve[i + 1]):
                return {"status": "diverged", "train_loss": curve, "metrics": {}}
    metrics = {"params": sum(p.numel() for p in model.parameters()), "ffn": s["model.ffn"],
               **measure(model, windows, s, bf16)}
    return {"status": "finished", "train_loss": curve, "metrics": metrics, "seconds": time.monotonic() - start}


def settings_in(path: Path) -> Settings | None:
    """Of a result; None of what is damaged, which is made again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError):
        return None


def corpus_of(s: Settings, device: str, opened: dict[tuple[str, ...], Windows]) -> Windows:
    key = (s["data.corpus"], s["data.tokenizer"], str(s["model.seq"]))
    if key not in opened:
        opened[key] = Windows(s, device)
    return opened[key]


def train_all(options: argparse.Namespace, runs: list[tuple[dict[str, str], Settings]]) -> None:
    out = options.out or options.study / "peer"
    opened: dict[tuple[str, ...], Windows] = {}
    out.mkdir(parents=True, exist_ok=True)
    for n, (row, s) in enumerate(runs, 1):
        arm, seed = row["arm"], int(row["seed"])
        path = out / f"{arm}-{seed}.json"
        if path.is_file() and settings_in(path) == s:
            continue
        result = train(s, seed, corpus_of(s, options.device, opened), options.device,
                       f"[{n}/{len(runs)}] {arm} seed {seed}")
        name = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps({"arm": arm, "seed": seed, **result, "device": name, "torch": torch.__version__,
                                       "settings": s}, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        print(path, json.dumps(result["metrics"]), flush=True)


# ---- sinklab's own checkpoints


def last_checkpoint(run: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise PeerError("--checkpoints: needs the package safetensors; pip install safetensors") from None
    paths = sorted(run.glob("checkpoints/*/model.safetensors"))
    if not paths:
        raise PeerError(f"{run}: no checkpoint")
    return load_file(paths[-1])


def renamed(theirs: dict[str, Tensor], model: Decoder) -> dict[str, Tensor]:
    """Tensors of sinklab's names (Hugging Face's) by the names that this model has for them."""
    both = {"qkv": [f"self_attn.{x}_proj" for x in "qkv"], "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
            "out": ["self_attn.o_proj"],
            "gate": ["self_attn.gate_proj"], "down": ["mlp.down_proj"], "norm1": ["input_layernorm"],
            "norm2": ["post_attention_layernorm"]}
    of_norm = {"weight": "weight", "pre": "pre_affine", "down.weight": "gate_down.weight",
               "up.weight": "gate_up.weight"}
    names = {"embed.weight": ["model.embed_tokens.weight"], "head.weight": ["lm_head.weight"]}
    for name, _ in model.named_parameters():
        block, _, rest = name.removeprefix("blocks.").partition(".") if name.startswith("blocks.") else ("", "", name)
        part, _, tensor = rest.partition(".")
        if part.startswith("norm"):
            tensor = of_norm[tensor]
        names.setdefault(name, [f"model.layers.{block}.{x}.{tensor}" for x in both[part]] if block
                         else [f"model.norm.{tensor}"])
    return {name: torch.cat([theirs[x] for x in parts]) for name, parts in names.items()}


def check_all(options: argparse.Namespace, runs: list[tuple[dict[str, str], Settings]]) -> None:
    """Prints how far the measures here are from those of sinklab, of the same weights."""
    opened: dict[tuple[str, ...], Windows] = {}
    for row, s in runs:
        windows = corpus_of(s, options.device, opened)
        model = Decoder(s, windows.vocab).to(options.device)
        try:
            model.load_state_dict(renamed(last_checkpoint(options.checkpoints / row["hash"]), model))
        except (KeyError, RuntimeError) as error:
            raise PeerError(f"{options.checkpoints / row['hash']}: not a model of arm {row['arm']}: "
                            f"{str(error).splitlines()[0]}") from None
        here = measure(model, windows, s, s["precision"] == "bf16")
        apart = {key: abs(here[key] / float(row[key]) - 1) for key in here if row.get(key) and float(row[key])}
        worst = max(apart, key=lambda key: apart[key])
        print(f"{row['arm']} seed {row['seed']}: loss {here['val_loss']:.5f}, of sinklab {float(row['val_loss']):.5f}; "
              f"M2 apart by {100 * apart['m2']:.2f} %, of {len(apart)} figures at most {100 * apart[worst]:.2f} % "
              f"({worst})", flush=True)


# ---- command line


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="peer.py", description="Trains the runs of a study in PyTorch and measures "
                                                                 "them.")
    parser.add_argument("study", type=Path, help="folder of a study's results, with plan.json and runs.csv")
    parser.add_argument("--out", type=Path, help="folder of the results, ARM-SEED.json (default: peer in that of the "
                                                 "study)")
    parser.add_argument("--arms", type=lambda t: t.split(","), metavar="A,A", help="default: all")
    parser.add_argument("--seeds", type=lambda t: [int(x) for x in t.split(",")], metavar="N,N", help="default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu",
                        help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="of the CPU (default: PyTorch's)")
    parser.add_argument("--checkpoints", type=Path, metavar="STORE",
                        help="train nothing: measure sinklab's own models, which are there, and say how far apart the "
                             "figures are")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        runs = list(finished(options.study, options.arms, options.seeds))
        if not runs:
            raise PeerError(f"{options.study}: no finished run of those arms and seeds")
        (check_all if options.checkpoints else train_all)(options, runs)
    except PeerError as error:
        print(f"peer.py: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"peer.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("peer.py: interrupted; the same command goes on behind the runs that are finished", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
