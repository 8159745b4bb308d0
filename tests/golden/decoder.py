"""The decoder in plain PyTorch: an implementation of its own, written from the formulas and not
from the engine, that the golden values come from. Parameters are a dict of Hugging Face names."""

import math

import torch
import torch.nn.functional as F


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


# ffn_kind -> is it gated, activation
FFN = {
    "swiglu": (True, F.silu),
    "glu": (True, torch.sigmoid),
    "geglu": (True, gelu),
    "gelu": (False, gelu),
    "relu2": (False, lambda x: F.relu(x) ** 2),
}


def tensor_shapes(c, vocab):
    """Name -> shape of every parameter of config c (a dict of the `model:` section)."""
    d, hd = c["dim"], c.get("head_dim") or c["dim"] // c["heads"]
    q, kv = c["heads"] * hd, (c.get("kv_heads") or c["heads"]) * hd
    opts = c.get("norm_opts", {})
    shapes = {"model.embed_tokens.weight": (vocab, d)}

    def norm(prefix, gated):
        shapes[prefix + ".weight"] = (d,)
        if gated:
            shapes[prefix + ".gate_down.weight"] = (opts["rank"], d)
            shapes[prefix + ".gate_up.weight"] = (d, opts["rank"])

    gated = c["norm"] == "gated_norm"
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm", gated)
        shapes[p + "self_attn.q_proj.weight"] = (q, d)
        shapes[p + "self_attn.k_proj.weight"] = (kv, d)
        shapes[p + "self_attn.v_proj.weight"] = (kv, d)
        shapes[p + "self_attn.o_proj.weight"] = (d, q)
        if c.get("qk_norm"):
            shapes[p + "self_attn.q_norm.weight"] = (hd,)
            shapes[p + "self_attn.k_norm.weight"] = (hd,)
        norm(p + "post_attention_layernorm", gated)
        if FFN[c["ffn_kind"]][0]:
            shapes[p + "mlp.gate_proj.weight"] = (c["ffn"], d)
        shapes[p + "mlp.up_proj.weight"] = (c["ffn"], d)
        shapes[p + "mlp.down_proj.weight"] = (d, c["ffn"])
    norm("model.norm", gated and opts.get("gate_final", False))
    if not c.get("tie_embeddings"):
        shapes["lm_head.weight"] = (vocab, d)
    return shapes


def rmsnorm(x, w, eps):
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def layernorm(x, w, eps):
    x = x - x.mean(-1, keepdim=True)
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def block_norm(c, p, prefix, x):
    opts = c.get("norm_opts", {})
    eps = opts.get("eps", 1e-6)
    w = p[prefix + ".weight"]
    y = layernorm(x, w, eps) if c["norm"] == "layernorm" else rmsnorm(x, w, eps)
    down = p.get(prefix + ".gate_down.weight")
    if down is None:
        return y
    b = F.silu(y @ down.T) @ p[prefix + ".gate_up.weight"].T
    top = 2.0 if opts.get("init", "half") == "identity" else 1.0
    return top * torch.sigmoid(b) * y


def rope(x, base):
    """x [B, heads, T, hd]; half-split: pairs (j, j + hd/2) turn by t / base^(2j/hd)."""
    T, hd = x.shape[-2:]
    freq = base ** (-torch.arange(0, hd, 2, dtype=x.dtype) / hd)
    angle = torch.arange(T, dtype=x.dtype)[:, None] * freq
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., : hd // 2], x[..., hd // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(c, p, prefix, x):
    B, T, _ = x.shape
    heads, kv_heads = c["heads"], c.get("kv_heads") or c["heads"]

    def split(name, n):
        return (x @ p[f"{prefix}.{name}_proj.weight"].T).view(B, T, n, -1).transpose(1, 2)

    q, k, v = split("q", heads), split("k", kv_heads), split("v", kv_heads)
    if c.get("qk_norm"):
        eps = c.get("norm_opts", {}).get("eps", 1e-6)
        q = rmsnorm(q, p[prefix + ".q_norm.weight"], eps)
        k = rmsnorm(k, p[prefix + ".k_norm.weight"], eps)
    base = c.get("rope_base", 10000)
    if base:
        q, k = rope(q, base), rope(k, base)
    group = torch.arange(heads) // (heads // kv_heads)  # query head h reads key head h // group size
    s = q @ k[:, group].transpose(-1, -2) / math.sqrt(q.shape[-1])
    s = s.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
    o = s.softmax(-1) @ v[:, group]
    return o.transpose(1, 2).reshape(B, T, -1) @ p[prefix + ".o_proj.weight"].T


def mlp(c, p, prefix, x):
    up = x @ p[prefix + ".up_proj.weight"].T
    gated, act = FFN[c["ffn_kind"]]
    h = act(x @ p[prefix + ".gate_proj.weight"].T) * up if gated else act(up)
    return h @ p[prefix + ".down_proj.weight"].T


def logits(c, p, tokens):
    h = p["model.embed_tokens.weight"][tokens]
    for i in range(c["layers"]):
        l = f"model.layers.{i}."
        h = h + attention(c, p, l + "self_attn", block_norm(c, p, l + "input_layernorm", h))
        h = h + mlp(c, p, l + "mlp", block_norm(c, p, l + "post_attention_layernorm", h))
    h = block_norm(c, p, "model.norm", h)
    return h @ p["model.embed_tokens.weight" if c.get("tie_embeddings") else "lm_head.weight"].T


def token_losses(lg, targets):
    """Nats per position, 0 where the target is negative."""
    picked = lg.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets >= 0, lg.logsumexp(-1) - picked, torch.zeros_like(picked))


def mean_loss(lg, targets):
    return token_losses(lg, targets).sum() / (targets >= 0).sum()
