#!/usr/bin/env python3
"""Writes the golden cases: <case>.yaml (the configuration) and <case>.safetensors.

Needs torch, safetensors, PyYAML; the tests need none of them. Everything is computed in float64 from
parameters that float16 holds exactly, and rounded once when stored:
  w.<name>     F16  parameters, random and far from their initialisation so that every term counts
  tokens, targets   I32 [batch, seq]
  loss         F64 [1]  mean cross-entropy; train_loss F64 [1] (of experts) the same of a
                training pass, where an expert's capacity counts
  token_loss F64 [batch, seq]; logits F32 [batch, seq, vocab]
  g.<name>     F32  gradient of train_loss plus the routers' losses
  step_loss    F64 [6]  loss before each of 5 AdamW steps on the same batch, and after the last
  step_norm    F64 [5]  global gradient norm before clipping
  f.<name>     F32  parameters after the 5 steps
"""

import argparse
import math
import pathlib
import zlib

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file

import decoder
from norms import batch_means

STEPS = 5

# A case: differences from BASE; dotted keys as in a configuration. Sizes are odd on purpose.
BASE = {
    "model": {
        "layers": 2, "dim": 36, "heads": 3, "ffn": 23, "norm": "rmsnorm", "ffn_kind": "swiglu",
        "rope_base": 10000, "norm_opts": {"eps": 0.01}, "seq": 17,
    },
    "train": {
        "steps": STEPS, "batch": 2, "lr": 0.01, "schedule": "constant", "warmup": 0,
        "weight_decay": 0.3, "betas": [0.8, 0.9], "eps": 0.003, "clip_norm": 1.0,
    },
    "precision": "fp32",
}
CASES = {
    "baseline": (37, {}),
    "layernorm": (41, {"model.norm": "layernorm", "model.dim": 33, "model.head_dim": 12,
                       "model.seq": 13, "train.batch": 3}),
    "gated_half": (39, {"model.norm": "gated_norm", "model.norm_opts.rank": 5,
                        "model.norm_opts.init": "half", "model.dim": 32, "model.heads": 4,
                        "train.clip_norm": 0.0}),
    "gated_identity_final": (43, {"model.norm": "gated_norm", "model.norm_opts.rank": 3,
                                  "model.norm_opts.init": "identity", "model.dim": 32,
                                  "model.heads": 2, "model.norm_opts.gate_final": True}),
    "none": (31, {"model.norm": "none", "model.norm_opts.preaffine": True, "model.layers": 1}),
    "preaffine": (37, {"model.norm_opts.preaffine": True, "model.qk_norm": True}),
    "zero_centred": (37, {"model.norm": "layernorm", "model.norm_opts.zero_centred": True,
                          "model.norm_opts.preaffine": True, "train.decay_norms": True}),
    "dyt": (37, {"model.norm": "dyt"}),
    "dyt_embed_scale": (33, {"model.norm": "dyt", "model.norm_opts.beta": False,
                             "model.embed_scale": True, "train.decay_norms": True}),
    "derf": (35, {"model.norm": "derf", "model.layers": 1}),
    "gated_dyt": (33, {"model.norm": "gated_norm", "model.norm_opts.base": "dyt",
                       "model.norm_opts.rank": 3, "model.norm_opts.gate_final": True}),
    "gated_tensorwise": (31, {"model.norm": "gated_norm", "model.norm_opts.base": "layernorm",
                              "model.norm_opts.rank": 4, "model.norm_opts.granularity": "tensorwise",
                              "model.norm_opts.outer": "tanh", "model.norm_opts.inner": "relu"}),
    "gated_silu_identity": (33, {"model.norm": "gated_norm", "model.norm_opts.rank": 3,
                                 "model.norm_opts.outer": "silu", "model.norm_opts.init": "identity",
                                 "model.layers": 1}),
    "post": (33, {"model.norm_place": "post"}),
    "sandwich_clip": (33, {"model.norm_place": "sandwich", "model.clip": 0.5,
                           "model.clip_baseline": 3.0, "model.norm": "dyt"}),
    "clip": (35, {"model.clip": 1.5, "model.layers": 1}),
    "clip_through": (35, {"model.clip": 1.2, "model.clip_backward": "through", "model.norm_place": "post"}),
    "nullify_both": (37, {"model.sink_nullify": 3, "model.sink_nullify_value": "mean",
                          "model.sink_nullify_final": True}),
    "nullify_output": (35, {"model.sink_nullify": 2, "model.sink_nullify_mode": "output",
                            "model.norm": "layernorm", "model.norm_place": "post"}),
    "nullify_denominator": (33, {"model.sink_nullify": 2, "model.sink_nullify_mode": "denominator",
                                 "model.norm_opts.preaffine": True, "model.norm_place": "sandwich"}),
    "nullify_rms": (33, {"model.sink_nullify": 2, "model.sink_nullify_mode": "denominator",
                         "model.sink_nullify_value": "rms", "model.norm_opts.preaffine": True}),
    "nullify_mean_output": (35, {"model.sink_nullify": 3, "model.sink_nullify_mode": "output",
                                 "model.sink_nullify_value": "mean_output", "model.norm": "layernorm",
                                 "model.norm_opts.bias": True, "model.norm_opts.preaffine": True,
                                 "model.layers": 1}),
    "nullify_from": (33, {"model.sink_nullify": 3, "model.sink_nullify_from": 2,
                          "model.sink_nullify_mode": "denominator", "model.sink_nullify_value": "rms",
                          "model.norm": "layernorm", "model.norm_opts.preaffine": True, "train.batch": 3,
                          "model.sink_nullify_final": True, "model.layers": 1}),
    "nullify_from_output": (35, {"model.sink_nullify": 2, "model.sink_nullify_from": 1,
                                 "model.sink_nullify_mode": "output", "model.sink_nullify_value": "mean_output",
                                 "model.layers": 1}),
    "gqa_qk_norm": (47, {"model.dim": 40, "model.heads": 5, "model.kv_heads": 1, "model.ffn": 21,
                         "model.qk_norm": True, "model.rope_base": 500.0, "model.seq": 24}),
    "tied_gelu": (61, {"model.tie_embeddings": True, "model.ffn_kind": "gelu", "model.heads": 6,
                       "model.kv_heads": 2, "model.ffn": 41, "train.decay_norms": True}),
    "glu": (37, {"model.ffn_kind": "glu", "model.layers": 1}),
    "geglu": (37, {"model.ffn_kind": "geglu", "model.layers": 1}),
    "swiglu_clamped": (37, {"model.ffn_kind": "swiglu_clamped", "model.layers": 1}),
    "geglu_tanh": (37, {"model.ffn_kind": "geglu_tanh", "model.layers": 1}),
    "gelu_tanh": (37, {"model.ffn_kind": "gelu_tanh", "model.layers": 1}),
    "relu": (37, {"model.ffn_kind": "relu", "model.layers": 1}),
    "relu2": (37, {"model.ffn_kind": "relu2", "model.layers": 1}),
    "no_position": (37, {"model.rope_base": 0.0, "model.layers": 1, "model.dim": 32,
                         "model.heads": 2, "model.norm_opts.eps": 1e-6}),
    "head_dim": (53, {"model.dim": 37, "model.heads": 4, "model.kv_heads": 2, "model.head_dim": 6,
                      "model.ffn": 31}),
    "softmax1_window": (37, {"model.attention": "softmax1", "model.attention_opts.window": 5}),
    "sink_logit": (37, {"model.attention": "sink_logit", "model.heads": 6, "model.kv_heads": 2}),
    "k_bias": (37, {"model.attention": "k_bias", "model.heads": 6, "model.kv_heads": 2, "model.layers": 1}),
    "kv_bias_window": (37, {"model.attention": "kv_bias", "model.heads": 6, "model.kv_heads": 2,
                            "model.attention_opts.window": 7}),
    "sigmoid_value_gate": (37, {"model.attention": "sigmoid", "model.attention_opts.sigmoid_bias": 0.5,
                                "model.attention_opts.gate": "value"}),
    "relu_headwise": (37, {"model.attention": "relu", "model.attention_opts.gate": "headwise",
                           "model.attention_opts.window": 6}),
    "clipped_elementwise": (37, {"model.attention": "clipped_softmax", "model.attention_opts.clip_alpha": 0.6,
                                 "model.attention_opts.clip_zeta": 1.2, "model.attention_opts.gate": "elementwise",
                                 "model.attention_opts.gate_floor": 0.5}),
    "biases": (37, {"model.attention_bias": "all", "model.ffn_bias": True, "model.head_bias": True,
                    "train.decay_norms": True, "model.kv_heads": 1}),
    "qkv_bias_gelu": (41, {"model.attention_bias": "qkv", "model.ffn_bias": True, "model.ffn_kind": "gelu",
                           "model.tie_embeddings": True, "model.norm_place": "sandwich"}),
    "partial_rope": (37, {"model.rope_dims": 4, "model.attention_opts.scale": 0.4, "model.embed_multiplier": 1.7}),
    "llama3_rope": (37, {"model.rope_scaling": "llama3", "model.rope_scaling_opts.factor": 4.0,
                         "model.rope_scaling_opts.low_freq_factor": 1.0,
                         "model.rope_scaling_opts.high_freq_factor": 6.0,
                         "model.rope_scaling_opts.original": 64, "model.rope_base": 300.0}),
    "yarn_rope": (37, {"model.rope_scaling": "yarn", "model.rope_scaling_opts.factor": 4.0,
                       "model.rope_scaling_opts.original": 64, "model.rope_scaling_opts.beta_fast": 4.0,
                       "model.rope_scaling_opts.truncate": False, "model.rope_base": 300.0}),
    "window_layers": (37, {"model.attention_opts.window": 5,
                           "model.attention_opts.window_layers": ["window", "window", "full"],
                           "model.rope_base_window": 30.0, "model.rope_base": 900.0,
                           "model.rope_scaling": "linear", "model.rope_scaling_opts.factor": 2.0,
                           "model.layers": 3, "model.dim": 24, "model.heads": 2}),
    "rope_layers": (37, {"model.rope_layers": ["rope", "none"], "model.attention": "k_bias",
                         "model.attention_opts.scale": 0.2}),
    "layernorm_bias": (33, {"model.norm": "layernorm", "model.norm_opts.bias": True, "train.decay_norms": True,
                            "model.learned_positions": 19, "model.rope_base": 0.0}),
    "layernorm_bias_nullify": (33, {"model.norm": "layernorm", "model.norm_opts.bias": True, "model.sink_nullify": 2,
                                    "model.sink_nullify_mode": "output", "model.sink_nullify_value": "mean",
                                    "model.layers": 1}),
    "parallel": (35, {"model.block": "parallel", "model.norm": "layernorm", "model.norm_opts.bias": True,
                      "model.rope_dims": 4, "model.attention_bias": "all", "model.ffn_bias": True,
                      "model.ffn_kind": "gelu"}),
    "parallel_shared": (35, {"model.block": "parallel_shared", "model.head_bias": True, "model.clip": 2.0}),
    "output_projection_norm": (37, {"model.norm_place": "output", "model.qk_norm": True,
                                    "model.qk_norm_span": "projection", "model.heads": 6, "model.kv_heads": 2}),
    "softcap": (37, {"model.attention_opts.softcap": 1.5, "model.attention_opts.window": 6, "model.logit_softcap": 2.5,
                     "model.heads": 6, "model.kv_heads": 2, "model.attention": "softmax1"}),
    "anchors_external": (37, {"model.anchors": "external", "train.decay_norms": True, "model.layers": 3,
                              "model.dim": 24, "model.heads": 2, "model.attention_opts.gate": "elementwise"}),
    "anchors_dynamic": (35, {"model.anchors": "external", "model.anchors_opts.dynamic": True, "model.qk_norm": True,
                             "model.anchors_opts.coefficients": "headwise", "model.heads": 4, "model.kv_heads": 2,
                             "model.dim": 24, "model.attention_opts.gate": "elementwise"}),
    "anchors_internal": (33, {"model.anchors": "internal", "model.anchors_opts.coefficients": "elementwise",
                              "model.qk_norm": True, "model.layers": 3, "model.dim": 24, "model.heads": 2,
                              "model.attention_opts.gate": "elementwise", "model.attention": "softmax1"}),
    "attnres": (37, {"model.residual": "attnres", "train.decay_norms": True}),
    "attnres_blocks_softmax1": (35, {"model.residual": "attnres", "model.residual_opts.block": 2, "model.layers": 3,
                                     "model.residual_opts.softmax": "softmax1", "model.dim": 24, "model.heads": 2,
                                     "model.attention": "softmax1", "model.norm_place": "sandwich"}),
    "attnres_short_block": (33, {"model.residual": "attnres", "model.residual_opts.block": 3, "model.layers": 2,
                                 "model.residual_opts.key_norm": False, "model.norm_place": "output"}),
    "oasis": (37, {"model.residual": "oasis", "model.attention": "softmax1", "model.residual_opts.coupling": 0.54}),
    "oasis_blocks": (35, {"model.residual": "oasis", "model.attention": "softmax1", "model.residual_opts.block": 3,
                          "model.residual_opts.softmax": "softmax1", "model.dim": 24, "model.heads": 2}),
    "oasis_states": (37, {"model.residual": "oasis", "model.attention": "softmax1",
                          "model.residual_opts": {"form": "states", "softmax": "softmax1", "coupling": 0.54}}),
    "attnres_states": (35, {"model.residual": "attnres", "model.residual_opts.form": "states", "model.layers": 3,
                            "model.dim": 24, "model.heads": 2}),
    # With the eps of BASE steps would be chaotic: gates close to 0 leave rows that their norm makes large.
    "mamba2": (37, {"model.mixer": "mamba2", "model.mamba2_opts": {"expand": 2, "head_dim": 8, "state": 5, "groups": 3},
                    "model.norm_opts.eps": 0.3, "train.decay_norms": True, "train.lr": 0.003}),
    "mamba2_before_hybrid": (37, {"model.mixer": ["mamba2", "softmax"], "model.layers": 3, "model.dim": 24,
                                  "model.heads": 2, "model.seq": 70, "train.batch": 1, "model.norm_place": "sandwich",
                                  "model.mamba2_opts": {"expand": 1, "head_dim": 4, "state": 9, "groups": 1, "conv": 3,
                                                        "norm": "before"},
                                  "model.norm_opts.eps": 0.3, "train.lr": 0.003}),
    "mamba2_none": (37, {"model.mixer": "mamba2", "model.layers": 1, "model.block": "parallel_shared",
                         "model.mamba2_opts": {"expand": 1, "head_dim": 12, "state": 16, "groups": 1,
                                               "norm": "none"}}),
    "gdn": (37, {"model.mixer": "gdn", "model.gdn_opts": {"heads": 4, "key_heads": 2, "key_dim": 7, "value_dim": 10}}),
    "gdn_hybrid": (37, {"model.mixer": ["gdn", "gdn", "softmax"], "model.layers": 4, "model.dim": 24, "model.heads": 2,
                        "model.seq": 70, "train.batch": 1, "model.norm_place": "sandwich",
                        "model.gdn_opts": {"gate": "sigmoid", "negative": True, "conv": 3},
                        "model.norm_opts.eps": 0.3, "train.decay_norms": True, "train.lr": 0.003}),
    "deltanet": (37, {"model.mixer": "deltanet", "model.layers": 1,
                      "model.gdn_opts": {"gate": "none", "norm": False, "conv": 1, "key_dim": 12}}),
    "gla_retnet": (37, {"model.mixer": ["gla", "retnet"],
                        "model.gdn_opts": {"gate": "none", "key_dim": 8, "heads": 2}}),
    "rwkv7": (37, {"model.mixer": "rwkv7", "model.norm": "layernorm", "model.norm_opts.bias": True,
                   "model.layers": 3, "model.ffn_kind": "relu2", "model.ffn_shift": True, "train.lr": 0.001,
                   "model.norm_opts.eps": 0.3,
                   "model.rwkv7_opts": {"head_dim": 9, "decay_rank": 5, "rate_rank": 4, "value_rank": 3,
                                        "gate_rank": 7}}),
    "rwkv7_hybrid": (37, {"model.mixer": ["softmax", "rwkv7", "rwkv7"], "model.layers": 3, "model.dim": 24,
                          "model.heads": 2, "model.seq": 70, "train.batch": 1, "model.norm_place": "sandwich",
                          "model.rwkv7_opts": {"head_dim": 12, "decay_rank": 3, "rate_rank": 3, "value_rank": 2,
                                               "gate_rank": 5},
                          "model.norm_opts.eps": 0.3, "train.decay_norms": True, "train.lr": 0.001}),
    "masked_targets": (37, {"model.layers": 1, "model.dim": 32, "model.heads": 4,
                            "model.kv_heads": 2, "train.batch": 3, "model.seq": 19}),
    "experts_aux_z": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 4, "model.experts_per_token": 2,
                           "model.expert_ffn": 11, "model.router": "softmax", "model.balance": "aux",
                           "model.balance_coef": 0.3, "model.router_z_loss": 0.1}),
    "experts_bias_shared": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 5,
                                 "model.experts_per_token": 3, "model.expert_ffn": 9,
                                 "model.shared_experts": 2, "model.router": "sigmoid",
                                 "model.balance": "bias", "model.balance_rate": 0.02}),
    "experts_capacity": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 6,
                              "model.experts_per_token": 1, "model.expert_ffn": 10,
                              "model.router": "sigmoid", "model.balance": "aux",
                              "model.balance_coef": 0.2, "model.expert_capacity": 0.75}),
    "experts_post_shared": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 4,
                                 "model.experts_per_token": 2, "model.expert_ffn": 7,
                                 "model.shared_experts": 1, "model.router": "softmax",
                                 "model.balance": "aux", "model.balance_coef": 0.3,
                                 "model.norm_place": "post", "model.clip": 2.0}),
    "experts_shared_gate": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 4, "model.experts_per_token": 2,
                                 "model.expert_ffn": 9, "model.shared_experts": 2, "model.shared_expert_gate": True,
                                 "model.router": "softmax", "model.balance": "aux", "model.balance_coef": 0.3,
                                 "model.norm_opts.zero_centred": True}),
    "experts_sandwich": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 4,
                              "model.experts_per_token": 2, "model.expert_ffn": 7,
                              "model.router": "sigmoid", "model.balance": "none",
                              "model.norm_place": "sandwich"}),
    "experts_biases": (37, {"model.dim": 24, "model.heads": 2, "model.experts": 4, "model.experts_per_token": 2,
                            "model.expert_ffn": 11, "model.shared_experts": 1, "model.router": "softmax",
                            "model.balance": "aux", "model.balance_coef": 0.3, "model.router_z_loss": 0.1,
                            "model.router_bias": True, "model.ffn_bias": True, "model.ffn_kind": "swiglu_clamped",
                            "model.expert_capacity": 0.9}),
}


def build_config(changes):
    c = yaml.safe_load(yaml.safe_dump(BASE))
    for key, value in changes.items():
        *path, last = key.split(".")
        at = c
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return c


def random_parameters(c, vocab, gen):
    """Unit-variance activations everywhere; norm weights spread round 1. Queries over depth are near 0, as they start:
    larger ones multiply an error in the parameters by thousands within five steps."""
    out = {}
    for name, shape in decoder.tensor_shapes(c, vocab).items():
        x = torch.randn(shape, generator=gen, dtype=torch.float64)
        if name.endswith(("correction_bias", ".query", ".to_query.weight")):
            x = 0.1 * x
        elif len(shape) == 1:
            mean, _, _ = name.partition("_from_")
            from_zero = mean.endswith((".bias", ".shift", ".channel_mean", ".channel_mean_output")) or (
                name.endswith("norm.weight") and c.get("norm_opts", {}).get("zero_centred"))
            x = (0 if from_zero else 1) + 0.3 * x
            x = x.abs() if mean.endswith("mean_square") else x
        elif name == "model.embed_tokens.weight":
            x = (0.3 if c.get("tie_embeddings") else 0.7) * x
        elif name.endswith("gate_up.weight"):
            x = 1.5 * x / shape[1] ** 0.5
        else:
            x = 1.2 * x / math.prod(shape[1:]) ** 0.5
        out[name] = x.to(torch.float16).to(torch.float64)
    return out


def train(c, p, tokens, targets):
    """STEPS steps of AdamW by torch.optim in float64. Returns losses, gradient norms, parameters."""
    t = c["train"]
    p = {n: x.clone().requires_grad_("correction_bias" not in n and ".channel_mean" not in n) for n, x in p.items()}
    learned = [x for x in p.values() if x.requires_grad]

    def decays(name, x):  # matrices, vectors where asked for; never attention's sinks, biases of linear layers, gates
        if ".att." in name or name.endswith(".x_k"):  # of rwkv7 its whole matrices, and the norm where asked for
            return name.endswith(("ance.weight", "key.weight", "value.weight", "output.weight")) or (
                name.endswith("ln_x.weight") and bool(t.get("decay_norms")))
        never = ".bias_" in name or ".sinks" in name or name.endswith(
            ("_proj.bias", "lm_head.bias", "gate.bias", "conv1d.bias", "dt_bias", "A_log", ".D", "_coef", ".query",
             ".coupling", ".recency"))
        return not never and (x.ndim > 1 or bool(t.get("decay_norms")))

    decayed = [x for n, x in p.items() if x.requires_grad and decays(n, x)]
    fast = [x for n, x in p.items() if n.endswith(".att.w0")]  # decays of rwkv7
    others = [x for n, x in p.items()
              if x.requires_grad and not decays(n, x) and not n.endswith(".att.w0")]
    opt = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": t["weight_decay"]},
         {"params": others, "weight_decay": 0.0},
         *([{"params": fast, "weight_decay": 0.0, "lr": 2 * t["lr"]}] if fast else [])],
        lr=t["lr"], betas=tuple(t["betas"]), eps=t["eps"])
    losses, norms = [], []
    for _ in range(STEPS):
        opt.zero_grad()
        lg, extra, counts = decoder.run(c["model"], p, tokens, True)
        loss = decoder.mean_loss(lg, targets)
        (loss + extra).backward()
        norm = torch.sqrt(sum((x.grad**2).sum() for x in learned))
        if t["clip_norm"] > 0 and norm > t["clip_norm"]:
            for x in learned:
                x.grad *= t["clip_norm"] / norm
        opt.step()
        for name, mean in batch_means.items():
            p[name].lerp_(mean, 0.01)
        for name in p.keys() & counts.keys():
            away = counts[name].mean() - counts[name]
            p[name] += c["model"]["balance_rate"] * torch.sign(away)
        losses.append(loss.item())
        norms.append(norm.item())
    with torch.no_grad():
        losses.append(decoder.mean_loss(decoder.run(c["model"], p, tokens, True)[0], targets).item())
    return losses, norms, {n: x.detach() for n, x in p.items()}


def make_case(name):
    vocab, changes = CASES[name]
    c = build_config(changes)
    gen = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    p = random_parameters(c["model"], vocab, gen)
    batch_means.clear()
    shape = (c["train"]["batch"], c["model"]["seq"])
    tokens = torch.randint(vocab, shape, generator=gen)
    targets = torch.randint(vocab, shape, generator=gen)
    if name == "masked_targets":
        targets[torch.rand(shape, generator=gen) < 0.4] = -1
        targets[1, :] = -1  # a whole window without a target

    leaf = {n: x.clone().requires_grad_() for n, x in p.items()}
    lg = decoder.logits(c["model"], leaf, tokens)
    loss = decoder.mean_loss(lg, targets)
    trained, extra, _ = decoder.run(c["model"], leaf, tokens, True)
    train_loss = decoder.mean_loss(trained, targets)
    (train_loss + extra).backward()
    step_loss, step_norm, final = train(c, p, tokens, targets)

    f32, f64 = np.float32, np.float64
    out = {"tokens": tokens.numpy().astype(np.int32), "targets": targets.numpy().astype(np.int32),
           "loss": np.array([loss.item()], f64),
           "token_loss": decoder.token_losses(lg, targets).detach().numpy().astype(f64),
           "logits": lg.detach().numpy().astype(f32),
           "step_loss": np.array(step_loss, f64), "step_norm": np.array(step_norm, f64)}
    if c["model"].get("experts"):
        out["train_loss"] = np.array([train_loss.item()], f64)
    for n in p:
        out["w." + n] = p[n].numpy().astype(np.float16)
        grad = leaf[n].grad if leaf[n].grad is not None else torch.zeros_like(p[n])  # a bias, a running mean have none
        out["g." + n] = grad.numpy().astype(f32)
        out["f." + n] = final[n].numpy().astype(f32)
    return c, out


def main():
    ap = argparse.ArgumentParser(description="Write the golden cases (see the head of this file).")
    here = pathlib.Path(__file__).resolve().parent
    ap.add_argument("--out", type=pathlib.Path, default=here / "cases", help="folder to write to")
    ap.add_argument("case", nargs="*", help=f"of: {' '.join(CASES)} (default: all)")
    args = ap.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.case or CASES:
        c, tensors = make_case(name)
        (args.out / f"{name}.yaml").write_text(yaml.safe_dump(c, sort_keys=False))
        path = args.out / f"{name}.safetensors"
        save_file(tensors, path)
        print(f"{name}: loss {tensors['loss'][0]:.6f} -> {tensors['step_loss'][-1]:.6f}, norms "
              f"{np.array2string(tensors['step_norm'], precision=3)}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
