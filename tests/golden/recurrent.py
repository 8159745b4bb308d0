"""Mixers with a state, all positions at once, as decoder.py has the rest."""

import functools
import math

import torch
import torch.nn.functional as F
from rows import linear, of_layer, rmsnorm


class Mamba2Sizes:
    """Widths of the parts of a mamba2 layer."""

    def __init__(self, c):
        self.opts = c["mamba2_opts"]
        self.groups, self.state = self.opts["groups"], self.opts["state"]
        self.inner = self.opts["expand"] * c["dim"]
        self.heads = self.inner // self.opts["head_dim"]
        self.convolved = self.inner + 2 * self.groups * self.state


class GdnSizes:
    """Widths of the parts of a layer of gdn or of a relative of it."""

    def __init__(self, c, mixer):
        self.opts = c.get("gdn_opts", {})
        head_dim = c.get("head_dim") or c["dim"] // c["heads"]
        self.rule, self.reads = mixer in ("gdn", "deltanet"), mixer in ("gdn", "gla")
        self.heads = self.opts.get("heads") or c["heads"]
        self.key_heads = self.opts.get("key_heads") or self.heads
        self.value_dim = self.opts.get("value_dim") or head_dim
        self.key_dim = self.opts.get("key_dim") or (self.value_dim + 1) // 2
        self.values = self.heads * self.value_dim
        self.gate = self.opts.get("gate", "silu")
        self.z = 0 if self.gate == "none" else self.values
        self.conv = self.opts.get("conv", 4)
        self.keys = self.key_heads * self.key_dim
        self.mixed = 2 * self.keys + self.values
        self.parts = {"z": self.z, "q": self.keys, "k": self.keys, "v": self.values, "b": self.heads * self.rule,
                      "a": self.heads * self.reads}


def decays(dt, a):
    """exp of sum_{j < i <= t} dt_i a for j <= t, else 0: [B, T, T, heads] from [B, T, heads]."""
    total = (dt * a).cumsum(1)
    seen = torch.ones(dt.shape[1], dt.shape[1], dtype=torch.bool).tril()[None, :, :, None]
    return torch.where(seen, (total[:, :, None] - total[:, None]).masked_fill(~seen, 0).exp(), 0.0)


def mamba2(c, p, i, x):
    """In the dual form (arXiv 2405.21060): all positions at once, as attention without a softmax."""
    prefix, m = f"model.layers.{i}.mixer", Mamba2Sizes(c)
    B, T, _ = x.shape
    z, v, dt = linear(p, prefix + ".in_proj", x).split([m.inner, m.convolved, m.heads], -1)
    taps = p[prefix + ".conv1d.weight"]
    v = F.conv1d(v.transpose(1, 2), taps, p[prefix + ".conv1d.bias"], padding=taps.shape[-1] - 1, groups=m.convolved)
    v, b, key = F.silu(v[..., :T].transpose(1, 2)).split([m.inner, m.groups * m.state, m.groups * m.state], -1)
    v, b, key = v.view(B, T, m.heads, -1), b.view(B, T, m.groups, -1), key.view(B, T, m.groups, -1)
    dt = F.softplus(dt + p[prefix + ".dt_bias"])
    group = torch.arange(m.heads) // (m.heads // m.groups)
    scores = torch.einsum("bthn,bshn->btsh", key[:, :, group], b[:, :, group])
    weights = scores * decays(dt, -p[prefix + ".A_log"].exp()) * dt[:, None]
    y = torch.einsum("btsh,bshp->bthp", weights, v) + p[prefix + ".D"][:, None] * v
    y, place = y.reshape(B, T, m.inner), m.opts.get("norm", "after")

    def grouped(rows):
        w = p[prefix + ".norm.weight"].view(m.groups, -1)
        eps = c.get("norm_opts", {}).get("eps", 1e-6)
        return rmsnorm(rows.view(B, T, m.groups, -1), w, eps).reshape(rows.shape)

    if place == "before":
        y = grouped(y)
    y = y * F.silu(z)
    return linear(p, prefix + ".out_proj", grouped(y) if place == "after" else y)


def log_decay(p, prefix, m, a, mixer):
    """Of each position and head, [B, T, heads] from a of that shape or [B, T, 0]."""
    if mixer == "gdn":
        return -p[prefix + ".A_log"].exp() * F.softplus(a + p[prefix + ".dt_bias"])
    if mixer == "gla":
        return F.logsigmoid(a) / 16
    head = torch.arange(m.heads, dtype=a.dtype)
    fixed = torch.log1p(-(2.0 ** (-5 - head))) if mixer == "retnet" else torch.zeros_like(head)
    return fixed.expand(*a.shape[:2], m.heads)


def gdn(mixer, c, p, i, x):
    """As attention without a softmax, all positions at once: weights (q k^T * decays) (I + L)^-1 beta, L the part of
    beta (k k^T * decays) below the diagonal; no L without the delta rule."""
    prefix, m = f"model.layers.{i}.linear_attn", GdnSizes(c, mixer)
    B, T, _ = x.shape
    z, q, k, v, b, a = (linear(p, f"{prefix}.{part}_proj", x) if n else x[..., :0] for part, n in m.parts.items())
    v = torch.cat([q, k, v], -1)
    if m.conv > 1:
        taps = p[prefix + ".conv1d.weight"]
        v = F.conv1d(v.transpose(1, 2), taps, padding=taps.shape[-1] - 1, groups=m.mixed)
        v = F.silu(v[..., :T].transpose(1, 2))
    q, k, v = v.split([m.keys, m.keys, m.values], -1)
    shared = torch.arange(m.heads) // (m.heads // m.key_heads)

    def keyed(rows):
        rows = rows.view(B, T, m.key_heads, m.key_dim)
        if m.rule or m.opts.get("unit") == "all":
            rows = rows * (rows.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        return rows[:, :, shared].transpose(1, 2)

    q, k, v = keyed(q) * m.key_dim**-0.5, keyed(k), v.view(B, T, m.heads, -1).transpose(1, 2)
    decay = decays(log_decay(p, prefix, m, a, mixer), 1).permute(0, 3, 1, 2)
    if m.rule:
        beta = (b.sigmoid() * (2 if m.opts.get("negative") else 1)).transpose(1, 2)[..., None]
        system = torch.eye(T, dtype=x.dtype) + (beta * (k @ k.mT * decay)).tril(-1)
        v = torch.linalg.solve_triangular(system, beta * v, upper=False, unitriangular=True)
    o = ((q @ k.mT * decay) @ v).transpose(1, 2)
    if m.opts.get("norm", True):
        o = rmsnorm(o, p[prefix + ".norm.weight"], c.get("norm_opts", {}).get("eps", 1e-6))
    o = o.reshape(B, T, m.values)
    if m.z:
        o = o * {"silu": F.silu, "sigmoid": torch.sigmoid}[m.gate](z)
    return linear(p, prefix + ".out_proj", o)


def low_rank_sizes(c):
    """Ranks of rwkv7's projections of low rank: of decays, rates, values and gates."""
    opts = c["rwkv7_opts"]
    return {part: opts[name + "_rank"] for part, name in zip("wavg", ("decay", "rate", "value", "gate"), strict=True)}


def shifted(p, name, x):
    """Each channel moved by its share to the position before."""
    before = F.pad(x, (0, 0, 1, 0))[:, :-1]
    return x + (before - x) * p[name]


first_value: list = []  # v of the first layer of rwkv7 in the pass that runs


def rwkv7(c, p, i, x):
    """RWKV-7's time mix (arXiv 2503.14456, section 4), its state as the paper has it, position by position."""
    prefix, n = f"model.layers.{i}.att.", c["rwkv7_opts"]["head_dim"]
    B, T, d = x.shape

    def low_rank(part, between):
        h = between(linear(p, prefix + part + "1", shifted(p, f"{prefix}x_{part}", x)))
        return linear(p, prefix + part + "2", h) + p.get(f"{prefix}{part}0", 0)

    def heads(rows):
        return rows.view(B, T, d // n, n)

    r, k, v = (linear(p, prefix + name, shifted(p, f"{prefix}x_{name[0]}", x))
               for name in ("receptance", "key", "value"))
    if i == [of_layer(c, "mixer", layer, "softmax") for layer in range(c["layers"])].index("rwkv7"):
        first_value[:] = [v]
    else:
        v = v + (first_value[0] - v) * low_rank("v", lambda h: h).sigmoid()
    rate, decay = low_rank("a", lambda h: h).sigmoid(), (-math.exp(-0.5) * low_rank("w", torch.tanh).sigmoid()).exp()
    removed = heads(k * p[prefix + "k_k"])
    removed = removed / removed.norm(dim=-1, keepdim=True)
    k = k * (1 + (rate - 1) * p[prefix + "k_a"])
    r, k, v, decay, rate = heads(r), heads(k), heads(v), heads(decay), heads(rate)
    state, out = torch.zeros(B, d // n, n, n, dtype=x.dtype), []
    for t in range(T):
        kappa = removed[:, t]
        step = decay[:, t, :, :, None] * torch.eye(n, dtype=x.dtype) - (
            kappa[..., None] * (rate[:, t] * kappa)[..., None, :])
        state = state @ step + v[:, t, :, :, None] * k[:, t, :, None, :]
        out.append((state @ r[:, t, :, :, None])[..., 0])
    o = F.group_norm(torch.stack(out, 1).reshape(B * T, d), d // n, p[prefix + "ln_x.weight"],
                     p[prefix + "ln_x.bias"], 64e-5)
    bonus = (r * k * p[prefix + "r_k"].view(d // n, n)).sum(-1, keepdim=True) * v
    gate = low_rank("g", torch.sigmoid)
    return linear(p, prefix + "output", (o.view(B, T, d) + bonus.reshape(B, T, d)) * gate)


RECURRENT = {"mamba2": mamba2, "rwkv7": rwkv7} | {
    name: functools.partial(gdn, name) for name in ("gdn", "deltanet", "gla", "retnet")}
