"""Norms of the stream with their gates, and channels replaced before them, as decoder.py has the rest."""

import torch
import torch.nn.functional as F
from rows import layernorm, rmsnorm

# sink_nullify_value -> the running mean that it needs besides the channel's own
SECOND_MEAN = {"rms": ".channel_mean_square", "mean_output": ".channel_mean_output"}
batch_means: dict[str, torch.Tensor] = {}  # name of each running mean -> that of the last batch


def running(c, name):
    """The tensor of a running mean: its name says from which position on, if not from 0."""
    return f"{name}_from_{c['sink_nullify_from']}" if c.get("sink_nullify_from") else name


def channel_means(c, x):
    return x.detach()[:, c.get("sink_nullify_from", 0):].reshape(-1, x.shape[-1]).mean(0)


def replaced(c, p, prefix, x):
    """x with the channels of largest |running mean| set to what model.sink_nullify_value says."""
    mean, value = p[prefix + running(c, ".channel_mean")].detach(), c.get("sink_nullify_value", "zero")
    channels = mean.abs().argsort(descending=True)[: c["sink_nullify"]]
    second = p[prefix + running(c, SECOND_MEAN.get(value, ".channel_mean"))].detach()
    stand_in = {"zero": 0 * mean, "mean": mean, "rms": second.abs().sqrt() * mean.sign(), "mean_output": second}[value]
    y = x.clone()
    y[:, c.get("sink_nullify_from", 0):, channels] = stand_in[channels]
    return y


def norm_rows(c, p, prefix, x):
    """What is normalised, and what the statistics are taken from."""
    batch_means[prefix + running(c, ".channel_mean")] = channel_means(c, x)
    if c.get("sink_nullify_value") == "rms":
        batch_means[prefix + running(c, ".channel_mean_square")] = channel_means(c, x * x)
    if c.get("sink_nullify_value") == "mean_output":
        return x, x
    y, mode = replaced(c, p, prefix, x), c.get("sink_nullify_mode", "both")
    return (x if mode == "denominator" else y), (x if mode == "output" else y)


def base_norm(c, kind, opts, p, prefix, x):
    w, eps = p[prefix + ".weight"], opts.get("eps", 1e-6)
    if opts.get("zero_centred"):
        w = 1 + w
    if prefix + running(c, ".channel_mean") in p:
        x, whole = norm_rows(c, p, prefix, x)
        pre = p[prefix + ".pre_affine"] if opts.get("preaffine") else 1.0
        x, whole = pre * x, pre * whole
        if kind in ("rmsnorm", "layernorm"):
            m = whole.mean(-1, keepdim=True) if kind == "layernorm" else 0.0
            z = (x - m) / torch.sqrt(((whole - m) ** 2).mean(-1, keepdim=True) + eps)
            if c.get("sink_nullify_value") == "mean_output":
                batch_means[prefix + running(c, ".channel_mean_output")] = channel_means(c, z)
                z = replaced(c, p, prefix, z)
            return w * z + p.get(prefix + ".bias", 0.0)
    elif opts.get("preaffine"):
        x = p[prefix + ".pre_affine"] * x
    if kind == "none":
        return w * x
    if kind == "layernorm":
        return layernorm(x, w, eps) + p.get(prefix + ".bias", 0.0)
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
