#!/usr/bin/env python3
"""Writes transformers/NAME: tiny random checkpoints of each family saved by transformers itself, with
its logits for some tokens in expected.safetensors (tokens I32, logits F32 [windows, positions, vocab]).

Needs torch and transformers; the test that reads the folders needs neither. Parameters are spread far
from their initialisation (norm weights too), rounded to float32; logits are computed in float32. A model of GGUF is
written by the gguf package from the weights of one of transformers, and its logits are those of transformers reading
that file. The matrices of gpt_oss_mxfp4's experts are rounded to MXFP4 here, and made floats by transformers."""

import argparse
import json
import pathlib

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, RopeScalingType, get_tensor_name_map
from gguf.quants import quantize
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig,
                          GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, GptOssConfig,
                          GptOssForCausalLM, LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM,
                          MistralConfig, MistralForCausalLM, Olmo2Config, Olmo2ForCausalLM, OPTConfig, OPTForCausalLM,
                          PhiConfig, PhiForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
                          Qwen3MoeConfig, Qwen3MoeForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM, SmolLM3Config,
                          SmolLM3ForCausalLM)
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

COMMON = dict(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=44, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
)
# Waves of 24 positions stand on both sides of its limits.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 3000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "beta_fast": 4.0,
        "original_max_position_embeddings": 40}


def gpt_oss(**sizes):
    return GptOssForCausalLM(GptOssConfig(
        **COMMON | {"pad_token_id": None} | sizes, head_dim=8, rms_norm_eps=1e-5, tie_word_embeddings=False,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=6, rope_parameters=YARN | {"truncate": False}))


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        **COMMON, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0})),
    "llama_bias": lambda: LlamaForCausalLM(LlamaConfig(
        **COMMON, rms_norm_eps=1e-5, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=LLAMA3)),
    "llama_yarn": lambda: LlamaForCausalLM(LlamaConfig(
        **COMMON | {"num_hidden_layers": 1}, rms_norm_eps=1e-5, tie_word_embeddings=True, head_dim=16,
        rope_parameters=YARN)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(
        **COMMON, head_dim=8, rms_norm_eps=1e-5, tie_word_embeddings=False, sliding_window=7,
        rope_parameters={"rope_type": "linear", "rope_theta": 3000.0, "factor": 2.5})),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(
        **COMMON, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0})),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(
        **COMMON | {"num_hidden_layers": 3}, head_dim=12, rms_norm_eps=1e-6, query_pre_attn_scalar=20, sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0})),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(
        **COMMON | {"num_hidden_layers": 4}, head_dim=12, rms_norm_eps=1e-6, query_pre_attn_scalar=20, sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 8.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0}})),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(
        **COMMON | {"pad_token_id": None}, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0})),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(
        **COMMON | {"num_hidden_layers": 3, "pad_token_id": None}, rms_norm_eps=1e-6, tie_word_embeddings=True,
        no_rope_layers=[1, 0, 1], rope_parameters={"rope_type": "default", "rope_theta": 50000.0})),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=44, bos_token_id=0, eos_token_id=1)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=44,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0, "partial_rotary_factor": 0.5})),
    "opt": lambda: OPTForCausalLM(OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=44,
        max_position_embeddings=64, word_embed_proj_dim=32, bos_token_id=0, eos_token_id=1)),
    "mamba2": lambda: Mamba2ForCausalLM(Mamba2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, expand=2, head_dim=8, num_heads=8, state_size=12,
        n_groups=2, conv_kernel=4, chunk_size=8, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
        pad_token_id=None)),
    "phi": lambda: PhiForCausalLM(PhiConfig(
        **COMMON, layer_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0, "partial_rotary_factor": 0.5})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(
        **COMMON, head_dim=12, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0})),
    "qwen3_next": lambda: Qwen3NextForCausalLM(Qwen3NextConfig(
        **COMMON | {"num_hidden_layers": 4}, head_dim=16, rms_norm_eps=1e-6, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=5, linear_conv_kernel_dim=4,
        num_experts=0, moe_intermediate_size=8, shared_expert_intermediate_size=8,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0, "partial_rotary_factor": 0.25})),
    "qwen3_next_moe": lambda: Qwen3NextForCausalLM(Qwen3NextConfig(
        **COMMON | {"num_hidden_layers": 2, "pad_token_id": None}, head_dim=16, rms_norm_eps=1e-6,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=6, linear_value_head_dim=5,
        linear_conv_kernel_dim=3, layer_types=["linear_attention", "full_attention"], num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=24,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0, "partial_rotary_factor": 0.25})),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(
        **COMMON, head_dim=8, rms_norm_eps=1e-6, tie_word_embeddings=True, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True, decoder_sparse_step=1,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0})),
    "gpt_oss": lambda: gpt_oss(intermediate_size=20),
    "gpt_oss_mxfp4": lambda: gpt_oss(hidden_size=64, intermediate_size=32),
}


def spread(model):
    """Gains about 1, which Gemma's and most of Qwen3-Next's weights lack, and biases about 0.3."""
    centred = isinstance(model, (Gemma2ForCausalLM, Gemma3ForCausalLM, Qwen3NextForCausalLM))
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.copy_((0 if centred and "linear_attn" not in name else 1) + 0.3 * torch.randn_like(p))
        else:
            p.copy_(1.2 * torch.randn_like(p) / p[0].numel() ** 0.5)


def logits_of(model):
    with torch.no_grad():
        tokens = torch.randint(COMMON["vocab_size"], (2, 24))
        return {"tokens": tokens.to(torch.int32), "logits": model(tokens).logits.contiguous()}


# ---- MXFP4

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def to_mxfp4(x):
    """Blocks [..., n / 32, 16] and scales [..., n / 32] of x [..., n]: the nearest codes to x over a power of two that
    leaves the largest of 32 values at most 6."""
    x = x.reshape(*x.shape[:-1], -1, 32)
    exponent = np.ceil(np.log2(np.abs(x).max(-1) / 6))
    scaled = x / 2.0 ** exponent[..., None]
    code = np.abs(np.abs(scaled)[..., None] - E2M1).argmin(-1) | np.where(scaled < 0, 8, 0)
    return (code[..., 0::2] | code[..., 1::2] << 4).astype(np.uint8), (exponent + 127).astype(np.uint8)


def round_experts(model):
    """Rounds matrices of experts to MXFP4; what their files have in place of them."""
    packed = {}
    for name, p in model.named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales = map(torch.from_numpy, to_mxfp4(p.detach().numpy().swapaxes(1, 2)))
            p.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            packed[name] = {name + "_blocks": blocks.contiguous(), name + "_scales": scales.contiguous()}
    return packed


def write_packed(folder, model, packed):
    tensors: dict[str, torch.Tensor] = {}
    for name, x in model.state_dict().items():
        tensors |= packed.get(name, {name: x})
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"modules_to_not_convert": ["model.layers.*.mlp.router"], "quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


# ---- GGUF

# Model of above, general.architecture, type of its matrices. Of quantised ones, widths are whole blocks, and the logits
# are those of transformers reading the file; it reads no others, whose parameters are rounded to F16 before.
GGUF = {"llama": ("llama", "Q8_0"), "qwen2": ("qwen2", "Q4_0"), "qwen3": ("qwen3", "F16"), "gemma2": ("gemma2", "Q4_1"),
        "gemma3": ("gemma3", "Q5_1"), "qwen3_moe": ("qwen3moe", "MXFP4"), "olmo2": ("olmo2", "F16"),
        "smollm3": ("smollm3", "F16"), "gpt2": ("gpt2", "F16"), "gpt_neox": ("gptneox", "F16"), "phi": ("phi2", "F16"),
        "gpt_oss": ("gpt-oss", "F16"), "phi_fused": ("phi2", "F16")}
UNREAD = ("olmo2", "smollm3", "gptneox", "phi2", "gpt-oss")
PARTS = {"smollm3": 20}  # most tensors of a file, of those in several
WIDE = dict(hidden_size=64, intermediate_size=96, head_dim=32, num_attention_heads=2, num_key_value_heads=1,
            num_hidden_layers=2)


def gguf_tensors(name, x, config, arch):
    """[name, values] of the tensors that hold a parameter of transformers, as llama.cpp converts it."""
    heads = config.num_attention_heads
    if arch == "gpt-oss" and ".experts." in name:
        stem, suffix = (name.removesuffix("_bias"), ".bias") if name.endswith("_bias") else (name, ".weight")
        x = x if suffix == ".bias" else x.swapaxes(1, 2)
        if "gate_up" not in stem:
            return [(stem + suffix, x)]
        return [(stem.replace("gate_up", part) + suffix, x[:, i::2]) for i, part in enumerate(("gate", "up"))]
    if name.endswith("experts.gate_up_proj"):
        gate, up = np.split(x, 2, axis=1)
        return [(name.replace("gate_up_proj", "gate_proj"), gate), (name.replace("gate_up_proj", "up_proj"), up)]
    if arch in ("llama", "smollm3") and ("q_proj" in name or "k_proj" in name):
        width = config.hidden_size // heads if arch == "smollm3" else config.head_dim
        x = x.reshape(-1, 2, width // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)  # pairs of a rotation in a row
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        x = x + 1
    if arch == "gpt2" and x.ndim == 2 and ".c_" in name:
        x = x.T
    if "query_key_value" in name:  # those of each head to those of all
        x = x.reshape(heads, 3, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
    return [(name, x)]


def add_keys(w, c, arch):
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.n_inner if arch == "gpt2" else c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    if hasattr(c, "num_key_value_heads"):
        w.add_head_count_kv(c.num_key_value_heads)
    if getattr(c, "head_dim", None):
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
    if hasattr(c, "rms_norm_eps"):
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
    else:
        w.add_layer_norm_eps(c.layer_norm_epsilon if arch == "gpt2" else c.layer_norm_eps)
    w.add_vocab_size(c.vocab_size)
    rope = getattr(c, "rope_parameters", None)
    if rope and arch not in ("gptneox", "phi2"):
        w.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if rope and rope.get("rope_type") == "yarn":
        w.add_rope_scaling_type(RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        w.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast", 32.0))
    if rope and arch in ("gptneox", "phi2"):
        w.add_rope_dimension_count(int(rope["partial_rotary_factor"] * c.hidden_size) // c.num_attention_heads)
    if arch == "gptneox":
        w.add_parallel_residual(c.use_parallel_residual)
    if arch in ("qwen3moe", "gpt-oss"):
        w.add_expert_count(c.num_experts)
        w.add_expert_used_count(c.num_experts_per_tok)
        w.add_expert_feed_forward_length(c.moe_intermediate_size if arch == "qwen3moe" else c.intermediate_size)
    if arch.startswith("gemma") or arch == "gpt-oss":
        w.add_sliding_window(c.sliding_window)
    if arch == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)


def fuse(parameters):
    """Queries, keys and values one under the other, as old files of Phi have them."""
    fused = {}
    for name, p in parameters.items():
        if "q_proj" in name:
            parts = [parameters[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            fused[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            fused[name] = p
    return fused


def write_gguf(path, model, arch, kind):
    """Names are those of the gguf package's table."""
    c = model.config
    w = GGUFWriter(path, arch, split_max_tensors=PARTS.get(arch, 0))
    add_keys(w, c, arch)
    names = get_tensor_name_map(next(a for a, n in MODEL_ARCH_NAMES.items() if n == arch), c.num_hidden_layers)
    parameters = dict(model.named_parameters())
    for name, p in (fuse(parameters) if path.stem == "phi_fused" else parameters).items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        for part, x in gguf_tensors(name, p.detach().numpy(), c, arch):
            x = np.ascontiguousarray(x)
            as_is = p.ndim == 1 or part.endswith(("mlp.gate.weight", "mlp.router.weight", ".bias"))
            known = names.get_name(part, try_suffixes=(".weight", ".bias"))
            w.add_tensor(known if known.endswith((".weight", ".bias")) else known + ".weight",
                         x if as_is else quantize(x, GGMLQuantizationType[kind]),
                         raw_dtype=None if as_is or kind == "F16" else GGMLQuantizationType[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make_gguf(out, name):
    arch, kind = GGUF[name]
    torch.manual_seed(21)
    model = MODELS[name.removesuffix("_fused")]()
    wide = WIDE if arch not in UNREAD and arch != "gpt2" else {}
    heads = {"num_key_value_heads": 4} if name == "phi_fused" else {}  # as many as queries
    config = type(model.config).from_dict(model.config.to_dict() | wide | heads | gguf_extra(arch))
    model = type(model)(config).eval()
    with torch.no_grad():
        spread(model)
        for p in model.parameters():
            p.copy_(p.half().float() if arch in UNREAD else p)
    path = out / f"{name}.gguf"
    write_gguf(path, model, arch, kind)
    if arch not in UNREAD:
        # transformers takes no head width, and no width of GPT-2's feed-forward, from a file.
        given = {} if arch in ("llama", "qwen2") else {"config": config}
        model = AutoModelForCausalLM.from_pretrained(out, gguf_file=path.name, dtype=torch.float32, **given).eval()
    save_file(logits_of(model), out / f"{name}.expected.safetensors")
    print(name, "GGUF")


def gguf_extra(arch):
    """What GGUF files don't say and readers take for granted."""
    if arch == "gemma2":
        return {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": WIDE["head_dim"]}
    if arch in ("gptneox", "phi2"):
        return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
    if arch == "smollm3":
        return {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "layer_types": ["full_attention"] * 4}
    if arch == "qwen3moe":
        return {"moe_intermediate_size": 32, "tie_word_embeddings": True}
    if arch in ("olmo2", "gpt2"):
        return {"rope_parameters": YARN} if arch == "olmo2" else {}
    if arch != "gemma3":
        return {"tie_word_embeddings": arch == "qwen3"}
    return {"layer_types": ["sliding_attention"] * 2, "query_pre_attn_scalar": WIDE["head_dim"],
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 50000.0},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}


def make_model(out, name):
    torch.manual_seed(20)
    model = MODELS[name]().eval()
    with torch.no_grad():
        spread(model)
        packed = round_experts(model) if name.endswith("mxfp4") else {}
    folder = out / name
    # The smallest family also as several files.
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if name == "qwen2" else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if packed:
        write_packed(folder, model, packed)
    expected = logits_of(model)
    save_file(expected, folder / "expected.safetensors")
    print(name, "logits rms", expected["logits"].pow(2).mean().sqrt().item(),
          {f.name: f.stat().st_size for f in folder.iterdir()})


def main():
    ap = argparse.ArgumentParser(description="Write the transformers checkpoints (see the head of this file).")
    here = pathlib.Path(__file__).resolve().parent
    ap.add_argument("--out", type=pathlib.Path, default=here / "transformers", help="folder to write to")
    ap.add_argument("model", nargs="*", help=f"of: {' '.join(MODELS)}, and {' '.join(n + '.gguf' for n in GGUF)} "
                    "(default: all)")
    args = ap.parse_args()
    torch.set_num_threads(1)
    for name in args.model or [*MODELS, *(n + ".gguf" for n in GGUF)]:
        if name.endswith(".gguf"):
            make_gguf(args.out, name.removesuffix(".gguf"))
        else:
            make_model(args.out, name)


if __name__ == "__main__":
    main()
