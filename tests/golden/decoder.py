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
        experts, shared = c.get("experts", 0), c.get("shared_experts", 0)
        widths = {"mlp": c["ffn"]} if not experts else {}
        if experts:
            shapes[p + "mlp.gate.weight"] = (experts, d)
            if c["balance"] == "bias":
                shapes[p + "mlp.gate.e_score_correction_bias"] = (experts,)
            widths = {f"mlp.experts.{e}": c["expert_ffn"] for e in range(experts)}
            if shared:
                widths["mlp.shared_experts"] = shared * c["expert_ffn"]
        for name, f in widths.items():
            if FFN[c["ffn_kind"]][0]:
                shapes[p + name + ".gate_proj.weight"] = (f, d)
            shapes[p + name + ".up_proj.weight"] = (f, d)
            shapes[p + name + ".down_proj.weight"] = (d, f)
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


def experts(c, p, prefix, x, training):
    """Output, the router's losses times their coefficients, and how often each expert was chosen."""
    flat = x.reshape(-1, x.shape[-1])
    n, E, k = flat.shape[0], c["experts"], c["experts_per_token"]
    z = flat @ p[prefix + ".gate.weight"].T
    score = torch.sigmoid(z) if c["router"] == "sigmoid" else z.softmax(-1)
    bias = p.get(prefix + ".gate.e_score_correction_bias")
    chosen = (score if bias is None else score + bias.detach()).topk(k, -1).indices
    hit = torch.zeros_like(score).scatter(-1, chosen, 1.0)
    weight = score * hit
    if k > 1:
        weight = weight / weight.sum(-1, keepdim=True)
    count = hit.sum(0)
    aux = E * (count / (n * k) * (score / score.sum(-1, keepdim=True)).mean(0)).sum()
    loss = c.get("router_z_loss", 0) * (z.logsumexp(-1) ** 2).mean()
    if c["balance"] == "aux":
        loss = loss + c["balance_coef"] * aux
    factor = c.get("expert_capacity", 0)
    if training and factor:
        hit = hit * (hit.cumsum(0) <= math.ceil(factor * n * k / E))
    y = torch.zeros_like(flat)
    for e in range(E):
        rows = hit[:, e].nonzero()[:, 0]
        out = mlp(c, p, f"{prefix}.experts.{e}", flat[rows]) * weight[rows, e][:, None]
        y = y.index_add(0, rows, out)
    if c.get("shared_experts"):
        y = y + mlp(c, p, prefix + ".shared_experts", flat)
    return y.view_as(x), loss, count


def run(c, p, tokens, training):
    """Logits, the routers' losses, and {name of a bias: choices of its experts}."""
    h = p["model.embed_tokens.weight"][tokens]
    loss, counts = torch.zeros((), dtype=h.dtype), {}
    for i in range(c["layers"]):
        l = f"model.layers.{i}."
        h = h + attention(c, p, l + "self_attn", block_norm(c, p, l + "input_layernorm", h))
        x = block_norm(c, p, l + "post_attention_layernorm", h)
        if c.get("experts"):
            y, extra, count = experts(c, p, l + "mlp", x, training)
            loss = loss + extra
            counts[l + "mlp.gate.e_score_correction_bias"] = count
        else:
            y = mlp(c, p, l + "mlp", x)
        h = h + y
    h = block_norm(c, p, "model.norm", h)
    head = p["model.embed_tokens.weight" if c.get("tie_embeddings") else "lm_head.weight"]
    return h @ head.T, loss, counts


def logits(c, p, tokens):
    return run(c, p, tokens, False)[0]


def token_losses(lg, targets):
    """Nats per position, 0 where the target is negative."""
    picked = lg.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets >= 0, lg.logsumexp(-1) - picked, torch.zeros_like(picked))


def mean_loss(lg, targets):
    return token_losses(lg, targets).sum() / (targets >= 0).sum()
