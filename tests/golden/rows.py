"""What the parts of the decoder do with rows: norms, and layers by their name."""

import torch


def rmsnorm(x, w, eps):
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def layernorm(x, w, eps):
    x = x - x.mean(-1, keepdim=True)
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def linear(p, prefix, x):
    y = x @ p[prefix + ".weight"].T
    return y + p[prefix + ".bias"] if prefix + ".bias" in p else y


def of_layer(c, key, i, default):
    """What a list that repeats over the layers has for layer i."""
    pattern = c.get(key, default)
    return pattern if isinstance(pattern, str) else pattern[i % len(pattern)]
