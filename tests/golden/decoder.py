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
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d)}

    place = c.get("norm_place", "pre")
    gated = c["norm"] == "gated_norm"
    base = opts.get("base", "rmsnorm") if gated else c["norm"]

    def norm(prefix, gated, nullify=True):
        shapes[prefix + ".weight"] = (d,)
        if c.get("sink_nullify") and nullify:
            shapes[prefix + ".channel_mean"] = (d,)
        if base in ("dyt", "derf"):
            shapes[prefix + ".alpha"] = (1,)
            if opts.get("beta", True):
                shapes[prefix + ".bias"] = (d,)
        if base == "derf":
            shapes[prefix + ".shift"] = (1,)
        if opts.get("preaffine"):
            shapes[prefix + ".pre_affine"] = (d,)
        if gated:
            scores = 1 if opts.get("granularity") == "tensorwise" else d
            shapes[prefix + ".gate_down.weight"] = (opts["rank"], d)
            shapes[prefix + ".gate_up.weight"] = (scores, opts["rank"])

    if c.get("embed_scale"):
        shapes["model.embed_scale"] = (1,)
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        if place != "post":
            norm(p + "input_layernorm", gated)
        shapes[p + "self_attn.q_proj.weight"] = (q, d)
        shapes[p + "self_attn.k_proj.weight"] = (kv, d)
        shapes[p + "self_attn.v_proj.weight"] = (kv, d)
        shapes[p + "self_attn.o_proj.weight"] = (d, q)
        own: dict[str | None, dict[str, tuple[int, ...]]]
        own = {"sink_logit": {"sinks": (c["heads"],)}, "k_bias": {"bias_k": (kv // hd, hd)},
               "kv_bias": {"bias_k": (kv // hd, hd), "bias_v": (kv // hd, hd)}}
        for name, shape in own.get(c.get("attention"), {}).items():
            shapes[p + "self_attn." + name] = shape
        width = {"elementwise": q, "headwise": c["heads"], "value": kv}
        gate = c.get("attention_opts", {}).get("gate", "none")
        if gate != "none":
            name = "v_gate_proj" if gate == "value" else "gate_proj"
            shapes[f"{p}self_attn.{name}.weight"] = (width[gate], d)
        if c.get("qk_norm"):
            shapes[p + "self_attn.q_norm.weight"] = (hd,)
            shapes[p + "self_attn.k_norm.weight"] = (hd,)
        norm(p + "post_attention_layernorm", gated, place != "sandwich")
        if place == "sandwich":
            norm(p + "pre_feedforward_layernorm", gated)
        if place != "pre":
            norm(p + "post_feedforward_layernorm", gated, place != "sandwich")
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
    norm("model.norm", gated and opts.get("gate_final", False), c.get("sink_nullify_final", False))
    if not c.get("tie_embeddings"):
        shapes["lm_head.weight"] = (vocab, d)
    return shapes


def rmsnorm(x, w, eps):
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def layernorm(x, w, eps):
    x = x - x.mean(-1, keepdim=True)
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


norm_inputs: dict[str, torch.Tensor] = {}  # prefix of each norm with running means -> channel means of its last input


def replaced(c, p, prefix, x):
    """x with the channels of largest |running mean| set to 0 or to that mean."""
    mean = p[prefix + ".channel_mean"].detach()
    channels = mean.abs().argsort(descending=True)[: c["sink_nullify"]]
    y = x.clone()
    y[..., channels] = mean[channels] if c.get("sink_nullify_value") == "mean" else 0.0
    return y


def norm_rows(c, p, prefix, x):
    """What is normalised, and what the statistics are taken from."""
    norm_inputs[prefix] = x.detach().reshape(-1, x.shape[-1]).mean(0)
    y, mode = replaced(c, p, prefix, x), c.get("sink_nullify_mode", "both")
    return (x if mode == "denominator" else y), (x if mode == "output" else y)


def base_norm(c, kind, opts, p, prefix, x):
    w, eps = p[prefix + ".weight"], opts.get("eps", 1e-6)
    if opts.get("zero_centred"):
        w = 1 + w
    if prefix + ".channel_mean" in p:
        x, whole = norm_rows(c, p, prefix, x)
        pre = p[prefix + ".pre_affine"] if opts.get("preaffine") else 1.0
        x, whole = pre * x, pre * whole
        if kind in ("rmsnorm", "layernorm"):
            m = whole.mean(-1, keepdim=True) if kind == "layernorm" else 0.0
            return w * (x - m) / torch.sqrt(((whole - m) ** 2).mean(-1, keepdim=True) + eps)
    elif opts.get("preaffine"):
        x = p[prefix + ".pre_affine"] * x
    if kind == "none":
        return w * x
    if kind == "layernorm":
        return layernorm(x, w, eps)
    if kind == "rmsnorm":
        return rmsnorm(x, w, eps)
    bias = p.get(prefix + ".bias", torch.zeros_like(w))
    if kind == "dyt":
        return w * torch.tanh(p[prefix + ".alpha"] * x) + bias
    assert kind == "derf", kind
    return w * torch.erf(p[prefix + ".alpha"] * x + p[prefix + ".shift"]) + bias


def block_norm(c, p, prefix, x):
    opts = c.get("norm_opts", {})
    if c["norm"] != "gated_norm":
        return base_norm(c, c["norm"], opts, p, prefix, x)
    y = base_norm(c, opts.get("base", "rmsnorm"), opts, p, prefix, x)
    down = p.get(prefix + ".gate_down.weight")
    if down is None:
        return y
    inner = {"silu": F.silu, "relu": F.relu}[opts.get("inner", "silu")]
    b = inner(y @ down.T) @ p[prefix + ".gate_up.weight"].T
    outer = opts.get("outer", "sigmoid")
    act = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu, "identity": lambda v: v}[outer]
    q = act(b)
    if opts.get("init", "half") == "identity":
        q = 2 * q if outer == "sigmoid" else 1 + q
    return q * y


def rope(x, base):
    """x [B, heads, T, hd]; half-split: pairs (j, j + hd/2) turn by t / base^(2j/hd)."""
    T, hd = x.shape[-2:]
    freq = base ** (-torch.arange(0, hd, 2, dtype=x.dtype) / hd)
    angle = torch.arange(T, dtype=x.dtype)[:, None] * freq
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., : hd // 2], x[..., hd // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def mix(c, p, prefix, q, s, seen, v, group):
    """Scores s [B, heads, T, T] (a row a query) to the weighted values; `seen` says which keys count."""
    kind, opts = c.get("attention", "softmax"), c.get("attention_opts", {})
    if kind == "sigmoid":
        bias = -opts.get("sigmoid_bias", 1.0) * math.log(c["seq"])
        return (torch.sigmoid(s + bias) * seen) @ v
    if kind == "relu":
        return (torch.relu(s) * seen / seen.sum(-1, keepdim=True)) @ v
    s = s.masked_fill(~seen, -math.inf)
    if kind == "clipped_softmax":
        gamma = -opts.get("clip_alpha", 3.0) / c["seq"]
        return (((opts.get("clip_zeta", 1.0) - gamma) * s.softmax(-1) + gamma).clamp(0, 1) * seen) @ v
    column = {"softmax1": lambda: torch.zeros_like(s[..., :1]),
              "sink_logit": lambda: p[prefix + ".sinks"][:, None, None].expand_as(s[..., :1])}.get(kind)
    if kind in ("k_bias", "kv_bias"):
        key = p[prefix + ".bias_k"][group]  # [heads, hd]
        def column():
            return torch.einsum("bhtd,hd->bht", q, key)[..., None] / math.sqrt(q.shape[-1])
    if not column:
        return s.softmax(-1) @ v
    w = torch.cat([s, column()], -1).softmax(-1)  # one more column, whose value is zero or learned
    o = w[..., :-1] @ v
    if kind == "kv_bias":
        o = o + w[..., -1:] * p[prefix + ".bias_v"][group][:, None]
    return o


def cached(x):
    """What keys or values [B, heads, T, hd] become in a cache."""
    return x


def attention(c, p, prefix, x):
    B, T, _ = x.shape
    heads, kv_heads = c["heads"], c.get("kv_heads") or c["heads"]

    def split(name, n):
        return (x @ p[f"{prefix}.{name}_proj.weight"].T).view(B, T, n, -1).transpose(1, 2)

    opts = c.get("attention_opts", {})
    gate, floor = opts.get("gate", "none"), opts.get("gate_floor", 0.0)

    def gate_of(name):
        return floor + (1 - floor) * torch.sigmoid(x @ p[f"{prefix}.{name}.weight"].T)

    q, k, v = split("q", heads), split("k", kv_heads), split("v", kv_heads)
    if gate == "value":
        v = v * gate_of("v_gate_proj").view(B, T, kv_heads, -1).transpose(1, 2)
    if c.get("qk_norm"):
        eps = c.get("norm_opts", {}).get("eps", 1e-6)
        q = rmsnorm(q, p[prefix + ".q_norm.weight"], eps)
        k = rmsnorm(k, p[prefix + ".k_norm.weight"], eps)
    base = c.get("rope_base", 10000)
    if base:
        q, k = rope(q, base), rope(k, base)
    k, v = cached(k), cached(v)
    group = torch.arange(heads) // (heads // kv_heads)  # query head h reads key head h // group size
    s = q @ k[:, group].transpose(-1, -2) / math.sqrt(q.shape[-1])
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    if opts.get("window"):
        seen &= ~torch.ones(T, T, dtype=torch.bool).tril(-opts["window"])
    o = mix(c, p, prefix, q, s, seen, v[:, group], group).transpose(1, 2)
    if gate == "elementwise":
        o = o * gate_of("gate_proj").view(B, T, heads, -1)
    if gate == "headwise":
        o = o * gate_of("gate_proj")[..., None]
    return o.reshape(B, T, -1) @ p[prefix + ".o_proj.weight"].T


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


def clip(c, h):
    t = c.get("clip", 0) * (c.get("clip_baseline", 0) or 1)
    return h.clamp(-t, t) if t else h


def feed_forward(c, p, prefix, x, training):
    """As experts()."""
    if c.get("experts"):
        return experts(c, p, prefix, x, training)
    return mlp(c, p, prefix, x), 0, None


def run(c, p, tokens, training):
    """Logits, the routers' losses, and {name of a bias: choices of its experts}."""
    place = c.get("norm_place", "pre")
    h = p["model.embed_tokens.weight"][tokens]
    loss, counts = torch.zeros((), dtype=h.dtype), {}
    if c.get("embed_scale"):
        h = p["model.embed_scale"] * h
    for i in range(c["layers"]):
        layer = f"model.layers.{i}."
        if place == "post":
            h = clip(c, h + attention(c, p, layer + "self_attn", h))
            h = block_norm(c, p, layer + "post_attention_layernorm", h)
            x, extra, count = feed_forward(c, p, layer + "mlp", h, training)
            h = block_norm(c, p, layer + "post_feedforward_layernorm", clip(c, h + x))
        elif place == "sandwich":
            x = attention(c, p, layer + "self_attn", block_norm(c, p, layer + "input_layernorm", h))
            h = clip(c, h + block_norm(c, p, layer + "post_attention_layernorm", x))
            x = block_norm(c, p, layer + "pre_feedforward_layernorm", h)
            x, extra, count = feed_forward(c, p, layer + "mlp", x, training)
            h = clip(c, h + block_norm(c, p, layer + "post_feedforward_layernorm", x))
        else:
            h = clip(c, h + attention(c, p, layer + "self_attn", block_norm(c, p, layer + "input_layernorm", h)))
            x = block_norm(c, p, layer + "post_attention_layernorm", h)
            x, extra, count = feed_forward(c, p, layer + "mlp", x, training)
            h = clip(c, h + x)
        loss = loss + extra
        if count is not None:
            counts[layer + "mlp.gate.e_score_correction_bias"] = count
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
