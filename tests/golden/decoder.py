"""The decoder in plain PyTorch: an implementation of its own, written from the formulas and not
from the engine, that the golden values come from. Parameters are a dict of Hugging Face names."""

import math

import torch
import torch.nn.functional as F
from norms import SECOND_MEAN, block_norm, running
from recurrent import RECURRENT, GdnSizes, Mamba2Sizes, low_rank_sizes, shifted
from rows import linear, of_layer, rmsnorm


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def clamped_silu(x):
    x = x.clamp(max=7)
    return x * torch.sigmoid(1.702 * x)


def clamped_plus_one(x):
    return x.clamp(-7, 7) + 1


# What the other projection goes through, where it does.
OTHER = {"swiglu_clamped": clamped_plus_one}
# ffn_kind -> is it gated, activation
FFN = {
    "swiglu": (True, F.silu),
    "glu": (True, torch.sigmoid),
    "geglu": (True, gelu),
    "gelu": (False, gelu),
    "geglu_tanh": (True, gelu_tanh),
    "gelu_tanh": (False, gelu_tanh),
    "swiglu_clamped": (True, clamped_silu),
    "relu": (False, F.relu),
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

    def linear(prefix, out, width, bias):
        shapes[prefix + ".weight"] = (out, width)
        if bias:
            shapes[prefix + ".bias"] = (out,)

    def norm(prefix, gated, nullify=True):
        shapes[prefix + ".weight"] = (d,)
        if base == "layernorm" and opts.get("bias"):
            shapes[prefix + ".bias"] = (d,)
        if c.get("sink_nullify") and nullify:
            shapes[prefix + running(c, ".channel_mean")] = (d,)
            if c.get("sink_nullify_value") in SECOND_MEAN:
                shapes[prefix + running(c, SECOND_MEAN[c["sink_nullify_value"]])] = (d,)
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

    def attention_shapes(p):
        bias = c.get("attention_bias", "none")
        for name, out in {"q_proj": q, "k_proj": kv, "v_proj": kv}.items():
            linear(f"{p}self_attn.{name}", out, d, bias != "none")
        linear(p + "self_attn.o_proj", d, q, bias == "all")
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
            whole = c.get("qk_norm_span") == "projection"
            shapes[p + "self_attn.q_norm.weight"] = (q if whole else hd,)
            shapes[p + "self_attn.k_norm.weight"] = (kv if whole else hd,)

    def mamba2_shapes(p):
        m = Mamba2Sizes(c)
        for name, shape in {"in_proj.weight": (m.inner + m.convolved + m.heads, d), "out_proj.weight": (d, m.inner),
                            "conv1d.weight": (m.convolved, 1, m.opts.get("conv", 4)), "conv1d.bias": (m.convolved,),
                            "dt_bias": (m.heads,), "A_log": (m.heads,), "D": (m.heads,)}.items():
            shapes[p + "mixer." + name] = shape
        if m.opts.get("norm") != "none":
            shapes[p + "mixer.norm.weight"] = (m.inner,)

    def gdn_shapes(p, mixer):
        m = GdnSizes(c, mixer)
        own: dict[str, tuple[int, ...]] = {f"{part}_proj.weight": (n, d) for part, n in m.parts.items() if n}
        own["out_proj.weight"] = (d, m.values)
        if m.conv > 1:
            own["conv1d.weight"] = (m.mixed, 1, m.conv)
        if mixer == "gdn":
            own |= {"dt_bias": (m.heads,), "A_log": (m.heads,)}
        if m.opts.get("norm", True):
            own["norm.weight"] = (m.value_dim,)
        for name, shape in own.items():
            shapes[p + "linear_attn." + name] = shape

    def rwkv7_shapes(p, first):
        vectors = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "k_k", "k_a", "r_k", "ln_x.weight",
                   "ln_x.bias")
        own: dict[str, tuple[int, ...]] = {name: (d,) for name in vectors}
        own |= {name + ".weight": (d, d) for name in ("receptance", "key", "value", "output")}
        for part, rank in low_rank_sizes(c).items():
            if part != "v" or not first:
                own |= {part + "1.weight": (rank, d), part + "2.weight": (d, rank)}
        if not first:
            own["v0"] = (d,)
        for name, shape in own.items():
            shapes[p + "att." + name] = shape

    if c.get("embed_scale"):
        shapes["model.embed_scale"] = (1,)
    if c.get("learned_positions"):
        shapes["model.embed_positions.weight"] = (c["learned_positions"], d)
    anchors = anchor_heads(c) if c.get("anchors", "none") != "none" else {}
    for name, n in anchors.items():
        if c["anchors"] == "external":
            shapes[f"model.anchors.{name}_proj.weight"] = (n * hd, d)
        if anchor_norm(c, name):
            shapes[f"model.anchors.{name}_norm.weight"] = (hd,)
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        if anchors and (i or c["anchors"] == "external"):
            each = c.get("anchors_opts", {}).get("coefficients", "scalar")
            size = {n: {"scalar": 1, "headwise": h, "elementwise": h * hd}[each] for n, h in anchors.items()}
            gate_size = size.pop("gate", 0)
            for which in ("anchor", "own"):
                shapes[f"{p}self_attn.{which}_coef"] = (sum(size.values()),)
                if gate_size:
                    shapes[f"{p}self_attn.gate_{which}_coef"] = (gate_size,)
            if c.get("anchors_opts", {}).get("dynamic"):
                shapes[p + "self_attn.anchor_factors.down_proj.weight"] = (16, d)
                shapes[p + "self_attn.anchor_factors.up_proj.weight"] = (2 * len(anchors), 16)
        if place not in ("post", "output"):
            norm(p + "input_layernorm", gated)
        mixer = of_layer(c, "mixer", i, "softmax")
        if mixer == "softmax":
            attention_shapes(p)
        elif mixer == "mamba2":
            mamba2_shapes(p)
        elif mixer == "rwkv7":
            rwkv7_shapes(p, "rwkv7" not in (of_layer(c, "mixer", j, "softmax") for j in range(i)))
        else:
            gdn_shapes(p, mixer)
        if c.get("block") != "parallel_shared":
            norm(p + "post_attention_layernorm", gated, place != "sandwich")
        if place == "sandwich":
            norm(p + "pre_feedforward_layernorm", gated)
        if place != "pre":
            norm(p + "post_feedforward_layernorm", gated, place != "sandwich")
        if c.get("ffn_shift"):
            shapes[p + "mlp.x_k"] = (d,)
        experts, shared = c.get("experts", 0), c.get("shared_experts", 0)
        widths = {"mlp": c["ffn"]} if not experts else {}
        if experts:
            linear(p + "mlp.gate", experts, d, c.get("router_bias", False))
            if c["balance"] == "bias":
                shapes[p + "mlp.gate.e_score_correction_bias"] = (experts,)
            widths = {f"mlp.experts.{e}": c["expert_ffn"] for e in range(experts)}
            if shared:
                widths["mlp.shared_experts"] = shared * c["expert_ffn"]
            if c.get("shared_expert_gate"):
                linear(p + "mlp.shared_expert_gate", 1, d, False)
        for name, f in widths.items():
            bias = c.get("ffn_bias", False)
            if FFN[c["ffn_kind"]][0]:
                linear(p + name + ".gate_proj", f, d, bias)
            linear(p + name + ".up_proj", f, d, bias)
            linear(p + name + ".down_proj", d, f, bias)
    if c.get("residual", "plain") != "plain":
        halves = [f"model.layers.{i}.{half}_residual" for i in range(c["layers"]) for half in ("attn", "mlp")]
        states, r = c.get("residual_opts", {}).get("form") == "states", max(d // 4, 64)
        for prefix in halves if states else [*halves, "model.final_residual"]:
            if states:
                shapes |= {prefix + ".to_query.weight": (r, d), prefix + ".from_query.weight": (d, r),
                           prefix + ".recency": (1,)}
            else:
                shapes[prefix + ".query"] = (d,)
            if not states and c.get("residual_opts", {}).get("key_norm", True):
                shapes[prefix + ".norm.weight"] = (d,)
            if c["residual"] == "oasis":
                shapes[prefix + ".coupling"] = (1,)
    norm("model.norm", gated and opts.get("gate_final", False), c.get("sink_nullify_final", False))
    if not c.get("tie_embeddings"):
        shapes["lm_head.weight"] = (vocab, d)
    if c.get("head_bias"):
        shapes["lm_head.bias"] = (vocab,)
    return shapes


def yarn(c, freq, factor, original, fast, slow):
    n = 2 * len(freq)
    ends = [n * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(c["rope_base"])) for turns in (fast, slow)]
    if c["rope_scaling_opts"].get("truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    first, last = max(ends[0], 0), min(ends[1], n - 1)
    share = ((torch.arange(n // 2, dtype=freq.dtype) - first) / (last - first)).clamp(0, 1)
    return freq / factor * share + freq * (1 - share)


def growth(c):
    """Of queries and keys as they are turned."""
    if c.get("rope_scaling") != "yarn":
        return 1.0
    o = c["rope_scaling_opts"]
    return o.get("attention_factor") or 0.1 * math.log(o["factor"]) + 1


def scaled(c, freq):
    """Frequencies as rope_scaling lowers them; llama3 and yarn as in transformers' modeling_rope_utils."""
    kind, o = c.get("rope_scaling", "none"), c.get("rope_scaling_opts", {})
    if kind == "none":
        return freq
    if kind == "yarn":
        return yarn(c, freq, o["factor"], o["original"], o.get("beta_fast", 32), o.get("beta_slow", 1))
    low = freq / o["factor"]
    if kind == "linear":
        return low
    share = (o["original"] * freq / (2 * math.pi) - o["low_freq_factor"]) / (
        o["high_freq_factor"] - o["low_freq_factor"])
    share = share.clamp(0, 1)
    return (1 - share) * low + share * freq


def window_of(c, i):
    opts = c.get("attention_opts", {})
    return opts.get("window", 0) if of_layer(opts, "window_layers", i, "window") == "window" else 0


def rope(c, i, x):
    """x [B, heads, T, hd]; half-split: of the first n channels pairs (j, j + n/2) turn by t / base^(2j/n)."""
    base = c.get("rope_base", 10000)
    if not base or of_layer(c, "rope_layers", i, "rope") == "none":
        return x
    T, hd = x.shape[-2:]
    n = c.get("rope_dims") or hd
    x, rest = x[..., :n], x[..., n:]
    own = c.get("rope_base_window", 0) if window_of(c, i) else 0
    freq = (own or base) ** (-torch.arange(0, n, 2, dtype=x.dtype) / n)
    freq = freq if own else scaled(c, freq)
    angle = torch.arange(T, dtype=x.dtype)[:, None] * freq
    size = 1.0 if own else growth(c)
    cos, sin = size * angle.cos(), size * angle.sin()
    a, b = x[..., : n // 2], x[..., n // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def softcap(cap, x):
    return cap * torch.tanh(x / cap) if cap else x


def score_scale(c, hd):
    return c.get("attention_opts", {}).get("scale", 0) or hd ** -0.5


unused: dict[str, torch.Tensor] = {}  # prefix of each attention -> mean over heads of what its last rows left, [B, T]


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
            return torch.einsum("bhtd,hd->bht", q, key)[..., None] * score_scale(c, q.shape[-1])
    if not column:
        return s.softmax(-1) @ v
    w = torch.cat([s, column()], -1).softmax(-1)  # one more column, whose value is zero or learned
    unused[prefix] = w[..., -1].mean(1)
    o = w[..., :-1] @ v
    if kind == "kv_bias":
        o = o + w[..., -1:] * p[prefix + ".bias_v"][group][:, None]
    return o


def cached(x):
    """What keys or values [B, heads, T, hd] become in a cache."""
    return x


def anchor_heads(c):
    """Heads of each part of the anchors, in their order."""
    heads, kv_heads = c["heads"], c.get("kv_heads") or c["heads"]
    gate = {"gate": heads} if c.get("attention_opts", {}).get("gate") == "elementwise" else {}
    return {"q": heads, "k": kv_heads, "v": kv_heads, **gate}


def anchor_norm(c, name):
    done = c["anchors"] == "internal" and c.get("qk_norm") and name in "qk"
    return c.get("anchors_opts", {}).get("norm", True) and not done


def as_anchor(c, p, name, s):
    """s [B, T, heads, hd]"""
    if not anchor_norm(c, name):
        return s
    return rmsnorm(s, p[f"model.anchors.{name}_norm.weight"], c.get("norm_opts", {}).get("eps", 1e-6))


def external_anchors(c, p, h):
    """ExoFormer (arXiv 2601.08131): projections of the embeddings."""
    return {name: as_anchor(c, p, name, linear(p, f"model.anchors.{name}_proj", h).view(*h.shape[:2], n, -1))
            for name, n in anchor_heads(c).items()}


def with_anchor(c, p, prefix, name, anchor, x, s):
    """The part `name` of a layer that reads x: its own s [B, T, heads, hd] and the anchor's."""
    parts = anchor_heads(c)
    if c.get("anchors_opts", {}).get("dynamic"):
        hidden = F.gelu(x @ p[prefix + ".anchor_factors.down_proj.weight"].T)
        both = torch.sigmoid(hidden @ p[prefix + ".anchor_factors.up_proj.weight"].T).chunk(2, -1)
        factors = [f[..., list(parts).index(name), None, None] for f in both]
    else:
        factors = [1.0, 1.0]
    each, shape = c.get("anchors_opts", {}).get("coefficients", "scalar"), s.shape[-2:]
    sizes = [{"scalar": 1, "headwise": n, "elementwise": n * shape[1]}[each] for n in parts.values()]

    def coef(which):
        if name == "gate":
            w = p[f"{prefix}.gate_{which}_coef"]
        else:
            w = p[f"{prefix}.{which}_coef"].split(sizes[:3])[list(parts).index(name)]
        return w.view(shape) if each == "elementwise" else w[:, None]

    return factors[0] * coef("anchor") * anchor + factors[1] * coef("own") * s


def attention(c, p, i, x, anchors=None):
    prefix = f"model.layers.{i}.self_attn"
    B, T, _ = x.shape
    heads, kv_heads = c["heads"], c.get("kv_heads") or c["heads"]

    def split(name, n):
        return linear(p, f"{prefix}.{name}_proj", x).view(B, T, n, -1)

    opts = c.get("attention_opts", {})
    gate, floor = opts.get("gate", "none"), opts.get("gate_floor", 0.0)

    def gate_of(name):
        return floor + (1 - floor) * torch.sigmoid(x @ p[f"{prefix}.{name}.weight"].T)

    def qk_normed(y, name):
        whole = c.get("qk_norm_span") == "projection"
        rows = y.flatten(-2) if whole else y
        return rmsnorm(rows, p[f"{prefix}.{name}.weight"], c.get("norm_opts", {}).get("eps", 1e-6)).view(y.shape)

    q, k, v = split("q", heads), split("k", kv_heads), split("v", kv_heads)
    gate_in = x @ p[f"{prefix}.gate_proj.weight"].T if gate == "elementwise" else None
    gives = anchors is not None and not anchors
    if anchors:
        q, k, v = (with_anchor(c, p, prefix, name, anchors[name], x, s) for name, s in (("q", q), ("k", k), ("v", v)))
        if gate_in is not None:
            s = gate_in.view(B, T, heads, -1)
            gate_in = with_anchor(c, p, prefix, "gate", anchors["gate"], x, s).flatten(-2)
    if gate == "value":
        v = v * gate_of("v_gate_proj").view(B, T, kv_heads, -1)
    if c.get("qk_norm"):
        q, k = qk_normed(q, "q_norm"), qk_normed(k, "k_norm")
    if gives:
        own = {"q": q, "k": k, "v": v}
        if gate_in is not None:
            own["gate"] = gate_in.view(B, T, heads, -1)
        anchors.update({name: as_anchor(c, p, name, s) for name, s in own.items()})
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    q, k = rope(c, i, q), rope(c, i, k)
    k, v = cached(k), cached(v)
    group = torch.arange(heads) // (heads // kv_heads)  # query head h reads key head h // group size
    s = q @ k[:, group].transpose(-1, -2) * score_scale(c, q.shape[-1])
    s = softcap(opts.get("softcap", 0), s)
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    if window_of(c, i):
        seen &= ~torch.ones(T, T, dtype=torch.bool).tril(-window_of(c, i))
    o = mix(c, p, prefix, q, s, seen, v[:, group], group).transpose(1, 2)
    if gate == "elementwise":
        o = o * (floor + (1 - floor) * torch.sigmoid(gate_in)).view(B, T, heads, -1)
    if gate == "headwise":
        o = o * gate_of("gate_proj")[..., None]
    return linear(p, prefix + ".o_proj", o.reshape(B, T, -1))


def mixer(c, p, i, x, anchors=None):
    kind = of_layer(c, "mixer", i, "softmax")
    return attention(c, p, i, x, anchors) if kind == "softmax" else RECURRENT[kind](c, p, i, x)


def mlp(c, p, prefix, x):
    up = linear(p, prefix + ".up_proj", x)
    gated, act = FFN[c["ffn_kind"]]
    other = OTHER.get(c["ffn_kind"], lambda v: v)
    h = act(linear(p, prefix + ".gate_proj", x)) * other(up) if gated else act(up)
    return linear(p, prefix + ".down_proj", h)


def experts(c, p, prefix, x, training):
    """Output, the router's losses times their coefficients, and how often each expert was chosen."""
    flat = x.reshape(-1, x.shape[-1])
    n, E, k = flat.shape[0], c["experts"], c["experts_per_token"]
    z = linear(p, prefix + ".gate", flat)
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
        out = mlp(c, p, prefix + ".shared_experts", flat)
        gate = linear(p, prefix + ".shared_expert_gate", flat) if c.get("shared_expert_gate") else None
        y = y + (out if gate is None else torch.sigmoid(gate) * out)
    return y.view_as(x), loss, count


def clip(c, h):
    t = c.get("clip", 0) * (c.get("clip_baseline", 0) or 1)
    if not t:
        return h
    cut = h.clamp(-t, t)
    return h + (cut - h).detach() if c.get("clip_backward") == "through" else cut


def feed_forward(c, p, prefix, x, training):
    """As experts()."""
    if c.get("ffn_shift"):
        x = shifted(p, prefix + ".x_k", x)
    if c.get("experts"):
        return experts(c, p, prefix, x, training)
    return mlp(c, p, prefix, x), 0, None


def null_evidence(c, k):
    """OASIS (arXiv 2605.17887): of the embedding 0, then of each block of the k outputs so far, the mean of what their
    layers' attention left unused: [sources, B, T]."""
    size = c["residual_opts"].get("block", 1)
    of_output = [unused[f"model.layers.{i // 2}.self_attn"] for i in range(k)]
    blocks = [torch.stack(of_output[i : i + size]).mean(0) for i in range(0, k, size)]
    return torch.stack([torch.zeros_like(unused["model.layers.0.self_attn"]), *blocks])


def depth_mixture(c, p, prefix, sources, k):
    """Attention Residuals (arXiv 2603.15031): sources [B, T, dim], of k outputs, weighted by a softmax over them."""
    values = torch.stack(sources)
    keys, eps = values, c.get("norm_opts", {}).get("eps", 1e-6)
    if c.get("residual_opts", {}).get("key_norm", True):
        keys = rmsnorm(values, p[prefix + ".norm.weight"], eps)
    scores = torch.einsum("nbtd,d->nbt", keys, p[prefix + ".query"])
    if c["residual"] == "oasis":
        psi = null_evidence(c, k) if k else torch.zeros_like(scores)
        scores = scores - F.softplus(p[prefix + ".coupling"]).clamp(max=10) * (psi - psi.mean(0))
    return weighted(c, scores, values)


def weighted(c, scores, values):
    """Of n sources, scores [n, B, T] and values [n, B, T, dim]."""
    if c.get("residual_opts", {}).get("softmax") == "softmax1":
        weights = torch.cat([scores, torch.zeros_like(scores[:1])]).softmax(0)[:-1]
    else:
        weights = scores.softmax(0)
    return torch.einsum("nbt,nbtd->btd", weights, values)


def mixture_of_states(c, p, prefix, states, psi):
    """What the code of OASIS (arXiv 2605.17887) does behind each half: states [B, T, dim], the newest last, with the
    null evidence [B, T] of each."""
    values, n = torch.stack(states), len(states)
    query, keys = values[-1] @ p[prefix + ".to_query.weight"].T, values @ p[prefix + ".from_query.weight"]
    scores = torch.einsum("btr,nbtr->nbt", query, keys) / query.shape[-1] ** 0.5
    scores = scores + p[prefix + ".recency"] * (torch.arange(n, dtype=scores.dtype) / (n - 1))[:, None, None]
    if c["residual"] == "oasis":
        psi = torch.stack(psi)
        scores = scores - F.softplus(p[prefix + ".coupling"]).clamp(max=10) * (psi - psi.mean(0))
    return weighted(c, scores.clamp(-50, 50), values)


def residuals_of_states(c, p, h, training, anchors):
    """As attention_residuals()."""
    history, evidence, loss, counts = [h], [torch.zeros_like(h[..., 0])], 0.0, {}
    for i in range(c["layers"]):
        layer = f"model.layers.{i}."
        attended = h + mixer(c, p, i, block_norm(c, p, layer + "input_layernorm", h), anchors)
        psi = unused.get(layer + "self_attn", evidence[0]) if c["residual"] == "oasis" else None
        h = mixture_of_states(c, p, layer + "attn_residual", [*history, attended], [*evidence, psi])
        x = block_norm(c, p, layer + "post_attention_layernorm", h)
        x, extra, count = feed_forward(c, p, layer + "mlp", x, training)
        h = mixture_of_states(c, p, layer + "mlp_residual", [*history, attended, h + x], [*evidence, psi, psi])
        history, evidence, loss = [*history, h], [*evidence, psi], loss + extra
        if count is not None:
            counts[layer + "mlp.gate.e_score_correction_bias"] = count
    return h, loss, counts


def attention_residuals(c, p, h, training, anchors):
    """What the final norm reads, and the others of run()."""
    blocks, done, part, loss, counts = c.get("residual_opts", {}).get("block", 1), [h], None, 0.0, {}
    for k in range(2 * c["layers"]):
        layer, first = f"model.layers.{k // 2}.", k % 2 == 0
        if k and k % blocks == 0:
            done, part = [*done, part], None
        prefix = layer + ("attn" if first else "mlp") + "_residual"
        x = depth_mixture(c, p, prefix, done + [part] * (part is not None), k)
        place = c.get("norm_place", "pre")
        before = "input" if first else "pre_feedforward" if place == "sandwich" else "post_attention"
        if place != "output":
            x = block_norm(c, p, f"{layer}{before}_layernorm", x)
        if first:
            y = mixer(c, p, k // 2, x, anchors)
        else:
            y, extra, count = feed_forward(c, p, layer + "mlp", x, training)
            loss = loss + extra
            if count is not None:
                counts[layer + "mlp.gate.e_score_correction_bias"] = count
        if place != "pre":
            y = block_norm(c, p, f"{layer}post_{'attention' if first else 'feedforward'}_layernorm", y)
        part = y if part is None else part + y
    return depth_mixture(c, p, "model.final_residual", [*done, part], 2 * c["layers"]), loss, counts


def run(c, p, tokens, training):
    """Logits, the routers' losses, and {name of a bias: choices of its experts}."""
    place = c.get("norm_place", "pre")
    h = p["model.embed_tokens.weight"][tokens]
    loss, counts = torch.zeros((), dtype=h.dtype), {}
    h = h * (c.get("embed_multiplier", 0) or 1)
    if c.get("embed_scale"):
        h = p["model.embed_scale"] * h
    if c.get("learned_positions"):
        h = h + p["model.embed_positions.weight"][: tokens.shape[1]]
    anchors = {"external": lambda: external_anchors(c, p, h), "internal": dict}.get(c.get("anchors"), lambda: None)()
    if c.get("residual", "plain") != "plain":
        states = c.get("residual_opts", {}).get("form") == "states"
        h, loss, counts = (residuals_of_states if states else attention_residuals)(c, p, h, training, anchors)
    for i in range(c["layers"] if c.get("residual", "plain") == "plain" else 0):
        layer = f"model.layers.{i}."
        if c.get("block", "sequential") != "sequential":
            x = block_norm(c, p, layer + "input_layernorm", h)
            y = x if c["block"] == "parallel_shared" else block_norm(c, p, layer + "post_attention_layernorm", h)
            y, extra, count = feed_forward(c, p, layer + "mlp", y, training)
            h = clip(c, h + mixer(c, p, i, x, anchors) + y)
        elif place == "output":
            h = clip(c, h + block_norm(c, p, layer + "post_attention_layernorm", mixer(c, p, i, h, anchors)))
            x, extra, count = feed_forward(c, p, layer + "mlp", h, training)
            h = clip(c, h + block_norm(c, p, layer + "post_feedforward_layernorm", x))
        elif place == "post":
            h = clip(c, h + mixer(c, p, i, h, anchors))
            h = block_norm(c, p, layer + "post_attention_layernorm", h)
            x, extra, count = feed_forward(c, p, layer + "mlp", h, training)
            h = block_norm(c, p, layer + "post_feedforward_layernorm", clip(c, h + x))
        elif place == "sandwich":
            x = mixer(c, p, i, block_norm(c, p, layer + "input_layernorm", h), anchors)
            h = clip(c, h + block_norm(c, p, layer + "post_attention_layernorm", x))
            x = block_norm(c, p, layer + "pre_feedforward_layernorm", h)
            x, extra, count = feed_forward(c, p, layer + "mlp", x, training)
            h = clip(c, h + block_norm(c, p, layer + "post_feedforward_layernorm", x))
        else:
            h = clip(c, h + mixer(c, p, i, block_norm(c, p, layer + "input_layernorm", h), anchors))
            x = block_norm(c, p, layer + "post_attention_layernorm", h)
            x, extra, count = feed_forward(c, p, layer + "mlp", x, training)
            h = clip(c, h + x)
        loss = loss + extra
        if count is not None:
            counts[layer + "mlp.gate.e_score_correction_bias"] = count
    h = block_norm(c, p, "model.norm", h)
    head = p["model.embed_tokens.weight" if c.get("tie_embeddings") else "lm_head.weight"]
    lg = h @ head.T
    if c.get("head_bias"):
        lg = lg + p["lm_head.bias"]
    return softcap(c.get("logit_softcap", 0), lg), loss, counts


def logits(c, p, tokens):
    return run(c, p, tokens, False)[0]


def token_losses(lg, targets):
    """Nats per position, 0 where the target is negative."""
    picked = lg.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets >= 0, lg.logsumexp(-1) - picked, torch.zeros_like(picked))


def mean_loss(lg, targets):
    return token_losses(lg, targets).sum() / (targets >= 0).sum()
